"""Ele.me's orders in miniature, histories inside the rows; exact counts, equal bytes, resumed after a kill."""

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest

from diffacet.data import clicks
from diffacet.data.clicks.importing import eleme, eleme_rows, lines
from diffacet.data.clicks.importing.eleme import Choice
from diffacet.data.clicks.importing.eleme_rows import COLUMNS, FIELDS, LISTS_DIFFER
from diffacet.errors import BadLog, BadSetting

START = 1_648_742_400  # 2022-04-01 00:00 in Shanghai
DAY = 86_400
LISTS = [history for _, _, history in FIELDS]


def row(day, number, **changed):
    """One sound row of a day, as a dictionary; its history has number % 4 entries, the latest first."""
    n = number % 4
    entries = {
        name: ";".join(str((number * 7 + k * 3 + shift) % 30) for k in range(n))
        for shift, name in enumerate(name for name in COLUMNS if name.endswith("_list"))
    }
    values = {name: str((number + place) % 9) for place, name in enumerate(COLUMNS)}
    values |= entries | {
        "label": str(number % 2),
        "user_id": str(100 + number % 5),
        "gender": "1",
        "times": str(START + (day - 1) * DAY + number * 60),
        "timediff_list": ";".join(str(60_000 * (k + 1) * 3) for k in range(n)),
        "time_type": ("breakfast", "lunch", "tea", "dinner", "night")[number % 5],
        "shop_geohash_6": "wtw3s",
        "shop_geohash_12": "wtw3sjq6q",
        "geohash12": "wtw3sjq",
    }
    return values | changed


def text(rows):
    return "".join(",".join(one[name] for name in COLUMNS) + "\n" for one in rows)


@pytest.fixture
def put(tmp_path):
    """Writes the files of some days, 30 rows each; `extra` goes to the end of the first."""

    def write(days=range(1, 9), extra="", where="raw", change=lambda one: one):
        folder = tmp_path / where
        folder.mkdir(exist_ok=True)
        for day in days:
            rows = text(change(row(day, number)) for number in range(30))
            (folder / f"D{day}_0.csv").write_text(rows + (extra if day == next(iter(days)) else ""))
        return [folder / f"D{day}_0.csv" for day in days]

    return write


