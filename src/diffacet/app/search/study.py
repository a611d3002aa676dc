"""`tune`: the strongest settings of a model on validation users, by Optuna's TPE, resumable trial by trial.

    tune.json      what is searched; a resumed search must be the same
    study.log      every trial, as Optuna keeps it; written by one process only
    runs/          the runs of trials under way
    best.json      the best settings so far, a preset file
    trials.csv     a row for each trial that is over
    report.html    what mattered, made at the end

Trial n is drawn from (seed, n) and the trials that are over, so with one worker a search that was killed and
resumed equals an unbroken one. Test users are never measured.
"""

import dataclasses
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from diffacet import files
from diffacet.app import settings, splitting
from diffacet.app.cards import card as card_of
from diffacet.app.clicks.run import Reading, check_clicks, check_items, open_data
from diffacet.app.clicks.training import check_classes
from diffacet.app.environment import environment, pick_device
from diffacet.app.search import page
from diffacet.app.search.queue import Queue, best, importance, opened, over
from diffacet.app.search.space import Dimension, space
from diffacet.app.search.trials import Standing, Task, Tried, Tuned
from diffacet.app.studies import clicks
from diffacet.core.contract import Card, Preset
from diffacet.data import store
from diffacet.data.clicks import Packed
from diffacet.data.store import Dataset
from diffacet.errors import BadRun, BadSetting, require
from diffacet.rank.metrics import check_metric

FORMAT = 1
ABOUT, STUDY, LOCK, RUNS = "tune.json", "study.log", "lock.db", "runs"
BEST, TRIALS, REPORT = "best.json", "trials.csv", "report.html"


@dataclass(frozen=True)
class _Plan:
    """What is searched, checked; `about` is tune.json."""

    card: Card
    base: Preset
    task: Task
    dimensions: Mapping[str, Dimension]
    about: dict[str, Any]


def tune(
    name: str,
    data: Path | str,
    out: Path | str,
    *,
    trials: int,
    metric: str | None = None,
    preset: str = "best",
    set: Iterable[str] | Mapping[str, Any] = (),  # noqa: A002 - the command line's own word
    only: Sequence[str] = (),
    split: str = splitting.AUTO,
    split_seeds: Sequence[int] = (1230,),
    seed: int = 0,
    max_steps: int | None = None,
    workers: int = 1,
    device: str = "auto",
    keep: bool = False,
    resume: bool = False,
    watch: Callable[[Standing], None] | None = None,
) -> Tuned:
    """Search the settings of a model for the highest validation metric, and return the best.

    The first trial is the preset itself. A trial whose validations fall below the median of those before it is
    pruned. One that fails is recorded, and the search goes on.

    Args:
        name: a model of `diffacet models`.
        data: a data directory.
        out: directory of the search; new, or with `resume` a search of the same space, data and settings.
        trials: how many, those of a resumed search included.
        metric: a validation metric, by which a run also chooses its checkpoint (auc or gauc of a model of clicks);
            None: the preset's.
        preset: the settings to start from, a name or a preset file.
        set: settings that every trial has, and that are not searched.
        only: search these settings and no others.
        split: a protocol of `SPLITS`, or "auto": the data's own split, else that of the model's task.
        split_seeds: a trial's value is the mean over the splits of these seeds; click data have one split.
        seed: of the search, and of every run's weights, batches, negatives and noise.
        max_steps: training steps at most.
        workers: trials at once, each in a process of its own with one thread. More than one need a main module
            that can be imported; with one, everything happens in this process.
        device: "auto", "cpu" or "cuda".
        keep: leave the runs of finished trials in `out`/runs.
        resume: go on with the search in `out`.
        watch: told how far the search is, at every validation and after every trial.

    Raises:
        MissingExtra: Optuna, Plotly or Jinja2 is not installed.
        BadSetting, BadLog: before anything is written.
        BadRun: `out` exists, is another search, is in use or cannot be written; or every trial failed.
    """
    for module in ("optuna", "plotly", "jinja2"):
        require(module, "search")
    if trials < 1 or workers < 1:
        raise BadSetting(f"trials and workers are at least 1; got {trials} and {workers}")
    fixed: dict[str, Any] = dict(set) if isinstance(set, Mapping) else settings.split_pairs(set)
    for key, value in (("metric", metric), ("max_steps", max_steps)):
        if value is not None and str(fixed.setdefault(key, value)) != str(value):
            raise BadSetting(f"{key} is given twice: {value}, and {fixed[key]} by --set")
    out, seeds = Path(out), tuple(split_seeds)
    chosen = settings.apply(card_of(name), settings.preset(card_of(name), preset), {"seed": seed, **fixed})
    limit, metric = chosen.training.max_steps, chosen.training.metric
    task = Task(name, Path(data), out / RUNS, preset, fixed, metric, limit, split, seeds, seed, device, keep)
    plan = _plan(task, chosen, only)
    task = plan.task
    _check_directory(out, plan.about, resume)
    with _alone_in(out), opened(out / STUDY) as study:

        def ended(standing: Standing) -> None:
            if standing.latest is not None:
                _write(plan, out, over(study), {})
            if watch is not None:
                watch(standing)

        Queue(study, plan.dimensions, plan.base, task).run(trials, workers, ended)
        found = _write(plan, out, over(study), importance(study))
    if not keep:
        shutil.rmtree(task.folder, ignore_errors=True)
    if found is None:
        told = f"all {trials} trials failed" if trials > 1 else "the only trial failed"
        raise BadRun(f"{told}; {out / TRIALS} says why")
    page.write(out / REPORT, plan.card, plan.dimensions, found, plan.about)
    return found


