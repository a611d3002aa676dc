"""The contrast of interests with generated ones, against its loop and where its value is known."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from diffacet.core.behaviours import Contrast, info_nce
from reference import normal


def unit(*shape, seed=0):
    return functional.normalize(normal(*shape, seed=seed), dim=-1)


def made(d=5, temperature=0.3, seed=0, **how):
    torch.manual_seed(seed)
    contrast = Contrast(d, temperature, **how).double()
    with torch.no_grad():
        for n, parameter in enumerate(contrast.parameters()):
            parameter.add_(0.3 * normal(*parameter.shape, seed=n))
    return contrast


def by_hand(u, v, active, user, temperature, same_user):
    """The loss of every counted pair (sample, channel), one exponential at a time."""
    c, B, _ = u.shape
    lost = {}
    for i in range(c):
        for a in range(B):
            others = [b for b in range(B) if b != a and active[i, b] and (same_user or user[b] != user[a])]
            if not active[i, a] or not others:
                continue
            score = {b: math.exp(float(u[i, a] @ v[i, b]) / temperature) for b in [a, *others]}
            lost[a, i] = -math.log(score[a] / sum(score.values()))
    return lost


@given(
    seed=st.integers(0, 999),
    B=st.integers(1, 6),
    users=st.integers(1, 4),
    same_user=st.booleans(),
    temperature=st.sampled_from([0.05, 0.5, 2.0]),
)
def test_equals_the_loop(seed, B, users, same_user, temperature):
    generator = torch.Generator().manual_seed(seed)
    u, v = unit(3, B, 4, seed=seed), unit(3, B, 4, seed=seed + 1)
    active = torch.rand(3, B, generator=generator) < 0.7
    user = torch.randint(0, users, (B,), generator=generator)
    lost = by_hand(u, v, active, user, temperature, same_user)
    found = info_nce(u, v, active, user, temperature, same_user=same_user)
    assert float(found) == pytest.approx(sum(lost.values()) / max(len(lost), 1), abs=1e-9)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_aligned_interests_among_orthogonal_ones_have_the_closed_form(temperature):
    """N negatives, each at a right angle: -log(e^(1/tau) / (e^(1/tau) + N))."""
    v = torch.eye(6, 8, dtype=torch.float64).expand(2, -1, -1)
    found = info_nce(v, v, torch.ones(2, 6, dtype=torch.bool), torch.arange(6), temperature, same_user=False)
    assert float(found) == pytest.approx(math.log1p(5 * math.exp(-1 / temperature)), rel=1e-6, abs=1e-15)


def test_the_networks_are_two_and_shared_by_all_channels():
    contrast = made()
    assert sum(p.numel() for p in contrast.parameters()) == 16 * 5 * 5 + 2 * (4 * 5 + 5)
    interests, generated = normal(4, 3, 5, seed=1), normal(4, 3, 5, seed=2)
    active, user = torch.ones(4, 3, dtype=torch.bool), torch.arange(4)

    def through(network, x):
        hidden = (network[0].weight @ x + network[0].bias).clamp(min=0)
        out = network[2].weight @ hidden + network[2].bias
        return out / out.norm()

    with torch.no_grad():
        u = torch.stack([torch.stack([through(contrast.given, row) for row in of]) for of in interests.unbind(1)])
        v = torch.stack([torch.stack([through(contrast.generated, row) for row in of]) for of in generated.unbind(1)])
        expected = by_hand(u, v, active.T, user, 0.3, same_user=False)
        found = contrast(interests, generated, active, user)
    assert float(found) == pytest.approx(sum(expected.values()) / 12)


def test_another_sample_of_the_user_is_no_negative():
    """It leaves the terms of the user's other samples as they are; with same_user it counts as any other."""
    u, v = unit(1, 4, 5), unit(1, 4, 5, seed=1)
    twice_u, twice_v = torch.cat([u, u[:, :1]], 1), torch.cat([v, v[:, :1]], 1)
    active, user = torch.ones(1, 5, dtype=torch.bool), torch.tensor([0, 0, 1, 2, 0])
    before = by_hand(u, v, active[:, :4], user[:4], 0.3, same_user=False)
    after = by_hand(twice_u, twice_v, active, user, 0.3, same_user=False)
    assert after[0, 0] == before[0, 0] == after[4, 0]
    assert after[1, 0] == before[1, 0]

    def of_user(u, v, user):
        """The mean over samples of user 0, for which alone there is a gradient."""
        active = torch.ones(1, len(user), dtype=torch.bool)
        u = u.clone().requires_grad_()
        info_nce(u, v, active, user, 0.3, same_user=False).backward()
        return u.grad[0, :2] * len(user)

    assert torch.allclose(of_user(u, v, user[:4]), of_user(twice_u, twice_v, user))


def test_a_batch_of_one_user_has_no_contrast():
    contrast = made()
    interests = normal(4, 3, 5, seed=1).requires_grad_()
    active = torch.ones(4, 3, dtype=torch.bool)
    found = contrast(interests, interests, active, torch.zeros(4, dtype=torch.int64))
    assert float(found.detach()) == 0
    found.backward()
    assert not interests.grad.any()
    assert float(made(same_user=True)(interests, interests, active, torch.zeros(4, dtype=torch.int64)).detach()) > 0
    alone = contrast(interests[:1], interests[:1], active[:1], torch.zeros(1, dtype=torch.int64))
    assert float(alone.detach()) == 0


def test_nothing_active_is_nothing_lost():
    contrast = made()
    nothing = torch.zeros(4, 3, 5, dtype=torch.float64, requires_grad=True)
    found = contrast(nothing, nothing, torch.zeros(4, 3, dtype=torch.bool), torch.arange(4))
    assert float(found.detach()) == 0
    found.backward()
    assert not nothing.grad.any()
    assert all(not p.grad.any() for p in contrast.parameters())


def test_inactive_channels_neither_count_nor_move():
    contrast = made()
    active = torch.tensor([[True, False], [True, True], [False, True], [True, True]])
    interests = (normal(4, 2, 5, seed=1) * active.unsqueeze(-1)).requires_grad_()
    generated = (normal(4, 2, 5, seed=2) * active.unsqueeze(-1)).requires_grad_()
    found = contrast(interests, generated, active, torch.arange(4))
    found.backward()
    for grad in (interests.grad, generated.grad):
        assert grad.isfinite().all()
        assert not grad[~active].any()
        assert grad[active].any(-1).all()
    wild = torch.where(active.unsqueeze(-1), interests, 1e6)
    other = torch.where(active.unsqueeze(-1), generated, -1e6)
    assert torch.allclose(contrast(wild, other, active, torch.arange(4)), found)


def test_fresh_networks_with_zero_interests_have_finite_gradients():
    """All biases are zero at the start, so what is inactive is sent to zero, whose direction is none."""
    torch.manual_seed(0)
    contrast = Contrast(5, 0.05)
    active = torch.tensor([[True, False], [True, True], [False, True]])
    interests = normal(3, 2, 5, dtype=torch.float32) * active.unsqueeze(-1)
    contrast(interests, interests, active, torch.arange(3)).backward()
    assert all(p.grad.isfinite().all() for p in contrast.parameters())
    assert any(p.grad.any() for p in contrast.parameters())


def test_a_small_temperature_stays_finite():
    u, v = unit(2, 5, 4).float(), unit(2, 5, 4, seed=1).float()
    found = info_nce(u, v, torch.ones(2, 5, dtype=torch.bool), torch.arange(5), 0.001, same_user=False)
    assert found.isfinite()
