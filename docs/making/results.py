"""Figures from benchmarks/results: those of a model, and the list of all tables.

Nothing is typed or chosen by hand: rows are those of `results.csv`, which a study wrote, and metrics are those that the
study tests. Beside a model's rows stand the best costless baseline and the best row of the same table, so that no page
shows a figure without what it must be held against.
"""

import functools
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from diffacet.app.studies import clicks, spec
from making.links import RESULTS, ROOT
from making.text import cell, code, table

COSTLESS = ("random", "pop", "item-knn", "ease", "logistic")
"""Baselines that are not trained, or in seconds; every table should have one."""
MOST_ROWS = 6
FOLDER = ROOT / RESULTS
_COSTS = (("parameters", "parameters", "{:,.0f}"), ("ms_per_step", "ms/step", "{:.1f}"))


@dataclass(frozen=True)
class Table:
    """A study's results.

    Attributes:
        name: of the study.
        title: its page's heading.
        warnings: sentences above its tables on what was cut or is missing.
        rows: results.csv.
    """

    name: str
    title: str
    warnings: tuple[str, ...]
    rows: pl.DataFrame


@functools.cache
def tables() -> tuple[Table, ...]:
    """All studies whose results are in the repository."""
    found = []
    for file in sorted(FOLDER.glob("*/results.csv")):
        head = (file.parent / "table.md").read_text(encoding="utf-8").partition("\n## ")[0].splitlines()
        warnings = tuple(line for line in head if line.startswith(("**This is not", "One seed only")) or _missing(line))
        rows = pl.read_csv(file, infer_schema_length=None)
        rows = rows.with_columns(pl.col("set", "ask").cast(pl.Utf8).fill_null(""))
        found.append(Table(file.parent.name, head[0].removeprefix("# "), warnings, rows))
    return tuple(found)


def _missing(line: str) -> bool:
    return re.fullmatch(r"\*\*\d+ of \d+ runs are missing\.\*\*", line) is not None


def of_model(name: str) -> str:
    """A section for each study and data set with rows of the model `name`, as trained; empty if there is none."""
    parts = []
    for one in tables():
        own = one.rows.filter((pl.col("model") == name) & (pl.col("ask") == ""))
        sections = [_section(one, data, name) for data in own["data"].unique(maintain_order=True)]
        if any(sections):
            title = f"[{cell(one.title)}](../results/{one.name}/table.md)"
            parts.append(f"### {one.name}\n\n{title}. {_warned(one)}".rstrip())
            parts += filter(None, sections)
    return "\n\n".join(parts)


def _warned(one: Table) -> str:
    return " ".join(cell(warning.replace("**", "")) for warning in one.warnings)


def _section(one: Table, data: str, name: str) -> str:
    """The rows of a model on one data set beside the best costless one and the best of all."""
    rows = one.rows.filter((pl.col("data") == data) & (pl.col("ask") == ""))
    metrics = metrics_of(one, rows)
    if not metrics:
        return ""
    means: dict[str, float] = {}
    for label in rows["label"].unique(maintain_order=True):
        mean = mean_of(rows, label, metrics[0], "test")
        means |= {} if mean is None else {label: mean}
    best = min if metrics[0] in clicks.LOWER else max
    model_of = dict(rows.select("label", "model").unique().iter_rows())
    own = [label for label in means if model_of[label] == name]
    if not own:
        return ""
    costless = [label for label in means if model_of[label] in COSTLESS]
    beside = [("best costless baseline", best(costless, key=lambda label: means[label]))] if costless else []
    beside.append(("best of the table", best(means, key=lambda label: means[label])))
    why_of = {label: f" ({why})" for why, label in beside}
    shown = [(f"**{cell(label)}**{why_of.get(label, '')}", label) for label in own[:MOST_ROWS]]
    for why, label in beside:
        if label not in own[:MOST_ROWS]:
            told = f"**{cell(label)}**" if label in own else cell(label)
            shown.append((f"{told} ({why})", label))
    lines = [(told, *_figures(rows, label, metrics)) for told, label in shown]
    heads = ("row", "runs", *metrics, *(head for _, head, _ in _COSTS))
    rest = len(own) - MOST_ROWS
    told_rest = f"{rest} more rows of {name} are" if rest > 1 else f"One more row of {name} is"
    more = f"\n{told_rest} in the table.\n" if rest > 0 else ""
    where = f"On `{data}`, test {'samples' if 'samples' in rows['metric'] else 'users'}:"
    return f"{where}\n\n{table(heads, lines, range(1, len(heads)))}{more}".rstrip()


