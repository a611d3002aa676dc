import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss as reference_log_loss
from sklearn.metrics import roc_auc_score

from diffacet.errors import BadLog, BadRun, BadSetting
from diffacet.rank import clicks

# DiffuMIN, Table 2: (AUC of DIN(S), AUC of the model, printed RelaImpr in percent).
PRINTED = [
    (0.6740, 0.6736, -0.23),
    (0.6740, 0.6788, 2.76),
    (0.6740, 0.6841, 5.80),
    (0.6125, 0.6091, -3.02),
    (0.6125, 0.6239, 10.13),
    (0.6125, 0.6282, 13.96),
    (0.6363, 0.6273, -6.60),
    (0.6363, 0.6410, 3.45),
    (0.6363, 0.6462, 7.26),
]
# Few different scores, so that ties abound.
few = st.integers(-3, 3).map(lambda number: number / 2)
samples = st.lists(st.tuples(st.booleans(), few, st.integers(0, 4)), min_size=1, max_size=40)


def pairs(labels, scores):
    """The AUC from its definition: every pair of a click and another, ties one half."""
    won = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for y, a in zip(labels, scores, strict=True)
        for z, b in zip(labels, scores, strict=True)
        if y and not z
    ]
    return sum(won) / len(won) if won else math.nan


def columns(rows):
    labels, scores, groups = zip(*rows, strict=True)
    return np.array(labels), np.array(scores, np.float64), np.array(groups, np.int64)


