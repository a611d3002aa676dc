"""Pictures of a study as Plotly specifications: plain dicts, for the page, and as PNG files where Chrome is there."""

import copy
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffacet.app.figures import COLOURS, LOG, Figure, training_curve
from diffacet.app.studies import clicks, folder, work
from diffacet.app.studies.results import Line
from diffacet.app.studies.tables import Sheet
from diffacet.errors import MissingExtra, require
from diffacet.learn import checkpoint

INK, SIZE = "#20242b", {"width": 1000, "height": 460}
WIDE = 100
"""Positive losses whose highest is more than so many times the lowest stand on a logarithmic axis."""


def draw(kind: str, sheet: Sheet, metrics: Sequence[str], on: str, out: Path | None = None) -> dict[str, Figure]:
    """Caption -> figure of one data set.

    Args:
        kind: "bars", "line", "steps", "asks" or "terms", see `spec.Study`. Rows without a grid, asked in one way
            only, or never trained leave the others without anything to draw, and get bars.
        sheet: the data set.
        metrics: what is drawn; not by "terms".
        on: of which held-out users.
        out: the study's folder, whose runs tell "terms" their losses.

    Raises:
        BadRun: a run's checkpoint is missing or damaged ("terms" only).
    """
    drawn = {}
    if kind == "line":
        drawn = _grids(sheet, metrics, on)
    elif kind == "steps":
        drawn = _asks(sheet, metrics, on)
    elif kind == "asks":
        drawn = _against(sheet, metrics, on)
    elif kind == "terms" and out is not None:
        drawn = _terms(sheet, out)
    return drawn or {f"{metric} on {sheet.data}": bars(sheet.lines, metric, on) for metric in metrics}


def across(sheets: Sequence[Sheet], metrics: Sequence[str], on: str) -> dict[str, Figure]:
    """For each metric the data sets on x, and a line for each row: rows that the data sets share ("data")."""
    drawn = {}
    x = {"title": {"text": "data"}, "type": "category"}
    for metric in metrics:
        data: list[dict[str, Any]] = []
        for label in dict.fromkeys(line.label for sheet in sheets for line in sheet.lines):
            there = [(sheet.data, line) for sheet in sheets for line in sheet.lines if line.label == label]
            there = [(name, line) for name, line in there if line.values(metric, on)]
            if there:
                names, lines = zip(*there, strict=True)
                data.append(_curve(label, names, lines, metric, on, len(data)))
        drawn[f"{metric} on all data"] = {"data": data, "layout": {"xaxis": x, "yaxis": {"title": {"text": metric}}}}
    return drawn


def bars(lines: Sequence[Line], metric: str, on: str) -> Figure:
    """A bar with its deviation for each row, a diamond for each run, a circle for the published number.

    An AUC says nothing by its distance from zero: of it rows have dots instead of bars, on an axis that begins near the
    lowest of them.
    """
    dots = metric in clicks.HIGHER
    shown = [line for line in reversed(lines) if line.values(metric, on)]
    names, means = [line.label for line in shown], [line.mean(metric, on) for line in shown]
    told = [line for line in shown if metric in line.published]
    form = {"type": "scatter", "mode": "markers"} if dots else {"type": "bar", "orientation": "h", "width": 0.62}
    data: list[dict[str, Any]] = [
        {
            **form,
            "name": "mean",
            "x": means,
            "y": names,
            "error_x": {"type": "data", "array": _deviations(shown, metric, on), "thickness": 1.2},
            "marker": {"color": COLOURS[1], "opacity": 0.85} | ({"size": 12} if dots else {}),
            "hovertemplate": "%{y}: %{x:.4f}<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "runs",
            "x": [value for line in shown for value in line.values(metric, on)],
            "y": [line.label for line in shown for _ in line.values(metric, on)],
            "marker": {"color": "ink", "size": 7, "symbol": "diamond-open"},
            "hovertemplate": "%{y}: %{x:.4f}<extra></extra>",
        },
    ]
    if told:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "published",
                "x": [line.published[metric] for line in told],
                "y": [line.label for line in told],
                "marker": {"color": COLOURS[0], "size": 11, "symbol": "circle"},
                "hovertemplate": "%{y}, published: %{x:.4f}<extra></extra>",
            }
        )
    x = {"title": {"text": metric}, "rangemode": "normal" if dots else "tozero"}
    y = {"showgrid": dots, "type": "category"}
    return {"data": data, "layout": {"xaxis": x, "yaxis": y, "height": 130 + 30 * len(shown)}}


