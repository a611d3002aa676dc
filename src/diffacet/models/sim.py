"""SIM: a cheap search leaves K of a long history, and target attention reads those closely, with their ages.

Q. Pi et al., "Search-based User Interest Modeling with Lifelong Sequential Behavior Data for Click-Through Rate
Prediction", CIKM 2020 (key `sim`). Shapes: B samples, l behaviours of each, d = fields times the width of one, K kept.

Hard search keeps the most recent behaviours of the target's category. Soft search keeps those of highest product, which
it learns by predicting the click from all behaviours, each as much as its product says:

    s_i = (W_b E_i) . (W_a e_s)        U = sum_i s_i E_i        "search": the click from head_gsu([U, e_s, e_other])
    z_i = [E_i, age_i]                 v = attention(e_s, the kept z_i)        "click": from head([v, ...])
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from diffacet.core import protocols
from diffacet.core.batch import ClickBatch
from diffacet.core.behaviours import (
    AGE_WIDTH,
    AGES,
    NAMED,
    ClickHead,
    Fields,
    ShortTerm,
    TargetAttention,
    Window,
    ages,
    at,
    bare,
    click_loss,
    finest,
    newest,
    over_windows,
    products,
    searched,
    windows,
)
from diffacet.core.behaviours.settings import (
    Ages,
    Dim,
    Heads,
    Hidden,
    Kept,
    Order,
    Recent,
    Short,
    UserId,
)
from diffacet.core.contract import STRICT, Card, ClickFields, Facts, Preset, Search
from diffacet.core.papers import SIM as PAPER
from diffacet.errors import BadSetting, nearest


@dataclass(frozen=True, config=STRICT)
class SIMConfig:
    """Settings of SIM."""

    dim: Dim = 8
    hidden: Hidden = (1024, 512, 256)
    use_user_id: UserId = True
    search: Annotated[
        Literal["soft", "hard"],
        Field(description="what is kept: the highest learned products, or the most recent of the target's category"),
    ] = "soft"
    kept: Kept = 100
    category: Annotated[
        str | None,
        Field(description="field that hard search compares; none: the one with most values after the item"),
    ] = None
    search_weight: Annotated[
        float,
        Field(ge=0, title="alpha", description="weight of soft search's own loss; with 0 its products never learn"),
        Search(choices=(0.1, 0.3, 1.0)),
    ] = 1.0
    search_hidden: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Field(description="layers of the network of soft search's own loss")
    ] = (200, 80)
    ages: Ages = "auto"
    heads: Heads = 2
    recent: Recent = 50
    short: Short = "transformer"
    position: Order = "recency"


class SIM(nn.Module):
    """Attention over what the search kept, the short-term branch, the target and the further fields."""

    def __init__(self, config: SIMConfig, facts: Facts) -> None:
        super().__init__()
        c, click = config, facts.click_fields()
        self.config = c
        self.fields = Fields(click, c.dim, use_user_id=c.use_user_id)
        d, other = self.fields.width, self.fields.other_width
        self.category = _category(c.category, click) if c.search == "hard" else -1
        self.gsu = SoftSearch(d, other, c.search_hidden) if c.search == "soft" else None
        aged = c.ages == "auto" and click.timed
        self.age = nn.Parameter(0.05 * torch.randn(AGES, AGE_WIDTH)) if aged else None
        self.long = TargetAttention(d, d + AGE_WIDTH * aged, d, heads=c.heads)
        self.short = ShortTerm(d, c.recent, c.short, position=c.position)
        self.head = ClickHead(2 * d + self.short.width + other, c.hidden)

    def loss(self, batch: ClickBatch) -> dict[str, Tensor]:
        """Cross-entropy of the click, and with soft search of what the search predicts from all behaviours."""
        terms = {"click": click_loss(self.logits(batch), batch.label)}
        if self.gsu is not None:
            told = self.gsu(self.fields, batch, self.fields.target(batch))
            terms["search"] = self.config.search_weight * click_loss(told, batch.label)
        return terms

    def logits(self, batch: ClickBatch) -> Tensor:
        """(B,) log odds of a click."""
        target = self.fields.target(batch)
        place, mask = self.found(batch, target)
        embedded = self.fields.behaviours(batch, place)
        if self.age is not None:
            everyone = torch.arange(len(batch), device=place.device)
            embedded = torch.cat([embedded, self.age[ages(batch, everyone, place)]], -1)
        long = self.long(target, embedded, mask)
        return self.head(long, self.short(self.fields, batch, target), target, self.fields.other(batch))

    @torch.no_grad()
    def found(self, batch: ClickBatch, target: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the behaviours that are kept for each target (B, d), and whether each is one: both (B, K)."""
        if self.gsu is None:
            return self._of_category(batch)
        queries = self.gsu.queries(target)
        return searched(
            batch,
            self.config.kept,
            lambda seen: products(self.fields.behaviours(batch, seen.place), queries[seen.samples, None]).squeeze(2),
        )

    def _of_category(self, batch: ClickBatch) -> tuple[Tensor, Tensor]:
        """The most recent behaviours of the target's category; a category without a name matches nothing."""
        met, wanted = batch.behaviours[:, self.category], batch.target[:, self.category]
        seen = windows(batch)
        place = batch.start.new_zeros(len(batch), min(self.config.kept, max(one.place.shape[1] for one in seen)))
        mask = torch.zeros_like(place, dtype=torch.bool)
        for one in seen:
            same = at(met, one.place) == wanted[one.samples].masked_fill(wanted[one.samples] < NAMED, -1).unsqueeze(1)
            position, is_one = newest(same & one.mask, self.config.kept)
            place[one.samples, : position.shape[1]] = one.place.gather(1, position)
            mask[one.samples, : position.shape[1]] = is_one
        return place, mask


