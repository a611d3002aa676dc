"""From a study file and data directories to the list of runs, everything checked before anything runs."""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffacet.app import settings, splitting
from diffacet.app.cards import card
from diffacet.app.clicks.run import Reading, check_clicks, check_items, open_data
from diffacet.app.clicks.training import check_classes
from diffacet.app.studies import clicks
from diffacet.app.studies.spec import Study, Variant, variants
from diffacet.core.contract import Card, Preset
from diffacet.data import store
from diffacet.data.clicks import SAMPLES
from diffacet.data.splits import MASKING
from diffacet.errors import BadSetting, nearest
from diffacet.rank.metrics import METRICS, check_metric

BY_USER = (*METRICS, "conc", "conc_merged", "div_all", "div_hit_mean", "kinds", "kinds_all", "uncategorised")
"""Metrics that have a value for each user, those of categories included."""
OVERALL = ("coverage", "gini", "div_hit_sum", "div_hit_union", "kinds_random")
"""Metrics of all lists together, which cannot be tested user by user."""
OF_CATEGORIES = (*BY_USER[len(METRICS) :], *OVERALL[2:])
UNRANKED = (*OF_CATEGORIES, "gini")
"""Metrics of which the highest is not the best."""


@dataclass(frozen=True)
class Cut:
    """What of a study is run, and changed, from outside its file; the tables tell it.

    Attributes:
        seeds: instead of all seeds.
        only: labels of the rows to run, with their grids.
        data: names of the data sets to run.
        set: settings changed in every row.
    """

    seeds: tuple[int, ...] = ()
    only: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    set: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def told(self) -> list[str]:
        """The cut as the command line's own words; empty for a whole study."""
        words = [f"--seeds {','.join(map(str, self.seeds))}"] if self.seeds else []
        words += [f"--only '{label}'" for label in self.only] + [f"--on-data {name}" for name in self.data]
        return words + [f"--set {key}={value}" for key, value in self.set.items()]


