"""Tables as text: cells, and how numbers are written in them."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """A table of text.

    Attributes:
        title: above it.
        head: names of the columns; the first is that of the rows.
        rows: cells.
        best: (row, column) of the best value of each column of ours.
        note: below it.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()
    note: str = ""


def signed(value: float, digits: int = 4) -> str:
    """`+0.1234`, or with a true minus sign; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:+.{digits}f}".replace("-", "−")


def percent(share: float, digits: int = 1) -> str:
    """`+1.2 %` for a share of 0.012; a dash for NaN."""
    return "–" if math.isnan(share) else f"{signed(100 * share, digits)} %"


def number(value: float | None, form: str) -> str:
    """The value in the form of a format string; a dash for None and NaN."""
    return "–" if value is None or math.isnan(value) else form.format(value)


def p_value(value: float) -> str:
    """`0.1234`, or `< 0.0001`; a dash for NaN."""
    return "–" if math.isnan(value) else "< 0.0001" if value < 0.0001 else f"{value:.4f}"
