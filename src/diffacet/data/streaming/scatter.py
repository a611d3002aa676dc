"""From a piece of the raw files to rows by partition, and how often each item is among them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from diffacet.data.formats.delimited import Delimited
from diffacet.data.formats.jsonlines import JsonLines
from diffacet.data.formats.parquet import Parquet
from diffacet.data.formats.raw import Span
from diffacet.data.formats.source import Block, Names, Table
from diffacet.data.streaming import casting, spill
from diffacet.data.streaming.casting import First, Kind
from diffacet.data.streaming.coding import coded
from diffacet.data.streaming.hashes import partitions_of

TOGETHER = 2**22
"""Rows of a Parquet file that are taken at once, about."""
_TEXT = 2**26  # bytes of a text file that are taken at once
_SPAN = 2**27  # bytes of a text file that are a piece, where it can be cut
_HEAD = 2**16  # bytes in which its first row is looked for


@dataclass(frozen=True)
class Piece:
    """A file, or some rows of one.

    Attributes:
        number: its place among all pieces, which stand in the order of the files.
        table: the file.
        names: its columns by role.
        start, rows: of a Parquet file the rows; None: all.
        span: of a text file the lines; None: all.
        first: the first time of the file, where it is not the piece's own first one.
        size: bytes of the file, about.
    """

    number: int
    table: Table
    names: Names
    start: int = 0
    rows: int | None = None
    span: Span | None = None
    first: First | None = None
    size: int = 0


@dataclass(frozen=True)
class Scattering:
    """The task: scatter `piece` over so many `partitions` into files in `folder`."""

    piece: Piece
    partitions: int
    folder: Path
    drop_timeless: bool = False


@dataclass(frozen=True)
class Batch:
    """Rows that were scattered together.

    Attributes:
        unit: what their times count a second.
        places: (partitions + 1) bytes in the spill file at which the partitions' segments begin.
        user, item: what is known of the ids.
        counts: the file that says how often each item occurs: item, len.
    """

    unit: int
    places: tuple[int, ...]
    user: Kind
    item: Kind
    counts: Path


@dataclass(frozen=True)
class Scattered:
    """What became of a piece: its spill file, the batches in it, and how many rows were kept and dropped."""

    number: int
    path: Path
    batches: tuple[Batch, ...]
    rows: int
    dropped: int


def cut(tables: Iterable[tuple[Table, Names]]) -> list[Piece]:
    """The pieces of files: ranges of rows of Parquet, spans of long text; any other file whole.

    Raises BadLog when a file is damaged.
    """
    pieces: list[Piece] = []
    for table, names in tables:
        for piece in _cut(table, names):
            pieces.append(replace(piece, number=len(pieces)))
    return pieces


def _cut(table: Table, names: Names) -> Iterator[Piece]:
    wanted, size = casting.wanted(names), table.path.stat().st_size
    if isinstance(table, Parquet):
        rows = table.rows()
        first = casting.first_time(table.part(wanted, 0, 1), names) if rows else None
        for start in range(0, max(rows, 1), TOGETHER):
            count = min(TOGETHER, rows - start)
            yield Piece(0, table, names, start, count, first=first, size=size * count // max(rows, 1))
        return
    if isinstance(table, Delimited | JsonLines) and size > _SPAN:
        spans = table.spans(_SPAN)
        if spans:
            first = casting.first_time(next(table.batches(wanted, _HEAD, spans[0])), names)
            yield from (Piece(0, table, names, span=span, first=first, size=span.end - span.start) for span in spans)
            return
    yield Piece(0, table, names, size=size)


def scatter(task: Scattering) -> Scattered:
    """Read, cast and check the rows of a piece, and write them by partition of their users.

    Raises:
        BadLog: a row cannot be read; the message names file and row.
        OSError: a file cannot be written.
    """
    piece = task.piece
    path = task.folder / f"piece-{piece.number:06}.spill"
    batches: list[Batch] = []
    first, kept, dropped = piece.first, 0, 0
    with spill.placed(path) as whole, whole.open("wb") as file:
        for block in _blocks(piece):
            first = first or casting.first_time(block, piece.names)
            rows = casting.cast(block, piece.table.path, piece.names, drop_timeless=task.drop_timeless, first=first)
            kept, dropped = kept + rows.frame.height, dropped + rows.dropped
            if not rows.frame.height:
                continue
            counts = task.folder / f"counts-{piece.number:06}-{len(batches):06}.arrow"
            with spill.placed(counts) as place:
                _count(rows.frame["item"]).write_ipc(place)
            partition = partitions_of(rows.frame["user"], task.partitions)
            places = spill.append(file, rows.frame, partition, task.partitions)
            batches.append(Batch(rows.unit, tuple(places), rows.user, rows.item, counts))
    return Scattered(piece.number, path, tuple(batches), kept, dropped)


def segments(scattered: list[Scattered], partition: int) -> tuple[spill.Segment, ...]:
    """Where the rows of a partition lie, in the order of the pieces and of the rows in them."""
    return tuple(
        spill.Segment(one.path, batch.places[partition], size, batch.unit)
        for one in sorted(scattered, key=lambda one: one.number)
        for batch in one.batches
        if (size := batch.places[partition + 1] - batch.places[partition])
    )


def _blocks(piece: Piece) -> Iterator[Block]:
    names, table = casting.wanted(piece.names), piece.table
    if isinstance(table, Parquet) and piece.rows:
        yield table.part(names, piece.start, piece.rows)
    elif isinstance(table, Delimited | JsonLines):
        yield from table.batches(names, _TEXT, piece.span)
    else:
        yield table.read(names)


def _count(items: pl.Series) -> pl.DataFrame:
    distinct, codes = coded(items)
    return pl.DataFrame({"item": distinct, "len": np.bincount(codes, minlength=len(distinct))})
