"""A log larger than memory into a data directory of partitions: read, filter, number, write, account for it.

Peak memory is that of one batch or one partition (some millions of rows each) and of the catalogue. What is written
depends on the rows alone, for every step orders by content: users by the hash of their ids, items by count and id,
rows by user, time, item and rating. Only without times the order of a user's rows is that of the files, so there the
files' order counts.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from diffacet.app.importing import Imported
from diffacet.app.streaming import reading, workplace
from diffacet.app.streaming.driving import Mapped, Watch, followed
from diffacet.app.streaming.filtering import Filters, Left, filtered
from diffacet.app.streaming.planning import Plan
from diffacet.app.streaming.reading import Read
from diffacet.data import partitions, store
from diffacet.data.sequences import IntArray
from diffacet.data.streaming import catalogue, figures, finishing, keeping
from diffacet.data.streaming.finishing import Finished, Finishing


def stream(
    plan: Plan, out: Path, work: Path, *, items: Path | None, filters: Filters, mapped: Mapped, watch: Watch
) -> Imported:
    """Import the log of `plan` into the data directory `out`, whole or not at all.

    Args:
        plan: what is read.
        out: the data directory; new or empty.
        work: a folder on the same disk that this process holds, see `workplace.held`.
        items: file with the items' titles and categories.
        filters: what stays.
        mapped: how the steps' tasks are run.
        watch: what a person sees.

    Raises:
        BadLog: a row cannot be read, a filter leaves nobody, or the disk is full; `out` is then as it was.
    """
    began = time.perf_counter()
    filters.check()
    with workplace.made(out, work) as (spill, folder):
        log = reading.read(plan, items, spill, mapped=mapped, watch=watch)
        left = filtered(log, filters, spill, rated=plan.rated, mapped=mapped, watch=watch)
        final, codes = _numbered(log, left, spill)
        finished = _finished(log, left, codes, len(final), plan.rated, folder, mapped, watch)
        titles, categories = catalogue.described(final[catalogue.ITEM], log.details)
        described = {"item_id": final[catalogue.ITEM], "interactions": final["len"]}
        described |= {
            name: column for name, column in (("title", titles), ("categories", categories)) if column is not None
        }
        repeats = sum(one.repeats for one in log.parts)
        provenance: dict[str, Any] = {
            "files": list(log.files),
            "format": plan.format,
            "steps": [asdict(step) for step in left.steps],
            "repeated_rows": repeats,
            "notes": list(log.notes),
            "diffacet": metadata.version("diffacet"),
        }
        _tidied(folder)
        fingerprint = partitions.write_about(
            folder,
            items=pl.DataFrame(described),
            times=log.times,
            statistics=figures.statistics(finished, final["len"].to_numpy(), log.times, categories),
            provenance=provenance,
        )
        store.check_out(out)
    seconds = time.perf_counter() - began
    return Imported(
        out, None, fingerprint, log.files, plan.format, left.steps, repeats, log.notes, plan.partitions, seconds
    )


def _tidied(folder: Path) -> None:
    """Remove what processes that were killed while they wrote have left: theirs was done again by others."""
    for left in folder.rglob(".*"):
        left.unlink()


def _numbered(log: Read, left: Left, spill: Path) -> tuple[pl.DataFrame, Path | None]:
    """(the final catalogue: item, len, in order of the numbers; the file that turns sorted rows' items into these)."""
    if left.rule == keeping.Rule():
        return log.items, None
    places = pl.DataFrame(
        {
            catalogue.ITEM: log.items[catalogue.ITEM],
            "len": left.counts,
            "place": np.arange(len(left.counts)),
        }
    )
    final = catalogue.ordered(places.filter(pl.Series(left.catalogue)))
    numbers = np.zeros(len(places), np.int32)
    numbers[final["place"].to_numpy()] = np.arange(1, len(final) + 1)
    path = spill / "final.npy"
    np.save(path, numbers)
    return final.drop("place"), path


def _finished(
    log: Read,
    left: Left,
    codes: Path | None,
    n_items: int,
    rated: bool,
    folder: Path,
    mapped: Mapped,
    watch: Watch,
) -> Sequence[Finished]:
    """The partitions, written."""
    firsts: IntArray = np.cumsum([0, *left.users])
    tasks = [
        Finishing(
            one.number,
            one.path,
            one.ids,
            left.rule,
            codes,
            n_items,
            int(first),
            log.coarse,
            rated,
            log.whole,
            folder,
        )
        for one, first in zip(log.parts, firsts[:-1], strict=True)
    ]
    sizes = [one.rows for one in log.parts]
    return followed(mapped, finishing.finish, tasks, watch("rows written"), sizes)
