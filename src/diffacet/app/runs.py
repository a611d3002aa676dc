"""Runs: from a data directory to a trained model in a directory of its own, and back.

    run.json           model, settings, data, split, code and environment
    catalogue.parquet  item_id, maybe title, categories and cluster; row n is item n + 1
    metrics.jsonl      one line a validation
    best.safetensors   the model of the best validation
    last.safetensors   model, optimiser and trail of the newest one, to resume from

A run answers `recommend` from anywhere, without the data it was trained on.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import nn

from diffacet import files
from diffacet.app import clusters, resuming, settings, splitting
from diffacet.app.environment import environment, pick_device
from diffacet.arrays import distinct
from diffacet.core.contract import Card, Facts, IntArray, Preset, Training
from diffacet.data import store
from diffacet.data.ids import Ids
from diffacet.data.interactions import Interactions
from diffacet.data.splits import Holdout, Split
from diffacet.errors import BadRun, BadSetting
from diffacet.learn import batches, checkpoint
from diffacet.learn.checkpoint import Checkpoints, Record
from diffacet.learn.fit import Moment, fit, initial_weights
from diffacet.models import card as card_of
from diffacet.rank.candidates import Recommender
from diffacet.rank.categories import ItemCategories, check_primary
from diffacet.rank.evaluate import check_average
from diffacet.rank.evaluate import evaluate as measure
from diffacet.rank.metrics import check_metric, usual_ks
from diffacet.rank.ranking import BUDGET

FORMAT = 1
ABOUT, CATALOGUE = "run.json", "catalogue.parquet"
Watch = Callable[[Moment], None]


@dataclass(frozen=True)
class Run:
    """A trained model with all that is needed to ask it.

    Attributes:
        path: the run directory.
        about: run.json.
        card: the model's card.
        settings: the settings it was trained with, with those changed by `load`.
        model: in evaluation mode, with the best weights.
        catalogue: item_id, maybe title and categories; row n is item n + 1.
    """

    path: Path
    about: dict[str, Any]
    card: Card
    settings: Preset
    model: nn.Module
    catalogue: pl.DataFrame

    def trail(self) -> list[Record]:
        """The validations of the run, oldest first."""
        return checkpoint.read_trail(self.path).records

    def recommender(self, index: str = "exact") -> Recommender:
        """What turns a history of the log's own item ids into candidates."""
        columns = self.catalogue.columns
        return Recommender(
            _askable(self.model),
            Ids(self.catalogue["item_id"], 1),
            length=self.settings.training.length,
            titles=self.catalogue["title"] if "title" in columns else None,
            categories=_categories(self.catalogue),
            index=index,
        )

    def holdout(self, on: str = "test", data: Path | None = None, input: str = "train") -> Holdout:  # noqa: A002
        """The cases of the run's own split, cut again from its data.

        Args:
            on: "valid" or "test".
            data: the data directory, where it has moved.
            input: "train", or "train+valid": the test's histories with the validation part.

        Raises:
            BadSetting: `on` or `input` is neither, or the protocol has no such input.
            BadRun: the data are gone, or are not those of the run.
        """
        splitting.check_asked(on, input)
        return splitting.holdout(self.split(data), on, input)

    def split(self, data: Path | None = None) -> Split:
        """The split that the run was trained on; see `holdout` for what is raised."""
        told = self.about["data"]
        path = data or Path(told["path"])
        if not path.exists():
            raise BadRun(f"{self.path} was trained on {path}, which is not there; say where it is with --data DIR")
        dataset = store.open(path)
        _check_fingerprint(self.path, told, dataset)
        return splitting.cut(dataset, self.about["split"]["name"], self.about["split"]["seed"])

    def evaluate(
        self,
        on: str = "test",
        ks: Sequence[int] | None = None,
        *,
        exclude_seen: bool | None = None,
        input: str = "train",  # noqa: A002
        include_empty: bool = False,
        average: str = "evaluated",
        category: str = "last",
        data: Path | None = None,
        budget: int = BUDGET,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Any]:
        """What `diffacet evaluate --json` prints: model, dataset, split, on, seed, users, cases, seconds, metrics.

        Lists are as long, and seen items are left out, as the protocol does, unless `ks` and `exclude_seen` say
        otherwise. `input` and `include_empty` choose the cases, see `splitting.holdout`; `average` is that of
        `Measured.means`, `category` that of `ItemCategories.from_lists`. `budget` bounds the bytes that ranking takes
        beside the model; numbers do not depend on it.
        """
        splitting.check_asked(on, input)
        split, told = self.split(data), self.about
        holdout = splitting.holdout(split, on, input, include_empty)
        start = time.perf_counter()
        metrics = measure(
            _askable(self.model),
            holdout,
            length=self.settings.training.length,
            ks=usual_ks(told["split"]["name"]) if ks is None else ks,
            exclude_seen=exclude_seen,
            categories=_categories(self.catalogue, category),
            budget=budget,
            progress=progress,
            average=check_average(average),
        )
        asked = {"on": on, "input": input, "include_empty": include_empty, "average": average, "category": category}
        return {
            "model": self.card.name,
            "preset": told["preset"],
            "dataset": told["data"]["name"],
            "split": told["split"]["name"],
            "split_seed": told["split"]["seed"],
            **asked,
            "seed": self.settings.training.seed,
            "noise_seed": getattr(self.settings.model, "noise_seed", None),
            "users": len(distinct(holdout.history.users)),
            "cases": len(holdout),
            "untrained_items": 1 - len(distinct(split.train.items)) / len(self.catalogue),
            "exclude_seen": holdout.exclude_seen if exclude_seen is None else exclude_seen,
            "seconds": time.perf_counter() - start,
            "metrics": metrics,
        }


