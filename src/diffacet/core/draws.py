"""Random numbers of a batch that several processes share: each has those that its rows would have got on one.

Every process draws for all B rows from the same stream and keeps its own; so the numbers do not depend on how many
processes there are.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from diffacet.core import world
from diffacet.core.world import Part


class Widened(TorchFunctionMode):
    """Inside it torch's random functions draw for the rows of all processes, and give this one's.

    A draw is taken to be of the batch when its first dimension is as long as this process has rows; `ragged` and
    `along` say otherwise. Others are drawn as they are, the same in all processes. Known are rand, randn, randint,
    their likes, and functional.dropout, which all layers of dropout call.
    """

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.world, self.dim = part.world, 0
        self.counted, self.mine = part.counted, part.rows[part.world.rank]

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Called by torch in the place of `func`."""
        del types
        kwargs = kwargs or {}
        draw = _DRAWS.get(func)
        return func(*args, **kwargs) if draw is None else draw(self, func, args, kwargs)

    def own(self, shape: Sequence[int], draw: Callable[[Sequence[int]], Tensor]) -> Tensor:
        """What `draw` gives for `shape`, or this process's rows of what it gives for those of all."""
        if len(shape) <= self.dim or shape[self.dim] != self.mine:
            return draw(shape)
        total, rank = sum(self.counted), self.world.rank
        drawn = draw([*shape[: self.dim], total, *shape[self.dim + 1 :]])
        if self.counted[rank]:
            return drawn.narrow(self.dim, sum(self.counted[:rank]), self.mine)
        return drawn.index_select(self.dim, torch.arange(self.mine, device=drawn.device) % total)  # of no consequence


_MODE: ContextVar[Widened | None] = ContextVar("mode", default=None)


@contextmanager
def widened(part: Part | None) -> Iterator[None]:
    """Inside it random numbers are this process's rows of the batch's; None: nothing changes."""
    mode = None if part is None else Widened(part)
    before = _MODE.set(mode)
    try:
        with mode or nullcontext():
            yield
    finally:
        _MODE.reset(before)


@contextmanager
def ragged(count: int) -> Iterator[None]:
    """Inside it draws are of `count` rows of this process, as many as its part of the batch has of something."""
    mode, here = _MODE.get(), world.part()
    if mode is None or here is None:
        yield
        return
    before = mode.counted, mode.mine
    mode.counted = tuple(row[0] for row in here.world.table([0 if here.idle else count]))
    mode.mine = count
    try:
        yield
    finally:
        mode.counted, mode.mine = before


@contextmanager
def along(dim: int) -> Iterator[None]:
    """Inside it the rows of the batch are dimension `dim` of what is drawn, not the first."""
    mode = _MODE.get()
    if mode is None:
        yield
        return
    mode.dim = dim
    try:
        yield
    finally:
        mode.dim = 0


def _sized(mode: Widened, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Rand and randn: (*size) or (size)."""
    shape = kwargs.pop("size", None) or (args[0] if args and not isinstance(args[0], int) else args)
    return mode.own(shape, lambda size: func(tuple(size), **kwargs))


def _bounded(mode: Widened, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Randint: (high, size) or (low, high, size)."""
    shape = kwargs.pop("size", None)
    if shape is None:
        *args_before, shape = args
        args = tuple(args_before)
    return mode.own(shape, lambda size: func(*args, tuple(size), **kwargs))


def _like(mode: Widened, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """rand_like and randn_like."""
    like = kwargs.pop("input", None)
    if like is None:
        like, *rest = args
        args = tuple(rest)
    return mode.own(like.shape, lambda size: func(like.new_empty(tuple(size)), *args, **kwargs))


def _dropout(mode: Widened, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Dropout as a product with what it makes of ones."""
    x, p, training = _dropout_arguments(*args, **kwargs)
    if p == 0.0 or not training:
        return x
    return x * mode.own(x.shape, lambda size: func(x.new_ones(tuple(size)), p, True))


def _dropout_arguments(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:  # noqa: A002
    del inplace
    return input, p, training


_DRAWS: dict[Callable[..., Any], Callable[..., Tensor]] = {
    torch.rand: _sized,
    torch.randn: _sized,
    torch.randint: _bounded,
    torch.rand_like: _like,
    torch.randn_like: _like,
    functional.dropout: _dropout,
}
