"""The geometry of the sphere, noise along its great circles, and the walk back (numbers in brackets: properties)."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.special import hyp1f1

from diffacet.core import diffusion
from diffacet.core.diffusion import (
    ancestral,
    exp_map,
    geodesic,
    log_map,
    noised,
    published,
    tangent,
    unit,
    walk_back,
)
from diffacet.errors import BadSetting
from reference import normal

FORMS = ["one-step", "walk", "vp-geodesic", "ddpm-normalise", "euclidean"]
each_form = pytest.mark.parametrize("form", FORMS)
each_sphere = pytest.mark.parametrize("form", FORMS[:-1])
each_scale = pytest.mark.parametrize("scale", ["unit", "sphere"])
each_eta = pytest.mark.parametrize("eta", ["printed", "ddpm", "sphere", "none"])
PRINTED, CALIBRATED = published("linear-scaled", 20), published("cosine", 20)
D = 64


def points(*shape, seed=0, dtype=torch.float64):
    return unit(normal(*shape, seed=seed, dtype=dtype))


def noise_for(form, schedule, *shape, seed=1, dtype=torch.float64):
    return normal(*((schedule.steps, *shape) if form == "walk" else shape), seed=seed, dtype=dtype)


def steps_of(t, rows):
    return torch.full((rows,), t, dtype=torch.int64)


def rotation(d, seed=5):
    return torch.linalg.qr(normal(d, d, seed=seed))[0]


def length(x):
    return torch.linalg.vector_norm(x, dim=-1)


# --- geometry (2, 3, 4) ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tangent_is_an_orthogonal_symmetric_projection(dtype):
    x, y, z = points(9, D, dtype=dtype), normal(9, D, seed=1, dtype=dtype), normal(9, D, seed=2, dtype=dtype)
    along = (x * tangent(x, y)).sum(-1)
    assert (along.abs() < 1e-5 * length(y)).all()
    assert torch.allclose(tangent(x, tangent(x, y)), tangent(x, y), atol=1e-5)
    assert torch.allclose((tangent(x, y) * z).sum(-1), (y * tangent(x, z)).sum(-1), atol=1e-5)
    assert tangent(x, y).dtype == dtype


def test_tangent_noise_has_the_covariance_of_the_tangent_space():
    n, x = 40_000, points(5)
    found = tangent(x, normal(n, 5, seed=1))
    expected = torch.eye(5).double() - torch.outer(x, x)
    assert (found.T @ found / n - expected).abs().max() < 5 * math.sqrt(2 / n)


@pytest.mark.parametrize("radius", [0.0, 1e-9, 9e-5, 1.1e-4, 0.3, 2.0, 3.14, 4.0, 8.0, 31.0])
def test_exp_goes_that_far_along_a_great_circle(radius):
    x = points(6, D)
    direction = unit(tangent(x, normal(6, D, seed=1)))
    there = exp_map(x, radius * direction)
    assert torch.allclose(there, math.cos(radius) * x + math.sin(radius) * direction, atol=1e-12)
    expected = abs((radius + math.pi) % (2 * math.pi) - math.pi)
    assert torch.allclose(geodesic(x, there), torch.full((6,), expected).double(), atol=1e-12)
    assert torch.allclose(length(exp_map(x.float(), (radius * direction).float())), torch.ones(6), atol=1e-5)


def test_exp_of_nothing_stays_and_has_a_gradient():
    x, v = points(2, 3), torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    there = exp_map(x, v)
    assert torch.equal(there, x)
    for i in range(3):
        (gradient,) = torch.autograd.grad(there[:, i].sum(), v, retain_graph=True)
        assert torch.equal(gradient, torch.eye(3).double()[i].expand(2, 3))  # Exp_x(v) = x + v + O(|v|^2)


@pytest.mark.parametrize("radius", [3e-5, 0.9e-4, 1.1e-4, 1e-3, 0.01])
def test_small_angles_have_all_their_digits(radius):
    """Where the series takes over and beyond: sin(r) / r and cos(r) of float64 are good here, too."""
    x = torch.tensor([1.0, 0, 0]).double()
    v = torch.tensor([0, 0.6 * radius, 0.8 * radius], dtype=torch.float64)
    there = exp_map(x, v)
    assert there[0].item() == pytest.approx(math.cos(radius), rel=1e-15, abs=0)
    for i in (1, 2):
        assert there[i].item() == pytest.approx(math.sin(radius) / radius * v[i].item(), rel=1e-14, abs=0)
        assert log_map(x, there)[i].item() == pytest.approx(v[i].item(), rel=1e-12, abs=0)


@pytest.mark.parametrize("radius", [0.0, 3e-5, 0.99e-4, 1.01e-4, 0.7, 3.0])
def test_gradient_of_exp_is_right_on_both_sides_of_the_series(radius):
    x = points(4)
    v = (radius * unit(tangent(x, normal(4, seed=1)))).requires_grad_()
    assert torch.autograd.gradcheck(exp_map, (x, v), eps=1e-7, atol=1e-6)


@pytest.mark.parametrize("radius", [0.0, 1e-8, 0.99e-4, 1.01e-4, 0.5, 1.6, 3.0, math.pi - 1e-3])
def test_log_undoes_exp(radius):
    x = points(6, D)
    v = radius * unit(tangent(x, normal(6, D, seed=1)))
    assert torch.allclose(log_map(x, exp_map(x, v)), v, atol=1e-10)
    assert torch.allclose(log_map(x.float(), exp_map(x, v).float()), v.float(), atol=2e-3 if radius > 3 else 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [2, 3, D])
def test_exp_undoes_log_everywhere(d, dtype):
    x, y = points(50, d, dtype=dtype), points(50, d, seed=1, dtype=dtype)
    nearly = unit(-x + 1e-4 * y)
    for other in (y, x, -x, nearly, unit(x + 1e-6 * y)):
        v = log_map(x, other)
        assert torch.allclose(exp_map(x, v), other, atol=1e-5 if dtype == torch.float32 else 1e-10)
        assert ((v * x).sum(-1).abs() < 1e-5).all()
        assert torch.allclose(length(v), geodesic(x, other), atol=1e-6)
    assert torch.allclose(log_map(x, x), torch.zeros(1, dtype=dtype), atol=1e-7)
    assert torch.allclose(length(log_map(x, -x)), torch.full((50,), math.pi, dtype=dtype))


def test_log_has_gradients_where_an_arc_cosine_has_none():
    x = points(3, 5)
    for other in (x, -x, exp_map(x, tangent(x, normal(3, 5, seed=1)))):
        y = other.clone().requires_grad_()
        (log_map(x, y).sum() + geodesic(x, y).sum()).backward()
        assert y.grad.isfinite().all()


def test_distance_is_the_angle_and_keeps_its_digits():
    for angle in (1e-9, 1e-5, 0.4, 1.5, 3.1, math.pi - 1e-9):
        x, y = torch.tensor([1.0, 0, 0]).double(), torch.tensor([math.cos(angle), 0, math.sin(angle)]).double()
        assert math.isclose(geodesic(x, y).item(), angle, rel_tol=1e-7)
        assert torch.equal(geodesic(x.expand(2, 4, 3), y.expand(2, 4, 3)), geodesic(x, y).expand(2, 4))


def test_the_zero_vector_makes_no_nan():
    zero = torch.zeros(2, 4, requires_grad=True)
    t, noise = steps_of(3, 2), normal(20, 2, 4, dtype=torch.float32)
    total = unit(zero).sum() + log_map(unit(zero), points(2, 4, dtype=torch.float32)).sum()
    for form in FORMS:
        total = total + noised(unit(zero), t, noise if form == "walk" else noise[0], PRINTED, form, "unit").sum()
    total = total + walk_back(lambda x, t: zero, unit(zero), PRINTED).sum()
    total.backward()
    assert total.isfinite()
    assert zero.grad.isfinite().all()
    assert torch.equal(unit(zero), zero)


# --- forward (1, 5, 6, 7, 8, 19) -------------------------------------------------------------------------------


@each_sphere
@each_scale
@pytest.mark.parametrize("shape", [(40, D), (40, 3, 2), (40, 2, 3, 8)])
def test_every_noised_point_is_on_the_sphere(form, scale, shape):
    x0 = points(*shape, dtype=torch.float32)
    t = torch.arange(40) % 21
    found = noised(x0, t, noise_for(form, PRINTED, *shape, dtype=torch.float32), PRINTED, form, scale)
    assert found.dtype == torch.float32
    assert found.shape == shape
    assert (length(found) - 1).abs().max() < 1e-5
    assert torch.allclose(found[t == 0], x0[t == 0], atol=1e-6)  # no step, no noise


@each_form
@each_scale
def test_noise_turns_with_the_sphere(form, scale):
    Q, x0, t = rotation(8), points(30, 8), torch.arange(30) % 21
    noise = noise_for(form, PRINTED, 30, 8)
    turned = noised(x0 @ Q.T, t, noise @ Q.T, PRINTED, form, scale)
    assert torch.allclose(turned, noised(x0, t, noise, PRINTED, form, scale) @ Q.T, atol=1e-12)


@each_scale
def test_forms_are_their_equations_row_by_row(scale):
    d, x0 = 6, points(5, 6)
    t, tangent_scale = torch.tensor([1, 4, 20, 0, 9]), 1.0 if scale == "unit" else 1 / math.sqrt(d - 1)
    found = {form: noised(x0, t, noise_for(form, PRINTED, 5, d), PRINTED, form, scale) for form in FORMS}
    for row, step in enumerate(t.tolist()):
        x, signal, level = x0[row], PRINTED.alpha_bar[step].item(), PRINTED.noise_level[step].item()
        noise = noise_for("one-step", PRINTED, 5, d)[row]
        flat = noise - (noise @ x) * x
        angle = tangent_scale * math.sqrt(level) * flat.norm()
        expected = {
            "one-step": math.cos(angle) * x + math.sin(angle) * flat / flat.norm(),
            "vp-geodesic": math.sqrt(signal) * x + math.sqrt(level) * flat / flat.norm(),
            "euclidean": math.sqrt(signal) * x + math.sqrt(level) * noise,
        }
        mixed = math.sqrt(signal) * x + math.sqrt(level) * noise / (1 if scale == "unit" else math.sqrt(d))
        expected["ddpm-normalise"] = mixed / mixed.norm()
        for s in range(1, step + 1):
            e = noise_for("walk", PRINTED, 5, d)[s - 1, row]
            e = (e - (e @ x) * x) * tangent_scale * math.sqrt(PRINTED.beta[s].item())
            x = math.cos(e.norm()) * x + math.sin(e.norm()) * e / e.norm()
        expected["walk"] = x
        for form in FORMS:
            assert torch.allclose(found[form][row], expected[form], atol=1e-12), form


@cache
def cosines(form, scale, t, schedule=PRINTED, n=6000):
    """<x_t, x_0> of n draws, float64; the law is the same for every x_0."""
    x0 = torch.zeros(n, D, dtype=torch.float64)
    x0[:, 0] = 1.0
    noise = noise_for(form, schedule, n, D, seed=t)
    return noised(x0, steps_of(t, n), noise, schedule, form, scale)[:, 0].numpy()


def within_four_errors(values, expected):
    return abs(values.mean() - expected) < 4 * values.std() / math.sqrt(len(values))


@each_scale
@pytest.mark.parametrize("t", [1, 2, 3, 5, 10, 20])
def test_mean_cosine_of_one_step_is_kummers_function(scale, t):
    c2 = 1.0 if scale == "unit" else 1 / (D - 1)
    expected = hyp1f1((D - 1) / 2, 0.5, -c2 * PRINTED.noise_level[t].item() / 2)
    assert within_four_errors(cosines("one-step", scale, t), expected)


@cache
def walk_cosines(scale, n=4000):
    """<x_t, x_0> for t = 0..20 of n walks, one draw for all t: (21, n)."""
    x0 = points(1, D).expand(n, D)
    noise = torch.from_numpy(np.random.default_rng(3).standard_normal((20, n, D), np.float32))
    x0 = x0.float()
    return np.stack(
        [
            (noised(x0, steps_of(t, n), noise[:t], PRINTED_TO[t], "walk", scale) * x0).sum(-1).numpy()
            if t
            else np.ones(n)
            for t in range(21)
        ]
    )


# The chain's first t steps: a walk to t needs no more of it.
PRINTED_TO = {t: diffusion.Schedule(PRINTED.beta[1 : t + 1]) for t in range(1, 21)}


@each_scale
def test_mean_cosine_of_the_walk_is_a_product_of_kummers_functions(scale):
    c2 = 1.0 if scale == "unit" else 1 / (D - 1)
    found, expected = walk_cosines(scale), 1.0
    for t in range(1, 21):
        expected *= hyp1f1((D - 1) / 2, 0.5, -c2 * PRINTED.beta[t].item() / 2)
        assert within_four_errors(found[t], expected)
        if scale == "sphere" and t <= 5:  # close to the DDPM's signal while betas are small
            assert abs(expected - math.sqrt(PRINTED.alpha_bar[t].item())) < 0.02


@pytest.mark.parametrize("schedule", [PRINTED, CALIBRATED], ids=["linear-scaled", "cosine"])
def test_cosine_of_vp_geodesic_is_the_signal_in_every_draw(schedule):
    x0, t = points(21, D), torch.arange(21)
    found = noised(x0, t, normal(21, D, seed=1), schedule, "vp-geodesic", "unit")
    assert torch.allclose((found * x0).sum(-1), schedule.alpha_bar.sqrt(), atol=1e-14)


@each_scale
def test_noise_of_the_walk_and_of_vp_geodesic_grows_to_the_equator(scale):
    error = 4 / math.sqrt(D * 4000)  # of a mean distance near the equator, where it is noisiest
    distance = np.arccos(np.clip(walk_cosines(scale), -1, 1)).mean(1)
    # Steps of scale unit are so long that the second passes the equator, as do some that follow.
    reached = 2 if scale == "unit" else 20
    assert (np.diff(distance[: reached + 1]) > -error).all()
    assert distance[reached] > math.pi / 2 - 2 * error
    angles = torch.acos(PRINTED.alpha_bar.sqrt())
    assert (angles.diff() > 0).all()
    assert angles[-1] < math.pi / 2


def test_one_step_winds_around_the_sphere_as_printed():
    """The printed algorithm's quirk: noise is not monotone in t, and at t = 3 x_t is nearly -x_0."""
    means = {t: cosines("one-step", "unit", t).mean() for t in (1, 2, 3, 4, 5, 10, 15, 20)}
    recorded = {1: 0.85, 2: -0.38, 3: -0.96, 4: -0.35, 5: 0.50, 10: 0.13, 15: -0.03, 20: -0.03}
    for t, expected in recorded.items():
        assert means[t] == pytest.approx(expected, abs=0.02)
    assert means[2] < means[5]


