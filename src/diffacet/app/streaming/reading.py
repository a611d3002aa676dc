"""The first half of a streamed import: raw files to sorted partitions, with all that is counted on the way."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from diffacet.app.streaming.driving import Mapped, Watch, followed, here
from diffacet.app.streaming.planning import Plan
from diffacet.data.formats.assemble import described
from diffacet.data.formats.delimited import Delimited
from diffacet.data.formats.items import read_items
from diffacet.data.formats.jsonlines import JsonLines
from diffacet.data.formats.parquet import Parquet
from diffacet.data.formats.source import Table
from diffacet.data.formats.times import UNITS
from diffacet.data.interactions import Times
from diffacet.data.streaming import catalogue, scatter, sorting
from diffacet.data.streaming.casting import Kind
from diffacet.data.streaming.scatter import Scattered, Scattering
from diffacet.data.streaming.sorting import Sorted, Sorting
from diffacet.errors import BadLog


@dataclass(frozen=True)
class Read:
    """A log whose rows lie sorted by partition.

    Attributes:
        parts: the partitions, sorted.
        items: item and len, how often it occurs; the numbers of items in the partitions are rows of this.
        details: item_id (of the same type), maybe title and categories; None: no description was read.
        whole: whether ids of users are Int64; else String.
        coarse: ticks of the sorted rows' times in one of the log's.
        times: what the times are.
        files, notes: what was read, and what was decided on the way.
    """

    parts: tuple[Sorted, ...]
    items: pl.DataFrame
    details: pl.DataFrame | None
    whole: bool
    coarse: int
    times: Times
    files: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def rows(self) -> int:
        """How many interactions were read."""
        return sum(one.rows for one in self.parts)

    @property
    def users(self) -> int:
        """How many users they have."""
        return sum(one.users for one in self.parts)


def read(plan: Plan, items: Path | None, spill: Path, *, mapped: Mapped, watch: Watch) -> Read:
    """Read the log of `plan` into sorted partitions in the folder `spill`.

    Args:
        plan: what is read.
        items: a file that describes the items; None: the one that the format finds beside the log, if any.
        spill: where spill files go.
        mapped: how tasks are run.
        watch: what a person sees.

    Raises:
        BadLog: a row cannot be read, or the log is empty.
        OSError: a file cannot be written.
    """
    scattered = _scattered(plan, spill, mapped, watch)
    batches = [batch for one in scattered for batch in one.batches]
    user, item = Kind(), Kind()
    for batch in batches:
        user, item = user & batch.user, item & batch.item
    dtype = pl.Int64() if item.numbers else pl.String()
    counts = catalogue.counted([batch.counts for batch in batches], dtype)
    source = plan.source.items
    details = read_items(items) if items else source() if source else None
    ids, frame, more = described(counts[catalogue.ITEM], details, given=items is not None)
    table = spill / "items.arrow"
    catalogue.write(counts[catalogue.ITEM], table)
    unit = max(batch.unit for batch in batches)
    tasks = [
        Sorting(number, scatter.segments(scattered, number), unit, (user.numbers, item.numbers), table, spill)
        for number in range(plan.partitions)
    ]
    sizes = [sum(segment.size for segment in task.segments) // 2**20 + 1 for task in tasks]
    found = followed(mapped, sorting.sort, tasks, watch("MiB sorted"), sizes)
    found.sort(key=lambda one: one.number)
    for one in scattered:  # the rows lie in the sorted partitions now; a log takes its room on the disk once only
        one.path.unlink()
    coarse, told = _settled(found, unit) if plan.timed else (1, _PLACES)
    dropped = sum(one.dropped for one in scattered)
    notes = [*plan.notes]
    notes += [f"{dropped} rows without a time dropped, a known gap of this data set"] if dropped else []
    files = [str(table.path) for table in plan.source.tables] + ([str(details.path)] if details else [])
    kind: Times = "rank" if all(dict(one.ranks)[unit // coarse] for one in found if one.rows) else "real"
    return Read(
        tuple(found),
        counts.with_columns(ids.alias(catalogue.ITEM)),
        frame,
        user.numbers,
        coarse,
        kind,
        tuple(files),
        (*notes, *told, *_ties(found, plan.timed), *more),
    )


_PLACES = ["timestamp: the position within the user, in file order (no times are used)"]


def _scattered(plan: Plan, spill: Path, mapped: Mapped, watch: Watch) -> list[Scattered]:
    tables = plan.tables if mapped is here else [(_absolute(table), names) for table, names in plan.tables]
    pieces = scatter.cut(tables)
    tasks = [Scattering(piece, plan.partitions, spill, plan.source.drop_timeless) for piece in pieces]
    sizes = [piece.size // 2**20 + 1 for piece in pieces]
    found = followed(mapped, scatter.scatter, tasks, watch("MiB read"), sizes)
    if not sum(one.rows for one in found):
        raise BadLog(f"{plan.source.tables[0].path} has no interactions; a log needs at least one")
    return found


def _absolute(table: Table) -> Table:
    """The file by a name that holds in every process."""
    if isinstance(table, Parquet | Delimited | JsonLines):
        return replace(table, path=table.path.absolute())
    return table


def _settled(found: Sequence[Sorted], unit: int) -> tuple[int, list[str]]:
    """(ticks in one of the coarsest unit that keeps every user's different times apart, what that means in words).

    `times.settle` looks at whether rows, left in the order in which they were read, would change their order. Here
    the order is to be that of the content, so a coarser unit must make no two times of a user one.
    """
    lost = 0
    for coarse in (one for one in sorting.COARSE if one < unit):
        lost = sum(dict(one.lost)[coarse] for one in found if one.rows)
        if not lost:
            words = f"timestamp: {UNITS[unit]} to {UNITS[coarse]}; the order of no user's rows is lost"
            return unit // coarse, [words]
    if unit == 1:
        return 1, []
    return 1, [f"timestamp: kept in {UNITS[unit]}; a coarser unit would lose the order of {lost} rows"]


def _ties(found: Sequence[Sorted], timed: bool) -> list[str]:
    rows, ties = sum(one.rows for one in found), sum(one.ties for one in found)
    if not ties or not timed:
        return []
    return [f"ties: {ties} of {rows} rows have the time of an earlier row of their user"]
