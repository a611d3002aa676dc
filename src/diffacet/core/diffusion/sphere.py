"""Diffusion on the unit sphere: its geometry, forward noising along great circles, and the walk back.

Vectors are (..., d) of norm 1, d >= 2, float32 or float64; v is tangent at x when <x, v> = 0. Noise is given, never
drawn. A zero vector, which has no direction, never makes a NaN.
Sources: DimeRec (WSDM 2025), Algorithms 1 and 2; De Bortoli et al., "Riemannian Score-Based Generative Modelling",
NeurIPS 2022 (the walk); deviates: `vp-geodesic` is ours.
"""

import math
from typing import Literal, assert_never

import torch
from torch import Tensor
from torch.nn import functional

from diffacet.core.diffusion.chain import Denoise, descend, forward_noise, posterior_tables
from diffacet.core.diffusion.schedules import Schedule

Forward = Literal["one-step", "walk", "vp-geodesic", "ddpm-normalise", "euclidean"]
"""How x_0 becomes x_t; see `noised`."""

Scale = Literal["unit", "sphere"]
"""Length of the noise: N(0, I) as drawn, or divided by the root of its degrees of freedom, so that it has length 1."""

Eta = Literal["printed", "ddpm", "sphere", "none"]
"""What multiplies the noise of the walk back; see `walk_back`."""

NORM_FLOOR = 1e-12
"""Vectors shorter than this have no direction to speak of: `unit` does not make them unit."""

SERIES_BELOW = 1e-4
"""Angles below which sin(r) / r and its like come from their series, where the quotient is 0 / 0."""


def unit(y: Tensor) -> Tensor:
    """The direction of y, y / max(|y|, 1e-12), (..., d); zero for the zero vector."""
    return functional.normalize(y, dim=-1, eps=NORM_FLOOR)


def tangent(x: Tensor, y: Tensor) -> Tensor:
    """The part of y that is tangent to the sphere at x, y - <x, y> x, (..., d)."""
    # Twice: what rounding leaves along x is not small beside the tangent of a y close to x or to -x.
    for _ in range(2):
        y = y - (x * y).sum(-1, keepdim=True) * x
    return y


def exp_map(x: Tensor, v: Tensor) -> Tensor:
    """cos(|v|) x + sin(|v|) v / |v|, (..., d): |v| along the great circle that leaves x in the direction of v.

    v is tangent at x, of any length; 0 gives x, and has a gradient.
    """
    square = (v * v).sum(-1, keepdim=True)
    small = square < SERIES_BELOW**2
    # The root of 0 has no gradient, even where its value is not taken.
    r = square.masked_fill(small, 1.0).sqrt()
    along = torch.where(small, 1 - square / 2, r.cos())
    return along * x + torch.where(small, 1 - square / 6, r.sin() / r) * v


def log_map(x: Tensor, y: Tensor) -> Tensor:
    """The tangent vector at x, of length <= pi, by which `exp_map` reaches y; (..., d), zero at y = x.

    The angle comes from both of its sides, since an arc cosine has neither digits nor a gradient near 0 and pi. Every
    direction leads to y = -x; there it is that of the coordinate axis on which x is smallest.
    """
    across, cosine = tangent(x, y), (x * y).sum(-1, keepdim=True)
    square = (across * across).sum(-1, keepdim=True)
    near = (square < SERIES_BELOW**2) & (cosine > 0)
    # Closer than that, rounding and not y has chosen the direction.
    opposite = (square < (4 * torch.finfo(x.dtype).eps) ** 2) & ~near
    sine = square.masked_fill(near | opposite, 1.0).sqrt()
    vector = torch.where(near, 1 + square / 6, torch.atan2(sine, cosine) / sine) * across
    axis = functional.one_hot(x.abs().argmin(-1), x.shape[-1]).to(x.dtype)
    return torch.where(opposite, math.pi * unit(tangent(x, axis)), vector)


def geodesic(x: Tensor, y: Tensor) -> Tensor:
    """The angle between x and y in [0, pi], (...,): atan2(|tangent of y at x|, <x, y>), good near both ends."""
    return torch.atan2(torch.linalg.vector_norm(tangent(x, y), dim=-1), (x * y).sum(-1))


