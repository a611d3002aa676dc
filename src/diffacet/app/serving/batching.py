"""Micro-batching: queries of concurrent requests are gathered into few calls of the recommender, on one thread.

A call begins as soon as the thread is free, unless further requests are known to be on their way; while the thread
computes, the queue fills by itself. So a lone request never waits, and a crowd is computed together.

All but the computing happens in the event loop, whose single thread is all the locking there is.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from diffacet.errors import DiffacetError
from diffacet.rank.candidates import Candidates, Query

if TYPE_CHECKING:
    from diffacet.app.serving.recommender import Answered

T = TypeVar("T")


class Answer(NamedTuple):
    """What became of one query: the version that answered, its candidates, and how many queries its call held."""

    version: str
    candidates: Candidates
    batch: int


class Watch(Protocol):
    """Who is told what the batcher does: the metrics."""

    def batched(self, size: int) -> None:
        """A call with `size` queries begins."""

    def queued(self, depth: int) -> None:
        """So many queries wait."""

    def abandoned(self, count: int) -> None:
        """So many queries were dropped, since nobody waits for their answers."""


Outcome = Answer | Exception


class _Asked:
    """The queries of one request, of which the first `begun` are computed or being computed."""

    __slots__ = ("begun", "future", "left", "outcomes", "queries", "since")

    def __init__(self, queries: Sequence[Query], loop: asyncio.AbstractEventLoop) -> None:
        self.queries, self.begun, self.left, self.since = queries, 0, len(queries), loop.time()
        self.outcomes: list[Outcome | None] = [None] * len(queries)
        self.future: asyncio.Future[list[Outcome | None]] = loop.create_future()


class Batcher:
    """One thread that computes, and the queue before it."""

    def __init__(
        self, answer: "Callable[[Sequence[Query]], Answered]", *, gather: float, max_batch: int, watch: Watch
    ) -> None:
        """Nothing begins before the first query.

        Args:
            answer: computes candidates for several queries, as `Recommender.answer`.
            gather: milliseconds that a query waits at most for requests that are on their way; 0: no call holds
                queries of two requests.
            max_batch: queries in a call.
            watch: is told what happens.
        """
        self._answer, self._gather, self._max, self._watch = answer, gather / 1000, max_batch, watch
        self._thread: ThreadPoolExecutor | None = None
        self._clear()

    def _clear(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop
        self._waiting: deque[_Asked] = deque()
        self._calls: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._coming: dict[object, float] = {}
        self._depth = 0
        self._busy, self._called_last, self._looking = False, False, False
        self._timer: asyncio.TimerHandle | None = None

    def expect(self) -> object:
        """Say that a request is on its way to `submit`; `arrived` takes it back, with what this returns."""
        token = object()
        self._coming[token] = self._here().time()
        return token

    def arrived(self, token: object) -> None:
        """A request that was expected is there, or will not come; a second time says nothing."""
        if self._coming.pop(token, None) is not None and self._waiting:
            self._look_soon()

    async def submit(self, query: Query) -> Answer:
        """The answer to one query; raises the DiffacetError that it met, or what the recommender raised."""
        (outcome,) = await self.submit_many([query])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def submit_many(self, queries: Sequence[Query]) -> list[Outcome]:
        """For each query of a request its answer or what it met; computed in several calls if they are many.

        Requests take turns, query by query. When the caller is cancelled, what has not begun is dropped.
        """
        if not queries:
            return []
        asked = _Asked(queries, self._here())
        self._waiting.append(asked)
        self._deeper(len(queries))
        self._look_soon()
        return [outcome for outcome in await asked.future if outcome is not None]

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """What `function(*args)` returns or raises, on the computing thread; calls and batches take turns."""
        future: asyncio.Future[T] = self._here().create_future()
        self._calls.append((partial(function, *args), future))
        self._look_soon()
        return await future

    def close(self) -> None:
        """Let the thread end, after what it is computing; a later query begins another."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
            self._thread = None

    def _here(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # of another loop nobody waits any more
            self._clear(loop)
        return loop

    def _deeper(self, change: int) -> None:
        self._depth += change
        self._watch.queued(self._depth)

    def _look_soon(self) -> None:
        """Look when all that is ready in this turn of the loop has had its say: it may bring further queries."""
        if not self._looking and not self._busy:
            self._looking = True
            self._here().call_soon(self._look)

    def _look(self) -> None:
        """Begin the next call, if the thread is free and nothing is worth waiting for."""
        self._looking = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._busy:
            return
        if self._calls and not (self._called_last and self._waiting) and self._begin_call():
            return
        patience = self._patience()
        if patience > 0:
            self._timer = self._here().call_later(patience, self._look)
            return
        if not self._begin_batch():
            self._begin_call()

    def _patience(self) -> float:
        """Seconds to wait for requests that are on their way; slow ones, and a full batch, are not waited for."""
        if not self._coming or not self._waiting or self._depth >= self._max:
            return 0.0
        newest = next(reversed(self._coming.values()))
        return min(self._waiting[0].since, newest) + self._gather - self._here().time()

    def _begin_call(self) -> bool:
        while self._calls:
            function, future = self._calls.popleft()
            if future.done():
                self._watch.abandoned(1)
                continue
            self._called_last = True
            self._begin(partial(_outcome, function), partial(_settle, future))
            return True
        return False

    def _begin_batch(self) -> bool:
        taken = self._take()
        if not taken:
            return False
        self._called_last = False
        self._watch.batched(len(taken))
        queries = [asked.queries[place] for asked, place in taken]
        self._begin(partial(self._compute, queries), partial(_share, taken))
        return True

    def _take(self) -> list[tuple[_Asked, int]]:
        """The queries of the next call: one of each request in turn, or of one request only if none are gathered."""
        taken: list[tuple[_Asked, int]] = []
        dropped = 0
        while self._waiting and len(taken) < self._max:
            asked = self._waiting.popleft()
            rest = len(asked.queries) - asked.begun
            if asked.future.done():  # cancelled: the client has gone, or its time is up
                dropped += rest
                continue
            count = 1 if self._gather else min(rest, self._max)
            taken += [(asked, asked.begun + number) for number in range(count)]
            asked.begun += count
            if rest > count:
                self._waiting.append(asked)
            if not self._gather:
                break
        if dropped:
            self._watch.abandoned(dropped)
        if taken or dropped:
            self._deeper(-len(taken) - dropped)
        return taken

    def _begin(self, compute: Callable[[], T], after: Callable[[T], None]) -> None:
        self._busy, loop = True, self._here()

        def done(future: Future[T]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(ended, future)

        def ended(future: Future[T]) -> None:
            if self._loop is not loop:
                return
            self._busy = False
            self._look()  # the thread goes on before the answers are written
            after(future.result())

        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "diffacet-compute")
        self._thread.submit(compute).add_done_callback(done)

    def _compute(self, queries: Sequence[Query]) -> list[Outcome]:
        """On the thread: an outcome for each query. Where a whole call fails, each is tried alone."""
        try:
            answered = self._answer(queries)
        except Exception as error:
            return [error] if len(queries) == 1 else [self._compute([query])[0] for query in queries]
        return [
            one if isinstance(one, DiffacetError) else Answer(answered.version, one, len(queries))
            for one in answered.answers
        ]


def _outcome(function: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return function(), None
    except Exception as error:
        return None, error


def _settle(future: asyncio.Future[Any], outcome: tuple[Any, Exception | None]) -> None:
    if future.done():
        return
    value, error = outcome
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def _share(taken: list[tuple[_Asked, int]], outcomes: list[Outcome]) -> None:
    """Give the outcomes of a call to the requests; one whose queries are all computed goes on."""
    for (asked, place), outcome in zip(taken, outcomes, strict=True):
        asked.outcomes[place] = outcome
        asked.left -= 1
        if not asked.left and not asked.future.done():
            asked.future.set_result(asked.outcomes)
