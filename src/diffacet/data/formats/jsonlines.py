"""One JSON object a line, read in blocks by Polars; keys become columns, their values strings."""

import ast
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from diffacet.data.formats.delimited import not_utf8, shorten
from diffacet.data.formats.raw import Span, blocks, first_line, zipped
from diffacet.data.formats.source import Block
from diffacet.errors import BadLog


@dataclass(frozen=True)
class JsonLines:
    """A file of JSON objects, plain or gzip; `columns` are the keys of the objects at its start."""

    path: Path
    columns: tuple[str, ...]

    def read(self, columns: Sequence[str]) -> Block:
        """`columns` as strings (null where a line lacks the key); raises BadLog with file and row."""
        frame = pl.concat([block.frame for block in self.batches(columns)], rechunk=True)
        return Block(frame, self._row)

    def batches(self, columns: Sequence[str], size: int = 2**25, span: Span | None = None) -> Iterator[Block]:
        """What `read` gives, in blocks of about `size` bytes of the file, one after another; raises BadLog.

        `span`: only these lines.
        """
        schema = dict.fromkeys(columns, pl.String)
        before = 0 if span is None else span.row - 1
        for block in blocks(self.path, size, span=span):
            block = block if before else block.removeprefix(b"\xef\xbb\xbf")
            if not block.isspace():
                try:
                    frame = pl.read_ndjson(block, schema=schema)
                except pl.exceptions.PolarsError as error:
                    raise self._explain(block, before, error) from error
                yield Block(frame, partial(_line, block, before))
            before += block.count(b"\n")

    def spans(self, size: int) -> list[Span]:
        """The file in spans of about `size` bytes; none for a packed one, which is read from its start."""
        found: list[Span] = []
        start, row = 0, 1
        for block in blocks(self.path, size) if not zipped(self.path) else ():
            found.append(Span(start, start + len(block), row))
            start, row = start + len(block), row + block.count(b"\n")
        return found

    def _row(self, index: int) -> int:
        """The line of the object `index`; blank lines are no objects."""
        filled = (row for row, line in _numbered(self.path) if not line.isspace())
        return next((row for i, row in enumerate(filled) if i == index), index + 1)

    def _explain(self, block: bytes, before: int, error: Exception) -> BadLog:
        for row, line in enumerate(block.split(b"\n"), before + 1):
            if line.strip():
                parse(self.path, row, line)
        return BadLog(f"{self.path}, after row {before}: {str(error).splitlines()[0]}; write one JSON object per line")


def _line(block: bytes, before: int, index: int) -> int:
    """The line of the file that holds the object `index` of a block that `before` lines precede."""
    filled = (row for row, line in enumerate(block.split(b"\n"), before + 1) if line.strip())
    return next((row for i, row in enumerate(filled) if i == index), before + index + 1)


def with_keys(path: Path) -> JsonLines:
    """The table of a file of JSON lines, its columns read off the first objects (64 KiB of lines)."""
    parse(path, 1, first_line(path))
    with closing(blocks(path, 2**16)) as start:
        lines = next(start).split(b"\n")
    keys = [key for row, line in enumerate(lines, 1) if line.strip() for key in parse(path, row, line)]
    return JsonLines(path, tuple(dict.fromkeys(keys)))


def parse(path: Path, row: int, line: bytes, *, literals: bool = False) -> dict[str, Any]:
    """The object in `line`; raises BadLog. `literals`: Python's notation will do, too (Amazon's metadata of 2014)."""
    try:
        text = line.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        raise not_utf8(path, row, error.start, line[error.start]) from error
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        value = _literal(text) if literals else None
        if not (isinstance(value, dict) and all(isinstance(key, str) for key in value)):
            raise BadLog(
                f"{path}, row {row}: not a JSON object ({_words(error)}): {shorten(text.rstrip())}; "
                "write one complete object per line, or remove the line"
            ) from error
    if not isinstance(value, dict):
        hint = "one array" if isinstance(value, list) else "no object"
        raise BadLog(f"{path}, row {row}: {hint}: {shorten(text)}; write one JSON object per line")
    return value


def objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row, object) of every line; slow, for item files, whose values have any form."""
    for row, line in _numbered(path):
        if not line.isspace():
            yield row, parse(path, row, line, literals=True)


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    row = 0
    for block in blocks(path):
        for line in block.split(b"\n")[: None if not block.endswith(b"\n") else -1]:
            row += 1
            yield row, line or b" "


def _words(error: Exception) -> str:
    return f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
