"""How much of a log comes before a sample: counted for all samples at once, strictly before."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diffacet.data.sequences import IntArray


def earlier(behaviours: pl.DataFrame, samples: pl.DataFrame) -> tuple[IntArray, IntArray]:
    """(S,) behaviours of the sample's user strictly before it, and (S,) the time of the last of them, 0 where none is.

    Both frames have user_id, of one type, and timestamp (Int64).
    """
    n = behaviours.height
    users = pl.concat([behaviours["user_id"], samples["user_id"]]).rank("dense").cast(pl.Int64).to_numpy()
    moments = np.concatenate([behaviours["timestamp"].to_numpy(), samples["timestamp"].to_numpy()])
    distinct, ranks = np.unique(moments, return_inverse=True)
    keys: NDArray[np.int64] = users * (len(distinct) + 1) + ranks
    done = np.sort(keys[:n])
    end = np.searchsorted(done, keys[n:], side="left")
    start = np.searchsorted(done, users[n:] * (len(distinct) + 1), side="left")
    count = end - start
    last = distinct[done[np.maximum(end - 1, 0)] % (len(distinct) + 1)] if n else np.zeros(len(count), np.int64)
    return count, np.where(count > 0, last, 0)
