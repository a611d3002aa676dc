import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from diffacet.core.interests import StarGraph
from diffacet.core.interests.star import IntervalEmbedding, StarBlock
from reference import normal

K, L, D, SPAN, DAY = 3, 6, 8, 5, 86_400
COUNTS = [6, 1, 3, 0, 2]


def extractor(seed=0, **changes):
    torch.manual_seed(seed)
    extract = StarGraph(**{"dim": D, "interests": K, "length": L, "span": SPAN, "heads": 2, **changes})
    return shaken(extract).double().eval()


def shaken(module):
    with torch.no_grad():  # biases begin at zero
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def histories(counts=COUNTS, length=L, seed=0):
    """(B, L, d) rows and (B, L) times that are zero at padding, and the mask."""
    mask = torch.arange(length) < torch.tensor(counts).unsqueeze(1)
    draw = torch.Generator().manual_seed(seed)
    days = torch.randint(0, 4, mask.shape, generator=draw).cumsum(1)
    times = (1_400_000_000 + days * DAY) * mask
    return normal(len(counts), length, D, seed=seed) * mask.unsqueeze(-1), mask, times


# --- the formulas as loops -------------------------------------------------------------------------------------


def intervals_loop(times, real, span, unit):
    """{(i, j): interval} of one history."""
    oldest = min((int(times[j]) for j in real), default=0)
    day = {j: round((int(times[j]) - oldest) / unit) + 1 for j in real}
    return {(i, j): min(abs(day[i] - day[j]), span) for i in real for j in real}


@torch.no_grad()
def interval_embedding_loop(table, weight, times, mask, unit):
    """(B, L, d), zero at padding."""
    out = torch.zeros(*mask.shape, table.shape[1], dtype=table.dtype)
    for b in range(len(mask)):
        real = [j for j in range(mask.shape[1]) if mask[b, j]]
        tau = intervals_loop(times[b], real, len(table) - 1, unit)
        for i in real:
            e = {j: math.exp(float(table[tau[i, j]] @ weight)) for j in real}
            for j in real:
                out[b, i] += e[j] / sum(e.values()) * table[tau[i, j]]
    return out


@torch.no_grad()
def attention_of_torch(block, query, seen):
    """ReLU of torch's own multi-head attention with the block's weights, for one query (d,) and its keys (s, d)."""
    d = len(query)
    mha = nn.MultiheadAttention(d, block.heads, batch_first=True).double().eval()
    mha.in_proj_weight.copy_(torch.cat([block.query, block.read]))
    mha.in_proj_bias.copy_(torch.cat([block.query_bias, torch.zeros(d), block.value_bias]))
    mha.out_proj.weight.copy_(block.out)
    mha.out_proj.bias.copy_(block.out_bias)
    heard, _ = mha(query.view(1, 1, d), seen.unsqueeze(0), seen.unsqueeze(0), need_weights=False)
    return heard.view(d).clamp(min=0)


@torch.no_grad()
def star_loop(extract, embedded, mask, times):
    """V and A, one history, one node, one head at a time."""
    users, length, d = embedded.shape
    interests = torch.zeros(users, K, d, dtype=embedded.dtype)
    attention = torch.zeros(users, K, length, dtype=embedded.dtype)
    between = interval_embedding_loop(extract.interval.table, extract.interval.weight, times, mask, DAY)
    for b in range(users):
        real = [j for j in range(length) if mask[b, j]]
        x = {j: embedded[b, j] + extract.position[0, j] for j in real}
        y = {j: x[j] + between[b, j] for j in real}
        z = sum(y.values()) / len(real) if real else torch.zeros(d, dtype=embedded.dtype)
        for block in extract.blocks:
            before = {j: y[j - 1] if j else torch.zeros_like(z) for j in real}
            y = {j: attention_of_torch(block, y[j], torch.stack([before[j], y[j], z, x[j]])) for j in real}
            padding = [] if block.mask_centre else [torch.zeros_like(z)] * (length - len(real))
            z = attention_of_torch(block, z, torch.stack([z, *y.values(), *padding]))
        for k in range(K):
            e = {
                j: math.exp(float(extract.outer[k] @ torch.tanh(extract.inner @ y[j] + extract.inner_bias)))
                for j in real
            }
            for j in real:
                attention[b, k, j] = e[j] / sum(e.values())
                interests[b, k] += attention[b, k, j] * embedded[b, j]
    return interests, attention


