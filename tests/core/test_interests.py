import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from diffacet.core.interests import SelfAttentive, prune, select, thin
from reference import normal


def extractor(dim=6, interests=3, length=7, seed=0):
    torch.manual_seed(seed)
    return SelfAttentive(dim, interests, length).double()


def histories(counts, length, dim, seed=0):
    """(B, L, d) rows that are zero at padding, and the mask."""
    mask = torch.arange(length) < torch.tensor(counts).unsqueeze(1)
    return normal(len(counts), length, dim, seed=seed) * mask.unsqueeze(-1), mask


def test_self_attention_equals_its_loop():
    extract = extractor()
    embedded, mask = histories([7, 1, 4, 0, 2], 7, 6)
    interests, attention = extract(embedded, mask)
    expected = reference.self_attentive(embedded, mask, extract.inner, extract.outer, extract.position[0])
    assert torch.allclose(interests, expected[0], atol=1e-12)
    assert torch.allclose(attention, expected[1], atol=1e-12)


def test_attention_is_a_distribution_over_real_positions():
    embedded, mask = histories([7, 1, 4, 0, 2], 7, 6)
    interests, attention = extractor()(embedded, mask)
    assert torch.allclose(attention.sum(-1), mask.any(-1).double().unsqueeze(-1).expand(-1, 3))
    assert (attention >= 0).all()
    assert (attention[~mask.unsqueeze(1).expand_as(attention)] == 0).all()
    # One real item: every interest is that item; between several: in their box.
    assert torch.allclose(interests[1], embedded[1, 0].expand(3, -1))
    for b in (0, 2, 4):
        rows = embedded[b][mask[b]]
        assert (interests[b] >= rows.amin(0) - 1e-12).all()
        assert (interests[b] <= rows.amax(0) + 1e-12).all()


@pytest.mark.parametrize("length", [4, 5, 7])
def test_more_padding_and_what_it_holds_change_nothing(length):
    extract = extractor()
    embedded, mask = histories([3, 1, 4], 4, 6)
    expected = extract(embedded, mask)
    wider = torch.full((3, length, 6), 1e6, dtype=torch.float64)
    wider[:, :4] = torch.where(mask.unsqueeze(-1), embedded, 1e6)
    wide_mask = torch.zeros(3, length, dtype=torch.bool)
    wide_mask[:, :4] = mask
    interests, attention = extract(wider, wide_mask)
    assert torch.allclose(interests, expected[0], atol=1e-12)
    assert torch.allclose(attention[..., :4], expected[1], atol=1e-12)
    assert (attention[..., 4:] == 0).all()


def test_an_empty_history_is_zero_and_harms_no_gradient():
    extract = extractor()
    embedded, mask = histories([0, 3], 7, 6)
    embedded.requires_grad_()
    interests, attention = extract(embedded, mask)
    assert torch.equal(interests[0], torch.zeros(3, 6))
    assert torch.equal(attention[0], torch.zeros(3, 7))
    (interests.square().sum() + attention.square().sum()).backward()
    for gradient in (embedded.grad, extract.inner.grad, extract.outer.grad, extract.position.grad):
        assert gradient.isfinite().all()
    assert (embedded.grad[0] == 0).all()
    assert (extract.inner.grad != 0).any()
    empty, none = extract(*histories([0, 0], 7, 6))
    assert (empty == 0).all()
    assert (none == 0).all()


def test_extreme_logits_stay_finite():
    extract = extractor()
    with torch.no_grad():
        extract.outer.mul_(1e4)
    _, attention = extract(*histories([7, 2], 7, 6))
    assert attention.isfinite().all()
    assert torch.allclose(attention.sum(-1), torch.ones(2, 3, dtype=torch.float64))


def test_position_enters_the_attention_and_not_the_values():
    extract = extractor()
    embedded, mask = histories([5], 7, 6)
    interests, attention = extract(embedded, mask)
    assert torch.allclose(interests, attention @ embedded)
    turned, other = extract(embedded[:, [4, 3, 2, 1, 0, 5, 6]], mask)
    assert not torch.allclose(turned, interests)
    with torch.no_grad():
        extract.position.zero_()
    turned, other = extract(embedded[:, [4, 3, 2, 1, 0, 5, 6]], mask)
    plain, attention = extract(embedded, mask)
    assert torch.allclose(turned, plain)
    assert torch.allclose(other[..., [4, 3, 2, 1, 0]], attention[..., :5])


def test_gradients_of_the_extractor():
    extract = extractor(3, 2, 4)
    embedded, mask = histories([4, 2], 4, 3)
    parameters = [p.detach().requires_grad_() for p in extract.parameters()]

    def run(embedded, *values):
        named = dict(zip(dict(extract.named_parameters()), values, strict=True))
        return torch.func.functional_call(extract, named, (embedded, mask))

    assert torch.autograd.gradcheck(run, (embedded.requires_grad_(), *parameters))


# --- selection (P21) -------------------------------------------------------------------------------------------


