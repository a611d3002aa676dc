"""ItemKNN: item co-occurrence with shrinkage and recency, untrained; seconds of work and hard to beat.

B. Sarwar et al., "Item-Based Collaborative Filtering Recommendation Algorithms", WWW 2001, in the form that
sequence data ask for: near items count more, recent items of the history count more, and the popularity of
the candidate is damped less than cosine does.
Shapes: B users, L history items, N items, E stored pairs.
"""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from diffacet.core.batch import Histories
from diffacet.core.contract import INFERENCE, STRICT, Card, Facts, OldestWeight, Preset, Search, Training
from diffacet.core.cooccurrence import CoOccurrence
from diffacet.core.papers import ITEM_KNN
from diffacet.core.protocols import ROWS


@dataclass(frozen=True, config=STRICT)
class ItemKNNConfig:
    """Settings of ItemKNN; similarity of i to j = W_ij / (n_i^a n_j^b + shrinkage)."""

    window: Annotated[
        int | None,
        Field(ge=1, title="w", description="greatest distance of two items in a sequence; none: any"),
        Search(choices=(None, 10, 40)),
    ] = None
    decay: Annotated[
        float,
        Field(ge=0, title="p", description="W_ij sums distance^-p over the sequences; 0: plain counts"),
        Search(0.0, 1.5),
    ] = 0.0
    history_power: Annotated[
        float, Field(ge=0, title="a", description="power of the history item's count"), Search(0.0, 1.0)
    ] = 0.5
    candidate_power: Annotated[
        float, Field(ge=0, title="b", description="power of the candidate's count"), Search(0.0, 1.0)
    ] = 0.5
    shrinkage: Annotated[
        float, Field(ge=0, description="added to the denominator, against rare pairs"), Search(0.1, 1000.0, log=True)
    ] = 0.0
    recency: Annotated[
        float,
        Field(gt=0, le=1, description="weight of a history item for each step back in time"),
        INFERENCE,
        Search(0.5, 1.0),
    ] = 1.0
    neighbours: Annotated[
        int | None,
        Field(ge=1, title="k", description="items of largest similarity that may speak for a candidate; none: all"),
        Search(choices=(None, 10, 20, 50, 100, 200, 400)),
    ] = None
    oldest_weight: Annotated[OldestWeight, INFERENCE] = 1.0


class ItemKNN(nn.Module):
    """score(j) = sum over history items i of recency^age(i) * w_i * similarity(i, j); the latest item has age 0.

    w_i is 1, or with an `oldest_weight` below 1 the item's time weight; then an item counts once in a history.
    """

    def __init__(self, config: ItemKNNConfig, facts: Facts) -> None:
        super().__init__()
        c = self.config = config
        self.pairs = CoOccurrence(
            facts,
            window=c.window,
            decay=c.decay,
            history_power=c.history_power,
            candidate_power=c.candidate_power,
            shrinkage=c.shrinkage,
            nearest=c.neighbours,
        )

    def scores(self, history: Histories) -> Tensor:
        """(B, N + 1), 0 where nothing in the history co-occurred with the item."""
        return self.pairs(history, self.config.recency, self.config.oldest_weight)


_UNTRAINED = Training(max_steps=0)

CARDS = [
    Card(
        "item-knn",
        ItemKNN,
        ItemKNNConfig,
        task="matching",
        summary="item co-occurrence, untrained: the bar that costs seconds",
        paper=ITEM_KNN,
        presets={
            "paper": Preset(ItemKNNConfig(), _UNTRAINED, "cosine of co-occurrence, all history equal"),
            "best": Preset(
                ItemKNNConfig(decay=0.53, history_power=0.32, candidate_power=0.4, shrinkage=70.0, recency=0.74),
                _UNTRAINED,
                "25 trials on validation of Amazon Beauty, three splits",
            ),
            "long": Preset(
                ItemKNNConfig(window=40, decay=0.5, history_power=0.5, candidate_power=0.25, recency=0.9),
                Training(max_steps=0, length=40),
                "for long sequences: chosen on validation of Gowalla, one split",
            ),
            "collaborative": Preset(
                ItemKNNConfig(neighbours=100), ROWS, "cosine, 100 neighbours of each candidate, whole rows"
            ),
        },
    ),
]
