"""What a run carries for those who serve it: a golden request with its answer, and held-out histories to look at.

golden.json     digests of weights and catalogue, one request, and the answer that the run gave when it was trained
examples.json   up to 20 held-out histories under the log's own ids, and what came next

A run that was copied in part, mixed up with another, or is read by a version that computes otherwise, answers its
golden request otherwise, and is not put into service.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffacet import files
from diffacet.data.splits import Holdout
from diffacet.errors import BadRun
from diffacet.learn.checkpoint import BEST

if TYPE_CHECKING:
    from diffacet.rank.candidates import Candidates
    from diffacet.rank.retriever import Retriever

FORMAT = 1
GOLDEN, EXAMPLES, CATALOGUE = "golden.json", "examples.json", "catalogue.parquet"
_ITEMS, _K, _SHOWN, _LONGEST = 8, 10, 20, 50
_TOLERANCE = 1e-3
"""Of a golden score, relative to 1 or its own size: other machines round otherwise, other weights are far off."""


@dataclass(frozen=True)
class Example:
    """A held-out history, oldest item first, and the items that came next."""

    history: list[Any]
    next: list[Any]


def write(path: Path, retriever: "Retriever", holdout: Holdout) -> None:
    """Write both files for the run in `path`, whose model is asked as it was trained; raises OSError."""
    numbers = np.unique(np.linspace(1, len(retriever.items), _ITEMS).astype(np.int64))
    history = retriever.items.ids(numbers).to_list()
    found = retriever.recommend(history, _K, exclude_seen=False)
    answer = {"items": found.item_id.to_list(), "scores": found.score.tolist()}
    told = {"format": FORMAT, "digests": digests(path), "history": history, "k": _K, "answer": answer}
    rows = np.flatnonzero(holdout.history.lengths() > 0)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, _SHOWN).astype(np.int64))] if len(rows) else rows
    examples = [
        {
            "history": retriever.items.ids(holdout.history.row(row)[-_LONGEST:]).to_list(),
            "next": retriever.items.ids(holdout.target.row(row)[:_LONGEST]).to_list(),
        }
        for row in rows.tolist()
    ]
    files.write_json(path / EXAMPLES, {"format": FORMAT, "examples": examples})
    files.write_json(path / GOLDEN, told)


def remove(path: Path) -> None:
    """Take back the golden request of the run in `path`, whose weights are about to change."""
    (path / GOLDEN).unlink(missing_ok=True)


def digests(path: Path) -> dict[str, str]:
    """SHA-256 of the weights and of the catalogue of the run in `path`; raises BadRun when one is missing."""
    try:
        return {name: _sha256(path / name) for name in (BEST, CATALOGUE)}
    except OSError as error:
        raise BadRun(f"{path} is no whole run: {error}; copy it again, or train it") from error


def fingerprint(digests: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    """12 hex digits that stand for weights, catalogue and settings."""
    text = json.dumps([dict(digests), settings], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def check_digests(path: Path, found: Mapping[str, str]) -> bool:
    """Whether the run in `path` has a golden request, whose digests its files then have.

    Raises:
        BadRun: a file is another one than when the run was trained, or golden.json is damaged.
    """
    told = _read(path)
    if told is None:
        return False
    for name, digest in told["digests"].items():
        if found.get(name) != digest:
            raise BadRun(
                f"{path / name} is not the file that the run was trained to: it was copied in part, damaged, or taken "
                f"from another run; copy the whole run directory again"
            )
    return True


def check_answer(path: Path, retriever: "Retriever") -> None:
    """Ask the golden request; nothing happens where there is none. `retriever` is set as the run was trained.

    Raises:
        BadRun: the answer is another one than when the run was trained.
    """
    told = _read(path)
    if told is None:
        return
    found = retriever.recommend(told["history"], told["k"], exclude_seen=False)
    wrong = _difference(found, told["answer"])
    if wrong:
        raise BadRun(
            f"{path} answers its golden request otherwise than when it was trained ({wrong}): its files do not belong "
            f"together, or this version computes otherwise; train it again"
        )


def examples(path: Path) -> list[Example]:
    """The held-out histories that the run in `path` carries; none for a run of an older version."""
    try:
        told = files.read_json(path / EXAMPLES)
        return [Example(list(one["history"]), list(one["next"])) for one in told["examples"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadRun(f"{path / EXAMPLES} is damaged ({error}); remove it, or restore it from a copy") from error


def _difference(found: "Candidates", told: Mapping[str, Any]) -> str:
    """What differs, or nothing; items whose scores are as good as equal may change places."""
    if len(found) != len(told["items"]):
        return f"{len(found)} items instead of {len(told['items'])}"
    expected = np.asarray(told["scores"], dtype=np.float64)
    slack = _TOLERANCE * np.maximum(1.0, np.abs(expected))
    off = np.abs(found.score - expected) > slack
    if not np.isfinite(found.score).all() or off.any():
        at = int(np.argmax(off))
        return f"score {at + 1} is {found.score[at]:.6g} instead of {expected[at]:.6g}"
    # Down to where scores are as good as the last one, the items are the same ones.
    sure = {str(item) for item, score in zip(told["items"], expected, strict=True) if score > expected[-1] + slack[-1]}
    missing = sure - {str(item) for item in found.item_id}
    return f"item {min(missing)} is missing" if missing else ""


def _read(path: Path) -> dict[str, Any] | None:
    try:
        told = files.read_json(path / GOLDEN)
        if told["format"] != FORMAT:
            raise BadRun(f"{path / GOLDEN} has format {told['format']!r}; this version reads {FORMAT}")
        whole = all(isinstance(told[name], kind) for name, kind in _PARTS.items())
        if not whole or len(told["answer"]["items"]) != len(told["answer"]["scores"]):
            raise ValueError("it is not what 'diffacet train' writes")
        return told
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadRun(f"{path / GOLDEN} is damaged ({error}); restore it from a copy, or remove it") from error


_PARTS = {"digests": dict, "history": list, "k": int, "answer": dict}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
