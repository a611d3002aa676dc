"""Packing: the frames of a click data set as a ClickLog, numbered by what training samples have."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diffacet.data import hashing
from diffacet.data.clicks import dense, windows
from diffacet.data.clicks.columns import Joined
from diffacet.data.clicks.dense import Statistics
from diffacet.data.clicks.log import TARGET, UNKNOWN, ClickLog, Int32Array
from diffacet.data.clicks.reading import BEHAVIOURS, ITEMS, SAMPLES, USERS, Raw
from diffacet.data.clicks.schema import KNOWN_ITEMS, KNOWN_USERS, Schema, source_of
from diffacet.data.clicks.vocabulary import Vocabulary, places, union
from diffacet.data.sequences import IntArray
from diffacet.errors import BadSetting

Order: TypeAlias = IntArray | slice


def learn(raw: Raw, until: int, *, min_count: int = 1) -> tuple[dict[str, Vocabulary], tuple[Statistics, ...]]:
    """The vocabularies and statistics of what happened before `until`: of training, if that is its end.

    A field that behaviours and targets share has one vocabulary, over both. The users and items of training samples
    are there, too (schema.KNOWN_USERS, KNOWN_ITEMS), whatever `min_count` says.

    Args:
        raw: the data.
        until: milliseconds; samples and behaviours from then on count for nothing. Inline behaviours count with their
            samples.
        min_count: values that occur less often are unknown.

    Raises:
        BadSetting: `min_count` is below 1.
        BadLog: a column has no categories.
    """
    if min_count < 1:
        raise BadSetting(f"min_count is at least 1; got {min_count}")
    samples, behaviours = joined(raw)
    train = raw.samples["timestamp"].to_numpy() < until
    if raw.pointers is None:
        before = raw.behaviours["timestamp"].to_numpy() < until
    else:
        before = np.repeat(train, np.diff(raw.pointers))
    found = {}
    for field in raw.schema.behaviour_fields:
        counts = [behaviours.column(field.behaviour).counts(before)]
        if field.target is not None:
            counts.append(samples.column(field.target).counts(train))
        found[field.name] = Vocabulary.of(counts, min_count)
    for name in raw.schema.other_names:
        found[name] = Vocabulary.of([samples.column(name).counts(train)], min_count)
    for name, column in ((KNOWN_USERS, "user_id"), (KNOWN_ITEMS, "item_id")):
        found[name] = Vocabulary.of([samples.column(column).counts(train)])
    return found, dense.measure(samples, raw.schema.dense_fields, train)


def joined(raw: Raw) -> tuple[Joined, Joined]:
    """The samples and the behaviours of `raw`, with what can be joined to them."""
    tables = {"items": raw.where(ITEMS), "users": raw.where(USERS)}
    own = SAMPLES if raw.pointers is not None else BEHAVIOURS
    return (
        Joined(raw.samples, raw.items, raw.users, {"frame": raw.where(SAMPLES), **tables}),
        Joined(raw.behaviours, raw.items, raw.users, {"frame": raw.where(own), **tables}),
    )


def encode(
    raw: Raw,
    vocabularies: Mapping[str, Vocabulary],
    statistics: Sequence[Statistics],
    *,
    gap: int = 0,
    freeze: tuple[int, ...] = (),
    block: int = windows.BLOCK,
) -> ClickLog:
    """`raw` as arrays, numbered by `vocabularies` and scaled by `statistics`, which `learn` or a run has.

    What a vocabulary lacks has number 1. Behaviours of one user at one time keep the order of their file; nothing else
    depends on the order of rows in behaviours, items and users.

    Args:
        raw: the data.
        vocabularies: of all fields of the schema, and the known users and items.
        statistics: of all dense columns.
        gap: milliseconds before a showing in which behaviours are not visible yet.
        freeze: ascending moments; histories end at the last of them that is not after the sample, if there is one.
        block: behaviours that are cut at once; a matter of memory, not of the answer.

    Raises:
        BadSetting: `gap` is negative; or gap or freeze with inline histories, which end where their rows say; or a
            vocabulary is missing.
        BadLog: a column has no categories.
    """
    _check(raw, vocabularies, statistics, gap, freeze)
    schema, (samples, behaviours) = raw.schema, joined(raw)
    user_ids, item_ids = (samples.column(name).values for name in ("user_id", "item_id"))
    owners = [] if raw.pointers is not None else [behaviours.column("user_id").values]
    users, items = union([user_ids, *owners]), union([item_ids])
    user, time = places(user_ids, users), raw.samples["timestamp"].to_numpy()
    hashes = hashing.ids(users)[user], hashing.ids(items)[places(item_ids, items)]
    target = np.full((len(schema.names), len(time)), TARGET, np.int32)
    for f, field in enumerate(schema.behaviour_fields):
        if field.target is not None:
            target[f] = samples.column(field.target).numbers(vocabularies[field.name])
    other = np.empty((len(schema.other_names), len(time)), np.int32)
    for g, name in enumerate(schema.other_names):
        other[g] = samples.column(name).numbers(vocabularies[name])
    if raw.pointers is None:
        histories = _by_user(raw, behaviours, vocabularies, users)
        histories["begin"] = histories["pointers"][user]
        moment = _frozen(time, freeze, time - gap)
        histories["end"] = windows.ends(histories["pointers"], histories["behaviour_time"], user, moment, block)
    else:
        histories = _inline(raw, behaviours, vocabularies)
    return ClickLog(
        schema=schema,
        names=schema.names,
        other_names=schema.other_names,
        vocabularies=vocabularies,
        **histories,
        user=user,
        time=time,
        label=raw.samples["label"].to_numpy(),
        group=user if schema.group is None else _groups(samples.column(schema.group).values),
        case=hashing.cases(*hashes, time),
        target=target,
        other=other,
        numeric=dense.numbers(samples, statistics),
        known_user=vocabularies[KNOWN_USERS].numbers(user_ids) > UNKNOWN,
        known_item=vocabularies[KNOWN_ITEMS].numbers(item_ids) > UNKNOWN,
    )


def _check(
    raw: Raw,
    vocabularies: Mapping[str, Vocabulary],
    statistics: Sequence[Statistics],
    gap: int,
    freeze: tuple[int, ...],
) -> None:
    """Raise BadSetting for what `encode` cannot do."""
    schema = raw.schema
    if gap < 0:
        raise BadSetting(f"gap is at least 0 milliseconds; got {gap}")
    if raw.pointers is not None and (gap or freeze):
        raise BadSetting(
            f"the rows of {schema.name} bring their histories along, so gap and history_until cannot move their ends; "
            "leave both as they are"
        )
    for name in (*schema.names, *schema.other_names, KNOWN_USERS, KNOWN_ITEMS):
        if name not in vocabularies:
            raise BadSetting(f"no vocabulary of {name!r} is given; there are {', '.join(vocabularies) or 'none'}")
    scaled = tuple(one.name for one in statistics)
    if scaled != schema.dense_fields:
        raise BadSetting(f"dense_fields are {list(schema.dense_fields)}, and statistics of {list(scaled)} are given")


def _numbered(schema: Schema, behaviours: Joined, vocabularies: Mapping[str, Vocabulary], order: Order) -> Int32Array:
    """(F, N) int32, the fields of the behaviours in `order`."""
    found = np.empty((len(schema.names), behaviours.frame.height), np.int32)
    for f, field in enumerate(schema.behaviour_fields):
        found[f] = behaviours.column(field.behaviour).numbers(vocabularies[field.name])[order]
    return found


def _by_user(
    raw: Raw, behaviours: Joined, vocabularies: Mapping[str, Vocabulary], users: pl.Series
) -> dict[str, NDArray[Any]]:
    """The behaviours by user, time and row of the file: values, times and pointers."""
    owner = places(behaviours.column("user_id").values, users)
    times = raw.behaviours["timestamp"].to_numpy()
    found = windows.order(owner, times, len(users))
    order: Order = slice(None) if found is None else found
    return {
        "behaviours": _numbered(raw.schema, behaviours, vocabularies, order),
        "behaviour_time": times[order],
        "pointers": np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(users)))]).astype(np.int64),
    }


def _inline(raw: Raw, behaviours: Joined, vocabularies: Mapping[str, Vocabulary]) -> dict[str, NDArray[Any]]:
    """The behaviours as the rows bring them, and where each row's begin and end."""
    assert raw.pointers is not None, "inline"
    n = raw.behaviours.height
    return {
        "behaviours": _numbered(raw.schema, behaviours, vocabularies, slice(None)),
        "behaviour_time": raw.behaviours["timestamp"].to_numpy() if raw.schema.timed else np.zeros(n, np.int64),
        "begin": raw.pointers[:-1],
        "end": raw.pointers[1:],
    }


