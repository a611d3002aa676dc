"""The explorer in a real browser, on a real service: by keyboard, by mouse, as wide as a desk and as a phone."""

import re
import threading
from pathlib import Path

import pytest

from browser import opened
from diffacet.app.serving.pages import PAGE
from explorersite import CONTRASTS, HOSTILE, HOSTILE_ID, TONES, Site, tab_of, write_runs

PLACES = ("#candidates-said", "#lists", "#interests-body", "#strip")
KEY = "a-key-of-the-tests-0123456789"


@pytest.fixture(scope="module")
def browser():
    with opened() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def runs(browser, tmp_path_factory):  # without a browser nothing is trained
    return write_runs(tmp_path_factory.mktemp("explorer"), "dmi", "ease", "sasrec")


@pytest.fixture(scope="module")
def site(runs):
    served = Site(runs["dmi"])
    yield served
    served.stop()


@pytest.fixture
def tab(browser, site):
    with tab_of(browser, site) as opened_tab:
        yield opened_tab


@pytest.fixture
def serve():
    """Serves a run until the test ends."""
    served = []

    def start(run, **options):
        served.append(Site(run, **options))
        return served[-1]

    yield start
    for one in served:
        one.stop()


def ids_of(items):
    return [str(item["item_id"]) for item in items]


def test_the_page_begins_with_an_invitation_and_no_candidates(tab):
    tab.open().page.wait_for_selector("#empty")
    card = tab.site.get("model")
    assert tab.page.inner_text("#model-name") == "dmi"
    assert tab.said_text("#model-facts") == f"{card['version']} · 40 items · data"
    assert not tab.page.is_visible("#candidates")
    assert not tab.page.is_visible("#lens")
    assert tab.posted() == []
    tab.page.click("#empty button.primary")
    tab.page.wait_for_selector(".after .row")
    assert not tab.page.is_visible("#empty")


def test_items_are_picked_by_keyboard_alone(tab):
    tab.open().page.wait_for_selector("#empty")
    tab.page.keyboard.press("Tab")
    assert tab.page.evaluate("document.activeElement.className") == "skip"
    tab.page.focus("#theme")
    tab.page.keyboard.press("Tab")
    assert tab.page.evaluate("document.activeElement.id") == "pick"
    tab.page.keyboard.type("ware <2")
    tab.until("document.querySelectorAll('[role=option]').length == 11")  # 2, and 20 to 29
    second = tab.page.locator("[role=option]").nth(1)
    tab.page.keyboard.press("ArrowDown")
    assert tab.page.get_attribute("#pick", "aria-activedescendant") == second.get_attribute("id")
    assert tab.page.get_attribute("#pick", "aria-expanded") == "true"
    assert second.get_attribute("aria-selected") == "true"
    title = second.locator(".option-title").inner_text()
    number = re.search(r"<(\d+)>", title)[1]
    tab.page.keyboard.press("Enter")
    tab.shows(tab.site.candidates([number], 10))
    tab.shows(tab.site.candidates([number], 0), "before")
    assert tab.said_text("#said") == f"{title} added."
    tab.page.keyboard.type("31")
    tab.page.wait_for_selector("[role=option] >> text=Ware <31> & co")
    tab.page.keyboard.press("Escape")
    assert not tab.page.is_visible("#pick-list")
    tab.page.keyboard.press("Enter")
    tab.shows(tab.site.candidates([number, 31], 10))
    assert f"#h={number},31" in tab.page.url


def test_a_held_out_user_comes_with_what_was_taken_next(tab):
    example = tab.open().load(1)
    history = [item["item_id"] for item in example["history"]]
    tab.shows(items := tab.site.candidates(history, 10))
    before = tab.site.candidates(history, 0)
    wanted = {str(one) for one in example["next"]}
    hits = tab.page.eval_on_selector_all(".after .hit", "rows => rows.map(row => row.dataset.id)")
    assert hits == [one for one in ids_of(items) if one in wanted]
    was = len(wanted & set(ids_of(before)))
    said = tab.said_text("#candidates-said")
    assert f"Of the {len(wanted)} items that the user took next, {len(hits)} ★" in said
    assert f"here ({was} before)" in said
    tab.page.click("#clear")
    tab.page.wait_for_selector("#empty")
    assert tab.ids() == []
    assert "#" not in tab.page.url


