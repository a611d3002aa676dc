"""Adam as the papers use it, and Adam that touches only the rows of the item table that a batch has seen."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffacet.core import layers, world
from diffacet.core.contract import Pace, Paced, Training
from diffacet.core.world import World

LARGE_CATALOGUE = 100_000
"""Items from which `item_updates="auto"` means row-sparse: a dense step at a million items takes seconds."""

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class RowAdam:
    """Adam on the rows of one table that carry a gradient; the others keep weight and moments untouched.

    Not the same optimiser as dense Adam, which goes on moving a row by its momentum when it has no gradient.
    Bias correction counts the steps of the whole table (as torch.optim.SparseAdam does).
    """

    def __init__(self, weight: nn.Parameter, lr: float) -> None:
        """`weight` (N + 1, d) must receive sparse gradients."""
        self.weight, self.lr, self.step_count = weight, lr, 0
        # Written, not only reserved: else every row's first touch is a page fault inside a step.
        self.mean, self.square = torch.full_like(weight, 0.0), torch.full_like(weight, 0.0)

    @torch.no_grad()
    def step(self) -> None:
        """One update from `weight.grad`, which may name a row several times."""
        if self.weight.grad is None:
            return
        gradient = self.weight.grad
        rows, inverse = torch.unique(gradient._indices()[0], return_inverse=True)
        values = gradient._values()
        total = values.new_zeros(len(rows), values.shape[1]).index_add_(0, inverse, values)
        self.step_count += 1
        # index_select and index_copy_ are up to four times as fast as [rows] where the table is larger than the caches.
        mean = self.mean.index_select(0, rows).lerp_(total, 1 - BETAS[0])
        square = self.square.index_select(0, rows).mul_(BETAS[1]).addcmul_(total, total, value=1 - BETAS[1])
        self.mean.index_copy_(0, rows, mean)
        self.square.index_copy_(0, rows, square)
        spread = square.div_(1 - BETAS[1] ** self.step_count).sqrt_().add_(EPSILON)
        change = mean.mul_(-self.lr / (1 - BETAS[0] ** self.step_count)).div_(spread)
        self.weight.index_add_(0, rows, change)


class Optimizer:
    """All parameters of a model under Adam; the one place that knows which group a parameter is in."""

    def __init__(self, model: nn.Module, training: Training) -> None:
        """Dense Adam, fused, on everything but the item tables that `training.item_updates` makes row-sparse.

        With weight decay it is AdamW; `training.optimizer` may ask for Adamax, and the model (`Paced`) for groups
        of its own. A table that processes share has its state shared alike.
        """
        self.world = world.current()
        self.model, self.lr, self.clip = model, training.lr, training.clip
        tables = layers.tables(model)
        for table in tables:
            large = table.n_items >= LARGE_CATALOGUE
            table.sparse = training.item_updates == "row-sparse" or (training.item_updates == "auto" and large)
        self.rows = [RowAdam(table.weight, training.lr) for table in tables if table.sparse]
        self.shared = {id(table.weight) for table in tables if table.world is not None}
        paces = model.paces() if isinstance(model, Paced) else ()
        apart = {id(row.weight) for row in self.rows}
        self.clipped = [parameter for parameter in model.parameters() if id(parameter) not in apart]
        groups = _groups(model, apart, [pace for pace in paces if pace.optimizer is None], training)
        self.dense = _adam(groups, training) if groups else None
        self.plain = [_sgd(model, pace, training) for pace in paces if pace.optimizer == "sgd"]

    def step(self, gradient_of: Tensor, lr: float, also: Sequence[Tensor] = ()) -> None:
        """Back-propagate the scalar `gradient_of` and move every parameter once, at learning rate `lr`.

        With `training.clip` the gradients of all parameters but the row-sparse tables are first made smaller, together,
        until their norm is no larger; the tables keep theirs and do not count for the norm.
        Where processes train together the gradient is that of the sum of their scalars; each of `also` is summed over
        them in place, too.
        """
        for parameter in self.model.parameters():
            parameter.grad = None
        gradient_of.backward()  # type: ignore[no-untyped-call]
        if self.world is not None:
            self._add_up(self.world, also)
        if self.clip is not None:
            self._clip(self.clip)
        for optimizer in ([] if self.dense is None else [self.dense]) + self.plain:
            for group in optimizer.param_groups:
                group["lr"] = lr * group["rate"]
            optimizer.step()
        for row in self.rows:
            row.lr = lr
            row.step()

    def _add_up(self, sharing: World, also: Sequence[Tensor]) -> None:
        """Sum over processes the gradients of what every one of them has; those of shared tables are complete."""
        everywhere = [parameter for parameter in self.model.parameters() if id(parameter) not in self.shared]
        there = [parameter.grad is not None for parameter in everywhere]
        count = torch.tensor(there, dtype=torch.float32, device=sharing.device)
        for parameter in everywhere:
            if parameter.grad is None:  # a part of a batch without rows may have come by it
                parameter.grad = torch.zeros_like(parameter)
        sharing.add_up([count, *also, *(parameter.grad for parameter in everywhere if parameter.grad is not None)])
        for parameter, holders in zip(everywhere, count.tolist(), strict=True):
            if not holders:
                parameter.grad = None

    def _clip(self, most: float) -> None:
        if self.world is None:
            nn.utils.clip_grad_norm_(self.clipped, most)
            return
        kinds: tuple[list[Tensor], list[Tensor]] = [], []
        for parameter in self.clipped:
            if parameter.grad is not None:
                kinds[id(parameter) in self.shared].append(parameter.grad)
        everywhere, own = (nn.utils.get_total_norm(kind).square().to(self.world.device) for kind in kinds)
        self.world.add_up([own])
        nn.utils.clip_grads_with_norm_(self.clipped, most, (everywhere + own).sqrt())

    def shares(self, name: str) -> bool:
        """Whether the tensor of `state` called `name` has a row for each of a table's that processes share."""
        kind, number, key = name.split(".")
        moved = [row.weight for row in self.rows]
        if kind == "dense" and self.dense is not None:
            moved = [parameter for group in self.dense.param_groups for parameter in group["params"]]
        return key != "step" and id(moved[int(number)]) in self.shared if int(number) < len(moved) else False

    def state(self) -> dict[str, Tensor]:
        """Every tensor that a resumed run needs: `dense.PARAMETER.KEY` and `rows.TABLE.KEY` -> tensor."""
        found: dict[str, Tensor] = {}
        if self.dense is not None:
            for parameter, values in self.dense.state_dict()["state"].items():
                found.update({f"dense.{parameter}.{key}": torch.as_tensor(value) for key, value in values.items()})
        for index, row in enumerate(self.rows):
            found[f"rows.{index}.mean"], found[f"rows.{index}.square"] = row.mean, row.square
            found[f"rows.{index}.step"] = torch.tensor(float(row.step_count))
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        if self.dense is not None:
            nested: dict[int, dict[str, Tensor]] = {}
            for name, value in state.items():
                kind, parameter, key = name.split(".")
                if kind == "dense":
                    nested.setdefault(int(parameter), {})[key] = value
            groups = self.dense.state_dict()["param_groups"]
            self.dense.load_state_dict({"state": nested, "param_groups": groups})
        for index, row in enumerate(self.rows):
            row.mean.copy_(state[f"rows.{index}.mean"])
            row.square.copy_(state[f"rows.{index}.square"])
            row.step_count = int(state[f"rows.{index}.step"].item())


