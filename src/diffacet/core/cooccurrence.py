"""Co-occurrence: how often two items stand in the same sequences, and the item-to-item scores that follow.

The form that sequence data ask for: near items count more, recent items of a history count more, and the
popularity of the candidate is damped less than cosine does.
Shapes: B users, L history items, N items, E stored pairs.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core.batch import Histories
from diffacet.core.contract import Facts
from diffacet.core.profiles import Profiles, entries, read

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
PAIRS_AT_ONCE = 80_000_000
"""Pairs that are held and sorted together (8 bytes each, three times); more are taken in parts of whole sequences."""
CELLS_AT_ONCE = 2**25
"""Dense cells that are held beside a product of users' rows while it is made (4 or 8 bytes each, a few times)."""
SCORES_AT_ONCE = 2**22
"""Pairs that are gathered together when histories are scored (8 bytes each, four times)."""
PAIR_COST = 64
"""Multiplications of dense rows that take as long as one pair of items taken alone (60 to 200 when measured)."""


class CoOccurrence(nn.Module):
    """Similarity of i to j = W_ij / (n_i^a n_j^b + shrinkage), where the items co-occurred in training; untrained.

    W_ij sums distance^-decay over the pairs of positions at most `window` apart (none: any) in the training
    sequences, n counts an item's training interactions. `nearest`: only where i is among the so many items of
    largest similarity to j (none: all), equal ones by smaller i.
    """

    starts: Tensor
    neighbours: Tensor
    similarity: Tensor

    def __init__(
        self,
        facts: Facts,
        *,
        window: int | None,
        decay: float,
        history_power: float,
        candidate_power: float,
        shrinkage: float,
        nearest: int | None = None,
    ) -> None:
        """A is `history_power`, b `candidate_power`."""
        super().__init__()
        self.n_items = facts.n_items
        left, right, weight = co_occurrence(facts.train_items, facts.train_offsets, window, decay, facts.n_items)
        counts = facts.item_counts().astype(np.float64)
        damped = counts[left] ** history_power * counts[right] ** candidate_power
        similarity = (weight / (damped + shrinkage)).astype(np.float32)
        if nearest is not None:
            kept = among_nearest(right, similarity, nearest)
            left, right, similarity = left[kept], right[kept], similarity[kept]
        starts = np.searchsorted(left, np.arange(facts.n_items + 2))
        self.register_buffer("starts", torch.from_numpy(starts))  # (N + 2,): pairs of i are starts[i]:starts[i + 1]
        self.register_buffer("neighbours", torch.from_numpy(right.astype(np.int32)))  # (E,)
        self.register_buffer("similarity", torch.from_numpy(similarity))  # (E,)

    def forward(self, history: Histories, recency: float, oldest: float = 1.0) -> Tensor:
        """(B, N + 1): the sum over history items i of similarity(i, j) times the weight of i, see `weighed`.

        0 where nothing in the history co-occurred with the item. By sparse pairs or, where a small catalogue makes that
        cheaper, by dense rows, whose sums are the same (with an `oldest` below 1: but for rounding).
        """
        row, item, weight = weighed(history, recency, oldest, self.similarity.dtype)
        users, n = len(history.items), self.n_items + 1
        count = self.starts[item + 1] - self.starts[item]  # pairs of each history item
        # Dense rows round a product and its sum at once, which only weights of 1 do not show: recency keeps its pairs.
        if recency == 1.0 and n * n <= CELLS_AT_ONCE and (len(item) + n) * n < PAIR_COST * int(count.sum()):
            begins = torch.searchsorted(row, torch.arange(users, device=row.device))
            return functional.embedding_bag(item, self._dense(), begins, mode="sum", per_sample_weights=weight)
        scores, ends = self.similarity.new_zeros(users * n), count.cumsum(0)
        begin = 0
        while begin < len(item):
            before = ends[begin] - count[begin]
            end = max(begin + 1, int(torch.searchsorted(ends, before + SCORES_AT_ONCE, right=True)))
            # All pairs of these history items, as one ragged gather.
            owner = torch.repeat_interleave(torch.arange(begin, end, device=item.device), count[begin:end])
            offset = torch.arange(len(owner), device=item.device) + before - (ends - count)[owner]
            pair = self.starts[item[owner]] + offset
            scores.index_add_(0, row[owner] * n + self.neighbours[pair], weight[owner] * self.similarity[pair])
            begin = end
        return scores.view(users, n)

    def _dense(self) -> Tensor:
        """(N + 1, N + 1) similarity of i to j."""
        n = self.n_items + 1
        left = torch.repeat_interleave(torch.arange(n, device=self.starts.device), self.starts.diff())
        return self.similarity.new_zeros(n * n).index_copy_(0, left * n + self.neighbours, self.similarity).view(n, n)