@each_sphere
@pytest.mark.parametrize("factor", [0.25, 3.0, 1e3])
def test_the_length_of_an_items_vector_does_not_matter(form, factor):
    vectors, t, noise = normal(6, D), torch.arange(1, 7), noise_for(form, PRINTED, 6, D)
    found = noised(unit(factor * vectors), t, noise, PRINTED, form, "unit")
    assert torch.allclose(found, noised(unit(vectors), t, noise, PRINTED, form, "unit"), atol=1e-12)


@pytest.mark.parametrize("t", [3, 12])
def test_euclidean_noise_has_the_mean_and_the_covariance_of_ddpm(t):
    n, x0 = 30_000, torch.tensor([2.0, -0.5, 0.1]).double()
    found = noised(x0.expand(n, 3), steps_of(t, n), normal(n, 3, seed=4), PRINTED, "euclidean", "sphere")
    level = PRINTED.noise_level[t].item()
    assert (found.mean(0) - PRINTED.alpha_bar[t].sqrt() * x0).abs().max() < 4 * math.sqrt(level / n)
    assert (found.T.cov() - level * torch.eye(3)).abs().max() < 4 * level * math.sqrt(2 / n)
    alone = diffusion.forward_noise(x0.expand(2, 3), steps_of(t, 2), normal(2, 3), PRINTED)
    assert torch.equal(noised(x0.expand(2, 3), steps_of(t, 2), normal(2, 3), PRINTED, "euclidean", "unit"), alone)


