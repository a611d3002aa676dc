"""Made-up logs, runs and vectors that serving is measured with; what is made once lies in a folder and is kept.

A log has users with 21 interactions each, items by a Zipf law, titles and categories. A run is DMI's preset `best` with
two DDIM steps (d 64, K 4) after one training step: its weights are as good as random, which costs what trained ones do.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ITEMS, TRAINING_USERS, LENGTH, KINDS = 12_000, 2_000, 20, 40
DIM, INTERESTS, STEPS = 64, 4, 2
FloatArray = NDArray[np.float32]
Histories = list[list[int]]


def data(work: Path, users: int = TRAINING_USERS, items: int = ITEMS) -> Path:
    """A data directory with so many users and items; user ids are 1..users, item ids 1..items."""
    import polars as pl

    from diffacet.data import store
    from diffacet.data.interactions import Interactions

    out = work / f"data-{users}-{items}"
    if out.exists():
        return out
    rng = np.random.default_rng(0)
    rows = users * (LENGTH + 1)
    frame = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(1, users + 1), LENGTH + 1),
            "item_id": _zipf(rng, rows, items),
            "timestamp": 1_600_000_000 + np.arange(rows),
        }
    )
    catalogue = pl.DataFrame(
        {
            "item_id": np.arange(1, items + 1),
            "title": [f"Made-up item {n}, of moderate length" for n in range(1, items + 1)],
            "categories": [[f"kind {n % KINDS}"] for n in range(1, items + 1)],
        }
    )
    work.mkdir(parents=True, exist_ok=True)
    store.write(Interactions.from_frame(frame, catalogue, catalogue=True), out, {"source": "benchmarks/serving"})
    return out


def run(work: Path, seed: int = 0, items: int = ITEMS, dim: int = DIM, interests: int = INTERESTS) -> Path:
    """A run directory of DMI over so many items; seeds differ in all weights."""
    import diffacet

    small = "" if (dim, interests) == (DIM, INTERESTS) else f"-{dim}-{interests}"
    out = work / f"run-{items}-{seed}{small}"
    if not (out / "golden.json").exists():
        sets = [f"refine_steps={STEPS}", f"dim={dim}", f"interests={interests}"]
        diffacet.train("dmi", data(work, items=items), out, set=sets, seed=seed, max_steps=1, device="cpu")
    return out


def histories(count: int, items: int = ITEMS, length: int = LENGTH, seed: int = 0) -> Histories:
    """Histories of so many items each, all different."""
    rng = np.random.default_rng([seed, 1])
    return _zipf(rng, count * length, items).reshape(count, length).tolist()


def vectors(count: int, kind: str = "trained-like", seed: int = 0) -> tuple[FloatArray, NDArray[np.int64]]:
    """Item vectors (N, 64) and the cluster of each (N,): 1,000 directions with spread, norms log-normal.

    "trained-like": the variance of axis j falls as 1 / (1 + j), which is an effective rank of 14 of 64 dimensions, as
    that of DMI's item vectors on MovieLens; "isotropic": all axes alike, which is harder for any near index.
    """
    rng = np.random.default_rng([seed, 2])
    axes = (1 + np.arange(DIM)) ** -0.5 if kind == "trained-like" else np.full(DIM, 1.0)
    directions = _unit(rng.standard_normal((1_000, DIM)) * axes)
    cluster = rng.integers(0, len(directions), count)
    found = np.empty((count, DIM), np.float32)
    for begin in range(0, count, 100_000):
        rows = slice(begin, min(begin + 100_000, count))
        spread = _unit(rng.standard_normal((rows.stop - begin, DIM)) * axes)
        norms = np.exp(0.25 * rng.standard_normal((rows.stop - begin, 1)))
        found[rows] = 2.4 * norms * _unit(directions[cluster[rows]] + spread)
    return found, cluster


def interests(items: FloatArray, cluster: NDArray[np.int64], users: int, seed: int = 0) -> FloatArray:
    """Interests (users, 4, 64): each the mean of three items of one cluster, with noise of a fifth of its length."""
    rng = np.random.default_rng([seed, 3])
    order = np.argsort(cluster, kind="stable")
    begins = np.searchsorted(cluster[order], np.arange(cluster.max() + 2))
    filled = np.flatnonzero(np.diff(begins) >= 3)
    wanted = rng.choice(filled, (users * INTERESTS, 1))
    place = begins[wanted] + rng.integers(0, np.diff(begins)[wanted], (users * INTERESTS, 3))
    mean = items[order[place]].mean(1)
    noise = _unit(rng.standard_normal(mean.shape)) * np.linalg.norm(mean, axis=1, keepdims=True) / 5
    return (mean + noise).astype(np.float32).reshape(users, INTERESTS, DIM)


def run_vectors(path: Path, users: int) -> tuple[FloatArray, FloatArray]:
    """Item vectors of a trained run and the interests of its held-out histories, as many as there are up to `users`."""
    from diffacet.app import runs
    from diffacet.rank.retriever import Retriever

    loaded: Any = runs.load(path)
    retriever: Retriever = loaded.retriever(block=16)
    history = loaded.holdout().history
    rows = [row for row in range(len(history)) if len(history.row(row))][:users]
    asked = [retriever.items.ids(history.row(row)).to_list() for row in rows]
    return retriever.vectors[1:].numpy(), retriever.encode(asked)


def _zipf(rng: np.random.Generator, count: int, items: int) -> NDArray[np.int64]:
    return np.minimum(np.exp(rng.random(count) * np.log(items + 1)).astype(np.int64), items)


def _unit(rows: NDArray[Any]) -> NDArray[Any]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
