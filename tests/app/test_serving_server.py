"""The process around a service: where it listens, what it refuses, when it looks again, and how it keeps workers."""

import json
import logging
import os
import re
import signal
import socket
import threading
import time
from multiprocessing import Pipe
from types import SimpleNamespace

import pytest

import fakework
from diffacet.app.serving import listening, logs, supervising, working
from diffacet.app.serving.options import ServeOptions
from diffacet.app.serving.server import Serving
from diffacet.app.serving.supervising import Supervisor
from diffacet.app.serving.watching import Watch
from diffacet.errors import BadRun, BadSetting

LIMIT = 240.0  # seconds until a test gives up


@pytest.fixture
def refused(call):
    """Runs `diffacet serve` with what must be refused in one line; returns the line."""

    def run(*words):
        code, out, err = call("serve", *words)
        assert (code, out) == (2, "")
        assert err.startswith("diffacet: error: ")
        assert err.count("\n") == 1
        return err

    return run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", 65536], "port lies in 0..65535; got 65536"),
        (["--port", -1], "port is at least 0"),
        (["--workers", 0], "workers is at least 1"),
        (["--max-body", 0], "Invalid value for '--max-body'"),
        (["--timeout", 0], "timeout is a number of seconds above 0"),
        (["--host", "0.0.0.0"], "--api-key-file, of which every request must show one, or say --no-auth"),
        (["--host", "::"], "--host :: can be reached from other machines"),
        (["--host", "no.such.host.invalid"], "no address of this machine"),
        (["--host", "192.0.2.1", "--no-auth"], "no address of this machine; 127.0.0.1"),
        (["--api-key-file", "nowhere"], "nowhere cannot be read"),
    ],
)
def test_bad_options_are_refused_before_anything_is_loaded(refused, words, said):
    assert said in refused("no/run", *words)


def test_a_taken_port_is_named(refused):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"127.0.0.1, port {port} is taken by another process; choose" in refused("no/run", "--port", port)


