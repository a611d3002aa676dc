"""A small shop with showings: what people did, what they were shown and clicked, as frames, files and packed arrays."""

import dataclasses
import json

import numpy as np
import polars as pl

from diffacet.data import clicks
from diffacet.data.clicks import BehaviourField, Schema

DAY, HOUR = 86_400_000, 3_600_000
START = 1_700_006_400_000  # a midnight in UTC
USERS, ITEMS, KINDS, DAYS = 40, 30, 5, 8
SPLIT = START + 5 * DAY, START + 6 * DAY

SCHEMA = Schema(
    name="shop",
    behaviour_fields=(
        BehaviourField("item", "item_id", "item_id"),
        BehaviourField("kind", "items.kind", "items.kind"),
        BehaviourField("type", "behaviour_type"),
    ),
    split={"by": "instant", "valid": SPLIT[0], "test": SPLIT[1]},
    group="user_id",
    user_fields=("user_id",),
    context_fields=("slot",),
    dense_fields=("price",),
)
"""Of the frames."""


def frames(seed=0, samples=900, behaviours=14):
    """Samples, behaviours and items as Polars frames, in no order.

    Users like one kind each and click mostly on that; they do most in it, too. The last three users did nothing; items
    from 28 on first occur in the test; the kind of item 5 is not known, and some prices are not.
    """
    rng = np.random.default_rng(seed)
    kind, likes = rng.integers(0, KINDS, ITEMS), rng.integers(0, KINDS, USERS)
    whose = np.repeat(np.arange(USERS - 3), behaviours)
    liked = np.array([rng.choice(np.flatnonzero(kind == likes[u])) if (kind == likes[u]).any() else 0 for u in whose])
    met = np.where(rng.random(len(whose)) < 0.8, liked, rng.integers(0, ITEMS, len(whose)))
    at = START + rng.integers(0, DAYS * 24, len(whose)) * HOUR
    done = pl.DataFrame(
        {
            "user_id": whose,
            "item_id": np.where((at < SPLIT[1]) & (met >= ITEMS - 2), 1, met),
            "timestamp": at,
            "behaviour_type": rng.choice(["view", "cart"], len(whose)),
        }
    )
    user, item = rng.integers(0, USERS, samples), rng.integers(0, ITEMS, samples)
    time = START + rng.integers(0, DAYS * 24, samples) * HOUR + rng.integers(0, 2, samples) * 1000
    item = np.where((time < SPLIT[1]) & (item >= ITEMS - 2), 0, item)
    shown = pl.DataFrame(
        {
            "user_id": user,
            "item_id": item,
            "timestamp": time,
            "label": (rng.random(samples) < np.where(kind[item] == likes[user], 0.9, 0.1)).astype(np.int64),
            "slot": rng.choice(["top", "side"], samples),
            "price": pl.Series(rng.lognormal(1, 1, samples)).set(pl.Series(rng.random(samples) < 0.1), None),
        }
    )
    kinds = pl.Series([f"kind {k}" for k in kind]).set(pl.Series(np.arange(ITEMS) == 5), None)
    return shown, done, pl.DataFrame({"item_id": np.arange(ITEMS), "kind": kinds})


def raw(seed=0, change=None, **sizes):
    """The frames as a checked data set; `change` may alter (samples, behaviours, items) before."""
    parts = frames(seed, **sizes)
    return clicks.from_frames(SCHEMA, *(parts if change is None else change(*parts)))


def log(seed=0, change=None, **sizes):
    """The click log of the frames, with vocabularies of what training has."""
    made = raw(seed, change, **sizes)
    return clicks.encode(made, *clicks.learn(made, SPLIT[0]))


def train_rows(some):
    """The training samples of a log."""
    return np.flatnonzero(some.time < SPLIT[0])


def folder(path, seed=0, schema=SCHEMA, **sizes):
    """A click data directory."""
    path.mkdir(parents=True)
    for name, frame in zip(("samples", "behaviours", "items"), frames(seed, **sizes), strict=True):
        frame.write_parquet(path / f"{name}.parquet")
    (path / "dataset.json").write_text(json.dumps(schema.to_json()), encoding="utf-8")
    return path


def files(path, seed=0, **sizes):
    """The raw logs as text: (samples.csv, behaviours.csv, items.csv)."""
    path.mkdir(parents=True, exist_ok=True)
    found = []
    for name, frame in zip(("samples", "behaviours", "items"), frames(seed, **sizes), strict=True):
        frame.write_csv(path / f"{name}.csv")
        found.append(path / f"{name}.csv")
    return tuple(found)


def renamed(**changes):
    """The schema with some of its entries exchanged."""
    return dataclasses.replace(SCHEMA, **changes)


@dataclasses.dataclass(frozen=True)
class Learned:
    """Vocabularies and statistics of the shop's training part."""

    vocabularies: dict
    statistics: tuple


def learned(seed=0, **sizes):
    """What training knows."""
    return Learned(*clicks.learn(raw(seed, **sizes), SPLIT[0]))
