"""Small click data sets as frames and folders: shuffled rows, equal times, users on one side only, unseen items."""

import json

import numpy as np
import polars as pl

from diffacet.data.clicks import BehaviourField, Schema

FIELDS = (
    BehaviourField("item", "item_id", "item_id"),
    BehaviourField("kind", "items.kind", "items.kind"),
    BehaviourField("type", "type", None),
)


def schema(**changes):
    """Three behaviour fields, a column of users, one of the showing, a numeric one."""
    told = {
        "name": "showings",
        "behaviour_fields": FIELDS,
        "split": {"by": "quantile", "train": 0.6, "valid": 0.2},
        "user_fields": ("user_id", "users.town"),
        "context_fields": ("hour",),
        "dense_fields": ("price",),
        "outcome_columns": ("dwell",),
    }
    return Schema(**(told | changes))


def frames(seed=0, samples=60, behaviours=80, users=9, items=12, span=40, start=1_600_000_000_000, step=1000):
    """samples, behaviours, items, users: few distinct times, so that many are equal; rows in no order."""
    rng = np.random.default_rng(seed)
    shown = pl.DataFrame(
        {
            "user_id": [f"u{n}" for n in rng.integers(0, users, samples)],
            "item_id": rng.integers(0, items, samples),
            "timestamp": start + step * rng.integers(0, span, samples),
            "label": rng.integers(0, 2, samples),
            "hour": rng.integers(0, 24, samples),
            "price": pl.Series(rng.lognormal(size=samples)).set(pl.Series(rng.random(samples) < 0.2), None),
            "dwell": rng.random(samples),
        }
    )
    done = pl.DataFrame(
        {
            "user_id": [
                f"u{n}" for n in rng.integers(2, users + 2, behaviours)
            ],  # u0 and u1 never, two others only here
            "item_id": rng.integers(0, items, behaviours),
            "type": rng.choice(["view", "cart", "buy"], behaviours),
            "timestamp": start + step * rng.integers(0, span, behaviours),
        },
        schema_overrides={"item_id": pl.Int64, "timestamp": pl.Int64},
    )
    kinds = pl.DataFrame(
        {"item_id": range(1, items), "kind": [f"k{n % 3}" if n % 4 else None for n in range(1, items)]}
    )
    towns = pl.DataFrame({"user_id": [f"u{n}" for n in range(users)], "town": [n % 4 for n in range(users)]})
    return shown, done, kinds, towns


def write(folder, parts, about):
    """The folder with these frames (samples, behaviours, items, users; None: no file) and this schema."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in zip(("samples", "behaviours", "items", "users"), parts, strict=True):
        if frame is not None:
            frame.write_parquet(folder / f"{name}.parquet")
    (folder / "dataset.json").write_text(json.dumps(about.to_json()), encoding="utf-8")
    return folder
