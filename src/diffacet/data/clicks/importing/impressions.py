"""A log of showings in one table: rows that say what was shown to whom, when, and whether it was clicked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from diffacet.data.clicks.importing import casting, sheets
from diffacet.data.clicks.importing.assembly import Logs, assembled
from diffacet.data.clicks.importing.fields import Plan
from diffacet.data.clicks.importing.folder import Made
from diffacet.data.clicks.importing.generic import (
    BehaviourRoles,
    SampleRoles,
    behaviour_roles,
    check_outcomes,
    free,
    open_details,
    planned,
    read_behaviours,
    read_details,
    read_samples,
    sample_roles,
)
from diffacet.data.clicks.importing.sheets import Sheet
from diffacet.data.clicks.importing.wanted import Asked, Wanted
from diffacet.errors import BadLog

REPEAT = 1000
"""Milliseconds within which a second showing of an item in a request is the first one, logged again."""

CLICK, EXPOSED = "click", "exposed"


@dataclass(frozen=True)
class Columns:
    """Further columns of the showings; None: there is none.

    Attributes:
        clicked_at: when the click came; without it, or where it is empty, a click has the time of its showing.
        request: the page or request that showings belong to; what GAUC groups by.
        position: the place in the list, a field of the sample.
    """

    clicked_at: str | None = None
    request: str | None = None
    position: str | None = None


def read(
    impressions: Sequence[Path],
    wanted: Wanted,
    columns: Columns,
    *,
    exposures: bool = False,
    behaviours: Sequence[Path] = (),
    items: Path | None = None,
    users: Path | None = None,
) -> Made:
    """The click data set of a table of showings: each row a sample, each clicked row also a behaviour.

    An item that is shown again in the same request (without requests: to the same user) no more than a second after
    the showing before is one sample: the first row, clicked if any of them was.

    Args:
        impressions: the table: user, item, time, label.
        wanted: which columns are what; a field of this table describes samples and behaviours.
        columns: further columns.
        exposures: showings without a click are behaviours, too, of type "exposed".
        behaviours: another table of what users did, such as purchases; its rows have the type of its type column, or
            the name of its file.
        items: a table of item ids and what is known of them.
        users: the same of users.

    Raises:
        BadLog: as `generic.read`; or nothing was clicked.
    """
    shown, details = sheets.open_sheet("--impressions", impressions), open_details(items, users)
    more = sheets.open_sheet("--behaviours", behaviours) if behaviours else None
    wanted = replace(wanted, group=wanted.group or columns.request)
    roles = sample_roles(shown, wanted, "--clicked")
    others = None if more is None else behaviour_roles(more, wanted)
    at = None if columns.clicked_at is None else sheets.need(shown, columns.clicked_at, (), "--clicked-at")
    place = [] if columns.position is None else [sheets.need(shown, columns.position, (), "--position")]
    check_outcomes(wanted, *(sheet for sheet in (shown, more) if sheet))
    own = free(shown.columns, roles.user, roles.item, roles.time, at)
    theirs = free(more.columns, others.user, others.item, others.time) if more and others else ()
    # The place in a list is nothing that describes a past click: it is looked for among the samples alone.
    there = {"samples": own, "behaviours": tuple(dict.fromkeys((*free(own, *place), *theirs)))}
    wanted = replace(wanted, fields=(*wanted.fields, *(Asked(name) for name in place)))
    default = (roles.user, roles.item, others.type if others else None)
    found = planned(wanted, there, details, default, (roles.time, at), roles.label, roles.item)
    rows = read_samples(shown, roles, found, wanted, "--clicked").with_columns(_click_times(shown, at, wanted))
    samples, repeats = _merged(rows, roles.group or "user_id")
    if not (samples["label"] == 1).any():
        raise BadLog(f"{shown.path}: no row is clicked, so there are no behaviours; pass --clicked COL")
    done = _behaviours(samples, [name for name in found.read["behaviours"] if name in samples.columns], exposures)
    if more is not None and others is not None:
        done = pl.concat([done, _further(more, others, found, wanted)], how="diagonal_relaxed")
    elif not exposures:
        done = done.drop("behaviour_type")
    logs = Logs(
        samples.drop("click_time"),
        done,
        read_details(details[0], wanted.item, sheets.ITEM, "item_id", found.read["items"]),
        read_details(details[1], wanted.user, sheets.USER, "user_id", found.read["users"]),
        tuple(name for sheet in (shown, more, *details) if sheet for name in sheet.files),
        roles.group,
        (("repeated showings within a second, merged", repeats),) if repeats else (),
        _notes(roles, samples, place),
    )
    return assembled(logs, found, wanted)


def _click_times(shown: Sheet, at: str | None, wanted: Wanted) -> pl.Series | pl.Expr:
    """Int64 milliseconds of the clicks as `clicked_at`, null where the table says none."""
    if at is None:
        return pl.lit(None, pl.Int64).alias("clicked_at")
    rows = shown.read([at])
    column = rows.frame[at]
    there = column.is_not_null() & (column != "" if column.dtype == pl.String else True)
    places = there.arg_true()
    found = pl.Series("clicked_at", [None], dtype=pl.Int64).new_from_index(0, len(column))
    if not len(places):
        return found
    times = casting.milliseconds(column.filter(there), lambda index: rows.where(int(places[index])), wanted.time_unit)
    return found.scatter(places, times)


def _merged(rows: pl.DataFrame, request: str) -> tuple[pl.DataFrame, int]:
    """One row for showings that repeat each other, the first, in the order of the table; and how many are gone.

    `click_time` is that of the first click among them, null without one.
    """
    key = list(dict.fromkeys(("user_id", request, "item_id")))
    clicked = pl.when(pl.col("label") == 1).then(pl.coalesce("clicked_at", "timestamp"))
    ordered = rows.with_columns(clicked.alias("click_time")).with_row_index("row").sort(*key, "timestamp", "row")
    new = pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift()) for name in key)
    apart = (pl.col("timestamp") - pl.col("timestamp").shift()) > REPEAT
    ordered = ordered.with_columns((new | apart).fill_null(True).cum_sum().alias("showing"))
    rest = [name for name in rows.columns if name not in ("label", "clicked_at")]
    merged = ordered.group_by("showing", maintain_order=True).agg(
        pl.col("row").first(),
        *(pl.col(name).first() for name in rest),
        pl.col("label").max(),
        pl.col("click_time").min(),
    )
    merged = merged.sort("row").select(*rest[:3], "label", *rest[3:], "click_time")
    return merged, rows.height - merged.height


def _behaviours(samples: pl.DataFrame, kept: Sequence[str], exposures: bool) -> pl.DataFrame:
    """The clicks at their times; with `exposures` also what was shown and not clicked."""
    shown = samples if exposures else samples.filter(pl.col("label") == 1)
    return shown.select(
        "user_id",
        "item_id",
        pl.when(pl.col("label") == 1).then(pl.lit(CLICK)).otherwise(pl.lit(EXPOSED)).alias("behaviour_type"),
        pl.coalesce("click_time", "timestamp").alias("timestamp"),
        *kept,
    )


def _further(sheet: Sheet, roles: BehaviourRoles, found: Plan, wanted: Wanted) -> pl.DataFrame:
    """The behaviours of another table, with a type."""
    kept = {name: kind for name, kind in found.read["behaviours"].items() if name in sheet.columns}
    frame = read_behaviours(sheet, roles, replace(found, read={**found.read, "behaviours": kept}), wanted)
    if roles.type is None:
        frame = frame.with_columns(pl.lit(sheet.path.name.partition(".")[0]).alias("behaviour_type"))
    return frame


def _notes(roles: SampleRoles, samples: pl.DataFrame, place: Sequence[str]) -> tuple[str, ...]:
    early = samples.filter(pl.col("click_time") < pl.col("timestamp")).height
    told = [f"showings: user {roles.user!r}, item {roles.item!r}, time {roles.time!r}, clicked {roles.label!r}"]
    told[0] += f", group {roles.group or 'user_id'!r}"
    if early:
        told.append(f"warning: {early:,} clicks are earlier than their showings; is --clicked-at the right column?")
    if place:
        told.append(
            f"position: {place[0]!r} is what the old ranker chose; it is a field of the sample, and a new ranker will "
            "not know it when it scores"
        )
    return tuple(told)