@each_form
def test_gradient_reaches_the_clean_vector(form):
    x0 = points(21, 5).requires_grad_()
    t = torch.arange(21)
    noised(x0, t, noise_for(form, PRINTED, 21, 5), PRINTED, form, "sphere").square().sum(0)[0].backward()
    assert x0.grad.isfinite().all()
    assert (x0.grad.abs().sum(-1) > 0).all()


# --- the walk back (1, 7, 9, 21) -------------------------------------------------------------------------------


def test_posterior_is_bayes_rule_by_numerical_integration():
    """On scalars: q(x_{t-1} | x_t, x_0) is q(x_t | x_{t-1}) q(x_{t-1} | x_0), made to integrate to 1."""
    x0, xt, grid = 0.4, -0.9, torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    for schedule in (PRINTED, CALIBRATED):
        for t in (2, 5, 12, 19):
            beta, before = schedule.beta[t].item(), schedule.noise_level[t - 1].item()
            prior = (grid - math.sqrt(1 - before) * x0) ** 2 / before
            likelihood = (xt - math.sqrt(1 - beta) * grid) ** 2 / beta
            density = (-0.5 * (prior + likelihood)).softmax(0)
            mean = (density * grid).sum()
            one = torch.ones(1, 1, dtype=torch.float64)
            found = diffusion.posterior(x0 * one, xt * one, steps_of(t, 1), schedule)
            assert torch.allclose(found[0], mean, rtol=1e-6)
            assert torch.allclose(found[1], (density * (grid - mean) ** 2).sum(), rtol=1e-6)
        of_xt, of_x0, variance = diffusion.posterior_tables(schedule)
        assert (of_xt[1], of_x0[1], variance[1]) == (0, 1, 0)


