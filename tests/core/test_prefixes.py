import pytest
import torch

import reference
from diffacet.core.interests import SelfAttentive
from reference import normal

L, D, K = 6, 5, 3
HOLES = torch.tensor(
    [[1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1], [1, 1, 1, 0, 0, 0], [0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]]
).bool()
each_recency = pytest.mark.parametrize("recency", [False, True])


def extractor(recency, seed=0):
    torch.manual_seed(seed)
    made = SelfAttentive(D, K, L, recency=recency).double()
    if recency:
        with torch.no_grad():
            made.recency.copy_(normal(L, K, seed=seed))
    return made


def embedded(mask=HOLES, seed=0):
    """Vectors also where the mask is false: nothing may read them."""
    return normal(*mask.shape, D, seed=seed)


@each_recency
def test_every_prefix_is_the_history_cut_after_it(recency):
    extract, items = extractor(recency), embedded()
    interests, attention = extract.prefixes(items, HOLES)
    assert interests.shape == (len(HOLES), L, K, D)
    assert attention.shape == (len(HOLES), L, K, L)
    compared = 0
    for n in range(L):
        expected = extract(items[:, : n + 1], HOLES[:, : n + 1])
        # Where position n is left out, its age is still 0; without recency that does not matter.
        rows = HOLES[:, n] if recency else torch.ones(len(HOLES), dtype=torch.bool)
        assert torch.allclose(interests[rows, n], expected[0][rows], atol=1e-12)
        assert torch.allclose(attention[rows, n][..., : n + 1], expected[1][rows], atol=1e-12)
        assert not attention[:, n, :, n + 1 :].any()
        compared += int(rows.sum())
    assert compared == (int(HOLES.sum()) if recency else HOLES.numel())


@each_recency
def test_prefixes_are_their_loop(recency):
    """Softmax over the real items up to n of W_2 tanh(W_1 (h + p)) and, with recency, a logit for the age n - j."""
    extract, items = extractor(recency), embedded()
    interests, attention = extract.prefixes(items, HOLES)
    for b, row in enumerate(HOLES):
        for n in range(L):
            real = [j for j in range(n + 1) if row[j]]
            logits = {}
            for j in real:
                hidden = torch.tanh(extract.inner @ (items[b, j] + extract.position[0, j]))
                logits[j] = extract.outer @ hidden + (extract.recency[n - j] if recency else 0)
            total = sum(logit.exp() for logit in logits.values())
            mean = torch.zeros(K, D, dtype=torch.float64)
            for j in real:
                share = logits[j].exp() / total
                mean = mean + share.unsqueeze(1) * items[b, j]
                assert torch.allclose(attention[b, n, :, j], share, atol=1e-12)
            assert torch.allclose(interests[b, n], mean, atol=1e-12)


@each_recency
def test_a_prefix_without_items_is_zero_and_harms_no_gradient(recency):
    extract, items = extractor(recency), embedded().requires_grad_()
    interests, attention = extract.prefixes(items, HOLES)
    assert not interests[3, 0].any()
    assert not attention[3, 0].any()
    assert not interests[4].any()
    (interests.square().sum() + attention.square().sum()).backward()
    for gradient in (items.grad, *(parameter.grad for parameter in extract.parameters())):
        assert gradient.isfinite().all()
        assert gradient.any()
    assert not items.grad[~HOLES].any()


@each_recency
def test_a_narrow_history_is_a_wide_one_with_padding(recency):
    extract, items = extractor(recency), embedded()
    wide = extract.prefixes(items, HOLES & (torch.arange(L) < 3))
    narrow = extract.prefixes(items[:, :3], HOLES[:, :3])
    assert torch.allclose(wide[0][:, :3], narrow[0], atol=1e-12)
    assert torch.allclose(wide[1][:, :3, :, :3], narrow[1], atol=1e-12)


def test_without_recency_it_is_the_published_extractor():
    plain, ours = extractor(recency=False), extractor(recency=True)
    assert set(dict(plain.named_parameters())) == {"inner", "outer", "position"}
    with torch.no_grad():
        ours.recency.zero_()
    items = embedded()
    assert torch.equal(plain(items, HOLES)[0], ours(items, HOLES)[0])
    expected = reference.self_attentive(items, HOLES, plain.inner, plain.outer, plain.position[0])
    assert torch.allclose(plain(items, HOLES)[0], expected[0], atol=1e-12)


def test_recency_is_about_age_and_not_place():
    """With nothing but recency the attention of equal items is a softmax over ages, wherever the history ends."""
    extract = extractor(recency=True)
    with torch.no_grad():
        extract.outer.zero_()
    for n in range(1, L + 1):
        mask = torch.arange(L).unsqueeze(0) < n
        _, attention = extract(embedded(mask), mask)
        expected = extract.recency[:n].flip(0).softmax(0)  # (n, K), the oldest first
        assert torch.allclose(attention[0, :, :n], expected.T, atol=1e-12)


def test_recency_starts_as_nothing():
    assert not SelfAttentive(D, K, L, recency=True).recency.any()