def _grids(sheet: Sheet, metrics: Sequence[str], on: str) -> dict[str, Figure]:
    """A figure for each row with a grid of one setting: the setting on x, a line for each metric and way of asking."""
    drawn = {}
    for row in dict.fromkeys(line.of for line in sheet.lines if len(line.point) == 1):
        lines = [line for line in sheet.lines if line.of == row]
        setting = next(iter(lines[0].point))
        data: list[dict[str, Any]] = []
        for suffix in dict.fromkeys(line.suffix for line in lines):
            some = [line for line in lines if line.suffix == suffix]
            at = [str(line.point[setting]) for line in some]
            for metric in metrics:
                name = f"{metric}, {suffix}" if suffix else metric
                data.append(_curve(name, at, some, metric, on, len(data)))
                if all(metric in line.published for line in some):
                    data.append(_told(at, some, metric, data[-1]))
        # Values of a grid stand at equal distances, whatever they are.
        x = {"title": {"text": setting}, "type": "category"}
        drawn[f"{row.format_map(_Keys())} on {sheet.data}"] = {"data": data, "layout": {"xaxis": x, "yaxis": {}}}
    return drawn


def _asks(sheet: Sheet, metrics: Sequence[str], on: str) -> dict[str, Figure]:
    """For each metric the ways of asking against quality, and one figure of their users, or samples, a second."""
    rows = {name: lines for name, lines in _rows(sheet).items() if len(lines) > 1}
    if not rows:
        return {}
    x = {"title": {"text": "asked with"}, "type": "category"}
    drawn: dict[str, Figure] = {}
    for metric in metrics:
        data = [
            _curve(name, [line.suffix or "as trained" for line in lines], lines, metric, on, n)
            for n, (name, lines) in enumerate(rows.items())
        ]
        y = {"title": {"text": metric}}
        drawn[f"{metric} on {sheet.data}"] = {"data": data, "layout": {"xaxis": x, "yaxis": y}}
    what = "samples" if sheet.lines[0].clicks else "users"
    speed = [
        {
            "type": "bar",
            "name": name,
            "x": [line.suffix or "as trained" for line in lines],
            "y": [line.cost(line.pace) for line in lines],
            "marker": {"color": COLOURS[n % len(COLOURS)], "opacity": 0.85},
            "hovertemplate": f"{name}, %{{x}}: %{{y:,.0f}} {what}/s<extra></extra>",
        }
        for n, (name, lines) in enumerate(rows.items())
    ]
    seconds = {"title": {"text": f"{what} a second"}, "rangemode": "tozero"}
    drawn[f"{what} a second on {sheet.data}"] = {"data": speed, "layout": {"xaxis": x, "yaxis": seconds}}
    return drawn


def _against(sheet: Sheet, metrics: Sequence[str], on: str) -> dict[str, Figure]:
    """For each metric the number that the ways of asking differ in on x, and a line for each row."""
    found: dict[str, dict[str, dict[float, Line]]] = {}
    for name, lines in _rows(sheet).items():
        setting, asked = _asked(lines)
        if len(asked) > 1:
            found.setdefault(setting, {})[name] = asked
    drawn: dict[str, Figure] = {}
    for setting, rows in found.items():
        for metric in metrics:
            data = [
                _curve(name, [*asked], [*asked.values()], metric, on, n) for n, (name, asked) in enumerate(rows.items())
            ]
            layout = {"xaxis": {"title": {"text": setting}}, "yaxis": {"title": {"text": metric}}}
            drawn[f"{metric} against {setting} on {sheet.data}"] = {"data": data, "layout": layout}
    return drawn


def _asked(lines: Sequence[Line]) -> tuple[str, dict[float, Line]]:
    """The one setting that a row's ways of asking differ in, and the row at each number of it, ascending.

    A setting that an ask leaves alone has the value that the run was trained with. A value that is no number has
    no place on the axis and is left out; nothing is found where asks differ in more than one thing.
    """
    each: list[dict[str, Any]] = []
    for trial in (line.trials[0] for line in lines):
        ask = trial.told["measured"]["asks"][trial.ask]
        each.append(trial.told["settings"]["model"] | ask["settings"] | {"exclude_seen": ask["exclude_seen"]})
    differ = [key for key in each[0] if any(one[key] != each[0][key] for one in each)]
    if len(differ) != 1:
        return "", {}
    values = [one[differ[0]] for one in each]
    pairs = zip(values, lines, strict=True)
    known = {v: line for v, line in pairs if isinstance(v, int | float) and not isinstance(v, bool)}
    return differ[0], dict(sorted(known.items()))


