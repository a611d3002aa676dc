"""The explorer for tests: runs with a hostile title, served by threads, and tabs that write down what they see."""

import contextlib
import re
import threading
import time
from pathlib import Path

import httpx
import uvicorn

import diffacet
import servingshop
from diffacet.app.serving.api import create_app
from diffacet.app.serving.options import ServeOptions
from diffacet.app.serving.recommender import Recommender
from shoplog import write_shop

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
HOSTILE_ID = "7"
LIMIT = 60.0
"""Seconds until a test gives up; what is waited for comes much sooner."""


def write_runs(folder: Path, *models: str) -> dict[str, Path]:
    """Runs of the shop in which one title is markup."""
    log, items = write_shop(folder)
    quoted = HOSTILE.replace('"', '""')
    lines = [
        f'{HOSTILE_ID},"{quoted}",cups|left' if line.startswith(f"{HOSTILE_ID},") else line
        for line in items.read_text(encoding="utf-8").splitlines()
    ]
    items.write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = folder / "data"
    diffacet.import_log([log], data, user="customer", item="sku", time="ts", rating="none", items=items)
    return {name: servingshop.served_run(data, folder / name, name) for name in models}


class Site:
    """A service in a thread: its address, its recommender, and what it answers to who asks it directly."""

    def __init__(self, run: Path, port: int = 0, **options):
        self.recommender = Recommender.load(run, block=1)
        self.options = ServeOptions(**options)
        self.start(port)

    def start(self, port: int = 0) -> None:
        app = create_app(self.recommender, self.options)
        config = uvicorn.Config(app, port=port, log_config=None, ws="none", lifespan="on", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        end = time.monotonic() + LIMIT
        while not self.server.started:
            assert self.thread.is_alive(), "the service does not start"
            assert time.monotonic() < end, "the service is not ready in time"
            time.sleep(0.005)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(LIMIT)
        assert not self.thread.is_alive()

    def post(self, path: str, **body):
        answer = httpx.post(f"{self.url}/v1/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def get(self, path: str):
        return httpx.get(f"{self.url}/v1/{path}").json()

    def candidates(self, history, steps=None, k=20, **more):
        return self.post("recommend", history=history, k=k, refine_steps=steps, **more)["items"]


class Tab:
    """A page of the explorer with what it said and asked for."""

    def __init__(self, context, site: Site):
        self.page, self.site, self.said, self.asked = context.new_page(), site, [], []
        self.page.set_default_timeout(LIMIT * 1000)
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request))

    def open(self, at: str = ""):
        self.page.goto(f"{self.site.url}/{'#' if at else ''}{at}")
        return self

    def load(self, user: int = 0):
        """Load a held-out user and wait for the candidates."""
        self.page.select_option("#users", str(user))
        self.page.wait_for_selector(".after .row")
        return self.site.get("examples")["examples"][user]

    def ids(self, side: str = "after") -> list[str]:
        return self.page.eval_on_selector_all(f".{side} .row", "rows => rows.map(row => row.dataset.id)")

    def shows(self, items, side: str = "after") -> None:
        """Wait until a list shows these items in this order."""
        wanted = [str(item["item_id"]) for item in items]
        self.until(lambda: self.ids(side) == wanted)

    def until(self, what) -> None:
        """Wait until a script, or a function here, gives something true; the page may not wait for one itself."""
        end = time.monotonic() + LIMIT
        while not (what() if callable(what) else self.page.evaluate(what)):
            assert time.monotonic() < end, f"nothing came of {what}; the tab said {self.said}"
            self.page.wait_for_timeout(10)

    def said_text(self, selector: str) -> str:
        return re.sub(r"\s+", " ", self.page.inner_text(selector)).strip()

    def posted(self, path: str = "recommend") -> list[dict]:
        """Bodies of the requests so far."""
        return [one.post_data_json for one in self.asked if one.url.endswith(f"/v1/{path}")]

    def check(self, *expected: str) -> None:
        """Nothing was asked of others, and nothing was complained of but what is expected."""
        strange = [one.url for one in self.asked if not one.url.startswith((f"{self.site.url}/", "data:"))]
        assert strange == []
        assert [text for text in self.said if not any(part in text for part in expected)] == []


@contextlib.contextmanager
def tab_of(browser, site, expected=(), width=1440, scheme="light", **more):
    """A tab in a browser profile of its own, checked at the end."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **more)
    try:
        tab = Tab(context, site)
        yield tab
        tab.check(*expected)
    finally:
        context.close()


TONES = """() => {
  for (let tone = 0; tone < 8; tone++) {
    for (const [kind, pressed] of [["cell", null], ["badge", null], ["chip", "false"], ["chip", "true"]]) {
      const sign = document.createElement("span");
      sign.className = `${kind} tone-${tone}`;
      if (pressed) sign.setAttribute("aria-pressed", pressed);
      sign.style.setProperty("--heat", "100%");
      sign.textContent = "8";
      document.getElementById("history").append(sign);
    }
  }
}"""
"""Adds the signs of eight interests, at full heat."""

CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (css) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = (node) => {
    for (let one = node; one; one = one.parentElement) {
      const found = rgba(getComputedStyle(one).backgroundColor);
      if (found[3] === 255) return found;
    }
    return [255, 255, 255];
  };
  const bad = [];
  for (const node of document.body.querySelectorAll("*:not(option, script, noscript)")) {
    if (![...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())) continue;
    if (!node.checkVisibility({ opacityProperty: true }) || node.closest("svg, :disabled, [aria-disabled]")) continue;
    const style = getComputedStyle(node), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const [one, other] = [light(rgba(style.color)), light(ground(node))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < (large ? 3 : 4.5)) bad.push(`${node.className || node.tagName}: ${contrast.toFixed(2)}`);
  }
  return [...new Set(bad)];
}"""
"""Visible texts whose contrast with what lies behind them is below AA."""
