"""Candidates for every user of a log, written in blocks: the log is in memory, the answers never are.

log -> histories in the run's item numbers -> blocks of users -> `Retriever.retrieve` -> Parquet, see `batch_parts`
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from diffacet import files
from diffacet.app import batch_parts, batch_users
from diffacet.app.clicks.run import check_items
from diffacet.app.rundir import Changes, pairs
from diffacet.app.serving.recommender import Recommender
from diffacet.arrays import distinct
from diffacet.data import store
from diffacet.data.ids import Ids
from diffacet.data.interactions import Interactions
from diffacet.data.sequences import IntArray, Sequences
from diffacet.errors import BadLog, BadSetting, DiffacetError
from diffacet.rank.asking import numbered
from diffacet.rank.blocks import cut
from diffacet.rank.candidates import Query
from diffacet.rank.merging import Lists
from diffacet.rank.retriever import Retriever

FORMAT = 1
BLOCK = 8192
"""Users of a block, which is what a killed job loses."""
TOGETHER = 256
"""Histories that the model reads at a time: more than a service takes, since nobody waits for the first answer."""


@dataclass(frozen=True)
class Wish:
    """What is wanted for each user; `block` is the number of users that are written together."""

    k: int = 50
    exclude_seen: bool = True
    diversity: float = 0.0
    block: int = BLOCK


@dataclass(frozen=True, eq=False)
class _Asked:
    """Who is asked for, in the run's own item numbers.

    Attributes:
        users: the ids of all users of the data.
        histories: of all of them; those items that the run knows.
        rows: (m,) int64 the users that are answered, in order.
        named: users asked for, with or without a history.
        unknown_items: items of the log that the run does not know.
        fingerprint: of the data.
    """

    users: Ids
    histories: Sequences
    rows: IntArray
    named: int
    unknown_items: int
    fingerprint: str


def write(
    run: Path | str,
    data: Path | str,
    out: Path | str,
    wish: Wish = Wish(),
    *,
    users: Path | str | None = None,
    index: str = "exact",
    refine_steps: int | None = None,
    set: Changes = (),  # noqa: A002 - the command line's own word
    device: str = "auto",
    threads: int | None = None,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Write candidates for the users of a log: user_id, item_id, rank (from 1), score, interest.

    A user's whole history in the log is asked, as `Recommender.recommend` is. Rows are in the order of the users, then
    of the ranks. Users none of whose items the run knows have no rows.

    Args:
        run: a run directory.
        data: a data directory, that of the training or a newer one with ids of the same kind.
        out: the Parquet file; there must be none.
        wish: what is wanted for each user.
        users: a file with those who are wanted, see `batch_users.chosen`; None: all users of the data.
        index: see `Recommender.load`, as the next three.
        refine_steps: S of the refinement.
        set: further inference settings.
        device: where to compute.
        threads: of the CPU; None: as PyTorch chooses. A table is bit-equal to another one of as many.
        resume: go on with what a killed job has left, if it has; to the same table as an unbroken one.
        progress: called with (users done, all) at the start and as they are done.
        tell: called with a line on what is to be known of the data.

    Returns:
        out, users (answered), rows, seconds (of this process, without loading), users_per_second (None if all were
        there before), resumed (users that were), without_history, without_candidates (their history holds the
        catalogue), unknown_items, model_version.

    Raises:
        BadSetting: a setting is unknown or out of range.
        BadLog: the data or the file of users cannot be used, or no user has an item that the run knows.
        BadRun: the run cannot be used, or `out` is there, is being written, or cannot be.
    """
    run, data, out = Path(run), Path(data), Path(out)
    _check(wish, threads)
    batch_parts.check(out, resume)
    if threads is not None:
        torch.set_num_threads(threads)
    recommender = Recommender.load(run, index=index, refine_steps=refine_steps, set=set, device=device, block=TOGETHER)
    retriever = recommender.retriever
    _check_asked(retriever, wish)
    check_items(data, recommender.run.card.name)
    asked = _asked(retriever, data, None if users is None else Path(users))
    _tell(recommender, asked, data, tell or (lambda _: None))
    told = {
        "format": FORMAT,
        "run": recommender.version,
        "data": asked.fingerprint,
        "users": files.fingerprint(asked.rows),
        "k": wish.k,
        "exclude_seen": wish.exclude_seen,
        "diversity": wish.diversity,
        "index": index,
        "refine_steps": refine_steps,
        "set": {name: str(value) for name, value in pairs(set).items()},
        "device": retriever.device.type,
        "threads": torch.get_num_threads(),
        "block": wish.block,
    }
    return _written(retriever, asked, wish, out, told, resume, progress or (lambda _done, _all: None))


