"""From a data directory to the checkpoints of a run, for models that rank items: by one process, or by several at once.

Several are in a world (`core.world`): each has its rows of every batch and of the item table, and calls `fitted` with
the same arguments. The first of them makes the run directory, which all see.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

from diffacet.app import clusters, golden, proving, rundir, splitting
from diffacet.app.clicks.run import check_items
from diffacet.app.environment import environment, pick_device
from diffacet.app.rundir import ABOUT
from diffacet.core.contract import Card, Facts, IntArray, Preset
from diffacet.core.world import World, current
from diffacet.data import store
from diffacet.data.splits import Holdout
from diffacet.data.store import Dataset
from diffacet.learn import batches
from diffacet.learn.checkpoint import Checkpoints
from diffacet.learn.fit import Moment, fit, initial_weights
from diffacet.learn.sharing import check_workers
from diffacet.rank.evaluate import evaluate as measure
from diffacet.rank.evaluate import histories
from diffacet.rank.metrics import check_metric, usual_ks

CATALOGUE = golden.CATALOGUE
Watch = Callable[[Moment], None]


@dataclass(frozen=True)
class Asked:
    """What a training is asked for beside its settings; see `runs.train`, whose `again` trains another model alike."""

    preset: str
    split: str
    split_seed: int
    device: str
    threads: int
    resume: bool
    item_vectors: Path | str | None
    again: Callable[..., Any]


def fitted(
    card: Card,
    data: Path,
    out: Path,
    chosen: Preset,
    asked: Asked,
    *,
    watch: Watch | None = None,
    tell: Callable[[str], None] | None = None,
) -> Holdout:
    """Train to the end, or go on with it; the run is in `out` then. Its validation cases.

    Raises:
        BadSetting, BadLog, BadRun: before anything is written, but for a checkpoint that cannot be.
    """
    check_items(data, card.name)
    check_metric(chosen.training.metric)
    form = batches.form(card, chosen.training)
    batches.check_length(chosen.training, form)
    batches.check_sampling(chosen.training, form)
    target, here = pick_device(asked.device), current()
    dataset = store.open(data)
    if here is not None:
        check_workers(card, here.size, dataset.n_items)
    split = splitting.resolve(asked.split, dataset.has_parts, card.task, dataset.parts_divide_users)
    cut = splitting.cut_for(dataset, split, asked.split_seed, chosen.training, tell)
    valid = cut.holdout("valid", chosen.training.validate_cases, chosen.training.seed)
    told = rundir.told_settings(card.name, asked.preset, chosen) | {
        "data": {"name": dataset.name, "path": str(data.resolve()), "fingerprint": dataset.fingerprint},
        "facts": {"n_users": dataset.n_users},
        "split": {"name": split, "seed": asked.split_seed, "leaks": cut.leaks, "dropped_users": cut.dropped_users},
    }
    grouping = clusters.plan(chosen.model, chosen.training.seed, dataset, cut.train, told["split"], asked.item_vectors)
    told |= {} if grouping is None else {"clusters": grouping.told}
    rundir.check_directory(out, told, asked.resume)
    torch.set_num_threads(asked.threads)
    groups = clusters.make(grouping, out / CATALOGUE, asked.again, tell)
    facts = batches.facts(cut.train, dataset.n_items, chosen.training, dataset.n_users, groups)
    model = _built(card, chosen, facts, target)
    proving.check_verbs(card, model, chosen.training)
    if here is None:
        few = histories(valid, np.arange(min(2, len(valid))), chosen.training.length).to(target)
        proving.check_answers(card, model, few, dataset.n_items)
    batch_at = batches.batch_at(cut.train, dataset.n_items, chosen.training, form)
    with _first_alone(here) as first:
        if first and not (out / ABOUT).exists():
            workers = {} if here is None else {"workers": here.size}
            _create(out, told | {"environment": environment(target) | workers}, dataset, groups)
        if first:
            golden.remove(out)
    ks = usual_ks(split, chosen.training.metric)

    def validate(model: nn.Module) -> dict[str, float]:
        askable: Any = model
        return measure(askable, valid, length=chosen.training.length, ks=ks)

    steps = batches.in_steps(chosen.training, batches.epoch_steps(cut.train, chosen.training, form))
    fit(model, batch_at, steps, validate=validate, checkpoints=Checkpoints(out), watch=watch)
    return valid


def _built(card: Card, chosen: Preset, facts: Facts, target: torch.device) -> nn.Module:
    with initial_weights(chosen.training.seed):
        return card.build(chosen.model, facts).to(target)


@contextmanager
def _first_alone(here: World | None) -> Iterator[bool]:
    """A block that all processes of a world leave together; whether this process is the first, which does it."""
    if here is None:
        yield True
        return
    with here.together():
        yield here.rank == 0


def _create(out: Path, told: dict[str, Any], data: Dataset, groups: IntArray | None) -> None:
    columns = {"item_id": data.items.values, "title": data.titles, "categories": data.categories}
    columns[clusters.COLUMN] = None if groups is None else pl.Series(groups[1:])
    with rundir.created(out, told) as folder:
        pl.DataFrame({n: c for n, c in columns.items() if c is not None}).write_parquet(folder / CATALOGUE)
