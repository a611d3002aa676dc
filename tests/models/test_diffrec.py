"""DiffRec against a written-out dense loop, and the checkable properties of its spec that are not the core's."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

import contract
from diffacet.core import diffusion, importance, profiles
from diffacet.core.batch import Histories, ProfileBatch
from diffacet.core.contract import Facts
from diffacet.core.denoisers import ProfileMLP
from diffacet.errors import BadSetting
from diffacet.models.diffrec import CARDS, DiffRec, DiffRecConfig, build

N = 30
CONFIG = DiffRecConfig(dims=(6, 9), steps=4, noise_scale=0.5)


def histories(rows, case=None):
    return contract.histories(rows, max(map(len, rows)), case)


def rows_of(users=8, own=5, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.choice(N, own, replace=False) + 1 for _ in range(users)]


def model_of(config=CONFIG, seed=0, n_items=N):
    torch.manual_seed(seed)
    return build(config, Facts(n_items, 0)).double()


def tables(c):
    """Variances and signals of Eq. 4 by a loop, with the first beta fixed: index t."""
    level = [
        c.noise_scale * (c.noise_min + (t - 1) / (c.steps - 1) * (c.noise_max - c.noise_min))
        for t in range(1, c.steps + 1)
    ]
    beta = [level[0]] + [min(1 - (1 - b) / (1 - a), 0.999) for a, b in itertools.pairwise(level)]
    if c.first_beta is not None:
        beta[0] = c.first_beta
    signal = [1.0]
    for b in beta:
        signal.append(signal[-1] * (1 - b))
    return [0.0, *beta], signal


def network(model, x, t):
    """The layers of Sec. 4 of the spec by a loop over dense rows, without dropout; t is 1-based."""
    net, half = model.net, model.config.emb_size // 2
    angles = [(t - 1) * math.exp(-math.log(10_000) * k / half) for k in range(half)]
    wave = torch.tensor([*map(math.cos, angles), *map(math.sin, angles)], dtype=x.dtype)
    step = net.step.weight @ wave + net.step.bias
    first = torch.cat([net.first.weight, net.step_in])  # [x_t ; e_t] in one matrix
    h = torch.tanh(torch.cat([x, step.expand(len(x), -1)], 1) @ first + net.first.bias)
    for layer in net.inner:
        h = torch.tanh(h @ layer.weight.T + layer.bias)
    return h @ net.last.weight.T + net.last.bias


def chain(model, x, noise=None):
    """The reverse chain of Eq. 6-9 by a loop over dense rows."""
    beta, signal = tables(model.config)
    for t in range(model.config.steps, 0, -1):
        guess = network(model, x, t)
        c1 = beta[t] * math.sqrt(signal[t - 1]) / (1 - signal[t])
        c2 = (1 - signal[t - 1]) * math.sqrt(1 - beta[t]) / (1 - signal[t])
        x = c1 * guess + c2 * x
        if noise is not None and t > 1:
            x = x + math.sqrt(beta[t] * (1 - signal[t - 1]) / (1 - signal[t])) * noise[t]
    return x


def scores(model, history):
    with torch.no_grad():
        return contract.answer(model.eval(), history)[:, 1:]


def test_the_chain_in_the_hidden_space_is_the_chain_over_rows():
    model, history = model_of(), histories(rows_of())
    x = profiles.read(history, dtype=torch.float64).dense(N)
    torch.testing.assert_close(scores(model, history), chain(model, x), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("noisy", [False, True])
def test_noise_before_and_inside_the_chain_is_that_of_the_cases(noisy):
    config = dataclasses.replace(CONFIG, sampling_steps=2, sampling_noise=noisy, noise_seed=3)
    model, history = model_of(config), histories(rows_of(), case=[5, 0, 2, 7, 1, 3, 4, 6])
    x = profiles.read(history, dtype=torch.float64).dense(N)
    _, signal = tables(config)
    start = math.sqrt(signal[2]) * x + math.sqrt(1 - signal[2]) * model.noise(history, 0)
    drawn = [model.noise(history, t) for t in range(config.steps + 1)] if noisy else None
    torch.testing.assert_close(scores(model, history), chain(model, start, drawn), rtol=1e-8, atol=1e-10)
    assert len({round(model.noise(history, t).sum().item(), 6) for t in range(4)}) == 4


def test_predicting_noise_walks_the_chain_of_its_estimates():
    config = dataclasses.replace(CONFIG, predicts="eps")
    model, history = model_of(config), histories(rows_of())
    _, signal = tables(config)
    inner = model.inner

    def estimate(x, t):
        """Of x_0, by (5.7)."""
        return math.sqrt(1 / signal[t]) * x - math.sqrt(1 / signal[t] - 1) * network(inner, x, t)

    x = profiles.read(history, dtype=torch.float64).dense(N)
    beta = tables(config)[0]
    for t in range(config.steps, 0, -1):
        c1 = beta[t] * math.sqrt(signal[t - 1]) / (1 - signal[t])
        c2 = (1 - signal[t - 1]) * math.sqrt(1 - beta[t]) / (1 - signal[t])
        x = c1 * estimate(x, t) + c2 * x
    torch.testing.assert_close(scores(model, history), x, rtol=1e-8, atol=1e-9)


def test_without_noise_the_network_is_applied_as_often_as_there_are_steps():
    """P15, and Section 3: s = 0."""
    model, history = model_of(dataclasses.replace(CONFIG, noise_scale=0.0)), histories(rows_of())
    x = profiles.read(history, dtype=torch.float64).dense(N)
    for t in range(4, 0, -1):
        x = network(model, x, t)
    torch.testing.assert_close(scores(model, history), x)
    terms = model.train().loss(ProfileBatch(history))
    assert terms["elbo"].isfinite()


@pytest.mark.parametrize("oldest", [1.0, 0.1])
def test_the_loss_is_the_weighted_error_of_the_drawn_steps(oldest):
    """(5.1)-(5.4) with the draws of the same seed, dropout off."""
    config = dataclasses.replace(CONFIG, dropout=0.0, oldest_weight=oldest, importance=False)
    model, history = model_of(config).train(), histories(rows_of())
    torch.manual_seed(5)
    found = model.loss(ProfileBatch(history))["elbo"]
    torch.manual_seed(5)
    t, share = model.history.draw(8, torch.device("cpu"))
    eps = torch.randn(8, N, dtype=torch.float64)
    _, signal = tables(config)
    x = profiles.read(history, oldest, torch.float64).dense(N)
    total = 0.0
    for b in range(8):
        step = int(t[b])
        a = signal[step]
        noisy = math.sqrt(a) * x[b] + math.sqrt(1 - a) * eps[b]
        error = (x[b] - network(model, noisy.unsqueeze(0), step)[0]).square().mean()
        snr = [math.inf, *[s / (1 - s) for s in signal[1:]]]
        total += (1.0 if step == 1 else snr[step - 1] - snr[step]) * error * share[b] / 8
    torch.testing.assert_close(found, total, rtol=1e-6, atol=0)


def test_shared_noise_gives_every_user_the_law_of_its_own():
    """Mean and covariance of what the first layer reads, over many draws, for dropout and both kinds of noise."""
    config = dataclasses.replace(CONFIG, dims=(3,), noise_scale=40.0, shared_noise=2)
    model, history = model_of(config).train(), histories([[1, 2, 3], [4], [5, 6]])
    x, t = profiles.read(history, dtype=torch.float64), torch.tensor([1, 3, 4])
    draws = 6_000
    with torch.no_grad():
        torch.manual_seed(0)
        own = torch.stack([model._corrupted(x, t, None) for _ in range(draws)])
        shared = torch.stack([model._corrupted_together(x, t) for _ in range(draws)])
    for b in range(3):
        deviation = own[:, b].std(0)
        assert ((own[:, b].mean(0) - shared[:, b].mean(0)).abs() < 5 * deviation * math.sqrt(2 / draws)).all()
        one, other = torch.cov(own[:, b].T), torch.cov(shared[:, b].T)
        assert ((one - other).abs() < 0.12 * deviation.unsqueeze(1) * deviation).all()


def test_shared_noise_needs_no_more_vectors_than_users():
    config = dataclasses.replace(CONFIG, shared_noise=16)
    terms = model_of(config).train().loss(ProfileBatch(histories(rows_of(users=3))))
    assert terms["elbo"].isfinite()


@pytest.mark.parametrize(("dims", "count"), [((200, 600), 3_622_320), ((1000,), 5_633_920)])
def test_sizes_and_parameters_at_the_size_of_ml_1m(dims, count):
    """P7: [200, 600] is a bottleneck of 200."""
    net = ProfileMLP(2810, dims)
    assert sum(parameter.numel() for parameter in net.parameters()) == count
    assert [layer.weight.shape for layer in net.inner] == ([(200, 600), (600, 200)] if len(dims) == 2 else [])


def test_two_calls_agree_in_evaluation_and_not_in_training():
    """P8."""
    model, history = model_of(), histories(rows_of())
    assert torch.equal(scores(model, history), scores(model, history))
    batch = ProfileBatch(history)
    assert model.train().loss(batch)["elbo"] != model.loss(batch)["elbo"]


def test_a_users_items_change_no_other_users_scores():
    """P9."""
    model, rows = model_of(), rows_of()
    before = scores(model, histories(rows))
    rows[2] = np.array([1, 2, 3])
    after = scores(model, histories(rows))
    assert torch.equal(before[[0, 1, 3, 4, 5, 6, 7]], after[[0, 1, 3, 4, 5, 6, 7]])
    assert not torch.allclose(before[2], after[2])


def test_permuted_items_have_permuted_scores():
    """P10."""
    model, rows = model_of(), rows_of()
    before = scores(model, histories(rows))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))  # new item i was item order[i]
    place = order.argsort()
    with torch.no_grad():
        for tensor in (model.net.first.weight, model.net.last.weight, model.net.last.bias):
            tensor.copy_(tensor[order].clone())
    after = scores(model, histories([place.numpy()[row - 1] + 1 for row in rows]))
    torch.testing.assert_close(after, before[:, order])


def test_weights_of_one_are_diffrec():
    """P16: w_min = 1."""
    plain, timed = (card.config(**dataclasses.asdict(CONFIG)) for card in CARDS)
    history = histories(rows_of())
    assert torch.equal(scores(model_of(plain), history), scores(model_of(timed), history))


def test_own_items_come_first_after_training_on_them():
    """P25."""
    config = DiffRecConfig(dims=(64,), dropout=0.0)
    torch.manual_seed(0)
    model = build(config, Facts(N, 0)).train()
    batch = ProfileBatch(histories(rows_of()))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0)
    for _ in range(500):
        optimizer.zero_grad()
        model.train().loss(batch)["elbo"].backward()
        optimizer.step()
    found = scores(model, batch.history)
    for row, own in zip(found, rows_of(), strict=True):
        rest = torch.ones(N, dtype=torch.bool)
        rest[own - 1] = False
        assert row[own - 1].min() > row[rest].max()


def test_losses_are_remembered_before_they_are_shared_out():
    model = model_of(dataclasses.replace(CONFIG, dropout=0.0)).train()
    model.loss(ProfileBatch(histories(rows_of())))
    assert int(model.history.filled.sum()) == 8
    assert {name for name, _ in model.named_buffers() if "history" in name} <= set(model.state_dict())


def test_new_weights_are_used_after_the_model_was_asked():
    model, history = model_of(), histories(rows_of())
    before = scores(model, history)
    with torch.no_grad():
        model.train().net.last.weight.mul_(2)
    assert not torch.allclose(scores(model, history), before)
    x = profiles.read(history, dtype=torch.float64).dense(N)
    torch.testing.assert_close(scores(model, history), chain(model, x), rtol=1e-9, atol=1e-11)


def test_a_gradient_may_be_taken_after_inference_mode():
    model, history = model_of(), histories(rows_of())
    with torch.inference_mode():
        model.eval().interests(history)
    model.interests(history).sum().backward()
    assert model.net.first.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampling_steps": 5}, "sampling_steps lies in 0..T = 4; got 5"),
        ({"noise_min": 0.02}, "lower bound below the upper"),
        ({"noise_min": 0.01}, "lower bound below the upper"),
        ({"noise_scale": 200.0}, "noise levels lie in"),
    ],
)
def test_settings_that_make_no_chain_are_refused(changes, said):
    """P23."""
    with pytest.raises(BadSetting, match=said):
        DiffRec(dataclasses.replace(CONFIG, **changes), Facts(N, 0))


@pytest.mark.parametrize("changes", [{"steps": 1}, {"noise_scale": -0.1}, {"sampling_steps": -1}, {"dims": ()}])
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match="validation error"):
        dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize("kind", ["linear", "cosine", "binomial"])
def test_other_schedules_train_and_answer(kind):
    model, history = model_of(dataclasses.replace(CONFIG, schedule=kind)), histories(rows_of())
    assert model.train().loss(ProfileBatch(history))["elbo"].isfinite()
    assert scores(model, history).isfinite().all()


def test_weights_of_the_steps_are_the_cores():
    model = model_of()
    schedule = diffusion.scaled_linear(4, 0.5, 0.005, 0.01, 1e-5)
    assert torch.equal(model.weight, importance.elbo_weight(schedule))
    assert torch.equal(model_of(dataclasses.replace(CONFIG, reweight=False)).weight, torch.ones(5, dtype=torch.float64))


def test_history_without_users_or_items_is_answered():
    model = model_of()
    empty = Histories(torch.zeros(2, 0, dtype=torch.int64), torch.tensor([-1, -1]), torch.zeros(2, dtype=torch.int64))
    found = scores(model, empty)
    assert found.isfinite().all()
    torch.testing.assert_close(found[0], found[1])
