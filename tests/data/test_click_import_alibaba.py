"""Alibaba's ads in miniature, with each known defect: exact counts, equal bytes, resumed after a kill."""

import gzip

import numpy as np
import polars as pl
import pytest

from diffacet.data import clicks
from diffacet.data.clicks import splitting
from diffacet.data.clicks.importing import alibaba, alibaba_log, lines
from diffacet.data.clicks.importing.alibaba import Choice
from diffacet.errors import BadLog, BadSetting

DAY = 86_400
END = 1_494_691_200  # 2017-05-14 00:00 in Shanghai
FIRST = END - 8 * DAY


def good(n=160):
    """Sound rows of the four files, as lists of lines."""
    rng = np.random.default_rng(5)
    shown = [
        f"{rng.integers(1, 9)},{FIRST + int(rng.integers(0, 8 * DAY))},{rng.integers(1, 20)},430548_1007,{1 - y},{y}"
        for y in rng.integers(0, 2, n).tolist()
    ]
    ads = [f"{ad},{ad % 5},{ad % 3},{ad % 4},{90 + ad % 6},{ad * 1.5}" for ad in range(1, 20)]
    users = [f"{user},0,5,2,{user % 4},,3,0," for user in range(1, 9)]
    start = END - 22 * DAY
    done = [
        f"{rng.integers(1, 11)},{rng.integers(start, END)},{tag},{rng.integers(0, 5)},{rng.integers(90, 96)}"
        for tag in rng.choice(alibaba.TAGS, n).tolist()
    ]
    return shown, ads, users, done


def write(folder, shown, ads, users, done, *, ends=("\n",) * 4, heads=None):
    folder.mkdir(exist_ok=True)
    for name, rows, end in zip(alibaba.FILES, (shown, ads, users, done), ends, strict=True):
        head = ",".join(alibaba.FILES[name]) if name != "user_profile.csv" else ",".join(alibaba.FILES[name]) + " "
        (folder / name).write_text("\n".join([head, *rows]) + end)
    return folder


