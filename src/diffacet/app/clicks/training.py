"""Training of click models: from click data to a run directory."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

from diffacet.app import proving, rundir
from diffacet.app.clicks import grouping
from diffacet.app.clicks.run import (
    ITEMS,
    VOCABULARIES,
    ClickRun,
    Reading,
    check_clicks,
    load,
    open_data,
    vocabulary_table,
)
from diffacet.app.environment import environment, pick_device
from diffacet.core.contract import Card, Preset
from diffacet.data import clicks
from diffacet.data.clicks import Packed
from diffacet.data.clicks.log import FloatArray
from diffacet.errors import BadLog, BadSetting
from diffacet.learn import batches
from diffacet.learn.checkpoint import Checkpoints
from diffacet.learn.clicks import batch_at, click_facts, epoch_steps
from diffacet.learn.fit import Moment, fit, initial_weights
from diffacet.rank.click_evaluate import evaluate_clicks

METRICS = ("auc", "gauc")
LEAST_BATCH = 256
"""Samples that are validated at a time at least; without gradients they take less memory than in training."""


@dataclass(frozen=True)
class Asked:
    """What a training is asked for beside its settings; see `runs.train`."""

    preset: str
    split: str
    reading: Reading
    device: str
    threads: int
    resume: bool


def train(
    card: Card,
    data: Path,
    out: Path,
    chosen: Preset,
    asked: Asked,
    *,
    watch: Callable[[Moment], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> ClickRun:
    """Train a click model and return the run with its best weights; arguments and errors are those of `runs.train`.

    Raises:
        BadLog: also when a part has clicks only, or none: nothing can be learned or measured then.
    """
    training = chosen.training
    if training.metric not in METRICS:
        raise BadSetting(
            f"a model of clicks is validated by {' or '.join(METRICS)}; got --set metric={training.metric}"
        )
    check_clicks(data, card.name)
    target = pick_device(asked.device)
    packed = open_data(data, asked.split, asked.reading)
    log, split = packed.log, packed.split
    check_classes(packed)
    steps = batches.in_steps(training, epoch_steps(len(split.train), training))
    told = _told(card, data, chosen, asked, packed)
    rundir.check_directory(out, told, asked.resume)
    if tell is not None:
        for note in packed.notes:
            tell(note)
    torch.set_num_threads(asked.threads)
    with initial_weights(training.seed):
        model = card.build(chosen.model, click_facts(log, training)).to(target)
    proving.check_verbs(card, model, training)
    vectors = grouping.vectors_for(chosen, packed, out)
    if not (out / rundir.ABOUT).exists():
        _create(out, told | {"environment": environment(target)}, packed, vectors)
    log = grouping.packed_as_read(chosen, vectors, packed, tell)

    def validate(model: nn.Module) -> dict[str, float]:
        size = max(training.batch_size, LEAST_BATCH)
        found = evaluate_clicks(_clicker(model), log, split.valid, length=training.length, batch_size=size)
        return {name: value for name, value in found.measure(log.group[split.valid]).items() if value == value}

    fit(model, batch_at(log, split.train, steps), steps, validate=validate, checkpoints=Checkpoints(out), watch=watch)
    return load(out, rundir.read_about(out), card, (), asked.device)


def check_classes(packed: Packed) -> None:
    """Refuse a split with a part that has clicks only, or none; raises BadLog."""
    for part in ("train", "valid", "test"):
        labels = packed.log.label[getattr(packed.split, part)]
        clicked = int(np.count_nonzero(labels))
        if clicked in (0, len(labels)):
            what = "no click" if not clicked else "clicks only"
            why = "nothing can be learned from it" if part == "train" else "its AUC is not defined"
            raise BadLog(
                f"{packed.path}: the {part} part has {what} in {len(labels):,} samples, so {why}; choose other "
                "borders, such as --split quantile:0.8:0.1"
            )


def _told(card: Card, data: Path, chosen: Preset, asked: Asked, packed: Packed) -> dict[str, Any]:
    """run.json, but for the environment."""
    log, split = packed.log, packed.split
    return rundir.told_settings(card.name, asked.preset, chosen) | {
        "task": "click",
        "data": {"name": packed.name, "path": str(data.resolve()), "fingerprint": packed.fingerprint},
        "split": {
            "name": asked.split,
            "borders": list(split.borders),
            "last": int(log.time[split.train].max()),
            "samples": {part: len(getattr(split, part)) for part in ("train", "valid", "test")},
        },
        "reading": asdict(asked.reading),
        "schema": log.schema.to_json(),
        "fields": log.fields(),
        "statistics": [asdict(one) for one in packed.statistics],
        "notes": list(packed.notes),
    }


def _create(out: Path, told: dict[str, Any], packed: Packed, vectors: FloatArray | None) -> None:
    items = clicks.read(packed.path).items
    with rundir.created(out, told) as folder:
        vocabulary_table(packed.log.vocabularies).write_parquet(folder / VOCABULARIES)
        grouping.write_vectors(folder, vectors)
        if items is not None:
            kept = [column for column in items.columns if column == "item_id" or f"items.{column}" in _used(packed)]
            items.select(pl.col(kept)).write_parquet(folder / ITEMS)


def _used(packed: Packed) -> set[str]:
    """The columns that describe a behaviour or a sample, as the schema names them."""
    schema = packed.log.schema
    return {*schema.sample_columns, *(field.behaviour for field in schema.behaviour_fields)}


def _clicker(model: nn.Module) -> Any:
    """The model as a Clicker, which its card promises that it is."""
    return model
