"""Partitioned data directories: written by hand, read by ranges, refused when they are not whole."""

import hashlib
import json
import shutil

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import partitionlog
from diffacet.data import partitions, store
from diffacet.data.interactions import Interactions
from diffacet.data.partitions import Partitions, reading, write_about, write_partition
from diffacet.errors import BadLog

FRAME = partitionlog.rows()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same log in 1, 3 and 64 partitions."""
    place = tmp_path_factory.mktemp("partitioned")
    titles = [f"ware {n}" for n in range(FRAME["item_id"].n_unique())]
    for count in (1, 3, 64):
        partitionlog.write(FRAME, place / str(count), count, titles=titles)
    return place


def same(one: Interactions, other: Interactions):
    assert one.frame.equals(other.frame)
    assert one.frame.schema == other.frame.schema
    for name in ("users", "items"):
        assert getattr(one, name).values.equals(getattr(other, name).values)
        assert getattr(one, name).first == getattr(other, name).first
    assert one.times == other.times
    assert (one.titles is None) == (other.titles is None)
    if one.titles is not None:
        assert one.titles.to_list() == other.titles.to_list()
        assert one.categories.to_list() == other.categories.to_list()


def arrays(sequences):
    return [sequences.items.tolist(), sequences.offsets.tolist(), sequences.users.tolist(), sequences.times.tolist()]


def test_any_number_of_partitions_is_the_same_log(folders):
    users, items, rows = partitionlog.canonical(FRAME)
    opened = {count: Partitions.open(folders / str(count)) for count in (1, 3, 64)}
    for count, found in opened.items():
        assert len(found.parts) == count
        assert (found.n_users, found.n_items, found.lengths().sum()) == (len(users), len(items), len(rows))
        assert found.has_ratings
        assert found.provenance == {"files": ["log.csv"]}
        log = found.log()
        assert log.users.values.to_list() == users
        assert log.items.values.to_list() == items
        assert log.frame.columns == ["user", "item", "time", "rating"]
        assert log.frame.rows() == rows
        same(log, opened[1].log())
        assert found.lengths().tolist() == log.sequences().lengths().tolist()
        assert found.items().values.to_list() == items
    assert any(part.users.rows == 0 for part in opened[64].parts)
    assert len({found.fingerprint for found in opened.values()}) == 1


def test_a_range_of_users_is_that_of_the_whole(folders):
    for count in (1, 3, 64):
        found = Partitions.open(folders / str(count))
        whole, ids = found.log().sequences(), found.log().users.values
        for first in range(0, found.n_users + 1, 13):
            for last in range(first, found.n_users + 1, 9):
                part = found.sequences(first, last)
                assert arrays(part) == arrays(whole.take(np.arange(first, last)))
                assert found.user_ids(first, last).to_list() == ids[first:last].to_list()
        assert part.items.dtype == part.users.dtype == part.offsets.dtype == part.times.dtype == np.int64
        for wrong in ((-1, 3), (0, found.n_users + 1), (5, 4)):
            with pytest.raises(ValueError, match=r"users lie in 0\.\.39"):
                found.sequences(*wrong)


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=30))
def test_any_log_is_the_same_in_one_and_in_many_partitions(tmp_path_factory, given_rows):
    frame = pl.DataFrame(given_rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    place = tmp_path_factory.mktemp("log")
    prints = [partitionlog.write(frame, place / str(count), count) for count in (1, 5)]
    assert prints[0] == prints[1]
    one, five = (store.open(place / str(count)).log for count in (1, 5))
    same(one, five)
    plain = Interactions.from_frame(frame)
    assert one.users.values.dtype == one.items.values.dtype == pl.Int64
    assert len(one) == len(plain)
    assert not Partitions.open(place / "5").has_ratings


def test_the_fingerprint_is_of_the_content(folders, tmp_path):
    known = Partitions.open(folders / "1").fingerprint
    changes = {
        "time": FRAME.with_columns(timestamp=pl.col("timestamp") + 1),
        "rating": FRAME.with_columns(rating=pl.col("rating").fill_null(0.0)),
        "no rating": FRAME.drop("rating"),
        "user": FRAME.with_columns(user_id=pl.col("user_id") + "x"),
        "item": FRAME.with_columns(item_id=pl.col("item_id") + 100),
        "row": FRAME.head(-1),
    }
    found = {name: partitionlog.write(frame, tmp_path / name, 2) for name, frame in changes.items()}
    assert len({known, *found.values()}) == len(changes) + 1
    text = FRAME.with_columns(item_id=pl.col("item_id").cast(pl.String))
    assert partitionlog.write(text, tmp_path / "text", 2) == known


def test_the_same_rows_are_the_same_bytes(tmp_path):
    users = pl.DataFrame({"user_id": ["a", "b"], "interactions": [200_000, 100_000]})
    user = np.repeat([0, 1], [200_000, 100_000])
    table = pl.DataFrame({"user": user, "item": pl.Series(user % 7 + 1, dtype=pl.Int32), "timestamp": user * 3})
    pieces = pl.concat([table[:10], table[10:150_000], table[150_000:]], rechunk=False)
    for name, frame in (("one", table), ("pieces", pieces)):
        write_partition(tmp_path / name, 4, users, frame)
    digests = [
        hashlib.sha256((tmp_path / n / "interactions/00004.parquet").read_bytes()).digest() for n in ("one", "pieces")
    ]
    assert digests[0] == digests[1]


def test_only_the_row_groups_of_a_range_are_read(tmp_path):
    """Row groups other than the first are overwritten; a user of the first is read all the same, and a later is not."""
    users, each = 600, 1_000
    table = pl.DataFrame(
        {
            "user": np.repeat(np.arange(users), each),
            "item": pl.Series(np.tile(np.arange(1, each + 1), users), dtype=pl.Int32),
            "timestamp": np.random.default_rng(0).integers(0, 2**60, users * each),
        }
    )
    told = pl.DataFrame({"user_id": np.arange(users), "interactions": pl.Series([each] * users, dtype=pl.Int64)})
    write_partition(tmp_path, 0, told, table)
    items = pl.DataFrame({"item_id": np.arange(each), "interactions": [users] * each})
    write_about(tmp_path, items=items, times="real", statistics={}, provenance={})
    path = tmp_path / "interactions" / "00000.parquet"
    whole = path.read_bytes()
    half, quarter = len(whole) // 2, len(whole) // 4
    path.write_bytes(whole[:half] + bytes(quarter) + whole[half + quarter :])
    found = Partitions.open(tmp_path, verify=False)
    assert found.sequences(3, 5).items.tolist() == [*range(1, each + 1)] * 2
    with pytest.raises(BadLog, match=r"interactions/00000\.parquet cannot be read as Parquet"):
        found.sequences(0, users)
    with pytest.raises(BadLog, match=r"00000\.parquet was changed after it was written"):
        Partitions.open(tmp_path)


def test_of_a_range_only_the_columns_that_are_needed_are_read(folders, monkeypatch):
    found, asked = Partitions.open(folders / "3"), []
    true = reading.read

    def read(path, columns, begin=0, rows=None):
        asked.append((path.parent.name, tuple(columns), rows))
        return true(path, columns, begin, rows)

    monkeypatch.setattr(reading, "read", read)
    part = found.sequences(2, 4)
    assert ("interactions", ("item", "timestamp"), len(part.items)) in asked
    assert {columns for folder, columns, _ in asked if folder == "users"} <= {("interactions",)}


@pytest.fixture
def copy(folders, tmp_path):
    shutil.copytree(folders / "3", tmp_path / "data")
    return tmp_path / "data"


def edited(folder, change):
    path = folder / "manifest.json"
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def refused(folder, message, *, verify=True):
    with pytest.raises(BadLog, match=message) as refusal:
        Partitions.open(folder, verify=verify)
    assert "\n" not in str(refusal.value)
    with pytest.raises(BadLog, match=message):
        store.open(folder)


@pytest.mark.parametrize("file", ["interactions/00001.parquet", "users/00000.parquet", "items.parquet"])
def test_a_file_that_is_not_as_it_was_is_named(copy, file, monkeypatch):
    def nothing(*_, **__):
        raise AssertionError("something was read")

    monkeypatch.setattr(pl, "scan_parquet", nothing)
    monkeypatch.setattr(pl, "read_parquet", nothing)
    path = copy / file
    whole = path.read_bytes()
    path.write_bytes(whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
    refused(copy, f"{file} was changed after it was written: its SHA-256 begins with")
    assert Partitions.open(copy, verify=False).n_users == 40
    path.write_bytes(whole + b"x")
    refused(copy, f"{file} has {len(whole) + 1} bytes, and manifest.json says {len(whole)}", verify=False)
    path.unlink()
    refused(copy, f"{file} is in manifest.json and cannot be read", verify=False)


def test_a_part_missing_from_the_manifest_is_named(copy):
    edited(copy, lambda told: told["partitions"].pop(1))
    refused(copy, r"interactions/00001\.parquet is not in manifest\.json: it was added later", verify=False)


def test_a_file_beside_the_partitions_is_named(copy):
    (copy / "users" / "00003.parquet").write_bytes(b"")
    refused(copy, r"users/00003\.parquet is not in manifest\.json")


def test_a_file_that_is_named_twice_is_named(copy):
    edited(copy, lambda told: told["partitions"].append(told["partitions"][2]))
    refused(copy, r"manifest\.json names users/00002\.parquet twice", verify=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: told["partitions"].reverse(), r"manifest\.json was changed after it was written"),
        (lambda told: told.update(ratings=False), r"manifest\.json was changed after it was written"),
        (lambda told: told.update(format=9), r"manifest\.json has format 9, and this version reads 1"),
        (lambda told: told.pop("items"), r"manifest\.json is missing or damaged \(it has no 'items'\)"),
        (lambda told: told.update(partitions=[]), "is missing or damaged"),
        (lambda told: told["items"].update(rows="3"), "is missing or damaged"),
        (lambda told: told["items"].update(rows=-3), "is missing or damaged"),
        (lambda told: told["partitions"][0].update(users=None), "is missing or damaged"),
        (lambda told: told["partitions"][0]["users"].update(file="users/../../../etc/passwd"), "is missing or damaged"),
        (lambda told: told["partitions"][0]["users"].update(file="interactions/00000.parquet"), "missing or damaged"),
        (lambda told: told["partitions"][0]["users"].update(sha256="00"), "is missing or damaged"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(copy, change, message):
    edited(copy, change)
    refused(copy, message, verify=False)


def test_a_damaged_manifest_is_refused(copy):
    for text in ("{", "[]", ""):
        (copy / "manifest.json").write_text(text)
        refused(copy, r"manifest\.json is missing or damaged", verify=False)
    (copy / "manifest.json").unlink()
    refused(copy, r"manifest\.json is missing or damaged")


def test_a_directory_of_one_table_has_no_partitions(tmp_path):
    store.write(Interactions.from_frame(FRAME), tmp_path / "one", {})
    with pytest.raises(BadLog, match="has format 1, and this version reads 2"):
        Partitions.open(tmp_path / "one")
    dataset = store.open(tmp_path / "one")
    assert dataset.partitions is None
    assert (dataset.n_users, dataset.n_items) == (dataset.log.n_users, dataset.log.n_items)
    assert dataset.statistics() == dataset.log.statistics()


def test_a_dataset_reads_no_interaction_before_its_log_is_asked_for(folders, monkeypatch):
    for name in ("scan_parquet", "read_parquet"):
        monkeypatch.setattr(pl, name, lambda *_, **__: pytest.fail("something was read"))
    dataset = store.open(folders / "3")
    assert isinstance(dataset.partitions, Partitions)
    assert (dataset.n_users, dataset.name, dataset.has_parts, dataset.parts_divide_users) == (40, "3", False, False)
    monkeypatch.undo()
    assert dataset.log is dataset.log
    assert dataset.items.values.equals(dataset.log.items.values)
    assert dataset.titles.to_list() == dataset.log.titles.to_list()
    assert dataset.categories.to_list() == dataset.log.categories.to_list()


def test_partitions_that_do_not_belong_together_are_refused(tmp_path):
    def part(folder, number, first, ids=("a", "b"), kind=pl.Int32):
        users = pl.DataFrame({"user_id": list(ids), "interactions": pl.Series([1, 2], dtype=pl.Int64)})
        user = pl.Series([first, first + 1, first + 1], dtype=pl.Int64)
        rows = {"user": user, "item": pl.Series([1, 1, 2], dtype=kind), "timestamp": pl.Series([1, 2, 3])}
        write_partition(folder, number, users, pl.DataFrame(rows))

    items = pl.DataFrame({"item_id": ["x", "y"], "interactions": [2, 1]})

    def about(folder):
        return write_about(folder, items=items, times="real", statistics={}, provenance={})

    part(tmp_path / "gap", 0, 0)
    part(tmp_path / "gap", 1, 3)
    with pytest.raises(BadLog, match="partition 1 begins with user 3 and not 2"):
        about(tmp_path / "gap")
    part(tmp_path / "kinds", 0, 0)
    part(tmp_path / "kinds", 1, 2, ids=(1, 2))
    with pytest.raises(BadLog, match="partition 1 has columns"):
        about(tmp_path / "kinds")
    part(tmp_path / "hole", 1, 0)
    with pytest.raises(BadLog, match="has not all of its partitions"):
        about(tmp_path / "hole")
    with pytest.raises(ValueError, match="columns of a partition"):
        part(tmp_path / "types", 0, 0, kind=pl.Int64)
    unsorted = pl.DataFrame({"user": [1, 0], "item": pl.Series([1, 1], dtype=pl.Int32), "timestamp": [1, 1]})
    with pytest.raises(ValueError, match="not sorted"):
        write_partition(tmp_path / "order", 0, pl.DataFrame({"user_id": [1, 2], "interactions": [1, 1]}), unsorted)
    assert not (tmp_path / "gap" / "dataset.json").exists()
    assert partitions.MANIFEST == "manifest.json"
