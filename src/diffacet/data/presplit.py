"""Logs that come already split: a file each for train, valid and test, as DiffRec's authors release theirs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from diffacet.arrays import distinct
from diffacet.data.formats import FORMATS, columns, sniff, times, values
from diffacet.data.formats.items import read_items
from diffacet.data.formats.source import Names
from diffacet.data.interactions import PARTS, Interactions
from diffacet.data.parts import TEST, TRAIN, VALID
from diffacet.data.sequences import IntArray
from diffacet.errors import BadLog


@dataclass(frozen=True)
class _Part:
    """One file: ids as they are there, times if it has them, and the row of the file that an index stands for."""

    path: Path
    user: pl.Series
    item: pl.Series
    time: times.Times | None
    row: Callable[[int], int]


def read_parts(
    train: Path,
    valid: Path,
    test: Path,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    items: Path | None = None,
) -> tuple[Interactions, tuple[str, ...]]:
    """The log of three files, with its parts, and notes on what was decided.

    Users are numbered by first appearance in `train`; items by first appearance in `train`, then in `valid`, then in
    `test`. Without times the order inside a part is that of its file, and a user's times are ranks over train, valid
    and test. An item that is only in `valid` or `test` stays in the catalogue; a user who is not in one of them is no
    case there.

    Args:
        train: Parquet, CSV or TSV with a header, JSON lines, or `.npy` of two integer columns (user, item).
        valid: the same, in any of these forms.
        test: the same.
        user: the column of the users; None: found by its name. `.npy` has no names.
        item: the column of the items; None: likewise.
        time: the column of the times; None: likewise, or none where one of the files has none; "none": not read.
        items: a file with the items' titles and categories.

    Raises:
        BadLog: a file cannot be read or has no rows; a pair of user and item occurs twice, in one file or in two;
            a user of `valid` or `test` is not in `train`. The message names files and rows.
    """
    parts = [_npy(path) if path.suffix == ".npy" else _table(path, user, item, time) for path in (train, valid, test)]
    rows = [len(part.user) for part in parts]
    place = np.repeat(np.arange(len(PARTS)), rows)
    (users,) = values.numbered(_joined([part.user for part in parts]))
    (own,) = values.numbered(_joined([part.item for part in parts]))
    _check_pairs(users, own, parts, rows)
    _check_users(users, place, parts, rows)
    stamps, ranks, notes = _times(users, parts)
    own, catalogue, described = _catalogue(own, items)
    frame = pl.DataFrame(
        {"user_id": users, "item_id": own, "timestamp": stamps, "part": pl.Series(PARTS).gather(place)}
    )
    log = Interactions.from_frame(frame, catalogue, catalogue=True, times="rank" if ranks else None, parts=True)
    return log, (*notes, *_rules(log, parts), *described)


def _npy(path: Path) -> _Part:
    """An array of two integer columns: user, item."""
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise BadLog(f"{path}: no such file; check the path") from error
    except (OSError, ValueError, EOFError) as error:
        raise BadLog(f"{path} cannot be read as an array ({error}); save two columns of whole numbers") from error
    if array.ndim != 2 or array.shape[1] != 2 or not np.issubdtype(array.dtype, np.integer):
        raise BadLog(
            f"{path} holds {array.dtype} of shape {array.shape}; a part is two columns of whole numbers, user and item"
        )
    if not len(array):
        raise BadLog(f"{path} has no rows; a part needs at least one")
    user, item = (pl.Series(name, array[:, n].astype(np.int64)) for n, name in enumerate(("user", "item")))
    return _Part(path, user, item, None, lambda index: index + 1)


def _table(path: Path, user: str | None, item: str | None, time: str | None) -> _Part:
    """A file with named columns."""
    if path.is_dir():
        raise BadLog(f"{path} is a directory; a part is one file")
    source = FORMATS[sniff([path])]([path])
    table = source.tables[0]
    wanted = Names(user, item, time, columns.NONE).over(source.names)
    timed = wanted.time or columns.find(table.columns, columns.TIME) or columns.NONE
    found = columns.resolve(table, replace(wanted, time=timed))
    names = [name for name in (found.user, found.item, found.time) if name and name != columns.NONE]
    block = table.read(names)

    def where(index: int) -> str:
        return f"{path}, row {block.row(index)}"

    return _Part(
        path,
        values.ids(block.frame[names[0]], where, names[0]),
        values.ids(block.frame[names[1]], where, names[1]),
        times.parse(block.frame[names[2]], where, names[2]) if len(names) > 2 else None,
        block.row,
    )


def _joined(columns: Sequence[pl.Series]) -> pl.Series:
    if len({column.dtype for column in columns}) > 1:
        columns = [column.cast(pl.String) for column in columns]
    return pl.concat([column.alias("") for column in columns], rechunk=True)


def _check_pairs(users: pl.Series, items: pl.Series, parts: Sequence[_Part], rows: Sequence[int]) -> None:
    """Refuse a pair of user and item that occurs twice: a mask would hide it, or a row count twice."""
    pairs = pl.DataFrame({"user": users, "item": items})
    again = (~pairs.select(pl.struct("user", "item").is_first_distinct()).to_series()).arg_true()
    if not len(again):
        return
    second = int(again[0])
    user, item = users[second], items[second]
    first = int(((users == user) & (items == item)).arg_true()[0])
    more = f", and {len(again) - 1} more pairs occur again" if len(again) > 1 else ""
    raise BadLog(
        f"{_where(first, parts, rows)} and {_where(second, parts, rows)} both say that user {user} has item {item}"
        f"{more}; each pair belongs to one part, once: drop one of the rows"
    )


def _check_users(users: pl.Series, place: IntArray, parts: Sequence[_Part], rows: Sequence[int]) -> None:
    """Refuse a user of whom nothing is known in training."""
    train = pl.Series(place == TRAIN)
    unknown = (~users.is_in(users.filter(train).implode())).arg_true()
    if len(unknown):
        first = int(unknown[0])
        count = users.gather(unknown).n_unique()
        more = f" (and {count - 1} more users)" if count > 1 else ""
        raise BadLog(
            f"{_where(first, parts, rows)}: user {users[first]} has no row in {parts[TRAIN].path}{more}; the models "
            "are shown a user's training rows: add some, or drop the user"
        )


def _where(index: int, parts: Sequence[_Part], rows: Sequence[int]) -> str:
    """File and row of a row of all parts together."""
    for part, count in zip(parts, rows, strict=True):
        if index < count:
            return f"{part.path}, row {part.row(index)}"
        index -= count
    raise IndexError(index)


def _times(users: pl.Series, parts: Sequence[_Part]) -> tuple[pl.Series, bool, list[str]]:
    """Times of all rows, whether they are ranks, and notes."""
    found = [part.time for part in parts if part.time is not None]
    if len(found) == len(parts):
        unit = max(time.unit for time in found)
        joined = times.Times(pl.concat([time.at(unit).alias("") for time in found], rechunk=True), unit)
        stamps, note = times.settle(users, joined)
        return stamps, False, [note] if note else []
    notes = ["timestamp: the position within the user: train, then valid, then test, each in file order"]
    if found:
        bare = next(part.path for part in parts if part.time is None)
        notes.append(f"times are not used, since {bare} has none")
    rank = pl.DataFrame({"user": users}).select(pl.int_range(pl.len(), dtype=pl.Int64).over("user")).to_series()
    return rank, True, notes


def _catalogue(items: pl.Series, path: Path | None) -> tuple[pl.Series, pl.DataFrame, list[str]]:
    """(the rows' item ids, the catalogue by first appearance with its descriptions, notes)."""
    if path is None:
        return items, pl.DataFrame({"item_id": items.unique(maintain_order=True)}), []
    described = read_items(path).frame
    items, key = values.numbered(items, described["item_id"])
    described = described.with_columns(key.alias("item_id")).unique("item_id", keep="first", maintain_order=True)
    names = pl.DataFrame({"item_id": items.unique(maintain_order=True)})
    known = names.join(described, on="item_id", how="semi").height
    if not known:
        raise BadLog(
            f"{path} describes none of the {len(names)} items (ids such as {key[0]!r} there, {items[0]!r} in the "
            "parts); pass the item file of this log"
        )
    told = f"items: {known} of {len(names)} items are described in {path.name}"
    return items, names.join(described, on="item_id", how="left", maintain_order="left"), [told]


def _rules(log: Interactions, parts: Sequence[_Part]) -> list[str]:
    """What becomes of items and users that are not in every part, in words."""
    part, notes = log.column("part"), []
    strays = log.n_items - len(distinct(log.column("item")[part == TRAIN]))
    if strays:
        notes.append(f"items in valid or test only: {strays}; they stay in the catalogue")
    for place in (VALID, TEST):
        missing = log.n_users - len(distinct(log.column("user")[part == place]))
        if missing:
            notes.append(f"users without a row in {parts[place].path.name}: {missing}; they are no cases there")
    return notes
