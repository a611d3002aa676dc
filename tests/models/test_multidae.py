import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import contract
from diffacet.core import profiles
from diffacet.core.batch import Histories, ProfileBatch
from diffacet.core.contract import Facts
from diffacet.errors import BadSetting
from diffacet.models.multidae import CARDS, MultiDAE, MultiDAEConfig, MultiDAEPlusConfig

N, U = 11, 7
ROWS = [[3, 1, 7], [2], [5, 4, 11, 1], [], [9, 8], [6, 10, 2, 3, 1], [3, 1, 7]]
DIMS = (3, 5)


def history(rows=ROWS):
    users = torch.arange(len(rows))
    return Histories(contract.histories(rows, max(map(len, rows))).items, users, torch.zeros_like(users))


def build(kind=MultiDAEConfig, **settings):
    torch.manual_seed(0)
    model = MultiDAE(kind(**{"dims": DIMS, **settings}), Facts(N, 0, n_users=U)).double().eval()
    return contract.shaken(model)


def noisy(**settings):
    return build(MultiDAEPlusConfig, **{"steps": 6, "noise_scale": 0.5, "noise_min": 0.1, "noise_max": 0.9, **settings})


def weights(row, oldest):
    """T-DiffRec's: evenly from the oldest to 1."""
    return [oldest + (m / (len(row) - 1) if len(row) > 1 else 0) * (1 - oldest) for m in range(len(row))]


def dense(row, oldest):
    x = np.zeros(N)
    for item, value in zip(row, weights(row, oldest), strict=True):
        x[item - 1] = value
    return x


def logits(model, x):
    """N -> 5 -> 3 -> 5 -> N, number by number, for one row (N,)."""
    tables = {name: value.detach().tolist() for name, value in model.named_parameters()}
    length = math.sqrt(sum(v * v for v in x))
    hidden = [v / length if length else 0.0 for v in x]
    layers = [(np.array(tables["first.weight"]).T.tolist(), tables["first.bias"])]
    layers += [(tables[f"inner.{n}.weight"], tables[f"inner.{n}.bias"]) for n in range(2)]
    for weight, bias in layers:
        hidden = [
            math.tanh(b + sum(w * h for w, h in zip(row, hidden, strict=True)))
            for row, b in zip(weight, bias, strict=True)
        ]
    last = zip(tables["last.weight"], tables["last.bias"], strict=True)
    return [b + sum(w * h for w, h in zip(row, hidden, strict=True)) for row, b in last]


def log_loss(o, target):
    total = math.log(sum(math.exp(v) for v in o))
    return -sum(x * (v - total) for x, v in zip(target, o, strict=True))


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("oldest", [1.0, 0.3])
def test_loss_and_scores_are_those_of_the_loop(oldest, weighted):
    model = build(oldest_weight=oldest, weighted_target=weighted)
    found, expected = contract.answer(model, history()), 0.0
    for user, row in enumerate(ROWS):
        o = logits(model, dense(row, oldest))
        assert found[user, 1:].tolist() == pytest.approx(o, abs=1e-9)
        expected += log_loss(o, dense(row, oldest if weighted else 1.0)) / U
    terms = model.loss(ProfileBatch(history()))
    assert list(terms) == ["multinomial"]
    assert terms["multinomial"].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("oldest", [1.0, 0.3])
def test_noise_is_on_the_input_and_never_on_the_target(oldest):
    """(9.1): a step for each user, x_t by DiffRec's schedule, then MultiDAE; the target is the clean row."""
    model = noisy(first_beta=None, oldest_weight=oldest)
    torch.manual_seed(5)
    t, noise = torch.randint(1, 7, (U,)).tolist(), torch.randn(U, N, dtype=torch.float64).numpy()
    expected = 0.0
    for user, row in enumerate(ROWS):
        level = 0.5 * (0.1 + (t[user] - 1) / 5 * (0.9 - 0.1))
        x = math.sqrt(1 - level) * dense(row, oldest) + math.sqrt(level) * noise[user]
        expected += log_loss(logits(model, x.tolist()), dense(row, oldest)) / U
    torch.manual_seed(5)
    assert model.loss(ProfileBatch(history()))["multinomial"].item() == pytest.approx(expected, rel=1e-9)


def test_the_first_variance_may_be_overwritten():
    level = noisy(noise_scale=0.005, noise_min=0.005, noise_max=0.01, steps=40, first_beta=1e-5).schedule.noise_level
    assert level[[1, 2, 40]].tolist() == pytest.approx([1.0e-5, 1.0641e-5, 3.5e-5], rel=1e-4)


def test_without_noise_it_is_multi_dae():
    """To the bit, in training too, where dropout is drawn."""
    plain, silent = build().train(), build(MultiDAEPlusConfig, noise_scale=0.0).train()
    for model in (plain, silent):
        torch.manual_seed(3)
        model.loss(ProfileBatch(history()))["multinomial"].backward()
    for (name, one), other in zip(plain.named_parameters(), silent.parameters(), strict=True):
        assert torch.equal(one, other), name
        assert torch.equal(one.grad, other.grad), name


