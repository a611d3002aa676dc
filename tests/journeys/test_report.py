"""The report in a real browser, without a network, as wide as a desk and as a phone."""

import re

import pytest

from browser import opened
from diffacet.app import importing, report, runs, settings
from diffacet.app.studies import results, work
from diffacet.errors import BadRun, BadSetting
from shoplog import TINY, write_shop

SECTIONS = ["results", "curves", "refinement", "user", "made", "definitions"]
PLOTS = ["quality", "validation", "losses", "steps", "latency"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    log, items = write_shop(folder)
    importing.import_log([log], folder / "shop", user="customer", item="sku", time="ts", rating="stars", items=items)
    found = {}
    for label, name, sets in (("Pop <1>", "pop", ()), ("REMI", "remi", TINY), ("DMI", "dmi", (*TINY, "steps=3"))):
        found[label] = []
        for seed in (1, 2):
            options = {"set": sets, "seed": seed, "split_seed": seed, "max_steps": 10}
            found[label].append(runs.train(name, folder / "shop", folder / f"{name}{seed}", **options))
    return found


@pytest.fixture(scope="module")
def page(trained, tmp_path_factory, few_requests):
    path = tmp_path_factory.mktemp("page") / "report.html"
    options = {"focus": "DMI", "against": "REMI", "ks": (5, 10), "metric": "recall@10"}
    report.write(path, report.build(trained, title="A <shop>", notes=["Small & made up."], **options))
    return path


@pytest.fixture(scope="module")
def browser():
    with opened() as chromium:
        yield chromium


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_stands_alone_at_any_width(browser, page, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    tab = context.new_page()
    said, asked = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    for plot in PLOTS:
        tab.wait_for_selector(f"#plot-{plot} .main-svg")
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert [each.get_attribute("id") for each in tab.query_selector_all("section")] == SECTIONS
    boxes = [tab.query_selector(f"#plot-{plot}").bounding_box() for plot in PLOTS]
    assert all(box["width"] <= width and box["height"] >= 200 for box in boxes)
    ink = tab.evaluate("getComputedStyle(document.querySelector('#plot-steps .xtitle')).fill")
    assert ink == tab.evaluate("getComputedStyle(document.body).color")
    context.close()


def test_the_page_says_what_was_measured(page, trained):
    text = page.read_text(encoding="utf-8")
    assert text.count("plotly.js v") == 1
    assert "A &lt;shop&gt;" in text
    assert "Pop &lt;1&gt;" in text
    assert "Small &amp; made up." in text
    run = trained["DMI"][0]
    for fact in (run.about["data"]["fingerprint"], "95 % interval", "--set steps=3", "ndcg_textbook@10", "Ware &lt;"):
        assert fact in text
    mean = sum(each.evaluate(ks=(10,))["metrics"]["recall@10"] for each in trained["DMI"]) / 2
    assert f"{mean:.4f}" in text
    assert len(re.findall(r"<h3>Interest \d</h3>", text)) == 4
    assert "nan" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL).lower().replace("finance", "")


def test_the_commands_train_the_same_settings_again(trained):
    run = trained["DMI"][0]
    words = report.command(run, "shop").split()
    pairs = [words[n + 1] for n, word in enumerate(words) if word == "--set"]
    again = settings.apply(run.card, settings.preset(run.card, "best"), settings.split_pairs([*pairs, "seed=1"]))
    assert (again.model, again.training) == (run.settings.model, run.settings.training)


def test_a_simple_baseline_that_wins_is_said_to_win(trained):
    what = work.wanted([f"{name}@5" for name in report.COLUMNS], (5,))
    lines = results.measured(trained, what, on=("test",))
    simple, main = lines[0], lines[-1]
    told = " ".join(report.headline(main, None, [], lines, "recall@5", "test"))
    won = simple.mean("recall@5", "test") > main.mean("recall@5", "test")
    assert (f"A simple baseline wins: {simple.label}" in told) == won
    assert ("below DMI" in told) != won


def test_a_report_without_its_focus_is_refused(trained):
    with pytest.raises(BadRun, match="needs runs of Other"):
        report.build(trained, title="x", focus="Other")


def test_runs_on_other_users_are_not_set_against_each_other(trained):
    apart = {"DMI": trained["DMI"][:1], "REMI": trained["REMI"][1:]}
    with pytest.raises(BadRun, match="DMI and REMI were measured on other users"):
        report.build(apart, title="x", focus="DMI", against="REMI", ks=(5,), metric="recall@5")


@pytest.mark.parametrize(
    ("metric", "why"),
    [("recal@5", "did you mean 'recall'"), ("recall", "recall@50"), ("gini@5", "no mean over users")],
)
def test_a_metric_without_a_value_for_each_user_is_refused(trained, metric, why):
    with pytest.raises(BadSetting, match=why):
        report.build(trained, title="x", focus="DMI", metric=metric)
