"""Several processes that train one model together: who is here, whose rows are whose, and what goes between them.

The only file that knows torch.distributed. Without a world everything is one process's, and nothing here is called.
A batch of B rows is cut into W runs of rows, the N items of a table into W runs of numbers, both by `cuts`. The loss
of the batch is the sum over processes of what each computes from its own rows: that is the rule by which `mean` and
`summed` are made, and all gradients follow from it.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed

from diffacet.errors import BadRun


class OtherFailed(BadRun):
    """Another process of the world cannot go on; that one says why."""


def cuts(total: int, parts: int) -> list[int]:
    """(parts + 1) ends of even runs of 0..total - 1: part r is cuts[r]:cuts[r + 1]."""
    return [total * part // parts for part in range(parts + 1)]


@dataclass(frozen=True)
class World:
    """W processes of torch's default process group, of which this is one.

    Every method but `cut` is called by all of them, in the same order.

    Attributes:
        rank: of this process, 0..size - 1.
        size: W.
        device: where messages of plain numbers are made; that of the model with a backend of GPUs.
    """

    rank: int
    size: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def of_group(cls, device: torch.device | None = None) -> "World":
        """That of the default process group, which is initialised already."""
        return cls(distributed.get_rank(), distributed.get_world_size(), device or torch.device("cpu"))

    def cut(self, total: int) -> tuple[int, int]:
        """The run (first, end) of 0..total - 1 that is this process's."""
        ends = cuts(total, self.size)
        return ends[self.rank], ends[self.rank + 1]

    def exchanged(self, x: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """(sum of sent, ...) -> (sum of received, ...): rows dealt to the processes, and what comes from each.

        The first sent[0] rows of `x` go to process 0, the next sent[1] to process 1; what comes stands in the same
        order. The gradient goes the way back.
        """
        found: Tensor = _Exchange.apply(x, list(sent), list(received))  # type: ignore[no-untyped-call]
        return found

    def gathered(self, x: Tensor, rows: Sequence[int]) -> Tensor:
        """(rows[rank], ...) -> (sum of rows, ...): the rows of all processes, one after another.

        Each process gets back the sum of the gradients that all of them have at its rows.
        """
        return self.exchanged(x.repeat(self.size, *[1] * (x.ndim - 1)), [len(x)] * self.size, rows)

    def total(self, x: Tensor) -> Tensor:
        """The sum over processes of `x`, of one shape in all of them, through which gradients flow."""
        return self.gathered(x.unsqueeze(0), [1] * self.size).sum(0)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Put into each tensor its sum over processes, in place, by one message for each dtype."""
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            mine = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in mine])
            distributed.all_reduce(flat)
            for tensor, part in zip(mine, torch.split(flat, [tensor.numel() for tensor in mine]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def whole(self, x: Tensor, rows: Sequence[int]) -> Tensor:
        """As `gathered`, without gradient and with no more memory than the result: for rows that are many."""
        found = x.new_empty(sum(rows), *x.shape[1:])
        for source, part in enumerate(torch.split(found, list(rows))):
            if source == self.rank:
                part.copy_(x)
            if len(part):
                distributed.broadcast(part, source)
        return found

    def table(self, numbers: Sequence[int]) -> list[list[int]]:
        """The whole numbers of all processes, as many in each, a row a process."""
        mine = torch.tensor(list(numbers), dtype=torch.int64, device=self.device)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        distributed.all_gather(found, mine)
        rows: list[list[int]] = torch.stack(found).tolist()
        return rows

    def from_first(self, numbers: Sequence[float]) -> list[float]:
        """The numbers of process 0, exactly, in all processes; as many in each."""
        told = torch.tensor(list(numbers), dtype=torch.float64, device=self.device)
        distributed.broadcast(told, 0)
        found: list[float] = told.tolist()
        return found

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that fails in all processes if it fails in one, so that none waits for another that is gone.

        Raises:
            OtherFailed: the block failed in another process only; that one raises what it failed of.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as failed:  # raised again below, when the others know
            error = failed
        fallen = [rank for rank, (flag,) in enumerate(self.table([error is not None])) if flag]
        if error is not None:
            raise error
        if fallen:
            raise OtherFailed(
                f"worker {fallen[0] + 1} of {self.size} has failed, and so the others stop; see its message"
            )


@dataclass(frozen=True)
class Part:
    """How the rows of a step's batch are dealt.

    A batch of fewer rows than there are processes leaves some without any. Models need a row to compute with, so these
    hold the batch's first one, which does not count: they are idle.

    Attributes:
        world: the processes.
        counted: rows of the batch that each process has; they are B together.
        rows: histories that each holds, at least 1.
        targets: that each holds; the same as `rows` unless every position of a window is one.
    """

    world: World
    counted: tuple[int, ...]
    rows: tuple[int, ...]
    targets: tuple[int, ...]

    @property
    def idle(self) -> bool:
        """Whether nothing that this process computes counts."""
        return not self.counted[self.world.rank]


_WORLD: ContextVar[World | None] = ContextVar("world", default=None)
_PART: ContextVar[Part | None] = ContextVar("part", default=None)


def current() -> World | None:
    """The world that was entered; None for a process that is alone."""
    return _WORLD.get()


def part() -> Part | None:
    """How the batch is dealt whose loss is being computed; None outside a step and for a process that is alone."""
    return _PART.get()


@contextmanager
def entered(world: World | None) -> Iterator[None]:
    """Inside it models are built and trained in `world`; None, or a world of one, is no world."""
    before = _WORLD.set(world if world is not None and world.size > 1 else None)
    try:
        yield
    finally:
        _WORLD.reset(before)


@contextmanager
def dealt(part: Part | None) -> Iterator[None]:
    """Inside it losses are computed of this process's part of a batch; None: of all of it."""
    before = _PART.set(part)
    try:
        yield
    finally:
        _PART.reset(before)


def mean(x: Tensor) -> Tensor:
    """The mean of x (n, ...), a row for each of the batch's; of a part, what its rows add to the mean over all rows."""
    here = _PART.get()
    return x.mean() if here is None else x.sum() / entries(x)


def entries(x: Tensor) -> int:
    """Entries of x (n, ...), a row for each of the batch's, with those that the other processes have."""
    here = _PART.get()
    return x.numel() if here is None else math.prod(x.shape[1:]) * sum(here.counted)


def summed(x: Tensor) -> Tensor:
    """The sum over all parts of the batch of what each has computed, where a loss needs it before it is a loss."""
    here = _PART.get()
    return x if here is None else here.world.total(0 * x if here.idle else x)


def most(number: int) -> int:
    """The largest of the parts' numbers."""
    here = _PART.get()
    return number if here is None else max(row[0] for row in here.world.table([0 if here.idle else number]))


def rolled(x: Tensor) -> Tensor:
    """(n, ...), a row for each of the batch's -> the row before each, that of the last for the first."""
    here = _PART.get()
    if here is None:
        return x.roll(1, 0)
    sent = x[-1:].to(torch.uint8) if x.dtype == torch.bool else x[-1:]
    ends = here.world.gathered(sent, [1] * here.world.size).to(x.dtype)
    having = [rank for rank, rows in enumerate(here.counted) if rows]
    before = [rank for rank in having if rank < here.world.rank] or having  # the last has the row before the first
    return torch.cat([ends[before[-1]].unsqueeze(0), x[:-1]])


class _Exchange(torch.autograd.Function):
    """See `World.exchanged`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sent: list[int], received: list[int]) -> Tensor:
        ctx.sent, ctx.received = sent, received
        return _sent(x, sent, received)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _sent(gradients[0], ctx.received, ctx.sent), None, None


def _sent(x: Tensor, sent: list[int], received: list[int]) -> Tensor:
    found = x.new_empty(sum(received), *x.shape[1:])
    distributed.all_to_all_single(found, x.contiguous(), received, sent)
    return found
