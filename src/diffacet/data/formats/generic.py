"""Logs in no published form: CSV and its relatives, RecBole's atomic files, JSON lines, Parquet."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from diffacet.data.formats.delimited import with_header
from diffacet.data.formats.items import read_items
from diffacet.data.formats.jsonlines import with_keys
from diffacet.data.formats.parquet import with_schema
from diffacet.data.formats.raw import bare, first_line, kind
from diffacet.data.formats.source import Source, Table
from diffacet.errors import BadLog


def log_files(files: Sequence[Path]) -> list[Path]:
    """Of a directory's files those that are a log.

    They are `interactions.*`, else `*.inter`, where there are some; else all but `items.*`, `users.*` and `readme.*`.
    """
    known = [f for f in files if kind(f)]
    named = [f for f in known if stem(f) == "interactions"] or [f for f in known if bare(f).endswith(".inter")]
    return named or [f for f in known if stem(f) not in ("items", "users", "readme")]


def stem(path: Path) -> str:
    """The file's name in lower case without any suffix."""
    return bare(path).partition(".")[0]


def beside(files: Sequence[Path]) -> Path | None:
    """The item file beside a log: RecBole's `NAME.item` for `NAME.inter`, `items.*` for `interactions.*`."""
    first = files[0]
    if bare(first).endswith(".inter"):
        zipped = ".gz" if first.suffix == ".gz" else ""
        item = first.with_name(first.name.removesuffix(".gz")).with_suffix(".item" + zipped)
        return item if item.is_file() else None
    if stem(first) == "interactions":
        return next((f for f in sorted(first.parent.iterdir()) if stem(f) == "items" and kind(f)), None)
    return None


def csv(paths: Sequence[Path]) -> Source:
    """CSV, TSV and other separators with a header; RecBole's `*.inter`."""
    return _source("csv", paths, with_header)


def jsonl(paths: Sequence[Path]) -> Source:
    """One JSON object a line."""
    return _source("jsonl", paths, with_keys)


def parquet(paths: Sequence[Path]) -> Source:
    """Parquet."""
    return _source("parquet", paths, with_schema)


def _source(form: str, paths: Sequence[Path], open_: Callable[[Path], Table]) -> Source:
    files = of_kind(paths, form)
    items = beside(files)
    return Source(tuple(open_(f) for f in files), items=partial(read_items, items) if items else None)


def of_kind(paths: Sequence[Path], form: str) -> list[Path]:
    """The given files, and from directories those of one kind; raises BadLog when a directory has none."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))
            found = [f for f in log_files(inside) if kind(f) == form]
            if not found:
                raise BadLog(f"{path} holds no {form} file; pass the files themselves, or another --format")
            files += found
        else:
            files.append(path)
    return files


def looks_like(path: Path) -> str:
    """The form of one file, "csv", "jsonl" or "parquet", by the name and the first bytes of the file."""
    if kind(path) == "parquet":
        return "parquet"
    start = first_line(path)
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.lstrip()[:1] in (b"{", b"[") or kind(path) == "jsonl":
        return "jsonl"
    return "csv"
