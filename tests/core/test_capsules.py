import math

import pytest
import torch

from diffacet.core.interests import DynamicRouting
from diffacet.core.interests.capsules import route, squash, weigh
from reference import normal

D, K, L = 5, 3, 7
ROUTINGS = pytest.mark.parametrize("routing", ["capsules", "positions"])
MAPS = pytest.mark.parametrize("own_maps", [False, True], ids=["shared", "own"])


def extractor(dim=D, interests=K, length=L, **settings):
    torch.manual_seed(0)
    made = DynamicRouting(dim, interests, length, **settings).double()
    with torch.no_grad():
        made.map.mul_(1 / made.map.std() / math.sqrt(dim))  # as large as after training: routing then decides
    return made.eval()


def histories(counts, length=L, dim=D):
    mask = torch.arange(length) < torch.tensor(counts).unsqueeze(1)
    return normal(len(counts), length, dim), mask


@torch.no_grad()
def loop(embedded, mask, maps, logits, routing, iterations):
    """Dynamic routing of one history, one number at a time: maps[k][j] is a matrix; logits a list of K lists."""
    K, L = len(maps), len(mask)
    zero = torch.zeros(len(embedded[0]), dtype=torch.float64)
    mapped = [[maps[k][j] @ embedded[j] if mask[j] else zero for j in range(L)] for k in range(K)]
    b = [[float(value) for value in row] for row in logits]
    for iteration in range(iterations):
        w = [[0.0] * L for _ in range(K)]
        for k in range(K):
            for j in range(L):
                if mask[j]:
                    rivals = [b[i][j] for i in range(K)] if routing == "capsules" else b[k]
                    w[k][j] = math.exp(b[k][j]) / sum(math.exp(rival) for rival in rivals)
        capsules = []
        for k in range(K):
            s = sum((w[k][j] * mapped[k][j] for j in range(L)), zero)
            norm2 = float(s @ s)
            capsules.append(norm2 / (1 + norm2) * s / math.sqrt(norm2 + 1e-9))
        if iteration < iterations - 1:
            for k in range(K):
                for j in range(L):
                    b[k][j] += float(mapped[k][j] @ capsules[k])
    return torch.stack(capsules), torch.tensor(w, dtype=torch.float64)


def matrices(extract):
    """maps[k][j] of an extractor."""
    if not extract.own_maps:
        return [[extract.map.detach()] * extract.length for _ in range(extract.interests)]
    own = extract.map.detach()[0].unflatten(1, (extract.interests, -1))  # (L, K, d, d)
    return [[own[j, k] for j in range(extract.length)] for k in range(extract.interests)]


@ROUTINGS
@MAPS
@pytest.mark.parametrize("iterations", [1, 2, 3])
@pytest.mark.parametrize("random_start", [False, True])
def test_routing_equals_its_loop(routing, own_maps, iterations, random_start):
    extract = extractor(routing=routing, own_maps=own_maps, iterations=iterations, random_start=random_start)
    embedded, mask = histories([7, 1, 4, 0, 2])
    mask[2] = torch.tensor([True, False, True, True, False, True, False])  # a history with holes
    interests, attention = extract(embedded, mask)
    raw, logits = route(extract.mapped(embedded, mask), mask, extract.start, routing, iterations)
    weights = weigh(logits, mask, routing)
    assert torch.equal(interests, raw)
    for b in range(5):
        expected, w = loop(embedded[b], mask[b], matrices(extract), extract.start[0], routing, iterations)
        assert torch.allclose(interests[b], expected, atol=1e-12)
        assert torch.allclose(weights[b], w, atol=1e-12)
        total = w.sum(-1, keepdim=True)
        assert torch.allclose(attention[b], torch.where(total > 0, w / total, 0.0), atol=1e-12)


@MAPS
def test_weights_over_capsules_sum_to_one_at_each_real_position(own_maps):
    extract = extractor(own_maps=own_maps, random_start=True)
    embedded, mask = histories([7, 1, 4, 0, 2])
    _, logits = route(extract.mapped(embedded, mask), mask, extract.start, "capsules", 3)
    assert torch.allclose(weigh(logits, mask, "capsules").sum(1), mask.double())
    share = weigh(logits, mask, "positions").sum(-1)
    assert torch.allclose(share[0], torch.ones(K, dtype=torch.float64))
    assert (share[1:] < 1).all()  # padding is in the denominator


@ROUTINGS
@MAPS
def test_attention_is_a_distribution_over_real_positions(routing, own_maps):
    extract = extractor(routing=routing, own_maps=own_maps, random_start=True)
    embedded, mask = histories([7, 1, 4, 0, 2])
    interests, attention = extract(1e3 * embedded, mask)
    assert torch.allclose(attention.sum(-1), mask.any(-1).double().unsqueeze(-1).expand(-1, K))
    assert (attention >= 0).all()
    assert (attention[~mask.unsqueeze(1).expand_as(attention)] == 0).all()
    assert (interests.norm(dim=-1) <= 1).all()
    assert torch.equal(interests[3], torch.zeros(K, D))