def _plan(task: Task, base: Preset, only: Sequence[str]) -> _Plan:
    """Check all that can be checked before anything is written."""
    card, seeds = card_of(task.model), task.split_seeds
    (clicks.check_validation if card.task == "click" else check_metric)(base.training.metric)
    dimensions = space(card, base, fixed=list(task.fixed), only=only)
    if not seeds or len({*seeds}) < len(seeds):
        raise BadSetting(f"split seeds are one or more different numbers; got {', '.join(map(str, seeds)) or 'none'}")
    target = pick_device(task.device)
    split, dataset = (_clicks if card.task == "click" else _interactions)(task, card)
    task = dataclasses.replace(task, split=split)
    about = {
        "format": FORMAT,
        "model": task.model,
        "preset": task.preset,
        "settings": {"model": dataclasses.asdict(base.model), "training": dataclasses.asdict(base.training)},
        "space": {name: dimension.described() for name, dimension in dimensions.items()},
        "metric": task.metric,
        "task": card.task,
        "data": {"name": dataset.name, "path": str(task.data.resolve()), "fingerprint": dataset.fingerprint},
        "split": {"name": task.split, "seeds": list(seeds)},
        "seed": task.seed,
        "environment": environment(target),
    }
    return _Plan(card, base, task, dimensions, json.loads(json.dumps(about)))


def _interactions(task: Task, card: Card) -> tuple[str, Dataset]:
    """The split, resolved and tried, and the data of a model of items."""
    check_items(task.data, card.name)
    dataset = store.open(task.data)
    log = dataset.log
    split = splitting.resolve(task.split, log.has_parts, card.task, log.parts_divide_users)
    splitting.cut(dataset, split, task.split_seeds[0])
    return split, dataset


def _clicks(task: Task, card: Card) -> tuple[str, Packed]:
    """The split and the data of a model of clicks."""
    if len(task.split_seeds) > 1:
        raise BadSetting(
            "click data are split by time and not shuffled, so there is one split; leave out --split-seeds"
        )
    check_clicks(task.data, card.name)
    packed = open_data(task.data, task.split, Reading())
    check_classes(packed)
    return task.split, packed


