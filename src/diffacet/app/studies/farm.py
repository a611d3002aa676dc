"""Runs of a study in processes of their own, several at a time.

The processes are forked from a server that has loaded PyTorch once, so that starting one takes no time. A
process that is killed is begun again and goes on from its checkpoint; one that fails is noted, and the rest
goes on. None of them outlives the process that asked for it, and none writes where another one still does.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from diffacet import files
from diffacet.app.studies import folder, work
from diffacet.app.studies.plan import Job, Plan
from diffacet.errors import DiffacetError

ATTEMPTS = 3
"""How often a run is begun when its process is killed from outside, by whom ever."""
PRELOAD = ["diffacet.app.studies.work", "torch._dynamo"]
"""Loaded once for all runs; PyTorch's optimisers ask for the second one, which takes longer than PyTorch itself."""
_EVERY = 0.25  # seconds between two messages of a worker
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Failure:
    """A run that ended without a result.

    Attributes:
        job: which.
        error: what it said, in one line.
        log: the file that holds all that it said.
    """

    job: Job
    error: str
    log: Path


class Watch(Protocol):
    """What is told of the runs as they go."""

    def begun(self, job: Job) -> None:
        """A process has the run."""

    def moved(self, job: Job, step: int, total: int) -> None:
        """It has done so many of all steps."""

    def ended(self, job: Job, error: str | None) -> None:
        """It has a result, or not."""


@dataclass
class _Worker:
    job: Job
    slot: int
    attempt: int
    process: BaseProcess
    pipe: connection.Connection
    error: str | None = None


def run(
    plan: Plan, jobs: Sequence[Job], out: Path, *, workers: int, device: str = "auto", watch: Watch
) -> list[Failure]:
    """Do `jobs`, `workers` at a time, into the folder `out`, and return those that failed.

    Ctrl-C, and any other exception here, ends all processes before it goes on its way.
    """
    context = multiprocessing.get_context("forkserver")
    devices = _devices(device)
    waiting = deque((job, 1) for job in jobs)
    busy: list[_Worker] = []
    failed: list[Failure] = []
    try:
        with _single_threads():
            forkserver.set_forkserver_preload(PRELOAD)
            forkserver.ensure_running()
        while waiting or busy:
            while waiting and len(busy) < workers:
                job, attempt = waiting.popleft()
                slot = min({*range(workers)} - {worker.slot for worker in busy})
                one = devices[slot % len(devices)] if devices else None
                busy.append(_begin(context, plan, job, out, device, one, slot, attempt))
                watch.begun(job)
            connection.wait([end for w in busy for end in (w.pipe, w.process.sentinel)], timeout=1.0)
            for worker in busy[:]:
                _listen(worker, watch)
                if worker.process.is_alive():
                    continue
                _listen(worker, watch)
                busy.remove(worker)
                error = _outcome(worker, plan, out)
                if error is not None and worker.error is None and worker.attempt < ATTEMPTS:
                    waiting.appendleft((worker.job, worker.attempt + 1))
                    continue
                watch.ended(worker.job, error)
                if error is not None:
                    failed.append(Failure(worker.job, error, folder.place(out, worker.job) / "log.txt"))
    finally:
        for worker in busy:
            worker.process.kill()
        for worker in busy:
            worker.process.join()
    return failed


def _begin(
    context: Any, plan: Plan, job: Job, out: Path, device: str, one: str | None, slot: int, attempt: int
) -> _Worker:
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(plan, job, out, device, one, writer), name=job.name)
    process.start()
    writer.close()
    return _Worker(job, slot, attempt, process, reader)


def _listen(worker: _Worker, watch: Watch) -> None:
    """Read what the worker has said so far."""
    try:
        while worker.pipe.poll():
            told = worker.pipe.recv()
            if isinstance(told, str):
                worker.error = told
            else:
                watch.moved(worker.job, *told)
    except (EOFError, OSError):
        # The worker has gone; until its sentinel tells, waiting on a closed pipe would spin.
        worker.process.join(1.0)


def _outcome(worker: _Worker, plan: Plan, out: Path) -> str | None:
    """What went wrong in a process that has ended; None if nothing did."""
    code = worker.process.exitcode
    worker.process.join()
    worker.pipe.close()
    if worker.error is not None:
        return worker.error
    if folder.finished(out, plan, worker.job):
        return None
    return f"its process was ended {worker.attempt} times (exit code {code}); memory may have run out"


def _work(
    plan: Plan, job: Job, out: Path, device: str, one: str | None, pipe: connection.Connection
) -> None:  # pragma: no cover - runs in processes of its own
    """The whole life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    _die_with_parent()
    if one is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = one
    place = folder.place(out, job)
    place.mkdir(parents=True, exist_ok=True)
    _log_to(place / "log.txt")
    said = 0.0

    def tell(step: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said > _EVERY or step == total:
            said = now
            pipe.send((step, total))

    try:
        with files.held(place / folder.LOCK, job.name, wait=True):
            if not folder.finished(out, plan, job):
                work.perform(job, plan.study, place, device=device, tell=tell)
    except Exception as error:  # whatever it is, the other runs go on
        traceback.print_exc()
        own = isinstance(error, DiffacetError)
        pipe.send(" ".join(str(error).split()) if own else f"{type(error).__name__}: {' '.join(str(error).split())}")
        sys.exit(1)


def _die_with_parent() -> None:  # pragma: no cover - runs in processes of its own
    """End this process when the one that asked for it has gone, or the server that forked it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def watch() -> None:
        connection.wait([sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _log_to(path: Path) -> None:  # pragma: no cover - runs in processes of its own
    """Send all that this process and its libraries print to `path`."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)


@contextmanager
def _single_threads() -> Iterator[None]:
    """One thread for each library of the processes that are forked; inherited by the server that starts inside."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
    before: Mapping[str, str | None] = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _devices(device: str) -> list[str]:
    """CUDA devices as CUDA_VISIBLE_DEVICES calls them; none where the CPU computes."""
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return []
    named = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
    return named or [str(number) for number in range(torch.cuda.device_count())]


def default_workers(device: str) -> int:
    """As many as there are CUDA devices, or as cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return len(_devices(device)) or cores
