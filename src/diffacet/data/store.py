"""The data directory: a log on disk, with its catalogue, its provenance and its fingerprint.

    interactions.parquet   user_id, item_id, timestamp, maybe rating, maybe part; in the log's order
    items.parquet          item_id, maybe title and categories; row n is item n + 1
    dataset.json           format, fingerprint, times, maybe parts, provenance, statistics

One whose log is partitioned by user, see `partitions`, opens as well, and so does a directory without dataset.json,
which others made; see `open`.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from diffacet import files
from diffacet.data import about as telling
from diffacet.data.about import ABOUT, ITEMS
from diffacet.data.ids import Ids
from diffacet.data.interactions import PARTS, Interactions, Times
from diffacet.data.partitions import MANIFEST, Partitions
from diffacet.errors import BadLog

__all__ = ["ABOUT", "FORMAT", "ITEMS", "LOG", "Dataset", "fingerprint", "open", "there", "write"]

FORMAT = telling.SINGLE
LOG = "interactions.parquet"
VALID_NAMES = dict.fromkeys(("val", "validation", "dev"), "valid")
"""What others call the part that validates."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """An opened data directory.

    Attributes:
        path: the directory.
        name: its name.
        source: its interactions, or its partitions, of which no row was read.
        fingerprint: 16 hex digits of the log's content, see `fingerprint`; of partitions see `write_about`.
        provenance: where it came from, as its writer told; None for a directory that others made.
    """

    path: Path
    name: str
    source: Interactions | Partitions
    fingerprint: str
    provenance: dict[str, Any] | None

    @cached_property
    def log(self) -> Interactions:
        """Its interactions; those of partitions are read, all of them, when they are first asked for."""
        return self.source.log() if isinstance(self.source, Partitions) else self.source

    @property
    def partitions(self) -> Partitions | None:
        """Its partitions; None where it has none."""
        return self.source if isinstance(self.source, Partitions) else None

    @property
    def n_users(self) -> int:
        """U; each has at least one interaction."""
        return self.source.n_users

    @property
    def n_items(self) -> int:
        """N, the size of the catalogue."""
        return self.source.n_items

    @property
    def items(self) -> Ids:
        """The items' ids, by number: the catalogue."""
        return self.source.items() if isinstance(self.source, Partitions) else self.source.items

    @property
    def titles(self) -> pl.Series | None:
        """(N,) Utf8 by item number, row 0 being item 1; or None."""
        return self.source.titles

    @property
    def categories(self) -> pl.Series | None:
        """(N,) List[Utf8] by item number, never null, maybe empty; or None."""
        return self.source.categories

    @property
    def has_parts(self) -> bool:
        """Whether the log carries its own split; partitions hold none."""
        return not isinstance(self.source, Partitions) and self.source.has_parts

    @property
    def parts_divide_users(self) -> bool:
        """Whether the log carries its own split, and each user's interactions are all in one part of it."""
        return not isinstance(self.source, Partitions) and self.source.parts_divide_users

    def statistics(self) -> dict[str, Any]:
        """Plain numbers that describe the log, see `Interactions.statistics`; those of partitions are kept."""
        return self.source.statistics if isinstance(self.source, Partitions) else self.source.statistics()


def fingerprint(log: Interactions) -> str:
    """16 hex digits of the users, items, times, parts and ratings of `log` in order, and of all ids, as strings.

    Titles and categories do not count.
    """
    parts = [log.column(name) for name in log.frame.columns if name != "rating"]
    if "rating" in log.frame.columns:
        parts.append(log.frame["rating"].fill_null(float("nan")).to_numpy())
    for ids in (log.users.values, log.items.values):
        texts = ids.cast(pl.Utf8)
        parts.append(texts.str.len_bytes().to_numpy())
        parts.append(texts.str.join("").item())
    return files.fingerprint(*parts)


