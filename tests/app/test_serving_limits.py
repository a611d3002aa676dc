"""Bad input, limits and faults of the service, each with its answer in the one shape of errors."""

import asyncio
import json

import pytest

from diffacet.app.serving.guards import Envelope
from diffacet.rank.candidates import Query
from servingfakes import ASK, JSON, Fake, Wire, check, logged, metric, post, run, until


@pytest.fixture
def log():
    """The lines that the service logs, as objects."""
    with logged() as lines:
        yield lines


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"history": [1],}',
        b'{"history": [1, NaN]}',
        b'{"history": [1], "diversity": Infinity}',
        b'{"history": [1], "diversity": -Infinity}',
        b'{"history": ["\xff\xfe"]}',
        b"[" * 100_000,
        b'{"history":' * 50_000,
        b"\xef\xbb\xbf{}",
        b'{"history": [' + b"9" * 5000 + b"]}",
        '{"history": [1]}'.encode("utf-16"),
    ],
)
def test_what_is_no_json_is_said_to_be_none(body):
    check(post(content=body, headers=JSON), 400, "bad_json")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""])
def test_only_json_is_read(kind):
    answer = post(content=b'{"history": [1]}', headers={"Content-Type": kind})
    check(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/json;"])
def test_json_may_be_said_in_other_words(kind):
    assert post(content=b'{"history": [1]}', headers={"Content-Type": kind}).status_code == 200


BAD = [
    ({}, "history", "missing"),
    ([], None, "JSON object"),
    (7, None, "got 7"),
    ({"history": []}, "history", "at least 1"),
    ({"history": None}, "history", "null"),
    ({"history": "1,2"}, "history", "list"),
    ({"history": {"1": 2}}, "history", "object"),
    ({"history": [True]}, "history.0", "got true"),
    ({"history": [1, 2.0]}, "history.1", "got 2.0"),
    ({"history": [1, None]}, "history.1", "item id"),
    ({"history": [[1]]}, "history.0", "item id"),
    ({"history": ["x" * 257]}, "history.0", "256"),
    ({"history": [10**256]}, "history.0", "256"),
    ({"history": ["\ud800"]}, "history.0", "item id"),
    ({"histroy": [1]}, "histroy", "did you mean 'history'?"),
    ({"history": [1], "kk": 3}, "kk", "unknown field"),
    ({"history": [1], "x" * 100_000: 3}, "x" * 80, "unknown field"),
    ({"history": [1], "\ud800": 3}, None, "Unicode"),
    ({"history": [1], "k": 0}, "k", "at least 1"),
    ({"history": [1], "k": -5}, "k", "at least 1"),
    ({"history": [1], "k": 10**9}, "k", "1..1000"),
    ({"history": [1], "k": 10**300}, "k", "1..1000"),
    ({"history": [1], "k": 2.0}, "k", "integer"),
    ({"history": [1], "k": True}, "k", "integer"),
    ({"history": [1], "k": "3"}, "k", "integer"),
    ({"history": [1], "exclude_seen": 1}, "exclude_seen", "true or false"),
    ({"history": [1], "exclude": [1.5]}, "exclude.0", "item id"),
    ({"history": [1], "exclude": [1] * 1001}, "exclude", "1000"),
    ({"history": [1], "categories": []}, "categories", "at least 1"),
    ({"history": [1], "categories": [1]}, "categories.0", "text"),
    ({"history": [1], "categories": ["x"] * 1001}, "categories", "1000"),
    ({"history": [1], "diversity": -1}, "diversity", "at least 0"),
    ({"history": [1], "diversity": 1e999}, "diversity", "finite"),
    ({"history": [1], "diversity": 1e7}, "diversity", "at most"),
    ({"history": [1], "diversity": "much"}, "diversity", "number"),
    ({"history": [1], "refine_steps": -1}, "refine_steps", "at least 0"),
    ({"history": [1], "refine_steps": 1.5}, "refine_steps", "integer"),
    ({"history": [1], "explain": "yes"}, "explain", "true or false"),
    ({"history": [1], "histories": [[1]]}, "histories", "not both"),
    ({"histories": []}, "histories", "at least 1"),
    ({"histories": [[1]] * 257}, "histories", "256"),
    ({"histories": [[1], 2]}, "histories.1", "list"),
    ({"histories": [[1], [2, False]]}, "histories.1.1", "item id"),
]


@pytest.mark.parametrize(("asked", "field", "says"), BAD, ids=range(len(BAD)))
def test_what_cannot_be_asked_is_refused_with_its_field(asked, field, says):
    fake = Fake()
    body = json.dumps(asked).replace("Infinity", "1e999").encode()
    message = check(post(content=body, headers=JSON, recommender=fake), 422, "bad_value", field)
    assert says in message
    assert not fake.calls


@pytest.mark.parametrize(
    ("path", "asked", "field"),
    [
        ("/v1/interests", {"history": []}, "history"),
        ("/v1/interests", {"history": [1], "k": 3}, "k"),
        ("/v1/similar", {}, "item_id"),
        ("/v1/similar", {"item_id": 1.5}, "item_id"),
        ("/v1/similar", {"item_id": 1, "k": 1001}, "k"),
    ],
)
def test_other_routes_are_as_strict(path, asked, field):
    check(post(path, json=asked), 422, "bad_value", field)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("limit=1.5", "limit"),
        ("offset=-1", "offset"),
        ("offset=" + "9" * 5000, "offset"),
        ("q=" + "x" * 257, "q"),
        ("qq=1", "qq"),
    ],
)
def test_parameters_are_as_strict(query, field):
    async def story(client, app):
        return await client.get(f"/v1/items?{query}")

    check(run(story), 422, "bad_value", field)


