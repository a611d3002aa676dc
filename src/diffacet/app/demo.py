"""The main job: real data, four models, two seeds, one report.

The log is MovieLens 100K, which the wheel of recbole 1.2.1 carries as package data. That package is
installed without its dependencies and never imported; only its files are read.
"""

import contextlib
import sysconfig
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from diffacet.app import report, runs
from diffacet.app.importing import import_log
from diffacet.app.progress import Watcher
from diffacet.app.runs import Run
from diffacet.data import store
from diffacet.errors import BadSetting, MissingExtra, require

PACKAGE, INSIDE = "recbole", "recbole/dataset_example/ml-100k/ml-100k.inter"
INSTALL = "pip install --no-deps recbole==1.2.1"
FOCUS, AGAINST, METRIC, KS = "DMI", "REMI", "recall@50", (20, 50)

_TRAINED = {
    "length": 10,
    "interests": 2,
    "dropout": 0.3,
    "max_steps": 2000,
    "validate_every": 100,
    "patience": 4,
}
MODELS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "PopRec": ("pop", {}),
    "ItemKNN": ("item-knn", {"decay": 1.0}),
    "REMI": ("remi", _TRAINED),
    "DMI": ("dmi", _TRAINED),
}
"""Label -> model and what is changed of its preset `best` for this log of few users and long sequences.

Chosen by recall@50 on the validation users of two other splits (seeds 11 and 12), the same for REMI and DMI.
"""


def run(
    out: Path, *, data: Path | None = None, seeds: int = 2, quick: bool = False, console: Console | None = None
) -> Path:
    """Import, train, measure and report into `out`; finished parts of an earlier call are reused.

    Args:
        out: gets data/ml-100k/, runs/ and report.html.
        data: another data directory than MovieLens 100K.
        seeds: how many; seed n is that of the split and of the initialisation.
        quick: a few steps only.
        console: where progress goes; None: nowhere.

    Returns:
        The path of the report.

    Raises:
        MissingExtra: the package with the log, or what the report needs, is not installed.
        BadSetting, BadLog, BadRun: as the parts raise them.
    """
    start = time.perf_counter()
    say = Console(quiet=True) if console is None else console
    if seeds < 1:
        raise BadSetting(f"--seeds is 1 or more; got {seeds}")
    for module in ("plotly", "jinja2"):
        require(module, "report")  # now, and not after minutes of training
    place = _data(out, say) if data is None else data
    dataset = store.open(place)
    log = dataset.log
    _tell(say, f"data: {log.n_users:,} users, {log.n_items:,} items, {len(log):,} interactions ({place})")
    trained = {label: [_train(label, out, place, seed, quick, say) for seed in range(1, seeds + 1)] for label in MODELS}
    page = report.build(
        trained,
        title="DMI and its base on MovieLens 100K" if data is None else f"DMI and its base on {dataset.name}",
        focus=FOCUS,
        against=AGAINST,
        ks=KS,
        metric=METRIC,
        data=place,
        notes=_notes(quick, data is None),
        progress=lambda what: _tell(say, what),
    )
    path = out / "report.html"
    report.write(path, page)
    _tell(say, f"done in {time.perf_counter() - start:.0f} s; open {path.resolve().as_uri()}")
    return path


def example_log() -> Path:
    """MovieLens 100K inside the installed recbole wheel, whose item file with titles and genres lies beside it.

    Raises:
        MissingExtra: it is not installed.
    """
    places = [Path(sysconfig.get_path("purelib")) / INSIDE]
    with contextlib.suppress(metadata.PackageNotFoundError):
        places += [Path(str(file.locate())) for file in metadata.files(PACKAGE) or () if str(file) == INSIDE]
    for place in places:
        if place.is_file():
            return place
    raise MissingExtra(
        f"the demo's log is not installed; it comes with: {INSTALL} (or name a data directory by --data)"
    )


def _data(out: Path, say: Console) -> Path:
    place = out / "data" / "ml-100k"
    if not place.exists():
        done = import_log([example_log()], place)
        _tell(say, f"imported {done.files[0]}")
    return place


def _train(label: str, out: Path, data: Path, seed: int, quick: bool, say: Console) -> Run:
    name, changes = MODELS[label]
    path = out / "runs" / f"{name}-{seed}"
    if quick and "max_steps" in changes:
        changes = {**changes, "max_steps": 20, "validate_every": 10}
    with Watcher(path, say, f"{label} seed {seed}") as watcher:
        run = runs.train(name, data, path, set=changes, seed=seed, split_seed=seed, resume=True, watch=watcher)
    run = runs.of_items(run, "demo")
    trail, metric = run.trail(), run.settings.training.metric
    best = max(record.metrics[metric] for record in trail)
    _tell(say, f"{label} seed {seed}: best {metric} on validation {best:.4f}, {trail[-1].seconds:.1f} s")
    return run


def _notes(quick: bool, example: bool) -> list[str]:
    notes = []
    if quick:
        notes.append("A quick run of a few steps: its numbers say nothing about the models.")
    if example:
        notes.append(
            "The log is MovieLens 100K (GroupLens; Harper and Konstan, TiiS 2015), read from the package data of "
            "recbole 1.2.1. All ratings count as interactions. It is small: tens of users are tested for each seed, "
            "so read the intervals before the means."
        )
    return notes


def _tell(say: Console, what: str) -> None:
    say.print(what, highlight=False, markup=False, soft_wrap=True)
