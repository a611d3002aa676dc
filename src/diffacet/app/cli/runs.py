"""Commands about single runs: train, evaluate, recommend, and the demo."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from diffacet.app import engine_options as e
from diffacet.app import options as o
from diffacet.app.cli import predict as of_clicks
from diffacet.app.cli.shell import app, console_of, print_json, tell_next
from diffacet.errors import BadSetting

if TYPE_CHECKING:
    from diffacet.app.clicks.run import ClickRun
    from diffacet.app.runs import Run

SPLIT_SEED, MEMORY = 1230, 256


@app.command(
    short_help="Train a model on a data directory.",
    help=o.described(
        "Train MODEL on a data directory into a run directory. Whatever is killed goes on with --resume, to the same"
        " result bit for bit. Settings: 'diffacet models MODEL'.",
        "diffacet train dmi --data data/mine --out runs/dmi",
        "diffacet train dmi --data data/mine --out runs/paper --preset paper --seed 1",
        "diffacet train dmi --data data/mine --out runs/no-pruning --set variant=ip --set eta=0.2",
        "diffacet train dimerec --data data/mine --out runs/dimerec --split next-item-last",
        "diffacet train diffumin --data data/clicks --out runs/diffumin --split day:1:1",
        "diffacet train dmi --data data/mine --out runs/dmi --resume",
        "diffacet train dmi --data data/mine --out runs/dmi --engine ray --workers 2    # they share the item table",
        "diffacet train dmi --data data/huge --out runs/dmi --set sampling=blocks --set validate_cases=10000",
    ),
)
def train(
    model: o.ModelName,
    data: o.Data,
    out: o.NewRun,
    preset: o.PresetName = "best",
    set_: o.Set = None,
    split: o.SplitName = "auto",
    seed: o.Seed = 0,
    split_seed: o.SplitSeed = SPLIT_SEED,
    max_steps: o.MaxSteps = None,
    device: o.Device = "auto",
    threads: o.Threads = 1,
    resume: o.Resume = False,
    item_vectors: o.ItemVectors = None,
    min_count: o.FieldMinCount = None,
    gap: o.Gap = None,
    history_until: o.HistoryUntil = None,
    engine: e.EngineName = e.Engine.LOCAL,
    address: e.Address = None,
    workers: e.Workers = None,
) -> None:
    """Data directory to trained model."""
    from diffacet.app import runs
    from diffacet.app.progress import Watcher

    e.check(engine, address, workers)
    reading = of_clicks.reading(model, split_seed != SPLIT_SEED, min_count, gap, history_until)
    own = {"item_vectors": item_vectors, "reading": reading}
    if engine is e.Engine.RAY and (item_vectors is not None or reading is not None):
        raise BadSetting("--engine ray trains models of batches; --item-vectors and click data are for --engine local")
    stages = console_of(stderr=True)
    tell = partial(stages.print, highlight=False, markup=False, soft_wrap=True)
    with Watcher(out, stages, model) as watcher, _trainer(engine, address, workers, threads, own, tell) as trained:
        run = trained(
            model,
            data,
            out,
            preset=preset,
            set=set_ or (),
            split=split,
            seed=seed,
            split_seed=split_seed,
            max_steps=max_steps,
            device=device,
            threads=threads,
            resume=resume,
            watch=watcher,
        )
    trail, metric = run.trail(), run.settings.training.metric
    best = max(trail, key=lambda record: record.metrics[metric])
    console = console_of()
    console.print(
        f"best validation: {metric} {best.metrics[metric]:.4f} at step {best.step} of {trail[-1].step}"
        f" ({trail[-1].seconds:.1f} s); the run is in {out}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if isinstance(run, runs.Run):
        example = ",".join(str(item) for item in run.catalogue["item_id"].head(2))
        asked = f"diffacet recommend {out} --history {example}"
        tell_next(console, f"diffacet evaluate {out}", asked, f"diffacet serve {out}")
    else:
        asked = f"--samples FILE{'' if run.schema.history == 'inline' else ' --behaviours FILE'} --out FILE.parquet"
        tell_next(console, f"diffacet evaluate {out}", f"diffacet predict {out} {asked}")


@app.command(
    short_help="Measure a run on held-out users.",
    help=o.described(
        "Measure a run on the held-out users of its own split, over the whole catalogue.",
        "diffacet evaluate runs/dmi",
        "diffacet evaluate runs/dmi --k 10 --k 100 --json",
        "diffacet evaluate runs/dmi --refine-steps 0        # the same model without refinement",
        "diffacet evaluate runs/facet --on valid --set prior_weight=2",
        "diffacet evaluate runs/ease --input train+valid    # collaborative: show the validation part, too",
        "diffacet evaluate runs/sasrec --average users      # next item: no user counts more than another",
        "diffacet evaluate runs/diffumin --base runs/din --picture calibration.html    # clicks: AUC and the like",
    ),
)
def evaluate(
    run: o.RunDir,
    on: o.On = "test",
    k: o.Ks = None,
    refine_steps: o.RefineSteps = None,
    set_: o.Asked = None,
    exclude_seen: o.ExcludeSeen = None,
    input: o.Input = "train",  # noqa: A002
    include_empty: o.IncludeEmpty = False,
    average: o.Average = "evaluated",
    category: o.Category = "last",
    data: o.MovedData = None,
    memory: o.Memory = MEMORY,
    base: o.BaseRun = None,
    picture: o.Picture = None,
    negative_rate: o.NegativeRate = None,
    batch_size: o.BatchSize = None,
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """Run to metrics."""
    from diffacet.app import progress, runs, show

    loaded = runs.load(run, set=_asked(refine_steps, set_), device=device)
    usual = {
        "--k": not k,
        "--exclude-seen": exclude_seen is None,
        "--input": input == "train",
        "--include-empty": not include_empty,
        "--average": average == "evaluated",
        "--category": category == "last",
        "--memory": memory == MEMORY,
    }
    own = {"--base": base, "--picture": picture, "--negative-rate": negative_rate, "--batch-size": batch_size}
    if not isinstance(loaded, runs.Run):
        of_clicks.refuse(loaded.card.name, "a model of clicks", [name for name, kept in usual.items() if not kept])
        asked = of_clicks.Asked(on, base, picture, negative_rate, batch_size, data, device)
        of_clicks.evaluated(loaded, asked, as_json=as_json)
        return
    of_clicks.refuse(loaded.card.name, "no model of clicks", [name for name, value in own.items() if value is not None])
    with progress.counting(console_of(stderr=True), "cases") as bar:
        result = loaded.evaluate(
            on,
            k or None,
            exclude_seen=exclude_seen,
            input=input,
            include_empty=include_empty,
            average=average,
            category=category,
            data=data,
            budget=memory * 2**20,
            progress=bar,
        )
    if as_json:
        print_json(result)
    else:
        show.evaluation(console_of(), result)


@app.command(
    short_help="Get candidates for a history of item ids.",
    help=o.described(
        "Candidates for any history of the log's own item ids, oldest first; also of a user never seen.",
        "diffacet recommend runs/dmi --history 12,7,99",
        "diffacet recommend runs/dmi --history 12,7,99 --k 50 --diversity 0.5 --json",
        "diffacet recommend runs/dimerec --history 12,7,99 --set denoise_steps=5 --set samples=4",
        "diffacet recommend runs/dmi --history 12,7,99 --rerank runs/din --user 4 --context hour=18",
    ),
)
def recommend(
    run: o.RunDir,
    history: o.History,
    k: o.K = 20,
    diversity: o.Diversity = 0.0,
    include_seen: o.IncludeSeen = False,
    index: o.IndexKind = "exact",
    refine_steps: o.RefineSteps = None,
    set_: o.Asked = None,
    rerank: o.Rerank = None,
    candidates: o.CandidatesOf = None,
    user: o.AskedUser = None,
    at: o.AskedAt = None,
    context: o.Context = None,
    behaviour: o.BehaviourValue = None,
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """History to candidates."""
    from diffacet.app import show
    from diffacet.app.serving.recommender import Recommender

    ids = [part.strip() for part in history.split(",") if part.strip()]
    if not ids:
        raise BadSetting("--history is empty; give item ids of the log, oldest first: --history 12,7,99")
    wish = of_clicks.Wish(rerank, candidates, user, at, context, behaviour)
    wanted = wish.candidates_for(k)
    service = Recommender.load(run, index=index, set=_asked(refine_steps, set_), device=device)
    found = service.recommend(ids, wanted, exclude_seen=not include_seen, diversity=diversity)
    if found.unknown:
        typer.echo(f"diffacet: not in the catalogue, passed over: {', '.join(map(str, found.unknown))}", err=True)
    if not len(found):
        typer.echo("diffacet: nothing is left to recommend: the history holds the whole catalogue", err=True)
    if rerank is not None and len(found):
        of_clicks.reranked(found, ids, k, wish, device=device, as_json=as_json)
    elif as_json:
        print_json(show.answer(found))
    else:
        show.candidates(console_of(), found, ids)


@app.command(
    short_help="Train four models on real data and write a report.",
    help=o.described(
        "Train four models on real data (MovieLens 100K, which the wheel of recbole 1.2.1 carries), and write a report"
        " that opens in any browser. Takes a few minutes on two cores; a second call reuses what is finished.",
        "diffacet demo",
        "diffacet demo --data data/mine --out runs/mine-demo",
    ),
)
def demo(
    out: o.DemoOut = Path("runs/demo"), data: o.OtherData = None, seeds: o.Seeds = 2, quick: o.Quick = False
) -> None:
    """The main job on real data."""
    from diffacet.app import demo as job

    job.run(out, data=data, seeds=seeds, quick=quick, console=console_of())


@contextmanager
def _trainer(
    engine: e.Engine, address: str | None, workers: int | None, threads: int, own: dict[str, Any], tell: Any
) -> "Iterator[Callable[..., Run | ClickRun]]":
    """Who trains: this process, to which `own` and `tell` are passed on, or the workers of a cluster."""
    if engine is e.Engine.LOCAL:
        from diffacet.app import runs

        yield partial(runs.train, tell=tell, **own)
        return
    from diffacet.app.cluster import training
    from diffacet.app.cluster.connecting import connected

    with connected(address, cpus=(workers or 2) * threads) as cluster:
        many = workers or max(1, (cluster.gpus or cluster.cpus // threads))
        yield partial(training.train, cluster, workers=many)


def _asked(refine_steps: int | None, changes: list[str] | None) -> list[str]:
    """The inference settings that a command changes, as `key=value`."""
    return [*(changes or []), *([] if refine_steps is None else [f"refine_steps={refine_steps}"])]