def test_what_is_far_off_is_an_unknown_id_and_no_error():
    assert post(json={"history": [10**200, -(10**200), "é\u0000", ""]}).status_code == 200


def test_a_long_history_is_cut_to_the_newest_with_a_note():
    fake = Fake()
    answer = post(json={"history": list(range(100_000))}, recommender=fake)
    assert answer.status_code == 200
    assert fake.calls == [[list(range(99_000, 100_000))]]
    assert "100,000" in answer.json()["notes"][0]
    assert "1,000" in answer.json()["notes"][0]
    told = post(json={"histories": [[1, 2, 3], [4]]}, options={"max_history": 2}).json()["results"]
    assert [len([note for note in one["notes"] if "newest" in note]) for one in told] == [1, 0]


def test_unknown_paths_and_methods_have_the_shape():
    async def story(client, app):
        return [await client.get("/v1/recommend"), await client.get("/nowhere"), await client.post("/healthz/")]

    method, path, slash = run(story)
    check(method, 405, "method_not_allowed")
    assert method.headers["allow"] == "POST"
    check(path, 404, "not_found")
    check(slash, 404, "not_found")


def test_a_query_that_meets_a_bug_is_answered_500_without_a_word_of_it(log):
    async def story(client, app):
        whole = asyncio.gather(
            client.post("/v1/recommend", json=ASK), client.post("/v1/recommend", json={"history": ["bug"]})
        )
        good, bad = await whole
        return good, bad, metric(app, "errors_total", code="internal")

    good, bad, count = run(story)
    assert good.status_code == 200
    message = check(bad, 500, "internal")
    assert "RuntimeError" not in bad.text
    assert bad.headers["x-request-id"] in message
    assert count == 1
    failure = next(line for line in log() if line["event"] == "failure")
    assert failure["id"] == bad.headers["x-request-id"]
    assert "RuntimeError: a bug" in failure["traceback"]


