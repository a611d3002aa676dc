import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from diffacet.app.studies import statistics


def test_bootstrap_means_spread_like_a_standard_error():
    values = np.random.default_rng(1).random((50, 1))
    means = statistics.bootstrap(values, np.ones((50, 1)), 1000)
    assert means.shape == (1000, 1)
    assert means.std() == pytest.approx(values.std() / np.sqrt(50), rel=0.1)
    assert values.min() <= means.min() <= means.max() <= values.max()


def test_bootstrap_agrees_with_a_written_out_loop(monkeypatch):
    """Users are drawn with all their values; blocks change nothing but the order of the draws."""
    rng = np.random.default_rng(2)
    clusters = [rng.normal(size=rng.integers(1, 4)) for _ in range(40)]
    sums = np.array([[c.sum()] for c in clusters])
    counts = np.array([[len(c)] for c in clusters], float)
    picks = np.random.default_rng(3).integers(0, 40, (4000, 40))
    written = [np.concatenate([clusters[user] for user in row]).mean() for row in picks]
    monkeypatch.setattr(statistics, "_BLOCK", 40 * 17)
    low, high = statistics.interval(statistics.bootstrap(sums, counts, 4000))
    assert np.array([low[0], high[0]]) == pytest.approx(np.quantile(written, [0.025, 0.975]), abs=0.02)


def test_users_that_come_twice_widen_the_interval():
    """The same differences seen under two seeds are no more evidence than under one."""
    values = np.random.default_rng(4).normal(size=(200, 1))
    ones = np.ones((200, 1))
    once = statistics.interval(statistics.bootstrap(values, ones))
    twice = statistics.interval(statistics.bootstrap(2 * values, 2 * ones))
    assert np.array(twice) == pytest.approx(np.array(once))
    assert statistics.sign_flips(2 * values) == pytest.approx(statistics.sign_flips(values))


def test_sign_flips_agree_with_all_flips_written_out():
    gains = np.array([[0.3, 0.0], [0.1, 0.0], [-0.2, 0.0], [0.4, 0.0], [0.2, 0.0], [0.05, 0.0], [0.3, 0.0], [0.1, 0.0]])
    signs = np.array(list(itertools.product([1, -1], repeat=8)))
    exact = np.mean(np.abs(signs @ gains[:, 0]) >= abs(gains[:, 0].sum()) - 1e-12)
    found = statistics.sign_flips(gains, 20_000)
    assert found[0] == pytest.approx(exact, abs=0.01)
    assert found[1] == 1.0


def test_sign_flips_agree_with_scipy_and_are_never_zero():
    gains = np.random.default_rng(5).normal(0.12, 1, (200, 1))
    reference = stats.permutation_test(
        (gains[:, 0],), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(1)
    )
    # Four standard errors of the two estimates together; both draw from fixed seeds.
    assert statistics.sign_flips(gains)[0] == pytest.approx(reference.pvalue, abs=0.025)
    assert statistics.sign_flips(np.ones((60, 1)), 99)[0] == 1 / 100


@given(st.floats(-60, 60), st.integers(1, 60))
def test_student_t_agrees_with_scipy(t, freedom):
    assert statistics.two_sided_t(t, freedom) == pytest.approx(2 * stats.t.sf(abs(t), freedom), abs=1e-12)


def test_paired_t_agrees_with_scipy():
    one, other = np.random.default_rng(6).normal(size=(2, 5))
    assert statistics.paired_t(list(one - other)) == pytest.approx(stats.ttest_rel(one, other).pvalue)
    assert math.isnan(statistics.paired_t([1.0]))
    assert statistics.paired_t([0.0, 0.0]) == 1.0
    assert statistics.paired_t([0.1, 0.1]) == 0.0


def test_holm_is_the_step_down_of_the_textbook():
    nan = float("nan")
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.5, 0.6]) == [1.0, 1.0]
    adjusted = statistics.holm([nan, 0.02, nan])
    assert adjusted[1] == 0.02
    assert math.isnan(adjusted[0])
    assert statistics.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_agrees_with_its_definition(p_values):
    """Adjusted p_(i) is the largest of (m - j + 1) p_(j) over j <= i, at most 1."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    expected = {}
    for i, place in enumerate(order):
        expected[place] = min(1.0, max((len(order) - j) * p_values[order[j]] for j in range(i + 1)))
    assert statistics.holm(p_values) == pytest.approx([expected[place] for place in range(len(p_values))])
