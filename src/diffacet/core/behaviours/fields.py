"""Field embeddings of a click batch, and the histories of its samples as windows of bounded size.

Shapes: B samples, N behaviours, F fields of a behaviour, d = F times the width of a field, w behaviours of a window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffacet.core.batch import ClickBatch
from diffacet.core.contract import ClickFields
from diffacet.core.layers import ItemTable

BUDGET = 2**17
"""Behaviours of all samples of a window together: what bounds the memory of a first stage."""

NAMED = 3
"""Field values from here on have a name; those below are padding, unknown, and the target's mark."""

USER_ID = "user_id"
"""Name of the field that tells users apart."""


@dataclass(frozen=True)
class Window:
    """Some samples of a batch with their behaviours, the most recent last, padding in front.

    Attributes:
        samples: (b,) int64 places in the batch.
        place: (b, w) int64 rows of the batch's behaviours; any row where there is none.
        mask: (b, w) bool, true where there is a behaviour.
    """

    samples: Tensor
    place: Tensor
    mask: Tensor


def window(batch: ClickBatch, samples: Tensor, width: int) -> Window:
    """The last `width` behaviours of each of `samples` (b,)."""
    end = batch.end[samples].unsqueeze(1)
    place = end - width + torch.arange(width, device=end.device)
    mask = place >= batch.start[samples].unsqueeze(1)
    return Window(samples, place.clamp(0, max(len(batch.behaviours) - 1, 0)), mask)


def windows(batch: ClickBatch, budget: int = BUDGET, longest: int | None = None) -> list[Window]:
    """All samples with their whole histories, the longest first, in windows of at most `budget` behaviours.

    With `longest`, only so many of the most recent behaviours. A history longer than the budget has a window of its
    own. Samples of like length are together, so little is padding.
    """
    lengths, order = batch.lengths.sort(descending=True, stable=True)
    told, found, begin = lengths.tolist(), [], 0
    while begin < len(told):
        width = max(told[begin] if longest is None else min(told[begin], longest), 1)
        count = max(1, budget // width)
        found.append(window(batch, order[begin : begin + count], width))
        begin += count
    return found


def recent(batch: ClickBatch, width: int) -> Window:
    """The last `width` behaviours of all samples, narrower where nobody has so many; one wide at least."""
    longest = int(batch.lengths.max()) if len(batch) else 0
    return window(batch, torch.arange(len(batch), device=batch.end.device), max(1, min(width, longest)))


class Fields(nn.Module):
    """Embeddings of all categorical fields in one table, concatenated; behaviours and target share theirs.

    A field's padding row stays unused: a batch holds no padding, and windows mask it.
    """

    def __init__(self, click: ClickFields, dim: int, *, use_user_id: bool = True, deviation: float = 0.05) -> None:
        """Width `dim` a field, normal with `deviation`; without `use_user_id` models see no user's number."""
        super().__init__()
        sizes = [*click.sizes, *click.other_sizes]
        self.table = ItemTable(sum(sizes) - 1, dim, deviation=deviation)
        begins = torch.tensor([0, *sizes]).cumsum(0)
        self.begins: Tensor
        self.other_begins: Tensor
        self.register_buffer("begins", begins[: len(click.sizes)], persistent=False)
        self.register_buffer("other_begins", begins[len(click.sizes) : -1], persistent=False)
        told = [n for n, name in enumerate(click.other_names) if use_user_id or name != USER_ID]
        self.told = None if len(told) == len(click.other_names) else told
        self.names, self.sizes = click.names, click.sizes
        self.dim, self.width = dim, dim * len(click.sizes)
        self.other_width = dim * len(told) + click.numeric

    def forward(self, values: Tensor) -> Tensor:
        """(..., F) int64 values of the behaviours' fields -> (..., d)."""
        return self.table(values + self.begins).flatten(-2)

    def behaviours(self, batch: ClickBatch, place: Tensor) -> Tensor:
        """(...,) rows of the batch's behaviours -> (..., d)."""
        return self(at(batch.behaviours, place))

    def target(self, batch: ClickBatch) -> Tensor:
        """(B, d), the item shown in the fields of a behaviour."""
        return self(batch.target)

    def other(self, batch: ClickBatch) -> Tensor:
        """(B, d_o), the further fields of a sample and its numbers."""
        values = batch.other if self.told is None else batch.other[:, self.told]
        begins = self.other_begins if self.told is None else self.other_begins[self.told]
        return torch.cat([self.table(values + begins).flatten(1), batch.numeric.to(self.table.weight.dtype)], 1)


def at(values: Tensor, place: Tensor) -> Tensor:
    """values[place], (..., d) of (n, d) and any shape; zeros for n = 0: a batch in which nobody has a behaviour."""
    return values[place] if len(values) else values.new_zeros(*place.shape, *values.shape[1:])


AGES = 16
"""Buckets of ages: the binary logarithm of the hours, 0 to 15."""


def ages(batch: ClickBatch, samples: Tensor, place: Tensor) -> Tensor:
    """(b, ...) rows of behaviours -> int64 bucket of each one's age when its sample was shown: log2 of hours, 0..15.

    Below two hours: 0. Only for batches with times.
    """
    assert batch.times is not None
    shown = batch.time[samples].view(-1, *[1] * (place.ndim - 1))
    hours = (shown - at(batch.times, place)).clamp(min=0) // 3_600_000
    return hours.clamp(min=1).double().log2().long().clamp(max=AGES - 1)


def finest(click: ClickFields, skip: Sequence[int] = (0,)) -> int | None:
    """The shared field with most values among those not in `skip`: the category, where the first one is the item."""
    shared = [n for n, both in enumerate(click.shared) if both and n not in skip]
    return max(shared, key=lambda n: click.sizes[n], default=None)