def test_keys_and_no_auth_exclude_each_other(refused, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("a" * 20)
    assert "exclude each other" in refused("no/run", "--api-key-file", keys, "--no-auth")


@pytest.fixture
def own_process():
    """Takes back what a server does to its process."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)
    logging.captureWarnings(False)
    for name in (logs.LOGGER, "uvicorn", "asyncio", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)


@pytest.mark.usefixtures("own_process")
def test_no_run_is_refused_in_one_line(call, tmp_path):
    code, out, err = call("serve", tmp_path, "--port", 0)
    assert (code, out) == (2, "")
    assert err.startswith(f"diffacet: error: {tmp_path} is no run directory")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "open_to_all"),
    [
        (ServeOptions(host="127.0.0.1", port=0), False),
        (ServeOptions(host="127.9.9.9", port=0), False),
        (ServeOptions(host="localhost", port=0), False),
        (ServeOptions(host="0.0.0.0", port=0), True),
        (ServeOptions(host="0.0.0.0", port=0, keys=("a" * 20,)), False),
    ],
)
def test_where_one_may_listen(options, open_to_all):
    with listening.bind(options, open_to_all) as listener:
        port = listener.getsockname()[1]
        assert port > 0
        said = listening.line(listener, options.host, "pop-0123456789ab", 12101, "none")
    assert said.startswith(f"serving pop-0123456789ab (12,101 items, no index) on http://{options.host}:{port}  - page")


def test_a_port_that_is_taken_while_the_run_is_loaded_is_named_too():
    with listening.bind(ServeOptions(port=0)) as one, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(one.getsockname())
        other.listen()
        with pytest.raises(OSError, match="in use") as caught:
            one.listen()
    assert "port 80 is taken" in str(listening.refusal(caught.value, ServeOptions(port=80)))


def write(run, text="{}"):
    run.mkdir(exist_ok=True)
    (run / "run.json").write_text(text)
    (run / "best.safetensors").write_bytes(b"weights")


def test_a_change_is_told_once_and_when_it_is_over(tmp_path):
    one, two, link = tmp_path / "one", tmp_path / "two", tmp_path / "link"
    write(one)
    write(two)
    link.symlink_to(one)
    watch = Watch(link)
    assert not watch.look()
    (one / "metrics.jsonl").write_text("not looked at")
    assert not watch.look()
    (one / "best.safetensors").write_bytes(b"weig")
    assert not watch.look()  # somebody may still be writing
    (one / "best.safetensors").write_bytes(b"weights, more")
    assert not watch.look()
    assert watch.look()
    assert not watch.look()
    link.unlink()
    link.symlink_to(two)
    assert [watch.look() for _ in range(3)] == [False, True, False]
    link.unlink()
    link.symlink_to(one)
    assert not watch.look()
    link.unlink()
    link.symlink_to(two)
    assert [watch.look() for _ in range(3)] == [False, False, False]  # as it was
    watch.doubt()
    assert [watch.look() for _ in range(3)] == [True, False, False]


def test_a_run_that_goes_and_comes_back_is_a_change(tmp_path):
    run = tmp_path / "run"
    watch = Watch(run)  # not there: what serves it has refused it, but looking is no error
    assert not watch.look()
    write(run)
    assert [watch.look() for _ in range(3)] == [False, True, False]
    (run / "run.json").unlink()
    (run / "best.safetensors").unlink()
    run.rmdir()
    run.symlink_to(run)  # a link to itself
    assert [watch.look() for _ in range(3)] == [False, True, False]


class Parent:
    """A supervisor of fake workers, which runs `scenario` beside it once it is ready, and stops after it."""

    def __init__(self, folder, monkeypatch, **options):
        self.folder, self.said, self.events, self.failed = folder, [], [], None
        (folder / "version").write_text("one")
        monkeypatch.setattr(supervising.working, "work", fakework.work)
        monkeypatch.setattr(logs, "write", self.note)
        self.key_file = folder / "keys"
        self.key_file.write_text("a" * 20)
        self.options = ServeOptions(port=0, workers=2, keys=("a" * 20,), **options)

    def note(self, event, **told):
        self.events.append((event, told))

    def told(self, name):
        return [told for event, told in self.events if event == name]

    def run(self, scenario):
        listener = listening.bind(self.options)
        stopped = threading.Event()

        def beside(line):
            self.said.append(line)
            threading.Thread(target=playing).start()

        def playing():
            try:
                scenario()
            except BaseException as error:
                self.failed = error
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                stopped.set()

        what = Serving(self.folder, self.options, key_file=self.key_file)
        # What comes when the supervisor listens no more must not end the tests.
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        try:
            code = Supervisor(what, listener, beside).run()
            assert not self.said or stopped.wait(LIMIT)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.failed:
            raise self.failed
        return code

    def asked(self):
        file = self.folder / "asked"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def begun(self):
        return [line for line in self.asked() if "keys" in line and "what" not in line]

    def until(self, what):
        end = time.monotonic() + LIMIT
        while not what():
            assert time.monotonic() < end, (self.events, self.asked())
            time.sleep(0.01)


@pytest.fixture
def parent(tmp_path, monkeypatch):
    return Parent(tmp_path, monkeypatch)


def test_workers_that_cannot_begin_end_the_command(parent):
    (parent.folder / "broken").touch()
    with pytest.raises(BadRun, match="it is broken"):
        parent.run(lambda: None)
    assert parent.said == []
    assert supervising.MULTIPROCESS not in os.environ


def test_workers_are_replaced_and_renewed_together(parent):
    def scenario():
        first, second = parent.begun()
        assert (first["expected"], second["expected"]) == (None, ["one", str(parent.folder)])
        parent.key_file.write_text("b" * 20)
        os.kill(os.getpid(), signal.SIGHUP)
        parent.until(lambda: len([line for line in parent.asked() if line.get("by") == "signal"]) == 2)
        assert all(line["keys"] for line in parent.asked() if line.get("by") == "signal")

        (parent.folder / "accepts").touch()  # one has reloaded by request: only the other is told
        parent.until(lambda: [line for line in parent.asked() if line.get("by") == "worker"])

        os.kill(first["pid"], signal.SIGKILL)
        parent.until(lambda: len(parent.begun()) == 3)
        assert parent.begun()[2]["keys"] == ["b" * 20]
        assert parent.told("worker died")[0]["code"] == -signal.SIGKILL
        followers = [line["pid"] for line in parent.asked() if line.get("by") == "worker"]
        assert len(followers) == 1

        (parent.folder / "hangs").touch()
        parent.until(lambda: len(parent.begun()) == 4)
        assert parent.told("worker hangs")[0]["seconds"] == fakework.SILENT

    assert parent.run(scenario) == 0
    assert len(parent.said) == 1
    assert re.match(r"serving one \(3 items, exact index\) on http://127.0.0.1:\d+  ", parent.said[0])


def test_a_worker_that_cannot_come_back_is_tried_more_and_more_seldom(parent):
    def scenario():
        (parent.folder / "broken").touch()
        os.kill(parent.begun()[0]["pid"], signal.SIGKILL)
        parent.until(lambda: len(parent.told("worker died")) == 3)
        waits = [told["again_in"] for told in parent.told("worker died")]
        assert waits == [0, 1, 2]
        assert parent.told("worker died")[-1]["message"] == "it is broken"
        (parent.folder / "broken").unlink()
        parent.until(lambda: len(parent.begun()) == 3)

    assert parent.run(scenario) == 0


def test_a_second_interrupt_ends_all_at_once(parent):
    def scenario():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    assert parent.run(scenario) in {0, 130}  # the workers may have been quicker


def test_a_changed_run_is_reloaded_by_all(tmp_path, monkeypatch):
    parent = Parent(tmp_path, monkeypatch, watch=True)

    def scenario():
        (tmp_path / "run.json").write_text("{}")
        parent.until(lambda: len([line for line in parent.asked() if line.get("by") == "watch"]) == 2)

    assert parent.run(scenario) == 0


def test_a_worker_tells_for_how_long_its_loop_stands_still(monkeypatch):
    monkeypatch.setattr(working, "_BEAT", 0.001)
    here, there = Pipe()
    told = working._Parent(there).told(lambda: {"version": "one"})
    told.ready()

    def silence():
        assert here.poll(LIMIT)
        message = json.loads(here.recv_bytes())
        assert (message["what"], message["version"]) == ("beat", "one")
        return message["silent"]

    assert json.loads(here.recv_bytes()) == {"what": "ready", "version": "one"}
    assert [silence() for _ in range(4)] == [0, 1, 2, 3]
    told.beat()
    assert any(silence() < 3 for _ in range(10_000))
    here.close()


def test_a_worker_joins_others_only_with_what_they_serve(monkeypatch, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    there = {old: "one", new: "two"}

    def load(what, place=None):
        place = place or what.run
        if place not in there:
            raise BadRun(f"{place} is no run directory")
        return SimpleNamespace(version=there[place])

    monkeypatch.setattr(working, "load", load)
    what = Serving(new, ServeOptions())
    assert working._loaded(what, None).version == "two"
    assert working._loaded(what, ("one", str(old))).version == "one"  # the link was turned, nobody has reloaded
    del there[old]
    assert working._loaded(what, ("two", str(old))).version == "two"  # the same run, moved
    with pytest.raises(BadRun, match="does not hold one any more"):
        working._loaded(what, ("one", str(old)))


def test_options_say_which_was_wrong():
    with pytest.raises(BadSetting) as caught:
        listening.bind(ServeOptions(host="0.0.0.0"))
    assert caught.value.field == "host"
