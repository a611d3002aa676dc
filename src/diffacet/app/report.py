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
from diffacet.app import figures, refinement, settings
from diffacet.app.refinement import Point, Portrait
from diffacet.app.runs import Run
from diffacet.app.studies import results, work
from diffacet.app.studies.plan import OVERALL, check_names
from diffacet.app.studies.results import Line, Pair
from diffacet.app.studies.statistics import RESAMPLES
from diffacet.data import store
from diffacet.errors import BadRun, BadSetting, require

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
        metric: the one that the headline and the figures are about; it has a value for each user.
        data: the data directory, where it has moved.
        notes: sentences for the section on how the page was made.
        progress: told what is being done.

    Raises:
        MissingExtra: Plotly or Jinja2 is not installed.
        BadRun: no run, a run that cannot be read or measured, or `focus` and `against` without users in common.
        BadSetting: an unknown metric, or one of all lists together.
    """
    render = renderer("report.html.j2")
    if focus not in runs or (against is not None and against not in runs) or not all(runs.values()):
        raise BadRun(f"the report needs runs of {focus}{f' and {against}' if against else ''}; got {', '.join(runs)}")
    _check_metric(runs, metric)
    ks = sorted({*ks, int(metric.partition("@")[2])})
    names = [f"{name}@{k}" for k in ks for name in COLUMNS]
    what = work.wanted((*names, metric), ks)
    lines = results.measured(runs, what, on=(on,), data=data, progress=_counted(progress, "measured"))
    by_label = {line.label: line for line in lines}
    main, other = by_label[focus], None if against is None else by_label[against]
    pairs = [] if other is None else results.compare([(main, other)], names, on, fewest=1)
    if other is not None and not pairs:
        raise BadRun(f"{focus} and {against} were measured on other users; pair runs of one split, seed and data")
    points: list[Point] = []
    portrait: Portrait | None = None
    if refinement.refines(runs[focus][0]):
        tell = _counted(progress, "asked with fewer refinement steps:")
        points = refinement.sweep(runs[focus], list(dict.fromkeys((*names, metric))), on=on, data=data, progress=tell)
        portrait = refinement.portrait(runs[focus][0], main.trials[0], metric, on=on, data=data)
    return render(
        title=title,
        on=on,
        lead=headline(main, other, pairs, lines, metric, on),
        tiles=_tiles(runs[focus][0], main, pairs, metric, on, lines, data),
        ks=ks,
        columns=COLUMNS,
        rows=_rows(lines, names, on, figures.colours(by_label, focus), focus),
        pairs=pairs,
        resamples=f"{RESAMPLES:,}",
        focus=focus,
        against=against,
        metric=metric,
        seeds=len(main.trials),
        figures=_figures(runs, lines, focus, metric, on, points, ks),
        points=points,
        portrait=portrait,
        kept=_kept(runs[focus][0]),
        made=_made(runs, data),
        notes=notes,
    )


def _check_metric(runs: Mapping[str, Sequence[Run]], metric: str) -> None:
    """Refuse what has no value for each user of these runs; raises BadSetting."""
    categories = all("categories" in run.catalogue.columns for some in runs.values() for run in some)
    check_names([metric], "metric", categories=categories)
    if metric.partition("@")[0] in OVERALL:
        raise BadSetting(f"metric: {metric} is no mean over users, and the report is about single users, too")


def _counted(progress: Say | None, doing: str) -> Callable[[int, int], None] | None:
    """What tells `progress` in words how many runs are done."""
    return None if progress is None else lambda done, total: progress(f"{doing} {done} of {total} runs")


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
    main: Line, other: Line | None, pairs: Sequence[Pair], lines: Sequence[Line], metric: str, on: str
) -> list[str]:
    """The result in plain sentences: how the model does, against its base, and against what is not trained."""
    name, _, k = metric.partition("@")
    value = main.mean(metric, on)
    share = name in ("recall", "recall_textbook")
    said = [
        f"Of what held-out users met next, {main.label} lists {100 * value:.1f} % among its first {k} suggestions"
        if share
        else f"{main.label} reaches {metric} {value:.4f}"
    ]
    pair = next((pair for pair in pairs if pair.metric == metric), None)
    if other is not None and pair is not None:
        told = f"{100 * other.mean(metric, on):.1f} %" if share else f"{other.mean(metric, on):.4f}"
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
    simple = max((line for line in lines if not line.trained), key=lambda each: each.mean(metric, on), default=None)
    best = float("nan") if simple is None else simple.mean(metric, on)
    if simple is not None and best > value:
        said.append(
            f"A simple baseline wins: {simple.label}, which is counted and not trained, reaches "
            f"{best:.4f} in {metric}, {main.label} {value:.4f}. On this log the "
            "simple one is the better choice."
        )
    elif simple is not None:
        said.append(
            f"The best model that is not trained, {simple.label}, reaches {best:.4f} in {metric}, "
            f"{100 * (1 - best / value):.0f} % below {main.label}."
        )
        columns = [f"{name}@{k}" for name in COLUMNS]
        ahead = [column for column in columns if simple.mean(column, on) > main.mean(column, on)]
        if ahead:
            said[-1] += f" It is ahead in {', '.join(ahead)}."
    return said


def _figures(
    runs: Mapping[str, Sequence[Run]],
    lines: Sequence[Line],
    focus: str,
    metric: str,
    on: str,
    points: Sequence[Point],
    ks: Sequence[int],
) -> dict[str, str]:
    """Name in the page -> Plotly's JSON, which may stand inside a script element."""
    paint = figures.colours(runs, focus)
    drawn = {
        "quality": figures.quality(lines, metric, on, paint),
        "validation": figures.validation(runs, runs[focus][0].settings.training.metric, paint),
        "losses": figures.losses(runs, paint),
    }
    if points:
        shown = [f"{name}@{k}" for k in reversed(ks) for name in ("recall", "ndcg_textbook")]
        drawn["steps"] = figures.steps(points, shown, figures.COLOURS)
        drawn["latency"] = figures.latency(points, paint[focus])
    return {name: embedded(figure) for name, figure in drawn.items()}


