"""Noise of a case: the same numbers for it in every batch, on every device."""

import numpy as np
import torch
from torch import Tensor

from diffacet import seeds

NOISE_BLOCK = 1024
"""Cases whose starting noise comes from one stream."""


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
