"""A recommender that computes nothing, and a client that speaks ASGI by hand: what tests of the service need."""

import asyncio
import io
import json
import logging
import threading
from contextlib import asynccontextmanager, contextmanager

import httpx
import numpy as np
import polars as pl

from diffacet.app.serving import logs
from diffacet.app.serving.api import create_app
from diffacet.app.serving.options import ServeOptions
from diffacet.app.serving.recommender import Answered, Found, Reloaded
from diffacet.errors import BadRun, BadSetting, UnknownItem
from diffacet.rank.candidates import Candidates

KEY = "k" * 32
PATIENCE = 60.0
"""Seconds after which a test that waits has failed."""


def candidates(history):
    """One item, which is the history's last id."""
    ids = pl.Series([history[-1]])
    score = np.array([len(history)], np.float32)
    return Candidates(ids, score, np.zeros(1, np.int64), None, [], None, None)


class Fake:
    """Answers a history with its own last id. "bug" in a history fails the whole call, "odd" is an unknown id.

    Attributes:
        calls: the histories of each call of `answer`, in order.
        gate: calls wait until it is set.
        entered: how many calls have begun.
    """

    def __init__(self):
        self.version, self.n_items, self.warnings = "fake-1", 3, ["a fake"]
        self.calls, self.gate, self.entered = [], threading.Event(), threading.Semaphore(0)
        self.gate.set()
        self.next = Reloaded(True, "fake-2", "fake-1", 0.25)
        self.forced = None

    def card(self):
        return {"version": self.version, "can": {"refine": False, "diversity": True, "categories": True}}

    def answer(self, queries):
        self.calls.append([list(query.history) for query in queries])
        self.entered.release()
        assert self.gate.wait(PATIENCE)
        if any("bug" in query.history for query in queries):
            raise RuntimeError("a bug")
        return Answered(self.version, [self._one(query) for query in queries])

    def _one(self, query):
        if query.refine_steps is not None:
            return BadSetting("this model has no refinement steps", field="refine_steps")
        if "odd" in query.history:
            return UnknownItem("no item of history 7 (counted from 0)", field="history")
        return candidates(query.history)

    def explain(self, history, *, refine_steps=None):
        raise BadSetting("this model has no interests")

    def find(self, text, limit, offset):
        if text == "bug":
            raise RuntimeError("a bug")
        return Found(self.version, 0, np.zeros(0, np.int64), pl.Series([], dtype=pl.Int64), None, None)

    def reload(self, path=None, *, force=False):
        self.forced = force
        if isinstance(self.next, Exception):
            raise self.next
        self.version = self.next.version
        return self.next


def refused():
    """What a reload of a bad run raises."""
    return BadRun("the new run is damaged; the old one goes on")


@asynccontextmanager
async def served(recommender=None, *, on_reload=None, **options):
    """(client, application) of a service that has started; it stops at the end."""
    app = create_app(recommender or Fake(), ServeOptions(**options), on_reload=on_reload)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
    async with (
        asyncio.timeout(3 * PATIENCE),
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client, app


async def until(condition):
    """Let the loop turn until `condition()` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)


class Wire:
    """One request spoken by hand: what was sent, and a body that arrives when the test says so."""

    def __init__(self, app, path="/v1/recommend", headers=(), method="POST"):
        self.app, self.sent, self.received = app, [], 0
        self.incoming = asyncio.Queue()
        given = {"content-type": "application/json", **dict(headers)}
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }

    def body(self, content, more=False):
        """A part of the body arrives; what is no bytes is sent as JSON."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.incoming.put_nowait({"type": "http.request", "body": data, "more_body": more})
        return self

    def leave(self):
        """The client goes."""
        self.incoming.put_nowait({"type": "http.disconnect"})
        return self

    async def receive(self):
        message = await self.incoming.get()
        self.received += 1
        return message

    async def send(self, message):
        self.sent.append(message)

    async def run(self):
        """The application's turn; afterwards `status`, `headers` and `told` tell what it answered."""
        async with asyncio.timeout(PATIENCE):
            await self.app(self.scope, self.receive, self.send)
        return self

    @property
    def status(self):
        return self.sent[0]["status"]

    @property
    def headers(self):
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def told(self):
        return json.loads(b"".join(message.get("body", b"") for message in self.sent[1:]))


def metric(app, name, **labels):
    """The value of a sample of the application's metrics, 0 where it is not there."""
    return app.state.service.metrics.registry.get_sample_value(f"diffacet_{name}", labels) or 0.0


ASK = {"history": [1, 2]}
BEARER = {"Authorization": f"Bearer {KEY}"}
JSON = {"Content-Type": "application/json"}


@contextmanager
def logged():
    """A function that gives the lines which the service logs inside the block, as objects."""
    logger, stream = logging.getLogger(logs.LOGGER), io.StringIO()
    before = logger.handlers, logger.propagate, logger.level
    logs.configure(stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logger.handlers, logger.propagate = before[:2]
    logger.setLevel(before[2])


def run(story, **options):
    """What `story(client, app)` returns, against a served fake or the `recommender` given."""

    async def whole():
        async with served(**options) as (client, app):
            return await story(client, app)

    return asyncio.run(whole())


def post(path="/v1/recommend", *, recommender=None, headers=(), options=(), **sent):
    """The answer to one request, of a service with these options."""

    async def story(client, app):
        return await client.post(path, headers=dict(headers), **sent)

    return run(story, recommender=recommender, **dict(options))


def check(answer, status, code, field=None):
    """An error answer in the one shape, with what every answer has; returns its message."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    told = answer.json()
    assert set(told) == {"error"}
    assert set(told["error"]) == {"code", "message", "field"}
    assert (told["error"]["code"], told["error"]["field"]) == (code, field)
    assert 0 < len(told["error"]["message"]) < 400
    return told["error"]["message"]