def noised(x0: Tensor, t: Tensor, noise: Tensor, schedule: Schedule, form: Forward, scale: Scale) -> Tensor:
    """x_t (B, ..., d) of the clean x0 at step t (B,) int64 in 0..T; on the sphere unless `form` is euclidean.

    x0: (B, ..., d) unit; any length for euclidean.
    noise: (B, ..., d) standard normal; (T, B, ..., d) for the walk, whose step s uses entry s - 1.
    form, with e the noise projected on the tangent space and c = 1 (scale unit) or 1 / sqrt(d - 1) (scale sphere):
        one-step: Exp_x0(c sqrt(1 - alpha_bar_t) e), DimeRec's Algorithm 1. With c = 1 it winds around the sphere, so
            that noise is not monotone in t.
        walk: x_s = Exp_{x_{s-1}}(c sqrt(beta_s) e_s) for s = 1..t, projected anew at each x_{s-1}; T maps whatever t.
        vp-geodesic: sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) e / |e|: the cosine to x0 is sqrt(alpha_bar_t) in
            every draw.
        ddpm-normalise: `forward_noise`, then unit; the noise divided by sqrt(d) for scale sphere.
        euclidean: `forward_noise`; like vp-geodesic without a scale.
    """
    if form == "euclidean":
        return forward_noise(x0, t, noise, schedule)
    if form == "ddpm-normalise":
        shorter = noise if scale == "unit" else noise / math.sqrt(x0.shape[-1])
        return unit(forward_noise(x0, t, shorter, schedule))
    if form == "vp-geodesic":
        return forward_noise(x0, t, unit(tangent(x0, noise)), schedule)
    length = 1.0 if scale == "unit" else _of_length_one(x0)
    if form == "one-step":
        angle = length * schedule.at(schedule.noise_level.sqrt(), t, x0)
        return exp_map(x0, angle * tangent(x0, noise))
    if form == "walk":
        return _walk(x0, t, noise, length * schedule.beta.sqrt())
    assert_never(form)


def _of_length_one(x: Tensor) -> float:
    """1 / sqrt(d - 1): what makes tangent noise about as long as x; 1 on two points, where no vector is tangent."""
    return 1 / math.sqrt(max(x.shape[-1] - 1, 1))


def _walk(x: Tensor, t: Tensor, noise: Tensor, angles: Tensor) -> Tensor:
    """`noised` by the walk: step s of length angles[s] of (T + 1,) for the rows whose t it does not exceed."""
    t = t.reshape(-1, *[1] * (x.ndim - 1))
    for step in range(1, len(angles)):
        moved = exp_map(x, angles[step].to(x.dtype) * tangent(x, noise[step - 1]))
        x = torch.where(step <= t, moved, x)
    return x


def walk_back(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    *,
    noise: Tensor | None = None,
    eta: Eta = "printed",
    stop: int = 0,
    on_sphere: bool = True,
) -> Tensor:
    """Walk x_T (B, ..., d) down to x_`stop`: unit(posterior mean + eta_t noise) at every step (DimeRec, Algorithm 2).

    noise (T, B, ..., d): entry t - 1 is used at step t, nothing of it at step 1; None takes the mean. eta_t:
    printed, the posterior's *variance*, as Algorithm 2 has it; ddpm, its root; sphere, its root / sqrt(d - 1); none, 0.
    Without `on_sphere` nothing is made unit, and with eta ddpm the walk is `ancestral`. At stop 0 the answer is what
    `denoise` says at t = 1, made unit.

    Raises:
        BadSetting: unless 0 <= stop <= T.
    """
    spread: Tensor | None = None
    if eta != "none":
        variance = posterior_tables(schedule)[2]
        spread = variance if eta == "printed" else variance.sqrt()
        spread = spread * _of_length_one(x) if eta == "sphere" else spread
    return descend(denoise, x, schedule, noise=noise, spread=spread, project=unit if on_sphere else None, stop=stop)
