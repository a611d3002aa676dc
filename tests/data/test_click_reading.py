"""Reading folders of click data: what is kept, and refusals that name file, row and the way out."""

import math

import polars as pl
import pytest

from diffacet.data.clicks import BehaviourField, from_frames, read
from diffacet.errors import BadLog
from showings import frames, schema, write


def changed(index, change):
    parts = list(frames())
    parts[index] = change(parts[index])
    return parts


def at(row, name, value):
    """Sets one value of a column; `row` counts from 1."""
    return lambda frame: frame.with_columns(
        pl.Series(name, [value if n == row - 1 else one for n, one in enumerate(frame[name])], strict=False)
    )


def test_a_folder_is_read(tmp_path):
    parts = frames()
    raw = read(write(tmp_path / "data", parts, schema()))
    assert raw.schema == schema()
    assert raw.samples.columns == ["user_id", "item_id", "timestamp", "label", "hour", "price"]
    assert raw.behaviours.columns == ["user_id", "timestamp", "item_id", "type"]
    assert raw.items.equals(parts[2])
    assert raw.users.equals(parts[3])
    assert raw.folder == tmp_path / "data"
    assert raw.notes == ()
    for name in ("user_id", "item_id", "timestamp", "hour"):
        assert raw.samples[name].equals(parts[0][name])
    assert raw.samples["label"].dtype == pl.UInt8


def test_files_that_no_field_needs_may_be_missing(tmp_path):
    about = schema(user_fields=(), behaviour_fields=(BehaviourField("item", "item_id", "item_id"),))
    parts = frames()
    raw = read(write(tmp_path / "data", (*parts[:2], None, None), about))
    assert raw.items is None
    assert raw.users is None


@pytest.mark.parametrize("label", [[True, False], [1.0, 0.0]])
def test_labels_of_other_types(label):
    shown, *rest = frames(samples=2)
    raw = from_frames(schema(), shown.with_columns(label=pl.Series(label)), *rest)
    assert raw.samples["label"].to_list() == [1, 0]


