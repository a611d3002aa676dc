"""Tables of a study or of some runs: numbers as text, for a page, a Markdown file or a terminal."""

import math
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from diffacet.app.studies import click_pairs, click_tables, clicks, results
from diffacet.app.studies.grids import Grid, number, p_value, percent, signed
from diffacet.app.studies.plan import UNRANKED
from diffacet.app.studies.results import PACES, Line, Pair
from diffacet.app.studies.statistics import FLIPS, RESAMPLES

METHOD = (
    "± is the sample standard deviation over the runs (n − 1 below). Differences are paired: the same users, the "
    f"same seeds. Interval: 95 % percentiles of {RESAMPLES:,} bootstrap means over users, all runs of a user drawn "
    f"together. p over users: sign-flip permutation, {FLIPS:,} flips, a user's runs flipped together. p over seeds: "
    "paired t-test of the runs' means, two-sided. Both p are corrected by Holm over the rows, metric by metric."
)
COLUMNS = (
    ("parameters", "parameters", "{:,.0f}"),
    ("steps", "steps", "{:,.0f}"),
    ("best_step", "best step", "{:,.0f}"),
    ("seconds", "training s", "{:,.0f}"),
    ("ms_per_step", "ms/step", "{:.2f}"),
    ("users_per_second", "users/s", "{:,.0f}"),
    ("samples_per_second", "samples/s", "{:,.0f}"),
    ("peak_mb", "peak MiB", "{:,.0f}"),
)
"""Costs: name, heading, form; of the two paces each line has one."""


@dataclass(frozen=True)
class Layout:
    """What the tables show.

    Attributes:
        metrics: columns.
        tests: metrics that are tested.
        on: which held-out users.
        base: label that the others are compared with.
        pairs: further pairs of labels.
        command: that made the runs, without places of this machine.
    """

    metrics: tuple[str, ...]
    tests: tuple[str, ...]
    on: str = "test"
    base: str | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    command: str = ""


@dataclass(frozen=True)
class Sheet:
    """All there is to say of one data set.

    Attributes:
        data: its name.
        layout: what is shown of it.
        lines: the rows.
        pairs: what was tested.
        grids: the tables: quality, differences, costs; of models of clicks intervals and parts of the samples, too.
        notes: sentences below.
        provenance: what it was made with.
    """

    data: str
    layout: Layout
    lines: tuple[Line, ...]
    pairs: tuple[Pair, ...]
    grids: tuple[Grid, ...]
    notes: tuple[str, ...]
    provenance: str


def sheet(lines: Sequence[Line], layout: Layout) -> Sheet:
    """The tables of one data set's rows."""
    by_label = {line.label: line for line in lines}
    wanted = [(line, by_label[layout.base]) for line in lines if layout.base in by_label and line.label != layout.base]
    wanted += [(by_label[a], by_label[b]) for a, b in layout.pairs if a in by_label and b in by_label]
    of_clicks = lines[0].clicks
    pairs = (click_pairs if of_clicks else results).compare(wanted, layout.tests, layout.on)
    grids = [_quality(lines, layout)]
    if pairs:
        grids.append(click_tables.differences(pairs, layout.on) if of_clicks else _differences(pairs, layout))
    if of_clicks:
        made = (click_tables.intervals(lines, layout.on), click_tables.parts(lines, layout.on))
        grids += [grid for grid in made if grid is not None]
    grids.append(_costs(lines))
    notes = [click_tables.METHOD if of_clicks else METHOD] if pairs else []
    notes += _untested(wanted, pairs) + (click_tables.notes(lines) if of_clicks else [])
    return Sheet(
        lines[0].data, layout, tuple(lines), tuple(pairs), tuple(grids), tuple(notes), _provenance(lines, layout)
    )


def _quality(lines: Sequence[Line], layout: Layout) -> Grid:
    told = [metric for metric in layout.metrics if any(metric in line.published for line in lines)]
    chosen_by = layout.tests[0] if layout.on == "test" else None
    head = ["row", "runs", *([f"valid {chosen_by}"] if chosen_by else [])]
    rows = []
    for line in lines:
        cells = [line.label, str(len(line.trials))]
        cells += [spread(line, chosen_by, "valid")] if chosen_by else []
        cells += [spread(line, metric, layout.on) for metric in layout.metrics]
        rows.append((*cells, *(number(line.published.get(metric), "{:.4f}") for metric in told)))
    best = set()
    for column, metric in enumerate(layout.metrics, len(head)):
        means = [line.mean(metric, layout.on) for line in lines]
        ranked = metric.partition("@")[0] not in (*UNRANKED, *clicks.UNMARKED)
        if ranked and len(lines) > 1 and not all(map(math.isnan, means)):
            first = min if metric in clicks.LOWER else max
            top = first(m for m in means if not math.isnan(m))
            best |= {(row, column) for row, mean in enumerate(means) if mean == top}
    title = f"{'Test' if layout.on == 'test' else 'Validation'} {'samples' if lines[0].clicks else 'users'}"
    names = (*head, *layout.metrics, *(f"published {metric}" for metric in told))
    note = click_tables.directions(layout.metrics) if lines[0].clicks else ""
    return Grid(title, names, tuple(rows), frozenset(best), note)


def spread(line: Line, metric: str, on: str) -> str:
    """`0.1234 ± 0.0012`, without the deviation where there is one run."""
    mean, deviation = line.mean(metric, on), line.deviation(metric, on)
    return number(mean, "{:.4f}") + ("" if math.isnan(deviation) else f" ± {deviation:.4f}")


