"""What each step of a chain counts in training: the weights of the variational bound, and how often a step is drawn.

Steps are t = 1..T as in `diffusion`, and entry 0 of a table of weights is unused and 0. Both are those of DiffRec:
Wang et al., "Diffusion Recommender Model", SIGIR 2023, and its code. Importance sampling of t by the root mean square
of the last losses of each step is from Nichol and Dhariwal, "Improved DDPM", ICML 2021, Eq. 18.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from diffacet.core.diffusion import Schedule

KEPT = 10
"""Losses remembered for each step."""

UNIFORM_SHARE = 0.001
"""u: the share of draws that are uniform, so that no step is forgotten."""


def elbo_weight(schedule: Schedule) -> Tensor:
    """(T + 1,) float64: what the mean squared error of an x_0-predicting network counts at step t (DiffRec Eq. 11).

    w_1 = 1 and w_t = snr_{t-1} - snr_t with snr = alpha_bar / (1 - alpha_bar); no factor 1/2, as in DiffRec's code.
    Entry 0 is unused and 0. Without noise there is no ratio, and every step counts 1.
    """
    level, signal = schedule.noise_level, schedule.alpha_bar
    weight = torch.ones_like(level)
    weight[0] = 0
    # The difference of two ratios near 1e5, in the form that subtracts nothing.
    drop = signal[1:-1] * schedule.beta[2:] / (level[1:-1] * level[2:])
    weight[2:] = torch.where(level[2:] > 0, drop, 1.0)
    return weight


def eps_elbo_weight(schedule: Schedule, kind: Literal["code", "none"] = "code") -> Tensor:
    """(T + 1,) float64: what mean((eps - predicted eps)^2) counts at step t for a noise-predicting network.

    "code" (DiffRec's): (1 - alpha_bar_t) / ((1 - alpha_bar_{t-1})^2 (1 - beta_t)) from step 2 on. At step 1 it takes
    mean((x_0 - estimate)^2) / 2, which is the error of the noise times (1 - alpha_bar_1) / (2 alpha_bar_1).
    "none": 1 at every step (the simplified loss of DDPM), as in a chain without noise. Entry 0 is unused and 0.
    """
    level, before = schedule.noise_level[1:], schedule.noise_level[:-1]
    weight = torch.ones_like(schedule.noise_level)
    weight[0] = 0
    if kind == "code":
        first = level / (2 * schedule.alpha_bar[1:])
        later = level / (before.square() * (1 - schedule.beta[1:]))
        weight[1:] = torch.where(before > 0, later, torch.where(level > 0, first, 1.0))
    return weight


class LossHistory(nn.Module):
    """The last ten losses of every step, and the draw of steps by their size.

    Uniform until every step has ten losses (and for good with importance=False, when nothing is recorded). Never
    cleared: both buffers are saved with the weights, so that a resumed run draws as an unbroken one.

    Attributes:
        losses: (T, 10) float64, oldest first; row t - 1 is step t.
        filled: (T,) int64, how many of a row are there.
        importance: whether draws ever follow the losses.
    """

    losses: Tensor
    filled: Tensor

    def __init__(self, steps: int, *, importance: bool = True) -> None:
        super().__init__()
        self.importance = importance
        self.register_buffer("losses", torch.zeros(steps, KEPT, dtype=torch.float64))
        self.register_buffer("filled", torch.zeros(steps, dtype=torch.int64))

    def _relative(self) -> Tensor:
        """T p_t: (T,) float64, exactly 1 everywhere while draws are uniform."""
        uniform = torch.ones_like(self.losses[:, 0])
        if not self.importance:
            return uniform
        size = self.losses.square().mean(1).sqrt()  # (T,)
        mean = size.mean()
        ready = (self.filled == KEPT).all() & (mean > 0) & mean.isfinite()
        relative = (1 - UNIFORM_SHARE) * size / mean + UNIFORM_SHARE
        return torch.where(ready, relative, uniform)

    def probabilities(self) -> Tensor:
        """How likely each step is drawn: p_t = (1 - u) r_t / sum_k r_k + u / T; (T,) float64 (Improved DDPM Eq. 18).

        r_t is the root mean square of step t's losses, u = 0.001 as in DiffRec's code. 1 / T while a step has fewer
        than ten losses, when all losses are 0, and when one is not finite, which the training loop reports.
        """
        return self._relative() / len(self.filled)

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Steps drawn with replacement from torch's global generator, and the weights that undo the preference.

        Returns t (n,) int64 in 1..T, and 1 / (T p_t) (n,) float64, by which the mean of weight * loss has the
        expectation of the mean loss over all steps.
        """
        relative = self._relative().to(device)
        drawn = torch.multinomial(relative, n, replacement=True)
        return drawn + 1, 1 / relative[drawn]

    @torch.no_grad()
    def record(self, t: Tensor, loss: Tensor) -> None:
        """Append loss (n,) of the steps t (n,) in 1..T, in this order, and let the oldest of each step go.

        The losses are the weighted ones, before the weight of `draw`; no gradient is kept.
        """
        if not self.importance or not len(t):
            return
        step, order = torch.sort(t.to(self.filled.device), stable=True)
        new = loss.detach().to(self.losses)[order]  # step by step, each in batch order
        edges = torch.searchsorted(step, torch.arange(1, len(self.filled) + 2, device=step.device))  # (T + 1,)
        old, total = self.filled, self.filled + edges.diff()
        filled = total.clamp(max=KEPT)
        # Each row is the end of (what was there, what is new): slot s holds number s + total - filled of the two.
        slot = torch.arange(KEPT, device=step.device)
        number = slot + (total - filled).unsqueeze(1)  # (T, 10)
        kept = self.losses.gather(1, number.clamp(max=KEPT - 1))
        came = new[(number + (edges[:-1] - old).unsqueeze(1)).clamp(0, len(new) - 1)]
        rows = torch.where(number < old.unsqueeze(1), kept, came)
        self.losses.copy_(rows.masked_fill(slot >= filled.unsqueeze(1), 0.0))
        self.filled.copy_(filled)

    # Weights reach thousands and losses differ by orders of magnitude: float64 whatever the module is cast to.
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LossHistory":
        before = self.losses
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.losses.dtype != torch.float64:
            self.losses = before.to(self.losses.device)
        return self
