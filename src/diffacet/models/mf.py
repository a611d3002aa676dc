"""MF: a vector for each user and each item, trained to rank what a user met above what the user did not.

S. Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009; matrix factorisation under
its criterion (Sec. 4.3.1), without biases.
Shapes: U users, N items, B users and P pairs of a batch, L history items, d dimensions.
"""

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core import objectives, profiles, protocols
from diffacet.core.batch import Histories, PairBatch
from diffacet.core.contract import INFERENCE, STRICT, Card, Facts, Preset, Search
from diffacet.core.layers import ItemTable
from diffacet.core.papers import BPR


@dataclass(frozen=True, config=STRICT)
class MFConfig:
    """Settings of MF."""

    dim: Annotated[int, Field(ge=1, title="d", description="width of the vectors"), Search(choices=(32, 64, 128))] = 64
    dropout: Annotated[
        float,
        Field(ge=0, lt=1, title="p", description="dropout on the vectors of users and items, in their scores"),
        Search(choices=(0.1, 0.2, 0.3, 0.4, 0.5)),
    ] = 0.1
    l2: Annotated[
        float,
        Field(ge=0, title="λ", description="weight of half the squared lengths of a pair's vectors"),
        Search(choices=(1e-6, 1e-5, 1e-4)),
    ] = 1e-4
    ridge: Annotated[
        float,
        Field(gt=0, title="r", description="penalty of a new user's regression, in mean eigenvalues of the items' V'V"),
        INFERENCE,
    ] = 10.0
    fold_in: Annotated[
        bool, Field(description="rank for every user as for a new one, by the regression of the history"), INFERENCE
    ] = False


class MF(nn.Module):
    """score(u, i) = e_u . e_i."""

    trained: Tensor

    def __init__(self, config: MFConfig, facts: Facts) -> None:
        super().__init__()
        c = self.config = config
        self.users = nn.Parameter(0.1 * torch.randn(facts.n_users, c.dim))
        self.items = ItemTable(facts.n_items, c.dim)
        with torch.no_grad():
            self.items.weight[1:].normal_(std=0.1)
        trained = torch.zeros(facts.n_users + 1, dtype=torch.bool)  # the last one is nobody, whom -1 names too
        trained[torch.from_numpy(facts.train_users)] = True
        self.register_buffer("trained", trained)
        self._kept: Tensor | None = None

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """BPR, and the penalty on the vectors before dropout."""
        c, user = self.config, functional.embedding(batch.user, self.users)
        item, negative = self.items.rows(batch.item, batch.negative)
        u, i, j = (functional.dropout(x, c.dropout, self.training) for x in (user, item, negative))
        return {
            "bpr": objectives.bpr((u * i).sum(-1), (u * j).sum(-1)),
            "l2": c.l2 * objectives.half_squares(user, item, negative),
        }

    def interests(self, history: Histories) -> Tensor:
        """(B, 1, d) e_u.

        A user without training rows (with `fold_in` everyone) gets the ridge regression of the history, as a row x of
        0s and 1s, on the item vectors V: the e with the least ||x - V e||^2 + r ||e||^2, r being `ridge` times the mean
        eigenvalue of V'V. So the zeros count as well, and one matrix serves all users.
        """
        vectors, rows = self.items.weight, profiles.read(history, dtype=self.items.weight.dtype)
        folded = rows.summed(vectors) @ self._inverse()
        users = functional.pad(self.users, (0, 0, 0, 1))[history.users]  # -1 names the row that is added
        known = self.trained[history.users] & (not self.config.fold_in)
        return torch.where(known.unsqueeze(1), users, folded).unsqueeze(1)

    def catalogue(self) -> Tensor:
        """(N + 1, d); row 0 is padding."""
        return self.items.weight

    def train(self, mode: bool = True) -> "MF":
        """As in torch; what evaluation has kept is forgotten, also by `eval()`."""
        self._kept = None
        return super().train(mode)

    @torch.no_grad()
    def _inverse(self) -> Tensor:
        """(d, d) (V'V + r I)^-1, kept in evaluation."""
        if self._kept is not None:
            return self._kept
        vectors = self.items.weight[1:]
        gram = vectors.T @ vectors
        penalty = self.config.ridge * gram.diagonal().mean()  # the trace is the sum of the eigenvalues
        gram.diagonal().add_(penalty.clamp(min=torch.finfo(gram.dtype).tiny))
        inverse = torch.linalg.inv(gram)
        self._kept = None if self.training else inverse
        return inverse


_PAPER = Preset(
    MFConfig(),
    protocols.PAIRS,
    "d = 64 and λ = 1e-4, where DiffRec tells nothing of its MF; batches and stopping of its protocol",
)

CARDS = [
    Card(
        "mf",
        MF,
        MFConfig,
        task="collaborative",
        summary="a vector for each user and each item, trained by pairs (BPR)",
        paper=BPR,
        presets={
            "paper": _PAPER,
            "best": replace(_PAPER, source="as paper; no other was tried"),
        },
        batch=PairBatch,
        search=protocols.PAIRS_SEARCH,
    ),
]
