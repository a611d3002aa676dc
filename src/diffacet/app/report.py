"""One self-contained HTML page about some runs: results, curves, refinement, one user, and how it was made.

`build` measures the runs on their own splits and returns the page; it opens without a network in any browser.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from diffacet import files
from diffacet.app import compare, figures, refinement, settings
from diffacet.app.compare import Difference, Group
from diffacet.app.refinement import Point, Portrait
from diffacet.app.runs import Run
from diffacet.app.studies.statistics import RESAMPLES
from diffacet.data import store
from diffacet.errors import BadRun, require

COLUMNS = ("recall", "hit_rate", "ndcg", "ndcg_set", "ndcg_textbook")
Say = Callable[[str], None]


def build(
    runs: Mapping[str, Sequence[Run]],
    *,
    title: str,
    focus: str,
    against: str | None = None,
    on: str = "test",
    ks: Sequence[int] = (20, 50),
    metric: str = "recall@50",
    data: Path | None = None,
    notes: Sequence[str] = (),
    progress: Say | None = None,
) -> str:
    """The page about `runs`.

    Args:
        runs: label -> runs that differ in their seeds only, in the order of the table.
        title: heading of the page.
        focus: the label that the page is about.
        against: the label that it is compared with, user by user.
        on: which held-out users, "valid" or "test".
        ks: list lengths.
        metric: the one that the headline and the figures are about.
        data: the data directory, where it has moved.
        notes: sentences for the section on how the page was made.
        progress: told what is being done.

    Raises:
        MissingExtra: Plotly or Jinja2 is not installed.
        BadRun: no run, or a run that cannot be read or measured.
    """
    render = renderer("report.html.j2")
    if focus not in runs or (against is not None and against not in runs) or not all(runs.values()):
        raise BadRun(f"the report needs runs of {focus}{f' and {against}' if against else ''}; got {', '.join(runs)}")
    ks = sorted({*ks, int(metric.partition("@")[2])})
    groups = [compare.measure(label, some, on=on, ks=ks, data=data, progress=progress) for label, some in runs.items()]
    main = next(group for group in groups if group.label == focus)
    other = next((group for group in groups if group.label == against), None)
    pairs = [] if other is None else [compare.difference(main, other, f"{n}@{k}") for k in ks for n in COLUMNS]
    points: list[Point] = []
    portrait: Portrait | None = None
    if refinement.refines(main.trials[0].run):
        points = refinement.sweep(main, on=on, ks=ks, data=data, progress=progress)
        portrait = refinement.portrait(main.trials[0], metric, on=on, data=data)
    return render(
        title=title,
        on=on,
        lead=headline(main, other, pairs, groups, metric),
        tiles=_tiles(main, pairs, metric, groups, data),
        ks=ks,
        columns=COLUMNS,
        rows=_rows(groups, ks, figures.colours(groups, main), focus),
        pairs=pairs,
        resamples=f"{RESAMPLES:,}",
        focus=focus,
        against=against,
        metric=metric,
        seeds=len(main.trials),
        figures=_figures(groups, main, metric, points, ks),
        points=points,
        portrait=portrait,
        kept=_kept(main.trials[0].run),
        made=_made(groups, data),
        notes=notes,
    )


def renderer(template: str) -> Callable[..., str]:
    """A page's template, a file of `app`, waiting for its content; raises MissingExtra.

    Every page gets the same style and drawing script, Plotly itself, and the time at which it is written.
    """
    jinja2, plotly = require("jinja2", "report"), require("plotly.offline", "report")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    folder = resources.files("diffacet.app")
    page, css, js = ((folder / name).read_text("utf-8") for name in (template, "page.css", "page.js"))
    library = plotly.get_plotlyjs().replace("</script", "<\\/script")
    written = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    environment.filters["signed"] = signed
    ready = environment.from_string(page)
    return lambda **content: str(ready.render(plotly=library, css=css, js=js, written=written, **content))


def write(path: Path, page: str) -> None:
    """Write the page to `path`, whole or not at all; raises BadRun when it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, page)
    except OSError as error:
        raise BadRun(f"{path} cannot be written ({error}); choose another place, or make room") from error


