import math

import numpy as np
import pytest
import torch

import contract
from diffacet.core.batch import Histories, ProfileBatch
from diffacet.core.contract import Facts
from diffacet.errors import BadSetting
from diffacet.models.codigem import CARDS, CODIGEM, CODIGEMConfig

N, U = 11, 7
ROWS = [[3, 1, 7], [2], [5, 4, 11, 1], [], [9, 8], [6, 10, 2, 3, 1], [3, 1, 7]]
RANKING = ("first", "slopes", "inner", "last")


def history(rows=ROWS, case=None):
    users = torch.arange(len(rows))
    case = torch.zeros_like(users) if case is None else torch.tensor(case)
    return Histories(contract.histories(rows, max(map(len, rows))).items, users, case)


def build(shake=True, **settings):
    torch.manual_seed(0)
    model = CODIGEM(CODIGEMConfig(**{"width": 4, **settings}), Facts(N, 0, n_users=U)).double().eval()
    return contract.shaken(model) if shake else model


def dense(row, oldest):
    """T-DiffRec's weights: evenly from the oldest to 1."""
    x = np.zeros(N)
    for m, item in enumerate(row):
        x[item - 1] = oldest + (m / (len(row) - 1) if len(row) > 1 else 0) * (1 - oldest)
    return x


def network(layers, slopes, x):
    """One row (N,) through the layers, with a PReLU after each but the last; NumPy's products, one row at a time."""
    for n, (weight, bias) in enumerate(layers):
        x = weight @ x + bias
        if n < len(layers) - 1:
            x = np.array([v if v >= 0 else slopes[n] * v for v in x])
    return x


def ranking_network(model, x):
    tables = {name: value.detach().numpy() for name, value in model.named_parameters()}
    layers = [(tables["first.weight"].T, tables["first.bias"])]
    layers += [(tables[f"inner.{n}.weight"], tables[f"inner.{n}.bias"]) for n in range(4)]
    layers.append((tables["last.weight"], tables["last.bias"]))
    return network(layers, [tables[f"slopes.{n}.weight"].item() for n in range(5)], x)


def reverse_network(model, k, x):
    tables = {name: value.detach().numpy() for name, value in model.named_parameters()}
    layers = [(tables[f"reverse.{k}.{n}.weight"], tables[f"reverse.{k}.{n}.bias"]) for n in range(0, 11, 2)]
    both = network(layers, [tables[f"reverse.{k}.{n}.weight"].item() for n in range(1, 10, 2)], x)
    return both[:N], both[N:]


def log_normal(value, mean, variance):
    return -0.5 * math.log(2 * math.pi * variance) - (value - mean) ** 2 / (2 * variance)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("oldest", [1.0, 0.3])
def test_reconstruction_and_scores_are_those_of_the_loop(oldest, weighted):
    model = build(beta=0.2, oldest_weight=oldest, weighted_target=weighted)
    torch.manual_seed(6)
    noise = torch.randn(U, N, dtype=torch.float64).numpy()
    found, expected, squares = contract.answer(model, history()), 0.0, 0.0
    for user, row in enumerate(ROWS):
        x = dense(row, oldest)
        assert found[user, 1:].tolist() == pytest.approx(ranking_network(model, x).tolist(), abs=1e-9)
        rebuilt = np.tanh(ranking_network(model, math.sqrt(0.8) * x + math.sqrt(0.2) * noise[user]))
        for value, guess in zip(dense(row, oldest if weighted else 1.0), rebuilt, strict=True):
            expected -= log_normal(value - guess, 0, 1) / U
            squares += (value - guess) ** 2 / U
    torch.manual_seed(6)
    terms = model.loss(ProfileBatch(history()))
    assert list(terms) == ["reconstruction"]
    assert terms["reconstruction"].item() == pytest.approx(expected, rel=1e-9)
    constant = N / 2 * math.log(2 * math.pi)
    assert terms["reconstruction"].item() - constant == pytest.approx(squares / 2, rel=1e-9)


@pytest.mark.parametrize("steps", [2, 4])
def test_the_kl_term_is_that_of_the_loop(steps):
    """(11.5) as it should read: the mean of z_k is sqrt(1 - beta) z_{k-1}."""
    beta = 0.2
    model = build(beta=beta, steps=steps, train_reverse_nets=True)
    torch.manual_seed(6)
    noise = [torch.randn(U, N, dtype=torch.float64).numpy() for _ in range(steps)]
    expected = 0.0
    for user, row in enumerate(ROWS):
        z = [dense(row, 1.0)]
        for k in range(steps):
            z.append(math.sqrt(1 - beta) * z[-1] + math.sqrt(beta) * noise[k][user])
        for i in range(N):
            expected += log_normal(z[steps][i], math.sqrt(1 - beta) * z[steps - 1][i], beta)
            expected -= log_normal(z[steps][i], 0, 1)
        for k in range(1, steps):
            mean, logvar = reverse_network(model, k - 1, z[k + 1])
            for i in range(N):
                expected += log_normal(z[k][i], math.sqrt(1 - beta) * z[k - 1][i], beta)
                expected -= log_normal(z[k][i], mean[i], math.exp(logvar[i]))
    torch.manual_seed(6)
    assert model.loss(ProfileBatch(history()))["kl"].item() == pytest.approx(expected / U, rel=1e-9)


