import pytest
import torch
from torch.nn import functional

import reference
from diffacet.core import softmax
from diffacet.core.softmax import full_softmax
from reference import normal


def case(rows, items, dim=5, dtype=torch.float64):
    user, vectors = normal(rows, dim, dtype=dtype), normal(items, dim, seed=1, dtype=dtype)
    generator = torch.Generator().manual_seed(2)
    target = torch.randint(items, (rows,), generator=generator)
    weight = torch.rand(rows, generator=generator, dtype=dtype)
    return user.requires_grad_(), vectors.requires_grad_(), target, weight


@pytest.mark.parametrize("cells", [1, 2**20])
@pytest.mark.parametrize(("rows", "items"), [(300, 7), (128, 9), (1, 3), (129, 1)])
def test_loss_and_gradients_are_those_of_the_whole_matrix(rows, items, cells, monkeypatch):
    """Of blocks of 128 rows, of a last one that is shorter, and of one that holds everything."""
    monkeypatch.setitem(softmax._CELLS, "cpu", cells)
    user, vectors, target, weight = case(rows, items)
    found = full_softmax(user, vectors, target, weight)
    (3 * found).backward()
    mine = user.grad, vectors.grad
    user.grad = vectors.grad = None
    expected = (weight * functional.cross_entropy(user @ vectors.T, target, reduction="none")).sum()
    (3 * expected).backward()
    assert torch.allclose(found, expected, rtol=1e-12)
    assert torch.allclose(mine[0], user.grad, atol=1e-12)
    assert torch.allclose(mine[1], vectors.grad, atol=1e-12)


def test_it_is_the_loop():
    user, vectors, target, _ = case(4, 6)
    catalogue = torch.cat([torch.zeros(1, 5, dtype=torch.float64), vectors.detach()])
    found = full_softmax(user, vectors, target, torch.full((4,), 0.25, dtype=torch.float64))
    assert found.item() == pytest.approx(reference.full_softmax(user.detach(), catalogue, target + 1), rel=1e-12)


def test_large_logits_stay_finite():
    user, vectors, target, weight = case(10, 6, dtype=torch.float32)
    found = full_softmax(user * 1e3, vectors * 1e3, target, weight)
    found.backward()
    assert found.isfinite()
    assert user.grad.isfinite().all()


def test_gradients_are_made_only_where_they_are_wanted():
    user, vectors, target, weight = case(5, 4)
    with torch.no_grad():
        quiet = full_softmax(user, vectors, target, weight)
    assert not quiet.requires_grad
    full_softmax(user.detach(), vectors, target, weight).backward()
    assert user.grad is None
    assert vectors.grad.any()


def test_log_sums_are_those_of_the_logits_in_value_and_gradient(monkeypatch):
    """In blocks of 128 rows, and without any vector: what a process with some of the items tells of them."""
    monkeypatch.setitem(softmax._CELLS, "cpu", 1)
    user, vectors, weights = torch.randn(300, 4), torch.randn(7, 4), torch.rand(300)
    pairs = [(user.double().requires_grad_(), vectors.double().requires_grad_()) for _ in range(2)]
    found = softmax.log_sums(*pairs[0])
    wanted = (pairs[1][0] @ pairs[1][1].T).logsumexp(1)
    assert torch.allclose(found, wanted)
    for sums, _ in zip((found, wanted), pairs, strict=True):
        (sums * weights).sum().backward()
    for one, other in zip(*pairs, strict=True):
        assert torch.allclose(one.grad, other.grad)
    assert torch.equal(softmax.log_sums(user, vectors[:0]), torch.full((300,), -torch.inf))