@ROUTINGS
@MAPS
@pytest.mark.parametrize("width", [4, 5, 7])
def test_more_padding_and_what_it_holds_change_nothing(routing, own_maps, width):
    extract = extractor(routing=routing, own_maps=own_maps, random_start=True)
    embedded, mask = histories([3, 1, 4], 4)
    expected = extract(embedded, mask)
    wider = torch.full((3, width, D), 1e6, dtype=torch.float64)
    wider[:, :4] = torch.where(mask.unsqueeze(-1), embedded, 1e6)
    wide_mask = torch.zeros(3, width, dtype=torch.bool)
    wide_mask[:, :4] = mask
    interests, attention = extract(wider, wide_mask)
    assert attention.shape == (3, K, width)
    assert torch.allclose(interests, expected[0], atol=1e-12)
    assert torch.allclose(attention[..., :4], expected[1], atol=1e-12)


def test_one_interest_and_identity_maps_squash_the_sum():
    extract = extractor(interests=1, own_maps=True)
    with torch.no_grad():
        extract.map.copy_(torch.eye(D).expand_as(extract.map))
    embedded, mask = histories([7, 1, 4, 0])
    interests, attention = extract(embedded, mask)
    total = (embedded * mask.unsqueeze(-1)).sum(1)
    assert torch.allclose(interests[:, 0], squash(total))
    count = mask.sum(-1, keepdim=True).clamp(min=1)
    assert torch.allclose(attention[:, 0], mask.double() / count)  # every item belongs to the one capsule


@ROUTINGS
@MAPS
def test_gradient_is_that_of_the_last_pass(routing, own_maps):
    """With its weights as constants the last pass alone has the same gradient; the passes before have none."""
    extract = extractor(routing=routing, own_maps=own_maps, random_start=True)
    embedded, mask = histories([7, 1, 4, 0, 2])
    direction = normal(5, K, D, seed=1)
    one, other = (embedded.clone().requires_grad_() for _ in range(2))
    interests, attention = extract(one, mask)
    assert not attention.requires_grad
    (interests * direction).sum().backward()
    found, extract.map.grad = extract.map.grad, None
    mapped = extract.mapped(other, mask)
    weights = weigh(route(mapped, mask, extract.start, routing, 3)[1], mask, routing)
    assert not weights.requires_grad
    mapped = mapped.expand(-1, K, -1, -1)
    (squash(torch.einsum("bkl,bkld->bkd", weights, mapped)) * direction).sum().backward()
    assert found.isfinite().all()
    assert found.any()
    assert torch.allclose(extract.map.grad, found, atol=1e-12)
    assert torch.allclose(other.grad, one.grad, atol=1e-12)
    assert (one.grad[~mask] == 0).all()


def test_logits_are_drawn_in_training_and_fixed_in_evaluation():
    extract = extractor(random_start=True)
    embedded, mask = histories([7, 4])
    first, again = extract(embedded, mask)[0], extract(embedded, mask)[0]
    assert torch.equal(first, again)
    extract.train()
    torch.manual_seed(1)
    drawn, other = extract(embedded, mask)[0], extract(embedded, mask)[0]
    assert not torch.allclose(drawn, other)
    torch.manual_seed(1)
    assert torch.equal(extract(embedded, mask)[0], drawn)
    same = normal(1, 4, D).expand(2, -1, -1)
    alike = extract(same, torch.ones(2, 4, dtype=torch.bool))[0]
    assert not torch.allclose(alike[0], alike[1])  # each history has its own
    assert "start" in extract.state_dict()


def test_routing_that_starts_at_zero_draws_nothing():
    extract = extractor(own_maps=True).train()
    embedded, mask = histories([7, 4])
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    first = extract(embedded, mask)[0]
    assert torch.equal(torch.rand(2), expected)
    assert torch.allclose(extract.eval()(embedded, mask)[0], first)
    assert not extract.start.any()


def test_shared_maps_without_a_random_start_cannot_tell_capsules_apart():
    """Why MIND draws its logits: equal logits and one map make K equal capsules."""
    interests, _ = extractor()(*histories([7, 4]))
    assert torch.allclose(interests, interests[:, :1].expand(-1, K, -1))


def test_squash_has_the_direction_and_the_length():
    x = torch.tensor([[3.0, 4.0], [0.3, -0.4]], dtype=torch.float64)
    assert torch.allclose(squash(x), torch.stack([x[0] / 5 * 25 / 26, x[1] / 0.5 * 0.25 / 1.25]))
    zero = torch.zeros(3, requires_grad=True)
    squash(zero).sum().backward()
    assert torch.equal(zero.grad, torch.zeros(3))
    x = normal(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(squash, x)


def test_initial_deviations():
    torch.manual_seed(0)
    shared, own = DynamicRouting(64, 4, 20), DynamicRouting(64, 4, 20, own_maps=True)
    assert shared.map.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.05)
    assert own.map.shape == (1, 20, 256, 64)
    assert own.map.std().item() == pytest.approx(math.sqrt(2 / (20 * 4 * 64 * 64)), rel=0.05)
