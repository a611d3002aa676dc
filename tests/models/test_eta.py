"""ETA against its equations in loops: codes, distances in bits, ties, and what never learns."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import clicks
from diffacet.core.behaviours import SimHash
from diffacet.core.behaviours.hashing import differing, packed
from diffacet.models.eta import CARDS

CARD = CARDS[0]


def distances(model, batch, b):
    """Bits in which each behaviour's code differs from the target's, bit by bit."""

    def code(x):
        return [float(x @ column) >= 0 for column in model.hash.planes.T]

    asked = code(clicks.embedding(model.fields, batch.target[b]))
    told = [code(clicks.embedding(model.fields, batch.behaviours[i])) for i in clicks.seen(batch, b)]
    return [sum(one != other for one, other in zip(own, asked, strict=True)) for own in told]


def kept(model, batch, b):
    rows = clicks.seen(batch, b)
    return clicks.best([-far for far in distances(model, batch, b)], rows, model.config.kept)


def by_hand(model, batch):
    """(B, d): attention over the nearest behaviours."""
    told = []
    for b in range(len(batch)):
        rows = [clicks.embedding(model.fields, batch.behaviours[i]) for i in kept(model, batch, b)]
        told.append(clicks.attention(model.long, clicks.embedding(model.fields, batch.target[b]), rows))
    return torch.stack(told)


@pytest.mark.parametrize("changes", [{}, {"bits": 3}, {"bits": 70, "kept": 2}])
@settings(max_examples=15)
@given(seed=st.integers(0, 999))
def test_equals_the_loop(changes, seed):
    model = clicks.model(CARD, seed=seed, **changes).eval()
    batch = clicks.batch(seed)
    with torch.no_grad():
        place, mask = model.found(batch, model.fields.target(batch))
        for b in range(len(batch)):
            assert place[b][mask[b]].tolist() == kept(model, batch, b)
        assert torch.allclose(model.logits(batch), clicks.together(model, batch, by_hand(model, batch)), atol=1e-6)


@given(st.integers(1, 200), st.integers(0, 999))
def test_packed_codes_differ_in_as_many_bits(bits, seed):
    drawn = torch.rand(2, 5, bits, generator=torch.Generator().manual_seed(seed)) < 0.5
    words = packed(drawn)
    assert words.shape == (2, 5, -(-bits // 64))
    assert torch.equal(differing(words[0], words[1]), (drawn[0] != drawn[1]).sum(-1))
    assert differing(packed(drawn[0]), packed(~drawn[0])).tolist() == [bits] * 5


def test_equal_distances_go_to_the_more_recent():
    model = clicks.model(CARD, kept=3)
    batch = clicks.batch(1)
    same = clicks.changed(batch, behaviours=batch.behaviours[:1].expand(len(batch.behaviours), -1))
    place, mask = model.found(same, model.fields.target(same))
    for b in range(len(batch)):
        assert place[b][mask[b]].tolist() == clicks.seen(batch, b)[::-1][:3]


def test_distance_estimates_the_angle():
    """The share of differing bits is theta / pi within three standard errors."""
    bits = 4096
    hashed = SimHash(6, bits, torch.Generator().manual_seed(1))
    drawn = torch.randn(40, 6, generator=torch.Generator().manual_seed(2))
    for one, other in zip(drawn[::2], drawn[1::2], strict=True):
        share = math.acos(float(one @ other / one.norm() / other.norm())) / math.pi
        far = int(differing(packed(hashed(one)), packed(hashed(other)))) / bits
        assert abs(far - share) < 3 * math.sqrt(share * (1 - share) / bits)


def test_codes_know_directions_only():
    hashed = SimHash(6, 50, torch.Generator().manual_seed(1))
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(2))
    assert torch.equal(hashed(x), hashed(4 * x))
    assert not differing(packed(hashed(x)), packed(hashed(x))).any()
    assert differing(packed(hashed(x)), packed(hashed(-x))).tolist() == [50] * 20
    assert hashed(torch.zeros(6)).all()


def test_planes_are_saved_and_never_learn():
    """They are a function of their own seed, whatever the weights were drawn from."""
    one, other = clicks.model(CARD, seed=1), clicks.model(CARD, seed=2)
    assert torch.equal(one.hash.planes, other.hash.planes)
    assert not torch.equal(one.hash.planes, clicks.model(CARD, hash_seed=1).hash.planes)
    assert "hash.planes" in one.state_dict()
    assert "hash.planes" not in dict(one.named_parameters())
    before = one.hash.planes.clone()
    one.loss(clicks.batch(1))["click"].backward()
    assert one.hash.planes.grad is None
    assert torch.equal(one.hash.planes, before)


def test_only_what_is_kept_learns():
    model = clicks.model(CARD, kept=1, short="none").train()
    batch = clicks.batch(7, B=30)
    place, mask = model.found(batch, model.fields.target(batch))
    expected = set(batch.behaviours[place[mask], 0].tolist()) | set(batch.target[:, 0].tolist())
    model.loss(batch)["click"].backward()
    assert set(model.fields.table.weight.grad[:20].any(1).nonzero()[:, 0].tolist()) == expected


def test_padding_and_company_are_irrelevant():
    model = clicks.model(CARD).eval()
    batch = clicks.batch(8)
    whole = model.logits(batch)
    assert whole.isfinite().all()
    assert torch.allclose(model.logits(clicks.padded(batch)), whole, atol=1e-9)
    for b in range(len(batch)):
        assert torch.allclose(model.logits(clicks.alone(batch, b)), whole[b], atol=1e-9)


def test_row_sparse_gradients_are_the_dense_ones():
    clicks.sparse_as_dense(clicks.model(CARD), clicks.batch(11))
