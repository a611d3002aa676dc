"""Y-DNN: the mean of the history through dense layers, one vector per user.

P. Covington et al., "Deep Neural Networks for YouTube Recommendations", RecSys 2016, in the form that the
codes of ComiRec and REMI give it: one linear layer without activation (theirs), or a ReLU tower (the paper's).
Shapes: B users, L history items, d dimensions, N items.
"""

from itertools import pairwise
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core import objectives, protocols
from diffacet.core.batch import Histories, SequenceBatch
from diffacet.core.contract import STRICT, Card, Dropout, Facts, ItemDropout, Preset
from diffacet.core.interests import thin
from diffacet.core.layers import ItemTable, kaiming
from diffacet.core.papers import YOUTUBE_DNN


@dataclass(frozen=True, config=STRICT)
class YDNNConfig:
    """Settings of Y-DNN."""

    dim: Annotated[int, Field(ge=1, title="d", description="width of embeddings and of the user vector")] = 64
    hidden: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Field(description="widths of ReLU layers; none: one linear layer")
    ] = ()
    dropout: Dropout = 0.0
    item_dropout: ItemDropout = 0.0


class YDNN(nn.Module):
    """u = W mean(H), or a ReLU tower whose last layer is linear."""

    def __init__(self, config: YDNNConfig, facts: Facts) -> None:
        super().__init__()
        self.config = config
        self.items = ItemTable(facts.n_items, config.dim)
        widths = [config.dim, *config.hidden, config.dim]
        # No biases, as in REMI's code, whose initialisation needs matrices.
        self.weights = nn.ParameterList(kaiming(after, before) for before, after in pairwise(widths))

    def encode(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """(B, L, d) and its mask -> (B, d). The mean is over real items: REMI's code adds its random padding row."""
        user = (embedded * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        for weight in self.weights[:-1]:
            user = functional.relu(user @ weight.T)
        return user @ self.weights[-1].T

    def loss(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Sampled softmax of the next item."""
        embedded, target, negatives = self.items.rows(batch.history.items, batch.target, batch.negatives)
        embedded = functional.dropout(embedded, self.config.dropout, self.training)
        user = self.encode(embedded, thin(batch.history.mask, self.config.item_dropout, self.training))
        return {"softmax": objectives.sampled_softmax(user, target, negatives, batch)}

    def interests(self, history: Histories) -> Tensor:
        """The user vector as one interest, (B, 1, d)."""
        return self.encode(self.items(history.items), history.mask).unsqueeze(1)

    def catalogue(self) -> Tensor:
        """Item vectors (N + 1, d), row 0 being padding."""
        return self.items.weight


CARDS = [
    Card(
        "y-dnn",
        YDNN,
        YDNNConfig,
        task="matching",
        summary="mean of the history, one vector per user",
        paper=YOUTUBE_DNN,
        presets={
            "paper": Preset(YDNNConfig(), protocols.BEAUTY, "REMI's code; Amazon Beauty"),
            "paper-gowalla": Preset(YDNNConfig(), protocols.GOWALLA, "REMI's code; Gowalla"),
            "paper-book": Preset(YDNNConfig(), protocols.BOOK, "REMI's code; Amazon Book"),
            "best": Preset(YDNNConfig(item_dropout=0.2), protocols.BEST, "as REMI's"),
        },
        workers=True,
    ),
]
