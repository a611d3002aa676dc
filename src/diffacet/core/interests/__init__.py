"""Extractors: from a history's item vectors to K interests and their attention over the history.

One file a family. Every extractor maps (embedded (B, L, d), mask (B, L) bool) to (interests (B, K, d),
attention (B, K, L)); what all of them share (selection, pruning, thinning) is in `attention`.
"""

from diffacet.core.interests.attention import SelfAttentive, prune, select, thin
from diffacet.core.interests.bases import STAR_HEADS, Base, extract, extract_to_train, extractor
from diffacet.core.interests.capsules import DynamicRouting, Routing
from diffacet.core.interests.guidance import Gem, Guidance
from diffacet.core.interests.reattention import ReAttentive
from diffacet.core.interests.star import StarGraph

__all__ = [
    "STAR_HEADS",
    "Base",
    "DynamicRouting",
    "Gem",
    "Guidance",
    "ReAttentive",
    "Routing",
    "SelfAttentive",
    "StarGraph",
    "extract",
    "extract_to_train",
    "extractor",
    "prune",
    "select",
    "thin",
]
