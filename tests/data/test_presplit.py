import numpy as np
import polars as pl
import pytest

from diffacet.data.presplit import read_parts
from diffacet.errors import BadLog

TRAIN = [("u", "b"), ("u", "a"), ("v", "c"), ("v", "a"), ("w", "b")]
VALID = [("v", "z"), ("u", "c")]
TEST = [("u", "y"), ("w", "a")]


def frame(rows, **columns):
    return pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").with_columns(**columns)


def written(folder, train=TRAIN, valid=VALID, test=TEST, **columns):
    """Three CSV files."""
    paths = []
    for name, rows in (("train", train), ("valid", valid), ("test", test)):
        paths.append(folder / f"{name}.csv")
        extra = {key: pl.Series(values[name]) for key, values in columns.items()}
        frame(rows).with_columns(**extra).write_csv(paths[-1])
    return paths


def rows_of(log):
    ids = zip(log.users.ids(log.column("user")), log.items.ids(log.column("item")), log.column("part"), strict=True)
    return [(user, item, int(part)) for user, item, part in ids]


def test_numbers_follow_first_appearance_and_order_the_files(tmp_path):
    log, notes = read_parts(*written(tmp_path))
    assert log.users.values.to_list() == ["u", "v", "w"]
    assert log.items.values.to_list() == ["b", "a", "c", "z", "y"]
    assert rows_of(log) == [
        *(("u", "b", 0), ("u", "a", 0), ("u", "c", 1), ("u", "y", 2)),
        *(("v", "c", 0), ("v", "a", 0), ("v", "z", 1)),
        *(("w", "b", 0), ("w", "a", 2)),
    ]
    assert log.times == "rank"
    assert log.column("time").tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1]
    assert notes == (
        "timestamp: the position within the user: train, then valid, then test, each in file order",
        "items in valid or test only: 2; they stay in the catalogue",
        "users without a row in valid.csv: 1; they are no cases there",
        "users without a row in test.csv: 1; they are no cases there",
    )


def test_forms_may_differ_and_give_the_same_log(tmp_path):
    parts = [[(0, 3), (0, 1), (4, 3)], [(4, 1)], [(0, 7)]]
    np.save(tmp_path / "train.npy", np.array(parts[0]))
    frame(parts[1]).cast(pl.Int32).write_parquet(tmp_path / "valid.parquet")
    frame(parts[2]).rename({"user_id": "Customer", "item_id": "SKU"}).write_csv(tmp_path / "test.tsv", separator="\t")
    log, _ = read_parts(*(tmp_path / name for name in ("train.npy", "valid.parquet", "test.tsv")))
    assert log.users.values.to_list() == [0, 4]
    assert log.items.values.to_list() == [3, 1, 7]
    assert rows_of(log) == [(0, 3, 0), (0, 1, 0), (0, 7, 2), (4, 3, 0), (4, 1, 1)]


def test_numbers_and_texts_become_texts(tmp_path):
    log, _ = read_parts(*written(tmp_path, [(1, 5)], [(1, 6)], [("1", "x7")]))
    assert log.items.values.to_list() == ["5", "6", "x7"]
    assert log.users.values.to_list() == [1]


def test_times_sort_a_users_rows(tmp_path):
    stamps = {"train": [90, 20, 10, 50, 7], "valid": [60, 30], "test": [25, 8]}
    log, notes = read_parts(*written(tmp_path, when=stamps), time="when")
    assert log.times == "real"
    assert rows_of(log)[:4] == [("u", "a", 0), ("u", "y", 2), ("u", "c", 1), ("u", "b", 0)]
    assert not [note for note in notes if note.startswith("timestamp")]
    found, _ = read_parts(*written(tmp_path, timestamp=stamps))  # by its name
    assert found.frame.equals(log.frame)
    ignored, _ = read_parts(*written(tmp_path, timestamp=stamps), time="none")
    assert ignored.times == "rank"


