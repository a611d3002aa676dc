"""SDIM: no search and no softmax: behaviours that share a bucket with the target, summed, over many random bucketings.

Y. Cao et al., "Sampling Is All You Need on Modeling Long-Term User Behaviors for CTR Prediction", CIKM 2022 (key
`sdim`). A behaviour at angle theta shares a bucket of w bits with probability (1 - theta / pi)^w: attention with a
fixed kernel. Shapes: B samples, b of a window, l behaviours of each, d = fields times the width of one, G groups.

    v_g = normalise(sum_i [sig_g(E_i) = sig_g(e_s)] E_i)        v = mean_g v_g

Serving needs no history: `bucket_sums` keeps the sums of a user, `served` reads them.
"""

from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from diffacet.core import protocols
from diffacet.core.batch import ClickBatch
from diffacet.core.behaviours import (
    ClickHead,
    Fields,
    ShortTerm,
    SimHash,
    Window,
    at,
    click_loss,
    over_windows,
)
from diffacet.core.behaviours.hashing import bucket_sums, codes, mean_direction, signatures
from diffacet.core.behaviours.settings import (
    Dim,
    HashSeed,
    Hidden,
    Order,
    Recent,
    Short,
    UserId,
    generator,
)
from diffacet.core.contract import STRICT, Card, Facts, Preset, Search
from diffacet.core.papers import SDIM as PAPER
from diffacet.errors import BadSetting


@dataclass(frozen=True, config=STRICT)
class SDIMConfig:
    """Settings of SDIM."""

    dim: Dim = 8
    hidden: Hidden = (1024, 512, 256)
    use_user_id: UserId = True
    hashes: Annotated[int, Field(ge=1, title="m", description="random hyperplanes in all; a multiple of width")] = 48
    width: Annotated[
        int,
        Field(ge=1, le=16, title="w", description="hyperplanes that make a bucket: more of them look more closely"),
        Search(choices=(2, 3, 4, 6)),
    ] = 3
    hash_seed: HashSeed = 0
    recent: Recent = 50
    short: Short = "transformer"
    position: Order = "recency"

    def __post_init__(self) -> None:
        """Checks that involve two settings; raises BadSetting."""
        if self.hashes % self.width:
            raise BadSetting(f"hashes is a multiple of width={self.width}; got hashes={self.hashes}")


class SDIM(nn.Module):
    """The mean direction of what shares buckets, the short-term branch, the target and the further fields."""

    def __init__(self, config: SDIMConfig, facts: Facts) -> None:
        super().__init__()
        c, click = config, facts.click_fields()
        self.config = c
        self.fields = Fields(click, c.dim, use_user_id=c.use_user_id)
        d = self.fields.width
        self.hash = SimHash(d, c.hashes, generator(c.hash_seed, "sdim"))
        self.short = ShortTerm(d, c.recent, c.short, position=c.position)
        self.head = ClickHead(2 * d + self.short.width + self.fields.other_width, c.hidden)

    def loss(self, batch: ClickBatch) -> dict[str, Tensor]:
        """Cross-entropy of the click."""
        return {"click": click_loss(self.logits(batch), batch.label)}

    def logits(self, batch: ClickBatch) -> Tensor:
        """(B,) log odds of a click."""
        target = self.fields.target(batch)
        long = mean_direction(self.shared(batch, target))
        return self.head(long, self.short(self.fields, batch, target), target, self.fields.other(batch))

    def signature(self, vectors: Tensor) -> Tensor:
        """(..., d) -> (..., G) int64 buckets; without gradient."""
        return signatures(self.hash(vectors), self.config.width)

    def shared(self, batch: ClickBatch, target: Tensor) -> Tensor:
        """Targets (B, d) -> (B, G, d): for each group the sum of the behaviours in the target's bucket."""
        buckets = codes(self.fields, batch, lambda embedded: self.signature(embedded).int())
        asked = self.signature(target).int()
        weight = self.fields.table.weight

        def summed(seen: Window) -> Tensor:
            same = (at(buckets, seen.place) == asked[seen.samples].unsqueeze(1)) & seen.mask.unsqueeze(2)
            return torch.bmm(same.transpose(1, 2).to(weight.dtype), self.fields.behaviours(batch, seen.place))

        return over_windows(batch, summed, [], [self.fields])

    def table(self, values: Tensor, before: Tensor | None = None) -> Tensor:
        """(n, F) field values of a user's behaviours -> (G, 2^w, d) what serving keeps of them, added to `before`."""
        embedded = self.fields(values)
        return bucket_sums(self.signature(embedded), embedded, 2**self.config.width, before)

    def served(self, table: Tensor, target: Tensor) -> Tensor:
        """Targets (B, d) read from a user's table -> (B, d), as from the user's behaviours."""
        groups = torch.arange(len(table), device=table.device)
        return mean_direction(table[groups, self.signature(target)])


CARDS = [
    Card(
        "sdim",
        SDIM,
        SDIMConfig,
        task="click",
        summary="behaviours that share random buckets with the target, summed",
        paper=PAPER,
        presets={
            "paper": Preset(SDIMConfig(recent=100), protocols.CLICK, "DiffuMIN's Table 2, row SDIM; SDIM's 48 hashes"),
            "best": Preset(SDIMConfig(), protocols.CLICK, "ours: the same, no setting searched yet"),
        },
        batch=ClickBatch,
        search=protocols.CLICK_SEARCH,
    ),
]
