"""The catalogue of a run for systems that search vectors: a table, arrays, and an index.

items.parquet  item_id, number, maybe title and categories, vector; row r is item number r + 1, as in all files here
vectors.npy    (N, d) float32
ids.npy        (N,) integers, or text of a fixed width
index.faiss    the FAISS index, by inner product
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from diffacet.core.contract import Matcher
from diffacet.errors import BadRun
from diffacet.rank.index import Index

FloatArray = NDArray[np.float32]
ITEMS, VECTORS, IDS, INDEX = "items.parquet", "vectors.npy", "ids.npy", "index.faiss"
_KEPT = ("item_id", "title", "categories")


def of_model(model: Matcher) -> FloatArray:
    """(N, d) float32, row r being item number r + 1."""
    with torch.no_grad():
        return model.catalogue().detach().float()[1:].cpu().numpy()


def write(folder: Path, catalogue: pl.DataFrame, vectors: FloatArray, kind: str) -> None:
    """Write the four files into `folder`.

    Args:
        folder: where there are none yet.
        catalogue: of the run, item_id and maybe title and categories.
        vectors: (N, d) of its items.
        kind: of the index, see `Index.build`.

    Raises:
        BadSetting: an item vector is not finite.
        OSError: a file cannot be written.
    """
    n, d = vectors.shape
    kept = catalogue.select([name for name in _KEPT if name in catalogue.columns])
    number = pl.Series("number", np.arange(1, n + 1))
    kept = kept.insert_column(1, number)
    try:
        kept.with_columns(vector=pl.Series(vectors, dtype=pl.Array(pl.Float32, d))).write_parquet(folder / ITEMS)
    except pl.exceptions.ComputeError as error:  # polars' form of a full disk
        raise OSError(f"{ITEMS}: {error}") from error
    np.save(folder / VECTORS, vectors, allow_pickle=False)
    np.save(folder / IDS, ids(catalogue["item_id"]), allow_pickle=False)
    Index.build(vectors, kind).save(folder / INDEX)


def ids(own: pl.Series) -> NDArray[Any]:
    """(N,) own ids as an array that holds no objects."""
    return own.to_numpy() if own.dtype.is_integer() else np.asarray(own.cast(pl.Utf8).to_list(), dtype=np.str_)


def check(folder: Path, catalogue: pl.DataFrame, vectors: FloatArray, kind: str) -> None:
    """Read the four files again and compare them with what they were made of, bit for bit.

    Raises:
        BadRun: one of them holds something else.
    """
    table = pl.read_parquet(folder / ITEMS)
    found = {
        VECTORS: np.load(folder / VECTORS, allow_pickle=False),
        ITEMS: table["vector"].to_numpy(),
    }
    for name, read in found.items():
        if read.dtype != vectors.dtype or not np.array_equal(read.view(np.uint32), vectors.view(np.uint32)):
            raise failed(name, "its vectors are not those of the model")
    own, arrayed = catalogue["item_id"], np.load(folder / IDS, allow_pickle=False)
    numbered = table["number"].to_numpy()
    if not table["item_id"].equals(own) or not (numbered == np.arange(1, len(own) + 1)).all():
        raise failed(ITEMS, "its ids are not those of the run, in their order")
    if arrayed.tolist() != own.to_list():
        raise failed(IDS, "its ids are not those of the run, in their order")
    index = Index.load(folder / INDEX)
    if (index.kind, len(index), index.dim) != (kind, *vectors.shape):
        raise failed(INDEX, f"it is {index.kind} over {len(index)} vectors of width {index.dim}")


def failed(what: str, why: str, advice: str = "try again, and report it if it stays so") -> BadRun:
    """The refusal to keep an export of which `what` is not right."""
    return BadRun(f"the check of {what} failed: {why}; nothing was kept; {advice}")
