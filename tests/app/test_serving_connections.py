"""Connections of the server, against clients that mean no good; sockets on the loopback, a small app behind them."""

import asyncio
import json
import socket
import threading

import pytest

pytest.importorskip("uvicorn")
import uvicorn

from diffacet.app.serving import connections
from diffacet.app.serving.connections import H11Connection, Limits

LIMIT = 120.0  # seconds until a test gives up; nothing waits for it
ASK = b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n"
READERS = [H11Connection]
if connections.HttpToolsProtocol is not None:
    READERS.append(connections.HttpToolsConnection)


class App:
    """GET /hello; POST /early is refused before its body is read; POST /count; GET /held until let go; GET /large."""

    def __init__(self):
        self.asked, self.go, self.loop = threading.Event(), asyncio.Event(), None

    async def __call__(self, scope, receive, send):
        self.loop = asyncio.get_running_loop()
        status, body = 200, b"hello"
        if scope["path"] == "/early":
            status, body = 413, b"no"
        elif scope["path"] == "/count":
            size, more = 0, True
            while more:
                message = await receive()
                size, more = size + len(message.get("body", b"")), message.get("more_body", False)
            body = str(size).encode()
        elif scope["path"] == "/held":
            self.asked.set()
            await self.go.wait()
        elif scope["path"] == "/large":
            body = bytes(64 * 2**20)
        fields = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": body})

    def let_go(self):
        self.loop.call_soon_threadsafe(self.go.set)


class Place:
    """A server in a thread, and its app and limits."""

    def __init__(self, reader, **limits):
        self.limits, self.app = Limits(**limits), App()
        kind = type("Connection", (reader,), {"limits": self.limits})
        config = uvicorn.Config(
            self.app, http=kind, lifespan="off", log_config=None, ws="none", h11_max_incomplete_event_size=65536
        )
        self.server, self.socket = uvicorn.Server(config), socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(100)
        self.address = self.socket.getsockname()
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))
        self.thread.start()

    def stop(self):
        self.limits.draining = True
        self.server.should_exit = True
        self.thread.join(LIMIT)
        assert not self.thread.is_alive()


@pytest.fixture(params=READERS, ids=lambda reader: reader.__name__)
def place(request):
    made = []

    def make(**limits):
        made.append(Place(request.param, **limits))
        return made[0]

    yield make
    for one in made:
        one.stop()


def opened(place):
    return socket.create_connection(place.address, LIMIT)


