"""A run leaves the house: exported in a shell, moved, and asked where there is no diffacet."""

import json
import shutil
import subprocess
import sys

import pytest

from diffacet.app import cli
from shoplog import TINY, write_shop

DIFFACET = [sys.executable, "-m", "diffacet"]
NAMES = ["--user", "customer", "--item", "sku", "--time", "ts", "--rating", "none"]
ELSEWHERE = """
import runpy, sys
sys.modules["diffacet"] = sys.modules["torch"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("journey")
    write_shop(folder)
    sets = [word for pair in TINY for word in ("--set", pair)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["import", "log.csv", *NAMES, "--items", "items.csv", "--out", "data"]) == 0
        assert cli.main(["train", "comirec-sa", "--data", "data", "--out", "run", "--max-steps", "10", *sets]) == 0
    return folder


def test_a_run_answers_where_there_is_no_diffacet(shop, tmp_path, call, monkeypatch):
    exported = [*DIFFACET, "export", "run", "--out", "out/shop", "--onnx", "--require-encoder", "--json"]
    done = subprocess.run(exported, cwd=shop, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["diffacet"] * 5
    assert told["checks"]["encoder.onnx"]["largest"] < 1e-4
    place = tmp_path / "another machine"
    shutil.move(shop / "out" / "shop", place)
    words = [sys.executable, "-c", ELSEWHERE, place / "example.py", "--k", "10", "4", "1", "9", "77"]
    said = subprocess.run([*map(str, words)], cwd=tmp_path, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "passed over: 77" in said.stderr
    monkeypatch.chdir(shop)
    own = json.loads(call("recommend", "run", "--history", "4,1,9,77", "--k", 10, "--json")[1])
    rows = [line.split("\t") for line in said.stdout.splitlines()]
    assert [row[1] for row in rows] == [str(item["item_id"]) for item in own["items"]]
    assert [float(row[2]) for row in rows] == pytest.approx([item["score"] for item in own["items"]], rel=1e-4)


def test_a_refusal_is_one_line_and_leaves_nothing(shop, call, monkeypatch):
    before = sorted(path.name for path in shop.iterdir())
    monkeypatch.chdir(shop)
    told = call("export", "run", "--out", "run")
    assert told == (2, "", "diffacet: error: run exists; choose another --out\n")
    assert sorted(path.name for path in shop.iterdir()) == before
