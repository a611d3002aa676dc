"""A study in a shell: its worker is killed, then the study itself, and it goes on without repeating anything."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

from shoplog import TINY, write_shop

DIFFACET = [sys.executable, "-m", "diffacet"]
STUDY = """
title = "Killed and gone on with"
data = ["shop"]
ks = [5]
metrics = ["recall@5"]
tests = ["recall@5"]
base = "Pop"

[[row]]
label = "Pop"
model = "pop"

[[row]]
label = "REMI"
model = "remi"
set = { %s, max_steps = 200 }

[[row]]
label = "Diverges"
model = "remi"
set = { %s, max_steps = 10, lr = 1e30 }
seeds = 1
"""


def until(true, seconds=300):
    """Wait for a condition that another process brings about; fail when it does not come."""
    end, pause = time.monotonic() + seconds, threading.Event()
    while not true():
        assert time.monotonic() < end, "it did not come"
        pause.wait(0.005)


def free(lock):
    """Whether no living process holds the lock file."""
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def holder(place):
    """The process that works on a run, once it has written a checkpoint; 0 before."""
    lock = place / ".lock"
    there = (place / "run" / "last.safetensors").exists() and lock.exists() and not free(lock)
    return int(lock.read_text() or 0) if there else 0


def test_a_study_survives_the_end_of_its_processes(tmp_path, monkeypatch, call):
    log, _ = write_shop(tmp_path)
    names = ["--user", "customer", "--item", "sku", "--time", "ts", "--rating", "none"]
    assert call("import", log, *names, "--out", tmp_path / "data" / "shop")[0] == 0
    settings = ", ".join(f"{k} = {v if v.isdigit() else json.dumps(v)}" for k, v in (p.split("=") for p in TINY))
    (tmp_path / "killed.toml").write_text(STUDY % (settings, settings), encoding="utf-8")
    command = [*DIFFACET, "study", "killed.toml", "--data", "data", "--out", "out", "--workers", "2", "--resume"]
    shop = tmp_path / "out" / "runs" / "shop"
    remi = shop / "remi-s0"
    # No browser is there to draw static pictures, which no study fails for.
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "none"))
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as parent:
        until(lambda: holder(remi))
        first = holder(remi)
        os.kill(first, signal.SIGKILL)
        until(lambda: holder(remi) not in (0, first))  # begun again by itself
        until(lambda: (shop / "pop-s0" / "result.json").exists())
        parent.send_signal(signal.SIGKILL)
    assert parent.returncode == -signal.SIGKILL
    for lock in [tmp_path / "out" / ".lock", *shop.glob("*/.lock")]:
        until(lambda lock=lock: free(lock))  # no worker outlives it
    assert not (remi / "result.json").exists()
    lines = (remi / "run" / "metrics.jsonl").read_text().splitlines()
    finished = {path: path.stat().st_mtime_ns for path in shop.glob("*/result.json")}
    assert finished

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr  # one row diverges
    assert f"5 runs, {len(finished)} of them finished before" in done.stderr
    assert "failed: shop/diverges-s0: the loss is not finite" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert "no static pictures" in done.stderr
    assert len(list(shop.glob("*/result.json"))) == 4
    assert (remi / "run" / "metrics.jsonl").read_text().splitlines()[: len(lines) - 1] == lines[:-1]
    table = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "**1 of 5 runs are missing.**" in table
    assert "Failed: shop/diverges-s0" in table
    assert "| REMI | 2 |" in table