def rest(client):
    """All that comes until the server closes."""
    pieces = []
    try:
        while piece := client.recv(65536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def answer(client):
    """One answer with its length: (status, body)."""
    with client.makefile("rb") as file:
        status, length = int(file.readline().split()[1]), 0
        while line := file.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return status, file.read(length)


def fails(call, times):
    """Whether the connection breaks in so many calls."""
    try:
        for _ in range(times):
            call()
    except OSError:
        return True
    return False


def error(raw):
    head, _, body = raw.partition(b"\r\n\r\n")
    told = json.loads(body)["error"]
    assert set(told) == {"code", "message", "field"}
    assert b"connection: close" in head
    return int(head.split()[1]), told["code"]


def test_a_silent_connection_is_closed_without_a_word(place):
    with opened(place(read_timeout=0.1)) as client:
        assert rest(client) == b""


def test_a_head_byte_by_byte_is_closed_though_it_goes_on(place):
    with opened(place(read_timeout=0.3)) as client:
        client.sendall(b"GET /hello HTTP/1.1\r\n")
        client.settimeout(0.02)
        got = b""
        for _ in range(1000):  # each byte would renew a timeout that counts from the last one
            try:
                client.sendall(b"a")
                got = client.recv(65536)
                break
            except TimeoutError:
                continue
            except OSError:
                break
        assert error(got) == (408, "slow_request")


def test_a_second_head_byte_by_byte_is_closed_too(place):
    with opened(place(read_timeout=0.3)) as client:
        client.sendall(ASK)
        assert answer(client) == (200, b"hello")
        client.sendall(b"GET /hel")
        assert error(rest(client)) == (408, "slow_request")


def test_requests_on_one_connection_are_all_answered(place):
    with opened(place()) as client:
        for _ in range(3):
            client.sendall(ASK)
            assert answer(client) == (200, b"hello")
        client.sendall(b"POST /count HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n" + bytes(300000))
        assert answer(client) == (200, b"300000")
        client.sendall(ASK)
        assert answer(client) == (200, b"hello")


def test_a_head_without_end_is_refused(place):
    with opened(place()) as client:
        client.sendall(b"GET /hello HTTP/1.1\r\nx: ")
        try:
            for _ in range(100):
                client.sendall(b"a" * 4096)
        except OSError:
            pass
        status, code = error(rest(client))
        assert (status, code) in {(431, "too_large"), (400, "bad_request")}  # h11 calls it no HTTP


@pytest.mark.parametrize("head", [b"GET /%s HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nx: %s\r\n\r\n"])
def test_a_large_head_is_refused_though_it_is_complete(head):
    if connections.HttpToolsProtocol is None:
        pytest.skip("httptools is not installed; h11 takes a head that fits its buffer")
    here = Place(connections.HttpToolsConnection, head_bytes=2000)
    with opened(here) as client:
        client.sendall(head % (b"a" * 3000))
        assert error(rest(client)) == (431, "too_large")
    here.stop()


def test_fields_behind_a_body_have_a_limit(place):
    if connections.HttpToolsProtocol is None:
        pytest.skip("httptools is not installed")
    with opened(place(head_bytes=2000)) as client:
        client.sendall(b"POST /count HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
        try:
            for n in range(100_000):
                client.sendall(b"x%d: y\r\n" % n)
        except OSError:
            pass
        assert b"200" not in rest(client)[:15]


def test_what_is_no_http_is_refused_in_the_shape_of_all_errors(place):
    with opened(place()) as client:
        client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n")
        assert error(rest(client)) == (400, "bad_request")


def test_another_protocol_is_not_spoken(place):
    ask = b"GET /hello HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    with opened(place()) as client:
        client.sendall(ask)
        assert answer(client) == (200, b"hello")


def test_a_body_that_nobody_reads_ends_the_connection(place):
    with opened(place(head_bytes=2000)) as client:
        client.sendall(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n")
        assert answer(client) == (413, b"no")
        assert fails(lambda: client.sendall(bytes(1_000_000)), 100)


def test_a_short_body_that_comes_after_its_answer_keeps_the_connection(place):
    with opened(place()) as client:
        client.sendall(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n")
        assert answer(client) == (413, b"no")
        client.sendall(b"0123456789" + ASK)
        assert answer(client) == (200, b"hello")


def test_a_client_that_does_not_read_is_left(place):
    here = place(read_timeout=0.2)
    with opened(here) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        client.recv(10)
        here.stop()  # would wait for the connection


def test_one_connection_too_many_is_refused_and_then_there_is_room(place):
    here = place(open_connections=2)
    with opened(here) as one, opened(here) as two:
        for client in (one, two):
            client.sendall(ASK)
            assert answer(client) == (200, b"hello")
        with opened(here) as third:
            assert error(rest(third)) == (503, "busy")
        one.sendall(ASK)
        assert answer(one) == (200, b"hello")
    for _ in range(1000):  # until the server has noticed that the two are gone
        with opened(here) as client:
            client.sendall(ASK)
            if rest_or_one(client) == 200:
                return
    pytest.fail("no room was made")


def rest_or_one(client):
    try:
        return answer(client)[0]
    except OSError:
        return None


def test_stopping_answers_what_is_asked_and_what_is_on_its_way(place):
    here = place()
    with opened(here) as held, opened(here) as late, opened(here):
        held.sendall(b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n")
        assert here.app.asked.wait(LIMIT)
        late.sendall(ASK)
        assert answer(late) == (200, b"hello")
        here.limits.draining = here.server.should_exit = True
        assert fails(lambda: opened(here).close(), 100_000)  # once nobody listens
        late.sendall(ASK)  # sent by a client that could not know
        assert answer(late) == (200, b"hello")
        assert rest(late) == b""
        here.app.let_go()
        assert answer(held) == (200, b"hello")
        assert rest(held) == b""
        here.thread.join(LIMIT)
        assert not here.thread.is_alive()


def test_a_client_that_goes_in_the_middle_is_no_error(place, caplog):
    here = place()
    with opened(here) as client:
        client.sendall(b"POST /count HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n12345")
    with opened(here) as client:
        client.sendall(b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n")
        assert here.app.asked.wait(LIMIT)
    here.app.let_go()
    with opened(here) as client:
        client.sendall(ASK)
        assert answer(client) == (200, b"hello")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
