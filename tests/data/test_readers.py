"""Logs in any form are read exactly; every bad one is refused with file, row, value and what to do."""

import csv
import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffacet.data.formats import sniff
from diffacet.data.readers import RawLog, read_log
from diffacet.errors import BadLog

LOG = "user_id,item_id,rating,timestamp\n7,30,4.5,1400000000\n7,31,3,1400000005\n9,30,1,1300000000\n"


@pytest.fixture
def put(tmp_path):
    """Writes content (text or bytes) to a file of a fresh directory and gives its path."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def refusal(paths, **options) -> str:
    with pytest.raises(BadLog) as caught:
        read_log(paths if isinstance(paths, list) else [paths], **options)
    return str(caught.value)


def same(one: RawLog, other: RawLog) -> bool:
    return one.frame.equals(other.frame) and one.frame.schema == other.frame.schema


def test_a_csv_is_read_in_input_order_with_its_types(put):
    log = read_log([put("log.csv", LOG)])
    assert log.frame.schema == {
        "user_id": pl.Int64,
        "item_id": pl.Int64,
        "timestamp": pl.Int64,
        "rating": pl.Float64,
    }
    assert log.frame.rows() == [(7, 30, 1400000000, 4.5), (7, 31, 1400000005, 3.0), (9, 30, 1300000000, 1.0)]
    assert (log.format, log.rows, log.items, len(log.files)) == ("csv", 3, None, 1)
    assert any("time = 'timestamp'" in note for note in log.notes)


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separator_line_ends_byte_order_mark_and_blank_lines_do_not_matter(put, separator, end):
    text = "\ufeff" + LOG.replace(",", separator).replace("\n", end) + end + end
    assert same(read_log([put("odd.txt", text)]), read_log([put("log.csv", LOG)]))


def test_blank_lines_between_rows_are_no_rows(put):
    log = read_log([put("gaps.csv", LOG.replace("\n9", "\n\n\n9"))])
    assert same(log, read_log([put("log.csv", LOG)]))


def test_every_form_of_one_log_gives_the_same(put, tmp_path):
    log = read_log([put("log.csv", LOG)])
    log.frame.write_parquet(tmp_path / "log.parquet")
    lines = "".join(json.dumps(row) + "\n" for row in log.frame.to_dicts())
    others = [
        tmp_path / "log.parquet",
        put("log.jsonl", lines),
        put(
            "strings.jsonl",
            "".join(json.dumps({k: str(v) for k, v in json.loads(x).items()}) + "\n\n" for x in lines.split("\n") if x),
        ),
        put("log.csv.gz", gzip.compress(LOG.encode())),
        put("packed-without-saying-so.csv", gzip.compress(LOG.encode())),
        put("log.jsonl.gz", gzip.compress(lines.encode())),
    ]
    for path in others:
        assert same(read_log([path]), log), path.name
        assert sniff([path]) == read_log([path]).format


def test_many_files_and_a_directory_equal_one_file(put):
    head, *rows = LOG.splitlines(keepends=True)
    files = [put(f"parts/{i}.csv", head + row) for i, row in enumerate(rows)]
    whole = read_log([put("log.csv", LOG)])
    assert same(read_log(files), whole)
    assert same(read_log([files[0].parent]), whole)
    assert read_log([files[0].parent]).files == tuple(map(str, files))


def test_files_may_order_their_columns_differently(put):
    one = put("a.csv", "user_id,item_id,timestamp\na,b,1\n")
    two = put("b.csv", "timestamp,comment,item_id,user_id\n2,x,c,a\n")
    assert read_log([one, two]).frame.rows() == [("a", "b", 1), ("a", "c", 2)]


@pytest.mark.parametrize(
    "header",
    [
        "userId,movieId,ts",
        "UID,ITEM,Date",
        "reviewerID,asin,unixReviewTime",
        "session_id,product_id,position",
        "User ID,Item-ID,TIME",
    ],
)
def test_common_names_are_guessed_whatever_their_case(put, header):
    assert read_log([put("log.csv", f"{header}\n1,2,3\n")], format="csv").frame.rows() == [(1, 2, 3)]


def test_explicit_names_win_over_guesses(put):
    path = put("log.csv", "user_id,who,item_id,what,timestamp,when,rating,liking\n1,a,2,b,3,4,5,6\n")
    log = read_log([path], user="who", item="what", time="when", rating="liking")
    assert log.frame.rows() == [("a", "b", 4, 6.0)]
    assert "rating" not in read_log([path], rating="none").frame.columns


def test_ids_are_numbers_only_when_all_are_plain_whole_numbers(put):
    def users(*ids: str) -> list[object]:
        text = "user,item,time\n" + "".join(f"{i},1,1\n" for i in ids)
        return read_log([put("log.csv", text)]).frame["user_id"].to_list()

    assert users("7", "-1", "0") == [7, -1, 0]
    for ids in [("7", "007"), ("1", "+1"), ("1", "1.0"), ("1", " 1"), ("1", "-0"), ("1", "9" * 19), ("1", "x")]:
        assert users(*ids) == list(ids)


def test_one_text_id_in_the_last_file_makes_all_ids_text(put):
    files = [put("a.csv", "user,item,time\n1,2,3\n"), put("b.csv", "user,item,time\nx1,2,3\n")]
    assert read_log(files).frame["user_id"].to_list() == ["1", "x1"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2014-07-23", datetime(2014, 7, 23, tzinfo=UTC)),
        ("2014-07-23 10:05", datetime(2014, 7, 23, 10, 5, tzinfo=UTC)),
        ("2014-07-23 10:05:33", datetime(2014, 7, 23, 10, 5, 33, tzinfo=UTC)),
        ("2014-07-23T10:05:33Z", datetime(2014, 7, 23, 10, 5, 33, tzinfo=UTC)),
        ("2014-07-23T10:05:33.000Z", datetime(2014, 7, 23, 10, 5, 33, tzinfo=UTC)),
        ("2014-07-23T10:05:33+02:00", datetime(2014, 7, 23, 8, 5, 33, tzinfo=UTC)),
        ("2014-07-23 10:05:33 -0330", datetime(2014, 7, 23, 13, 35, 33, tzinfo=UTC)),
        ("1969-12-31 23:59:59", datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_dates_become_seconds_in_utc(put, text, seconds):
    log = read_log([put("log.csv", f"user,item,time\n1,2,{text}\n")])
    assert log.frame["timestamp"].to_list() == [int(seconds.timestamp())]


@pytest.mark.parametrize("factor", [10**3, 10**6, 10**9])
def test_finer_units_become_seconds_when_no_order_is_lost(put, factor):
    base = 1_400_000_000
    text = f"user,item,ts\n1,2,{base * factor + 1}\n1,3,{base * factor + 2}\n2,2,{base * factor}\n"
    log = read_log([put("log.csv", text)])
    assert log.frame["timestamp"].to_list() == [base] * 3
    assert any("to seconds" in note for note in log.notes)


def test_milliseconds_stay_when_seconds_would_lose_the_order(put):
    late, early = 1_400_000_000_900, 1_400_000_000_100
    log = read_log([put("log.csv", f"user,item,ts\n1,2,{late}\n1,3,{early}\n")])
    assert log.frame["timestamp"].to_list() == [late, early]
    assert any("milliseconds" in note and "order" in note for note in log.notes)


def test_fractions_of_seconds_keep_their_order(put):
    log = read_log([put("log.csv", "user,item,ts\n1,2,1593878903.438\n1,3,1593878903.138\n1,4,15\n")])
    assert log.frame["timestamp"].to_list() == [1593878903438, 1593878903138, 15000]
    whole = read_log([put("log.csv", "user,item,ts\n1,2,1593878903.0\n1,3,15.0\n")])
    assert whole.frame["timestamp"].to_list() == [1593878903, 15]


def test_files_in_different_units_are_brought_to_one(put):
    files = [put("a.csv", "user,item,ts\n1,2,1400000000\n"), put("b.csv", "user,item,ts\n1,2,1400000001500\n")]
    assert read_log(files).frame["timestamp"].to_list() == [1400000000, 1400000001]


def test_parquet_times_of_any_type(tmp_path):
    moment = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    for dtype in (pl.Datetime("ms"), pl.Datetime("ns", "Europe/Berlin"), pl.Int32, pl.Float64, pl.Int64):
        value = moment if dtype.is_temporal() else int(moment.timestamp())
        time = pl.Series([value]).cast(pl.Datetime("us", "UTC") if dtype.is_temporal() else dtype).cast(dtype)
        frame = pl.DataFrame({"user": ["a"], "item": pl.Series([3], dtype=pl.UInt16), "time": time})
        frame.write_parquet(tmp_path / "log.parquet")
        log = read_log([tmp_path / "log.parquet"])
        assert log.frame.rows() == [("a", 3, int(moment.timestamp()))], dtype


def test_without_times_file_order_is_the_order(put):
    log = read_log([put("log.csv", "user,item\n1,5\n2,6\n1,7\n")], time="none")
    assert log.frame["timestamp"].to_list() == [0, 0, 1]
    assert any("position" in note for note in log.notes)


IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r"), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(IDS, IDS, st.integers(-(10**9), 10**11)), min_size=1, max_size=8),
    separator=st.sampled_from(",;|"),
)
def test_any_ids_survive_a_csv(tmp_path, rows, separator):
    path = tmp_path / "any.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerows([("user", "item", "time"), *rows])
    log = read_log([path], format="csv")
    assert [(str(u), str(i), t) for u, i, t in log.frame.rows()] == rows


def test_tsv_with_lone_quotes_is_text(put):
    log = read_log([put("log.tsv", 'user\titem\ttime\n1\t"Red" car\t5\n1\t"Blue\t6\n1\t7" disc\t7\n')])
    assert log.frame["item_id"].to_list() == ['"Red" car', '"Blue', '7" disc']


def test_csv_with_quotes_inside_fields_is_text(put):
    log = read_log([put("log.csv", 'user,item,time\n1,7" disc,7\n1,8,8\n')])
    assert log.frame["item_id"].to_list() == ['7" disc', "8"]


def test_an_item_file_of_any_form_is_matched(put, tmp_path):
    log = put("log.csv", LOG)
    texts = {
        "a.csv": 'item_id,title,categories\n30,"One, two",A|B\n31,,C\n32,Three,\n',
        "b.tsv": "product_id\tname\tgenre\n30\tOne, two\tA|B\n31\t\tC\n32\tThree\t\n",
        "c.jsonl": '{"asin":"30","title":"One, two","categories":[["A","B"],["Z"]]}\n'
        '{"asin":"31","categories":"C"}\n{"asin":32,"title":"Three"}\n',
        "d.json": "{'asin': '30', 'title': 'One, two', 'categories': [['A', 'B']]}\n"
        "{'asin': '31', 'categories': [['C']]}\n{'asin': '32', 'title': 'Three'}\n",
        "e.csv": 'video_id,title,feat\n30,"One, two","[\'A\', \'B\']"\n31,,"[""C""]"\n32,Three,[]\n',
        "f.csv": 'item_id,title,categories\n30,"One, two","A, B"\n31,,C\n32,Three,\n',
    }
    expected = [(30, "One, two", ["A", "B"]), (31, None, ["C"]), (32, "Three", [])]
    paths = [put(name, text) for name, text in texts.items()]
    pl.DataFrame(expected, schema=["item_id", "title", "categories"], orient="row").write_parquet(
        tmp_path / "g.parquet"
    )
    for path in [*paths, tmp_path / "g.parquet", put("h.csv.gz", gzip.compress(texts["a.csv"].encode()))]:
        read = read_log([log], items=path)
        assert read.items is not None
        assert read.items.rows() == expected, path.name
        assert read.items.schema["item_id"] == read.frame.schema["item_id"]
        assert read.files == (str(log), str(path))
        assert any(note.startswith("items: 2 of 2") for note in read.notes)


def test_item_ids_take_one_dtype_with_the_log(put):
    read = read_log([put("log.csv", LOG)], items=put("items.csv", "item_id,title\n30,One\nx,Two\n30,Again\n"))
    assert read.frame["item_id"].to_list() == ["30", "31", "30"]
    assert read.items.rows() == [("30", "One"), ("x", "Two")]
    assert any("repeated" in note for note in read.notes)


def test_strings_and_a_single_path_will_do(put):
    path = put("log.csv", LOG)
    assert same(read_log(str(path)), read_log([path]))
    assert same(read_log(path), read_log([str(path)]))


def test_ties_are_counted(put):
    log = read_log([put("log.csv", "user,item,time\n1,2,5\n1,3,5\n2,2,5\n1,4,5\n")])
    assert any(note.startswith("ties: 2 of 4") for note in log.notes)
    assert not any("ties" in note for note in read_log([put("b.csv", LOG)]).notes)


def test_keys_that_only_later_json_lines_have_are_seen(put):
    path = put("log.jsonl", '{"user":1,"item":2,"time":3}\n{"user":1,"item":2,"time":3,"rating":4}\n')
    assert "row 1" in refusal(path)
    assert read_log([path], rating="none").rows == 2


def test_a_big_log_is_read_in_blocks_with_the_right_row(put, monkeypatch):
    from diffacet.data.formats import jsonlines, raw

    monkeypatch.setattr(jsonlines, "blocks", lambda path, size=100, **more: raw.blocks(path, min(size, 100), **more))
    lines = [f'{{"user":{i},"item":2,"time":3}}\n' for i in range(40)]
    assert read_log([put("log.jsonl", "".join(lines))]).frame["user_id"].to_list() == list(range(40))
    assert "row 38" in refusal(put("bad.jsonl", "".join([*lines[:37], "{oops\n", *lines])))
    assert "row 38" in refusal(put("late.jsonl", "".join([*lines[:37], '{"user":1,"item":2}\n', *lines])))


def test_a_byte_order_mark_before_json_is_skipped(put):
    text = '{"user":1,"item":2,"time":3}\n'
    assert read_log([put("log.jsonl", "\ufeff" + text)]).frame.rows() == [(1, 2, 3)]


@pytest.mark.parametrize(
    ("form", "step"),
    [("%d.%m.%Y %H:%M", 60), ("%m/%d/%Y %I:%M:%S %p", 1), ("%Y%m%d", 86400), ("%d %b %Y %H:%M:%S %z", 1)],
)
def test_times_in_a_form_of_ones_own(put, form, step):
    stamps = [step * (1_700_000_000 // step + n) for n in range(0, 3_000, 7)]
    plain = put("plain.csv", "user,item,time\n" + "".join(f"u{n % 5},i{n % 3},{t}\n" for n, t in enumerate(stamps)))
    texts = [datetime.fromtimestamp(stamp, UTC).strftime(form) for stamp in stamps]
    own = put("own.csv", "user,item,time\n" + "".join(f"u{n % 5},i{n % 3},{t}\n" for n, t in enumerate(texts)))
    assert read_log(own, time_format=form).frame.equals(read_log(plain).frame)


def test_a_time_that_is_not_in_the_form(put):
    path = put("log.csv", "user,item,time\n1,2,01.12.2024\n1,3,12/24/2024\n")
    assert "--time-format such as" in refusal(path)
    said = refusal(path, time_format="%d.%m.%Y")
    assert all(part in said for part in ("log.csv, row 3", "'12/24/2024'", "'%d.%m.%Y'", "%m month", "drop the row"))
    assert "row 2" in refusal(path, time_format="dd.mm.yyyy")
    assert "row 3" in refusal(put("gap.csv", "user,item,time\n1,2,01.12.2024\n1,3,\n"), time_format="%d.%m.%Y")
