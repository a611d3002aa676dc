"""Bytes of plain and gzip files, and the files of a directory; every failure is a BadLog that names the file."""

import gzip
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

from diffacet.errors import BadLog

GZIP = b"\x1f\x8b"
SUFFIXES = {
    "csv": (".csv", ".tsv", ".tab", ".txt", ".dat", ".inter"),
    "jsonl": (".jsonl", ".json", ".ndjson"),
    "parquet": (".parquet", ".pq"),
}
_REFUSED = {
    b"PK\x03\x04": "a zip archive; unpack it and pass the file inside",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it, or compress it with gzip",
    b"BZh": "compressed with bzip2; unpack it, or compress it with gzip",
    b"\xfd7zXZ": "compressed with xz; unpack it, or compress it with gzip",
    b"\x80\x02": "a pickle, which is never read because it can run code; export the log to CSV or Parquet",
    b"\x80\x03": "a pickle, which is never read because it can run code; export the log to CSV or Parquet",
    b"\x80\x04": "a pickle, which is never read because it can run code; export the log to CSV or Parquet",
    b"\x80\x05": "a pickle, which is never read because it can run code; export the log to CSV or Parquet",
    b"\xff\xfe": "in UTF-16, not UTF-8; re-encode it: iconv -f UTF-16 -t UTF-8 FILE > NEW",
    b"\xfe\xff": "in UTF-16, not UTF-8; re-encode it: iconv -f UTF-16 -t UTF-8 FILE > NEW",
}


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise BadLog(f"{path}: no such file; check the path") from error
    except IsADirectoryError as error:
        raise BadLog(f"{path} is a directory; pass a file") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadLog(f"{path}: damaged gzip file ({error}); download or compress it again") from error
    except OSError as error:
        raise BadLog(f"{path} cannot be read ({error.strerror or error}); check its permissions") from error


@contextmanager
def opened(path: Path) -> Iterator[BufferedIOBase]:
    """The open file, unpacked; raises BadLog when it is missing, damaged or cannot be read."""
    with _refusals(path), path.open("rb") as file:
        zipped = file.read(2) == GZIP or path.suffix == ".gz"
        file.seek(0)
        if zipped:
            with gzip.open(file) as unzipped:
                yield unzipped
        else:
            yield file


def _check(path: Path, start: bytes, *, empty: bool) -> None:
    if empty:
        raise BadLog(f"{path} is empty; a log needs a header and at least one row")
    for magic, words in _REFUSED.items():
        if start.startswith(magic):
            raise BadLog(f"{path} is {words}")


def read_bytes(path: Path) -> bytes:
    """The whole file, unpacked; raises BadLog when it is missing, damaged, empty or of a kind that is not read."""
    with _refusals(path):
        data = path.read_bytes()
        if data.startswith(GZIP) or (path.suffix == ".gz" and data):
            data = gzip.decompress(data)
    _check(path, data[:8], empty=not data or data.isspace())
    return data


def first_line(path: Path) -> bytes:
    """The first line without its end, unpacked; raises BadLog as `read_bytes` does."""
    with opened(path) as lines:
        line = b""
        for line in lines:
            if not line.isspace():
                break
    _check(path, line[:8], empty=not line or line.isspace())
    return line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")


@dataclass(frozen=True)
class Span:
    """Whole lines of a plain file: bytes `start` to `end`; `row` is the number of the first of them, from 1."""

    start: int
    end: int
    row: int


def blocks(path: Path, size: int = 2**25, *, quoted: bool = False, span: Span | None = None) -> Generator[bytes]:
    """The file, unpacked, in blocks of whole lines of about `size` bytes each.

    `quoted`: a line end between two double quotes ends no block. `span`: only these lines.
    """
    with opened(path) as lines:
        left = None if span is None else span.end - span.start
        if span is not None:
            lines.seek(span.start)
        while block := lines.read(size if left is None else min(size, left)):
            if not block.endswith(b"\n"):
                block += lines.readline()
            if quoted and block.count(b'"') % 2:
                more = [block]
                while line := lines.readline():
                    more.append(line)
                    if line.count(b'"') % 2:
                        break
                block = b"".join(more)
            left = None if left is None else max(left - len(block), 0)
            yield block


def zipped(path: Path) -> bool:
    """Whether the file is packed with gzip; raises BadLog when it cannot be read."""
    with _refusals(path), path.open("rb") as file:
        return file.read(2) == GZIP or path.suffix == ".gz"


def bare(path: Path) -> str:
    """The file's name in lower case without ".gz"."""
    return path.name.lower().removesuffix(".gz")


def kind(path: Path) -> str | None:
    """The form, "csv", "jsonl" or "parquet", by the file's name; None when the name does not say."""
    return next((name for name, ends in SUFFIXES.items() if bare(path).endswith(ends)), None)


def listing(paths: Iterable[Path]) -> list[Path]:
    """`paths` with every directory replaced by the files in it, sorted by name, hidden ones left out.

    Raises BadLog: no path, one that is not there, or a directory without files.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))
            if not inside:
                raise BadLog(f"{path} is a directory without files; pass a file or the directory that holds them")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise BadLog(f"{path}: no such file; check the path")
    if not files:
        raise BadLog("no file was given; pass one or more files, or a directory")
    return files
