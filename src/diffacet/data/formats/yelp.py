"""Yelp Open Dataset: `yelp_academic_dataset_review.json`, with `..._business.json` for the items."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from diffacet.data.formats.items import read_items
from diffacet.data.formats.jsonlines import with_keys
from diffacet.data.formats.raw import bare, kind, listing
from diffacet.data.formats.source import Names, Source
from diffacet.errors import BadLog


def source(paths: Sequence[Path]) -> Source:
    """The reviews; businesses beside a review file in a directory are the items."""
    files = [f for f in listing(paths) if kind(f) == "jsonl"]
    reviews, items = [f for f in files if "review" in bare(f)], [f for f in files if "business" in bare(f)]
    if not any(path.is_dir() for path in paths):
        reviews = [f for f in listing(paths) if f not in items]
    if not reviews:
        raise BadLog(f"{paths[0]} holds no Yelp reviews; expected yelp_academic_dataset_review.json")
    return Source(
        tuple(with_keys(f) for f in reviews),
        Names("user_id", "business_id", "date", "stars"),
        items=partial(read_items, items[0]) if len(items) == 1 else None,
    )
