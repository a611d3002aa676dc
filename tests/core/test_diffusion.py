import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from diffacet.core import diffusion
from diffacet.core.diffusion import (
    Schedule,
    ancestral,
    binomial,
    cosine,
    ddim,
    ddim_steps,
    linear_beta,
    noiseless,
    sample,
    scaled_linear,
    with_first_beta,
)
from diffacet.errors import BadSetting
from reference import normal

SCHEDULES = {
    "dmi": scaled_linear(10, 5.0, 1e-4, 4e-3),
    "paper-grid": scaled_linear(80, 1.0, 1e-4, 8e-3),
    "one-step": scaled_linear(1, 1.0, 1e-4, 4e-3),
    "tiny": scaled_linear(20, 1e-4, 1e-4, 1e-3),
    "loud": scaled_linear(12, 1.0, 0.05, 0.95),
    "first-beta": scaled_linear(10, 1.0, 1e-4, 4e-3, first_beta=1e-5),
    "ddpm": linear_beta(50, 1.0, 1e-4, 0.02),
    "cosine": cosine(16),
    "binomial": binomial(15),
    "diffrec": scaled_linear(40, 0.005, 0.005, 0.01, first_beta=1e-5),
}
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


def steps_of(t, rows):
    return torch.full((rows,), t, dtype=torch.int64)


# --- schedules (P1, P23) ---------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(
    T=st.integers(1, 200),
    s=st.floats(1e-4, 10),
    low=st.floats(1e-5, 0.04),
    growth=st.floats(1.01, 2.4),
)
def test_cumulative_noise_of_the_chain_is_the_printed_line(T, s, low, growth):
    schedule = scaled_linear(T, s, low, low * growth)
    expected = reference.scaled_linear_levels(T, s, low, low * growth)
    product = 1.0
    alphas = [1 - beta for beta in schedule.beta.tolist()[1:]]
    for alpha, level, table in zip(alphas, expected, schedule.noise_level.tolist()[1:], strict=True):
        product *= alpha
        # The product of numbers near 1 is only good to 1e-16 absolute; the table itself is exact.
        assert math.isclose(1 - product, level, rel_tol=1e-12, abs_tol=1e-13)
        assert math.isclose(table, level, rel_tol=1e-12)
    assert math.isclose(schedule.beta[1].item(), s * low, rel_tol=1e-15)
    assert ((schedule.beta[1:] > 0) & (schedule.beta[1:] < 1)).all()
    assert schedule.steps == T
    assert schedule.alpha_bar[0] == 1
    assert schedule.noise_level[0] == 0


def test_beta_need_not_rise():
    beta = scaled_linear(80, 1.0, 1e-4, 4e-3).beta
    assert beta[2] < beta[1]


def test_linear_beta_is_a_line_in_beta_and_accumulates_with_T():
    schedule = linear_beta(5, 2.0, 0.01, 0.05)
    assert torch.allclose(schedule.beta[1:], torch.linspace(0.02, 0.1, 5, dtype=torch.float64), rtol=1e-14)
    product = 1.0
    for t in range(1, 6):
        product *= 1 - schedule.beta[t].item()
        assert math.isclose(schedule.alpha_bar[t].item(), product, rel_tol=1e-14)
        assert math.isclose(schedule.noise_level[t].item(), 1 - product, rel_tol=1e-13)
    assert linear_beta(40, 1.0, 1e-3, 1e-2).noise_level[-1] > 3 * linear_beta(10, 1.0, 1e-3, 1e-2).noise_level[-1]
    assert math.isclose(
        scaled_linear(40, 1.0, 1e-3, 1e-2).noise_level[-1], scaled_linear(10, 1.0, 1e-3, 1e-2).noise_level[-1]
    )


