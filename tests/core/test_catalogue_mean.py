import math

import pytest
import torch

from diffacet.core import diffusion
from diffacet.core.denoisers import catalogue_mean
from reference import normal

B, Q, N, D, T = 3, 4, 7, 5, 6
SCHEDULE = diffusion.scaled_linear(T, 1.0, 0.1, 0.9)


def given(seed=0):
    """Noisy vectors, the catalogue, and the log of a prior with an item that cannot be."""
    prior = normal(B, N, seed=seed + 2)
    prior[1, 3] = -torch.inf
    return normal(B, Q, D, seed=seed), normal(N, D, seed=seed + 1), prior


def steps(t):
    return torch.full((B,), t)


@pytest.mark.parametrize("t", [1, 3, T])
def test_it_is_bayes_rule(t):
    """E[x_0 | x_t] from the density of x_t given e_j, once the term in |e_j|^2 is put into the prior."""
    xt, vectors, prior = given()
    signal = float(SCHEDULE.alpha_bar[t])
    whole = prior - signal * vectors.square().sum(-1) / (2 * (1 - signal))
    found = catalogue_mean(xt, steps(t), vectors, whole, SCHEDULE)
    for b in range(B):
        for q in range(Q):
            gaps = [float(((xt[b, q] - math.sqrt(signal) * vector) ** 2).sum()) for vector in vectors]
            joint = [math.exp(float(p) - gap / (2 * (1 - signal))) for p, gap in zip(prior[b], gaps, strict=True)]
            mean = sum(share / sum(joint) * vector for share, vector in zip(joint, vectors, strict=True))
            assert torch.allclose(found[b, q], mean, atol=1e-10)


def test_items_that_cannot_be_have_no_part():
    xt, vectors, prior = given()
    changed = vectors.clone()
    changed[3] = 50.0
    before, after = (catalogue_mean(xt, steps(3), table, prior, SCHEDULE) for table in (vectors, changed))
    assert torch.allclose(before[1], after[1], atol=1e-12)
    assert not torch.allclose(before[0], after[0])


def test_with_little_noise_it_is_the_nearest_vector():
    """On vectors of one length the largest product is the nearest; the prior no longer matters."""
    schedule = diffusion.scaled_linear(2, 1.0, 1e-6, 2e-6)
    xt, vectors, prior = given()
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    found = catalogue_mean(xt, steps(1), vectors, prior.nan_to_num(neginf=-5.0), schedule)
    nearest = torch.cdist(xt.flatten(0, 1), vectors).argmin(-1)
    assert torch.allclose(found.flatten(0, 1), vectors[nearest], atol=1e-9)


def test_with_much_noise_it_is_the_mean_of_the_prior():
    schedule = diffusion.scaled_linear(2, 1.0, 0.5, 1 - 1e-12)
    xt, vectors, prior = given()
    found = catalogue_mean(xt, steps(2), vectors, prior, schedule)
    expected = (prior.softmax(-1) @ vectors).unsqueeze(1).expand(B, Q, D)
    assert torch.allclose(found, expected, atol=1e-4)


def test_the_vectors_of_a_row_and_the_rows_do_not_see_each_other():
    xt, vectors, prior = given()
    t = torch.tensor([1, 4, T])
    together = catalogue_mean(xt, t, vectors, prior, SCHEDULE)
    assert together.shape == (B, Q, D)
    for b in range(B):
        for q in range(Q):
            alone = catalogue_mean(xt[b : b + 1, q : q + 1], t[b : b + 1], vectors, prior[b : b + 1], SCHEDULE)
            assert torch.allclose(alone[0, 0], together[b, q], atol=1e-12)


def test_it_stays_among_the_vectors_and_forgets_the_scale_of_the_prior():
    xt, vectors, prior = given()
    found = catalogue_mean(100 * xt, steps(1), vectors, prior, SCHEDULE)
    assert found.isfinite().all()
    assert (found >= vectors.amin(0) - 1e-12).all()
    assert (found <= vectors.amax(0) + 1e-12).all()
    shifted = catalogue_mean(100 * xt, steps(1), vectors, prior + 30.0, SCHEDULE)
    assert torch.allclose(found, shifted, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_keeps_the_precision(dtype):
    xt, vectors, prior = (tensor.to(dtype) for tensor in given())
    assert catalogue_mean(xt, steps(2), vectors, prior, SCHEDULE).dtype == dtype
