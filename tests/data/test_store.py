import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffacet import files
from diffacet.data import filters, store
from diffacet.data.interactions import Interactions
from diffacet.errors import BadLog

FRAME = pl.DataFrame(
    {
        "user_id": ["b", "a", "b", "b", "a", "c"],
        "item_id": [7, 8, 8, 9, 8, 5],
        "timestamp": [50, 10, 20, 20, 0, 3],
        "rating": [1.0, 2.0, None, 4.0, 5.0, 3.0],
    }
)
ITEMS = pl.DataFrame({"item_id": [9, 8], "title": ["nine", None], "categories": [["c", "d"], []]})


def example():
    return Interactions.from_frame(FRAME, ITEMS)


def foreign(folder, frame=FRAME, items=None):
    folder.mkdir()
    frame.write_parquet(folder / "interactions.parquet")
    if items is not None:
        items.write_parquet(folder / "items.parquet")
    return folder


def same(one, two):
    assert one.frame.equals(two.frame)
    assert one.users.values.to_list() == two.users.values.to_list()
    assert one.items.values.to_list() == two.items.values.to_list()
    assert one.users.values.dtype == two.users.values.dtype
    assert one.items.values.dtype == two.items.values.dtype
    for mine, theirs in ((one.titles, two.titles), (one.categories, two.categories)):
        assert (mine is None) == (theirs is None)
        assert mine is None or mine.to_list() == theirs.to_list()
    assert one.times == two.times


def test_what_is_written_is_what_opens(tmp_path):
    log = example()
    store.write(log, tmp_path / "new" / "set", {"source": "log.csv", "rows": 6})
    dataset = store.open(tmp_path / "new" / "set")
    same(log, dataset.log)
    assert dataset.name == "set"
    assert dataset.path == tmp_path / "new" / "set"
    assert dataset.provenance == {"source": "log.csv", "rows": 6}
    assert dataset.fingerprint == store.fingerprint(log)
    about = json.loads((tmp_path / "new" / "set" / "dataset.json").read_text())
    assert about["statistics"] == log.statistics()
    assert about["format"] == store.FORMAT
    written = pl.read_parquet(tmp_path / "new" / "set" / "interactions.parquet")
    assert written.columns == ["user_id", "item_id", "timestamp", "rating"]
    assert written["user_id"].to_list() == ["b", "b", "b", "a", "a", "c"]
    assert pl.read_parquet(tmp_path / "new" / "set" / "items.parquet")["item_id"].to_list() == [8, 7, 9, 5]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=30))
def test_any_log_survives_the_disk(tmp_path_factory, rows):
    log = Interactions.from_frame(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))
    folder = tmp_path_factory.mktemp("log") / "set"
    store.write(log, folder, {})
    same(log, store.open(folder).log)


def test_items_without_an_interaction_and_ranks_with_gaps_survive_the_disk(tmp_path):
    rows = [("a", "x", 0), ("a", "y", 1), ("a", "x", 2), ("b", "z", 0), ("c", "z", 0)]
    log = Interactions.from_frame(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))
    kept = filters.min_count_once(log, 2)
    assert kept.items.values.to_list() == ["x", "z"]
    store.write(kept, tmp_path / "set", {})
    same(kept, store.open(tmp_path / "set").log)


def test_an_empty_directory_is_filled_and_a_full_one_is_refused(tmp_path):
    empty, full, file = tmp_path / "empty", tmp_path / "full", tmp_path / "file"
    empty.mkdir()
    store.write(example(), empty, {})
    assert store.open(empty).fingerprint == store.fingerprint(example())
    full.mkdir()
    (full / "note").write_text("mine")
    file.write_text("mine")
    for out in (full, file, empty):
        with pytest.raises(BadLog, match="not an empty directory"):
            store.write(example(), out, {})
    assert (full / "note").read_text() == file.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "full"]


