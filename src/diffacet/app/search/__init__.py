"""Search for good settings on validation (extra `search`)."""

from diffacet.app.search.queue import best
from diffacet.app.search.study import tune
from diffacet.app.search.trials import Standing, Tried, Tuned

__all__ = ["Standing", "Tried", "Tuned", "best", "tune"]