def drawn(n=3000, users=60, seed=0):
    """Labels, logits that the labels were drawn from, and users."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1.5, 1.2, n)
    labels = (rng.random(n) < clicks.sigmoid(logits)).astype(np.uint8)
    return labels, logits.astype(np.float32), rng.integers(0, users, n)


@given(samples)
def test_auc_is_the_share_of_pairs_in_order(rows):
    labels, scores, _ = columns(rows)
    assert clicks.auc(labels, scores) == pytest.approx(pairs(labels, scores), abs=1e-12, nan_ok=True)


@given(samples)
def test_auc_sees_the_order_only(rows):
    labels, scores, _ = columns(rows)
    value = clicks.auc(labels, scores)
    assert clicks.auc(labels, np.exp(scores) + 7 * scores) == pytest.approx(value, abs=1e-12, nan_ok=True)
    assert clicks.auc(labels, -scores) == pytest.approx(1 - value, abs=1e-12, nan_ok=True)
    assert clicks.auc(~labels, scores) == pytest.approx(1 - value, abs=1e-12, nan_ok=True)
    constant = clicks.auc(labels, np.full(len(labels), 0.3))
    assert constant == 0.5 or math.isnan(value)


def test_auc_by_midranks():
    labels, logits, _ = drawn()
    scores = np.round(logits, 1)  # many ties
    ranks = np.array([(scores < s).sum() + ((scores == s).sum() + 1) / 2 for s in scores])
    m = int(labels.sum())
    expected = (ranks[labels == 1].sum() - m * (m + 1) / 2) / (m * (len(labels) - m))
    assert clicks.auc(labels, scores) == pytest.approx(expected, abs=1e-12)


def test_auc_without_a_class_is_undefined():
    assert math.isnan(clicks.auc(np.ones(3), np.arange(3.0)))
    assert math.isnan(clicks.auc(np.zeros(3), np.arange(3.0)))
    assert math.isnan(clicks.auc(np.zeros(0), np.zeros(0)))


@given(samples, st.sampled_from(["samples", "equal", "clicks"]))
def test_gauc_is_the_loop_over_groups(rows, weight):
    labels, scores, groups = columns(rows)
    values, shares, covered = [], [], 0
    for group in set(groups.tolist()):
        own = groups == group
        if 0 < labels[own].sum() < own.sum():
            values.append(roc_auc_score(labels[own], scores[own]))
            shares.append({"samples": own.sum(), "equal": 1, "clicks": labels[own].sum()}[weight])
            covered += int(own.sum())
    found = clicks.gauc(labels, scores, groups, weight)
    expected = np.average(values, weights=shares) if values else math.nan
    assert found.value == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert (found.groups, found.covered_groups) == (len(set(groups.tolist())), len(values))
    assert (found.samples, found.covered_samples) == (len(labels), covered)
    assert found.coverage == covered / len(labels)


@given(samples)
def test_gauc_with_one_group_is_auc(rows):
    labels, scores, _ = columns(rows)
    for weight in ("samples", "equal", "clicks"):
        found = clicks.gauc(labels, scores, np.full(len(labels), 9), weight)
        assert found.value == pytest.approx(clicks.auc(labels, scores), abs=1e-12, nan_ok=True)


def test_gauc_ignores_what_is_added_to_a_group_and_auc_does_not():
    labels, logits, users = drawn()
    moved = logits + np.arange(60.0)[users]
    before, after = clicks.gauc(labels, logits, users), clicks.gauc(labels, moved, users)
    # Float64 sums of float32 logits and whole numbers are exact: no pair changes its order.
    assert before == after
    assert abs(clicks.auc(labels, logits) - clicks.auc(labels, moved)) > 0.05


def test_gauc_of_groups_that_are_names_or_nothing():
    labels, scores = np.array([1, 0, 1, 1]), np.array([2.0, 1.0, 1.0, 2.0])
    assert clicks.gauc(labels, scores, np.array(["b", "b", "a", "a"])).value == 1
    empty = clicks.gauc(labels[:0], scores[:0], labels[:0])
    assert empty.samples == 0
    assert math.isnan(empty.value)
    assert math.isnan(empty.coverage)


def test_log_loss_agrees_with_scikit_learn_and_never_overflows():
    labels, logits, _ = drawn()
    expected = reference_log_loss(labels, clicks.sigmoid(logits))
    assert clicks.log_loss(labels, logits) == pytest.approx(expected, rel=1e-12)
    assert clicks.log_loss([1, 0], [-2000.0, 1e30]) == pytest.approx((2000 + 1e30) / 2)
    assert clicks.log_loss([1, 0], [2000.0, -1e30]) == 0
    assert clicks.sigmoid(np.array([-1e6, 0.0, 1e6])).tolist() == [0, 0.5, 1]


def test_log_loss_of_the_base_rate_is_the_entropy():
    labels, _, _ = drawn()
    rate = labels.mean()
    logits = np.full(len(labels), math.log(rate / (1 - rate)))
    entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
    assert clicks.log_loss(labels, logits) == pytest.approx(entropy, rel=1e-12)
    assert clicks.normalised_entropy(labels, logits) == pytest.approx(1, rel=1e-12)
    assert clicks.normalised_entropy(labels, logits + 1) > 1
    assert math.isnan(clicks.normalised_entropy(np.ones(3), np.zeros(3)))


@pytest.mark.parametrize(("base", "value", "printed"), PRINTED)
def test_relative_improvement_recomputes_the_paper(base, value, printed):
    assert clicks.relative_improvement(value, base) == pytest.approx(printed, abs=0.005 + 1e-9)


def test_relative_improvement_of_the_base_is_nothing_and_chance_is_no_base():
    assert clicks.relative_improvement(0.6125, 0.6125) == 0
    assert clicks.relative_improvement(0.5, 0.6125) == -100
    assert math.isnan(clicks.relative_improvement(math.nan, 0.6))
    for base in (0.5, 0.4, math.nan):
        with pytest.raises(BadSetting, match=r"above 0\.5; got"):
            clicks.relative_improvement(0.7, base)


def test_calibration_of_what_the_labels_were_drawn_from():
    labels, logits, _ = drawn(200_000)
    table = clicks.calibration(labels, clicks.sigmoid(logits))
    assert table.pcoc == pytest.approx(1, abs=0.02)
    assert table.ece < 0.006
    assert table.counts.tolist() == [10_000] * 20
    assert (np.diff(table.expected) > 0).all()
    assert clicks.calibration(labels, clicks.sigmoid(logits + 1)).pcoc > 1.3
    assert clicks.calibration(labels, clicks.sigmoid(logits + 1)).ece > 0.1


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=50, unique_by=lambda row: row[1]))
def test_calibration_is_the_loop_over_bins(rows):
    rows = sorted(rows, key=lambda row: row[1])
    table = clicks.calibration(*(np.array(column) for column in zip(*rows, strict=True)), bins=7)
    count, begin, error = min(7, len(rows)), 0, 0.0
    for number in range(count):
        end = (number + 1) * len(rows) // count
        part = rows[begin:end]
        expected, observed = (sum(row[i] for row in part) / len(part) for i in (1, 0))
        assert table.expected[number] == pytest.approx(expected)
        assert table.observed[number] == pytest.approx(observed)
        error += abs(expected - observed) * len(part) / len(rows)
        begin = end
    assert table.ece == pytest.approx(error)
    assert table.counts.sum() == len(rows)
    assert table.counts.max() - table.counts.min() <= 1


def test_equal_predictions_share_their_labels():
    """One prediction for all is off by one number, wherever the bins end."""
    labels = np.repeat([1, 0], [30, 70])
    table = clicks.calibration(labels, np.full(100, 0.4))
    np.testing.assert_allclose(table.observed, 0.3)
    assert table.ece == pytest.approx(0.1)
    assert table.pcoc == pytest.approx(4 / 3)


def test_calibration_without_a_click_or_a_sample():
    table = clicks.calibration(np.zeros(4), np.array([0.1, 0.2, 0.3, 0.4]), bins=2)
    assert math.isnan(table.pcoc)
    assert table.ece == pytest.approx(0.25)
    empty = clicks.calibration(np.zeros(0), np.zeros(0))
    assert math.isnan(empty.ece)
    assert len(empty.counts) == 0


def test_correction_undoes_the_dropping_of_negatives():
    labels, logits, _ = drawn(200_000)
    rate = 0.1
    kept = (labels == 1) | (np.random.default_rng(1).random(len(labels)) < rate)
    # What a perfect model of the kept samples would answer: their odds are 1 / w of the true ones.
    biased = logits[kept] - math.log(rate)
    np.testing.assert_allclose(clicks.corrected_logits(biased, rate), logits[kept], atol=1e-5)
    p = clicks.sigmoid(biased)
    found = clicks.sigmoid(clicks.corrected_logits(biased, rate))
    np.testing.assert_allclose(found, [one / (one + (1 - one) / rate) for one in p])
    np.testing.assert_array_equal(clicks.corrected_logits(biased, 1), biased)
    for wrong in (0, -1, 1.5, math.nan):
        with pytest.raises(BadSetting, match=r"in \(0, 1\]; got"):
            clicks.corrected_logits(biased, wrong)
        with pytest.raises(BadSetting, match=r"in \(0, 1\]; got"):
            clicks.measure(labels[:9], logits[:9], negative_rate=wrong)


def test_measure_is_every_metric():
    labels, logits, users = drawn()
    found = clicks.measure(labels, logits, users)
    assert list(found) == ["auc", "gauc", "log_loss", "ne", "pcoc", "ece", "click_rate", "gauc_coverage"]
    assert found["auc"] == clicks.auc(labels, logits)
    assert found["gauc"] == clicks.gauc(labels, logits, users).value
    assert found["gauc_coverage"] == 1
    assert found["log_loss"] == clicks.log_loss(labels, logits)
    assert found["ne"] == clicks.normalised_entropy(labels, logits)
    assert found["ece"] == clicks.calibration(labels, clicks.sigmoid(logits)).ece
    assert found["click_rate"] == pytest.approx(labels.mean())
    fair = clicks.measure(labels, logits, users, negative_rate=0.5)
    assert fair["log_loss"] == clicks.log_loss(labels, logits.astype(np.float64) - math.log(2))
    assert fair["pcoc"] < found["pcoc"]
    assert (fair["auc"], fair["gauc"]) == (found["auc"], found["gauc"])


def test_metrics_do_not_depend_on_the_order_of_samples():
    labels, logits, users = drawn()
    logits = np.round(logits, 1)
    order = np.random.default_rng(3).permutation(len(labels))
    before, after = clicks.measure(labels, logits, users), clicks.measure(labels[order], logits[order], users[order])
    exact = ["auc", "gauc", "pcoc", "ece", "click_rate", "gauc_coverage"]
    assert [before[name] for name in exact] == [after[name] for name in exact]
    assert before == pytest.approx(after, rel=1e-13)


def test_what_is_not_defined_is_nan():
    alone = clicks.measure(np.zeros(5), np.arange(5.0))
    assert alone["click_rate"] == 0
    assert alone["log_loss"] > 0
    assert all(math.isnan(alone[name]) for name in ("auc", "gauc", "ne", "pcoc", "gauc_coverage"))
    single = clicks.measure(np.array([1, 0]), np.arange(2.0), np.arange(2))
    assert math.isnan(single["gauc"])
    assert single["gauc_coverage"] == 0
    assert all(math.isnan(value) for value in clicks.measure(np.zeros(0), np.zeros(0), np.zeros(0)).values())


def test_refusals_name_what_is_wrong():
    scores = np.array([0.5, 1.0, 2.0])
    with pytest.raises(BadLog, match=r"label is 0 or 1; that of sample 2 \(counted from 0\) is 5"):
        clicks.auc(np.array([0, 1, 5]), scores)
    with pytest.raises(BadRun, match=r"that of sample 1 \(counted from 0\) is nan"):
        clicks.auc(np.array([0, 1, 1]), np.array([0.1, np.nan, np.inf]))
    with pytest.raises(BadSetting, match="one number for each sample"):
        clicks.log_loss(np.array([0, 1]), scores)
    with pytest.raises(BadSetting, match="groups are one for each of 3 samples"):
        clicks.gauc(np.array([0, 1, 1]), scores, np.zeros(2))
    with pytest.raises(BadSetting, match="did you mean 'clicks'"):
        clicks.gauc(np.array([0, 1, 1]), scores, np.zeros(3), "click")
    with pytest.raises(BadSetting, match=r"probabilities lie in \[0, 1\]"):
        clicks.calibration(np.array([0, 1, 1]), scores)
    with pytest.raises(BadSetting, match="at least one bin"):
        clicks.calibration(np.array([0, 1, 1]), scores / 2, bins=0)
