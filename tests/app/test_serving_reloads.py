"""Reloads by request, what the metrics tell, and the files of the page."""

import asyncio
import subprocess
import sys

import httpx
import pytest

from diffacet.app.serving.api import create_app
from diffacet.app.serving.options import ServeOptions
from diffacet.app.serving.pages import Pages
from diffacet.app.serving.recommender import Reloaded
from servingfakes import ASK, BEARER, JSON, KEY, PATIENCE, Fake, check, logged, metric, post, refused, run, until


@pytest.fixture
def log():
    """The lines that the service logs, as objects."""
    with logged() as lines:
        yield lines


RELOAD = "/v1/admin/reload"


def test_a_reload_needs_a_key_file():
    check(post(RELOAD, json={}), 403, "forbidden")
    check(post(RELOAD, json={}, options={"keys": (KEY,)}), 401, "unauthorised")


def test_a_reload_exchanges_the_run_and_tells():
    fake, told = Fake(), []

    async def story(client, app):
        first = await client.post(RELOAD, json={"force": True}, headers=BEARER)
        fake.next = Reloaded(False, "fake-2", "fake-2", 0.0)
        second = await client.post(RELOAD, json={}, headers=BEARER)
        fake.next = refused()
        third = await client.post(RELOAD, json={}, headers=BEARER)
        bad = metric(app, "last_reload_ok")
        counts = [metric(app, "reloads_total", result=result) for result in ("ok", "same", "refused")]
        versions = [metric(app, "model_info", version=version) for version in ("fake-1", "fake-2")]
        card = await client.get("/v1/model", headers=BEARER)
        return first, second, third, bad, counts, versions, card

    first, second, third, bad, counts, versions, card = run(
        story, recommender=fake, keys=(KEY,), on_reload=lambda: told.append(1)
    )
    assert first.json() == {"changed": True, "model_version": "fake-2", "before": "fake-1", "seconds": 0.25}
    assert second.json()["changed"] is False
    assert "damaged" in check(third, 409, "refused")
    assert told == [1]
    assert (bad, counts, versions) == (0, [1, 1, 1], [0, 1])
    assert card.json()["version"] == "fake-2"


def test_a_reload_that_meets_a_bug_is_logged_and_the_old_run_goes_on(log):
    fake = Fake()
    fake.next = OSError("the disk is gone")

    async def story(client, app):
        answer = await client.post(RELOAD, json={}, headers=BEARER)
        return answer, await client.post("/v1/recommend", json=ASK, headers=BEARER), metric(app, "last_reload_ok")

    answer, after, good = run(story, recommender=fake, keys=(KEY,))
    check(answer, 500, "internal")
    assert "disk" not in answer.text
    assert after.status_code == 200
    assert good == 0
    line = next(line for line in log() if line["event"] == "reload refused")
    assert "the disk is gone" in line["traceback"]


def test_requests_are_answered_while_a_reload_runs_and_a_second_reload_is_refused():
    fake = Fake()
    reload, begun = fake.reload, []

    def slow(path=None, *, force=False):
        begun.append(1)
        assert fake.gate.wait(PATIENCE)
        return reload(force=force)

    fake.reload = slow

    async def story(client, app):
        fake.gate.clear()
        first = asyncio.create_task(client.post(RELOAD, json={}, headers=BEARER))
        await until(lambda: begun)
        second = await client.post(RELOAD, json={}, headers=BEARER)
        found = await client.get("/v1/items", headers=BEARER)
        fake.gate.set()
        return await first, second, found

    first, second, found = run(story, recommender=fake, keys=(KEY,))
    assert first.status_code == 200
    assert "running" in check(second, 409, "reloading")
    assert found.json()["model_version"] == "fake-1"


def test_a_reload_by_signal_waits_for_one_by_request():
    fake, told = Fake(), []
    reload, begun = fake.reload, []

    def slow(path=None, *, force=False):
        begun.append(1)
        assert fake.gate.wait(PATIENCE)
        return reload(force=force)

    fake.reload = slow

    async def story(client, app):
        fake.gate.clear()
        first = asyncio.create_task(client.post(RELOAD, json={}, headers=BEARER))
        await until(lambda: begun)
        second = asyncio.create_task(asyncio.to_thread(app.state.service.reload, by="signal"))
        fake.gate.set()
        return await first, await second

    first, second = run(story, recommender=fake, keys=(KEY,), on_reload=lambda: told.append(1))
    assert first.status_code == 200
    assert second.version == "fake-2"
    assert len(begun) == 2
    assert told == [1]  # who reloads by signal tells others itself


