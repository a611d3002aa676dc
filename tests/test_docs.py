"""The documentation's sources; the whole site is built and checked, strictly, by `make docs`."""

import ast
import itertools
import re
from pathlib import Path

import pytest
import typer
import yaml

import diffacet
from diffacet.app import settings
from diffacet.app.cli import COMMANDS
from diffacet.models import MODELS, card
from making import commands, links, models, pictures, python, results, symbols

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
WRITTEN = sorted(path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md"))
FRONT = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/serving/README.md"]


def leaves(entry):
    """Every page that the navigation names."""
    if isinstance(entry, dict):
        entry = list(entry.values())
    return [entry] if isinstance(entry, str) else list(itertools.chain.from_iterable(map(leaves, entry)))


@pytest.fixture(scope="module")
def made():
    """Place -> text of all pages that are made."""
    return dict(itertools.chain(models.pages(), commands.pages(), python.pages()))


def test_the_navigation_and_the_folder_have_the_same_pages():
    named = leaves(CONFIG["nav"])
    assert len(named) == len(set(named))
    by_hand = {page for page in named if not page.endswith("/") and not page.startswith(links.REPOSITORY)}
    assert by_hand == {page.removeprefix("docs/") for page in WRITTEN}
    for page in named:
        if page.startswith(links.REPOSITORY):
            assert (ROOT / page.removeprefix(links.REPOSITORY)).is_file()
    assert {page for page in named if page.endswith("/")} == {"models/", "commands/", "python/", "results/"}


def test_nothing_of_the_site_comes_from_a_network():
    assert CONFIG["theme"]["font"] is False
    assert "offline" in CONFIG["plugins"]
    # The theme would add one from a network if none were named so.
    assert any("iframe-worker" in script for script in CONFIG["extra"]["polyfills"])
    for asset in [*CONFIG["extra"]["polyfills"], *CONFIG["extra_css"]]:
        assert "://" not in (DOCS / asset).read_text(encoding="utf-8")


def anchors(path):
    """Anchors of a page's headings, as the site makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", re.sub(r"\]\([^)]*\)", "", head)).strip().lower() for head in heads)
    return {re.sub(r"[-\s]+", "-", head) for head in plain}


@pytest.mark.parametrize("page", WRITTEN + FRONT)
def test_links_of_written_pages_lead_somewhere(page, made):
    made = {f"docs/{place}" for place in made} | {"docs/results/index.md"}
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```|`[^`\n]+`", "", text, flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        to, _, anchor = link.partition("#")
        target = (ROOT / page).parent / to if to else ROOT / page
        place = target.resolve().relative_to(ROOT).as_posix()
        assert target.exists() or place in made, f"{page} links to {link}"
        if anchor and target.exists():
            assert anchor.lower() in anchors(target), f"{page} links to {link}"


def test_every_model_has_a_page_with_all_its_settings_presets_and_sources(made):
    for name in MODELS:
        page, one = made[f"models/{name}.md"], card(name)
        assert f"[`{name}`]({name}.md)" in made["models/index.md"]
        assert one.paper.title in page
        for row in settings.describe(one):
            where = page if row["group"] == "model" else made["models/training.md"]
            assert symbols.code(row["name"]) in where, f"{name}: {row['name']}"
            assert symbols.cell(row["description"]) in where
            assert not row["symbol"] or row["symbol"] in where
        for preset in one.presets.values():
            assert symbols.cell(preset.source) in page


def test_every_command_has_a_page_with_all_that_its_help_lists(made):
    assert set(commands.commands()) == set(COMMANDS)
    for name, command in commands.commands().items():
        page = made[f"commands/{name}.md"]
        assert f"[`{name}`]({name}.md)" in made["commands/index.md"]
        help_ = command.get_help(typer.Context(command, info_name=name, max_content_width=500))
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", help_.partition("\nOptions:")[2])) - {"--help"}
        for option in options:
            assert option in page, f"{name} {option}"
        for example in re.findall(
            r"^  +(diffacet .*)$", help_.partition("Examples:")[2].partition("\n\n")[0], re.MULTILINE
        ):
            assert example in page


def test_every_public_name_is_documented_where_it_is_defined(made):
    modules = set(itertools.chain(*python.groups().values()))
    for name in diffacet.__all__:
        assert f"`diffacet.{name}`" in made["python/index.md"]
        if name != "__version__":
            module, own, said = python.found(*python.home(name))
            assert module in modules, f"{name} is defined in {module}, which has no page"
            assert said, own
    assert {f"python/{module}.md" for module in modules} <= set(made)


def test_figures_of_a_model_are_those_of_its_study():
    one = next(table for table in results.tables() if table.name == "dmi-table2")
    found = results.of_model("dmi")
    assert "../results/dmi-table2/table.md" in found
    assert one.warnings[0].startswith("**This is not the whole study.**")
    # The row of the committed table, to its digits, and the best of what costs nothing beside it.
    table = (ROOT / links.RESULTS / "dmi-table2/table.md").read_text(encoding="utf-8")
    row = next(line for line in table.splitlines() if line.startswith("| DMI, paper |"))
    section = found.partition("### dmi-table2")[2].partition("###")[0]
    own = next(line for line in section.splitlines() if line.startswith("| **DMI, paper** |"))
    recall, ndcg = own.split(" | ")[2:4]
    assert recall in row
    assert ndcg in row
    assert "(best costless baseline)" in section
    assert "(best of the table)" in section
    assert results.of_model("no-such-model") == ""


def test_every_page_of_results_is_listed():
    listed = results.index()
    for page in results.pages():
        assert f"]({page.removeprefix(links.RESULTS)})" in listed


def test_links_to_the_repository_lead_to_its_pages_in_the_site():
    text = (
        "[a](../benchmarks/results/speed.md#ratios), `[b](../README.md)`, [c](clicks.md), [d](https://x.org), [e](../n)"
    )
    assert links.rewritten(text, "docs/serving.md") == text.replace("../benchmarks/results/", "results/")
    assert links.rewritten("[t](../../README.md)", "docs/tutorials/scale.md") == "[t](../repository/README.md)"
    back = links.rewritten("[s](docs/serving.md), [l](LICENSE)", "README.md")
    assert back == "[s](../serving.md), [l](LICENSE.md)"
    assert links.place("benchmarks/results/beyond") == "results/beyond/table.md"
    assert links.place("benchmarks/results") == "results/index.md"
    assert links.place("examples/serving") == "repository/examples/serving/README.md"
    assert links.rewritten("| `a\\|b` |", "README.md") == "| `a|b` |"
    fenced = "```\n[x](README.md)\n```\n"
    assert links.rewritten(fenced, "README.md") == fenced


def test_what_is_linked_becomes_a_page():
    found = links.linked(["docs/serving.md"])
    assert found["examples/serving/nginx.conf"].startswith("# examples/serving/nginx.conf\n\n```nginx\n")
    assert "examples/serving/README.md" in found
    assert links.linked(["README.md"])["LICENSE"].startswith("# LICENSE\n\n```text\n")
    assert not any(path.startswith((links.DOCS, links.RESULTS)) for path in found)


def test_the_glossary_has_every_symbol():
    page = symbols.filled((DOCS / "glossary.md").read_text(encoding="utf-8"))
    assert symbols.HERE not in page
    for symbol, name in symbols.rows():
        assert f"| {symbol} | <code>" in page, name


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text)]


@pytest.mark.parametrize("name", ["diffusion.svg", "house.svg", "journey.svg"])
def test_pictures_are_what_the_code_draws(name):
    kept, drawn = (DOCS / "pictures" / name).read_text(encoding="utf-8"), pictures.drawings()[name]
    assert re.sub(r"-?\d+\.\d+", "n", kept) == re.sub(r"-?\d+\.\d+", "n", drawn), "run: python docs/making/pictures.py"
    assert numbers(kept) == pytest.approx(numbers(drawn), abs=0.3)


def test_the_picture_of_diffusion_tells_the_truth():
    """It starts from the interest, spreads with the step, and comes nearer to what guides than it was noised."""
    found = pictures.computed()
    forward, backward, guides = found["forward"], found["backward"], found["items"][found["history"].astype(int)]
    assert forward[0] == pytest.approx(found["interest"][None].repeat(len(forward[0]), 0))
    spread = forward.std(1).mean(1)
    assert (spread[1:] > spread[:-1]).all()
    assert (backward[0] == forward[-1]).all()

    def distance(points):
        return abs(points[:, None] - guides).max(-1).min(-1).mean()

    assert distance(backward[-1]) < 0.5 * distance(forward[-1])


def test_the_house_is_drawn_as_it_is_enforced():
    tree = ast.parse((ROOT / "tests/test_house.py").read_text(encoding="utf-8"))
    told = next(
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ROOMS"
    )
    rooms = ast.literal_eval(told)
    allowed = {room: set(others) - {room} for room, others in rooms.items()}
    assert {room: set(others) for room, others in pictures.IMPORTS.items()} == {
        room: allowed[room] for room in pictures.IMPORTS
    }
    assert {name for name, *_ in pictures.ROOMS} == set(rooms)


def test_the_files_of_the_journey_exist():
    for _, _, file, _ in pictures.STAGES:
        for one in file.partition(":")[0].split(", "):
            if one != "models/x.py":
                assert (ROOT / "src/diffacet" / f"{one}.py").is_file(), one


def test_the_page_of_all_models_is_what_the_results_say(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import everything

    page = everything.page()
    assert (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8") == page
    studies = {name for field in everything.FIELDS for name in field.studies}
    assert {f"[{name}](../benchmarks/results/{name}/table.md)" in page for name in studies} == {True}
    for part in page.split("\n### ")[1:]:
        models = [row.split("|")[2].strip(" `") for row in part.splitlines() if row.startswith("| ")][2:]
        cheap = [model in everything.results.COSTLESS for model in models]
        assert cheap == sorted(cheap, reverse=True)  # the costless first
        assert part.count("| **") == 1


def test_an_interval_is_students(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from everything import interval

    assert interval([]) == "–"
    assert interval([0.25]) == "0.2500"
    assert interval([0.1, 0.2, 0.3]) == "0.2000 ± 0.2484"  # 4.3027 * 0.1 / sqrt(3)
