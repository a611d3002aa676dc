"""Reading a click data set: a folder of Parquet files whose columns dataset.json explains.

    samples.parquet      user_id, item_id, timestamp, label, and columns of the showing; one row a showing
    behaviours.parquet   user_id, timestamp, maybe item_id, and further columns; one row a behaviour
    items.parquet        item_id and what is known of it; may be missing
    users.parquet        user_id and what is known of it; may be missing
    dataset.json         the schema, see `schema`

Where the history is inline there is no behaviours.parquet: the behaviours' columns are lists in samples.parquet, oldest
first, and their times, if they are real, are the list behaviour_timestamp. A behaviour field out of items (items.x) is
then joined through the list whose target is item_id.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl

from diffacet import files
from diffacet.data.clicks import checks
from diffacet.data.clicks.schema import Schema, source_of
from diffacet.data.clicks.vocabulary import categories, first_row
from diffacet.data.sequences import IntArray
from diffacet.errors import BadLog

SAMPLES, BEHAVIOURS, ITEMS, USERS = "samples.parquet", "behaviours.parquet", "items.parquet", "users.parquet"
ABOUT = "dataset.json"
INLINE_TIMES = "behaviour_timestamp"
"""The list column of samples with the times of their behaviours, where the history is inline and times are real."""


@dataclass(frozen=True, eq=False)
class Raw:
    """The checked frames of a click data set, with the columns that the schema names.

    Attributes:
        schema: what the columns mean.
        samples: one row a showing; timestamp is Int64, label UInt8.
        behaviours: one row a behaviour; timestamp is Int64. Where the history is inline, the lists of the samples one
            after another.
        items: one row an item, or None.
        users: one row a user, or None.
        folder: where the files are; None for frames from elsewhere.
        pointers: None; or, where the history is inline, (S + 1,) int64: where the behaviours of each sample start.
        notes: what a person should know, one sentence each.
    """

    schema: Schema
    samples: pl.DataFrame
    behaviours: pl.DataFrame
    items: pl.DataFrame | None = None
    users: pl.DataFrame | None = None
    folder: Path | None = None
    pointers: IntArray | None = None
    notes: tuple[str, ...] = field(default=())

    def where(self, name: str) -> str:
        """How a message calls the file `name`."""
        return str(self.folder / name) if self.folder else name


def read(folder: Path) -> Raw:
    """The click data set in `folder`, with the columns that its dataset.json names.

    Raises:
        BadLog: a file is missing or unreadable, or something in it cannot be right; the message names file, column
            and row, counted from 1 without a header.
    """
    folder = Path(folder)
    schema = read_schema(folder)
    frames = {
        name: _read(folder / name, [column for column, _ in columns])
        for name, columns in _needed(schema).items()
        if columns and (folder / name).exists()
    }
    if SAMPLES not in frames:
        raise BadLog(f"{folder} holds no {SAMPLES}, the showings; `diffacet import` makes such a folder")
    return from_frames(
        schema, frames[SAMPLES], frames.get(BEHAVIOURS), frames.get(ITEMS), frames.get(USERS), folder=folder
    )


def read_schema(folder: Path) -> Schema:
    """The schema in the dataset.json of `folder`; raises BadLog when it is missing or wrong."""
    path = Path(folder) / ABOUT
    if not path.is_file():
        raise BadLog(
            f"{folder} holds no {ABOUT}, which says what the columns mean; `diffacet import` makes such a folder"
        )
    try:
        return Schema.from_json(files.read_json(path), str(path))
    except (OSError, ValueError) as error:
        raise BadLog(f"{path} cannot be read as JSON ({error}); write it again") from error


def from_frames(
    schema: Schema,
    samples: pl.DataFrame,
    behaviours: pl.DataFrame | None = None,
    items: pl.DataFrame | None = None,
    users: pl.DataFrame | None = None,
    *,
    folder: Path | None = None,
) -> Raw:
    """The click data set of these frames, checked like files; raises BadLog as `read` does.

    Args:
        schema: what the columns mean.
        samples: as samples.parquet.
        behaviours: as behaviours.parquet; None where the history is inline.
        items: as items.parquet, or None.
        users: as users.parquet, or None.
        folder: what messages say before the names of files; None: nothing.
    """
    raw = Raw(schema, samples, pl.DataFrame() if behaviours is None else behaviours, items, users, folder)
    frames = {SAMPLES: samples, BEHAVIOURS: behaviours, ITEMS: items, USERS: users}
    asked = wanted(schema)
    for name, columns in _needed(schema).items():
        frame = frames[name]
        if frame is None and asked[name]:
            column, use = asked[name][-1]
            raise BadLog(f"{raw.where(name)} is missing; its column {column!r} is needed ({use})")
        if frame is not None and columns:
            checks.columns_there(frame, columns, raw.where(name))
            frames[name] = frame.select(list(dict.fromkeys(column for column, _ in columns)))
    raw = replace(raw, samples=_samples(raw, frames[SAMPLES]), items=frames[ITEMS], users=frames[USERS])
    for name, key in ((ITEMS, "item_id"), (USERS, "user_id")):
        table = frames[name]
        if table is not None:
            checks.nothing_missing(table, [key], raw.where(name))
            checks.unique_ids(table[key], raw.where(name))
    _dense(raw)
    return _with_histories(raw, frames[BEHAVIOURS])


def wanted(schema: Schema) -> dict[str, list[tuple[str, str]]]:
    """The columns that `schema` takes from each file, each with what it serves as; none from a file that it needs not.

    The key of items and users is not among theirs.
    """
    inline = schema.history == "inline"
    found: dict[str, list[tuple[str, str]]] = {
        SAMPLES: [(name, "every sample has one") for name in ("user_id", "item_id", "timestamp", "label")],
        BEHAVIOURS: [] if inline else [(name, "every behaviour has one") for name in ("user_id", "timestamp")],
        ITEMS: [],
        USERS: [],
    }
    if schema.group:
        found[SAMPLES].append((schema.group, "group"))
    own = SAMPLES if inline else BEHAVIOURS
    if inline and schema.timed:
        found[own].append((INLINE_TIMES, "real times of inline behaviours; else behaviour_times is order"))
    uses = [(SAMPLES, column, use) for column, use in schema.sample_columns.items()]
    uses += [(own, one.behaviour, f"behaviour field {one.name!r}") for one in schema.behaviour_fields]
    for name, column, use in uses:
        table, plain = source_of(column)
        if table is None:
            found[name].append((plain, use))
            continue
        found[ITEMS if table == "items" else USERS].append((plain, use))
        if name == BEHAVIOURS:
            found[name].append(("item_id" if table == "items" else "user_id", f"joins {column}"))
    return found


def _needed(schema: Schema) -> dict[str, list[tuple[str, str]]]:
    """`wanted`, with the keys of items and users."""
    found = wanted(schema)
    found[ITEMS].insert(0, ("item_id", "every item has one"))
    found[USERS].insert(0, ("user_id", "every user has one"))
    return found


def _read(path: Path, columns: list[str]) -> pl.DataFrame:
    """Those of `columns` that the Parquet file has; all of them when one is missing, for the message."""
    try:
        there = pl.read_parquet_schema(path)
        return pl.read_parquet(path, columns=list(dict.fromkeys(columns)) if set(columns) <= set(there) else None)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BadLog(f"{path} cannot be read as Parquet ({str(error).splitlines()[0]}); write it again") from error


def _samples(raw: Raw, samples: pl.DataFrame | None) -> pl.DataFrame:
    """The samples with checked keys, times, labels and groups."""
    assert samples is not None, "always wanted"
    where = raw.where(SAMPLES)
    if not samples.height:
        raise BadLog(f"{where} has no row; there is nothing to learn from")
    group = [raw.schema.group] if raw.schema.group else []
    checks.nothing_missing(samples, ["user_id", "item_id", "timestamp", "label", *group], where)
    return samples.with_columns(
        checks.whole_times(samples["timestamp"], where), checks.binary_labels(samples["label"], where)
    )


def _dense(raw: Raw) -> None:
    """Check the numeric columns."""
    for column in raw.schema.dense_fields:
        table, name = source_of(column)
        frame, file = {"items": (raw.items, ITEMS), "users": (raw.users, USERS)}.get(
            table or "", (raw.samples, SAMPLES)
        )
        assert frame is not None, "checked by from_frames"
        checks.finite_numbers(frame[name], raw.where(file))


def _with_histories(raw: Raw, behaviours: pl.DataFrame | None) -> Raw:
    """`raw` with its checked behaviours."""
    if raw.schema.history == "inline":
        return _flattened(raw)
    assert behaviours is not None, "always wanted of a log"
    where = raw.where(BEHAVIOURS)
    checks.nothing_missing(behaviours, ["user_id", "timestamp"], where)
    behaviours = behaviours.with_columns(checks.whole_times(behaviours["timestamp"], where))
    unit = "the data set" if raw.folder is None else str(raw.folder)
    return replace(
        raw, behaviours=behaviours, notes=checks.units_agree(raw.samples["timestamp"], behaviours["timestamp"], unit)
    )


def _flattened(raw: Raw) -> Raw:
    """`raw` with the lists of its samples as behaviours, one sample's after another's."""
    schema, where, frame = raw.schema, raw.where(SAMPLES), raw.samples
    lists = dict.fromkeys(one.behaviour for one in schema.behaviour_fields if source_of(one.behaviour)[0] is None)
    names = [*lists, *([INLINE_TIMES] if schema.timed else [])]
    if not names:
        raise BadLog(
            "no behaviour field is a list of samples.parquet, so nothing says how long histories are; name one"
        )
    lengths = _lengths(frame, names, where)
    flat = {name: frame[name].filter(lengths > 0).explode() for name in names}
    owner = pl.Series(np.repeat(np.arange(frame.height, dtype=np.int64), lengths.to_numpy()))
    behaviours = pl.DataFrame(flat | {"user_id": frame["user_id"].gather(owner)})
    behaviours = behaviours.with_columns(_inline_keys(schema, flat, where))
    notes: tuple[str, ...] = ("histories came inside the rows: whether they end before their showings is not known",)
    if schema.timed:
        behaviours = behaviours.with_columns(_inline_times(flat[INLINE_TIMES], owner, frame["timestamp"], where))
        notes = ()
    pointers = np.concatenate([[0], np.cumsum(lengths.to_numpy(), dtype=np.int64)])
    return replace(raw, samples=frame.drop(names), behaviours=behaviours, pointers=pointers, notes=notes)


def _lengths(frame: pl.DataFrame, names: list[str], where: str) -> pl.Series:
    """The length of each sample's history; raises BadLog for lists of one row that differ in length."""
    lengths = pl.Series(dtype=pl.UInt32)
    for name in names:
        if not isinstance(frame[name].dtype, pl.List):
            raise BadLog(
                f"{where}: column {name!r} is of {frame[name].dtype}; inline histories are lists, oldest first"
            )
        own = frame[name].list.len().fill_null(0)
        lengths = own if name == names[0] else lengths
        row = first_row(own != lengths)
        if row is not None:
            raise BadLog(
                f"{where}, row {row + 1}: {name} has {own[row]} entries and {names[0]} has {lengths[row]}; "
                "the lists of a row are of one length"
            )
    return lengths