def _differences(pairs: Iterable[Pair], layout: Layout) -> Grid:
    head = ("row", "against", "metric", "difference", "relative", "95 % interval", "p users", "p seeds", "users, runs")
    rows = [
        (
            pair.one,
            pair.other,
            pair.metric,
            signed(pair.mean),
            percent(pair.relative),
            f"{signed(pair.low)} to {signed(pair.high)}",
            p_value(pair.p_users),
            p_value(pair.p_seeds),
            f"{pair.users:,}, {pair.seeds}",
        )
        for pair in pairs
    ]
    return Grid(f"Differences on {'test' if layout.on == 'test' else 'validation'} users", head, tuple(rows))


def _costs(lines: Sequence[Line]) -> Grid:
    columns = costs_of(lines[0])
    rows = [(line.label, *(number(line.cost(name), form) for name, _, form in columns)) for line in lines]
    pace = "users/s: evaluation on test users over the whole catalogue"
    if lines[0].clicks:
        pace = "samples/s: evaluation on test samples"
    note = (
        f"Means over the runs. ms/step: training without validation. {pace}. peak MiB: of the process (of the device "
        "on CUDA), data and libraries included."
    )
    return Grid("Costs", ("row", *(title for _, title, _ in columns)), tuple(rows), note=note)


def costs_of(line: Line) -> list[tuple[str, str, str]]:
    """Costs that a line has: name, heading, form."""
    return [column for column in COLUMNS if column[0] not in PACES or column[0] == line.pace]


def _untested(wanted: Sequence[tuple[Line, Line]], pairs: Sequence[Pair]) -> list[str]:
    """Why some wanted comparisons are missing."""
    done = {(pair.one, pair.other) for pair in pairs}
    missing = [(one, other) for one, other in wanted if (one.label, other.label) not in done]
    if missing and missing[0][0].clicks:
        labels = ", ".join(dict.fromkeys(one.label for one, _ in missing))
        return [f"Not tested, for want of a common seed, of the same samples or of an AUC: {labels}."]
    few = [one.label for one, other in missing if min(len(one.trials), len(other.trials)) < 2]
    rest = [one.label for one, other in missing if min(len(one.trials), len(other.trials)) >= 2]
    said = []
    if few:
        said.append(f"Not tested, for want of two seeds: {', '.join(dict.fromkeys(few))}.")
    if rest:
        said.append(f"Not tested, for they were measured on other users: {', '.join(dict.fromkeys(rest))}.")
    return said


def few_seeds(lines: Sequence[Line]) -> str:
    """What must be said of rows of one seed each."""
    if lines[0].clicks:
        return "One seed only: what is tested is these trained models, and not whether training anew would end alike."
    return "One seed only: nothing is tested, and no difference below can be told from chance."


def _provenance(lines: Sequence[Line], layout: Layout) -> str:
    told = [trial.told for line in lines for trial in line.trials]
    made = [one["environment"] for one in told]
    seeds = sorted({(one["seed"], one["split_seed"]) for one in told})
    same = all(a == b or b is None for a, b in seeds)
    named = ", ".join(str(a) if same else f"{a} (split {b})" for a, b in seeds)
    several = {
        "Commit": {str(one["commit"] or "unknown") for one in made},
        "diffacet": {one["diffacet"] for one in made},
        "torch": {one["torch"] for one in made},
        "device": {one["device"] for one in made},
        "threads a run": {str(one["threads"]) for one in made},
    }
    parts = [f"Command: `{layout.command}`."] if layout.command else []
    fingerprints = ", ".join(sorted({one["data"]["fingerprint"] for one in told}))
    splits = ", ".join(sorted({one["split"] for one in told}))
    parts.append(f"Data {lines[0].data}, fingerprint {fingerprints}. Split {splits}; seeds {named}.")
    if lines[0].clicks:
        parts += click_tables.provenance(lines)
    elif same:
        parts.append("A seed is that of the split of the users and of the initialisation.")
    parts.append("; ".join(f"{name} {', '.join(sorted(values))}" for name, values in several.items()) + ".")
    parts.append(f"Table made on {os.cpu_count()} cores, {platform.machine()}.")
    return " ".join(parts)


@dataclass(frozen=True)
class Page:
    """A study's whole output in words and tables.

    Attributes:
        title: heading.
        sheets: one for each data set.
        lead: sentences at the top.
        notes: sentences at the end.
    """

    title: str
    sheets: tuple[Sheet, ...]
    lead: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def markdown(page: Page, pictures: Sequence[tuple[str, str]] = ()) -> str:
    """The page as Markdown; `pictures` are (file, caption)."""
    parts = [f"# {page.title}", *page.lead]
    for one in page.sheets:
        parts.append(f"## {one.data}")
        for grid in one.grids:
            parts += [f"**{grid.title}**", _markdown(grid), *([grid.note] if grid.note else [])]
        parts += [*one.notes, one.provenance]
    parts += [f"![{caption}]({file})" for file, caption in pictures]
    return "\n\n".join([*parts, *page.notes]) + "\n"


def _markdown(grid: Grid) -> str:
    lines = ["| " + " | ".join(grid.head) + " |", "|---|" + "---:|" * (len(grid.head) - 1)]
    for place, row in enumerate(grid.rows):
        cells = [f"**{cell}**" if (place, n) in grid.best else cell for n, cell in enumerate(row)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
