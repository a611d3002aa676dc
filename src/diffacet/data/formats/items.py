"""Item files: ids, titles and categories from CSV, TSV, JSON lines, Parquet or RecBole's `.item`."""

import ast
import json
from pathlib import Path
from typing import Any

import polars as pl

from diffacet.data.formats import columns
from diffacet.data.formats.delimited import Delimited, header
from diffacet.data.formats.jsonlines import objects
from diffacet.data.formats.parquet import with_schema
from diffacet.data.formats.raw import first_line, kind
from diffacet.data.formats.source import Items, Table
from diffacet.data.formats.values import ids
from diffacet.errors import BadLog


def read_items(path: Path) -> Items:
    """The descriptions in `path`, columns guessed by name; raises BadLog.

    Categories are lists, or text: a JSON or Python list, else parts separated by "|", by ";" or by "," (the first of
    these that occurs in the column). Of a list of paths (Amazon's metadata) the first path is taken.
    """
    form = kind(path)
    if form == "parquet":
        return from_table(with_schema(path), path)
    if form == "jsonl" or first_line(path)[:1] in (b"{", b"["):
        return _from_objects(path)
    separator, names, typed = header(path)
    table = Delimited(path, names, separator, quotes=not typed)
    return from_table(table, path, split=" " if typed else None)


def from_table(table: Table, path: Path, *, split: str | None = None) -> Items:
    """The descriptions in a table; `split` separates categories (None: see `read_items`)."""
    item = columns.find(table.columns, columns.ITEM)
    if item is None:
        raise _no_id(path, table.columns)
    title, category = columns.find(table.columns, columns.TITLE), columns.find(table.columns, columns.CATEGORIES)
    block = table.read([name for name in (item, title, category) if name is not None])
    frame = block.frame
    found = [ids(frame[item], lambda i: f"{path}, row {block.row(i)}", item).cast(pl.String).alias("item_id")]
    if title is not None:
        found.append(_titles(frame[title]))
    if category is not None:
        found.append(categories(frame[category], split))
    return Items(pl.DataFrame(found), path)


def _from_objects(path: Path) -> Items:
    """JSON lines (or Python literals); values may be of any form, so this goes line by line."""
    keys: list[str] = []
    names: dict[str, str | None] = {}
    rows: list[tuple[str, str | None, list[str]]] = []
    for row, value in objects(path):
        if len(value) > len(keys) and not keys:
            keys = list(value)
            names["item"] = columns.find(keys, columns.ITEM)
            if names["item"] is None:
                raise _no_id(path, keys)
        key = names["item"] or ""
        number = value.get(key)
        if number is None or number == "" or isinstance(number, list | dict | float | bool):
            raise BadLog(f"{path}, row {row}: '{key}' is {number!r}; every row needs an id (whole number or text)")
        title, category = columns.find(list(value), columns.TITLE), columns.find(list(value), columns.CATEGORIES)
        text = value.get(title) if title else None
        rows.append((_text(number), _text(text) if text else None, _flat(value.get(category)) if category else []))
    frame = pl.DataFrame(
        rows, schema={"item_id": pl.String, "title": pl.String, "categories": pl.List(pl.String)}, orient="row"
    )
    if frame["title"].null_count() == frame.height:
        frame = frame.drop("title")
    else:
        frame = frame.with_columns(_titles(frame["title"]))
    if frame["categories"].list.len().sum() == 0:
        frame = frame.drop("categories")
    return Items(frame, path)


def _no_id(path: Path, names: Any) -> BadLog:
    return BadLog(
        f"{path}: no column is named like an item id; its columns are: {columns.listed(list(names))}; "
        "rename the id column to item_id"
    )


def _titles(column: pl.Series) -> pl.Series:
    text = column.cast(pl.String).str.strip_chars()
    return pl.select(pl.when(text != "").then(text)).to_series().alias("title")


def categories(column: pl.Series, split: str | None = None) -> pl.Series:
    """Lists of distinct, non-empty strings in their order, an empty list where there is none."""
    if isinstance(column.dtype, pl.List):
        parts = column
        if isinstance(column.dtype.inner, pl.List):
            parts = column.list.first()
    else:
        text = column.cast(pl.String).fill_null("").str.strip_chars()
        if text.str.contains(r"^[\[{(]").any() and split is None:
            parts = pl.Series([_flat(value) for value in text], dtype=pl.List(pl.String))
        else:
            parts = text.str.split(split or next((s for s in "|;" if text.str.contains(s, literal=True).any()), ","))
    parts = parts.cast(pl.List(pl.String)).fill_null([])
    clean = parts.list.eval(pl.element().str.strip_chars()).list.eval(pl.element().filter(pl.element() != ""))
    return clean.list.unique(maintain_order=True).alias("categories")


def _flat(value: Any) -> list[str]:
    """One item's categories as a list, from a list, a list of paths (the first), a list in a string, or text."""
    if isinstance(value, str):
        text = value.strip()
        if text[:1] in ("[", "("):
            value = _parsed(text)
        else:
            separator = next((s for s in "|;" if s in text), ",")
            value = text.split(separator)
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, list | tuple):
        return []
    if value and isinstance(value[0], list | tuple):
        value = value[0]
    return list(dict.fromkeys(_text(part).strip() for part in value if part is not None and str(part).strip()))


def _text(value: object) -> str:
    """The value as text that UTF-8 can hold: JSON can escape half a surrogate pair."""
    return str(value).encode("utf-8", "replace").decode()


def _parsed(text: str) -> Any:
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return [text]