def _check_directory(out: Path, about: dict[str, Any], resume: bool) -> None:
    """Make the directory of a new search, or refuse one that holds something else than this search."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        try:
            with files.new_directory(out) as folder:
                files.write_json(folder / ABOUT, about)
        except OSError as error:
            raise BadRun(f"{out} cannot be written: {error}; choose another --out") from error
        return
    if not resume:
        raise BadRun(f"{out} exists; choose another --out, or go on with the search in it by --resume")
    try:
        before = files.read_json(out / ABOUT)
    except FileNotFoundError as error:
        raise BadRun(f"{out} holds no search: there is no {ABOUT} in it; choose another --out") from error
    except (OSError, ValueError) as error:
        raise BadRun(f"{out / ABOUT} is damaged ({error}); restore it from a copy, or search anew") from error
    old, new = _flat(before), _flat(about)
    names = [key for key in dict.fromkeys([*new, *old]) if old.get(key) != new.get(key)]
    if names:
        told = "; ".join(f"{key} is {new.get(key, 'not there')}, was {old.get(key, 'not there')}" for key in names)
        raise BadRun(f"{out} is another search: {told}; resume with the same, or choose another --out")


def _flat(about: Mapping[str, Any]) -> dict[str, Any]:
    """What must not change when a search is resumed, name -> value."""
    flat = {key: about.get(key) for key in ("format", "model", "preset", "metric", "seed")}
    flat["data fingerprint"] = about.get("data", {}).get("fingerprint")
    flat |= {f"split {key}": value for key, value in about.get("split", {}).items()}
    flat |= {f"search space of {name}": described for name, described in about.get("space", {}).items()}
    return flat | {name: value for group in about.get("settings", {}).values() for name, value in group.items()}


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Refuse a second search in the same directory; the lock goes with the process, however it ends."""
    lock = sqlite3.connect(out / LOCK, timeout=0, isolation_level=None)
    try:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            raise BadRun(
                f"{out} is in use by another search ({error}); wait for it, or choose another --out"
            ) from error
        yield
    finally:
        lock.close()


def _write(plan: _Plan, out: Path, trials: Sequence[Tried], mattered: Mapping[str, float]) -> Tuned | None:
    """Write trials.csv and best.json; None when no trial was finished."""
    first = best(trials)
    try:
        files.write_file(out / TRIALS, _table(plan, trials).write_csv)
        if first is None or first.value is None:
            return None
        chosen = settings.apply(plan.card, plan.base, first.values)
        data, split, task = plan.about["data"], plan.about["split"], plan.task
        seeds = "" if plan.card.task == "click" else f", split seeds {', '.join(map(str, task.split_seeds))}"
        source = (
            f"tuned on validation of {data['name']} ({data['fingerprint']}), {split['name']}{seeds}: {task.metric} "
            f"{first.value:.4f}, trial {first.number} of {len(trials)} that began with preset {task.preset}"
        )
        chosen = dataclasses.replace(chosen, source=source)
        settings.write_preset(out / BEST, plan.card, chosen)
    except OSError as error:
        raise BadRun(f"{out} cannot be written: {error}; make room and go on with --resume") from error
    start = next((tried.value for tried in trials if tried.number == 0), None)
    return Tuned(out, chosen, first.value, start, task.metric, tuple(trials), mattered)


def _table(plan: _Plan, trials: Sequence[Tried]) -> pl.DataFrame:
    """A row for each trial: number, state, value, the value on each split, seconds, the settings, the error."""
    metric, seeds = plan.task.metric, plan.task.split_seeds
    columns: dict[str, Any] = {
        "trial": [tried.number for tried in trials],
        "state": [tried.state for tried in trials],
        metric: pl.Series([tried.value for tried in trials], dtype=pl.Float64),
    }
    for place, seed in enumerate(seeds):
        reached = [tried.splits[place] if place < len(tried.splits) else None for tried in trials]
        columns[f"{metric} split {seed}"] = pl.Series(reached, dtype=pl.Float64)
    columns["seconds"] = [round(tried.seconds, 3) for tried in trials]
    for name in plan.dimensions:
        columns[name] = [settings.text(tried.values[name]) for tried in trials]
    return pl.DataFrame(columns | {"error": [tried.error for tried in trials]})