def _written(
    retriever: Retriever,
    asked: _Asked,
    wish: Wish,
    out: Path,
    told: dict[str, Any],
    resume: bool,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Do what is left to do, block by block; see `write`."""
    start, total = time.perf_counter(), len(asked.rows)
    with batch_parts.opened(out, told, resume) as parts:
        resumed = min(parts.done * wish.block, total)
        progress(resumed, total)
        for block in cut(total, wish.block)[parts.done :]:
            rows, lists = asked.rows[block], list[Lists]()
            for part in cut(len(rows), retriever.block):
                histories = asked.histories.take(rows[part])
                lists.append(
                    retriever.retrieve(histories, wish.k, exclude_seen=wish.exclude_seen, diversity=wish.diversity)
                )
                progress(block.start + part.stop, total)
            parts.add(_table(asked.users, retriever.items, rows, lists))
        table = parts.join(wish.block * min(wish.k, len(retriever.items)))
    height, with_some = table.select(pl.len(), (pl.col("rank") == 1).sum().alias("some")).collect().row(0)
    seconds = time.perf_counter() - start
    return {
        "out": str(out),
        "users": with_some,
        "rows": height,
        "seconds": seconds,
        "users_per_second": (total - resumed) / seconds if total > resumed else None,
        "resumed": resumed,
        "without_history": asked.named - total,
        "without_candidates": total - with_some,
        "unknown_items": asked.unknown_items,
        "model_version": told["run"],
    }


def _table(users: Ids, items: Ids, rows: IntArray, lists: list[Lists]) -> pl.DataFrame:
    """The candidates of the users `rows` (B,), of whom each of the `lists` (n, m) holds the next n; one a row."""
    there = [numbers > 0 for _, numbers, _ in lists]
    scores, numbers, interests = (
        np.concatenate([one[which][mask] for one, mask in zip(lists, there, strict=True)]) for which in range(3)
    )
    return pl.DataFrame(
        {
            "user_id": users.ids(np.repeat(rows, np.concatenate([mask.sum(1) for mask in there]))),
            "item_id": items.ids(numbers),
            "rank": np.concatenate([np.nonzero(mask)[1] + 1 for mask in there]).astype(np.int32),
            "score": scores.astype(np.float32, copy=False),
            "interest": interests.astype(np.int32),
        }
    )


def _asked(retriever: Retriever, data: Path, users: Path | None) -> _Asked:
    dataset = store.open(data)
    log = dataset.log
    histories, unknown = _histories(log, retriever.items)
    named = np.arange(log.n_users) if users is None else batch_users.chosen(users, log.users, data)
    rows = named[histories.lengths()[named] > 0]
    if not len(rows):
        raise BadLog(
            f"no user{'' if users is None else f' of {users}'} has an item in {data} that the run knows: its item ids"
            f" look like {', '.join(map(str, log.items.values.head(3)))}, those of the run like"
            f" {', '.join(map(str, retriever.items.values.head(3)))}"
        )
    return _Asked(log.users, histories, rows, len(named), unknown, dataset.fingerprint)


def _histories(log: Interactions, items: Ids) -> tuple[Sequences, int]:
    """All users' histories in the numbers of `items`, and how many items of the log are not among these."""
    number = np.concatenate([[-1], items.find(log.items.values)])
    theirs = log.column("item")
    ours = number[theirs]
    known = ours > 0
    missing = len(distinct(theirs[~known]))
    return Sequences.from_rows(log.column("user")[known], ours[known], None, log.n_users), missing


def _check(wish: Wish, threads: int | None) -> None:
    if wish.block < 1:
        raise BadSetting(f"--block, the users that are written together, is at least 1; got {wish.block}")
    if threads is not None and threads < 1:
        raise BadSetting(f"threads is at least 1; got {threads}")


def _check_asked(retriever: Retriever, wish: Wish) -> None:
    """Refuse what no user could be answered, as a single request is refused."""
    query = Query(retriever.items.values.head(1).to_list(), wish.k, wish.exclude_seen, diversity=wish.diversity)
    (answer,) = numbered([query], retriever.items, retriever.categories, False)
    if isinstance(answer, DiffacetError):
        raise answer


def _tell(recommender: Recommender, asked: _Asked, data: Path, tell: Callable[[str], None]) -> None:
    for warning in recommender.warnings:
        tell(warning)
    before = recommender.run.about["data"]["fingerprint"]
    if asked.fingerprint != before:
        tell(
            f"{data} is not what {recommender.path} was trained on (fingerprint {asked.fingerprint}, was {before});"
            " items are matched by their ids"
        )
    if asked.unknown_items:
        tell(f"{asked.unknown_items:,} items of {data} are not in the run's catalogue; they are passed over")
