"""Blocks of one size, in which an answer does not depend on its place, to the bit.

A matrix product rounds by the shape of its factors, so the same history has other bits alone than among sixty others.
Answers are therefore made in blocks of one size, filled up where there are too few histories: then the shapes never
change, and all that is left is the place in the block. Whether that matters is the business of the machine's matrix
library; `steady_block` asks it, on the model itself.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from diffacet import seeds
from diffacet.data.sequences import IntArray

SIZES = (16, 32, 64)
"""Histories of a block: the first of these that is steady is taken. Larger ones cost a lone request too much."""


def steady_block(answer: Callable[[IntArray], tuple[Tensor, ...]], n_items: int, length: int) -> int:
    """The first of SIZES in which no row of `answer` depends on its place or its neighbours; 1 if there is none.

    Args:
        answer: item numbers (R, length) int64, 0 behind the last item, to tensors with R rows.
        n_items: N, from which histories are made up.
        length: items of a history.
    """
    for size in SIZES:
        items = _made_up(size, n_items, length)
        first = answer(items)
        if all(_same(first, answer(items[order]), order) for order in _orders(size)):
            return size
    return 1


def filled(items: IntArray, size: int) -> IntArray:
    """(n, L) -> (size, L), the first row repeated behind the last; n is 1..size."""
    return np.concatenate([items, np.repeat(items[:1], size - len(items), 0)])


def cut(n: int, size: int) -> list[slice]:
    """The blocks of n rows, the last maybe shorter."""
    return [slice(begin, end) for begin, end in pairwise([*range(0, n, size), n])]


def _made_up(size: int, n_items: int, length: int) -> IntArray:
    draw = seeds.stream(0, "blocks")
    items = draw.integers(1, n_items + 1, (size, length))
    items[np.arange(length) >= (1 + np.arange(size) % length)[:, None]] = 0
    return items.astype(np.int64)


def _orders(size: int) -> list[IntArray]:
    """Turned round, moved on by one, and mixed: every row meets other places and other neighbours."""
    rows = np.arange(size)
    return [rows[::-1].copy(), np.roll(rows, 1), seeds.stream(0, "orders").permutation(size)]


def _same(first: tuple[Tensor, ...], other: tuple[Tensor, ...], order: IntArray) -> bool:
    rows = torch.from_numpy(order)
    return all(torch.equal(one[rows.to(one.device)], two) for one, two in zip(first, other, strict=True))
