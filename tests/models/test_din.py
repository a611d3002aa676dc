"""DIN against its equations in loops: weights of both signs, sums without softmax, chunks, the short form."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import clicks
from diffacet.core.behaviours import pairs
from diffacet.core.contract import Facts
from diffacet.errors import BadSetting
from diffacet.models.din import CARDS, DINConfig

CARD = CARDS[0]


def mlp(unit, x, training=False):
    """(n, 4 d) -> (n,) by the layers of an activation unit, Dice written out."""
    h = clicks.dice(unit.rest[0], x @ unit.first.weight.T + unit.first.bias, training)
    h = clicks.dice(unit.rest[2], h @ unit.rest[1].weight.T + unit.rest[1].bias, training)
    return (h @ unit.rest[3].weight.T + unit.rest[3].bias)[:, 0]


def by_hand(model, batch, training=False):
    """(B, d) interests, behaviour by behaviour; in training all pairs are standardised together."""
    unit, c = model.interest.unit, model.config
    pairs = []
    for b in range(len(batch)):
        rows = clicks.seen(batch, b, c.window)
        pairs += [(b, clicks.embedding(model.fields, batch.behaviours[i])) for i in rows]
    total = torch.zeros(len(batch), model.fields.width, dtype=torch.float64)
    if not pairs:
        return total
    inputs = []
    for b, E in pairs:
        e = clicks.embedding(model.fields, batch.target[b])
        inputs.append(torch.cat([e, E, e - E, e * E]))
    weights = mlp(unit, torch.stack(inputs), training)
    for b in range(len(batch)):
        mine = [(a, E) for (owner, E), a in zip(pairs, weights, strict=True) if owner == b]
        whole = sum(a.exp() for a, _ in mine)
        for a, E in mine:
            total[b] += (a.exp() / whole if c.softmax else a) * E
    return total


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("changes", [{}, {"window": 3}, {"softmax": True}, {"softmax": True, "window": 2}])
@settings(max_examples=15)
@given(seed=st.integers(0, 999))
def test_equals_the_loop(changes, training, seed):
    model = clicks.model(CARD, seed=seed, **changes).train(training)
    batch = clicks.batch(seed)
    with torch.no_grad():
        target = model.fields.target(batch)
        interest = model.interest(model.fields, batch, target)
        assert torch.allclose(interest, by_hand(clicks.model(CARD, seed=seed, **changes), batch, training), atol=1e-6)
        model.eval()
        interest = model.interest(model.fields, batch, target)
        expected = model.head(interest, target, model.fields.other(batch))
        assert torch.allclose(model.logits(batch), expected)


@given(seed=st.integers(0, 999), longest=st.integers(0, 9), size=st.integers(1, 50))
def test_pairs_are_all_behaviours_and_chunks_have_some_of_each_sample(seed, longest, size):
    batch = clicks.batch(seed)
    limit = longest or None
    chunks = pairs(batch, limit, size)
    expected = [(b, i) for b in range(len(batch)) for i in clicks.seen(batch, b, limit)]
    found = []
    for sample, place in chunks:
        assert 1 <= len(sample) <= size
        assert sample.tolist() == sorted(sample.tolist())
        found += zip(sample.tolist(), place.tolist(), strict=True)
        for b in range(len(batch)):
            share = len(clicks.seen(batch, b, limit)) / len(chunks)
            assert abs(int((sample == b).sum()) - share) < 1
    assert sorted(found) == expected


@pytest.mark.parametrize("softmax", [False, True])
def test_chunks_change_nothing_in_evaluation_and_gradients_are_the_same(softmax):
    batch = clicks.batch(3, B=12)
    whole = clicks.model(CARD, softmax=softmax).eval()
    cut = clicks.model(CARD, softmax=softmax).eval()
    cut.interest.size = 7
    for model in (whole, cut):
        model.loss(batch)["click"].backward()
    assert torch.allclose(whole.logits(batch), cut.logits(batch), atol=1e-9)
    for (name, one), (_, other) in zip(whole.named_parameters(), cut.named_parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-9), name


@pytest.mark.parametrize("softmax", [False, True])
def test_running_statistics_count_a_chunk_once(softmax):
    """Computing a chunk again for its gradient must not move them a second time."""
    batch = clicks.batch(4, B=12)
    with_gradient, without = (clicks.model(CARD, softmax=softmax).train() for _ in range(2))
    for model in (with_gradient, without):
        model.interest.size = 7
    with_gradient.loss(batch)["click"].backward()
    with torch.no_grad():
        without.loss(batch)
    for (name, one), (_, other) in zip(with_gradient.named_buffers(), without.named_buffers(), strict=True):
        assert torch.equal(one, other), name


def test_order_and_padding_are_irrelevant():
    model = clicks.model(CARD).eval()
    batch = clicks.batch(5)
    turned = batch.behaviours.clone()
    for b in [int(batch.lengths.argmax())]:
        rows = slice(int(batch.start[b]), int(batch.end[b]))
        turned[rows] = batch.behaviours[rows].flip(0)
        other = clicks.changed(batch, behaviours=turned)
        assert not torch.equal(turned, batch.behaviours)
        assert torch.allclose(model.logits(other)[b], model.logits(batch)[b], atol=1e-9)
    assert torch.allclose(model.logits(clicks.padded(batch)), model.logits(batch), atol=1e-9)


def test_one_behaviour_of_weight_one_is_its_embedding():
    model = clicks.model(CARD).eval()
    with torch.no_grad():
        model.interest.unit.rest[3].weight.zero_()
        model.interest.unit.rest[3].bias.fill_(1)
    batch = clicks.batch(6)
    one = clicks.changed(batch, start=torch.zeros(8, dtype=torch.int64), end=torch.ones(8, dtype=torch.int64))
    interest = model.interest(model.fields, one, model.fields.target(one))
    assert torch.allclose(interest, clicks.embedding(model.fields, one.behaviours[0]).expand(8, -1))


def test_an_empty_history_leaves_the_target_alone():
    """No interest, a finite answer, and a batch of only such samples trains."""
    model = clicks.model(CARD)
    batch = clicks.batch(7)
    none = clicks.changed(batch, end=batch.start)
    assert not model.interest(model.fields, none, model.fields.target(none)).any()
    empty = clicks.changed(none, behaviours=batch.behaviours[:0], times=batch.times[:0], start=none.start * 0)
    empty = clicks.changed(empty, end=empty.start)
    assert torch.equal(model.eval().logits(empty), model.logits(none))
    assert model.logits(none).isfinite().all()
    loss = model.train().loss(empty)["click"]
    loss.backward()
    assert model.head.layers[0].weight.grad.any()


def test_without_softmax_the_sum_tells_how_much_there_is():
    batch = clicks.batch(8, B=1, users=1)
    twice = clicks.changed(
        batch,
        behaviours=batch.behaviours.repeat(2, 1),
        start=torch.zeros(1, dtype=torch.int64),
        end=torch.tensor([2 * len(batch.behaviours)]),
    )
    once = clicks.changed(batch, start=torch.zeros(1, dtype=torch.int64), end=torch.tensor([len(batch.behaviours)]))
    for softmax, factor in ((False, 2), (True, 1)):
        model = clicks.model(CARD, softmax=softmax).eval()
        interest = [model.interest(model.fields, b, model.fields.target(b)) for b in (once, twice)]
        assert torch.allclose(interest[1], factor * interest[0])


def test_the_short_form_reads_only_its_window():
    model = clicks.model(CARD, "short", window=2).eval()
    batch = clicks.batch(9)
    cut = clicks.changed(batch, start=torch.maximum(batch.start, batch.end - 2))
    assert torch.equal(model.logits(cut), model.logits(batch))
    model.loss(batch)["click"].backward()
    used = {int(v) for b in range(8) for v in cut.behaviours[int(cut.start[b]) : int(cut.end[b]), 0]}
    used |= set(batch.target[:, 0].tolist())
    assert set(model.fields.table.weight.grad[:20].any(1).nonzero()[:, 0].tolist()) == used


def test_presets_and_what_is_refused():
    assert CARD.presets["short"].model.window == 100
    for name in ("paper", "best", "short"):
        training = CARD.presets[name].training
        assert (training.max_epochs, training.clip, training.metric, training.batch_size) == (1, 10.0, "auc", 1024)
    with pytest.raises(BadSetting, match="clicks"):
        CARD.build(DINConfig(), Facts(3, 5))
    assert dataclasses.asdict(DINConfig())["hidden"] == (1024, 512, 256)


def test_learns_which_category_was_met():
    """A click exactly if the target's category is in the history: a few dozen steps tell."""
    about = clicks.facts(numeric=0, sizes=(20, 11, 5))
    model = clicks.model(CARD, about=about, hidden=(16,), dim=8).float().train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.3)
    adam = torch.optim.Adam(model.parameters(), 0.01)

    def drawn(seed, B):
        batch = clicks.batch(seed, B, users=B, longest=5, click=about.click)
        met = [
            bool((batch.behaviours[int(s) : int(e), 1] == t).any())
            for s, e, t in zip(batch.start, batch.end, batch.target[:, 1], strict=True)
        ]
        return clicks.changed(batch, label=torch.tensor(met).float())

    for step in range(120):
        adam.zero_grad()
        model.loss(drawn(step, 128))["click"].backward()
        adam.step()
    test = drawn(10_000, 600)
    with torch.no_grad():
        score = model.eval().logits(test)
    wins = (score[test.label > 0].unsqueeze(1) > score[test.label == 0]).float().mean()
    assert wins > 0.8


def test_row_sparse_gradients_are_the_dense_ones():
    model = clicks.model(CARD)
    model.interest.size = 7
    clicks.sparse_as_dense(model, clicks.batch(11))
