"""CAN against its equations in loops: the target's network applied to powers of every behaviour's numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import clicks
from diffacet.errors import BadSetting
from diffacet.models.can import CARDS, CANConfig

CARD = CARDS[0]


def acted(action, batch, b, longest=None):
    """(orders, 12): sums over behaviours of both layers' outputs, number by number."""
    numbers = action.item.weight[int(batch.target[b, action.field])]
    first = [[numbers[8 * p + q] for q in range(8)] for p in range(16)]
    second = [[numbers[128 + 4 * p + q] for q in range(4)] for p in range(8)]
    total = torch.zeros(action.orders, 12, dtype=torch.float64)
    for i in clicks.seen(batch, b, longest):
        x = action.user.weight[int(batch.behaviours[i, action.field])]
        for order in range(1, action.orders + 1):
            one = [torch.tanh(sum(x[p] ** order * first[p][q] for p in range(16))) for q in range(8)]
            two = [sum(one[p] * second[p][q] for p in range(8)) for q in range(4)]
            total[order - 1] += torch.stack(one + two)
    return total


@pytest.mark.parametrize("changes", [{}, {"window": 2}, {"orders": 1, "co_action": ("category",)}])
@settings(max_examples=4)
@given(seed=st.integers(0, 999))
def test_equals_the_loop(changes, seed):
    model = clicks.model(CARD, seed=seed, **changes).eval()
    batch = clicks.batch(seed, B=4)
    with torch.no_grad():
        parts = [
            torch.stack([acted(action, batch, b, model.config.window).flatten() for b in range(4)])
            for action in model.actions
        ]
        for action, part in zip(model.actions, parts, strict=True):
            assert torch.allclose(action(batch), part, atol=1e-6)
        target = model.fields.target(batch)
        base = model.interest(model.fields, batch, target)
        expected = model.head(*parts, base, target, model.fields.other(batch))
        assert torch.allclose(model.logits(batch), expected, atol=1e-6)


def test_the_base_may_be_a_plain_sum():
    batch = clicks.batch(1)
    for window in (None, 2):
        model = clicks.model(CARD, base="sum", window=window).eval()
        assert not any(name.startswith("interest") for name, _ in model.named_parameters())
        rows = [
            sum(
                (clicks.embedding(model.fields, batch.behaviours[i]) for i in clicks.seen(batch, b, window)),
                torch.zeros(model.fields.width, dtype=torch.float64),
            )
            for b in range(8)
        ]
        actions = [action(batch) for action in model.actions]
        expected = model.head(*actions, torch.stack(rows), model.fields.target(batch), model.fields.other(batch))
        assert torch.allclose(model.logits(batch), expected, atol=1e-9)


def test_orders_of_the_opposite():
    """Odd powers turn the sign of both layers, even ones do not."""
    model, batch = clicks.model(CARD), clicks.batch(2)
    action = model.actions[0]
    with torch.no_grad():
        before = action(batch).view(8, 3, 12)
        action.user.weight.neg_()
        after = action(batch).view(8, 3, 12)
    assert before.any()
    assert torch.allclose(after[:, ::2], -before[:, ::2])
    assert torch.allclose(after[:, 1], before[:, 1])


def test_a_target_whose_numbers_are_zero_acts_on_nothing():
    model, batch = clicks.model(CARD), clicks.batch(3)
    with torch.no_grad():
        for action in model.actions:
            action.item.weight.zero_()
            assert not action(batch).any()


def test_padding_company_and_empty_histories_add_nothing():
    model, batch = clicks.model(CARD).eval(), clicks.batch(4)
    assert not model.actions[0](clicks.changed(batch, end=batch.start)).any()
    whole = model.logits(batch)
    assert whole.isfinite().all()
    assert torch.allclose(model.logits(clicks.padded(batch)), whole, atol=1e-9)
    for b in range(len(batch)):
        assert torch.allclose(model.logits(clicks.alone(batch, b)), whole[b], atol=1e-9)
    model.train().loss(clicks.changed(batch, end=batch.start))["click"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_gradients_touch_the_rows_of_the_batch():
    model, batch = clicks.model(CARD).train(), clicks.batch(5)
    model.loss(batch)["click"].backward()
    for action in model.actions:
        seen = {int(batch.behaviours[i, action.field]) for b in range(8) for i in clicks.seen(batch, b)}
        with_history = [b for b in range(8) if clicks.seen(batch, b)]
        targets = {int(batch.target[b, action.field]) for b in with_history}
        assert set(action.user.weight.grad.any(1).nonzero()[:, 0].tolist()) == seen
        assert set(action.item.weight.grad.any(1).nonzero()[:, 0].tolist()) == targets
    for name, parameter in model.named_parameters():
        assert parameter.grad.any(), name


def test_large_vocabularies_share_rows():
    """Values without a name keep rows of their own, all others fall on the rest, evenly."""
    about = clicks.facts(sizes=(100_003, 7, 5))
    model = clicks.model(CARD, about=about, rows=1003)
    action = model.actions[0]
    assert action.item.weight.shape == (1003, 160)
    assert action.user.weight.shape == (1003, 16)
    rows = action.row(torch.arange(100_003))
    assert rows[:3].tolist() == [0, 1, 2]
    counts = torch.bincount(rows[3:], minlength=1003)
    assert not counts[:3].any()
    assert counts[3:].min() > 50
    assert counts[3:].max() < 200
    small = model.actions[1]
    assert torch.equal(small.row(torch.arange(7)), torch.arange(7))
    batch = clicks.batch(6, click=about.click)
    assert model.eval().logits(batch).isfinite().all()


def test_fields_with_co_action():
    assert clicks.model(CARD).acting == [0, 1]
    assert clicks.model(CARD, co_action=("category", "item")).acting == [1, 0]
    with pytest.raises(BadSetting, match="They are: item, category"):
        CARD.build(CANConfig(co_action=("kind",)), clicks.facts())
    only = clicks.facts(sizes=(20,))
    assert clicks.model(CARD, about=only).acting == [0]
    assert CARD.presets["short"].model.window == 100


@pytest.mark.parametrize("base", ["din", "sum"])
def test_windows_change_nothing_and_row_sparse_gradients_are_the_dense_ones(monkeypatch, base):
    batch, found = clicks.batch(7, B=12), []
    for small in (False, True):
        model = clicks.model(CARD, base=base).eval()
        if small:
            clicks.in_small_windows(monkeypatch)
        loss = model.loss(batch)["click"]
        loss.backward()
        found.append([loss, *(p.grad for p in model.parameters())])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-9)
    clicks.sparse_as_dense(clicks.model(CARD, base=base), batch)
