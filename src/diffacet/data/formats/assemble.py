"""From tables to a RawLog: columns chosen, values cast, files joined, item descriptions matched."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from diffacet.data.formats import columns, times, values
from diffacet.data.formats.items import read_items
from diffacet.data.formats.source import Items, Names, RawLog, Source, Table
from diffacet.errors import BadLog


@dataclass(frozen=True)
class _Part:
    """The cast columns of one file; times in their own unit."""

    user: pl.Series
    item: pl.Series
    time: times.Times | None
    rating: pl.Series | None
    dropped: int


def assemble(source: Source, names: Names, items: Path | None, format: str) -> RawLog:  # noqa: A002
    """The log of `source`; `names` overrides the format's columns, `items` the item file beside it; raises BadLog."""
    wanted = names.over(source.names)
    chosen = [columns.resolve(table, wanted) for table in source.tables]
    notes = [*source.notes, *chosen_note(chosen[0], names)]
    check_ratings(source.tables, chosen)
    parts = [_part(table, found, source.drop_timeless) for table, found in zip(source.tables, chosen, strict=True)]
    user, item = (_joined([getattr(part, role) for part in parts]) for role in ("user", "item"))
    if user.is_empty():
        raise BadLog(f"{source.tables[0].path} has no interactions; a log needs at least one")
    dropped = sum(part.dropped for part in parts)
    if dropped:
        notes.append(f"{dropped} rows without a time dropped, a known gap of this data set")
    details = read_items(items) if items else source.items() if source.items else None
    (user,) = values.numbered(user)
    item, frame, more = described(item, details, given=items is not None)
    timestamp, note = _timestamp(user, parts)
    series = [user.alias("user_id"), item.alias("item_id"), timestamp.alias("timestamp")]
    if parts[0].rating is not None:
        series.append(pl.concat([part.rating for part in parts if part.rating is not None]).alias("rating"))
    if source.parts is not None:
        series.append(source.parts.alias("part"))
    log = pl.DataFrame(series)
    files = [str(table.path) for table in source.tables] + ([str(details.path)] if details else [])
    told, whole = tuple(notes + note + more), source.catalogue and items is None
    return RawLog(log, frame, tuple(files), format, log.height, told, whole)


def chosen_note(found: Names, given: Names) -> list[str]:
    """Which columns were found by their names, in words; nothing when all were told."""
    guessed = [
        f"{role} = '{getattr(found, role)}'"
        for role in ("user", "item", "time", "rating")
        if getattr(found, role) and getattr(given, role) is None
    ]
    return [f"columns: {', '.join(guessed)}"] if guessed else []


def check_ratings(tables: tuple[Table, ...], chosen: list[Names]) -> None:
    """Refuse tables of which some have ratings and some have none. Raises BadLog."""
    for table, found in zip(tables, chosen, strict=True):
        if (found.rating is None) != (chosen[0].rating is None):
            having, lacking = (tables[0], table) if found.rating is None else (table, tables[0])
            raise BadLog(
                f"{having.path} has ratings but {lacking.path} has none (columns: {columns.listed(lacking.columns)}); "
                "pass --rating COL, or --rating none to read without"
            )


def _part(table: Table, found: Names, drop_timeless: bool) -> _Part:
    user, item, time, rating = found.user or "", found.item or "", found.time or "", found.rating
    timed = time != columns.NONE
    block = table.read([user, item, *([time] if timed else []), *([rating] if rating else [])])
    frame, row, dropped = block.frame, block.row, 0
    if drop_timeless and timed:
        kept = frame[time].is_not_null().arg_true()
        dropped, frame = frame.height - len(kept), frame[kept]
        row = _through(kept, block.row)

    def where(index: int) -> str:
        return f"{table.path}, row {row(index)}"

    return _Part(
        values.ids(frame[user], where, user),
        values.ids(frame[item], where, item),
        times.parse(frame[time], where, time, form=found.form) if timed else None,
        values.ratings(frame[rating], where, rating) if rating else None,
        dropped,
    )


def _through(kept: pl.Series, row: Callable[[int], int]) -> Callable[[int], int]:
    return lambda index: row(int(kept[index]))


def _joined(parts: list[pl.Series]) -> pl.Series:
    if len({part.dtype for part in parts}) > 1:
        parts = [part.cast(pl.String) for part in parts]
    return pl.concat([part.alias("") for part in parts], rechunk=True)


def _timestamp(user: pl.Series, parts: list[_Part]) -> tuple[pl.Series, list[str]]:
    """Int64 times of all rows and notes; without times the position of a row among its user's rows, from 0."""
    found = [part.time for part in parts if part.time is not None]
    if not found:
        position = pl.DataFrame({"user": user}).select(pl.int_range(pl.len(), dtype=pl.Int64).over("user"))
        return position.to_series(), ["timestamp: the position within the user, in file order (no times are used)"]
    unit = max(time.unit for time in found)
    joined = times.Times(pl.concat([time.at(unit).alias("") for time in found], rechunk=True), unit)
    timestamp, note = times.settle(user, joined)
    notes = [note] if note else []
    ties = len(timestamp) - pl.DataFrame({"user": user, "timestamp": timestamp}).n_unique()
    if ties:
        notes.append(f"ties: {ties} of {len(timestamp)} rows have the time of an earlier row of their user")
    return timestamp, notes


def described(item: pl.Series, items: Items | None, *, given: bool) -> tuple[pl.Series, pl.DataFrame | None, list[str]]:
    """(the log's item ids, the items with ids of the same dtype, notes).

    `item` may also be its distinct values only. Raises BadLog when items that were `given` describe none of them.
    """
    if items is None:
        (item,) = values.numbered(item)
        return item, None, []
    frame = items.frame
    item, key = values.numbered(item, frame["item_id"])
    frame = frame.with_columns(key.alias("item_id"))
    notes = []
    first = frame.unique("item_id", keep="first", maintain_order=True)
    if first.height < frame.height:
        notes.append(f"items: {frame.height - first.height} repeated rows of {items.path.name} dropped, the first kept")
    ids = item.unique()
    known = ids.to_frame("item_id").join(first, on="item_id", how="semi").height
    if known == 0 and given:
        raise BadLog(
            f"{items.path} describes none of the log's {len(ids)} items (ids such as {first['item_id'][0]!r} there, "
            f"{item[0]!r} in the log); pass the item file of this log"
        )
    notes.append(f"items: {known} of {len(ids)} items of the log are described in {items.path.name}")
    return item, first, notes
