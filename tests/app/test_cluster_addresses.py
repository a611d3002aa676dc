"""Addresses where no cluster is, and options that only a cluster has; no Ray process is started."""

import socket
import threading
import time

import pytest

from diffacet.app.cluster import connecting
from diffacet.errors import BadSetting, MissingExtra

LIMIT = 10.0


@pytest.fixture
def words(shop_run, shop_data, tmp_path):
    return ["candidates", shop_run, "--data", shop_data, "--out", tmp_path / "c.parquet"]


@pytest.fixture
def closed():
    """A port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def chatty():
    """A port where something else answers, as a web server of the old kind would."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            while True:
                try:
                    wire, _ = server.accept()
                except OSError:
                    return
                with wire:
                    wire.recv(1024)
                    wire.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.fixture
def mute():
    """A port where connections are taken, and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("address", ["", "host", "host:", ":6379", "host:x", "host:0", "host:70000", "http://host:1"])
def test_what_is_no_address(address):
    with pytest.raises(BadSetting, match=r"--address is HOST:PORT, such as 10\.0\.0\.5:6379, or ray://HOST:PORT"):
        connecting.check_address(address)


@pytest.mark.parametrize("kind", ["", "ray://"])
@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("closed", "Connection refused"),
        ("chatty", "something does, but it is no Ray cluster"),
        ("mute", "nothing within 5 s"),
    ],
)
def test_an_address_that_does_not_answer_is_one_line_within_ten_seconds(kind, where, why, request, call, words):
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    address = f"{kind}127.0.0.1:{request.getfixturevalue(where)}"
    start = time.monotonic()
    code, told, lines = call(*words, "--engine", "ray", "--address", address)
    assert time.monotonic() - start < LIMIT
    assert (code, told) == (2, "")
    assert lines == (
        f"diffacet: error: no Ray cluster answers at {address} ({why}); `ray status` on its head tells whether it runs"
        " and where, and without --address a cluster is started on this machine\n"
    )


def test_a_name_that_nobody_knows():
    with pytest.raises(BadSetting, match=r"no Ray cluster answers at nowhere\.invalid:6379 \("):
        connecting.check_address("nowhere.invalid:6379")


@pytest.mark.parametrize(("option", "value"), [("--address", "10.0.0.5:6379"), ("--workers", 2)])
def test_options_of_a_cluster_need_one(option, value, call, words):
    code, _, lines = call(*words, option, value)
    assert code == 2
    assert lines == f"diffacet: error: {option} is for --engine ray; say that, too, or leave {option} out\n"


def test_no_worker_is_too_few(call, words):
    told = call(*words, "--engine", "ray", "--workers", 0)
    assert told == (2, "", "diffacet: error: --workers is at least 1; got 0\n")


def test_without_the_extra_it_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(MissingExtra, match=r"ray is not installed .* pip install 'diffacet\[ray\]'"),
        connecting.connected(),
    ):
        pass
