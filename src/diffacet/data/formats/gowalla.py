"""Gowalla: SNAP's check-ins, or the `train.txt` and `test.txt` of NGCF and LightGCN.

A check-in is `user <tab> 2010-10-19T23:55:27Z <tab> latitude <tab> longitude <tab> location`, newest first. The other
form has one user a line, `user item item ...`, and no times: the order in the line is the order of the items.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from diffacet.data.formats.delimited import Delimited, shorten
from diffacet.data.formats.raw import bare, first_line, listing, read_bytes
from diffacet.data.formats.source import Block, Names, Source, Table
from diffacet.errors import BadLog

CHECK_IN = re.compile(r"[^\t]+\t\d{4}-\d\d-\d\dT[\d:]+Z\t-?[\d.]+\t-?[\d.]+\t[^\t]+")
BASKET = re.compile(r"\d+( \d+)+ ?")
_COLUMNS = ("user_id", "timestamp", "latitude", "longitude", "item_id")


@dataclass(frozen=True)
class Baskets:
    """Lines `user item item ...`, whole numbers separated by blanks; a user alone in a line has no items."""

    path: Path
    columns: tuple[str, ...] = ("user_id", "item_id")

    def read(self, columns: Sequence[str]) -> Block:
        """One row per item, in the order of the lines; raises BadLog with file and row."""
        text = read_bytes(self.path).decode("utf-8", "replace")
        lines = pl.DataFrame({"line": text.split("\n")}).with_row_index("row", offset=1)
        lines = lines.with_columns(pl.col("line").str.strip_chars()).filter(pl.col("line") != "")
        bad = lines.filter(~pl.col("line").str.contains(r"^\d+(\s+\d+)*$"))
        if bad.height:
            row, line = bad.row(0)
            raise BadLog(
                f"{self.path}, row {row}: {shorten(line)} is not 'user item item ...' in whole numbers; "
                "correct or remove the line"
            )
        parts = lines.with_columns(pl.col("line").str.extract_all(r"\d+"))
        frame = parts.select("row", user_id=pl.col("line").list.first(), item_id=pl.col("line").list.slice(1)).filter(
            pl.col("item_id").list.len() > 0
        )
        frame = frame.explode("item_id")
        rows = frame["row"]
        return Block(frame.select(list(dict.fromkeys(columns))), lambda i: int(rows[i]))


def source(paths: Sequence[Path]) -> Source:
    """Check-ins or baskets; of a directory with `train.txt` and `test.txt` these two, in this order."""
    files = _chosen(listing(paths)) if any(path.is_dir() for path in paths) else listing(paths)
    tables = tuple(_table(f) for f in files)
    if any(isinstance(table, Baskets) for table in tables):
        if not all(isinstance(table, Baskets) for table in tables):
            raise BadLog("check-ins and 'user item item ...' files cannot be read as one log; pass one kind")
        return Source(tables, Names("user_id", "item_id", "none", "none"))
    return Source(tables, Names("user_id", "item_id", "timestamp", "none"))


def _chosen(files: list[Path]) -> list[Path]:
    named = {bare(f): f for f in files}
    if "train.txt" in named:
        return [named[name] for name in ("train.txt", "test.txt") if name in named]
    found = [f for f in files if "checkin" in bare(f)]
    return found or [f for f in files if bare(f).endswith(".txt")] or files


def _table(path: Path) -> Table:
    line = first_line(path).decode("utf-8", "replace")
    if re.fullmatch(r"\d+( \d+)* ?", line):
        return Baskets(path)
    if line.count("\t") != 4:
        raise BadLog(
            f"{path}, row 1: {shorten(line)} is no Gowalla check-in (user, time, latitude, longitude, location, "
            "separated by tabs) and no 'user item item ...' line; pass --format csv if the file has a header"
        )
    return Delimited(path, _COLUMNS, "\t", header=False, quotes=False)
