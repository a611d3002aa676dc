"""The steps of a streamed import, each against a written-out loop or the readers of whole logs."""

import gzip

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffacet.data import hashing
from diffacet.data.formats import raw
from diffacet.data.formats.columns import resolve
from diffacet.data.formats.delimited import with_header
from diffacet.data.formats.jsonlines import with_keys
from diffacet.data.formats.parquet import with_schema
from diffacet.data.formats.source import Names
from diffacet.data.streaming import (
    casting,
    catalogue,
    coding,
    figures,
    finishing,
    hashes,
    keeping,
    ordering,
    scatter,
    sorting,
    spill,
)
from diffacet.errors import BadLog

whole = st.integers(-(2**63), 2**63 - 1) | st.integers(-20_000, 20_000) | st.integers(0, 18).map(lambda n: 10**n)
times = st.integers(-(2**62), 2**62) | st.integers(0, 3) | st.integers(10**15, 10**15 + 5)


@given(st.lists(whole, min_size=1, max_size=40))
def test_whole_numbers_hash_as_their_texts(numbers):
    ids = pl.Series(numbers, dtype=pl.Int64)
    expected = hashing.ids(ids)
    np.testing.assert_array_equal(hashes.hashed(ids), expected)
    np.testing.assert_array_equal(hashes.hashed(ids.cast(pl.String)), expected)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), st.integers(1, hashes.MOST))
