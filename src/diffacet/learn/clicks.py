"""Batches of click logs: samples in a seeded order, each once an epoch, with the behaviours of their users.

Batch s is the next B samples of its epoch's order, which depends on (seed, epoch) only; or is that of time, as a
service that learns from its stream would meet them.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from diffacet.core.batch import ClickBatch
from diffacet.core.contract import ClickFields, Facts, Training
from diffacet.data.clicks import ClickLog, cut
from diffacet.errors import BadLog, BadSetting
from diffacet.learn import batches

IntArray = NDArray[np.int64]
LEAST = 2
"""Samples of a batch at least: statistics over a batch, as BatchNorm takes them, mean nothing of one."""


def click_facts(log: ClickLog, training: Training) -> Facts:
    """What a model's constructor may know of a click log; items count as values of the finest field."""
    fields = ClickFields(**log.fields())
    return Facts(fields.sizes[0] - 3, training.length, click=fields)


def epoch_steps(rows: int, training: Training) -> int:
    """Steps in which each of `rows` training samples is seen once.

    A last batch of a single sample is no batch of its own: that sample joins the one before.

    Raises:
        BadSetting: batches of fewer than two samples are asked for.
        BadLog: there are fewer than two samples.
    """
    if training.batch_size < LEAST:
        raise BadSetting(f"a model of clicks takes batch_size {LEAST} or more; got {training.batch_size}")
    if rows < LEAST:
        raise BadLog(f"there are {rows} training samples, and {LEAST} are needed; choose other borders of the split")
    whole, left = divmod(rows, training.batch_size)
    return max(1, whole + (left >= LEAST))


def batch_at(log: ClickLog, rows: IntArray, training: Training) -> Callable[[int], ClickBatch]:
    """Step -> the batch of that step, on the CPU.

    Args:
        log: the click log.
        rows: (R,) int64, the training samples.
        training: batch size, length, seed; its epochs are told to the model as steps (`ClickBatch.total`).

    Raises:
        BadSetting, BadLog: see `epoch_steps`.
    """
    steps = epoch_steps(len(rows), training)
    total = batches.in_steps(training, steps).max_steps
    shuffled = batches.epoch_order(training.seed, len(rows))
    by_time = np.argsort(log.time[rows], kind="stable") if training.order == "time" else None

    def batch(step: int) -> ClickBatch:
        epoch, part = divmod(step, steps)
        begin = part * training.batch_size
        end = len(rows) if part == steps - 1 else begin + training.batch_size
        order = shuffled(epoch) if by_time is None else by_time
        mine = rows[order[begin:end]]
        return ClickBatch.from_arrays(cut(log, mine, training.length), step, total)

    return batch
