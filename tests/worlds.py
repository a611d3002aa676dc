"""Real processes for the tests of training together: `worldwork.py`, once for each rank, over gloo."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import diffacet

WORK = Path(__file__).with_name("worldwork.py")
CODE = [str(WORK.parent), str(Path(diffacet.__file__).parents[1])]
"""What the processes import: these tests, and the diffacet that runs them, which need not be the one installed."""


def spawned(folder, size, *scenarios, codes=None):
    """Run the scenarios, one after another, in `size` processes that meet in a file of `folder`.

    codes: exit codes of the ranks, where not all are to end well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(CODE)}
    words = [sys.executable, "-W", "error", str(WORK), str(folder), str(size), *scenarios]
    with (folder / "ranks.log").open("w") as log:
        # A session of its own, so that all ranks can be ended with the process that has begun them.
        begun = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        try:
            begun.wait(timeout=600)
        finally:
            if begun.poll() is None:
                os.killpg(begun.pid, signal.SIGKILL)
                begun.wait()
    logs = [folder / "ranks.log", *sorted(folder.glob("rank?.log"))]
    told = "\n".join(log.read_text()[-3_000:] for log in logs)
    assert begun.returncode == 0, told
    found = json.loads((folder / "codes.json").read_text())
    wanted = [0] * size if codes is None else codes
    assert all(code in (None, got) for code, got in zip(wanted, found, strict=True)), told