def test_changes_are_those_between_the_two_answers(tab):
    history = [item["item_id"] for item in tab.open().load(0)["history"]]
    before, after = (ids_of(tab.site.candidates(history, steps)) for steps in (0, 10))
    tab.shows(tab.site.candidates(history, 10))
    expected = []
    for place, item in enumerate(after):
        moved = before.index(item) - place if item in before else None
        if moved is None:
            expected.append("new")
        elif moved == 0:
            expected.append("unmoved=")
        else:
            expected.append(f"▲moved up  {moved}" if moved > 0 else f"▼moved down  {-moved}")
    texts = "rows => rows.map(row => row.querySelector('.change').textContent)"
    assert tab.page.eval_on_selector_all(".after .row", texts) == expected
    gone = [item for item in before if item not in after]
    assert tab.page.eval_on_selector_all(".before .gone.row", "rows => rows.map(row => row.dataset.id)") == gone
    assert len(set(expected)) > 3, "a comparison with nothing to see"
    assert tab.page.locator(".link").count() == len(before) - len(gone)
    tab.page.focus(".before .row:not(.gone) .add")
    lit = "rows => rows.map(row => row.dataset.id)"
    assert len(set(tab.page.eval_on_selector_all(".lit", lit))) == 1
    assert tab.page.locator(".lit").count() == 3, "the item here, there, and the line between"
    said = tab.said_text("#candidates-said")
    assert said.startswith(f"10 steps of refinement: {len(gone)} new, {len(gone)} gone,")


def test_the_slider_asks_for_other_steps_and_the_newest_answer_wins(tab):
    history = [item["item_id"] for item in tab.open().load(0)["history"]]
    assert tab.page.get_attribute("#steps", "max") == "10"
    tab.page.focus("#steps")
    tab.page.keyboard.press("ArrowLeft")
    tab.shows(tab.site.candidates(history, 9))
    assert {body["refine_steps"] for body in tab.posted()} == {0, 9, 10}
    assert tab.posted("interests")[-1]["refine_steps"] == 9
    assert tab.page.get_attribute("#steps", "aria-valuetext") == "9 of 10 steps"
    assert "9 steps of refinement" in tab.said_text("#candidates-said")
    held = []
    arrived = threading.Event()

    def hold(route):
        if route.request.post_data_json["refine_steps"] == 3:
            held.append(route)
            arrived.set()
        else:
            route.continue_()

    tab.page.route("**/v1/recommend", hold)
    tab.page.fill("#steps", "3")
    tab.until("document.getElementById('steps-said').textContent.startsWith('3')")
    tab.until(arrived.is_set)
    tab.page.fill("#steps", "1")
    tab.shows(tab.site.candidates(history, 1))
    for route in held:
        route.abort()  # an answer too late, or none: nobody listens
    tab.page.fill("#steps", "0")
    tab.shows(tab.site.candidates(history, 0))
    assert "0 steps of refinement: 0 new, 0 gone, 0 moved up, 0 moved down, 20 unmoved." in tab.said_text(
        "#candidates-said"
    )
    assert "Without a step of refinement nothing moves." in tab.said_text("#interests-body")
    assert "&s=0" in tab.page.url
    tab.said = [text for text in tab.said if "ERR_FAILED" not in text]


def test_candidates_are_asked_for_as_the_controls_say(tab):
    history = [item["item_id"] for item in tab.open().load(0)["history"]]
    tab.page.select_option("#k", "10")
    tab.shows(tab.site.candidates(history, 10, k=10))
    tab.page.focus("#diversity")
    tab.page.keyboard.press("End")
    tab.until("location.hash.includes('&d=')")
    kappa = float(re.search(r"&d=([\d.]+)", tab.page.url)[1])
    tab.shows(varied := tab.site.candidates(history, 10, k=10, diversity=kappa))
    assert tab.posted()[-1]["diversity"] == kappa > 0
    assert len({item["category"] for item in varied}) == 2
    tab.page.keyboard.press("Home")
    tab.page.uncheck("#hide-seen")
    tab.shows(tab.site.candidates(history, 10, k=10, exclude_seen=False))
    tab.page.click("#categories summary")
    tab.page.check("#categories input[value=tea]")
    tab.page.check("#categories input[value=pots]")
    tab.shows(tab.site.candidates(history, 10, k=10, exclude_seen=False, categories=["tea", "pots"]))
    assert tab.page.inner_text("#categories summary") == "Categories: 2 chosen"
    tab.page.keyboard.press("Escape")
    assert not tab.page.is_visible("#categories .menu")
    tab.page.click("[data-view=groups]")
    count = tab.page.locator(".after .group").count()
    assert count == len(tab.site.post("interests", history=history)["interests"])
    items = tab.site.candidates(history, 10, k=10, exclude_seen=False, categories=["tea", "pots"])
    assert tab.ids() == ids_of(sorted(items, key=lambda item: item["interest"]))


