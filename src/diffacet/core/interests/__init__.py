"""Extractors: from a history's item vectors to K interests and their attention over the history.

One file a family. Every extractor maps (embedded (B, L, d), mask (B, L) bool) to (interests (B, K, d),
attention (B, K, L)); what all of them share (selection, pruning, thinning) is in `attention`.
"""

from diffacet.core.interests.attention import SelfAttentive, prune, select, thin

__all__ = ["SelfAttentive", "prune", "select", "thin"]
