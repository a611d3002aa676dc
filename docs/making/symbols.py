"""The symbols of all models' settings, for the glossary: symbol -> names in the code, meanings, models."""

import functools

from diffacet.app import settings
from diffacet.models import MODELS, card
from making.text import cell, code, table

HERE = "<!-- symbols of the settings -->"
"""Where the glossary has the table."""


@functools.cache
def rows() -> dict[tuple[str, str], dict[str, list[str]]]:
    """(symbol, name of the setting) -> meaning -> models."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for name in MODELS:
        for row in settings.describe(card(name)):
            if row["symbol"]:
                meanings = found.setdefault((row["symbol"], row["name"]), {})
                meanings.setdefault(row["description"], []).append(name)
    return found


def filled(text: str) -> str:
    """The glossary with the table in its place."""
    lines = []
    for (symbol, name), meanings in sorted(rows().items(), key=lambda entry: (_bare(entry[0][0]), entry[0])):
        for meaning, models in meanings.items():
            linked = ", ".join(f"[{model}](models/{model}.md)" for model in models)
            lines.append((symbol, code(name), cell(meaning), linked))
    return text.replace(HERE, table(("symbol", "setting", "meaning", "models"), lines))


def _bare(symbol: str) -> str:
    """Sorting: letters first, whatever their case; Greek after Latin."""
    return symbol.lower()
