"""Candidates for everybody in a shell: written, killed, gone on with, and for tomorrow's log."""

import json
import signal
import subprocess
import sys

import polars as pl
import pytest

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


def shell(folder, *words):
    done = subprocess.run([*DIFFACET, *map(str, words)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("journey")
    write_shop(folder)
    shell(folder, "import", "log.csv", *NAMES, "--items", "items.csv", "--out", "data")
    sets = [word for pair in TINY for word in ("--set", pair)]
    shell(folder, "train", "dmi", "--data", "data", "--out", "run", "--max-steps", 10, *sets)
    return folder


def test_candidates_of_all_users_survive_a_kill(shop):
    words = ["candidates", "run", "--data", "data", "--k", 10, "--block", 16, "--out"]
    whole = shell(shop, *words, "whole.parquet")
    assert "600 candidates of 60 users" in whole.stdout
    assert "60/60 users" in whole.stderr
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=shop, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert not (shop / "broken.parquet").exists()
    told = json.loads(shell(shop, *words, "broken.parquet", "--resume", "--json").stdout)
    assert (told["resumed"], told["users"], told["rows"]) == (32, 60, 600)
    assert (shop / "broken.parquet").read_bytes() == (shop / "whole.parquet").read_bytes()
    assert not (shop / ".broken.parquet.parts").exists()


def test_candidates_for_tomorrows_log(shop):
    lines = (shop / "log.csv").read_text() + "late,3,1700000000,4\nlate,5,1700000100,4\nlate,77,1700000200,4\n"
    (shop / "tomorrow.csv").write_text(lines)
    shell(shop, "import", "tomorrow.csv", *NAMES, "--out", "tomorrow")
    (shop / "active.txt").write_text("late\nu7\n")
    done = shell(shop, "candidates", "run", "--data", "tomorrow", "--users", "active.txt", "--out", "t.parquet")
    assert "is not what run was trained on" in done.stderr
    assert "1 items of tomorrow are not in the run's catalogue" in done.stderr
    table = pl.read_parquet(shop / "t.parquet")
    assert table["user_id"].unique(maintain_order=True).to_list() == ["late", "u7"]
    assert not {3, 5} & set(table.filter(pl.col("user_id") == "late")["item_id"])
