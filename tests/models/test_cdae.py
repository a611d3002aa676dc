import math

import numpy as np
import pytest
import torch

import contract
from diffacet.core.batch import Histories, ProfileBatch
from diffacet.core.contract import Facts
from diffacet.errors import BadSetting
from diffacet.models.cdae import CARDS, CDAE, CDAEConfig

N, U = 11, 7
ROWS = [[3, 1, 7], [2], [5, 4, 11, 1], [], [9, 8], [6, 10, 2, 3, 1], [3, 1, 7]]


def facts(rows=ROWS, n_items=N):
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return Facts(n_items, 0, np.concatenate(rows).astype(np.int64), offsets, np.arange(len(rows)), len(rows))


def history(rows=ROWS, users=None):
    items = contract.histories(rows, max(map(len, rows))).items
    users = torch.arange(len(rows)) if users is None else torch.tensor(users)
    return Histories(items, users, torch.zeros(len(rows), dtype=torch.int64))


def build(seed=0, **settings):
    torch.manual_seed(seed)
    model = CDAE(CDAEConfig(**{"width": 4, **settings}), facts()).double().eval()
    return contract.shaken(model)


def weights(row, oldest):
    """T-DiffRec's: evenly from the oldest to 1."""
    return [oldest + (m / (len(row) - 1) if len(row) > 1 else 0) * (1 - oldest) for m in range(len(row))]


ACTIVATIONS = {"relu": lambda a: max(a, 0), "tanh": math.tanh, "sigmoid": lambda a: 1 / (1 + math.exp(-a))}


def logits(model, row, oldest, user):
    """One user's, number by number."""
    tables = {name: value.detach().tolist() for name, value in model.named_parameters()}
    hidden = []
    for k in range(4):
        inside = tables["first.bias"][k] + (tables["users"][user][k] if user is not None else 0.0)
        for item, value in zip(row, weights(row, oldest), strict=True):
            inside += value * tables["first.weight"][item - 1][k]
        hidden.append(ACTIVATIONS[model.config.activation](inside))
    last = tables["last.weight"]
    return [tables["last.bias"][i] + sum(h * last[i][k] for k, h in enumerate(hidden)) for i in range(N)]


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("loss", ["bce", "mse"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_loss_and_scores_are_those_of_the_loop(activation, loss, weighted):
    model = build(activation=activation, loss=loss, oldest_weight=0.3, weighted_target=weighted)
    expected = 0.0
    found = contract.answer(model, history())
    for user, row in enumerate(ROWS):
        o = logits(model, row, 0.3, user if row else None)
        assert found[user, 1:].tolist() == pytest.approx(o, abs=1e-9)
        if not row:
            o = logits(model, row, 0.3, user)  # a training batch may hold it; nobody reads that vector
        for i in range(N):
            p = 1 / (1 + math.exp(-o[i]))
            value = weights(row, 0.3 if weighted else 1.0)[row.index(i + 1)] if i + 1 in row else 0.0
            if loss == "mse":
                expected += (p - value) ** 2
            else:
                expected -= value * math.log(p) + (1 - value) * math.log(1 - p)
    term = model.loss(ProfileBatch(history()))
    assert list(term) == [loss]
    assert term[loss].item() == pytest.approx(expected / U, rel=1e-9)


def test_parameters_are_counted_as_stated():
    paper = CARDS[0].presets["paper"].model
    model = CDAE(paper, Facts(2810, 0, n_users=50))
    assert sum(p.numel() for p in model.parameters()) == 2 * 2810 * 200 + 2810 + 200 + 50 * 200


def test_initial_values():
    torch.manual_seed(0)
    model = CDAE(CDAEConfig(width=100), Facts(900, 0, n_users=500))
    assert model.users.std().item() == pytest.approx(0.01, rel=0.02)
    assert model.first.weight.std().item() == pytest.approx(math.sqrt(2 / 1000), rel=0.02)
    assert model.last.weight.std().item() == pytest.approx(math.sqrt(2 / 1000), rel=0.02)
    assert not model.first.bias.any()
    assert not model.last.bias.any()


def test_without_logits_the_loss_is_ln_2_for_each_item():
    model = build()
    with torch.no_grad():
        model.last.weight.zero_()
        model.last.bias.zero_()
    assert model.loss(ProfileBatch(history()))["bce"].item() == pytest.approx(N * math.log(2))


def test_without_the_last_layers_weights_all_users_are_alike():
    model = build()
    with torch.no_grad():
        model.last.weight.zero_()
    scores = contract.answer(model, history())
    assert torch.equal(scores, scores[:1].expand_as(scores))


def test_a_user_is_the_row_and_the_own_vector():
    model = build()
    one, other = contract.answer(model, history())[[0, 6]]  # equal rows
    assert not torch.allclose(one, other, atol=1e-3)
    with torch.no_grad():
        model.users[6] = model.users[0]
    one, other = contract.answer(model, history())[[0, 6]]
    assert torch.allclose(one, other, atol=1e-12)


def test_a_user_outside_training_has_no_vector():
    """Neither one that the log does not hold, nor user 3, whose training row is empty."""
    model = build()
    unseen, untrained, seen = contract.answer(model, history([[5, 4]] * 3, [-1, 3, 0]))
    assert torch.equal(unseen, untrained)
    assert unseen[1:].tolist() == pytest.approx(logits(model, [5, 4], 1.0, None), abs=1e-9)
    assert seen[1:].tolist() == pytest.approx(logits(model, [5, 4], 1.0, 0), abs=1e-9)


def test_who_was_trained_is_kept_with_the_weights():
    model = build()
    other = CDAE(CDAEConfig(width=4), facts().without_training()).double()
    assert not other.trained.any()
    other.load_state_dict(model.state_dict())
    assert torch.equal(contract.answer(other, history()), contract.answer(model, history()))


def test_dropout_is_on_the_row_and_in_training_only():
    model = build(dropout=0.5)
    batch = ProfileBatch(history())
    quiet = model.loss(batch)["bce"]
    assert torch.equal(model.loss(batch)["bce"], quiet)
    assert not torch.equal(model.train().loss(batch)["bce"], quiet)
    with torch.no_grad():
        model.first.weight.zero_()
    assert torch.equal(model.train().loss(batch)["bce"], model.eval().loss(batch)["bce"])


def test_a_batch_moves_the_vectors_of_its_users_only():
    model = build(activation="tanh")
    model.loss(ProfileBatch(history([[3, 1], [5]], [4, 1])))["bce"].backward()
    assert set(model.users.grad.any(1).nonzero()[:, 0].tolist()) == {1, 4}


def test_settings_are_checked():
    card = CARDS[0]
    for key, value in {"activation": "gelu", "loss": "l1", "dropout": 1.0, "width": 0, "oldest_weight": -1}.items():
        with pytest.raises(BadSetting, match=key):
            contract.settings.apply(card, card.presets["paper"], {key: str(value)})


def test_a_user_gets_the_missing_items_of_the_own_block():
    rows = contract.two_blocks()
    torch.manual_seed(0)
    model = CDAE(CDAEConfig(width=8), facts(rows, 20)).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    contract.ranks_the_own_block(model, optimizer, history(rows), rows, 60)
