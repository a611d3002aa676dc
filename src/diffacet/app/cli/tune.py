"""The command that searches settings: tune."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from diffacet.app import options as o
from diffacet.app.cli.shell import app, console_of, tell_next
from diffacet.errors import BadSetting

if TYPE_CHECKING:
    from diffacet.app.search import Tuned

OutDir = Annotated[
    Path, Option(metavar="DIR", help="The directory of the search, to make; with --resume, the one to go on with.")
]
Trials = Annotated[int, Option(metavar="N", help="How many settings to try, those of a resumed search included.")]
Metric = Annotated[
    str | None, Option(metavar="NAME@K", help="Validation metric, of clicks auc or gauc; the preset's if not given.")
]
Only = Annotated[
    list[str] | None, Option(metavar="SETTING", help="Search this setting, and leave the others; may be repeated.")
]
SplitSeeds = Annotated[
    str, Option(metavar="N[,N...]", help="Seeds of the splits over which a trial's metric is averaged.")
]
Workers = Annotated[int, Option(metavar="N", help="Trials at once, each in a process with one thread.")]
Keep = Annotated[bool, Option("--keep", help="Keep the runs of all trials, in DIR/runs.")]
Resume = Annotated[bool, Option("--resume", help="Go on with the search in --out where it was killed.")]
Set = Annotated[
    list[str] | None,
    Option("--set", metavar="key=value", help="Fix a setting, which is not searched then; may be repeated."),
]


@app.command(
    short_help="Search the settings of a model on validation.",
    help=o.described(
        "Search the settings of MODEL for the highest validation metric (Optuna; 'diffacet models MODEL' shows where it"
        " looks). The first trial is the preset itself; test users are never measured. Writes best.json, a preset file"
        " for 'diffacet train --preset', trials.csv and report.html. Whatever is killed goes on with --resume.",
        "diffacet tune item-knn --data data/mine --out tuned/knn --trials 25",
        "diffacet tune remi --data data/mine --out tuned/remi --trials 40 --split-seeds 0,1 --workers 2",
        "diffacet tune remi --data data/mine --out tuned/lr --trials 10 --only lr --set dim=32 --metric hit_rate@20",
        "diffacet train remi --data data/mine --out runs/remi --preset tuned/remi/best.json",
    ),
)
def tune(
    model: o.ModelName,
    data: o.Data,
    out: OutDir,
    trials: Trials,
    metric: Metric = None,
    preset: o.PresetName = "best",
    set_: Set = None,
    only: Only = None,
    split: o.SplitName = "auto",
    split_seeds: SplitSeeds = "1230",
    seed: o.Seed = 0,
    max_steps: o.MaxSteps = None,
    workers: Workers = 1,
    device: o.Device = "auto",
    keep: Keep = False,
    resume: Resume = False,
) -> None:
    """Model and data to a preset file."""
    from diffacet.app import search
    from diffacet.app.search.board import Board

    with Board(console_of(stderr=True), model) as board:
        found = search.tune(
            model,
            data,
            out,
            trials=trials,
            metric=metric,
            preset=preset,
            set=set_ or (),
            only=only or (),
            split=split,
            split_seeds=_numbers(split_seeds),
            seed=seed,
            max_steps=max_steps,
            workers=workers,
            device=device,
            keep=keep,
            resume=resume,
            watch=board,
        )
    console = console_of()
    for line in _told(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    tell_next(console, f"diffacet train {model} --data {data} --out RUN --preset {out / 'best.json'}")


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise BadSetting(f"--split-seeds takes whole numbers, such as 0,1,2; got '{text}'") from error


def _told(found: "Tuned") -> list[str]:
    """The result in words."""
    from diffacet.app import search, settings

    states = [tried.state for tried in found.trials]
    counts = ", ".join(f"{states.count(s)} {s}" for s in ("complete", "pruned", "failed") if s in states)
    best = search.best(found.trials)
    assert best is not None
    start = "the preset failed" if found.start is None else f"preset {found.start:.4f}"
    lines = [f"best of {len(states)} trials ({counts}): {found.metric} {found.value:.4f}, trial {best.number}; {start}"]
    lines.append("  " + " ".join(f"{name}={settings.text(value)}" for name, value in best.values.items()))
    ranked = sorted(found.importance.items(), key=lambda pair: -pair[1])
    if ranked:
        lines.append("what mattered: " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in ranked))
    return [*lines, f"the settings are in {found.out / 'best.json'}, the page is {found.out / 'report.html'}"]