def test_times_of_some_files_are_not_used(tmp_path):
    paths = written(tmp_path)
    frame(VALID, timestamp=pl.Series([5, 6])).write_csv(paths[1])
    log, notes = read_parts(*paths)
    assert log.times == "rank"
    assert notes[1] == f"times are not used, since {paths[0]} has none"


def test_items_are_described(tmp_path):
    frame([("b", "Bee"), ("q", "Queue"), ("z", "Zed")]).rename({"user_id": "item", "item_id": "title"}).write_csv(
        tmp_path / "items.csv"
    )
    log, notes = read_parts(*written(tmp_path), items=tmp_path / "items.csv")
    assert log.items.values.to_list() == ["b", "a", "c", "z", "y"]
    assert log.titles.to_list() == ["Bee", None, None, "Zed", None]
    assert notes[-1] == "items: 2 of 5 items are described in items.csv"
    frame([("p", "Pea")]).rename({"user_id": "item", "item_id": "title"}).write_csv(tmp_path / "items.csv")
    with pytest.raises(BadLog, match="describes none of the 5 items"):
        read_parts(*written(tmp_path), items=tmp_path / "items.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"test": [*TEST, ("v", "a")]},
            r"train\.csv, row 5 and .*test\.csv, row 4 both say that user v has item a; each pair belongs to one part",
        ),
        (
            {"valid": [*VALID, ("v", "z")]},
            r"valid\.csv, row 2 and .*valid\.csv, row 4 both say that user v has item z;",
        ),
        (
            {"valid": [*VALID, ("u", "a"), ("u", "b")]},
            r"train\.csv, row 3 and .*valid\.csv, row 4 .* has item a, and 1 more pairs occur again;",
        ),
        ({"test": [*TEST, ("x", "a")]}, r"test\.csv, row 4: user x has no row in .*train\.csv; the models are shown"),
        ({"valid": [("x", "a"), ("y", "a")]}, r"valid\.csv, row 2: user x has no row in .*\(and 1 more users\)"),
    ],
)
def test_what_no_split_may_be_is_refused_with_file_and_row(tmp_path, change, message):
    with pytest.raises(BadLog, match=message):
        read_parts(*written(tmp_path, **change))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 2), np.int64), "has no rows; a part needs at least one"),
        (np.zeros((4, 3), np.int64), r"holds int64 of shape \(4, 3\); a part is two columns of whole numbers"),
        (np.zeros((4, 2)), r"holds float64 of shape \(4, 2\)"),
        (np.zeros(4, np.int64), r"holds int64 of shape \(4,\)"),
        (np.array([["a", {}]], dtype=object), "cannot be read as an array"),
    ],
)
def test_arrays_that_are_no_part_are_refused(tmp_path, array, message):
    paths = written(tmp_path)
    np.save(tmp_path / "train.npy", array, allow_pickle=True)
    with pytest.raises(BadLog, match=f"train.npy {message}"):
        read_parts(tmp_path / "train.npy", *paths[1:])


def test_files_that_are_none_are_refused(tmp_path):
    train, valid, test = written(tmp_path)
    for name in ("gone.csv", "gone.npy"):
        with pytest.raises(BadLog, match=f"{name}: no such file"):
            read_parts(train, tmp_path / name, test)
    with pytest.raises(BadLog, match="is a directory; a part is one file"):
        read_parts(tmp_path, valid, test)
    valid.write_text("user_id,item_id\n")
    with pytest.raises(BadLog, match=r"valid\.csv has a header but no rows"):
        read_parts(train, valid, test)
    valid.write_text("")
    with pytest.raises(BadLog, match=r"valid\.csv is empty"):
        read_parts(train, valid, test)
    valid.write_text("a,b\n1,2\n")
    with pytest.raises(BadLog, match=r"valid\.csv: no column is named like a user.*pass --user COL"):
        read_parts(train, valid, test)
