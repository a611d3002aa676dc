"""MovieLens: 100K (`u.data`, `u.item`), 1M and 10M (`ratings.dat`, `movies.dat`), later ones (`ratings.csv`)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import polars as pl

from diffacet.data.formats.delimited import Delimited, shorten, with_header
from diffacet.data.formats.items import from_table
from diffacet.data.formats.raw import bare, first_line, listing
from diffacet.data.formats.source import Items, Names, Source, Table
from diffacet.errors import BadLog

LOGS = {"u.data": "u.item", "ratings.dat": "movies.dat", "ratings.csv": "movies.csv"}
GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_NAMES = ("user_id", "item_id", "rating", "timestamp")


def source(paths: Sequence[Path]) -> Source:
    """The ratings, with titles and genres when the file of the films lies beside them."""
    files = listing(paths)
    if any(path.is_dir() for path in paths):
        files = next(([f for f in files if bare(f) == name] for name in LOGS if name in map(bare, files)), [])
        if not files:
            raise BadLog(f"{paths[0]} holds none of {', '.join(LOGS)}; pass the directory that does")
    files = [f for f in files if bare(f) not in LOGS.values()] or files
    films = _films(files[0])
    return Source(
        tuple(_table(f) for f in files),
        Names() if bare(files[0]).endswith(".csv") else Names(*(_NAMES[i] for i in (0, 1, 3, 2))),
        items=partial(_items, films) if films else None,
    )


def _table(path: Path) -> Table:
    line = first_line(path).decode("utf-8", "replace")
    if line.count("::") == 3:
        return Delimited(path, _NAMES, "::", header=False, quotes=False)
    if line.count("\t") == 3:
        return Delimited(path, _NAMES, "\t", header=False, quotes=False)
    if "," in line and not line[0].isdigit():
        return with_header(path)
    raise BadLog(
        f"{path}, row 1: {shorten(line)} is no MovieLens rating (user, item, rating, time, separated by tabs or '::'); "
        "pass --format csv if the file has a header"
    )


def _films(log: Path) -> Path | None:
    name = LOGS.get(bare(log))
    found = [log.with_name(name), log.with_name(name + ".gz")] if name else []
    return next((path for path in found if path.is_file()), None)


def _items(path: Path) -> Items:
    """Titles and genres; Latin-1 where the file is not UTF-8 (100K and 1M are not, 10M is)."""
    if bare(path) == "movies.csv":
        return _without_none(from_table(with_header(path), path, split="|"))
    if bare(path) == "movies.dat":
        table = Delimited(path, ("item_id", "title", "genres"), "::", header=False, quotes=False, encoding="latin-1")
        return _without_none(from_table(table, path, split="|"))
    names = ("item_id", "title", "released", "video", "url", *GENRES)
    frame = Delimited(path, names, "|", header=False, quotes=False, encoding="latin-1").read(names).frame
    flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in GENRES[1:]]
    return Items(frame.select("item_id", "title", categories=pl.concat_list(flags).list.drop_nulls()), path)


def _without_none(items: Items) -> Items:
    genres = pl.element().filter(pl.element() != "(no genres listed)")
    return Items(items.frame.with_columns(pl.col("categories").list.eval(genres)), items.path)
