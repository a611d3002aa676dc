"""Markdown, in the few forms that made pages use."""

import html
import re
from collections.abc import Iterable, Sequence

_CODE = re.compile(r"(`[^`]*`)")
_QUOTED = re.compile(r"(?<!\w)'(\w[^']*)'(?!\w)|(?<![\w-])(--[a-z][a-z-]*)")


def cell(text: str) -> str:
    """`text` as one line that a table can hold, with nothing in it taken for markup.

    What the command line sets between apostrophes, and options, become code.
    """
    marked = _QUOTED.sub(lambda match: f"`{match[1] or match[2]}`", " ".join(text.split()))
    parts = _CODE.split(marked)
    return "".join(code(p[1:-1]) if p.startswith("`") else re.sub(r"([\\*_|<\[])", r"\\\1", p) for p in parts)


def code(text: str) -> str:
    """`text` as code that may stand in a table and break at its bars; empty stays empty."""
    shown = html.escape(text, quote=False).replace("|", "&#124;<wbr>").replace("*", "&#42;").replace("_", "&#95;")
    return f"<code>{shown}</code>" if text else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A Markdown table; columns `right` hold numbers."""
    rule = ["---:" if place in right else "---" for place in range(len(head))]
    lines = [head, rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
