import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import contract
from diffacet.core.encoders import CausalTransformer, last_state
from diffacet.errors import BadSetting
from reference import normal

L, D, HEADS, INNER = 6, 8, 2, 5
COUNTS = (6, 3, 1, 0)
MASK = torch.arange(L) < torch.tensor(COUNTS)[:, None]
ALL = pytest.mark.parametrize("norm", ["original", "pre", "post"])


def encoder(norm="original", **changes):
    torch.manual_seed(0)
    settings = {"heads": HEADS, "inner": INNER, "norm": norm, **changes}
    return contract.shaken(CausalTransformer(D, L, **settings).double().eval())


def embedded(seed=0):
    return normal(len(COUNTS), L, D, seed=seed) * MASK.unsqueeze(-1)


def normed(layer, x):
    spread = math.sqrt(float(((x - x.mean()) ** 2).mean()) + layer.eps)
    return (x - x.mean()) / spread * layer.weight + layer.bias


def attended(block, queries, rows, i):
    """Position i's heads over positions 0..i, side by side."""
    keys, values = block.memory.weight[:D], block.memory.weight[D:]
    width, joined = D // block.heads, []
    for h in range(block.heads):
        part = slice(h * width, (h + 1) * width)
        query = (block.query.weight @ queries[i])[part]
        powers = [math.exp(float(query @ (keys @ rows[j])[part]) / math.sqrt(width)) for j in range(i + 1)]
        joined.append(sum(p / sum(powers) * (values @ rows[j])[part] for j, p in enumerate(powers)))
    return torch.cat(joined)


def fed(block, x):
    hidden = block.inner.weight @ x + block.inner.bias
    hidden = hidden.clamp(min=0) if block.activation == "relu" else functional.gelu(hidden)
    return block.outer.weight @ hidden + block.outer.bias


@torch.no_grad()
def states(module, vectors, norm):
    """SASRec's (SA1)-(SA5) for one history without padding, one position at a time; and the two other orders."""
    rows = [module.scale * x + module.position[i] for i, x in enumerate(vectors)]
    if norm == "post":
        rows = [normed(module.norm, x) for x in rows]
    for block in module.blocks:
        after, first = [], [normed(block.norm_attention, x) for x in rows]
        for i, x in enumerate(rows):
            if norm == "original":
                y = normed(block.norm_feed, first[i] + attended(block, first, rows, i))
                after.append(y + fed(block, y))
                continue
            source = first if norm == "pre" else rows
            y = x + block.out.weight @ attended(block, source, source, i) + block.out.bias
            if norm == "pre":
                after.append(y + fed(block, normed(block.norm_feed, y)))
            else:
                y = normed(block.norm_attention, y)
                after.append(normed(block.norm_feed, y + fed(block, y)))
        rows = after
    return rows if norm == "post" else [normed(module.norm, x) for x in rows]


@pytest.mark.parametrize("changes", [{}, {"activation": "gelu", "heads": 1, "scale": False}], ids=["plain", "changed"])
@ALL
def test_states_are_those_of_the_loop(norm, changes):
    model, x = encoder(norm, **changes), embedded()
    found = model(x, MASK)
    assert found.shape == x.shape
    for b, count in enumerate(COUNTS):
        expected = states(model, x[b, :count], norm)
        for i in range(count):
            assert torch.allclose(found[b, i], expected[i], atol=1e-10)
        assert not found[b, count:].any()


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_common_orders_are_torchs_own(norm, activation):
    model = encoder(norm, activation=activation)
    layer = nn.TransformerEncoderLayer(
        D, HEADS, INNER, activation=activation, batch_first=True, norm_first=norm == "pre", dtype=torch.float64
    )
    last = nn.LayerNorm(D).double() if norm == "pre" else None
    other = nn.TransformerEncoder(layer, 2, last, enable_nested_tensor=False)  # in training mode, without its fast path
    with torch.no_grad():
        for mine, its in zip(model.blocks, other.layers, strict=True):
            its.dropout.p = its.dropout1.p = its.dropout2.p = its.self_attn.dropout = 0.0
            its.self_attn.in_proj_weight.copy_(torch.cat([mine.query.weight, mine.memory.weight]))
            its.self_attn.in_proj_bias.zero_()
            pairs = [(its.self_attn.out_proj, mine.out), (its.linear1, mine.inner), (its.linear2, mine.outer)]
            for target, source in [*pairs, (its.norm1, mine.norm_attention), (its.norm2, mine.norm_feed)]:
                target.load_state_dict(source.state_dict())
        x = model.scale * embedded() + model.position
        if last is None:
            x = model.norm(x)
        else:
            last.load_state_dict(model.norm.state_dict())
        expected = other(x, mask=nn.Transformer.generate_square_subsequent_mask(L).double(), is_causal=True)
    assert torch.allclose(model(embedded(), MASK)[MASK], expected[MASK], atol=1e-10)