def test_a_partition_is_the_exact_share_of_the_hash(numbers, partitions):
    found = hashes.partition_of(np.array(numbers, np.uint64), partitions)
    assert found.tolist() == [number * partitions // 2**64 for number in numbers]


@given(st.lists(st.sampled_from(["", "a", "ä", "b" * 40, "7"]) | st.text(max_size=3)) | st.lists(whole))
def test_coded_values_come_back(values):
    dtype = pl.String if values and isinstance(values[0], str) else pl.Int64
    series = pl.Series(values, dtype=dtype)
    distinct, codes = coding.coded(series)
    assert distinct.gather(codes).to_list() == values
    assert distinct.n_unique() == len(distinct) == len(set(values))


def test_texts_of_one_hash_stay_apart(monkeypatch):
    values = pl.Series(["a", "b", "a", "ccc", "bb", "ccc"])
    monkeypatch.setattr(pl.Series, "hash", lambda self, _seed: self.str.len_bytes().cast(pl.UInt64))
    distinct, codes = coding.coded(values)
    assert distinct.gather(codes).to_list() == values.to_list()
    assert sorted(distinct) == ["a", "b", "bb", "ccc"]


@given(st.data())
def test_canonical_order_is_that_of_tuples(data):
    rows = data.draw(
        st.lists(
            st.tuples(
                st.integers(0, 3), times, st.integers(0, 2**31 - 1) | st.integers(0, 2), st.sampled_from([1.0, -2.5])
            ),
            max_size=30,
        )
    )
    columns = [np.array([row[place] for row in rows], np.int64) for place in range(3)]
    rating = np.array([row[3] for row in rows]) if data.draw(st.booleans()) else None
    order = ordering.canonical(*columns, rating)
    found = [rows[place][: 3 if rating is None else 4] for place in order]
    assert found == sorted(row[: 3 if rating is None else 4] for row in rows)
    assert sorted(order.tolist()) == list(range(len(rows)))


def test_users_stand_by_hash():
    ids = pl.Series([str(number) for number in range(500)])
    found = hashing.ids(ids.gather(ordering.by_hash(ids)))
    assert (found[1:] > found[:-1]).all()


def test_users_of_one_hash_stand_by_text(monkeypatch):
    monkeypatch.setattr(hashing, "ids", lambda values: np.array([len(value) % 2 for value in values], np.uint64))
    ids = pl.Series(["ccc", "aa", "b", "a", "bb", "aaa"])
    assert ids.gather(ordering.by_hash(ids)).to_list() == ["aa", "bb", "a", "aaa", "b", "ccc"]


@given(
    st.lists(st.tuples(st.sampled_from(["x", "yy", "10", "ü"]), st.integers(0, 9)), min_size=1, max_size=30),
    st.integers(1, 5),
)
@settings(deadline=None)
def test_spilled_rows_come_back_by_partition(tmp_path_factory, rows, partitions):
    path = tmp_path_factory.mktemp("spill") / "file"
    frame = pl.DataFrame(rows, schema={"user": pl.String, "item": pl.Int64}, orient="row")
    frame = frame.with_columns(time=pl.int_range(pl.len()))
    place = hashes.partitions_of(frame["user"], partitions)
    with path.open("wb") as file:
        places = spill.append(file, frame, place, partitions)
    for partition in range(partitions):
        size = places[partition + 1] - places[partition]
        expected = frame.filter(pl.Series(place) == partition)
        assert (size > 0) == (expected.height > 0)
        if size:
            segment = spill.Segment(path, places[partition], size, 1)
            found = spill.gather([segment], 1000, users=pl.String(), items=pl.String())
            assert found.equals(expected.with_columns(pl.col("item").cast(pl.String), pl.col("time") * 1000))


def test_a_damaged_spill_file_is_named(tmp_path):
    path = tmp_path / "piece"
    path.write_bytes(b"nothing")
    with pytest.raises(BadLog, match=r"piece, written by this import, cannot be read"):
        spill.gather([spill.Segment(path, 0, 7, 1)], 1, users=pl.Int64(), items=pl.Int64())


# Blocks of files: the same rows as the whole file, and the same refusals.

TEXTS = {
    "plain": "user,item,time\n" + "".join(f"u{n},{n % 7},{n}\n" for n in range(60)),
    "no end": "user,item,time\na,1,2\nb,3,4",
    "blank lines": "\n\nuser,item,time\n\na,1,2\n\n\nb,3,4\n\n",
    "quotes": 'user,item,time\n"a, b","x\ny",3\nc,"say ""hi""",4\n"d\n\n",e,5\nf,g,6\n',
    "bom": "\ufeffuser,item,time\na,1,2\nb,3,4\n",
    "tabs": 'user\titem\ttime\n"loose\t1\t2\nb"\t3\t4\nc\t"5"\t6\n',
    "tabs and quotes": 'user\titem\ttime\n"a\tb"\t1\t2\nc\t"5"\t6\n',
    "windows": "user,item,time\r\na,1,2\r\nb,3,4\r\n",
}


@pytest.mark.parametrize("size", [1, 7, 16, 64, 10**6])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_blocks_of_a_text_file_are_its_rows(tmp_path, text, size):
    for name, write in (("log.csv", str.encode), ("log.csv.gz", lambda text: gzip.compress(text.encode()))):
        path = tmp_path / name
        path.write_bytes(write(text))
        table = with_header(path)
        expected = table.read(["time", "user", "item"])
        blocks = list(table.batches(["time", "user", "item"], size))
        assert pl.concat([block.frame for block in blocks]).equals(expected.frame)
        rows = [block.row(index) for block in blocks for index in range(block.frame.height)]
        assert rows == [expected.row(index) for index in range(expected.frame.height)]


@pytest.mark.parametrize("size", [1, 30, 10**6])
@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_spans_of_a_text_file_are_its_rows(tmp_path, name, size):
    path = tmp_path / name
    line = '{{"user": "u{n}", "item": {n}, "time": {n}}}\n' if name == "log.jsonl" else "u{n},{n},{n}\n"
    lines = "".join(line.format(n=n) + "\n" * (n % 3 == 0) for n in range(40))
    path.write_text(lines if name == "log.jsonl" else "user,item,time\n" + lines)
    table = with_keys(path) if name == "log.jsonl" else with_header(path)
    expected = table.read(["user", "time"])
    spans = table.spans(size)
    assert [span.start for span in spans[1:]] == [span.end for span in spans[:-1]]
    blocks = [block for span in spans for block in table.batches(["user", "time"], 25, span)]
    assert pl.concat([block.frame for block in blocks]).equals(expected.frame)
    rows = [block.row(index) for block in blocks for index in range(block.frame.height)]
    assert rows == [expected.row(index) for index in range(expected.frame.height)]


@pytest.mark.parametrize(
    "text", [gzip.compress(b"user,item,time\na,1,2\n"), b'user,item,time\n"a\n",1,2\n'], ids=["gzip", "quoted"]
)
def test_packed_files_and_quotes_make_one_piece(tmp_path, text):
    path = tmp_path / "log.csv"
    path.write_bytes(text)
    assert with_header(path).spans(5) == []


@pytest.mark.parametrize("size", [1, 20, 10**6])
def test_blocks_of_json_lines_are_its_rows(tmp_path, size):
    path = tmp_path / "log.jsonl"
    path.write_text('{"user": "a", "item": 1}\n\n{"user": 2, "item": "b"}\n\n{"item": 3}\n{"user": "c", "item": 4}')
    table = with_keys(path)
    expected = table.read(["user", "item"])
    blocks = list(table.batches(["user", "item"], size))
    assert pl.concat([block.frame for block in blocks]).equals(expected.frame)
    assert [block.row(i) for block in blocks for i in range(block.frame.height)] == [1, 3, 5, 6]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("a,1\n", "row 62: 2 fields where 3 columns are"),
        ("a,1,2,3\n", "row 62: 4 fields where 3 columns are"),
        (b"\xe4,1,2\n", "row 62, byte .*: 0xe4 is not UTF-8"),
    ],
)
@pytest.mark.parametrize("size", [64, 10**6])
def test_blocks_name_the_row_that_is_bad(tmp_path, bad, words, size):
    path = tmp_path / "log.csv"
    path.write_bytes(TEXTS["plain"].encode() + (bad if isinstance(bad, bytes) else bad.encode()) + b"z,1,2\n")
    with pytest.raises(BadLog, match=words):
        list(with_header(path).batches(["user", "item", "time"], size))


