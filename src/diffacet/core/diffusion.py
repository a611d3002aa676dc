"""The diffusion core that every model shares: schedules, forward noising, posterior, samplers.

Steps are the papers' own: t = 1..T, and index 0 of every table is the clean end (alpha_bar_0 = 1).
Tables are float64; a coefficient is gathered in float64 and cast to the dtype of x, since
1 - alpha_bar near 1e-4 loses digits in a float32 cumulative product. Noise is given, never drawn.
Symbols: x0 clean, xt at step t, alpha_bar the cumulative signal, beta the variance of one step.
Sources: Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (DDPM); Song et al.,
"Denoising Diffusion Implicit Models", ICLR 2021 (DDIM); Nichol and Dhariwal, "Improved DDPM", ICML 2021;
Wang et al., "Diffusion Recommender Model", SIGIR 2023 (DiffRec) and its code.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from diffacet import seeds
from diffacet.errors import BadSetting

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, ..., d), t (B,) int64) -> estimate of x_0 (B, ..., d). Wrap a noise-predicting network by `x0_from_eps`."""

Kind = Literal["linear-var", "linear", "cosine", "binomial"]
"""How the noise of DiffRec grows with the step; see `named`."""

NOISE_BLOCK = 1024
"""Cases whose starting noise comes from one stream."""


class Schedule(nn.Module):
    """The variances of a chain of T steps.

    Attributes (float64 buffers, not saved with weights, since settings determine them):
        alpha_bar: (T + 1,), alpha_bar[0] = 1.
        noise_level: (T + 1,), 1 - alpha_bar without the cancellation of subtracting.
        beta: (T + 1,), beta[0] = 0 and unused.
        steps: T.
    """

    alpha_bar: Tensor
    noise_level: Tensor
    beta: Tensor

    def __init__(self, beta: Tensor, noise_level: Tensor | None = None) -> None:
        """`beta` (T,) in (0, 1], or 0 throughout, step 1 first; `noise_level` (T,) when it is known exactly.

        Raises:
            BadSetting: when there is no step or a beta lies outside (0, 1] in a chain with noise.
        """
        super().__init__()
        beta = torch.as_tensor(beta, dtype=torch.float64)
        if beta.ndim != 1 or not len(beta):
            raise BadSetting(f"a schedule needs T >= 1 steps; got {tuple(beta.shape)}")
        outside = (~((beta > 0) & (beta <= 1))).nonzero().flatten()
        if beta.any() and len(outside):
            t = int(outside[0])
            raise BadSetting(
                f"beta lies in (0, 1] at every step; got {beta[t].item():.4g} at step {t + 1} of {len(beta)}; "
                "lower the noise scale or its bounds, and keep the lower bound below the upper"
            )
        if noise_level is None:
            # 1 - prod(1 - beta), term by term: u_t = u_{t-1} + (1 - u_{t-1}) beta_t has no cancellation.
            levels, level = [], 0.0
            for step in beta.tolist():
                level += (1.0 - level) * step
                levels.append(level)
            noise_level = torch.tensor(levels, dtype=torch.float64)
        zero = torch.zeros(1, dtype=torch.float64)
        self.register_buffer("beta", torch.cat([zero, beta]), persistent=False)
        self.register_buffer("noise_level", torch.cat([zero, noise_level]), persistent=False)
        self.register_buffer("alpha_bar", 1.0 - self.noise_level, persistent=False)

    @property
    def steps(self) -> int:
        """T."""
        return len(self.beta) - 1

    def at(self, table: Tensor, t: Tensor, like: Tensor) -> Tensor:
        """table[t] for each row, in the dtype of `like` and shaped (B, 1, ..., 1) to multiply it."""
        return table[t].to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))

    # A chain is float64 whatever the module is cast to.
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Schedule":
        tables = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, table in tables.items():
            moved = self._buffers[name]
            if moved is not None and moved.dtype != torch.float64:
                self._buffers[name] = table.to(moved.device)
        return self


def _counted(steps: int) -> int:
    """T, if there is a step at all; else BadSetting."""
    if steps < 1:
        raise BadSetting(f"a schedule needs T >= 1 steps; got {steps}")
    return steps


