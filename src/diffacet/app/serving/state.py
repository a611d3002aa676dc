"""One run as a service holds it: checked, with its index, its shelf to search in, and what it says of itself."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from diffacet.app import golden, rundir, settings, show
from diffacet.app.runs import Run, load, of_items
from diffacet.core.contract import Matcher
from diffacet.core.explaining import Explains
from diffacet.data.sequences import IntArray
from diffacet.errors import BadRun, BadSetting, nearest
from diffacet.learn.checkpoint import BEST, read_trail
from diffacet.rank.index import KINDS, Index
from diffacet.rank.retriever import Retriever

AUTO = "auto"
EXACT_UP_TO = 200_000
"""Items up to which "auto" compares all of them; beyond it takes "hnsw" (benchmarks/results/serving-indexes.md)."""
_NAMES = 500
"""Categories that a card lists."""


class Shelf:
    """The catalogue, to be searched by id and title."""

    def __init__(self, retriever: Retriever) -> None:
        self.ids = retriever.items.values.cast(pl.Utf8).str.to_lowercase()
        titles = retriever.titles
        self.titles = self.ids if titles is None else titles.fill_null("").str.to_lowercase()

    def find(self, text: str) -> IntArray:
        """Numbers (m,) int64 of the items that match, the nearest first; all of them for an empty text."""
        text = text.strip().lower()
        if not text:
            return np.arange(1, len(self.ids) + 1)
        same, begins = self.ids == text, self.ids.str.starts_with(text) | self.titles.str.starts_with(text)
        holds = self.titles.str.contains(text, literal=True)
        rank = np.select([same.to_numpy(), begins.to_numpy(), holds.to_numpy()], [0, 1, 2], 3)
        order = np.argsort(rank, kind="stable")
        return order[: int((rank < 3).sum())].astype(np.int64) + 1


@dataclass(frozen=True)
class Loading:
    """How a run is loaded, now and at each reload; see `Recommender.load`."""

    index: str = "exact"
    refine_steps: int | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    block: int | None = None


@dataclass(frozen=True, eq=False)
class State:
    """A run in service; the directory that it came from is not read again.

    Attributes:
        run: the run.
        retriever: its model and catalogue.
        version: of what answers: model and fingerprint, with the settings that were changed.
        trained: of the run as it lies on disk, see `version_of`.
        shelf: its catalogue, to be searched by title.
        card: what the run is and can be asked, as JSON may hold it.
        examples: held-out histories.
        warnings: what the operator should know.
    """

    run: Run
    retriever: Retriever
    version: str
    trained: str
    shelf: Shelf
    card: dict[str, Any]
    examples: list[golden.Example]
    warnings: list[str]


def opened(path: Path, how: Loading) -> State:
    """The run in `path`, read, checked and asked once; see `Recommender.load` for what is raised."""
    place = Path(os.path.realpath(path))  # one place from here on, even if a link is turned meanwhile
    run = of_items(load(place, device=how.device), "recommendation")
    digests = golden.digests(place)
    whole = golden.check_digests(place, digests)
    golden.check_answer(place, run.retriever(block=1))
    changes = dict(how.changes) | ({} if how.refine_steps is None else {"refine_steps": how.refine_steps})
    if changes:
        run = of_items(load(place, set=changes, device=how.device), "recommendation")
    told = [] if whole else [f"{path} carries no golden request, so only its files were checked"]
    return of_run(run, how, digests, told)


def of_run(run: Run, how: Loading, digests: Mapping[str, str], warnings: Sequence[str] = ()) -> State:
    """The state of a run that is loaded, with its settings as they are."""
    if how.index not in (AUTO, *KINDS):
        raise BadSetting(
            f"unknown index kind '{how.index}'{nearest(how.index, KINDS)}; kinds are {', '.join(KINDS)}", field="index"
        )
    told, index, near = list(warnings), "none", isinstance(run.model, Matcher)
    if near:
        index = how.index if how.index != AUTO else "exact" if len(run.catalogue) <= EXACT_UP_TO else "hnsw"
    found: str | Index = "exact"
    if near and index != "exact":
        found, more = _index(run, index, digests[BEST][:16])
        told += more
    retriever = run.retriever(found, how.block)
    if not retriever.steady and how.block is None:
        told.append("products depend on place here, so histories are computed one by one; answers stay the same")
    own = {"model": dataclasses.asdict(run.settings.model), "training": dataclasses.asdict(run.settings.training)}
    version = f"{run.card.name}-{golden.fingerprint(digests, own)}"
    trained = f"{run.card.name}-{golden.fingerprint(digests, run.about['settings'])}"
    examples = golden.examples(run.path)
    first = retriever.recommend(retriever.items.values.head(1).to_list(), 10, exclude_seen=False)  # the slow one
    interests = None if first.interests is None else len(first.interests)
    card = _card(run, retriever, index, interests) | {"version": version}
    card["can"]["examples"] = bool(examples)
    return State(run, retriever, version, trained, Shelf(retriever), show.plain(card), examples, told)


def version_of(path: Path) -> str:
    """Model and fingerprint of the run that lies in `path`, as it was trained; raises BadRun."""
    place = Path(os.path.realpath(path))
    told = rundir.read_about(place)
    return f"{told['model']}-{golden.fingerprint(golden.digests(place), told['settings'])}"


def changed(run: Run) -> dict[str, Any]:
    """The settings of a loaded run that are others than it was trained with."""
    trained = dataclasses.asdict(rundir.stored(run.path, run.card, run.about, ()).model)
    return {name: value for name, value in dataclasses.asdict(run.settings.model).items() if value != trained[name]}


def refinement(run: Run) -> dict[str, int] | None:
    """The refinement steps that a run takes and may take: "default" and "max"; None where it has none to choose."""
    if "refine_steps" not in settings.inference_settings(run.card.config):
        return None
    own = run.settings.model
    most = int(own.most_refine_steps)
    return {"default": most if own.refine_steps is None else int(own.refine_steps), "max": most}


def _card(run: Run, retriever: Retriever, index: str, found: int | None) -> dict[str, Any]:
    about, best, kinds = run.about, read_trail(run.path).best, retriever.categories
    vectors = retriever.search.vectors
    steps = refinement(run)
    explains = isinstance(run.model, Explains)
    return {
        "model": run.card.name,
        "preset": about["preset"],
        "task": run.card.task,
        "summary": run.card.summary,
        "paper": str(run.card.paper),
        "trained": datetime.fromtimestamp((run.path / BEST).stat().st_mtime, UTC).isoformat(timespec="seconds"),
        "data": {
            "name": about["data"]["name"],
            "fingerprint": about["data"]["fingerprint"],
            "items": len(retriever.items),
            "users": about.get("facts", {}).get("n_users"),
        },
        "metrics": {} if best is None else best.metrics,
        "settings": dataclasses.asdict(run.settings.model),
        "interests": found if found is not None or not explains else run.settings.model.interests,
        "dim": None if vectors is None else vectors.shape[1],
        "length": retriever.length,
        "index": index,
        "refine_steps": steps,
        "categories": [] if kinds is None else list(kinds.names[:_NAMES]),
        "can": {
            "interests": explains or vectors is not None,
            "similar": vectors is not None,
            "refine": steps is not None,
            "categories": kinds is not None,
            "diversity": kinds is not None,
            "titles": retriever.titles is not None,
        },
    }


def _index(run: Run, kind: str, digest: str) -> tuple[Index, list[str]]:
    """The near index of a run: the one that an earlier call left beside the weights, else a new one, left there."""
    path, told = run.path / f"index-{kind}-{digest}.faiss", list[str]()
    model: Any = run.model
    vectors = model.catalogue().detach().float()[1:].cpu().numpy()
    if path.exists():
        try:
            kept = Index.load(path)
            if kept.kind == kind and kept.holds(vectors):
                return kept, told
            told.append(f"{path} is no index of this run's items; it was built anew")
        except BadRun as error:
            told.append(f"{error}; it was built anew")
    found = Index.build(vectors, kind)
    try:
        found.save(path)
        for old in run.path.glob(f"index-{kind}-*.faiss"):
            if old != path:
                old.unlink()
    except OSError as error:  # a directory that others own is no reason not to serve from it
        told.append(f"the index could not be kept for the next start: {error}")
    return found, told
