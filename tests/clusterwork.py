"""Work for the processes of a cluster in tests, which import this module by its name."""

import os
import signal
import sys
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diffacet.app import batch_candidates
from diffacet.app.cluster import candidates, connecting
from diffacet.app.cluster.mapping import mapped
from diffacet.errors import BadLog


def doubled(task):
    """A result that tells which process gave it, and how nice that is; a negative task is refused, and 13 is a bug."""
    if task < 0:
        raise BadLog(f"{task} is below 0", field="task")
    if task == 13:
        raise ZeroDivisionError("thirteen")
    return 2 * task, os.getpid(), os.nice(0)


def once(marker):
    """Whether this is the first call for that file, by whatever process."""
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@dataclass
class Mortal(candidates.Worker):
    """A worker that is killed in the middle of the job's third block, once."""

    def __call__(self, block):
        if block[0] == 2 and once(self.folder.parent / "killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(block)


def killed_worker(cluster, work):
    """An engine of which one process is killed."""
    tasks = [(number, rows.tobytes()) for number, rows in work.blocks]
    yield from mapped(cluster, Mortal(work.job, work.told, work.parts.folder.absolute()), tasks, workers=2)


def killed_driver(address, run, data, out, block):
    """Write candidates on the cluster at `address`, and be killed when two blocks are there."""

    def die(done, total):
        if done >= 2 * int(block):
            os.kill(os.getpid(), signal.SIGKILL)

    with connecting.connected(address) as cluster:
        wish = batch_candidates.Wish(7, block=int(block))
        engine = candidates.engine(cluster, 1)
        batch_candidates.write(run, data, out, wish, threads=1, engine=engine, progress=die)


if __name__ == "__main__":
    partial(killed_driver, *sys.argv[1:])()


def mortal_training(told):
    """What a worker of a training does, of which the second is killed once, after the first checkpoint of this call."""
    from torch import distributed

    from diffacet.app.cluster import training

    out, seen = told["work"].out, threading.Event()
    before = _modified(out / "last.safetensors")

    def watch():
        while not seen.wait(0.01):
            if _modified(out / "last.safetensors") != before and once(out.parent / "killed"):
                os.kill(os.getpid(), signal.SIGKILL)

    if distributed.get_rank() == 1 and not (out.parent / "killed").exists():
        threading.Thread(target=watch, daemon=True).start()
    training._work(told)
    seen.set()


def _modified(path):
    return path.stat().st_mtime_ns if path.exists() else None
