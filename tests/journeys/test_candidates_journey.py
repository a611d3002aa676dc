"""Candidates for everybody: written, killed, gone on with in a shell, and for tomorrow's log."""

import json
import signal
import subprocess
import sys

import polars as pl
import pytest

from diffacet.app import cli
from shoplog import TINY, write_shop

DIFFACET = [sys.executable, "-m", "diffacet"]
NAMES = ["--user", "customer", "--item", "sku", "--time", "ts", "--rating", "none"]
KILLED = """
import os, signal
from diffacet.app import batch_candidates, batch_parts
add = batch_parts.Parts.add
def killed(parts, block):
    if parts.done == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    add(parts, block)
batch_parts.Parts.add = killed
batch_candidates.write("run", "data", "broken.parquet", batch_candidates.Wish(10, block=16))
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("journey")
    write_shop(folder)
    sets = [word for pair in TINY for word in ("--set", pair)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["import", "log.csv", *NAMES, "--items", "items.csv", "--out", "data"]) == 0
        assert cli.main(["train", "dmi", "--data", "data", "--out", "run", "--max-steps", "10", *sets]) == 0
    return folder


def test_candidates_of_all_users_survive_a_kill(shop, told):
    words = ["candidates", "run", "--data", "data", "--k", 10, "--block", 16, "--out"]
    said, progress = told(*words, "whole.parquet")
    assert "600 candidates of 60 users" in said
    assert "60/60 users" in progress
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=shop, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert not (shop / "broken.parquet").exists()
    again = [*DIFFACET, *map(str, words), "broken.parquet", "--resume", "--json"]
    done = subprocess.run(again, cwd=shop, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["resumed"], found["users"], found["rows"]) == (32, 60, 600)
    assert (shop / "broken.parquet").read_bytes() == (shop / "whole.parquet").read_bytes()
    assert not (shop / ".broken.parquet.parts").exists()


def test_candidates_for_tomorrows_log(shop, told):
    lines = (shop / "log.csv").read_text() + "late,3,1700000000,4\nlate,5,1700000100,4\nlate,77,1700000200,4\n"
    (shop / "tomorrow.csv").write_text(lines)
    told("import", "tomorrow.csv", *NAMES, "--out", "tomorrow")
    (shop / "active.txt").write_text("late\nu7\n")
    _, warned = told("candidates", "run", "--data", "tomorrow", "--users", "active.txt", "--out", "t.parquet")
    assert "is not what run was trained on" in warned
    assert "1 items of tomorrow are not in the run's catalogue" in warned
    table = pl.read_parquet(shop / "t.parquet")
    assert table["user_id"].unique(maintain_order=True).to_list() == ["late", "u7"]
    assert not {3, 5} & set(table.filter(pl.col("user_id") == "late")["item_id"])