def _terms(sheet: Sheet, out: Path) -> dict[str, Figure]:
    """For each weighted term of the loss the training step on x, and a line for each row that has the term."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for name, lines in _rows(sheet).items():
        # However often a run is asked, it was trained once.
        for term, course in _course(lines[0], out).items():
            found.setdefault(term, {})[name] = course
    drawn: dict[str, Figure] = {}
    for term, rows in found.items():
        data = [
            training_curve(name, 0, [*course], [*course.values()], COLOURS[n % len(COLOURS)])
            for n, (name, course) in enumerate(rows.items())
        ]
        values = [value for course in rows.values() for value in course.values()]
        y: dict[str, Any] = {"title": {"text": f"{term} loss, weighted"}}
        if min(values) > 0 and max(values) > WIDE * min(values):
            y |= LOG
        layout = {"xaxis": {"title": {"text": "training step"}}, "yaxis": y}
        drawn[f"{term} loss on {sheet.data}"] = {"data": data, "layout": layout}
    return drawn


def _course(line: Line, out: Path) -> dict[str, dict[int, float]]:
    """Term -> step -> mean over the seeds, at the steps that all seeds reached; raises BadRun.

    A mean over those that trained longest would jump wherever a seed ends.
    """
    places = [out / folder.RUNS / trial.told["job"] / work.RUN for trial in line.trials]
    trails = [{record.step: record.terms for record in checkpoint.read_trail(place).records} for place in places]
    course: dict[str, dict[int, float]] = {}
    for step, terms in trails[0].items():
        for term in terms:
            values = [trail[step][term] for trail in trails if term in trail.get(step, {})]
            if len(values) == len(trails):
                course.setdefault(term, {})[step] = statistics.fmean(values)
    return course


def _rows(sheet: Sheet) -> dict[str, list[Line]]:
    """Label -> the row as it is asked in each of its ways, in the order of the file."""
    rows: dict[str, list[Line]] = {}
    for line in sheet.lines:
        name = line.label.removesuffix(f", {line.suffix}") if line.suffix else line.label
        rows.setdefault(name, []).append(line)
    return rows


class _Keys(dict[str, str]):
    """Leaves `{key}` of a label readable where no single value can be filled in."""

    def __missing__(self, key: str) -> str:
        return key


def _curve(
    name: str, x: Sequence[str | float], lines: Sequence[Line], metric: str, on: str, number: int
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": list(x),
        "y": [line.mean(metric, on) for line in lines],
        "error_y": {"type": "data", "array": _deviations(lines, metric, on), "thickness": 1},
        "line": {"color": COLOURS[number % len(COLOURS)], "width": 2},
        "marker": {"size": 7},
        "hovertemplate": f"{name}, %{{x}}: %{{y:.4f}}<extra></extra>",
    }


def _told(x: Sequence[str], lines: Sequence[Line], metric: str, ours: Mapping[str, Any]) -> dict[str, Any]:
    """The published curve beside ours, dashed in the same colour."""
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"{metric}, published",
        "x": list(x),
        "y": [line.published[metric] for line in lines],
        "line": {"color": ours["line"]["color"], "width": 1.4, "dash": "dash"},
        "marker": {"size": 6, "symbol": "circle-open"},
        "hovertemplate": f"{metric}, published, %{{x}}: %{{y:.4f}}<extra></extra>",
    }


def _deviations(lines: Sequence[Line], metric: str, on: str) -> list[float]:
    """One for each line; 0, and so no whisker, where there is one run."""
    return [0.0 if math.isnan(value := line.deviation(metric, on)) else value for line in lines]


def write_static(figures: Mapping[str, Figure], out: Path) -> str | None:
    """PNG files of `figures` (file name without ending -> figure) in `out`; what stood in the way, or None.

    The pictures need Kaleido and a Chrome or Chromium; a study without them has its tables and its page.
    """
    try:
        require("kaleido", "report")
        io = require("plotly.io", "report")
        out.mkdir(parents=True, exist_ok=True)
        papers = [_on_paper(figure) for figure in figures.values()]
        # Sizes are told apart from the layouts, whose own are not read.
        sizes = {side: [paper["layout"][side] for paper in papers] for side in SIZE}
        io.write_images(papers, [out / f"{name}.png" for name in figures], scale=2, **sizes)
    except MissingExtra as error:
        return str(error)
    except Exception as error:  # whatever Chrome has: the numbers are written
        reason = str(error).strip().splitlines()
        return f"{type(error).__name__}: {reason[0] if reason else 'no reason given'}"
    return None


def _on_paper(figure: Figure) -> Figure:
    """The figure on white, with the colours and sizes that a page would give it."""
    drawn = copy.deepcopy(figure)
    for trace in drawn["data"]:
        if trace.get("marker", {}).get("color") == "ink":
            trace["marker"]["color"] = INK
    axis = {"gridcolor": "#e3e0d8", "zerolinecolor": "#e3e0d8", "automargin": True}
    layout = drawn["layout"]
    for name in ("xaxis", "yaxis"):
        layout[name] = axis | layout.get(name, {})
    font = {"family": "Inter, Liberation Sans, Arial, sans-serif", "size": 14, "color": INK}
    plain = {"paper_bgcolor": "#ffffff", "plot_bgcolor": "#ffffff", "font": font, "margin": {"t": 30, "r": 20, "b": 60}}
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    drawn["layout"] = {**SIZE, **plain, "legend": legend, **layout}
    return drawn
