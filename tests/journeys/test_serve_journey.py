"""A service as it is run: started, asked, renewed, attacked, killed in parts and stopped, in processes of its own."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

import servingshop

TESTS = Path(__file__).parents[1]
LIMIT = 240.0  # seconds until a test gives up; what is waited for comes much sooner
HISTORY = {"history": [1, 2, 3], "k": 3}
KEYS = "a" * 20, "b" * 20


def until(what, seconds=LIMIT):
    """What `what` gives as soon as it gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.01)
    raise AssertionError(f"nothing came of {what} in {seconds} s")


class Service:
    """A server's process: where it answers and what it writes."""

    def __init__(self, folder, run, *options, held=None):
        self.folder, self.log = folder, folder / "log"
        program = ["-m", "diffacet"] if held is None else [str(TESTS / "heldserve.py")]
        words = [sys.executable, *program, "serve", run, "--port", "0", *options]
        environment = {**os.environ, "HELD": str(held)}
        with self.log.open("w") as log, (folder / "out").open("w") as out:
            self.process = subprocess.Popen(list(map(str, words)), cwd=folder, stdout=out, stderr=log, env=environment)
        until(self.ready)
        self.port = int(re.search(r"http://127.0.0.1:(\d+) ", (folder / "out").read_text())[1])
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=LIMIT)

    def ready(self):
        assert self.process.poll() is None, self.log.read_text()
        return (self.folder / "out").read_text().endswith("\n")

    def events(self, name):
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["event"] == name]

    def version(self):
        return self.client.get("/readyz").json()["model_version"]

    def ask(self, **headers):
        return self.client.post("/v1/recommend", json=HISTORY, headers=headers)

    def metric(self, name):
        return self.metrics().get(name)

    def metrics(self, **headers):
        lines = self.client.get("/metrics", headers=headers).text.splitlines()
        return {key: float(value) for key, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    def hang_up(self):
        self.process.send_signal(signal.SIGHUP)

    def connect(self, text=b""):
        connection = socket.create_connection(("127.0.0.1", self.port), LIMIT)
        connection.sendall(text)
        return connection

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT)


