"""Samples, behaviours, items and users in tables of any form: columns found, read, cast, put together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from diffacet.data.clicks.importing import casting, sheets
from diffacet.data.clicks.importing.assembly import Logs, assembled
from diffacet.data.clicks.importing.fields import Plan, plan
from diffacet.data.clicks.importing.folder import Made
from diffacet.data.clicks.importing.sheets import Rows, Sheet
from diffacet.data.clicks.importing.wanted import Asked, Kind, Wanted
from diffacet.errors import BadLog, nearest

_CAST = {"categorical": casting.categories, "numeric": casting.numbers, "first": casting.first}


@dataclass(frozen=True)
class SampleRoles:
    """The columns of the samples that have a role; group None: the user."""

    user: str
    item: str
    time: str
    label: str
    group: str | None


@dataclass(frozen=True)
class BehaviourRoles:
    """The columns of the behaviours that have a role; item and type may lack."""

    user: str
    time: str
    item: str | None
    type: str | None


def read(
    samples: Sequence[Path],
    behaviours: Sequence[Path],
    wanted: Wanted,
    *,
    items: Path | None = None,
    users: Path | None = None,
) -> Made:
    """The click data set in these files.

    Args:
        samples: a table of showings: user, item, time, label.
        behaviours: a table of what users did: user, time, and item or other fields.
        wanted: which columns are what.
        items: a table of item ids and what is known of them.
        users: the same of users.

    Raises:
        BadLog: a file, a column or a value cannot be used, with file, row and value; no behaviour comes before the
            last sample.
    """
    shown, done = sheets.open_sheet("--samples", samples), sheets.open_sheet("--behaviours", behaviours)
    details = open_details(items, users)
    one, two = sample_roles(shown, wanted), behaviour_roles(done, wanted)
    there = {
        "samples": free(shown.columns, one.user, one.item, one.time),
        "behaviours": free(done.columns, two.user, two.item, two.time),
    }
    check_outcomes(wanted, shown, done)
    found = planned(wanted, there, details, (one.user, one.item, two.type), (one.time, two.time), one.label, two.item)
    logs = Logs(
        samples=read_samples(shown, one, found, wanted),
        behaviours=read_behaviours(done, two, found, wanted),
        items=read_details(details[0], wanted.item, sheets.ITEM, "item_id", found.read["items"]),
        users=read_details(details[1], wanted.user, sheets.USER, "user_id", found.read["users"]),
        files=tuple(name for sheet in (shown, done, *details) if sheet for name in sheet.files),
        group=one.group,
        notes=_notes(one, two),
    )
    return assembled(logs, found, wanted)


def open_details(items: Path | None, users: Path | None) -> tuple[Sheet | None, Sheet | None]:
    """The tables of items and of users, where there are some."""
    return (
        None if items is None else sheets.open_sheet("--items", [items]),
        None if users is None else sheets.open_sheet("--users", [users]),
    )


def sample_roles(sheet: Sheet, wanted: Wanted, label: str = "--label") -> SampleRoles:
    """Which columns of the samples are what; raises BadLog where one is not found. `label`: the option for answers."""
    if wanted.group is None:
        group = sheets.find(sheet, None, sheets.GROUP)
    else:
        group = sheets.need(sheet, wanted.group, (), "--group")
    user, item = (
        sheets.need(sheet, wanted.user, sheets.USER, "--user"),
        sheets.need(sheet, wanted.item, sheets.ITEM, "--item"),
    )
    group = {user: "user_id", item: "item_id"}.get(group or "", group)
    return SampleRoles(
        user,
        item,
        sheets.need(sheet, wanted.time, sheets.TIME, "--time"),
        sheets.need(sheet, wanted.label, sheets.LABEL, label),
        group,
    )


def behaviour_roles(sheet: Sheet, wanted: Wanted) -> BehaviourRoles:
    """Which columns of the behaviours are what; raises BadLog where user or time is not found."""
    if wanted.behaviour_type is None:
        kind = sheets.find(sheet, None, sheets.TYPE)
    else:
        kind = sheets.need(sheet, wanted.behaviour_type, (), "--behaviour-type")
    return BehaviourRoles(
        sheets.need(sheet, wanted.user, sheets.USER, "--user", own=False),
        sheets.need(sheet, wanted.time, sheets.TIME, "--time", own=False),
        sheets.find(sheet, wanted.item, sheets.ITEM),
        kind,
    )


def _notes(one: SampleRoles, two: BehaviourRoles) -> tuple[str, ...]:
    """Which columns were taken for what."""
    shown = f"samples: user {one.user!r}, item {one.item!r}, time {one.time!r}, label {one.label!r}"
    done = f"behaviours: user {two.user!r}, time {two.time!r}"
    done += f", item {two.item!r}" if two.item else ", no item"
    done += f", type {two.type!r}" if two.type else ""
    return f"{shown}, group {one.group or 'user_id'!r}", done


def check_outcomes(wanted: Wanted, *logs: Sheet) -> None:
    """Refuse an outcome that no log has. Raises BadLog."""
    every = [name for sheet in logs for name in sheet.columns]
    for name in wanted.outcomes:
        if name not in every:
            raise BadLog(f"--outcome {name}{nearest(name, every)}: neither samples nor behaviours have this column")


def planned(
    wanted: Wanted,
    there: Mapping[str, Sequence[str]],
    details: tuple[Sheet | None, Sheet | None],
    default: Sequence[str | None],
    times: Sequence[str | None],
    label: str,
    item: str | None,
) -> Plan:
    """What every column serves as: the category of items, and what was asked for.

    Args:
        wanted: the fields that were asked for.
        there: the columns of samples and behaviours that may be fields.
        details: the tables of items and users.
        default: columns that are fields anyway; asking for them again changes nothing.
        times: columns that hold times.
        label: the column of the answers.
        item: the behaviours' item column; None: they have none.
    """
    category = sheets.find(details[0], None, sheets.CATEGORY) if details[0] else None
    fields = [Asked(category, "first", "category")] if category else []
    fields += [one for one in dict.fromkeys(wanted.fields) if one.column not in (*default, category) or _number(one)]
    files = dict(there)
    for name, sheet in zip(("items", "users"), details, strict=True):
        files[name] = sheet.columns if sheet else ()
    outcomes, taken = (*wanted.outcomes, label), {name: "the time" for name in times if name}
    return plan(fields, files, itemised=item is not None, outcomes=outcomes, taken=taken)


def _number(one: Asked) -> bool:
    return one.kind == "numeric"


def free(columns: Sequence[str], *roles: str | None) -> tuple[str, ...]:
    """The columns that have none of the roles."""
    return tuple(name for name in columns if name not in roles)


def read_samples(sheet: Sheet, roles: SampleRoles, found: Plan, wanted: Wanted, label: str = "--label") -> pl.DataFrame:
    """user_id, item_id, timestamp, label, and the columns that fields, group and outcomes need."""
    kept = {name: kind for name, kind in found.read["samples"].items() if name != roles.group}
    further = [name for name in wanted.outcomes if name in sheet.columns and name != roles.label]
    group = [roles.group] if roles.group and roles.group not in ("user_id", "item_id") else []
    rows = sheet.read([roles.user, roles.item, roles.time, roles.label, *kept, *further, *group])
    remedy = f"pass {label} COL if it is another column; of ratings --from-ratings X makes labels"
    return pl.DataFrame(
        [
            casting.ids(rows.frame[roles.user], rows.where).alias("user_id"),
            casting.ids(rows.frame[roles.item], rows.where).alias("item_id"),
            casting.milliseconds(rows.frame[roles.time], rows.where, wanted.time_unit),
            casting.answers(rows.frame[roles.label], rows.where, remedy).alias("label"),
            *cast(rows, {**dict.fromkeys(further, "categorical"), **kept}),
            *(casting.ids(rows.frame[name], rows.where).alias(name) for name in group),
        ]
    )


def read_behaviours(sheet: Sheet, roles: BehaviourRoles, found: Plan, wanted: Wanted) -> pl.DataFrame:
    """user_id, maybe item_id, maybe behaviour_type, timestamp, and the columns that fields need."""
    kept = found.read["behaviours"]
    named = {"item_id": roles.item, "behaviour_type": roles.type}
    rows = sheet.read([roles.user, roles.time, *(name for name in named.values() if name), *kept])
    return pl.DataFrame(
        [
            casting.ids(rows.frame[roles.user], rows.where).alias("user_id"),
            *(casting.categories(rows.frame[own], rows.where).alias(name) for name, own in named.items() if own),
            casting.milliseconds(rows.frame[roles.time], rows.where, wanted.time_unit),
            *cast(rows, kept),
        ]
    )


def read_details(
    sheet: Sheet | None, given: str | None, known: Sequence[str], name: str, kept: Mapping[str, Kind]
) -> pl.DataFrame | None:
    """The ids of a table of items or users, as column `name`, and the columns that fields need; None without one."""
    if sheet is None:
        return None
    key = sheets.need(sheet, given, known, "--item" if name == "item_id" else "--user", own=False)
    rows = sheet.read([key, *kept])
    return pl.DataFrame([casting.ids(rows.frame[key], rows.where).alias(name), *cast(rows, kept)])


def cast(rows: Rows, kept: Mapping[str, Kind]) -> list[pl.Series]:
    """The columns `kept` as what they hold."""
    return [_CAST[kind](rows.frame[name], rows.where).alias(name) for name, kind in kept.items()]
