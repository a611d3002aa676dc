"""CDAE: a denoising auto-encoder of a user's row over the catalogue, with a vector of each user's own.

Y. Wu et al., "Collaborative Denoising Auto-Encoders for Top-N Recommender Systems", WSDM 2016 (key `cdae`). The loss
is over all items instead of sampled negatives, as the catalogues of this protocol are small.
Shapes: B users of a batch, U users of the log, N items, K width of the hidden layer.
"""

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core import profiles
from diffacet.core.batch import Histories, ProfileBatch
from diffacet.core.contract import STRICT, Card, Facts, OldestWeight, Preset, Search
from diffacet.core.papers import CDAE as PAPER
from diffacet.core.profiles import Profiles
from diffacet.core.protocols import PROFILES, PROFILES_SEARCH


@dataclass(frozen=True, config=STRICT)
class CDAEConfig:
    """Settings of CDAE; the defaults are those of DiffRec's table where it states one."""

    width: Annotated[int, Field(ge=1, title="K", description="width of the hidden layer and of a user's vector")] = 200
    activation: Annotated[
        Literal["sigmoid", "relu", "tanh"],
        Field(description="of the hidden layer"),
        Search(choices=("sigmoid", "relu", "tanh")),
    ] = "relu"
    dropout: Annotated[
        float,
        Field(ge=0, lt=1, title="q", description="share of a row's items left out, in training"),
        Search(choices=(0.1, 0.3, 0.5, 0.7)),
    ] = 0.5
    loss: Annotated[Literal["bce", "mse"], Field(description="cross-entropy or squared error, summed over items")] = (
        "bce"
    )
    oldest_weight: OldestWeight = 1.0
    weighted_target: Annotated[bool, Field(description="time weights on the target, too; false: input only")] = True


class CDAE(nn.Module):
    """logits = W' act(W dropout(x) + v_u + b) + b'. A user without a training row has no v_u: it counts as 0."""

    def __init__(self, config: CDAEConfig, facts: Facts) -> None:
        """Weights Xavier normal, biases 0, v normal(0, 0.01)."""
        super().__init__()
        self.config, self.n_items = config, facts.n_items
        self.first = profiles.ItemSum(facts.n_items, config.width)
        self.users = nn.Parameter(0.01 * torch.randn(facts.n_users, config.width))  # v
        self.last = profiles.ItemScores(facts.n_items, config.width)
        trained = np.zeros(facts.n_users, bool)
        trained[facts.train_users[np.diff(facts.train_offsets) > 0]] = True
        self.register_buffer("trained", torch.from_numpy(trained))  # (U,) bool: whose v is learned

    trained: Tensor

    def loss(self, batch: ProfileBatch) -> dict[str, Tensor]:
        """The error of the rebuilt rows, summed over all N items and averaged over users."""
        x = self._read(batch.history)
        target = x if self.config.weighted_target else x.ones()
        own = functional.embedding(batch.history.users, self.users)
        logits = self.last(self._hidden(x.thinned(self.config.dropout, self.training), own))
        if self.config.loss == "mse":
            return {"mse": self.n_items * profiles.squared_error(logits.sigmoid(), target).mean()}
        # -x ln sigmoid(o) - (1 - x) ln(1 - sigmoid(o)) = softplus(o) - x o, where most x are 0.
        taken = (target.value * logits[target.row, target.item - 1]).sum()
        return {"bce": (functional.softplus(logits).sum() - taken) / target.users}

    def interests(self, history: Histories) -> Tensor:
        """(B, 1, K + 1): the hidden layer, and 1 for the bias; nothing is left out."""
        x = self._read(history)
        own = self.users.new_zeros(x.users, self.config.width)
        known = (history.users >= 0).nonzero()[:, 0]
        known = known[self.trained[history.users[known]]]
        own[known] = self.users[history.users[known]]
        return profiles.interest(self._hidden(x, own))

    def catalogue(self) -> Tensor:
        """(N + 1, K + 1): weights and bias of the last layer; row 0 is padding."""
        return self.last.catalogue()

    def _read(self, history: Histories) -> Profiles:
        return profiles.read(history, self.config.oldest_weight, self.first.weight.dtype)

    def _hidden(self, x: Profiles, own: Tensor) -> Tensor:
        """Rows and the users' vectors (B, K) -> (B, K)."""
        read = self.first(x) + own
        if self.config.activation == "relu":
            return read.relu()
        return read.tanh() if self.config.activation == "tanh" else read.sigmoid()


CARDS = [
    Card(
        "cdae",
        CDAE,
        CDAEConfig,
        task="collaborative",
        summary="denoising auto-encoder of a user's row, with a vector of the user's own",
        paper=PAPER,
        presets={
            "paper": Preset(CDAEConfig(), PROFILES, "DiffRec Sec. 4.1.3, of whose sizes the smaller is the width"),
            "best": Preset(
                CDAEConfig(dropout=0.1),
                replace(PROFILES, lr=0.002),
                "3 settings on validation of ML-1M",
            ),
        },
        batch=ProfileBatch,
        search=PROFILES_SEARCH,
    ),
]