@ALL
def test_a_state_knows_no_item_behind_its_own(norm):
    model, x = encoder(norm), embedded()
    before = model(x, MASK)
    for p in range(L):
        changed = x.clone()
        changed[0, p, 0] += 1  # and not all of them, which normalisation takes away
        after = model(changed, MASK)
        assert torch.allclose(after[0, :p], before[0, :p], atol=1e-13)
        assert ((after[0, p:] - before[0, p:]).abs().amax(-1) > 1e-6).all()
        assert torch.allclose(after[1:], before[1:], atol=1e-13)
    x.requires_grad_()
    model(x, MASK)[0, 2].square().sum().backward()
    assert x.grad[0, :3].any(-1).all()
    assert not x.grad[0, 3:].any()


@ALL
def test_more_padding_changes_nothing(norm):
    model, x = encoder(norm), embedded()
    wide = model(x, MASK)
    assert torch.allclose(model(x[1:, :3], MASK[1:, :3]), wide[1:, :3], atol=1e-13)


@pytest.mark.parametrize("norm", ["original", "post"])
def test_without_blocks_and_positions_a_state_is_the_normalised_item(norm):
    model, x = encoder(norm, layers=0), embedded()
    with torch.no_grad():
        model.position.zero_()
    for scale in (model.scale, 1.0):
        expected = torch.stack([normed(model.norm, scale * row) for row in x[0]])
        model.scale = scale
        assert torch.allclose(model(x, MASK)[0], expected, atol=1e-12)


def test_dropout_is_for_training_only():
    model, x = encoder(dropout=0.5), embedded()
    assert torch.equal(model(x, MASK), model(x, MASK))
    model.train()
    assert not torch.equal(model(x, MASK), model(x, MASK))
    quiet = encoder(dropout=0.0)
    assert torch.equal(quiet.train()(x, MASK), quiet.eval()(x, MASK))


def test_parameters_and_initial_values():
    torch.manual_seed(0)
    model = CausalTransformer(64, 200, heads=4)
    block = 3 * 64 * 64 + 2 * (64 * 64 + 64) + 4 * 64
    assert sum(p.numel() for p in model.parameters()) == 200 * 64 + 2 * block + 2 * 64
    assert model.position.std().item() == pytest.approx(1 / 8, rel=0.02)
    for layer in model.blocks:
        for matrix in (layer.query.weight, *layer.memory.weight.chunk(2), layer.inner.weight, layer.outer.weight):
            assert matrix.abs().max().item() == pytest.approx(math.sqrt(6 / 128), rel=0.01)
        assert not layer.inner.bias.any()
        assert not layer.outer.bias.any()
    assert sum(p.numel() for p in CausalTransformer(64, 200, norm="pre").parameters()) == (
        200 * 64 + 2 * (block + 64 * 64 + 64) + 2 * 64
    )


def test_heads_divide_the_width():
    with pytest.raises(BadSetting, match=r"heads divides the width 8; got heads=3"):
        CausalTransformer(8, L, heads=3)


@pytest.mark.parametrize("layers", [0, 1, 2])
@ALL
def test_last_is_the_last_state(norm, layers):
    model, x = encoder(norm, layers=layers), embedded()
    holes = torch.tensor([[True, False, True, True, False, False]] * len(MASK))
    for mask in (MASK, MASK[1:], MASK[3:], holes):  # MASK[1:] has columns that no history uses
        full, short = x[-len(mask) :].clone().requires_grad_(), x[-len(mask) :].clone().requires_grad_()
        expected, found = last_state(model(full, mask), mask), model.last(short, mask)
        assert torch.allclose(found, expected, atol=1e-12)
        assert not found[~mask.any(1)].any()
        gradients = []
        for state, own in ((expected, full), (found, short)):
            model.zero_grad()
            (state * torch.arange(1.0, D + 1)).square().sum().backward()
            named = model.named_parameters()
            gradients.append({"x": own.grad} | {name: p.grad for name, p in named if p.grad is not None})
        for name, gradient in gradients[1].items():
            assert torch.allclose(gradient, gradients[0][name], atol=1e-9), name
        assert all(not gradients[0][name].any() for name in gradients[0].keys() - gradients[1].keys())


@ALL
def test_last_in_single_precision(norm):
    model, x = encoder(norm).float(), embedded().float()
    assert torch.allclose(model.last(x, MASK), last_state(model(x, MASK), MASK), atol=1e-5)


def test_dropout_of_last_follows_the_law_of_the_last_state():
    model, x = encoder(dropout=0.5, layers=1).train(), embedded()[:1].expand(20_000, -1, -1)
    mask = MASK[:1].expand(20_000, -1)
    with torch.no_grad():
        states, lasts = last_state(model(x, mask), mask), model.last(x, mask)
    assert not torch.equal(states, lasts)
    deviation = states.std(0)
    assert ((states.mean(0) - lasts.mean(0)).abs() < 6 * deviation * math.sqrt(2 / 20_000)).all()
    assert torch.allclose(deviation, lasts.std(0), rtol=0.05)


def test_the_last_state_is_that_of_the_last_real_position():
    x = normal(5, L, D)
    mask = torch.cat([MASK, torch.tensor([[True, False, True, False, True, False]])])
    found = last_state(x, mask)
    for b, last in enumerate([5, 2, 0, None, 4]):
        assert torch.equal(found[b], torch.zeros(D, dtype=torch.float64) if last is None else x[b, last])
