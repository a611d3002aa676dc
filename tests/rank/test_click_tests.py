import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from diffacet import seeds
from diffacet.errors import BadRun, BadSetting
from diffacet.rank import click_tests, clicks

few = st.integers(-3, 3)
triples = st.lists(st.tuples(st.booleans(), few, few, st.integers(0, 4)), min_size=4, max_size=30)


def columns(rows):
    labels, a, b, users = (np.array(column) for column in zip(*rows, strict=True))
    return labels, a.astype(np.float64), b.astype(np.float64), users


def wins(a, b):
    return 1.0 if a > b else 0.5 if a == b else 0.0


def covariance(labels, *scores):
    """DeLong's covariance of AUCs from its definition, every pair compared: (AUCs, matrix)."""
    structural = []
    for score in scores:
        table = np.array([[wins(a, b) for b in score[~labels]] for a in score[labels]])  # (m, n)
        structural.append((table.mean(), table.mean(1), table.mean(0)))
    m, n = int(labels.sum()), int((~labels).sum())
    matrix = np.zeros((len(scores), len(scores)))
    for i, j in itertools.product(range(len(scores)), repeat=2):
        (ai, ci, oi), (aj, cj, oj) = structural[i], structural[j]
        matrix[i, j] = ((ci - ai) * (cj - aj)).sum() / (m - 1) / m + ((oi - ai) * (oj - aj)).sum() / (n - 1) / n
    return [one[0] for one in structural], matrix


@pytest.fixture
def pair():
    """Two noisy views of what the labels were drawn from; users of very different sizes."""
    rng = np.random.default_rng(4)
    users = np.repeat(np.arange(80), rng.integers(1, 40, 80))
    truth = rng.normal(-0.5, 1, len(users)) + rng.normal(0, 1, 80)[users]
    labels = rng.random(len(users)) < clicks.sigmoid(truth)
    return labels, np.round(truth + rng.normal(0, 1, len(users)), 1), truth + rng.normal(0, 1.6, len(users)), users


@given(st.lists(few, max_size=30))
def test_midranks_agree_with_scipy(values):
    np.testing.assert_array_equal(click_tests.midranks(np.array(values, np.float64)), stats.rankdata(values))


@given(triples)
def test_delong_is_the_comparison_of_every_pair(rows):
    labels, a, b, _ = columns(rows)
    found = click_tests.delong(labels, a, b)
    assert found.auc_a == pytest.approx(clicks.auc(labels, a), abs=1e-12, nan_ok=True)
    assert found.auc_b == pytest.approx(clicks.auc(labels, b), abs=1e-12, nan_ok=True)
    if min(labels.sum(), (~labels).sum()) < 2:
        assert all(math.isnan(one) for one in (found.deviation, found.low, found.high, found.p))
        return
    aucs, matrix = covariance(labels, a, b)
    variance = max(0.0, matrix[0, 0] + matrix[1, 1] - 2 * matrix[0, 1])
    assert found.difference == pytest.approx(aucs[0] - aucs[1], abs=1e-12)
    assert found.deviation**2 == pytest.approx(variance, abs=1e-12)
    if found.deviation > 1e-6:
        assert found.p == pytest.approx(2 * stats.norm.sf(abs(found.difference) / found.deviation), abs=1e-12)
    reach = stats.norm.ppf(0.975) * found.deviation
    assert (found.low, found.high) == pytest.approx((found.difference - reach, found.difference + reach))
    value, low, high = click_tests.delong_interval(labels, a)
    reach = stats.norm.ppf(0.975) * math.sqrt(max(0.0, matrix[0, 0]))
    assert (value, low, high) == pytest.approx((aucs[0], max(0, aucs[0] - reach), min(1, aucs[0] + reach)), abs=1e-7)


def test_delong_of_one_order_is_no_difference(pair):
    labels, a, b, _ = pair
    same = click_tests.delong(labels, a, np.exp(a))
    assert (same.difference, same.deviation, same.p) == (0, 0, 1)
    forth, back = click_tests.delong(labels, a, b), click_tests.delong(labels, b, a)
    assert (forth.difference, forth.low, forth.p) == (-back.difference, -back.high, back.p)
    apart = click_tests.delong(labels, labels * 1.0, labels * -1.0)
    assert (apart.difference, apart.deviation, apart.p) == (1, 0, 0)


def test_delong_p_values_are_uniform_where_nothing_differs():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        labels, truth = rng.random(150) < 0.3, rng.normal(size=150)
        a, b = (truth + labels + rng.normal(size=150) for _ in range(2))
        found.append(click_tests.delong(labels, a, b).p)
    assert stats.kstest(found, "uniform").pvalue > 0.01


