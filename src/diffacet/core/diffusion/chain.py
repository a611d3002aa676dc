"""The Gaussian chain: forward noising, posterior, and the walks from x_T down to x_0.

Noise is given, never drawn. Steps and tables are those of `schedules`.
Symbols: x0 clean, xt at step t, alpha_bar the cumulative signal, beta the variance of one step.
Sources: Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (DDPM); Song et al., "Denoising
Diffusion Implicit Models", ICLR 2021 (DDIM).
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from diffacet.core.diffusion.schedules import Schedule, ddim_steps
from diffacet.errors import BadSetting

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, ..., d), t (B,) int64) -> estimate of x_0 (B, ..., d). Wrap a noise-predicting network by `x0_from_eps`."""


class Noise(Protocol):
    """The noise of a chain, entry t - 1 (B, ..., d) being step t's: a tensor (T, B, ..., d), or drawn on demand."""

    def __getitem__(self, entry: int, /) -> Tensor:
        """The noise of step entry + 1."""


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


def descend(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    *,
    noise: Noise | None = None,
    spread: Tensor | None = None,
    project: Callable[[Tensor], Tensor] | None = None,
    start: int | None = None,
    stop: int = 0,
) -> Tensor:
    """Walk x_T (B, ..., d) down to x_`stop` by the posterior's mean: the loop of `ancestral` and of `sphere.walk_back`.

    With `start` x is x_`start`, and the walk begins there.
    At step t, spread[t] of (T + 1,) times noise[t - 1] of (T, B, ..., d) is added to the mean when both are there,
    and `project` is applied to the sum.

    Raises:
        BadSetting: unless 0 <= stop <= start <= T.
    """
    first = schedule.steps if start is None else start
    if not 0 <= stop <= first <= schedule.steps:
        begun = "" if start is None else f", begun at {start}"
        raise BadSetting(f"a walk stops between steps 0 and T = {schedule.steps}; got {stop}{begun}")
    of_xt, of_x0, _ = posterior_tables(schedule)
    for step in range(first, stop, -1):
        t = torch.full((len(x),), step, dtype=torch.int64, device=x.device)
        estimate = denoise(x, t)
        # The same formula as `posterior`, whose tables are built once for the whole walk.
        mean = schedule.at(of_x0, t, x) * estimate + schedule.at(of_xt, t, x) * x
        x = mean if noise is None or spread is None else mean + schedule.at(spread, t, x) * noise[step - 1]
        x = x if project is None else project(x)
    return x


def ancestral(denoise: Denoise, x: Tensor, schedule: Schedule, *, noise: Noise | None = None) -> Tensor:
    """Walk x_T (B, ..., d) down to x_0 by the posterior of every step (DDPM Algorithm 2; DMI Eq. 9-10).

    noise (T, B, ..., d): entry t - 1 is scaled by the posterior's deviation and added at step t, which is nothing at
    step 1; None takes the mean. Since the mean at t = 1 is the last estimate, the answer is what `denoise` says there.
    """
    deviation = None if noise is None else posterior_tables(schedule)[2].sqrt()
    return descend(denoise, x, schedule, noise=noise, spread=deviation)


def ddim(
    denoise: Denoise, x: Tensor, schedule: Schedule, steps: int, *, eta: float = 0.0, noise: Noise | None = None
) -> Tensor:
    """Walk x_T (B, ..., d) down to x_0 in `steps` <= T strides (DDIM Eq. 12).

    eta = 0 is deterministic; eta = 1 has DDPM's variance and needs noise (T, B, ..., d), of which entry
    t - 1 is used at step t. Raises BadSetting: eta > 0 without noise, or `steps` is not in 1..T.
    """
    if eta > 0 and noise is None:
        raise BadSetting("ddim with eta > 0 needs noise of shape (T, B, ..., d); pass noise=, or eta=0")
    level, signal = schedule.levels, schedule.signals
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
    """The deterministic walk that models infer with: all T steps by the posterior mean for None, else DDIM.

    x_T and the answer are (B, ..., d). Raises BadSetting: `steps` is not in 1..T.
    """
    return ancestral(denoise, x, schedule) if steps is None else ddim(denoise, x, schedule, steps)


def signal_to_noise(x0: Tensor, schedule: Schedule) -> Tensor:
    """alpha_bar_T * mean(x0^2) / (1 - alpha_bar_T): what is left of x0 at the noisiest step; a scalar."""
    ratio = schedule.alpha_bar[-1] / schedule.noise_level[-1]
    return (ratio * x0.double().square().mean()).to(x0.dtype)
