"""Real processes for the tests of training together: `worldwork.py`, once for each rank, over gloo."""

import os
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
    files = [(folder / f"rank{rank}.log").open("w+") for rank in range(size)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(WORK), str(folder), str(rank), str(size), *scenarios],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        for rank, file in enumerate(files)
    ]
    try:
        for worker in workers:
            worker.wait(timeout=240)
    finally:
        for worker, file in zip(workers, files, strict=True):
            worker.kill()
            worker.wait()
            file.close()
    told = "\n".join((folder / f"rank{rank}.log").read_text()[-3_000:] for rank in range(size))
    found = [worker.returncode for worker in workers]
    wanted = [0] * size if codes is None else codes
    assert all(code in (None, got) for code, got in zip(wanted, found, strict=True)), told