def contents(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


@pytest.fixture
def raw(tmp_path):
    return write(tmp_path / "raw", *good())


def test_sound_files_become_a_folder_that_opens(raw, tmp_path):
    report = alibaba.convert(raw, tmp_path / "out", Choice(), name="ads")
    packed = clicks.open(tmp_path / "out")
    assert packed.log.names == ("category", "brand", "type")
    assert packed.log.other_names[:4] == ("user_id", "users.has_profile", "users.cms_segid", "users.cms_group_id")
    assert packed.log.other_names[-4:] == ("pid", "item_id", "items.campaign_id", "items.customer")
    assert report.counts == (("user_profile.csv: column names with blanks around them", 1),)
    assert (report.figures.samples, report.figures.behaviours) == (160, 160)
    assert packed.split.borders == ((END - 2 * DAY) * 1000, (END - DAY) * 1000)
    shown, _, _, done = good()
    expected = [(int(u), int(a), 1000 * int(t), int(y)) for u, t, a, _, _, y in (row.split(",") for row in shown)]
    samples = pl.read_parquet(tmp_path / "out" / "samples.parquet")
    assert samples.select("user_id", "item_id", "timestamp", "label").rows() == expected
    behaviours = pl.read_parquet(tmp_path / "out" / "behaviours.parquet")
    listed = [(int(u), int(c), int(b), g, 1000 * int(t)) for u, t, g, c, b in (row.split(",") for row in done)]
    assert behaviours.rows() == sorted(listed, key=lambda row: (row[0], row[4]))  # one file of users, by user and time


def test_every_known_defect_is_counted(tmp_path):
    shown, ads, users, done = good()
    shown += [
        "1,1494300000,3,430539_1007,1,1",  # clk + nonclk = 2
        "1,1494300001,3,430539_1007,0,0",
        "1,1494300002,3,430539_1007,-1,2",  # the sum alone would do
        "1,0,3,430539_1007,1,0",
        "1,1493900000,3,430539_1007,1,0",  # the day before the first
        "99.0,1494300003,400,430539_1007,1,0",  # no profile, an ad that is not described, an id printed as a float
        "1,1494300004,3,430539_1007,0,1",
        "1,1494300004,3,430539_1007,0,1",  # repeated whole
        "1,1494300004,3,430539_1007,1,0",  # the other answer
        "x,1494300004,3,430539_1007,1,0",
        "1,1494300005,3,430539_1007",
        "1,1494300006,3,430539_1007,1,0,7",
        "1,14943",  # the last line is cut off
    ]
    ads += ["30,1,2,3,NULL,8.0", "31,1.0,2,3,95471.0,", "30,2,2,3,91,9.0", "32,1,2,3,91,dear"]
    users += ["5,0,5,2,1,,3,0,", "nobody,0,5,2,1,,3,0,"]
    done += [
        "1,0,pv,1,91",
        "1,-5,pv,1,91",
        "1,1400000000,pv,1,91",
        f"1,{END},pv,1,91",  # the first second after
        "1,1494300000,look,1,91",
        "1,1494300000,pv,1.0,NULL",
        "1,1494300000,pv,1.0,NULL",  # repeats of behaviours stay
        "1,1494300000,pv,1.5,91",
        "1,1494300000,pv,1",
        "2,149430",
    ]
    raw = write(tmp_path / "raw", shown, ads, users, done, ends=("", "\n", "\n", ""))
    report = alibaba.convert(raw, tmp_path / "out", Choice(block=2000), name="ads")
    log, sample, ad, profile = "behavior_log.csv: ", "raw_sample.csv: ", "ad_feature.csv: ", "user_profile.csv: "
    assert dict(report.counts) == {
        sample + lines.TRUNCATED: 1,
        sample + lines.RAGGED: 2,
        sample + lines.UNREADABLE: 1,
        sample + lines.FLOATS: 1,
        sample + "samples with clk + nonclk other than 1, dropped": 3,
        sample + "samples at time 0 or before, dropped": 1,
        sample + "samples outside the 8 days, dropped": 1,
        sample + "samples that repeat user, time, ad, place and answer, dropped": 1,
        sample + "samples that repeat another one but for the answer, kept": 1,
        ad + lines.UNREADABLE: 1,
        ad + lines.FLOATS: 2,
        ad + "ads that occur again, the first kept": 1,
        ad + "ads without a brand (NULL), kept": 1,
        profile + "column names with blanks around them": 1,
        profile + lines.UNREADABLE: 1,
        profile + "profiles that occur again, the first kept": 1,
        log + lines.TRUNCATED: 1,
        log + lines.RAGGED: 1,
        log + lines.UNREADABLE: 1,
        log + lines.FLOATS: 2,
        log + "behaviours at time 0 or before, dropped": 2,
        log + "behaviours outside the 22 days, dropped": 2,
        log + "behaviours of a kind other than pv, cart, fav, buy, dropped": 1,
        log + "behaviours without a brand, kept": 2,
        "users without a profile, kept": 1,
        "samples of users without a profile, kept": 1,
        "samples of ads that ad_feature.csv lacks, kept": 1,
    }
    assert report.figures.samples == 160 + 3
    assert report.figures.behaviours == 160 + 2
    notes = "\n".join(report.notes)
    bad = "row 171 ('x,1494300004,3,430539_1007,1,0'), row 172 (4 fields), row 173 (7 fields), row 174 (2 fields)"
    assert f"raw_sample.csv: 4 bad rows dropped: {bad}" in notes
    users_made = pl.read_parquet(tmp_path / "out" / "users.parquet")
    assert users_made.filter(pl.col("has_profile") == 0)["user_id"].to_list() == [99]
    assert users_made["pvalue_level"].null_count() == users_made.height
    items = pl.read_parquet(tmp_path / "out" / "items.parquet")
    assert items.filter(pl.col("item_id") == 31).row(0) == (31, 1, 2, 3, 95471, None)
    assert items.filter(pl.col("item_id") == 30)["brand_id"].to_list() == [None]
    clicks.open(tmp_path / "out")


def test_blocks_and_files_of_users_do_not_show(raw, tmp_path, monkeypatch):
    alibaba.convert(raw, tmp_path / "one", Choice(), name="ads")
    for path in raw.iterdir():  # gzip reads the same
        (tmp_path / "zipped").mkdir(exist_ok=True)
        (tmp_path / "zipped" / (path.name + ".gz")).write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    alibaba.convert(tmp_path / "zipped", tmp_path / "two", Choice(block=700), name="ads")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    monkeypatch.setattr(alibaba_log, "_SHARE", 500)
    alibaba.convert(raw, tmp_path / "many", Choice(block=900), name="ads")
    frames = [pl.read_parquet(tmp_path / name / "behaviours.parquet") for name in ("one", "many")]
    assert frames[1].sort("user_id", "timestamp", maintain_order=True).equals(frames[0])
    assert clicks.open(tmp_path / "one").fingerprint == clicks.open(tmp_path / "many").fingerprint
    again = alibaba.convert(raw, tmp_path / "again", Choice(block=333), name="ads")
    assert contents(tmp_path / "again") == contents(tmp_path / "many")
    assert again.counts == alibaba.convert(raw, tmp_path / "last", Choice(), name="ads").counts


class Killed(Exception):
    pass


def test_a_killed_conversion_goes_on_where_it_was(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(alibaba_log, "_SHARE", 700)
    whole = alibaba.convert(raw, tmp_path / "whole", Choice(block=600), name="ads")
    reads, read = [], alibaba_log._rows
    monkeypatch.setattr(alibaba_log, "_rows", lambda *given: reads.append(1) or read(*given))
    rounds, out = 0, tmp_path / "killed"

    def progress(done, total):
        raise Killed

    while not out.exists():
        rounds += 1
        # Every call dies after one step more than is finished: the first after one block, the next after one more.
        try:
            alibaba.convert(raw, out, Choice(block=600), name="ads", progress=progress if rounds < 8 else None)
        except Killed:
            stray = next((tmp_path / ".killed.parts").glob("*.rows"), None)
            if stray is not None:
                with stray.open("ab") as file:
                    file.write(b"half a row")  # appended, but not yet told when the process died
        assert rounds < 20
    assert rounds == 8
    assert contents(out) == contents(tmp_path / "whole")
    size = (raw / "behavior_log.csv").stat().st_size
    assert len(reads) <= size // 600 + 2  # no block twice
    resumed = alibaba.convert(raw, tmp_path / "other", Choice(block=600), name="ads")
    assert resumed.counts == whole.counts
    assert not list(tmp_path.glob(".*.parts"))


def test_a_change_of_mind_starts_anew(raw, tmp_path):
    def progress(done, total):
        raise Killed

    with pytest.raises(Killed):
        alibaba.convert(raw, tmp_path / "out", Choice(), name="ads", progress=progress)
    alibaba.convert(raw, tmp_path / "out", Choice(tags=("pv",)), name="ads")
    done = pl.read_parquet(tmp_path / "out" / "behaviours.parquet")
    assert set(done["behaviour_type"]) == {"pv"}
    assert clicks.open(tmp_path / "out").log.names == ("category", "brand")  # one kind alone says nothing


def test_a_fraction_of_the_users(raw, tmp_path):
    alibaba.convert(raw, tmp_path / "all", Choice(), name="ads")
    choice = Choice(user_fraction=0.5, seed=3)
    alibaba.convert(raw, tmp_path / "half", choice, name="ads")
    kept = {user for user in range(1, 11) if choice.users(np.array([user]))[0]}
    assert 1 < len(kept) < 9
    for name in ("samples", "behaviours"):
        every, half = (pl.read_parquet(tmp_path / where / f"{name}.parquet") for where in ("all", "half"))
        assert half.equals(every.filter(pl.col("user_id").is_in(kept)))
    assert np.mean(Choice(user_fraction=0.3).users(np.arange(10_000))) == pytest.approx(0.3, abs=0.03)


def test_days_are_shanghais():
    """Half past midnight and before, and half an hour into the next day."""
    days = [splitting.local_day(1000 * t, alibaba.ZONE).isoformat() for t in (1494001800, 1494084600, 1494088200)]
    assert days == ["2017-05-06", "2017-05-06", "2017-05-07"]
    assert splitting.midnight(splitting.local_day((END - DAY) * 1000, alibaba.ZONE), alibaba.ZONE) == (END - DAY) * 1000


def test_refusals(raw, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(BadSetting, match=r"got 'buyy' \(did you mean 'buy'\?\)"):
        Choice(tags=("buyy",))
    with pytest.raises(BadSetting, match="--user-fraction"):
        Choice(user_fraction=0)
    with pytest.raises(BadLog, match="is not a directory"):
        alibaba.convert(raw / "ad_feature.csv", out, Choice(), name="ads")
    text = (raw / "ad_feature.csv").read_text()
    (raw / "ad_feature.csv").write_text(text.replace("cate_id", "category"))
    with pytest.raises(BadLog, match=r"ad_feature\.csv, row 1: the columns are .*this file has adgroup_id, cate_id"):
        alibaba.convert(raw, out, Choice(), name="ads")
    (raw / "ad_feature.csv").write_text(text)
    log = (raw / "behavior_log.csv").read_text()
    (raw / "behavior_log.csv").write_text(log + "1,2\n" * 11)
    with pytest.raises(BadLog, match=r"11 of 171 rows are bad, more than 0.1 %: row 162 \(2 fields\)"):
        alibaba.convert(raw, out, Choice(), name="ads")
    (raw / "behavior_log.csv").unlink()
    with pytest.raises(BadLog, match=r"holds no behavior_log\.csv"):
        alibaba.convert(raw, out, Choice(), name="ads")
    assert not out.exists()
