"""From tables that were read to a click data set: ids and values of one type, repeats, checks, the schema."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from diffacet.data.clicks import splitting
from diffacet.data.clicks.importing import casting
from diffacet.data.clicks.importing.earlier import earlier
from diffacet.data.clicks.importing.fields import Plan
from diffacet.data.clicks.importing.folder import Counts, Made
from diffacet.data.clicks.importing.wanted import Wanted
from diffacet.data.clicks.reading import from_frames
from diffacet.data.clicks.schema import BehaviourField, Schema
from diffacet.errors import BadLog

_SHORT_DAYS = 5
_SHARE = 0.02


@dataclass(frozen=True, eq=False)
class Logs:
    """Tables that were read and cast, each for itself.

    Attributes:
        samples: user_id, item_id, timestamp, label, further columns.
        behaviours: user_id, timestamp, maybe item_id, maybe behaviour_type, further columns.
        items: item_id, further columns; or None.
        users: user_id, further columns; or None.
        files: what was read.
        group: column of the samples that GAUC groups by; None: the user.
        counts: what was dropped or merged so far.
        notes: what was decided so far.
    """

    samples: pl.DataFrame
    behaviours: pl.DataFrame
    items: pl.DataFrame | None
    users: pl.DataFrame | None
    files: tuple[str, ...]
    group: str | None = None
    counts: Counts = ()
    notes: tuple[str, ...] = ()


def assembled(logs: Logs, plan: Plan, wanted: Wanted) -> Made:
    """The data set of `logs`; item, user and, where the behaviours have one, type are added to the fields of `plan`.

    Raises:
        BadLog: no behaviour comes before the last sample, a part of the split would be empty, or the fields contradict
            each other.
    """
    logs = _distinct(_one_type(logs, plan))
    _check_times(logs)
    itemised = "item_id" in logs.behaviours.columns
    kinds = logs.behaviours["behaviour_type"].n_unique() if "behaviour_type" in logs.behaviours.columns else 0
    typed = kinds > (0 if wanted.behaviour_type else 1)  # one kind alone says nothing, unless it is asked for
    if not (itemised or typed or plan.behaviour_fields):
        raise BadLog(
            "the behaviours have neither an item nor a field, so nothing is known of them; "
            "pass --item COL or --field COL"
        )
    item, kind = BehaviourField("item", "item_id", "item_id"), BehaviourField("type", "behaviour_type", None)
    rule, told = (wanted.split, ()) if wanted.split else default_split(logs.samples, wanted.timezone)
    splitting.split(logs.samples["timestamp"].to_numpy(), rule, wanted.timezone)  # refuses a part without samples
    schema = Schema(
        name=wanted.name,
        source=wanted.source,
        licence=wanted.licence,
        timezone=wanted.timezone,
        behaviour_times="order" if wanted.order_only else "real",
        group=logs.group or "user_id",
        behaviour_fields=(*([item] * itemised), *plan.behaviour_fields, *([kind] * typed)),
        target_fields=(*(() if itemised else ("item_id",)), *plan.target_fields),
        user_fields=("user_id", *plan.user_fields),
        context_fields=plan.context_fields,
        dense_fields=plan.dense_fields,
        outcome_columns=wanted.outcomes,
        split=splitting.checked(rule, "--split"),
    )
    checked = from_frames(schema, logs.samples, logs.behaviours, logs.items, logs.users)
    notes = (*logs.notes, *checked.notes, *_overlaps(logs, schema), _seen(logs), *told)
    return Made(schema, logs.samples, logs.behaviours, logs.items, logs.users, logs.counts, notes, logs.files)


def _one_type(logs: Logs, plan: Plan) -> Logs:
    """The same, every id and every field of one type wherever it occurs."""
    frames = {"samples": logs.samples, "behaviours": logs.behaviours}
    frames |= {name: frame for name, frame in (("items", logs.items), ("users", logs.users)) if frame is not None}
    together = [[(name, key) for name in frames] for key in ("user_id", "item_id")]
    together += [
        [_place(field.behaviour, "behaviours"), _place(field.target or field.behaviour, "samples")]
        for field in plan.behaviour_fields
    ]
    joint = {place for places in together for place in places}
    for name, frame in frames.items():
        free = (column for column in frame.columns if frame.schema[column] == pl.String)
        together += [[(name, column)] for column in free if (name, column) not in joint]
    for places in together:
        there = [
            place for place in dict.fromkeys(places) if place[0] in frames and place[1] in frames[place[0]].columns
        ]
        for (name, _), column in zip(there, casting.alike(*(frames[n][c] for n, c in there)), strict=True):
            frames[name] = frames[name].with_columns(column)
    return replace(
        logs,
        samples=frames["samples"],
        behaviours=frames["behaviours"],
        items=frames.get("items"),
        users=frames.get("users"),
    )


def _place(column: str, own: str) -> tuple[str, str]:
    """The file and the name in it that a column of the schema stands for."""
    file, dot, name = column.partition(".")
    return (file, name) if dot and file in ("items", "users") else (own, column)


def _distinct(logs: Logs) -> Logs:
    """The same without samples that repeat an earlier one in all columns, and without repeated items and users."""
    samples = logs.samples.unique(maintain_order=True)
    counts = [("samples that repeat another one whole, dropped", logs.samples.height - samples.height)]
    keys = samples.select("user_id", "item_id", "timestamp", "label")
    both = keys.unique().height - keys.select("user_id", "item_id", "timestamp").n_unique()
    counts.append(("pairs of user, item and time with both answers, kept", both))
    items, users = (
        None if frame is None else frame.unique(key, keep="first", maintain_order=True)
        for frame, key in ((logs.items, "item_id"), (logs.users, "user_id"))
    )
    for name, frame, first in (("items", logs.items, items), ("users", logs.users, users)):
        if frame is not None and first is not None:
            counts.append((f"{name} that occur again, the first kept", frame.height - first.height))
    nothing = logs.behaviours["item_id"].null_count() if "item_id" in logs.behaviours.columns else 0
    counts.append(("behaviours without an item, kept", nothing))
    told = tuple((what, count) for what, count in counts if count)
    return replace(logs, samples=samples, items=items, users=users, counts=(*logs.counts, *told))


def _check_times(logs: Logs) -> None:
    first, last = logs.behaviours["timestamp"].min(), logs.samples["timestamp"].max()
    if first >= last:  # type: ignore[operator]
        raise BadLog(
            f"every behaviour comes after every sample: the first behaviour is at {splitting.instant(first, 'UTC')}, "  # type: ignore[arg-type]
            f"the last sample at {splitting.instant(last, 'UTC')} (UTC), so no sample would have a history; "  # type: ignore[arg-type]
            "pass the behaviours of the time before, or --time-unit if seconds and milliseconds were mistaken"
        )


def _overlaps(logs: Logs, schema: Schema) -> list[str]:
    """A warning for each shared field of which no value of the behaviours occurs on the samples' side."""
    frames = {"samples": logs.samples, "behaviours": logs.behaviours, "items": logs.items, "users": logs.users}
    told = []
    for field in schema.behaviour_fields:
        if field.target is None or "." in field.behaviour:
            continue
        sides = [_place(field.behaviour, "behaviours"), _place(field.target, "samples")]
        left, right = (frames[file][name] for file, name in sides)  # type: ignore[index]
        if left.unique().drop_nulls().is_in(right.unique().drop_nulls().implode()).sum() == 0:
            told.append(
                f"warning: no value of field {field.name!r} among the behaviours ({_some(left)}) occurs among the "
                f"samples ({_some(right)}); are these ids of one kind?"
            )
    return told