def test_the_strip_shows_attention_and_what_an_interest_leaves_out(tab):
    history = [str(item["item_id"]) for item in tab.open().load(1)["history"]]
    told = tab.site.post("interests", history=history, refine_steps=10)
    tab.page.wait_for_selector("#attention", state="attached")
    read = "rows => rows.map(row => [...row.cells].slice(1).map(cell => cell.textContent))"
    rows = tab.page.eval_on_selector_all("#attention tbody tr", read)
    older, interests = len(history) - len(told["history"]), told["interests"]
    assert len(rows) == len(history)
    assert all(cell == "not read: older" for row in rows[:older] for cell in row)
    for column, row in enumerate(rows[older:]):
        wanted = [
            f"{100 * one['attention'][column]:.1f} %{'' if one['kept'][column] else ', pruned'}" for one in interests
        ]
        assert row == wanted
    tab.page.click(".interest-card >> nth=1")
    pruned = tab.page.eval_on_selector_all("[data-at]", "list => list.map(one => !!one.querySelector('.item.pruned'))")
    assert pruned[-len(told["history"]) :] == [not kept for kept in interests[1]["kept"]]
    assert 0 < sum(pruned) < len(pruned)
    assert set(tab.page.eval_on_selector_all(".after .badge", "all => all.map(one => one.textContent)")) <= {
        "interest 2"
    }
    box = tab.page.locator(".dimensions")
    box.focus()
    tab.page.keyboard.press("Home")
    tab.page.keyboard.press("ArrowRight")
    coarse, refined = interests[1]["coarse"][1], interests[1]["refined"][1]
    said = f"dimension 2 of 8: {coarse:+.3f} → {refined:+.3f}, moved {refined - coarse:+.3f}".replace("-", "−")
    assert box.get_attribute("aria-valuetext") == said
    assert tab.page.locator(".plane .dot").count() == len(told["history"])
    assert tab.page.locator(".plane .coarse").count() == len(interests)


def test_items_are_moved_and_taken_out_by_keyboard(tab):
    tab.open("h=1,5,9").page.wait_for_selector(".after .row")
    tab.page.focus("[data-at='0'] [data-act=remove]")
    tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("Shift+ArrowRight")
    tab.shows(tab.site.candidates([1, 9, 5], 10))
    assert tab.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Remove Ware <5> & co"
    assert tab.said_text("#said") == "Ware <5> & co is item 3 of 3 now."
    tab.page.keyboard.press("Home")
    tab.page.keyboard.press("Delete")
    tab.shows(tab.site.candidates([9, 5], 10))
    tab.page.locator(".after .add").first.focus()
    first = tab.ids()[0]
    tab.page.keyboard.press("Enter")
    tab.shows(tab.site.candidates([9, 5, int(first)], 10))
    assert tab.page.evaluate("document.activeElement.classList.contains('add')"), "the focus is lost"


def test_pasted_ids_unknown_ones_and_errors_of_the_service_are_told(browser, site):
    with tab_of(browser, site, expected=("422",)) as tab:
        tab.open().page.wait_for_selector("#empty")
        tab.page.click("#paste-open")
        tab.page.fill("#paste-ids", '[1, "5",\n 9, no-such, 4711]')
        tab.page.click("#paste button[type=submit]")
        tab.shows(site.candidates([1, 5, 9], 10))
        assert tab.said_text(".unknown-ids") == "Not in the catalogue, passed over: no-such, 4711"
        assert tab.page.locator(".item.unknown").count() == 2
        tab.page.click("#paste-open")
        tab.page.fill("#paste-ids", "none,neither")
        tab.page.click("#paste-replace")
        tab.page.wait_for_selector("#candidates-error")
        assert "no id of the history is in the catalogue" in tab.said_text("#candidates-error")
        assert "unknown_items" in tab.said_text("#candidates-error")
        assert tab.ids() == []


