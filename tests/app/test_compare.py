from types import SimpleNamespace

import numpy as np
import pytest

from diffacet.app import compare
from diffacet.app.compare import Group, Trial
from diffacet.errors import BadRun
from diffacet.rank.evaluate import Measured


def group(label, *values, fingerprint="f"):
    """Trials with these values of recall@5 user by user, and no model behind them."""
    trials = []
    for seed, value in enumerate(values):
        about = {"split": {"name": "by-user", "seed": seed}, "data": {"fingerprint": fingerprint}}
        run = SimpleNamespace(about=about, path=f"{label}-{seed}")
        trials.append(Trial(run, Measured({"recall@5": np.array(value, float)}, {})))
    return Group(label, tuple(trials))


def test_mean_and_deviation_are_over_seeds():
    some = group("a", [0.0, 1.0], [1.0, 1.0, 1.0, 0.0])
    assert some.mean("recall@5") == pytest.approx((0.5 + 0.75) / 2)
    assert some.deviation("recall@5") == pytest.approx(np.std([0.5, 0.75], ddof=1))
    assert np.isnan(group("b", [1.0]).deviation("recall@5"))


def test_difference_pairs_users_of_all_seeds():
    better, worse = group("a", [0.5, 0.7], [0.9]), group("b", [0.4, 0.6], [0.8])
    found = compare.difference(better, worse, "recall@5")
    assert found.mean == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))
    assert found.users == 3
    assert found.clear
    assert found.relative == pytest.approx(0.1 / ((0.5 + 0.8) / 2))


def test_difference_of_noise_is_not_clear_and_is_repeatable():
    noise = np.random.default_rng(0).normal(size=400)
    noise -= noise.mean()
    one, other = group("a", 1 + noise), group("b", np.ones(400))
    found = compare.difference(one, other, "recall@5")
    assert found == compare.difference(one, other, "recall@5")
    assert not found.clear
    # Two standard errors of the mean, which the bootstrap must be near to.
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * noise.std() / np.sqrt(400), rel=0.1)


def test_other_users_are_not_compared():
    with pytest.raises(BadRun, match="other users"):
        compare.difference(group("a", [1.0]), group("b", [1.0], fingerprint="g"), "recall@5")
