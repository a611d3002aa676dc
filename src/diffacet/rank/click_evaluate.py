"""Evaluation of click models: samples of a log in batches through a model, and metrics of all of them together."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diffacet.core.batch import ClickBatch
from diffacet.core.contract import Clicker
from diffacet.data.clicks import ClickLog, cut
from diffacet.errors import BadLog, BadRun, BadSetting
from diffacet.rank.clicks import BoolArray, Numbers, auc, checked, measure
from diffacet.rank.evaluate import device_of, evaluating

IntArray = NDArray[np.int64]
LENGTHS = (1, 10, 100, 500)
"""Where slices by history length begin, after that of empty histories."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a model answers for samples: 5 bytes each, in the order in which they were asked for.

    Attributes:
        labels: (S,) uint8, 1 for a click.
        logits: (S,) float32, finite.
    """

    labels: NDArray[np.uint8]
    logits: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)

    def measure(self, groups: Numbers | None = None, negative_rate: float = 1.0) -> dict[str, float]:
        """Every metric, by name: `clicks.measure` of these labels and logits, whose arguments and errors these are."""
        return measure(self.labels, self.logits, groups, negative_rate)

    def slices(self, log: ClickLog, rows: IntArray) -> tuple["Slice", ...]:
        """The AUC by history length, item, user and day (`slices`); `log` and `rows` are what was asked for.

        Lengths are of whole histories, however few behaviours the model was shown; a row of the log that stands for
        several behaviours counts as these. Days are those of the log's time zone.
        """
        return slices(
            self.labels,
            self.logits,
            lengths=history_lengths(log)[rows],
            known_item=log.known_item[rows],
            known_user=log.known_user[rows],
            day=local_days(log.time[rows], log.schema.timezone),
        )


def evaluate_clicks(
    model: Clicker,
    log: ClickLog,
    rows: IntArray,
    *,
    length: int,
    batch_size: int = 1024,
    progress: Callable[[int, int], None] | None = None,
) -> Predicted:
    """Labels and logits of the samples `rows` of `log`, in that order.

    The model is put into evaluation mode and back, and is asked on the device of its first parameter; no gradient is
    kept. Samples with histories of similar length go together, the longest first, those of a user side by side: less
    padding, fewer copies of a history, and a batch that does not fit the memory shows at once. No logit depends on its
    batch, but for float32 rounding in matrix products.

    Args:
        model: a Clicker.
        log: where the samples are from.
        rows: (B,) int64 row numbers of samples; any order, repeats are allowed.
        length: the most recent behaviours of a history that the model is shown; 0: all of them.
        batch_size: samples at a time.
        progress: called with (samples done, all samples) after every batch.

    Raises:
        BadSetting: a batch size below 1 or a length below 0.
        BadLog: a row that the log does not have.
        BadRun: an answer that is not one finite logit for each sample, naming the first at fault.
    """
    if batch_size < 1 or length < 0:
        raise BadSetting(f"batch size is at least 1, length at least 0 (all); got {batch_size} and {length}")
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(log):
        raise BadLog(f"the log has samples 0 to {len(log) - 1}; asked for were {rows.min()} to {rows.max()}")
    logits = np.empty(len(rows), np.float32)
    order, device = _together(log, rows, length), device_of(model)
    with evaluating(model):
        for begin in range(0, len(rows), batch_size):
            places = order[begin : begin + batch_size]
            batch = ClickBatch.from_arrays(cut(log, rows[places], length)).to(device)
            answer = model.logits(batch).float().cpu().numpy()
            _check_answer(model, answer, rows[places], log)
            logits[places] = answer
            if progress is not None:
                progress(begin + len(places), len(rows))
    return Predicted(log.label[rows].astype(np.uint8, copy=False), logits)


def history_lengths(log: ClickLog) -> IntArray:
    """(S,) int64, the behaviours before each sample, uncut; a row that stands for several counts as these."""
    if log.sizes is None:
        return (log.end - log.begin).astype(np.int64)
    total = np.concatenate([[0.0], np.cumsum(log.sizes, dtype=np.float64)])
    return np.rint(total[log.end] - total[log.begin]).astype(np.int64)


def local_days(times: IntArray, timezone: str) -> NDArray[np.datetime64]:
    """(S,) datetime64[D], the day of each time (milliseconds since 1970, UTC) on the calendars of `timezone` (IANA)."""
    moments = pl.Series(times, dtype=pl.Int64).cast(pl.Datetime("ms", "UTC"))
    return moments.dt.convert_time_zone(timezone).dt.date().to_numpy().astype("datetime64[D]")


def _together(log: ClickLog, rows: IntArray, length: int) -> IntArray:
    """Places of `rows` in an order in which similar histories are neighbours: lengths to a factor of 2, then users."""
    shown = log.end[rows] - log.begin[rows]
    if length:
        shown = np.minimum(shown, length)
    bits = np.frexp(shown.astype(np.float64))[1]
    return np.lexsort((log.user[rows], -bits))


def _check_answer(model: Clicker, answer: NDArray[np.float32], rows: IntArray, log: ClickLog) -> None:
    name = type(model).__name__
    if answer.shape != rows.shape:
        raise BadRun(f"{name} answered {len(rows)} samples with the shape {answer.shape}; one logit each is expected")
    wrong = np.flatnonzero(~np.isfinite(answer))
    if len(wrong):
        row = rows[wrong[0]]
        raise BadRun(
            f"{name}, sample {row} (counted from 0) of user number {log.user[row]}: the logit is {answer[wrong[0]]}, "
            "no finite number; the training has probably diverged, try a lower lr or a clip"
        )


@dataclass(frozen=True)
class Slice:
    """A part of the samples.

    Attributes:
        by: what the samples are told apart by: history, item, user, day.
        name: which of them these are, such as "10-99", "known", "2022-04-21".
        samples: how many.
        clicks: how many of those.
        auc: of those alone; NaN where a class is absent.
    """

    by: str
    name: str
    samples: int
    clicks: int
    auc: float


def slices(
    labels: Numbers,
    scores: Numbers,
    *,
    lengths: Numbers | None = None,
    known_item: BoolArray | None = None,
    known_user: BoolArray | None = None,
    day: NDArray[np.datetime64] | None = None,
) -> tuple[Slice, ...]:
    """The AUC of parts of the samples, in a fixed order; a part may have no sample, days are those that occur.

    Args:
        labels: (S,) 0 or 1.
        scores: (S,).
        lengths: (S,) behaviours that a sample's user had before it: 0, 1-9, 10-99, 100-499, 500 and more.
        known_item: (S,) whether the item occurs in training.
        known_user: (S,) whether the user does.
        day: (S,) datetime64[D], in the time zone of the data.

    Raises:
        BadSetting: a vector is not as long as the labels.
        BadLog, BadRun: see `checked`.
    """
    clicked, (score,) = checked(labels, scores)
    rows = []
    for by, name, inside in _parts(lengths, known_item, known_user, day):
        if inside.shape != clicked.shape:
            raise BadSetting(f"slices by {by} need one value for each of {len(clicked)} samples; got {inside.shape}")
        part = clicked[inside]
        rows.append(Slice(by, name, len(part), int(part.sum()), auc(part, score[inside])))
    return tuple(rows)


def _parts(
    lengths: Numbers | None,
    known_item: BoolArray | None,
    known_user: BoolArray | None,
    day: NDArray[np.datetime64] | None,
) -> Iterator[tuple[str, str, BoolArray]]:
    """(what tells apart, the part's name, its samples) of every part."""
    if lengths is not None:
        place = np.searchsorted(LENGTHS, lengths, side="right")
        ranges = [f"{low}-{high - 1}" for low, high in itertools.pairwise(LENGTHS)]
        for number, name in enumerate(["0", *ranges, f">= {LENGTHS[-1]}"]):
            yield "history", name, place == number
    for by, known in (("item", known_item), ("user", known_user)):
        if known is not None:
            yield by, "known", np.asarray(known, np.bool_)
            yield by, "unknown", ~np.asarray(known, np.bool_)
    if day is not None:
        ordered = np.sort(day)
        for one in ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]]:
            yield "day", str(one), day == one