def _frozen(time: IntArray, freeze: tuple[int, ...], moment: IntArray) -> IntArray:
    """`moment` (S,), or the last of `freeze` that is not after `time` (S,) where that is earlier."""
    if not freeze:
        return moment
    last = np.searchsorted(np.array(freeze), time, side="right") - 1
    return np.where(last < 0, moment, np.minimum(moment, np.array(freeze)[last]))


def _groups(values: pl.Series) -> IntArray:
    """(S,) int64 numbers of the groups, from 0, by value."""
    return places(values, union([values]))


def counts(raw: Raw) -> dict[str, int]:
    """How many users there are, with samples or behaviours, and how many items samples show."""
    samples, behaviours = joined(raw)
    owners = [
        one.column("user_id").values for one in ((samples,) if raw.pointers is not None else (samples, behaviours))
    ]
    return {"users": len(union(owners)), "items": samples.column("item_id").values.n_unique()}


def unjoined(raw: Raw) -> tuple[str, ...]:
    """A note for items.parquet and for users.parquet, if the schema joins it and it lacks what some samples name."""
    samples, _ = joined(raw)
    notes = []
    for table, file in (("items", ITEMS), ("users", USERS)):
        column = next((name for name in raw.schema.sample_columns if source_of(name)[0] == table), None)
        rows = samples.raw(column).rows if column is not None else None
        if rows is not None and (rows < 0).any():
            notes.append(
                f"{file} lacks the {table} of {(rows < 0).mean():.1%} of the samples, whose fields are unknown"
            )
    return tuple(notes)