def told(x, t):
    """A denoiser that turns with the sphere and whose answers are not unit."""
    return 1.7 * x * (1 + 0.1 * t.reshape(-1, *[1] * (x.ndim - 1)))


@each_eta
@pytest.mark.parametrize("shape", [(7, D), (7, 3, 4)])
def test_every_step_back_is_its_equation_on_the_sphere(eta, shape):
    x, noise, seen = points(*shape), normal(20, *shape, seed=1), {}

    def denoise(x, t):
        seen[int(t[0])] = x
        return torch.sin(2 * x) + 0.01 * int(t[0])

    seen[0] = walk_back(denoise, x, PRINTED, noise=noise, eta=eta)
    assert list(seen) == list(range(20, -1, -1))
    met = dict(seen)
    for t in range(20, 0, -1):
        at = met[t]
        mean, variance = diffusion.posterior(torch.sin(2 * at) + 0.01 * t, at, steps_of(t, 7), PRINTED)
        spread = {"printed": variance, "ddpm": variance.sqrt(), "sphere": (variance / (shape[-1] - 1)).sqrt()}
        moved = mean + spread.get(eta, 0 * variance) * noise[t - 1]
        assert torch.allclose(met[t - 1], moved / length(moved).unsqueeze(-1), atol=1e-12)
        assert (length(met[t - 1]) - 1).abs().max() < 1e-12
        assert torch.equal(walk_back(denoise, x, PRINTED, noise=noise, eta=eta, stop=t), at)
    assert torch.equal(met[20], x)


