"""Objectives: from scored vectors to a scalar, knowing nothing of the model that made them.

All of them compute in float32 at least, also where a model computes in bfloat16. Where processes share a batch
(`world.part`) each gives what its own rows add to the scalar of all, so that the scalar is the processes' sum.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from diffacet.core import world
from diffacet.core.batch import PositionBatch, SequenceBatch
from diffacet.core.softmax import full_softmax, log_sums
from diffacet.core.world import Part


def _wide(x: Tensor) -> Tensor:
    """X in float32, or in float64 if it is that already."""
    return x if x.dtype == torch.float64 else x.float()


def sampled_softmax(
    user: Tensor,
    target: Tensor,
    negatives: Tensor,
    batch: SequenceBatch | PositionBatch,
    hardness: float = 0.0,
) -> Tensor:
    """Mean over rows of -s+ + ln(e^{s+} + sum_j w_j e^{s_j}), with s+ = user . target and s_j = user . negative_j.

    user (B, d), target (B, d), negatives (M, d) shared by the batch or (B, M, d) -> scalar. w_j = 1 for hardness 0;
    otherwise w_j = e^{hardness s_j} / mean_i e^{hardness s_i}, through which the gradient flows (the
    interest-aware hard negatives of REMI, RecSys 2023), by the stable form
    ln sum_j w_j e^{s_j} = LSE((1 + hardness) s) - LSE(hardness s) + ln M.

    `batch.log_q` is subtracted from the logits (the corrected sampled softmax), but not inside the weights w_j,
    which are about how hard a negative is and not how often it is drawn; `batch.hits` do not count.
    With every item once among the negatives and the hits masked this is the full softmax (`batch.everything`).
    A PositionBatch has a weight for each row, which takes the place of the mean.
    Where processes share a batch, each has its own rows and, of shared negatives, those that it owns (`_by_shard`).
    """
    with torch.autocast(user.device.type, enabled=False):
        user, target, negatives = _wide(user), _wide(target), _wide(negatives)
        part = world.part()
        if part is not None and negatives.ndim == 2:
            return weighed(_by_shard(user, target, negatives, batch, hardness, part), batch)
        if batch.everything and not hardness:
            even = user.new_full(user.shape[:1], 1 / len(user))
            return full_softmax(
                user, negatives, batch.target - 1, batch.weight if isinstance(batch, PositionBatch) else even
            )
        logits = products(user, negatives)  # (B, M)
        positive = (user * target).sum(-1)  # (B,)
        hits = batch.target[:, None] == batch.negatives if batch.everything else batch.hits
        if hits is not None:
            logits = logits.masked_fill(hits, float("-inf"))
        weighted = (1 + hardness) * logits
        if batch.log_q is not None:
            positive, weighted = positive - batch.log_q[0], weighted - batch.log_q[1]
        negative = weighted.logsumexp(-1)  # (B,)
        if hardness > 0:
            counted = torch.full_like(positive, logits.shape[-1])
            if hits is not None:
                counted = (~hits).sum(-1).to(positive.dtype)
            negative = _evened(negative, (hardness * logits).logsumexp(-1), counted)
        return weighed(torch.logaddexp(positive, negative) - positive, batch)


def _evened(negative: Tensor, weights: Tensor, counted: Tensor) -> Tensor:
    """Log-sums of hard negatives with their weights' mean made 1: ln of the weights' sum, and how many; (B,) each.

    A row whose negatives are all hits has none: its sum stays empty, and is not -inf - -inf.
    """
    return negative - weights.masked_fill(counted == 0, 0.0) + counted.clamp(min=1).log()


def _by_shard(
    user: Tensor,
    target: Tensor,
    negatives: Tensor,
    batch: SequenceBatch | PositionBatch,
    hardness: float,
    part: Part,
) -> Tensor:
    """The losses of this process's rows, (B_own,), where every process has some of the shared negatives.

    Each process scores its own negatives for the rows of all, whose vectors are gathered; what it sends back are a
    row's log-sums over its negatives, which combine exactly: ln sum e^s is that of the processes' ln sums.
    """
    sizes, rows = _rows(batch, part), len(user)
    everyone = part.world.gathered(user, sizes)  # (B, d)
    positive = (user * target).sum(-1)  # (B_own,)
    if batch.everything and not hardness:
        sums = log_sums(everyone, negatives).unsqueeze(-1)
        return _returned(sums, sizes, rows, part)[..., 0].logsumexp(0) - positive
    logits, hits = products(everyone, negatives), batch.hits
    if batch.everything:
        hits = part.world.gathered(batch.target, sizes)[:, None] == batch.negatives
    if hits is not None:
        logits = logits.masked_fill(hits, float("-inf"))
    weighted = (1 + hardness) * logits
    if batch.log_q is not None:
        positive, weighted = positive - batch.log_q[0], weighted - batch.log_q[1]
    columns = [weighted.logsumexp(-1)]
    if hardness > 0:
        counted = torch.full_like(columns[0], logits.shape[-1]) if hits is None else (~hits).sum(-1).to(logits.dtype)
        columns += [(hardness * logits).logsumexp(-1), counted.detach()]
    sums = _returned(torch.stack(columns, -1), sizes, rows, part)  # (W, B_own, columns)
    negative = sums[..., 0].logsumexp(0)
    if hardness > 0:
        negative = _evened(negative, sums[..., 1].logsumexp(0), sums[..., 2].sum(0))
    return torch.logaddexp(positive, negative) - positive


def _rows(batch: SequenceBatch | PositionBatch, part: Part) -> tuple[int, ...]:
    """Rows of scores that each process has."""
    return part.targets if isinstance(batch, PositionBatch) else part.rows


def _returned(sums: Tensor, sizes: Sequence[int], rows: int, part: Part) -> Tensor:
    """(B, c) of all rows over this process's negatives -> (W, B_own, c) of its own rows over those of each process."""
    size = part.world.size
    return part.world.exchanged(sums, sizes, [rows] * size).view(size, rows, -1)