def test_a_service_that_is_gone_is_said_and_asked_again(browser, serve, runs):
    site = serve(runs["dmi"])
    with tab_of(browser, site, expected=("ERR_CONNECTION_REFUSED",)) as tab:
        tab.open("h=1,5").page.wait_for_selector(".after .row")
        site.stop()
        tab.page.select_option("#k", "50")
        tab.page.wait_for_selector("#candidates-error")
        assert "The service does not answer" in tab.said_text("#candidates-error")
        assert len(tab.ids()) == 20, "the last answer stays"
        site.start(site.port)
        tab.page.click("#candidates-error button")
        tab.shows(site.candidates([1, 5], 10, k=50))
        assert not tab.page.is_visible("#candidates-error")


def test_another_run_in_service_is_noticed(browser, serve, runs):
    site = serve(runs["dmi"])
    with tab_of(browser, site, expected=("422",)) as tab:
        tab.open("h=1,5").page.wait_for_selector(".lens .steps")
        site.recommender.reload(runs["ease"])
        tab.page.select_option("#k", "10")
        tab.until("document.getElementById('model-name').textContent == 'ease'")
        tab.shows(site.candidates([1, 5], k=10))
        assert not tab.page.is_visible("#lens")


def test_a_title_is_text_whatever_it_holds(tab):
    tab.open("h=1,5&k=50").page.wait_for_selector(".after .row")
    tab.page.fill("#pick", "<img")
    option = tab.page.locator("[role=option] .option-title")
    option.first.wait_for()
    assert option.all_inner_texts() == [HOSTILE]
    tab.page.keyboard.press("Enter")
    tab.shows(tab.site.candidates([1, 5, HOSTILE_ID], 10, k=50))
    assert tab.page.locator("[data-at='2'] .item-title").text_content().replace("\u00ad", "") == HOSTILE
    assert tab.page.locator("main img, main script, dialog img").count() == 0
    assert "owned" not in tab.page.title()


def test_a_view_comes_back_from_its_address(tab, browser, site):
    tab.open().load(2)
    tab.page.fill("#steps", "4")
    tab.page.select_option("#k", "10")
    tab.page.click(".lens .chip >> text=2")
    tab.until("location.hash.includes('&s=4&k=10&i=2')")
    tab.page.click("[data-view=groups]")
    tab.until("document.querySelectorAll('.group').length == 2")
    shown = [tab.said_text(place) for place in PLACES]
    address = tab.page.url
    with tab_of(browser, site) as other:
        other.open(address.partition("#")[2]).page.wait_for_selector(".after .row, .after .plain")
        assert [
            other.said_text(place) for place in ("#candidates-said", "#lists", "#interests-body", "#strip")
        ] == shown
        assert other.page.url == address
        other.page.evaluate("location.hash = 'h=%E0%A4%A&k=999&s=x&i=0&u=99&d=NaN'")
        other.page.wait_for_selector("#empty")


def test_a_model_that_scores_all_items_shows_its_candidates(browser, serve, runs):
    site = serve(runs["ease"])
    with tab_of(browser, site) as tab:
        history = [item["item_id"] for item in tab.open().load(0)["history"]]
        tab.shows(site.candidates(history))
        assert "ease scores all items at once" in tab.said_text("#no-interests")
        assert not tab.page.is_visible("#lens")
        assert tab.page.locator(".before, .after .badge, #attention").count() == 0
        assert tab.posted("interests") == []
        assert {body["refine_steps"] for body in tab.posted()} == {None}


def test_a_model_with_one_vector_shows_it(browser, serve, runs):
    site = serve(runs["sasrec"])
    with tab_of(browser, site) as tab:
        tab.open("h=1,5,9").page.wait_for_selector(".plane")
        tab.shows(site.candidates([1, 5, 9]))
        assert "sasrec found one interest in this history. It does not refine it" in tab.said_text("#interests-lead")
        assert tab.page.locator(".before, .plane .coarse").count() == 0
        vector = site.post("interests", history=[1, 5, 9])["interests"][0]["refined"]
        tab.page.focus(".dimensions")
        tab.page.keyboard.press("End")
        assert tab.page.get_attribute(
            ".dimensions", "aria-valuetext"
        ) == f"dimension 8 of 8: {vector[-1]:+.3f}".replace("-", "−")