@dataclass(frozen=True)
class Place:
    """A data set of a study: where it is, its fingerprint, and whether items have categories.

    Attributes:
        parts: whether the log carries its own split.
        parts_divide_users: whether that one gives each part users of its own.
    """

    path: Path
    fingerprint: str
    categories: bool
    parts: bool = False
    parts_divide_users: bool = False


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes:
        name: its folder inside the study's, data set first.
        variant: which row.
        seed: of initial weights and batches.
        split_seed: of the shuffle of users.
        place: the data.
        settings: all settings that it is trained with.
    """

    name: str
    variant: Variant
    seed: int
    split_seed: int
    place: Place
    settings: Preset

    def identity(self) -> dict[str, Any]:
        """What may not change when a study is resumed, as JSON holds it."""
        training = dataclasses.asdict(self.settings.training)
        both = training | dataclasses.asdict(self.settings.model)
        return {
            "model": self.variant.row.model,
            "data": self.place.fingerprint,
            "split": self.variant.split,
            "split_seed": self.split_seed,
            "settings": {key: list(v) if isinstance(v, tuple) else v for key, v in both.items()},
        }


@dataclass(frozen=True)
class Plan:
    """All runs of a study.

    Attributes:
        study: the file.
        cut: what of it.
        places: data set -> where it is.
        variants: rows, data set by data set.
        jobs: the runs, in the order in which they begin: seed by seed, so that a study cut short has whole seeds.
    """

    study: Study
    cut: Cut
    places: Mapping[str, Place]
    variants: tuple[Variant, ...]
    jobs: tuple[Job, ...]


def make(study: Study, data: Path, cut: Cut = Cut()) -> Plan:
    """The runs of `study` on the data sets below `data`, or on `data` itself where it is a data directory.

    Raises:
        BadSetting: an unknown model, preset, setting, split, metric or data set, a value out of range, two runs
            with one name, models of clicks beside others, or nothing left to run.
        BadLog: a data directory that cannot be used, or that is none for these models.
    """
    return assemble(study, _places(study, data, cut), cut)


def assemble(study: Study, places: Mapping[str, Place], cut: Cut) -> Plan:
    """`make` for data sets that were opened before."""
    if cut.seeds:
        study = dataclasses.replace(study, seeds=cut.seeds)
    if clicks.of_study(study):
        study = clicks.prepared(study)
    chosen = tuple(
        itertools.chain(*(_of_protocols(study, _cut(study, name, cut), place) for name, place in places.items()))
    )
    _check_only(study, chosen, cut)
    if not chosen:
        raise BadSetting(f"{study.name}: nothing is left to run")
    for name, place in places.items():
        check_metrics(study, name, place)
    jobs = [job for variant in chosen for job in _jobs(study, variant, places[variant.data])]
    _check_names(study, jobs)
    rank = {seed: n for n, seed in enumerate(dict.fromkeys(job.seed for job in jobs))}
    jobs.sort(key=lambda job: (rank[job.seed], list(places).index(job.variant.data)))
    return Plan(study, cut, places, chosen, tuple(jobs))


def _places(study: Study, data: Path, cut: Cut) -> dict[str, Place]:
    if not data.is_dir():
        raise BadSetting(f"--data {data} is not a directory; it holds data directories, or is one")
    of_clicks = clicks.of_study(study)
    itself = store.there(data) or (data / SAMPLES).is_file()
    names = (data.resolve().name,) if itself else study.data
    for name in cut.data:
        if name not in names:
            known = f"the study has no such data set. It has: {', '.join(names)}"
            raise BadSetting(f"--on-data {name}{nearest(name, names)}: {known}")
    found = {}
    for name in cut.data or names:
        path = data if itself else data / name
        if not path.is_dir():
            there = sorted(entry.name for entry in data.iterdir() if entry.is_dir())
            command = "import-clicks" if of_clicks else "import"
            raise BadSetting(
                f"{study.name}: there is no data set '{name}'{nearest(name, there)} in {data}; "
                f"'diffacet {command} LOG --out {path}' makes it, --on-data names the ones to run on"
            )
        found[name] = _clicks(study, name, path) if of_clicks else _interactions(study, path)
    return found


def _interactions(study: Study, path: Path) -> Place:
    check_items(path, study.row[0].model)
    opened = store.open(path)
    log = opened.log
    return Place(path, opened.fingerprint, log.categories is not None, log.has_parts, log.parts_divide_users)


def _clicks(study: Study, name: str, path: Path) -> Place:
    """A click data set, packed and cut as the first row has it, so that whatever is wrong with it shows now."""
    check_clicks(path, study.row[0].model)
    first = next(variants(study, name), None)
    try:
        packed = open_data(path, splitting.AUTO if first is None else first.split, Reading())
    except BadSetting as error:
        raise BadSetting(f"{study.name}: {error}") from error
    check_classes(packed)
    return Place(path, packed.fingerprint, categories=False)


def _cut(study: Study, data: str, cut: Cut) -> list[Variant]:
    """Rows on a data set after the cut."""
    chosen = [v for v in variants(study, data) if not cut.only or {v.label, v.row.label} & {*cut.only}]
    for variant in chosen:
        fixed = next((key for key in cut.set if key in variant.point), None)
        if fixed is not None:
            raise BadSetting(f"--set {fixed}: row '{variant.label}' compares values of it")
    chosen = [dataclasses.replace(v, set={**v.set, **cut.set}) for v in chosen]
    if cut.seeds:  # a row with a list of its own keeps what is in both
        chosen = [dataclasses.replace(v, seeds=tuple(s for s in v.seeds if s in cut.seeds)) for v in chosen]
    return [variant for variant in chosen if variant.seeds]


def _of_protocols(study: Study, some: Sequence[Variant], place: Place) -> list[Variant]:
    """Rows on a data set with their protocols found out, and whether each ask leaves seen items out."""
    found = []
    for variant in some:
        try:
            task = card(variant.row.model).task
            if task == "click":
                split = clicks.check_split(variant.split)
                clicks.check_asks(variant.asks)
            else:
                split = splitting.resolve(variant.split, place.parts, task, place.parts_divide_users)
        except BadSetting as error:
            raise BadSetting(f"{study.name}: row '{variant.label}': {error}") from error
        asks = [
            ask if ask.exclude_seen is not None else dataclasses.replace(ask, exclude_seen=split in MASKING)
            for ask in variant.asks
        ]
        found.append(dataclasses.replace(variant, split=split, asks=tuple(asks)))
    automatic = {new.split: new.label for new, old in zip(found, some, strict=True) if old.split == splitting.AUTO}
    if len(automatic) > 1:
        told = "; ".join(f"'{label}' would be on {split}" for split, label in automatic.items())
        raise BadSetting(f"{study.name}: rows of one table need one protocol, and {told}; say which by split = '...'")
    return found


def _check_only(study: Study, chosen: Sequence[Variant], cut: Cut) -> None:
    known = {label for data in study.data for v in variants(study, data) for label in (v.label, v.row.label)}
    for label in cut.only:
        if not any(label in (v.label, v.row.label) for v in chosen):
            raise BadSetting(f"--only: the study has no row '{label}'{nearest(label, known)} here")


def check_metrics(study: Study, data: str, place: Place) -> None:
    """Refuse metrics that there are not, that are not measured, or that the data set cannot have. Raises BadSetting."""
    if clicks.of_study(study):
        clicks.check_metrics(study)
        return
    published = {key for row in study.row for numbers in row.published.values() for key in numbers}
    for what, keys in (("metrics", study.metrics), ("tests", study.tests), ("published", sorted(published))):
        where = f"{study.name}: {what}"
        check_names(keys, where, categories=place.categories or what == "published", data=f"data set '{data}'")
        for key in keys:
            if key.partition("@")[2] not in map(str, study.ks):
                raise BadSetting(f"{where}: '{key}' is not measured; ks are {', '.join(map(str, study.ks))}")
            if what == "tests" and key.partition("@")[0] in OVERALL:
                raise BadSetting(f"{where}: {key} is no mean over users, so users cannot be paired")


def check_names(keys: Sequence[str], where: str, *, categories: bool, data: str = "the data set") -> None:
    """Refuse what is no `name@k` of a metric, or what needs `categories` that are not there. Raises BadSetting."""
    every = (*BY_USER, *OVERALL)
    for key in keys:
        name, _, k = key.partition("@")
        if name not in every:
            known = f"There are: {', '.join(every)}"
            raise BadSetting(f"{where}: there is no metric '{name}'{nearest(name, every)}. {known}")
        if not k.isdigit() or int(k) < 1:
            raise BadSetting(f"{where}: a metric is written {name}@50, with the length of the list; got '{key}'")
        if name in OF_CATEGORIES and not categories:
            raise BadSetting(f"{where}: {key} needs categories of items, which {data} lacks")


def _jobs(study: Study, variant: Variant, place: Place) -> list[Job]:
    where = f"{study.name}: row '{variant.label}'"
    try:
        one = card(variant.row.model)
        base = settings.preset(one, variant.preset)
        chosen = [settings.apply(one, base, {**variant.set, "seed": seed}) for seed in variant.seeds]
        free = settings.inference_settings(one.config)
        for ask in variant.asks:
            for key in ask.settings:
                if key not in free:
                    known = f"These can: {', '.join(sorted(free)) or 'none'}"
                    close = nearest(key, free)
                    raise BadSetting(f"asks: '{key}'{close} cannot be changed on a trained {one.name}. {known}")
            settings.apply(one, chosen[0], ask.settings)
        _check_validation(one, chosen[0].training.metric)
        if "seed" in variant.set:
            raise BadSetting("seeds are said by `seeds`, and not by `set`")
    except BadSetting as error:
        raise BadSetting(f"{where}: {error}") from error
    jobs = []
    for seed, each in zip(variant.seeds, chosen, strict=True):
        for split_seed in (seed,) if study.split_seeds == "seed" else study.split_seeds:
            crossed = "" if study.split_seeds == "seed" else f"-p{split_seed}"
            name = f"{variant.data}/{_slug(variant.label)}-s{seed}{crossed}"
            jobs.append(Job(name, variant, seed, int(split_seed), place, each))
    return jobs


def _check_validation(one: Card, metric: str) -> None:
    if one.task == "click":
        clicks.check_validation(metric)
    else:
        check_metric(metric)


def _slug(label: str) -> str:
    return re.sub(r"[^\w.]+", "-", label.lower().replace("+", "p")).strip("-.") or "row"


def _check_names(study: Study, jobs: Sequence[Job]) -> None:
    seen: dict[str, Job] = {}
    for job in jobs:
        if job.name in seen:
            labels = " and ".join(dict.fromkeys(f"'{j.variant.label}'" for j in (seen[job.name], job)))
            raise BadSetting(f"{study.name}: two runs are called {job.name} ({labels}); change a label or the seeds")
        seen[job.name] = job