def _ramp(steps: int, scale: float, low: float, high: float) -> Tensor:
    """(T,) from scale * low to scale * high; just scale * low when T = 1. Raises BadSetting."""
    _counted(steps)
    if not 0 < scale < math.inf:
        raise BadSetting(
            f"the noise scale lies in (0, inf); got {scale:.4g}; "
            "set a positive scale (a chain without noise has a schedule of its own, `noiseless`)"
        )
    if not (low < high or (steps == 1 and low == high)):
        raise BadSetting(
            f"beta lies in (0, 1] and the noise grows with the step; got lower bound {low:.4g} and upper bound "
            f"{high:.4g} for {steps} steps; keep the lower bound below the upper"
        )
    return scale * torch.linspace(low, high, steps, dtype=torch.float64)


def scaled_linear(steps: int, scale: float, low: float, high: float, first_beta: float | None = None) -> Schedule:
    """1 - alpha_bar_t = scale * (low + (t-1)/(T-1) * (high - low)): the cumulative noise grows linearly.

    DMI Eq. 8; DiffRec's `linear-var`. `first_beta` is that of `with_first_beta`.

    Raises:
        BadSetting: unless 0 < scale * low <= scale * high < 1 (equal bounds only for T = 1).
    """
    level = _ramp(steps, scale, low, high)
    if not scale * low > 0 or not max(level.max().item(), scale * high) < 1:
        raise BadSetting(
            f"noise levels lie in (0, 1): scale * low = {scale * low:.4g}, scale * high = {scale * high:.4g}; "
            "set the scale and the bounds so that 0 < scale * low and scale * high < 1"
        )
    before = torch.cat([torch.zeros(1, dtype=torch.float64), level[:-1]])
    beta = (level - before) / (1.0 - before)  # 1 - alpha_bar_t / alpha_bar_{t-1}, by differences
    schedule = Schedule(beta, level)
    return schedule if first_beta is None else with_first_beta(schedule, first_beta)


def linear_beta(steps: int, scale: float, low: float, high: float) -> Schedule:
    """beta_t from scale * low to scale * high in equal steps, so that noise accumulates with T (DDPM).

    DiffRec's `linear`. Raises BadSetting unless scale > 0, low < high (equal only for T = 1) and beta in (0, 1].
    """
    return Schedule(_ramp(steps, scale, low, high))


