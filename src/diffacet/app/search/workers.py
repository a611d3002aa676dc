"""Trials one after another in this process, or several at once, each worker a process of its own.

Only this process touches the storage: workers are told settings, and ask whether to go on.
"""

import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Protocol

from diffacet.app.search.trials import Task, Tried, attempt


@dataclass(frozen=True)
class Job:
    """A trial to run: its number, its settings, and the storage's own handle of it."""

    number: int
    values: Mapping[str, Any]
    handle: Any


class Queue(Protocol):
    """Where jobs come from and results go."""

    def begin(self) -> Job | None:
        """The next trial; None when there is none."""

    def report(self, job: Job, place: int, step: int, value: float) -> bool:
        """Take note of a validation; whether the trial is hopeless."""

    def finish(self, job: Job, tried: Tried) -> None:
        """Take note of the result."""

    def lost(self, job: Job, why: str) -> None:
        """Take note that a worker died on it."""


def alone(task: Task, queue: Queue) -> None:
    """Run every trial of `queue` in this process."""
    while (job := queue.begin()) is not None:
        queue.finish(job, _here(task, queue, job))


def _here(task: Task, queue: Queue, job: Job) -> Tried:
    return attempt(task, job.number, job.values, lambda *told: queue.report(job, *told))


def together(task: Task, queue: Queue, workers: int) -> None:
    """Run every trial of `queue` in `workers` processes; one that dies costs its trial an attempt and is replaced."""
    busy: dict[Connection, tuple[SpawnProcess, Job]] = {}
    try:
        for _ in range(workers):
            _engage(task, queue, busy, None)
        while busy:
            for ready in connection.wait(list(busy)):
                assert isinstance(ready, Connection)
                _hear(task, queue, busy, ready)
    finally:
        for process, _ in busy.values():
            process.terminate()
        for process, _ in busy.values():
            process.join()


def _hear(task: Task, queue: Queue, busy: dict[Connection, tuple[SpawnProcess, Job]], ready: Connection) -> None:
    process, job = busy[ready]
    try:
        said = ready.recv()
        if not isinstance(said, Tried):
            ready.send(queue.report(job, *said))
            return
    except (EOFError, OSError):
        del busy[ready]
        process.join()
        queue.lost(job, f"the worker process died (exit code {process.exitcode})")
        _engage(task, queue, busy, None)
        return
    del busy[ready]
    queue.finish(job, said)
    _engage(task, queue, busy, (ready, process))


def _engage(
    task: Task,
    queue: Queue,
    busy: dict[Connection, tuple[SpawnProcess, Job]],
    worker: tuple[Connection, SpawnProcess] | None,
) -> None:
    """Give the next job to `worker`, or to a new one; without a job it goes home."""
    job = queue.begin()
    if job is None:
        if worker is not None:
            worker[0].close()
            worker[1].join()
        return
    if worker is None:
        spawn = get_context("spawn")
        mine, theirs = spawn.Pipe()
        process = spawn.Process(target=_work, args=(task, theirs), daemon=True)
        process.start()
        theirs.close()
        worker = mine, process
    busy[worker[0]] = worker[1], job
    try:
        worker[0].send((job.number, dict(job.values)))
    except ConnectionError:
        return  # it died between two jobs, which the next look at its connection tells


def _work(task: Task, pipe: Connection) -> None:
    """A worker's life: jobs until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()

    def report(*told: Any) -> bool:
        try:
            pipe.send(told)
            return bool(pipe.recv())
        except (EOFError, OSError) as gone:
            raise SystemExit from gone  # not an Exception, which would count as the setting's fault

    while True:
        try:
            number, values = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(attempt(task, number, values, report))


def _die_with_parent() -> None:
    """A parent that was killed leaves no worker behind that still writes where its successor goes on."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
