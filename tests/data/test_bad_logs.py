"""Every bad log is refused in one line with file, row, value and what to do; nothing else ever escapes a reader."""

import gzip
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from diffacet.data.formats import FORMATS
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


HEAD = "user,item,rating,time\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + "1,2,3,4\n1,2,3,n/a\n", ["row 3", "'n/a'", "'time'", "--time", "drop the row"]),
        (HEAD + "1,2,3,n/a\n", ["row 2", "'n/a'", "--time"]),
        (HEAD + "1,2,3,4\n1,2,3,\n", ["row 3", "missing", "--time none"]),
        (HEAD + "1,2,3,4\n1,2,3,4.5x\n", ["row 3", "'4.5x'"]),
        (HEAD + "1,2,3,2014-01-01\n1,2,3,2014-13-01\n", ["row 3", "'2014-13-01'", "YYYY-MM-DD"]),
        (HEAD + "1,2,3,2014-01-01\n1,2,3,5\n", ["row 3", "'5'"]),
        (HEAD + "1,2,3,inf\n", ["row 2", "'inf'"]),
        (HEAD + "1,2,3,99999999999999999999\n", ["row 2", "99999999999999999999"]),
        (HEAD + "1,2,3,1400000000000\n1,2,3,0\n", ["row 3", "'0'", "milliseconds", "one unit"]),
        (HEAD + "1,2,3,4\n,2,3,4\n", ["row 3", "'user'", "empty", "drop the row"]),
        (HEAD + '1,"",3,4\n', ["row 2", "'item'", "empty"]),
        (HEAD + "1,2,3,4\n\n1,,3,4\n", ["row 4", "'item'"]),
        (HEAD + '"a\nb",2,3,4\n1,2,x,4\n', ["row 4", "'x'", "'rating'", "--rating none"]),
        (HEAD + "1,2,,4\n", ["row 2", "missing", "'rating'", "--rating none"]),
        (HEAD + "1,2,nan,4\n", ["row 2", "'nan'", "finite"]),
        (HEAD + "1,2,3,4\n1,2\n", ["row 3", "2 fields", "4 columns", "1,2"]),
        (HEAD + "1,2,3,4\n1,2,3,4,5\n", ["row 3", "5 fields", "4 columns", "quotes"]),
        (HEAD + "1,2,3,4,5\n", ["row 2", "5 fields"]),
        (HEAD + '1,2,3,4\n1,"2,3,4\n1,2,3,4\n', ["row 3", "quote"]),
        (HEAD, ["no rows", "at least one"]),
        (HEAD + "\n\n", ["no rows"]),
        ("", ["is empty"]),
        ("\n \n", ["is empty"]),
        ("who,item,time\n1,2,3\n", ["user", "who, item, time", "--user COL"]),
        ("user,what,time\n1,2,3\n", ["item", "user, what, time", "--item COL"]),
        ("user,item,when\n1,2,3\n", ["time", "user, item, when", "--time COL", "--time none"]),
        ("1,2,3,1400000000\n1,3,3,1400000001\n", ["--user COL", "first row", "looks like values"]),
    ],
)
def test_a_bad_csv_is_refused_with_file_row_value_and_remedy(put, text, words):
    message = refusal(put("bad.csv", text), format="csv")
    assert "bad.csv" in message
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"user":1,"item":2,"time":', ["row 3", "not a JSON object", "one complete object per line"]),
        ("[1, 2]", ["row 3", "one array"]),
        ("5", ["row 3", "one JSON object per line"]),
        ('{"user":1,"item":2}', ["row 3", "time is missing", "--time"]),
        ('{"item":2,"time":3}', ["row 3", "'user'", "empty"]),
        ('{"user":1,"item":null,"time":3}', ["row 3", "'item'", "empty"]),
        ('{"user":1,"item":2,"time":"soon"}', ["row 3", "'soon'"]),
    ],
)
def test_a_bad_json_line_is_refused_with_its_row(put, line, words):
    good = '{"user":1,"item":2,"time":3}\n'
    message = refusal(put("bad.jsonl", good + "\n" + line + "\n" + good))
    for word in ["bad.jsonl", *words]:
        assert word in message, message


def test_other_encodings_are_refused_with_byte_and_row(put):
    text = (HEAD + "1,2,3,4\n1,café,3,4\n").encode("latin-1")
    for name, content in [("bad.csv", text), ("bad.csv.gz", gzip.compress(text))]:
        message = refusal(put(name, content))
        assert "row 3" in message
        assert f"byte {text.index(0xE9)}" in message
        assert "iconv" in message
    line = '{"user":"é","item":2,"time":3}\n'
    assert "row 1" in refusal(put("bad.jsonl", line.encode("latin-1")))
    assert "UTF-16" in refusal(put("wide.csv", LOG.encode("utf-16")))
    assert "row 1, byte 5" in refusal(put("head.csv", "user,é,item,time\n1,2,3,4\n".encode("latin-1")))