@pytest.mark.parametrize("fails", [1, 2, 3])
@pytest.mark.parametrize("empty", [True, False])
def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch, fails, empty):
    calls, whole = [], files.write_file

    def write_file(path, write):
        calls.append(path)
        if len(calls) == fails:
            raise OSError(28, "No space left on device")
        whole(path, write)

    if empty:
        (tmp_path / "set").mkdir()
    monkeypatch.setattr(files, "write_file", write_file)
    with pytest.raises(BadLog, match="No space left on device"):
        store.write(example(), tmp_path / "set", {})
    assert len(calls) == fails
    assert [path.name for path in tmp_path.rglob("*")] == (["set"] if empty else [])


def test_a_directory_of_others_opens(tmp_path):
    frame = FRAME.with_columns(pl.col("user_id").cast(pl.Categorical), part=pl.lit("train"))
    items = pl.DataFrame({"item_id": [9, 1], "categories": [[3, 4], [5]], "colour": ["red", "blue"]})
    dataset = store.open(foreign(tmp_path / "theirs", frame, items))
    same(dataset.log, Interactions.from_frame(FRAME, items.select("item_id", "categories")))
    assert dataset.log.items.values.to_list() == [8, 7, 9, 5]  # the catalogue is what occurs
    assert dataset.log.categories.to_list() == [[], [], ["3", "4"], []]
    assert dataset.provenance is None
    assert store.open(foreign(tmp_path / "bare")).log.categories is None


def test_positions_are_ranks_and_time_stamps_win(tmp_path):
    frame = FRAME.with_columns(position=pl.lit(3))
    assert store.open(foreign(tmp_path / "both", frame)).log.times == "real"
    only = store.open(foreign(tmp_path / "positions", FRAME.rename({"timestamp": "position"}))).log
    assert only.times == "rank"
    assert only.frame.equals(example().frame)


def test_a_directory_of_others_that_is_imported_opens_alike(tmp_path):
    theirs = store.open(foreign(tmp_path / "theirs", items=ITEMS)).log
    store.write(theirs, tmp_path / "ours", {})
    same(theirs, store.open(tmp_path / "ours").log)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (FRAME.drop("user_id"), "column 'user_id' is missing; the columns are item_id, timestamp, rating"),
        (FRAME.drop("timestamp"), "column 'timestamp' is missing; the columns are user_id, item_id, rating"),
        (FRAME.select("rating"), "column 'user_id' is missing; the columns are rating"),
        (FRAME.clear(), "no interaction"),
        (
            FRAME.with_columns(item_id=pl.Series([1, 2, None, 3, None, 4])),
            "item_id is missing in 2 rows, first in row 3",
        ),
        (
            FRAME.with_columns(timestamp=pl.Series([1, 2, 3, 4, 5, None])),
            "timestamp is missing in 1 rows, first in row 6",
        ),
        (FRAME.with_columns(timestamp=pl.lit(1.5)), "timestamp must hold integers"),
    ],
)
def test_a_bad_log_of_others_is_refused_with_its_path(tmp_path, frame, message):
    folder = foreign(tmp_path / "theirs", frame)
    with pytest.raises(BadLog, match=message) as refusal:
        store.open(folder)
    assert str(refusal.value).startswith(str(folder))
    assert "\n" not in str(refusal.value)


def test_bad_items_of_others_are_refused_with_their_path(tmp_path):
    with pytest.raises(BadLog, match="theirs: column 'item_id' is missing; the columns are name, price"):
        store.open(foreign(tmp_path / "theirs", items=pl.DataFrame({"name": ["x"], "price": [1]})))


def test_what_is_not_a_data_directory_is_refused(tmp_path):
    with pytest.raises(BadLog, match="nowhere is not a directory"):
        store.open(tmp_path / "nowhere")
    with pytest.raises(BadLog, match=r"holds no interactions.parquet \(but nothing\)"):
        store.open(tmp_path)
    (tmp_path / "log.csv").write_text("user,item\n")
    with pytest.raises(BadLog, match=r"holds no interactions.parquet \(but log.csv\)"):
        store.open(tmp_path)
    with pytest.raises(BadLog, match=r"log\.csv is not a directory"):
        store.open(tmp_path / "log.csv")


