"""Candidates for every user of a log, written in blocks: the answers are never in memory, nor is a partitioned log.

log -> blocks of users -> an engine, whose processes do `batch_work` -> parts -> one Parquet file, see `batch_parts`
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from diffacet import files
from diffacet.app import batch_parts, batch_users
from diffacet.app.batch_parts import Parts
from diffacet.app.batch_work import Answering, Job, Wish
from diffacet.app.clicks.run import check_items
from diffacet.app.rundir import Changes, pairs
from diffacet.data.sequences import IntArray
from diffacet.errors import BadLog, BadSetting, DiffacetError
from diffacet.rank.asking import numbered
from diffacet.rank.blocks import cut
from diffacet.rank.candidates import Query
from diffacet.rank.merging import Lists
from diffacet.rank.retriever import Retriever

__all__ = ["Engine", "Wish", "Work", "here", "write", "write_candidates"]

FORMAT = 1
_USUAL = Wish()
TOGETHER = 256
"""Histories that the model reads at a time: more than a service takes, since nobody waits for the first answer."""


@dataclass(frozen=True)
class Work:
    """The blocks that are left to do.

    Attributes:
        job: what a process must open.
        told: what a process must have opened, see `Answering.check`.
        answering: the process of `write`, which has.
        parts: where the tables of the blocks go.
        blocks: (number, its users (B,) int64) in ascending order, one for each part that is missing.
    """

    job: Job
    told: dict[str, Any]
    answering: Answering
    parts: Parts
    blocks: list[tuple[int, IntArray]]


Engine: TypeAlias = Callable[[Work], Iterator[int]]
"""Does the work: when it ends every part is there. It yields how many users were answered since it last did."""


def here(work: Work) -> Iterator[int]:
    """Block after block, in this process."""
    for _, rows in work.blocks:
        lists = list[Lists]()
        for one in work.answering.answers(rows):
            lists.append(one)
            yield len(one[0])
        work.parts.add(work.answering.table(rows, lists))


def write_candidates(
    run: Path | str,
    data: Path | str,
    out: Path | str,
    k: int = 50,
    *,
    exclude_seen: bool = True,
    diversity: float = 0.0,
    **how: Any,
) -> dict[str, Any]:
    """Write candidates for every user of a data directory into the Parquet file `out`, as `diffacet candidates` does.

    The columns are user_id, item_id, rank (from 1), score and interest; `how` are further arguments of `write`, which
    says what is returned and raised: users, index, refine_steps, set, device, threads, resume, progress, tell.
    """
    return write(run, data, out, Wish(k, exclude_seen, diversity), **how)


def write(
    run: Path | str,
    data: Path | str,
    out: Path | str,
    wish: Wish = _USUAL,
    *,
    users: Path | str | None = None,
    index: str = "exact",
    refine_steps: int | None = None,
    set: Changes = (),  # noqa: A002 - the command line's own word
    device: str = "auto",
    threads: int | None = None,
    resume: bool = False,
    engine: Engine = here,
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
        threads: of the CPU, in each process; None: as PyTorch chooses. A table is bit-equal to another one of as many,
            by whatever engine.
        resume: go on with what a killed job has left, if it has; to the same table as an unbroken one. The job may
            have been another engine's.
        engine: who does the work.
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
    place = Path(run).absolute(), Path(data).absolute()  # where others work, another directory may be the current one
    job = Job(*place, wish, index, refine_steps, pairs(set), device, threads, TOGETHER)
    answering = Answering(job)
    _check_asked(answering.recommender.retriever, wish)
    check_items(data, answering.recommender.run.card.name)
    rows, named = _asked(answering, data, None if users is None else Path(users))
    _tell(answering, run, data, tell or (lambda _: None))
    told = {
        "format": FORMAT,
        **answering.told(),
        "users": files.fingerprint(rows),
        "k": wish.k,
        "exclude_seen": wish.exclude_seen,
        "diversity": wish.diversity,
        "index": index,
        "refine_steps": refine_steps,
        "set": {name: str(value) for name, value in job.changes.items()},
        "block": wish.block,
    }
    found = _written(answering, rows, out, told, resume, engine, progress or (lambda _done, _all: None))
    return found | {"without_history": named - len(rows), "unknown_items": answering.histories.unknown_items}


def _written(
    answering: Answering,
    rows: IntArray,
    out: Path,
    told: dict[str, Any],
    resume: bool,
    engine: Engine,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Let the engine do what is left to do; see `write`."""
    wish, start, total = answering.job.wish, time.perf_counter(), len(rows)
    blocks = [(number, rows[block]) for number, block in enumerate(cut(total, wish.block))]
    with batch_parts.opened(out, told, resume) as parts:
        left = [(number, theirs) for number, theirs in blocks if number not in parts.there]
        done = resumed = total - sum(len(theirs) for _, theirs in left)
        progress(done, total)
        for answered in engine(Work(answering.job, told, answering, parts, left)) if left else ():
            done += answered
            progress(done, total)
        table = parts.join(len(blocks), wish.block * min(wish.k, len(answering.recommender.retriever.items)))
    height, with_some = table.select(pl.len(), (pl.col("rank") == 1).sum().alias("some")).collect().row(0)
    seconds = time.perf_counter() - start
    return {
        "out": str(out),
        "users": with_some,
        "rows": height,
        "seconds": seconds,
        "users_per_second": (total - resumed) / seconds if total > resumed else None,
        "resumed": resumed,
        "without_candidates": total - with_some,
        "model_version": told["run"],
    }


def _asked(answering: Answering, data: Path, users: Path | None) -> tuple[IntArray, int]:
    """The users (m,) that are answered, in order, and how many are asked for, with or without a history."""
    histories, items = answering.histories, answering.recommender.retriever.items
    named = np.arange(histories.users) if users is None else batch_users.chosen(users, histories.everybody(), data)
    rows = named[histories.lengths()[named] > 0]
    if not len(rows):
        raise BadLog(
            f"no user{'' if users is None else f' of {users}'} has an item in {data} that the run knows: its item ids"
            f" look like {', '.join(map(str, histories.examples))}, those of the run like"
            f" {', '.join(map(str, items.values.head(3)))}"
        )
    return rows, len(named)


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


def _tell(answering: Answering, run: Path, data: Path, tell: Callable[[str], None]) -> None:
    recommender, histories = answering.recommender, answering.histories
    for warning in recommender.warnings:
        tell(warning)
    before = recommender.run.about["data"]["fingerprint"]
    if histories.fingerprint != before:
        tell(
            f"{data} is not what {run} was trained on (fingerprint {histories.fingerprint}, was {before});"
            " items are matched by their ids"
        )
    if histories.unknown_items:
        tell(f"{histories.unknown_items:,} items of {data} are not in the run's catalogue; they are passed over")
