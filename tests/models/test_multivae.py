import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import contract
from diffacet.core import profiles
from diffacet.core.batch import Histories, ProfileBatch, SequenceBatch
from diffacet.core.contract import Facts
from diffacet.errors import BadSetting
from diffacet.models.multivae import CARDS, MultiVAE, MultiVAEConfig

N, U = 11, 7
ROWS = [[3, 1, 7], [2], [5, 4, 11, 1], [], [9, 8], [6, 10, 2, 3, 1], [3, 1, 7]]
LATENT, OUTER = 3, 5


def history(rows=ROWS):
    users = torch.arange(len(rows))
    return Histories(contract.histories(rows, max(map(len, rows))).items, users, torch.zeros_like(users))


def build(**settings):
    torch.manual_seed(0)
    config = MultiVAEConfig(**{"dims": (LATENT, OUTER), **settings})
    return contract.shaken(MultiVAE(config, Facts(N, 0, n_users=U)).double().eval())


def weights(row, oldest):
    """T-DiffRec's: evenly from the oldest to 1."""
    return [oldest + (m / (len(row) - 1) if len(row) > 1 else 0) * (1 - oldest) for m in range(len(row))]


def linear(weight, bias, inputs):
    return [b + sum(w * v for w, v in zip(row, inputs, strict=True)) for row, b in zip(weight, bias, strict=True)]


def encoded(model, row, oldest):
    """Mean and log variance of one user's z, number by number."""
    tables = {name: value.detach().tolist() for name, value in model.named_parameters()}
    x = [0.0] * N
    for item, value in zip(row, weights(row, oldest), strict=True):
        x[item - 1] = value
    length = math.sqrt(sum(v * v for v in x)) or 1.0
    first = np.array(tables["first.weight"]).T.tolist()
    hidden = [math.tanh(v) for v in linear(first, tables["first.bias"], [v / length for v in x])]
    g = linear(tables["encoder.0.weight"], tables["encoder.0.bias"], hidden)
    return g[:LATENT], g[LATENT:]


def decoded(model, z):
    tables = {name: value.detach().tolist() for name, value in model.named_parameters()}
    hidden = [math.tanh(v) for v in linear(tables["decoder.0.weight"], tables["decoder.0.bias"], z)]
    return linear(tables["last.weight"], tables["last.bias"], hidden)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("oldest", [1.0, 0.3])
def test_loss_and_scores_are_those_of_the_loop(oldest, weighted):
    """(10.1)-(10.5); z has deviation exp(logvar / 2) in the loss and is its mean in the answer."""
    model = build(oldest_weight=oldest, weighted_target=weighted)
    torch.manual_seed(4)
    noise = torch.randn(U, LATENT, dtype=torch.float64).tolist()
    found, log_loss, divergence = contract.answer(model, history()), 0.0, 0.0
    for user, row in enumerate(ROWS):
        mu, logvar = encoded(model, row, oldest)
        assert found[user, 1:].tolist() == pytest.approx(decoded(model, mu), abs=1e-9)
        o = decoded(model, [m + math.exp(v / 2) * e for m, v, e in zip(mu, logvar, noise[user], strict=True)])
        total = math.log(sum(math.exp(v) for v in o))
        target = weights(row, oldest if weighted else 1.0)
        log_loss -= sum(x * (o[item - 1] - total) for item, x in zip(row, target, strict=True)) / U
        for m, v in zip(mu, logvar, strict=True):
            divergence -= 0.5 * (1 + v - m * m - math.exp(v)) / U
    torch.manual_seed(4)
    terms = model.loss(ProfileBatch(history(), step=20))
    assert list(terms) == ["multinomial", "kl"]
    assert terms["multinomial"].item() == pytest.approx(log_loss, rel=1e-9)
    assert terms["kl"].item() == pytest.approx(0.1 * divergence, rel=1e-9)  # 20 of 200 steps


def test_the_weight_of_the_kl_term_rises_to_its_cap():
    model = build(anneal_cap=0.3, anneal_steps=200)
    assert [model.kl_weight(n) for n in (0, 30, 60, 61, 10**6)] == pytest.approx([0, 0.15, 0.3, 0.3, 0.3])
    assert build(anneal_cap=0.7, anneal_steps=0).kl_weight(0) == 0.7
    assert not build(anneal_cap=0.0).loss(ProfileBatch(history(), step=500))["kl"].item()


def test_in_dimerecs_table_it_rises_to_its_cap_over_200_000_steps():
    model = MultiVAE(CARDS[0].presets["dimerec-table"].model, Facts(N, 0))
    assert [model.kl_weight(n) for n in (0, 100_000, 200_000, 10**6)] == pytest.approx([0, 0.1, 0.2, 0.2])