# --- intervals -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seconds=st.lists(st.integers(0, 400_000), min_size=1, max_size=6),
    span=st.integers(0, 6),
    unit=st.sampled_from([1, 7, 3600, DAY]),
)
def test_interval_embedding_equals_its_loop(seconds, span, unit):
    torch.manual_seed(0)
    embed = IntervalEmbedding(4, span, unit).double()
    mask = torch.arange(7) < torch.tensor([[len(seconds)], [0], [1]])
    times = torch.zeros(3, 7, dtype=torch.int64)
    times[0, : len(seconds)] = 1_500_000_000 + torch.tensor(sorted(seconds))
    times[2, 0] = 5
    real = mask.nonzero(as_tuple=True)
    expected = interval_embedding_loop(embed.table, embed.weight, times, mask, unit)
    assert torch.allclose(embed(mask, times, real), expected[real], atol=1e-12)
    found = embed.intervals(times)
    for b in range(3):
        places = [j for j in range(7) if mask[b, j]]
        for (i, j), tau in intervals_loop(times[b], places, span, unit).items():
            assert found[b, i, j] == tau


def test_intervals_count_units_up_to_the_span():
    embed = IntervalEmbedding(4, 3, DAY)
    times = 1_600_000_000 + DAY * torch.tensor([[0, 0, 1, 3, 10]])
    assert embed.intervals(times)[0].tolist() == [
        [0, 0, 1, 3, 3],
        [0, 0, 1, 3, 3],
        [1, 1, 0, 2, 3],
        [3, 3, 2, 0, 3],
        [3, 3, 3, 3, 0],
    ]
    ranks = IntervalEmbedding(4, 3, 1)
    assert ranks.intervals(torch.tensor([[7, 8, 9, 11]]))[0, 0].tolist() == [0, 1, 2, 3]


def test_only_differences_of_times_matter():
    extract, (embedded, mask, times) = extractor(), histories()
    expected, _ = extract(embedded, mask, times)
    for shift in (DAY, -1_000_000_000, 12_345):
        assert torch.equal(extract(embedded, mask, times + shift * mask)[0], expected)
    other, _ = extract(embedded, mask, times * 2)
    assert not torch.allclose(other, expected)


def test_no_times_are_equal_times():
    extract, (embedded, mask, times) = extractor(), histories()
    for same in (torch.zeros_like(times), 77 * mask):
        for one, other in zip(extract(embedded, mask), extract(embedded, mask, same), strict=True):
            assert torch.allclose(one, other, atol=1e-12)


# --- the graph -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"mask_centre": False}, {"blocks": 1}, {"heads": 1, "blocks": 2}])
def test_star_graph_equals_its_loop(changes):
    extract = extractor(**changes)
    embedded, mask, times = histories()
    found = extract(embedded, mask, times)
    for one, other in zip(found, star_loop(extract, embedded, mask, times), strict=True):
        assert torch.allclose(one, other, atol=1e-10)


def test_attention_is_a_distribution_and_interests_are_averages_of_raw_items():
    embedded, mask, times = histories()
    interests, attention = extractor()(embedded, mask, times)
    assert torch.allclose(attention.sum(-1), mask.any(-1).double().unsqueeze(-1).expand(-1, K))
    assert (attention[~mask.unsqueeze(1).expand_as(attention)] == 0).all()
    assert torch.allclose(interests, attention @ embedded)
    assert torch.equal(interests[3], torch.zeros(K, D))
    assert torch.allclose(interests[1], embedded[1, 0].expand(K, -1))


