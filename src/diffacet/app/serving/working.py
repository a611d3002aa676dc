"""One of several processes that answer at one socket, seen from inside; `supervising` is its parent."""

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffacet.app.serving import logs
from diffacet.app.serving.server import INTERRUPTED, Hangup, Server, Serving, Told, configure_logs, load
from diffacet.errors import BadRun, DiffacetError

if TYPE_CHECKING:
    from diffacet.app.serving.recommender import Recommender

Expected = tuple[str, str] | None
"""Version and directory of the run that the other workers serve; None where there are none."""
_BEAT = 1.0  # seconds


def work(what: Serving, listener: socket.socket, pipe: Connection, expected: Expected) -> None:
    """Answer until the parent ends or says stop; what a spawned process calls."""
    hangup = Hangup()
    configure_logs()
    parent = _Parent(pipe)
    try:
        recommender = _loaded(what, expected)
        server = Server(what, recommender, parent.told(lambda: _of(recommender)), hangup)
        parent.follow(server)
        server.answer(listener)
        os._exit(0)  # all is said; taking torch apart would only take time
    except DiffacetError as error:
        parent.send(what="failed", message=str(error))
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)


class _Parent:
    """The pipe to the parent."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._lock, self._silent = pipe, threading.Lock(), 0

    def send(self, **message: Any) -> bool:
        """Tell the parent, and whether it is there."""
        with self._lock, contextlib.suppress(OSError):
            self._pipe.send_bytes(json.dumps(message).encode())
            return True
        return False

    def told(self, of: Callable[[], dict[str, Any]]) -> Told:
        """What a server tells, with what `of` says of its recommender then."""

        def ready() -> None:
            self.send(what="ready", **of())
            threading.Thread(target=beating, daemon=True).start()

        def beating() -> None:
            # In a thread, so that a parent that does not listen blocks nothing; it counts turns of its own, not time,
            # so that a process that was halted for an hour is not taken for one that hangs.
            while self.send(what="beat", silent=self._silent, **of()):
                self._silent += 1
                time.sleep(_BEAT)

        def beat() -> None:
            self._silent = 0

        def reloaded() -> None:
            self.send(what="reloaded", **of())

        return Told(ready, beat, reloaded)

    def follow(self, server: Server) -> None:
        """Do what the parent says from now on, and stop when it ends."""

        def following() -> None:
            with contextlib.suppress(EOFError, OSError):
                while True:
                    order = json.loads(self._pipe.recv_bytes())
                    server.renew(
                        order["by"], keys=order.get("keys", False), force=order.get("force", False), tell=False
                    )
            if not server.should_exit:
                logs.write("the parent is gone", pid=os.getpid())
                os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=following, daemon=True).start()


def _of(recommender: "Recommender") -> dict[str, Any]:
    card = recommender.card()
    place = str(recommender.run.path)
    return {"version": recommender.version, "place": place, "items": recommender.n_items, "index": card["index"]}


def _loaded(what: Serving, expected: Expected) -> "Recommender":
    """The run; beside other workers only the very run that they serve, even if its path leads elsewhere by now."""
    if expected is None:
        return load(what)
    version, place = expected
    for path in dict.fromkeys((Path(place), Path(os.path.realpath(what.run)))):
        with contextlib.suppress(BadRun):
            made = load(what, path)
            if made.version == version:
                return made
    raise BadRun(
        f"{what.run} does not hold {version} any more, which the other workers serve, so this one cannot join them;"
        " let all of them reload what it holds (SIGHUP), or restore it"
    )
