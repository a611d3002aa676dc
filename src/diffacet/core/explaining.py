"""What a model can tell about an answer: the interests before and after refinement, and what they look at."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from diffacet.core.batch import Histories


@dataclass(frozen=True)
class Explanation:
    """K interests of each of B users on their way to an answer; L history items, d dimensions.

    Attributes:
        coarse: (B, K, d) as extracted.
        refined: (B, K, d) as they search the catalogue; `coarse` itself where nothing refines.
        items: (B, L, d) vectors of the history's items.
        attention: (B, K, L), not negative; 0 at padding.
        kept: (B, K, L) bool, the items that guide an interest's refinement after pruning; None: the model prunes none.
    """

    coarse: Tensor
    refined: Tensor
    items: Tensor
    attention: Tensor
    kept: Tensor | None = None


@runtime_checkable
class Explains(Protocol):
    """A model that shows what it makes of a history."""

    def explain(self, history: Histories) -> Explanation:
        """Of each history what `interests` (or `scores`) goes through; row b depends on its own history and case."""
