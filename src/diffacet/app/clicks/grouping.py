"""Histories as clusters, for click models that ask for them by a setting `clusters` (TWIN-V2).

A run keeps the vectors that behaviours were clustered by, so that it clusters the histories of other files alike:

    RUN/item_vectors.npy                  (V, 32) float32; row v is value v of the data's first field

The clusters of large data take minutes, so they are kept, one folder for all that they depend on:

    CACHE/click-clusters/KEY/NAME.npy     the arrays of the log that clusters change
    CACHE/click-clusters/KEY/about.json   written last

CACHE is that of `app.clusters`. Deleting it costs time only.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffacet import files
from diffacet.app.clusters import cache, save_vectors
from diffacet.core.contract import Preset
from diffacet.data.clicks import ClickLog, Packed
from diffacet.data.clicks.clustering import clustered, item_vectors
from diffacet.data.clicks.kmeans import Rule
from diffacet.data.clicks.log import FloatArray
from diffacet.errors import BadRun, BadSetting

FORMAT = 1
VECTORS, ABOUT = "item_vectors.npy", "about.json"
ARRAYS = ("behaviours", "behaviour_time", "sizes", "begin", "end")
SMALL = 300_000
"""Logs of fewer behaviours are clustered in seconds, and not kept."""

Tell = Callable[[str], None]


def wanted(chosen: Preset) -> bool:
    """Whether the model reads clusters."""
    return getattr(chosen.model, "clusters", False) is True


def vectors_for(chosen: Preset, packed: Packed, out: Path) -> FloatArray | None:
    """The vectors by which a run clusters: those in its directory `out`, else new ones; None for a model without.

    Raises:
        BadRun: those in `out` are damaged.
    """
    if not wanted(chosen):
        return None
    if (out / VECTORS).exists():
        return read_vectors(out, chosen)
    return item_vectors(packed.log, packed.split.borders[0], seed=chosen.model.cluster_seed)


def write_vectors(folder: Path, vectors: FloatArray | None) -> None:
    """Keep the vectors, if there are any, in a run directory that is being made."""
    if vectors is not None:
        save_vectors(folder / VECTORS, vectors)


def read_vectors(path: Path, chosen: Preset) -> FloatArray | None:
    """The vectors of the run in `path`; None for a model without; raises BadRun when they are gone or damaged."""
    if not wanted(chosen):
        return None
    try:
        found: FloatArray = np.load(path / VECTORS, allow_pickle=False)
        if found.ndim != 2 or found.dtype != np.float32:
            raise ValueError(f"{found.dtype} of shape {found.shape}")
    except (OSError, ValueError, EOFError) as error:
        raise BadRun(f"{path / VECTORS} is missing or damaged ({error}); restore it from a copy") from error
    return found


def as_read(chosen: Preset, vectors: FloatArray | None, log: ClickLog) -> ClickLog:
    """`log` as the model reads it: with its histories as clusters where `vectors` are given.

    Raises:
        BadRun: the vectors do not fit the vocabulary of the log.
    """
    return log if vectors is None else _made(chosen, vectors, log, None)


def packed_as_read(chosen: Preset, vectors: FloatArray | None, packed: Packed, tell: Tell | None = None) -> ClickLog:
    """The same for packed data, from what is kept or made now; one process makes it, others wait for it.

    Raises:
        BadRun: the cache cannot be written.
    """
    log = packed.log
    if vectors is None or log.behaviours.shape[1] < SMALL:
        return as_read(chosen, vectors, log)
    say: Tell = (lambda _: None) if tell is None else tell
    told = [FORMAT, packed.fingerprint, files.fingerprint(vectors), _settings(chosen)]
    folder = cache() / "click-clusters" / files.fingerprint(json.dumps(told, sort_keys=True))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with files.held(folder / "lock", f"the clustering in {folder}", wait=True):
            found = _kept(folder, log)
            if found is not None:
                say(f"clusters: kept in {folder}")
                return found
            say(f"clusters: k-means of the histories of {len(log):,} showings, day by day; kept in {folder}")
            found = _made(chosen, vectors, log, say)
            _keep(folder, found)
            return found
    except OSError as error:
        raise BadRun(f"{folder} cannot be written ({error}); name another place in DIFFACET_CACHE") from error


def _settings(chosen: Preset) -> dict[str, Any]:
    """What the clusters of a log depend on, beside its content and the vectors: arguments of `clustered`."""
    model = chosen.model
    rule = Rule(most=model.most, exponent=model.exponent, iterations=model.iterations)
    # What the short-term branch reads stays single: it is the same for all models that are compared.
    apart = 0 if model.short == "none" else model.recent
    return {"rule": asdict(rule), "seed": model.cluster_seed, "length": chosen.training.length, "apart": apart}


def _made(chosen: Preset, vectors: FloatArray, log: ClickLog, tell: Tell | None) -> ClickLog:
    """The clusters of `log`; `tell` hears of every tenth of the work."""
    heard = 0

    def progress(done: int, total: int) -> None:
        nonlocal heard
        if tell is not None and 10 * done // total > heard:
            heard = 10 * done // total
            tell(f"clusters: {done:,} of {total:,} behaviours of snapshots")

    settings = _settings(chosen)
    try:
        return clustered(log, vectors, **settings | {"rule": Rule(**settings["rule"])}, progress=progress)
    except BadSetting as error:
        raise BadRun(f"the vectors of the run do not fit its data: {error}; train again") from error


def _keep(folder: Path, log: ClickLog) -> None:
    for name in ARRAYS:
        array = getattr(log, name)
        files.write_file(folder / f"{name}.npy", lambda path, array=array: save_vectors(path, array))  # type: ignore[misc]
    files.write_json(folder / ABOUT, {"format": FORMAT, "rows": log.behaviours.shape[1]})


def _kept(folder: Path, log: ClickLog) -> ClickLog | None:
    """`log` with the clusters in a folder of the cache; None if they are not there, or damaged."""
    try:
        rows = files.read_json(folder / ABOUT)["rows"]
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
    except (OSError, ValueError, EOFError, KeyError):
        (folder / ABOUT).unlink(missing_ok=True)
        return None
    lengths = {name: array.shape[-1] for name, array in arrays.items()}
    expected = dict.fromkeys(ARRAYS[:3], rows) | dict.fromkeys(ARRAYS[3:], len(log))
    if lengths != expected:
        return None
    found: ClickLog = replace(log, **{name: array.view(np.ndarray) for name, array in arrays.items()}, pointers=None)
    return found
