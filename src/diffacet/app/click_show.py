"""What an import of click data did, and what click data hold, for people."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from diffacet.app.show import new_table, number

if TYPE_CHECKING:
    from diffacet.data.clicks import Packed
    from diffacet.data.clicks.importing.folder import Report


def imported(console: Console, done: "Report") -> None:
    """What was read, what was dropped, and what the folder holds."""

    def line(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    figures, schema = done.figures, done.schema
    line(f"read as {done.format}: {', '.join(done.files)}")
    for note in done.notes:
        line(f"  {note}")
    for what, count in done.counts:
        line(f"  {count:,} {what}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("file", header_style="dim")
    for name in ("rows", "users", "items", "click rate"):
        table.add_column(name, justify="right", header_style="dim")
    rate = f"{figures.clicks / figures.samples:.2%}"
    table.add_row("samples", f"{figures.samples:,}", f"{figures.users:,}", f"{figures.items:,}", rate)
    if figures.behaviours is not None:
        table.add_row("behaviours", f"{figures.behaviours:,}", f"{figures.behaviour_users:,}", "", "")
    console.print(table)
    line(f"samples from {_moment(figures.first)} to {_moment(figures.last)} (UTC)")
    fields = ", ".join(field.name for field in schema.behaviour_fields)
    line(f"fields of behaviours: {fields}; of the sample besides: {', '.join(schema.other_names)}")
    if schema.dense_fields:
        line(f"numbers: {', '.join(schema.dense_fields)}")
    line(f"split: {', '.join(f'{key} {value}' for key, value in schema.split.items())}; group {schema.group}")


def statistics(console: Console, packed: "Packed", figures: Mapping[str, Any]) -> None:
    """A click data folder's figures: the log, its parts, and what samples see."""
    log = packed.log
    table = new_table("", title=f"{packed.name}  ({packed.fingerprint})", right=("value",))
    for name in ("users", "items", "samples", "behaviours"):
        table.add_row(name, number(figures[name]))
    for name, part in figures["parts"].items():
        unknown = f"unknown users {part['unknown_user']:.2%}, items {part['unknown_item']:.2%}"
        table.add_row(name, f"{number(part['samples'])} samples, click rate {part['click_rate']:.2%}, {unknown}")
    history = ", ".join(f"{name} {number(value)}" for name, value in figures["history"].items())
    table.add_row("earlier behaviours", history)
    for name in ("no_history", "same_millisecond", "same_second"):
        if name in figures:
            table.add_row(name.replace("_", " "), f"{figures[name]:.2%} of the samples")
    table.add_row("fields of behaviours", ", ".join(log.names))
    table.add_row("of the sample besides", ", ".join((*log.other_names, *log.schema.dense_fields)) or "none")
    borders = " and ".join(_moment(border) for border in packed.split.borders)
    table.add_row("split at", f"{borders} (UTC)")
    console.print(table)
    for note in packed.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def _moment(milliseconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return str(milliseconds)
