"""The page about a search: what mattered, how the best value grew, and each setting against the metric."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffacet.app import figures, report, settings
from diffacet.app.search.space import Dimension
from diffacet.app.search.trials import Tried, Tuned
from diffacet.core.contract import Card

BEST_SHOWN = 10
FINISHED, PRUNED, ACCENT = figures.COLOURS[1], figures.COLOURS[5], figures.COLOURS[0]


def write(path: Path, card: Card, dimensions: Mapping[str, Dimension], found: Tuned, about: Mapping[str, Any]) -> None:
    """Write the self-contained page to `path`, whole or not at all; raises MissingExtra, BadRun."""
    finished = sorted((t for t in found.trials if t.value is not None), key=lambda t: (-(t.value or 0.0), t.number))
    rows = {row["name"]: row for row in settings.describe(card)}
    drawn = {"history": _history(found)} | ({"importance": _importance(found)} if found.importance else {})
    order = sorted(dimensions, key=lambda name: -found.importance.get(name, 0.0))
    drawn |= {f"slice-{name}": _slice(found, dimensions[name]) for name in order}
    content = report.renderer("tune.html.j2")(
        title=f"{card.name} on {about['data']['name']}",
        lead=_headline(found, about),
        metric=found.metric,
        names=order,
        symbols={name: rows[name]["symbol"] for name in order},
        meanings={name: rows[name]["description"] for name in order},
        ranges=about["space"],
        best={name: _short(finished[0].values[name]) for name in order},
        start={name: _short(found.trials[0].values[name]) for name in order},
        rows=[_row(tried, order) for tried in finished[:BEST_SHOWN]],
        counts={state: sum(t.state == state for t in found.trials) for state in ("complete", "pruned", "failed")},
        failures=[(tried.number, tried.error) for tried in found.trials if tried.error],
        figures={name: json.dumps(figure).replace("<", "\\u003c") for name, figure in drawn.items()},
        about=about,
        source=found.best.source,
        cases=cases_of(about),
        command=command(found, about),
    )
    report.write(path, content)


def command(found: Tuned, about: Mapping[str, Any]) -> str:
    """The command that trains the best settings."""
    data, best = about["data"]["path"], found.out / "best.json"
    return f"diffacet train {about['model']} --data {data} --out RUN --preset {best}"


def cases_of(about: Mapping[str, Any]) -> str:
    """What is held out: users, or samples of click data."""
    return "samples" if about.get("task") == "click" else "users"


def _headline(found: Tuned, about: Mapping[str, Any]) -> list[str]:
    """The result in plain sentences."""
    count, seeds, cases = len(found.trials), about["split"]["seeds"], cases_of(about)
    mean = "" if cases == "samples" else f", the mean over {len(seeds)} split{'s' if len(seeds) > 1 else ''}"
    said = [
        f"The best of {count} trial{'s' if count > 1 else ''} reaches {found.metric} {found.value:.4f} on validation"
        f" {cases}{mean}."
    ]
    if found.start is None:
        said.append(f"The preset '{about['preset']}', with which the search began, could not be measured.")
    elif found.value > found.start:
        share = 100 * (found.value / found.start - 1) if found.start else float("inf")
        said.append(
            f"That is {share:.1f} % above {found.start:.4f}, where the preset '{about['preset']}' stands. The best of "
            f"many is chosen for its luck, too: expect less of it on {cases} that the search has not seen."
        )
    else:
        said.append(f"No trial was better than the preset '{about['preset']}' itself.")
    return said


def _row(tried: Tried, order: list[str]) -> dict[str, Any]:
    cells = [_short(tried.values[name]) for name in order]
    return {"number": tried.number, "value": tried.value, "cells": cells, "seconds": tried.seconds}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else settings.text(value)


def _history(found: Tuned) -> figures.Figure:
    """Each finished trial, and the best so far."""
    finished = [tried for tried in found.trials if tried.value is not None]
    numbers, values = [t.number for t in finished], [t.value for t in finished]
    highest = [max(v or 0.0 for v in values[: place + 1]) for place in range(len(values))]
    dots = _dots("trials", numbers, values, FINISHED) | {"hovertemplate": "trial %{x}: %{y:.4f}<extra></extra>"}
    line: dict[str, Any] = {"type": "scatter", "mode": "lines", "name": "best so far", "x": numbers, "y": highest}
    line |= {"line": {"color": ACCENT, "width": 2.2, "shape": "hv"}, "hoverinfo": "skip"}
    data = [dots, line]
    if found.start is not None:
        level: dict[str, Any] = {
            "type": "scatter",
            "mode": "lines",
            "name": "the preset",
            "x": [0, found.trials[-1].number],
        }
        data.append(level | {"y": [found.start] * 2, "line": {"color": PRUNED, "dash": "dash"}, "hoverinfo": "skip"})
    layout = {"xaxis": {"title": {"text": "trial"}}, "yaxis": {"title": {"text": found.metric}}}
    return {"data": data, "layout": layout}


def _importance(found: Tuned) -> figures.Figure:
    """A bar for each setting's share."""
    ranked = sorted(found.importance.items(), key=lambda pair: pair[1])
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [share for _, share in ranked],
        "y": [name for name, _ in ranked],
        "text": [f"{100 * share:.0f} %" for _, share in ranked],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": FINISHED, "opacity": 0.9},
        "width": 0.62,
        "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
    }
    axis: dict[str, Any] = {"title": {"text": "share of what separates good trials"}, "tickformat": ".0%"}
    axis |= {"range": [0, 1.15 * max(ranked[-1][1], 0.01)]}  # room for the number behind the longest bar
    layout = {"xaxis": axis, "yaxis": {"showgrid": False}, "showlegend": False, "height": 90 + 34 * len(ranked)}
    return {"data": [bars], "layout": layout}


