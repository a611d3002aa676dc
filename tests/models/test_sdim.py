"""SDIM against its equations in loops: buckets, directions, the table of serving, and the kernel that it samples."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import clicks
from diffacet.core.behaviours import SimHash
from diffacet.core.behaviours.hashing import bucket_sums, mean_direction, signatures
from diffacet.errors import BadSetting
from diffacet.models.sdim import CARDS, SDIMConfig

CARD = CARDS[0]


def signature(model, x):
    """The bits of each group of hyperplanes as a tuple."""
    bits, w = [bool(x @ column >= 0) for column in model.hash.planes.T], model.config.width
    return [tuple(bits[g : g + w]) for g in range(0, len(bits), w)]


def by_hand(model, batch):
    """(B, d): for each group the direction of the sum of what shares the target's bucket; their mean."""
    told = []
    for b in range(len(batch)):
        asked = signature(model, clicks.embedding(model.fields, batch.target[b]))
        rows = [clicks.embedding(model.fields, batch.behaviours[i]) for i in clicks.seen(batch, b)]
        own = [signature(model, row) for row in rows]
        total = torch.zeros(model.fields.width, dtype=torch.float64)
        for g in range(len(asked)):
            v = sum((E for E, sig in zip(rows, own, strict=True) if sig[g] == asked[g]), torch.zeros_like(total))
            total = total + (v / v.norm() if v.any() else v)
        told.append(total / len(asked))
    return torch.stack(told)


@pytest.mark.parametrize("changes", [{}, {"hashes": 10, "width": 5}, {"width": 1}])
@settings(max_examples=10)
@given(seed=st.integers(0, 999))
def test_equals_the_loop(changes, seed):
    model = clicks.model(CARD, seed=seed, **changes).eval()
    batch = clicks.batch(seed)
    with torch.no_grad():
        assert torch.allclose(mean_direction(model.shared(batch, model.fields.target(batch))), by_hand(model, batch))
        assert torch.allclose(model.logits(batch), clicks.together(model, batch, by_hand(model, batch)), atol=1e-6)


@settings(max_examples=15)
@given(seed=st.integers(0, 999), cut=st.integers(0, 9))
def test_the_table_equals_the_behaviours_and_grows_with_them(seed, cut):
    model = clicks.model(CARD, seed=seed, hashes=12).eval()
    batch = clicks.batch(seed)
    with torch.no_grad():
        target = model.fields.target(batch)
        direct = mean_direction(model.shared(batch, target))
        for b in range(len(batch)):
            own = batch.behaviours[int(batch.start[b]) : int(batch.end[b])]
            table = model.table(own)
            assert table.shape == (4, 8, model.fields.width)
            assert torch.allclose(model.served(table, target[b : b + 1])[0], direct[b], atol=1e-9)
            grown = model.table(own[cut:], before=model.table(own[:cut]))
            assert torch.allclose(grown, table, atol=1e-9)
            one_by_one = model.table(own[:0])
            for row in own:
                one_by_one = model.table(row.unsqueeze(0), before=one_by_one)
            assert torch.allclose(one_by_one, table, atol=1e-9)


def test_many_groups_tend_to_the_kernel():
    """The mean of the sums, not yet made directions, is the sum of (1 - theta / pi)^w E_i."""
    width, groups = 3, 20_000
    generator = torch.Generator().manual_seed(3)
    hashed = SimHash(5, width * groups, generator).double()
    E, target = torch.randn(4, 5, generator=generator).double(), torch.randn(5, generator=generator).double()
    table = bucket_sums(signatures(hashed(E), width), E, 2**width)
    mean = table[torch.arange(groups), signatures(hashed(target), width)].mean(0)
    expected = torch.zeros(5, dtype=torch.float64)
    for row in E:
        share = 1 - math.acos(float(row @ target / row.norm() / target.norm())) / math.pi
        expected += share**width * row
    # The deviation of a mean of 20,000 zeros and ones is below 0.0036; of four rows, each times a length of about 2.
    assert (mean - expected).abs().max() < 0.04


def test_one_bucket_is_the_direction_of_the_sum():
    """Hyperplanes on whose one side everything lies tell nothing apart."""
    model = clicks.model(CARD).eval()
    model.hash.planes.zero_()
    batch = clicks.batch(2)
    told = mean_direction(model.shared(batch, model.fields.target(batch)))
    for b in range(len(batch)):
        rows = [clicks.embedding(model.fields, batch.behaviours[i]) for i in clicks.seen(batch, b)]
        whole = sum(rows, torch.zeros(model.fields.width, dtype=torch.float64))
        assert torch.allclose(told[b], whole / whole.norm() if rows else whole)


def test_order_is_irrelevant_without_the_short_term_branch():
    model = clicks.model(CARD, short="none").eval()
    batch = clicks.batch(5)
    b = int(batch.lengths.argmax())
    turned = batch.behaviours.clone()
    rows = slice(int(batch.start[b]), int(batch.end[b]))
    turned[rows] = batch.behaviours[rows].flip(0)
    other = clicks.changed(batch, behaviours=turned)
    assert torch.allclose(model.logits(other)[b], model.logits(batch)[b], atol=1e-9)


def test_gradient_flows_through_sums_of_shared_buckets_only():
    model = clicks.model(CARD, short="none", hashes=6, width=6).train()
    batch = clicks.batch(7, B=30)
    model.loss(batch)["click"].backward()
    expected = set(batch.target[:, 0].tolist())
    for b in range(30):
        asked = signature(model, clicks.embedding(model.fields, batch.target[b]))
        for i in clicks.seen(batch, b):
            if signature(model, clicks.embedding(model.fields, batch.behaviours[i])) == asked:
                expected.add(int(batch.behaviours[i, 0]))
    assert set(model.fields.table.weight.grad[:20].any(1).nonzero()[:, 0].tolist()) == expected
    assert model.fields.table.weight.grad.isfinite().all()
    assert "hash.planes" not in dict(model.named_parameters())


def test_nothing_shared_is_zero_and_harmless():
    sums = torch.zeros(2, 3, 4, requires_grad=True)
    told = mean_direction(sums)
    assert not told.any()
    told.sum().backward()
    assert sums.grad.isfinite().all()
    batch = clicks.batch(9)
    model = clicks.model(CARD).train()
    model.loss(clicks.changed(batch, end=batch.start))["click"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_padding_and_company_are_irrelevant():
    model = clicks.model(CARD).eval()
    batch = clicks.batch(8)
    whole = model.logits(batch)
    assert torch.allclose(model.logits(clicks.padded(batch)), whole, atol=1e-9)
    for b in range(len(batch)):
        assert torch.allclose(model.logits(clicks.alone(batch, b)), whole[b], atol=1e-9)


def test_windows_change_nothing(monkeypatch):
    batch, found = clicks.batch(2, B=12), []
    for small in (False, True):
        model = clicks.model(CARD).eval()
        if small:
            clicks.in_small_windows(monkeypatch)
        loss = model.loss(batch)["click"]
        loss.backward()
        found.append([loss, *(p.grad for p in model.parameters())])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-9)


def test_hashes_are_whole_groups():
    assert SDIMConfig().hashes // SDIMConfig().width == 16
    with pytest.raises(BadSetting, match="multiple of width=5"):
        SDIMConfig(width=5)


def test_row_sparse_gradients_are_the_dense_ones(monkeypatch):
    clicks.in_small_windows(monkeypatch)
    clicks.sparse_as_dense(clicks.model(CARD), clicks.batch(11))
