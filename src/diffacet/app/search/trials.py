"""One trial: a setting trained on every split and measured on its validation users. And the values that tell of it."""

import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffacet.app import runs
from diffacet.core.contract import Preset
from diffacet.errors import BadRun
from diffacet.learn.checkpoint import Record
from diffacet.learn.fit import Moment

Report = Callable[[int, int, float], bool]
"""(number of the split, training step, mean of the metric so far) -> whether the trial is hopeless."""


@dataclass(frozen=True)
class Task:
    """What all trials of a search share; plain values, so that a worker process can be told.

    Attributes:
        model: name of the model.
        data: the data directory.
        folder: where the runs of trials go.
        preset: what the settings start from, a name or a preset file.
        fixed: settings that every trial has.
        metric: the validation metric that is searched for.
        max_steps: training steps of a whole run.
        split: name of the protocol.
        split_seeds: a trial is trained and measured once for each.
        seed: of the search, and of every run.
        device: where to compute.
        keep: whether the runs of finished trials stay.
    """

    model: str
    data: Path
    folder: Path
    preset: str
    fixed: Mapping[str, Any]
    metric: str
    max_steps: int
    split: str
    split_seeds: tuple[int, ...]
    seed: int
    device: str
    keep: bool

    def run_directory(self, number: int, split_seed: int) -> Path:
        """Where trial `number` is trained on the split of `split_seed`."""
        return self.folder / f"trial-{number:04d}-split-{split_seed}"


@dataclass(frozen=True)
class Tried:
    """A trial that is over.

    Attributes:
        number: from 0, in the order of their beginning; 0 is the preset itself.
        state: "complete", "pruned" or "failed".
        values: the searched settings.
        value: mean of the metric over the splits; None unless complete.
        splits: the metric on each split that was finished.
        seconds: of training and validation, in this attempt.
        error: why it failed.
    """

    number: int
    state: str
    values: Mapping[str, Any]
    value: float | None = None
    splits: tuple[float, ...] = ()
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Standing:
    """How far a search is, for whoever watches it.

    Attributes:
        done: trials that are over.
        total: trials wanted.
        best: the best trial so far.
        latest: the trial that has just ended; None between.
        seconds: since the search, or its resumption, began.
        begun: trials that were over then.
        running: words on what is being trained.
    """

    done: int
    total: int
    best: Tried | None
    latest: Tried | None
    seconds: float
    begun: int
    running: str = ""

    @property
    def left(self) -> float | None:
        """Seconds until the end at the pace so far; None before the first trial has ended."""
        ended = self.done - self.begun
        return self.seconds * (self.total - self.done) / ended if ended else None


@dataclass(frozen=True)
class Tuned:
    """The result of a search.

    Attributes:
        out: its directory, with best.json, trials.csv and report.html.
        best: the best settings, as best.json has them.
        value: the validation metric of the best trial, mean over the splits.
        start: that of the preset which the search began with; None where it failed.
        metric: its name.
        trials: all trials that are over, by number.
        importance: share of each setting in what separates good trials from the others; empty for few trials.
    """

    out: Path
    best: Preset
    value: float
    start: float | None
    metric: str
    trials: tuple[Tried, ...]
    importance: Mapping[str, float]


class _Hopeless(Exception):
    """No error: it carries the verdict out of the training loop."""


def attempt(task: Task, number: int, values: Mapping[str, Any], report: Report) -> Tried:
    """Train and validate one setting on every split, or as far as `report` lets it; test users are not looked at.

    An attempt that was killed left checkpoints, and the next one goes on from them. Whatever goes wrong with a
    setting is its result and no error of the search.
    """
    clock = time.perf_counter()
    splits: list[float] = []
    state, error = "complete", ""
    try:
        for place in range(len(task.split_seeds)):
            _on_split(task, number, values, place, splits, report)
    except _Hopeless:
        state = "pruned"
    except Exception as wrong:  # settings may fail in any way: diverge, contradict each other, or be too large
        state, error = "failed", f"{type(wrong).__name__}: {' '.join(str(wrong).split())}"
    if not task.keep:
        for seed in task.split_seeds:
            shutil.rmtree(task.run_directory(number, seed), ignore_errors=True)
    value = sum(splits) / len(splits) if state == "complete" else None
    return Tried(number, state, dict(values), value, tuple(splits), time.perf_counter() - clock, error)


def _on_split(
    task: Task, number: int, values: Mapping[str, Any], place: int, splits: list[float], report: Report
) -> None:
    """Add the best validation on split number `place` to `splits`; validations of an earlier attempt are told, too."""
    before, told, best, hopeless = sum(splits), 0, -math.inf, False

    def tell(records: list[Record]) -> None:
        nonlocal told, best, hopeless
        for record in records[told:]:
            best, told = max(best, record.metrics[task.metric]), told + 1
            hopeless = report(place, record.step, (before + best) / (place + 1))

    def watch(moment: Moment) -> None:
        if moment.record is not None:
            tell(moment.trail.records)
            if hopeless and moment.step < task.max_steps:
                raise _Hopeless

    run = runs.train(
        task.model,
        task.data,
        task.run_directory(number, task.split_seeds[place]),
        preset=task.preset,
        set={**task.fixed, **values},
        split=task.split,
        seed=task.seed,
        split_seed=task.split_seeds[place],
        device=task.device,
        resume=True,
        watch=watch,
    )
    tell(run.trail())
    if not math.isfinite(best):
        raise BadRun(f"{task.metric} is {best} on the split of seed {task.split_seeds[place]}")
    splits.append(best)
    if hopeless and place < len(task.split_seeds) - 1:
        raise _Hopeless
