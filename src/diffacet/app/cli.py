"""The command line: each command a few lines over public functions.

Heavy modules are imported inside the commands, so that `--help` answers at once.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from diffacet.app import options as o
from diffacet.errors import BadSetting, DiffacetError

if TYPE_CHECKING:
    from rich.console import Console

# Which package typer takes its click from depends on its version.
ClickException: type[Exception] = typer.BadParameter.__mro__[2]
INTERRUPTED = 130
COMMANDS = ("import", "stats", "models", "train", "evaluate", "recommend", "demo")

app = typer.Typer(
    name="diffacet",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback(
    invoke_without_command=True,
    help=o.described(
        "Recommendation by diffusion: from a raw log to refined interests to candidates.",
        "diffacet demo                                          real data, four models, a report",
        "diffacet import log.csv --out data/mine                your own log",
        "diffacet train dmi --data data/mine --out runs/mine",
        "diffacet evaluate runs/mine",
        "diffacet recommend runs/mine --history 12,7,99",
    ),
)
def root(context: typer.Context, version: o.Version = False) -> None:
    """The program without a command."""
    if version:
        from importlib import metadata

        typer.echo(metadata.version("diffacet"))
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(
    "import",
    short_help="Read raw logs into a data directory.",
    help=o.described(
        "Read interaction logs of any form into a data directory: ids numbered once, filters applied, provenance and"
        " fingerprint written. Columns are found by their names, or told. Bad rows are refused with file, row and"
        " value; nothing is written then.",
        "diffacet import log.csv --out data/mine",
        "diffacet import day1.csv.gz day2.csv.gz --user customer --item sku --time ts --out data/mine --k-core 5",
        "diffacet import reviews.parquet --rating stars --min-rating 4 --items products.csv --out data/mine",
        "diffacet import ml-1m/ --format movielens --out data/ml-1m",
    ),
)
def import_(
    log: o.Logs,
    out: o.NewData,
    user: o.User = None,
    item: o.Item = None,
    time: o.Time = None,
    rating: o.Rating = None,
    min_rating: o.MinRating = None,
    items: o.Items = None,
    min_count: o.MinCount = None,
    k_core: o.KCore = None,
    duplicates: o.Duplicates = "keep",
    format: o.Format = "auto",  # noqa: A002
) -> None:
    """Raw log to data directory."""
    from diffacet.app import show
    from diffacet.app.importing import import_log

    done = import_log(
        log,
        out,
        format=format,
        user=user,
        item=item,
        time=time,
        rating=rating,
        items=items,
        min_rating=min_rating,
        min_count=min_count,
        k_core=k_core,
        duplicates=duplicates,
    )
    console = _console()
    show.imported(console, done)
    _next(console, f"diffacet stats {out}", f"diffacet train dmi --data {out} --out RUN")


@app.command(
    short_help="Show the figures of a data directory, beside known data sets.",
    help=o.described(
        "Figures of a data directory, and where they differ from the tables of papers that used the same data.",
        "diffacet stats data/mine",
        "diffacet stats data/mine --json",
    ),
)
def stats(directory: o.DataDir, as_json: o.Json = False) -> None:
    """Figures of a data directory."""
    from diffacet.app import show
    from diffacet.data import atlas, store

    dataset = store.open(directory)
    facts = dataset.log.statistics()
    near = atlas.compare(dataset.name, facts)
    if not as_json:
        show.statistics(_console(), dataset, near)
        return
    told = {"name": dataset.name, "path": str(dataset.path), "fingerprint": dataset.fingerprint}
    _print_json(told | {"statistics": facts, "known": show.known(near), "provenance": dataset.provenance})


@app.command(
    short_help="List the models; with NAME its settings, presets and citation.",
    help=o.described(
        "The models there are; with NAME its presets, every setting with symbol, range and default, and its citation.",
        "diffacet models",
        "diffacet models dmi",
        "diffacet models dmi --json",
    ),
)
def models(name: o.MaybeModel = None, as_json: o.Json = False) -> None:
    """The models and their settings."""
    from diffacet.app import settings, show
    from diffacet.models import MODELS, card

    if name is None:
        cards = [card(each) for each in MODELS]
        if as_json:
            _print_json({"models": [show.about(each) for each in cards]})
        else:
            show.models(_console(), cards)
        return
    chosen = card(name)
    rows = settings.describe(chosen)
    if as_json:
        _print_json(show.about(chosen) | {"settings": rows, "citation": chosen.paper.bibtex()})
    else:
        show.model(_console(), chosen, rows)


@app.command(
    short_help="Train a model on a data directory.",
    help=o.described(
        "Train MODEL on a data directory into a run directory. Whatever is killed goes on with --resume, to the same"
        " result bit for bit. Settings: 'diffacet models MODEL'.",
        "diffacet train dmi --data data/mine --out runs/dmi",
        "diffacet train dmi --data data/mine --out runs/paper --preset paper --seed 1",
        "diffacet train dmi --data data/mine --out runs/no-pruning --set variant=ip --set eta=0.2",
        "diffacet train dmi --data data/mine --out runs/dmi --resume",
    ),
)
def train(
    model: o.ModelName,
    data: o.Data,
    out: o.NewRun,
    preset: o.PresetName = "best",
    set_: o.Set = None,
    split: o.SplitName = "by-user",
    seed: o.Seed = 0,
    split_seed: o.SplitSeed = 1230,
    max_steps: o.MaxSteps = None,
    device: o.Device = "auto",
    threads: o.Threads = 1,
    resume: o.Resume = False,
) -> None:
    """Data directory to trained model."""
    from diffacet.app import runs
    from diffacet.app.progress import Watcher

    with Watcher(out, _console(stderr=True), model) as watcher:
        run = runs.train(
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
    console = _console()
    console.print(
        f"best validation: {metric} {best.metrics[metric]:.4f} at step {best.step} of {trail[-1].step}"
        f" ({trail[-1].seconds:.1f} s); the run is in {out}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    example = ",".join(str(item) for item in run.catalogue["item_id"].head(2))
    _next(console, f"diffacet evaluate {out}", f"diffacet recommend {out} --history {example}")


@app.command(
    short_help="Measure a run on held-out users.",
    help=o.described(
        "Measure a run on the held-out users of its own split, over the whole catalogue.",
        "diffacet evaluate runs/dmi",
        "diffacet evaluate runs/dmi --k 10 --k 100 --json",
        "diffacet evaluate runs/dmi --refine-steps 0        # the same model without refinement",
    ),
)
def evaluate(
    run: o.RunDir,
    on: o.On = "test",
    k: o.Ks = None,
    refine_steps: o.RefineSteps = None,
    exclude_seen: o.ExcludeSeen = False,
    data: o.MovedData = None,
    memory: o.Memory = 256,
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """Run to metrics."""
    from diffacet.app import progress, runs, show

    loaded = runs.load(run, set={} if refine_steps is None else {"refine_steps": refine_steps}, device=device)
    with progress.counting(_console(stderr=True), "users") as bar:
        ks, budget = tuple(k or (20, 50)), memory * 2**20
        result = loaded.evaluate(on, ks, exclude_seen=exclude_seen, data=data, budget=budget, progress=bar)
    if as_json:
        _print_json(result)
    else:
        show.evaluation(_console(), result)


@app.command(
    short_help="Get candidates for a history of item ids.",
    help=o.described(
        "Candidates for any history of the log's own item ids, oldest first; also of a user never seen.",
        "diffacet recommend runs/dmi --history 12,7,99",
        "diffacet recommend runs/dmi --history 12,7,99 --k 50 --diversity 0.5 --json",
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
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """History to candidates."""
    from diffacet.app import runs, show

    ids = [part.strip() for part in history.split(",") if part.strip()]
    if not ids:
        raise BadSetting("--history is empty; give item ids of the log, oldest first: --history 12,7,99")
    recommender = runs.load(
        run, set={} if refine_steps is None else {"refine_steps": refine_steps}, device=device
    ).recommender(index)
    found = recommender.recommend(ids, k, exclude_seen=not include_seen, diversity=diversity)
    if found.unknown:
        typer.echo(f"diffacet: not in the catalogue, passed over: {', '.join(map(str, found.unknown))}", err=True)
    if as_json:
        _print_json(show.answer(found))
    else:
        show.candidates(_console(), found, ids)


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

    job.run(out, data=data, seeds=seeds, quick=quick, console=_console())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for bad input (one line on stderr), 130 for Ctrl-C."""
    # Threads that spin while they wait make a busy machine ten times slower; it must be said before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(given, prog_name="diffacet", standalone_mode=False) or 0
    except DiffacetError as error:
        return _refuse(str(error))
    except ClickException as error:
        return _refuse(_usage(error, given))
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:
        hints = {"train": "the same command with --resume", "demo": "the same command"}
        hint = f"; {hints[given[0]]} goes on from the last validation" if given and given[0] in hints else ""
        typer.echo(f"diffacet: interrupted{hint}", err=True)
    return int(code)


def _refuse(message: str) -> int:
    typer.echo("diffacet: error: " + " ".join(message.split()), err=True)
    return 2


def _usage(error: Any, given: Sequence[str]) -> str:
    message = error.format_message().rstrip(".")
    command = f" {given[0]}" if given and given[0] in COMMANDS else ""
    return f"{message}{'' if message.endswith('?') else ';'} see 'diffacet{command} --help'"


def _print_json(value: Any) -> None:
    from diffacet.app import show

    sys.stdout.write(json.dumps(show.plain(value), ensure_ascii=False, allow_nan=False) + "\n")


def _console(*, stderr: bool = False) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr)


def _next(console: "Console", *commands: str) -> None:
    for command in commands:
        console.print(f"next: {command}", highlight=False, markup=False, soft_wrap=True)
