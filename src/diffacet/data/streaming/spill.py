"""Rows on their way from the pieces of a log to its partitions: one file a piece, in it segments by partition."""

import io
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl

from diffacet.data.streaming.hashes import Places
from diffacet.errors import BadLog


@dataclass(frozen=True)
class Segment:
    """Where rows of one partition lie: `size` bytes (an Arrow stream) from byte `start` of `path` on.

    `unit` is what their times count a second.
    """

    path: Path
    start: int
    size: int
    unit: int


@contextmanager
def placed(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` when the block ends: of two who write it each has a whole one.

    Unlike `files.write_file` it does not wait for the disk: nothing of a spill file is read after a crash.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    yield temporary
    temporary.replace(path)


def append(file: BinaryIO, frame: pl.DataFrame, partition: Places, partitions: int) -> list[int]:
    """Write the rows of `frame` by partition (n,), each partition's in their order.

    Returns the bytes at which the partitions' segments begin, and the one behind the last; empty ones take none.
    Raises OSError.
    """
    order = np.argsort(partition, kind="stable")
    ends = np.cumsum(np.bincount(partition, minlength=partitions))
    ordered = frame[order]
    places = [file.tell()]
    for end, rows in zip(ends.tolist(), np.diff(ends, prepend=0).tolist(), strict=True):
        if rows:
            held = io.BytesIO()
            # The oldest form has texts one after another; the newest would keep all of the frame's in each slice.
            ordered.slice(end - rows, rows).write_ipc_stream(held, compat_level=pl.CompatLevel.oldest())
            file.write(held.getbuffer())
        places.append(file.tell())
    return places


def gather(segments: Iterable[Segment], unit: int, *, users: pl.DataType, items: pl.DataType) -> pl.DataFrame:
    """The rows of `segments`, one after another; ids of the types that the whole log has, times in `unit`.

    Raises BadLog when a file is not what was written.
    """
    frames = []
    for segment in segments:
        frame = _read(segment).with_columns(pl.col("user").cast(users), pl.col("item").cast(items))
        if "time" in frame.columns and segment.unit != unit:
            frame = frame.with_columns(pl.col("time") * (unit // segment.unit))
        frames.append(frame)
    return pl.concat(frames, rechunk=True)


def _read(segment: Segment) -> pl.DataFrame:
    try:
        with segment.path.open("rb") as file:
            file.seek(segment.start)
            return pl.read_ipc_stream(io.BytesIO(file.read(segment.size)))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BadLog(f"{segment.path}, written by this import, cannot be read ({error}); import again") from error