class SoftSearch(nn.Module):
    """What learns to search: products of behaviours with the target, by which all behaviours predict the click."""

    def __init__(self, dim: int, other: int, hidden: Sequence[int]) -> None:
        """Widths of a behaviour and of the further fields; layers of the prediction."""
        super().__init__()
        self.behaviour, self.target = bare(dim, dim), bare(dim, dim)
        self.head = ClickHead(2 * dim + other, hidden)

    def queries(self, target: Tensor) -> Tensor:
        """(B, d) -> (B, d) vectors whose products with behaviours are s: W_b^T W_a e_s."""
        return self.target(target) @ self.behaviour.weight

    def forward(self, fields: Fields, batch: ClickBatch, target: Tensor) -> Tensor:
        """(B,) log odds of a click, from the target, the further fields and the weighed sum of all behaviours."""

        def summed(queries: Tensor, seen: Window) -> Tensor:
            embedded = fields.behaviours(batch, seen.place)
            score = products(embedded, queries[seen.samples].unsqueeze(1)).masked_fill(~seen.mask.unsqueeze(2), 0)
            return torch.bmm(score.transpose(1, 2), embedded).squeeze(1)

        return self.head(over_windows(batch, summed, [self.queries(target)], [fields]), target, fields.other(batch))


def _category(name: str | None, click: ClickFields) -> int:
    """Which field hard search compares; raises BadSetting where there is no such field."""
    shared = [one for one, both in zip(click.names, click.shared, strict=True) if both]
    if name is not None and name not in shared:
        raise BadSetting(
            f"search=hard compares a field that behaviours and target have; "
            f"category={name}{nearest(name, shared)} is none. They are: {', '.join(shared)}"
        )
    number = finest(click) if name is None else click.names.index(name)
    if number is None:
        raise BadSetting(
            f"search=hard needs a field besides the item that behaviours and target have; the log has only {shared}; "
            "use search=soft, or name one with category"
        )
    return number


CARDS = [
    Card(
        "sim",
        SIM,
        SIMConfig,
        task="click",
        summary="the behaviours of the target's category, or of highest learned product, read closely",
        paper=PAPER,
        presets={
            "paper": Preset(SIMConfig(recent=100), protocols.CLICK, "DiffuMIN's Table 2, row SoftSIM; SIM's equations"),
            "soft": Preset(SIMConfig(recent=100), protocols.CLICK, "the same as paper, beside hard"),
            "hard": Preset(SIMConfig(search="hard", recent=100), protocols.CLICK, "DiffuMIN's Table 2, row HardSIM"),
            "best": Preset(SIMConfig(), protocols.CLICK, "ours: soft search, no setting searched yet"),
        },
        batch=ClickBatch,
        search=protocols.CLICK_SEARCH,
    ),
]
