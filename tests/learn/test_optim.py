import dataclasses

import pytest
import torch
from torch import nn

import reference
from diffacet.core.contract import Pace, Training
from diffacet.core.layers import ItemTable
from diffacet.learn import optim
from diffacet.learn.optim import Optimizer, RowAdam
from reference import normal

LR, N, D = 0.05, 9, 3


class Toy(nn.Module):
    """A table, a matrix, and a loss that is linear in both, so that gradients can be dictated."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.items = ItemTable(N, D)
        self.matrix = nn.Parameter(normal(2, D, dtype=torch.float32))

    def loss(self, step):
        """Of step s: rows that step touches, one of them twice, with weights of their own."""
        rows = torch.tensor([[1, 2, 2, 0], [5, 9, 1, 5], [7, 7, 7, 0]])[step % 3]
        weights = normal(4, D, seed=step, dtype=torch.float32)
        return (self.items(rows) * weights).sum() + (self.matrix * normal(2, D, seed=step + 50)).sum()


def trained(updates, steps, model=None, optimizer=None, start=0):
    model = model or Toy()
    optimizer = optimizer or Optimizer(model, training(updates))
    for step in range(start, steps):
        optimizer.step(model.loss(step), LR)
    return model, optimizer


def training(updates="dense", **changes):
    return dataclasses.replace(Training(lr=LR, item_updates=updates), **changes)


def table_gradients(steps):
    model, found = Toy(), []
    for step in range(steps):
        (gradient,) = torch.autograd.grad(model.loss(step), model.items.weight)
        found.append(gradient.double())
    return found


def test_fused_adam_is_adam_as_printed():
    model, _ = trained("dense", 7)
    start = Toy()
    expected = reference.adam(start.matrix.detach(), [normal(2, D, seed=step + 50) for step in range(7)], LR)
    assert torch.allclose(model.matrix.double(), expected, atol=1e-6)
    expected = reference.adam(start.items.weight.detach(), table_gradients(7), LR)
    assert torch.allclose(model.items.weight.double(), expected, atol=1e-6)


def test_row_adam_is_adam_on_touched_rows():
    model, _ = trained("row-sparse", 7)
    gradients = [[row if row.any() else None for row in gradient] for gradient in table_gradients(7)]
    expected = reference.adam(Toy().items.weight.detach(), gradients, LR, lazy=True)
    assert torch.allclose(model.items.weight.double(), expected, atol=1e-6)
    # The rest of the model is not touched by how the table is updated.
    assert torch.equal(model.matrix, trained("dense", 7)[0].matrix)


def test_row_adam_equals_torchs_sparse_adam():
    model, _ = trained("row-sparse", 9)
    other = Toy()
    other.items.sparse = True
    # Torch adds epsilon before correcting the bias, a difference that gradients of order 1 do not show.
    sparse = torch.optim.SparseAdam([other.items.weight], lr=LR, betas=optim.BETAS, eps=optim.EPSILON)
    for step in range(9):
        sparse.zero_grad()
        other.loss(step).backward()
        sparse.step()
    assert torch.allclose(model.items.weight, other.items.weight, atol=1e-5)


def test_rows_without_a_gradient_are_untouched():
    """Lazily they keep weight and moments to the bit; densely they go on moving by their momentum."""
    touched = {1, 2}
    for updates in ("row-sparse", "dense"):
        model, optimizer = trained(updates, 1)
        start, after = Toy().items.weight, model.items.weight.clone()
        for row in range(N + 1):
            assert torch.equal(after[row], start[row]) == (row not in touched)
        optimizer.step(model.loss(2), LR)  # row 7 only
        moving = {row for row in range(N + 1) if not torch.equal(model.items.weight[row], after[row])}
        assert moving == ({7} if updates == "row-sparse" else {1, 2, 7})


@pytest.mark.parametrize("updates", ["dense", "row-sparse"])
def test_padding_stays_zero(updates):
    model, _ = trained(updates, 12)
    assert torch.equal(model.items.weight[0], torch.zeros(D))


def test_dense_and_row_sparse_gradients_agree():
    for step in range(3):
        found = []
        for updates in ("dense", "row-sparse"):
            model = Toy()
            Optimizer(model, training(updates))
            model.loss(step).backward()
            assert model.items.weight.grad.is_sparse == (updates == "row-sparse")
            found.append(model.items.weight.grad.to_dense())
        assert torch.allclose(found[0], found[1], atol=1e-7)


def test_the_first_step_of_both_is_the_same():
    dense, sparse = trained("dense", 1)[0], trained("row-sparse", 1)[0]
    assert torch.allclose(dense.items.weight, sparse.items.weight, atol=1e-6)
    assert not torch.allclose(trained("dense", 5)[0].items.weight, trained("row-sparse", 5)[0].items.weight, atol=1e-3)


def test_auto_goes_by_the_size_of_the_catalogue(monkeypatch):
    monkeypatch.setattr(optim, "LARGE_CATALOGUE", N)
    assert len(Optimizer(Toy(), training("auto")).rows) == 1
    assert not Optimizer(Toy(), training("dense")).rows
    monkeypatch.setattr(optim, "LARGE_CATALOGUE", N + 1)
    model = Toy()
    assert not Optimizer(model, training("auto")).rows
    assert not model.items.sparse
    assert len(Optimizer(model, training("row-sparse")).rows) == 1


def test_each_parameter_is_in_one_group():
    model = Toy()
    for updates in ("dense", "row-sparse"):
        optimizer = Optimizer(model, training(updates))
        owned = [id(p) for group in optimizer.dense.param_groups for p in group["params"]]
        owned += [id(row.weight) for row in optimizer.rows]
        assert sorted(owned) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("updates", ["dense", "row-sparse"])
def test_the_learning_rate_is_that_of_the_step(updates):
    model = Toy()
    optimizer = Optimizer(model, training(updates))
    optimizer.step(model.loss(0), 0.0)
    for one, other in zip(model.parameters(), Toy().parameters(), strict=True):
        assert torch.equal(one, other)
    optimizer.step(model.loss(0), 0.25)
    moved = (model.items.weight - Toy().items.weight)[[1, 2]].abs()
    assert torch.allclose(moved, torch.full_like(moved, 0.25), rtol=1e-2)  # the same gradient twice: a step of lr


@pytest.mark.parametrize("updates", ["dense", "row-sparse"])
def test_state_survives_being_saved(updates):
    unbroken, _ = trained(updates, 10)
    model, optimizer = trained(updates, 4)
    state = {name: value.clone() for name, value in optimizer.state().items()}
    other = Toy()
    other.load_state_dict(model.state_dict())
    fresh = Optimizer(other, training(updates))
    fresh.load(state)
    trained(updates, 10, other, fresh, 4)
    for one, two in zip(unbroken.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    for name, value in fresh.state().items():
        assert value.dtype == torch.float32, name


def test_an_optimizer_without_parameters_has_no_state():
    empty = Optimizer(nn.Module(), training())
    assert empty.state() == {}
    empty.load({})


def test_row_adam_without_a_gradient_does_nothing():
    weight = nn.Parameter(normal(3, 2, dtype=torch.float32))
    before = weight.detach().clone()
    row = RowAdam(weight, LR)
    row.step()
    assert torch.equal(weight, before)
    assert row.step_count == 0


# --- groups --------------------------------------------------------------------------------------------------------


class Paced(nn.Module):
    """Four scalars whose gradients are 1, moved as `told` says."""

    def __init__(self, *told):
        super().__init__()
        self.told = told
        for name in ("usual", "slow_a", "slow_b", "plain", "twice"):
            setattr(self, name, nn.Parameter(torch.ones(1)))

    def paces(self):
        return self.told

    def value(self):
        return sum(parameter.sum() for parameter in self.parameters())


def moved(model, steps=1, **changes):
    optimizer = Optimizer(model, training(**changes))
    for _ in range(steps):
        optimizer.step(model.value(), LR)
    return {name: parameter.item() - 1 for name, parameter in model.named_parameters()}, optimizer


def test_groups_move_at_their_own_rates():
    told = (Pace(("slow",), rate=0.5), Pace(("plain",), rate=2, optimizer="sgd"))
    change, _ = moved(Paced(*told, Pace(("twice",), rate=3, optimizer="sgd", again=True)))
    assert change["usual"] == pytest.approx(-LR, rel=1e-4)  # Adam's first step is lr
    assert change["slow_a"] == change["slow_b"] == pytest.approx(-0.5 * LR, rel=1e-4)
    assert change["plain"] == pytest.approx(-2 * LR)
    assert change["twice"] == pytest.approx(-LR - 3 * LR, rel=1e-4)


def test_weight_decay_is_decoupled_and_a_group_may_have_its_own():
    told = (Pace(("slow",), weight_decay=0.0), Pace(("plain",), optimizer="sgd", weight_decay=0.5))
    change, _ = moved(Paced(*told), weight_decay=0.1)
    assert change["usual"] == pytest.approx(-LR - LR * 0.1, rel=1e-4)
    assert change["slow_a"] == pytest.approx(-LR, rel=1e-4)
    assert change["plain"] == pytest.approx(-LR * (1 + 0.5))


def test_adamax_moves_by_the_largest_gradient():
    change, _ = moved(Paced(), 3, optimizer="adamax")
    assert change["usual"] == pytest.approx(-3 * LR, rel=1e-4)


@pytest.mark.parametrize("changes", [{}, {"weight_decay": 0.1}, {"optimizer": "adamax"}])
def test_groups_go_on_from_their_state(changes):
    told = (Pace(("slow",), rate=0.5), Pace(("plain",), rate=2, optimizer="sgd"))
    whole, _ = moved(Paced(*told), 5, **changes)
    broken = Paced(*told)
    _, before = moved(broken, 3, **changes)
    after = Optimizer(broken, training(**changes))
    after.load(before.state())
    for _ in range(2):
        after.step(broken.value(), LR)
    assert {name: parameter.item() - 1 for name, parameter in broken.named_parameters()} == whole


@pytest.mark.parametrize("updates", ["dense", "row-sparse"])
@pytest.mark.parametrize("limit", [0.5, 3.0, 1e6])
def test_the_gradient_is_clipped_at_its_global_norm(updates, limit):
    """Dense parameters together; a row-sparse table is neither clipped nor counted."""
    model = Toy()
    optimizer = Optimizer(model, training(updates, clip=limit))
    own = [model.matrix] if updates == "row-sparse" else [model.matrix, model.items.weight]
    for step in range(3):
        free = Toy()
        free.load_state_dict(model.state_dict())
        grads = torch.autograd.grad(free.loss(step), [free.items.weight, free.matrix])
        gradients = dict(zip(["items", "matrix"], grads, strict=True))
        counted = [gradients["matrix"]] + ([gradients["items"]] if updates == "dense" else [])
        norm = torch.stack([gradient.square().sum() for gradient in counted]).sum().sqrt()
        optimizer.step(model.loss(step), LR)
        scale = min(1.0, limit / (float(norm) + 1e-6))
        assert torch.allclose(model.matrix.grad, gradients["matrix"] * scale, rtol=1e-4)
        kept = gradients["items"] * (scale if updates == "dense" else 1.0)
        assert torch.allclose(model.items.weight.grad.to_dense(), kept, rtol=1e-4)
        total = torch.stack([parameter.grad.square().sum() for parameter in own]).sum().sqrt()
        assert total <= limit * 1.0001


def test_without_a_limit_nothing_is_clipped():
    one, _ = trained("dense", 5)
    model = Toy()
    other, _ = trained("dense", 5, model, Optimizer(model, training(clip=1e9)))
    assert torch.equal(one.matrix, other.matrix)
    model = Toy()
    clipped, _ = trained("dense", 5, model, Optimizer(model, training(clip=1e-3)))
    assert not torch.equal(clipped.matrix, one.matrix)