def _groups(model: nn.Module, apart: set[int], paces: Sequence[Pace], training: Training) -> list[dict[str, Any]]:
    """Adam's parameter groups: what no pace names first, then a group for each pace; `rate` is its factor on lr."""
    usual: list[nn.Parameter] = []
    slow: list[tuple[Pace, list[nn.Parameter]]] = [(pace, []) for pace in paces]
    elsewhere = _names(model, "sgd")
    for name, parameter in model.named_parameters():
        if id(parameter) in apart or name in elsewhere:
            continue
        owner = next((members for pace, members in slow if name.startswith(pace.names)), usual)
        owner.append(parameter)
    found: list[dict[str, Any]] = [{"params": usual, "rate": 1.0}] if usual else []
    for pace, members in slow:
        decay = training.weight_decay if pace.weight_decay is None else pace.weight_decay
        found += [{"params": members, "rate": pace.rate, "weight_decay": decay}] if members else []
    return found


def _names(model: nn.Module, optimizer: str) -> set[str]:
    """Parameters that a pace has taken from Adam."""
    paces = [pace for pace in (model.paces() if isinstance(model, Paced) else ()) if pace.optimizer == optimizer]
    taken = tuple(name for pace in paces if not pace.again for name in pace.names)
    return {name for name, _ in model.named_parameters() if taken and name.startswith(taken)}


def _adam(groups: list[dict[str, Any]], training: Training) -> torch.optim.Optimizer:
    if training.optimizer == "adamax":
        return torch.optim.Adamax(groups, lr=training.lr, betas=BETAS, eps=EPSILON, weight_decay=training.weight_decay)
    if training.weight_decay or any(group.get("weight_decay") for group in groups):
        decay = training.weight_decay
        return torch.optim.AdamW(groups, lr=training.lr, betas=BETAS, eps=EPSILON, weight_decay=decay, fused=True)
    return torch.optim.Adam(groups, lr=training.lr, betas=BETAS, eps=EPSILON, fused=True)


def _sgd(model: nn.Module, pace: Pace, training: Training) -> torch.optim.Optimizer:
    members = [parameter for name, parameter in model.named_parameters() if name.startswith(pace.names)]
    decay = training.weight_decay if pace.weight_decay is None else pace.weight_decay
    group = {"params": members, "rate": pace.rate}
    return torch.optim.SGD([group], lr=training.lr * pace.rate, weight_decay=decay)
