"""A trained run that answers: loaded, checked, indexed, warmed up, and exchanged for a newer one while it answers.

What `diffacet recommend`, `diffacet candidates` and `diffacet serve` have in common; no HTTP here.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diffacet.app import golden, rundir
from diffacet.app.rundir import Changes
from diffacet.app.runs import Run
from diffacet.app.serving import state
from diffacet.app.serving.state import Loading, State
from diffacet.core.explaining import Explanation
from diffacet.data.sequences import IntArray
from diffacet.errors import BadRun, DiffacetError
from diffacet.rank.candidates import Candidates, Query
from diffacet.rank.retriever import Retriever

FloatArray = NDArray[np.float32]
_SHARED = 0.5
"""Of the items that are served a new run must know this share, else it is one of another data set."""


@dataclass(frozen=True)
class Answered:
    """Answers to several queries by one state of the service.

    Attributes:
        version: of the run that answered.
        answers: for each query its candidates, or why there are none.
    """

    version: str
    answers: list[Candidates | DiffacetError]


@dataclass(frozen=True, eq=False)
class Explained:
    """What a run makes of one history of which it reads n items; K interests, d dimensions.

    Attributes:
        version: of the run that answered.
        item_id: (n,) ids of the items that were read, oldest first.
        titles: (n,) their titles, or None.
        category: (n,) their categories, or None.
        coarse: (K, d) float32 interests as extracted.
        refined: (K, d) float32 interests as they search; equal to `coarse` where nothing refines.
        attention: (K, n) float32 over the items, or None where the model has none.
        kept: (K, n) bool, the items that guide each interest's refinement, or None where none are pruned.
        unknown: ids of the history that the catalogue does not hold.
        cut: known items that are older than what the model reads.
        refine_steps: S that was used; None where the model has no steps.
        plane: "coarse", "refined" (K points) and "items" (n points) in the plane of their two principal axes.
    """

    version: str
    item_id: pl.Series
    titles: pl.Series | None
    category: pl.Series | None
    coarse: FloatArray
    refined: FloatArray
    attention: FloatArray | None
    kept: NDArray[np.bool_] | None
    unknown: list[Any]
    cut: int
    refine_steps: int | None
    plane: dict[str, list[list[float]]]


@dataclass(frozen=True, eq=False)
class Found:
    """A page of the catalogue: `total` items match, these are some of them."""

    version: str
    total: int
    numbers: IntArray
    item_id: pl.Series
    titles: pl.Series | None
    category: pl.Series | None


@dataclass(frozen=True)
class Reloaded:
    """What a reload did: whether the version is another one now, the two versions, and how long it took (seconds)."""

    changed: bool
    version: str
    before: str
    seconds: float


class Recommender:
    """A run in service. Any thread may ask while another reloads: a call is answered by one state from end to end.

    Attributes:
        path: the run directory as it was given; a link is followed anew at each reload.
    """

    def __init__(self, path: Path, made: State, how: Loading) -> None:
        """Use `load` or `of`."""
        self.path = path
        self._state, self._how, self._lock = made, how, threading.Lock()

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        index: str = "exact",
        refine_steps: int | None = None,
        set: Changes = (),  # noqa: A002 - the command line's own word
        device: str = "auto",
        block: int | None = None,
    ) -> "Recommender":
        """Load the run in `path`, check it, build or open its index, and ask it once.

        Args:
            path: a run directory, or a link to one.
            index: "exact", "hnsw" or "ivf"; a near index is kept in the run directory for the next time. "auto": exact
                up to 200,000 items, beyond them hnsw.
            refine_steps: S of all answers that ask for no other; None: as the run is set.
            set: further inference settings, `["key=value"]` or a mapping.
            device: "auto", "cpu" or "cuda".
            block: histories computed together, see `Retriever`.

        Raises:
            BadRun: no run, one of a click model, a damaged one, or one that answers its golden request otherwise.
            BadSetting: a setting that the model has not or that is fixed in training.
        """
        path = Path(path)
        how = Loading(index, refine_steps, rundir.pairs(set), device, block)
        return cls(path, state.opened(path, how), how)

    @classmethod
    def of(cls, run: Run, index: str = "exact", block: int | None = None) -> "Recommender":
        """A run that is loaded already, maybe with other settings than it was trained with; `reload` keeps these."""
        device = next((tensor.device.type for tensor in run.model.state_dict().values()), "cpu")
        how = Loading(index, None, state.changed(run), device, block)
        return cls(run.path, state.of_run(run, how, golden.digests(run.path)), how)

    @property
    def version(self) -> str:
        """Model and fingerprint of weights, catalogue and settings: "dmi-0123456789ab"."""
        return self._state.version

    @property
    def run(self) -> Run:
        """The run that answers now."""
        return self._state.run

    @property
    def retriever(self) -> Retriever:
        """Model and catalogue of the run that answers now."""
        return self._state.retriever

    @property
    def n_items(self) -> int:
        """Items in the catalogue."""
        return len(self._state.retriever.items)

    @property
    def warnings(self) -> list[str]:
        """What is to be said of the run that was loaded last."""
        return self._state.warnings

    def card(self) -> dict[str, Any]:
        """What the run is and can be asked, as JSON may hold it."""
        return self._state.card

    def recommend(self, history: Sequence[Any], k: int = 20, **asked: Any) -> Candidates:
        """The k best items for one history of own ids, oldest first; `asked` are further fields of `Query`.

        Raises:
            BadSetting, UnknownItem: as `Retriever.recommend_many`.
        """
        return self._state.retriever.recommend(history, k, **asked)

    def recommend_many(self, histories: Sequence[Sequence[Any]], k: int = 20, **asked: Any) -> list[Candidates]:
        """The k best items for each history; see `recommend`."""
        return self._state.retriever.recommend_many(histories, k, **asked)

    def answer(self, queries: Sequence[Query]) -> Answered:
        """Candidates for each query, or why there are none; a bad query does not disturb the others."""
        now = self._state
        return Answered(now.version, now.retriever.answer(queries))

    def encode(self, histories: Sequence[Sequence[Any]], *, refine_steps: int | None = None) -> FloatArray:
        """(B, K, d) float32 interests of the histories.

        Raises:
            BadSetting: the model has no interests.
        """
        return self._state.retriever.encode(histories, refine_steps=refine_steps)

    def explain(self, history: Sequence[Any], *, refine_steps: int | None = None) -> Explained:
        """What the run makes of one history, on its way to candidates.

        Raises:
            BadSetting: the model has no interests, or no refinement steps where they are asked for.
            UnknownItem: not one item of the history is in the catalogue.
        """
        now = self._state
        asked, told = now.retriever.explain(history, refine_steps=refine_steps)
        read = asked.known[-now.retriever.length :]
        item_id, titles, category = now.retriever.named(read)
        attention = told.attention[0].float().cpu().numpy()
        steps = state.refinement(now.run)
        default = None if steps is None else steps["default"]
        return Explained(
            now.version,
            item_id,
            titles,
            category,
            told.coarse[0].float().cpu().numpy(),
            told.refined[0].float().cpu().numpy(),
            attention if attention.shape[1] else None,
            None if told.kept is None else told.kept[0].cpu().numpy(),
            asked.unknown,
            len(asked.known) - len(read),
            default if refine_steps is None else refine_steps,
            _plane(told),
        )

    def similar(
        self, item_id: Any, k: int = 20, *, exclude: Sequence[Any] = (), categories: Sequence[str] | None = None
    ) -> Candidates:
        """The k items whose vectors point the same way as this one's: the score is the cosine.

        Raises:
            UnknownItem: the catalogue does not hold the item.
            BadSetting: the model has no vectors of items.
        """
        return self._state.retriever.similar(item_id, k, exclude=exclude, categories=categories)

    def find(self, text: str = "", limit: int = 20, offset: int = 0) -> Found:
        """Items whose id begins with `text` or whose title holds it; no text: all items, in their order.

        The item of that id comes first, then ids and titles that begin with it, then titles that hold it.
        """
        now = self._state
        numbers = now.shelf.find(text)
        page = numbers[offset : offset + limit]
        return Found(now.version, len(numbers), page, *now.retriever.named(page))

    def examples(self) -> list[golden.Example]:
        """Held-out histories that the run carries, to look at."""
        return self._state.examples

    def reload(self, path: Path | str | None = None, *, force: bool = False) -> Reloaded:
        """Load another run beside this one, check it, and exchange them; `path` is None for the own one, read anew.

        Calls that have begun end with the old run, which goes when the last of them does.

        Raises:
            BadRun: the new run is damaged, answers its golden request otherwise, or knows less than half of the items
                that are served, unless `force` is said. The old run then goes on.
        """
        start = time.perf_counter()
        with self._lock:
            before, place = self._state, Path(path or self.path)
            if (same := state.version_of(place)) == before.trained:
                return Reloaded(False, before.version, before.version, time.perf_counter() - start)
            made = state.opened(place, self._how)
            known = made.retriever.items.find(before.retriever.items.values) > 0
            if known.mean() < _SHARED and not force:
                raise BadRun(
                    f"{place} ({same}) knows {known.sum():,} of the {len(known):,} items that are served now: it is a "
                    f"run of another data set; serve it elsewhere, or reload with force"
                )
            self.path, self._state = place, made
        return Reloaded(True, made.version, before.version, time.perf_counter() - start)


def _plane(told: Explanation) -> dict[str, list[list[float]]]:
    """Interests and items in the plane of their principal axes, each axis towards its larger end."""
    parts = [told.coarse[0], told.refined[0], told.items[0]]
    points = np.concatenate([part.float().cpu().numpy() for part in parts]).astype(np.float64)
    points -= points.mean(0)
    _, _, axes = np.linalg.svd(points, full_matrices=False)
    flat = points @ axes[:2].T
    flat = np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
    ends = flat[np.abs(flat).argmax(0), np.arange(2)]
    flat = np.where(ends < 0, -flat, flat)
    K = told.coarse.shape[1]
    cuts = {"coarse": flat[:K], "refined": flat[K : 2 * K], "items": flat[2 * K :]}
    return {name: rows.round(6).tolist() for name, rows in cuts.items()}