@each_eta
def test_the_walk_back_turns_with_the_sphere(eta):
    Q, x, noise = rotation(8), points(5, 8), normal(20, 5, 8, seed=1)
    turned = walk_back(told, x @ Q.T, PRINTED, noise=noise @ Q.T, eta=eta)
    assert torch.allclose(turned, walk_back(told, x, PRINTED, noise=noise, eta=eta) @ Q.T, atol=1e-10)


@each_eta
def test_the_last_step_is_a_plain_call_made_unit(eta):
    x, one = points(4, 6), published("linear-scaled", 1)
    answer = normal(4, 6, seed=2)
    noise = 1e6 * normal(20, 4, 6, seed=3)
    assert torch.allclose(walk_back(lambda x, t: answer, x, one, noise=noise[:1], eta=eta), unit(answer), atol=1e-15)
    assert torch.allclose(walk_back(lambda x, t: answer, x, PRINTED, noise=noise, eta=eta), unit(answer), atol=1e-15)
    assert torch.equal(walk_back(lambda x, t: answer, x, PRINTED, on_sphere=False), answer)


def test_off_the_sphere_with_the_deviation_it_is_ancestral():
    x, noise = 3 * normal(4, 6), normal(20, 4, 6, seed=1)
    found = walk_back(lambda x, t: torch.sin(x), x, PRINTED, noise=noise, eta="ddpm", on_sphere=False)
    assert torch.equal(found, ancestral(lambda x, t: torch.sin(x), x, PRINTED, noise=noise))
    mean = walk_back(lambda x, t: torch.sin(x), x, PRINTED, on_sphere=False)
    assert torch.equal(mean, ancestral(lambda x, t: torch.sin(x), x, PRINTED))


