"""Blocks of one size, in which an answer does not depend on its place, to the bit.

A matrix product rounds by the shape of its factors, so a history has other bits alone than among sixty others.
Answers are therefore made in blocks of one size, filled up where there are too few histories. Models may cut off what
is padding in all rows, so the last row is a ruler: a history as long as the block is wide. What may still matter is the
company, where a model packs rows by their lengths, and the place in the block, which is the business of the machine's
matrix library. `steady_block` tries both.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from diffacet import seeds
from diffacet.data.sequences import IntArray

SIZES = (16, 32, 48, 64, 96, 128)
"""Histories of a block: the first of these that is steady is taken. Larger ones cost a lone request too much."""

_TRIED = 6  # histories that are put into every place of a block


def steady_block(answer: Callable[[IntArray], tuple[Tensor, ...]], n_items: int, length: int) -> int:
    """The first of SIZES in which no row of `answer` depends on its place or its neighbours; 1 if there is none.

    Args:
        answer: item numbers (R, length) int64, 0 behind the last item, to tensors with R rows, made in a block of R + 1
        n_items: N, from which histories are made up.
        length: items of a history.
    """
    for size in SIZES:
        rows, others = (_made_up(size - 1, n_items, length, what) for what in ("rows", "others"))
        answer(rows)  # what a model keeps from its first call is no difference
        # Does the work depend on the company? Its shapes tell, where bits would do so only now and then.
        if _shapes(answer, rows) != _shapes(answer, others):
            return 1
        # Does it depend on the place? The same history in all places tells.
        if not all(_alike(answer(np.repeat(row[None], size - 1, 0))) for row in rows[:_TRIED]):
            continue
        order, first = seeds.stream(0, "order").permutation(size - 1), answer(rows)
        if all(torch.equal(one.cpu()[order], two.cpu()) for one, two in zip(first, answer(rows[order]), strict=True)):
            return size
    return 1


def filled(items: IntArray, size: int) -> IntArray:
    """(n, L) -> (size, L), the first row repeated behind the last; n is 1..size."""
    return np.concatenate([items, np.repeat(items[:1], size - len(items), 0)])


def ruled(items: IntArray, size: int) -> IntArray:
    """(n, L) -> (size, L), the last row being a history of L items; n is 1..size - 1."""
    return np.concatenate([filled(items, size - 1), np.ones((1, items.shape[1]), np.int64)])


def cut(n: int, size: int) -> list[slice]:
    """The blocks of n rows, the last maybe shorter."""
    return [slice(begin, end) for begin, end in pairwise([*range(0, n, size), n])]


def _made_up(count: int, n_items: int, length: int, what: str) -> IntArray:
    """(count, length): whole histories in turn with shorter ones."""
    draw = seeds.stream(0, "blocks", what)
    items = draw.integers(1, n_items + 1, (count, length))
    ends = np.where(np.arange(count) % 2, draw.integers(1, length + 1, count), length)
    items[np.arange(length) >= ends[:, None]] = 0
    return items.astype(np.int64)


def _alike(answer: tuple[Tensor, ...]) -> bool:
    return all(bool((part == part[:1]).all()) for part in answer)


_PRODUCTS = {
    "matmul",
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "mv",
    "addmv",
    "dot",
    "linear",
    "convolution",
    "einsum",
    "gru",
    "lstm",
}


class _Shapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the shapes of products: what rounds by shape. Selections, such as of equal scores, do not round."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.noted: list[tuple[str, list[tuple[int, ...]]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in _PRODUCTS:
            self.noted.append((str(func), [tuple(one.shape) for one in args if isinstance(one, Tensor)]))
        return func(*args, **(kwargs or {}))


def _shapes(answer: Callable[[IntArray], tuple[Tensor, ...]], items: IntArray) -> list[Any]:
    with _Shapes() as shapes:
        answer(items)
    return shapes.noted