def embedded(figure: figures.Figure) -> str:
    """Plotly's JSON of a figure, which may stand inside a script element."""
    return json.dumps(figure).replace("<", "\\u003c")


def signed(value: float, digits: int = 4) -> str:
    """`+0.1234`, or with a true minus sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def _tiles(
    run: Run, main: Line, pairs: Sequence[Pair], metric: str, on: str, lines: Sequence[Line], data: Path | None
) -> list[tuple[str, str, str]]:
    """(figure, what it is, a remark) for the row of figures at the top."""
    place = data or Path(run.about["data"]["path"])
    facts = store.open(place).log.statistics()
    users = sum(trial.part(on)["users"] for trial in main.trials)
    pair = next((pair for pair in pairs if pair.metric == metric), None)
    tiles = [
        (f"{facts['interactions']:,}", "interactions", f"{facts['users']:,} users, {facts['items']:,} items"),
        (f"{main.mean(metric, on):.4f}", f"{main.label}, {metric}", f"± {main.deviation(metric, on):.4f} over seeds"),
    ]
    if pair is not None:
        interval = f"{signed(pair.low)} to {signed(pair.high)}"
        tiles.append((f"{signed(100 * pair.relative, 1)} %", "against its base", interval))
    spent = sum(line.cost("seconds") * len(line.trials) for line in lines)
    tiles.append(
        (_duration(spent), "training, all runs", f"{sum(len(each.trials) for each in lines)} runs, {users} test cases")
    )
    return tiles


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def _rows(
    lines: Sequence[Line], names: Sequence[str], on: str, paint: Mapping[str, str], focus: str
) -> list[dict[str, Any]]:
    best = {name: max(line.mean(name, on) for line in lines) for name in names}
    return [
        {
            "label": line.label,
            "colour": paint[line.label],
            "focus": line.label == focus,
            "cells": [
                {
                    "mean": line.mean(name, on),
                    "deviation": line.deviation(name, on),
                    "best": line.mean(name, on) > best[name] - 1e-9,
                }
                for name in names
            ],
            "seconds": _duration(line.cost("seconds")) if line.trained else "none",
        }
        for line in lines
    ]


def _kept(run: Run) -> str:
    """How many items guide an interest, in words."""
    share = getattr(run.model, "keep", 1.0)
    return (
        "all items of its history" if share >= 1 else f"the {100 * share:.0f} % of the history that it attends to most"
    )


def _made(groups: Mapping[str, Sequence[Run]], data: Path | None) -> dict[str, Any]:
    """Settings, data, code, machine and commands."""
    runs = [run for some in groups.values() for run in some]
    about = runs[0].about
    place = str(data or about["data"]["path"])
    return {
        "models": [
            {
                "label": label,
                "paper": str(some[0].card.paper),
                "settings": _settings(some[0]),
                "runs": [_trained(run) for run in some],
            }
            for label, some in groups.items()
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