def headline(
    main: Group, other: Group | None, pairs: Sequence[Difference], groups: Sequence[Group], metric: str
) -> list[str]:
    """The result in plain sentences: how the model does, against its base, and against what is not trained."""
    name, _, k = metric.partition("@")
    value = main.mean(metric)
    share = name in ("recall", "recall_textbook")
    said = [
        f"Of what held-out users met next, {main.label} lists {100 * value:.1f} % among its first {k} suggestions"
        if share
        else f"{main.label} reaches {metric} {value:.4f}"
    ]
    pair = next((pair for pair in pairs if pair.metric == metric), None)
    if other is not None and pair is not None:
        told = f"{100 * other.mean(metric):.1f} %" if share else f"{other.mean(metric):.4f}"
        said[0] += f"; {other.label}, the model that it refines, {told}."
        verdict = (
            f"a difference of {signed(100 * pair.relative, 1)} % that chance over users does not explain"
            if pair.clear
            else "too little to tell from chance over users"
        )
        said.append(
            f"User by user, {main.label} minus {other.label} is {signed(pair.mean)} "
            f"(95 % interval {signed(pair.low)} to {signed(pair.high)}, {pair.users} users): {verdict}."
        )
    else:
        said[0] += "."
    simple = max((group for group in groups if not group.trained), key=lambda g: g.mean(metric), default=None)
    if simple is not None and simple.mean(metric) > value:
        said.append(
            f"A simple baseline wins: {simple.label}, which is counted and not trained, reaches "
            f"{simple.mean(metric):.4f} in {metric}, {main.label} {value:.4f}. On this log the "
            "simple one is the better choice."
        )
    elif simple is not None:
        said.append(
            f"The best model that is not trained, {simple.label}, reaches {simple.mean(metric):.4f} in {metric}, "
            f"{100 * (1 - simple.mean(metric) / value):.0f} % below {main.label}."
        )
        columns = [f"{name}@{k}" for name in COLUMNS]
        ahead = [column for column in columns if simple.mean(column) > main.mean(column)]
        if ahead:
            said[-1] += f" It is ahead in {', '.join(ahead)}."
    return said


def _figures(
    groups: Sequence[Group], main: Group, metric: str, points: Sequence[Point], ks: Sequence[int]
) -> dict[str, str]:
    """Name in the page -> Plotly's JSON, which may stand inside a script element."""
    paint = figures.colours(groups, main)
    drawn = {
        "quality": figures.quality(groups, metric, paint),
        "validation": figures.validation(groups, main.trials[0].run.settings.training.metric, paint),
        "losses": figures.losses(groups, paint),
    }
    if points:
        shown = [f"{name}@{k}" for k in reversed(ks) for name in ("recall", "ndcg_textbook")]
        drawn["steps"] = figures.steps(points, shown, figures.COLOURS)
        drawn["latency"] = figures.latency(points, paint[main.label])
    return {name: embedded(figure) for name, figure in drawn.items()}


def embedded(figure: figures.Figure) -> str:
    """Plotly's JSON of a figure, which may stand inside a script element."""
    return json.dumps(figure).replace("<", "\\u003c")


