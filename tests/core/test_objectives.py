import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from diffacet.core import objectives
from diffacet.core.batch import Histories, PositionBatch, SequenceBatch
from diffacet.core.contract import Training
from diffacet.learn import negatives as drawn
from diffacet.learn.negatives import log_expected_count
from reference import normal


def batch(hits=None, log_q=None):
    nothing = torch.zeros(0, dtype=torch.int64)
    return SequenceBatch(Histories(nothing, nothing, nothing), nothing, nothing, log_q, hits)


def vectors(B=5, M=9, d=4, seed=0):
    return normal(B, d, seed=seed), normal(B, d, seed=seed + 1), normal(M, d, seed=seed + 2)


HITS = torch.rand(5, 9, generator=torch.Generator().manual_seed(1)) < 0.3
LOG_Q = (normal(5, seed=8), normal(9, seed=9))


@pytest.mark.parametrize("hardness", [0.0, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("hits", [None, HITS], ids=["kept", "masked"])
@pytest.mark.parametrize("log_q", [None, LOG_Q], ids=["plain", "corrected"])
def test_sampled_softmax_equals_its_loop(hardness, hits, log_q):
    found = objectives.sampled_softmax(*vectors(), batch(hits, log_q), hardness)
    expected = reference.softmax_loss(*vectors(), hits=hits, log_q=log_q, hardness=hardness)
    assert math.isclose(found.item(), expected, rel_tol=1e-10)


def test_plain_loss_is_a_cross_entropy_over_the_target_and_the_negatives():
    user, target, negatives = vectors()
    logits = torch.cat([(user * target).sum(-1, keepdim=True), user @ negatives.T], -1)
    expected = torch.nn.functional.cross_entropy(logits, torch.zeros(5, dtype=torch.int64))
    assert torch.allclose(objectives.sampled_softmax(user, target, negatives, batch()), expected, rtol=1e-12)


def test_hardness_towards_zero_is_the_plain_loss():
    plain = objectives.sampled_softmax(*vectors(), batch())
    assert torch.allclose(objectives.sampled_softmax(*vectors(), batch(), 1e-9), plain, rtol=1e-7)


def test_hardness_towards_infinity_counts_the_hardest_negative_M_times():
    user, target, negatives = vectors()
    positive, hardest = (user * target).sum(-1), (user @ negatives.T).amax(-1)
    expected = (torch.logaddexp(positive, hardest + math.log(9)) - positive).mean()
    assert torch.allclose(objectives.sampled_softmax(user, target, negatives, batch(), 1e4), expected, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("hardness", [0.0, 1.0, 10.0])
def test_no_overflow_at_large_logits(dtype, hardness):
    user = torch.tensor([[100.0], [-100.0], [100.0]], dtype=dtype, requires_grad=True)
    target = torch.tensor([[100.0], [100.0], [-100.0]], dtype=dtype)
    negatives = torch.tensor([[100.0], [-100.0], [0.0]], dtype=dtype)
    loss = objectives.sampled_softmax(user, target, negatives, batch(), hardness)
    loss.backward()
    assert loss.isfinite()
    assert user.grad.isfinite().all()
    assert loss > 6_000  # two of the three rows are wrong by 20,000


@pytest.mark.parametrize("hardness", [0.0, 0.7])
def test_gradients_of_the_loss_flow_through_the_weights_too(hardness):
    user, target, negatives = (x.requires_grad_() for x in vectors(3, 4))

    def loss(*x):
        return objectives.sampled_softmax(*x, batch(HITS[:3, :4]), hardness)

    assert torch.autograd.gradcheck(loss, (user, target, negatives))


def test_weights_that_were_constants_would_have_another_gradient():
    user, target, negatives = (x.requires_grad_() for x in vectors())
    (found,) = torch.autograd.grad(objectives.sampled_softmax(user, target, negatives, batch(), 1.0), negatives)
    scores = user @ negatives.T
    weight = (scores.exp() / scores.exp().mean(-1, keepdim=True)).detach()
    positive = (user * target).sum(-1)
    stopped = (-positive + (positive.exp() + (weight * scores.exp()).sum(-1)).log()).mean()
    (other,) = torch.autograd.grad(stopped, negatives)
    assert not torch.allclose(found, other, rtol=1e-2)


@pytest.mark.parametrize("hardness", [0.0, 0.1, 5.0])
def test_masked_hits_never_contribute(hardness):
    user, target, negatives = (x.requires_grad_() for x in vectors())
    hits = HITS.clone()
    hits[:, 4] = True
    loss = objectives.sampled_softmax(user, target, negatives, batch(hits), hardness)
    loss.backward()
    assert (negatives.grad[4] == 0).all()
    changed = negatives.detach().clone()
    changed[4] = 1e3
    assert torch.equal(objectives.sampled_softmax(user, target, changed, batch(hits), hardness), loss)
    without = [j for j in range(9) if j != 4]
    shorter = objectives.sampled_softmax(user, target, negatives[without], batch(hits[:, without]), hardness)
    assert torch.allclose(shorter, loss, rtol=1e-12)


@pytest.mark.parametrize("hardness", [0.0, 0.1, 5.0])
def test_a_row_whose_negatives_are_all_hits_costs_nothing(hardness):
    user, target, negatives = (x.requires_grad_() for x in vectors())
    hits = HITS.clone()
    hits[2] = True
    loss = objectives.sampled_softmax(user, target, negatives, batch(hits), hardness)
    loss.backward()
    rest = [0, 1, 3, 4]
    others = objectives.sampled_softmax(user[rest], target[rest], negatives, batch(hits[rest]), hardness)
    assert torch.allclose(loss, others * 4 / 5, rtol=1e-12)
    for gradient in (user.grad, target.grad, negatives.grad):
        assert gradient.isfinite().all()
    assert (user.grad[2] == 0).all()


def test_every_item_once_with_the_hit_masked_is_the_full_softmax():
    catalogue, user = normal(13, 4), normal(6, 4, seed=1)
    target = torch.tensor([1, 12, 5, 5, 3, 7])
    everything = torch.arange(1, 13)
    hits = target.unsqueeze(1) == everything
    found = objectives.sampled_softmax(user, catalogue[target], catalogue[1:], batch(hits))
    assert math.isclose(found.item(), reference.full_softmax(user, catalogue, target), rel_tol=1e-12)
    # Corrected by log expected counts of 0 (each is there once) it is the same.
    log_q = (torch.zeros(6), torch.zeros(12))
    assert torch.equal(objectives.sampled_softmax(user, catalogue[target], catalogue[1:], batch(hits, log_q)), found)


@given(st.floats(-5, 5), st.floats(0, 3))
def test_a_constant_correction_cancels(constant, hardness):
    shift = (torch.full((5,), constant, dtype=torch.float64), torch.full((9,), constant, dtype=torch.float64))
    plain = objectives.sampled_softmax(*vectors(), batch(), hardness)
    assert torch.allclose(objectives.sampled_softmax(*vectors(), batch(None, shift), hardness), plain, rtol=1e-9)


def test_correction_makes_two_laws_of_negatives_agree():
    """On a toy catalogue the corrected sum estimates the full one without bias, whichever law the negatives have.

    exp(loss) - 1 = sum_j e^{s_j - ln(M p_j)} / e^{s+ - ln(M p+)}: times M p+ / M its mean over draws is the
    same for both laws; without the correction it is not.
    """
    n_items, draws, M = 8, 400, 20
    catalogue, user = normal(n_items + 1, 3), normal(1, 3, seed=1)
    target = torch.tensor([3])
    expected = ((catalogue[1:] @ user[0]).exp().sum() / (catalogue[3] @ user[0]).exp()).item()
    means, raw = {}, {}
    for sampler in ("uniform", "log-uniform"):
        training = Training(negatives=M, sampler=sampler)
        found, plain = [], []
        for draw in range(draws):
            negatives, tries = drawn.draw(np.random.default_rng([draw, 5]), n_items, training)
            log_q = tuple(
                torch.from_numpy(log_expected_count(ids, n_items, training, tries)).double()
                for ids in (target.numpy(), negatives)
            )
            rows = catalogue[torch.from_numpy(negatives)]
            loss = objectives.sampled_softmax(user, catalogue[target], rows, batch(None, log_q))
            found.append(math.expm1(loss.item()) / math.exp(log_q[0].item()))
            plain.append(math.expm1(objectives.sampled_softmax(user, catalogue[target], rows, batch()).item()))
        means[sampler] = np.mean(found), np.std(found) / math.sqrt(draws)
        raw[sampler] = np.mean(plain), np.std(plain) / math.sqrt(draws)
    for mean, error in means.values():
        assert abs(mean - expected) < 5 * error
        assert error < 0.05 * expected
    gap = abs(raw["uniform"][0] - raw["log-uniform"][0])
    assert gap > 5 * (raw["uniform"][1] + raw["log-uniform"][1])


def test_low_precision_inputs_are_computed_in_float32():
    user, target, negatives = (x.to(torch.bfloat16) for x in vectors())
    loss = objectives.sampled_softmax(user, target, negatives, batch(), 0.5)
    assert loss.dtype == torch.float32
    expected = reference.softmax_loss(user.double(), target.double(), negatives.double(), hardness=0.5)
    assert math.isclose(loss.item(), expected, rel_tol=1e-5)
    assert objectives.distance(user, target).dtype == torch.float32
    assert objectives.routing_regulariser(user.unsqueeze(1), 4).dtype == torch.float32


# --- routing ---------------------------------------------------------------------------------------------------


def attention(B=4, K=3, L=6, seed=0):
    return normal(B, K, L, seed=seed).softmax(-1)


def test_routing_regulariser_equals_its_loop():
    assert math.isclose(
        objectives.routing_regulariser(attention(), 5).item(), reference.routing(attention(), 5), rel_tol=1e-12
    )


def test_routing_regulariser_is_a_sum_that_ignores_order():
    a = attention()
    value = objectives.routing_regulariser(a, 5)
    assert torch.allclose(objectives.routing_regulariser(torch.cat([a, a]), 5), 2 * value, rtol=1e-12)
    assert torch.allclose(objectives.routing_regulariser(a[:, [2, 0, 1]], 5), value, rtol=1e-12)
    assert torch.allclose(objectives.routing_regulariser(a[..., torch.randperm(6)], 5), value, rtol=1e-12)
    assert torch.allclose(objectives.routing_regulariser(a, 10), value / 4, rtol=1e-12)


def test_routing_regulariser_is_zero_for_uniform_rows_only():
    uniform = torch.full((2, 3, 6), 1 / 6, dtype=torch.float64)
    assert objectives.routing_regulariser(uniform, 5) < 1e-30
    uniform[1, 2] = torch.tensor([0.2, 0.2, 0.15, 0.15, 0.15, 0.15])
    assert objectives.routing_regulariser(uniform, 5) > 1e-8


def test_routing_regulariser_of_known_rows():
    """The published scale: collapsed attention at L = 20, B = 128, K = 4, d = 64 costs 0.113."""
    collapsed = torch.zeros(128, 4, 20, dtype=torch.float64)
    collapsed[..., 0] = 1
    assert round(objectives.routing_regulariser(collapsed, 64).item(), 3) == 0.113
    short = torch.zeros(1, 1, 20, dtype=torch.float64)
    short[..., :5] = 1 / 5
    expected = ((1 / 5 - 1 / 20) / 64) ** 2
    assert math.isclose(objectives.routing_regulariser(short, 64).item(), expected, rel_tol=1e-12)


def test_gradient_of_the_routing_regulariser():
    logits = normal(2, 2, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: 1e3 * objectives.routing_regulariser(x.softmax(-1), 5), logits)


# --- distance (P20) --------------------------------------------------------------------------------------------


def test_distance_is_the_mean_euclidean_norm():
    x, y = normal(7, 5), normal(7, 5, seed=1)
    assert torch.allclose(objectives.distance(x, y), torch.linalg.vector_norm(x - y, dim=-1).mean(), rtol=1e-6)


@settings(max_examples=50)
@given(st.floats(-12, 6))
def test_gradient_of_the_distance_is_bounded_at_every_scale(exponent):
    x, y = normal(6, 4), normal(6, 4, seed=1)
    near = (y + 10**exponent * (x - y)).requires_grad_()
    objectives.distance(near, y).backward()
    assert near.grad.isfinite().all()
    assert (near.grad.norm(dim=-1) <= (1 + 1e-9) / 6).all()


def test_gradient_of_the_distance_at_equality_is_zero():
    for dtype in (torch.float32, torch.float64):
        x = normal(6, 4, dtype=dtype).requires_grad_()
        loss = objectives.distance(x, x.detach().clone())
        loss.backward()
        assert torch.equal(x.grad, torch.zeros(6, 4, dtype=dtype))
        assert loss < 1.1e-6


def test_bpr_equals_its_loop():
    positive, negative = normal(6, seed=1), normal(6, seed=2)
    expected = sum(math.log(1 + math.exp(b - a)) for a, b in zip(positive.tolist(), negative.tolist(), strict=True)) / 6
    assert math.isclose(objectives.bpr(positive, negative).item(), expected, rel_tol=1e-12)


def test_bpr_of_equal_scores_is_ln_2_and_swapping_adds_the_difference():
    positive, negative = normal(6, seed=1), normal(6, seed=2)
    assert math.isclose(objectives.bpr(positive, positive).item(), math.log(2), rel_tol=1e-12)
    swapped = objectives.bpr(negative, positive) - objectives.bpr(positive, negative)
    assert torch.allclose(swapped, (positive - negative).mean(), rtol=1e-12)


def test_bpr_does_not_overflow():
    far = torch.tensor([1e4, -1e4], requires_grad=True)
    loss = objectives.bpr(far, torch.zeros(2))
    loss.backward()
    assert loss.item() == 5e3
    assert far.grad.tolist() == [0.0, -0.5]
    assert (
        objectives.bpr(torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.bfloat16)).dtype
        == torch.float32
    )


def test_half_squares_is_a_mean_over_pairs_of_all_vectors():
    vectors = [normal(5, 3, seed=seed) for seed in range(3)]
    expected = sum(number**2 for one in vectors for row in one.tolist() for number in row) / 10
    assert math.isclose(objectives.half_squares(*vectors).item(), expected, rel_tol=1e-12)


@pytest.mark.parametrize("own", [False, True], ids=["shared negatives", "own negatives"])
@pytest.mark.parametrize("hits", [None, HITS], ids=["kept", "masked"])
def test_binary_equals_its_loop(own, hits):
    user, target, shared = vectors()
    negatives = normal(5, 9, 4, seed=6) if own else shared
    found = objectives.binary(user, target, negatives, batch(hits))
    total = 0.0
    for b in range(5):
        total += math.log1p(math.exp(-(user[b] @ target[b]).item()))
        for j in range(9):
            if hits is None or not hits[b, j]:
                total += math.log1p(math.exp((user[b] @ (negatives[b, j] if own else negatives[j])).item()))
    assert math.isclose(found.item(), total / 5, rel_tol=1e-12)
    products = objectives.products(user, negatives)
    assert torch.allclose(products[2, 3], user[2] @ (negatives[2, 3] if own else negatives[3]))


def test_rows_of_positions_weigh_what_they_say():
    user, target, negatives = vectors()
    weight = torch.tensor([0.5, 0.1, 0.2, 0.15, 0.05], dtype=torch.float64)
    plain = batch()
    positions = PositionBatch(plain.history, *[plain.target] * 3, weight, plain.negatives)
    each = [objectives.sampled_softmax(user[b : b + 1], target[b : b + 1], negatives, plain) for b in range(5)]
    found = objectives.sampled_softmax(user, target, negatives, positions)
    assert torch.allclose(found, (weight * torch.stack(each)).sum(), rtol=1e-12)


def test_concentration_is_one_for_one_item_and_the_least_for_an_even_row():
    weight = torch.tensor([0.75, 0.25])
    one = torch.zeros(2, 3, 4)
    one[:, :, 1] = 1
    even = torch.full((2, 3, 4), 0.25)
    assert objectives.concentration(one, weight).item() == pytest.approx(3)
    assert objectives.concentration(even, weight).item() == pytest.approx(3 / 4)
    mixed = torch.stack([one[0], even[0]])
    assert objectives.concentration(mixed, weight).item() == pytest.approx(0.75 * 3 + 0.25 * 3 / 4)


def test_squared_distance_is_the_mean_square_of_the_euclidean_one():
    x, y = normal(5, 3), normal(5, 3, seed=1)
    squares = [sum((x[b, i] - y[b, i]).item() ** 2 for i in range(3)) for b in range(5)]
    assert objectives.squared_distance(x, y).item() == pytest.approx(sum(squares) / 5, rel=1e-12)
    assert objectives.squared_distance(x, x) == 0
