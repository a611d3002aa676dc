"""`diffacet compare`: run directories side by side, or the tables of a study's folder again."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diffacet.app import report, runs, settings
from diffacet.app.runs import Run
from diffacet.app.studies import conduct, folder, spec, tables, work
from diffacet.app.studies.plan import BY_USER, check_metrics, check_names
from diffacet.app.studies.results import Line, Trial
from diffacet.app.studies.tables import Layout, Page
from diffacet.errors import BadRun, BadSetting, nearest

METRICS = ("recall@20", "hit_rate@20", "recall@50", "hit_rate@50", "ndcg@50")
TESTS = ("recall@50", "ndcg@50")


def page(
    paths: Sequence[Path],
    *,
    on: str | None = None,
    metrics: Sequence[str] = (),
    base: str | None = None,
    data: Path | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Page:
    """The tables of some runs, or of a study.

    Args:
        paths: run directories; or a study's folder, which a study file or name may precede.
        on: "valid" or "test"; None: what the study says, else test.
        metrics: columns, the first two of which are tested; none: what the study says, else the usual ones.
        base: the row that the others are compared with; None: what the study says, else the first.
        data: the runs' data directory, where it has moved.
        device: where runs are measured.
        progress: told (runs measured, all runs).

    Raises:
        BadRun: no run or study, runs of different data, two runs of one kind with one seed.
        BadSetting: an unknown metric or row.
    """
    if on not in (None, "valid", "test"):
        raise BadSetting(f"--on takes valid or test; got '{on}'")
    study = _study(paths)
    if study is not None:
        where, read = study
        return _of_study(where, read, on, metrics, base)
    if not paths:
        raise BadRun("nothing to compare; name run directories, or a study's folder")
    return _of_runs(paths, on or "test", metrics, base, data, device, progress)


def write(page: Page, out: Path) -> None:
    """Write the page as Markdown or HTML, by the ending of `out`. Raises BadSetting, BadRun or MissingExtra."""
    if out.suffix not in (".md", ".html"):
        raise BadSetting(f"--out takes a file that ends with .md or .html; got '{out}'")
    if out.suffix == ".html":
        report.write(out, report.renderer(conduct.TEMPLATE)(page=page, figures=()))
    else:
        report.write(out, tables.markdown(page))


def _study(paths: Sequence[Path]) -> tuple[Path, spec.Study | None] | None:
    """The study's folder and file among what was named; None when it is runs."""
    if not paths:
        return None
    if len(paths) == 1 and (paths[0] / folder.ABOUT).exists():
        return paths[0], None
    first = paths[0]
    if first.suffix == ".toml" or (str(first) in spec.shipped() and not first.exists()):
        if len(paths) != 2:
            raise BadRun(f"{first} says what a study runs, and not where its runs are: diffacet compare {first} DIR")
        return paths[1], spec.read(first)
    return None


def _of_study(where: Path, read: spec.Study | None, on: str | None, metrics: Sequence[str], base: str | None) -> Page:
    plan = folder.reopened(where, read)
    changes: dict[str, Any] = {"on": on} if on else {}
    if metrics:
        changes |= {"metrics": tuple(metrics), "tests": _tests(metrics) or plan.study.tests}
    if base is not None:
        labels = [label for variant in plan.variants for label in variant.labels()]
        _check_base(base, labels)
        changes["base"] = base
    plan = dataclasses.replace(plan, study=dataclasses.replace(plan.study, **changes))
    for name, place in plan.places.items():
        check_metrics(plan.study, name, place)
    return conduct.reread(plan, where)


def _of_runs(
    paths: Sequence[Path],
    on: str,
    metrics: Sequence[str],
    base: str | None,
    data: Path | None,
    device: str,
    progress: Callable[[int, int], None] | None,
) -> Page:
    found = [runs.load(path, device=device) for path in paths]
    first = found[0].about["data"]
    for run in found:
        own = run.about["data"]
        if own["fingerprint"] != first["fingerprint"]:
            raise BadRun(
                f"{run.path} is of other data ({own['name']}, {own['fingerprint']}) than {found[0].path} "
                f"({first['name']}, {first['fingerprint']}); only runs of the same data are compared"
            )
    groups = _groups(found)
    shown = tuple(metrics or METRICS)
    tests = _tests(shown) or TESTS
    against = base or next(iter(groups))
    _check_base(against, list(groups))
    check_names((*shown, *tests), "--metric", categories=all("categories" in run.catalogue.columns for run in found))
    names = dict.fromkeys((*shown, *tests))
    what = work.wanted(names, (int(name.partition("@")[2]) for name in names))
    lines, count = [], 0
    for label, some in groups.items():
        trials = []
        for run in some:
            numbers, users = work.measure(run, run.split(data), what, device=device)
            trials.append(Trial(work.describe(run, label=label) | {"asks": numbers}, users))
            count += 1
            if progress is not None:
                progress(count, len(found))
        lines.append(Line(label, first["name"], tuple(trials)))
    layout = Layout(shown, tests, on, against)
    lead = [] if max(len(line.trials) for line in lines) > 1 else ["One run of each: nothing is tested."]
    return Page(f"Runs on {first['name']}", (tables.sheet(lines, layout),), tuple(lead))


def _groups(found: Sequence[Run]) -> dict[str, list[Run]]:
    """Label -> runs that differ in their seeds only, in the order of the seeds."""
    kinds: dict[str, list[Run]] = {}
    for run in found:
        told = json.loads(json.dumps(run.about["settings"]))
        told["training"].pop("seed", None)
        kind = json.dumps([run.card.name, told, run.about["split"]["name"]], sort_keys=True)
        kinds.setdefault(kind, []).append(run)
    groups: dict[str, list[Run]] = {}
    for some in kinds.values():
        label, number = _label(some[0]), 2
        while label in groups:
            label, number = f"{_label(some[0])} ({number})", number + 1
        groups[label] = sorted(some, key=_seeds)
        for one, other in zip(groups[label], groups[label][1:], strict=False):
            if _seeds(one) == _seeds(other):
                raise BadRun(
                    f"{one.path} and {other.path} are the same run: {label}, seed {_seeds(one)[1]}; name each once"
                )
    return groups


def _seeds(run: Run) -> tuple[int, int]:
    return run.about["split"]["seed"], run.settings.training.seed


def _label(run: Run) -> str:
    """Model, preset, and what is changed of it."""
    words = [run.card.name, str(run.about["preset"])]
    for row in settings.describe(run.card):
        if row["name"] != "seed" and run.about["preset"] in row["presets"]:
            value = getattr(getattr(run.settings, row["group"]), row["name"])
            if value != row["presets"][run.about["preset"]]:
                words.append(f"{row['name']} {settings.text(value)}")
    if run.about["split"]["name"] != "by-user":
        words.append(run.about["split"]["name"])
    return ", ".join(words)


def _tests(metrics: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in metrics if name.partition("@")[0] in BY_USER)[:2]


def _check_base(base: str, labels: Sequence[str]) -> None:
    if base not in labels:
        known = nearest(base, labels) or "."
        raise BadSetting(f"--base: there is no row '{base}'{known} There are: {'; '.join(labels)}")
