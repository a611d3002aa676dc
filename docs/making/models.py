"""A page for each model, from its card and its file; what `diffacet models NAME` prints, with figures and code."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from diffacet.app import settings
from diffacet.core.contract import Card
from diffacet.models import MODELS, card
from making import results
from making.text import cell, code, table

TASKS = {
    "matching": "from part of a history, the items of the rest of it",
    "next-item": "the next item of a session or a history",
    "collaborative": "from part of a user's row, without order, the rest of it",
    "click": "how likely a click on an item that was shown is",
}
"""Task of a card -> what is asked."""
LEADS = {
    "matching": "[Does refinement help?](../does-refinement-help.md)",
    "next-item": "[The next item](../next-item.md)",
    "collaborative": "[DiffRec and its tables](../diffrec.md)",
    "click": "[Click prediction](../clicks.md)",
}
"""Task of a card -> the page that compares its models, as a link."""
_EQUATION = re.compile(r"(?:(\b[A-Z][A-Za-z0-9]+),? )?Eqs?\. (\d+[a-z]?)(?:[-–](\d+[a-z]?))?")
_FIGURES = f"""Rows of this model as it was trained, from the tables of this repository; seeds, intervals, tests, costs
and the command are on the page that each section links. Mean ± sample deviation over runs. Rows of this model are
bold; beside them stand the best costless baseline
({", ".join(results.COSTLESS)}) and the best row of the same table, both as trained, too."""
_TRAINING = """# Settings of the training

Every trained model has these beside its own, under the same `--set name=value`. Defaults are those of the published
matching protocol; a model's page shows what its presets set otherwise. Where `diffacet tune` looks differs by model:
`diffacet models NAME`.

"""


def pages() -> Iterator[tuple[str, str]]:
    """(place in the site, text) of the list of models, of each model, and of the settings that all share."""
    cards = [card(name) for name in MODELS]
    parts = [
        "# Models\n\nOne line each; a page has settings, presets, figures with their tables, and code. When to choose "
        "which: [choosing a model](../choosing.md). `diffacet models` prints the list, `diffacet models NAME` settings."
    ]
    for task, what in TASKS.items():
        rows = [(f"[`{one.name}`]({one.name}.md)", cell(one.summary), _venue(one)) for one in cards if one.task == task]
        parts.append(f"## {task.capitalize()}\n\nAsked: {what}. Compared in {LEADS[task]}\n")
        parts.append(table(("name", "what it is", "paper"), rows))
    yield "models/index.md", "\n\n".join(parts)
    for one in cards:
        yield f"models/{one.name}.md", page(one)
    yield "models/training.md", _TRAINING + _settings(settings.describe(cards[0]), "training")


def _venue(one: Card) -> str:
    return "this repository" if one.paper.venue == "software" else f"{one.paper.venue} {one.paper.year}"


def page(one: Card) -> str:
    """All there is to say of a model."""
    module = importlib.import_module(f"diffacet.models.{MODELS[one.name]}")
    rows = settings.describe(one)
    about = inspect.getdoc(module) or ""
    parts = [
        f"# {one.name}",
        f"{cell(one.summary[:1].upper() + one.summary[1:])}. Task: *{one.task}* ({TASKS[one.task]}). "
        f"Beside others of its kind: {LEADS[one.task]}",
        f"{cell(str(one.paper))}.",
        f'??? quote "BibTeX"\n\n    ```bibtex\n{_indented(one.paper.bibtex(), 4)}\n    ```',
        f"```\ndiffacet train {one.name} --data DIR --out RUN\n```",
        _presets(one, rows),
        "## Settings",
        f"`--set name=value` changes one. Those of the training are the same for all models: "
        f"[settings of the training](training.md).\n\n{_settings(rows, 'model')}"
        if any(row["group"] == "model" for row in rows)
        else "None of its own; those of the training are the same for all: [settings of the training](training.md).",
    ]
    found = results.of_model(one.name)
    parts += [
        "## Our figures",
        f"{_FIGURES}\n\n{found}" if found else "No study in this repository has a row of this model.",
        "## Code",
        _text(about),
    ]
    equations = _equations(inspect.getsource(module))
    if equations:
        heads = ("equation", "where", "line", "code")
        parts += ["Where the equations are, by the paper's numbers:", table(heads, equations, (2,))]
    name = f"models/{MODELS[one.name]}.py"
    source = _indented(inspect.getsource(module), 4)
    parts.append(f'??? example "{name}"\n\n    ```python linenums="1"\n{source}\n    ```')
    return "\n\n".join(parts) + "\n"


def _presets(one: Card, rows: list[dict[str, Any]]) -> str:
    """Presets with their sources, and what they set otherwise than the defaults."""
    names = list(one.presets)
    told = table(("preset", "where its values come from"), [(code(n), cell(one.presets[n].source)) for n in names])
    # Defaults of the training are those of `Training`, which `describe` reads from the dataclass, like the model's.
    changed = [row for row in rows if any(value != row["default"] for value in row["presets"].values())]
    parts = ["## Presets", "`best` is taken if `--preset` says no other.", told]
    if changed:
        heads = ("setting", *(code(n) for n in names), "default")
        lines = []
        for row in changed:
            values = [code(settings.text(value)) for value in (*(row["presets"][n] for n in names), row["default"])]
            lines.append((code(row["name"]), *values))
        parts += ["What they set otherwise than the defaults:", table(heads, lines)]
    return "\n\n".join(parts)


def _settings(rows: list[dict[str, Any]], group: str) -> str:
    """The settings of a group: symbol, default, meaning; under it type, range and where a search looks."""
    lines = []
    for row in rows:
        if row["group"] != group:
            continue
        more = [code(row["type"]) + (f" {row['range']}" if row["range"] else "")]
        more += [f"`tune`: {cell(row['search'])}"] if row["search"] else []
        more += ["may change on a trained model"] if row["inference"] else []
        meaning = f'{cell(row["description"])}<br><span class="more">{" · ".join(more)}</span>'
        lines.append((code(row["name"]), row["symbol"] or "", code(settings.text(row["default"])), meaning))
    return table(("name", "symbol", "default", "meaning; type, range"), lines)


def _text(docstring: str) -> str:
    """A module's docstring as Markdown, paragraph by paragraph; shapes on a line of their own."""
    return "\n\n".join(cell(part) for part in docstring.replace("\nShapes: ", "\n\nShapes: ").split("\n\n"))


