"""What refinement does: quality and time against its steps, and one user's interests before and after."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffacet.app import runs as runs_
from diffacet.app.runs import Run
from diffacet.app.studies import results, work
from diffacet.app.studies.results import Trial
from diffacet.app.studies.spec import Ask
from diffacet.app.studies.statistics import FloatArray
from diffacet.core.batch import Histories
from diffacet.core.explaining import Explanation
from diffacet.data import store
from diffacet.data.splits import Holdout
from diffacet.errors import BadRun
from diffacet.rank.evaluate import evaluating, histories
from diffacet.rank.retriever import Retriever

STEPS = (0, 1, 2, 5, None)
WARM, REQUESTS = 10, 100
TARGETS = 5
"""How many the typical user has at least, so that there is something to hit."""
LISTED = 6
"""Items that are shown of an interest's list."""


@dataclass(frozen=True)
class Point:
    """A number of refinement steps and what it brings.

    Attributes:
        steps: S; None is the full chain.
        label: how S is written.
        metrics: name -> the mean of each run, in their order.
        milliseconds: the median time of one request (encode, refine, search), one user at a time.
    """

    steps: int | None
    label: str
    metrics: dict[str, list[float]]
    milliseconds: float

    def mean(self, metric: str) -> float:
        """The mean over the runs."""
        return statistics.fmean(self.metrics[metric])


@dataclass(frozen=True)
class Listed:
    """An item in an interest's list."""

    name: str
    hit: bool
    new: bool


@dataclass(frozen=True)
class Facet:
    """One interest of one user.

    Attributes:
        number: k.
        read: the history items that guide the refinement, with their share of the attention, largest first.
        before: what the interest retrieves unrefined.
        after: what it retrieves refined; `new` marks what was not in `before`.
        cosine: between the two vectors.
    """

    number: int
    read: list[tuple[str, float]]
    before: list[Listed]
    after: list[Listed]
    cosine: float


@dataclass(frozen=True)
class Portrait:
    """One held-out user: what the model read, what the user did next, and each interest before and after.

    Attributes:
        user: the user's own id.
        history: names of the items that the model reads, oldest first.
        longer: how many older items the history has beside them.
        next: names of the items that the user met next.
        facets: the interests.
        metric: which metric chose the user.
        value: its value for the user.
    """

    user: Any
    history: list[str]
    longer: int
    next: list[str]
    facets: list[Facet]
    metric: str
    value: float


def refines(run: Run) -> bool:
    """Whether the run's model has refinement steps to set."""
    return hasattr(run.settings.model, "refine_steps") and getattr(run.model, "denoiser", None) is not None


def sweep(
    runs: Sequence[Run],
    names: Sequence[str],
    *,
    on: str = "test",
    data: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Point]:
    """Quality and latency of runs of one kind for S = 0, 1, 2, 5 and all T steps.

    Args:
        runs: that differ in their seeds only; the latency is the first one's.
        names: metrics, `name@k`.
        on: which held-out users, "valid" or "test".
        data: the data directory, where it has moved.
        progress: told (runs measured, all runs).
    """
    total = runs[0].settings.model.steps
    chosen = [step for step in STEPS if step is None or step < total]
    asks = [Ask(_label(steps, total), {"refine_steps": steps}) for steps in chosen]
    what = work.wanted(names, {int(name.partition("@")[2]) for name in names}, asks)
    lines = results.measured({runs[0].card.name: runs}, what, on=(on,), data=data, progress=progress)
    loaded = [runs_.of_items(runs_.load(runs[0].path, set=ask.settings), "refinement") for ask in asks]
    times = _latencies([run.retriever() for run in loaded], runs[0].holdout(on, data))
    return [
        Point(steps, line.suffix, {name: line.values(name, on) for name in names}, time)
        for steps, line, time in zip(chosen, lines, times, strict=True)
    ]


def _label(steps: int | None, total: int) -> str:
    return f"all {total}" if steps is None else str(steps)