def test_a_reload_has_no_time_limit():
    fake = Fake()
    reload = fake.reload

    def slow(path=None, *, force=False):
        assert fake.gate.wait(PATIENCE)
        return reload(force=force)

    fake.reload = slow

    async def story(client, app):
        fake.gate.clear()
        asyncio.get_running_loop().call_later(0.05, fake.gate.set)
        return await client.post(RELOAD, json={}, headers=BEARER)

    assert run(story, recommender=fake, keys=(KEY,), timeout=0.001).status_code == 200


def test_an_answer_in_parts_is_of_one_version():
    fake = Fake()
    answer = fake.answer

    def turning(queries):
        told = answer(queries)
        if len(fake.calls) == 1:
            fake.version = "fake-2"
        return told

    fake.answer = turning
    told = post(json={"histories": [[n] for n in range(5)]}, recommender=fake, options={"max_batch": 2}).json()
    assert told["model_version"] == "fake-2"
    assert [one["items"][0]["item_id"] for one in told["results"]] == list(range(5))
    assert fake.calls[-1] == [[0], [1]]  # asked again


def test_metrics_tell_what_happened():
    async def story(client, app):
        await asyncio.gather(*(client.post("/v1/recommend", json=ASK) for _ in range(3)))
        await client.post("/v1/recommend", content=b"{", headers=JSON)
        await client.get("/nowhere/42")
        await client.get("/static/nothing.js")
        return await client.get("/metrics")

    answer = run(story)
    assert answer.headers["content-type"].startswith("text/plain")
    lines = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
    assert float(lines['diffacet_requests_total{route="/v1/recommend",status="200"}']) == 3
    assert float(lines['diffacet_requests_total{route="/v1/recommend",status="400"}']) == 1
    assert float(lines['diffacet_requests_total{route="other",status="404"}']) == 1
    assert float(lines['diffacet_requests_total{route="/static",status="404"}']) == 1
    assert float(lines['diffacet_errors_total{code="bad_json"}']) == 1
    assert float(lines["diffacet_batch_size_sum"]) == 3
    assert float(lines["diffacet_index_items"]) == 3
    assert float(lines["diffacet_queue_depth"]) == 0
    assert float(lines['diffacet_model_info{version="fake-1"}']) == 1
    assert float(lines['diffacet_request_seconds_count{route="/v1/recommend"}']) == 4
    assert "42" not in answer.text.split("diffacet_requests_total")[1].splitlines()[0]


_WORKER = """
from diffacet.app.serving.metrics import Metrics
metrics = Metrics()
metrics.answered("/v1/recommend", 200, 0.01)
metrics.serves("dmi-1", 40)
metrics.serves("dmi-2", 41)
metrics.reloaded("ok")
"""


def test_metrics_of_workers_are_added_up(tmp_path):
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PATH": ""}
    tell = _WORKER + "import sys; sys.stdout.buffer.write(metrics.text())"
    subprocess.run([sys.executable, "-c", _WORKER], env=environment, check=True)
    told = subprocess.run([sys.executable, "-c", tell], env=environment, check=True, capture_output=True, text=True)
    assert 'diffacet_requests_total{route="/v1/recommend",status="200"} 2.0' in told.stdout
    assert 'diffacet_reloads_total{result="ok"} 2.0' in told.stdout
    assert "diffacet_index_items 41.0" in told.stdout
    assert 'diffacet_model_info{version="dmi-1"} 0.0' in told.stdout
    assert 'diffacet_model_info{version="dmi-2"} 1.0' in told.stdout


def test_pages_are_files_of_one_folder(tmp_path):
    (tmp_path / "static" / "fonts").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("no")
    (tmp_path / "static" / "app.js").write_text("let x")
    (tmp_path / "static" / "fonts" / "a.woff2").write_bytes(b"font")
    (tmp_path / "static" / "notes.py").write_text("no")
    pages = Pages(tmp_path)
    assert set(pages.assets) == {"static/app.js", "static/fonts/a.woff2"}
    assert Pages(tmp_path / "nowhere").assets == {}
    (tmp_path / "index.html").write_text("<p>")
    app = create_app(Fake(), ServeOptions(keys=(KEY,)))
    for route in app.routes:
        if getattr(route, "path", None) in ("/", "/static/{name:path}"):
            route.endpoint.__self__.assets = Pages(tmp_path).assets

    async def story():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            page, script = await client.get("/"), await client.get("/static/app.js")
            again = await client.get("/static/app.js", headers={"If-None-Match": script.headers["etag"]})
            odd = [
                "..%2fsecret.txt",
                "%2e%2e/secret.txt",
                "../secret.txt",
                "fonts/../../secret.txt",
                "",
                "fonts",
                "notes.py",
            ]
            return page, script, again, [(await client.get(f"/static/{name}")).status_code for name in odd]

    page, script, again, odd = asyncio.run(story())
    assert (page.status_code, page.text, page.headers["content-type"]) == (200, "<p>", "text/html; charset=utf-8")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert (again.status_code, again.content) == (304, b"")
    assert set(odd) <= {401, 404}
