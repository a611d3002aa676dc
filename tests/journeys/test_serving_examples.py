"""examples/serving and what docs/serving.md states: run as they stand, against one service of the small run."""

import contextlib
import http.server
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import pytest

import servingshop

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "serving"
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
KEY = "k" * 32
LIMIT = 240.0
WITHOUT_KEY = {name: value for name, value in os.environ.items() if name != "DIFFACET_KEY"}
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
needs_nginx = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Two runs, and a link `current` to the first."""
    folder = tmp_path_factory.mktemp("shop")
    data = servingshop.shop_data(folder)
    for name, seed in (("one", 1), ("two", 2)):
        servingshop.served_run(data, folder / "runs" / name, seed=seed)
    (folder / "runs" / "current").symlink_to("one")
    return folder


@pytest.fixture(scope="module")
def url(shop):
    """Where the run behind the link is served, with a key."""
    (shop / "keys").write_text(f"{KEY}\n")
    words = ["-m", "diffacet", "serve", shop / "runs" / "current", "--port", "0", "--api-key-file", shop / "keys"]
    with (shop / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.PIPE, stderr=log, text=True)
    with process:
        try:
            line = process.stdout.readline()
            assert line, (shop / "log").read_text()
            yield re.search(r"http://\S+", line)[0]
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def example():
    """The client as a module."""
    spec = importlib.util.spec_from_file_location("serving_client", EXAMPLES / "client.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def client(example, url, monkeypatch):
    monkeypatch.setenv("DIFFACET_KEY", KEY)
    made = example.Client(url)
    with made.http:
        yield made


def run(words, **environment):
    """A program that ends: (exit code, standard output, standard error)."""
    words = [str(word) for word in words]
    done = subprocess.run(words, capture_output=True, text=True, env=WITHOUT_KEY | environment, check=False)
    return done.returncode, done.stdout, done.stderr


def test_client_asks_all_that_it_can(client, example):
    found = client.recommend([1, 2, 3], k=3)
    assert len(found) == 3
    assert client.recommend(["1", "2", "3"], k=3, exclude_seen=True) == found
    one, unknown, other = client.recommend_many([[1, 2, 3], ["nothing"], [4]], k=3)
    assert (one, len(other)) == (found, 3)
    assert (unknown.code, unknown.field) == ("unknown_items", "histories.1")
    interests = client.interests([1, 2, 3], refine_steps=1)
    assert [one["interest"] for one in interests] == [0, 1, 2, 3]
    assert [len(one["attention"]) for one in interests] == [3] * 4
    assert len(client.similar(1, k=2)) == 2
    with pytest.raises(example.Refused, match="bad_value: k is at least 1; got 0") as refused:
        client.recommend([1], k=0)
    assert (refused.value.code, refused.value.field) == ("bad_value", "k")


def test_client_asks_again_when_it_is_told_to(example, monkeypatch):
    monkeypatch.delenv("DIFFACET_KEY", raising=False)
    client, slept, left = example.Client("http://service"), [], [3]

    def answer(request):
        left[0] -= 1
        if left[0] < 0:
            return httpx.Response(200, json={"items": ["it"]})
        error = {"code": "busy", "message": "later", "field": None}
        return httpx.Response(429, json={"error": error}, headers={"Retry-After": "2"})

    client.http = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://service")
    monkeypatch.setattr(time, "sleep", slept.append)
    assert client.recommend([1]) == ["it"]
    assert len(slept) == 3
    assert all(2 <= seconds <= 4 for seconds in slept)
    left[0] = 99
    with pytest.raises(example.Refused) as refused:
        client.recommend([1])
    assert (refused.value.code, left[0]) == ("busy", 99 - 4)
    client.http.close()


def test_client_from_the_command_line(url):
    program = [sys.executable, EXAMPLES / "client.py"]
    code, out, err = run([*program, url, 1, 2, 3], DIFFACET_KEY=KEY)
    assert (code, len(out.splitlines()), err) == (0, 10, "")
    assert "Ware <" in out
    code, out, err = run([*program, url, 1])
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("unauthorised: ")
    code, out, err = run([*program, "http://127.0.0.1:1", 1])
    assert (code, out, err.count("\n")) == (1, "", 1)


def test_scripts_are_of_the_shell():
    scripts = sorted(EXAMPLES.glob("*.sh"))
    assert [script.name for script in scripts] == ["curl.sh", "refresh.sh"]
    for script in scripts:
        assert run(["sh", "-n", script]) == (0, "", "")
        assert os.access(script, os.X_OK)


@needs_curl
def test_curl_lines(url):
    code, out, err = run([EXAMPLES / "curl.sh", url], DIFFACET_KEY=KEY)
    assert (code, err) == (0, "")
    statuses = re.findall(r"^(\d{3})  ", out, re.MULTILINE)
    assert statuses == ["200"] * 9 + ["422"]
    lines = [line for line in out.splitlines() if line.startswith("curl ")]
    assert KEY not in out
    again = run(["sh", "-c", f"{lines[3]} -s"], DIFFACET_KEY=KEY)  # a line can be copied
    assert '"items":[{' in again[1]
    code, out, _ = run([EXAMPLES / "curl.sh", url, "[7, 9]"], DIFFACET_KEY=KEY)
    assert code == 0
    assert '"history": [7, 9]' in out
    assert run([EXAMPLES / "curl.sh", url])[0] == 1


@needs_nginx
def test_nginx_takes_its_configuration(tmp_path):
    code, _, err = run(["nginx", "-t", "-e", "stderr", "-p", tmp_path, "-c", EXAMPLES / "nginx.conf"])
    assert (code, "syntax is ok" in err) == (0, True), err


@needs_nginx
def test_nginx_lets_through_what_clients_need(url, client):
    with tempfile.TemporaryDirectory() as folder, proxied(Path(folder), url) as front:
        asked = {"history": [1, 2, 3], "k": 3}
        answer = front.post("/v1/recommend", json=asked, headers={"x-request-id": "mine"})
        assert answer.json()["items"] == client.recommend(**asked)
        assert answer.headers["x-request-id"] == "mine"
        assert [front.get(path).status_code for path in ("/", "/readyz", "/v1/model", "/openapi.json")] == [200] * 4
        hidden = ("/metrics", "//metrics", "/%6detrics", "/static/..%2fmetrics", "/healthz", "/v1/admin/reload")
        reload = front.post("/v1/admin/reload", json={})
        for answer in (reload, *(front.get(f"http://front{path}") for path in hidden)):
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        answer = front.post("/v1/recommend", content=b"0" * 2**21, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


@contextlib.contextmanager
def proxied(folder, url):
    """A client of nginx before the service at `url`."""
    address = folder / "socket"
    text = (EXAMPLES / "nginx.conf").read_text()
    text = text.replace("127.0.0.1:8000 ", f"{url.removeprefix('http://')} ").replace(
        "127.0.0.1:8080", f"unix:{address}"
    )
    (folder / "nginx.conf").write_text(text)
    folder.chmod(0o755)
    words = ["nginx", "-e", "stderr", "-p", folder, "-c", folder / "nginx.conf", "-g", "daemon off;"]
    with (folder / "err").open("w") as err, subprocess.Popen(list(map(str, words)), stderr=err) as process:
        try:
            end = time.monotonic() + LIMIT
            while not address.exists():
                assert process.poll() is None, (folder / "err").read_text()
                assert time.monotonic() < end
                time.sleep(0.01)
            transport = httpx.HTTPTransport(uds=str(address))
            with httpx.Client(transport=transport, base_url="http://front", headers={"x-api-key": KEY}) as front:
                yield front
        finally:
            process.terminate()


def test_the_unit_starts_a_command_that_there_is():
    text = (EXAMPLES / "diffacet.service").read_text().replace("\\\n", "")
    unit = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    program, command, *words = shlex.split(unit["ExecStart"])
    assert (Path(program).name, command, unit["ExecReload"]) == ("diffacet", "serve", "/bin/kill -HUP $MAINPID")
    asked = parsed(words)
    assert asked["drain"] + 3 < float(unit["TimeoutStopSec"])  # seconds that the parent gives its workers beside
    assert int(unit["LimitNOFILE"]) > 4096 + 128  # connections of a worker, and its files


def parsed(words):
    """The options of a command line of 'diffacet serve', which is not run."""
    import typer

    from diffacet.app.cli import app

    return typer.main.get_command(app).commands["serve"].make_context("serve", list(words)).params


@pytest.fixture
def trainer(tmp_path):
    """A program named diffacet that 'trains' by copying $PREPARED, and finds a recall of $FOUND."""
    program = tmp_path / "bin" / "diffacet"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\nif [ "$1" = train ]; then cp -r "$PREPARED" "$6"; else\n'
        'echo "{\\"metrics\\": {\\"recall@20\\": 9, \\"recall@50\\": $FOUND}}"; fi\n'
    )
    program.chmod(0o755)

    def refresh(shop, url, name, prepared, found, **more):
        words = [EXAMPLES / "refresh.sh", shop / "data", shop / "runs", url]
        asked = {"PATH": f"{program.parent}:{os.environ['PATH']}", "NAME": name, "PREPARED": str(prepared)}
        return run(words, FOUND=str(found), **asked, **more)

    return refresh


@needs_curl
def test_a_new_run_is_taken_or_taken_back(shop, url, trainer, tmp_path):
    runs, current, key = shop / "runs", shop / "runs" / "current", {"DIFFACET_KEY": KEY}

    def served():
        return httpx.get(f"{url}/readyz").json()["model_version"]

    first = served()
    code, out, err = trainer(shop, url, "mon", runs / "two", 0.2, **key)
    assert (code, err, current.readlink().name) == (0, "", "mon")
    second = served()
    assert second != first
    assert second in out.splitlines()[-1]

    code, out, err = trainer(shop, url, "tue", runs / "one", 0.18, **key)
    assert (code, current.readlink().name, served()) == (1, "mon", second)
    assert err.endswith("not good enough, mon goes on\n")

    damaged = shutil.copytree(runs / "one", tmp_path / "damaged")
    (damaged / "best.safetensors").write_bytes(b"nothing")
    code, out, err = trainer(shop, url, "wed", damaged, 0.2, **key)
    assert (code, current.readlink().name, served()) == (1, "mon", second)
    assert '"code":"refused"' in out
    assert "runs/current leads to mon again" in err

    code, out, err = trainer(shop, url, "thu", runs / "one", "2e-1", SHARE="1", **key)
    assert (code, current.readlink().name, served()) == (0, "thu", first)
    assert not list(runs.glob(".*"))


@needs_curl
def test_without_keys_a_signal_does_and_the_metrics_tell(shop, trainer, tmp_path):
    """The service is a stand-in here: it counts a reload for each line in a file that the 'signal' writes."""
    heard = tmp_path / "heard"
    heard.touch()

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            results = heard.read_text().split()
            lines = [f'diffacet_reloads_total{{result="{one}"}} {results.count(one)}.0' for one in ("ok", "refused")]
            lines.append(f"diffacet_last_reload_ok {float(results[-1:] != ['refused'])}")
            self.send_response(200)
            self.end_headers()
            self.wfile.write("\n".join(lines).encode())

        def log_message(self, *_):
            pass

    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "current").symlink_to("old")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "runs").symlink_to(runs)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            for name, result, leads in (("mon", "ok", "mon"), ("tue", "refused", "mon"), ("wed", "ok", "wed")):
                signal = tmp_path / result
                signal.write_text(f"#!/bin/sh\necho {result} >> {heard}\n")
                signal.chmod(0o755)
                code, _, err = trainer(moved, url, name, shop / "runs" / "one", 0.2, RELOAD=str(signal))
                assert (code, (runs / "current").readlink().name) == (int(result == "refused"), leads), err
        finally:
            server.shutdown()


def test_the_page_knows_the_codes_the_metrics_and_the_options():
    from diffacet.app.serving.faults import CODES
    from diffacet.app.serving.metrics import Metrics

    rows = re.findall(r"^\| (\d{3}) \| (.*?) \|", PAGE, re.MULTILINE)
    told = {(int(status), code) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert told >= {(status, code) for status, codes in CODES.items() for code in codes}

    text = Metrics().text().decode()
    kinds = set(re.findall(r"^# TYPE (\w+) (?!gauge\n.*_created)", text, re.MULTILINE))
    named = {name for name in kinds if not name.endswith("_created")}
    assert named == set(re.findall(r"^\| `(diffacet_\w+)", PAGE, re.MULTILINE))

    known = set(parsed(["RUN"]))
    options = set(re.findall(r"`--([a-z-]+)", PAGE.split("## Candidates for all users")[0]))
    assert options - {"resume", "data", "out"} <= {name.replace("_", "-").rstrip("-") for name in known}


def test_every_command_of_the_page_is_one_of_the_program():
    from diffacet.app.cli import COMMANDS

    named = set(re.findall(r"\bdiffacet ([a-z-]+)", "\n".join(re.findall(r"```\n(.*?)```", PAGE, re.DOTALL))))
    assert {"train", "serve", "candidates"} <= named <= set(COMMANDS)