def cosine(steps: int, offset: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """alpha_bar(t) = cos^2((t/T + offset)/(1 + offset) * pi/2), normalised at 0 (Improved DDPM, Eq. 17)."""
    t = torch.arange(_counted(steps) + 1, dtype=torch.float64) / steps
    signal = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
    return Schedule((1 - signal[1:] / signal[:-1]).clamp(max=max_beta))


def binomial(steps: int) -> Schedule:
    """beta_t = 1/(T - t + 2), by which 1 - alpha_bar_t = t/(T + 1) (DiffRec's code: 1/(T - k + 1), k = t - 1)."""
    t = torch.arange(1, _counted(steps) + 1, dtype=torch.float64)
    return Schedule(1 / (steps - t + 2), t / (steps + 1))


def noiseless(steps: int) -> Schedule:
    """T steps without noise: beta = 0 and alpha_bar = 1 throughout, so x_t = x_0 (DiffRec with scale 0).

    Its reverse chain applies the denoiser T times, t = T..1: the posterior's mean is the estimate, its variance 0.
    """
    return Schedule(torch.zeros(_counted(steps), dtype=torch.float64))


def with_first_beta(schedule: Schedule, beta: float) -> Schedule:
    """The chain with beta_1 = `beta` and its other betas kept, which shifts every alpha_bar off its formula.

    The code of DiffRec and DDRM does this with 1e-5. A chain without noise stays as it is.

    Raises:
        BadSetting: unless 0 < beta <= 1.
    """
    if not 0 < beta <= 1:
        raise BadSetting(f"beta lies in (0, 1]; got {beta:.4g} for step 1; set a variance inside, such as 1e-5")
    betas = schedule.beta[1:].clone()
    if not betas.any():
        return schedule
    betas[0] = beta
    return Schedule(betas)


def named(kind: Kind, steps: int, scale: float, low: float, high: float, first_beta: float | None = None) -> Schedule:
    """DiffRec's schedules by its own names; scale 0 is `noiseless` whatever the name; see `with_first_beta`.

    Raises:
        BadSetting: when the bounds do not make variances; cosine and binomial have none.
    """
    if scale == 0:
        return noiseless(steps)
    if kind == "linear-var":
        return scaled_linear(steps, scale, low, high, first_beta)
    if kind == "linear":
        schedule = linear_beta(steps, scale, low, high)
    else:
        schedule = cosine(steps) if kind == "cosine" else binomial(steps)
    return schedule if first_beta is None else with_first_beta(schedule, first_beta)


def forward_noise(x0: Tensor, t: Tensor, noise: Tensor, schedule: Schedule) -> Tensor:
    """x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) noise (DDPM Eq. 4; DMI Eq. 7).

    x0 and noise (B, ..., d); t (B,) int64 in 0..T, where 0 gives x0 back.
    """
    signal = schedule.at(schedule.alpha_bar.sqrt(), t, x0)
    return signal * x0 + schedule.at(schedule.noise_level.sqrt(), t, x0) * noise


def posterior_tables(schedule: Schedule) -> tuple[Tensor, Tensor, Tensor]:
    """(of x_t, of x_0, variance), each (T + 1,) float64: the coefficients of q(x_{t-1} | x_t, x_0); entry 0 is unused.

    of x_t = sqrt(alpha_t) (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t), of x_0 = sqrt(alpha_bar_{t-1}) beta_t /
    (1 - alpha_bar_t), variance = beta_t (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) (DDPM Eq. 7). At t = 1 they
    are 0, 1, 0 exactly, because alpha_bar_0 = 1; so they are at every step of a chain without noise.
    """
    beta, level = schedule.beta[1:], schedule.noise_level[1:]
    before, signal_before = schedule.noise_level[:-1], schedule.alpha_bar[:-1]
    # Without noise x_{t-1} is x_0, as at t = 1: a share 1 / 1 of it instead of 0 / 0.
    beta_or_all, level = beta.masked_fill(level == 0, 1.0), level.masked_fill(level == 0, 1.0)
    of_xt = (1 - beta).sqrt() * before / level
    of_x0 = signal_before.sqrt() * (beta_or_all / level)
    variance = beta * before / level
    head = torch.zeros(1, dtype=torch.float64, device=beta.device)
    return torch.cat([head, of_xt]), torch.cat([head, of_x0]), torch.cat([head, variance])


def posterior(x0: Tensor, xt: Tensor, t: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Mean (B, ..., d) and variance (B, 1, ..., 1) of q(x_{t-1} | x_t, x_0) (DDPM Eq. 6-7; DMI Eq. 9).

    At t = 1 the mean is x0 bit for bit and the variance 0.
    """
    of_xt, of_x0, variance = posterior_tables(schedule)
    mean = schedule.at(of_x0, t, x0) * x0 + schedule.at(of_xt, t, xt) * xt
    return mean, schedule.at(variance, t, x0)


def eps_from_x0(xt: Tensor, x0: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """The noise that x_t holds if its clean vector is x0; (B, ..., d). t in 1..T. 0 in a chain without noise."""
    signal = schedule.at(schedule.alpha_bar.sqrt(), t, xt)
    deviation = schedule.noise_level.sqrt().masked_fill(schedule.noise_level == 0, math.inf)
    return (xt - signal * x0) / schedule.at(deviation, t, xt)


def x0_from_eps(predict_noise: Denoise, schedule: Schedule) -> Denoise:
    """A denoiser out of a network that predicts noise: x0 = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t)."""

    def denoise(xt: Tensor, t: Tensor) -> Tensor:
        noise = schedule.at(schedule.noise_level.sqrt(), t, xt) * predict_noise(xt, t)
        return (xt - noise) / schedule.at(schedule.alpha_bar.sqrt(), t, xt)

    return denoise


def ancestral(denoise: Denoise, x: Tensor, schedule: Schedule, *, noise: Tensor | None = None) -> Tensor:
    """Walk x_T (B, ..., d) down to x_0 by the posterior of every step (DDPM Algorithm 2; DMI Eq. 9-10).

    noise (T, B, ..., d): entry t - 1 is scaled by the posterior's deviation and added at step t, which is nothing at
    step 1; None takes the mean. Since the mean at t = 1 is the last estimate, the answer is what `denoise` says there.
    """
    of_xt, of_x0, variance = posterior_tables(schedule)
    for step in range(schedule.steps, 0, -1):
        t = torch.full((len(x),), step, dtype=torch.int64, device=x.device)
        estimate = denoise(x, t)
        # The same formula as `posterior`, whose tables are built once for the whole walk.
        mean = schedule.at(of_x0, t, x) * estimate + schedule.at(of_xt, t, x) * x
        x = mean if noise is None else mean + schedule.at(variance.sqrt(), t, x) * noise[step - 1]
    return x


def ddim_steps(total: int, used: int) -> list[int]:
    """The `used` steps of 1..`total` that DDIM visits, ascending; both ends are there from two steps on.

    tau_i = 1 + floor(((i-1)(T-1) + floor((S-1)/2)) / (S-1)), i = 1..S; S = 1 takes {T}.

    Raises:
        BadSetting: unless 1 <= used <= total.
    """
    if not 1 <= used <= total:
        raise BadSetting(f"DDIM takes between 1 and T = {total} steps; got {used}")
    if used == 1:
        return [total]
    return [1 + (i * (total - 1) + (used - 1) // 2) // (used - 1) for i in range(used)]


def ddim(
    denoise: Denoise, x: Tensor, schedule: Schedule, steps: int, *, eta: float = 0.0, noise: Tensor | None = None
) -> Tensor:
    """Walk x_T (B, ..., d) down to x_0 in `steps` <= T strides (DDIM Eq. 12).

    eta = 0 is deterministic; eta = 1 has DDPM's variance and needs noise (T, B, ..., d), of which entry
    t - 1 is used at step t.
    """
    if eta > 0 and noise is None:
        raise BadSetting("ddim with eta > 0 needs noise of shape (T, B, ..., d); pass noise=, or eta=0")
    level, signal = schedule.noise_level.tolist(), schedule.alpha_bar.tolist()
    visited = ddim_steps(schedule.steps, steps)
    for step, earlier in zip(reversed(visited), [*reversed(visited[:-1]), 0], strict=True):
        t = torch.full((len(x),), step, dtype=torch.int64, device=x.device)
        estimate = denoise(x, t)
        if earlier == 0:
            return estimate
        eps = eps_from_x0(x, estimate, t, schedule)
        spread = eta * math.sqrt(level[earlier] / (level[step] or 1.0) * (1 - signal[step] / signal[earlier]))
        x = math.sqrt(signal[earlier]) * estimate + math.sqrt(level[earlier] - spread**2) * eps
        if noise is not None and spread > 0:
            x = x + spread * noise[step - 1]
    return x


def sample(denoise: Denoise, x: Tensor, schedule: Schedule, steps: int | None) -> Tensor:
    """The deterministic walk that models infer with: all T steps by the posterior mean for None, else DDIM."""
    return ancestral(denoise, x, schedule) if steps is None else ddim(denoise, x, schedule, steps)


def case_noise(case: Tensor, shape: tuple[int, ...], seed: int) -> Tensor:
    """(B, *shape) float32 standard normal; row b depends on (case[b], seed, shape) only, on any device.

    Cases share streams in blocks of 1,024, so a batch of neighbours costs one draw and one case a short one.
    """
    cases = case.cpu().numpy()
    noise = np.empty((len(cases), *shape), np.float32)
    for block in np.unique(cases // NOISE_BLOCK).tolist():
        inside = cases // NOISE_BLOCK == block
        rows = cases[inside] % NOISE_BLOCK
        # A generator fills row by row, so the first rows of a block do not depend on how many are drawn.
        drawn = seeds.stream(seed, "noise", int(block)).standard_normal((rows.max() + 1, *shape), np.float32)
        noise[inside] = drawn[rows]
    return torch.from_numpy(noise).to(case.device)


def signal_to_noise(x0: Tensor, schedule: Schedule) -> Tensor:
    """alpha_bar_T * mean(x0^2) / (1 - alpha_bar_T): what is left of x0 at the noisiest step; a scalar."""
    ratio = schedule.alpha_bar[-1] / schedule.noise_level[-1]
    return (ratio * x0.double().square().mean()).to(x0.dtype)
