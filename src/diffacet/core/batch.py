"""The forms in which users reach a model; the same in training, evaluation and serving."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Histories:
    """B histories of at most L items, oldest first, padded on the right.

    Attributes:
        items: (B, L) int64 item numbers 1..N; 0 is padding.
        users: (B,) int64 user numbers of the training log; -1 for a user that it does not hold.
        case: (B,) int64; the row of the split in evaluation, 0 for a request. Only the noise that
            inference starts from depends on it, so an answer never depends on its batch.
        times: (B, L) int64 times of the items, as in the log; 0 at padding. None where they are unknown.
    """

    items: Tensor
    users: Tensor
    case: Tensor
    times: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """(B, L) bool, true where there is an item."""
        return self.items != 0

    def to(self, device: torch.device) -> "Histories":
        """The same histories on `device`."""
        return Histories(
            self.items.to(device, non_blocking=True),
            self.users.to(device, non_blocking=True),
            self.case.to(device, non_blocking=True),
            None if self.times is None else self.times.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class SequenceBatch:
    """B histories, the item that follows each, and M negatives that all of them share, or that each has of its own.

    Attributes:
        history: the histories.
        target: (B,) int64, the item that follows.
        negatives: (M,) int64, drawn for the whole batch; or (B, M), each row's own, which its user has not met.
        log_q: None, or the log expected counts of the targets (B,) and of the negatives (M,), which
            the corrected sampled softmax subtracts from its logits.
        hits: None, or (B, M) bool, true where negative m is row b's target and must not count.
        step: the training step that this batch belongs to, 0-based.
        everything: whether the negatives are all items 1..N in order, the targets among them (full softmax).
    """

    history: Histories
    target: Tensor
    negatives: Tensor
    log_q: tuple[Tensor, Tensor] | None = None
    hits: Tensor | None = None
    step: int = 0
    everything: bool = False

    def to(self, device: torch.device) -> "SequenceBatch":
        """The same batch on `device`."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, non_blocking=True)

        return SequenceBatch(
            self.history.to(device),
            move(self.target),
            move(self.negatives),
            None if self.log_q is None else (move(self.log_q[0]), move(self.log_q[1])),
            None if self.hits is None else move(self.hits),
            self.step,
            self.everything,
        )


@dataclass(frozen=True)
class PositionBatch:
    """B windows of sequences in which every item but the first is a target: P targets of B histories.

    Attributes:
        history: the windows without their last items; target p follows the items 0..position[p] of row[p].
        row: (P,) int64, ascending.
        position: (P,) int64.
        target: (P,) int64, the item that follows.
        weight: (P,) float32, summing to 1; every user weighs the same, however many targets it has, or every target.
        negatives: (M,) int64, drawn for the whole batch; or (P, M), each target's own, which its user has not met.
        log_q: None, or the log expected counts of the targets (P,) and of the negatives (M,).
        hits: None, or (P, M) bool, true where negative m is target p.
        step: the training step that this batch belongs to, 0-based.
        everything: whether the negatives are all items 1..N in order, the targets among them (full softmax).
    """

    history: Histories
    row: Tensor
    position: Tensor
    target: Tensor
    weight: Tensor
    negatives: Tensor
    log_q: tuple[Tensor, Tensor] | None = None
    hits: Tensor | None = None
    step: int = 0
    everything: bool = False

    def to(self, device: torch.device) -> "PositionBatch":
        """The same batch on `device`."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, non_blocking=True)

        return PositionBatch(
            self.history.to(device),
            move(self.row),
            move(self.position),
            move(self.target),
            move(self.weight),
            move(self.negatives),
            None if self.log_q is None else (move(self.log_q[0]), move(self.log_q[1])),
            None if self.hits is None else move(self.hits),
            self.step,
            self.everything,
        )


@dataclass(frozen=True)
class ProfileBatch:
    """B users, each with the items of the training row: input and target of models that rebuild a user.

    Attributes:
        history: the rows, as long as the longest of them.
        step: the training step that this batch belongs to, 0-based.
        epoch: passes over the users that are finished, 0-based.
    """

    history: Histories
    step: int = 0
    epoch: int = 0

    def to(self, device: torch.device) -> "ProfileBatch":
        """The same batch on `device`."""
        return ProfileBatch(self.history.to(device), self.step, self.epoch)


@dataclass(frozen=True)
class PairBatch:
    """P training interactions, each with an item that its user has not met.

    Attributes:
        user: (P,) int64 user numbers of the log.
        item: (P,) int64, what the user met.
        negative: (P,) int64, uniform over what the user did not meet.
        step: the training step that this batch belongs to, 0-based.
        epoch: passes over the interactions that are finished, 0-based.
    """

    user: Tensor
    item: Tensor
    negative: Tensor
    step: int = 0
    epoch: int = 0

    def to(self, device: torch.device) -> "PairBatch":
        """The same batch on `device`."""
        return PairBatch(
            self.user.to(device, non_blocking=True),
            self.item.to(device, non_blocking=True),
            self.negative.to(device, non_blocking=True),
            self.step,
            self.epoch,
        )


@dataclass(frozen=True)
class ClickBatch:
    """B showings of an item to a user, over the behaviours of their users, each of which is here once.

    Sample b sees the behaviours start[b] to end[b] - 1, oldest first; samples of one user share them, so a batch grows
    with its users' histories and not with samples times length. Shapes: B samples, N behaviours, F fields that describe
    a behaviour and the target alike, G further fields of a sample, D numbers.

    Attributes:
        behaviours: (N, F) int64 field values; 0 padding (never here), 1 unknown, 2 the target's mark, then values.
        times: (N,) int64 milliseconds; None where times only order.
        sizes: (N,) float32, how many behaviours a row stands for; None: one each.
        start: (B,) int64.
        end: (B,) int64, not below start.
        target: (B, F) int64, the item shown, in the fields of a behaviour.
        other: (B, G) int64, the values of further fields: user, context, target only.
        numeric: (B, D) float32, standardised.
        label: (B,) float32, 1 for a click.
        user: (B,) int64 user numbers; equal for samples of one user.
        time: (B,) int64 milliseconds of the showing.
        case: (B,) int64, what seeded noise at inference depends on: a hash of user, item and time.
        step: the training step that this batch belongs to, 0-based.
        total: steps of the training; 0: unknown.
    """

    behaviours: Tensor
    times: Tensor | None
    sizes: Tensor | None
    start: Tensor
    end: Tensor
    target: Tensor
    other: Tensor
    numeric: Tensor
    label: Tensor
    user: Tensor
    time: Tensor
    case: Tensor
    step: int = 0
    total: int = 0

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], step: int = 0, total: int = 0) -> "ClickBatch":
        """The batch out of NumPy arrays of these names, shapes and dtypes, as the cutter of a click log gives them."""
        tensors: dict[str, Any] = {
            field.name: None if arrays[field.name] is None else torch.from_numpy(arrays[field.name])
            for field in fields(cls)
            if field.name in arrays
        }
        return cls(**tensors, step=step, total=total)

    def __len__(self) -> int:
        return len(self.start)

    @property
    def lengths(self) -> Tensor:
        """(B,) int64 behaviours that each sample sees."""
        return self.end - self.start

    def to(self, device: torch.device) -> "ClickBatch":
        """The same batch on `device`."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in values.items():
            if isinstance(value, Tensor):
                values[name] = value.to(device, non_blocking=True)
        return ClickBatch(**values)


Batch = SequenceBatch | PositionBatch | ProfileBatch | PairBatch | ClickBatch
"""What a step is trained on; a card says which."""