def train(
    name: str,
    data: Path | str,
    out: Path | str,
    *,
    preset: str = "best",
    set: Iterable[str] | Mapping[str, Any] = (),  # noqa: A002 - the command line's own word
    split: str = splitting.AUTO,
    seed: int = 0,
    split_seed: int = 1230,
    max_steps: int | None = None,
    device: str = "auto",
    threads: int = 1,
    resume: bool = False,
    watch: Watch | None = None,
    item_vectors: Path | str | None = None,
    tell: Callable[[str], None] | None = None,
) -> Run:
    """Train a model and return the run with its best weights.

    Args:
        name: a model of `diffacet models`.
        data: a data directory.
        out: the run directory; new, or with `resume` an unfinished run of the same settings and data.
        preset: the settings to start from.
        set: changes to them, `["key=value"]` or a mapping.
        split: a protocol of `SPLITS`, or "auto": the data's own split, else that of the model's task.
        seed: of initial weights, batches, negatives and noise.
        split_seed: of the shuffle of users; 1230 is the published protocol's.
        max_steps: training steps at most.
        device: "auto", "cpu" or "cuda".
        threads: of the CPU. More than one slows the small products of a training step, often by far.
        resume: go on from the last checkpoint in `out`, to the same result as an unbroken run.
        watch: called after every step.
        item_vectors: a .npy file, for models with clusters of items; None: LightGCN's, see `clusters`.
        tell: called with a line on each stage before the training, and with advice.

    Raises:
        BadSetting, BadLog, BadRun: before anything is written, but for a checkpoint that cannot be.
    """
    data, out = Path(data), Path(out)
    card = card_of(name)
    changes = dict(set) if isinstance(set, Mapping) else settings.split_pairs(set)
    changes = {"seed": seed} | ({} if max_steps is None else {"max_steps": max_steps}) | changes
    chosen = settings.apply(card, settings.preset(card, preset), changes)
    check_metric(chosen.training.metric)
    form = batches.form(card, chosen.training)
    batches.check_length(chosen.training, form)
    target = pick_device(device)
    if threads < 1:
        raise BadSetting(f"threads is at least 1; got {threads}")
    dataset = store.open(data)
    split = splitting.resolve(split, dataset.log.has_parts, card.task, dataset.log.parts_divide_users)
    cut = splitting.cut(dataset, split, split_seed, tell)
    told: dict[str, Any] = {
        "format": FORMAT,
        "model": name,
        "preset": preset,
        "settings": {"model": dataclasses.asdict(chosen.model), "training": dataclasses.asdict(chosen.training)},
        "data": {"name": dataset.name, "path": str(data.resolve()), "fingerprint": dataset.fingerprint},
        "facts": {"n_users": dataset.log.n_users},
        "split": {"name": split, "seed": split_seed, "leaks": cut.leaks, "dropped_users": cut.dropped_users},
    }
    grouping = clusters.plan(chosen.model, chosen.training.seed, dataset, cut.train, told["split"], item_vectors)
    told |= {} if grouping is None else {"clusters": grouping.told}
    _check_directory(out, told, resume)
    torch.set_num_threads(threads)
    again = partial(train, data=data, split=split, split_seed=split_seed, device=device, threads=threads)
    groups = clusters.make(grouping, out / CATALOGUE, again, tell)
    facts = batches.facts(cut.train, dataset.log.n_items, chosen.training, dataset.log.n_users, groups)
    with initial_weights(chosen.training.seed):
        model = card.build(chosen.model, facts).to(target)
    batch_at = batches.batch_at(cut.train, dataset.log.n_items, chosen.training, form)
    if not (out / ABOUT).exists():
        _create(out, told | {"environment": environment(target)}, dataset.log, groups)

    ks = usual_ks(split, chosen.training.metric)

    def validate(model: nn.Module) -> dict[str, float]:
        return measure(_askable(model), cut.valid, length=chosen.training.length, ks=ks)

    steps = batches.in_steps(chosen.training, batches.epoch_steps(cut.train, chosen.training, form))
    fit(model, batch_at, steps, validate=validate, checkpoints=Checkpoints(out), watch=watch)
    return load(out, device=device)


