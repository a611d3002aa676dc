"""The command line: each command a few lines over public functions.

Heavy modules are imported inside the commands, so that `--help` answers at once.
"""

import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import typer

# Importing a module adds its commands to `app`.
from diffacet.app.cli import (
    batch,
    clicks,
    data,
    doctor,
    exporting,
    interests,
    predict,
    probe,
    runs,
    serving,
    studies,
    synth,
    tune,
)
from diffacet.app.cli.shell import app
from diffacet.errors import DiffacetError

__all__ = [
    "COMMANDS",
    "app",
    "batch",
    "clicks",
    "data",
    "doctor",
    "exporting",
    "interests",
    "main",
    "predict",
    "probe",
    "runs",
    "serving",
    "studies",
    "synth",
    "tune",
]

# Which package typer takes its click from depends on its version.
ClickException: type[Exception] = typer.BadParameter.__mro__[2]
INTERRUPTED = 130
COMMANDS = (
    *("demo", "doctor"),
    *("import", "import-clicks", "import-split", "split", "synth", "stats"),
    *("models", "train", "tune", "evaluate", "compare", "study", "probe", "synth-score"),
    *("recommend", "candidates", "predict", "interests", "serve", "export"),
)
"""In the order in which somebody comes to them, which is that of `--help`."""
app.registered_commands.sort(
    key=lambda command: COMMANDS.index(command.name or getattr(command.callback, "__name__", ""))
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for bad input (one line on stderr), 130 for Ctrl-C."""
    # Threads that spin while they wait make a busy machine ten times slower; it must be said before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(given, prog_name="diffacet", standalone_mode=False) or 0
    except DiffacetError as error:
        return _refuse(str(error))
    except ClickException as error:
        return _refuse(_usage(error, given))
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:
        again = "the same command with --resume"
        hints = {
            "train": again,
            "candidates": again,
            "synth": again,
            "study": again,
            "tune": again,
            "demo": "the same command",
        }
        hint = f"; {hints[given[0]]} goes on from the last checkpoint" if given and given[0] in hints else ""
        typer.echo(f"diffacet: interrupted{hint}", err=True)
    return int(code)


def _refuse(message: str) -> int:
    typer.echo("diffacet: error: " + " ".join(message.split()), err=True)
    return 2


def _usage(error: Any, given: Sequence[str]) -> str:
    message = error.format_message().rstrip(".").partition(", unable to parse")[0]
    message = re.sub(r"\.? Did you mean (.+)\?$", r" (did you mean \1?)", message)
    command = f" {given[0]}" if given and given[0] in COMMANDS else ""
    return f"{message}; see 'diffacet{command} --help'"
