"""Noise of a case: the same numbers for it in every batch, on every device.

`case_noise` is for cases that are numbered, `KeyedNoise` for samples that have a key of 64 bits and come in any order.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from diffacet import seeds

NOISE_BLOCK = 1024
"""Cases whose starting noise comes from one stream."""

# Since torch 2.7; before, a model with noise cannot be exported.
_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)


def case_noise(case: Tensor, shape: tuple[int, ...], seed: int) -> Tensor:
    """(B, *shape) float32 standard normal; row b depends on (case[b], seed, shape) only, on any device.

    Cases share streams in blocks of 1,024, so a batch of neighbours costs one draw and one case a short one.
    A program that torch.export makes is for requests, whose case is 0: there the noise is `request_noise` in all rows.
    """
    if _exporting():
        return request_noise(shape, seed).to(case.device).expand(case.shape[0], *shape)
    cases = case.cpu().numpy()
    noise = np.empty((len(cases), *shape), np.float32)
    for block in np.unique(cases // NOISE_BLOCK).tolist():
        inside = cases // NOISE_BLOCK == block
        rows = cases[inside] % NOISE_BLOCK
        # A generator fills row by row, so the first rows of a block do not depend on how many are drawn.
        drawn = seeds.stream(seed, "noise", int(block)).standard_normal((rows.max() + 1, *shape), np.float32)
        noise[inside] = drawn[rows]
    return torch.from_numpy(noise).to(case.device)


def request_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """(1, *shape) float32: the noise of case 0, which every request has."""
    return torch.from_numpy(seeds.stream(seed, "noise", 0).standard_normal((1, *shape), np.float32))


_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shift right by `bits` with zeros moving in, which signed integers do not have of their own."""
    return (x >> bits) & (2 ** (64 - bits) - 1)


def mixed(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele et al., OOPSLA 2014) on int64, wrapping around: near inputs, far outputs."""
    x = (x ^ _shifted(x, 30)) * _MIX[0]
    x = (x ^ _shifted(x, 27)) * _MIX[1]
    return x ^ _shifted(x, 31)


def keyed_uniform(key: Tensor, counter: Tensor) -> Tensor:
    """(B,) int64 keys and counters of any shape -> (B, ...) float64 in (0, 1], in steps of 2^-24."""
    keys = key.view(-1, *[1] * counter.ndim)
    bits = _shifted(mixed(keys + _GOLDEN * (1 + counter)), 40)
    return (bits.double() + 1) / 2**24


class KeyedNoise:
    """Normal noise of a chain for each sample: a function of (seed, key, channel, step, coordinate) alone.

    Entry t - 1 is what a walk adds at level t, entry `steps` what it starts from. Made step by step. By Box and Muller
    from two uniforms a pair of coordinates, of the key XOR the mixed seed: counters are (j (steps + 1) + q) d2 +
    coordinate, q = steps + 1 - t and 0 for the start, d2 the even number that is not below d.
    """

    def __init__(self, key: Tensor, channels: int, dim: int, steps: int, seed: int) -> None:
        """Keys (B,) int64 of the samples, c channels of width d, T' steps."""
        seeded = mixed(torch.tensor(seed, dtype=torch.int64, device=key.device))
        self.key, self.channels, self.dim, self.steps = seeded ^ key, channels, dim, steps
        self.even = dim + dim % 2

    def __getitem__(self, entry: int, /) -> Tensor:
        """(B, c, d) float32, of level entry + 1, or of the start where `entry` is `steps`."""
        q = self.steps - entry
        device = self.key.device
        first = (torch.arange(self.channels, device=device) * (self.steps + 1) + q) * self.even
        uniform = keyed_uniform(self.key, first.unsqueeze(1) + torch.arange(self.even, device=device))
        radius, angle = (-2 * uniform[..., 0::2].log()).sqrt(), 2 * math.pi * uniform[..., 1::2]
        pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
        return pairs.flatten(-2)[..., : self.dim].float()

    def level(self, most: int) -> Tensor:
        """(B, c) int64 levels in 1..`most`, uniform: where a chain starts that starts anywhere."""
        first = self.channels * (self.steps + 1) * self.even
        counter = first + torch.arange(self.channels, device=self.key.device)
        return (keyed_uniform(self.key, counter) * most).ceil().long().clamp(1, most)


class DrawnNoise:
    """Normal noise of a chain in training: torch's generator, a fresh draw for every entry that is asked for."""

    def __init__(self, like: Tensor) -> None:
        """Shape, dtype and device of an entry are those of `like`."""
        self.like = like

    def __getitem__(self, entry: int, /) -> Tensor:
        """Standard normal, of the shape of `like`."""
        return torch.randn_like(self.like)
