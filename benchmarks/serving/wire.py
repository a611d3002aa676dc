"""A minimal HTTP/1.1 client: requests are bytes made beforehand, answers a status and a body; keep-alive.

Fast enough to load a service from the core beside it, which clients made for use are not.
"""

import asyncio
import json
import socket
from collections.abc import Sequence
from typing import Any

GONE = 0
"""The status of an answer that did not come: the connection ended before."""


def post(path: str, value: Any, key: str | None = None) -> bytes:
    """A POST request of JSON."""
    body = json.dumps(value).encode()
    fields = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    fields += [f"Content-Length: {len(body)}"] + ([] if key is None else [f"Authorization: Bearer {key}"])
    return "\r\n".join(fields).encode() + b"\r\n\r\n" + body


def get(path: str) -> bytes:
    """A GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def recommendations(histories: Sequence[Sequence[Any]], k: int, key: str | None = None) -> list[bytes]:
    """A request to /v1/recommend for each history."""
    return [post("/v1/recommend", {"history": list(one), "k": k}, key) for one in histories]


def parsed(data: bytes | bytearray) -> tuple[int, int, int] | None:
    """Status, and where the body begins and ends, of an answer whose head is complete; None before that."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(data[:end]).lower()
    at = head.find(b"\r\ncontent-length:")
    length = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
    return int(head[9:12]), end + 4, end + 4 + length


class Line:
    """One connection that blocks, for requests one after the other."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer; raises ConnectionError when the connection ends before it."""
        self.socket.sendall(request)
        data, found = bytearray(), None
        while found is None or len(data) < found[2]:
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionError("the service closed the connection")
            data += more
            found = found or parsed(data)
        return found[0], bytes(data[found[1] : found[2]])

    def close(self) -> None:
        """End it."""
        self.socket.close()


class Connection(asyncio.Protocol):
    """One connection of many in an event loop, with at most one request under way."""

    def __init__(self) -> None:
        self.data, self.found = bytearray(), None
        self.waiting: asyncio.Future[tuple[int, bytes]] | None = None
        self.open = False

    @classmethod
    async def to(cls, port: int) -> "Connection":
        """A new connection."""
        _, made = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return made

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer; GONE and nothing when the connection ends before it."""
        if not self.open:
            return GONE, b""
        self.waiting = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.waiting

    def connection_made(self, transport: Any) -> None:
        """Hook of asyncio."""
        self.transport, self.open = transport, True

    def data_received(self, data: bytes) -> None:
        """Hook of asyncio."""
        self.data += data
        self.found = self.found or parsed(self.data)
        if self.found is not None and len(self.data) >= self.found[2]:
            answer = self.found[0], bytes(self.data[self.found[1] : self.found[2]])
            del self.data[: self.found[2]]
            self.found = None
            if self.waiting is not None and not self.waiting.done():
                self.waiting.set_result(answer)

    def connection_lost(self, _: Exception | None) -> None:
        """Hook of asyncio."""
        self.open = False
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result((GONE, b""))
