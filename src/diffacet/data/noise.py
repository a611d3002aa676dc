"""Noise in the training and validation part of a log that carries its split; its test part stays as it is.

natural   low-rated interactions stand in for some of the others          (DiffRec, Table 3; procedure rebuilt)
random    items that a user never met, as if the user had met them        (DiffRec, Figure 4; rebuilt from the text)

Both are functions of the log and a seed, the same on every machine. Neither procedure is in the authors' code.
"""

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import polars as pl

from diffacet.arrays import distinct, within
from diffacet.data.interactions import Interactions
from diffacet.data.parts import TEST, TRAIN, VALID, renumbered
from diffacet.data.sequences import BoolArray, IntArray
from diffacet.errors import BadLog, BadSetting

Mode = Literal["add", "replace"]


def random_noise(log: Interactions, share: float, seed: int, mode: Mode = "add") -> Interactions:
    """The log with m random items more for each user in train and in valid: m = floor(share * rows there + 0.5).

    One generator PCG64(seed), user by user, train before valid: m items, uniform without repeats among those that the
    user has in no part (all that are left where fewer are); with "replace" m of the part's own rows, which go; then a
    uniform place in the user's list for each item, one after another. A new row has the time of the row before it,
    or of the one after it at the beginning, and no rating. Users, items and test stay; a share of 0 is the same log.

    Raises:
        BadSetting: the share does not lie between 0 and 1, or the mode is unknown.
        BadLog: the log has no parts.
    """
    if not 0 <= share <= 1:
        raise BadSetting(f"the share of random noise lies between 0 and 1; got {share:g}")
    if mode not in get_args(Mode):
        raise BadSetting(f"noise mode is {' or '.join(get_args(Mode))}; got '{mode}'")
    if not log.has_parts:
        raise BadLog("random noise goes into the parts of a log, and this one has none; split it first")
    if share == 0:
        return log
    rng = np.random.Generator(np.random.PCG64(seed))
    sequences, part = log.sequences(), log.column("part")
    rows: list[int] = []  # of the old log in the new order; below 0: a new one, whose item is -row
    times: list[int] = []
    parts: list[int] = []
    users: list[int] = []
    for user in range(log.n_users):
        own = np.arange(sequences.offsets[user], sequences.offsets[user + 1])
        free = np.ones(log.n_items + 1, dtype=np.bool_)
        free[0] = False
        free[sequences.items[own]] = False
        for place in (TRAIN, VALID, TEST):
            mine = own[part[own] == place]
            listed = mine.tolist() if place == TEST else _mixed(mine, share, free, rng, mode)
            old = log.column("time")[mine]
            rows += listed
            times += _stamps(listed, log.column("time"), old)
            parts += [place] * len(listed)
            users += [user] * len(listed)
    return _rebuilt(log, np.array(users), np.array(rows), np.array(times), np.array(parts))


def _mixed(mine: IntArray, share: float, free: BoolArray, rng: np.random.Generator, mode: Mode) -> list[int]:
    """A user's rows of one part with new ones (minus their items) among them; `free` loses what is drawn."""
    left = np.flatnonzero(free)
    count = min(int(share * len(mine) + 0.5), len(left))
    if not count:
        return mine.tolist()
    drawn = rng.choice(left, count, replace=False)
    free[drawn] = False
    if mode == "replace":
        mine = np.delete(mine, rng.choice(len(mine), count, replace=False))
    listed = mine.tolist()
    for item, place in zip(drawn.tolist(), rng.integers(0, len(mine) + 1 + np.arange(count)).tolist(), strict=True):
        listed.insert(place, -item)
    return listed


def _stamps(listed: list[int], times: IntArray, old: IntArray) -> list[int]:
    """The time of each row of a list, new ones at the time of their neighbour; `old`: the times before the noise."""
    known = next((int(times[row]) for row in listed if row >= 0), int(old[0]) if len(old) else 0)
    stamps = []
    for row in listed:
        known = int(times[row]) if row >= 0 else known
        stamps.append(known)
    return stamps


def _rebuilt(log: Interactions, users: IntArray, rows: IntArray, times: IntArray, parts: IntArray) -> Interactions:
    """The log of these rows: sorted again, ranks counted anew."""
    new = rows < 0
    old = np.where(new, 0, rows)
    columns = {
        "user": pl.Series(users, dtype=pl.Int64),
        "item": pl.Series(np.where(new, -rows, log.column("item")[old]), dtype=pl.Int64),
        "time": pl.Series(times, dtype=pl.Int64),
    }
    if "rating" in log.frame.columns:
        columns["rating"] = (
            log.frame["rating"]
            .gather(old)
            .zip_with(pl.Series(~new), pl.Series([None], dtype=pl.Float64).new_from_index(0, len(rows)))
        )
    columns["part"] = pl.Series(parts, dtype=pl.Int64)
    frame = pl.DataFrame(columns).sort("user", "time", maintain_order=True).rechunk()
    if log.times == "rank":
        frame = frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).over("user").alias("time"))
    return replace(log, frame=frame)


