"""Links between files of the repository, kept working in the site.

A hand-written page links to tables, examples and code by their places in the repository, as who reads it there expects.
The site has these files as pages of its own and not as links to some host: it works offline, a figure is one click from
its provenance, and a link to a file that is gone fails the build. `place` says where a file stands in the site.
"""

import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS, RESULTS, REPOSITORY = "docs/", "benchmarks/results/", "repository/"
PICTURES = {".png", ".svg", ".jpg"}
LANGUAGES = {".py": "python", ".sh": "bash", ".toml": "toml", ".json": "json", ".conf": "nginx", ".service": "ini"}
LONG = 200_000
"""Bytes beyond which a file is offered for download instead of shown."""

# Code comes first, so that what looks like a link inside it is left alone.
_LINK = re.compile(
    r"^(?P<fence>```|~~~).*?^(?P=fence)|`[^`\n]+`|(?P<open>\]\()(?P<to>[^)\s]+)(?=\))", re.MULTILINE | re.DOTALL
)


def place(path: str) -> str:
    """The site's source path of the repository's file `path`; both have slashes, and no leading one."""
    if path + "/" in (DOCS, RESULTS):
        return "index.md" if path + "/" == DOCS else "results/index.md"
    if path.startswith(RESULTS) and (ROOT / path / "table.md").is_file():
        path += "/table.md"
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    if path.startswith(RESULTS):
        return "results/" + path.removeprefix(RESULTS)
    if (ROOT / path).is_dir():
        readme = f"{path}/README.md"
        return place(readme) if (ROOT / readme).is_file() else f"{REPOSITORY}{path}/index.md"
    page = path if Path(path).suffix in {".md", *PICTURES} or _is_long(path) else f"{path}.md"
    return REPOSITORY + page


def targets(text: str, page: str) -> Iterator[str]:
    """The repository's files and folders that `text`, the file `page`, links to; those that are there."""
    for match in _LINK.finditer(text):
        if match["to"] and (found := _resolved(match["to"], page)):
            yield found[0]


def rewritten(text: str, page: str) -> str:
    """`text` of the repository's file `page` with its links as they must be where the site has it."""
    here = posixpath.dirname(place(page))

    def moved(match: re.Match[str]) -> str:
        if match[0].startswith("`") and not match["fence"]:
            # A bar in a table's code is escaped for who reads it in the repository; here it would be shown.
            return match[0].replace("\\|", "|")
        found = _resolved(match["to"], page) if match["to"] else None
        if found is None:
            return match[0]
        to = posixpath.relpath(place(found[0]), here or ".")
        return f"{match['open']}{to}{found[1]}"

    return _LINK.sub(moved, text)


def linked(pages: Iterable[str]) -> dict[str, str]:
    """Repository files outside docs/ and the results that pages lead to, however far: file -> its page's text.

    A picture, or a file too long to be shown, has the text "" and is to be copied as it is.
    """
    found: dict[str, str] = {}
    waiting = [(page, (ROOT / page).read_text(encoding="utf-8")) for page in pages]
    while waiting:
        page, text = waiting.pop()
        for target in targets(text, page):
            if f"{target}/".startswith((DOCS, RESULTS)) or target in found:
                continue
            found[target] = _shown(target)
            waiting += [(target, found[target])] if target.endswith(".md") else []
    return found


def _resolved(link: str, page: str) -> tuple[str, str] | None:
    """(file of the repository, #anchor) of a relative link that leads to one."""
    path, sharp, anchor = link.partition("#")
    if not path or ":" in path or path.startswith("/"):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
    if target.startswith("..") or not (ROOT / target).exists():
        return None
    return target, sharp + anchor


def _is_long(path: str) -> bool:
    return (ROOT / path).stat().st_size > LONG


def _shown(path: str) -> str:
    """A file as a page: Markdown as it is, a folder as a list, other text as code."""
    whole = ROOT / path
    if whole.is_dir():
        names = sorted(entry.name for entry in whole.iterdir() if not entry.name.startswith((".", "__")))
        return f"# {path}/\n\n" + "\n".join(f"- `{name}`" for name in names) + "\n"
    if whole.suffix in PICTURES or _is_long(path):
        return ""
    text = whole.read_text(encoding="utf-8")
    if whole.suffix == ".md":
        return text
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", text)), 3)
    return f"# {path}\n\n{fence}{LANGUAGES.get(whole.suffix, 'text')}\n{text.rstrip()}\n{fence}\n"
