"""From what the recommender gives to what JSON holds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from diffacet.rank.candidates import Candidates

if TYPE_CHECKING:
    from diffacet.app.serving.recommender import Explained

_ITEM = ("item_id", "score", "interest", "category", "title")
_NAMED = ("item_id", "title", "category")


def items(found: Candidates) -> list[dict[str, Any]]:
    """The candidates, best first; scores are the float32 values to the bit."""
    n = len(found)
    columns = (
        found.item_id.to_list(),
        found.score.tolist(),
        found.interest.tolist(),
        _texts(found.category, n),
        _texts(found.titles, n),
    )
    return [dict(zip(_ITEM, row, strict=True)) for row in zip(*columns, strict=True)]


def named(item_id: pl.Series, titles: pl.Series | None, category: pl.Series | None) -> list[dict[str, Any]]:
    """Items with their titles and categories."""
    n = len(item_id)
    columns = (item_id.to_list(), _texts(titles, n), _texts(category, n))
    return [dict(zip(_NAMED, row, strict=True)) for row in zip(*columns, strict=True)]


def result(found: Candidates, k: int, notes: Sequence[str], explain: dict[str, Any] | None) -> dict[str, Any]:
    """The answer for one history; a list shorter than `k` is noted."""
    told = list(notes)
    if len(found) < k:
        told.append(f"{len(found)} items are left to recommend; {k} were asked for")
    return {"items": items(found), "unknown": found.unknown, "notes": told, "explain": explain}


def explanation(told: "Explained", notes: Sequence[str]) -> dict[str, Any]:
    """The interests of a history, coarse and refined, and what they look at."""
    history = named(told.item_id, told.titles, told.category)
    ids = told.item_id.to_list()
    moved = np.linalg.norm(told.refined - told.coarse, axis=1).tolist()
    coarse, refined = told.coarse.tolist(), told.refined.tolist()
    attention = None if told.attention is None else told.attention.tolist()
    kept = None if told.kept is None else told.kept.tolist()
    interests = [
        {
            "interest": number,
            "coarse": coarse[number],
            "refined": refined[number],
            "moved": moved[number],
            "attention": None if attention is None else attention[number],
            "kept": None if kept is None else kept[number],
            "kept_items": None
            if kept is None
            else [one for one, stays in zip(ids, kept[number], strict=True) if stays],
        }
        for number in range(len(coarse))
    ]
    read = [f"the model reads the newest {len(ids)} items; {told.cut} older ones were passed over"] if told.cut else []
    return {
        "history": history,
        "interests": interests,
        "unknown": told.unknown,
        "cut": told.cut,
        "refine_steps": told.refine_steps,
        "plane": told.plane,
        "notes": [*notes, *read],
    }


def _texts(series: pl.Series | None, n: int) -> list[str | None]:
    return [None] * n if series is None else series.to_list()