def check_out(out: Path) -> None:
    """Refuse a directory to make that holds something. Raises BadLog."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise BadLog(f"{out} exists and is not an empty directory; name another one, or remove it first")


def write(log: Interactions, out: Path, provenance: dict[str, Any]) -> None:
    """Write `log` as the data directory `out`, whole or not at all.

    Args:
        log: what to write.
        out: the directory; it must not exist, or be empty.
        provenance: where the log came from; anything that JSON can hold.

    Raises:
        BadLog: `out` holds something, or cannot be written.
    """
    check_out(out)
    frame = pl.DataFrame(
        {
            "user_id": log.users.ids(log.column("user")),
            "item_id": log.items.ids(log.column("item")),
            "timestamp": log.frame["time"],
            **({"rating": log.frame["rating"]} if "rating" in log.frame.columns else {}),
            **({"part": pl.Series(PARTS).gather(log.frame["part"])} if log.has_parts else {}),
        }
    )
    described = {"item_id": log.items.values, "title": log.titles, "categories": log.categories}
    items = pl.DataFrame({name: column for name, column in described.items() if column is not None})
    about = {
        "format": FORMAT,
        "fingerprint": fingerprint(log),
        "times": log.times,
        **({"parts": True} if log.has_parts else {}),
        "provenance": provenance,
        "statistics": log.statistics(),
    }
    try:
        with files.new_directory(out) as folder:
            files.write_file(folder / LOG, lambda path: frame.write_parquet(path, compression="zstd"))
            files.write_file(folder / ITEMS, lambda path: items.write_parquet(path, compression="zstd"))
            files.write_json(folder / ABOUT, about)
    except OSError as error:
        raise BadLog(f"{out} cannot be written ({error}); nothing is left of it") from error


def there(path: Path) -> bool:
    """Whether the directory `path` looks like a data directory: it has a table of interactions, or partitions."""
    return (path / LOG).is_file() or ((path / ABOUT).is_file() and (path / MANIFEST).is_file())


def open(path: Path, *, parts: bool = False) -> Dataset:  # noqa: A001
    """The data set in the directory `path`: one that `write` made, or one that others made.

    In the latter, interactions.parquet has user_id, item_id (integers or strings) and timestamp or
    position (integers; timestamp wins), maybe rating, in any order and beside any other columns (a column
    part is ignored unless asked for, since others split by rules of their own);
    items.parquet, if there, has item_id, maybe title and categories (lists of strings or numbers),
    and the catalogue is what occurs in the log.

    Args:
        path: the directory.
        parts: read the column part of a directory that others made, if it has one: train, valid (or val,
            validation, dev) or test. The fingerprint then is another one.

    Raises:
        BadLog: the directory or a file is missing or unreadable, a column is missing or of the wrong type, an id
            or time is missing, there is no row, or the content is not what its dataset.json says.
    """
    path = Path(path)
    if not path.is_dir():
        raise BadLog(f"{path} is not a directory; a data directory holds {LOG}, and `diffacet import` makes one")
    about = telling.read(path / ABOUT) if (path / ABOUT).exists() else None
    if about and about["format"] == telling.PARTITIONED:
        partitions = Partitions.open(path)
        return Dataset(path, path.resolve().name, partitions, partitions.fingerprint, partitions.provenance)
    if not (path / LOG).is_file():
        found = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
        raise BadLog(f"{path} holds no {LOG} (but {found}); `diffacet import` makes a data directory from a raw log")
    known = bool(about.get("parts")) if about else parts
    frame, positions = _read_log(path / LOG, known)
    known = known and (about is not None or "part" in frame.columns)
    items = _read(path / ITEMS, "item_id", "title", "categories") if about or (path / ITEMS).exists() else None
    times: Times | None = about["times"] if about else "rank" if positions else None
    try:
        log = Interactions.from_frame(frame, items, catalogue=about is not None, times=times, parts=known)
    except BadLog as error:
        raise BadLog(f"{path}: {error}") from None
    found = fingerprint(log)
    if about and about["fingerprint"] != found:
        raise BadLog(
            f"{path} was changed after it was written: its fingerprint is {found}, and {ABOUT} says "
            f"{about['fingerprint']}; import it again, or remove {ABOUT} to open it as it is"
        )
    return Dataset(path, path.resolve().name, log, found, about["provenance"] if about else None)


def _read_log(path: Path, parts: bool) -> tuple[pl.DataFrame, bool]:
    """The columns of an interactions.parquet that count, and whether its times are positions."""
    frame = _read(path, "user_id", "item_id", "timestamp", "position", "rating", *(["part"] if parts else []))
    if "part" in frame.columns:
        frame = frame.with_columns(pl.col("part").cast(pl.Utf8).replace(VALID_NAMES))
    if "timestamp" in frame.columns or "position" not in frame.columns:
        return frame, False
    return frame.rename({"position": "timestamp"}), True


def _read(path: Path, *columns: str) -> pl.DataFrame:
    """Those of `columns` that the Parquet file has (all of its columns when the first is not among them)."""
    try:
        there = pl.read_parquet_schema(path)
        wanted = [name for name in columns if name in there]
        return pl.read_parquet(path, columns=wanted if columns[0] in there else None)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise telling.unreadable(path, error) from error
