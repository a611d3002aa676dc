"""What a run keeps: weights as safetensors with their story in the header, one atomic file each.

`last.safetensors` holds model, optimiser and trail of the newest validation, or of a step after it where checkpoints
are written between validations; `best.safetensors` the model of the best one, `metrics.jsonl` the trail as lines for
other programs. A killed run resumes from `last`.
"""

import errno
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from diffacet import files
from diffacet.errors import BadRun
from diffacet.learn.optim import Optimizer

FORMAT = "diffacet-checkpoint-1"
LAST, BEST, METRICS = "last.safetensors", "best.safetensors", "metrics.jsonl"
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

        Raises:
            BadRun: when the file is damaged, or belongs to another model.
        """
        path = self.folder / LAST
        if not path.exists():
            return Trail(metric)
        tensors, story = read(path)
        restore(model, tensors, path)
        try:
            state = {name.removeprefix("optimizer."): t for name, t in tensors.items() if name.startswith("optimizer.")}
            optimizer.load(state)
            trail = Trail(story["metric"], [Record(**record) for record in story["records"]])
            trail.progress = _progress(trail, story, tensors)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise BadRun(f"{path} does not belong to this run ({error}); train again into a new directory") from error
        self._write_metrics(trail)  # without the lines of validations that the checkpoint does not hold
        return trail

    def save(self, model: nn.Module, optimizer: Optimizer, trail: Trail) -> None:
        """Write the last checkpoint, the best one if the newest record is the best, and the metrics.

        Raises:
            BadRun: when the disk is full or refuses; the files are then what they were.
        """
        step = trail.records[-1].step
        story = {"metric": trail.metric, "records": [asdict(record) for record in trail.records]}
        weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        with self._told(step):
            self._write_metrics(trail)
            # The best goes first: killed in between, the run validates this step again and writes the same.
            if trail.best is trail.records[-1]:
                _write(self.folder / BEST, weights, story)
            _write(self.folder / LAST, weights | _state(optimizer), story)

    def save_between(self, model: nn.Module, optimizer: Optimizer, trail: Trail) -> None:
        """Write the last checkpoint after a step without a validation; raises BadRun as `save` does."""
        progress = trail.progress
        story = {
            "metric": trail.metric,
            "records": [asdict(record) for record in trail.records],
            "step": progress.step,
            "seconds": progress.seconds,
        }
        weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        sums = {f"{SUMS}{name}": tensor for name, tensor in progress.sums.items()}
        with self._told(progress.step):
            _write(self.folder / LAST, weights | _state(optimizer) | sums, story)

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


def _state(optimizer: Optimizer) -> dict[str, Tensor]:
    return {f"optimizer.{name}": tensor for name, tensor in optimizer.state().items()}


def _progress(trail: Trail, story: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Progress:
    """How far the training of a last checkpoint is: as far as its newest record, if it was written by that."""
    if "step" in story:
        sums = {name.removeprefix(SUMS): tensor for name, tensor in tensors.items() if name.startswith(SUMS)}
        return Progress(int(story["step"]), float(story["seconds"]), sums)
    newest = trail.records[-1] if trail.records else Record(0, {})
    return Progress(newest.step, newest.seconds)


def _write(path: Path, tensors: Mapping[str, Tensor], story: Mapping[str, Any]) -> None:
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"format": FORMAT, "story": json.dumps(story)}
    files.write_file(path, lambda temporary: save_file(content, temporary, header))


def read_trail(folder: Path) -> Trail:
    """The validations of the run in `folder`, without reading a weight; raises BadRun as `read` does."""
    path = folder / LAST
    _, story = read(path if path.exists() else folder / BEST, weights=False)
    return Trail(story["metric"], [Record(**record) for record in story["records"]])


def read(path: Path, *, weights: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and story of a checkpoint; raises BadRun when it is missing, damaged or another program's."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise BadRun(f"{path} is not a checkpoint of this program (format {header.get('format')!r})")
            names = file.keys() if weights else ()
            return {name: file.get_tensor(name) for name in names}, json.loads(header["story"])
    except FileNotFoundError as error:
        raise BadRun(f"{path} is missing: the run has no checkpoint yet; train it, or resume it") from error
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise BadRun(f"{path} is damaged ({error}); restore it from a copy, or train again") from error


def restore(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy the checkpoint's weights and buffers into `model`.

    A buffer may have any shape: it holds what was counted in training (pairs of ItemKNN), which a model that
    is built without the data does not know. Raises BadRun when names or shapes of weights differ.
    """
    found = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
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
