"""Pages of the command line, from the program itself: what `--help` says, as tables."""

import re
from collections.abc import Iterator
from typing import Any

import typer

from diffacet.app.cli import app
from making.text import cell, code, table

AFTER = """## What all commands share

An answer is exit code 0; bad input is one line on standard error and exit code 2; Ctrl-C is 130. Commands with
`--json` print one object and nothing else on standard output. Progress goes to standard error.
"""


def commands() -> dict[str, Any]:
    """Name -> command, in the order in which `diffacet --help` lists them."""
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def pages() -> Iterator[tuple[str, str]]:
    """(place in the site, text) of the list of commands and of each command."""
    found = commands()
    rows = [(f"[`{name}`]({name}.md)", cell(command.get_short_help_str(200))) for name, command in found.items()]
    lead = "# Command line\n\n`diffacet COMMAND --help` says the same in a terminal, and `diffacet --help` lists these:"
    yield "commands/index.md", "\n\n".join((lead, table(("command", "what it does"), rows), AFTER))
    for name, command in found.items():
        yield f"commands/{name}.md", page(name, command)


def page(name: str, command: Any) -> str:
    """One command: its help, examples, arguments and options."""
    text, _, examples = command.help.partition("\n\n\b\n")
    shown = [one for one in command.params if not getattr(one, "hidden", False)]
    arguments = [one for one in shown if one.param_type_name == "argument"]
    options = [one for one in shown if one.param_type_name == "option"]
    usage = " ".join(["diffacet", name, *(_usage(one) for one in arguments), "[OPTIONS]"])
    parts = [f"# diffacet {name}", cell(text), f"```\n{usage}\n```"]
    if examples:
        lines = examples.removeprefix("Examples:\n").split("\n")
        parts += ["## Examples", "```\n" + "\n".join(line.removeprefix("  ") for line in lines) + "\n```"]
    if arguments:
        rows = [(f"`{one.metavar or one.name.upper()}`", cell(one.help or "")) for one in arguments]
        parts += ["## Arguments", table(("argument", "meaning"), rows)]
    told = []
    for one in options:
        names, value = _spelled(one, command)
        told.append((code(names), _default(one), f"{code(value)} {cell(one.help or '')}".strip()))
    parts += ["## Options", table(("option", "if not given", "value and meaning"), told)]
    return "\n\n".join(parts) + "\n"


def _usage(argument: Any) -> str:
    told = (argument.metavar or argument.name.upper()) + ("..." if argument.nargs == -1 else "")
    return told if argument.required else f"[{told}]"


def _spelled(option: Any, command: Any) -> tuple[str, str]:
    """(its names, what it takes) of an option, as `--help` has them: ("--seen / --unseen", "") or ("--seed", "N")."""
    record = option.get_help_record(typer.Context(command))
    told = str(record[0]) if record else ", ".join(option.opts)
    names = re.match(r"(?:--?[\w-]+(?:, | / )?)+", told)
    assert names is not None, told
    return names[0].strip(), told[names.end() :].strip()


def _default(option: Any) -> str:
    if option.required:
        return "required"
    value = option.default() if callable(option.default) else option.default
    value = getattr(value, "value", value)
    return "" if value is None or value is False or value in ((), []) else code(str(value))
