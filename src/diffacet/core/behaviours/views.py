"""A network that guesses the noise of one interest from a sample's other interests and its channel (DiffuMIN's DMIG).

Lai et al., RecSys 2025 (key `diffumin`), Eq. 14 to 17. Shapes: B samples, c channels, d dimensions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core.behaviours.attention import bare
from diffacet.core.behaviours.transformer import Block, readable
from diffacet.core.layers import linear
from diffacet.errors import BadSetting


def level_waves(t: Tensor, dim: int) -> Tensor:
    """(...,) levels -> (..., d) float64: sines, then cosines, of t 10000^(-q / (d/2 - 1)), and a zero at an odd d."""
    half = dim // 2
    rate = 10_000.0 ** (-torch.arange(half, dtype=torch.float64, device=t.device) / max(half - 1, 1))
    angle = t.double().unsqueeze(-1) * rate
    return functional.pad(torch.cat([angle.sin(), angle.cos()], -1), (0, dim % 2))


@dataclass(frozen=True)
class Surroundings:
    """What does not change while interests are noised or denoised.

    Attributes:
        context: (B, 1, c, d), the clean interests.
        bias: (B c, 1, c), for the logits of a view: 0 at active channels and at its own, -inf elsewhere.
        guides: for each block what it adds to every row of a view, (B c, 1, d), or None.
    """

    context: Tensor
    bias: Tensor
    guides: list[Tensor | None]


class ViewDenoiser(nn.Module):
    """The noise of each interest, told the other interests as context and its channel as guide.

    View i of a sample is its c interests, of which the i-th is noisy; all B c views are read at once. The guide is the
    only key of its cross-attention, whose softmax is 1 whatever the query: so it is value and output layer alone, and
    the query and key weights, which would never move, do not exist.
    """

    def __init__(self, dim: int, layers: int, heads: int, *, guided: bool, context: bool, output: bool) -> None:
        """Width d, blocks, and heads that divide d; without `guided`, `context` or `output` that part is left out.

        Raises:
            BadSetting: when the width is below 4, which is the least that tells levels apart, or no multiple of heads.
        """
        super().__init__()
        if dim < 4:
            raise BadSetting(f"interests that are denoised are 4 wide or more; got {dim}; set a larger dim")
        self.context = context
        self.step = nn.Sequential(linear(dim, 4 * dim), nn.SiLU(), linear(4 * dim, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, 3 * dim, guided=guided) for _ in range(layers))
        guides = layers if guided else 0
        self.guides = nn.ModuleList(nn.Sequential(bare(dim, dim), bare(dim, dim)) for _ in range(guides))
        self.output = linear(dim, dim) if output else nn.Identity()

    def read(self, interests: Tensor, active: Tensor, channels: Tensor) -> Surroundings:
        """Clean interests (B, c, d), (B, c) active channels and channels (B, c, d) -> what every level is told."""
        B, c, d = interests.shape
        own = torch.eye(c, dtype=torch.bool, device=active.device)
        bias = readable((active.unsqueeze(1) | own).view(B * c, c)).to(interests.dtype)
        guides = [guide(channels).view(B * c, 1, d) for guide in self.guides]
        return Surroundings(interests.unsqueeze(1), bias, [*guides] or [None] * len(self.blocks))

    def forward(self, noisy: Tensor, t: Tensor, around: Surroundings) -> Tensor:
        """(B, c, d) interests at levels t, (B, c) or (1, 1), in 1..T -> what is predicted of each, (B, c, d)."""
        B, c, d = noisy.shape
        told = self.step(level_waves(t, d).to(noisy.dtype))  # (B, c, d) or (1, 1, d)
        own = (noisy + told).view(B * c, 1, d)
        x, bias = own, torch.zeros_like(around.bias[:, :, :1])
        if self.context and c > 1:
            eye = torch.eye(c, dtype=torch.bool, device=noisy.device).view(1, c, c, 1)
            x = torch.where(eye, own.view(B, c, 1, d), around.context + told.unsqueeze(2)).view(B * c, c, d)
            bias = around.bias
        for block, guide in zip(self.blocks[:-1], around.guides, strict=False):
            x = block(x, bias, guide)
            own = x.view(B, c, -1, d).diagonal(dim1=1, dim2=2).mT.reshape(B * c, 1, d) if x.shape[1] > 1 else x
        # Of the last block only the noisy rows are wanted.
        return self.output(self.blocks[-1](x, bias, around.guides[-1], own=own).view(B, c, d))
