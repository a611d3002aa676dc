"""Hooks of MkDocs: pages that are made, links to files of the repository, and pictures that follow the theme.

The text comes from `making`, which knows nothing of MkDocs; `mkdocs.yml` names this file.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from diffacet.models import MODELS, card

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from making import commands, links, models, python, results, symbols  # noqa: E402
from making.links import DOCS, ROOT  # noqa: E402

_PICTURE = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?:\.\./)*pictures/(?P<name>[a-z-]+\.svg)\)")
_sources: dict[str, str] = {}
"""Place of a page in the site -> its file in the repository, for those that have one."""
_made: dict[str, str] = {}
"""Place of a page in the site -> its text, for those that are made."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the pages, and put them into the navigation where it says so."""
    _made.clear()
    for part in (models, commands, python):
        _made.update(part.pages())
    _made["results/index.md"] = results.index()
    config.nav = [_filled(entry) for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is made, the results, and every file of the repository that a page leads to."""
    _sources.clear()
    own = [DOCS + file.src_uri for file in files.documentation_pages()]
    for path in [*own, *results.pages()]:
        _sources[links.place(path)] = path
    for path in results.files():
        files.append(File.generated(config, links.place(path), abs_src_path=str(ROOT / path)))
    for path, text in links.linked([*own, *results.pages(), "CONTRIBUTING.md", "CHANGELOG.md"]).items():
        _add(files, config, path, text)
    for path in ("CONTRIBUTING.md", "CHANGELOG.md"):
        if links.place(path) not in _sources:
            _add(files, config, path, (ROOT / path).read_text(encoding="utf-8"))
    for place, text in _made.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links to repository files lead to their pages here; computed pictures and tables are put in."""
    place = page.file.src_uri
    if place.endswith(("/table.md", "benchmarks.md")):
        page.meta["hide"] = ["toc"]  # tables of results want the width
    if place in _sources:
        markdown = links.rewritten(markdown, _sources[place])
    if symbols.HERE in markdown:
        markdown = symbols.filled(markdown)
    return _PICTURE.sub(_drawn, markdown)


def _add(files: Files, config: MkDocsConfig, path: str, text: str) -> None:
    place = links.place(path)
    if text:
        _sources[place] = path
        files.append(File.generated(config, place, content=text))
    else:
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))


def _drawn(match: re.Match[str]) -> str:
    """A picture in the page itself, where it takes its colours from the theme."""
    drawing = (HERE / "pictures" / match["name"]).read_text(encoding="utf-8")
    body = "\n".join(line for line in drawing.splitlines() if line.strip() and not line.startswith("<?xml"))
    return f'<figure class="picture" role="img" aria-label="{match["alt"]}">\n{body}\n</figure>'


def _filled(entry: Any) -> Any:
    """An entry of the navigation with the pages of a folder in the place of "folder/"."""
    if isinstance(entry, dict):
        return {title: _filled(inside) for title, inside in entry.items()}
    if isinstance(entry, list):
        return [_filled(inside) for inside in entry]
    if not entry.endswith("/"):
        return entry
    if entry == "results/":
        grouped: dict[str, list[Any]] = {}
        for path in results.pages():
            name = path.removeprefix(links.RESULTS).removesuffix("/table.md").removesuffix(".md")
            grouped.setdefault(results.group(path), []).append({name: links.place(path)})
        return [f"{entry}index.md", *({title: grouped[title]} for title in ("Studies", "Measurements"))]
    if entry == "python/":
        return [f"{entry}index.md", *({title: list(_named(entry, names))} for title, names in python.groups().items())]
    if entry == "models/":
        tasks = {task: [name for name in MODELS if card(name).task == task] for task in models.TASKS}
        of_task = ({task.capitalize(): list(_named(entry, names))} for task, names in tasks.items())
        return [f"{entry}index.md", *of_task, {"Settings of the training": f"{entry}training.md"}]
    return [f"{entry}index.md", *_named(entry, commands.commands())]


def _named(folder: str, names: Iterable[str]) -> Iterable[dict[str, str]]:
    """Pages of a folder under their own names."""
    return ({name: f"{folder}{name}.md"} for name in names)
