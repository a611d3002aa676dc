"""The network that guesses the noise of interests: against its loop, and what each guess may and may not depend on."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from diffacet.core.behaviours import ViewDenoiser, level_waves
from diffacet.core.behaviours.views import bare
from diffacet.errors import BadSetting
from reference import normal

D = 6


def made(layers=2, heads=2, *, guided=True, context=True, output=True, seed=0, dim=D):
    torch.manual_seed(seed)
    network = ViewDenoiser(dim, layers, heads, guided=guided, context=context, output=output).double()
    with torch.no_grad():
        for n, parameter in enumerate(network.parameters()):
            parameter.add_(0.3 * normal(*parameter.shape, seed=seed + n))
    return network


def world(seed=0, B=4, c=3, d=D, share=0.7):
    """Interests, channels, which are active, noisy interests, levels."""
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(B, c, generator=generator) < share
    interests = normal(B, c, d, seed=seed) * active.unsqueeze(-1)
    levels = torch.randint(1, 1000, (B, c), generator=generator)
    return interests, normal(B, c, d, seed=seed + 1), active, normal(B, c, d, seed=seed + 2), levels


def predicted(network, world):
    interests, channels, active, noisy, t = world
    return network(noisy, t, network.read(interests, active, channels))


def waves(t, d):
    half = d // 2
    rates = [math.exp(-math.log(10_000) * q / (half - 1)) for q in range(half)]
    return [math.sin(t * rate) for rate in rates] + [math.cos(t * rate) for rate in rates] + [0.0] * (d % 2)


def norm(layer, x):
    return (x - x.mean()) / math.sqrt(float(((x - x.mean()) ** 2).mean()) + 1e-6) * layer.weight + layer.bias


def attended(query, keys, block):
    """What one row reads of others, head by head."""
    size, read = block.size, []
    for h in range(block.heads):
        part = slice(h * size, (h + 1) * size)
        q = block.query.weight[part] @ query
        raised = [math.exp(float(q @ (block.key.weight[part] @ key)) / math.sqrt(size)) for key in keys]
        values = [block.value.weight[part] @ key for key in keys]
        read.append(sum(r / sum(raised) * value for r, value in zip(raised, values, strict=True)))
    return block.out.weight @ torch.cat(read)


@torch.no_grad()
def by_hand(network, world, guided, context):
    """All rows of all views through all blocks, one row at a time."""
    interests, channels, active, noisy, levels = world
    out = torch.zeros_like(noisy)
    B, c, _ = noisy.shape
    for b in range(B):
        for i in range(c):
            u = torch.tensor(waves(int(levels[b, i]), noisy.shape[2]), dtype=torch.float64)
            inner = network.step[0].weight @ u + network.step[0].bias
            told = network.step[2].weight @ (inner / (1 + torch.exp(-inner))) + network.step[2].bias
            members = range(c) if context else [i]
            rows = {j: (noisy[b, i] if j == i else interests[b, j]) + told for j in members}
            for n, block in enumerate(network.blocks):
                new = {}
                for j, row in rows.items():
                    # An inactive row is no key of others; any row may read itself.
                    kept = [rows[k] for k in rows if active[b, k] or k in (i, j)]
                    y = norm(block.norms[0], row + attended(row, kept, block))
                    if guided:
                        value, last = network.guides[n]
                        y = norm(block.norms[1], y + last.weight @ (value.weight @ channels[b, i]))
                    hidden = (block.inner.weight @ y + block.inner.bias).clamp(min=0)
                    new[j] = norm(block.norms[-1], y + block.outer.weight @ hidden + block.outer.bias)
                rows = new
            linear = isinstance(network.output, nn.Linear)
            out[b, i] = network.output.weight @ rows[i] + network.output.bias if linear else rows[i]
    return out


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("context", [True, False])
@settings(max_examples=8)
@given(seed=st.integers(0, 99), c=st.integers(1, 4), layers=st.integers(1, 3), output=st.booleans())
def test_equals_the_loop_over_all_rows(guided, context, seed, c, layers, output):
    """The last block is computed for the noisy rows only: the same numbers."""
    network = made(layers, guided=guided, context=context, output=output, seed=seed)
    given_ = world(seed, B=3, c=c)
    found, active = predicted(network, given_), given_[2]
    assert found.shape == (3, c, D)
    expected = by_hand(network, given_, guided, context)
    assert torch.allclose(found[active], expected[active], atol=1e-9)
    assert found.isfinite().all()


def test_the_shortcut_is_the_whole_last_block():
    network, (interests, channels, active, noisy, t) = made(), world()
    around = network.read(interests, active, channels)
    eye = torch.eye(3, dtype=torch.bool).view(1, 3, 3, 1)
    told = network.step(level_waves(t, D))
    x = torch.where(eye, noisy.unsqueeze(2), around.context) + told.unsqueeze(2)
    x = x.view(12, 3, D)
    for block, guide in zip(network.blocks, around.guides, strict=True):
        x = block(x, around.bias, guide)
    whole = x.view(4, 3, 3, D)[:, torch.arange(3), torch.arange(3)]
    assert torch.allclose(network(noisy, t, around), network.output(whole), atol=1e-12)


def test_attention_to_a_single_key_is_a_linear_map():
    """A general cross-attention to the guide alone: the same answer, and its queries and keys never learn."""
    general = nn.MultiheadAttention(D, 2, bias=False, batch_first=True).double()
    with torch.no_grad():
        general.in_proj_weight.copy_(normal(3 * D, D))
    rows, guide = normal(5, 3, D, seed=1), normal(5, 1, D, seed=2)
    value, out = bare(D, D).double(), bare(D, D).double()
    with torch.no_grad():
        value.weight.copy_(general.in_proj_weight[2 * D :])
        out.weight.copy_(general.out_proj.weight)
    found, _ = general(rows, guide, guide, need_weights=False)
    assert torch.allclose(found, nn.Sequential(value, out)(guide).expand(-1, 3, -1), atol=1e-12)
    (found * normal(5, 3, D, seed=3)).sum().backward()
    assert general.in_proj_weight.grad[: 2 * D].abs().max() < 1e-12
    assert general.in_proj_weight.grad[2 * D :].any()
    assert not {"query", "key"} & {name.split(".")[-2] for name, _ in made().guides.named_parameters()}


@given(st.integers(1, 1000), st.integers(4, 9))
def test_levels_are_waves(t, d):
    found = level_waves(torch.tensor([[t]]), d)
    assert (found.shape, found.dtype) == ((1, 1, d), torch.float64)
    assert torch.allclose(found[0, 0], torch.tensor(waves(t, d), dtype=torch.float64), atol=1e-9)


def test_one_level_for_all_may_be_told_once():
    network, (interests, channels, active, noisy, _) = made(), world()
    around = network.read(interests, active, channels)
    every = network(noisy, torch.full((4, 3), 17), around)
    assert torch.allclose(network(noisy, torch.tensor([[17]]), around), every, atol=1e-12)
    assert not torch.allclose(network(noisy, torch.tensor([[18]]), around), every)


def test_a_view_sees_no_noise_but_its_own():
    network, (interests, channels, active, noisy, t) = made(), world(share=1.0)
    found = predicted(network, (interests, channels, active, noisy, t))
    for i in range(3):
        other, levels = noisy.clone(), t.clone()
        other[:, [j for j in range(3) if j != i]] += 1
        levels[:, [j for j in range(3) if j != i]] = 3
        same = predicted(network, (interests, channels, active, other, levels))
        assert torch.allclose(same[:, i], found[:, i], atol=1e-12)
        clean = interests.clone()  # nor what it is itself without noise
        clean[:, i] += 1
        assert torch.allclose(predicted(network, (clean, channels, active, noisy, t))[:, i], found[:, i], atol=1e-12)
        other = noisy.clone()
        other[:, i] += 1
        moved = predicted(network, (interests, channels, active, other, t))
        assert not torch.isclose(moved[:, i], found[:, i]).all(1).any()


def test_the_order_of_the_other_interests_is_irrelevant():
    network, (interests, channels, active, noisy, t) = made(), world(c=4)
    found = predicted(network, (interests, channels, active, noisy, t))
    for i in range(4):
        order = list(range(4))
        others = [j for j in range(4) if j != i]
        for j, k in zip(others, [others[-1], *others[:-1]], strict=True):
            order[j] = k
        turned = predicted(network, (interests[:, order], channels, active[:, order], noisy, t))
        assert torch.allclose(turned[:, i], found[:, i], atol=1e-12)


def test_inactive_interests_are_no_context():
    network, (interests, channels, active, noisy, t) = made(), world(c=4)
    found = predicted(network, (interests, channels, active, noisy, t))
    wild = torch.where(active.unsqueeze(-1), interests, 1e3)
    other = torch.where(active.unsqueeze(-1), noisy, -1e3)
    kept = predicted(network, (wild, channels, active, other, t))
    assert torch.allclose(kept[active], found[active], atol=1e-9)


@pytest.mark.parametrize(("guided", "context"), [(True, True), (True, False), (False, True), (False, False)])
def test_each_guide_tells_unless_it_is_left_out(guided, context):
    network, (interests, channels, active, noisy, t) = made(guided=guided, context=context), world(share=1.0)
    found = predicted(network, (interests, channels, active, noisy, t))
    other = predicted(network, (interests, channels + 1, active, noisy, t))
    assert torch.equal(other, found) != guided
    other = predicted(network, (interests + normal(4, 3, D, seed=9), channels, active, noisy, t))
    assert torch.allclose(other, found, atol=1e-12) != context


def test_one_channel_has_no_context():
    alone = world(c=1, share=1.0)
    interests, channels, active, noisy, t = alone
    network = made()
    found = predicted(network, alone)
    assert torch.equal(predicted(network, (interests + 1, channels, active, noisy, t)), found)
    network.context = False
    assert torch.allclose(predicted(network, alone), found, atol=1e-12)


def test_every_parameter_learns():
    for how in ({}, {"guided": False}, {"context": False}, {"output": False}, {"layers": 1}):
        network = made(**how)
        (predicted(network, world()) * normal(4, 3, D)).sum().backward()
        silent = [name for name, p in network.named_parameters() if not p.grad.any()]
        # A row alone has a softmax of one, like the guide.
        expected = {} if how.get("context", True) else {"query", "key"}
        assert {name.split(".")[-2] for name in silent} == set(expected)


def test_nothing_active_is_finite():
    network = made()
    interests, channels, active, noisy, t = world(share=0.0)
    assert not active.any()
    found = predicted(network, (interests, channels, active, noisy, t))
    found.sum().backward()
    assert found.isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_what_is_refused():
    with pytest.raises(BadSetting, match="4 wide or more; got 3"):
        made(heads=1, dim=3)
    with pytest.raises(BadSetting, match="6"):
        made(heads=4)