def metrics_of(one: Table, rows: pl.DataFrame) -> list[str]:
    """What the study tests, as far as it was measured; else its first columns."""
    study, there = spec.read(one.name), set(rows.filter(pl.col("on") == "test")["metric"])
    tests = clicks.TESTED if clicks.of_study(study) else study.tests
    return [name for name in tests if name in there] or [name for name in study.metrics if name in there][:2]


def values_of(rows: pl.DataFrame, label: str, metric: str, on: str | None) -> list[float]:
    """A row's figures, one a run; `on` None: what no users are asked for, as costs are."""
    part = pl.col("on").is_null() if on is None else pl.col("on") == on
    return rows.filter((pl.col("label") == label) & (pl.col("metric") == metric) & part)["value"].drop_nulls().to_list()


def mean_of(rows: pl.DataFrame, label: str, metric: str, on: str | None) -> float | None:
    """Their mean; None where there is none."""
    values = [value for value in values_of(rows, label, metric, on) if value == value]
    return sum(values) / len(values) if values else None


def _figures(rows: pl.DataFrame, label: str, metrics: list[str]) -> list[str]:
    """Runs, mean ± sample deviation of each metric, and costs of a row."""
    runs = max(len(values_of(rows, label, metric, "test")) for metric in metrics)
    cells = [str(runs)]
    for metric in metrics:
        values = values_of(rows, label, metric, "test")
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        cells.append(f"{statistics.fmean(values):.4f}{spread}" if values else "–")
    for cost, _, form in _COSTS:
        mean = mean_of(rows, label, cost, None)
        cells.append("–" if mean is None or (cost == "ms_per_step" and not mean) else form.format(mean))
    return cells


def pages() -> list[str]:
    """The repository's Markdown files of results."""
    return sorted(path.relative_to(ROOT).as_posix() for path in FOLDER.rglob("*.md"))


def files() -> Iterator[str]:
    """Those, their pictures and records, and results.csv of each study."""
    for path in sorted(FOLDER.rglob("*")):
        if path.suffix in {".md", ".png", ".svg", ".json", ".csv"}:
            yield path.relative_to(ROOT).as_posix()


def index() -> str:
    """The list of all tables and measurements, each with its title and the command that makes it."""
    lists: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
    for page in pages():
        text, place = (ROOT / page).read_text(encoding="utf-8"), page.removeprefix(RESULTS)
        command = re.search(r"Command: `([^`]+)`", text)
        name = place.removesuffix("/table.md").removesuffix(".md")
        title = text.partition("\n")[0].removeprefix("# ")
        made_by = f'<br><span class="more">{code(command[1])}</span>' if command else ""
        lists["/" in place].append((f"[{name}]({place})", cell(title) + made_by))
    return f"""# Tables and measurements

Every figure on this site comes from one of these, or from a command that stands beside it. Each page has its command,
commit, data, seeds and machine. Most studies were cut in seeds and steps, and say so in their first lines; none was
run on a GPU.

## Studies

`diffacet study NAME --data DIR --out DIR` makes one again: [reproducing a table](../reproducing.md). Beside each page
lies its `results.csv`, one line for each run and metric.

{table(("study", "what it is, and the command"), lists[True])}
## Measurements

{table(("page", "what it is, and the command"), lists[False])}"""


def group(page: str) -> str:
    """The heading under which the navigation has a page of results."""
    return "Studies" if Path(page).name == "table.md" else "Measurements"
