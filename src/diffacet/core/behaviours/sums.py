"""What is summed over all behaviours of a sample, in parts, so that memory does not grow with samples times length.

Shapes: B samples, p pairs of a sample and a behaviour, d dimensions, b samples of a window.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffacet.core.batch import ClickBatch
from diffacet.core.behaviours.attention import ActivationUnit
from diffacet.core.behaviours.fields import BUDGET, Fields, windows

PAIRS = 2**15
"""Pairs of a chunk; larger chunks are slower on a CPU, whose caches they leave."""


def pairs(batch: ClickBatch, longest: int | None = None, size: int = PAIRS) -> list[tuple[Tensor, Tensor]]:
    """Chunks of at most `size` pairs: the sample of each, rising, and its row of the batch's behaviours, both (p,).

    The behaviours of a sample are its `longest` most recent ones; None: all. Each chunk has its share of every sample,
    so that statistics of a chunk are nearly those of the batch.
    """
    lengths = batch.lengths if longest is None else batch.lengths.clamp(max=longest)
    ends = lengths.cumsum(0)
    total = int(ends[-1]) if len(batch) else 0
    count, found = -(-total // size), []
    for chunk in range(count):
        number = torch.arange(chunk, total, count, device=ends.device)
        sample = torch.searchsorted(ends, number, right=True)
        found.append((sample, (batch.end - ends)[sample] + number))
    return found


def over_pairs(
    chunks: Sequence[tuple[Tensor, Tensor]],
    function: Callable[..., Tensor],
    given: Sequence[Tensor],
    modules: Sequence[nn.Module],
) -> Tensor:
    """Sum of function(*given, sample, place) over chunks of `pairs`, one at least, in bounded memory.

    Args:
        chunks: see `pairs`.
        function: makes of a chunk what its pairs add, of the same shape for all chunks.
        given: tensors that a gradient flows back to; `function` takes no other from outside.
        modules: whose parameters `function` reads, in the same way.
    """
    return _in_parts(function, chunks, None, given, modules)


def over_windows(
    batch: ClickBatch,
    function: Callable[..., Tensor],
    given: Sequence[Tensor],
    modules: Sequence[nn.Module],
    *,
    budget: int = BUDGET,
    longest: int | None = None,
) -> Tensor:
    """(B, ...): function(*given, window), (b, ...), of every window, in the order of the batch and in bounded memory.

    For `given` and `modules` see `over_pairs`, for the others `windows`.
    """
    seen = windows(batch, budget, longest)
    return _in_parts(function, [(one,) for one in seen], [one.samples for one in seen], given, modules)


def _in_parts(
    function: Callable[..., Tensor],
    chunks: Sequence[tuple[Any, ...]],
    rows: Sequence[Tensor] | None,
    given: Sequence[Tensor],
    modules: Sequence[nn.Module],
) -> Tensor:
    """function(*given, *chunk) of every chunk, added up, or put at the `rows` of each."""
    if len(chunks) == 1:  # its backward pass holds as much in any case
        told = function(*given, *chunks[0])
        return told if rows is None else told[rows[0].argsort()]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    again: Callable[..., Tensor] = _Again.apply
    return again(function, chunks, rows, modules, len(given), *given, *parameters)


class _Again(torch.autograd.Function):
    """What is inside `function` is computed again, chunk by chunk, for its gradient.

    Unlike a checkpoint for each chunk it keeps nothing between them, not even small things that would lie scattered
    over the memory that the chunks share. Statistics of BatchNorm, and so Dice's, count a chunk once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[..., Tensor],
        chunks: Sequence[tuple[Any, ...]],
        rows: Sequence[Tensor] | None,
        modules: Sequence[nn.Module],
        count: int,
        *inputs: Tensor,
    ) -> Tensor:
        ctx.function, ctx.chunks, ctx.rows, ctx.modules = function, chunks, rows, modules
        ctx.count, ctx.inputs = count, inputs
        ctx.mixed = {"enabled": torch.is_autocast_enabled("cuda"), "dtype": torch.get_autocast_dtype("cuda")}
        given = inputs[:count]
        total = function(*given, *chunks[0])
        if rows is not None:
            first, total = total, total.new_empty(sum(map(len, rows)), *total.shape[1:])
            total[rows[0]] = first
        for n, chunk in enumerate(chunks[1:], 1):
            if rows is None:
                total += function(*given, *chunk)
            else:
                total[rows[n]] = function(*given, *chunk)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        needed = ctx.needs_input_grad[5:]
        # What is given has a past that is not to be walked through here; parameters have none.
        given = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in ctx.inputs[: ctx.count]]
        inputs = [*given, *ctx.inputs[ctx.count :]]
        wanted = [tensor for tensor, is_needed in zip(inputs, needed, strict=True) if is_needed]
        sums: list[Tensor | None] = [None] * len(wanted)
        for n, chunk in enumerate(ctx.chunks):
            with torch.enable_grad(), _uncounted(ctx.modules), torch.autocast("cuda", **ctx.mixed):
                told = ctx.function(*given, *chunk)
            own = gradient if ctx.rows is None else gradient[ctx.rows[n]]
            for place, found in enumerate(torch.autograd.grad(told, wanted, own, allow_unused=True)):
                before = sums[place]
                sums[place] = before if found is None else found if before is None else before + found
        in_order = iter(sums)
        return (None,) * 5 + tuple(next(in_order) if is_needed else None for is_needed in needed)


