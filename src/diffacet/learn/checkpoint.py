"""What a run keeps: weights as safetensors with their story in the header, one atomic file each.

`last.safetensors` holds model, optimiser and trail of the newest validation, or of a step after it where checkpoints
are written between validations; `best.safetensors` the model of the best one, `metrics.jsonl` the trail as lines for
other programs. A killed run resumes from `last`. Where processes share the item table, `last` has its rows in files
beside it (`shards`), which any number of processes reads again; `best` is whole, for all who use a run.
"""

import errno
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from diffacet import files
from diffacet.core.layers import tables
from diffacet.core.world import current
from diffacet.errors import BadRun
from diffacet.learn.optim import Optimizer
from diffacet.learn.shards import Own, Shards, sweep, write_joined

FORMAT, DIVIDED = "diffacet-checkpoint-1", "diffacet-checkpoint-2"
"""Of a checkpoint that is whole, and of one whose rows lie in files of their own."""
LAST, BEST, METRICS = "last.safetensors", "best.safetensors", "metrics.jsonl"
MODEL, OPTIMIZER = "model.", "optimizer."
"""What the names of weights and of the optimiser's tensors begin with."""
SUMS = "sums."
"""What the names of the loss terms' sums begin with in a checkpoint between validations."""


@dataclass(frozen=True)
class Record:
    """One validation: the step after which it happened, and what was seen.

    Attributes:
        step: steps done.
        metrics: validation metrics.
        terms: mean of each weighted loss term since the record before.
        gauges: what the model reports on itself.
        seconds: of training and validation so far, over all resumptions.
    """

    step: int
    metrics: dict[str, float]
    terms: dict[str, float] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class Progress:
    """How far a training is, and what the next record will be made of.

    Attributes:
        step: steps done.
        seconds: of training and validation so far, over all resumptions.
        sums: of each weighted loss term over the steps after the last record.
    """

    step: int = 0
    seconds: float = 0.0
    sums: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Trail:
    """The validations of a run, oldest first, which of them `metric` calls the best, and how far the training is."""

    metric: str
    records: list[Record] = field(default_factory=list)
    progress: Progress = field(default_factory=Progress, compare=False)

    @property
    def best(self) -> Record | None:
        """The first record with the highest metric; None before the first validation."""
        return max(self.records, key=self._value, default=None)

    def stale(self, patience: int) -> bool:
        """Whether more than `patience` validations in a row brought no higher metric."""
        best = self.best
        return best is not None and len(self.records) - 1 - self.records.index(best) > patience

    def _value(self, record: Record) -> float:
        value = record.metrics[self.metric]
        return -math.inf if math.isnan(value) else value


class Checkpoints:
    """The checkpoint files of one run directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def resume(self, model: nn.Module, optimizer: Optimizer, metric: str) -> Trail:
        """Load model and optimiser from the last checkpoint and return its trail; an empty one if there is none.

        The checkpoint may be of another number of processes than those that resume.

        Raises:
            BadRun: when the file is damaged, or belongs to another model; or a file of its rows is not there.
        """
        here, path = current(), self.folder / LAST
        if here is None:
            return self._resumed(model, optimizer, path) if path.exists() else Trail(metric)
        seen = {there for (there,) in here.table([path.exists()])}
        if len(seen) > 1:
            raise BadRun(f"{path} is not seen by all workers; the run directory lies on a file system that all share")
        with here.together():
            return self._resumed(model, optimizer, path) if seen.pop() else Trail(metric)

    def _resumed(self, model: nn.Module, optimizer: Optimizer, path: Path) -> Trail:
        here, own = current(), None
        if here is not None:
            table = tables(model)[0]
            own = Own(partial(_divided, model, optimizer), table.n_items, table.first, table.last)
        tensors, story = read(path, own=own)
        restore(model, tensors, path)
        try:
            state = {name.removeprefix(OPTIMIZER): t for name, t in tensors.items() if name.startswith(OPTIMIZER)}
            optimizer.load(state)
            trail = Trail(story["metric"], [Record(**record) for record in story["records"]])
            trail.progress = _progress(trail, story, tensors)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise BadRun(f"{path} does not belong to this run ({error}); train again into a new directory") from error
        if here is None or here.rank == 0:
            self._write_metrics(trail)  # without the lines of validations that the checkpoint does not hold
        return trail

    def save(self, model: nn.Module, optimizer: Optimizer, trail: Trail) -> None:
        """Write the last checkpoint, the best one if the newest record is the best, and the metrics.

        Raises:
            BadRun: when the disk is full or refuses; the files are then what they were.
        """
        step = trail.records[-1].step
        story = {"metric": trail.metric, "records": [asdict(record) for record in trail.records]}
        with self._told(step):
            self._write(model, optimizer, {}, story, step, trail)

    def save_between(self, model: nn.Module, optimizer: Optimizer, trail: Trail) -> None:
        """Write the last checkpoint after a step without a validation; raises BadRun as `save` does."""
        progress = trail.progress
        story = {
            "metric": trail.metric,
            "records": [asdict(record) for record in trail.records],
            "step": progress.step,
            "seconds": progress.seconds,
        }
        sums = {f"{SUMS}{name}": tensor for name, tensor in progress.sums.items()}
        with self._told(progress.step):
            self._write(model, optimizer, sums, story, progress.step)

    def _write(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        sums: Mapping[str, Tensor],
        story: dict[str, Any],
        step: int,
        trail: Trail | None = None,
    ) -> None:
        """The last checkpoint and, with `trail`, what belongs to a validation."""
        here = current()
        weights = {f"{MODEL}{name}": tensor for name, tensor in model.state_dict().items()}
        tensors = weights | {f"{OPTIMIZER}{name}": tensor for name, tensor in optimizer.state().items()} | dict(sums)
        shards: Shards | None = None
        if here is not None:
            divided = [name for name in tensors if _divided(model, optimizer, name)]
            shards = Shards.planned(self.folder, step, here, tables(model)[0].n_items, divided)
            with here.together():
                shards.write(here.rank, tensors)
            tensors = {name: tensor for name, tensor in tensors.items() if name not in divided}
            weights = {name: tensor for name, tensor in weights.items() if name not in divided}
        with here.together() if here is not None else nullcontext():
            if here is not None and here.rank:
                return
            if shards is not None:
                shards.check_there()
            if trail is not None:
                self._write_metrics(trail)
                # The best goes first: killed in between, the run validates this step again and writes the same.
                if trail.best is trail.records[-1] and shards is None:
                    _write(self.folder / BEST, weights, story)
                elif trail.best is trail.records[-1] and shards is not None:
                    names = [name for name in shards.names if name.startswith(MODEL)]
                    write_joined(self.folder / BEST, weights, shards, names, _header(story))
            _write(self.folder / LAST, tensors, story if shards is None else story | {"shards": shards.story()})
            with suppress(OSError):
                sweep(self.folder, shards)

    @contextmanager
    def _told(self, step: int) -> Iterator[None]:
        """Turn what the disk refuses inside it into a BadRun that says what is left."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            full = getattr(error, "errno", None) == errno.ENOSPC or "No space" in str(error)
            cause = "the disk is full" if full else str(error)
            raise BadRun(
                f"{self.folder}: the checkpoint of step {step} was not written: {cause}; "
                "the last good checkpoint stays; make room and run again with --resume"
            ) from error

    def _write_metrics(self, trail: Trail) -> None:
        lines = (json.dumps(asdict(record)) for record in trail.records)
        files.write_text(self.folder / METRICS, "".join(line + "\n" for line in lines))


