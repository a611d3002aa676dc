"""What is to be read, and into how many partitions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffacet.data.formats import columns, source_of
from diffacet.data.formats.assemble import check_ratings, chosen_note
from diffacet.data.formats.parquet import Parquet
from diffacet.data.formats.raw import GZIP, blocks, listing
from diffacet.data.formats.source import Names, Source, Table
from diffacet.data.streaming.hashes import MOST
from diffacet.errors import BadSetting

LARGE = 2**30
"""Bytes of raw files from which on a log is not read into memory by itself."""
ROWS = 4_000_000
"""Rows of a partition, about."""
_PACKED = 5  # bytes of text that a byte of gzip holds, about: only the number of partitions depends on it


@dataclass(frozen=True)
class Plan:
    """What is read.

    Attributes:
        source: the files of the log, opened.
        names: of each file the columns by role.
        format: how they are read, never "auto".
        notes: what was decided by looking at them.
        partitions: how many.
    """

    source: Source
    names: tuple[Names, ...]
    format: str
    notes: tuple[str, ...]
    partitions: int

    @property
    def tables(self) -> list[tuple[Table, Names]]:
        """The files with their columns."""
        return list(zip(self.source.tables, self.names, strict=True))

    @property
    def timed(self) -> bool:
        """Whether times are read."""
        return self.names[0].time != columns.NONE

    @property
    def rated(self) -> bool:
        """Whether ratings are read."""
        return self.names[0].rating is not None


def planned(
    paths: Sequence[Path],
    format: str,  # noqa: A002
    names: Names,
    partitions: int | None,
    *,
    always: bool = False,
) -> Plan | None:
    """How to stream the log in `paths`; None when it is to be read into memory.

    Args:
        paths: files or directories.
        format: one of `formats.FORMATS`, or "auto".
        names: the columns as they were told.
        partitions: how many partitions are wanted; None: it is streamed only if its files have LARGE bytes together.
        always: stream it, however large its files are.

    Raises:
        BadSetting: there are no so many partitions, or the log carries a split of its own.
        BadLog: a file or a column is missing.
    """
    asked = always or partitions is not None
    if not asked and sum(path.stat().st_size for path in listing(paths)) < LARGE:
        return None
    if partitions is not None and not 1 <= partitions <= MOST:
        raise BadSetting(f"partitions lie in 1..{MOST}; got {partitions} (from --partitions {partitions})")
    source, found = source_of(format, paths)
    whole = source.parts is not None or source.catalogue
    if whole and asked:
        raise BadSetting(
            f"format '{found}' brings a split or a catalogue of its own, and partitions hold neither; leave out "
            "--partitions and --engine"
        )
    if whole or (not asked and sum(_size(table) for table in source.tables) < LARGE):
        return None
    wanted = names.over(source.names)
    chosen = [columns.resolve(table, wanted) for table in source.tables]
    check_ratings(source.tables, chosen)
    notes = (*source.notes, *chosen_note(chosen[0], names))
    if partitions is None:
        partitions = min(max(-(-sum(_rows(table) for table in source.tables) // ROWS), 1), MOST)
    return Plan(source, tuple(chosen), found, notes, partitions)


def _size(table: Table) -> int:
    return table.path.stat().st_size


def _rows(table: Table) -> int:
    """The rows of a file: of Parquet exactly, else out of its size and its first lines."""
    if isinstance(table, Parquet):
        return table.rows()
    with table.path.open("rb") as file:
        packed = file.read(2) == GZIP
    start = next(blocks(table.path, 2**16))
    return int(_size(table) * (_PACKED if packed else 1) * start.count(b"\n") / len(start)) + 1