def _some(column: pl.Series) -> str:
    return ", ".join(str(value) for value in column.drop_nulls().head(2)) or "all empty"


def _seen(logs: Logs) -> str:
    count, _ = earlier(logs.behaviours, logs.samples)
    return (
        f"histories: {np.mean(count > 0):.1%} of the samples have an earlier behaviour, median {np.median(count):.0f}, "
        f"longest {count.max():,}"
    )


def default_split(samples: pl.DataFrame, timezone: str) -> tuple[splitting.Rule, Sequence[str]]:
    """The rule for a log that names none, and what is told of it.

    The last day tests and the day before validates, where the samples lie on 5 days or more and each of the two has
    2 % of them with both answers; else 80 % of the samples train and 10 % validate, in order of time.
    """
    day = (
        pl.from_epoch("timestamp", time_unit="ms").dt.replace_time_zone("UTC").dt.convert_time_zone(timezone).dt.date()
    )
    days = samples.group_by(day.alias("day")).agg(pl.len(), pl.col("label").n_unique().alias("answers")).sort("day")
    last, before = days["day"][-1], days["day"][-min(days.height, 2)]
    ends = days.tail(2)
    enough = bool((ends["len"] >= _SHARE * samples.height).all() and (ends["answers"] == 2).all())
    if days.height >= _SHORT_DAYS and (last - before).days == 1 and enough:
        return {"by": "day", "test_days": 1, "valid_days": 1}, [f"split: {last} tests, {before} validates ({timezone})"]
    return {"by": "quantile", "train": 0.8, "valid": 0.1}, ["split: by time, 80 % train, 10 % validate, 10 % test"]