@pytest.mark.parametrize("name", ["interactions.parquet", "items.parquet"])
@pytest.mark.parametrize("content", [b"", b"PAR1", b"user_id,item_id\n1,2\n", None])
def test_an_unreadable_file_is_refused(tmp_path, name, content):
    store.write(example(), tmp_path / "set", {})
    path = tmp_path / "set" / name
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    with pytest.raises(BadLog, match=f"{name} cannot be read as Parquet") as refusal:
        store.open(tmp_path / "set")
    assert "\n" not in str(refusal.value)


def test_a_lost_catalogue_is_refused(tmp_path):
    store.write(example(), tmp_path / "set", {})
    (tmp_path / "set" / "items.parquet").unlink()
    with pytest.raises(BadLog, match=r"items\.parquet cannot be read"):
        store.open(tmp_path / "set")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 3}, "has format 3, and this version reads 1 and 2"),
        ({"format": None}, "has format None"),
        ({"times": "lunar"}, "times are 'lunar'; they are real or rank"),
        ({"fingerprint": "0" * 16}, "was changed after it was written"),
        ({"fingerprint": ...}, "has no 'fingerprint'"),
        (None, "cannot be read"),
    ],
)
def test_a_dataset_json_that_does_not_fit_is_refused(tmp_path, change, message):
    store.write(example(), tmp_path / "set", {})
    path = tmp_path / "set" / "dataset.json"
    about = {**json.loads(path.read_text()), **(change or {})}
    path.write_text(json.dumps({key: value for key, value in about.items() if value is not ...}) if change else "{")
    with pytest.raises(BadLog, match=message):
        store.open(tmp_path / "set")


@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp", "rating"])
def test_a_row_that_is_changed_on_disk_is_noticed(tmp_path, column):
    store.write(example(), tmp_path / "set", {})
    path = tmp_path / "set" / "interactions.parquet"
    frame = pl.read_parquet(path)
    last = frame[column].to_list()
    last[-1] = frame[column][0]
    frame.with_columns(pl.Series(column, last)).write_parquet(path)
    with pytest.raises(BadLog, match="was changed after it was written"):
        store.open(tmp_path / "set")


def test_rows_that_are_swapped_within_a_tie_are_noticed(tmp_path):
    store.write(example(), tmp_path / "set", {})
    path = tmp_path / "set" / "interactions.parquet"
    pl.read_parquet(path)[[1, 0, 2, 3, 4, 5]].write_parquet(path)
    with pytest.raises(BadLog, match="was changed after it was written"):
        store.open(tmp_path / "set")


def test_the_fingerprint_depends_on_content_only():
    reference = store.fingerprint(example())
    assert len(reference) == 16
    assert int(reference, 16) >= 0
    assert store.fingerprint(Interactions.from_frame(FRAME)) == reference  # neither titles nor categories
    chunks = pl.concat([FRAME[:2], FRAME[2:]], rechunk=False)
    assert store.fingerprint(Interactions.from_frame(chunks)) == reference
    texts = FRAME.with_columns(pl.col("item_id").cast(pl.Utf8))
    assert store.fingerprint(Interactions.from_frame(texts)) == reference


def test_the_fingerprint_changes_with_any_value_and_with_where_ids_end():
    found = {store.fingerprint(Interactions.from_frame(FRAME))}
    for name, value in (("user_id", "new"), ("item_id", 77), ("timestamp", 77), ("rating", 7.5)):
        for row in range(len(FRAME)):
            changed = FRAME.with_columns(
                pl.when(pl.int_range(pl.len()) == row).then(pl.lit(value)).otherwise(name).alias(name)
            )
            found.add(store.fingerprint(Interactions.from_frame(changed)))
    found.add(store.fingerprint(Interactions.from_frame(FRAME.drop("rating"))))
    assert len(found) == 1 + 4 * len(FRAME) + 1
    ends = [
        pl.DataFrame({"user_id": ids, "item_id": [1, 1], "timestamp": [0, 0]}) for ids in (["ab", "c"], ["a", "bc"])
    ]
    assert len({store.fingerprint(Interactions.from_frame(frame)) for frame in ends}) == 2


def test_a_path_may_be_a_text(tmp_path, monkeypatch):
    store.write(example(), tmp_path / "set", {})
    monkeypatch.chdir(tmp_path / "set")
    assert store.open(Path()).name == "set"
    assert np.array_equal(store.open(".").log.column("user"), example().column("user"))