def test_with_very_little_noise_it_is_nearly_multi_dae():
    batch = ProfileBatch(history([row for row in ROWS if row]))
    expected = build().loss(batch)["multinomial"].item()
    faint = noisy(noise_scale=1e-12, first_beta=None)
    assert faint.loss(batch)["multinomial"].item() == pytest.approx(expected, rel=1e-5)


def test_inference_bears_no_noise():
    plain, other = build(), noisy()
    other.load_state_dict(plain.state_dict())
    assert torch.equal(contract.answer(other, history()), contract.answer(plain, history()))
    assert torch.equal(contract.answer(other, history()), contract.answer(other, history()))


@pytest.mark.parametrize("make", [build, noisy])
def test_dropout_is_on_the_row_and_in_training_only(make):
    batch = ProfileBatch(history())

    def loss(model):
        torch.manual_seed(7)
        return model.loss(batch)["multinomial"]

    model = make(dropout=0.5)
    quiet = loss(model)
    assert torch.equal(loss(model), quiet)
    assert not torch.equal(loss(model.train()), quiet)
    with torch.no_grad():
        model.first.weight.zero_()
    assert torch.equal(loss(model.train()), loss(model.eval()))


def test_a_rows_scale_does_not_matter(monkeypatch):
    model, read = build(), profiles.read
    expected = contract.answer(model, history())
    monkeypatch.setattr(profiles, "read", lambda *a: replace(read(*a), value=3.7 * read(*a).value))
    assert torch.allclose(contract.answer(model, history()), expected, atol=1e-12)


def test_uniform_logits_cost_ln_n_for_each_item_and_a_constant_costs_nothing():
    model = build()
    rows = [[3, 1, 7], [2], [5, 4, 11, 1]]
    loss = model.loss(ProfileBatch(history(rows)))["multinomial"].item()
    with torch.no_grad():
        model.last.bias.add_(2.5)
    assert model.loss(ProfileBatch(history(rows)))["multinomial"].item() == pytest.approx(loss)
    with torch.no_grad():
        model.last.weight.zero_()
        model.last.bias.fill_(-4.0)
    assert model.loss(ProfileBatch(history(rows)))["multinomial"].item() == pytest.approx((3 + 1 + 4) / 3 * math.log(N))


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_parameters_and_initial_values(card):
    torch.manual_seed(0)
    model = MultiDAE(card.presets["paper"].model, Facts(2810, 0))
    assert sum(p.numel() for p in model.parameters()) == 3_616_210
    assert [tuple(layer.weight.shape) for layer in model.inner] == [(200, 600), (600, 200)]
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(math.sqrt(2 / sum(parameter.shape)), rel=0.02), name
        else:
            assert 0 < parameter.abs().max() <= 0.002, name
            assert parameter.std().item() == pytest.approx(0.00088, rel=0.15), (
                name
            )  # a normal law cut at two deviations


def test_one_layer_is_enough():
    model = build(dims=(4,))
    assert not len(model.inner)
    assert contract.answer(model, history()).shape == (U, N + 1)


def test_a_weight_of_zero_is_no_division_by_zero():
    model = build(oldest_weight=0.0)  # the one item of user 1 weighs nothing
    assert contract.answer(model, history()).isfinite().all()
    model.loss(ProfileBatch(history()))["multinomial"].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_settings_are_checked():
    plain, plus = CARDS
    for key, value in {"dims": "", "dropout": "1", "oldest_weight": "2"}.items():
        with pytest.raises(BadSetting, match=key):
            contract.settings.apply(plain, plain.presets["paper"], {key: value})
    with pytest.raises(BadSetting, match="noise_scale"):
        contract.settings.apply(plain, plain.presets["paper"], {"noise_scale": "0.1"})  # the other card's
    with pytest.raises(BadSetting, match="noise_scale"):
        contract.settings.apply(plus, plus.presets["paper"], {"noise_scale": "-0.1"})
    with pytest.raises(BadSetting, match="lower bound"):
        noisy(noise_min=0.9, noise_max=0.1)


@pytest.mark.parametrize("kind", [MultiDAEConfig, MultiDAEPlusConfig])
def test_a_user_gets_the_missing_items_of_the_own_block(kind):
    rows = contract.two_blocks()
    torch.manual_seed(0)
    model = MultiDAE(kind(dims=(6, 12)), Facts(20, 0, n_users=40)).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    contract.ranks_the_own_block(model, optimizer, history(rows), rows, 60)


def test_a_copy_in_single_precision_answers_alike():
    model = build()
    single = copy.deepcopy(model).float()
    assert torch.allclose(contract.answer(single, history()).double(), contract.answer(model, history()), atol=1e-5)