@contextlib.contextmanager
def served(folder, *words, **more):
    service = Service(folder, *words, **more)
    try:
        yield service
    finally:
        service.client.close()
        service.process.kill()
        service.process.wait()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on the same data."""
    folder = tmp_path_factory.mktemp("runs")
    data = servingshop.shop_data(folder)
    return [servingshop.served_run(data, folder / f"dmi-{seed}", seed=seed) for seed in (1, 2)]


def turn(link, run):
    """Let `link` lead to `run`, at once."""
    new = link.with_name("new")
    new.symlink_to(run)
    new.replace(link)


def damaged(run, to):
    """A copy of `run` whose weights end too early."""
    shutil.copytree(run, to)
    weights = to / "best.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return to


def test_one_process(tmp_path, runs):
    """Asked, attacked, renewed, and stopped while it is asked."""
    current, held, keys = tmp_path / "current", tmp_path / "hold", tmp_path / "keys"
    own = shutil.copytree(runs[0], tmp_path / "own")
    turn(current, own)
    keys.write_text(f"{KEYS[0]}\n")
    with served(tmp_path, current, "--api-key-file", keys, held=held) as service:
        line = (tmp_path / "out").read_text()
        first = service.version()
        assert line.startswith(f"serving {first} (40 items, exact index) on http://127.0.0.1:{service.port}  ")
        assert line.count("\n") == 1
        assert service.ask().status_code == 401
        service.client.headers["x-api-key"] = KEYS[0]
        assert service.ask().json()["model_version"] == first
        slow = service.connect(b"GET /healthz HTTP/1.1\r\n")  # a head that never ends; its end is looked for below

        idle_connections_disturb_nobody(service)
        clients_may_leave(service, held)
        hanging_up_reloads(service, current, runs[1], first)
        a_damaged_run_is_refused(service, current, damaged(runs[0], tmp_path / "damaged"))
        keys_are_read_again(service, keys)
        turn(current, own)
        service.hang_up()
        until(lambda: service.version() == first)
        shutil.rmtree(own)
        assert service.ask().json()["model_version"] == first
        service.hang_up()
        until(lambda: service.metric('diffacet_reloads_total{result="refused"}') == 4)
        assert service.ask().json()["model_version"] == first

        with slow:
            assert b" 408 " in slow.recv(65536)
        a_request_outlives_the_signal(service, held)
        assert not service.events("failure")
        assert all("message" not in line for line in service.events("request"))


def idle_connections_disturb_nobody(service):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1000 if hard == resource.RLIM_INFINITY else min(1000, hard - 200)
    assert wanted >= 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted + 200), hard))
    with contextlib.ExitStack() as stack:
        for _ in range(wanted):
            stack.enter_context(service.connect())
        assert service.ask().status_code == 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def clients_may_leave(service, held):
    body = json.dumps(HISTORY)
    head = f"POST /v1/recommend HTTP/1.1\r\nhost: x\r\nx-api-key: {KEYS[0]}\r\ncontent-type: application/json\r\n"
    for sent in (f"content-length: 5000\r\n\r\n{body}", f"content-length: {len(body)}\r\n\r\n{body}"):
        held.touch()
        service.connect((head + sent).encode()).close()
        held.unlink()
        assert service.ask().status_code == 200
    until(lambda: len([line for line in service.events("request") if line["status"] == 499]) == 2)


def hanging_up_reloads(service, current, run, first):
    turn(current, run)
    assert service.version() == first
    service.hang_up()
    until(lambda: service.version() != first)
    assert service.ask().json()["model_version"] == service.version()
    assert service.metric('diffacet_reloads_total{result="ok"}') == 1
    service.hang_up()
    until(lambda: service.metric('diffacet_reloads_total{result="same"}') == 1)


def a_damaged_run_is_refused(service, current, run):
    before = service.version()
    turn(current, run)
    service.hang_up()
    until(lambda: service.metric('diffacet_reloads_total{result="refused"}') == 1)
    assert service.metric("diffacet_last_reload_ok") == 0
    assert (service.version(), service.ask().status_code) == (before, 200)
    (refused,) = service.events("reload refused")
    assert "best.safetensors" in refused["message"]
    assert "traceback" not in refused


def keys_are_read_again(service, keys):
    keys.write_text("short\n")
    service.hang_up()
    until(lambda: service.events("keys refused"))
    assert service.ask().status_code == 200
    keys.write_text(f"{KEYS[1]}\n")
    service.hang_up()
    until(lambda: service.ask(**{"x-api-key": KEYS[1]}).status_code == 200)
    assert service.ask().status_code == 401
    service.client.headers["x-api-key"] = KEYS[1]
    assert KEYS[0] not in service.log.read_text()
    assert KEYS[1] not in service.log.read_text()
    until(lambda: service.metric('diffacet_reloads_total{result="refused"}') == 3)


def a_request_outlives_the_signal(service, held):
    body = json.dumps(HISTORY).encode()
    head = f"POST /v1/recommend HTTP/1.1\r\nhost: x\r\nx-api-key: {KEYS[1]}\r\ncontent-type: application/json\r\n"
    held.touch()
    with service.connect(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body) as client:
        until(held.with_suffix(".waits").exists)
        service.process.send_signal(signal.SIGTERM)
        until(lambda: service.events("drain"))
        until(lambda: refused(service))
        held.unlink()
        with client.makefile("rb") as answer:
            assert answer.readline().split()[1] == b"200"
    assert service.process.wait(LIMIT) == 0
    assert service.events("stop")


def refused(service):
    try:
        service.connect().close()
    except OSError:
        return True
    return False


def test_a_watched_run_is_reloaded_and_a_request_without_end_does_not_hold_the_process(tmp_path, runs):
    current, held = tmp_path / "current", tmp_path / "hold"
    turn(current, runs[0])
    with served(tmp_path, current, "--watch", "--drain", "0.2", held=held) as service:
        first = service.version()
        turn(current, runs[1])
        until(lambda: service.version() != first)
        assert service.events("reload")[-1]["by"] == "watch"
        turn(current, damaged(runs[0], tmp_path / "damaged"))
        until(lambda: service.metric('diffacet_reloads_total{result="refused"}'))
        turn(current, runs[0])
        until(lambda: service.version() == first)
        assert service.metric('diffacet_reloads_total{result="refused"}') == 1  # it was not tried again

        body = json.dumps(HISTORY).encode()
        head = f"POST /v1/recommend HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        held.touch()
        with service.connect(head.encode() + body):
            until(held.with_suffix(".waits").exists)
            assert service.stop() == 0
        assert service.events("stopped before all was answered")


def test_two_workers(tmp_path, runs):
    """They answer as one, are renewed together, and one that is killed comes back."""
    current, keys = tmp_path / "current", tmp_path / "keys"
    turn(current, runs[0])
    keys.write_text(f"{KEYS[0]}\n")
    with served(tmp_path, current, "--workers", 2, "--watch", "--api-key-file", keys) as service:
        first, headers = service.version(), {"x-api-key": KEYS[0]}

        def versions():
            """Of the answers on a few connections, so that both workers are asked."""
            found = set()
            for _ in range(20):
                with contextlib.suppress(httpx.TransportError):  # of the worker that was killed
                    found.add(httpx.get(f"{service.client.base_url}/readyz", timeout=LIMIT).json()["model_version"])
            return found

        def told(name):
            return service.metrics(**headers).get(name)

        assert versions() == {first}
        asked = 'diffacet_requests_total{route="/readyz",status="200"}'
        assert told(asked) == 21

        victim = service.events("load")  # both have loaded
        assert len(victim) == 2
        pids = workers_of(service.process.pid)
        assert len(pids) == 2
        os.kill(pids[0], signal.SIGKILL)
        assert versions() == {first}
        until(lambda: service.events("worker died"))
        until(lambda: len(service.events("start")) == 3)
        until(lambda: len(workers_of(service.process.pid)) == 2)
        assert told(asked) >= 21  # what a worker has counted stays

        turn(current, runs[1])
        done = httpx.post(f"{service.client.base_url}/v1/admin/reload", json={}, headers=headers, timeout=LIMIT).json()
        second = done["model_version"]
        assert done["before"] == first != second
        until(lambda: versions() == {second})
        turn(current, runs[0])
        until(lambda: versions() == {first})  # by the watch
        keys.write_text(f"{KEYS[1]}\n")
        service.hang_up()
        until(lambda: len(service.events("keys")) == 2)
        assert service.ask(**headers).status_code == 401
        assert service.stop() == 0
        assert len(service.events("stop")) == 2


def workers_of(parent):
    """The processes that a supervisor has started to answer."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            if f"\nPPid:\t{parent}\n" in status.read_text():
                pid = int(status.parent.name)
                if b"spawn_main" in (status.parent / "cmdline").read_bytes():
                    found.append(pid)
    return found
