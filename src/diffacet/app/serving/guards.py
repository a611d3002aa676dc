"""What a request passes before the application: its id, keys, limits and time. Plain ASGI, two layers.

`Envelope` is the outer one: whatever is answered gets a request id, security headers, a line in the log and its place
in the metrics. `Guard` lets through what may be answered, with its whole body, and ends what takes too long.
"""

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffacet.app.serving import faults, logs
from diffacet.app.serving.faults import Fault
from diffacet.app.serving.service import Service, Trace

GONE = 499
"""The status in log and metrics of a request whose client has left; none is sent."""
FREE = ("/healthz", "/readyz", "/metrics")
"""Never refused for load, so that the service can be seen while it is busy."""
RECOMMEND, ADMIN, STATIC = "/v1/recommend", "/v1/admin/", "/static/"

_CSP = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_EVERY = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
_OF_PAGE = [*_EVERY, (b"content-security-policy", _CSP), (b"cache-control", b"no-cache")]
_OF_DATA = [*_EVERY, (b"cache-control", b"no-store")]
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_LINGER, _LINGER_BYTES = 1.0, 16 * 2**20
_PATIENT_BODIES = 64
"""Bodies of full size that may be on their way at once."""


def is_page(path: str) -> bool:
    """Whether a path belongs to the explorer page, which is open without a key."""
    return path == "/" or path.startswith(STATIC)


def header(scope: Scope, name: bytes) -> list[bytes]:
    """The values of a header (name in lower case)."""
    return [value for key, value in scope["headers"] if key == name]


async def answer(scope: Scope, send: Send, fault: Fault, *, close: bool = False, end: bool = True) -> None:
    """Send an error; with `close` the connection ends with it, without `end` the caller ends the answer."""
    trace: Trace = scope["state"]["trace"]
    trace.code = fault.code
    body = fault.body()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fault.headers.items()]
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": fault.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": not end})


class Envelope:
    """Request id, security headers, log line and metrics for whatever `app` answers, bugs included."""

    def __init__(self, app: ASGIApp, service: Service, routes: Iterable[str]) -> None:
        self.app, self.service, self.routes = app, service, frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = header(scope, b"x-request-id")
        own = given[0] if given and _ID.fullmatch(given[0]) else secrets.token_hex(8).encode()
        trace = Trace(own.decode(), time.perf_counter())
        scope.setdefault("state", {})["trace"] = trace
        added = [*(_OF_PAGE if is_page(scope["path"]) else _OF_DATA), (b"x-request-id", own)]

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                trace.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception as error:
            logs.write("failure", level=logging.ERROR, error=error, id=trace.id, path=scope["path"][:256])
            if trace.status:
                raise  # half an answer is out: the server must break the connection
            await answer(scope, sending, faults.internal(trace.id))
        finally:
            self._end(scope, trace)

    def _end(self, scope: Scope, trace: Trace) -> None:
        path, seconds = scope["path"], time.perf_counter() - trace.start
        route = path if path in self.routes else STATIC.rstrip("/") if path.startswith(STATIC) else "other"
        self.service.metrics.answered(route, trace.status or GONE, seconds)
        if trace.code is not None:
            self.service.metrics.failed(trace.code)
        told: dict[str, Any] = {
            "id": trace.id,
            "method": scope["method"],
            "path": path[:256],
            "status": trace.status or GONE,
            "ms": round(seconds * 1000, 3),
        }
        if trace.code is not None:
            told["code"] = trace.code
        logs.write("request", **told, **trace.told)


