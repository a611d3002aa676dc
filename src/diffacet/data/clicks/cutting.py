"""Cutting batches: samples with the behaviours that they see, each behaviour once."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffacet.data.clicks.log import ClickLog
from diffacet.data.sequences import IntArray


def cut(log: ClickLog, rows: IntArray, length: int) -> dict[str, NDArray[Any] | None]:
    """The samples `rows` (B,) of `log` with their histories, as the arrays that core's ClickBatch is made of.

    Histories of one user overlap; what several samples see is there once, so the batch grows with the histories of
    its users and not with samples times length. Every array is new, contiguous and of the dtype that ClickBatch says.

    Args:
        log: the log.
        rows: row numbers of samples, in any order, repeats allowed.
        length: the most recent behaviours that a sample sees at most; 0: all.

    Raises:
        BadSetting: `length` is negative.
    """
    rows = np.asarray(rows, dtype=np.int64)
    begin, end = log.ranges(rows, length)
    places, start = union(begin, end)
    return {
        "behaviours": np.ascontiguousarray(log.behaviours[:, places].T, dtype=np.int64),
        "times": np.ascontiguousarray(log.behaviour_time[places]) if log.schema.timed else None,
        "sizes": None if log.sizes is None else np.ascontiguousarray(log.sizes[places], dtype=np.float32),
        "start": start,
        "end": start + (end - begin),
        "target": np.ascontiguousarray(log.target[:, rows].T, dtype=np.int64),
        "other": np.ascontiguousarray(log.other[:, rows].T, dtype=np.int64),
        "numeric": np.ascontiguousarray(log.numeric[rows], dtype=np.float32),
        "label": log.label[rows].astype(np.float32),
        "user": log.user[rows].astype(np.int64),
        "time": log.time[rows].astype(np.int64),
        "case": log.case[rows].astype(np.int64),
    }


def union(begin: IntArray, end: IntArray) -> tuple[IntArray, IntArray]:
    """The numbers in the ranges begin[b]..end[b] - 1 (B,), each once, ascending (n,); and where each range starts (B,).

    What lies between two ranges and in none of them is left out.
    """
    order = np.argsort(begin, kind="stable")
    lower, upper = begin[order], end[order]
    reach = np.maximum.accumulate(upper)
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = lower[1:] > reach[:-1]
    first = lower[fresh]  # of each piece without a hole
    counts = reach[np.append(fresh, True)[1:]] - first
    before = np.cumsum(counts) - counts
    places = np.repeat(first - before, counts) + np.arange(int(counts.sum()), dtype=np.int64)
    start = np.empty(len(order), np.int64)
    start[order] = lower + (before - first)[np.cumsum(fresh) - 1]
    return places, start
