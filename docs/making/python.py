"""Pages of the Python interface: the public names, and a page for each module that a user would import.

Modules are read and not run: a page does not depend on which extras are installed.
"""

import ast
import functools
import itertools
from collections.abc import Iterator

import diffacet
from making.links import ROOT
from making.text import cell, table

_GROUPS = {
    "Runs": (
        "app.importing",
        "app.splitting",
        "app.runs",
        "app.clicks.run",
        "app.serving.recommender",
        "app.report",
        "app.search.study",
        "app.exporting",
    ),
    "Data": (
        "data.readers",
        "data.interactions",
        "data.store",
        "data.filters",
        "data.sequences",
        "data.splits",
        "data.clicks.store",
        "data.clicks.splitting",
        "data.synth.settings",
    ),
    "Models": ("models", "core.contract", "core.batch", "core.papers"),
    "Parts of models": (
        "core.diffusion.schedules",
        "core.diffusion.chain",
        "core.diffusion.sphere",
        "core.diffusion.noise",
        "core.interests.attention",
        "core.interests.capsules",
        "core.interests.guidance",
        "core.denoisers",
        "core.encoders",
        "core.objectives",
        "core.profiles",
        "core.layers",
        "core.behaviours",
    ),
    "Training": ("learn.fit", "learn.batches", "learn.optim", "learn.checkpoint"),
    "Ranking": (
        "rank.retriever",
        "rank.candidates",
        "rank.ranking",
        "rank.index",
        "rank.evaluate",
        "rank.metrics",
        "rank.click_evaluate",
        "rank.clicks",
    ),
    "Hall": ("errors", "seeds", "files"),
}
"""Heading -> modules below diffacet; those that define the other public names come to the first."""


def groups() -> dict[str, list[str]]:
    """Heading -> modules below diffacet, in the order of the navigation."""
    every = {title: list(modules) for title, modules in _GROUPS.items()}
    homes = {found(*home(name))[0] for name in diffacet.__all__ if name != "__version__"}
    every["Runs"] += sorted(homes - set(itertools.chain(*every.values())))
    return every


def pages() -> Iterator[tuple[str, str]]:
    """(place in the site, text) of the list of public names and of each module."""
    rows = []
    for name in diffacet.__all__:
        if name == "__version__":
            rows.append(("`diffacet.__version__`", "the installed version"))
            continue
        module, own, said = found(*home(name))
        rows.append((f"[`diffacet.{name}`][diffacet.{module}.{own}]", cell(said)))
    every = list(itertools.chain(*groups().values()))
    modules = [(f"[`diffacet.{module}`]({module}.md)", cell(_docstring(_tree(module)))) for module in every]
    yield (
        "python/index.md",
        f"""# Python

## Public names

These are stable: one that changes warns for a minor version first. They load on first use, so `import diffacet` needs
no PyTorch.

{table(("name", "what it is"), rows)}
## Modules

What the public names are made of, and what a new model is built from. Free to change between versions. Each
room knows the rooms below it and nothing of those above:

![The rooms of the house, and which of them may import which](../pictures/house.svg)

{table(("module", "what it holds"), modules)}""",
    )
    for module in every:
        options = "    options: {show_root_heading: false, show_root_toc_entry: false}"
        yield f"python/{module}.md", f"# diffacet.{module}\n\n::: diffacet.{module}\n{options}\n"


def home(name: str) -> tuple[str, str]:
    """(module below diffacet, name there) from which `diffacet.NAME` loads."""
    module, _, own = diffacet._HOME[name].partition(":")
    return module, own or name


def found(module: str, name: str) -> tuple[str, str, str]:
    """(module, name, first line of its docstring) where `name`, which `module` has, is defined."""
    for node in _tree(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return module, name, _docstring(node)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("diffacet."):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return found(node.module.removeprefix("diffacet."), alias.name)
    raise LookupError(f"diffacet.{module} defines no {name}")


@functools.cache
def _tree(module: str) -> ast.Module:
    file = ROOT / "src/diffacet" / module.replace(".", "/")
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _docstring(node: ast.Module | ast.FunctionDef | ast.ClassDef) -> str:
    """The first paragraph's first line."""
    return (ast.get_docstring(node) or "").partition("\n")[0]
