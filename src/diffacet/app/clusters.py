"""Clusters of items for models that ask for them: k-means on item vectors, which LightGCN makes or a file holds.

A data directory may hold vectors of its own, as item_vectors.npy. LightGCN takes long, so what it makes is kept, one
folder for all that it depends on:

    CACHE/item-vectors/KEY/item_vectors.npy   (N, 64) float32; row n is item n + 1
    CACHE/item-vectors/KEY/about.json         settings and fingerprint, written last
    CACHE/item-vectors/KEY/run                an unfinished training, which the next one goes on with

CACHE is $DIFFACET_CACHE, else diffacet in $XDG_CACHE_HOME, else ~/.cache/diffacet. Deleting it costs time only.
"""

import dataclasses
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diffacet import files
from diffacet.app.cards import card
from diffacet.core.clusters import check_count
from diffacet.core.contract import IntArray
from diffacet.data.sequences import Sequences
from diffacet.data.store import Dataset
from diffacet.data.user_ranges import Beginnings
from diffacet.errors import BadRun, BadSetting
from diffacet.learn.fit import Moment

FORMAT = 1
MODEL, PRESET = "lightgcn", "paper"
VECTORS, ABOUT, RUN = "item_vectors.npy", "about.json", "run"
COLUMN = "cluster"
"""Of a run's catalogue."""

Vectors = NDArray[np.floating[Any]]
Tell = Callable[[str], None]
Train = Callable[..., Any]
"""`runs.train` with the data, the split and the device of the run that asks."""


@dataclass(frozen=True)
class Plan:
    """Where the clusters of a run's items come from; everything is checked, and nothing computed.

    Attributes:
        clusters: C.
        seed: of LightGCN and of k-means.
        told: what run.json says of it.
        vectors: (N, any), from a file; None where LightGCN makes them.
        folder: where LightGCN's are kept.
    """

    clusters: int
    seed: int
    told: dict[str, Any]
    vectors: Vectors | None
    folder: Path


def plan(
    config: Any,
    seed: int,
    dataset: Dataset,
    train: Sequences | Beginnings,
    split: Mapping[str, Any],
    vectors: Path | str | None = None,
) -> Plan | None:
    """How the items of a run are to be clustered; None for a model that asks for no clusters.

    Args:
        config: the model's settings.
        seed: of the run.
        dataset: what it is trained on.
        train: its training rows.
        split: name and seed of its split, by which LightGCN is validated.
        vectors: a .npy file (N, any) to take instead of LightGCN's vectors; None: item_vectors.npy of the data
            directory, where there is one.

    Raises:
        BadSetting: more clusters than items, a file of vectors that does not fit, one where none is needed, or
            training rows that are not in memory.
    """
    wanted = getattr(config, "clusters", 1)
    if wanted == 1:
        if vectors is not None:
            raise BadSetting("--item-vectors is for models with 2 or more clusters of items; leave it out")
        return None
    if isinstance(train, Beginnings):
        raise BadSetting(f"clusters of items are made of all training rows; got clusters={wanted} with sampling=blocks")
    n_items = dataset.log.n_items
    check_count(wanted, n_items)
    own = dataset.path / VECTORS
    if vectors is None and own.is_file():
        vectors = own
    if vectors is not None:
        found = read_vectors(Path(vectors), n_items)
        told = {"from": "file", "file": Path(vectors).name, "fingerprint": files.fingerprint(found)}
        return Plan(wanted, seed, told, found, cache() / "item-vectors")
    preset = card(MODEL).presets[PRESET]
    settings = dataclasses.asdict(preset.model) | dataclasses.asdict(preset.training) | {"seed": seed}
    # The split as well as the rows: LightGCN stops by what its validation says.
    words = json.dumps([FORMAT, dataset.fingerprint, split["name"], split["seed"], settings], sort_keys=True)
    key = files.fingerprint(words, train.items, train.offsets, train.users)
    return Plan(wanted, seed, {"from": MODEL, "key": key, "settings": settings}, None, cache() / "item-vectors" / key)


def make(plan: Plan | None, catalogue: Path, train: Train, tell: Tell | None = None) -> IntArray | None:
    """The cluster of each item, (N + 1,) int64 as `Facts.clusters` has it; None where no plan is.

    Args:
        plan: what is wanted.
        catalogue: of the run; where it exists already, it says how the items were clustered.
        train: trains LightGCN, if need be.
        tell: is told in words what is being done.

    Raises:
        BadSetting: the vectors are so few different ones that a cluster stays empty.
        BadRun: LightGCN cannot be trained, the cache cannot be written, or the catalogue cannot be read.
    """
    if plan is None:
        return None
    if catalogue.exists():
        try:
            return of_catalogue(pl.read_parquet(catalogue))
        except (OSError, pl.exceptions.PolarsError) as error:
            raise BadRun(f"{catalogue} is damaged ({error}); restore it from a copy") from error
    say: Tell = (lambda _: None) if tell is None else tell
    vectors = _made(plan, train, say) if plan.vectors is None else plan.vectors
    say(f"clusters: k-means of {len(vectors)} items into {plan.clusters}")
    return in_order(k_means(vectors, plan.clusters, plan.seed))


