"""Schedules of the sequential line, and the chain that visits some of a chain's steps."""

import math

import pytest
import torch

from diffacet.core import diffusion
from diffacet.core.diffusion import ancestral, ddim_steps, linear_beta, noiseless, published, respaced
from diffacet.errors import BadSetting
from reference import normal

KINDS = ["linear", "linear-scaled", "exp", "cosine", "sqrt", "trunc-lin"]
each_kind = pytest.mark.parametrize("kind", KINDS)
each_length = pytest.mark.parametrize("T", [1, 2, 5, 20, 32, 500])


def betas_of(kind, T):
    """The printed formulas, step by step."""
    betas = []
    for t in range(1, T + 1):
        share = (t - 1) / (T - 1) if T > 1 else 0.0
        if kind == "linear":
            beta = 1e-4 + share * (0.02 - 1e-4)
        elif kind == "linear-scaled":
            beta = min(1000 / T * (1e-4 + share * (0.02 - 1e-4)), 0.999)
        elif kind == "exp":
            y = 1 + share * 2 * T
            beta = 1 - math.exp(-0.1 / T - 9.9 * y / (2 * T**2))
        elif kind == "cosine":
            signal = [math.cos((s / T + 0.008) / 1.008 * math.pi / 2) ** 2 for s in (t - 1, t)]
            beta = min(max(1 - signal[1] / signal[0], 1e-4), 0.999)
        elif kind == "sqrt":
            signal = [1 - math.sqrt(s / T + 1e-4) for s in (t - 1, t)]
            beta = min(1 - signal[1] / signal[0], 0.999)
        else:
            first, last = 0.1 / T + 0.01, 20 / T + 0.01
            beta = first + share * ((1 / T + 0.01 if last > 1 else last) - first)
        betas.append(beta)
    return betas


@each_kind
@each_length
def test_a_published_schedule_is_its_formula(kind, T):
    schedule = published(kind, T)
    product = 1.0
    for t, beta in enumerate(betas_of(kind, T), 1):
        product *= 1 - beta
        assert math.isclose(schedule.beta[t].item(), beta, rel_tol=1e-10)
        assert math.isclose(schedule.alpha_bar[t].item(), product, rel_tol=1e-10)
        assert math.isclose(schedule.noise_level[t].item(), 1 - product, rel_tol=1e-10, abs_tol=1e-15)
    assert schedule.steps == T
    assert (schedule.alpha_bar.diff() < 0).all()
    assert schedule.alpha_bar[0] == 1


@pytest.mark.parametrize(
    ("kind", "T", "first", "last", "signal"),
    [
        ("trunc-lin", 32, 0.013125, 0.635, None),
        ("trunc-lin", 10, 0.02, 0.11, None),  # 2.01 would be no variance
        ("linear", 20, 1e-4, 0.02, 0.817),  # far from a Gaussian start: why it is scaled
        ("linear", 1000, 1e-4, 0.02, 4.036e-5),
        ("linear-scaled", 20, 0.005, 0.999, 1e-9),
        ("linear-scaled", 1000, 1e-4, 0.02, 4.036e-5),
        ("exp", 500, 1 - math.exp(-0.1 / 500 - 9.9 / (2 * 500**2)), None, 0.00635),
        ("cosine", 2000, 1e-4, 0.999, None),
        ("sqrt", 500, None, 0.999, None),
    ],
)
def test_end_points(kind, T, first, last, signal):
    schedule = published(kind, T)
    for table, step, expected in ((schedule.beta, 1, first), (schedule.beta, T, last), (schedule.alpha_bar, T, signal)):
        if expected is not None:
            assert table[step].item() == pytest.approx(expected, rel=5e-3, abs=2e-9)


@pytest.mark.parametrize(("T", "capped"), [(5, 4), (10, 5), (20, 1), (50, 0)])
def test_scaling_to_few_steps_runs_into_the_cap(T, capped):
    assert (published("linear-scaled", T).beta == 0.999).sum() == capped


def test_one_name_in_two_lines_is_two_schedules():
    assert torch.equal(published("linear", 1000).beta, linear_beta(1000, 1.0, 1e-4, 0.02).beta)
    assert torch.equal(published("linear-scaled", 1000).beta, published("linear", 1000).beta)
    assert published("cosine", 2000).beta[1] == 1e-4 > diffusion.cosine(2000).beta[1]


def test_the_last_signal_keeps_its_digits():
    """1 - (1 - alpha_bar) has none left at 1e-17, where a chain divides one signal by another."""
    schedule = published("linear-scaled", 10)
    expected = math.prod(1 - beta for beta in betas_of("linear-scaled", 10))
    assert expected < 1e-16
    assert math.isclose(schedule.alpha_bar[-1].item(), expected, rel_tol=1e-10)
    x = normal(3, 4)
    assert torch.equal(diffusion.ddim(lambda x, t: 0.5 * x, x, schedule, 10).isfinite(), torch.ones(3, 4).bool())


@each_kind
@pytest.mark.parametrize("steps", [0, -3])
def test_a_chain_has_a_step(kind, steps):
    with pytest.raises(BadSetting, match=f"T >= 1 steps; got {steps}"):
        published(kind, steps)


# --- fewer steps -----------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize(("T", "used"), [(20, 1), (20, 2), (20, 7), (20, 19), (10, 5), (500, 20)])
def test_the_shorter_chain_has_the_marginals_of_the_visited_steps(kind, T, used):
    full = published(kind, T)
    short, visited = respaced(full, used)
    assert visited == ddim_steps(T, used)
    assert short.steps == used
    product = 1.0
    for i, step in enumerate(visited, 1):
        product *= 1 - short.beta[i].item()
        # A beta that rounds to 1 leaves no digits of what remains.
        assert math.isclose(product, full.alpha_bar[step].item(), rel_tol=1e-9, abs_tol=1e-14)
        assert short.noise_level[i] == full.noise_level[step]
    assert ((short.beta[1:] > 0) & (short.beta[1:] <= 1)).all()


@each_kind
def test_all_steps_are_the_chain_itself(kind):
    full = published(kind, 12)
    same, visited = respaced(full, 12)
    assert visited == list(range(1, 13))
    assert torch.equal(same.beta, full.beta)
    assert torch.equal(same.alpha_bar, full.alpha_bar)


@pytest.mark.parametrize("used", [0, -1, 21])
def test_impossible_numbers_of_steps_are_refused(used):
    with pytest.raises(BadSetting, match=f"between 1 and T = 20 steps; got {used}"):
        respaced(published("exp", 20), used)


def test_a_chain_without_noise_gets_shorter_too():
    short, _ = respaced(noiseless(9), 4)
    assert torch.equal(short.noise_level, torch.zeros(5).double())


def test_the_shorter_chain_walks_a_noiseless_path_through_the_visited_steps():
    full, x0, met = published("exp", 30), normal(4, 6), []
    short, visited = respaced(full, 6)

    def perfect(x, t):
        met.append((visited[int(t[0]) - 1], x))
        return x0

    assert torch.equal(ancestral(perfect, full.alpha_bar[-1].sqrt() * x0, short), x0)
    assert [step for step, _ in met] == visited[::-1]
    for step, x in met:
        assert torch.allclose(x, full.alpha_bar[step].sqrt() * x0, rtol=1e-9)
