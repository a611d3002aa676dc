"""Generated logs on disk: the same bytes however they came about, whole or not at all, and readable by import."""

import json
import signal
import subprocess
import sys

import polars as pl
import pytest

from diffacet.app import importing, synthesis
from diffacet.data.synth.settings import Settings
from diffacet.errors import BadLog, BadRun, BadSetting

SMALL = Settings(300, 80, 6000, seed=7)
KEYS = ["user_id", "timestamp", "item_id"]


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != synthesis.ABOUT
    }


def rows(folder):
    return pl.read_parquet(sorted(folder.glob("interactions.*.parquet")))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp("synth") / "log"
    done = synthesis.synthesise(SMALL, out, parts=4)
    assert done.parts == 4
    return out


def test_the_same_arguments_give_the_same_bytes(small, tmp_path):
    synthesis.synthesise(SMALL, tmp_path / "log", parts=4)
    assert contents(tmp_path / "log") == contents(small)


def test_parts_cut_the_rows_and_do_not_change_them(small, tmp_path):
    for number, how in enumerate(({"parts": 1}, {"part_rows": 10**9}, {"part_rows": 1}, {"parts": 3})):
        out = tmp_path / str(number)
        done = synthesis.synthesise(SMALL, out, **how)
        assert done.parts == len(list(out.glob("interactions.*.parquet")))
        assert rows(out).sort(KEYS).equals(rows(small).sort(KEYS))
        planted = [pl.read_parquet(sorted((each / "truth").glob("users.*"))) for each in (out, small)]
        assert planted[0].equals(planted[1])
        assert (out / "items.parquet").read_bytes() == (small / "items.parquet").read_bytes()


def test_a_part_is_sorted_by_time_and_holds_its_own_users(small):
    seen = set()
    for path in sorted(small.glob("interactions.*.parquet")):
        part = pl.read_parquet(path)
        assert part["timestamp"].is_sorted()
        users = set(part["user_id"])
        assert not users & seen
        assert users == set(pl.read_parquet(small / "truth" / path.name.replace("interactions", "users"))["user_id"])
        seen |= users
    assert len(seen) == SMALL.users
    assert rows(small).height == SMALL.interactions
    assert rows(small).schema == {"user_id": pl.Int64, "item_id": pl.Int64, "timestamp": pl.Int64}


def test_the_truth_is_about_the_rows(small):
    told = json.loads((small / "truth" / "synth.json").read_text())
    assert {name: told[name] for name in SMALL.told()} == SMALL.told()
    items = pl.read_parquet(sorted((small / "truth").glob("items.*")))
    assert items["item_id"].equals(pl.read_parquet(small / "items.parquet")["item_id"])
    assert items["popularity"].sum() == pytest.approx(1)
    assert (items["second_topic"].is_null() == items["second_place"].is_null()).all()
    users = pl.read_parquet(sorted((small / "truth").glob("users.*")))
    totals = users.group_by("user_id").agg(pl.col("weight", "first_weight", "last_weight").sum(), pl.len())
    for name in ("weight", "first_weight", "last_weight"):
        assert (totals[name] - 1).abs().max() < 1e-9
    assert (users["begins"] <= users["ends"]).all()
    topics = pl.read_parquet(small / "truth" / "topics.parquet")
    assert set(users["topic"]) <= set(topics["topic"])
    # Clicks on a user's own topics are those that are no noise, and some that are.
    of_item = items.select("item_id", "topic", "second_topic")
    mine = users.group_by("user_id").agg(pl.col("topic").alias("mine"))
    log = rows(small).join(of_item, on="item_id").join(mine, on="user_id")
    own = log.select(pl.col("topic").is_in("mine") | pl.col("second_topic").is_in("mine").fill_null(False))
    assert 0.88 < own.to_series().mean() < 0.98


@pytest.mark.parametrize("ids", ["numbers", "text"])
def test_import_reads_the_log_and_its_items_and_nothing_else(tmp_path, ids):
    settings = Settings(200, 60, 3000, ids=ids, ratings=True, seed=1)
    made = synthesis.synthesise(settings, tmp_path / "log", part_rows=1000)
    assert made.parts > 1
    done = importing.import_log([tmp_path / "log"], tmp_path / "data")
    assert [name.rpartition("/")[2] for name in done.files] == [
        *(f"interactions.0000{n}.parquet" for n in range(made.parts)),
        "items.parquet",
    ]
    assert len(done.log) == 3000
    assert done.log.n_users == 200
    assert done.log.titles is not None
    assert done.log.categories is not None
    assert done.log.categories.list.len().min() == 2
    assert "rating" in done.log.frame.columns
    assert done.log.users.values.dtype == (pl.Int64 if ids == "numbers" else pl.String)