def test_damaged_missing_and_foreign_files_are_refused(put, tmp_path):
    packed = gzip.compress(LOG.encode() * 50)
    assert "damaged gzip" in refusal(put("cut.csv.gz", packed[:-20]))
    assert "damaged gzip" in refusal(put("plain.csv.gz", LOG))
    assert "damaged gzip" in refusal(put("cut.jsonl.gz", gzip.compress(b'{"user":1,"item":2,"time":3}\n' * 99)[:-9]))
    assert "no such file" in refusal(tmp_path / "none.csv")
    assert "not a Parquet file" in refusal(put("a.parquet", LOG))
    assert "Parquet" in refusal(put("b.parquet", b"PAR1" + b"\x00" * 40 + b"PAR1"))
    assert "zip" in refusal(put("c.csv", b"PK\x03\x04" + b"\x00" * 30))
    assert "pickle" in refusal(put("d.csv", b"\x80\x04\x95" + b"\x00" * 30))
    assert "--format" in refusal([put("e.csv", LOG), put("e.jsonl", '{"user":1,"item":2,"time":3}\n')])
    (tmp_path / "empty").mkdir()
    assert "without files" in refusal(tmp_path / "empty")
    assert "no file" in refusal([])


def test_unreadable_columns_of_parquet_are_refused(tmp_path):
    path = tmp_path / "log.parquet"

    def message(**columns) -> str:
        pl.DataFrame({"user": [1, 2], "item": [1, 2], "time": [1, 2]} | columns).write_parquet(path)
        return refusal(path)

    assert "row 2" in message(user=[1, None])
    assert "row 2" in message(user=[1.0, 1.5])
    assert "List" in message(item=[[1], [2]])
    assert "row 2" in message(time=[1, None])
    assert "not times" in message(time=[True, False])
    assert "row 1" in message(rating=[float("nan"), 1.0])
    assert "no rows" in message(user=[], item=[], time=[])


def test_options_that_name_nothing_are_refused(put):
    path = put("log.csv", LOG)
    assert "no column 'timestmp' (did you mean 'timestamp'?), which --time names; its columns are: " in refusal(
        path, time="timestmp"
    )
    assert "no column 'nobody', which --user names; its columns are: " in refusal(path, user="nobody")
    assert "both user and item" in refusal(path, user="item_id")
    assert "unknown format 'parket' (did you mean 'parquet'?); formats are " in refusal(path, format="parket")
    other = put("b.csv", "user_id,item_id,timestamp\n1,2,3\n")
    assert "--rating none" in refusal([path, other])
    assert "--rating none" in refusal([other, path])


def test_bad_item_files_are_refused(put):
    log = put("log.csv", LOG)
    assert "no such file" in refusal(log, items=log.with_name("none.csv"))
    assert "is empty" in refusal(log, items=put("empty.csv", ""))
    assert "item_id" in refusal(log, items=put("odd.csv", "number,words\n1,2\n"))
    assert "row 3" in refusal(log, items=put("gap.csv", "item_id,title\n30,x\n,y\n"))
    assert "describes none" in refusal(log, items=put("other.csv", "item_id,title\n1,x\n2,y\n"))
    assert "row 2" in refusal(log, items=put("cut.jsonl", '{"asin":"30"}\n{"asin":\n'))
    assert "row 2" in refusal(log, items=put("noid.jsonl", '{"asin":"30"}\n{"title":"x"}\n'))
    assert "no rows" in refusal(log, items=put("head.csv", "item_id,title\n"))


FRAGMENTS = [
    "user",
    "item",
    "time",
    "rating",
    ",",
    "\t",
    ";",
    "::",
    '"',
    "\n",
    "\r\n",
    "\r",
    "1",
    "007",
    "x",
    "-",
    ".5",
    "é",
]
FRAGMENTS += [
    "2014-01-01",
    "1400000000123",
    "{",
    "}",
    "[",
    '"user":',
    '"item":1',
    '"time":',
    "null",
    " ",
    "PAR1",
    "NaN",
]
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join)
BYTES = st.one_of(
    TEXTS.map(str.encode),
    TEXTS.map(lambda text: (HEAD + text).encode()),
    TEXTS.map(lambda text: f'{{"user":1,"item":2,"time":3}}\n{text}'.encode()),
    TEXTS.map(lambda text: gzip.compress((HEAD + text).encode())[:-1]),
    st.binary(max_size=40),
)


def attempt(path: Path, form: str) -> tuple[RawLog | None, str]:
    try:
        return read_log([path], format=form), ""
    except BadLog as error:
        return None, str(error)


@settings(
    max_examples=200, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=BYTES,
    form=st.sampled_from(["auto", *FORMATS]),
    suffix=st.sampled_from([".csv", ".json", ".dat", ".parquet"]),
)
@example(content=b'user,item,time\n1,2,"3', form="csv", suffix=".csv")
@example(content=b"user,item,time\n1,2\r3,4\n", form="csv", suffix=".csv")
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path, content, form, suffix):
    path = tmp_path / f"any{suffix}"
    path.write_bytes(content)
    log, message = attempt(path, form)
    path.unlink()
    if log is None:
        assert "any" in message
        assert len(message.splitlines()) == 1
    else:
        assert log.rows == log.frame.height > 0
        assert log.frame.null_count().sum_horizontal().item() == 0


def test_odd_item_objects_are_read_or_refused(put):
    log = put("log.csv", LOG)
    half = read_log([log], items=put("half.jsonl", '{"asin":"30","title":"\\ud800","categories":["\\ud800"]}\n'))
    assert half.items.rows() == [(30, "?", ["?"])]
    assert "row 1" in refusal(log, items=put("keys.jsonl", "{1: 2}\n"))
    assert "row 1" in refusal(log, items=put("deep.jsonl", '{"asin":' + "[" * 100_000 + "\n"))
    assert "row 2" in refusal(put("deep2.jsonl", '{"user":1,"item":2,"time":3}\n{"user":' + "[" * 100_000 + "\n"))
