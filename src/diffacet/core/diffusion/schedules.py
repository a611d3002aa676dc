"""Schedules: how much noise each step of a chain of T steps adds.

Steps are the papers' own: t = 1..T, and index 0 of every table is the clean end (alpha_bar_0 = 1). Tables are
float64; a coefficient is gathered in float64 and cast to the dtype of x, since 1 - alpha_bar near 1e-4 loses digits
in a float32 cumulative product. Two lines of work name theirs: `named` has DiffRec's, with a scale and bounds,
`published` those of the sequential line, which the number of steps alone determines.
Sources: Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (DDPM); Nichol and Dhariwal, "Improved
DDPM", ICML 2021; Wang et al., "Diffusion Recommender Model", SIGIR 2023 (DiffRec); Yang et al., "Generate What You
Prefer", NeurIPS 2023 (DreamRec); Li et al., "DiffuRec", TOIS 2023; and the code of the last three.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from diffacet.errors import BadSetting

Kind = Literal["linear-var", "linear", "cosine", "binomial"]
"""How the noise of DiffRec grows with the step; see `named`."""

Published = Literal["linear", "linear-scaled", "exp", "cosine", "sqrt", "trunc-lin"]
"""Schedules of the sequential line, which have no setting but T; see `published`."""

MAX_BETA = 0.999
"""The most that a step takes away where a published formula says 1 or more."""


class Schedule(nn.Module):
    """The variances of a chain of T steps.

    Attributes (float64 buffers, not saved with weights, since settings determine them):
        alpha_bar: (T + 1,), alpha_bar[0] = 1.
        noise_level: (T + 1,), 1 - alpha_bar without the cancellation of subtracting.
        beta: (T + 1,), beta[0] = 0 and unused.
        levels, signals: noise_level and alpha_bar once more, as lists of numbers.
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
        # Each end by what keeps its digits: 1 - noise_level is exact near 1, and only rounding of it is left near 0.
        signal = torch.where(self.noise_level < 0.5, 1.0 - self.noise_level, (1.0 - self.beta).cumprod(0))
        self.register_buffer("alpha_bar", signal, persistent=False)
        # A walk's strides are numbers, and a program cannot read them from a tensor while it is traced.
        self.levels, self.signals = list[float](self.noise_level.tolist()), list[float](self.alpha_bar.tolist())

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


def cosine(steps: int, offset: float = 0.008, max_beta: float = MAX_BETA, min_beta: float = 0.0) -> Schedule:
    """alpha_bar(t) = cos^2((t/T + offset)/(1 + offset) * pi/2), normalised at 0 (Improved DDPM, Eq. 17).

    Then every beta is brought into [min_beta, max_beta].
    """
    t = torch.arange(_counted(steps) + 1, dtype=torch.float64) / steps
    signal = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
    return Schedule((1 - signal[1:] / signal[:-1]).clamp(min_beta, max_beta))


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


def published(kind: Published, steps: int) -> Schedule:
    """The schedule that a paper of the sequential line names, for T = `steps`.

    linear: beta from 1e-4 to 0.02 whatever T, as in DDPM, whose T is 1000: fewer steps leave signal at the end.
    linear-scaled: both ends times 1000 / T, at most 0.999. exp (DreamRec): beta_t = 1 - exp(-0.1/T - 9.9 y_t/(2 T^2)),
    y = T points evenly from 1 to 2T + 1. cosine: Improved DDPM's, beta within [1e-4, 0.999]. sqrt (Diffusion-LM, in
    DreamRec's code): alpha_bar(t) = 1 - sqrt(t/T + 1e-4), normalised at 0, beta at most 0.999. trunc-lin (DiffuRec):
    beta from 1e-4 * 1000/T + 0.01 to 0.02 * 1000/T + 0.01, and to 0.001 * 1000/T + 0.01 where that end exceeds 1.

    Raises:
        BadSetting: when T < 1.
    """
    scale = 1000 / _counted(steps)
    if kind == "linear":
        return linear_beta(steps, 1.0, 1e-4, 0.02)
    if kind == "linear-scaled":
        return Schedule(_ramp(steps, scale, 1e-4, 0.02).clamp(max=MAX_BETA))
    if kind == "cosine":
        return cosine(steps, min_beta=1e-4)
    if kind == "exp":
        y = torch.linspace(1, 2 * steps + 1, steps, dtype=torch.float64)
        return Schedule(-torch.expm1(-0.1 / steps - 9.9 * y / (2 * steps**2)))
    if kind == "sqrt":
        signal = 1 - (torch.arange(steps + 1, dtype=torch.float64) / steps + 1e-4).sqrt()
        return Schedule((1 - signal[1:] / signal[:-1]).clamp(max=MAX_BETA))
    first, last = 1e-4 * scale + 0.01, 0.02 * scale + 0.01
    return Schedule(torch.linspace(first, 0.001 * scale + 0.01 if last > 1 else last, steps, dtype=torch.float64))


def ddim_steps(total: int, used: int) -> list[int]:
    """The `used` steps of 1..`total` that a shorter walk visits, ascending; both ends are there from two steps on.

    tau_i = 1 + floor(((i-1)(T-1) + floor((S-1)/2)) / (S-1)), i = 1..S; S = 1 takes {T}.

    Raises:
        BadSetting: unless 1 <= used <= total.
    """
    if not 1 <= used <= total:
        raise BadSetting(f"a walk takes between 1 and T = {total} steps; got {used}")
    if used == 1:
        return [total]
    return [1 + (i * (total - 1) + (used - 1) // 2) // (used - 1) for i in range(used)]


def respaced(schedule: Schedule, used: int) -> tuple[Schedule, list[int]]:
    """The chain that visits only `used` of the T steps, and which they are, ascending (Improved DDPM, Sec. 4).

    Its step i has the alpha_bar of the visited step tau_i, hence beta_i = 1 - alpha_bar(tau_i) / alpha_bar(tau_{i-1}).
    A denoiser that knows the full chain is told tau_i. All T steps give the chain itself back.

    Raises:
        BadSetting: unless 1 <= used <= T.
    """
    visited = ddim_steps(schedule.steps, used)
    if used == schedule.steps:
        return schedule, visited
    full, beta, before = schedule.beta.cpu(), [], 0
    for step in visited:
        # What the steps in between add up to; a quotient of alpha_bars has no digits where they are tiny.
        beta.append(Schedule(full[before + 1 : step + 1]).noise_level[-1])
        before = step
    return Schedule(torch.stack(beta), schedule.noise_level[visited].cpu()).to(schedule.beta.device), visited
