import dataclasses
import math

import numpy as np
import pytest

from diffacet.errors import BadLog, BadRun, BadSetting
from diffacet.rank.categories import ItemCategories
from diffacet.rank.probing import HELD_OUT, _held_out, probe

N, CLASSES = 240, 4


def labelled(labels):
    """Categories of items 1, 2, ...; None for none."""
    return ItemCategories.from_lists([None if label is None else [str(label)] for label in labels])


@pytest.fixture
def labels():
    """Classes of unequal sizes: 96, 72, 48 and 24 items, in mixed order."""
    return np.random.default_rng(0).permutation(np.repeat(np.arange(CLASSES), [96, 72, 48, 24]))


@pytest.fixture
def everywhere():
    return np.ones(N + 1, np.int64)


def one_hot(labels):
    vectors = np.zeros((len(labels) + 1, CLASSES))
    vectors[np.arange(1, len(labels) + 1), labels] = 1
    return vectors


@pytest.mark.parametrize("standardise", [True, False])
def test_vectors_that_are_the_category_are_read_without_error(labels, everywhere, standardise):
    found = probe(one_hot(labels), labelled(labels), everywhere, standardise=standardise)
    assert (found.accuracy, found.train_accuracy, found.deviation) == (1, 1, 0)
    assert (found.items, found.classes, found.merged, found.seeds, found.converged) == (N, CLASSES, 0, 5, True)
    assert found.majority == 96 / N


def test_vectors_that_know_nothing_find_the_largest_class(everywhere):
    # One column of noise beside the bias: the classifier answers with the largest class nearly everywhere.
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(3), [144, 48, 48]))
    noise = np.random.default_rng(2).normal(size=(N + 1, 1))
    found = probe(noise, labelled(labels), everywhere)
    held = 5 * N * HELD_OUT
    assert abs(found.accuracy - found.majority) < 4 * math.sqrt(0.6 * 0.4 / held)
    assert found.majority == 0.6
    constant = probe(np.ones((N + 1, 2)), labelled(labels), everywhere)
    assert constant.accuracy == pytest.approx(0.6, abs=1 / (N * HELD_OUT))
    assert constant.train_accuracy == pytest.approx(0.6, abs=1e-2)


def test_standardised_vectors_may_be_scaled_and_shifted(labels, everywhere):
    draw = np.random.default_rng(3)
    vectors = one_hot(labels) + draw.normal(size=(N + 1, CLASSES))
    moved = vectors * np.array([1e-3, 1, 50, 1e4]) + np.array([0, 7, -3, 100])
    one, other = (probe(v, labelled(labels), everywhere, seeds=2) for v in (vectors, moved))
    assert one.accuracy == pytest.approx(other.accuracy, abs=0.03)
    raw = probe(moved / 1e4, labelled(labels), everywhere, seeds=2, standardise=False)
    assert raw.accuracy < one.accuracy - 0.1


def test_the_same_again_and_other_seeds_other_items(labels, everywhere):
    vectors = one_hot(labels) + np.random.default_rng(4).normal(size=(N + 1, CLASSES))
    one, again = (probe(vectors, labelled(labels), everywhere, seeds=3) for _ in range(2))
    assert dataclasses.astuple(one) == dataclasses.astuple(again)
    assert one.deviation > 0
    assert math.isnan(probe(vectors, labelled(labels), everywhere, seeds=1).deviation)


def test_a_fifth_of_each_class_is_held_out(labels):
    alone = np.concatenate([labels, [CLASSES] * 2])  # a class so small that none of it is held out
    for seed in range(3):
        held = _held_out(alone, seed)
        assert np.bincount(alone[held], minlength=CLASSES + 1).tolist() == [19, 14, 10, 5, 0]
    assert (_held_out(alone, 0) != _held_out(alone, 1)).any()


def test_who_takes_part(labels, everywhere):
    vectors, names = one_hot(labels), labels.tolist()
    vectors[0] = np.nan  # padding is never read
    counts = everywhere.copy()
    untrained = np.flatnonzero(labels == 0)[:10]
    counts[untrained + 1] = 0
    vectors[untrained + 1] = np.nan
    nameless = np.flatnonzero(labels == 1)[:5]
    vectors[nameless + 1] = np.nan
    for place in nameless:
        names[place] = None
    found = probe(vectors, labelled(names), counts, seeds=1)
    assert (found.items, found.majority) == (N - 15, 86 / (N - 15))
    assert found.accuracy == 1


def test_small_categories_are_one_class(everywhere):
    labels = np.repeat(np.arange(30), [100, 80, 10] + [2] * 25 + [0] * 2)  # 25 categories of two items, 50 in all
    vectors = np.eye(30)[np.concatenate([[0], np.where(labels > 2, 3, labels)])]
    found = probe(vectors, labelled(labels), np.ones(len(labels) + 1, np.int64))
    assert (found.classes, found.merged, found.accuracy) == (4, 25, 1)


def test_refusals(labels, everywhere):
    vectors, categories = one_hot(labels), labelled(labels)
    with pytest.raises(BadSetting, match="seeds, the splits of the items, is 1 or more; got 0"):
        probe(vectors, categories, everywhere, seeds=0)
    with pytest.raises(BadSetting, match="got 239, 240 and 240"):
        probe(vectors[:-1], categories, everywhere)
    for names in ([None] * N, ["a"] * N, [f"n{i}" for i in range(N)]):
        with pytest.raises(BadLog, match="there must be two or more"):
            probe(vectors, labelled(names), everywhere)
    with pytest.raises(BadLog, match="the 0 items"):
        probe(vectors, categories, np.zeros(N + 1, np.int64))
    vectors[7] = np.inf
    with pytest.raises(BadRun, match="not finite"):
        probe(vectors, categories, everywhere)