@pytest.mark.parametrize("width", [3, 4, 6])
def test_more_padding_and_what_it_holds_change_nothing(width):
    extract = extractor()
    embedded, mask, times = histories([3, 1, 2], 3)
    expected = extract(embedded, mask, times)
    wide_mask = torch.zeros(3, width, dtype=torch.bool)
    wide_mask[:, :3] = mask
    wide = torch.full((3, width, D), 1e3, dtype=torch.float64)
    wide[:, :3] = torch.where(mask.unsqueeze(-1), embedded, 1e3)
    wide_times = torch.full((3, width), 4_000_000_000)
    wide_times[:, :3] = torch.where(mask, times, 4_000_000_000)
    interests, attention = extract(wide, wide_mask, wide_times)
    assert torch.allclose(interests, expected[0], atol=1e-12)
    assert torch.allclose(attention[..., :3], expected[1], atol=1e-12)


def test_the_centre_sees_padding_only_as_published():
    embedded, mask, times = histories([3, 2], 3)
    wide, wide_mask, wide_times = (torch.cat([x, torch.zeros_like(x)], 1) for x in (embedded, mask, times))
    for masked in (True, False):
        extract = extractor(mask_centre=masked)
        one, _ = extract(embedded, mask, times)
        other, _ = extract(wide, wide_mask, wide_times)
        assert torch.allclose(one, other, atol=1e-12) is masked


def test_a_hole_is_passed_over():
    """A history with an item left out is the shorter history, but for the positions that it has."""
    extract = extractor()
    with torch.no_grad():
        extract.position.zero_()
    embedded, mask, times = histories([5, 4])
    mask[0, 2] = False
    order = [0, 1, 3, 4, 5, 2]
    interests, attention = extract(embedded, mask, times)
    short, closed = extract(embedded[:1, order], mask[:1, order], times[:1, order])
    assert torch.allclose(interests[:1], short, atol=1e-12)
    assert torch.allclose(attention[:1][..., order], closed, atol=1e-12)


def test_a_node_looks_at_its_own_history_only():
    """Each row of a batch is what it is alone: the item before a user's first is not another user's last."""
    extract = extractor()
    embedded, mask, times = histories()
    together, _ = extract(embedded, mask, times)
    for b in range(len(COUNTS)):
        alone, _ = extract(embedded[b : b + 1], mask[b : b + 1], times[b : b + 1])
        assert torch.allclose(alone[0], together[b], atol=1e-12)


def test_only_empty_histories_are_zero_and_harm_no_gradient():
    extract = extractor()
    embedded, mask, times = histories([0, 0])
    embedded.requires_grad_()
    interests, attention = extract(embedded, mask, times)
    assert not interests.any()
    assert not attention.any()
    (interests.square().sum() + attention.sum()).backward()
    assert embedded.grad.isfinite().all()
    extract = extractor()
    interests, attention = extract(*histories([0, 3, 0]))
    (interests.square().sum() + attention.square().sum()).backward()
    for name, parameter in extract.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_dropout_acts_in_training_only_and_on_the_weights():
    torch.manual_seed(0)
    block = shaken(StarBlock(D, 2, 0.999, True)).double()
    with torch.no_grad():
        block.out_bias.fill_(0.5)
    embedded, mask, _ = histories([3, 2])
    real = mask.nonzero(as_tuple=True)
    nodes, centre = embedded[real], embedded[:, 0]
    quiet = block.train().nodes(nodes, nodes, centre, real)
    # Every weight is dropped, the bias of the values with it: only the last bias is left.
    assert torch.allclose(quiet, torch.full_like(quiet, 0.5))
    loud = block.eval().nodes(nodes, nodes, centre, real)
    assert not torch.allclose(loud, quiet)
    assert torch.equal(block.nodes(nodes, nodes, centre, real), loud)


def test_gradients_of_the_extractor():
    extract = extractor(span=2, heads=2, dim=4, interests=2, length=4, blocks=2, dropout=0.0)
    mask = torch.arange(4) < torch.tensor([[4], [2]])
    times = DAY * torch.tensor([[0, 1, 1, 4], [3, 5, 0, 0]])
    embedded = normal(2, 4, 4) * mask.unsqueeze(-1)
    names = list(dict(extract.named_parameters()))
    values = [p.detach().requires_grad_() for p in extract.parameters()]

    def run(embedded, *values):
        return torch.func.functional_call(extract, dict(zip(names, values, strict=True)), (embedded, mask, times))

    assert torch.autograd.gradcheck(run, (embedded.requires_grad_(), *values))
