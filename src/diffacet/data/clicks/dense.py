"""Numbers of a sample on one scale, as training samples have them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffacet.data.clicks.columns import Joined
from diffacet.data.sequences import BoolArray

SKEW = 3.0
"""A column without negative numbers whose mean is above this many medians is heavy-tailed: its logarithm is taken."""


@dataclass(frozen=True)
class Statistics:
    """How one numeric column is put on a scale, from the training samples that have it.

    Attributes:
        name: of the column.
        log1p: whether log(1 + x) is taken first; x below 0, which training lacks, then counts as 0.
        mean: after the logarithm.
        deviation: after the logarithm; 1 where all are equal.
        indicator: whether training samples lack it, so that a further column says (1) where it is missing.
    """

    name: str
    log1p: bool
    mean: float
    deviation: float
    indicator: bool


def measure(samples: Joined, columns: tuple[str, ...], train: BoolArray) -> tuple[Statistics, ...]:
    """The statistics of the dense `columns` over the samples where `train` (S,) is true."""
    found = []
    for name in columns:
        values = samples.raw(name).floats()[train]
        there = values[~np.isnan(values)]
        skewed = len(there) > 0 and bool(there.min() >= 0) and float(there.mean()) > SKEW * float(np.median(there))
        scaled = np.log1p(there) if skewed else there
        deviation = float(scaled.std()) if len(there) else 0.0
        mean = float(scaled.mean()) if len(there) else 0.0
        found.append(Statistics(name, skewed, mean, deviation or 1.0, len(there) < len(values)))
    return tuple(found)


def numbers(samples: Joined, statistics: Sequence[Statistics]) -> NDArray[np.float32]:
    """(S, D) float32: each column less its mean over its deviation, 0 where it is missing; then the indicators."""
    columns, missing = [], []
    for scale in statistics:
        values = samples.raw(scale.name).floats()
        gone = np.isnan(values)
        scaled = (np.log1p(np.maximum(values, 0)) if scale.log1p else values) - scale.mean
        columns.append(np.where(gone, 0.0, scaled / scale.deviation).astype(np.float32))
        if scale.indicator:
            missing.append(gone.astype(np.float32))
    if not columns:
        return np.zeros((samples.frame.height, 0), np.float32)
    return np.stack(columns + missing, axis=1)