def binary(user: Tensor, target: Tensor, negatives: Tensor, batch: SequenceBatch | PositionBatch) -> Tensor:
    """Mean over rows of -ln sigmoid(s+) - sum_j ln(1 - sigmoid(s_j)): the target apart from each negative (SASRec).

    user (B, d), target (B, d), negatives (M, d) or (B, M, d) -> scalar; `batch` as in `sampled_softmax`, also where
    processes share it.
    """
    with torch.autocast(user.device.type, enabled=False):
        user, target, negatives = _wide(user), _wide(target), _wide(negatives)
        part = world.part()
        shared = part is not None and negatives.ndim == 2
        everyone = part.world.gathered(user, _rows(batch, part)) if part is not None and shared else user
        logits = products(everyone, negatives)
        if batch.hits is not None:
            logits = logits.masked_fill(batch.hits, float("-inf"))
        lost = functional.softplus(logits).sum(-1)
        if part is not None and shared:
            lost = _returned(lost.unsqueeze(-1), _rows(batch, part), len(user), part)[..., 0].sum(0)
        return weighed(functional.softplus(-(user * target).sum(-1)) + lost, batch)


def products(user: Tensor, items: Tensor) -> Tensor:
    """(B, d) with (M, d), or with each row's own (B, M, d) -> inner products (B, M)."""
    return user @ items.T if items.ndim == 2 else torch.einsum("bd,bmd->bm", user, items)


def weighed(losses: Tensor, batch: SequenceBatch | PositionBatch) -> Tensor:
    """(B,) losses of the rows -> scalar: their mean, or their sum by the weights that a PositionBatch has."""
    return (batch.weight * losses).sum() if isinstance(batch, PositionBatch) else world.mean(losses)


def routing_regulariser(attention: Tensor, dim: int) -> Tensor:
    """Sum over rows and interests of ((sum_j A_kj^2 - 1/L) / d)^2, which keeps attention from collapsing on one item.

    attention (B, K, L), rows summing to 1; dim = d -> scalar. REMI (RecSys 2023) as its code has it: the
    rows are centred over all L positions, padding included; the covariance is divided by the width of
    the embeddings and not by L; the batch is summed, so its weight must be quoted with B, L and d.
    """
    spread = _wide(attention - attention.mean(-1, keepdim=True)).square().sum(-1) / dim
    return spread.square().sum()


def concentration(attention: Tensor, weight: Tensor) -> Tensor:
    """Sum over interests of sum_j A_kj^2, averaged over rows by `weight`: 1 for each row of one item, 1/n at its least.

    attention (P, K, L), rows summing to 1; weight (P,), summing to 1 -> scalar. What REMI's regulariser is after,
    but free of L, d and B.
    """
    return (weight * _wide(attention).square().sum((-1, -2))).sum()


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean over rows of the Euclidean distance between x and y, both (B, d) -> scalar (DMI Eq. 18).

    The root is taken of the square plus 1e-12, so that the gradient at equality is 0 and nowhere above 1/B.
    """
    return world.mean(((_wide(x) - _wide(y)).square().sum(-1) + 1e-12).sqrt())


def squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean over rows of the squared Euclidean distance between x and y, both (B, d) -> scalar (DimeRec Eq. 21)."""
    return world.mean((_wide(x) - _wide(y)).square().sum(-1))


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Mean of ln(1 + e^{s- - s+}): a user's item is to score above another one (BPR, UAI 2009).

    Scores s+ and s-, both (P,) -> scalar; ln 2 where they are equal.
    """
    return functional.softplus(_wide(negative) - _wide(positive)).mean()


def half_squares(*vectors: Tensor) -> Tensor:
    """(1 / 2P) sum of the squared lengths of all vectors, each argument (P, d) -> scalar: the L2 penalty of BPR."""
    return torch.stack([_wide(x).square().sum() for x in vectors]).sum() / (2 * len(vectors[0]))
