"""Indexes over item vectors: the nearest items by inner product, exactly or nearly (FAISS).

Which kind: "exact" for batches up to about a million items, and wherever an answer must equal `top_k`; for single
queries over more than some hundred thousand items "hnsw", or "ivf" where building it takes too long
(benchmarks/results/serving-indexes.md). Measure recall on the model's own vectors.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import faiss
import numpy as np
from numpy.typing import NDArray

from diffacet import files
from diffacet.data.sequences import IntArray
from diffacet.errors import BadRun, BadSetting, nearest

Kind = Literal["exact", "hnsw", "ivf"]
KINDS: tuple[str, ...] = get_args(Kind)
FloatArray = NDArray[np.float32]

# faiss-cpu 1.15 leaves its matrix product for batches under 128,000 / d queries, which makes exact batch
# search 3 to 12 times slower than it need be (facebookresearch/faiss issues 4925 and 5022).
faiss.cvar.distance_compute_blas_threshold = 20


@dataclass(frozen=True, eq=False)
class Index:
    """N item vectors, searched by inner product; row r is item r + 1.

    Attributes:
        kind: "exact", "hnsw" or "ivf".
        native: the FAISS index.
    """

    kind: str
    native: Any

    @classmethod
    def build(
        cls,
        vectors: FloatArray,
        kind: str = "exact",
        *,
        links: int = 32,
        ef_build: int = 200,
        ef_search: int = 256,
        lists: int | None = None,
        probes: int | None = None,
    ) -> "Index":
        """An index over item vectors.

        Args:
            vectors: (N, d) float32, row r being item r + 1 (a model's catalogue without row 0).
            kind: "exact": every vector is compared; "hnsw": a graph; "ivf": clusters.
            links: hnsw: neighbours of a vector in the graph (M); more: better recall, more memory.
            ef_build: hnsw: candidates held while building (efConstruction).
            ef_search: hnsw: candidates held while searching (efSearch); FAISS holds k where k is larger.
            lists: ivf: clusters (nlist); None: about 4 sqrt(N). Never above N / 39: FAISS wants that many
                vectors to place a cluster.
            probes: ivf: clusters that a search reads (nprobe); None: an eighth of them, at least 8.

        Raises:
            BadSetting: an unknown kind, no vector, a vector that is not finite, or a number below 1.
        """
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if kind not in KINDS:
            raise BadSetting(f"unknown index kind {kind!r}{nearest(kind, KINDS)}; kinds are {', '.join(KINDS)}")
        if vectors.ndim != 2 or not vectors.size:
            raise BadSetting(f"an index needs item vectors (N, d) with N and d at least 1; got shape {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise BadSetting("an item vector is not finite: the model diverged; train it again, with a smaller lr")
        if min(links, ef_build, ef_search, lists or 1, probes or 1) < 1 or lists == 0 or probes == 0:
            raise BadSetting("links, ef_build, ef_search, lists and probes of an index are at least 1")
        n, d = vectors.shape
        native: Any
        if kind == "exact":
            native = faiss.IndexFlatIP(d)
        elif kind == "hnsw":
            native = faiss.IndexHNSWFlat(d, links, faiss.METRIC_INNER_PRODUCT)
            native.hnsw.efConstruction, native.hnsw.efSearch = ef_build, ef_search
        else:
            count = min(lists or int(4 * n**0.5), max(n // 39, 1))
            native = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, count, faiss.METRIC_INNER_PRODUCT)
            native.nprobe = min(probes or max(8, count // 8), count)
            native.cp.min_points_per_centroid = (
                1  # a catalogue of fewer than 39 items is one cluster, without a warning
            )
            native.train(vectors)
        native.add(vectors)
        return cls(kind, native)

    def __len__(self) -> int:
        """N, the number of items."""
        return int(self.native.ntotal)

    def holds(self, vectors: FloatArray) -> bool:
        """Whether this is an index over `vectors` (N, d); a hundred of them are compared."""
        if vectors.shape != (len(self), self.dim):
            return False
        rows = np.unique(np.linspace(0, len(self) - 1, 100).astype(np.int64))
        if self.kind == "ivf":
            self.native.make_direct_map()
        own = np.stack([self.native.reconstruct(int(row)) for row in rows])
        return bool(np.array_equal(own, vectors[rows]))

    @property
    def dim(self) -> int:
        """The width d of the vectors."""
        return int(self.native.d)

    def search(self, queries: FloatArray, k: int) -> tuple[FloatArray, IntArray]:
        """The k best items of each query.

        Args:
            queries: (B, d) float32.
            k: items per query, at least 1; may exceed N.

        Returns:
            Scores (B, k) float32, not increasing, and item numbers (B, k) int64; -inf and 0 where there
            are fewer than k items, or where an approximate index found fewer. Equal scores come in any order.

        Raises:
            BadSetting: k is below 1, or the queries are not (B, d).
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if k < 1:
            raise BadSetting(f"k, the number of items asked for, is at least 1; got {k}")
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise BadSetting(f"queries are (B, {self.dim}) like the index; got shape {queries.shape}")
        found = min(k, len(self))
        # Few enough at a time that clusters are found without a matrix product, which rounds by the size of the batch.
        step = faiss.cvar.distance_compute_blas_threshold - 1 if self.kind == "ivf" else max(len(queries), 1)
        parts = [self.native.search(queries[at : at + step], found) for at in range(0, max(len(queries), 1), step)]
        scores, rows = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        scores[rows < 0] = -np.inf
        wider = ((0, 0), (0, k - found))
        return np.pad(scores, wider, constant_values=-np.inf), np.pad(rows.astype(np.int64) + 1, wider)

    def save(self, path: Path) -> None:
        """Write the index to `path` atomically; `Index.load` reads it. Raises OSError; `path` is then as it was."""
        try:
            files.write_file(path, lambda temporary: faiss.write_index(self.native, str(temporary)))
        except RuntimeError as error:  # FAISS's form of every failure to open or write
            raise OSError(f"{path}: the index could not be written ({error})") from error

    @classmethod
    def load(cls, path: Path) -> "Index":
        """The index in `path`, as `save` wrote it.

        Raises:
            BadRun: there is no such file, or it is no index of a kind that `build` makes.
        """
        if not path.is_file():
            raise BadRun(f"{path}: there is no index here; write one with Index.save")
        try:
            native = faiss.read_index(str(path))
        except RuntimeError as error:
            raise BadRun(f"{path}: not a FAISS index, or a damaged one; build it again") from error
        for kind, form in zip(KINDS, (faiss.IndexFlatIP, faiss.IndexHNSWFlat, faiss.IndexIVFFlat), strict=True):
            if isinstance(native, form):
                return cls(kind, native)
        raise BadRun(f"{path}: holds a {type(native).__name__}, not one of the kinds {', '.join(KINDS)}")