def contents(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def test_rows_become_samples_with_their_histories(put, tmp_path):
    report = eleme.convert(list(reversed(put())), tmp_path / "out", Choice(), name="eleme")
    samples = pl.read_parquet(tmp_path / "out" / "samples.parquet")
    expected = [row(day, number) for day in range(1, 9) for number in range(30)]
    for name in ("user_id", "item_id", "shop_id", "hours", "rank_90"):
        assert samples[name].to_list() == [int(one[name]) for one in expected]
    assert samples["geohash12"].to_list() == [one["geohash12"] for one in expected]
    assert samples["timestamp"].to_list() == [1000 * int(one["times"]) for one in expected]
    for name in LISTS:
        lists = [[int(part) for part in one[name].split(";") if part][::-1] for one in expected]
        assert samples[name].to_list() == lists  # oldest first
    minutes = [[3, 6, 9][:n][::-1] for n in (number % 4 for _ in range(8) for number in range(30))]
    assert samples["timediff_bucket_list"].to_list() == [[m.bit_length() for m in one] for one in minutes]
    packed = clicks.open(tmp_path / "out")
    assert packed.log.names == ("shop", "item", "category", "aoi", "hour")
    assert packed.split.borders == ((START + 6 * DAY) * 1000, (START + 7 * DAY) * 1000)
    assert (packed.log.end - packed.log.begin).tolist() == [number % 4 for _ in range(8) for number in range(30)]
    assert report.figures.behaviours is None
    notes = "\n".join(report.notes)
    assert "agrees in 112 of 112 rows" in notes.replace("timediff_list agrees", "agrees")
    assert "2022-04-08 tests and 2022-04-07 validates" in notes
    assert "times: epoch seconds" in notes
    assert "cannot be checked" in notes
    assert report.counts == ()


def test_every_known_defect_is_counted(put, tmp_path):
    bad = [
        row(1, 1, label="2"),
        row(1, 2, user_id=""),
        row(1, 3, shop_id="x"),
        row(1, 7, item_id_list="1;2"),  # three in the others
        row(1, 7, shop_id_list="1;x;3"),
    ]
    kept = [
        row(1, 7, gender=""),
        row(1, 7, gender="-99"),
        row(1, 7, gender="0"),
        row(1, 7, timediff_list="60000;120000"),  # differences between neighbours
        row(1, 7, timediff_list="5"),
        row(1, 7, timediff_list="-1;60000;120000"),
        row(1, 7, brand_id="", item_id_list="1;;3"),
        row(1, 7, shop_id="3.0"),
    ]
    short = ",".join(["1"] * 38) + "\n"
    extra = text(bad) + text(kept) + short + ",".join(["1"] * 40) + "\n" + text([row(1, 7)])[:40]
    paths = put(extra=extra)
    report = eleme.convert(paths, tmp_path / "out", Choice(block=3000), name="eleme")
    assert dict(report.counts) == {
        lines.TRUNCATED: 1,
        lines.RAGGED: 2,
        lines.UNREADABLE: 4,
        lines.FLOATS: 1,
        LISTS_DIFFER: 1,
        eleme_rows.GENDER: 3,
    }
    notes = "\n".join(report.notes)
    assert "D1_0.csv: 8 bad rows dropped: row 31" in notes
    assert "differences between neighbours in 1, of another length in 1" in notes
    samples = pl.read_parquet(tmp_path / "out" / "samples.parquet")
    assert samples.height == 240 + len(kept)
    made = samples[30 : 30 + len(kept)]
    assert made["gender"].to_list() == [None] * 3 + [1] * 5
    assert made["item_id_list"][6].to_list() == [3, None, 1]
    assert made["timediff_bucket_list"].to_list()[3:6] == [[2, 1, 0], None, [2, 1, None]]
    clicks.open(tmp_path / "out")


@pytest.mark.parametrize("form", ["seconds", "milliseconds", "dates"])
def test_times_of_every_form_are_the_same_moments(put, tmp_path, form):
    def change(one):
        moment = int(one["times"])
        wall = datetime.fromtimestamp(moment, timezone(timedelta(hours=8)))
        told = {"seconds": str(moment), "milliseconds": str(moment * 1000), "dates": f"{wall:%Y-%m-%d %H:%M:%S}"}
        return one | {"times": told[form]}

    eleme.convert(put(change=change), tmp_path / "out", Choice(), name="eleme")
    times = pl.read_parquet(tmp_path / "out" / "samples.parquet")["timestamp"]
    assert times.to_list() == [1000 * int(row(d, n)["times"]) for d in range(1, 9) for n in range(30)]
    assert datetime.fromtimestamp(times[0] / 1000, UTC).hour == 16  # midnight in Shanghai


def test_times_of_no_known_form_are_refused_with_their_row(put, tmp_path):
    with pytest.raises(BadLog, match=r"D1_0\.csv, row 31: times is 'noon'"):
        eleme.convert(put(extra=text([row(1, 1, times="noon")])), tmp_path / "out", Choice(), name="eleme")
    paths = put(change=lambda one: one | {"times": "20220401"})
    with pytest.raises(BadLog, match=r"row 1: times is '20220401'; all rows of all files have epoch seconds"):
        eleme.convert(paths, tmp_path / "out", Choice(), name="eleme")
    paths = put()
    later = text([row(2, 1, times=str(1000 * START))])
    paths[1].write_text(paths[1].read_text() + later)  # milliseconds, after a file of seconds
    with pytest.raises(BadLog, match=r"D2_0\.csv, row 31: times is"):
        eleme.convert(paths, tmp_path / "out", Choice(), name="eleme")


def test_the_order_of_lists_is_checked_and_can_be_told(put, tmp_path):
    def change(one):
        return one | {"timediff_list": ";".join(reversed(one["timediff_list"].split(";")))}

    report = eleme.convert(put(change=change), tmp_path / "out", Choice(), name="eleme")
    assert any(note.startswith("warning: lists: read as recent_first") for note in report.notes)
    told = eleme.convert(put(change=change), tmp_path / "told", Choice(inline_order="oldest_first"), name="eleme")
    assert not any(note.startswith("warning") for note in told.notes)
    lists = pl.read_parquet(tmp_path / "told" / "samples.parquet")["item_id_list"]
    assert lists[3].to_list() == [int(part) for part in row(1, 3)["item_id_list"].split(";")]
    with pytest.raises(BadSetting, match="did you mean 'oldest_first'"):
        Choice(inline_order="oldest")


def test_blocks_do_not_show_and_a_killed_conversion_goes_on(put, tmp_path):
    paths = put([1, 3, 5])
    whole = eleme.convert(paths, tmp_path / "whole", Choice(), name="eleme")
    eleme.convert(paths, tmp_path / "again", Choice(), name="eleme")
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    assert "2022-04-05 tests and 2022-04-03 validates, the last 2 of 3 days" in "\n".join(whole.notes)
    small = eleme.convert(paths, tmp_path / "small", Choice(block=2500), name="eleme")
    assert small.counts == whole.counts
    assert contents(tmp_path / "small") == contents(tmp_path / "whole")

    class Killed(Exception):
        pass

    out, rounds = tmp_path / "killed", 0

    def progress(done, total):
        if rounds < 6:
            raise Killed

    while not out.exists():
        rounds += 1
        try:
            resumed = eleme.convert(paths, out, Choice(block=2500), name="eleme", progress=progress)
        except Killed:
            work = tmp_path / ".killed.parts"
            (work / "000099.parquet").write_bytes(b"half a part")  # of a block that was not told
    assert rounds == 6
    assert contents(out) == contents(tmp_path / "whole")
    assert (resumed.counts, resumed.notes) == (small.counts, small.notes)
    assert not list(tmp_path.glob(".*.parts"))


def test_few_days_are_split_by_shares(put, tmp_path):
    report = eleme.convert(put([1, 2]), tmp_path / "out", Choice(), name="eleme")
    assert report.schema.split["by"] == "quantile"
    rule = {"by": "day", "test_days": 1, "valid_days": 1}
    assert eleme.convert(put([1, 2]), tmp_path / "told", Choice(split=rule), name="e").schema.split == rule


def test_columns_that_are_text_somewhere_in_the_first_rows_are_text(put, tmp_path):
    paths = put(change=lambda one: one | {"item_id": "i" + one["item_id"]})
    eleme.convert(paths, tmp_path / "out", Choice(), name="eleme")
    samples = pl.read_parquet(tmp_path / "out" / "samples.parquet")
    form = eleme_rows.form_of(paths[0])
    assert list(form.whole) == sorted(form.whole)  # a resumed conversion compares it as text
    assert "item_id" not in form.whole
    assert {"shop_id", "shop_id_list", "user_id"} <= set(form.whole)
    assert samples["item_id"].dtype == pl.String
    assert samples["item_id_list"].dtype == pl.List(pl.String)
    clicks.open(tmp_path / "out")


def test_more_than_accidents_stop_it(put, tmp_path):
    with pytest.raises(BadLog, match=r"11 of 41 rows are bad, more than 0.1 %: row 31 \(2 fields\)"):
        eleme.convert(put(extra="1,2\n" * 11), tmp_path / "out", Choice(), name="eleme")
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(BadLog, match="no row of 39 fields"):
        eleme.convert([path], tmp_path / "out", Choice(), name="eleme")
    assert not (tmp_path / "out").exists()


def test_there_are_39_columns():
    assert len(COLUMNS) == len(set(COLUMNS)) == 39
    assert np.all([name in COLUMNS for _, target, history in FIELDS for name in (target, history)])