def test_trained_on_pairs_it_is_the_log_loss_of_the_next_item():
    """(V5) with y the one item that follows; the KL term does not change."""
    model, target = build(), torch.tensor([1, 9, 11, 2, 5, 4, 3])
    torch.manual_seed(4)
    noise = torch.randn(U, LATENT, dtype=torch.float64).tolist()
    torch.manual_seed(4)
    terms = model.loss(SequenceBatch(history(), target, torch.arange(1, N + 1), step=20, everything=True))
    torch.manual_seed(4)
    assert torch.equal(terms["kl"], model.loss(ProfileBatch(history(), step=20))["kl"])
    log_loss = 0.0
    for user, row in enumerate(ROWS):
        mu, logvar = encoded(model, row, 1.0)
        o = decoded(model, [m + math.exp(v / 2) * e for m, v, e in zip(mu, logvar, noise[user], strict=True)])
        log_loss -= (o[target[user] - 1] - math.log(sum(math.exp(v) for v in o))) / U
    assert terms["multinomial"].item() == pytest.approx(log_loss, rel=1e-9)


def test_the_order_of_a_history_does_not_matter():
    model = build()
    turned = history([row[::-1] for row in ROWS])
    assert torch.allclose(contract.answer(model, turned), contract.answer(model, history()), atol=1e-12)


def test_the_kl_term_is_0_only_for_the_standard_normal_law():
    zero, generator = torch.zeros(4, 3), torch.Generator().manual_seed(0)
    assert not profiles.kl_standard(zero, zero).item()
    for _ in range(20):
        mu, logvar = torch.randn(4, 3, generator=generator), torch.randn(4, 3, generator=generator)
        assert profiles.kl_standard(mu, zero) > 0
        assert profiles.kl_standard(zero, logvar) > 0
        given = torch.distributions.Normal(mu, (logvar / 2).exp())
        law = torch.distributions.kl_divergence(given, torch.distributions.Normal(zero, torch.ones(4, 3)))
        assert profiles.kl_standard(mu, logvar).item() == pytest.approx(law.sum(1).mean().item(), rel=1e-5)


def test_both_terms_teach_the_encoder_and_only_one_the_decoder():
    model = build()
    model.loss(ProfileBatch(history(), step=100))["kl"].backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"first.weight", "first.bias", "encoder.0.weight", "encoder.0.bias"}
    model.zero_grad()
    model.loss(ProfileBatch(history()))["multinomial"].backward()
    assert all(p.grad.any() for p in model.parameters())


def test_an_answer_is_the_mean_and_draws_nothing():
    model = build()
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    one, other = contract.answer(model, history()), contract.answer(model, history())
    assert torch.equal(one, other)
    assert torch.equal(torch.rand(1), expected)


def test_dropout_is_on_the_row_and_in_training_only():
    batch = ProfileBatch(history())

    def loss(model):
        torch.manual_seed(7)
        return model.loss(batch)["multinomial"]

    model = build(dropout=0.5)
    quiet = loss(model)
    assert torch.equal(loss(model), quiet)
    assert not torch.equal(loss(model.train()), quiet)


def test_a_rows_scale_does_not_matter(monkeypatch):
    model, read = build(), profiles.read
    expected = contract.answer(model, history())
    monkeypatch.setattr(profiles, "read", lambda *a: replace(read(*a), value=3.7 * read(*a).value))
    assert torch.allclose(contract.answer(model, history()), expected, atol=1e-12)


def test_uniform_logits_cost_ln_n_for_each_item():
    model = build()
    with torch.no_grad():
        model.last.weight.zero_()
        model.last.bias.fill_(1.5)
    loss = model.loss(ProfileBatch(history([[3, 1, 7], [2]])))["multinomial"].item()
    assert loss == pytest.approx((3 + 1) / 2 * math.log(N))


def test_parameters_and_initial_values():
    torch.manual_seed(0)
    model = MultiVAE(CARDS[0].presets["paper"].model, Facts(2810, 0))
    assert sum(p.numel() for p in model.parameters()) == 3_736_410
    assert [tuple(layer.weight.shape) for layer in [*model.encoder, *model.decoder]] == [(400, 600), (600, 200)]
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(math.sqrt(2 / sum(parameter.shape)), rel=0.02), name
        else:
            assert 0 < parameter.abs().max() <= 0.002, name


def test_the_latent_alone_is_enough():
    model = build(dims=(4,))
    assert sum(p.numel() for p in model.parameters()) == N * 8 + 8 + N * 4 + N
    assert contract.answer(model, history()).shape == (U, N + 1)


def test_settings_are_checked():
    card = CARDS[0]
    for key, value in {"dims": "0", "anneal_cap": "-1", "anneal_steps": "-1", "dropout": "1"}.items():
        with pytest.raises(BadSetting, match=key):
            contract.settings.apply(card, card.presets["paper"], {key: value})


def test_a_user_gets_the_missing_items_of_the_own_block():
    rng = np.random.default_rng(0)
    rows = [(rng.permutation(10)[:7] + 1 + 10 * (user % 2)).tolist() for user in range(40)]
    torch.manual_seed(0)
    model = MultiVAE(MultiVAEConfig(dims=(6, 12)), Facts(20, 0, n_users=40)).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for step in range(60):
        optimizer.zero_grad()
        sum(model.loss(ProfileBatch(history(rows), step)).values()).backward()
        optimizer.step()
    scores = contract.answer(model.eval(), history(rows))
    for user, row in enumerate(rows):
        first = 1 + 10 * (user % 2)
        own = [i for i in range(first, first + 10) if i not in row]
        other = [i for i in range(1, 21) if not first <= i < first + 10]
        assert scores[user, own].min() > scores[user, other].max()