def _inline_times(series: pl.Series, owner: pl.Series, shown: pl.Series, where: str) -> pl.Series:
    """The times of inline behaviours as column timestamp; raises BadLog for one that is not before its showing."""
    missing = first_row(series.is_null())
    if missing is not None:
        raise BadLog(f"{where}, row {owner[missing] + 1}: a time in {INLINE_TIMES} is missing; fill it in")
    times = checks.whole_times(series, where)
    late = first_row(times >= shown.gather(owner))
    if late is not None:
        raise BadLog(
            f"{where}, row {owner[late] + 1}: a behaviour at {times[late]} is not before the showing at "
            f"{shown[owner[late]]}; a history ends before its sample"
        )
    return times.alias("timestamp")


def _inline_keys(schema: Schema, flat: Mapping[str, pl.Series], where: str) -> list[pl.Series]:
    """The column item_id of inline behaviours, if one is joined through it."""
    if not any(source_of(one.behaviour)[0] == "items" for one in schema.behaviour_fields):
        return []
    for one in schema.behaviour_fields:
        if one.target == "item_id" and one.behaviour in flat:
            return [categories(flat[one.behaviour], where).alias("item_id")]
    raise BadLog(
        "a behaviour field is joined from items, but no field says which list holds the items; give one target item_id"
    )
