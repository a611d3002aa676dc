"""examples/rerank.sh and rerank.py: from one raw log to candidates in the order of their clicks, run as they stand.

The script runs in a shell; each program that it asks for, diffacet and python3, is answered by this process, which has
loaded PyTorch already. It is the same words, in the same order, and an exit code that ends the script.
"""

import json
import os
import re
import runpy
import shlex
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import diffacet

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT = EXAMPLES / "rerank.sh"
PROGRAM = """#!/bin/sh
exec {python} -I -S {asking} {port} {name} "$@"
"""
ASKING = """
import json, socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as wire, wire.makefile("rw") as file:
    file.write(json.dumps(sys.argv[2:]) + chr(10))
    file.flush()
    code, out, err = json.loads(file.readline())
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def programs(server, tmp_path):
    """A folder with `diffacet` and `python3`, which ask `server`."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "asking.py").write_text(ASKING)
    about = {"python": shlex.quote(sys.executable), "asking": shlex.quote(str(folder / "asking.py"))}
    for name in ("diffacet", "python3"):
        path = folder / name
        path.write_text(PROGRAM.format(name=name, port=server.getsockname()[1], **about))
        path.chmod(0o755)
    return folder


def executed(monkeypatch, capsys, code, words):
    """What `python3 -c CODE WORDS` prints."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["-c", *words])
        exec(code, {"__name__": "__main__"})
    return 0, *capsys.readouterr()


@pytest.fixture
def scripted(server, programs, call, monkeypatch, capsys):
    """Runs a script with that environment: how it ended, and the words of every program that it asked for."""

    def run(words, environment):
        done, asked = [], []

        def script():
            path = f"{programs}:{os.environ['PATH']}"
            env = os.environ | environment | {"PATH": path}
            done.append(subprocess.run(words, capture_output=True, text=True, env=env, check=False))
            socket.create_connection(server.getsockname()).close()  # and says nothing: it was the last

        thread = threading.Thread(target=script)
        thread.start()
        while True:
            wire, _ = server.accept()
            with wire, wire.makefile("rw") as file:
                if not (line := file.readline()):
                    break
                asked.append(json.loads(line))
                name, *rest = asked[-1]
                if name == "diffacet":
                    told = call(*rest)
                else:
                    assert rest[0] == "-c"
                    told = executed(monkeypatch, capsys, rest[1], rest[2:])
                file.write(json.dumps(told) + "\n")
        thread.join()
        return done[0], asked

    return run


def test_the_script_goes_from_a_raw_log_to_reranked_candidates(tmp_path, call, scripted, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    rows = [
        f"u{user},{item},{1_600_000_000 + 86_400 * day + user},{rng.integers(1, 6)}"
        for user in range(30)
        for day, item in enumerate(rng.permutation(20)[:16])
    ]
    log, out = tmp_path / "ratings.csv", tmp_path / "out"
    log.write_text("user_id,item_id,timestamp,rating\n" + "\n".join(rows) + "\n")
    environment = {
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

    done, asked = scripted([SCRIPT, log, out], environment)
    assert done.returncode == 0, done.stderr
    assert [words[:2] for words in asked if words[0] == "diffacet"] == [
        ["diffacet", command] for command in ("import-clicks", "train", "train", "evaluate", "evaluate", "recommend")
    ]
    assert "AUC" in done.stdout
    assert "probability" in done.stdout
    assert (out / "log" / "dataset.json").read_bytes() == before

    done, asked = scripted([SCRIPT, log, out], environment | {"MATCHING": "--set no=1"})
    assert (done.returncode, len(asked)) == (2, 1)  # what fails ends the script
    assert done.stderr.startswith("diffacet: error: ")

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
