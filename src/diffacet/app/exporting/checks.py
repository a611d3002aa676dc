"""Whether what was exported answers as the run does, on real histories.

Shapes: R histories of at most L items, K interests, d dimensions, N items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from diffacet import seeds
from diffacet.app.exporting import vectors as arrays
from diffacet.app.exporting.programs import Encode, Encoder, FloatArray, of_model
from diffacet.app.serving.recommender import Recommender
from diffacet.core.diffusion.noise import request_noise
from diffacet.data.sequences import IntArray
from diffacet.errors import BadRun
from diffacet.rank.index import Index
from diffacet.rank.merging import merge, unseen
from diffacet.rank.ranking import top_k

SIZES = (1, 3, 16)
"""Histories that an encoder is given at once when it is compared."""

NEIGHBOURS, LISTED = 50, 20
"""Items of a search and of a list that are compared."""

TOLERANCES = {"encoder.pt2": 1e-5, "encoder.onnx": 1e-4}
"""How far vectors may be from the model's, relative to their length. The first runs the model's own operations."""

_SCORES = 2e-4
"""How far scores may be apart, relative to the lengths of interest and item."""

_DRAWN = 32
_JITTER, _JITTERS, _JUMP, _MOST_ON_EDGE = 1e-6, 8, 1e-4, 0.25


@dataclass(frozen=True, eq=False)
class Histories:
    """What is asked.

    Attributes:
        items: (R, L) int64 item numbers, oldest first, 0 behind the last.
        own: the same as own ids, whole.
        source: where they come from, for people.
    """

    items: IntArray
    own: list[list[Any]]
    source: str


def histories(recommender: Recommender) -> Histories:
    """The held-out histories that the run carries, each with its beginning; made up where it carries none."""
    retriever, examples = recommender.retriever, recommender.examples()
    numbers = [known for one in examples if len(known := _known(recommender, one.history))]
    source = f"{len(numbers)} held-out histories and their beginnings"
    numbers += [one[: max(1, len(one) // 3)] for one in numbers]
    if not numbers:
        draw, n = seeds.stream(0, "export"), len(retriever.items)
        lengths = draw.integers(1, (retriever.length or 16) + 1, _DRAWN)
        numbers = [draw.integers(1, n + 1, length).astype(np.int64) for length in lengths]
        source = f"{_DRAWN} histories drawn from the catalogue, since the run carries no held-out ones"
    width = retriever.length or max(map(len, numbers))
    items = np.zeros((len(numbers), width), np.int64)
    for row, one in enumerate(numbers):
        read = one[-width:]
        items[row, : len(read)] = read
    return Histories(items, [retriever.items.ids(one).to_list() for one in numbers], source)


def encoder(name: str, encode: Encode, model: nn.Module, items: IntArray) -> tuple[dict[str, Any], set[int]]:
    """Compare an exported encoder with the model, in batches of all SIZES.

    Args:
        name: of the file, a key of TOLERANCES.
        encode: what was read from it.
        model: as it was trained.
        items: (R, L) item numbers.

    Returns:
        The largest difference, the tolerance, histories and sizes; and the histories that lie on an edge: the model's
        own answer jumps there when its weights change by as little as rounding does, as where pruning must choose
        between items of equal attention. They are not compared.

    Raises:
        BadRun: another history differs by more than the tolerance, or too many lie on an edge.
    """
    own, tolerance, rows = of_model(model), TOLERANCES[name], np.arange(len(items))
    differences = np.zeros(len(items))
    for size in SIZES:
        for begin in range(0, len(items), size):
            batch = np.resize(rows[begin : begin + size], size)  # the last rows come again in a batch that is too short
            np.maximum.at(differences, batch, _apart(own(items[batch]), encode(items[batch])))
    off = set(np.flatnonzero(~(differences <= tolerance)).tolist())
    edge = off & _on_edge(model, items) if off else off
    if off - edge or len(edge) > _MOST_ON_EDGE * len(items):
        worst = differences[sorted(off)].max()
        moves = f" ({len(edge)} of them move as far when its weights change by a millionth)" if edge else ""
        advice = "leave it out with --no-onnx" if name == "encoder.onnx" else "report it"
        why = f"{len(off)} of {len(items)} histories differ from the model by up to {worst:.2g} of a vector's length"
        raise arrays.failed(name, f"{why}{moves}, {tolerance:g} is allowed", advice)
    compared = np.delete(differences, sorted(edge))
    told = {"largest": float(compared.max()), "tolerance": tolerance, "histories": len(compared), "sizes": list(SIZES)}
    return told | {"on_edge": len(edge)}, edge


def index(path: Path, interests: FloatArray, vectors: FloatArray) -> dict[str, Any]:
    """Search the index in `path` for interests (R, K, d) and compare with an exact search of (N, d) vectors.

    Returns:
        The share of the exact NEIGHBOURS that were found, under "recall@50", and the number of queries.

    Raises:
        BadRun: an exact index finds other items; equal scores may come in any order.
    """
    found = Index.load(path)
    queries, k = interests.reshape(-1, interests.shape[-1]), min(NEIGHBOURS, len(found))
    exact = top_k(torch.from_numpy(queries).unsqueeze(1), _padded(vectors), k)
    scores, numbers = found.search(queries, k)
    if found.kind == "exact":
        scale = _scale(queries[:, None], vectors)
        worst = _disagreement((exact.scores.numpy(), exact.items.numpy()), (scores, numbers), scale)
        if not worst <= _SCORES:
            raise arrays.failed(arrays.INDEX, "it finds other items than a search of all vectors")
    same = (numbers[:, :, None] == exact.items.numpy()[:, None, :]).any(-1)
    return {f"recall@{NEIGHBOURS}": float(same.mean()), "queries": len(queries)}


def lists(
    recommender: Recommender, asked: Histories, rows: Sequence[int], encode: Encode, path: Path, vectors: FloatArray
) -> dict[str, Any]:
    """Compare lists by the exported encoder and the exported index or vectors with the run's own, from end to end.

    A near index finds other items, so it is the exported vectors that are searched then. Seen items are left out.

    Returns:
        The largest difference of scores, relative to the lengths of the vectors, and how many lists are the same.

    Raises:
        BadRun: a list holds other items; those whose scores are as good as equal may change places.
    """
    retriever, k = recommender.retriever, min(LISTED, len(vectors))
    items = asked.items[list(rows)]
    interests = np.concatenate([encode(items[at : at + max(SIZES)]) for at in range(0, len(items), max(SIZES))])
    seen = [_known(recommender, asked.own[row]) for row in rows]
    banned = np.zeros((len(seen), max(map(len, seen))), np.int64)
    for row, one in enumerate(seen):
        banned[row, : len(one)] = one
    found = Index.load(path)
    if found.kind == "exact":
        scores, numbers, _ = merge(*unseen(found, interests, banned, k), k)
    else:
        ranked = top_k(torch.from_numpy(interests), _padded(vectors), k, exclude=torch.from_numpy(banned))
        scores, numbers = ranked.scores.numpy(), ranked.items.numpy()
    own = np.zeros((len(rows), k), np.float32), np.zeros((len(rows), k), np.int64)
    own[0][:] = -np.inf
    for row, answer in enumerate(recommender.recommend_many([asked.own[row] for row in rows], k)):
        own[0][row, : len(answer)] = answer.score
        own[1][row, : len(answer)] = retriever.items.numbers(answer.item_id)
    worst = _disagreement(own, (scores, numbers), _scale(interests, vectors))
    if not worst <= _SCORES:
        raise arrays.failed("the whole", f"lists of {k} items are others than those of 'diffacet recommend'")
    same = int((own[1] == numbers).all(1).sum())
    return {"largest": float(worst), "lists": len(rows), "same": same, "k": k}


def _known(recommender: Recommender, history: Sequence[Any]) -> IntArray:
    found = recommender.retriever.items.find(history)
    return found[found > 0]


def _apart(own: FloatArray, other: FloatArray) -> FloatArray:
    """(B,) the largest distance of a history's vectors from the model's, relative to the longest of these."""
    if own.shape != other.shape:
        raise BadRun(f"an exported encoder gives vectors {other.shape} instead of {own.shape}; report it")
    length = np.linalg.norm(own, axis=-1).max(-1)
    return np.linalg.norm(own - other, axis=-1).max(-1) / np.maximum(length, np.finfo(np.float32).tiny)


@torch.no_grad()
def _on_edge(model: nn.Module, items: IntArray) -> set[int]:
    """The histories whose vectors move by 1e-4 of their length or more when weights change by 1e-6 of themselves."""
    module, numbers = Encoder(model), torch.from_numpy(items)
    own, moved = module(numbers).numpy(), set[int]()
    for trial in range(_JITTERS):
        changed = {
            name: tensor * (1 + _JITTER * request_noise(tuple(tensor.shape), seeds.number(trial, name))[0])
            for name, tensor in module.named_parameters()
            if tensor.is_floating_point()
        }
        other = functional_call(module, changed, (numbers,)).numpy()
        moved |= set(np.flatnonzero(_apart(own, other) > _JUMP).tolist())
    return moved


def _padded(vectors: FloatArray) -> torch.Tensor:
    return functional.pad(torch.from_numpy(vectors), (0, 0, 1, 0))


def _scale(interests: FloatArray, vectors: FloatArray) -> FloatArray:
    """(R,) the largest score that vectors of these lengths could have."""
    longest = np.linalg.norm(vectors, axis=-1).max()
    return np.maximum(np.linalg.norm(interests, axis=-1).max(-1) * longest, np.finfo(np.float32).tiny)


def _disagreement(own: tuple[FloatArray, IntArray], other: tuple[FloatArray, IntArray], scale: FloatArray) -> float:
    """How far two lists (R, k) of scores and numbers are apart, relative to `scale` (R,); inf where items are missing.

    Compared are the scores of each place and those of each item. An item of the first list must be in the second unless
    its score is as good as the last one.
    """
    (scores, numbers), (others, theirs) = own, other
    there = numbers > 0
    if ((theirs > 0) != there).any() or not np.isfinite(scores[there]).all():
        return float("inf")
    last = np.where(there, scores, np.inf).min(1)
    sure = there & (scores > (last + 2 * _SCORES * scale)[:, None])
    scores, others = np.where(there, scores, 0), np.where(there, others, 0)
    same = (numbers[:, :, None] == theirs[:, None, :]) & there[:, :, None]
    if not same.any(2)[sure].all():
        return float("inf")
    by_item = np.where(same, np.abs(scores[:, :, None] - others[:, None, :]), 0).max((1, 2))
    return float((np.maximum(np.abs(scores - others).max(1), by_item) / scale).max())
