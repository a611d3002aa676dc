"""examples/rerank.sh and rerank.py: from one raw log to candidates in the order of their clicks, run as they stand."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

import diffacet

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT = EXAMPLES / "rerank.sh"


def test_the_script_goes_from_a_raw_log_to_reranked_candidates(tmp_path, call, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    rows = [
        f"u{user},{item},{1_600_000_000 + 86_400 * day + user},{rng.integers(1, 6)}"
        for user in range(30)
        for day, item in enumerate(rng.permutation(20)[:16])
    ]
    log, out = tmp_path / "ratings.csv", tmp_path / "out"
    log.write_text("user_id,item_id,timestamp,rating\n" + "\n".join(rows) + "\n")
    asked = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MATCHING": "--max-steps 4 --set validate_every=4 --set dim=8",
        "RANKING": "--set dim=4 --set hidden=8,4 --set batch_size=64 --set sampling_steps=2",
        "AT_LEAST": "2",
    }
    # The first step is done already, as when the script was killed: by its own line, but for a partitioned directory.
    line = re.search(r"^.* \|\| diffacet (import .*)$", SCRIPT.read_text(), re.MULTILINE)[1]
    for name, value in {"$log": log, "$out": out, "$at_least": 2}.items():
        line = line.replace(name, str(value))
    code, _, err = call(*shlex.split(line), "--partitions", 3)
    assert code == 0, err
    assert diffacet.open_data(out / "log").partitions is not None
    before = (out / "log" / "dataset.json").read_bytes()

    done = subprocess.run([SCRIPT, log, out], capture_output=True, text=True, env=os.environ | asked, check=False)
    assert done.returncode == 0, done.stderr
    assert "AUC" in done.stdout
    assert "probability" in done.stdout
    assert (out / "log" / "dataset.json").read_bytes() == before

    for history in ([], ["--history", "3,5,7", "--user", "u4"]):
        monkeypatch.setattr(sys, "argv", ["rerank.py", str(out), "--k", "4", *history])
        runpy.run_path(str(EXAMPLES / "rerank.py"), run_name="__main__")
        head, _, *rows = capsys.readouterr().out.splitlines()
        assert "in the order of their clicks" in head
        found = [re.fullmatch(r" +(\d+) +(\d+) +(0\.\d+)  (\d+)", row).groups() for row in rows]
        assert [int(place) for place, *_ in found] == [1, 2, 3, 4]
        chances = [float(chance) for *_, chance, _ in found]
        assert chances == sorted(chances, reverse=True)
        assert not {"3", "5", "7"} & {item for *_, item in found} or not history
