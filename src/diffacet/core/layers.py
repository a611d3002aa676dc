"""Small parts that several models are made of."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class ItemTable(nn.Module):
    """Vectors of the catalogue's items, (N + 1, d); row 0 is padding, zero, and stays so.

    One table serves history, target, negatives and catalogue. `sparse` makes gradients row-sparse, so
    that a training step costs what a batch touches and not what the catalogue holds; the optimiser sets it.
    """

    def __init__(self, n_items: int, dim: int, *, deviation: float | None = None) -> None:
        """N items of width d, normal; None: with deviation sqrt(2 / d) (the REMI code's Kaiming initialisation)."""
        super().__init__()
        spread = math.sqrt(2 / dim) if deviation is None else deviation
        self.weight = nn.Parameter(torch.randn(n_items + 1, dim) * spread)
        self.sparse = False
        with torch.no_grad():
            self.weight[0].zero_()

    def forward(self, numbers: Tensor) -> Tensor:
        """(...,) int64 numbers -> (..., d)."""
        return functional.embedding(numbers, self.weight, padding_idx=0, sparse=self.sparse)

    def rows(self, *numbers: Tensor) -> tuple[Tensor, ...]:
        """The vectors of several number tensors by one lookup, which has one gradient instead of one each."""
        found = self(torch.cat([part.reshape(-1) for part in numbers]))
        parts = found.split([part.numel() for part in numbers])
        return tuple(part.reshape(*ids.shape, -1) for part, ids in zip(parts, numbers, strict=True))


def kaiming(*shape: int) -> nn.Parameter:
    """A matrix, normal with deviation sqrt(2 / fan-in), the product of all but the first size (He et al. 2015)."""
    return nn.Parameter(torch.randn(*shape) * math.sqrt(2 / math.prod(shape[1:])))


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A layer with Xavier-uniform weights and zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def sinusoid(t: Tensor, dim: int) -> Tensor:
    """(B,) steps -> (B, d) float64: cosines, then sines, of t * 10000^(-2i/d), and a zero at the end of an odd d."""
    half = dim // 2
    frequency = torch.exp(-math.log(10_000) * 2 / dim * torch.arange(half, device=t.device, dtype=torch.float64))
    angle = t.to(torch.float64).unsqueeze(-1) * frequency
    return functional.pad(torch.cat([angle.cos(), angle.sin()], -1), (0, dim % 2))
