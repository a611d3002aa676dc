"""Small parts that several models are made of."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core import world
from diffacet.core.world import World, cuts
from diffacet.errors import BadSetting

_ROWS_DRAWN = 2**12
"""Rows that are drawn at once, a multiple of 16, as many numbers as torch draws together: so that the rows drawn in
parts are those drawn at once."""


class ItemTable(nn.Module):
    """Vectors of the catalogue's items, (N + 1, d); row 0 is padding, zero, and stays so.

    One table serves history, target, negatives and catalogue. `sparse` makes gradients row-sparse, so
    that a training step costs what a batch touches and not what the catalogue holds; the optimiser sets it.

    Built in a world of W processes (`world`) it has a W-th of the items, and row 0: they come from their owners when
    they are looked up, and gradients go back there. What reads `weight` sees the process's own items only.

    Attributes:
        n_items: N, in all processes.
        world: the processes that share the table; None: it is whole.
        first: number of the item that row 1 is; this process has the items first..last.
        last: number of the last item; first - 1 when there is none.
    """

    def __init__(self, n_items: int, dim: int, *, deviation: float | None = None) -> None:
        """N items of width d, normal; None: with deviation sqrt(2 / d) (the REMI code's Kaiming initialisation).

        Raises BadSetting when there are more processes than items.
        """
        super().__init__()
        self.n_items, self.sparse = n_items, False
        self.world, self.first, self.last = world.current(), 1, n_items
        if self.world is not None:
            if self.world.size > n_items:
                raise BadSetting(
                    f"a table of {n_items} items cannot be divided among {self.world.size} workers; "
                    f"workers is at most {n_items}"
                )
            begin, self.last = self.world.cut(n_items)
            self.first = begin + 1
        self.weight = nn.Parameter(torch.empty(self.last - self.first + 2, dim))
        self.draw(math.sqrt(2 / dim) if deviation is None else deviation)

    @torch.no_grad()
    def draw(self, deviation: float) -> None:
        """Make all rows normal anew, and padding zero: the same numbers however many processes share the table."""
        dim = self.weight.shape[1]
        ends = [*range(0, self.n_items + 1, _ROWS_DRAWN), self.n_items + 1]
        if len(ends) > 2 and (ends[-1] - ends[-2]) * dim < 16:  # fewer are drawn in another way than the last of many
            del ends[-2]
        own = self.weight[1:]
        for begin, end in pairwise(ends):
            drawn = torch.randn(end - begin, dim, dtype=self.weight.dtype)
            low, high = max(begin, self.first), min(end, self.last + 1)
            if low < high:
                own[low - self.first : high - self.first] = drawn[low - begin : high - begin] * deviation
        self.weight[0].zero_()

    def forward(self, numbers: Tensor) -> Tensor:
        """(...,) int64 numbers -> (..., d)."""
        if self.world is None:
            return functional.embedding(numbers, self.weight, padding_idx=0, sparse=self.sparse)
        wanted, place = torch.unique(numbers, return_inverse=True)
        return functional.embedding(place, self._fetched(self.world, wanted))

    def _fetched(self, sharing: World, wanted: Tensor) -> Tensor:
        """(n,) ascending numbers -> their vectors (n, d), each from its owner; padding is the first process's."""
        ends = torch.tensor([end + 1 for end in cuts(self.n_items, sharing.size)[1:-1]], device=wanted.device)
        until = [0, *torch.searchsorted(wanted, ends).tolist(), len(wanted)]
        asked = [end - begin for begin, end in pairwise(until)]  # of each process
        askers = [row[sharing.rank] for row in sharing.table(asked)]
        mine = sharing.exchanged(wanted, asked, askers)
        local = (mine - (self.first - 1)).clamp(min=0)
        found = functional.embedding(local, self.weight, padding_idx=0, sparse=self.sparse)
        return sharing.exchanged(found, askers, asked)

    def rows(self, *numbers: Tensor) -> tuple[Tensor, ...]:
        """The vectors of several number tensors by one lookup, which has one gradient instead of one each."""
        found = self(torch.cat([part.reshape(-1) for part in numbers]))
        parts = found.split([part.numel() for part in numbers])
        return tuple(part.reshape(*ids.shape, found.shape[-1]) for part, ids in zip(parts, numbers, strict=True))

    def summed(self, x: Tensor) -> Tensor:
        """`x` of any shape, a sum over this process's items, over all items."""
        return x if self.world is None else self.world.total(x)


def tables(model: nn.Module) -> list[ItemTable]:
    """The item tables of a model."""
    return [module for module in model.modules() if isinstance(module, ItemTable)]


@contextmanager
def whole_tables(model: nn.Module) -> Iterator[None]:
    """Inside it every item table of `model` is whole in every process, for models that score the catalogue at once.

    It takes the memory of the whole tables; nothing may be trained meanwhile.
    """
    shared = [(table, table.weight, table.world) for table in tables(model)]
    try:
        for table, weight, sharing in shared:
            if sharing is not None:
                ends = cuts(table.n_items, sharing.size)
                rows = [end - begin + (rank == 0) for rank, (begin, end) in enumerate(pairwise(ends))]
                own = weight.detach()[int(sharing.rank > 0) :]
                table.weight, table.world = nn.Parameter(sharing.whole(own, rows), requires_grad=False), None
        yield
    finally:
        for table, weight, sharing in shared:
            table.weight, table.world = weight, sharing


def kaiming(*shape: int) -> nn.Parameter:
    """A matrix, normal with deviation sqrt(2 / fan-in), the product of all but the first size (He et al. 2015)."""
    return nn.Parameter(torch.randn(*shape) * math.sqrt(2 / math.prod(shape[1:])))


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A layer with Xavier-uniform weights and zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def sinusoid(t: Tensor, dim: int) -> Tensor:
    """(B,) steps -> (B, d) float64: cosines, then sines, of t * 10000^(-2i/d), and a zero at the end of an odd d."""
    half = dim // 2
    frequency = torch.exp(-math.log(10_000) * 2 / dim * torch.arange(half, device=t.device, dtype=torch.float64))
    angle = t.to(torch.float64).unsqueeze(-1) * frequency
    return functional.pad(torch.cat([angle.cos(), angle.sin()], -1), (0, dim % 2))
