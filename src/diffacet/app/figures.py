"""Figures of the report as Plotly specifications: plain dicts, drawn in the page with the page's own colours."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffacet.app.refinement import Point
from diffacet.app.runs import Run
from diffacet.app.studies.results import Line

COLOURS = ("#e4572e", "#3b82c4", "#1f9d78", "#a070c4", "#c9912b", "#7d8a97")
"""Mid-tones that stand on a white page and on a dark one; the first is the model that the report is about."""

LOG = {"type": "log", "dtick": 1, "exponentformat": "power"}
"""An axis of powers of ten."""

Figure = dict[str, Any]


def colours(labels: Iterable[str], focus: str) -> dict[str, str]:
    """A colour for each label, the same in every figure and table."""
    others = [label for label in labels if label != focus]
    return {focus: COLOURS[0]} | {label: COLOURS[1 + n % 5] for n, label in enumerate(others)}


def quality(lines: Sequence[Line], metric: str, on: str, paint: dict[str, str]) -> Figure:
    """A bar for each row's mean of `metric` on the held-out part `on`, with a dot for each seed."""
    ranked = sorted(lines, key=lambda line: line.mean(metric, on))
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [line.mean(metric, on) for line in ranked],
        "y": [line.label for line in ranked],
        "text": [f"{line.mean(metric, on):.3f}" for line in ranked],
        "textposition": "inside",
        "insidetextanchor": "start",
        "insidetextfont": {"color": "#ffffff"},
        "marker": {"color": [paint[line.label] for line in ranked], "opacity": 0.9},
        "hovertemplate": "%{y}: %{x:.4f}<extra>mean</extra>",
        "width": 0.62,
    }
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": [trial.value(metric, on) for line in ranked for trial in line.trials],
        "y": [line.label for line in ranked for _ in line.trials],
        "text": [f"seed {trial.told['seed']}" for line in ranked for trial in line.trials],
        "marker": {"color": "ink", "size": 8, "symbol": "diamond-open", "line": {"width": 1.5}},
        "hovertemplate": "%{y}, %{text}: %{x:.4f}<extra></extra>",
    }
    layout = {
        "xaxis": {"title": {"text": metric}, "rangemode": "tozero"},
        "yaxis": {"automargin": True, "showgrid": False},
    }
    return {"data": [bars, dots], "layout": layout | {"showlegend": False, "height": 90 + 46 * len(ranked)}}


def validation(runs: Mapping[str, Sequence[Run]], metric: str, paint: dict[str, str]) -> Figure:
    """The validation metric against the step; a model that is not trained is a level line."""
    last = max((run.trail()[-1].step for some in runs.values() for run in some), default=0) or 1
    data = []
    for label, some in runs.items():
        for number, run in enumerate(some):
            trail = run.trail()
            # A run that was validated by another metric may not have this one.
            records = [record for record in trail if metric in record.metrics]
            if not records:
                continue
            level = trail[-1].step == 0
            if level:
                x, y = [0, last], [records[-1].metrics[metric]] * 2
            else:
                x, y = [r.step for r in records], [r.metrics[metric] for r in records]
            data.append(training_curve(label, number, x, y, paint[label], level=level))
    return {
        "data": data,
        "layout": {"xaxis": {"title": {"text": "training step"}}, "yaxis": {"title": {"text": metric}}},
    }


def losses(runs: Mapping[str, Sequence[Run]], paint: dict[str, str]) -> Figure:
    """Each weighted loss term against the step, on a logarithmic axis."""
    dashes = ("solid", "dot", "dash", "longdash")
    data = []
    for label, some in runs.items():
        for number, run in enumerate(some):
            records = [record for record in run.trail() if record.terms]
            # The recommendation loss first, so that it is the solid line of every model.
            names = sorted(records[-1].terms, key=lambda name: (name != "softmax", name)) if records else []
            for name, dash in zip(names, dashes, strict=False):
                x, y = [r.step for r in records], [r.terms[name] for r in records]
                line = training_curve(f"{label} {name}", number, x, y, paint[label])
                line["line"]["dash"] = dash
                data.append(line)
    axis = {"title": {"text": "weighted loss"}} | LOG
    return {"data": data, "layout": {"xaxis": {"title": {"text": "training step"}}, "yaxis": axis}}


def steps(points: Sequence[Point], names: Sequence[str], paint: Sequence[str]) -> Figure:
    """Metrics against refinement steps, one line a metric, with the range over the seeds."""
    data = []
    for name, colour in zip(names, paint, strict=False):
        middle = [point.mean(name) for point in points]
        high = [max(point.metrics[name]) - mean for point, mean in zip(points, middle, strict=True)]
        low = [mean - min(point.metrics[name]) for point, mean in zip(points, middle, strict=True)]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "x": [point.label for point in points],
                "y": middle,
                "error_y": {"type": "data", "symmetric": False, "array": high, "arrayminus": low, "thickness": 1},
                "line": {"color": colour, "width": 2},
                "marker": {"size": 7},
                "hovertemplate": f"{name} at S = %{{x}}: %{{y:.4f}}<extra></extra>",
            }
        )
    axis = {"title": {"text": "refinement steps S"}, "type": "category"}
    return {"data": data, "layout": {"xaxis": axis, "yaxis": {"rangemode": "tozero", "title": {"text": "test metric"}}}}


def latency(points: Sequence[Point], colour: str) -> Figure:
    """Milliseconds of one request against refinement steps."""
    bars = {
        "type": "bar",
        "x": [point.label for point in points],
        "y": [point.milliseconds for point in points],
        "text": [f"{point.milliseconds:.1f}" for point in points],
        "textposition": "auto",
        "marker": {"color": colour, "opacity": 0.9},
        "width": 0.55,
        "hovertemplate": "S = %{x}: %{y:.2f} ms<extra></extra>",
    }
    axis = {"title": {"text": "refinement steps S"}, "type": "category"}
    ms = {"title": {"text": "ms for one request"}, "rangemode": "tozero"}
    return {"data": [bars], "layout": {"xaxis": axis, "yaxis": ms, "showlegend": False}}


def training_curve(
    name: str, number: int, x: Sequence[float], y: Sequence[float], colour: str, *, level: bool = False
) -> dict[str, Any]:
    """One run's curve; the seeds after the first are thinner and share the first one's legend entry."""
    style = {"color": colour, "width": 2.2 if number == 0 else 1.2}
    if level:
        style["dash"] = "dash"
    return {
        "type": "scatter",
        "mode": "lines" if level or len(x) > 25 else "lines+markers",
        "name": name,
        "legendgroup": name,
        "showlegend": number == 0,
        "x": list(x),
        "y": list(y),
        "line": style,
        "marker": {"size": 4},
        "opacity": 1.0 if number == 0 else 0.65,
        "hovertemplate": f"{name}, step %{{x}}: %{{y:.4g}}<extra></extra>",
    }
