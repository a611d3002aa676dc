"""Writing partitions: the same rows give the same bytes, whatever process writes them and however often."""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diffacet import files
from diffacet.data import about
from diffacet.data.interactions import Times
from diffacet.data.partitions import manifest
from diffacet.data.partitions.manifest import INTERACTIONS, USERS, FileEntry, Manifest, Part
from diffacet.errors import BadLog

ROW_GROUP = 2**17
"""Rows that are read at least, where a few users are asked for."""
TYPES = {"user": pl.Int64(), "item": pl.Int32(), "timestamp": pl.Int64(), "rating": pl.Float64()}


def write_partition(folder: Path, number: int, users: pl.DataFrame, interactions: pl.DataFrame) -> None:
    """Write the two files of partition `number` into the data directory `folder`, which need not be whole yet.

    Args:
        folder: the data directory; folders in it are made where they are missing.
        number: of the partition, 0..99999.
        users: user_id (integers or strings), interactions (Int64, 1 or more); in the order of their numbers.
        interactions: user (Int64, numbered over the whole log), item (Int32, from 1 on), timestamp (Int64), maybe
            rating (Float64); sorted by user, oldest first.

    Raises:
        ValueError: the columns are others, or the interactions are not those of `users`, user by user.
        OSError: the disk is full, or cannot be written.
    """
    wanted = {name: kind for name, kind in TYPES.items() if name != "rating" or name in interactions.columns}
    if dict(interactions.schema) != wanted or users.columns != ["user_id", "interactions"]:
        raise ValueError(f"the columns of a partition are {wanted}; got {interactions.schema} and {users.schema}")
    counts, user = users["interactions"].to_numpy(), interactions["user"].to_numpy()
    first = int(user[0]) if len(user) else 0
    if not np.array_equal(user, np.repeat(np.arange(first, first + len(counts)), counts)) or (counts < 1).any():
        raise ValueError("the interactions of a partition are not sorted, or not those of its users")
    for kind, frame in ((INTERACTIONS, interactions), (USERS, users)):
        path = folder / kind / f"{number:05}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_file(path, _writer(frame))


def write_about(
    folder: Path,
    *,
    items: pl.DataFrame,
    times: Times,
    statistics: dict[str, Any],
    provenance: dict[str, Any],
) -> str:
    """Write what a data directory of partitions has beside them, dataset.json last; returns the fingerprint.

    The fingerprint stands for the interactions of each user, in order, and for all ids, and does not depend on the
    number of partitions. Memory is that of one partition and of the items.

    Args:
        folder: the data directory with all its partitions.
        items: item_id (integers or strings), interactions, maybe title and categories; row n is item n + 1.
        times: what the timestamps are.
        statistics: figures of the log, see `Interactions.statistics`.
        provenance: where the log came from; anything that JSON can hold.

    Raises:
        BadLog: a partition is missing, or two do not belong together.
        OSError: the disk is full, or cannot be written.
    """
    content = _Content()
    numbers = [sorted(path.stem for path in (folder / kind).glob("*.parquet")) for kind in (INTERACTIONS, USERS)]
    expected = [f"{number:05}" for number in range(len(numbers[0]))]
    if not expected or numbers != [expected, expected]:
        raise BadLog(f"{folder} has not all of its partitions: {numbers[0]} of interactions, {numbers[1]} of users")
    parts: list[Part] = []
    for number in range(len(expected)):
        parts.append(content.add(folder, number, parts[-1].end if parts else 0))
    path = folder / about.ITEMS
    files.write_file(path, _writer(items))
    whole = Manifest(tuple(parts), entry_of(folder, about.ITEMS, items.height), content.ratings)
    files.write_json(folder / manifest.MANIFEST, whole.to_json())
    fingerprint = content.fingerprint(items["item_id"])
    told = {
        "format": about.PARTITIONED,
        "fingerprint": fingerprint,
        "times": times,
        "manifest": manifest.digest(folder / manifest.MANIFEST),
        "provenance": provenance,
        "statistics": statistics,
    }
    files.write_json(folder / about.ABOUT, told)
    return fingerprint


def entry_of(folder: Path, file: str, rows: int) -> FileEntry:
    """The manifest's entry of a file that is there."""
    return FileEntry(file, rows, (folder / file).stat().st_size, manifest.digest(folder / file))


def _writer(frame: pl.DataFrame) -> Callable[[Path], None]:
    """Writes `frame` as bytes that its content decides, not how it lies in memory."""
    whole = frame.rechunk()
    return lambda path: whole.write_parquet(path, compression="zstd", row_group_size=ROW_GROUP, statistics=True)


class _Content:
    """Digests of a log that grow partition by partition; each is that of a column of the whole log."""

    def __init__(self) -> None:
        names = ("counts", "item", "timestamp", "rating", "lengths", "texts")
        self._digests = {name: hashlib.blake2b(digest_size=16) for name in names}
        self._kinds: list[pl.DataType] | None = None
        self.ratings = False

    def add(self, folder: Path, number: int, first_user: int) -> Part:
        """Take in partition `number`, whose first user is `first_user`, and say what its files are."""
        named = {kind: f"{kind}/{number:05}.parquet" for kind in (INTERACTIONS, USERS)}
        users, rows = pl.read_parquet(folder / named[USERS]), pl.read_parquet(folder / named[INTERACTIONS])
        kinds = [*users.dtypes, *rows.dtypes]
        if self._kinds not in (None, kinds):
            raise BadLog(f"{folder}: partition {number} has columns {kinds}, those before it {self._kinds}")
        self._kinds, self.ratings = kinds, "rating" in rows.columns
        if rows.height and rows["user"][0] != first_user:
            raise BadLog(f"{folder}: partition {number} begins with user {rows['user'][0]} and not {first_user}")
        columns = {"counts": users["interactions"], "item": rows["item"], "timestamp": rows["timestamp"]}
        if self.ratings:
            columns["rating"] = rows["rating"].fill_null(float("nan"))
        arrays = {name: column.to_numpy() for name, column in columns.items()} | dict(_texts(users["user_id"]))
        with ThreadPoolExecutor(2) as pool:
            entries = [pool.submit(entry_of, folder, named[kind], len(part)) for kind, part in _both(rows, users)]
            for done in [pool.submit(self._take, name, array) for name, array in arrays.items()]:
                done.result()
        return Part(entries[0].result(), entries[1].result(), first_user, number)

    def fingerprint(self, items: pl.Series) -> str:
        """16 hex digits of all that was taken in, and of the items' ids."""
        columns = [f"{name} {digest.hexdigest()}" for name, digest in self._digests.items()]
        ids = [array for _, array in _texts(items)]
        return files.fingerprint(f"format {about.PARTITIONED}", f"ratings {self.ratings}", *columns, *ids)

    def _take(self, name: str, array: NDArray[Any]) -> None:
        self._digests[name].update(np.ascontiguousarray(array).data)


def _both(rows: pl.DataFrame, users: pl.DataFrame) -> Iterable[tuple[str, pl.DataFrame]]:
    return ((INTERACTIONS, rows), (USERS, users))


def _texts(ids: pl.Series) -> list[tuple[str, NDArray[Any]]]:
    """The ids as texts, so that 12 and "12" are alike: lengths in bytes, and all bytes."""
    texts = ids.cast(pl.String)
    joined = np.frombuffer(texts.str.join("").item().encode(), np.uint8)
    return [("lengths", texts.str.len_bytes().to_numpy()), ("texts", joined)]
