import math

import pytest
import torch

import contract
from diffacet.core.batch import PositionBatch, SequenceBatch
from diffacet.core.contract import Facts, Training
from diffacet.data.sequences import Sequences
from diffacet.data.splits import Holdout
from diffacet.errors import BadSetting
from diffacet.learn import batches
from diffacet.models.gru4rec import CARDS, GRU4Rec, GRU4RecConfig
from diffacet.rank.evaluate import evaluate

N, L, D, H = 12, 6, 4, 8
ROWS = [[1, 2, 3, 4, 5, 6], [7], [8, 8, 9], [10, 2], [3, 4, 5, 1]]


def histories(rows, width=L):
    return contract.histories(rows, width)


def batch():
    return SequenceBatch(histories(ROWS), torch.tensor([7, 1, 12, 2, 2]), torch.tensor([3, 11, 11, 7, 5, 1]))


def gru(**changes):
    torch.manual_seed(0)
    return GRU4Rec(GRU4RecConfig(**{"dim": D, "hidden": H} | changes), Facts(N, L)).double().eval()


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
    last = inputs[-1] if inputs else torch.zeros(H, dtype=torch.float64)
    return model.out.weight @ last + model.out.bias if model.config.projection else last


@pytest.mark.parametrize(
    "changes", [{}, {"bias": True}, {"layers": 2}, {"dim": H, "hidden": 0, "projection": False, "bias": True}], ids=str
)
def test_gru_equals_its_equations(changes):
    model = contract.shaken(gru(**changes))
    users = model.interests(histories([*ROWS, []]))
    assert users.shape == (6, 1, changes.get("dim", D))
    for user, row in zip(users, [*ROWS, []], strict=True):
        assert torch.allclose(user[0], stepped(model, row), atol=1e-12)
    assert any("bias" in name for name in dict(model.gru.named_parameters())) == ("bias" in changes)


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


@pytest.mark.parametrize("everything", [False, True])
def test_the_loss_at_every_position_is_that_of_the_prefixes(everything):
    """One pass over a sequence, or a pass for each of its prefixes; gradients, too."""
    rows = [[1, 2, 3, 4, 5, 6, 7], [7, 9], [8, 8, 9, 12], [10, 2, 11]]
    pairs = [(b, p) for b, items in enumerate(rows) for p in range(len(items) - 1)]
    row, position = torch.tensor(pairs).T
    target = torch.tensor([rows[b][p + 1] for b, p in pairs])
    negatives = torch.arange(1, N + 1) if everything else torch.tensor([3, 11, 5])
    weight = torch.full((len(pairs),), 1 / len(pairs))
    whole = histories([items[:-1] for items in rows])
    window = PositionBatch(whole, row, position, target, weight, negatives, everything=everything)
    cut = histories([rows[b][: p + 1] for b, p in pairs])
    prefixes = SequenceBatch(cut, target, negatives, everything=everything)
    model, gradients = contract.shaken(gru(bias=True)), []
    for form in (window, prefixes):
        model.zero_grad()
        loss = model.loss(form)["softmax"]
        loss.backward()
        gradients.append((loss.detach(), *(p.grad.clone() for p in model.parameters())))
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-7)  # the weights of a window are float32


def test_a_position_with_holes_before_it_is_read_as_its_own_history():
    model, embedded = contract.shaken(gru()), gru().items(histories(ROWS[:1]).items)
    mask = torch.tensor([[False, True, False, True, True, False]])
    row, position = torch.zeros(L, dtype=torch.int64), torch.arange(L)
    found = model.encode_at(embedded, mask, row, position)
    for p in range(L):
        expected = model.encode(embedded, mask & (position <= p))[0]
        assert torch.allclose(found[p], expected, atol=1e-12)


def test_states_of_another_width_need_the_projection():
    with pytest.raises(BadSetting, match="without projection hidden is dim=64, or 0; got hidden=128"):
        GRU4RecConfig(projection=False)
    with pytest.raises(BadSetting, match="without projection"):
        contract.settings.apply(CARDS[0], CARDS[0].presets["dimerec-table"], {"hidden": "32"})
    model = GRU4Rec(CARDS[0].presets["dimerec-table"].model, Facts(N, 10))
    assert {name: p.shape[-1] for name, p in model.named_parameters() if p.ndim == 2} == {
        "items.weight": 64,
        "gru.weight_ih_l0": 64,
        "gru.weight_hh_l0": 64,
    }
    assert not any(p.any() for name, p in model.named_parameters() if "bias" in name)


def test_it_learns_fifty_sequences_by_heart():
    items = torch.randint(1, 51, (50, 7), generator=torch.Generator().manual_seed(0))
    items[:, 0] = torch.arange(1, 51)

    def sequences(part):
        users = torch.arange(50).repeat_interleave(part.shape[1])
        return Sequences.from_rows(users.numpy(), part.flatten().numpy(), None, 50)

    told = Training(
        first_target=1, length=6, batch_size=50, sampling="epochs", weighting="target", negatives=0, targets="every"
    )
    train = sequences(items)
    torch.manual_seed(0)
    config = GRU4RecConfig(dim=32, hidden=64, bias=True, table="normal", dropout=0.0)
    model = GRU4Rec(config, batches.facts(train, 50, told)).train()
    batch_at = batches.batch_at(train, 50, told, batches.form(CARDS[0], told))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for step in range(60):
        optimizer.zero_grad()
        sum(model.loss(batch_at(step)).values()).backward()
        optimizer.step()
    holdout = Holdout(sequences(items[:, :-1]), sequences(items[:, -1:]))
    assert evaluate(model, holdout, length=6, ks=(1,))["hit_rate@1"] >= 0.95