class Guard:
    """Keys, body, requests in flight, time: what is refused never reaches `app`."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service, self.options = app, service, service.options
        self.flying, self.held = 0, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        fault = self._locked(scope, path)
        if fault is not None:
            await answer(scope, send, fault)
        elif path in FREE:
            await self.app(scope, receive, send)
        elif path == RECOMMEND:
            trace: Trace = scope["state"]["trace"]
            trace.token = self.service.batcher.expect()
            try:
                await self._whole(scope, receive, send)
            finally:
                self.service.batcher.arrived(trace.token)
        else:
            await self._whole(scope, receive, send)

    def _locked(self, scope: Scope, path: str) -> Fault | None:
        """The refusal of a request without a key that fits."""
        if not self.service.keys:
            if path.startswith(ADMIN):
                return Fault(403, "the service was started without keys, so nobody may administer it by request")
            return None
        if path in ("/healthz", "/readyz") or is_page(path):
            return None
        given = header(scope, b"x-api-key")
        given += [word[7:].strip() for word in header(scope, b"authorization") if word[:7].lower() == b"bearer "]
        fits = bool(given)
        for one in given:
            digest, known = hashlib.sha256(one).digest(), False
            for key in self.service.keys:  # all of them, so that time tells nothing
                known |= hmac.compare_digest(digest, key)
            fits &= known
        if fits:
            return None
        message = "a key is needed: 'Authorization: Bearer KEY' or 'X-API-Key: KEY'; the one that was given is unknown"
        return Fault(401, message if given else message.partition(";")[0], headers={"WWW-Authenticate": "Bearer"})

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, then let the application answer, if not too many are being answered."""
        if await self._full(scope, send):  # before anything is done for it: a crowd that is refused must cost little
            return
        try:
            async with asyncio.timeout(self.options.read_timeout):
                body, more = await self._body(scope, receive)
        except TimeoutError:
            message = f"the body did not arrive within {self.options.read_timeout:g} seconds"
            await answer(scope, send, Fault(408, message), close=True)
            return
        if isinstance(body, Fault):
            await answer(scope, send, body, close=True, end=False)
            if more:
                await _linger(receive)
            await send({"type": "http.response.body", "body": b""})
            return
        if body is None:
            return
        if await self._full(scope, send):
            return
        self._fly(1)
        try:
            await self._in_time(scope, body, receive, send)
        finally:
            self._fly(-1)

    async def _full(self, scope: Scope, send: Send) -> bool:
        """Whether too many requests are being answered; this one is refused then."""
        if self.flying < self.options.max_in_flight:
            return False
        message = f"{self.options.max_in_flight} requests are being answered; ask again in a second"
        await answer(scope, send, Fault(429, message, headers={"Retry-After": "1"}))
        return True

    def _fly(self, change: int) -> None:
        self.flying += change
        self.service.metrics.in_flight.set(self.flying)

    async def _body(self, scope: Scope, receive: Receive) -> tuple[bytes | Fault | None, bool]:
        """The whole body, or why it is not taken (413; 429 when too many are on their way); None: the client has gone.

        Beside it stands whether more of it is to come.
        """
        most = self.options.max_body
        large = Fault(413, f"a body has at most {most:,} bytes; send fewer histories at once")
        declared = header(scope, b"content-length")
        if declared and (not declared[0].isdigit() or len(declared[0]) > 18 or int(declared[0]) > most):
            return large, True
        parts, size, more = list[bytes](), 0, True
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None, False
                part, more = message.get("body", b""), message.get("more_body", False)
                parts.append(part)
                size += len(part)
                self.held += len(part)
                if size > most:
                    return large, more
                if more and self.held > _PATIENT_BODIES * most:
                    busy = "too many bodies are on their way; ask again in a second"
                    return Fault(429, busy, headers={"Retry-After": "1"}), more
            return b"".join(parts), False
        finally:
            self.held -= size

    async def _in_time(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Run the application until it has answered, its time is up, or the client is gone."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        why: list[str] = []

        def stop(reason: str) -> None:
            if not why:
                why.append(reason)
                task.cancel()

        def left(watching: asyncio.Task[Message]) -> None:
            if not watching.cancelled():
                stop("gone" if watching.exception() is None else "lost")

        # A reload that has begun ends, whoever waits for it; it has no limit.
        admin = scope["path"].startswith(ADMIN)
        timer = None if admin else loop.call_later(self.options.timeout, stop, "time")
        watching = loop.create_task(_disconnected(receive))
        watching.add_done_callback(left)
        try:
            await self.app(scope, _replay(body, watching), send)
        except asyncio.CancelledError:
            if not why:
                raise
        finally:
            if why:
                task.uncancel()
            if timer is not None:
                timer.cancel()
            watching.remove_done_callback(left)
            watching.cancel()
        if why and why[0] == "time" and not scope["state"]["trace"].status:
            message = f"no answer within {self.options.timeout:g} seconds; ask for fewer histories, or again later"
            await answer(scope, send, Fault(504, message))


async def _disconnected(receive: Receive) -> Message:
    """The message that the client has gone, or that it has its answer."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return message


def _replay(body: bytes, watching: "asyncio.Task[Message]") -> Receive:
    """A `receive` that gives the body, which has been read, and then the client's leaving."""
    given: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return given.pop() if given else await asyncio.shield(watching)

    return receive


async def _linger(receive: Receive) -> None:
    """Throw away for a moment what a client goes on sending, so that it comes to read why it was refused."""
    size = 0
    try:
        async with asyncio.timeout(_LINGER):
            while size < _LINGER_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                size += len(message.get("body", b""))
    except TimeoutError:
        return
