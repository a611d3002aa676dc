"""Connections that nobody can hold open for nothing: uvicorn's, with limits on time, number and size of heads.

The application limits what a request may ask; here is limited what comes before there is a request: connections that
say nothing, or one byte a second, heads without an end, clients that do not read their answer, and too many at once.
"""

import asyncio
import json
import resource
from asyncio.events import TimerHandle
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:  # httptools is compiled, and not to be had everywhere; h11 is Python
    HttpToolsProtocol = None  # type: ignore[assignment,misc]

if TYPE_CHECKING:
    _Protocol = HttpToolsProtocol
else:
    _Protocol = object

HEAD_BYTES = 64 * 1024
OPEN_CONNECTIONS = 4096
LINGER = 1.0  # seconds in which a client may read why it was refused,
PASSED_OVER = 2**20  # and bytes that it may still send
GRACE = 0.5  # seconds in which a request that is on its way when the server stops may still arrive
_RESERVE = 128  # file descriptors that are no connections: the run, the log, pipes, the answers "too many"


@dataclass
class Limits:
    """What connections may do; shared by all of a server.

    Attributes:
        read_timeout: seconds from the opening, or from the first byte of a further request, to the end of its head;
            and those in which a client reads an answer.
        open_connections: at most, the newest being refused.
        head_bytes: of a request's head, its target and fields together.
        draining: the server is about to stop: answers are the last of their connections.
    """

    read_timeout: float = 10.0
    open_connections: int = OPEN_CONNECTIONS
    head_bytes: int = HEAD_BYTES
    draining: bool = False


class _Guard(_Protocol):
    """What is added to uvicorn's protocols, of which one follows it in the order of methods."""

    limits: Limits

    _head = 0  # bytes of a head that is not complete
    _refused = False
    _passed_over = 0  # bytes that came since
    _reading: TimerHandle | None = None
    _closing: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection was opened; uvicorn's hook."""
        super().connection_made(transport)
        over = len(self.connections) - self.limits.open_connections
        if over > _RESERVE // 2:
            self._refused = True
            transport.abort()
        elif over > 0:
            message = f"{self.limits.open_connections} connections are open, and no more are allowed; try again"
            self._refuse(503, "busy", message)
        else:
            self._reading = self.loop.call_later(self.limits.read_timeout, self._too_slow)
            if self.limits.draining:
                self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection has ended; uvicorn's hook."""
        for timer in (self._reading, self._closing):
            if timer is not None:
                timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come; uvicorn's hook."""
        if self._refused:
            self._passed_over += len(data)
            if self._passed_over > PASSED_OVER:
                self.transport.abort()
            return
        if self._reading is None and not self._busy():
            self._reading = self.loop.call_later(self.limits.read_timeout, self._too_slow)
        self._head += len(data)
        cycle, body = self.cycle, self._body_left()
        super().data_received(data)
        if self._refused:
            return
        if self.cycle is not cycle:
            self._head_complete()
        elif self._busy():
            self._head = 0  # that was body
        elif self._head > self.limits.head_bytes:
            if body:  # of a request that was answered before it was read: no use in reading on
                self._end()
            else:
                self._too_long()

    def on_response_complete(self) -> None:
        """An answer is written; uvicorn's hook."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._close_surely()

    def timeout_keep_alive_handler(self) -> None:
        """No further request has come; uvicorn's hook."""
        super().timeout_keep_alive_handler()
        self._close_surely()

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered; uvicorn's hook."""
        super().pause_writing()
        self._close_surely()

    def resume_writing(self) -> None:
        """The client has read; uvicorn's hook."""
        super().resume_writing()
        if self._closing is not None and not self.transport.is_closing():
            self._closing.cancel()
            self._closing = None

    def shutdown(self) -> None:
        """The server stops: what is asked is answered, and what is silent gets a moment; uvicorn's hook."""
        if self._busy():
            super().shutdown()
        elif not self._refused and not self.transport.is_closing():
            # A client may have sent its request before it could know: closing now would lose it.
            self.loop.call_later(GRACE, self._close_idle)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; uvicorn's hook."""
        self._refuse(400, "bad_request", f"this is not HTTP/1.1 as the server reads it: {msg}")

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: whoever asks for another protocol is answered in this one, as HTTP has it."""

    def _body_left(self) -> bool:
        """Whether a body is being received; the class that reads knows."""
        return False

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _head_complete(self) -> None:
        self._head = 0
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        if self.limits.draining:
            self.cycle.keep_alive = False

    def _too_slow(self) -> None:
        self._reading = None
        if self._busy() or self._refused or self.transport.is_closing():
            return
        if self._body_left():
            self._end()
        elif self._head:
            message = f"no whole request head came within {self.limits.read_timeout:g} s; the connection is closed"
            self._refuse(408, "slow_request", message)
        else:
            self.transport.close()
            self._close_surely()

    def _too_long(self) -> None:
        message = f"a request's head, its target and fields, has at most {self.limits.head_bytes} bytes"
        self._refuse(431, "too_large", message)

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer without the application, and close once the client could read it."""
        if self._refused or self.transport.is_closing():
            return
        body = json.dumps({"error": {"code": code, "message": message, "field": None}}).encode()
        fields = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *([(b"retry-after", b"1")] if status == 503 else []),
        ]
        first = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()
        self.transport.write(first + b"".join(b"%s: %s\r\n" % field for field in fields) + b"\r\n" + body)
        self._end()

    def _end(self) -> None:
        """Say that no answer follows, pass over what still comes, and close."""
        self._refused = True
        # Closing while bytes lie unread would reset the connection, and the client might not see its last answer.
        self.transport.write_eof()
        self._close_surely(LINGER)

    def _close_surely(self, within: float | None = None) -> None:
        """End the connection after `within` seconds, also if its client does not read what it was sent."""
        if self._closing is None:
            self._closing = self.loop.call_later(within or self.limits.read_timeout, self.transport.abort)

    def _close_idle(self) -> None:
        if not self._busy() and not self._refused:
            self.transport.close()
            self._close_surely()


