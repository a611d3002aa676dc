"""What the routes share: the recommender, its batcher, the metrics, and whether the service is ready."""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from diffacet.app.serving import logs
from diffacet.app.serving.batching import Answer, Batcher, Outcome
from diffacet.app.serving.faults import Fault, is_users
from diffacet.app.serving.metrics import Metrics
from diffacet.app.serving.options import ServeOptions
from diffacet.app.serving.recommender import Recommender, Reloaded
from diffacet.rank.candidates import Query

T = TypeVar("T")
_TRIES = 5
"""Reloads that may fall into one answer."""


@dataclass
class Trace:
    """What is known of one request, for its line in the log.

    Attributes:
        id: the request id.
        start: when it began, `time.perf_counter`.
        status: of the answer; 0: none has begun. 499: the client has gone.
        code: of the error that was answered.
        told: further fields of the line.
        token: under which the batcher expects it.
    """

    id: str
    start: float
    status: int = 0
    code: str | None = None
    told: dict[str, Any] = field(default_factory=dict)
    token: object = None


class Service:
    """A recommender in service.

    Attributes:
        recommender: what answers.
        options: the limits.
        metrics: what is counted.
        batcher: the way to the computing thread.
        keys: SHA-256 of the keys that let in; none: everybody is.
        ready: whether new requests should be sent here; `begin_drain` ends it.
    """

    def __init__(
        self, recommender: Recommender, options: ServeOptions, on_reload: Callable[[], None] | None = None
    ) -> None:
        """Nothing is started; `on_reload` is called after a reload by request that changed the run."""
        self.recommender, self.options, self.metrics = recommender, options, Metrics()
        self.batcher = Batcher(
            recommender.answer, gather=options.gather, max_batch=options.max_batch, watch=self.metrics
        )
        self.ready = False
        self.use_keys(options.keys)
        self._on_reload, self._reloading = on_reload, threading.Lock()
        self._card: dict[str, Any] = {}
        self._take_in()

    def start(self) -> None:
        """From now on the service is ready."""
        self.ready = True
        logs.write("start", model_version=self.recommender.version, items=self.recommender.n_items)
        self._warn()

    def use_keys(self, keys: Sequence[str]) -> None:
        """Let in who has one of these keys, from the next request on."""
        self.keys = [hashlib.sha256(key.encode()).digest() for key in keys]

    def begin_drain(self) -> None:
        """Say not ready, while requests go on being answered; a second call says nothing."""
        if self.ready:
            self.ready = False
            logs.write("drain")

    def stop(self) -> None:
        """End the computing thread, after what it is computing."""
        self.ready = False
        self.batcher.close()
        logs.write("stop")

    @property
    def can(self) -> dict[str, bool]:
        """What the model can be asked, by its card."""
        return self._card.get("can", {})

    def card(self) -> dict[str, Any]:
        """The card of the run that answers; that of its loading, so it needs no files."""
        if self._card.get("version") != self.recommender.version:
            self._take_in()
        return self._card

    async def ask(self, queries: Sequence[Query], token: object = None) -> list[Outcome]:
        """An outcome for each query of one request, all of one version even if the run is reloaded meanwhile.

        `token` is what the batcher expects the request under.
        """
        self.batcher.arrived(token)  # what this sets off comes after the next line, in the same turn of the loop
        outcomes = await self.batcher.submit_many(queries)
        for _ in range(_TRIES):
            newest = self.recommender.version
            versions = {one.version for one in outcomes if isinstance(one, Answer)}
            if len(versions) < 2:
                return outcomes
            old = [row for row, one in enumerate(outcomes) if isinstance(one, Answer) and one.version != newest]
            again = await self.batcher.submit_many([queries[row] for row in old])
            for row, outcome in zip(old, again, strict=True):
                outcomes[row] = outcome
        raise restless()

    async def call(self, function: Callable[..., T], *args: Any) -> tuple[str, T]:
        """What `function(*args)` gives on the computing thread, and the version that gave it."""
        return await self.batcher.run(self._steady, function, *args)

    def reload(self, *, force: bool = False, by: str = "request") -> Reloaded:
        """Exchange the run for what lies in its path now. Takes seconds; call it from a thread of its own.

        Args:
            force: see `Recommender.reload`.
            by: who wants it, for the log; for "request" `on_reload` is called, so that other workers do likewise.

        Raises:
            BadRun: the new run is refused; the old run goes on.
            Fault: by "request", while another reload is running.
        """
        # Only who asked can ask again; a signal or a change of the run waits for its turn, so none is lost.
        if not self._reloading.acquire(blocking=by != "request"):
            raise Fault(409, "a reload is running; ask again when it has ended", code="reloading")
        start = time.perf_counter()
        try:
            done = self.recommender.reload(force=force)
            self._take_in()
        except Exception as error:
            self.metrics.reloaded("refused")
            told: dict[str, Any] = {"by": by, "message": str(error), "seconds": round(time.perf_counter() - start, 3)}
            bug = None if is_users(error) else error  # whose traceback is wanted
            logs.write("reload refused", level=logging.ERROR, error=bug, **told)
            raise
        finally:
            self._reloading.release()
        self.metrics.reloaded("ok" if done.changed else "same")
        versions: dict[str, Any] = {"model_version": done.version, "before": done.before}
        logs.write("reload", by=by, changed=done.changed, **versions, seconds=round(done.seconds, 3))
        if done.changed:
            self._warn()
        if done.changed and by == "request" and self._on_reload is not None:
            self._on_reload()
        return done

    def _warn(self) -> None:
        for warning in self.recommender.warnings:
            logs.write("warning", level=logging.WARNING, message=warning)

    def _take_in(self) -> None:
        """Read once what the recommender says of itself."""
        self._card = self.recommender.card()
        self.metrics.serves(self.recommender.version, self.recommender.n_items)

    def _steady(self, function: Callable[..., T], *args: Any) -> tuple[str, T]:
        for _ in range(_TRIES):
            before = self.recommender.version
            value = function(*args)
            if self.recommender.version == before:
                return before, value
        raise restless()


def restless() -> Fault:
    """The answer when reloads follow each other so fast that none can be asked from end to end."""
    return Fault(503, "the run is reloaded again and again; ask again in a moment", headers={"Retry-After": "1"})