@given(st.lists(st.sampled_from([b"a\n", b"\n", b'"x\n', b"long line\n", b'y"\n']), min_size=1), st.integers(1, 30))
@settings(deadline=None)
def test_blocks_of_bytes_end_where_lines_end(tmp_path_factory, lines, size):
    path = tmp_path_factory.mktemp("bytes") / "file"
    path.write_bytes(b"".join(lines))
    found = list(raw.blocks(path, size))
    assert b"".join(found) == b"".join(lines)
    assert all(block.endswith(b"\n") for block in found)
    # As long as a block need be: without its last line it would be short of the size.
    assert all(len(block[: block[:-1].rfind(b"\n") + 1]) < size for block in found)
    quoted = list(raw.blocks(path, size, quoted=True))
    assert b"".join(quoted) == b"".join(lines)
    assert all(block.count(b'"') % 2 == 0 for block in quoted[:-1])


def test_parts_of_a_parquet_file_are_its_rows(tmp_path):
    path = tmp_path / "log.parquet"
    frame = pl.DataFrame({"user": range(20), "item": range(20, 40), "time": range(20)})
    frame.write_parquet(path, row_group_size=6)
    table = with_schema(path)
    assert table.rows() == 20
    block = table.part(["item", "user"], 7, 9)
    assert block.frame.equals(frame.select("item", "user").slice(7, 9))
    assert block.row(0) == 8


# Casting in blocks: a file is read as if it were whole.


def _cast(tmp_path, values, size):
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\n" + "".join(f"u,i,{value}\n" for value in values))
    table = with_header(path)
    names = resolve(table, Names())
    found, first = [], None
    for block in table.batches(casting.wanted(names), size):
        first = first or casting.first_time(block, names)
        found.append(casting.cast(block, path, names, drop_timeless=False, first=first))
    return found


@pytest.mark.parametrize("size", [1, 10**6])
@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["1600000000", "1600000000000"], "row 2.*is in seconds .* milliseconds"),
        (["1600000000000", "1600000001"], "row 3.*is in seconds"),
        (["1600000000", "2020-01-01"], "row 3.*is no time"),
        (["2020-01-01", "1600000000"], "row 3.*is no time"),
        (["1600000000", ""], "row 3.*the time is missing"),
    ],
)
def test_a_file_has_one_kind_of_times(tmp_path, values, words, size):
    with pytest.raises(BadLog, match=words):
        _cast(tmp_path, values, size)


def test_finer_units_in_a_later_block_are_refused(tmp_path):
    with pytest.raises(BadLog, match=r"row 3.*'1600000000000000' is in a finer unit than '1600000000000' in row 2"):
        _cast(tmp_path, ["1600000000000", "1600000000000000"], 1)


@pytest.mark.parametrize("values", [["1.5", "2", "3.25"], ["2020-01-01", "2020-01-01 00:00:00.5"], ["7", "8"]])
def test_times_of_blocks_are_those_of_the_file(tmp_path, values):
    (expected,) = _cast(tmp_path, values, 10**6)
    found = _cast(tmp_path, values, 1)
    top = max(rows.unit for rows in found)
    assert top == expected.unit
    joined = [time * (top // rows.unit) for rows in found for time in rows.frame["time"]]
    assert joined == expected.frame["time"].to_list()


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        ([pl.Series([1, 2]), pl.Series(["3"])], True),
        ([pl.Series([1, 2]), pl.Series(["03"])], False),
        ([pl.Series([10**18]), pl.Series([3])], True),
        ([pl.Series([10**18]), pl.Series(["3"])], False),
        ([pl.Series(["1"]), pl.Series(["-2"])], True),
        ([pl.Series(["1"]), pl.Series([str(10**18)])], False),
    ],
)
def test_ids_of_blocks_are_typed_as_all_together(values, numbers):
    kind = casting.Kind()
    for column in values:
        kind = kind & casting._ids(column)[1]
    assert kind.numbers == numbers


