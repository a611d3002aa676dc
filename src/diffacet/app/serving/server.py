"""A process that answers: the run, the application, and uvicorn around them; how it is renewed and how it ends.

With one worker it is the process of `diffacet serve`; with more `supervising` starts it several times.
"""

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from diffacet.app.serving import connections, listening, logs
from diffacet.app.serving.connections import Limits
from diffacet.app.serving.options import ServeOptions, read_keys
from diffacet.app.serving.watching import Watch
from diffacet.errors import BadSetting

if TYPE_CHECKING:
    from diffacet.app.serving.recommender import Recommender
    from diffacet.app.serving.service import Service

KEEP_ALIVE = 75
"""Seconds for which a connection may wait for its next request; longer than proxies keep theirs, which so end first."""
LOOK = 1.0
"""Seconds from one look at a watched run to the next."""
INTERRUPTED = 130
_SWITCH = 0.0005
"""Seconds for which one thread may hold the interpreter while another waits: the loop and the computing thread take
turns at every product, and Python's 5 ms would be many times as long as the product."""
_LATE = 1.0  # seconds that the computing thread gets beyond the limit for requests


@dataclass(frozen=True)
class Serving:
    """What is served and how.

    Attributes:
        run: the run directory, or a link to one.
        options: addresses and limits.
        changes: inference settings, "key=value".
        device: "auto", "cpu" or "cuda".
        key_file: what `options.keys` were read from.
    """

    run: Path
    options: ServeOptions
    changes: tuple[str, ...] = ()
    device: str = "auto"
    key_file: Path | None = None


@dataclass(frozen=True)
class Told:
    """Whom a process tells what.

    Attributes:
        ready: it answers.
        beat: it lives; called about every second.
        reloaded: it has changed the run, and nobody has told it to.
    """

    ready: Callable[[], None]
    beat: Callable[[], None]
    reloaded: Callable[[], None]


def serve(what: Serving, *, open_to_all: bool = False, say: Callable[[str], None] | None = None) -> int:
    """Serve until a signal says stop; returns the exit code, which is 0.

    Args:
        what: the run, and how it is served.
        open_to_all: requests from other machines need no key.
        say: called with the line of readiness; None: it goes to standard output.

    Raises:
        BadSetting: an address that cannot be listened on, or that would be open to all without saying so.
        BadRun: no run, a damaged one, or one of a click model.
    """
    listener = listening.bind(what.options, open_to_all)
    configure_logs()
    with listener:
        if what.options.workers > 1:
            from diffacet.app.serving.supervising import Supervisor

            return Supervisor(what, listener, say or _say).run()
        return _alone(what, listener, say or _say)


def configure_logs() -> None:
    """Let the service's log hold the errors of uvicorn and asyncio, too, in the same form."""
    logs.configure()
    handlers = logging.getLogger(logs.LOGGER).handlers
    # Below an error uvicorn tells what the service tells itself, or what any client could fill a disk with.
    for name, level in (("uvicorn", logging.ERROR), ("asyncio", logging.WARNING), ("py.warnings", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = handlers, False
        logger.setLevel(level)
    logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)
    logging.captureWarnings(True)


def load(what: Serving, place: Path | None = None) -> "Recommender":
    """The recommender of a run, its steps in the log; of what lies in `place` rather than in the run's own path."""
    import torch

    from diffacet.app import rundir
    from diffacet.app.serving.recommender import Recommender
    from diffacet.app.serving.state import AUTO
    from diffacet.rank.index import KINDS

    options, start = what.options, time.perf_counter()
    if options.index not in (AUTO, *KINDS):
        raise BadSetting(f"--index is one of {', '.join((AUTO, *KINDS))}; got {options.index}", field="index")
    torch.set_num_threads(options.threads)
    sys.setswitchinterval(_SWITCH)
    path = place or what.run
    about = rundir.read_about(Path(os.path.realpath(path)))
    logs.write("load", run=str(path), model=about["model"], preset=about["preset"], index=options.index)
    made = Recommender.load(
        path, index=options.index, refine_steps=options.refine_steps, set=what.changes, device=what.device
    )
    made.path = what.run
    told = {"index": made.card()["index"], "seconds": round(time.perf_counter() - start, 3)}
    logs.write("loaded", model_version=made.version, items=made.n_items, place=str(made.run.path), **told)
    return made


class Hangup:
    """SIGHUP, noted from the moment when this is made, for whoever asks."""

    def __init__(self) -> None:
        self._heard = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGHUP, self._hear)

    def _hear(self, _: int, __: FrameType | None) -> None:
        self._heard = True

    def taken(self) -> bool:
        """Whether it has come since the last question."""
        heard, self._heard = self._heard, False
        return heard


