import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffacet.core.diffusion import (
    binomial,
    cosine,
    forward_noise,
    linear_beta,
    noiseless,
    scaled_linear,
    with_first_beta,
    x0_from_eps,
)
from diffacet.core.importance import LossHistory, elbo_weight, eps_elbo_weight
from reference import normal

SCHEDULES = {
    "ml-1m": with_first_beta(scaled_linear(40, 0.005, 0.005, 0.01), 1e-5),
    "ml-1m latent": scaled_linear(40, 0.005, 0.005, 0.02),
    "loud": scaled_linear(12, 1.0, 0.05, 0.95),
    "linear": with_first_beta(linear_beta(50, 1.0, 1e-4, 0.02), 1e-5),
    "cosine": cosine(16),
    "binomial": binomial(9),
    "one step": scaled_linear(1, 1.0, 0.1, 0.1),
}
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
CPU = torch.device("cpu")


def sequential(rows, t, losses):
    """Step 6 of DiffRec's training as it is written: one loss after the other, each row a list of at most ten."""
    for step, loss in zip(t, losses, strict=True):
        row = rows[step - 1]
        if len(row) == 10:
            row.pop(0)
        row.append(loss)


def rows_of(history):
    return [row[:n] for row, n in zip(history.losses.tolist(), history.filled.tolist(), strict=True)]


def full(losses):
    """A history of which step t saw losses[t - 1] (10,) or one number ten times."""
    losses = torch.as_tensor(losses, dtype=torch.float64)
    losses = losses if losses.ndim == 2 else losses.unsqueeze(1).expand(-1, 10)
    history = LossHistory(len(losses))
    history.record(torch.arange(1, len(losses) + 1).repeat_interleave(10), losses.flatten())
    return history


# --- weights of the bound ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "weights"),
    [
        (SCHEDULES["ml-1m"], {1: 1, 2: 6024.18, 3: 5339.61, 40: 533.046}),
        (
            with_first_beta(scaled_linear(5, 1e-4, 5e-4, 0.005), 1e-5),
            {1: 1, 2: 1112.47, 3: 1087.99, 4: 1064.31, 5: 1041.40},
        ),
        (
            with_first_beta(scaled_linear(5, 0.5, 0.001, 0.01), 1e-5),
            {1: 1, 2: 99119.4, 3: 438.367, 4: 146.985, 5: 73.6556},
        ),
        (SCHEDULES["ml-1m latent"], {1: 1, 2: 2857.14, 3: 2476.19, 40: 196.078}),
    ],
)
def test_weights_of_the_released_settings(schedule, weights):
    found = elbo_weight(schedule)
    for t, weight in weights.items():
        assert math.isclose(found[t].item(), weight, rel_tol=1e-4)


@each_schedule
def test_weights_are_the_drops_of_the_signal_to_noise_ratio(schedule):
    found = elbo_weight(schedule)
    assert found.dtype == torch.float64
    assert found.shape == (schedule.steps + 1,)
    assert found[0] == 0
    assert found[1] == 1
    ratio = [math.inf] + [(1 - level) / level for level in schedule.noise_level.tolist()[1:]]
    for t in range(2, schedule.steps + 1):
        assert ratio[t] < ratio[t - 1]
        assert math.isclose(found[t].item(), ratio[t - 1] - ratio[t], rel_tol=1e-8)
    assert (found[1:] > 0).all()


