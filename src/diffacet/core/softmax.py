"""Full softmax without its matrix of probabilities.

Shapes: P rows, N classes, d dimensions.
"""

import torch
from torch import Tensor

_CELLS = {"cpu": 2**20, "cuda": 2**26}
"""Logits that exist at a time: on a CPU as many as its caches hold."""


def full_softmax(user: Tensor, vectors: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Sum over rows of weight (ln sum_i e^{user . vectors_i} - user . vectors_target); a scalar.

    user (P, d), vectors (N, d), target (P,) int64 in 0..N - 1, weight (P,), through which no gradient flows.
    A block of rows becomes logits, loss and both gradients before the next one is read: no P x N numbers are kept for
    the backward pass, and nothing is computed twice. There is no second derivative.
    """
    return _FullSoftmax.apply(user, vectors, target, weight.to(user.dtype))  # type: ignore[no-untyped-call]


class _FullSoftmax(torch.autograd.Function):
    """See `full_softmax`."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, *inputs: Tensor) -> Tensor:
        user, vectors, target, weight = inputs
        wanted = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        total = user.new_zeros(())
        of_user, of_vectors = torch.empty_like(user), torch.zeros_like(vectors)
        for part in _blocks(user, vectors):
            own, hit, share = user[part], target[part, None], weight[part, None]
            logits = own @ vectors.T
            positive, top = logits.gather(1, hit), logits.amax(1, keepdim=True)
            powers = logits.sub_(top).exp_()
            mass = powers.sum(1, keepdim=True)
            total += (share * (mass.log() + top - positive)).sum()
            if wanted:
                back = powers.mul_(share / mass).scatter_add_(1, hit, -share)  # the gradient of the logits
                torch.mm(back, vectors, out=of_user[part])
                of_vectors.addmm_(back.T, own)
        ctx.save_for_backward(of_user, of_vectors)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_user, of_vectors = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradients[0] * of_user, gradients[0] * of_vectors, None, None


def log_sums(user: Tensor, vectors: Tensor) -> Tensor:
    """(P, d), (N, d) -> (P,) ln sum_i e^{user . vectors_i}, also in blocks; -inf without vectors.

    For a process that has some of the items only: what the gradient is multiplied by is known when all processes have
    told their sums, so the logits are computed again in the backward pass. There is no second derivative.
    """
    found: Tensor = _LogSums.apply(user, vectors)  # type: ignore[no-untyped-call]
    return found


class _LogSums(torch.autograd.Function):
    """See `log_sums`."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, *inputs: Tensor) -> Tensor:
        user, vectors = inputs
        sums = torch.cat([(user[part] @ vectors.T).logsumexp(1) for part in _blocks(user, vectors)])
        ctx.save_for_backward(user, vectors, sums)
        return sums

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        user, vectors, sums = ctx.saved_tensors  # type: ignore[attr-defined]
        of_user, of_vectors = torch.empty_like(user), torch.zeros_like(vectors)
        for part in _blocks(user, vectors):
            back = (user[part] @ vectors.T).sub_(sums[part, None]).exp_().mul_(gradients[0][part, None])
            torch.mm(back, vectors, out=of_user[part])
            of_vectors.addmm_(back.T, user[part])
        return of_user, of_vectors


def _blocks(user: Tensor, vectors: Tensor) -> list[slice]:
    """Rows whose logits exist together; one block at least."""
    rows = max(128, _CELLS.get(user.device.type, _CELLS["cuda"]) // max(len(vectors), 1))
    return [slice(begin, begin + rows) for begin in range(0, max(len(user), 1), rows)]
