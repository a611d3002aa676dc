"""The network that ends every click model: the same widths, the same activation, the same start."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Dice(nn.Module):
    """p(x) x + alpha (1 - p(x)) x, p the sigmoid of x standardised over the batch (DIN, KDD 2018, Eq. 9).

    Mean and variance are the batch's in training, running ones otherwise: means over the first hundred batches, then
    with momentum 0.01. (With 0.01 from the start they would still be half what they began as after 70 batches, and
    models of one short epoch would be asked with another gate than they were trained with.) alpha, one a unit, starts
    at 0.
    """

    def __init__(self, width: int) -> None:
        """`width` units."""
        super().__init__()
        self.norm = nn.BatchNorm1d(width, eps=1e-9, momentum=0.01, affine=False)
        self.alpha = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(n, width) -> (n, width)."""
        if not len(x):
            return x
        if self.training and self.norm.track_running_stats and self.norm.num_batches_tracked is not None:
            self.norm.momentum = max(0.01, 1 / (1 + int(self.norm.num_batches_tracked)))
        # A single row has no variance to standardise by.
        p = (self.norm(x) if len(x) > 1 or not self.training else _running(self.norm, x)).sigmoid()
        return x * (self.alpha + (1 - self.alpha) * p)


def _running(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    return functional.batch_norm(x, norm.running_mean, norm.running_var, eps=norm.eps)


def he(inputs: int, outputs: int) -> nn.Linear:
    """A layer with He-normal weights by fan-in, and zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


class ClickHead(nn.Module):
    """[vectors of the model, target, other fields] -> log odds: layers of Linear, BatchNorm and Dice, then one unit."""

    def __init__(self, inputs: int, hidden: Sequence[int], *, normalise_logit: bool = False) -> None:
        """Width of what is concatenated, and of the hidden layers; `normalise_logit`: BatchNorm on the last unit."""
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [he(inputs, width), nn.BatchNorm1d(width), Dice(width)]
            inputs = width
        self.layers = nn.Sequential(*layers, he(inputs, 1), *([nn.BatchNorm1d(1)] if normalise_logit else []))

    def forward(self, *parts: Tensor) -> Tensor:
        """(B, ...) parts -> (B,) log odds."""
        joined = torch.cat([part.flatten(1) for part in parts], 1)
        if self.training and len(joined) == 1:  # BatchNorm has nothing to compare one row with
            joined = joined.expand(2, -1)
            return self.layers(joined)[:1, 0]
        return self.layers(joined).squeeze(1)


def click_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Mean binary cross-entropy of log odds (B,) and labels (B,), 0 or 1; a scalar."""
    return functional.binary_cross_entropy_with_logits(logits, label.to(logits.dtype))