def cache() -> Path:
    """The folder of what can be made again."""
    if own := os.environ.get("DIFFACET_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "diffacet"


def read_vectors(path: Path, n_items: int) -> Vectors:
    """(N, any) numbers of a .npy file; row n belongs to item n + 1, in the order of catalogue.parquet.

    Raises:
        BadSetting: there is no such file, or it holds something else.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise BadSetting(f"--item-vectors {path}: there is no such file") from error
    except (OSError, ValueError, EOFError) as error:
        raise BadSetting(f"--item-vectors {path} is no NumPy array, or a damaged one; numpy.save writes one") from error
    if not isinstance(found, np.ndarray) or not np.issubdtype(found.dtype, np.floating):
        kind = found.dtype if isinstance(found, np.ndarray) else "several arrays"
        raise BadSetting(f"--item-vectors {path} holds {kind}; save one array of float32 or float64")
    if found.ndim != 2 or len(found) != n_items or not found.shape[1]:
        raise BadSetting(
            f"--item-vectors {path} has the shape {found.shape}; this log has {n_items} items, so it is ({n_items}, "
            "any), one row for each item in the order of their numbers"
        )
    bad = np.flatnonzero(~np.isfinite(found).all(1))
    if len(bad):
        raise BadSetting(
            f"--item-vectors {path}, row {bad[0]} (from 0) is not finite, with {len(bad) - 1} others; "
            "give every item a vector of finite numbers"
        )
    return found


def k_means(vectors: Vectors, clusters: int, seed: int) -> IntArray:
    """(N,) labels: k-means++, the best of 10 starts of at most 300 iterations each (scikit-learn).

    Raises:
        BadSetting: there are fewer different vectors than clusters.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    # One thread: several add up centres in an order that changes from call to call.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # what it warns of is refused below
        means = KMeans(clusters, init="k-means++", n_init=10, max_iter=300, tol=1e-4, random_state=seed % 2**32)
        labels = means.fit(vectors).labels_.astype(np.int64)
    full = len(np.unique(labels))
    if full < clusters:
        raise BadSetting(
            f"k-means finds {full} clusters of items and not {clusters}: the item vectors are too few different ones; "
            f"set clusters={full}"
        )
    return labels


def in_order(labels: IntArray) -> IntArray:
    """Labels (N,) -> (N + 1,) int64 clusters, numbered by the smallest item that they hold; -1 for padding."""
    _, first, places = np.unique(labels, return_index=True, return_inverse=True)
    return np.concatenate([[-1], first.argsort().argsort()[places]]).astype(np.int64)


def of_catalogue(catalogue: pl.DataFrame) -> IntArray:
    """The clusters that a run's catalogue holds, (N + 1,) int64; empty when it holds none."""
    if COLUMN not in catalogue.columns:
        return np.zeros(0, np.int64)
    return np.concatenate([[-1], catalogue[COLUMN].to_numpy()]).astype(np.int64)


def _made(plan: Plan, train: Train, tell: Tell) -> Vectors:
    """LightGCN's item vectors, from the cache or trained now. One process trains, others wait for it."""
    folder = plan.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with files.held(folder / "lock", f"LightGCN in {folder}", wait=True):
            found = _kept(folder)
            if found is not None:
                tell(f"item vectors: {MODEL}'s, kept in {folder}")
                return found
            tell(f"item vectors: training {MODEL} on the same rows, once; kept in {folder}")
            found = _trained(plan, train, tell)
            files.write_file(folder / VECTORS, lambda temporary: save_vectors(temporary, found))
            about = {"format": FORMAT, "fingerprint": files.fingerprint(found), "shape": found.shape, **plan.told}
            files.write_json(folder / ABOUT, about)
            shutil.rmtree(folder / RUN, ignore_errors=True)
            return found
    except OSError as error:
        raise BadRun(f"{folder} cannot be written ({error}); name another place in DIFFACET_CACHE") from error


def _trained(plan: Plan, train: Train, tell: Tell) -> Vectors:
    """LightGCN's vectors by a training of its own, begun before or new."""

    def watch(moment: Moment) -> None:
        if moment.record is not None:
            metric = moment.trail.metric
            tell(f"{MODEL}  step {moment.step}  {metric} {moment.record.metrics[metric]:.4f}")

    out = plan.folder / RUN
    begun = out.exists()

    def vectors() -> Vectors:
        run = train(name=MODEL, out=out, preset=PRESET, seed=plan.seed, resume=True, watch=watch)
        return run.model.item_embeddings().cpu().numpy()

    try:
        return vectors()
    except BadRun:
        if not begun:
            raise
        tell(f"{MODEL}: what was begun is damaged; training anew")
        shutil.rmtree(out)
        return vectors()


def _kept(folder: Path) -> Vectors | None:
    """The vectors in a folder of the cache; None if they are not there or not what was written."""
    try:
        told = files.read_json(folder / ABOUT)
        found = np.load(folder / VECTORS, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    same = told.get("format") == FORMAT and told.get("fingerprint") == files.fingerprint(found)
    return found if same else None


def save_vectors(path: Path, vectors: Vectors) -> None:
    """Write `vectors` to a file of that very name."""
    with path.open("wb") as file:  # given a name, NumPy would write to another one
        np.save(file, vectors)
