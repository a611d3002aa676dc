"""Figures of the report as Plotly specifications: plain dicts, drawn in the page with the page's own colours."""

from collections.abc import Sequence
from typing import Any

from diffacet.app.compare import Group
from diffacet.app.refinement import Point

COLOURS = ("#e4572e", "#3b82c4", "#1f9d78", "#a070c4", "#c9912b", "#7d8a97")
"""Mid-tones that stand on a white page and on a dark one; the first is the model that the report is about."""

LOG = {"type": "log", "dtick": 1, "exponentformat": "power"}
"""An axis of powers of ten."""

Figure = dict[str, Any]


def colours(groups: Sequence[Group], focus: Group) -> dict[str, str]:
    """A colour for each label, the same in every figure and table."""
    others = [group.label for group in groups if group is not focus]
    return {focus.label: COLOURS[0]} | {label: COLOURS[1 + n % 5] for n, label in enumerate(others)}


def quality(groups: Sequence[Group], metric: str, paint: dict[str, str]) -> Figure:
    """A bar for each group's mean of `metric`, with a dot for each seed."""
    ranked = sorted(groups, key=lambda group: group.mean(metric))
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [group.mean(metric) for group in ranked],
        "y": [group.label for group in ranked],
        "text": [f"{group.mean(metric):.3f}" for group in ranked],
        "textposition": "inside",
        "insidetextanchor": "start",
        "insidetextfont": {"color": "#ffffff"},
        "marker": {"color": [paint[group.label] for group in ranked], "opacity": 0.9},
        "hovertemplate": "%{y}: %{x:.4f}<extra>mean</extra>",
        "width": 0.62,
    }
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": [trial.means[metric] for group in ranked for trial in group.trials],
        "y": [group.label for group in ranked for _ in group.trials],
        "text": [f"seed {trial.run.settings.training.seed}" for group in ranked for trial in group.trials],
        "marker": {"color": "ink", "size": 8, "symbol": "diamond-open", "line": {"width": 1.5}},
        "hovertemplate": "%{y}, %{text}: %{x:.4f}<extra></extra>",
    }
    layout = {
        "xaxis": {"title": {"text": metric}, "rangemode": "tozero"},
        "yaxis": {"automargin": True, "showgrid": False},
    }
    return {"data": [bars, dots], "layout": layout | {"showlegend": False, "height": 90 + 46 * len(ranked)}}


def validation(groups: Sequence[Group], metric: str, paint: dict[str, str]) -> Figure:
    """The validation metric against the step; a model that is not trained is a level line."""
    trained = [group for group in groups if group.trained]
    last = max((trial.run.trail()[-1].step for group in trained for trial in group.trials), default=1)
    data = []
    for group in groups:
        for number, trial in enumerate(group.trials):
            # A run that was validated by another metric may not have this one.
            records = [record for record in trial.run.trail() if metric in record.metrics]
            if not records:
                continue
            if group.trained:
                x, y = [r.step for r in records], [r.metrics[metric] for r in records]
            else:
                x, y = [0, last], [records[-1].metrics[metric]] * 2
            data.append(training_curve(group.label, number, x, y, paint[group.label], level=not group.trained))
    return {
        "data": data,
        "layout": {"xaxis": {"title": {"text": "training step"}}, "yaxis": {"title": {"text": metric}}},
    }


def losses(groups: Sequence[Group], paint: dict[str, str]) -> Figure:
    """Each weighted loss term against the step, on a logarithmic axis."""
    dashes = ("solid", "dot", "dash", "longdash")
    data = []
    for group in (group for group in groups if group.trained):
        for number, trial in enumerate(group.trials):
            records = [record for record in trial.run.trail() if record.terms]
            # The recommendation loss first, so that it is the solid line of every model.
            names = sorted(records[-1].terms, key=lambda name: (name != "softmax", name)) if records else []
            for name, dash in zip(names, dashes, strict=False):
                x, y = [r.step for r in records], [r.terms[name] for r in records]
                line = training_curve(f"{group.label} {name}", number, x, y, paint[group.label])
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
