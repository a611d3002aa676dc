"""Text with one separator: CSV, TSV and their relatives, read by Polars as strings; slow passes only for messages."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from diffacet.data.formats.raw import Span, blocks, first_line, read_bytes, zipped
from diffacet.data.formats.source import Block
from diffacet.errors import BadLog

SEPARATORS = (",", "\t", ";", "|")
_TYPED = re.compile(r".+:(token|token_seq|float|float_seq)")


@dataclass(frozen=True)
class Delimited:
    """A text file of records.

    Attributes:
        path: the file, plain or gzip.
        columns: the names of its columns, in order.
        separator: one character, or "::".
        header: whether the first line holds names, not values.
        quotes: whether a field may stand in double quotes.
        encoding: "utf-8" (anything else is refused), or "latin-1": UTF-8 where it is valid, else Latin-1.
    """

    path: Path
    columns: tuple[str, ...]
    separator: str = ","
    header: bool = True
    quotes: bool = True
    encoding: str = "utf-8"

    def read(self, columns: Sequence[str]) -> Block:
        """`columns` as strings, blank lines left out; raises BadLog with file and row."""
        data = self._text()
        quote = '"' if self.quotes and _starts(data, self.separator) and not _lone(data, self.separator) else None
        start = _header_end(data) if self.header else 0
        body, first = data[start:], data.count(b"\n", 0, start) + 1
        if not body or body.isspace():
            raise BadLog(f"{self.path} has a header but no rows; a log needs at least one")
        return self._block(body, columns, quote, first, start)

    def batches(self, columns: Sequence[str], size: int = 2**26, span: Span | None = None) -> Iterator[Block]:
        """What `read` gives, in blocks of about `size` bytes of the file, one after another; raises BadLog.

        Whether quotes are quotes is a question to the whole file, which is read once before for that. `span`: only
        these lines of a file without quotes, see `spans`.
        """
        if self.encoding != "utf-8":
            yield self.read(columns)
            return
        quote = '"' if span is None and self.quotes and self._quoted(size) else None
        first, offset = (1, 0) if span is None else (span.row, span.start)
        headed, found = not self.header or offset > 0, span is not None
        for data in blocks(self.path, size, quoted=quote is not None, span=span):
            body = data if offset else data.removeprefix(b"\xef\xbb\xbf")
            start = 0 if headed or body.isspace() else _header_end(body)
            headed = headed or start > 0
            row, offset = first + body.count(b"\n", 0, start), offset + start
            body = body[start:]
            if body and not body.isspace():
                found = True
                yield self._block(body, columns, quote, row, offset)
            first, offset = row + body.count(b"\n"), offset + len(body)
        if not found:
            raise BadLog(f"{self.path} has a header but no rows; a log needs at least one")

    def spans(self, size: int) -> list[Span]:
        """The file in spans of about `size` bytes, found by reading it once.

        None for a packed file, or one with quotes, of which a record may have several lines: it is read as a whole.
        """
        found: list[Span] = []
        start, row, odd = 0, 1, self.encoding != "utf-8" or zipped(self.path)
        for data in blocks(self.path, size) if not odd else ():
            if self.quotes and _starts(data, self.separator):
                return []
            found.append(Span(start, start + len(data), row))
            start, row = start + len(data), row + data.count(b"\n")
        return found

    def _quoted(self, size: int) -> bool:
        """Whether fields may stand in quotes, as `read` decides it."""
        starts = False
        for data in blocks(self.path, size):
            if _lone(data, self.separator):
                return False
            starts = starts or _starts(data, self.separator)
        return starts

    def _block(self, body: bytes, columns: Sequence[str], quote: str | None, first: int, start: int) -> Block:
        """The rows of whole records, which begin in row `first` and byte `start` of the file."""
        separator = self.separator
        if separator == "::":
            body, separator = body.replace(b"::", b"\t"), "\t"
        names = [f"c{i}" for i in range(len(self.columns))]
        head = separator.join(names).encode() + b"\n"
        scan = _Scan(self, head + body, separator, quote, first, start - len(head))
        frame = self._parse(scan)
        kept = _kept(frame, scan)
        frame = frame if kept is None else frame[kept]
        frame = frame.select(pl.col(names[self.columns.index(c)]).alias(c) for c in dict.fromkeys(columns))
        return Block(frame, lambda i: scan.line(i if kept is None else kept[i]))

    def _text(self) -> bytes:
        data = read_bytes(self.path).removeprefix(b"\xef\xbb\xbf")
        if self.encoding == "latin-1":
            try:
                data.decode()
            except UnicodeDecodeError:
                return data.decode("latin-1").encode()
        return data

    def _parse(self, scan: "_Scan") -> pl.DataFrame:
        try:
            frame = pl.read_csv(scan.data, separator=scan.separator, quote_char=scan.quote, infer_schema=False)
        except pl.exceptions.PolarsError as error:
            raise scan.explain(error) from error
        if frame.height == 0:
            raise BadLog(f"{self.path} has a header but no rows; a log needs at least one")
        return frame


@dataclass(frozen=True)
class _Scan:
    """The text given to Polars: a stand-in header line, then the records; and slow passes over it.

    `first` is the row of the file in which the records start, `offset` the byte of the file at byte 0 of `data`.
    """

    table: Delimited
    data: bytes
    separator: str
    quote: str | None
    first: int
    offset: int

    def records(self, *, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
        """(row of the file, fields) of each record, [] for a blank line; strict: raises BadLog at a stray quote."""
        text = io.TextIOWrapper(io.BytesIO(self.data), "utf-8", errors="replace", newline="")
        next(text)
        if self.quote is None:
            reader = csv.reader(text, delimiter=self.separator, quoting=csv.QUOTE_NONE)
        else:
            reader = csv.reader(text, delimiter=self.separator, strict=strict)
        row = self.first
        try:
            for fields in reader:
                yield row, fields
                row = self.first + reader.line_num
        except csv.Error as error:
            raise BadLog(
                f"{self.table.path}, row {row}: {error}; close the quote, or write a quote inside a field twice"
            ) from error

    def line(self, index: int) -> int:
        """The row of the file in which record `index` starts."""
        if self.quote is None:
            return self.first + index
        return next((row for i, (row, _) in enumerate(self.records()) if i == index), self.first + index)

    def explain(self, error: Exception) -> BadLog:
        """What is wrong, where, and what to do, for a text that Polars refuses."""
        path, width = self.table.path, len(self.table.columns)
        try:
            self.data.decode()
        except UnicodeDecodeError as bad:
            row = self.first - 1 + self.data.count(b"\n", 0, bad.start)
            return not_utf8(path, row, bad.start + self.offset, self.data[bad.start])
        for row, fields in self.records(strict=True):
            if len(fields) > width:
                return BadLog(
                    f"{path}, row {row}: {len(fields)} fields where {width} columns are; "
                    f"put a field that contains {self.table.separator!r} in double quotes"
                )
        words = str(error).splitlines()[0]
        return BadLog(
            f"{path} is not text separated by {self.table.separator!r} ({words}); put fields with quotes in quotes"
        )


def not_utf8(path: Path, row: int, offset: int, byte: int) -> BadLog:
    """The refusal of text in another encoding."""
    return BadLog(
        f"{path}, row {row}, byte {offset}: 0x{byte:02x} is not UTF-8; "
        "re-encode the file: iconv -f ISO-8859-1 -t UTF-8 FILE > NEW (or from the encoding it is in)"
    )


def _kept(frame: pl.DataFrame, scan: _Scan) -> list[int] | None:
    """Indices of the rows that are no blank lines (None: all); raises BadLog for a row with too few fields."""
    if frame[:, -1].null_count() == 0:
        return None
    width, blank, count = frame.width, set(), 0
    for i, (row, fields) in enumerate(scan.records()):
        count = i + 1
        if not fields:
            blank.add(i)
        elif len(fields) < width:
            raise BadLog(
                f"{scan.table.path}, row {row}: {len(fields)} field{'s' * (len(fields) != 1)} where {width} columns "
                f"are ({shorten(scan.separator.join(fields))}); complete or remove the row"
            )
    if count != frame.height:
        return None  # an odd line end that is one to one of the two parsers: empty values are refused where they stand
    if len(blank) == frame.height:
        raise BadLog(f"{scan.table.path} has no rows; a log needs at least one")
    return [i for i in range(frame.height) if i not in blank] if blank else None


def shorten(value: object, width: int = 60) -> str:
    """`value` in quotes, cut after `width` characters."""
    text = str(value)
    return repr(text if len(text) <= width else text[:width] + "…")


def _header_end(data: bytes) -> int:
    start = len(data) - len(data.lstrip(b"\r\n"))
    end = data.find(b"\n", start)
    return len(data) if end < 0 else end + 1


def _starts(data: bytes, separator: str) -> bool:
    """Whether a field starts with a quote: otherwise all of them are text."""
    return b'"' in data and re.search(rb"(?:\A|[\r\n]|%s)\"" % re.escape(separator.encode()), data) is not None


def _lone(data: bytes, separator: str) -> bool:
    """Whether tab-separated text has a field that starts with a quote and does not end with one.

    There a lone quote is text far more often than the start of a field of several lines, so one makes all quotes text.
    """
    if separator != "\t" or b'"' not in data:
        return False
    return re.search(rb'(?:\A|[\t\n])"(?!(?:[^"\n]|"")*"(?:[\t\r\n]|\Z))', data) is not None


def header(path: Path) -> tuple[str, tuple[str, ...], bool]:
    """(separator, column names, typed) of a file with a header; typed: `name:type` as in RecBole's atomic files."""
    try:
        line = first_line(path).decode()
    except UnicodeDecodeError as error:
        raise not_utf8(path, 1, error.start, error.object[error.start]) from error
    bare = re.sub(r'"[^"]*"', "", line)
    separator = max(SEPARATORS, key=bare.count)
    try:
        names = [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error as error:
        raise BadLog(f"{path}, row 1: {error}; the first line must name the columns, and lines end with \\n") from error
    typed = separator == "\t" and all(_TYPED.fullmatch(name) for name in names)
    return separator, tuple(name.rpartition(":")[0] if typed else name for name in names), typed


def with_header(path: Path) -> Delimited:
    """The table of a file whose first line names its columns, the separator read off that line."""
    separator, names, typed = header(path)
    return Delimited(path, names, separator, quotes=not typed)