# Filters and figures.

rows_of = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3), st.sampled_from([1.0, 2.0, 3.0])), min_size=1
)


@given(rows_of, st.booleans(), st.sampled_from([None, 2.0]), st.sampled_from([None, 2]), st.integers(0, 31))
@settings(deadline=None)
def test_a_rule_keeps_what_a_loop_keeps(tmp_path_factory, rows, distinct, rating, least, mask):
    rows = sorted(rows)
    columns = sorting.Columns(*(np.array(column) for column in zip(*rows, strict=True)))
    columns = sorting.Columns(columns.user, columns.time, columns.item, columns.rating)  # sorted by user, time, item
    rows = [(user, time, item, stars) for user, time, item, stars in rows]
    path = tmp_path_factory.mktemp("rule") / "mask.npy"
    items = np.array([bool(mask >> place & 1) for place in range(5)])
    np.save(path, items)
    rule = keeping.Rule(distinct, rating, () if least is None else (keeping.Least(least, path),))
    found, _ = keeping.kept(columns, rule)
    left, seen = [], set()
    for place, row in enumerate(rows):
        if distinct and row[:3] in seen:
            continue
        seen.add(row[:3])
        if rating is None or row[3] >= rating:
            left.append(place)
    if least is not None:
        left = [place for place in left if items[rows[place][2]]]
        users = [rows[place][0] for place in left]
        left = [place for place in left if users.count(rows[place][0]) >= least]
    assert np.flatnonzero(found).tolist() == left


@given(st.lists(st.integers(0, 20), min_size=1, max_size=50), st.integers(1, 4))
def test_spread_of_counted_numbers(numbers, parts):
    counted = [np.unique(part, return_counts=True) for part in np.array_split(np.array(numbers), parts)]
    pairs = [pair for sizes, many in counted for pair in zip(sizes.tolist(), many.tolist(), strict=True)]
    found = figures._spread(pairs)
    expected = {"min": min(numbers), "median": np.median(numbers), "mean": np.mean(numbers), "max": max(numbers)}
    assert found == expected


@given(st.dictionaries(st.integers(-99, 99) | st.integers(10**6, 10**7), st.integers(1, 3), min_size=1), st.booleans())
@settings(deadline=None)
def test_items_are_numbered_by_count_and_text_and_found(tmp_path_factory, counts, numbers):
    folder = tmp_path_factory.mktemp("items")
    dtype = pl.Int64() if numbers else pl.String()
    first = pl.DataFrame({"item": list(counts), "len": list(counts.values())})
    first.write_ipc(folder / "a.arrow")
    first.head(1).with_columns(pl.col("item").cast(pl.String)).write_ipc(folder / "b.arrow")
    found = catalogue.counted([folder / "a.arrow", folder / "b.arrow"], dtype)
    counts = counts | {next(iter(counts)): 2 * next(iter(counts.values()))}
    expected = sorted(counts, key=lambda item: (-counts[item], str(item)))
    assert found["item"].cast(pl.String).to_list() == [str(item) for item in expected]
    assert found["len"].to_list() == [counts[item] for item in expected]
    catalogue.write(found["item"], folder / "table")
    again = found["item"].reverse()
    assert catalogue.numbers(again, folder / "table").tolist() == list(reversed(range(len(expected))))


def test_an_empty_partition_has_no_rows(tmp_path):
    done = sorting.sort(sorting.Sorting(3, (), 1, (True, False), tmp_path / "none", tmp_path))
    assert (done.rows, done.users, done.path) == (0, 0, None)
    counted = keeping.count(keeping.Counting(3, None, keeping.Rule(), tmp_path))
    assert (counted.rows, counted.users) == (0, 0)
    task = finishing.Finishing(3, None, None, keeping.Rule(), None, 5, 7, 1, True, False, tmp_path)
    finished = finishing.finish(task)
    assert (finished.rows, finished.users, finished.pairs, finished.times) == (0, 0, 0, None)
    assert finished.per_user == ()


def test_large_parquet_files_are_cut_into_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(scatter, "TOGETHER", 4)
    path = tmp_path / "log.parquet"
    pl.DataFrame({"user": range(10), "item": range(10), "time": range(10)}).write_parquet(path)
    table = with_schema(path)
    pieces = scatter.cut([(table, resolve(table, Names())), (table, resolve(table, Names()))])
    assert [(piece.number, piece.start, piece.rows) for piece in pieces[:4]] == [
        (0, 0, 4),
        (1, 4, 4),
        (2, 8, 2),
        (3, 0, 4),
    ]