class Server(uvicorn.Server):
    """uvicorn's server around a recommender: it ends without losing a request, and is renewed while it answers."""

    def __init__(self, what: Serving, recommender: "Recommender", told: Told, hangup: Hangup) -> None:
        """Make the application; nothing is opened."""
        from diffacet.app.serving.api import create_app

        options = what.options
        self.what, self.recommender, self.told, self.hangup = what, recommender, told, hangup
        self.limits = Limits(options.read_timeout, connections.open_at_most())
        self.app = create_app(recommender, options, on_reload=told.reloaded)
        self.service: Service = self.app.state.service
        self._reloading: threading.Thread | None = None
        self._asking = threading.Lock()
        config = uvicorn.Config(
            self.app,
            http=connections.protocol(self.limits),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            h11_max_incomplete_event_size=connections.HEAD_BYTES,
        )
        config.timeout_graceful_shutdown = options.drain  # type: ignore[assignment]  # fractions are as good
        super().__init__(config)

    def answer(self, listener: socket.socket) -> None:
        """Answer at a bound socket until a signal says stop; the process ends here if requests outlast the limit.

        Raises:
            BadSetting: another process has begun to listen there.
        """
        self.run([listener])
        if self._reloading is not None and self._reloading.is_alive():
            os._exit(0)  # its end is of no use to anybody

    def renew(self, by: str, *, keys: bool = False, force: bool = False, tell: bool = True) -> None:
        """Reload in a thread: for `by`, with the keys if asked; `tell`: say so when the run is another one then."""
        with self._asking:
            before = self._reloading
            self._reloading = threading.Thread(target=self._renew, args=(before, by, keys, force, tell), daemon=True)
            self._reloading.start()

    def _renew(self, before: threading.Thread | None, by: str, keys: bool, force: bool, tell: bool) -> None:
        if before is not None:
            before.join()
        if keys and self.what.key_file is not None:
            try:
                self.service.use_keys(read_keys(self.what.key_file))
                logs.write("keys", by=by)
            except BadSetting as error:
                logs.write("keys refused", level=logging.ERROR, by=by, message=str(error))
        # Whatever it meets is in the log and the metrics by then; the old run goes on.
        with contextlib.suppress(Exception):
            if self.service.reload(force=force, by=by).changed and tell:
                self.told.reloaded()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer; uvicorn's hook."""
        try:
            await super().startup(sockets)
        except OSError as error:
            raise listening.refusal(error, self.what.options) from error
        if self.started:
            await self._warm_up()
            # What is alive now stays: looked through again and again, it would hold up one answer in a hundred.
            gc.collect()
            gc.freeze()
            self.told.ready()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; uvicorn's hook."""
        if self.hangup.taken():
            self.renew("signal", keys=True)
        if counter % 10 == 0:
            self.told.beat()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was asked and end; uvicorn's hook."""
        self.service.begin_drain()
        self.limits.draining = True
        late = threading.Timer(self.what.options.drain + _LATE, self._too_late)
        late.daemon = True
        late.start()
        await super().shutdown(sockets)
        late.cancel()

    def handle_exit(self, sig: int, _: FrameType | None) -> None:
        """A signal to stop; a second Ctrl-C ends the process at once. uvicorn's hook."""
        if self.should_exit and sig == signal.SIGINT:
            os._exit(INTERRUPTED)
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals to stop, and keep them: the process ends after this. uvicorn's hook."""
        if threading.current_thread() is threading.main_thread():
            for one in (signal.SIGINT, signal.SIGTERM):
                signal.signal(one, self.handle_exit)
        yield

    async def _warm_up(self) -> None:
        """Take upon this process what would else delay its first requests."""
        # Loading has asked already, but not on the thread that computes.
        await self.service.call(self.recommender.recommend, self.recommender.retriever.items.values.head(1).to_list())
        for route in self.app.router.routes:  # FastAPI makes them up when one is looked for
            route.matches({"type": "http", "method": "GET", "path": "/", "root_path": "", "headers": []})

    def _too_late(self) -> None:
        told: dict[str, Any] = {"seconds": self.what.options.drain, "requests": len(self.server_state.tasks)}
        logs.write("stopped before all was answered", level=logging.WARNING, **told)
        os._exit(0)


def _alone(what: Serving, listener: socket.socket, say: Callable[[str], None]) -> int:
    hangup, watch = Hangup(), Watch(what.run)
    recommender = load(what)

    def ready() -> None:
        index = recommender.card()["index"]
        say(listening.line(listener, what.options.host, recommender.version, recommender.n_items, index))
        if what.options.watch:
            threading.Thread(target=look, daemon=True).start()

    def look() -> None:
        while not server.should_exit:
            time.sleep(LOOK)
            if watch.look():
                server.renew("watch", tell=False)

    server = Server(what, recommender, Told(ready, lambda: None, watch.doubt), hangup)
    server.answer(listener)
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
