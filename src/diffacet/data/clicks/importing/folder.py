"""The folder of a click data set as an importer makes it, and what is told about it."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from diffacet import files
from diffacet.data import store
from diffacet.data.clicks.reading import ABOUT, BEHAVIOURS, ITEMS, SAMPLES, USERS
from diffacet.data.clicks.schema import Schema
from diffacet.errors import BadLog

ROWS = 2**18
"""Rows of a row group; said, so that the bytes of a file do not depend on the machine."""

Counts = tuple[tuple[str, int], ...]
"""What was met and left out or changed, in words, and how often."""

Progress = Callable[[int, int], None]
"""Told (done, all) from time to time."""


@dataclass(frozen=True, eq=False)
class Made:
    """A click data set in memory, before it is written.

    Attributes:
        schema: what its columns mean.
        samples: user_id, item_id, timestamp (Int64 milliseconds), label (Int8), further columns.
        behaviours: user_id, timestamp, further columns; None where the samples bring their histories along.
        items: item_id, unique, further columns; None: there are none.
        users: user_id, unique, further columns; None: there are none.
        counts: rows that were dropped, merged or changed.
        notes: what was decided, in words.
        files: what was read, in order.
    """

    schema: Schema
    samples: pl.DataFrame
    behaviours: pl.DataFrame | None
    items: pl.DataFrame | None = None
    users: pl.DataFrame | None = None
    counts: Counts = ()
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figures:
    """The size of a click data set.

    Rows, clicks, users, items shown, first and last time (milliseconds) of the samples; rows and users of the
    behaviours, None where histories lie inside the samples.
    """

    samples: int
    clicks: int
    users: int
    items: int
    first: int
    last: int
    behaviours: int | None
    behaviour_users: int | None


@dataclass(frozen=True)
class Report:
    """An import that is done.

    Attributes:
        path: the folder.
        schema: what is in it.
        figures: its size.
        counts: rows that were dropped, merged or changed.
        notes: what was decided, in words.
        files: what was read, in order.
        format: how it was read.
    """

    path: Path
    schema: Schema
    figures: Figures
    counts: Counts
    notes: tuple[str, ...]
    files: tuple[str, ...]
    format: str


def write(made: Made, out: Path, format: str) -> Report:  # noqa: A002
    """Write `made` as the folder `out`, whole or not at all; raises BadLog when `out` holds something."""
    with new(out) as folder:
        put(made.samples, folder / SAMPLES)
        for frame, name in ((made.behaviours, BEHAVIOURS), (made.items, ITEMS), (made.users, USERS)):
            if frame is not None:
                put(frame, folder / name)
        files.write_json(folder / ABOUT, made.schema.to_json())
    told = figures([made.samples], None if made.behaviours is None else [made.behaviours])
    return Report(out, made.schema, told, made.counts, made.notes, made.files, format)


def new(out: Path) -> AbstractContextManager[Path]:
    """A directory that becomes `out` when the block ends well; raises BadLog when it holds something or cannot be."""
    store.check_out(out)
    return _new(out)


@contextmanager
def _new(out: Path) -> Any:
    try:
        with files.new_directory(out) as folder:
            yield folder
    except OSError as error:
        raise BadLog(f"{out} cannot be written ({error}); nothing is left of it") from error


def put(frame: pl.DataFrame, path: Path) -> None:
    """Write `frame` to `path`; the same frame gives the same bytes."""
    files.write_file(path, lambda name: frame.write_parquet(name, compression="zstd", row_group_size=ROWS))


def join(parts: Iterable[Path], path: Path, rows: int = ROWS) -> None:
    """Write the rows of Parquet files one after another to `path`, a part in memory at a time."""
    frame = pl.scan_parquet([str(part) for part in parts])

    def sink(name: Path) -> None:
        frame.sink_parquet(str(name), compression="zstd", row_group_size=rows, maintain_order=True)

    files.write_file(path, sink)


def figures(samples: Iterable[Path | pl.DataFrame], behaviours: Iterable[Path | pl.DataFrame] | None) -> Figures:
    """The size of a data set of these samples and behaviours, each in parts that are looked at one after another."""
    told = _count(samples, ("user_id", "item_id", "timestamp", "label"))
    done = None if behaviours is None else _count(behaviours, ("user_id",))
    return Figures(
        samples=told["rows"],
        clicks=told["clicks"],
        users=told["user_id"],
        items=told["item_id"],
        first=told["first"],
        last=told["last"],
        behaviours=None if done is None else done["rows"],
        behaviour_users=None if done is None else done["user_id"],
    )


def _count(parts: Iterable[Path | pl.DataFrame], columns: Sequence[str]) -> dict[str, int]:
    """Rows, distinct ids, clicks, first and last time, as far as `columns` has them."""
    keys = [name for name in columns if name in ("user_id", "item_id")]
    seen: dict[str, pl.Series] = {}
    told = {"rows": 0, "clicks": 0}
    for part in parts:
        frame = pl.read_parquet(part, columns=list(columns)) if isinstance(part, Path) else part
        told["rows"] += frame.height
        for key in keys:
            found = frame[key].unique()
            seen[key] = found if key not in seen else pl.concat([seen[key], found]).unique()
        if "label" in columns:
            told["clicks"] += int(frame["label"].cast(pl.Int64).sum())
            first, last = int(frame["timestamp"].to_numpy().min()), int(frame["timestamp"].to_numpy().max())
            told |= {"first": min(told.get("first", first), first), "last": max(told.get("last", last), last)}
    return told | {key: len(seen[key]) for key in keys}
