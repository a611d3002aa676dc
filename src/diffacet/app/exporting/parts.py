"""Parts of models in a form that torch.export can follow: no shape in them depends on a value.

Models save work by cutting off padding, or by packing what is real, and then the shapes depend on the histories. Each
class here has the parameters of the part that it stands for, computes padding too, and gives the same vectors but for
rounding. Histories are padded on the right and have no holes.
Shapes: B histories of L items, K interests, d dimensions.
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from diffacet.core.encoders import CausalTransformer, last_state
from diffacet.core.interests import StarGraph
from diffacet.core.interests.attention import over_history


class WholeTransformer(CausalTransformer):
    """The Transformer of SASRec, DreamRec and DimeRec, at all L positions instead of the longest history's."""

    def last(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """The state at the last item, (B, d)."""
        return last_state(self(embedded, mask), mask)


class WholeStarGraph(StarGraph):
    """PIMIRec's star graph with a node for each position; those of padding are 0 when a centre looks at them."""

    def forward(self, embedded: Tensor, mask: Tensor, times: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, L, d), (B, L) bool -> interests (B, K, d) and attention (B, K, L); a request has no times."""
        del times
        rows, width = mask.shape
        row = torch.arange(rows, device=mask.device).unsqueeze(1).expand(rows, width).reshape(-1)
        place = torch.arange(width, device=mask.device).unsqueeze(0).expand(rows, width).reshape(-1)
        every, there = (row, place), mask.reshape(-1, 1)
        first = (embedded + self.position[:, :width]).flatten(0, 1)  # (B * L, d)
        nodes = (first + self.interval.table[0]) * there
        centre = nodes.view(rows, width, -1).sum(1) / mask.sum(-1, keepdim=True).clamp(min=1)
        blocks: Iterable[Any] = self.blocks
        for block in blocks:
            nodes = block.nodes(nodes, first, centre, every) * there
            centre = block.centre(nodes, centre, mask, every)
        logits = torch.tanh(nodes @ self.inner.T + self.inner_bias) @ self.outer.T  # (B * L, K)
        attention = over_history(logits.view(rows, width, -1), mask, None)
        return attention @ embedded, attention


PARTS: dict[type[nn.Module], type[nn.Module]] = {
    CausalTransformer: WholeTransformer,
    StarGraph: WholeStarGraph,
}
"""What stands for what."""


def followable(model: nn.Module) -> nn.Module:
    """A copy of the model that has its parameters and buffers, and the parts that PARTS says."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    other = copy.deepcopy(model, shared)
    for part in other.modules():
        if type(part) in PARTS:
            part.__class__ = PARTS[type(part)]
    return other
