"""CAN: the target's value owns a tiny network through which every behaviour's value is passed, beside DIN's interest.

W. Bian et al., "CAN: Feature Co-Action Network for Click-Through Rate Prediction", WSDM 2022 (key `can`); sizes of the
networks as in its code (Co-Action-Network). Shapes: B samples, b of a window, l behaviours of each, d = fields times
the width of one. For each field with co-action, whose value is x for a behaviour and y for the target:

    w_1 (16, 8), w_2 (8, 4) = P_item[y]        h_1 = tanh(P_user[x]^o w_1)        h_2 = h_1 w_2        o = 1 .. 3
    g = sum over behaviours of [h_1, h_2] for each order o, 36 numbers
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from diffacet.core import protocols
from diffacet.core.batch import ClickBatch
from diffacet.core.behaviours import NAMED, ClickHead, Fields, WeighedSum, Window, at, click_loss, finest, over_windows
from diffacet.core.behaviours.settings import Dim, Hidden, UserId
from diffacet.core.contract import STRICT, Card, ClickFields, Facts, Preset
from diffacet.core.layers import ItemTable
from diffacet.core.papers import CAN as PAPER
from diffacet.errors import BadSetting, nearest

INPUTS, MIDDLE, OUTPUTS = 16, 8, 4
"""Widths of a target's network."""


@dataclass(frozen=True, config=STRICT)
class CANConfig:
    """Settings of CAN."""

    dim: Dim = 8
    hidden: Hidden = (1024, 512, 256)
    use_user_id: UserId = True
    window: Annotated[int | None, Field(ge=1, description="most recent behaviours that are read; none: all")] = None
    base: Annotated[
        Literal["din", "sum"], Field(description="what stands beside the co-action: DIN's interest, or a plain sum")
    ] = "din"
    co_action: Annotated[
        tuple[str, ...] | None,
        Field(description="fields with co-action; none: the item and the finest other one that the target has, too"),
    ] = None
    orders: Annotated[int, Field(ge=1, le=9, description="powers of a behaviour's numbers that are passed on")] = 3
    rows: Annotated[
        int, Field(ge=4, description="of a field's tables; values of a field that has more are spread over them")
    ] = 2**20


class CAN(nn.Module):
    """The co-action of each field, the base, the target and the further fields, brought together."""

    def __init__(self, config: CANConfig, facts: Facts) -> None:
        super().__init__()
        c, click = config, facts.click_fields()
        self.config = c
        self.fields = Fields(click, c.dim, use_user_id=c.use_user_id)
        self.acting = _acting(c.co_action, click)
        self.actions = nn.ModuleList(CoAction(n, click.sizes[n], c.rows, c.orders, c.window) for n in self.acting)
        d = self.fields.width
        self.interest = WeighedSum(d, c.window) if c.base == "din" else None
        acted = len(self.acting) * c.orders * (MIDDLE + OUTPUTS)
        self.head = ClickHead(acted + 2 * d + self.fields.other_width, c.hidden)

    def loss(self, batch: ClickBatch) -> dict[str, Tensor]:
        """Cross-entropy of the click."""
        return {"click": click_loss(self.logits(batch), batch.label)}

    def logits(self, batch: ClickBatch) -> Tensor:
        """(B,) log odds of a click."""
        target = self.fields.target(batch)
        acted = [action(batch) for action in self.actions]
        return self.head(*acted, self._base(batch, target), target, self.fields.other(batch))

    def _base(self, batch: ClickBatch, target: Tensor) -> Tensor:
        if self.interest is not None:
            return self.interest(self.fields, batch, target)

        def summed(seen: Window) -> Tensor:
            return torch.bmm(
                seen.mask.unsqueeze(1).to(target.dtype), self.fields.behaviours(batch, seen.place)
            ).squeeze(1)

        return over_windows(batch, summed, [], [self.fields], longest=self.config.window)


class CoAction(nn.Module):
    """What passing the behaviours' values of one field through the network of the target's value comes to."""

    def __init__(self, field: int, size: int, rows: int, orders: int, longest: int | None) -> None:
        """Which field, its values, rows of the tables at most, powers, behaviours that are read (None: all)."""
        super().__init__()
        self.field, self.orders, self.longest = field, orders, longest
        self.rows = min(size, rows)
        self.hashed = size > rows
        self.item = ItemTable(self.rows - 1, INPUTS * MIDDLE + MIDDLE * OUTPUTS, deviation=0.05)
        self.user = ItemTable(self.rows - 1, INPUTS, deviation=0.05)

    def row(self, values: Tensor) -> Tensor:
        """Values of the field -> rows of the tables: their own, or where there are too many one that others share."""
        if not self.hashed:
            return values
        # Multiplied by an odd number near 2^32 / golden ratio, so that neighbours are spread; the lowest bits are kept.
        spread = ((values * 2654435769) & 0xFFFFFFFF) % (self.rows - NAMED) + NAMED
        return torch.where(values < NAMED, values, spread)

    def forward(self, batch: ClickBatch) -> Tensor:
        """(B, orders * 12)."""
        owned = self.item(self.row(batch.target[:, self.field]))
        first = owned[:, : INPUTS * MIDDLE].view(-1, INPUTS, MIDDLE)
        second = owned[:, INPUTS * MIDDLE :].view(-1, MIDDLE, OUTPUTS)
        rows = self.row(batch.behaviours[:, self.field])

        def summed(first: Tensor, seen: Window) -> Tensor:
            h = self.user(at(rows, seen.place))  # (b, w, 16)
            powers = torch.stack([h**order for order in range(1, self.orders + 1)], 1).flatten(1, 2)
            passed = torch.bmm(powers, first[seen.samples]).tanh().view(len(h), self.orders, -1, MIDDLE)
            return (passed * seen.mask.to(h.dtype)[:, None, :, None]).sum(2)  # (b, orders, 8)

        h_1 = over_windows(batch, summed, [first], [self.user], longest=self.longest)
        h_2 = torch.bmm(h_1, second)  # the second layer is linear, so it may follow the sum
        return torch.cat([h_1, h_2], 2).flatten(1)


def _acting(names: tuple[str, ...] | None, click: ClickFields) -> list[int]:
    """Which fields have co-action; raises BadSetting for one that behaviours and target do not both have."""
    if names is None:
        first = click.shared.index(True)
        other = finest(click, (first,))
        return [first] if other is None else [first, other]
    shared = [one for one, both in zip(click.names, click.shared, strict=True) if both]
    for name in names:
        if name not in shared:
            raise BadSetting(
                f"co_action names fields that behaviours and target have; "
                f"got '{name}'{nearest(name, shared)}. They are: {', '.join(shared)}"
            )
    return [click.names.index(name) for name in names]


CARDS = [
    Card(
        "can",
        CAN,
        CANConfig,
        task="click",
        summary="the target's value as a network for each behaviour's value, beside DIN",
        paper=PAPER,
        presets={
            "paper": Preset(CANConfig(), protocols.CLICK, "DiffuMIN's Table 2, row CAN, on DIN; sizes of CAN's code"),
            "short": Preset(CANConfig(window=100), protocols.CLICK, "its row CAN(S): the last 100 behaviours"),
            "best": Preset(CANConfig(), protocols.CLICK, "ours: the same, no setting searched yet"),
        },
        batch=ClickBatch,
        search=protocols.CLICK_SEARCH,
    ),
]