@pytest.mark.parametrize("stop", [-1, 21])
def test_a_walk_stops_within_the_chain(stop):
    with pytest.raises(BadSetting, match=rf"between steps 0 and T = 20; got {stop}"):
        walk_back(lambda x, t: x, points(2, 3), PRINTED, stop=stop)
    x = points(2, 3)
    assert torch.equal(walk_back(lambda x, t: x, x, PRINTED, stop=20), x)


def way_home(schedule, eta, n=4000):
    """{t: mean of <x_t, x_0>} of the walk back from uniform starts with a perfect denoiser; t = T..0."""
    x0, met = points(n, D), {}

    def perfect(x, t):
        met[int(t[0])] = (x * x0).sum(-1).mean().item()
        return x0

    noise = torch.from_numpy(np.random.default_rng(8).standard_normal((20, n, D), np.float32))
    last = walk_back(perfect, points(n, D, seed=7), schedule, noise=noise, eta=eta)
    return met | {0: (last * x0).sum(-1).mean().item()}


def test_forward_and_reverse_agree_when_calibrated():
    for t, cosine in way_home(CALIBRATED, "sphere").items():
        assert abs(cosine - math.sqrt(CALIBRATED.alpha_bar[t].item())) < 0.01


def test_forward_and_reverse_disagree_as_printed():
    """What is recorded of Algorithms 1 and 2: around t = 3 training saw x_0 near -x_3, serving passes near +x_3."""
    home = way_home(PRINTED, "printed")
    for t, served, trained in ((5, 0.24, 0.50), (4, 0.39, -0.35), (3, 0.63, -0.96), (2, 0.90, -0.38), (1, 1.00, 0.85)):
        assert home[t] == pytest.approx(served, abs=0.02)
        assert cosines("one-step", "unit", t).mean() == pytest.approx(trained, abs=0.02)
