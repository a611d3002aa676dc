"""ALS: a matrix factorised under confidence, by alternating least squares; the bar that costs seconds.

Y. Hu, Y. Koren, C. Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008; Eq. are that
paper's. The item factors are fitted by the library `implicit` (extra `als`), which solves its systems by a few
conjugate gradient steps. A user is always solved here, from the history, so an answer needs neither the library nor
that the user was there in training.
Shapes: B users, L history items, N items, d factors.
"""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional

from diffacet.arrays import distinct
from diffacet.core.batch import Histories
from diffacet.core.contract import INFERENCE, STRICT, Card, Facts, OldestWeight, Preset, Search
from diffacet.core.papers import ALS as PAPER
from diffacet.core.profiles import read
from diffacet.core.protocols import ROWS
from diffacet.errors import require

CELLS_AT_ONCE = 2**22
"""Cells of history vectors, or of systems, that are held while users are solved (4 bytes each, a few times)."""


@dataclass(frozen=True, config=STRICT)
class ALSConfig:
    """Settings of ALS."""

    dim: Annotated[
        int, Field(ge=1, title="f", description="width of user and item factors"), Search(choices=(32, 64, 128, 256))
    ] = 64
    regularization: Annotated[
        float,
        Field(gt=0, title="λ", description="weight of the factors' squares (Eq. 3); a small log asks for less"),
        Search(0.01, 1000, log=True),
    ] = 10.0
    alpha: Annotated[
        float,
        Field(gt=0, title="α", description="an item of a row has confidence 1 + α, any other 1"),
        Search(0.1, 100, log=True),
    ] = 10.0
    iterations: Annotated[int, Field(ge=1, description="sweeps over users and items")] = 15
    oldest_weight: Annotated[OldestWeight, INFERENCE] = 1.0


class ALS(nn.Module):
    """score(j) = x^T y_j, x = (Y^T C Y + λ I)^-1 Y^T C p of the history (Eq. 4), which any history can be asked."""

    factors: Tensor
    squares: Tensor

    def __init__(self, config: ALSConfig, facts: Facts) -> None:
        """Fits the item factors; without training sequences the buffers stay empty, for a run to fill them.

        Raises:
            MissingExtra: when there is something to fit, and the library is not installed.
        """
        super().__init__()
        self.config = config
        factors = item_factors(config, facts) if len(facts.train_items) else torch.zeros(0, config.dim)
        self.register_buffer("factors", factors)  # (N + 1, d), or (0, d)
        self.register_buffer("squares", factors.mT @ factors)  # (d, d): Y^T Y

    def interests(self, history: Histories) -> Tensor:
        """(B, 1, d): the user's vector; 0 for an empty history.

        Y^T C Y = Y^T Y + Y^T (C - 1) Y, whose second term is a sum over the history only (Sec. 4). An item of weight
        w has confidence 1 + α w.
        """
        c, dtype = self.config, self.factors.dtype
        rows = read(history, c.oldest_weight, dtype)
        counts = torch.bincount(rows.row, minlength=rows.users)
        starts, order = counts.cumsum(0) - counts, counts.argsort(stable=True)
        base = self.squares + c.regularization * torch.eye(c.dim, dtype=dtype, device=counts.device)
        solved = torch.zeros(rows.users, c.dim, dtype=dtype, device=counts.device)
        longest = int(counts[order[-1:]].sum())  # 0 without users
        # Users of like length go together, so that little of a block is padding.
        for users in torch.split(order, max(1, CELLS_AT_ONCE // (max(longest, c.dim) * c.dim))):
            place = torch.arange(int(counts[users[-1:]].sum()), device=counts.device)  # the last is the longest
            there = place < counts[users].unsqueeze(1)  # (b, l)
            entry = (starts[users].unsqueeze(1) + place) * there
            vectors = self.factors[rows.item[entry]] * there.unsqueeze(-1)  # (b, l, d)
            extra = (c.alpha * rows.value[entry]).unsqueeze(-1) * vectors
            triangle = torch.linalg.cholesky(base + extra.mT @ vectors)
            solved[users] = torch.cholesky_solve((extra + vectors).sum(1).unsqueeze(-1), triangle).squeeze(-1)
        return solved.unsqueeze(1)

    def catalogue(self) -> Tensor:
        """(N + 1, d) item factors, row 0 being padding."""
        return self.factors


def item_factors(config: ALSConfig, facts: Facts) -> Tensor:
    """(N + 1, d) float32 Y that minimises Eq. 3 with the training users' 0/1 rows, row 0 being 0.

    One thread, begun from torch's generator: the same factors for the same generator. Raises MissingExtra.
    """
    als, sparse = require("implicit.als", "als"), require("scipy.sparse", "als")
    users, n = len(facts.train_offsets) - 1, facts.n_items
    owner = np.repeat(np.arange(users), np.diff(facts.train_offsets))
    user, item = np.divmod(distinct(owner * n + facts.train_items - 1), n)  # a repeated item counts once
    confidence = np.full(len(item), 1 + config.alpha, np.float32)
    seed = int(torch.randint(2**31 - 1, ()))
    # Its threads and those of the BLAS would stand in each other's way.
    with threadpool_limits(1, "blas"):
        model = als.AlternatingLeastSquares(
            config.dim,
            regularization=config.regularization,
            iterations=config.iterations,
            num_threads=1,
            random_state=seed,
        )
        model.fit(sparse.csr_matrix((confidence, (user, item)), shape=(users, n)), show_progress=False)
    return functional.pad(torch.from_numpy(model.item_factors), (0, 0, 1, 0))


CARDS = [
    Card(
        "als",
        ALS,
        ALSConfig,
        task="collaborative",
        summary="matrix factorisation under confidence by alternating least squares, in seconds",
        paper=PAPER,
        presets={
            "paper": Preset(ALSConfig(), ROWS, "whole rows; the paper leaves its values to a search on each log"),
            "best": Preset(ALSConfig(regularization=35.0, alpha=0.5), ROWS, "seven settings on validation of ML-1M"),
        },
    ),
]