def test_a_killed_process_loses_the_part_that_it_was_at(small, tmp_path, call):
    out = tmp_path / "log"
    words = ["synth", "--users", "300", "--items", "80", "--interactions", "6000", "--seed", "7", "--parts", "4"]
    code = f"""
import os, signal
from diffacet.app import synthesis, cli
write = synthesis._parquet
def dying(path, frame):
    if path.name == "interactions.00002.parquet":
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, frame)
synthesis._parquet = dying
cli.main({[*words, "--out", str(out)]!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists()
    left = {path.name for path in (tmp_path / ".log.parts").glob("*.parquet")}
    assert left == {"interactions.00000.parquet", "interactions.00001.parquet", "items.parquet"}
    again = [*words, "--out", out]
    assert call(*again)[0] == 2
    assert "go on with it by --resume" in call(*again)[2]
    assert "seed is 8, was 7" in call(*again, "--seed", "8", "--resume")[2]
    told = json.loads(call(*again, "--resume", "--json")[1])
    assert 0 < told["resumed"] < 6000
    assert contents(out) == contents(small)
    assert not (tmp_path / ".log.parts").exists()


def test_a_full_disk_leaves_the_finished_parts(small, tmp_path, monkeypatch):
    out, write = tmp_path / "log", synthesis._parquet

    def full(path, frame):
        if path.name == "interactions.00001.parquet":
            raise OSError(28, "No space left on device")
        write(path, frame)

    monkeypatch.setattr(synthesis, "_parquet", full)
    with pytest.raises(BadLog, match=r"No space left on device.*--resume"):
        synthesis.synthesise(SMALL, out, parts=4)
    assert not out.exists()
    monkeypatch.undo()
    assert 0 < synthesis.synthesise(SMALL, out, parts=4, resume=True).resumed < 6000
    assert contents(out) == contents(small)


def test_what_is_there_is_left_alone(small, tmp_path):
    (tmp_path / "mine").write_text("x")
    for out in (tmp_path, tmp_path / "mine"):
        with pytest.raises(BadLog, match="exists and is not an empty directory"):
            synthesis.synthesise(SMALL, out)
    (tmp_path / "empty").mkdir()
    synthesis.synthesise(SMALL, tmp_path / "empty", parts=4)
    assert contents(tmp_path / "empty") == contents(small)


def test_two_processes_do_not_write_one_log(tmp_path):
    from diffacet import files

    folder = tmp_path / ".log.parts"
    with files.held(folder / synthesis.LOCK, "test"), pytest.raises(BadRun, match="being run by another process"):
        synthesis.synthesise(SMALL, tmp_path / "log")
    with pytest.raises(BadSetting, match="parts is 1 or more"):
        synthesis.synthesise(SMALL, tmp_path / "log", parts=0)


def test_memory_is_that_of_a_part(tmp_path):
    """Ten times as many users and clicks take about the same memory: a child's peak, in KiB."""
    code = """
import resource, sys
from diffacet.app.synthesis import synthesise
from diffacet.data.synth.settings import Settings
n = int(sys.argv[1])
synthesise(Settings(n, 1000, 10 * n), sys.argv[2], part_rows=30_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = [
        int(subprocess.check_output([sys.executable, "-c", code, str(n), str(tmp_path / str(n))]))
        for n in (10_000, 100_000)
    ]
    assert peaks[1] < peaks[0] + 60_000, peaks


def test_the_command_says_what_comes_next(tmp_path, call):
    words = ["synth", "--items", "80", "--interactions", "2e3", "--out", tmp_path / "log"]
    code, out, _ = call(*words, "--users", "1e2")
    assert code == 0
    assert "2,000 interactions of 100 users with 80 items in 1 file" in out
    assert f"next: diffacet import {tmp_path / 'log'} --out DATA" in out
    for bad in ("1.5", "many", "1e999", "nan"):
        code, _, err = call(*words, "--users", bad)
        assert code == 2
        assert "--users takes a whole number" in err
