"""Linear probing: how much of an item's category its vector tells a linear classifier (Table 2 of DimeRec, WWW 2025).

The vectors are frozen; a multinomial logistic regression with bias is fitted on four fifths of the items and asked
about the rest. Shapes: N items, d width of a vector, n items that take part.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from diffacet import seeds as streams
from diffacet.arrays import distinct
from diffacet.data.sequences import IntArray
from diffacet.errors import BadLog, BadRun, BadSetting
from diffacet.rank.categories import ItemCategories

FloatArray = NDArray[np.float64]
FEWEST = 10
"""Items of a category that stands for itself; smaller ones are merged into one, "other"."""
HELD_OUT = 0.2
ITERATIONS = 2000


@dataclass(frozen=True)
class Probe:
    """What a linear classifier reads from the vectors of items.

    Attributes:
        accuracy: share of the held-out items whose category is found, mean over the seeds.
        deviation: of it over the seeds, n - 1 below; NaN for one seed.
        train_accuracy: the same on the items that it was fitted on.
        majority: share of the items that are of the largest category, "other" included: what a constant answer finds.
        items: n, those with a category and at least one training interaction.
        classes: categories that are told apart, "other" included.
        merged: categories that are in "other".
        seeds: splits of the items.
        converged: whether every fit ended before its last iteration.
    """

    accuracy: float
    deviation: float
    train_accuracy: float
    majority: float
    items: int
    classes: int
    merged: int
    seeds: int
    converged: bool


def probe(
    vectors: NDArray[np.floating],
    categories: ItemCategories,
    counts: IntArray,
    *,
    seeds: int = 5,
    standardise: bool = True,
) -> Probe:
    """How well the primary category of an item is read from its vector.

    Seed s in 0..seeds - 1 holds out a fifth of each class; scikit-learn's logistic regression (lbfgs, C = 1) is fitted
    on the others. Numbers depend on the arguments only.

    Args:
        vectors: (N + 1, d), those that the model scores with; row 0 is padding and left out.
        categories: of the items; each one's `primary` is asked for.
        counts: (N + 1,) int64 training interactions; items without one, whose vectors were never fitted, are left out.
        seeds: splits of the items, at least 1.
        standardise: bring each column to mean 0 and deviation 1 on the fitted items.

    Raises:
        BadSetting: seeds below 1, or arrays of other sizes than the categories.
        BadLog: fewer than two classes among the items that take part.
        BadRun: a vector is not finite.
    """
    if seeds < 1:
        raise BadSetting(f"seeds, the splits of the items, is 1 or more; got {seeds}")
    if not len(vectors) == len(counts) == len(categories.primary):
        raise BadSetting(
            f"vectors, counts and categories are of the same items; got {len(vectors) - 1}, {len(counts) - 1} and "
            f"{categories.n_items}"
        )
    chosen = np.flatnonzero((counts > 0) & (categories.primary >= 0))
    classes, merged = _classes(categories.primary[chosen])
    of_class = np.bincount(classes)
    if len(of_class) < 2:
        raise BadLog(
            f"probing tells categories apart, and the {len(chosen)} items with a category and a training interaction "
            f"are of {len(of_class)}, those of fewer than {FEWEST} items taken together; there must be two or more"
        )
    read = vectors[chosen].astype(np.float64)
    if not np.isfinite(read).all():
        raise BadRun("an item vector is not finite: the model diverged; train it again, with a smaller lr")
    told = np.array([_fit(read, classes, _held_out(classes, seed), standardise) for seed in range(seeds)])  # (seeds, 3)
    return Probe(
        accuracy=float(told[:, 0].mean()),
        deviation=float(told[:, 0].std(ddof=1)) if seeds > 1 else float("nan"),
        train_accuracy=float(told[:, 1].mean()),
        majority=float(of_class.max() / len(chosen)),
        items=len(chosen),
        classes=len(of_class),
        merged=merged,
        seeds=seeds,
        converged=bool(told[:, 2].max() < ITERATIONS),
    )


def _classes(primary: IntArray) -> tuple[IntArray, int]:
    """(n,) the class of each item, 0, 1, ..., small categories being the last; and how many are in that."""
    sizes = np.bincount(primary)
    small = (sizes > 0) & (sizes < FEWEST)
    kept = np.where(small[primary], len(sizes), primary)
    return np.searchsorted(distinct(kept), kept), int(small.sum())


def _held_out(classes: IntArray, seed: int) -> NDArray[np.bool_]:
    """(n,) whether an item is held out: a fifth of each class, rounded, and never all of it."""
    mixed = streams.stream(seed, "probe").permutation(len(classes))
    order = mixed[np.argsort(classes[mixed], kind="stable")]  # class by class, mixed within each
    sizes = np.bincount(classes)
    place = np.arange(len(classes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    held = np.zeros(len(classes), dtype=np.bool_)
    held[order] = place < np.repeat(np.rint(HELD_OUT * sizes), sizes)
    return held


def _fit(
    vectors: FloatArray, classes: IntArray, held: NDArray[np.bool_], standardise: bool
) -> tuple[float, float, float]:
    """Accuracy on the held-out items, on the others, and iterations."""
    fitted, asked = vectors[~held], vectors[held]
    if standardise:
        scale = StandardScaler().fit(fitted)
        fitted, asked = scale.transform(fitted), scale.transform(asked)
    model = LogisticRegression(C=1.0, solver="lbfgs", max_iter=ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # `Probe.converged` says it
        model.fit(fitted, classes[~held])
    return model.score(asked, classes[held]), model.score(fitted, classes[~held]), float(model.n_iter_.max())