class H11Connection(_Guard, H11Protocol):  # type: ignore[misc]
    """A connection read by h11, which bounds heads itself: by uvicorn's `h11_max_incomplete_event_size`."""

    def _body_left(self) -> bool:
        return self.conn.their_state is h11.SEND_BODY


if HttpToolsProtocol is not None:

    class HttpToolsConnection(_Guard, HttpToolsProtocol):
        """A connection read by httptools, which bounds no head."""

        _fields = 0  # bytes of the target and the fields of one message, trailers included
        _in_body = False

        def _body_left(self) -> bool:
            return self._in_body

        def on_message_begin(self) -> None:
            """A request begins; uvicorn's hook."""
            super().on_message_begin()
            self._fields = 0

        def on_url(self, url: bytes) -> None:
            """A piece of the target; uvicorn's hook."""
            self._count(len(url), super().on_url, url)

        def on_header(self, name: bytes, value: bytes) -> None:
            """A field of the head, or of a trailer; uvicorn's hook."""
            self._count(len(name) + len(value), super().on_header, name, value)

        def on_headers_complete(self) -> None:
            """The head is complete; uvicorn's hook."""
            if not self._refused:
                self._in_body = True
                super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            """A piece of the body; uvicorn's hook."""
            if not self._refused:
                super().on_body(body)

        def on_message_complete(self) -> None:
            """The request is complete; uvicorn's hook."""
            self._in_body = False
            if not self._refused:
                super().on_message_complete()

        def _count(self, size: int, take: Callable[..., None], *what: bytes) -> None:
            self._fields += size
            if self._fields <= self.limits.head_bytes:
                take(*what)
            elif self._in_body or self._busy():  # a trailer without an end, or a head behind what is being answered
                self._refused = True
                self.transport.abort()
            elif not self._refused:
                self._too_long()


def protocol(limits: Limits) -> type[asyncio.Protocol]:
    """The class of connections under `limits`, for `uvicorn.Config(http=...)`: httptools' where it is installed."""
    reader = H11Connection if HttpToolsProtocol is None else HttpToolsConnection
    return type("Connection", (reader,), {"limits": limits})


def open_at_most() -> int:
    """Connections that a process can hold; raises its limit of open files as far as it may be, for that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_CONNECTIONS + _RESERVE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return OPEN_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(OPEN_CONNECTIONS, soft - _RESERVE))
