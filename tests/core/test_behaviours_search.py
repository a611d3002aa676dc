"""Which behaviours are kept: exact orders, and codes of random hyperplanes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffacet.core.behaviours import SimHash, newest, ordered, products, top
from reference import normal

SCORES = st.one_of(
    st.floats(width=32, allow_nan=False),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, 1e-45, -1e-45]),
)
WHOLE = st.integers(-(2**31) + 1, 2**31 - 1)


def tables(values):
    """Rows of (value, mask, group) of equal width."""
    cell = st.tuples(values, st.booleans(), st.sampled_from([0, 1, 2, 126]))
    return st.integers(1, 8).flatmap(
        lambda width: st.lists(st.lists(cell, min_size=width, max_size=width), min_size=1, max_size=4)
    )


def written_out(row):
    """Positions by group, falling score, the more recent first; what is masked last, by the same rule."""
    key = {p: (group if mask else 127, -value, -p) for p, (value, mask, group) in enumerate(row)}
    order = sorted(key, key=key.__getitem__)
    return order, [key[p][0] for p in order]


def columns(rows, dtype):
    part = [list(zip(*row, strict=True)) for row in rows]
    score = torch.tensor([p[0] for p in part], dtype=dtype)
    return score, torch.tensor([p[1] for p in part]), torch.tensor([p[2] for p in part])


@given(tables(SCORES))
def test_order_equals_its_loop(rows):
    position, group = ordered(*columns(rows, torch.float32))
    for row, positions, groups in zip(rows, position.tolist(), group.tolist(), strict=True):
        assert (positions, groups) == written_out(row)


@given(tables(WHOLE))
def test_order_of_whole_numbers_is_exact(rows):
    score, mask, group = columns(rows, torch.int64)
    position, groups = ordered(score, mask, group)
    expected = [written_out(row) for row in rows]
    assert position.tolist() == [order for order, _ in expected]
    assert groups.tolist() == [told for _, told in expected]
    assert torch.equal(ordered(score.int(), mask, group)[0], position)


@given(tables(SCORES), st.integers(1, 9))
def test_the_top_equals_its_loop(rows, k):
    score, mask, _ = columns(rows, torch.float32)
    position, there = top(score, mask, k)
    for row, positions, real in zip(rows, position.tolist(), there.tolist(), strict=True):
        kept = sorted((p for p, (_, m, _) in enumerate(row) if m), key=lambda p: (-row[p][0], -p))[:k]
        assert real == [n < len(kept) for n in range(min(k, len(row)))]
        assert positions[: len(kept)] == kept


@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=4), st.integers(1, 8))
def test_the_newest_equal_their_loop(rows, k):
    position, there = newest(torch.tensor(rows), k)
    for row, positions, real in zip(rows, position.tolist(), there.tolist(), strict=True):
        kept = [p for p in range(5, -1, -1) if row[p]][:k]
        assert real == [n < len(kept) for n in range(min(k, 6))]
        assert positions[: len(kept)] == kept
        assert all(0 <= p < 6 for p in positions)


def test_negative_scores_go_before_padding():
    """A score of zero for padding would beat them."""
    score = torch.tensor([[-3.0, 0.0, -1.0, 0.0]])
    mask = torch.tensor([[True, False, True, False]])
    position, there = top(score, mask, 3)
    assert position[0, :2].tolist() == [2, 0]
    assert there.tolist() == [[True, True, False]]


def test_zeros_of_both_signs_are_equal():
    score = torch.tensor([[0.0, -0.0, 0.0, -0.0]])
    assert ordered(score, torch.ones(1, 4, dtype=torch.bool))[0].tolist() == [[3, 2, 1, 0]]


def test_selection_carries_no_gradient_and_leaves_scores_alone():
    score = normal(3, 5).float().requires_grad_()
    before = score.detach().clone()
    mask = torch.ones(3, 5, dtype=torch.bool)
    for position, there in (top(score, mask, 2), ordered(score, mask), newest(mask, 2)):
        assert not position.requires_grad
        assert not there.requires_grad
    assert torch.equal(score, before)


def test_a_wide_window_is_ordered_as_a_stable_sort_does_it():
    score = torch.from_numpy(np.random.default_rng(0).integers(-40, 40, (2, 5_000)))
    mask = torch.from_numpy(np.random.default_rng(1).random((2, 5_000)) < 0.9)
    expected = [np.lexsort((-np.arange(5_000), -s, ~m)) for s, m in zip(score.numpy(), mask.numpy(), strict=True)]
    assert np.array_equal(ordered(score, mask)[0].numpy(), np.stack(expected))
    assert np.array_equal(ordered(score.float(), mask)[0].numpy(), np.stack(expected))


def test_products_are_those_of_a_samples_own_queries():
    embedded, queries = normal(2, 4, 3), normal(2, 5, 3, seed=1)
    found = products(embedded, queries)
    for b in range(2):
        for w in range(4):
            for h in range(5):
                assert float(found[b, w, h]) == pytest.approx(float(embedded[b, w] @ queries[b, h]), abs=1e-12)


# --- codes -----------------------------------------------------------------------------------------------------


def hashes(dim, bits, seed=0):
    return SimHash(dim, bits, torch.Generator().manual_seed(seed))


def test_codes_are_sides_of_hyperplanes_and_the_planes_are_kept_but_not_learned():
    hash_ = hashes(6, 9)
    x = normal(2, 3, 6, dtype=torch.float32).requires_grad_()
    codes = hash_(x)
    assert codes.dtype == torch.bool
    assert codes.shape == (2, 3, 9)
    for i in range(2):
        for j in range(3):
            for bit in range(9):
                product = float(x[i, j].detach().double() @ hash_.planes[:, bit].double())
                assert bool(codes[i, j, bit]) == (product >= 0)
    assert list(hash_.state_dict()) == ["planes"]
    assert not list(hash_.parameters())
    assert not codes.requires_grad
    assert torch.equal(hashes(6, 9).planes, hash_.planes)
    assert not torch.equal(hashes(6, 9, 1).planes, hash_.planes)


def test_codes_know_directions_only():
    hash_, x = hashes(8, 64), normal(50, 8, dtype=torch.float32)
    codes = hash_(x)
    for scale in (2.0**-20, 0.5, 4.0, 2.0**30):  # powers of two, which no rounding disturbs
        assert torch.equal(hash_(x * scale), codes)
    assert torch.equal(hash_(-x), ~codes)
    assert hash_(torch.zeros(3, 8)).all()
    assert hash_(-torch.zeros(3, 8)).all()


@pytest.mark.parametrize("degrees", [5, 30, 60, 90, 120, 175])
def test_bits_differ_as_often_as_the_angle_says(degrees):
    bits, angle = 4096, math.radians(degrees)
    hash_ = hashes(5, bits, degrees)
    basis = torch.linalg.qr(normal(5, 2, seed=degrees)).Q.float()
    x = basis[:, 0]
    y = 3 * (math.cos(angle) * basis[:, 0] + math.sin(angle) * basis[:, 1])
    share = angle / math.pi
    found = float((hash_(x) != hash_(y)).double().mean())
    assert abs(found - share) < 3 * math.sqrt(share * (1 - share) / bits)
