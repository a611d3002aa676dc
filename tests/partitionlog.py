"""A partitioned data directory, written out in plain Python from rows: what the tests of its readers read."""

import numpy as np
import polars as pl

from diffacet.data import hashing
from diffacet.data.ids import Ids
from diffacet.data.interactions import Interactions
from diffacet.data.partitions import write_about, write_partition


def rows(users=40, items=30, seed=0, most=12, rated=True):
    """user_id, item_id, timestamp, maybe rating: users of 1 to `most` interactions, some at the same time."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), rng.integers(1, most + 1, users))
    frame = {
        "user_id": [f"u{number}" for number in user],
        "item_id": (rng.zipf(1.3, len(user)) % items).tolist(),
        "timestamp": rng.integers(1_000, 1_000 + 4 * most, len(user)),
    }
    if rated:
        frame["rating"] = [None if value == 0 else float(value) for value in rng.integers(0, 6, len(user))]
    return pl.DataFrame(frame).sample(fraction=1, shuffle=True, seed=seed)


def canonical(frame):
    """(user ids by number, item ids by number, the rows as (user, item, time, rating) in canonical order)."""
    hashes = {one: int(hashing.ids(pl.Series([one]))[0]) for one in set(frame["user_id"])}
    users = sorted(hashes, key=lambda one: (hashes[one], str(one)))
    counts = dict(frame["item_id"].value_counts().iter_rows())
    items = sorted(counts, key=lambda one: (-counts[one], str(one)))
    user, item = ({one: number for number, one in enumerate(ids)} for ids in (users, items))
    ratings = frame["rating"].to_list() if "rating" in frame.columns else [None] * len(frame)
    found = [
        (user[u], item[i] + 1, t, r)
        for u, i, t, r in zip(frame["user_id"], frame["item_id"], frame["timestamp"], ratings, strict=True)
    ]
    found.sort(key=lambda row: (row[0], row[2], row[1], row[3] is not None, row[3] or 0.0))
    return users, items, found


def write(frame, folder, partitions, times="real", titles=None):
    """Write `frame` as a directory of so many partitions; returns its fingerprint."""
    users, items, every = canonical(frame)
    folder.mkdir(parents=True)
    place = {one: int(hashing.ids(pl.Series([one]))[0]) * partitions >> 64 for one in users}
    schema = {"user": pl.Int64, "item": pl.Int32, "timestamp": pl.Int64, "rating": pl.Float64}
    for number in range(partitions):
        own = [n for n, one in enumerate(users) if place[one] == number]
        mine = [row for row in every if row[0] in set(own)]
        table = pl.DataFrame(mine, schema, orient="row")
        counts = [sum(row[0] == n for row in mine) for n in own]
        named = pl.Series("user_id", [users[n] for n in own], pl.Series(users).dtype)
        told = pl.DataFrame({"user_id": named, "interactions": pl.Series(counts, dtype=pl.Int64)})
        write_partition(folder, number, told, table if "rating" in frame.columns else table.drop("rating"))
    counts = [sum(row[1] == n for row in every) for n in range(1, len(items) + 1)]
    catalogue = pl.DataFrame({"item_id": items, "interactions": counts})
    if titles is not None:
        lists = pl.Series([[f"kind {n % 3}"] for n in range(len(items))], dtype=pl.List(pl.String))
        catalogue = catalogue.with_columns(title=pl.Series(titles), categories=lists)
    frame = pl.DataFrame({"user": [row[0] for row in every], "item": [row[1] for row in every]})
    frame = frame.with_columns(time=pl.Series([row[2] for row in every]))
    kinds = catalogue["categories"] if titles is not None else None
    log = Interactions(frame, Ids(pl.Series(users), 0), Ids(catalogue["item_id"], 1), None, kinds, times)
    about = {"statistics": log.statistics(), "provenance": {"files": ["log.csv"]}}
    return write_about(folder, items=catalogue, times=times, **about)
