"""Keys, logs, headers, origins, readiness and options of the service."""

import json

import pytest

from diffacet.app.serving.api import create_app
from diffacet.app.serving.options import ServeOptions, read_keys
from diffacet.errors import BadSetting
from servingfakes import ASK, BEARER, JSON, KEY, Fake, check, logged, post, run


@pytest.fixture
def log():
    """The lines that the service logs, as objects."""
    with logged() as lines:
        yield lines


@pytest.mark.parametrize("headers", [BEARER, {"Authorization": f"bearer {KEY}"}, {"X-API-Key": KEY}])
def test_a_key_opens_in_each_of_its_forms(headers):
    assert post(json=ASK, headers=headers, options={"keys": ("another-key-of-ours", KEY)}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"X-API-Key": KEY[:-1]},
        {"X-API-Key": KEY + "k"},
        {"X-API-Key": KEY, "Authorization": "Bearer nonsense"},
        {"X-API-Key": "\u00e9".encode("latin-1")},
    ],
)
def test_nothing_else_does(headers):
    answer = post(json=ASK, headers=headers, options={"keys": (KEY,)})
    check(answer, 401, "unauthorised")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_what_is_open_without_a_key():
    async def story(client, app):
        paths = ("/healthz", "/readyz", "/", "/static/app.js", "/metrics", "/openapi.json", "/v1/model", "/v1/items")
        return {path: (await client.get(path)).status_code for path in (*paths, "/nowhere", "/static/../v1/model")}

    told = run(story, keys=(KEY,))
    locked = {path for path, status in told.items() if status == 401}
    assert locked == {"/metrics", "/openapi.json", "/v1/model", "/v1/items", "/nowhere", "/static/../v1/model"}


def test_keys_and_histories_are_not_logged(log):
    async def story(client, app):
        await client.post("/v1/recommend", json={"history": [271828]}, headers=BEARER)
        await client.post("/v1/recommend", json=ASK, headers={"X-API-Key": KEY + "-wrong"})

    run(story, keys=(KEY,))
    text = json.dumps(log())
    assert KEY not in text
    assert "271828" not in text
    assert KEY not in repr(ServeOptions(keys=(KEY,)))


def test_histories_are_logged_when_asked(log):
    async def story(client, app):
        await client.post("/v1/recommend", json={"histories": [[271828], [2]]})

    run(story, log_histories=True)
    line = next(line for line in log() if line["event"] == "request")
    assert line["history"] == [[271828], [2]]


def test_the_log_has_a_line_of_each_request(log):
    async def story(client, app):
        await client.post("/v1/recommend", json=ASK | {"k": 7}, headers={"X-Request-Id": "mine-1.2_3"})
        await client.post("/v1/recommend", content=b"{", headers=JSON)

    run(story)
    lines = log()
    assert [line["event"] for line in lines] == ["start", "warning", "request", "request", "drain", "stop"]
    good, bad = lines[2:4]
    assert good.pop("time").endswith("+00:00")
    assert good.pop("ms") >= 0
    assert good == {
        "level": "info",
        "event": "request",
        "id": "mine-1.2_3",
        "method": "POST",
        "path": "/v1/recommend",
        "status": 200,
        "histories": 1,
        "k": 7,
        "batch": 1,
        "model_version": "fake-1",
    }
    assert (bad["status"], bad["code"]) == (400, "bad_json")


@pytest.mark.parametrize(
    ("given", "kept"), [("a.b-c_9", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("", False)]
)
def test_a_request_id_of_the_client_is_kept_if_it_is_plain(given, kept):
    answer = post(json=ASK, headers={"X-Request-Id": given})
    assert (answer.headers["x-request-id"] == given) == kept
    assert answer.headers["x-request-id"]


def test_security_headers():
    async def story(client, app):
        return [await client.get(path) for path in ("/v1/model", "/")]

    data, page = run(story)
    assert data.headers["cache-control"] == "no-store"
    assert data.headers["referrer-policy"] == page.headers["referrer-policy"] == "no-referrer"
    rules = dict(rule.strip().split(" ", 1) for rule in page.headers["content-security-policy"].split(";"))
    assert rules["default-src"] == "'none'"
    assert set(rules) == {
        "default-src",
        "script-src",
        "style-src",
        "img-src",
        "connect-src",
        "base-uri",
        "form-action",
        "frame-ancestors",
    }
    assert "unsafe" not in page.headers["content-security-policy"]


def test_other_origins_are_let_in_only_when_asked():
    there = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}

    async def story(client, app):
        return await client.options("/v1/recommend", headers=there), await client.post(
            "/v1/recommend", json=ASK, headers=there
        )

    closed, answer = run(story)
    assert closed.status_code == 405
    assert "access-control-allow-origin" not in answer.headers
    opened, refusal = run(story, cors=("https://shop.example",), keys=(KEY,))
    assert opened.status_code == 200
    assert opened.headers["access-control-allow-origin"] == "https://shop.example"
    assert opened.headers["x-request-id"]
    assert refusal.status_code == 401
    assert refusal.headers["access-control-allow-origin"] == "https://shop.example"


def test_readiness_ends_before_the_service():
    async def story(client, app):
        service = app.state.service
        first = await client.get("/readyz")
        service.begin_drain()
        service.begin_drain()
        return (
            first,
            await client.get("/readyz"),
            await client.get("/healthz"),
            await client.post("/v1/recommend", json=ASK),
        )

    first, drained, health, answer = run(story)
    assert first.json() == {"status": "ready", "model_version": "fake-1"}
    check(drained, 503, "not_ready")
    assert health.json() == {"status": "ok"}
    assert answer.status_code == 200
    assert not create_app(Fake(), ServeOptions()).state.service.ready


def test_health_may_be_asked_by_head():
    async def story(client, app):
        return [(await client.head(path)).status_code for path in ("/healthz", "/readyz")]

    assert run(story) == [200, 200]


def test_keys_are_read_from_a_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# ours\n\n  {KEY}\n{'b' * 16}\n{KEY}\n")
    assert read_keys(path) == (KEY, "b" * 16)
    assert ServeOptions(keys=read_keys(path)).auth
    assert not ServeOptions().auth


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no key"),
        (b"# none\n", "no key"),
        (b"short-secret", "line 1"),
        (b"two words of a key", "line 1"),
        (b"\xff" * 20, "UTF-8"),
    ],
)
def test_a_file_of_bad_keys_is_refused_without_showing_one(tmp_path, content, says):
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(BadSetting, match=says) as caught:
        read_keys(path)
    assert "secret" not in str(caught.value)
    assert "words" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadSetting, match="cannot be read"):
        read_keys(tmp_path / "none")


@pytest.mark.parametrize(
    "setting",
    [
        {"port": 70_000},
        {"port": -1},
        {"workers": 0},
        {"gather": -1.0},
        {"gather": float("nan")},
        {"max_batch": 0},
        {"timeout": 0.0},
        {"max_k": 0},
        {"max_body": 10},
        {"threads": 0},
    ],
)
def test_options_out_of_range_are_refused(setting):
    with pytest.raises(BadSetting) as caught:
        ServeOptions(**setting)
    assert caught.value.field == next(iter(setting))