def load(
    path: Path | str,
    *,
    set: Iterable[str] | Mapping[str, Any] = (),  # noqa: A002
    device: str = "auto",
) -> Run:
    """The run in `path` with its best weights; `set` may change settings that shape no weight.

    Raises:
        BadRun: no run, a damaged one, or one of another version.
        BadSetting: a setting that is unknown, out of range, or shapes weights.
    """
    path = Path(path)
    told = read_about(path)
    card = card_of(told["model"])
    stored = Preset(
        settings.from_dict(card.config, told["settings"]["model"], f"{path}/{ABOUT}"),
        settings.from_dict(Training, told["settings"]["training"], f"{path}/{ABOUT}"),
        told["preset"],
    )
    changes = dict(set) if isinstance(set, Mapping) else settings.split_pairs(set)
    free = settings.inference_settings(card.config)
    chosen = settings.apply(card, stored, changes)
    for key in changes:
        if key not in free:
            allowed = ", ".join(sorted(free)) or "nothing"
            raise BadSetting(f"'{key}' is fixed when {card.name} is trained; changeable on a run: {allowed}")
    try:
        catalogue = pl.read_parquet(path / CATALOGUE)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BadRun(f"{path / CATALOGUE} is missing or damaged ({error}); restore it from a copy") from error
    tensors, _ = checkpoint.read(path / checkpoint.BEST)
    n_users, groups = told.get("facts", {}).get("n_users", 0), clusters.of_catalogue(catalogue)
    facts = Facts(len(catalogue), chosen.training.length, n_users=n_users, clusters=groups)
    model = card.build(chosen.model, facts).to(pick_device(device))
    checkpoint.restore(model, tensors, path / checkpoint.BEST)
    return Run(path, told, card, chosen, model.eval(), catalogue)


def read_about(path: Path) -> dict[str, Any]:
    """run.json of a run directory; raises BadRun when it is none."""
    none = f"{path} is no run directory: it holds no {ABOUT}; 'diffacet train' makes one"
    return read_told(path, ABOUT, FORMAT, none, "restore it from a copy, or train again")


def read_told(path: Path, name: str, version: int, none: str, mend: str) -> dict[str, Any]:
    """The JSON file `name` that tells what the directory `path` holds, in the format `version`.

    Raises:
        BadRun: saying `none` when there is no such file, and `mend` when it is damaged.
    """
    try:
        told = files.read_json(path / name)
    except FileNotFoundError as error:
        raise BadRun(none) from error
    except (OSError, ValueError) as error:
        raise BadRun(f"{path / name} is damaged ({error}); {mend}") from error
    if told.get("format") != version:
        raise BadRun(f"{path} has format {told.get('format')!r}; this version reads {version}")
    return told


def _create(out: Path, told: dict[str, Any], log: Interactions, groups: IntArray | None) -> None:
    columns = {"item_id": log.items.values, "title": log.titles, "categories": log.categories}
    columns[clusters.COLUMN] = None if groups is None else pl.Series(groups[1:])
    try:
        with files.new_directory(out) as folder:
            pl.DataFrame({n: c for n, c in columns.items() if c is not None}).write_parquet(folder / CATALOGUE)
            files.write_json(folder / ABOUT, told)
    except OSError as error:
        raise BadRun(f"{out} cannot be written: {error}; choose another --out") from error


def _check_directory(out: Path, told: dict[str, Any], resume: bool) -> None:
    """Refuse a directory that holds something else than this run."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not resume:
        raise BadRun(f"{out} exists; choose another --out, or go on with the run in it by --resume")
    before = read_about(out)
    resuming.check(out, before, told)


def _check_fingerprint(path: Path, told: Mapping[str, Any], dataset: store.Dataset) -> None:
    if dataset.fingerprint != told["fingerprint"]:
        raise BadRun(
            f"{path} was trained on data with fingerprint {told['fingerprint']}; {dataset.path} has "
            f"{dataset.fingerprint}: it is other data, or was changed since"
        )


def _categories(catalogue: pl.DataFrame, primary: str = "last") -> ItemCategories | None:
    lists = catalogue["categories"].to_list() if "categories" in catalogue.columns else None
    return None if lists is None else ItemCategories.from_lists(lists, check_primary(primary))


def _askable(model: nn.Module) -> Any:
    """The model as a Matcher or Scorer, which its card promises that it is."""
    return model