@contextlib.contextmanager
def _uncounted(modules: Sequence[nn.Module]) -> Iterator[None]:
    norms = [part for module in modules for part in module.modules() if isinstance(part, nn.BatchNorm1d)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


class WeighedSum(nn.Module):
    """DIN's interest: the sum of a sample's behaviours, each times the activation unit's weight, over flat pairs.

    The weights are not made to sum to 1, so that the sum tells how much interest there is; `softmax` does that.
    In training the unit's Dice standardises over the pairs of a chunk.
    """

    def __init__(self, dim: int, longest: int | None = None, *, softmax: bool = False, size: int = PAIRS) -> None:
        """Width d; the most recent behaviours that are read, None: all; pairs of a chunk."""
        super().__init__()
        self.unit = ActivationUnit(dim)
        self.longest, self.softmax, self.size = longest, softmax, size

    def forward(self, fields: Fields, batch: ClickBatch, target: Tensor) -> Tensor:
        """(B, d); 0 for an empty history."""
        chunks = pairs(batch, self.longest, self.size)
        if not chunks:
            return torch.zeros_like(target)
        highest = self._highest(fields, batch, target, chunks) if self.softmax else None

        def summed(target: Tensor, sample: Tensor, place: Tensor) -> Tensor:
            embedded = fields.behaviours(batch, place)
            weight = self.unit(target, embedded, sample)
            if highest is not None:  # the last column becomes what the others are divided by
                weight = (weight - highest[sample]).exp()
                embedded = nn.functional.pad(embedded, (0, 1), value=1.0)
            zero = embedded.new_zeros(len(target), embedded.shape[1])
            return zero.index_add(0, sample, weight.unsqueeze(1) * embedded)

        total = over_pairs(chunks, summed, [target], [fields, self.unit])
        if highest is None:
            return total
        return total[:, :-1] / torch.where(total[:, -1:] > 0, total[:, -1:], 1)

    @torch.no_grad()
    def _highest(
        self, fields: Fields, batch: ClickBatch, target: Tensor, chunks: Sequence[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """(B,) the highest weight of each sample before the softmax; 0 for an empty history."""
        found = target.new_full((len(target),), -torch.inf)
        with _uncounted([self.unit]):
            for sample, place in chunks:
                weight = self.unit(target, fields.behaviours(batch, place), sample)
                found.scatter_reduce_(0, sample, weight.to(found.dtype), "amax")
        return found.masked_fill(found.isinf(), 0)
