"""A stranger's way through the program: import, train, kill in a shell, resume, evaluate, recommend."""

import json
import signal
import subprocess
import sys

import pytest

from diffacet.app import cli
from shoplog import TINY, write_shop

DIFFACET = [sys.executable, "-m", "diffacet"]
SETS = [word for pair in TINY for word in ("--set", pair)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("journey")
    write_shop(folder)
    names = ["--user", "customer", "--item", "sku", "--time", "ts", "--rating", "none"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["import", "log.csv", *names, "--items", "items.csv", "--k-core", "2", "--out", "data/shop"]
        assert cli.main(words) == 0
    return folder


def train(out, *more):
    return ["train", "dmi", "--data", "data/shop", "--out", out, "--seed", "3", "--max-steps", "40", *SETS, *more]


def test_a_killed_run_resumes_to_the_metrics_of_an_unbroken_one(shop, told):
    said, progress = told(*train("runs/whole"))
    assert "step 40/40" in progress
    assert "next: diffacet evaluate runs/whole" in said
    broken = subprocess.Popen([*DIFFACET, *train("runs/broken")], cwd=shop, stderr=subprocess.PIPE, text=True)
    assert broken.stderr is not None
    assert "step 5/40" in broken.stderr.readline()
    broken.send_signal(signal.SIGKILL)
    broken.communicate()
    lines = (shop / "runs/broken/metrics.jsonl").read_text().splitlines()
    assert 1 <= len(lines) <= 8
    resumed = [*DIFFACET, *train("runs/broken", "--resume")]
    done = subprocess.run(resumed, cwd=shop, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "best validation" in done.stdout

    measured = [json.loads(told("evaluate", run, "--json")[0]) for run in ("runs/whole", "runs/broken")]
    assert measured[0]["metrics"] == measured[1]["metrics"]
    trails = [
        [json.loads(line) for line in (shop / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("runs/whole", "runs/broken")
    ]
    for one, other in zip(*trails, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}

    found = json.loads(told("recommend", "runs/broken", "--history", "3,5,8", "--k", 4, "--json")[0])
    assert len(found["items"]) == 4
    assert {item["item_id"] for item in found["items"]}.isdisjoint({3, 5, 8})


def test_bad_input_in_a_shell_is_one_line_and_exit_code_2(shop):
    done = subprocess.run([*DIFFACET, "stats", "nowhere"], cwd=shop, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("diffacet: error: nowhere is not a directory")
    assert done.stderr.count("\n") == 1
