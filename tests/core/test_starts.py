"""How parts begin: the shapes of their parameters and the laws that these are drawn from, as their docstrings say."""

import math

import pytest
import torch

from diffacet.core.behaviours.attention import TargetAttention
from diffacet.core.behaviours.channels import Channels, Router
from diffacet.core.behaviours.head import ClickHead, Dice
from diffacet.core.behaviours.transformer import ShortTerm
from diffacet.core.denoisers import GuidedMLP, StepMLP, StepToken
from diffacet.core.encoders import Block
from diffacet.core.interests import DynamicRouting, ReAttentive, SelfAttentive, StarGraph
from diffacet.core.layers import ItemTable, kaiming, linear

D, K, L = 64, 4, 20


def he(fan_in):
    return math.sqrt(2 / fan_in)


def xavier(fan_in, fan_out):
    return math.sqrt(2 / (fan_in + fan_out))


SELF = {"inner": ((4 * D, D), he(D)), "outer": ((K, 4 * D), he(4 * D)), "position": ((1, L, D), he(L * D))}
SQUARE = ((D, D), he(D))
STARTS = {
    "self-attentive": (lambda: SelfAttentive(D, K, L), SELF),
    "self-attentive, more": (
        lambda: SelfAttentive(D, K, L, bias=True, recency=True),
        SELF | {"bias": ((4 * D,), 0), "recency": ((L, K), 0)},
    ),
    "re-attentive": (
        lambda: ReAttentive(D, K, L),
        {
            "inner": ((4 * D, D), he(D)), "outer": ((K, 4 * D), he(4 * D)), "value": SQUARE, "dense": SQUARE,
            "dense_bias": ((D,), 0), "unroll": ((L, D, D), he(D)), "unroll_bias": ((L, D), 0), "mix_inner": SQUARE,
            "mix_outer": ((L, D), he(D)), "mix_value": SQUARE,
        },
    ),
    "star": (
        lambda: StarGraph(D, K, L),
        {
            "position": ((1, L, D), he(L * D)), "interval.table": ((64 + 1, D), he(D)),
            "interval.weight": ((D,), he(D)), "inner": ((4 * D, D), he(D)),
            "inner_bias": ((4 * D,), 0), "outer": ((K, 4 * D), he(4 * D)),
        },
    ),
    "capsules": (lambda: DynamicRouting(D, K, L), {"map": SQUARE}),
    "capsules, own maps": (
        lambda: DynamicRouting(D, K, L, own_maps=True),
        {"map": ((1, L, K * D, D), he(L * K * D * D))},
    ),
    "block": (
        lambda: Block(D, 2, 3 * D, dropout=0.0, norm="pre", activation="gelu"),
        {
            "query.weight": ((D, D), xavier(D, D)), "memory.weight": ((2 * D, D), xavier(D, D)),
            "out.weight": ((D, D), xavier(D, D)), "out.bias": ((D,), 0), "inner.weight": ((3 * D, D), xavier(D, 3 * D)),
            "inner.bias": ((3 * D,), 0), "outer.weight": ((D, 3 * D), xavier(D, 3 * D)), "outer.bias": ((D,), 0),
        },
    ),
    "short term": (lambda: ShortTerm(D, L, "transformer"), {"position": ((L + 1, D), 0.05)}),
    "channels": (lambda: Channels(D, K, Router(), "mean"), {"weight": ((D, K * D), xavier(D, K * D))}),
    "step token": (lambda: StepToken(D, L, "learned"), {"table": ((L, D), xavier(L, D))}),
    "step mlp": (
        lambda: StepMLP(D, L),
        {
            "inner.weight": ((4 * D, 2 * D), xavier(2 * D, 4 * D)), "inner.bias": ((4 * D,), 0),
            "outer.weight": ((D, 4 * D), 0), "outer.bias": ((D,), 0),
        },
    ),
    "guided mlp": (
        lambda: GuidedMLP(D, L, K, (2 * D,), skip=True),
        {
            "first.weight": ((2 * D, (2 + K) * D), xavier((2 + K) * D, 2 * D)), "first.bias": ((2 * D,), 0),
            "rows.weight": ((K, 2 * D), xavier(K, 2 * D)), "sharpness": ((L,), 0), "trust": ((L,), 0),
            "last.weight": ((D, 2 * D), 0),
        },
    ),
    "item table": (lambda: ItemTable(2000, D), {"weight": ((2001, D), he(D))}),
    "item table, told": (lambda: ItemTable(2000, D, deviation=0.01), {"weight": ((2001, D), 0.01)}),
    "linear": (lambda: linear(D, 2 * D), {"weight": ((2 * D, D), xavier(D, 2 * D)), "bias": ((2 * D,), 0)}),
    "click head": (
        lambda: ClickHead(3 * D, [2 * D]),
        {
            "layers.0.weight": ((2 * D, 3 * D), he(3 * D)), "layers.0.bias": ((2 * D,), 0),
            "layers.2.alpha": ((2 * D,), 0), "layers.3.weight": ((1, 2 * D), he(2 * D)), "layers.3.bias": ((1,), 0),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize(("build", "parameters"), STARTS.values(), ids=STARTS.keys())
def test_parameters_begin_as_they_are_said_to(build, parameters):
    torch.manual_seed(0)
    found = dict(build().named_parameters())
    for name, (shape, deviation) in parameters.items():
        value = found[name].detach()
        assert tuple(value.shape) == shape, name
        if not deviation:
            assert not value.any(), name
            continue
        error = 4 / math.sqrt(2 * value.numel())  # four errors of a deviation, and of a mean
        assert value.square().mean().sqrt().item() == pytest.approx(deviation, rel=error + 1e-3), name
        assert abs(value.mean().item()) < 4 * deviation / math.sqrt(value.numel()), name


def test_what_else_is_said_of_starts():
    star = StarGraph(D, K, L)
    assert (len(star.blocks), star.interval.unit) == (3, 86_400)
    assert ReAttentive(D, K, L).temperature == 0.02
    assert DynamicRouting(D, K, L).iterations == 3
    assert not DynamicRouting(D, K, L).start.any()
    assert DynamicRouting(D, K, L, random_start=True).start.std().item() == pytest.approx(1, rel=0.35)
    assert Dice(3).norm.eps == 1e-9
    assert TargetAttention(D, D, D).heads == 2
    assert Channels(D, K, Router(), "self").aggregate.block.heads == 2
    assert not ItemTable(20, D).weight[0].any()
    assert tuple(kaiming(2, 3, 5).shape) == (2, 3, 5)