@each_schedule
def test_weights_of_the_noise_are_those_of_the_code(schedule):
    found = eps_elbo_weight(schedule)
    assert found.dtype == torch.float64
    assert found[0] == 0
    for t in range(2, schedule.steps + 1):
        level, before, beta = (
            schedule.noise_level[t].item(),
            schedule.noise_level[t - 1].item(),
            schedule.beta[t].item(),
        )
        assert math.isclose(found[t].item(), level / (before**2 * (1 - beta)), rel_tol=1e-12)
    # At step 1 the code compares clean vectors.
    x0, noise, predicted = normal(5, 8), normal(5, 8, seed=1), normal(5, 8, seed=2)
    t = torch.ones(5, dtype=torch.int64)
    estimate = x0_from_eps(lambda x, t: predicted, schedule)(forward_noise(x0, t, noise, schedule), t)
    expected = (x0 - estimate).square().mean(1) / 2
    assert torch.allclose(found[1] * (noise - predicted).square().mean(1), expected, rtol=1e-9, atol=0)
    assert eps_elbo_weight(schedule, "none").tolist() == [0.0] + [1.0] * schedule.steps


def test_a_chain_without_noise_weighs_every_step_alike():
    for weight in (elbo_weight(noiseless(4)), eps_elbo_weight(noiseless(4)), eps_elbo_weight(noiseless(4), "none")):
        assert weight.tolist() == [0, 1, 1, 1, 1]


# --- history -----------------------------------------------------------------------------------------------------


def test_the_last_ten_losses_stay():
    history = LossHistory(3)
    for loss in range(1, 13):
        history.record(torch.tensor([2]), torch.tensor([float(loss)]))
    assert history.losses[1].tolist() == list(range(3, 13))
    assert history.filled.tolist() == [0, 10, 0]
    assert not history.losses[[0, 2]].any()
    at_once = LossHistory(3)
    at_once.record(torch.full((12,), 2), torch.arange(1.0, 13.0))
    assert torch.equal(at_once.losses, history.losses)


@settings(max_examples=80, deadline=None)
@given(
    T=st.integers(1, 6),
    batches=st.lists(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1e6)), max_size=40), max_size=6),
)
def test_recording_a_batch_is_recording_one_after_the_other(T, batches):
    history, rows = LossHistory(T), [[] for _ in range(T)]
    for batch in batches:
        t = [1 + step % T for step, _ in batch]
        losses = [loss for _, loss in batch]
        history.record(torch.tensor(t, dtype=torch.int64), torch.tensor(losses, dtype=torch.float64))
        sequential(rows, t, losses)
        assert rows_of(history) == rows
        assert all(not any(row[n:]) for row, n in zip(history.losses.tolist(), history.filled.tolist(), strict=True))


def test_recorded_losses_are_float64_and_hold_no_graph():
    history = LossHistory(2)
    history.record(torch.tensor([1, 1]), torch.tensor([0.25, 6e4], requires_grad=True) * 2)
    assert history.losses[0, :2].tolist() == [0.5, 12e4]
    for cast in (lambda m: m.half(), lambda m: m.to(torch.float32), lambda m: m.to(torch.bfloat16)):
        cast(history)
        assert history.losses.dtype == torch.float64
        assert history.losses[0, 1] == 12e4
        assert history.filled.dtype == torch.int64
    assert not history.losses.requires_grad


def test_a_saved_history_continues_bit_for_bit():
    torch.manual_seed(0)
    history = full(torch.rand(4, 10, dtype=torch.float64))
    copy = LossHistory(4)
    copy.load_state_dict(history.state_dict())
    for one in (history, copy):
        torch.manual_seed(5)
        for _ in range(3):
            t, weight = one.draw(7, CPU)
            one.record(t, weight * torch.rand(7))
    assert torch.equal(history.losses, copy.losses)
    assert torch.equal(history.probabilities(), copy.probabilities())
    assert set(history.state_dict()) == {"losses", "filled"}


# --- draws -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(1e-9, 1e9), min_size=10, max_size=10), min_size=1, max_size=8))
def test_probabilities_are_the_formula(losses):
    found = full(losses).probabilities()
    T = len(losses)
    sizes = [math.sqrt(sum(loss * loss for loss in row) / 10) for row in losses]
    for t in range(T):
        assert math.isclose(found[t].item(), 0.999 * sizes[t] / sum(sizes) + 0.001 / T, rel_tol=1e-9)
        assert found[t] >= 0.001 / T
    assert found.dtype == torch.float64
    assert math.isclose(found.sum().item(), 1, rel_tol=1e-12)


