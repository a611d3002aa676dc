"""The task made of a log of ratings, or of a log of purchases, visits, listens with sampled negatives."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from diffacet.data.clicks.importing.assembly import Logs, assembled
from diffacet.data.clicks.importing.casting import alike
from diffacet.data.clicks.importing.earlier import earlier
from diffacet.data.clicks.importing.fields import plan
from diffacet.data.clicks.importing.folder import Made
from diffacet.data.clicks.importing.generic import read_details
from diffacet.data.clicks.importing.negatives import from_second_on, sampled
from diffacet.data.clicks.importing.sheets import CATEGORY, ITEM, USER, Sheet, find
from diffacet.data.clicks.importing.wanted import Asked, Wanted
from diffacet.data.clicks.schema import BehaviourField
from diffacet.data.formats.times import parse
from diffacet.data.interactions import Interactions
from diffacet.errors import BadLog, BadSetting, nearest

DAY = 86_400_000
WARM = 10
"""Behaviours before a sample that make its user a warm one."""

KEPT = ("all", "positive")


@dataclass(frozen=True)
class Rule:
    """How answers are made; one of the first two is said.

    Attributes:
        threshold: a rating of so much or more is a click.
        negatives: so many unmet items are drawn beside each row of a log without ratings.
        kept: which rows are behaviours, one of KEPT.
        seed: of the draw.
    """

    threshold: float | None = None
    negatives: int | None = None
    kept: str = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.threshold is None) == (self.negatives is None):
            raise BadSetting("pass --from-ratings X for a log with ratings, or --sampled-negatives N for one without")
        if self.negatives is not None and self.negatives < 1:
            raise BadSetting(f"--sampled-negatives is at least 1; got {self.negatives}")
        if self.kept not in KEPT:
            close = nearest(self.kept, KEPT)
            raise BadSetting(f"--behaviours-kept is {' or '.join(KEPT)}; got {self.kept!r}{close}")


def make(
    log: Interactions,
    rule: Rule,
    wanted: Wanted,
    *,
    details: tuple[Sheet | None, Sheet | None] = (None, None),
    files: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Made:
    """The click data set of `log`: every row a sample and, mostly, a behaviour at its own time.

    A sample is described by item, category (the first of the item's), hour and weekday (1 Monday to 7) in the time
    zone, and `gap_bucket`: the bit length of the whole days since the user's behaviour before, which is strictly
    earlier: 0 below a day, 1 below 2, 2 below 4, 3 below 8; null when there was none.

    Args:
        log: a rating log, or any other.
        rule: how answers are made.
        wanted: fields of items and users, time zone, split.
        details: tables of items and of users with further fields.
        files: what was read.
        notes: what the reader said.

    Raises:
        BadLog: times only count each user's rows; ratings are missing, or all on one side of the threshold.
    """
    _check(log, rule)
    rows = pl.DataFrame(
        {
            "user_id": log.users.ids(log.column("user")),
            "item_id": log.items.ids(log.column("item")),
            "timestamp": _milliseconds(log.frame["time"]),
        }
    )
    samples, behaviours, told = _drawn(rows, rule) if rule.threshold is None else _rated(rows, log, rule)
    samples, said = _with_context(samples, behaviours, rows, wanted.timezone)
    category = None if log.categories is not None or details[0] is None else find(details[0], None, CATEGORY)
    fields = [Asked(category, "first", "category")] if category else []
    fields += [one for one in wanted.fields if one.column != category]
    there = {"items": details[0].columns if details[0] else (), "users": details[1].columns if details[1] else ()}
    found = plan(fields, there, itemised=True, outcomes=("label",), taken={})
    own = [] if log.categories is None else [BehaviourField("category", "items.category_id", "items.category_id")]
    found = replace(
        found,
        behaviour_fields=(*own, *found.behaviour_fields),
        context_fields=("hour", "weekday", "gap_bucket", *found.context_fields),
    )
    logs = Logs(
        samples,
        behaviours,
        _items(log, read_details(details[0], wanted.item, ITEM, "item_id", found.read["items"])),
        read_details(details[1], wanted.user, USER, "user_id", found.read["users"]),
        (*files, *(name for sheet in details if sheet for name in sheet.files)),
        notes=(*notes, *told, *said),
    )
    split = wanted.split or {"by": "quantile", "train": 0.8, "valid": 0.1}
    return assembled(logs, found, replace(wanted, split=split, source=_source(wanted.source, rule)))


def _check(log: Interactions, rule: Rule) -> None:
    if log.times == "rank":
        raise BadLog(
            "the times of this log only count each user's rows (0, 1, 2, ...), so the samples of different users have "
            "no common order and no split by time; take a log with real times"
        )
    rated = "rating" in log.frame.columns
    if rule.threshold is not None and not rated:
        raise BadLog("this log has no ratings, so --from-ratings has nothing to compare; pass --sampled-negatives N")
    if rule.threshold is not None:
        ratings = log.frame["rating"]
        if ratings.null_count() or ratings.is_nan().any():
            raise BadLog("some rows of this log have no rating; drop them, or pass --sampled-negatives N")
        lowest, highest = (float(np.quantile(ratings.to_numpy(), q)) for q in (0, 1))
        if not lowest < rule.threshold <= highest:
            raise BadLog(
                f"--from-ratings {rule.threshold:g} gives all samples the same answer, since ratings go from "
                f"{lowest:g} to {highest:g}; choose a threshold in between"
            )


def _milliseconds(times: pl.Series) -> pl.Series:
    """The times of a log, seconds or finer, by their size."""
    found = parse(times, lambda row: f"row {row + 1} of the log", "timestamp")
    return found.at(1000) if found.unit <= 1000 else found.values // (found.unit // 1000)


def _rated(rows: pl.DataFrame, log: Interactions, rule: Rule) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    """Samples and behaviours of a log with ratings, and what is told of them."""
    threshold = rule.threshold or 0.0
    samples = rows.with_columns((log.frame["rating"] >= threshold).cast(pl.Int8).alias("label"))
    kind = pl.when(samples["label"] == 1).then(pl.lit("pos")).otherwise(pl.lit("neg")).alias("behaviour_type")
    behaviours = samples.select("user_id", "item_id", kind, "timestamp")
    told = [f"labels: ratings of {threshold:g} or more are 1; the others are low ratings, not showings without a click"]
    if rule.kept == "positive":
        behaviours = behaviours.filter(samples["label"] == 1).drop("behaviour_type")
        told.append("behaviours: the positive ones alone, so no field 'type'")
    return samples, behaviours, told


def _drawn(rows: pl.DataFrame, rule: Rule) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    """Samples and behaviours of a log without ratings, and what is told of them."""
    positives, wanted = from_second_on(rows), rule.negatives or 1
    if not len(positives):
        raise BadLog("no user of this log has a second row, so no sample would have a history; take a longer log")
    negatives, missing = sampled(rows, positives, wanted, rule.seed)
    taken = rows[positives].select(pl.Series("row", positives, dtype=pl.Int64), "user_id", "item_id", "timestamp")
    both = pl.concat(
        [
            taken.with_columns(pl.lit(1, pl.Int8).alias("label")),
            negatives.with_columns(pl.lit(0, pl.Int8).alias("label")),
        ]
    )
    told = [f"labels: {len(positives):,} rows are 1 (each user's first is history only), sampled negatives are 0"]
    if missing:
        told.append(f"sampled negatives: {missing:,} fewer than asked for, where a user had met all items seen by then")
    return both.sort("row", maintain_order=True).drop("row"), rows.select("user_id", "item_id", "timestamp"), told


def _with_context(
    samples: pl.DataFrame, behaviours: pl.DataFrame, rows: pl.DataFrame, timezone: str
) -> tuple[pl.DataFrame, tuple[str, str]]:
    """The samples with hour, weekday and gap_bucket; and what is told of neighbours and of warm users."""
    count, last = earlier(behaviours, samples)
    days = (samples["timestamp"].to_numpy() - last) // DAY
    bucket = pl.Series("gap_bucket", np.frexp(days.astype(np.float64))[1], dtype=pl.Int8)  # the bit length
    local = pl.from_epoch("timestamp", time_unit="ms").dt.replace_time_zone("UTC").dt.convert_time_zone(timezone)
    samples = samples.with_columns(
        local.dt.hour().alias("hour"),
        local.dt.weekday().alias("weekday"),
        pl.select(pl.when(pl.Series(count > 0)).then(bucket)).to_series().alias("gap_bucket"),
    )
    at_once = rows.group_by("user_id", "timestamp").len()
    beside = samples.select("user_id", "timestamp").join(at_once, on=["user_id", "timestamp"], how="left")
    others = float(np.mean(beside["len"].fill_null(0).to_numpy() > 1))
    return samples, (
        f"neighbours: {others:.1%} of the samples share their moment with another row of their user, which they do not "
        "see",
        f"warm users: {np.mean(count >= WARM):.1%} of the samples have {WARM} earlier behaviours or more",
    )


def _items(log: Interactions, details: pl.DataFrame | None) -> pl.DataFrame | None:
    """What the log and a table of items tell of the items that occur; None where they tell nothing."""
    known = {"item_id": log.items.values}
    if log.titles is not None:
        known["title"] = log.titles
    if log.categories is not None:
        known["category_id"] = log.categories.list.first()
    frame = pl.DataFrame(known)
    if details is None:
        return frame if frame.width > 1 else None
    left, right = alike(frame["item_id"], details["item_id"])
    there = frame.with_columns(left.alias("item_id")).drop(set(details.columns) - {"item_id"}, strict=False)
    described = details.with_columns(right.alias("item_id")).unique("item_id", keep="first", maintain_order=True)
    return there.join(described, on="item_id", how="left", maintain_order="left")


def _source(given: str, rule: Rule) -> str:
    """The source, and what its negatives are."""
    if rule.threshold is not None:
        said = f"ratings of {rule.threshold:g} or more are clicks; negatives are low ratings"
    else:
        said = f"{rule.negatives} sampled negatives beside each row (seed {rule.seed})"
    return f"{given}; {said}" if given else said