def test_noise_level_keeps_its_digits_where_one_minus_alpha_bar_has_none():
    schedule = linear_beta(3, 1e-12, 1e-4, 3e-4)  # levels about 1e-16, where 1 - alpha_bar is 0 or one ulp
    assert torch.allclose(
        schedule.noise_level[1:], torch.tensor([1e-16, 3e-16, 6e-16], dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_cosine_schedule():
    T, offset = 16, 0.008
    schedule = cosine(T, offset)
    signal = [math.cos((t / T + offset) / (1 + offset) * math.pi / 2) ** 2 for t in range(T + 1)]
    for t in range(1, T):
        assert math.isclose(schedule.alpha_bar[t].item(), signal[t] / signal[0], rel_tol=1e-10)
    assert schedule.beta[-1] == 0.999  # where the formula says 1
    assert (schedule.alpha_bar.diff() < 0).all()


def test_first_beta_shifts_every_level():
    plain, quirk = scaled_linear(6, 1.0, 1e-3, 9e-3), scaled_linear(6, 1.0, 1e-3, 9e-3, first_beta=1e-5)
    assert quirk.beta[1] == 1e-5
    assert torch.equal(quirk.beta[2:], plain.beta[2:])
    product = 1.0
    for t in range(1, 7):
        product *= 1 - quirk.beta[t].item()
        assert math.isclose(quirk.noise_level[t].item(), 1 - product, rel_tol=1e-9)
        assert quirk.noise_level[t] < plain.noise_level[t]


@each_schedule
def test_tables_stay_float64_under_every_cast(schedule):
    module = torch.nn.ModuleDict({"chain": schedule, "layer": torch.nn.Linear(2, 2)})
    before = {name: table.clone() for name, table in schedule.named_buffers()}
    for cast in (
        lambda m: m.to(torch.float32),
        lambda m: m.half(),
        lambda m: m.to(torch.bfloat16),
        lambda m: m.float(),
    ):
        cast(module)
        for name, table in schedule.named_buffers():
            assert table.dtype == torch.float64
            assert torch.equal(table, before[name])
    assert module["layer"].weight.dtype == torch.float32
    assert module.double()["chain"].beta.dtype == torch.float64
    assert not schedule.state_dict()


@each_schedule
def test_float32_coefficients_agree_with_float64(schedule):
    """P23: what a float32 model multiplies by, against the float64 table, to 1e-6."""
    t = torch.arange(1, schedule.steps + 1)
    like = torch.zeros(schedule.steps, 3)
    of_xt, of_x0, variance = diffusion.posterior_tables(schedule)
    for table in (schedule.noise_level, schedule.noise_level.sqrt(), schedule.beta, of_xt, of_x0, variance):
        used = schedule.at(table, t, like)
        assert used.dtype == torch.float32
        assert used.shape == (schedule.steps, 1)
        assert torch.allclose(used[:, 0].double(), table[1:], rtol=1e-6, atol=0)


def test_float32_cumulative_products_would_fail_that():
    """The reason of the float64 tables, so that nobody simplifies them away."""
    schedule = scaled_linear(20, 1.0, 1e-4, 4e-3)
    careless = 1 - (1 - schedule.beta.float()).cumprod(0)
    assert ((careless[1:].double() / schedule.noise_level[1:]) - 1).abs().max() > 1e-5


@pytest.mark.parametrize(
    "make",
    [
        lambda: scaled_linear(10, 0.0, 1e-4, 4e-3),
        lambda: scaled_linear(10, 1.0, 0.0, 4e-3),
        lambda: scaled_linear(10, -1.0, 1e-4, 4e-3),
        lambda: scaled_linear(10, 1.0, 4e-3, 1e-4),
        lambda: scaled_linear(10, 1.0, 1e-3, 1e-3),
        lambda: scaled_linear(10, 500.0, 1e-4, 4e-3),
        lambda: scaled_linear(1, 500.0, 1e-4, 4e-3),
        lambda: scaled_linear(10, float("nan"), 1e-4, 4e-3),
        lambda: scaled_linear(10, 1.0, 1e-4, float("nan")),
        lambda: scaled_linear(10, 1.0, 1e-4, float("inf")),
        lambda: scaled_linear(0, 1.0, 1e-4, 4e-3),
        lambda: scaled_linear(10, 1.0, 1e-4, 4e-3, first_beta=0.0),
        lambda: scaled_linear(10, 1.0, 1e-4, 4e-3, first_beta=1.5),
        lambda: linear_beta(10, 1.0, 0.5, 1.01),
        lambda: linear_beta(10, 1.0, 0.0, 0.5),
        lambda: linear_beta(-3, 1.0, 0.1, 0.5),
        lambda: cosine(0),
        lambda: Schedule(torch.zeros(0)),
        lambda: Schedule(torch.ones(2, 2)),
        lambda: Schedule(torch.tensor([0.1, float("nan")])),
    ],
)
def test_impossible_schedules_are_refused(make):
    with pytest.raises(BadSetting, match=r"lies? in|needs T"):
        make()


def test_equal_bounds_are_one_level_for_one_step():
    assert scaled_linear(1, 1.0, 1e-3, 1e-3).noise_level[1] == 1e-3


# --- forward (P2) ----------------------------------------------------------------------------------------------


@each_schedule
def test_composed_steps_have_the_closed_forms_mean_and_variance(schedule):
    factor, variance = 1.0, 0.0
    for t in range(1, schedule.steps + 1):
        beta = schedule.beta[t].item()
        factor, variance = factor * math.sqrt(1 - beta), (1 - beta) * variance + beta
        assert math.isclose(factor, math.sqrt(schedule.alpha_bar[t].item()), rel_tol=1e-12)
        assert math.isclose(variance, schedule.noise_level[t].item(), rel_tol=1e-12)


def test_composed_steps_have_the_closed_forms_distribution():
    schedule, n = SCHEDULES["loud"], 40_000
    x = torch.full((n, 1), 1.7, dtype=torch.float64)
    for t in range(1, 9):
        beta = schedule.beta[t].item()
        x = math.sqrt(1 - beta) * x + math.sqrt(beta) * normal(n, 1, seed=t)
    mean, deviation = math.sqrt(schedule.alpha_bar[8].item()) * 1.7, math.sqrt(schedule.noise_level[8].item())
    assert abs(x.mean().item() - mean) < 5 * deviation / math.sqrt(n)
    assert abs(x.std().item() / deviation - 1) < 5 / math.sqrt(2 * n)


@each_schedule
def test_forward_noise_is_the_closed_form_row_by_row(schedule):
    x0, noise = normal(7, 3, 4), normal(7, 3, 4, seed=1)
    t = torch.tensor([0, 1, schedule.steps, (schedule.steps + 1) // 2, 0, 1, schedule.steps])
    found = diffusion.forward_noise(x0, t, noise, schedule)
    for row, step in enumerate(t.tolist()):
        signal = schedule.alpha_bar[step].item()
        expected = math.sqrt(signal) * x0[row] + math.sqrt(schedule.noise_level[step].item()) * noise[row]
        assert torch.allclose(found[row], expected, rtol=1e-14)
    assert torch.equal(found[0], x0[0])
    assert diffusion.forward_noise(x0.float(), t, noise.float(), schedule).dtype == torch.float32


# --- posterior (P3, P4, P6) ------------------------------------------------------------------------------------


@each_schedule
def test_posterior_is_the_conditioned_joint_gaussian(schedule):
    x0, xt = normal(schedule.steps, 4), normal(schedule.steps, 4, seed=1)
    t = torch.arange(1, schedule.steps + 1)
    mean, variance = diffusion.posterior(x0, xt, t, schedule)
    for row in range(1, schedule.steps):
        step = row + 1
        alpha = 1 - schedule.beta[step].item()
        for i in range(4):
            expected = reference.posterior_by_conditioning(
                schedule.alpha_bar[step - 1].item(), alpha, x0[row, i].item(), xt[row, i].item()
            )
            # The reference subtracts 1 - alpha_bar near 1e-8 at worst, hence not 1e-12.
            assert math.isclose(mean[row, i].item(), expected[0], rel_tol=1e-6, abs_tol=1e-8)
            assert math.isclose(variance[row, 0].item(), expected[1], rel_tol=1e-6)


@each_schedule
def test_posterior_ends_at_the_estimate(schedule):
    of_xt, of_x0, variance = diffusion.posterior_tables(schedule)
    assert (of_xt[1], of_x0[1], variance[1]) == (0, 1, 0)
    x0, xt = normal(3, 4, dtype=torch.float32), normal(3, 4, seed=1, dtype=torch.float32)
    mean, variance = diffusion.posterior(x0, xt, steps_of(1, 3), schedule)
    assert torch.equal(mean, x0)
    assert torch.equal(variance, torch.zeros(3, 1))


@each_schedule
def test_posterior_keeps_a_noiseless_path(schedule):
    of_xt, of_x0, _ = diffusion.posterior_tables(schedule)
    left = of_xt[1:] * schedule.alpha_bar[1:].sqrt() + of_x0[1:]
    assert torch.allclose(left, schedule.alpha_bar[:-1].sqrt(), rtol=1e-12, atol=0)


@each_schedule
def test_estimates_of_noise_and_of_signal_are_two_views_of_one(schedule):
    x0, noise = normal(5, 4), normal(5, 4, seed=1)
    for step in {1, (schedule.steps + 1) // 2, schedule.steps}:
        t = steps_of(step, 5)
        xt = diffusion.forward_noise(x0, t, noise, schedule)
        back = diffusion.x0_from_eps(lambda x, t: noise, schedule)(xt, t)
        assert torch.allclose(back, x0, rtol=1e-10, atol=1e-12)
        # Dividing by sqrt(1 - alpha_bar) near 1e-4 costs four digits.
        assert torch.allclose(diffusion.eps_from_x0(xt, x0, t, schedule), noise, rtol=1e-9, atol=1e-10)


# --- samplers (P4, P5, P7) -------------------------------------------------------------------------------------


@each_schedule
def test_a_perfect_denoiser_is_a_fixed_point_of_every_sampler(schedule):
    x0 = normal(3, 2, 4, dtype=torch.float32)
    start = normal(3, 2, 4, seed=1, dtype=torch.float32)
    noise = normal(schedule.steps, 3, 2, 4, seed=2, dtype=torch.float32)
    assert torch.equal(ancestral(lambda x, t: x0, start, schedule), x0)
    assert torch.equal(ancestral(lambda x, t: x0, start, schedule, noise=noise), x0)
    for steps in range(1, schedule.steps + 1):
        assert torch.equal(ddim(lambda x, t: x0, start, schedule, steps), x0)
        assert torch.equal(ddim(lambda x, t: x0, start, schedule, steps, eta=1.0, noise=noise), x0)


@each_schedule
def test_every_sampler_returns_the_last_estimate(schedule):
    said = []

    def denoise(x, t):
        said.append((int(t[0]), torch.sin(3 * x) + 0.1 * t.reshape(-1, 1)))
        assert t.dtype == torch.int64
        assert t.shape == (4,)
        return said[-1][1]

    x = normal(4, 3, dtype=torch.float32)
    assert torch.equal(ancestral(denoise, x, schedule), said[-1][1])
    assert [t for t, _ in said] == list(range(schedule.steps, 0, -1))
    said.clear()
    steps = (schedule.steps + 1) // 2
    assert torch.equal(ddim(denoise, x, schedule, steps), said[-1][1])
    assert [t for t, _ in said] == ddim_steps(schedule.steps, steps)[::-1]


@each_schedule
def test_ancestral_takes_the_posterior_mean_at_every_step(schedule):
    def denoise(x, t):
        return 0.3 * x + 0.01 * t.reshape(-1, 1)

    x = start = normal(4, 3)
    for step in range(schedule.steps, 0, -1):
        t = steps_of(step, 4)
        x, _ = diffusion.posterior(denoise(x, t), x, t, schedule)
    assert torch.allclose(ancestral(denoise, start, schedule), x, rtol=1e-12)
    assert torch.equal(sample(denoise, start, schedule, None), ancestral(denoise, start, schedule))
    steps = min(3, schedule.steps)
    assert torch.equal(sample(denoise, start, schedule, steps), ddim(denoise, start, schedule, steps))


def test_ancestral_noise_has_the_posteriors_variance():
    """Of two steps with noise, only the first shows: a denoiser that answers its input makes it visible."""
    schedule, n = scaled_linear(2, 1.0, 0.2, 0.6), 40_000
    x = torch.zeros(n, 1, dtype=torch.float64)
    noise = normal(2, n, 1)
    found = ancestral(lambda x, t: x if t[0] == 1 else torch.full_like(x, 0.7), x, schedule, noise=noise)
    _, of_x0, variance = diffusion.posterior_tables(schedule)
    assert torch.allclose(found, of_x0[2] * 0.7 + variance[2].sqrt() * noise[1], rtol=1e-12)
    assert abs(found.var().item() / variance[2].item() - 1) < 0.05


def test_ancestral_walk_of_a_gaussian_keeps_its_distribution():
    """x_0 ~ N(m, v) and the exact denoiser E[x_0 | x_t]: its walk has mean m and nearly variance v."""
    schedule, n, m, v = scaled_linear(40, 1.0, 0.01, 0.99), 20_000, 0.8, 0.25

    def exact(x, t):
        signal, level = schedule.alpha_bar[t[0]].item(), schedule.noise_level[t[0]].item()
        return m + v * math.sqrt(signal) / (v * signal + level) * (x - math.sqrt(signal) * m)

    start = math.sqrt(schedule.alpha_bar[-1].item()) * (m + math.sqrt(v) * normal(n, 1)) + math.sqrt(0.99) * normal(
        n, 1, seed=1
    )
    found = ancestral(exact, start, schedule, noise=normal(40, n, 1, seed=2))
    assert abs(found.mean().item() - m) < 0.02
    # Many small steps of the true posterior approach v; the mean-only chain collapses well below.
    assert 0.8 * v < found.var().item() < 1.05 * v
    assert ancestral(exact, start, schedule).var().item() < 0.5 * v


@each_schedule
def test_ddim_moves_along_the_noise_it_infers(schedule):
    x0, eps = normal(5, 4), normal(5, 4, seed=1)
    seen = {}

    def denoise(x, t):
        seen[int(t[0])] = x
        return (x - schedule.noise_level[t[0]].sqrt() * eps) / schedule.alpha_bar[t[0]].sqrt()

    start = diffusion.forward_noise(x0, steps_of(schedule.steps, 5), eps, schedule)
    for steps in range(1, schedule.steps + 1):
        seen.clear()
        assert torch.allclose(ddim(denoise, start, schedule, steps), x0, rtol=1e-8, atol=1e-8)
        for step, x in seen.items():
            expected = schedule.alpha_bar[step].sqrt() * x0 + schedule.noise_level[step].sqrt() * eps
            assert torch.allclose(x, expected, rtol=1e-8, atol=1e-8)


@each_schedule
def test_ddim_steps_follow_the_formula_step_by_step(schedule):
    def denoise(x, t):
        return 0.9 * torch.tanh(x) + 0.01 * t.reshape(-1, 1)

    steps = min(4, schedule.steps)
    x = start = normal(3, 2)
    visited = ddim_steps(schedule.steps, steps)
    for step, earlier in zip(visited[::-1], visited[-2::-1], strict=False):
        x = reference.ddim_step(
            x, denoise(x, steps_of(step, 3)), schedule.alpha_bar[step].item(), schedule.alpha_bar[earlier].item()
        )
    expected = denoise(x, steps_of(visited[0], 3))
    assert torch.allclose(ddim(denoise, start, schedule, steps), expected, rtol=1e-8, atol=1e-9)


def test_ddim_with_all_variance_is_ancestral():
    """DDIM's eta = 1 over all steps has DDPM's mean and variance, so the same noise gives the same walk."""
    schedule, noise = scaled_linear(9, 1.0, 0.02, 0.9), normal(9, 4, 3, seed=3)

    def denoise(x, t):
        return 0.4 * x - 0.05 * t.reshape(-1, 1)

    start = normal(4, 3)
    left = ddim(denoise, start, schedule, 9, eta=1.0, noise=noise)
    assert torch.allclose(left, ancestral(denoise, start, schedule, noise=noise), rtol=1e-9)
    assert not torch.allclose(left, ancestral(denoise, start, schedule), rtol=1e-3)


def test_ddim_needs_noise_for_variance():
    with pytest.raises(BadSetting, match="eta > 0 needs noise"):
        ddim(lambda x, t: x, torch.zeros(1, 2), SCHEDULES["dmi"], 3, eta=0.5)


@given(st.integers(1, 300), st.data())
def test_visited_steps(T, data):
    S = data.draw(st.integers(1, T))
    visited = ddim_steps(T, S)
    assert len(visited) == S
    assert visited == sorted(set(visited))
    assert visited[-1] == T
    assert S == 1 or visited[0] == 1
    if S >= 2:
        assert visited == [1 + ((i - 1) * (T - 1) + (S - 1) // 2) // (S - 1) for i in range(1, S + 1)]
        gaps = np.diff(visited)
        assert gaps.max() - gaps.min() <= 1  # as even as whole numbers are
    assert ddim_steps(T, T) == list(range(1, T + 1))


@pytest.mark.parametrize("steps", [0, -1, 11])
def test_impossible_strides_are_refused(steps):
    with pytest.raises(BadSetting, match=f"between 1 and T = 10 steps; got {steps}"):
        ddim(lambda x, t: x, torch.zeros(1, 2), SCHEDULES["dmi"], steps)


@each_schedule
def test_a_walk_in_two_parts_is_the_walk(schedule):
    """Begun at T and stopped at any step, then begun there."""
    x, noise, T = normal(4, 3), normal(schedule.steps, 4, 3, seed=1), schedule.steps
    how = {"noise": noise, "spread": schedule.beta.sqrt()}
    whole = diffusion.descend(lambda x, t: x.tanh() * t[:1], x, schedule, **how)
    for middle in (0, 1, T // 2, T):
        first = diffusion.descend(lambda x, t: x.tanh() * t[:1], x, schedule, **how, start=T, stop=middle)
        assert torch.equal(
            diffusion.descend(lambda x, t: x.tanh() * t[:1], first, schedule, **how, start=middle), whole
        )
    for start, stop in ((T + 1, 0), (0, 1), (-1, -1)):
        with pytest.raises(BadSetting, match=f"got {stop}, begun at {start}"):
            diffusion.descend(lambda x, t: x, x, schedule, start=start, stop=stop)


def test_gradient_flows_through_the_walk():
    start = normal(2, 3).requires_grad_()
    ancestral(lambda x, t: 0.5 * x, start, SCHEDULES["dmi"]).sum().backward()
    assert (start.grad > 0).all()


# --- noise of cases --------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    cases=st.lists(st.integers(0, 3000), min_size=1, max_size=12),
    seed=st.integers(0, 2**31),
    shape=st.sampled_from([(3,), (2, 3), (1, 2, 2)]),
)
def test_a_case_gets_its_own_noise_in_any_batch(cases, seed, shape):
    together = diffusion.case_noise(torch.tensor(cases), shape, seed)
    assert together.shape == (len(cases), *shape)
    assert together.dtype == torch.float32
    for row, case in enumerate(cases):
        assert torch.equal(together[row], diffusion.case_noise(torch.tensor([case]), shape, seed)[0])


def test_case_noise_across_block_borders():
    B = diffusion.NOISE_BLOCK
    cases = torch.tensor([B - 1, B, B + 1, 0, 2 * B, 2 * B - 1, B])
    noise = diffusion.case_noise(cases, (4, 8), 5)
    whole = diffusion.case_noise(torch.arange(2 * B + 1), (4, 8), 5)
    assert torch.equal(noise, whole[cases])
    assert len(torch.unique(whole.reshape(len(whole), -1), dim=0)) == len(whole)  # no two cases share noise


def test_case_noise_is_standard_normal_and_depends_on_the_seed():
    n = 2048
    noise, other = (diffusion.case_noise(torch.arange(n), (32,), seed) for seed in (0, 1))
    assert abs(noise.mean().item()) < 5 / math.sqrt(noise.numel())
    assert abs(noise.var().item() - 1) < 5 * math.sqrt(2 / noise.numel())
    assert abs((noise * other).mean().item()) < 5 / math.sqrt(noise.numel())
    assert abs((noise[:1024] * noise[1024:]).mean().item()) < 5 / math.sqrt(noise.numel() / 2)
    assert diffusion.case_noise(torch.zeros(0, dtype=torch.int64), (2, 3), 0).shape == (0, 2, 3)


def test_case_noise_does_not_touch_the_global_generators():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    diffusion.case_noise(torch.tensor([4]), (2,), 3)
    assert torch.equal(torch.rand(2), expected)


def test_signal_to_noise():
    schedule, x0 = SCHEDULES["dmi"], normal(6, 5)
    expected = (1 - 0.02) * (x0**2).mean() / 0.02
    assert torch.allclose(diffusion.signal_to_noise(x0, schedule), expected, rtol=1e-12)
    assert diffusion.signal_to_noise(x0.float(), schedule).dtype == torch.float32


# --- what DiffRec asks of a schedule (its spec's properties 1-5 and 15) ----------------------------------------------


@pytest.mark.parametrize("T", [1, 2, 5, 40])
def test_binomial_is_the_fraction_of_the_steps_left(T):
    schedule = binomial(T)
    product = 1.0
    for k in range(T):
        beta = 1 / (T - k + 1)
        product *= 1 - beta
        assert math.isclose(schedule.beta[k + 1].item(), beta, rel_tol=1e-15)
        assert math.isclose(schedule.alpha_bar[k + 1].item(), product, rel_tol=1e-12)


@pytest.mark.parametrize(
    ("settings", "levels"),
    [
        ((40, 0.005, 0.005, 0.01), {1: 1e-5, 2: 1.0641e-5, 40: 3.5e-5}),
        ((5, 1e-4, 5e-4, 0.005), {1: 1e-5, 2: 1.01125e-5, 3: 1.0225e-5, 4: 1.03375e-5, 5: 1.045e-5}),
        ((5, 0.5, 0.001, 0.01), {1: 1e-5, 2: 1.13555e-3, 3: 2.26110e-3, 4: 3.38665e-3, 5: 4.51221e-3}),
    ],
)
def test_levels_of_the_released_settings_with_the_first_beta_fixed(settings, levels):
    schedule = with_first_beta(scaled_linear(*settings), 1e-5)
    for t, level in levels.items():
        assert math.isclose(schedule.noise_level[t].item(), level, rel_tol=1e-4)
    nominal = reference.scaled_linear_levels(*settings)
    for t in range(1, settings[0] + 1):
        shifted = 1 - (1 - 1e-5) * (1 - nominal[t - 1]) / (1 - nominal[0])
        assert math.isclose(schedule.noise_level[t].item(), shifted, rel_tol=1e-9)


def test_levels_of_the_released_latent_settings():
    schedule = scaled_linear(40, 0.005, 0.005, 0.02)
    for t, level in {1: 2.5e-5, 2: 2.69231e-5, 40: 1e-4}.items():
        assert math.isclose(schedule.noise_level[t].item(), level, rel_tol=1e-5)


@each_schedule
def test_the_first_beta_of_any_schedule_can_be_fixed(schedule):
    fixed = with_first_beta(schedule, 1e-5)
    assert fixed.beta[1] == 1e-5
    assert torch.equal(fixed.beta[2:], schedule.beta[2:])
    signal = math.prod((1 - schedule.beta[2:]).tolist()) * (1 - 1e-5)
    assert math.isclose(fixed.alpha_bar[-1].item(), signal, rel_tol=1e-12)
    assert torch.equal(SCHEDULES["first-beta"].beta, with_first_beta(scaled_linear(10, 1.0, 1e-4, 4e-3), 1e-5).beta)


@pytest.mark.parametrize(
    ("kind", "plain"),
    [
        ("linear-var", scaled_linear(6, 0.5, 0.01, 0.2)),
        ("linear", linear_beta(6, 0.5, 0.01, 0.2)),
        ("cosine", cosine(6)),
        ("binomial", binomial(6)),
    ],
)
def test_schedules_have_diffrecs_names(kind, plain):
    assert torch.equal(diffusion.named(kind, 6, 0.5, 0.01, 0.2).noise_level, plain.noise_level)
    fixed = diffusion.named(kind, 6, 0.5, 0.01, 0.2, first_beta=1e-5)
    assert torch.equal(fixed.noise_level, with_first_beta(plain, 1e-5).noise_level)
    assert not diffusion.named(kind, 6, 0.0, 0.01, 0.2, first_beta=1e-5).noise_level.any()


@each_schedule
def test_noise_grows_and_signal_falls_at_every_step(schedule):
    assert ((schedule.beta[1:] > 0) & (schedule.beta[1:] <= 1)).all()
    assert (schedule.alpha_bar.diff() < 0).all()
    assert (schedule.noise_level.diff() > 0).all()


def test_drawn_noise_has_the_mean_and_the_variance_of_the_closed_form():
    schedule, n, t = SCHEDULES["loud"], 20_000, 7
    found = diffusion.forward_noise(
        torch.full((n, 1), 0.6, dtype=torch.float64), steps_of(t, n), normal(n, 1, seed=4), schedule
    )
    level = schedule.noise_level[t].item()
    assert abs(found.mean().item() - math.sqrt(1 - level) * 0.6) < 3 * math.sqrt(level / n)
    assert abs(found.var().item() - level) < 3 * level * math.sqrt(2 / n)


@each_schedule
def test_a_perfect_network_walks_down_the_noiseless_path(schedule):
    x0, met = normal(4, 6), {}

    def perfect(x, t):
        met[int(t[0])] = x
        return x0

    last = schedule.alpha_bar[-1].sqrt() * x0
    assert torch.equal(ancestral(perfect, last, schedule), x0)
    for t, x in met.items():
        assert torch.allclose(x, schedule.alpha_bar[t].sqrt() * x0, rtol=1e-9, atol=0)


@each_schedule
def test_the_first_step_adds_no_noise(schedule):
    start, noise = normal(3, 4), normal(schedule.steps, 3, 4, seed=1)
    louder = torch.cat([noise[:1] * 1e6, noise[1:]])

    def walk(noise):
        return ancestral(lambda x, t: torch.tanh(x), start, schedule, noise=noise)

    assert torch.equal(walk(noise), walk(louder))
    if schedule.steps > 1:
        assert not torch.equal(walk(noise), walk(noise * 1e6))


@pytest.mark.parametrize("T", [1, 2, 7])
def test_a_chain_without_noise_applies_the_network_step_by_step(T):
    schedule, x0, noise = noiseless(T), normal(3, 4), normal(T, 3, 4, seed=1)
    assert schedule.steps == T
    t = torch.tensor([0, 1, T])
    assert torch.equal(diffusion.forward_noise(x0, t, noise[0], schedule), x0)
    of_xt, of_x0, variance = diffusion.posterior_tables(schedule)
    assert torch.equal(of_xt[1:], torch.zeros(T).double())
    assert torch.equal(of_x0[1:], torch.ones(T).double())
    assert torch.equal(variance, torch.zeros(T + 1).double())

    def denoise(x, t):
        return torch.sin(2 * x) + 0.1 * t.reshape(-1, 1)

    expected = x0
    for step in range(T, 0, -1):
        expected = denoise(expected, steps_of(step, 3))
    for found in (
        ancestral(denoise, x0, schedule),
        ancestral(denoise, x0, schedule, noise=noise),
        ddim(denoise, x0, schedule, T),
        ddim(denoise, x0, schedule, T, eta=1.0, noise=noise),
    ):
        assert torch.equal(found, expected)
    ends = steps_of(T, 3)
    assert torch.equal(diffusion.eps_from_x0(x0, x0, ends, schedule), torch.zeros(3, 4).double())
    assert torch.equal(diffusion.x0_from_eps(denoise, schedule)(x0, ends), x0)
    assert with_first_beta(schedule, 1e-5) is schedule


@pytest.mark.parametrize("make", [scaled_linear, linear_beta])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((5, -0.1, 1e-3, 1e-2), r"the noise scale lies in \(0, inf\); got -0.1; set a positive scale"),
        ((5, 0.0, 1e-3, 1e-2), r"the noise scale lies in .* `noiseless`"),
        ((5, 1.0, 1e-2, 1e-3), r"lower bound 0.01 and upper bound 0.001 for 5 steps; keep the lower bound below"),
        ((2, 1.0, 1e-2, 1e-2), "keep the lower bound below the upper"),
        ((1, 1.0, 1e-2, 1e-3), "keep the lower bound below the upper"),
    ],
)
def test_bounds_out_of_order_and_impossible_scales_are_named(make, settings, message):
    with pytest.raises(BadSetting, match=message):
        make(*settings)


@pytest.mark.parametrize(
    "make",
    [
        lambda: binomial(0),
        lambda: noiseless(0),
        lambda: with_first_beta(binomial(3), 0.0),
        lambda: with_first_beta(noiseless(3), 2.0),
        lambda: Schedule(torch.tensor([0.0, 0.1])),
    ],
)
def test_impossible_chains_are_refused(make):
    with pytest.raises(BadSetting, match=r"lies in|needs T"):
        make()