def natural_noise(raw: Interactions, clean: Interactions, threshold: float, seed: int) -> Interactions:
    """The clean split with some of its training and validation rows replaced by low-rated ones of the same time.

    A low row is rated below `threshold`, by a user of the clean split, of an item that the user has in no part; the
    earliest of a pair. Those up to the user's last training row may stand in training, those after it and before the
    first test row in validation, later ones nowhere. Of a part's rows and its candidates together as many are drawn
    without repeats as the part had, user by user, train before valid, by PCG64(seed). Test is the clean one.
    Items are numbered as in `parts.renumbered`; test items that lost their training rows stay.

    Args:
        raw: the log with all ratings.
        clean: what a threshold, a core and `parts.assign` left of it.
        threshold: of the ratings.
        seed: of the draw.

    Raises:
        BadLog: the log has no ratings, or none below the threshold.
    """
    if "rating" not in raw.frame.columns:
        raise BadLog("natural noise is drawn from low ratings, but the log has no ratings; use random noise")
    part = _clean_parts(raw, clean, threshold)
    user, item, time = (raw.column(name) for name in ("user", "item", "time"))
    taken = within(user * (raw.n_items + 1) + item, distinct((user * (raw.n_items + 1) + item)[part >= 0]))
    low = (raw.frame["rating"] < threshold).fill_null(False).to_numpy()
    if not low.any():
        raise BadLog(f"natural noise is drawn from ratings below {threshold:g}, and the log has none; use random noise")
    low &= ~taken
    first = raw.frame.filter(pl.Series(low)).select(pl.struct("user", "item").is_first_distinct()).to_series()
    low[np.flatnonzero(low)[~first.to_numpy()]] = False
    end, begin = _bounds(raw, part)
    known = np.bincount(user[part >= 0], minlength=raw.n_users) > 0
    # A candidate's place in the arrays below is its part; -1 where it is none.
    candidate = np.where(time <= end[user], TRAIN, np.where(time < begin[user], VALID, -1))
    candidate[~(low & known[user])] = -1
    rng = np.random.Generator(np.random.PCG64(seed))
    chosen = np.where(part == TEST, TEST, -1)
    offsets = raw.sequences().offsets
    for one in np.flatnonzero(known):
        rows = np.arange(offsets[one], offsets[one + 1])
        for place in (TRAIN, VALID):
            pool = rows[(part[rows] == place) | (candidate[rows] == place)]
            size = int((part[rows] == place).sum())
            chosen[pool if len(pool) <= size else rng.choice(pool, size, replace=False)] = place
    kept = chosen >= 0
    there = np.bincount(item[kept], minlength=raw.n_items + 1)[1:] > 0
    return renumbered(raw.restrict(kept, there).with_parts(chosen[kept]))


def _clean_parts(raw: Interactions, clean: Interactions, threshold: float) -> IntArray:
    """The part of each raw row in the clean split, -1 for one that is not in it: (n,) int64."""
    users = raw.users.find(clean.users.values)[clean.column("user")]
    items = raw.items.find(clean.items.values)[clean.column("item") - 1]
    width = raw.n_items + 1
    key = raw.column("user") * width + raw.column("item")
    high = (raw.frame["rating"] >= threshold).fill_null(False).to_numpy() & within(key, distinct(users * width + items))
    first = pl.Series(key[high]).is_first_distinct().to_numpy()  # the clean split holds the earliest of a pair
    rows = np.flatnonzero(high)[first]
    part = np.full(len(raw), -1)
    part[rows] = clean.column("part")  # both logs have these rows in the same order
    return part


def _bounds(raw: Interactions, part: IntArray) -> tuple[IntArray, IntArray]:
    """For each user the time of the last training row and of the first test row (the end of time without one)."""
    user, time = raw.column("user"), raw.column("time")
    end = np.full(raw.n_users, np.iinfo(np.int64).min)
    begin = np.full(raw.n_users, np.iinfo(np.int64).max)
    np.maximum.at(end, user[part == TRAIN], time[part == TRAIN])
    np.minimum.at(begin, user[part == TEST], time[part == TEST])
    return end, begin
