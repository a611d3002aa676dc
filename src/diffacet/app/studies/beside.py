"""`diffacet compare`: run directories side by side, or the tables of a study's folder again."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from diffacet.app import report, runs, settings
from diffacet.app.clicks.run import AUTO, ClickRun
from diffacet.app.runs import Run
from diffacet.app.studies import clicks, conduct, folder, spec, tables, work
from diffacet.app.studies.plan import BY_USER, check_metrics, check_names
from diffacet.app.studies.results import AnyRun, measured
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
        metrics: columns, the first two of which are tested (of models of clicks auc is); none: what the study says,
            else the usual ones.
        base: the row that the others are compared with; None: what the study says, else the first.
        data: the runs' data directory, where it has moved.
        device: where runs are measured.
        progress: told (runs measured, all runs).

    Raises:
        BadRun: no run or study, runs of different data or of models of clicks beside others, two runs of one kind with
            one seed.
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
    found = [runs.load(path, device=device) for path in paths]
    _check_data(found)
    return _of_groups(_groups(found), on or "test", metrics, base, data, device, progress)


def compare_runs(
    groups: Mapping[str, Sequence[AnyRun]],
    *,
    on: str = "test",
    metrics: Sequence[str] = (),
    base: str | None = None,
    data: Path | str | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Page:
    """Runs side by side under labels of one's own: means and deviations over seeds, paired tests.

    A run is asked as it was loaded, so `load(path, set={"refine_steps": 0})` is a row beside the same run as trained.
    `page.sheets[0]` has `lines`, one a label, each with `mean(metric, on)` and `deviation(metric, on)`, and `pairs`,
    one for each tested metric and label but `base`: `mean`, `low` and `high` of the difference, `p_users`, `p_seeds`.

    Args:
        groups: label -> runs that differ in their seeds only. Runs of two labels are paired by split and seeds.
        on: "valid" or "test".
        metrics: columns, the first two of which are tested (of models of clicks auc is); none: the usual ones.
        base: the label that the others are compared with; None: the first.
        data: the runs' data directory, where it has moved.
        device: where runs are measured.
        progress: told (runs measured, all runs).

    Raises:
        BadRun: no run, runs of different data or of models of clicks beside others, two runs of one label with one
            seed.
        BadSetting: an unknown metric or label.
    """
    if on not in ("valid", "test"):
        raise BadSetting(f"on takes valid or test; got '{on}'")
    empty = next((label for label, some in groups.items() if not some), None)
    if not groups or empty is not None:
        raise BadRun(f"nothing to compare{'' if empty is None else f' under {empty!r}'}; give each label its runs")
    _check_data([run for some in groups.values() for run in some])
    ordered = {label: _ordered(label, some) for label, some in groups.items()}
    return _of_groups(ordered, on, metrics, base, None if data is None else Path(data), device, progress)


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


def _of_groups(
    groups: Mapping[str, Sequence[AnyRun]],
    on: str,
    metrics: Sequence[str],
    base: str | None,
    data: Path | None,
    device: str,
    progress: Callable[[int, int], None] | None,
) -> Page:
    """The tables of runs that are in order, all of one data set."""
    found = [run for some in groups.values() for run in some]
    first = found[0].about["data"]
    shown, tests = _checked(found, metrics)
    against = base or next(iter(groups))
    _check_base(against, list(groups))
    names = dict.fromkeys((*shown, *tests))
    what = work.wanted(names, (int(k) for name in names if (k := name.partition("@")[2])))
    lines = measured(groups, what, data=data, device=device, progress=progress)
    layout = Layout(shown, tests, on, against)
    single = tables.few_seeds(lines) if lines[0].clicks else "One run of each: nothing is tested."
    lead = [] if max(len(line.trials) for line in lines) > 1 else [single]
    return Page(f"Runs on {first['name']}", (tables.sheet(lines, layout),), tuple(lead))


def _check_data(found: Sequence[AnyRun]) -> None:
    """Refuse runs that have no held-out part in common; raises BadRun."""
    first, told = found[0], found[0].about["data"]
    for run in found:
        own = run.about["data"]
        if isinstance(run, ClickRun) != isinstance(first, ClickRun):
            one, other = (run, first) if isinstance(run, ClickRun) else (first, run)
            raise BadRun(
                f"{one.path} is of a model of clicks and {other.path} of one that ranks items; they have no metric in "
                "common, so compare each kind by itself"
            )
        if own["fingerprint"] != told["fingerprint"]:
            cut = ", or split otherwise," if isinstance(run, ClickRun) else ""
            raise BadRun(
                f"{run.path} is of other data{cut} ({own['name']}, {own['fingerprint']}) than {first.path} "
                f"({told['name']}, {told['fingerprint']}); only runs of the same data are compared"
            )


def _checked(found: Sequence[AnyRun], metrics: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Columns and tested metrics, each there; raises BadSetting."""
    if any(isinstance(run, ClickRun) for run in found):
        clicks.check_names(metrics, "--metric")
        return tuple(metrics or clicks.METRICS), clicks.TESTED
    shown = tuple(metrics or METRICS)
    tests = _tests(shown) or TESTS
    categories = all("categories" in run.catalogue.columns for run in found if isinstance(run, Run))
    check_names((*shown, *tests), "--metric", categories=categories)
    return shown, tests


def _groups(found: Sequence[AnyRun]) -> dict[str, list[AnyRun]]:
    """Label -> runs that differ in their seeds only, in the order of the seeds."""
    kinds: dict[str, list[AnyRun]] = {}
    for run in found:
        told = json.loads(json.dumps(run.about["settings"]))
        told["training"].pop("seed", None)
        kind = json.dumps([run.card.name, told, run.about["split"]["name"]], sort_keys=True)
        kinds.setdefault(kind, []).append(run)
    groups: dict[str, list[AnyRun]] = {}
    for some in kinds.values():
        label, number = _label(some[0]), 2
        while label in groups:
            label, number = f"{_label(some[0])} ({number})", number + 1
        groups[label] = _ordered(label, some)
    return groups


def _ordered(label: str, some: Sequence[AnyRun]) -> list[AnyRun]:
    """The runs of one row in the order of their seeds; raises BadRun for two of one seed."""
    ordered = sorted(some, key=_seeds)
    for one, other in pairwise(ordered):
        if _seeds(one) == _seeds(other):
            raise BadRun(
                f"{one.path} and {other.path} are the same run: {label}, seed {_seeds(one)[1]}; name each once"
            )
    return ordered


def _seeds(run: AnyRun) -> tuple[int, int]:
    return run.about["split"].get("seed", 0), run.settings.training.seed


def _label(run: AnyRun) -> str:
    """Model, preset, and what is changed of it."""
    words = [run.card.name, str(run.about["preset"])]
    for row in settings.describe(run.card):
        if row["name"] != "seed" and run.about["preset"] in row["presets"]:
            value = getattr(getattr(run.settings, row["group"]), row["name"])
            if value != row["presets"][run.about["preset"]]:
                words.append(f"{row['name']} {settings.text(value)}")
    if run.about["split"]["name"] not in ("by-user", AUTO):
        words.append(run.about["split"]["name"])
    return ", ".join(words)


def _tests(metrics: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in metrics if name.partition("@")[0] in BY_USER)[:2]


def _check_base(base: str, labels: Sequence[str]) -> None:
    if base not in labels:
        raise BadSetting(f"--base: there is no row '{base}'{nearest(base, labels)}. There are: {'; '.join(labels)}")