def test_selection_equals_its_loop():
    interests, target = normal(20, 4, 3), normal(20, 3)
    chosen, best = select(interests, target)
    for b in range(20):
        products = [float(interests[b, k] @ target[b]) for k in range(4)]
        assert best[b] == products.index(max(products))
        assert torch.equal(chosen[b], interests[b, best[b]])


def test_selection_takes_the_lowest_index_of_a_tie():
    interests = torch.tensor([[[1.0, 0.0], [2.0, 5.0], [2.0, -5.0], [2.0, 0.0]], [[0.0, 0.0]] * 4])
    assert select(interests, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))[1].tolist() == [1, 0]


def test_gradient_reaches_only_the_chosen_interest():
    interests, target = normal(6, 4, 3).requires_grad_(), normal(6, 3).requires_grad_()
    chosen, best = select(interests, target)
    assert not best.requires_grad
    (chosen * torch.arange(1.0, 4)).sum().backward()
    expected = torch.zeros(6, 4, 3, dtype=torch.float64)
    expected[torch.arange(6), best] = torch.arange(1.0, 4, dtype=torch.float64)
    assert torch.equal(interests.grad, expected)
    assert target.grad is None


# --- pruning (P12) ---------------------------------------------------------------------------------------------


def test_kept_count_is_that_of_whole_numbers():
    for n in range(51):
        mask = torch.arange(50) < n
        for tenths in range(1, 11):
            for attention in (normal(50), normal(50, dtype=torch.float32)):
                assert prune(attention, mask, tenths / 10).sum() == reference.kept_count(tenths, n)


def test_kept_count_does_not_suffer_from_rounding():
    """0.14 * 50 is 7.000000000000001 and 0.55 * 100 is 55.00000000000001; hundredths, also in float32's reach."""
    for n in (7, 25, 50, 60, 100):
        mask = torch.ones(n, dtype=torch.bool)
        for hundredths in range(1, 101):
            expected = reference.kept_count(hundredths, n, 100)
            assert prune(normal(n), mask, hundredths / 100).sum() == expected


@settings(max_examples=150)
@given(
    values=st.lists(st.sampled_from([0.0, 1e-45, 0.1, 0.25, 0.5, 1.0]), min_size=1, max_size=12),
    real=st.integers(0, 12),
    tenths=st.integers(1, 10),
    less=st.integers(1, 10),
)
def test_kept_positions(values, real, tenths, less):
    attention = torch.tensor(values)
    mask = torch.arange(len(values)) < real
    kept = prune(attention, mask, tenths / 10)
    assert set(kept.nonzero()[:, 0].tolist()) == reference.prune(attention, mask, tenths)
    assert (kept <= mask).all()
    if kept.any() and (mask & ~kept).any():
        assert attention[kept].min() >= attention[mask & ~kept].max()
    fewer = prune(attention, mask, min(less, tenths) / 10)
    assert (fewer <= kept).all()
    if tenths == 10:
        assert torch.equal(kept, mask)


def test_pruning_is_row_by_row_and_ignores_holes():
    attention, mask = normal(4, 3, 9), torch.rand(4, 1, 9, generator=torch.Generator().manual_seed(0)) < 0.6
    mask = mask.expand(4, 3, 9)
    together = prune(attention, mask, 0.5)
    for b in range(4):
        for k in range(3):
            alone = prune(attention[b, k], mask[b, k], 0.5)
            assert torch.equal(together[b, k], alone)
            assert set(alone.nonzero()[:, 0].tolist()) == reference.prune(attention[b, k], mask[b, k], 5)


def test_pruning_of_an_attention_that_underflows_keeps_no_padding():
    attention = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    assert prune(attention, torch.tensor([True] * 4 + [False] * 2), 1.0).tolist() == [True] * 4 + [False] * 2
    assert prune(attention, torch.tensor([True] * 4 + [False] * 2), 0.5).nonzero()[:, 0].tolist() == [0, 2]


def test_pruning_has_no_gradient():
    assert not prune(normal(2, 4).requires_grad_(), torch.ones(2, 4, dtype=torch.bool), 0.5).requires_grad


# --- thinning --------------------------------------------------------------------------------------------------


def test_thinning_leaves_out_a_share_and_never_all():
    torch.manual_seed(0)
    mask = torch.arange(12) < torch.randint(0, 13, (3000, 1))
    thinned = thin(mask, 0.3, True)
    assert (thinned <= mask).all()
    assert torch.equal(thinned.any(-1), mask.any(-1))
    long = mask.sum(-1) >= 8
    kept = thinned[long].sum() / mask[long].sum()
    assert abs(kept.item() - 0.7) < 5 * (0.21 / mask[long].sum().item()) ** 0.5
    assert torch.equal(thin(mask[mask.sum(-1) == 1], 0.9, True), mask[mask.sum(-1) == 1])


def test_no_thinning_draws_nothing():
    mask = torch.ones(2, 3, dtype=torch.bool)
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    assert torch.equal(thin(mask, 0.0, True), mask)
    assert torch.equal(thin(mask, 0.9, False), mask)
    assert torch.equal(torch.rand(2), expected)
