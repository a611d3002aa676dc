import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffacet.rank.exposure import coverage, gini


def gini_loop(counts):
    """Mean absolute difference of all ordered pairs, over twice the mean."""
    n, total = len(counts), sum(counts)
    return sum(abs(a - b) for a in counts for b in counts) / (2 * n * total)


@settings(max_examples=100)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=20).filter(any))
def test_the_coefficient_is_the_mean_difference_of_pairs(counts):
    assert gini(np.array(counts)) == pytest.approx(gini_loop(counts), abs=1e-12)
    assert coverage(np.array(counts)) == sum(c > 0 for c in counts) / len(counts)


@pytest.mark.parametrize("n", [1, 2, 10, 1000])
def test_ends_of_the_coefficient(n):
    one = np.zeros(n, np.int64)
    one[n // 2] = 123
    assert gini(one) == pytest.approx(1 - 1 / n, abs=1e-15)
    assert gini(np.full(n, 7)) == 0
    assert gini(one) == gini(one[::-1])
    assert (coverage(one), coverage(np.full(n, 7))) == (1 / n, 1)


def test_an_item_that_is_never_shown_counts():
    assert gini(np.array([5, 5, 0])) == pytest.approx(1 / 3)
    assert gini(np.array([5, 5])) == 0


def test_nothing_shown():
    assert math.isnan(gini(np.zeros(4, np.int64)))
    assert math.isnan(gini(np.zeros(0, np.int64)))
    assert coverage(np.zeros(4, np.int64)) == coverage(np.zeros(0, np.int64)) == 0
