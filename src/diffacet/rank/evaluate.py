"""Evaluation: held-out rows in blocks through a model, and every metric from the same hits."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffacet.arrays import distinct
from diffacet.core.batch import Histories
from diffacet.core.contract import Matcher, Scorer
from diffacet.data.sequences import IntArray
from diffacet.data.splits import Holdout
from diffacet.errors import BadRun, BadSetting
from diffacet.rank import exposure, sharded
from diffacet.rank.categories import ItemCategories, kinds_random, measure
from diffacet.rank.metrics import COLLABORATIVE, METRICS, check_single_target, match_rows
from diffacet.rank.ranking import BUDGET, Ranked, top_k_scores
from diffacet.rank.sharded import top_k

BATCH = 256  # a divisor of the 1,024 cases for which inference noise is drawn at once
FloatArray = NDArray[np.float64]
Average = Literal["evaluated", "all", "users"]
"""What a mean is over: the cases, all users of the protocol (those without a target count as 0), or users, of each the
mean of its cases."""


@dataclass(frozen=True)
class Measured:
    """An evaluation case by case: a row of the holdout is one; most protocols have one a user.

    Attributes:
        values: metric name -> (C,) float64, one number for each row of the holdout; NaN where a row has no
            value (category metrics of lists with fewer than two items that have a category).
        overall: metric name -> a number of all lists together, which is no mean over cases.
        everyone: users of the protocol, with those who have no target and so no row; None: the rows.
        users: (C,) int64, whose each row is; None: each row is another's.
    """

    values: dict[str, FloatArray]
    overall: dict[str, float]
    everyone: int | None = None
    users: IntArray | None = None

    def means(self, average: Average = "evaluated") -> dict[str, float]:
        """The mean of each of `values` over the cases that have one (NaN if none has), then `overall`.

        Args:
            average: "all" counts users without a target, too, with 0 in each metric of hits (the code of DiffRec);
                "users" is the mean over users of the means of their cases.

        Raises:
            BadSetting: `average` is none of these.
        """
        check_average(average)
        means, place = {}, None
        if average == "users" and self.users is not None:
            place = np.searchsorted(distinct(self.users), self.users)
        for name, value in self.values.items():
            there = ~np.isnan(value)
            own = value[there] if place is None else _mean_by(place[there], value[there])
            means[name] = float(own.mean()) if len(own) else float("nan")
            if average == "all" and self.everyone and name.partition("@")[0] in METRICS:
                means[name] *= len(value) / self.everyone
        return {**means, **self.overall}


def check_average(average: str) -> Average:
    """The mean of that name. Raises BadSetting when there is none."""
    for known in get_args(Average):
        if known == average:
            return known
    raise BadSetting(f"average is one of {', '.join(get_args(Average))}, what means are over; got '{average}'")


def _mean_by(place: IntArray, value: FloatArray) -> FloatArray:
    """(U,) the mean of the values (C,) at each place that occurs."""
    counts = np.bincount(place)
    return np.bincount(place, value)[counts > 0] / counts[counts > 0]


def evaluate(
    model: Matcher | Scorer,
    holdout: Holdout,
    *,
    length: int,
    ks: Sequence[int] = (20, 50),
    exclude_seen: bool | None = None,
    categories: ItemCategories | None = None,
    batch_size: int | None = None,
    budget: int = BUDGET,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
    average: Average = "evaluated",
) -> dict[str, float]:
    """Metrics of `model` over all cases of `holdout`: `name@k` -> number, defined in `metrics` and `categories`.

    The means of `per_user`, whose arguments and errors these are (`average`: over what, see `Measured.means`), and the
    numbers of all lists together: `coverage@k`, the share of the catalogue that is recommended to anybody; `gini@k`,
    how unevenly it is (`exposure`); with categories `div_hit_sum@k`, over cases the sum of distinct categories among
    a case's hits, `div_hit_union@k`, the distinct categories among all hits, and `kinds_random@k`, what `kinds@k`
    would be of random lists.

    Where every case has one target, hit rates and NDCGs are checked against each other (`check_single_target`).
    """
    check_average(average)
    means = per_user(
        model,
        holdout,
        length=length,
        ks=ks,
        exclude_seen=exclude_seen,
        categories=categories,
        batch_size=batch_size,
        budget=budget,
        device=device,
        progress=progress,
    ).means(average)
    if len(holdout) and (holdout.target.lengths() == 1).all():
        check_single_target(means)
    return means


def per_user(
    model: Matcher | Scorer,
    holdout: Holdout,
    *,
    length: int,
    ks: Sequence[int] = (20, 50),
    exclude_seen: bool | None = None,
    categories: ItemCategories | None = None,
    batch_size: int | None = None,
    budget: int = BUDGET,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Metrics of `model` for each case of `holdout`, as paired tests need them.

    The model is put into evaluation mode and back; no gradient is kept. Row r of the holdout is case r.
    No number depends on the batch size, but for float32 rounding in matrix products.

    Args:
        model: a Matcher or a Scorer.
        holdout: histories and targets, row by row.
        length: L, the most recent items of a history that the model is shown; 0: all of them.
        ks: lengths of the lists; a list ends early where the catalogue is smaller.
        exclude_seen: leave out every item that the holdout counts as seen, its whole history if it does not say;
            None: as the protocol does (the published one of matching does not, the collaborative one does).
        categories: adds the category metrics.
        batch_size: cases at a time; None: 256.
        budget: bytes for the ranking, see `ranking.top_k`.
        device: where histories go; None: the device of the model's first parameter or buffer.
        progress: called with (cases done, all cases) after every batch.

    Raises:
        BadSetting: no k, a k or batch size below 1, a length below 0.
        BadLog: the protocol leaves seen items out, and a target is one.
        BadRun: the model's scores are not numbers, from which case on.
    """
    size = BATCH if batch_size is None else batch_size
    if not ks or min(ks) < 1:
        raise BadSetting(f"k, the length of a list, is at least 1; got {', '.join(map(str, ks)) or 'none'}")
    if size < 1 or length < 0:
        raise BadSetting(f"batch size is at least 1, and length at least 0; got {size} and {length}")
    masks = holdout.exclude_seen if exclude_seen is None else exclude_seen
    if masks and holdout.exclude_seen:
        holdout.check_apart()
    target = device_of(model) if device is None else torch.device(device)
    lists = _Lists(model, max(ks), categories is not None, budget)
    tally = _Tally(sorted(set(ks)), categories, lists)
    cases = len(holdout.history)
    with evaluating(model), sharded.searchable(model):
        for begin in range(0, cases, size):
            rows = np.arange(begin, min(begin + size, cases))
            exclude = _seen(holdout, rows).to(target) if masks else None
            merged, single = lists.of(histories(holdout, rows, length).to(target), exclude)
            tally.add(merged, single, holdout, begin)
            if progress is not None:
                progress(int(rows[-1]) + 1, cases)
    values, overall = tally.result()
    return Measured(values, overall, holdout.everyone, holdout.history.users)


