"""The published multi-interest models as bases of a refinement: each extractor by its name, with its own losses."""

from typing import Literal

from torch import Tensor

from diffacet.core import objectives
from diffacet.core.interests.attention import SelfAttentive
from diffacet.core.interests.capsules import DynamicRouting
from diffacet.core.interests.reattention import ReAttentive
from diffacet.core.interests.star import StarGraph

Base = Literal["remi", "comirec-sa", "comirec-dr", "mind", "re4", "pimirec"]
Extractor = SelfAttentive | DynamicRouting | ReAttentive | StarGraph
RE4_WEIGHTS = {"attend": 0.001, "contrast": 0.1, "construct": 0.1}
"""Of the losses that Re4 adds, as its authors' Book example has them."""
STAR_HEADS = 4
"""Attention heads of PIMIRec's star graph, as its code has them; they divide d."""


def extractor(base: Base, dim: int, interests: int, length: int) -> Extractor:
    """The extractor of a model as its preset `paper` has it; d, K, L."""
    if base == "comirec-dr":
        return DynamicRouting(dim, interests, length, own_maps=True)
    if base == "mind":
        return DynamicRouting(dim, interests, length, routing="positions", random_start=True)
    if base == "re4":
        return ReAttentive(dim, interests, length)
    if base == "pimirec":
        return StarGraph(dim, interests, length, heads=STAR_HEADS)
    return SelfAttentive(dim, interests, length)


def extract(own: Extractor, embedded: Tensor, mask: Tensor, times: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B, L, d), (B, L) bool, (B, L) int64 times or None -> interests (B, K, d) and attention (B, K, L).

    The attention is over real positions for every base: for capsules it is the last routing weights,
    renormalised, without gradient.
    """
    return own(embedded, mask, times) if isinstance(own, StarGraph) else own(embedded, mask)


def extract_to_train(
    own: Extractor, embedded: Tensor, mask: Tensor, times: Tensor | None, routing: float
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Interests (B, K, d) and attention (B, K, L) as `extract` has them, and the weighted terms that the base adds.

    routing: weight of REMI's regulariser; 0 for every other base.
    """
    if isinstance(own, ReAttentive):
        coarse, attention = own.coarse(embedded, mask)
        back = own.losses(embedded, mask, coarse, attention)
        return own.finish(coarse), attention, {name: weight * back[name] for name, weight in RE4_WEIGHTS.items()}
    interests, attention = extract(own, embedded, mask, times)
    if not routing:
        return interests, attention, {}
    return interests, attention, {"routing": routing * objectives.routing_regulariser(attention, embedded.shape[-1])}