@pytest.mark.parametrize("T", [1, 2, 49, 100])
def test_equal_losses_are_drawn_equally(T):
    assert torch.allclose(
        full([3.7] * T).probabilities(), torch.full((T,), 1 / T, dtype=torch.float64), rtol=1e-14, atol=0
    )


def test_draws_are_uniform_until_every_step_has_ten_losses():
    history = LossHistory(49)
    for n in range(1, 11):
        assert torch.equal(history.probabilities(), torch.full((49,), 1 / 49, dtype=torch.float64))
        assert (history.draw(20, CPU)[1] == 1).all()  # exactly, though 49 * (1 / 49) is not
        steps = torch.arange(1, 50 if n < 10 else 49)
        history.record(steps, steps.double())
    assert history.filled.tolist() == [10] * 48 + [9]
    assert (history.draw(20, CPU)[1] == 1).all()
    history.record(torch.tensor([49]), torch.tensor([49.0]))
    assert (history.probabilities().diff() > 0).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=10), st.data())
def test_weights_undo_the_preference_exactly(seen, data):
    """The expectation over draws of L_t / (T p_t), by summing, is the mean of L_t, whatever the history says."""
    T, history = len(seen), full(seen)
    losses = data.draw(st.lists(st.floats(0, 1e3), min_size=T, max_size=T))
    t, weight = history.draw(200, CPU)
    p = history.probabilities()
    assert torch.allclose(weight, 1 / (T * p[t - 1]), rtol=1e-12, atol=0)
    expectation = sum(p[i].item() * losses[i] / (T * p[i].item()) for i in range(T))
    assert math.isclose(expectation, sum(losses) / T, rel_tol=1e-9, abs_tol=1e-300)


def test_draws_have_the_probabilities_and_are_unbiased():
    torch.manual_seed(1)
    history, n = full([1.0, 2.0, 5.0, 0.0]), 40_000
    t, weight = history.draw(n, CPU)
    assert t.dtype == torch.int64
    assert weight.dtype == torch.float64
    assert t.shape == weight.shape == (n,)
    p = history.probabilities()
    for step in range(1, 5):
        chance = p[step - 1].item()
        assert abs((t == step).double().mean().item() - chance) < 4 * math.sqrt(chance * (1 - chance) / n)
    losses = torch.tensor([1.0, 2.0, 5.0, 0.01]).double()
    found = weight * losses[t - 1]
    assert abs(found.mean().item() - losses.mean().item()) < 3 * found.std().item() / math.sqrt(n)


def test_draws_come_from_the_global_generator():
    history = full([1.0, 2.0, 5.0])
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append(history.draw(50, CPU)[0])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_without_importance_draws_stay_uniform_and_nothing_is_recorded():
    history = LossHistory(3, importance=False)
    history.record(torch.tensor([1, 2, 3]).repeat(10), torch.tensor([1.0, 5.0, 9.0]).repeat(10))
    assert not history.filled.any()
    assert torch.equal(history.probabilities(), torch.full((3,), 1 / 3, dtype=torch.float64))
    t, weight = history.draw(3000, CPU)
    assert (weight == 1).all()
    assert set(t.tolist()) == {1, 2, 3}


@pytest.mark.parametrize("loss", [0.0, math.nan, math.inf])
def test_losses_that_tell_nothing_leave_draws_uniform(loss):
    """All 0: nothing to prefer. Not finite: the training loop reports it, so drawing must not fail before."""
    history = full([loss, loss])
    assert history.probabilities().tolist() == [0.5, 0.5]
    assert history.draw(5, CPU)[1].tolist() == [1.0] * 5
    one = full([1.0, loss])
    assert math.isclose(one.probabilities().sum().item(), 1)