def _equations(source: str) -> list[tuple[str, str, str, str]]:
    """(equation, function or setting, line, code) of every line that names an equation, in the paper's order."""
    spans: list[tuple[int, int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    spans.append((inner.lineno, inner.end_lineno or 0, f"{node.name}.{inner.name}"))
                elif isinstance(inner, ast.AnnAssign):
                    spans.append((inner.lineno, inner.end_lineno or 0, f"setting {ast.unparse(inner.target)}"))
        elif isinstance(node, ast.FunctionDef) and not any(a <= node.lineno <= b for a, b, _ in spans):
            spans.append((node.lineno, node.end_lineno or 0, node.name))
    found = []
    for number, line in enumerate(source.splitlines(), 1):
        where = next((name for first, last, name in spans if first <= number <= last), None)
        for match in _EQUATION.finditer(line) if where else ():
            paper, first, last = match.groups()
            told = f"Eq. {first}-{last}" if last else f"Eq. {first}"
            label = f"{paper} {told}" if paper and paper not in ("By", "The") else told
            line_of = re.sub(r"\s+# .*$", "", line.strip())
            shown = line_of if where and not where.startswith("setting") and _is_code(line_of) else ""
            found.append((label, code(where or ""), str(number), code(shown)))
    return sorted(found, key=lambda row: (not row[0].startswith("Eq."), _order(row[0]), int(row[2])))


def _is_code(line: str) -> bool:
    """Whether a line is code, and no comment or part of a docstring."""
    return not line.startswith(("#", '"""')) and not line.endswith('."""') and bool(re.search(r"[=(]", line))


def _order(label: str) -> tuple[str, int]:
    paper, _, number = label.rpartition("Eq. ")
    return paper, int(re.match(r"\d+", number)[0])  # type: ignore[index]


def _indented(text: str, by: int) -> str:
    return "\n".join(" " * by + line if line else "" for line in text.rstrip().split("\n"))
