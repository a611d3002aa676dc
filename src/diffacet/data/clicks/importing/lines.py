"""Large text files in blocks: lines of a fixed number of fields, those of another number told apart and counted."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from diffacet.data.formats.raw import first_line, opened
from diffacet.errors import BadLog

BLOCK = 2**26
FEW, SHARE = 10, 1000
"""More bad rows than `FEW`, and than one in `SHARE`, are no accident."""

_NAMED = 5  # bad rows of a file that are told one by one

TRUNCATED, RAGGED, UNREADABLE = (
    "last lines cut off, dropped",
    "rows with another number of fields, dropped",
    "rows with a value that cannot be read, dropped",
)
FLOATS = "whole numbers printed with a decimal point, read as numbers"


@dataclass(frozen=True, eq=False)
class Lines:
    """The good lines of a block: `frame` of String columns, null for an empty field; `number` in the file, from 1."""

    frame: pl.DataFrame
    number: pl.Series


@dataclass
class Tally:
    """What was met on the way through a file: `counts` by what it is, `bad` rows with what is wrong with the first."""

    counts: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    bad: int = 0
    first: list[tuple[int, str]] = field(default_factory=list)

    def refuse(self, what: str, rows: Sequence[tuple[int, str]]) -> None:
        """Count `rows` (number, what is wrong) as bad ones of the kind `what`."""
        self.counts[what] += len(rows)
        self.bad += len(rows)
        self.first = sorted([*self.first, *rows[:_NAMED]])[:_NAMED]

    def check(self, path: Path) -> None:
        """Raise BadLog when more rows are bad than accidents explain."""
        if self.bad > FEW and self.bad * SHARE > self.rows:
            raise BadLog(
                f"{path}: {self.bad:,} of {self.rows:,} rows are bad, more than 0.1 %: {self._named()}; "
                "get the file again, or check that it is of this data set"
            )

    def note(self, path: Path) -> list[str]:
        """Which rows are bad, for a person; nothing when none is."""
        return [f"{path.name}: {self.bad:,} bad rows dropped: {self._named()}"] if self.bad else []

    def _named(self) -> str:
        more = ", …" if self.bad > len(self.first) else ""
        return ", ".join(f"row {number} ({why})" for number, why in self.first) + more

    def to_json(self) -> dict[str, object]:
        """What `from_json` reads."""
        return {"counts": dict(self.counts), "rows": self.rows, "bad": self.bad, "first": self.first}

    @classmethod
    def from_json(cls, value: dict[str, object]) -> "Tally":
        """The tally that `to_json` gave."""
        counts, first = value["counts"], value["first"]
        assert isinstance(counts, dict)
        assert isinstance(first, list)
        rows, bad = int(str(value["rows"])), int(str(value["bad"]))
        return cls(Counter(counts), rows, bad, [(number, why) for number, why in first])


def header(path: Path, names: Sequence[str], tally: Tally) -> int:
    """The bytes of the header of a file with the columns `names`; raises BadLog when it has others.

    Blanks around a name are counted as a defect.
    """
    first_line(path)  # refuses what is missing, empty, packed
    with opened(path) as file:
        line = file.readline()
    found = line.decode("utf-8", "replace").removeprefix("\ufeff").rstrip("\r\n").split(",")
    if [name.strip() for name in found] != list(names):
        raise BadLog(f"{path}, row 1: the columns are {', '.join(found)[:200]!r}; this file has {', '.join(names)}")
    tally.counts["column names with blanks around them"] += sum(name != name.strip() for name in found)
    return len(line)


def blocks(path: Path, start: int, size: int = BLOCK) -> Iterator[tuple[bytes, int]]:
    """Blocks of whole lines from byte `start` on, each with the byte after it; the last may lack its line end."""
    with opened(path) as file:
        file.seek(start)
        held = b""
        while data := file.read(size):
            data = held + data
            cut = data.rfind(b"\n") + 1
            held = data[cut:]
            if cut:
                start += cut
                yield data[:cut], start
        if held.strip():
            yield held, start + len(held)


def split(block: bytes, names: Sequence[str], number: int, tally: Tally) -> Lines:
    """The lines of `block`, the first of which is line `number` of its file; bad ones are counted in `tally`."""
    try:
        schema = dict.fromkeys(names, pl.String)
        frame = pl.read_csv(block, has_header=False, quote_char=None, infer_schema=False, schema=schema)
    except pl.exceptions.PolarsError:
        frame = None
    if frame is None or frame[:, -1].null_count():
        return _slowly(block, names, number, tally)
    tally.rows += frame.height
    return Lines(frame, pl.Series(np.arange(number, number + frame.height)))


def _slowly(block: bytes, names: Sequence[str], number: int, tally: Tally) -> Lines:
    """The same where a line has too few or too many fields, or the last field of one is empty."""
    texts = block.decode("utf-8", "replace").split("\n")
    ended = texts[-1] == ""
    lines = pl.DataFrame({"text": texts[:-1] if ended else texts}).with_columns(pl.col("text").str.strip_suffix("\r"))
    lines = lines.with_columns(pl.Series("number", np.arange(number, number + lines.height)))
    lines = lines.filter(pl.col("text").str.strip_chars() != "")
    fields = lines["text"].str.count_matches(",", literal=True) + 1
    good = fields == len(names)
    wrong = lines.filter(~good).with_columns(fields.filter(~good).alias("fields"))
    told = [(row, f"{count} fields") for row, count in wrong.select("number", "fields").rows()]
    tally.rows += lines.height
    cut = not ended and bool(told) and told[-1][0] == lines["number"][-1] and wrong["fields"][-1] < len(names)
    if cut:
        tally.refuse(TRUNCATED, told[-1:])
    tally.refuse(RAGGED, told[:-1] if cut else told)
    parts = lines["text"].filter(good).str.split_exact(",", len(names) - 1).struct.rename_fields(list(names))
    frame = parts.struct.unnest().with_columns(pl.all().replace({"": None}))
    return Lines(frame, lines["number"].filter(good))


def line_count(block: bytes) -> int:
    """The lines of a block."""
    return block.count(b"\n") + (not block.endswith(b"\n"))


def whole(column: pl.Series, tally: Tally) -> tuple[pl.Series, pl.Series]:
    """(Int64 values, null for an empty field or NULL; whether a value is something else than a whole number)."""
    text = column.str.strip_chars()
    empty = text.is_null() | text.is_in(["", "NULL", "null"])
    found = text.cast(pl.Int64, strict=False)
    rest = ~empty & found.is_null()
    if rest.any():
        number = text.cast(pl.Float64, strict=False)
        printed = rest & (number == number.floor()).fill_null(False) & (number.abs() < 2**53).fill_null(False)
        tally.counts[FLOATS] += int(printed.sum())
        found = pl.select(pl.when(printed).then(number.cast(pl.Int64, strict=False)).otherwise(found)).to_series()
        rest = rest & ~printed
    return found.alias(column.name), rest
