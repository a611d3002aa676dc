"""Reading partitions: the facts at once, the rows of a range of users when they are asked for."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from diffacet.data import about, user_ranges
from diffacet.data.ids import Ids
from diffacet.data.interactions import Interactions, Times
from diffacet.data.partitions import manifest
from diffacet.data.partitions.manifest import MANIFEST, MEND, FileEntry, Manifest, Part
from diffacet.data.sequences import IntArray, Sequences
from diffacet.errors import BadLog

_KNOWN = 128  # partitions of which the users' places are kept


@dataclass(frozen=True, eq=False)
class Partitions:
    """A partitioned data directory, of which only manifest.json and dataset.json were read.

    Attributes:
        path: the directory.
        manifest: its files.
        times: "real", or "rank" when a time only counts a user's interactions.
        fingerprint: 16 hex digits of the log's content, which the number of partitions does not change.
        provenance: where it came from, as its writer told.
        statistics: what `Interactions.statistics` would tell.
    """

    path: Path
    manifest: Manifest
    times: Times
    fingerprint: str
    provenance: dict[str, Any]
    statistics: dict[str, Any]

    @classmethod
    def open(cls, path: Path, *, verify: bool = True) -> "Partitions":
        """The partitions in the directory `path`.

        Args:
            path: the directory.
            verify: read every file for its checksum; otherwise only look whether all are there with their sizes, as
                further processes do where a first one has read them.

        Raises:
            BadLog: dataset.json or the manifest is damaged, or a file is missing, not named, or another one than was
                written; it is named.
        """
        path = Path(path)
        told = about.read(path / about.ABOUT, (about.PARTITIONED,))
        found = manifest.read(path)
        manifest.check(path, found, verify=verify)
        if told.get("manifest") != manifest.digest(path / MANIFEST):
            raise BadLog(f"{path / MANIFEST} was changed after it was written; {MEND}")
        return cls(path, found, told["times"], told["fingerprint"], told["provenance"], told.get("statistics", {}))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The partitions in order."""
        return self.manifest.parts

    @property
    def n_users(self) -> int:
        """U; each has at least one interaction."""
        return self.parts[-1].end

    @property
    def n_items(self) -> int:
        """N, the size of the catalogue."""
        return self.manifest.items.rows

    @property
    def has_ratings(self) -> bool:
        """Whether interactions have ratings."""
        return self.manifest.ratings

    def lengths(self) -> IntArray:
        """(U,) int64 interactions of each user."""
        every = [self._column(part.users, "interactions").to_numpy() for part in self.parts]
        return np.concatenate(every).astype(np.int64, copy=False)

    def sequences(self, first: int, last: int) -> Sequences:
        """The sequences of the users `first`..`last` - 1, their numbers kept; read are the row groups they lie in.

        Raises:
            ValueError: these are no users of the log.
            BadLog: a file cannot be read.
        """
        return user_ranges.joined([self._sequences(part, *ends) for part, ends in self._within(first, last)])

    def user_ids(self, first: int, last: int) -> pl.Series:
        """The ids of the users `first`..`last` - 1; see `sequences` for what is raised."""
        found = [
            self._column(part.users, "user_id", begin, end - begin) for part, (begin, end) in self._within(first, last)
        ]
        return pl.concat(found, rechunk=True) if found else self._column(self.parts[0].users, "user_id", 0, 0)

    def items(self) -> Ids:
        """The items' ids, by number: the catalogue."""
        return Ids(self._described["item_id"], 1)

    @property
    def titles(self) -> pl.Series | None:
        """(N,) Utf8 by item number, row 0 being item 1; or None."""
        return self._described["title"] if "title" in self._described.columns else None

    @property
    def categories(self) -> pl.Series | None:
        """(N,) List[Utf8] by item number, never null, maybe empty; or None."""
        return self._described["categories"] if "categories" in self._described.columns else None

    def log(self) -> Interactions:
        """The whole log, in memory; raises BadLog when a file cannot be read."""
        user = np.repeat(np.arange(self.n_users, dtype=np.int64), self.lengths())
        columns = {"user": pl.Series(user)}
        wanted = {"item": "item", "time": "timestamp"} | ({"rating": "rating"} if self.has_ratings else {})
        for name, stored in wanted.items():
            found = pl.concat([self._column(part.interactions, stored) for part in self.parts], rechunk=True)
            columns[name] = found.cast(pl.Int64) if name == "item" else found
        users = Ids(self.user_ids(0, self.n_users), 0)
        return Interactions(pl.DataFrame(columns), users, self.items(), self.titles, self.categories, self.times)

    @cached_property
    def _described(self) -> pl.DataFrame:
        path = self.path / self.manifest.items.file
        try:
            return pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise about.unreadable(path, error) from error

    def _within(self, first: int, last: int) -> list[tuple[Part, tuple[int, int]]]:
        """The partitions that have some of the users, and the range of their own rows of users."""
        if not 0 <= first <= last <= self.n_users:
            raise ValueError(f"users lie in 0..{self.n_users - 1}; got {first}..{last - 1}")
        begin = bisect_right(self.parts, first, key=lambda part: part.end)
        end = bisect_left(self.parts, last, key=lambda part: part.first_user)
        there = (part for part in self.parts[begin:end] if part.users.rows)
        return [(part, (max(first - part.first_user, 0), min(last, part.end) - part.first_user)) for part in there]

    def _sequences(self, part: Part, first: int, last: int) -> Sequences:
        starts = _starts(self.path / part.users.file, part.users.sha256)
        begin, rows = int(starts[first]), int(starts[last] - starts[first])
        found = self._read(part.interactions, ("item", "timestamp"), begin, rows)
        users = np.arange(part.first_user + first, part.first_user + last, dtype=np.int64)
        items, times = found["item"].cast(pl.Int64).to_numpy(), found["timestamp"].to_numpy()
        return Sequences(items, starts[first : last + 1] - begin, users, times)

    def _column(self, entry: FileEntry, name: str, begin: int = 0, rows: int | None = None) -> pl.Series:
        return self._read(entry, (name,), begin, rows)[name]

    def _read(self, entry: FileEntry, columns: Sequence[str], begin: int, rows: int | None) -> pl.DataFrame:
        return read(self.path / entry.file, columns, begin, rows)


@lru_cache(_KNOWN)
def _starts(path: Path, sha256: str) -> IntArray:
    """(users + 1,) int64 the rows at which the users of a partition begin; `sha256` tells files of one name apart."""
    del sha256
    counts = read(path, ("interactions",))["interactions"].to_numpy()
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def read(path: Path, columns: Sequence[str], begin: int = 0, rows: int | None = None) -> pl.DataFrame:
    """`columns` of a Parquet file, `rows` rows from row `begin` on; None: all of them.

    Of the file no other columns, and no other row groups, are read. Raises BadLog when it cannot be.
    """
    try:
        return pl.scan_parquet(path, glob=False).select(columns).slice(begin, rows).collect().rechunk()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise about.unreadable(path, error) from error
