import math

import pytest
import torch

import reference
from diffacet.core.batch import Histories, SequenceBatch
from diffacet.core.contract import Facts
from diffacet.models.comirecdr import ComiRecDR, ComiRecDRConfig
from diffacet.models.gru4rec import GRU4Rec, GRU4RecConfig
from diffacet.models.mind import MIND, MINDConfig

N, L, D, K, H = 12, 6, 4, 3, 8
FACTS = Facts(N, L)
ROWS = [[1, 2, 3, 4, 5, 6], [7], [8, 8, 9], [10, 2], [3, 4, 5, 1]]


def histories(rows, width=L):
    items = torch.zeros(len(rows), width, dtype=torch.int64)
    for b, row in enumerate(rows):
        items[b, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return Histories(items, torch.full((len(rows),), -1), torch.zeros(len(rows), dtype=torch.int64))


def batch():
    return SequenceBatch(histories(ROWS), torch.tensor([7, 1, 12, 2, 2]), torch.tensor([3, 11, 11, 7, 5, 1]))


def mind(**changes):
    torch.manual_seed(0)
    return MIND(MINDConfig(D, K, **changes), FACTS).double().eval()


def comirec(**changes):
    torch.manual_seed(0)
    model = ComiRecDR(ComiRecDRConfig(D, K, **changes), FACTS).double().eval()
    with torch.no_grad():
        model.extract.map.mul_(5)
    return model


def gru(**changes):
    torch.manual_seed(0)
    return GRU4Rec(GRU4RecConfig(**{"dim": D, "hidden": H} | changes), FACTS).double().eval()


# --- MIND and ComiRec-DR ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [mind(), comirec(), mind(routing="positions"), comirec(routing="positions")])
def test_the_loss_is_the_selected_capsules(model):
    """In evaluation, where the logits of both are fixed."""
    b, table = batch(), model.items.weight.detach()
    interests = model.interests(b.history).detach()
    assert interests.shape == (5, K, D)
    user = []
    for row in range(5):
        products = [float(interests[row, k] @ table[b.target[row]]) for k in range(K)]
        user.append(interests[row, products.index(max(products))])
    expected = reference.softmax_loss(torch.stack(user), table[b.target], table[b.negatives])
    assert model.loss(b)["softmax"].item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("model", [mind(), comirec(), mind(routing="positions"), comirec(routing="positions")])
def test_capsules_are_shorter_than_one_and_two_evaluations_agree(model):
    with torch.no_grad():
        model.items.weight.mul_(100)
    interests = model.interests(histories(ROWS))
    assert (interests.norm(dim=-1) < 1).all()
    assert torch.equal(model.interests(histories(ROWS)), interests)


@torch.no_grad()
def test_minds_relu_layer():
    plain, layered = mind(), mind(relu=True)
    layered.load_state_dict(plain.state_dict() | {"layer": layered.layer})
    inner, found = plain.interests(histories(ROWS)), layered.interests(histories(ROWS))
    expected = torch.tensor(
        [[[max(0.0, float(layered.layer[i] @ inner[b, k])) for i in range(D)] for k in range(K)] for b in range(5)],
        dtype=torch.float64,
    )
    assert torch.allclose(found, expected)
    assert "layer" not in dict(plain.named_parameters())


def test_mind_draws_new_logits_for_every_training_step():
    model, b = mind().train(), batch()
    torch.manual_seed(3)
    first, second = model.loss(b)["softmax"], model.loss(b)["softmax"]
    assert first != second
    torch.manual_seed(3)
    assert model.loss(b)["softmax"] == first


def test_passes_before_the_last_have_no_gradient():
    """One pass from the logits that three passes end with has the gradient of three."""
    three, one = comirec(), comirec(iterations=1)
    b = batch()
    one.extract.start = logits_of_the_last_pass(three, b)
    for model in (three, one):
        model.loss(b)["softmax"].backward()
    assert torch.allclose(one.extract.map.grad, three.extract.map.grad, atol=1e-12)
    assert torch.allclose(one.items.weight.grad, three.items.weight.grad, atol=1e-12)
    assert three.extract.map.grad.any()


@torch.no_grad()
def logits_of_the_last_pass(model, b):
    embedded, mask = model.items(b.history.items), b.history.mask.unsqueeze(1)
    own = model.extract.map[0].unflatten(1, (K, -1))  # (L, K, d, d)
    mapped = torch.einsum("bld,lked->bkle", embedded, own) * mask.unsqueeze(-1)
    logits = torch.zeros(5, K, L, dtype=torch.float64)
    for _ in range(2):
        total = torch.einsum("bkl,bkld->bkd", logits.softmax(1) * mask, mapped)
        square = total.square().sum(-1, keepdim=True)
        logits += torch.einsum("bkld,bkd->bkl", mapped, square / (1 + square) * total / (square + 1e-9).sqrt())
    return logits


# --- GRU4Rec ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def stepped(model, row):
    """The user vector by the equations of a GRU, one item at a time (reset, update, new; PyTorch's order)."""
    gru = model.gru
    inputs = [model.items.weight[item] for item in row]
    for layer in range(model.config.layers):
        W, U = getattr(gru, f"weight_ih_l{layer}"), getattr(gru, f"weight_hh_l{layer}")
        zero = torch.zeros(3 * H, dtype=torch.float64)
        a, c = (getattr(gru, f"bias_{kind}_l{layer}", zero) for kind in ("ih", "hh"))
        state, states = torch.zeros(H, dtype=torch.float64), []
        for x in inputs:
            (r, z, n), (p, q, m) = (W @ x + a).split(H), (U @ state + c).split(H)
            reset, update = torch.sigmoid(r + p), torch.sigmoid(z + q)
            state = (1 - update) * torch.tanh(n + reset * m) + update * state
            states.append(state)
        inputs = states
    return model.out.weight @ (inputs[-1] if inputs else torch.zeros(H, dtype=torch.float64)) + model.out.bias


@pytest.mark.parametrize("changes", [{}, {"bias": True}, {"layers": 2}], ids=str)
def test_gru_equals_its_equations(changes):
    model = gru(**changes)
    users = model.interests(histories([*ROWS, []]))
    assert users.shape == (6, 1, D)
    for user, row in zip(users, [*ROWS, []], strict=True):
        assert torch.allclose(user[0], stepped(model, row), atol=1e-12)
    assert any("bias" in name for name in dict(model.gru.named_parameters())) == (changes == {"bias": True})


def test_gru_reads_over_holes_and_does_not_see_padding():
    model = gru()
    embedded = model.items(torch.tensor([[3, 9, 4, 9, 1, 9]]))
    mask = torch.tensor([[True, False, True, False, True, False]])
    expected = stepped(model, [3, 4, 1])
    assert torch.allclose(model.encode(embedded, mask)[0], expected, atol=1e-12)
    for width in (3, 4, 6):
        assert torch.allclose(model.interests(histories([[3, 4, 1]], width))[0, 0], expected, atol=1e-12)
    embedded = embedded.detach().requires_grad_()
    model.encode(embedded, mask).sum().backward()
    assert (embedded.grad[~mask] == 0).all()
    assert embedded.grad[mask].any(-1).all()


def test_gru_depends_on_the_order():
    one, other = gru().interests(histories([[1, 2, 3], [3, 2, 1]]))
    assert not torch.allclose(one, other)


def test_gru_initial_deviations():
    torch.manual_seed(0)
    model = GRU4Rec(GRU4RecConfig(), Facts(2_000, L))
    assert model.items.weight[1:].std().item() == pytest.approx(math.sqrt(2 / (2_001 + 64)), rel=0.03)
    assert not model.items.weight[0].any()
    for weight in (model.gru.weight_ih_l0, model.gru.weight_hh_l0):
        limit = math.sqrt(6 / sum(weight.shape))
        assert weight.abs().max().item() == pytest.approx(limit, rel=0.01)
        assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.03)
    torch.manual_seed(0)
    model = GRU4Rec(GRU4RecConfig(table="kaiming"), Facts(2_000, L))
    assert model.items.weight[1:].std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.03)


def test_grus_dropout_is_on_its_input_in_training_only():
    model, b = gru(), batch()
    assert model.loss(b)["softmax"] == model.loss(b)["softmax"]
    model.train()
    torch.manual_seed(0)
    assert model.loss(b)["softmax"] != model.loss(b)["softmax"]