def _latencies(recommenders: Sequence[Retriever], holdout: Holdout) -> list[float]:
    """Median milliseconds of one request for each, asked in turns, so that a busy moment of the machine hits all."""
    times: list[list[float]] = [[] for _ in recommenders]
    for request in range(WARM + REQUESTS):
        row = request % len(holdout)
        for recommender, spent in zip(recommenders, times, strict=True):
            ids = recommender.items.ids(holdout.history.row(row)).to_list()
            start = time.perf_counter()
            recommender.recommend(ids, 50)
            spent.append(1000 * (time.perf_counter() - start))
    return [statistics.median(spent[WARM:]) for spent in times]


def typical(values: FloatArray, holdout: Holdout) -> int:
    """The row whose value, of (C,), is the median of those with `TARGETS` targets or more, the first of equals."""
    rows = np.flatnonzero(holdout.target.lengths() >= min(TARGETS, int(holdout.target.lengths().max())))
    middle = np.sort(values[rows])[len(rows) // 2]
    return int(rows[np.argmin(np.abs(values[rows] - middle))])


def portrait(run: Run, trial: Trial, metric: str, *, on: str = "test", data: Path | None = None) -> Portrait:
    """The typical user of a run, with what each interest retrieves before and after refinement, seen items left out.

    `trial` is the run measured on `on`, its users one by one; raises BadRun where `metric` is not among what was kept.
    """
    length, measured = run.settings.training.length, trial.by_user(metric, on)
    if measured is None:
        raise BadRun(f"{run.path}: {metric} was not kept user by user, so no user is the typical one")
    _, values = measured
    holdout = run.holdout(on, data)
    users = store.open(data or Path(run.about["data"]["path"])).log.users
    row = typical(values, holdout)
    history = histories(holdout, np.array([row]), length)
    model: Any = runs_.of_items(runs_.load(run.path, device="cpu"), "refinement").model
    with evaluating(model):
        told, table = model.explain(history), model.catalogue()
    before, after, reads = told.coarse[0], told.refined[0], _reads(told, history)
    target = set(holdout.target.row(row).tolist())
    seen = set(holdout.history.row(row).tolist())
    name = _namer(run)
    facets = []
    for k in range(len(before)):
        first, second = (_best(table, vector, seen, LISTED) for vector in (before[k], after[k]))
        facets.append(
            Facet(
                k + 1,
                [(name(item), share) for item, share in reads[k]],
                [Listed(name(item), item in target, False) for item in first],
                [Listed(name(item), item in target, item not in first) for item in second],
                float(torch.cosine_similarity(before[k], after[k], dim=0)),
            )
        )
    shown = [name(item) for item in history.items[0].tolist() if item]
    return Portrait(
        users.ids([int(holdout.history.users[row])])[0],
        shown,
        len(seen) - len(set(history.items[0].tolist()) - {0}),
        [name(item) for item in dict.fromkeys(holdout.target.row(row).tolist())],
        facets,
        metric,
        float(values[row]),
    )


def _reads(told: Explanation, history: Histories) -> list[list[tuple[int, float]]]:
    """The items of the one history that guide each interest, with their attention, the largest first."""
    reads, kept = [], history.mask.unsqueeze(1).expand_as(told.attention) if told.kept is None else told.kept
    for weights, keep in zip(told.attention[0], kept[0], strict=True):
        order = weights.argsort(descending=True, stable=True).tolist()
        reads.append([(int(history.items[0, j]), float(weights[j])) for j in order if keep[j]])
    return reads


def _best(catalogue: Tensor, vector: Tensor, seen: set[int], top: int) -> list[int]:
    """The `top` items with the largest product with `vector`, without those seen."""
    with torch.inference_mode():
        scores = catalogue @ vector
        scores[[0, *seen]] = -torch.inf
        return scores.topk(min(top, len(scores) - 1 - len(seen))).indices.tolist()


def _namer(run: Run) -> Callable[[int], str]:
    """Item number -> title, or the id where there is none."""
    ids = run.catalogue["item_id"].to_list()
    titles = run.catalogue["title"].to_list() if "title" in run.catalogue.columns else [None] * len(ids)
    return lambda number: str(titles[number - 1] or ids[number - 1])
