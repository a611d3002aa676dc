"""The diffusion core that every model shares: schedules, forward noising, posterior, samplers, and the sphere.

One file a subject: `schedules` (how much noise each step adds), `chain` (the Gaussian chain and its walks), `sphere`
(the same on unit vectors), `noise` (the noise of a case). Steps are the papers' own: t = 1..T, and index 0 of every
table is the clean end. Noise is given, never drawn.
"""

from diffacet.core.diffusion.chain import (
    Denoise,
    Noise,
    ancestral,
    ddim,
    descend,
    eps_from_x0,
    forward_noise,
    posterior,
    posterior_tables,
    sample,
    signal_to_noise,
    x0_from_eps,
)
from diffacet.core.diffusion.noise import NOISE_BLOCK, case_noise
from diffacet.core.diffusion.schedules import (
    Kind,
    Published,
    Schedule,
    binomial,
    cosine,
    ddim_steps,
    linear_beta,
    named,
    noiseless,
    published,
    respaced,
    scaled_linear,
    with_first_beta,
)
from diffacet.core.diffusion.sphere import (
    Eta,
    Forward,
    Scale,
    exp_map,
    geodesic,
    log_map,
    noised,
    tangent,
    unit,
    walk_back,
)

__all__ = [
    "NOISE_BLOCK",
    "Denoise",
    "Eta",
    "Forward",
    "Kind",
    "Noise",
    "Published",
    "Scale",
    "Schedule",
    "ancestral",
    "binomial",
    "case_noise",
    "cosine",
    "ddim",
    "ddim_steps",
    "descend",
    "eps_from_x0",
    "exp_map",
    "forward_noise",
    "geodesic",
    "linear_beta",
    "log_map",
    "named",
    "noised",
    "noiseless",
    "posterior",
    "posterior_tables",
    "published",
    "respaced",
    "sample",
    "scaled_linear",
    "signal_to_noise",
    "tangent",
    "unit",
    "walk_back",
    "with_first_beta",
    "x0_from_eps",
]
