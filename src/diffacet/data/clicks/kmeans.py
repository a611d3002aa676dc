"""Recursive k-means: sets of points are parted until each stands for few enough behaviours."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffacet.data.sequences import IntArray
from diffacet.errors import BadSetting


@dataclass(frozen=True)
class Rule:
    """How a set of n behaviours is parted: it stays whole up to `most`, else k-means makes floor(n^exponent) of it.

    Attributes:
        most: γ, behaviours of a cluster at most.
        exponent: in (0, 1]; there are two parts at least.
        iterations: of each k-means, at most.

    Raises, when made:
        BadSetting: a number is out of range.
    """

    most: int = 20
    exponent: float = 0.3
    iterations: int = 10

    def __post_init__(self) -> None:
        if self.most < 1 or self.iterations < 1 or not 0 < self.exponent <= 1:
            raise BadSetting(
                "clusters have most >= 1 members, an exponent in (0, 1] and iterations >= 1; "
                f"got {self.most}, {self.exponent} and {self.iterations}"
            )

    def parts(self, n: int) -> int:
        """How many parts n behaviours go into, k."""
        return max(2, int(n**self.exponent + 1e-9))  # 1024^0.3 is 8, and 7.999... as computed


@contextmanager
def quiet() -> Iterator[None]:
    """scikit-learn on one thread, for several add up in an order of their own; without its checks and warnings."""
    from sklearn import config_context
    from threadpoolctl import threadpool_limits

    with (
        warnings.catch_warnings(),
        threadpool_limits(1),
        config_context(assume_finite=True, skip_parameter_validation=True),
    ):
        warnings.simplefilter("ignore")  # fewer clusters than asked for: an empty one is dropped
        yield


def leaves(
    vectors: NDArray[np.float64], weights: IntArray, rule: Rule, drawn: np.random.Generator
) -> Iterator[IntArray]:
    """The sets of points, each point in one, at which the parting ends; call it inside `quiet`.

    Such a set stands for `rule.most` behaviours at most, or its points are one to k-means.

    Args:
        vectors: (u, any) float64, distinct.
        weights: (u,) int64, the behaviours at each point.
        rule: how sets are parted.
        drawn: where k-means++ draws from.
    """
    from sklearn.cluster import KMeans

    random = np.random.RandomState(drawn.bit_generator)
    todo = [np.arange(len(vectors))]
    while todo:
        points = todo.pop()
        own = weights[points]
        n = int(own.sum())
        if n <= rule.most or len(points) == 1:
            yield points
            continue
        k = rule.parts(n)
        if len(points) <= k:
            todo += [points[i : i + 1] for i in range(len(points))]
            continue
        # Equal behaviours go together whatever k-means finds, so each place is one point that weighs as many.
        means = KMeans(k, n_init=1, max_iter=rule.iterations, random_state=random, copy_x=False)
        label = means.fit(vectors[points], sample_weight=own.astype(np.float64)).labels_
        found = [part for part in (points[label == c] for c in range(k)) if len(part)]
        if len(found) == 1:
            yield points
        else:
            todo += found