def signed(value: float, digits: int = 4) -> str:
    """`+0.1234`, or with a true minus sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def _tiles(
    main: Group, pairs: Sequence[Difference], metric: str, groups: Sequence[Group], data: Path | None
) -> list[tuple[str, str, str]]:
    """(figure, what it is, a remark) for the row of figures at the top."""
    place = data or Path(main.trials[0].run.about["data"]["path"])
    facts = store.open(place).log.statistics()
    users = sum(len(trial.measured.values[metric]) for trial in main.trials)
    pair = next((pair for pair in pairs if pair.metric == metric), None)
    tiles = [
        (f"{facts['interactions']:,}", "interactions", f"{facts['users']:,} users, {facts['items']:,} items"),
        (f"{main.mean(metric):.4f}", f"{main.label}, {metric}", f"± {main.deviation(metric):.4f} over seeds"),
    ]
    if pair is not None:
        interval = f"{signed(pair.low)} to {signed(pair.high)}"
        tiles.append((f"{signed(100 * pair.relative, 1)} %", "against its base", interval))
    spent = sum(group.seconds() * len(group.trials) for group in groups)
    tiles.append(
        (_duration(spent), "training, all runs", f"{sum(len(g.trials) for g in groups)} runs, {users} test cases")
    )
    return tiles


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def _rows(groups: Sequence[Group], ks: Sequence[int], paint: Mapping[str, str], focus: str) -> list[dict[str, Any]]:
    names = [f"{name}@{k}" for k in ks for name in COLUMNS]
    best = {name: max(group.mean(name) for group in groups) for name in names}
    return [
        {
            "label": group.label,
            "colour": paint[group.label],
            "focus": group.label == focus,
            "cells": [
                {
                    "mean": group.mean(name),
                    "deviation": group.deviation(name),
                    "best": group.mean(name) > best[name] - 1e-9,
                }
                for name in names
            ],
            "seconds": _duration(group.seconds()) if group.trained else "none",
        }
        for group in groups
    ]


def _kept(run: Run) -> str:
    """How many items guide an interest, in words."""
    share = getattr(run.model, "keep", 1.0)
    return (
        "all items of its history" if share >= 1 else f"the {100 * share:.0f} % of the history that it attends to most"
    )


def _made(groups: Sequence[Group], data: Path | None) -> dict[str, Any]:
    """Settings, data, code, machine and commands."""
    runs = [trial.run for group in groups for trial in group.trials]
    about = runs[0].about
    place = str(data or about["data"]["path"])
    return {
        "models": [
            {
                "label": group.label,
                "paper": str(group.trials[0].run.card.paper),
                "settings": _settings(group.trials[0].run),
                "runs": [_trained(trial.run) for trial in group.trials],
            }
            for group in groups
        ],
        "data": about["data"],
        "split": about["split"],
        "environment": about["environment"],
        "own_splits": all(run.about["split"]["seed"] == run.settings.training.seed for run in runs),
        "split_seeds": ", ".join(sorted({str(run.about["split"]["seed"]) for run in runs})),
        "mixed": len({json.dumps(run.about["environment"], sort_keys=True) for run in runs}) > 1,
        "commands": [command(run, place) for run in runs],
    }


def _trained(run: Run) -> dict[str, int]:
    """Seed, steps taken, and the step of the best validation."""
    trail, metric = run.trail(), run.settings.training.metric
    best = max(trail, key=lambda record: record.metrics[metric])
    return {"seed": run.settings.training.seed, "steps": trail[-1].step, "best": best.step}


def _settings(run: Run) -> list[dict[str, Any]]:
    """Every setting that mattered to a run, with symbol and meaning; `changed` where it is not the preset's."""
    trained = run.trail()[-1].step > 0
    shown = []
    for row in settings.describe(run.card):
        if row["name"] == "seed" or (row["group"] == "training" and not trained and row["name"] != "length"):
            continue
        value = getattr(getattr(run.settings, row["group"]), row["name"])
        usual = row["presets"].get(run.about["preset"], row["default"])
        told = {"name": row["name"], "symbol": row["symbol"], "meaning": row["description"]}
        shown.append(told | {"value": settings.text(value), "changed": value != usual})
    return shown


def command(run: Run, data: str) -> str:
    """The command line that trains this run again."""
    about = run.about
    parts = [f"diffacet train {run.card.name} --data {data} --out {run.path} --preset {about['preset']}"]
    for row in settings.describe(run.card):
        value = getattr(getattr(run.settings, row["group"]), row["name"])
        if row["name"] != "seed" and value != row["presets"].get(about["preset"]):
            parts.append(f"--set {row['name']}={settings.text(value)}")
    parts.append(f"--split {about['split']['name']} --split-seed {about['split']['seed']}")
    return " ".join([*parts, f"--seed {run.settings.training.seed}"])