@given(triples, st.integers(0, 3))
def test_a_resample_is_the_auc_of_repeated_users(rows, seed):
    """Every sample written out as often as its user was drawn."""
    labels, a, b, users = columns(rows)
    different = sorted(set(users.tolist()))
    rng = seeds.stream(seed, "resampled users")
    expected = []
    for _ in range(5):
        drawn = [different[place] for place in rng.integers(0, len(different), len(different))]
        where = np.concatenate([np.flatnonzero(users == user) for user in drawn])
        expected.append([clicks.auc(labels[where], score[where]) for score in (a, b)])
    found = click_tests.resampled(labels, [a, b], users, 5, seed)
    np.testing.assert_allclose(found, np.array(expected), atol=1e-12)


def test_bootstrap_reads_its_resamples(pair):
    labels, a, b, users = pair
    found = click_tests.bootstrap_users(labels, a, b, users, 400, seed=2)
    values = click_tests.resampled(labels, [a, b], users, 400, seed=2)
    draws = values[:, 0] - values[:, 1]
    assert (found.auc_a, found.auc_b) == pytest.approx((clicks.auc(labels, a), clicks.auc(labels, b)), abs=1e-12)
    assert found.difference == found.auc_a - found.auc_b
    assert found.deviation == pytest.approx(draws.std(ddof=1))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])))
    assert found.p == pytest.approx(2 * (min((draws <= 0).sum(), (draws >= 0).sum()) + 1) / 401)
    assert found.low < found.difference < found.high


def test_bootstrap_does_not_depend_on_the_order_of_samples_nor_on_names(pair):
    labels, a, b, users = pair
    order = np.random.default_rng(0).permutation(len(labels))
    before = click_tests.bootstrap_users(labels, a, b, users, 50)
    after = click_tests.bootstrap_users(labels[order], a[order], b[order], 10**12 + 3 * users[order], 50)
    assert before == after
    assert before != click_tests.bootstrap_users(labels, a, b, users, 50, seed=1)
    swapped = click_tests.bootstrap_users(labels, b, a, users, 50)
    assert (swapped.difference, swapped.p) == (-before.difference, before.p)


def test_bootstrap_of_one_order_is_no_difference(pair):
    labels, a, _, users = pair
    same = click_tests.bootstrap_users(labels, a, 3 * a + 1, users, 50)
    assert (same.difference, same.deviation, same.low, same.high, same.p) == (0, 0, 0, 0, 1)


def test_bootstrap_over_users_of_one_sample_is_as_wide_as_delong(pair):
    labels, a, b, _ = pair
    alone = click_tests.bootstrap_users(labels, a, b, np.arange(len(labels)), 1000)
    exact = click_tests.delong(labels, a, b)
    assert alone.deviation == pytest.approx(exact.deviation, rel=0.1)
    assert (alone.low, alone.high) == pytest.approx((exact.low, exact.high), abs=0.3 * exact.deviation)


def test_bootstrap_where_nothing_can_be_resampled():
    labels, scores = np.array([1, 1, 0]), np.array([2.0, 1.0, 1.5])
    absent = click_tests.bootstrap_users(labels[:2], scores[:2], scores[:2], np.array([0, 1]), 10)
    assert math.isnan(absent.difference)
    assert math.isnan(absent.p)
    empty = click_tests.bootstrap_users(labels[:0], scores[:0], scores[:0], labels[:0], 10)
    assert math.isnan(empty.auc_a)
    assert math.isnan(empty.low)
    # A user with both classes is in every resample that has any AUC at all.
    values = click_tests.resampled(labels, [scores], np.array([0, 1, 1]), 60)
    assert set(np.unique(values[~np.isnan(values)]).tolist()) == {0, 1 / 2}
    assert 0 < np.isnan(values).sum() < 40


def test_bootstrap_refuses():
    labels, scores = np.array([1, 0]), np.array([2.0, 1.0])
    with pytest.raises(BadSetting, match="at least 2 resamples"):
        click_tests.bootstrap_users(labels, scores, scores, labels, 1)
    with pytest.raises(BadSetting, match="users are one for each of 2 samples"):
        click_tests.bootstrap_users(labels, scores, scores, np.zeros(3, np.int64))
    with pytest.raises(BadRun, match="is inf"):
        click_tests.delong(labels, scores, np.array([np.inf, 0]))


aucs = st.lists(st.floats(0.5, 0.9), min_size=2, max_size=6)


@given(aucs, aucs)
def test_welch_agrees_with_scipy(a, b):
    if min(np.std(a), np.std(b)) < 1e-6:
        return  # scipy warns of its rounding; see below
    expected = stats.ttest_ind(a, b, equal_var=False).pvalue
    assert click_tests.welch(a, b) == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert click_tests.welch(b, a) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_welch_without_spread_or_seeds():
    assert click_tests.welch([0.1] * 3, [0.1] * 4) == 1
    assert click_tests.welch([0.7] * 3, [0.6] * 3) == 0
    assert math.isnan(click_tests.welch([0.7], [0.6, 0.61]))
    assert math.isnan(click_tests.welch([0.7, math.nan], [0.6, 0.61]))
    # One constant method leaves the other's freedom.
    assert click_tests.welch([0.7, 0.72, 0.71], [0.7, 0.7]) == pytest.approx(
        stats.ttest_1samp([0.7, 0.72, 0.71], 0.7).pvalue
    )