BAD = [
    (
        0,
        lambda f: f.drop("label"),
        r"samples.parquet has no column 'label', which is needed \(every sample has one\); it has user_id",
    ),
    (
        0,
        lambda f: f.rename({"hour": "hours"}),
        r"no column 'hour' \(did you mean 'hours'\?\), which is needed \(context_fields\); it has",
    ),
    (
        1,
        lambda f: f.drop("type"),
        r"behaviours.parquet has no column 'type', which is needed \(behaviour field 'type'\)",
    ),
    (1, lambda f: f.drop("item_id"), r"behaviours.parquet has no column 'item_id'"),
    (2, lambda f: f.drop("kind"), r"items.parquet has no column 'kind'"),
    (3, lambda f: f.drop("user_id"), r"users.parquet has no column 'user_id', which is needed \(every user has one\)"),
    (0, at(7, "user_id", None), r"samples.parquet, row 7: user_id is missing"),
    (0, at(1, "item_id", None), r"samples.parquet, row 1: item_id is missing"),
    (0, at(60, "timestamp", None), r"samples.parquet, row 60: timestamp is missing"),
    (0, at(3, "label", None), r"samples.parquet, row 3: label is missing"),
    (1, at(2, "user_id", None), r"behaviours.parquet, row 2: user_id is missing"),
    (1, at(80, "timestamp", None), r"behaviours.parquet, row 80: timestamp is missing"),
    (2, at(4, "item_id", None), r"items.parquet, row 4: item_id is missing"),
    (3, at(5, "user_id", None), r"users.parquet, row 5: user_id is missing"),
    (0, at(9, "label", 2), r"samples.parquet, row 9: label is 2; write 1 for a click"),
    (0, lambda f: f.with_columns(label=pl.lit("yes")), r"samples.parquet: label is of String, such as 'yes' in row 1"),
    (2, at(5, "item_id", 2), r"items.parquet, row 5: item_id 2 is already in row 2"),
    (3, at(9, "user_id", "u0"), r"users.parquet, row 9: user_id 'u0' is already in row 1"),
    (0, at(4, "timestamp", 1.5), r"samples.parquet, row 4: timestamp is 1.5, in a column of Float64; .*milliseconds"),
    (1, lambda f: f.with_columns(pl.col("timestamp").cast(pl.Float64)), r"behaviours.parquet, row 1: .*Float64"),
    (1, lambda f: f.with_columns(timestamp=pl.lit("2020")), r"behaviours.parquet, column timestamp is of String"),
    (
        0,
        lambda f: f.with_columns(pl.from_epoch("timestamp", "ms")),
        r"samples.parquet, column timestamp is of Datetime",
    ),
    (0, at(11, "price", math.nan), r"samples.parquet, row 11: price is nan; write null"),
    (0, at(12, "price", math.inf), r"samples.parquet, row 12: price is inf"),
    (0, lambda f: f.with_columns(price=pl.lit("dear")), r"samples.parquet: column 'price' of String .* dense_fields"),
    (0, lambda f: f[:0], r"samples.parquet has no row"),
    (
        1,
        lambda f: f.with_columns(pl.col("timestamp") // 1000),
        r"samples look like milliseconds, .*behaviours.* seconds",
    ),
]


@pytest.mark.parametrize(("index", "change", "message"), BAD)
def test_bad_rows_are_named(index, change, message, tmp_path):
    folder = write(tmp_path / "data", changed(index, change), schema())
    with pytest.raises(BadLog, match=message) as refusal:
        read(folder)
    assert str(refusal.value).startswith(str(folder))


def test_an_item_or_a_numeric_value_may_be_missing():
    shown, done, *rest = frames()
    nothing = at(3, "item_id", None)(done)
    assert from_frames(schema(), shown, nothing, *rest).behaviours["item_id"].null_count() == 1
    assert shown["price"].null_count() > 0


def test_times_in_another_unit_are_noted():
    shown, done, *rest = (
        f.with_columns(pl.col("timestamp") // 1000) if "timestamp" in f.columns else f for f in frames()
    )
    (note,) = from_frames(schema(), shown, done, *rest).notes
    assert "look like seconds" in note


def test_missing_files(tmp_path):
    parts = frames()
    for n, name in enumerate(("samples", "behaviours", "items", "users")):
        kept = [None if n == k else part for k, part in enumerate(parts)]
        with pytest.raises(BadLog, match=rf"{name}\.parquet"):
            read(write(tmp_path / name, kept, schema()))
    with pytest.raises(BadLog, match=r"holds no dataset\.json"):
        read(tmp_path)
    for text in ("{", "[1]"):
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(BadLog, match=r"dataset\.json cannot be read as JSON"):
            read(tmp_path)
    folder = write(tmp_path / "broken", parts, schema())
    (folder / "behaviours.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(BadLog, match=r"behaviours\.parquet cannot be read as Parquet"):
        read(folder)


# -------------------------------------------------------------------------------------------------------------- inline


def lists(**columns):
    """Samples with list columns, and a schema for them."""
    shown, _, kinds, towns = frames(samples=3)
    fields = (BehaviourField("item", "seen", "item_id"), BehaviourField("hour", "at", None))
    about = schema(behaviour_fields=fields, history="inline", behaviour_times="order", context_fields=())
    return about, shown.with_columns(pl.Series(name, values) for name, values in columns.items()), kinds, towns


def test_lists_become_behaviours():
    about, shown, kinds, towns = lists(seen=[[1, 2], [], [5]], at=[["a", "b"], None, ["c"]])
    raw = from_frames(about, shown, None, kinds, towns)
    assert raw.behaviours["seen"].to_list() == [1, 2, 5]
    assert raw.behaviours["at"].to_list() == ["a", "b", "c"]
    assert raw.pointers.tolist() == [0, 2, 2, 3]
    assert "seen" not in raw.samples.columns


@pytest.mark.parametrize(
    ("columns", "changes", "message"),
    [
        (
            {"seen": [[1], [2, 3], []], "at": [["a"], ["b"], []]},
            {},
            r"samples.parquet, row 2: at has 1 entries and seen has 2",
        ),
        ({"seen": [[1], [2], []], "at": ["a", "b", "c"]}, {}, r"column 'at' is of String; inline histories are lists"),
        ({"seen": [[1], [2], []]}, {}, r"no column 'at'"),
        (
            {"seen": [[1], [2], []], "at": [["a"], ["b"], []]},
            {"behaviour_times": "real"},
            r"no column 'behaviour_timestamp' .*else behaviour_times is order",
        ),
        (
            {"seen": [[1], [2], []], "at": [["a"], ["b"], []], "behaviour_timestamp": [[1], [2**50], []]},
            {"behaviour_times": "real"},
            r"row 2: a behaviour at 1125899906842624 is not before the showing at 16",
        ),
        (
            {"seen": [[1], [2], []], "at": [["a"], ["b"], []], "behaviour_timestamp": [[1], [None], []]},
            {"behaviour_times": "real"},
            r"row 2: a time in behaviour_timestamp is missing",
        ),
        (
            {},
            {"behaviour_fields": (BehaviourField("kind", "items.kind", "items.kind"),)},
            r"no behaviour field is a list",
        ),
        (
            {"at": [["a"], ["b"], []]},
            {"behaviour_fields": (BehaviourField("hour", "at"), BehaviourField("kind", "items.kind"))},
            r"no field says which list holds the items",
        ),
    ],
)
def test_bad_lists_are_named(columns, changes, message):
    about, shown, kinds, towns = lists(**columns)
    about = type(about).from_json(about.to_json() | {
        key: [vars(one) for one in value] if key == "behaviour_fields" else value for key, value in changes.items()
    })  # fmt: skip
    with pytest.raises(BadLog, match=message):
        from_frames(about, shown, None, kinds, towns)