def test_a_key_is_asked_for_and_kept_out_of_sight(browser, serve, runs):
    site = serve(runs["dmi"], keys=(KEY,))
    with tab_of(browser, site, expected=("401",)) as tab:
        tab.open("h=1,5").page.wait_for_selector("#key-form")
        assert tab.page.evaluate("document.activeElement.id") == "key"
        assert not tab.page.is_visible("main")
        tab.page.keyboard.type("a wrong one")
        tab.page.keyboard.press("Enter")
        tab.until("document.getElementById('key-hint').textContent.includes('key')")
        tab.page.fill("#key", KEY)
        tab.page.keyboard.press("Enter")
        tab.page.wait_for_selector(".after .row")
        last = [one for one in tab.asked if "/v1/" in one.url][-1]
        assert last.headers["authorization"] == f"Bearer {KEY}"
        assert not any(KEY in one.url for one in tab.asked)
        assert KEY not in tab.page.url + tab.page.content()
        tab.page.reload()
        tab.page.wait_for_selector(".after .row")


def test_the_model_card_is_a_dialog(tab):
    tab.open().page.wait_for_selector("#empty")
    card = tab.site.get("model")
    tab.page.focus("#open-card")
    tab.page.keyboard.press("Enter")
    text = tab.said_text("dialog")
    for part in (card["version"], card["paper"], card["data"]["fingerprint"], "gamma 0.5", "recall"):
        assert part in text
    tab.page.keyboard.press("Escape")
    assert not tab.page.is_visible("dialog")
    assert tab.page.evaluate("document.activeElement.id") == "open-card"


@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_is_read_at_any_width_and_in_any_light(browser, site, width, scheme):
    with tab_of(browser, site, width=width, scheme=scheme, reduced_motion="reduce") as tab:
        tab.open().page.wait_for_selector("#empty")
        wide = "document.scrollingElement.scrollWidth"
        assert tab.page.evaluate(wide) <= width
        assert tab.page.evaluate(CONTRASTS) == []
        tab.load(0)
        for act in (lambda: tab.page.click("#paste-open"), lambda: tab.page.click(".lens .chip >> text=1")):
            act()
            assert tab.page.evaluate(wide) <= width
        tab.page.click("[data-view=groups]")
        tab.page.fill("#pick", "no such thing, by any name that is as long as this one is")
        assert tab.page.evaluate(wide) <= width
        tab.page.evaluate(TONES)
        assert tab.page.evaluate(CONTRASTS) == []
        assert tab.page.evaluate("document.getAnimations().length") == 0
        spilt = "all => all.filter(one => one.scrollWidth > one.clientWidth).length"
        tab.open("h=1,5&k=50").page.wait_for_selector(f".after [data-id='{HOSTILE_ID}']", state="attached")
        assert tab.page.eval_on_selector_all(".row, .row > *", spilt) == 0
        both = tab.page.locator(".before").is_visible() and tab.page.locator(".after").is_visible()
        assert both == (width > 860)
        if width < 860:
            tab.page.click(".side-switch >> text=Before")
            assert tab.page.locator(".before").is_visible()
            assert not tab.page.locator(".after").is_visible()
        small = "all => all.filter(one => one.checkVisibility()).map(one => one.getBoundingClientRect())"
        boxes = tab.page.eval_on_selector_all(
            "button, select, summary", f"{small}.filter(box => box.height < 24).length"
        )
        assert boxes == 0


def test_the_theme_can_be_turned_and_stays(browser, site):
    with tab_of(browser, site, scheme="dark") as tab:
        tab.open()
        paint = "getComputedStyle(document.body).backgroundColor"
        dark = tab.page.evaluate(paint)
        assert tab.page.get_attribute("#theme", "aria-pressed") == "true"
        tab.page.click("#theme")
        assert tab.page.evaluate(paint) != dark
        tab.page.reload()
        assert tab.page.get_attribute("#theme", "aria-pressed") == "false"
        assert tab.page.evaluate(paint) != dark


def test_the_page_names_no_other_place_and_holds_no_code_of_its_own():
    files = [path for path in PAGE.rglob("*") if path.suffix in {".html", ".js", ".css", ".svg"}]
    assert len(files) > 20
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 350, path
        assert set(re.findall(r"https?://[^\s\"')]+", text)) <= {"http://www.w3.org/2000/svg"}, path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(|document\.write", text), path
    html = Path(PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script>", html)
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    named = set(re.findall(r'(?:for|aria-controls|aria-labelledby|aria-describedby)="([^"]+)"', html))
    assert named - set(ids) <= {"card-title"}, "the dialog's title comes with the dialog"
