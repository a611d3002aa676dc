"""What the commands share: the program that they are commands of, and how they print."""

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import typer

from diffacet.app import options as o

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 400
"""Columns of output that no terminal shows: no table is as wide, and no sentence is folded that need not be."""

app = typer.Typer(
    name="diffacet",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback(
    invoke_without_command=True,
    help=o.described(
        "Recommendation by diffusion: from a raw log to refined interests to candidates.",
        "diffacet demo                                          real data, four models, a report",
        "diffacet import log.csv --out data/mine                your own log",
        "diffacet train dmi --data data/mine --out runs/mine",
        "diffacet evaluate runs/mine",
        "diffacet recommend runs/mine --history 12,7,99",
    ),
)
def root(context: typer.Context, version: o.Version = False) -> None:
    """The program without a command."""
    if version:
        from importlib import metadata

        typer.echo(metadata.version("diffacet"))
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def print_json(value: Any) -> None:
    """One JSON object on a line of standard output."""
    from diffacet.app import show

    sys.stdout.write(json.dumps(show.plain(value), ensure_ascii=False, allow_nan=False) + "\n")


def console_of(*, stderr: bool = False) -> "Console":
    """Where tables go; with `stderr` where progress goes."""
    from rich.console import Console

    console = Console(stderr=stderr)
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(stderr=stderr, width=WIDE)  # into a file or a pipe tables go as wide as they are


def tell_next(console: "Console", *commands: str) -> None:
    """Say which commands may follow."""
    for command in commands:
        console.print(f"next: {command}", highlight=False, markup=False, soft_wrap=True)
