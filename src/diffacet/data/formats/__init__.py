"""The forms in which logs are published, and which of them a file is in.

One module a form: it says which files are the log, what their columns are called and where the items are described.
`read_raw` reads any of them; `sniff` tells which one it is by name and first line.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from diffacet.data.formats import amazon, dreamrec, generic, gowalla, kuairec, movielens, yelp, yoochoose
from diffacet.data.formats.assemble import assemble
from diffacet.data.formats.raw import bare, first_line, kind, listing
from diffacet.data.formats.source import Names, RawLog, Source
from diffacet.errors import BadLog, nearest

FORMATS: dict[str, Callable[[Sequence[Path]], Source]] = {
    "csv": generic.csv,
    "jsonl": generic.jsonl,
    "parquet": generic.parquet,
    "amazon": amazon.source,
    "gowalla": gowalla.source,
    "movielens": movielens.source,
    "yelp": yelp.source,
    "yoochoose": yoochoose.source,
    "kuairec": kuairec.source,
    "dreamrec": dreamrec.source,
}
_ITEM_FILES = re.compile(r"meta_.*|u\.item|movies\.(dat|csv)|.*business.*\.json|item_categories\.csv|.*\.item")


def read_raw(
    format: str,  # noqa: A002
    paths: Sequence[Path],
    *,
    names: Names = Names(),  # noqa: B008
    items: Path | None = None,
) -> RawLog:
    """The log in `paths` (files or directories) in one of FORMATS, or "auto"; `names` overrides the format's columns.

    Raises BadLog, with file and row where there is one.
    """
    source, found = source_of(format, paths)
    return assemble(source, names, items, found)


def source_of(format: str, paths: Sequence[Path]) -> tuple[Source, str]:  # noqa: A002
    """The tables in `paths`, of which no more than the heads are read, and their format, never "auto".

    Raises BadLog: as `read_raw` does for what the heads show.
    """
    if format == "auto":
        format = sniff(paths)  # noqa: A001
    if format not in FORMATS:
        raise BadLog(f"unknown format '{format}'{nearest(format, FORMATS)}; formats are auto, {', '.join(FORMATS)}")
    listing(paths)
    return FORMATS[format](paths), format


def sniff(paths: Sequence[Path]) -> str:
    """The format of `paths`, by file names and first lines, never "auto"; raises BadLog when they are of several."""
    files = listing(paths)
    named = {bare(f) for f in files}
    if named & {*dreamrec.FILES}:
        return "dreamrec"
    if any(path.is_dir() for path in paths):
        if named & set(kuairec.LOGS):
            return "kuairec"
        if named & {"u.data", "ratings.dat"} or {"ratings.csv", "movies.csv"} <= named:
            return "movielens"
        if "train.txt" in named and _by_line(next(f for f in files if bare(f) == "train.txt")) == "gowalla":
            return "gowalla"
        files = generic.log_files(files) or files
        reviews = [f for f in files if "review" in bare(f) and kind(f) == "jsonl"]
        files = reviews or files
    files = [f for f in files if not _ITEM_FILES.fullmatch(bare(f))] or files
    found = {f: _by_line(f) for f in files}
    if len(set(found.values())) > 1:
        first, second = list(dict.fromkeys(found.values()))[:2]
        one, two = (next(f for f, form in found.items() if form == name) for name in (first, second))
        raise BadLog(f"{one} looks like {first} but {two} like {second}; pass files of one form, or --format")
    return next(iter(found.values()))


def _by_line(path: Path) -> str:
    form = generic.looks_like(path)
    if form == "parquet" or bare(path).endswith(".inter"):
        return form
    line = first_line(path).decode("utf-8", "replace")
    if form == "jsonl":
        if '"review_id"' in line and '"business_id"' in line:
            return "yelp"
        return "amazon" if '"reviewerID"' in line and '"asin"' in line else "jsonl"
    if amazon.USER_FIRST.fullmatch(line) or amazon.ITEM_FIRST.fullmatch(line):
        return "amazon"
    if yoochoose.EVENT.fullmatch(line):
        return "yoochoose"
    if gowalla.CHECK_IN.fullmatch(line) or gowalla.BASKET.fullmatch(line):
        return "gowalla"
    if "video_id" in line and "watch_ratio" in line:
        return "kuairec"
    rating = re.fullmatch(r"\d+(::|\t)\d+\1[\d.]+\1\d+", line)
    return "movielens" if rating or line.startswith("userId,movieId,") else "csv"
