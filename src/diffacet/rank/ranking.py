"""The k best items of a catalogue, exactly, in blocks whose memory is given and not found out.

An item's score for a user is its best inner product with the user's K vectors,
f(u, i) = max_k z_k . e_i (ComiRec, KDD 2020, aggregation; DMI, SIGIR 2025, Eq. 20), in float32.

Order: higher score first, ties to the smaller item number; item 0 is padding and never returned.
How a block of scores (u, n) is searched: columns are dealt into groups, and a top k + 1 over the groups'
largest scores bounds where the k + 1 best columns lie; only those groups' members are searched again.
Of later blocks only the few groups that hold more than a user's k-th score so far: its equals there lose the tie.
`torch.topk` may take any of several equal scores, so a row that holds equal neighbours among its k + 1
best is done again by counting: all columns above the k-th score, then the first columns that equal it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffacet.core.batch import Histories
from diffacet.core.contract import Matcher, Scorer
from diffacet.errors import BadRun, BadSetting

BUDGET = 2**28
_CELL_BYTES = 28  # of one user x item cell of a block: its score, a product, and what selection takes at worst
_TILE_USERS = 256
_TILE_CELLS = 2**19  # of a product on the CPU: 2 MB, so that the maximum over K reads it from the cache
_BLOCK_CELLS = 2**22  # of a block of scores on the CPU: 16 MB, so that the search reads it from the cache


@dataclass(frozen=True)
class Ranked:
    """The k best items of B users, best first; ties to the smaller item number.

    Attributes:
        items: (B, k) int64 item numbers 1..N; 0 behind the last candidate when there are fewer than k.
        scores: (B, k) float32, not increasing; -inf where `items` is 0.
        interest: (B, k) int64, which of the K vectors attains the score (the first, if several do);
            0 where `items` is 0 and for models without interests.
    """

    items: Tensor
    scores: Tensor
    interest: Tensor


@torch.no_grad()
def top_k(
    interests: Tensor,
    catalogue: Tensor,
    k: int,
    *,
    exclude: Tensor | None = None,
    budget: int = BUDGET,
    rows: int | None = None,
) -> Ranked:
    """The k items with the largest f(u, i) = max over the K vectors of their inner product with item i.

    Args:
        interests: (B, K, d) vectors of B users.
        catalogue: (N + 1, d) item vectors; row 0 is padding.
        k: length of the lists, at least 1; may exceed N.
        exclude: (B, E) int64 item numbers that a user must not get; 0 stands for none.
        budget: bytes that the work may take beside arguments and result: users and items are taken in blocks of
            at most `budget / 28` scores, but never less than one user and 16 items or k.
        rows: only the first so many users are ranked (and have lists); the others fill the block, so that products
            have the same shape, and so the same rounding, however many users there are. None: all.

    Raises:
        BadSetting: k is below 1.
        BadRun: a score is not a number.

    Source: retrieval and merging of ComiRec (KDD 2020), which equals this maximum.
    """
    _check_k(k)
    users, n_items = len(interests), len(catalogue) - 1
    wanted = users if rows is None else rows
    interests, catalogue = interests.float(), catalogue.float()
    cells = max(budget // _CELL_BYTES, 1)
    on_cpu = interests.device.type == "cpu"
    per_block = max(1, min(users, _TILE_USERS if on_cpu else users, cells // 1024))
    per_items = max(16, k, min(n_items, (min(cells, _BLOCK_CELLS) if on_cpu else cells) // per_block))
    parts, room = [], _room(interests, per_block, min(per_items, n_items))
    for begin in range(0, wanted, per_block):
        mine = interests[begin : begin + per_block]
        banned = None if exclude is None else exclude[begin : begin + per_block]
        best = _empty(min(len(mine), wanted - begin), mine)
        for start in range(1, n_items + 1, per_items):
            scores = _block_scores(mine, catalogue[start : start + per_items], room)[: len(best[0])]
            floor = best[0][:, k - 1 :] if best[0].shape[1] == k else None
            best = _merge(best, _search(scores, k, start, banned, floor), k)
        parts.append(best)
    scores, items = _join(parts, k, interests)
    filled = torch.nn.functional.pad(items, (0, 0, 0, users - wanted))
    return Ranked(items, scores, _which(interests, catalogue, filled, budget)[:wanted])


@torch.no_grad()
def top_k_scores(scores: Tensor, k: int, *, exclude: Tensor | None = None) -> Ranked:
    """The k items with the largest scores; `interest` is 0 everywhere.

    Args:
        scores: (B, N + 1); column 0 is padding. An item scored -inf is no candidate.
        k: length of the lists, at least 1; may exceed N.
        exclude: (B, E) int64 item numbers that a user must not get; 0 stands for none.

    Raises:
        BadSetting: k is below 1.
        BadRun: a score is not a number.
    """
    _check_k(k)
    per_block = max(1, _BLOCK_CELLS // max(scores.shape[1], 1))
    parts = []
    for begin in range(0, len(scores), per_block):
        block = scores[begin : begin + per_block, 1:].float()
        banned = None if exclude is None else exclude[begin : begin + per_block]
        parts.append(_search(block if banned is None else block.clone(), k, 1, banned))
    best, items = _join(parts, k, scores)
    return Ranked(items, best, torch.zeros_like(items))


def rank(
    model: Matcher | Scorer,
    history: Histories,
    k: int,
    *,
    catalogue: Tensor | None = None,
    exclude: Tensor | None = None,
    budget: int = BUDGET,
) -> Ranked:
    """The k best items for each history: `top_k` for a Matcher, `top_k_scores` for a Scorer.

    Args:
        model: in the mode that the caller chose (evaluation, usually).
        history: B histories on the model's device.
        k: length of the lists.
        catalogue: (N + 1, d), a Matcher's `catalogue()` when the caller has it already; None: asked for here.
        exclude: (B, E) int64 item numbers that a user must not get; 0 stands for none.
        budget: bytes, see `top_k`; a Scorer's scores (B, N + 1) are its own matter.
    """
    if isinstance(model, Matcher):
        vectors = model.catalogue() if catalogue is None else catalogue
        return top_k(model.interests(history), vectors, k, exclude=exclude, budget=budget)
    return top_k_scores(model.scores(history), k, exclude=exclude)


def _check_k(k: int) -> None:
    if k < 1:
        raise BadSetting(f"k, the number of items asked for, is at least 1; got {k}")


def _empty(rows: int, like: Tensor) -> tuple[Tensor, Tensor]:
    return like.new_empty(rows, 0, dtype=torch.float32), like.new_empty(rows, 0, dtype=torch.int64)


def _room(like: Tensor, users: int, n: int) -> tuple[Tensor, Tensor]:
    """Memory for the scores of a block and for one product, at most `users` x `n` each: fresh pages would cost more."""
    tile = min(users * n, _TILE_CELLS) if like.device.type == "cpu" else users * n
    return like.new_empty(users * n), like.new_empty(max(tile, users * like.shape[1]))


def _block_scores(interests: Tensor, vectors: Tensor, room: tuple[Tensor, Tensor]) -> Tensor:
    """(u, n) best inner product of each user's vectors (u, K, d) with each of `vectors` (n, d), written into `room`."""
    (users, K, d), n = interests.shape, len(vectors)
    flat, scores = interests.reshape(users * K, d), room[0][: users * n].view(users, n)
    width = min(n, len(room[1]) // (users * K))
    for begin in range(0, n, width):
        items = vectors[begin : begin + width].T
        # A product of its own, not a window of wide rows: those, far apart in memory, make it up to twice as slow.
        product = torch.mm(flat, items, out=room[1][: len(flat) * items.shape[1]].view(len(flat), -1))
        torch.amax(product.view(users, K, -1), 1, out=scores[:, begin : begin + width])
    return scores


def _search(
    scores: Tensor, k: int, start: int, exclude: Tensor | None, floor: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The best of a block whose column 0 is item `start`: scores and item numbers, both (u, at most min(k, n)).

    Overwrites `scores` at excluded items. With `floor` (u, 1), all that matters is what lies above it.
    """
    if exclude is not None:
        row, place = ((exclude >= start) & (exclude < start + scores.shape[1])).nonzero(as_tuple=True)
        scores[row, exclude[row, place] - start] = -math.inf
    values, columns = _select(scores, k, floor)
    return values, columns + start


def _select(scores: Tensor, k: int, floor: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Values and columns (u, at most min(k, n)) of the best of `scores` (u, n): higher first, ties to the smaller one.

    Of a row with `floor` (u, 1) only what is above it is sure to be there, in this order, and is followed by anything.
    """
    values, columns = _any_top(scores, k + 1, floor)
    if values[:, :1].isnan().any():  # the largest of all to topk, amax and maximum
        raise BadRun("a score is not a number (NaN): the model diverged; train it again, with a smaller lr")
    tied = (values[:, 1:] == values[:, :-1]) & (values[:, 1:] > (-math.inf if floor is None else floor))  # (u, k)
    values, columns = values[:, :k], columns[:, :k]
    rows = tied.any(1).nonzero().squeeze(1)
    if len(rows):
        chosen = columns[rows].sort(1).values
        cut = tied.shape[1] >= k  # there is a (k + 1)-th score, and it may equal the k-th
        if cut:
            open_end = tied[rows, k - 1]
            ends = rows[open_end]
            chosen[open_end] = _count_out(scores[ends], values[ends, -1:], k)
        exact, order = scores[rows.unsqueeze(1), chosen].sort(dim=1, descending=True, stable=True)
        values, columns = values.clone(), columns.clone()
        values[rows], columns[rows] = exact, chosen.gather(1, order)
    return values, columns


def _count_out(scores: Tensor, bound: Tensor, k: int) -> Tensor:
    """Columns (r, k), ascending: all above `bound` (r, 1), the k-th score, and the first that equal it."""
    above, equal = scores > bound, scores == bound
    wanted = k - above.sum(1, keepdim=True)
    above |= equal & (equal.cumsum(1, dtype=torch.int32) <= wanted)
    return above.nonzero()[:, 1].view(-1, k)


def _any_top(scores: Tensor, k: int, floor: Tensor | None) -> tuple[Tensor, Tensor]:
    """Values (u, at most min(k, n)), descending, and columns; of equal values any may be taken.

    With `floor` (u, 1), of each row all that is above it or not a number, as far as k goes, and then anything.
    """
    users, n = scores.shape
    size = int(math.sqrt(n / k))  # of a group: (n / size) + k * size comparisons are fewest here
    groups = n // size if size > 1 else 0
    if groups <= k:
        values, columns = scores.topk(min(k, n), dim=1)
        return values, columns
    # Group j holds columns j, j + groups, j + 2 groups, ...: its maximum reads memory in order.
    dealt = scores[:, : groups * size].view(users, size, groups)
    largest = dealt.amax(1)
    held = k if floor is None else min(k, int((~(largest <= floor)).sum(1).max()))
    best = largest.topk(held, dim=1, sorted=False).indices  # (u, held)
    steps = torch.arange(0, groups * size, groups, device=scores.device)
    members = (best.unsqueeze(1) + steps.view(1, -1, 1)).flatten(1)  # (u, held * size)
    left = torch.arange(groups * size, n, device=scores.device).expand(users, -1)
    members = torch.cat((members, left), 1)
    values, place = scores.gather(1, members).topk(min(k, members.shape[1]), dim=1)
    return values, members.gather(1, place)


def _merge(ahead: tuple[Tensor, Tensor], behind: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The k best of two lists, where every item number of `behind` is larger: a stable sort keeps the order of ties."""
    if not ahead[0].shape[1]:
        return behind
    values, order = torch.cat((ahead[0], behind[0]), 1).sort(dim=1, descending=True, stable=True)
    return values[:, :k], torch.cat((ahead[1], behind[1]), 1).gather(1, order)[:, :k]


def _join(parts: list[tuple[Tensor, Tensor]], k: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and items (B, k) of all blocks of users; what is no candidate becomes item 0 with -inf."""
    empty = _empty(0, like)
    found = max((part[0].shape[1] for part in parts), default=0)
    scores = torch.cat([part[0] for part in parts]) if parts else empty[0]
    items = torch.cat([part[1] for part in parts]) if parts else empty[1]
    scores = torch.nn.functional.pad(scores, (0, k - found), value=-math.inf)
    items = torch.nn.functional.pad(items, (0, k - found))
    return scores, items.masked_fill_(scores == -math.inf, 0)


def _which(interests: Tensor, catalogue: Tensor, items: Tensor, budget: int) -> Tensor:
    """(B, k) which of the K vectors is nearest to each ranked item; computed for the winners only."""
    if interests.shape[1] == 1 or not items.numel():
        return torch.zeros_like(items)
    K, d = interests.shape[1:]
    rows = max(1, budget // (8 * items.shape[1] * (d + K)))
    parts = []
    for begin in range(0, len(items), rows):
        chosen = items[begin : begin + rows]
        near = catalogue[chosen] @ interests[begin : begin + rows].transpose(1, 2)  # (rows, k, K)
        parts.append(near.argmax(2).masked_fill_(chosen == 0, 0))
    return torch.cat(parts)
