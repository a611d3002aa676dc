"""A run served by two replicas on a Ray cluster of this machine: one service, asked by all tests of this file."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

import servingfakes
from diffacet.app.cluster import serving
from diffacet.app.serving.recommender import Recommender

pytest.importorskip("ray", reason="the extra 'ray' is not installed")

pytestmark = pytest.mark.ray
PATIENCE = 480.0  # seconds until a test gives up: a busy machine starts Ray in minutes
MARK = "DIFFACET_TEST_SERVICE"
KEY = "k" * 32
ASKED = [
    ("/v1/recommend", {"history": ["3", "5"], "k": 5}),
    ("/v1/recommend", {"histories": [["1"], ["7", "9", "nobody"], []], "k": 3, "exclude_seen": False}),
    ("/v1/recommend", {"history": ["3", "5"], "k": 0}),
    ("/v1/interests", {"history": ["3", "5", "9"]}),
    ("/v1/similar", {"item_id": "3", "k": 4}),
]


def until(condition, what):
    """What `condition` gives when it gives something true."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.05)
    return found


class Service:
    """The command in a process of its own."""

    def __init__(self, link, keys, folder):
        self.mark = secrets.token_hex(16)
        environment = os.environ | {MARK: self.mark}
        words = ["serve", link, "--engine", "ray", "--workers", "2", "--port", "0", "--api-key-file", keys]
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            command = [sys.executable, "-m", "diffacet", *map(str, words)]
            self.process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        self.errors = folder / "err"

        def line():
            assert self.process.poll() is None, self.errors.read_text()
            text = (folder / "out").read_text()
            return text if "http" in text else ""

        try:
            self.line = until(line, "the line of readiness")
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        base = "http" + self.line.partition("http")[2].split()[0]
        self.client = httpx.Client(base_url=base, headers={"X-API-Key": KEY}, timeout=PATIENCE)

    def processes(self, name=""):
        """The processes of this service whose titles hold `name`, and no other's."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                try:
                    mine = self.mark.encode() in (folder / "environ").read_bytes()
                    if mine and name.encode() in (folder / "cmdline").read_bytes():
                        found.append(int(folder.name))
                except OSError:
                    continue
        return set(found)

    def version(self):
        return self.client.get("/readyz").json()["model_version"]


@pytest.fixture(scope="module")
def link(shop_runs, tmp_path_factory):
    link = tmp_path_factory.mktemp("served") / "current"
    link.symlink_to(shop_runs["dmi"])
    return link


@pytest.fixture(scope="module")
def service(link, tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    (folder / "keys").write_text(KEY)
    service = Service(link, folder / "keys", folder)
    yield service
    service.client.close()
    service.process.kill()
    service.process.wait()


def test_it_says_the_same_as_a_server_on_one_machine(service, shop_run):
    async def here(client, _):
        return [(await client.post(path, json=body)) for path, body in ASKED]

    async def story():
        async with servingfakes.served(Recommender.load(shop_run, index="auto")) as (client, app):
            return await here(client, app)

    for (path, body), alone in zip(ASKED, asyncio.run(story()), strict=True):
        answer = service.client.post(path, json=body)
        assert (answer.status_code, answer.content) == (alone.status_code, alone.content)
        assert len(answer.headers.get_list("x-request-id")) == 1
    given = service.client.get("/healthz", headers={"x-request-id": "mine-1"})
    assert given.headers.get_list("x-request-id") == ["mine-1"]
    assert "(40 items, exact index) on http://127.0.0.1:" in service.line
    assert service.client.get("/").headers["content-type"].startswith("text/html")
    assert httpx.post(f"{service.client.base_url}/v1/recommend", json=ASKED[0][1]).status_code == 401


def test_the_id_of_a_request_is_left_to_the_proxy():
    sent = []

    async def served(_, __, send):
        pairs = [(b"x-request-id", b"1"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": pairs})
        await send({"type": "http.response.body", "body": b""})

    async def keep(message):
        sent.append(message)

    replica = SimpleNamespace(served=served)
    asyncio.run(serving._Late(replica)({"type": "http"}, None, keep))
    assert [one.get("headers") for one in sent] == [[(b"content-length", b"0")], None]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own, of Pydantic
def test_a_replica_that_is_lost_in_a_reload_does_not_end_the_service(monkeypatch):
    import ray

    told = []
    monkeypatch.setattr(serving.logs, "write", lambda event, **fields: told.append((event, fields)))

    def lost():
        raise RuntimeError("A replica's health check failed.")

    command = serving._Command.__new__(serving._Command)
    command.what, command._order, command._deploy = SimpleNamespace(key_file=None), 3, lost
    done = SimpleNamespace(version="newer", before="older", changed=True)
    command.recommender = SimpleNamespace(reload=lambda: done)
    command._reload("watch")
    ((event, fields),) = told
    assert (event, fields["model_version"], command._order) == ("reload is not everywhere yet", "newer", 4)
    assert "health check failed" in fields["message"]
    assert not ray.is_initialized()  # who asks Ray without being connected has a cluster of his own


def test_metrics_are_those_of_all_replicas(service):
    before = sum_of(service)
    for _ in range(10):
        service.client.post("/v1/recommend", json=ASKED[0][1])
    assert sum_of(service) == before + 10


def sum_of(service):
    lines = service.client.get("/metrics").text.splitlines()
    told = [line for line in lines if line.startswith('diffacet_requests_total{route="/v1/recommend",status="200"}')]
    return sum(float(line.rpartition(" ")[2]) for line in told)


def test_a_request_cannot_reload_one_replica_alone(service):
    answer = service.client.post("/v1/admin/reload", json={})
    message = servingfakes.check(answer, 409, "not_here")
    assert "send SIGHUP to the command 'diffacet serve'" in message


def test_a_signal_reloads_all_replicas_and_a_bad_run_none(service, link, shop_runs, tmp_path):
    before = service.version()
    turn(link, tmp_path / "nothing")
    service.process.send_signal(signal.SIGHUP)
    until(lambda: "reload refused" in service.errors.read_text(), "the refusal")
    assert service.version() == before
    turn(link, shop_runs["comirec-sa"])
    service.process.send_signal(signal.SIGHUP)
    until(lambda: {service.version() for _ in range(12)} - {before} and _same(service), "the new version")
    assert service.version().startswith("comirec-sa-")


def _same(service):
    return len({service.version() for _ in range(12)}) == 1


def turn(link, target):
    new = link.with_name("new")
    new.symlink_to(target)
    new.replace(link)


def test_a_killed_replica_is_replaced_while_requests_go_on(service):
    version = service.version()
    replicas = until(lambda: _one_killed(service), "two replicas, of which one is killed")
    statuses = []

    def replaced():
        statuses.append(service.client.post("/v1/recommend", json=ASKED[0][1]).status_code)
        now = service.processes("ServeReplica")
        return len(now) == 2 and min(replicas) not in now and statuses[-10:] == [200] * 10

    until(replaced, "another replica")
    assert set(statuses) <= {200, 500, 503}
    assert statuses.count(200) > len(statuses) / 2
    until(lambda: _same(service), "one version")
    assert service.version() == version  # not what the link led to at the start


def _one_killed(service):
    """The replicas, when there are two and the first has been killed: a busy machine may be replacing one already."""
    found = service.processes("ServeReplica")
    if len(found) != 2:
        return None
    try:
        os.kill(min(found), signal.SIGKILL)
    except ProcessLookupError:
        return None
    return found


def test_it_ends_at_a_signal_and_leaves_nothing(service):
    assert len(service.processes()) > 3
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(PATIENCE) == 0, service.errors.read_text()
    until(lambda: not service.processes(), "the end of all processes")
