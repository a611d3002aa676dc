import pytest
import torch

import contract
import reference
from diffacet.core.batch import Histories, SequenceBatch
from diffacet.core.contract import Facts
from diffacet.models import card
from diffacet.models.comirecdr import ComiRecDR, ComiRecDRConfig
from diffacet.models.mind import MIND, MINDConfig

N, L, D, K = 12, 6, 4, 3
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


# --- negatives of a row's own -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["y-dnn", "gru4rec", "mind", "comirec-sa", "comirec-dr", "re4", "pimirec", "remi", "dmi"]
)
def test_each_rows_own_negatives_may_be_those_that_all_share(name):
    one = card(name)
    model = contract.build(one, contract.small(one, "best")).double().train()
    rows = [[1, 2, 3, 4, 5, 6, 7], [8], [3, 3, 9]]
    history, target, shared = contract.histories(rows), torch.tensor([5, 24, 3]), torch.tensor([7, 1, 1, 20])
    terms, gradients = [], []
    for negatives in (shared, shared.expand(3, -1), torch.stack([shared, shared.flip(0), shared.roll(1)])):
        model.zero_grad()
        torch.manual_seed(0)
        terms.append(model.loss(SequenceBatch(history, target, negatives)))
        sum(terms[-1].values()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    for other, gradient in zip(terms[1:], gradients[1:], strict=True):
        assert terms[0].keys() == other.keys()
        for term, value in terms[0].items():
            assert torch.allclose(other[term], value, rtol=1e-9), term
        assert torch.allclose(gradient, gradients[0], atol=1e-9)
    torch.manual_seed(0)
    changed = model.loss(SequenceBatch(history, target, torch.stack([shared, shared, shared + 2])))
    assert not torch.allclose(changed["softmax"], terms[0]["softmax"], rtol=1e-6)