def weighed(history: Histories, recency: float, oldest: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The n items of all histories, each history's in order: row (n,) int64, item (n,) int64, weight (n,).

    The weight is recency^age, the latest item of a history having age 0. With `oldest` below 1 an item counts once,
    where it came last, and its weight is also multiplied by its time weight, see `profiles.entries`.
    """
    if oldest == 1.0:
        row, position = history.mask.nonzero(as_tuple=True)
        item, value = history.items[row, position], None
    else:
        rows = read(history, oldest, dtype)
        row, item, value = rows.row, rows.item, rows.value
    ends = torch.bincount(row, minlength=len(history.items)).cumsum(0)
    weight = recency ** (ends[row] - 1 - torch.arange(len(row), device=row.device)).to(dtype)
    return row, item, weight if value is None else weight * value


def gram(facts: Facts, oldest: float = 1.0) -> Tensor:
    """X^T X of the training users' rows, (N + 1, N + 1) float32; row and column 0 are 0.

    A repeated item counts once, with 1 or, `oldest` below 1, with its time weight (`profiles.entries`).
    Made block by block from sparse X: beside the result it takes CELLS_AT_ONCE cells, not its size.
    """
    users, item = len(facts.train_offsets) - 1, torch.from_numpy(facts.train_items)
    owner = torch.from_numpy(np.repeat(np.arange(users), np.diff(facts.train_offsets)))
    product = torch.zeros(facts.n_items + 1, facts.n_items + 1)
    for begin, block in _products(entries(owner, item, users, oldest), facts.n_items):
        product[:, begin : begin + block.shape[1]] = block
    return product


def _products(rows: Profiles, n_items: int) -> Iterator[tuple[int, Tensor]]:
    """X^T X, X the rows (U, N + 1), in blocks of columns: the first column, and the block (N + 1, W)."""
    n, users, value = n_items + 1, rows.users, rows.value
    where = torch.stack([rows.item, rows.row])
    transposed = torch.sparse_coo_tensor(where, value, (n, users), check_invariants=False).coalesce()
    width = max(1, CELLS_AT_ONCE // max(n, users))
    order = rows.item.argsort(stable=True)
    ends = torch.searchsorted(rows.item[order], torch.arange(n + 1))
    for begin in range(0, n, width):
        end = min(begin + width, n)
        chosen = order[ends[begin] : ends[end]]
        block = torch.zeros(users, end - begin, dtype=value.dtype)
        block[rows.row[chosen], rows.item[chosen] - begin] = value[chosen]
        yield begin, torch.sparse.mm(transposed, block)


def among_nearest(right: IntArray, similarity: NDArray[np.float32], count: int) -> NDArray[np.bool_]:
    """Which of the pairs (i, j), ascending by i, are of the `count` largest similarities of their j; (E,).

    right (E,) holds j. Among equal similarities the pair of the smaller i is taken.
    """
    # Positive floats are ordered as their bits are, so one sort of whole numbers does it; equal ones stay as they are.
    falling = 2**32 - 1 - similarity.view(np.uint32).astype(np.int64)
    order = np.argsort((right << 32) | falling, kind="stable")
    ranked = right[order]
    kept = np.zeros(len(right), bool)
    kept[order] = np.arange(len(right)) - np.searchsorted(ranked, ranked) < count
    return kept


def co_occurrence(
    items: IntArray, offsets: IntArray, window: int | None, decay: float, n_items: int
) -> tuple[IntArray, IntArray, FloatArray]:
    """(i, j, W_ij), ascending by i then j, of every ordered pair i != j that shares a sequence.

    items (n,), sequence u being items[offsets[u]:offsets[u + 1]]. W_ij sums distance^-decay over the pairs of
    positions at most `window` apart. One vectorised pass for each distance; plain counts of all pairs, which are a
    product of matrices as well, are made as that where it is cheaper. They are whole numbers, the same in both ways.
    """
    lengths = np.diff(offsets)
    plain = decay == 0 and (window is None or window >= lengths.max(initial=0) - 1)
    if plain and len(items) * (n_items + 1) < PAIR_COST * int((lengths * (lengths - 1)).sum()):
        return _counted(items, lengths, n_items)
    reach = np.minimum(lengths, lengths.max(initial=0) if window is None else window + 1) - 1
    pairs = np.cumsum(lengths * np.minimum(lengths - 1, 2 * reach))
    keys, weights = np.zeros(0, np.int64), np.zeros(0)
    begin = 0
    while begin < len(lengths):
        before = pairs[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(pairs, before + PAIRS_AT_ONCE, "right")))
        part = _pairs(items[offsets[begin] : offsets[end]], lengths[begin:end], int(reach[begin:end].max()), n_items)
        keys, weights = _merged(keys, weights, *_weighed(*part, decay)) if len(keys) else _weighed(*part, decay)
        begin = end
    left, right = np.divmod(keys, n_items + 1)
    return left, right, weights


def _counted(items: IntArray, lengths: IntArray, n_items: int) -> tuple[IntArray, IntArray, FloatArray]:
    """(i, j, W_ij) without window and decay: X^T X off its diagonal, X_ui counting item i in sequence u."""
    n = n_items + 1
    keys, times = np.unique(np.repeat(np.arange(len(lengths)), lengths) * n + items, return_counts=True)
    user, item = (torch.from_numpy(part) for part in np.divmod(keys, n))
    found = []
    for begin, block in _products(Profiles(item, user, torch.from_numpy(times).double(), len(lengths)), n_items):
        rows = block.mT  # the matrix is symmetric, so columns from `begin` on are its rows
        left, right = rows.nonzero(as_tuple=True)
        differ = left + begin != right
        left, right = left[differ], right[differ]
        found.append(((left + begin).numpy(), right.numpy(), rows[left, right].numpy()))
    left_parts, right_parts, weights = zip(*found, strict=True)
    return np.concatenate(left_parts), np.concatenate(right_parts), np.concatenate(weights)


def _pairs(items: IntArray, lengths: IntArray, reach: int, n_items: int) -> tuple[IntArray, int]:
    """Ordered pairs of different items at most `reach` apart, each (i * (N + 1) + j) * 2^bits + distance; and bits."""
    room = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(items))  # positions left in the sequence
    bits, found = reach.bit_length(), [np.zeros(0, np.int64)]
    for distance in range(1, reach + 1):
        at = np.flatnonzero(room > distance)
        one, other = items[at], items[at + distance]
        differ = one != other
        one, other = one[differ], other[differ]
        for left, right in ((one, other), (other, one)):
            found.append(((left * (n_items + 1) + right) << bits) | distance)
    return np.concatenate(found), bits


def _weighed(codes: IntArray, bits: int, decay: float) -> tuple[IntArray, FloatArray]:
    """Distinct pairs, ascending, and the sum of distance^-decay of each. Sorting codes beats any grouping by far."""
    codes.sort()
    keys, distance = codes >> bits, codes & ((1 << bits) - 1)
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
    weights = np.arange(1, (1 << bits) + 1, dtype=np.float64) ** -decay
    return keys[first], np.add.reduceat(weights[distance - 1], first) if len(first) else np.zeros(0)


def _merged(
    keys: IntArray, weights: FloatArray, more_keys: IntArray, more_weights: FloatArray
) -> tuple[IntArray, FloatArray]:
    """Two lists of distinct pairs as one."""
    everything = np.concatenate([keys, more_keys])
    order = np.argsort(everything, kind="stable")
    everything, values = everything[order], np.concatenate([weights, more_weights])[order]
    first = np.flatnonzero(np.concatenate([[True], everything[1:] != everything[:-1]])[: len(everything)])
    return everything[first], np.add.reduceat(values, first) if len(first) else values