def test_half_an_answer_is_broken_off(log):
    async def half(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("a bug")

    async def story(client, app):
        wire = Wire(Envelope(half, app.state.service, []))
        with pytest.raises(RuntimeError):
            await wire.run()
        return wire

    wire = run(story)
    assert len(wire.sent) == 1
    assert wire.headers["x-request-id"]
    assert [line["event"] for line in log() if line.get("id")] == ["failure", "request"]


def test_what_a_model_cannot_answer_is_said():
    check(post(json=ASK | {"refine_steps": 2}), 422, "not_supported", "refine_steps")
    check(post("/v1/interests", json=ASK), 422, "not_supported")
    check(post(json=ASK | {"explain": True}), 422, "not_supported")
    message = check(post(json={"history": ["odd"]}), 422, "unknown_items", "history")
    assert "7" not in message  # the row in a call that others share


def test_of_several_histories_each_has_its_error():
    told = post(json={"histories": [[1], ["odd"], [], [4]]}).json()["results"]
    assert [one.get("error", {}).get("code") for one in told] == [None, "unknown_items", "bad_value", None]
    assert [one.get("error", {}).get("field") for one in told] == [None, "histories.1", "histories.2", None]
    # What is wrong with all of them is wrong with the request.
    check(post(json={"histories": [[1], [2]], "refine_steps": 1}), 422, "not_supported", "refine_steps")


def test_a_body_that_is_said_to_be_large_is_not_read():
    async def story(client, app):
        wire = Wire(app, headers={"content-length": "10000000"})
        running = asyncio.create_task(wire.run())
        await until(lambda: len(wire.sent) == 2)
        assert wire.received == 0  # the answer is out; what comes now is thrown away
        wire.leave()
        await running
        return wire

    wire = run(story)
    assert wire.status == 413
    assert wire.told["error"]["code"] == "too_large"
    assert wire.headers["connection"] == "close"


def test_a_body_that_grows_too_large_is_cut_off():
    async def story(client, app):
        wire = Wire(app)
        for _ in range(40):
            wire.body(b" " * 100, more=True)
        wire.body(b"", more=False)
        await wire.run()
        return wire, wire.incoming.qsize()

    wire, rest = run(story, max_body=1024)
    assert wire.status == 413
    assert rest == 0  # it was read on, so that the client comes to see the answer, but not kept
    assert post(content=b" " * 2000, options={"max_body": 1024}, headers=JSON).status_code == 413
    assert post(content=b'{"history": [1]}' + b" " * 1000, options={"max_body": 1024}, headers=JSON).status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for():
    async def story(client, app):
        wire = await Wire(app).body(b'{"history"', more=True).run()
        return wire, app.state.service.batcher._coming

    wire, coming = run(story, read_timeout=0.01)
    assert wire.status == 408
    assert wire.told["error"]["code"] == "slow_request"
    assert wire.headers["connection"] == "close"
    assert not coming


def test_slow_bodies_take_no_place_of_others():
    async def story(client, app):
        slow = [Wire(app).body(b" ", more=True) for _ in range(5)]
        running = [asyncio.create_task(wire.run()) for wire in slow]
        await until(lambda: all(wire.received for wire in slow))
        answer = await client.post("/v1/recommend", json=ASK)
        for wire in slow:
            wire.leave()
        await asyncio.gather(*running)
        return answer, [wire.sent for wire in slow]

    answer, sent = run(story, max_in_flight=1)
    assert answer.status_code == 200
    assert sent == [[]] * 5


def test_more_bodies_on_their_way_than_memory_is_for_are_refused():
    async def story(client, app):
        wires = [Wire(app).body(b" " * 1000, more=True) for _ in range(70)]
        running = [asyncio.create_task(wire.run()) for wire in wires]
        await until(lambda: all(wire.received for wire in wires))
        await until(lambda: sum(bool(wire.sent) for wire in wires) >= 4)
        for wire in wires:
            wire.leave()
        await asyncio.gather(*running)
        return [wire.status for wire in wires if wire.sent]

    assert set(run(story, max_body=1024)) == {429}


def test_too_many_requests_are_refused_but_the_service_can_be_seen():
    fake = Fake()

    async def story(client, app):
        fake.gate.clear()
        first = asyncio.create_task(client.post("/v1/recommend", json=ASK))
        await until(lambda: fake.calls)
        refusal = await client.post("/v1/recommend", json=ASK)
        seen = [(await client.get(path)).status_code for path in ("/healthz", "/readyz", "/metrics")]
        flying = metric(app, "in_flight")
        fake.gate.set()
        return await first, refusal, seen, flying, metric(app, "in_flight")

    first, refusal, seen, flying, after = run(story, recommender=fake, max_in_flight=1)
    assert first.status_code == 200
    check(refusal, 429, "busy")
    assert refusal.headers["retry-after"] == "1"
    assert seen == [200, 200, 200]
    assert (flying, after) == (1, 0)


def test_a_request_whose_time_is_up_is_answered_and_its_work_abandoned(log):
    fake = Fake()

    async def story(client, app):
        batcher = app.state.service.batcher
        fake.gate.clear()
        first = asyncio.create_task(batcher.submit(Query([1])))
        await until(lambda: fake.calls)
        late = await client.post("/v1/recommend", json={"histories": [["late"]] * 3})
        fake.gate.set()
        await asyncio.gather(first, batcher.submit(Query([5])))
        return late, metric(app, "abandoned_total")

    late, abandoned = run(story, recommender=fake, timeout=0.02)
    check(late, 504, "timeout")
    assert fake.calls == [[[1]], [[5]]]
    assert abandoned == 3
    assert not [line for line in log() if "traceback" in line]


def test_a_request_whose_time_is_up_while_it_is_computed_is_answered():
    fake = Fake()
    fake.gate.clear()

    async def story(client, app):
        late = await client.post("/v1/recommend", json=ASK)
        fake.gate.set()
        return late

    check(run(story, recommender=fake, timeout=0.02), 504, "timeout")


def test_a_client_that_goes_leaves_no_traceback_and_no_work(log):
    fake = Fake()

    async def story(client, app):
        fake.gate.clear()
        first = asyncio.create_task(client.post("/v1/recommend", json=ASK))
        await until(lambda: fake.calls)
        gone = Wire(app).body({"history": ["gone"]})
        running = asyncio.create_task(gone.run())
        await until(lambda: app.state.service.batcher._depth == 1)
        gone.leave()
        await running
        early = await Wire(app).body(b"{", more=True).leave().run()
        fake.gate.set()
        await first
        await client.post("/v1/recommend", json={"history": [5]})
        counts = metric(app, "abandoned_total"), metric(app, "requests_total", route="/v1/recommend", status="499")
        return gone, early, counts

    gone, early, (abandoned, left) = run(story, recommender=fake)
    assert gone.sent == early.sent == []
    assert fake.calls == [[[1, 2]], [[5]]]
    assert (abandoned, left) == (1, 2)
    assert not [line for line in log() if "traceback" in line]
