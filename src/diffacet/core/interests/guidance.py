"""Guidance extraction modules of DimeRec: what turns a history into the rows that guide the diffusion.

W. Li et al., "DimeRec", WSDM 2025, Sec. 4.2 and Table 3. Shapes: B users, K rows, L history items, d dimensions.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from diffacet.core.encoders import CausalTransformer
from diffacet.core.interests.attention import SelfAttentive
from diffacet.core.interests.capsules import DynamicRouting
from diffacet.core.layers import linear

Gem = Literal["comirec-sa", "comirec-dr", "sasrec", "mlp", "latest"]
"""comirec-sa: Eq. 16-17; comirec-dr: capsules; sasrec: one row, the last state of two causal blocks; mlp: K rows out of
the mean of the history; latest: the embeddings of the K latest items (Eq. 15), nothing learned."""


class Guidance(nn.Module):
    """g = GEM(S) (Eq. 13): (B, L, d) and its mask -> rows (B, K, d) and which of them are there, (B, K) bool."""

    def __init__(
        self, gem: Gem, dim: int, rows: int, length: int, *, dropout: float = 0.0, values_with_position: bool = False
    ) -> None:
        """The module, d, K, L; `dropout` of sasrec; `values_with_position`: Eq. 17 sums H + P instead of H."""
        super().__init__()
        self.gem, self.values_with_position = gem, values_with_position
        self.rows = 1 if gem == "sasrec" else rows
        if gem == "comirec-sa":
            self.attentive = SelfAttentive(dim, rows, length, bias=True)
        elif gem == "comirec-dr":
            self.capsules = DynamicRouting(dim, rows, length, own_maps=True)
        elif gem == "sasrec":
            self.encoder = CausalTransformer(dim, length, dropout=dropout)
        elif gem == "mlp":
            self.inner, self.outer = linear(dim, 4 * dim), linear(4 * dim, rows * dim)

    def forward(self, embedded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """An empty history gives rows of zeros, all there but for `latest`, whose rows are its items."""
        there = mask.new_ones(len(mask), self.rows)
        if self.gem == "latest":
            return self._latest(embedded, mask)
        if self.gem == "comirec-sa":
            rows, attention = self.attentive(embedded, mask)
            if self.values_with_position:
                rows = rows + attention @ self.attentive.position[0, : attention.shape[-1]]
            return rows, there
        if self.gem == "comirec-dr":
            return self.capsules(embedded, mask)[0], there
        if self.gem == "sasrec":
            return self.encoder.last(embedded, mask).unsqueeze(1), there
        count = mask.sum(-1, keepdim=True)
        mean = (embedded * mask.unsqueeze(-1)).sum(1) / count.clamp(min=1)
        rows = self.outer(torch.tanh(self.inner(mean))) * (count > 0)
        return rows.unflatten(-1, (self.rows, -1)), there

    def _latest(self, embedded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The latest items fill the last rows; where there are fewer than K the first rows are zero."""
        count = mask.sum(-1, keepdim=True)
        order = (~mask).long().argsort(dim=1, stable=True)  # real positions first, in their order
        place = count - self.rows + torch.arange(self.rows, device=mask.device)  # (B, K)
        there = place >= 0
        index = order.gather(1, place.clamp(min=0, max=mask.shape[1] - 1))
        rows = embedded.gather(1, index.unsqueeze(-1).expand(-1, -1, embedded.shape[-1]))
        return rows * there.unsqueeze(-1), there
