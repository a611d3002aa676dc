"""One run of a study, from data to numbers: trained or gone on with, measured, written down. Runs in a worker.

    run/                 the run directory, see `app.runs`
    users.parquet        ask, on, user and the metrics of the study, user by user
    predictions.parquet  instead of it for a model of clicks: ask, on, row, user, label, logit, sample by sample
    draws.parquet        beside that: ask, on, draw, auc, the AUC under other draws of the users
    result.json          everything else

The last is written last, so that a run with it is finished.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import torch

from diffacet import files
from diffacet.app import runs
from diffacet.app.clicks.evaluation import PARTS
from diffacet.app.clicks.run import ClickRun
from diffacet.app.runs import Run
from diffacet.app.studies import click_work
from diffacet.app.studies.plan import BY_USER, OF_CATEGORIES, Job
from diffacet.app.studies.spec import Ask, Study
from diffacet.core.contract import Matcher, Scorer
from diffacet.data.splits import Split
from diffacet.errors import BadRun
from diffacet.learn.fit import Moment
from diffacet.rank.categories import ItemCategories, Primary
from diffacet.rank.evaluate import per_user

FORMAT = 1
RUN, USERS, PREDICTIONS, DRAWS, RESULT = "run", "users.parquet", "predictions.parquet", "draws.parquet", "result.json"
Tell = Callable[[int, int], None]


def wanted(
    names: Iterable[str], ks: Iterable[int], asks: Sequence[Ask] = (Ask(),), category: Primary = "last"
) -> dict[str, Any]:
    """What of a run is measured, as result.json says it.

    Args:
        names: metrics that are shown or tested, `name@k`; of models of clicks `name`.
        ks: list lengths.
        asks: ways of asking.
        category: which of an item's categories is its one.

    Returns:
        asks, with the category where a metric needs it and it is not the last; ks; by_user, the metrics kept user by
        user; categories, whether any metric needs them, since these take longer than all others together.
    """
    told = [{"suffix": a.suffix, "settings": dict(a.settings), "exclude_seen": a.exclude_seen} for a in asks]
    kinds = {key: key.partition("@")[0] for key in names}
    kept = sorted(key for key, name in kinds.items() if name in BY_USER)
    categories = any(name in OF_CATEGORIES for name in kinds.values())
    if categories and category != "last":
        told = [{**ask, "category": category} for ask in told]
    return {"asks": told, "ks": sorted({*ks}), "by_user": kept, "categories": categories}


def wanted_of(study: Study, asks: Sequence[Ask]) -> dict[str, Any]:
    """`wanted` for a row of a study that is asked in these ways."""
    return wanted((*study.metrics, *study.tests), study.ks, asks, study.category)


def perform(job: Job, study: Study, folder: Path, *, device: str = "auto", tell: Tell | None = None) -> None:
    """Train the run in `folder`, or go on with it, measure it and write the result.

    Args:
        job: which run.
        study: what is measured.
        folder: of this run.
        device: "auto", "cpu" or "cuda".
        tell: called with (steps done, all steps) after every step.
    """
    begun, row = time.perf_counter(), job.variant
    pace = _Pace(job.settings.training.max_steps, tell)
    run = runs.train(
        row.row.model,
        job.place.path,
        folder / RUN,
        preset=row.preset,
        set=row.set,
        split=row.split,
        seed=job.seed,
        split_seed=job.split_seed,
        device=device,
        resume=True,
        watch=pace,
    )
    trained = time.perf_counter() - begun
    what = wanted_of(study, row.asks)
    measured, cases, draws = measure(run, what, data=job.place.path, device=device)
    result = describe(run, label=row.label, ms_per_step=pace.milliseconds())
    result |= {"job": job.name, "set": dict(row.set), "measured": what, "asks": measured}
    result |= {"wall_seconds": time.perf_counter() - begun, "fit_seconds": trained, "peak_mb": _peak(run)}
    frames = {USERS: cases} if draws is None else {PREDICTIONS: cases, DRAWS: draws}
    for file, frame in frames.items():
        files.write_file(folder / file, partial(frame.write_parquet, compression="zstd"))
    files.write_json(folder / RESULT, result)


def kept(folder: Path) -> Path:
    """What was kept of the run in `folder` user by user, or sample by sample; the file need not be there."""
    predictions = folder / PREDICTIONS
    return predictions if predictions.exists() else folder / USERS


def describe(run: Run | ClickRun, *, label: str, ms_per_step: float | None = None) -> dict[str, Any]:
    """What there is to say of a trained run before it is measured."""
    trail, metric = run.trail(), run.settings.training.metric
    best = max(trail, key=lambda record: record.metrics[metric])
    about, more = run.about, click_work.about(run) if isinstance(run, ClickRun) else {}
    return {
        "format": FORMAT,
        "label": label,
        "model": run.card.name,
        "task": run.card.task,
        "preset": about["preset"],
        "settings": about["settings"],
        "data": {key: about["data"][key] for key in ("name", "fingerprint")},
        "split": about["split"]["name"],
        "split_seed": about["split"].get("seed"),
        "seed": run.settings.training.seed,
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "steps": trail[-1].step,
        "best_step": best.step,
        "seconds": trail[-1].seconds,
        "ms_per_step": ms_per_step,
        "environment": about["environment"],
        **more,
    }


def measure(
    run: Run | ClickRun,
    what: Mapping[str, Any],
    *,
    on: Sequence[str] = PARTS,
    data: Path | None = None,
    device: str = "auto",
) -> tuple[list[dict[str, Any]], pl.DataFrame, pl.DataFrame | None]:
    """The numbers of each ask on the held-out parts of the run's data, and frames of single users or samples.

    Args:
        run: a trained model.
        what: see `wanted`.
        on: the held-out parts, of "valid" and "test".
        data: the data directory, where it has moved.
        device: where it is asked.

    Returns:
        Of models of items one frame (ask, on, user, metrics); of models of clicks two, see `click_work.measure`.

    Raises:
        BadRun: the data are gone or are others, or the model cannot be asked.
    """
    if isinstance(run, ClickRun):
        return click_work.measure(run, what, on=on, data=data, device=device)
    return *_by_user(run, run.split(data), what, on, device), None


def _by_user(
    run: Run, split: Split, what: Mapping[str, Any], on: Sequence[str], device: str
) -> tuple[list[dict[str, Any]], pl.DataFrame]:
    categories = None
    if what["categories"]:
        primary = what["asks"][0].get("category", "last")
        categories = ItemCategories.from_lists(run.catalogue["categories"].to_list(), primary)
    told, frames = [], []
    for number, ask in enumerate(what["asks"]):
        model = run
        if ask["settings"]:
            model = runs.of_items(runs.load(run.path, set=ask["settings"], device=device), "study")
        numbers: dict[str, Any] = {"suffix": ask["suffix"], "on": {}}
        for part in on:
            holdout = split.valid if part == "valid" else split.test
            begun = time.perf_counter()
            found = per_user(
                _asked(model),
                holdout,
                length=model.settings.training.length,
                ks=what["ks"],
                exclude_seen=ask["exclude_seen"],
                categories=categories,
            )
            seconds, users = time.perf_counter() - begun, len(holdout)
            metrics = {key: value for key, value in found.means().items() if value == value}
            numbers["on"][part] = {"users": users, "users_per_second": users / seconds, "metrics": metrics}
            kept = {key: found.values[key] for key in what["by_user"] if key in found.values}
            place = {"ask": [number] * users, "on": [part] * users, "user": holdout.history.users}
            schema = {"ask": pl.Int16, "on": pl.Categorical}
            frames.append(pl.DataFrame(place | kept, schema_overrides=schema))
        told.append(numbers)
    return told, pl.concat(frames)


def _asked(run: Run) -> Matcher | Scorer:
    """The run's model, by what it can be asked; raises BadRun."""
    if not isinstance(run.model, Matcher | Scorer):
        raise BadRun(f"{run.path}: {run.card.name} can be asked for neither interests nor scores")
    return run.model


class _Pace:
    """Milliseconds of a training step without validation, and news of the steps for the one who waits."""

    def __init__(self, total: int, tell: Tell | None) -> None:
        self.total, self.tell = total, tell
        self.steps, self.seconds = 0, 0.0
        self.last: float | None = None

    def __call__(self, moment: Moment) -> None:
        now = time.perf_counter()
        # The first step after a start or a validation is not timed from its beginning.
        if self.last is not None and moment.record is None:
            self.steps, self.seconds = self.steps + 1, self.seconds + now - self.last
        self.last = now
        if self.tell is not None:
            self.tell(moment.step, moment.total or self.total)

    def milliseconds(self) -> float | None:
        return 1000 * self.seconds / self.steps if self.steps else None


def _peak(run: Run | ClickRun) -> float:
    """MiB: of the device where the run computed on CUDA, else of this process."""
    if torch.cuda.is_available() and next((p.is_cuda for p in run.model.parameters()), False):
        return torch.cuda.max_memory_allocated() / 2**20
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if sys.platform == "darwin" else 2**10)