def test_the_kl_term_teaches_the_later_networks_and_never_the_ranking_one():
    model = build(train_reverse_nets=True)
    terms = model.loss(ProfileBatch(history()))
    terms["kl"].backward(retain_graph=True)
    for name, parameter in model.named_parameters():
        if name.startswith(RANKING):
            assert parameter.grad is None, name
        else:
            assert parameter.grad.any(), name
    model.zero_grad()
    terms["reconstruction"].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == name.startswith(RANKING), name


def test_neither_steps_nor_the_later_networks_change_the_ranking_one():
    """Seeded anew at every step, as training does; the first noise is drawn first."""

    def trained(**settings):
        model = build(shake=False, **settings).train()
        optimizer = torch.optim.Adamax(model.parameters(), 0.01)
        for step in range(4):
            torch.manual_seed(step)
            optimizer.zero_grad()
            sum(model.loss(ProfileBatch(history())).values()).backward()
            optimizer.step()
        return {name: value for name, value in model.named_parameters() if name.startswith(RANKING)}

    plain = trained(steps=2)
    others = [trained(steps=10), trained(steps=2, train_reverse_nets=True), trained(steps=10, train_reverse_nets=True)]
    for other in others:
        assert other.keys() == plain.keys()
        assert all(torch.equal(other[name], value) for name, value in plain.items())


def test_items_are_ranked_before_tanh_would_tie_them():
    model = build().float()
    with torch.no_grad():
        model.last.weight.zero_()
        model.last.bias.copy_(torch.arange(20.0, 20.0 + N))
    scores = contract.answer(model, history())[:, 1:]
    assert torch.equal(scores.tanh(), torch.ones_like(scores))
    assert torch.equal(scores.argsort(1), torch.arange(N).expand(U, N))


def test_noise_at_inference_belongs_to_the_case():
    noise = {"beta": 0.2, "inference_noise": True}
    model, quiet = build(**noise), build(beta=0.2)
    rows = [[3, 1, 7]] * 3
    scores = contract.answer(model, history(rows, [4, 9, 4]))
    assert torch.equal(scores[0], scores[2])
    assert not torch.allclose(scores[0], scores[1])
    assert torch.allclose(contract.answer(model, history(rows[:1], [9]))[0], scores[1], atol=1e-12)
    assert not torch.allclose(contract.answer(build(**noise, noise_seed=1), history(rows, [4, 9, 4])), scores)
    assert torch.equal(*contract.answer(quiet, history(rows[:2], [4, 9])))
    faint = build(beta=1e-12, inference_noise=True)
    assert torch.allclose(contract.answer(faint, history()), contract.answer(quiet, history()), atol=1e-4)


def test_noise_at_inference_may_be_chosen_later():
    assert {"inference_noise", "noise_seed"} == contract.settings.inference_settings(CODIGEMConfig)


def test_parameters_and_initial_values():
    torch.manual_seed(0)
    model = CODIGEM(CARDS[0].presets["paper"].model, Facts(2810, 0))
    assert sum(p.numel() for p in model.parameters()) == 200 * 2811 + 4 * 200 * 201 + 2810 * 201 + 5
    assert not len(model.reverse)
    for slope in model.slopes:
        assert slope.weight.tolist() == [0.25]
    for layer, inputs in [(model.first, 2810), *((layer, 200) for layer in [*model.inner, model.last])]:
        for parameter in layer.parameters():
            assert parameter.abs().max().item() == pytest.approx(1 / math.sqrt(inputs), rel=0.1)
            assert parameter.abs().max() <= 1 / math.sqrt(inputs)
            assert parameter.abs().mean().item() == pytest.approx(0.5 / math.sqrt(inputs), rel=0.2)
    torch.manual_seed(0)
    whole = CODIGEM(CODIGEMConfig(width=3, steps=4, train_reverse_nets=True), Facts(N, 0))
    each = N * 3 + 3 + 4 * (3 * 3 + 3) + 5 + 3 * 2 * N + 2 * N
    assert sum(p.numel() for p in whole.reverse.parameters()) == 3 * each


def test_settings_are_checked():
    card = CARDS[0]
    for key, value in {"steps": "1", "beta": "0", "width": "0"}.items():
        with pytest.raises(BadSetting, match=key):
            contract.settings.apply(card, card.presets["paper"], {key: value})


def test_a_user_gets_the_missing_items_of_the_own_block():
    rows = contract.two_blocks()
    torch.manual_seed(0)
    model = CODIGEM(CODIGEMConfig(width=6), Facts(20, 0, n_users=40)).train()
    optimizer = torch.optim.Adamax(model.parameters(), 0.02)
    contract.ranks_the_own_block(model, optimizer, history(rows), rows, 80)