def histories(holdout: Holdout, rows: IntArray, length: int) -> Histories:
    """The last `length` items and times of rows (B,) of the holdout as the model reads them; case b is rows[b].

    With a length of 0 these are whole histories, as wide as the longest of the rows.
    """
    length = length or int(holdout.history.lengths()[rows].max(initial=1))
    times = holdout.history.last_times(rows, length)
    return Histories(
        torch.from_numpy(holdout.history.last(rows, length)),
        torch.from_numpy(holdout.history.users[rows]),
        torch.from_numpy(rows),
        None if times is None else torch.from_numpy(times),
    )


def device_of(model: object) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU if it has neither."""
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return torch.device("cpu")


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Evaluation and inference mode for a block; every module's own mode is restored afterwards."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    for module in modules[:1]:
        module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _seen(holdout: Holdout, rows: IntArray) -> Tensor:
    """(B, E) every item that the rows must not get, 0 behind the end."""
    masked = holdout.masked()
    longest = int(masked.lengths()[rows].max(initial=0))
    return torch.from_numpy(masked.last(rows, longest))


@dataclass
class _Lists:
    """Ranked lists of a model, whose catalogue is taken once."""

    model: Matcher | Scorer
    k: int
    single: bool
    budget: int
    n_items: int = 0
    catalogue: Tensor | None = None

    def of(self, history: Histories, exclude: Tensor | None) -> tuple[IntArray, IntArray | None]:
        """The merged lists (B, k) and, when wanted and there are any, those of each interest (B, K, k)."""
        if not isinstance(self.model, Matcher):
            return sharded.by_rows(partial(self._scored, self.model), history, exclude), None
        if self.catalogue is None:
            self.catalogue = self.model.catalogue().float()
            self.n_items = sharded.catalogue_size(self.catalogue)
        interests = sharded.interests(self.model, history)
        vectors = self.catalogue
        merged = self._ranked(
            lambda rows, banned: top_k(interests[rows], vectors, self.k, exclude=banned, budget=self.budget),
            history,
            exclude,
        )
        if not self.single:
            return merged, None
        users, K, d = interests.shape
        every = None if exclude is None else exclude.repeat_interleave(K, dim=0)
        lists = top_k(interests.reshape(users * K, 1, d), self.catalogue, self.k, exclude=every, budget=self.budget)
        return merged, lists.items.view(users, K, -1).cpu().numpy()

    def _scored(self, model: Scorer, history: Histories, exclude: Tensor | None) -> IntArray:
        """The lists (B, k) of a model whose score is no inner product."""
        scores = model.scores(history)
        self.n_items = scores.shape[1] - 1
        return self._ranked(lambda rows, banned: top_k_scores(scores[rows], self.k, exclude=banned), history, exclude)

    def _ranked(
        self, rank: Callable[[slice, Tensor | None], Ranked], history: Histories, exclude: Tensor | None
    ) -> IntArray:
        """The lists (B, k) that `rank` makes of all rows; when it refuses, the error names the first row at fault."""
        try:
            return rank(slice(None), exclude).items.cpu().numpy()
        except BadRun:
            for row in range(len(history.case)):
                one = slice(row, row + 1)
                try:
                    rank(one, None if exclude is None else exclude[one])
                except BadRun as error:
                    where = f"case {int(history.case[row])} (counted from 0) of user number {int(history.users[row])}"
                    raise BadRun(f"{type(self.model).__name__}, {where}: {error}") from error
            raise


@dataclass
class _Tally:
    """Metrics of the blocks so far."""

    ks: list[int]
    categories: ItemCategories | None
    lists: _Lists
    parts: dict[str, list[FloatArray]] = field(default_factory=dict)
    listed: dict[int, IntArray] = field(default_factory=dict)
    kinds: dict[int, set[int]] = field(default_factory=dict)

    def add(self, merged: IntArray, single: IntArray | None, holdout: Holdout, begin: int) -> None:
        if self.categories is not None and self.categories.n_items != self.lists.n_items:
            raise BadSetting(
                f"the catalogue has {self.lists.n_items} items, the categories are those of {self.categories.n_items}"
            )
        matched = match_rows(merged, holdout.target, begin)
        metrics = COLLABORATIVE if holdout.exclude_seen else METRICS
        numbers = {f"{name}@{k}": metric(matched, k) for k in self.ks for name, metric in metrics.items()}
        if self.categories is not None:
            numbers |= measure(self.categories, merged, matched.hits, single, self.ks)
        for name, value in numbers.items():
            self.parts.setdefault(name, []).append(value)
        for k in self.ks:
            counts = np.bincount(merged[:, :k].ravel(), minlength=self.lists.n_items + 1)
            self.listed[k] = counts + self.listed.get(k, 0)
            if self.categories is not None:
                hit = self.categories.primary[merged[:, :k][matched.hits[:, :k]]]
                self.kinds.setdefault(k, set()).update(hit[hit >= 0].tolist())

    def result(self) -> tuple[dict[str, FloatArray], dict[str, float]]:
        values = {name: np.concatenate(parts) for name, parts in self.parts.items()}
        overall: dict[str, float] = {}
        for k in self.ks:
            listed = self.listed.get(k, np.zeros(0, dtype=np.int64))[1:]
            overall[f"coverage@{k}"], overall[f"gini@{k}"] = exposure.coverage(listed), exposure.gini(listed)
            if self.categories is not None:
                overall[f"div_hit_sum@{k}"] = float(values[f"div_hit_mean@{k}"].sum()) if values else 0.0
                overall[f"div_hit_union@{k}"] = float(len(self.kinds.get(k, ())))
                overall[f"kinds_random@{k}"] = kinds_random(self.categories, k)
        return values, overall
