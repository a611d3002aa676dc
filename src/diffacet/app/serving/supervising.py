"""Several processes that answer at one socket: started, renewed together, replaced when they die, ended together.

The parent holds no run. It and each worker tell each other JSON over a pipe of their own:

    worker -> parent   {"what": "ready" | "beat" | "reloaded" | "failed", ...}; when the pipe ends, the worker is dead
    parent -> worker   {"what": "reload", ...}; when the pipe ends, the worker stops, as at SIGTERM
"""

import contextlib
import dataclasses
import json
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any

from diffacet.app.serving import listening, logs, working
from diffacet.app.serving.options import read_keys
from diffacet.app.serving.server import INTERRUPTED, LOOK, Serving
from diffacet.app.serving.watching import Watch
from diffacet.errors import BadRun, BadSetting

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""Where the metrics of all workers lie, for prometheus_client."""
HUNG = 30
"""Seconds after which a worker whose event loop does not turn is replaced."""
_SPAWN = multiprocessing.get_context("spawn")
_SLOWEST = 30.0  # seconds between two attempts to replace a worker
_STEADY = 10.0  # seconds after which a worker that dies is no failed attempt
_LATER = 3.0  # seconds that workers get beyond the limit for requests


@dataclass(eq=False)
class _Worker:
    """A process, and what it has told of itself."""

    process: SpawnProcess
    pipe: Connection
    wave: int
    born: float = field(default_factory=time.monotonic)
    ready: bool = False
    told: dict[str, Any] = field(default_factory=dict)
    failure: str = ""

    def send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it has died; that is noticed elsewhere
            self.pipe.send_bytes(json.dumps(message).encode())


class Supervisor:
    """The parent of the workers."""

    def __init__(self, what: Serving, listener: socket.socket, say: Callable[[str], None]) -> None:
        """Nothing is started; `say` is called with the line of readiness."""
        self.what, self.listener, self.say = what, listener, say
        self._workers: list[_Worker] = []
        self._due: list[float] = []  # when to start one, for each that is missing
        self._failures = 0
        self._wave, self._order = 0, dict[str, Any]()  # the newest reload, and how many there were
        self._heard: list[int] = []
        self._stop = self._forced = False
        self._watch = Watch(what.run) if what.options.watch else None
        self._next_look = 0.0

    def run(self) -> int:
        """Start the workers and keep them until a signal says stop; returns the exit code.

        Raises:
            BadRun: a worker cannot begin, for what its message says.
        """
        folder = tempfile.mkdtemp(prefix="diffacet-metrics-")
        os.environ[MULTIPROCESS] = folder
        try:
            with self._signals():
                try:
                    self._begin()
                    while not self._stop:
                        self._turn()
                finally:
                    self._end()
        finally:
            del os.environ[MULTIPROCESS]
            shutil.rmtree(folder, ignore_errors=True)
        return INTERRUPTED if self._forced else 0

    def _begin(self) -> None:
        """One worker first, which checks the run and makes its index; then the others."""
        for count in (1, self.what.options.workers):
            while len(self._workers) < count:
                self._start()
            while not (self._stop or all(worker.ready for worker in self._workers)):
                self._turn(beginning=True)
        if not self._stop:
            told = self._workers[0].told
            host = self.what.options.host
            self.say(listening.line(self.listener, host, told["version"], told["items"], told["index"]))

    def _start(self) -> None:
        ready = [worker.told for worker in self._workers if worker.ready]
        expected = (ready[0]["version"], ready[0]["place"]) if ready else None
        here, there = _SPAWN.Pipe()
        process = _SPAWN.Process(target=working.work, args=(self.what, self.listener, there, expected), daemon=True)
        process.start()
        there.close()
        self._workers.append(_Worker(process, here, self._wave))

    def _turn(self, *, beginning: bool = False) -> None:
        """Wait a moment for whatever happens, and deal with it."""
        things: list[Any] = [self._wake, *(worker.pipe for worker in self._workers)]
        for thing in wait([*things, *(worker.process.sentinel for worker in self._workers)], LOOK / 2):
            if thing is self._wake:
                self._wake.recv(4096)
        self._obey()
        for worker in list(self._workers):
            self._listen(worker)
            if worker.process.exitcode is not None:
                self._bury(worker, beginning)
        now = time.monotonic()
        if not self._stop:
            for due in [due for due in self._due if due <= now]:
                self._due.remove(due)
                self._start()
        if self._watch is not None and now >= self._next_look:
            self._next_look = now + LOOK
            if self._watch.look():
                self._reload(by="watch")

    def _obey(self) -> None:
        while self._heard:
            one = self._heard.pop(0)
            if one == signal.SIGHUP:
                self._read_keys()
                self._reload(by="signal", keys=True)
            else:
                self._forced |= self._stop and one == signal.SIGINT
                self._stop = True

    def _read_keys(self) -> None:
        """For workers that are started later; the others read them themselves, and say if they cannot."""
        if self.what.key_file is not None:
            with contextlib.suppress(BadSetting):
                options = dataclasses.replace(self.what.options, keys=read_keys(self.what.key_file))
                self.what = dataclasses.replace(self.what, options=options)

    def _reload(self, *, besides: _Worker | None = None, **order: Any) -> None:
        """Let all workers reload; those that are not ready do it when they are."""
        if self._watch is not None and order["by"] == "worker":
            self._watch.doubt()
        self._wave += 1
        self._order = {"what": "reload", **order}
        for worker in self._workers:
            if worker.ready:
                worker.wave = self._wave
                if worker is not besides:
                    worker.send(self._order)

    def _listen(self, worker: _Worker) -> None:
        try:
            while worker.pipe.poll():
                self._take(worker, json.loads(worker.pipe.recv_bytes()))
        except (EOFError, OSError):
            worker.process.join(_LATER)  # its end follows that of its pipe

    def _take(self, worker: _Worker, told: dict[str, Any]) -> None:
        what = told["what"]
        if what == "failed":
            worker.failure = told["message"]
            return
        worker.told |= told
        if what == "ready":
            worker.ready, self._failures = True, 0
            if worker.wave < self._wave:
                worker.wave = self._wave
                worker.send(self._order)
        elif what == "reloaded":
            # What one worker has accepted the others accept, forced or not: they served the same run before.
            self._reload(besides=worker, by="worker", force=True)
        elif told["silent"] >= HUNG:
            logs.write("worker hangs", level=logging.ERROR, pid=worker.process.pid, seconds=told["silent"])
            worker.process.kill()

    def _bury(self, worker: _Worker, beginning: bool) -> None:
        """Take leave of a worker that has ended, and have another one started."""
        self._workers.remove(worker)
        worker.pipe.close()
        pid, code = worker.process.pid, worker.process.exitcode
        with contextlib.suppress(OSError):
            from prometheus_client.multiprocess import mark_process_dead

            mark_process_dead(pid)  # type: ignore[no-untyped-call]
        if self._stop:
            return
        if beginning:
            self._stop = True
            raise BadRun(worker.failure or f"a worker ended with code {code} before it was ready; its error is above")
        steady = worker.ready and time.monotonic() - worker.born > _STEADY
        self._failures = 0 if steady else self._failures + 1
        delay = 0.0 if steady or self._failures == 1 else min(_SLOWEST, 2.0 ** (self._failures - 2))
        self._due.append(time.monotonic() + delay)
        told: dict[str, Any] = {"message": worker.failure} if worker.failure else {}
        logs.write("worker died", level=logging.ERROR, pid=pid, code=code, again_in=delay, **told)

    def _end(self) -> None:
        """Stop listening, let the workers answer what they were asked, and see them end."""
        self._stop = True
        self.listener.close()
        for worker in self._workers:
            worker.process.terminate()
        deadline = time.monotonic() + self.what.options.drain + _LATER
        while self._workers and not self._forced and (left := deadline - time.monotonic()) > 0:
            for thing in wait([self._wake, *(worker.process.sentinel for worker in self._workers)], left):
                if thing is self._wake:
                    self._wake.recv(4096)
            self._obey()
            self._workers = [worker for worker in self._workers if worker.process.exitcode is None]
        for worker in self._workers:
            if not self._forced:
                logs.write("worker killed", level=logging.WARNING, pid=worker.process.pid)
            worker.process.kill()
            worker.process.join()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Note signals, and wake `wait` for them."""
        self._wake, other = socket.socketpair()
        other.setblocking(False)

        def hear(number: int, _: FrameType | None) -> None:
            self._heard.append(number)

        before = {one: signal.signal(one, hear) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        waked = signal.set_wakeup_fd(other.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(waked)
            for one, handler in before.items():
                signal.signal(one, handler)
            self._wake.close()
            other.close()
