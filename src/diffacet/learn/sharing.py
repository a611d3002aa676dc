"""A step's batch cut for the processes that train together: each has a run of its rows, and the negatives it owns.

Every process makes the whole batch, which depends on (seed, step) only, and keeps its part; nothing is sent.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from diffacet.core.batch import Batch, Histories, PositionBatch, SequenceBatch
from diffacet.core.contract import Card
from diffacet.core.layers import tables
from diffacet.core.world import Part, World, cuts
from diffacet.errors import BadSetting


@dataclass(frozen=True)
class Share:
    """What a process computes a step from.

    Attributes:
        whole: the batch of all processes, on the CPU where there are several.
        own: this process's part of it; the batch itself for a process that is alone.
        part: how the rows are dealt; None for a process that is alone.
    """

    whole: Batch
    own: Batch
    part: Part | None = None

    def to(self, device: torch.device) -> "Share":
        """The same with what is computed from on `device`."""
        own = self.own.to(device)
        return Share(own if self.part is None else self.whole, own, self.part)

    def counted(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss terms that were computed from `own`, 0 where nothing of it counts."""
        if self.part is None or not self.part.idle:
            return terms
        return {name: 0 * term for name, term in terms.items()}


def share(batch: Batch, world: World, n_items: int) -> Share:
    """This process's share of a batch: a run of histories with their targets, and of shared negatives its own items.

    Of `hits` it keeps all rows and its own negatives' columns: the softmax scores those for the rows of all processes.
    Rows are dealt evenly.

    Raises:
        BadSetting: the batch has a form that one process trains on.
    """
    if not isinstance(batch, SequenceBatch | PositionBatch):
        raise BadSetting(
            f"models that are trained on a {type(batch).__name__} are trained by one worker; set workers=1"
        )
    runs = [slice(begin, end) for begin, end in pairwise(cuts(len(batch.history.items), world.size))]
    held = [run if run.start < run.stop else slice(0, 1) for run in runs]  # see `Part`
    places = held
    if isinstance(batch, PositionBatch):
        ends = torch.searchsorted(
            batch.row.contiguous(), torch.tensor([[run.start, run.stop] for run in held])
        ).tolist()
        places = [slice(begin, end) for begin, end in ends]
    mine, at = held[world.rank], places[world.rank]
    negatives, hits, log_q = batch.negatives[at], batch.hits, batch.log_q
    if batch.negatives.ndim == 1:
        first, last = world.cut(n_items)
        owned = (batch.negatives > first) & (batch.negatives <= last)
        negatives = batch.negatives[owned]
        hits = None if hits is None else torch.cat([hits[place] for place in places])[:, owned]
        log_q = None if log_q is None else (log_q[0][at], log_q[1][owned])
    part = Part(world, _lengths(runs), _lengths(held), _lengths(places))
    history = _rows(batch.history, mine)
    kept = replace(batch, history=history, target=batch.target[at], negatives=negatives, hits=hits, log_q=log_q)
    if isinstance(kept, PositionBatch):
        own = kept.row[at] - mine.start
        kept = replace(kept, row=own, position=kept.position[at], weight=kept.weight[at])
    return Share(batch, kept, part)


def _lengths(runs: list[slice]) -> tuple[int, ...]:
    return tuple(run.stop - run.start for run in runs)


def _rows(history: Histories, mine: slice) -> Histories:
    times: Tensor | None = None if history.times is None else history.times[mine]
    return Histories(history.items[mine], history.users[mine], history.case[mine], times)


def table_size(model: nn.Module, world: World) -> int:
    """N of the item tables that `model` shares in `world`.

    Raises:
        BadSetting: it has none, or was built outside of the world, so that there is nothing to share.
    """
    found = tables(model)
    if not found or any(table.world != world for table in found):
        raise BadSetting(f"{type(model).__name__} has no item table to divide; it is trained by one worker: workers=1")
    return found[0].n_items


def check_workers(card: Card, workers: int, n_items: int) -> None:
    """Raise BadSetting when `workers` processes cannot train the model together, or are more than there are items."""
    if workers < 1:
        raise BadSetting(f"workers is at least 1; got {workers}")
    if workers > 1 and not card.workers:
        raise BadSetting(f"{card.name} is trained by one process; got workers={workers}: leave it at 1")
    if workers > n_items:
        raise BadSetting(f"workers is at most the {n_items} items, which they divide; got {workers}")
