"""A block of users answered: what every process of a job of candidates does, whatever engine has started it.

log -> histories in the run's item numbers -> `Retriever.retrieve` -> a table, see `batch_parts`
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
import torch

from diffacet.app.batch_ranges import ByRange
from diffacet.app.serving.recommender import Recommender
from diffacet.arrays import distinct
from diffacet.data import store
from diffacet.data.ids import Ids
from diffacet.data.interactions import Interactions
from diffacet.data.partitions import MANIFEST, Partitions
from diffacet.data.sequences import IntArray, Sequences
from diffacet.errors import BadRun
from diffacet.rank.blocks import cut
from diffacet.rank.merging import Lists

BLOCK = 8192
"""Users of a block, which is what a killed job loses."""


@dataclass(frozen=True)
class Wish:
    """What is wanted for each user; `block` is the number of users that are written together."""

    k: int = 50
    exclude_seen: bool = True
    diversity: float = 0.0
    block: int = BLOCK


@dataclass(frozen=True)
class Job:
    """What a process must know to take part; paths are those of a file system that all of them see.

    Attributes:
        run: a run directory.
        data: a data directory.
        wish: what is wanted for each user.
        index, refine_steps, changes, device: see `Recommender.load`.
        threads: of the CPU; None: as PyTorch chooses.
        together: histories that the model reads at a time.
    """

    run: Path
    data: Path
    wish: Wish
    index: str
    refine_steps: int | None
    changes: Mapping[str, Any]
    device: str
    threads: int | None
    together: int


class Histories(Protocol):
    """All users' histories, in the item numbers of a run; items that it does not know are left out.

    Attributes:
        users: U, those of the data.
        unknown_items: items of the data that the run does not know.
        fingerprint: of the data.
        examples: some item ids of the data.
    """

    users: int
    unknown_items: int
    fingerprint: str
    examples: pl.Series

    def lengths(self) -> IntArray:
        """(U,) int64, the items of each user that the run knows."""
        ...

    def take(self, rows: IntArray) -> Sequences:
        """The histories of the users `rows` (B,), all different, in that order."""
        ...

    def ids(self, rows: IntArray) -> pl.Series:
        """The ids (B,) of the users `rows`."""
        ...

    def everybody(self) -> Ids:
        """All users' ids."""
        ...


class Answering:
    """A run and a log, opened to answer blocks of users.

    Attributes:
        job: what was opened.
        recommender: the run.
        histories: the log.
    """

    def __init__(self, job: Job, *, verify: bool = True) -> None:
        """Open what `job` names; for what is raised see `batch_candidates.write`.

        verify: read all files of partitions for their checksums, as one process of a job has to.
        """
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        self.job, self._verify = job, verify
        self.recommender = Recommender.load(
            job.run,
            index=job.index,
            refine_steps=job.refine_steps,
            set=job.changes,
            device=job.device,
            block=job.together,
        )
        self._histories: Histories | None = None

    @property
    def histories(self) -> Histories:
        """The log, opened when it is first asked for; raises BadLog."""
        if self._histories is None:
            self._histories = _opened(self.job.data, self.recommender.retriever.items, self._verify)
        return self._histories

    def told(self) -> dict[str, Any]:
        """What decides on the answers and may be another one in another process: name -> value, as JSON holds it."""
        return {
            "run": self.recommender.version,
            "data": self.histories.fingerprint,
            "device": self.recommender.retriever.device.type,
            "threads": torch.get_num_threads(),
        }

    def check(self, told: Mapping[str, Any], where: str) -> None:
        """Refuse to take part in a job that was told otherwise; raises BadRun, which names `where`."""
        mine = self.told()
        other = [f"{name} is {value}, and {told[name]} for who asks" for name, value in mine.items()]
        other = [line for line, (name, value) in zip(other, mine.items(), strict=True) if told[name] != value]
        if other:
            raise BadRun(
                f"{where} sees another job: {'; '.join(other)}; all of them must see the same run and data directory"
            )

    def answers(self, rows: IntArray) -> Iterator[Lists]:
        """Candidates of the users `rows` (B,), some at a time: scores, numbers, interests (n, m), see `table`."""
        wish, retriever = self.job.wish, self.recommender.retriever
        histories = self.histories.take(rows)
        for part in cut(len(rows), retriever.block):
            some = histories.take(np.arange(part.start, part.stop))
            yield retriever.retrieve(some, wish.k, exclude_seen=wish.exclude_seen, diversity=wish.diversity)

    def table(self, rows: IntArray, lists: list[Lists]) -> pl.DataFrame:
        """The candidates of the users `rows` (B,), of whom each of the `lists` (n, m) holds the next n; one a row."""
        there = [numbers > 0 for _, numbers, _ in lists]
        scores, numbers, interests = (
            np.concatenate([one[which][mask] for one, mask in zip(lists, there, strict=True)]) for which in range(3)
        )
        counts = np.concatenate([mask.sum(1) for mask in there])
        return pl.DataFrame(
            {
                "user_id": self.histories.ids(rows).gather(np.repeat(np.arange(len(rows)), counts)),
                "item_id": self.recommender.retriever.items.ids(numbers),
                "rank": np.concatenate([np.nonzero(mask)[1] + 1 for mask in there]).astype(np.int32),
                "score": scores.astype(np.float32, copy=False),
                "interest": interests.astype(np.int32),
            }
        )


def _opened(data: Path, items: Ids, verify: bool) -> Histories:
    if not verify and (data / MANIFEST).is_file():
        return ByRange(Partitions.open(data, verify=False), items)
    dataset = store.open(data)
    if dataset.partitions is not None:
        return ByRange(dataset.partitions, items)
    return _InMemory(dataset.log, items, dataset.fingerprint)


class _InMemory:
    """Histories of a log that is in memory."""

    def __init__(self, log: Interactions, items: Ids, fingerprint: str) -> None:
        number = np.concatenate([[-1], items.find(log.items.values)])
        theirs = log.column("item")
        ours = number[theirs]
        known = ours > 0
        self.users, self.fingerprint, self.examples = log.n_users, fingerprint, log.items.values.head(3)
        self.unknown_items = len(distinct(theirs[~known]))
        self._ids = log.users
        self._histories = Sequences.from_rows(log.column("user")[known], ours[known], None, log.n_users)

    def lengths(self) -> IntArray:
        return self._histories.lengths()

    def take(self, rows: IntArray) -> Sequences:
        return self._histories.take(rows)

    def ids(self, rows: IntArray) -> pl.Series:
        return self._ids.ids(rows)

    def everybody(self) -> Ids:
        return self._ids