def _slice(found: Tuned, dimension: Dimension) -> figures.Figure:
    """The metric against one setting; later trials are darker, the best one and the preset are marked."""
    finished = [tried for tried in found.trials if tried.value is not None]
    x, y = [_place(tried, dimension) for tried in finished], [tried.value for tried in finished]
    dots = _dots("trials", x, y, FINISHED)
    dots["marker"] |= {"opacity": [0.3 + 0.7 * (n + 1) / len(finished) for n in range(len(finished))]}
    dots["hovertemplate"] = f"{dimension.name} %{{x}}: %{{y:.4f}}<extra></extra>"
    best = max(range(len(finished)), key=lambda n: (y[n] or 0.0, -n))
    data = [dots, _dots("best", [x[best]], [y[best]], ACCENT, size=11)]
    if finished[0].number == 0:
        preset = _dots("the preset", [x[0]], [y[0]], "ink", size=11)
        preset["marker"] |= {"symbol": "diamond-open", "line": {"width": 1.8}}
        data.append(preset)
    axis: dict[str, Any] = {"title": {"text": dimension.name}}
    if dimension.choices:
        names = [settings.text(choice) for choice in dimension.choices]
        axis |= {"type": "category", "categoryorder": "array", "categoryarray": names}
    elif dimension.log:
        axis |= {"type": "log", "dtick": 1, "exponentformat": "power"}
    return {"data": data, "layout": {"xaxis": axis, "yaxis": {"title": {"text": found.metric}}, "height": 290}}


def _place(tried: Tried, dimension: Dimension) -> Any:
    """Where a trial stands on the axis; a preset's zero on a logarithmic axis stands at its lower end."""
    return dimension.nearest(tried.values[dimension.name])


def _dots(name: str, x: list[Any], y: list[Any], colour: str, size: int = 8) -> dict[str, Any]:
    marker = {"color": colour, "size": size}
    told = {"type": "scatter", "mode": "markers", "name": name, "x": x, "y": y, "marker": marker}
    return told | {"hovertemplate": "%{x}: %{y:.4f}<extra>" + name + "</extra>"}