def _divided(model: nn.Module, optimizer: Optimizer, name: str) -> bool:
    """Whether a tensor of a checkpoint has a row for each of a table's that processes share."""
    if name.startswith(OPTIMIZER):
        return optimizer.shares(name.removeprefix(OPTIMIZER))
    parameter = dict(model.named_parameters()).get(name.removeprefix(MODEL))
    return any(parameter is table.weight and table.world is not None for table in tables(model))


def _progress(trail: Trail, story: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Progress:
    """How far the training of a last checkpoint is: as far as its newest record, if it was written by that."""
    if "step" in story:
        sums = {name.removeprefix(SUMS): tensor for name, tensor in tensors.items() if name.startswith(SUMS)}
        return Progress(int(story["step"]), float(story["seconds"]), sums)
    newest = trail.records[-1] if trail.records else Record(0, {})
    return Progress(newest.step, newest.seconds)


def _write(path: Path, tensors: Mapping[str, Tensor], story: Mapping[str, Any]) -> None:
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    files.write_file(path, lambda temporary: save_file(content, temporary, _header(story)))


def _header(story: Mapping[str, Any]) -> dict[str, str]:
    return {"format": DIVIDED if "shards" in story else FORMAT, "story": json.dumps(story)}


def read_trail(folder: Path) -> Trail:
    """The validations of the run in `folder`, without reading a weight; raises BadRun as `read` does."""
    path = folder / LAST
    _, story = read(path if path.exists() else folder / BEST, weights=False)
    return Trail(story["metric"], [Record(**record) for record in story["records"]])


def read(path: Path, *, weights: bool = True, own: Own | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and story of a checkpoint; raises BadRun when it is missing, damaged or another program's.

    Tensors whose rows lie in files of their own are put together; `own`: of what processes share, their own rows.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") not in (FORMAT, DIVIDED):
                raise BadRun(f"{path} is not a checkpoint of this program (format {header.get('format')!r})")
            names = file.keys() if weights else ()
            tensors = {
                name: file.get_tensor(name) if own is None or not own.divided(name) else own.rows(file, name, path)
                for name in names
            }
            story = json.loads(header["story"])
            shards = Shards.of_story(path.parent, story) if weights else None
    except FileNotFoundError as error:
        raise BadRun(f"{path} is missing: the run has no checkpoint yet; train it, or resume it") from error
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise BadRun(f"{path} is damaged ({error}); restore it from a copy, or train again") from error
    return tensors if shards is None else tensors | shards.read(own, path), story


def restore(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy the checkpoint's weights and buffers into `model`.

    A buffer may have any shape: it holds what was counted in training (pairs of ItemKNN), which a model that
    is built without the data does not know. Raises BadRun when names or shapes of weights differ.
    """
    found = {name.removeprefix(MODEL): t for name, t in tensors.items() if name.startswith(MODEL)}
    weights, wanted = dict(model.named_parameters()), model.state_dict()
    wrong = sorted(set(found) ^ set(wanted)) or [n for n in weights if found[n].shape != weights[n].shape]
    if wrong:
        raise BadRun(
            f"{path} holds another model or other data: '{wrong[0]}' differs "
            f"({len(wrong)} of {len(wanted)} tensors); use the run's own settings and data"
        )
    with torch.no_grad():
        for name, value in found.items():
            if name in weights:
                weights[name].copy_(value)
            else:
                owner, _, leaf = name.rpartition(".")
                model.get_submodule(owner).register_buffer(leaf, value.to(wanted[name].device))
