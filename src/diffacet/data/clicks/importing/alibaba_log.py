"""Alibaba's behaviour log, some 700 million rows: into files by a hash of the user, then each file sorted.

Both steps keep their place in a working folder, so that a conversion that was killed goes on where it was.

    state.json    how far the log is read, how long each file was then, what was counted
    000.rows      rows of the users of one hash, as fixed records in the order of the log
    000.parquet   the same sorted by user and time, once the log is read
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diffacet import files
from diffacet.data import hashing
from diffacet.data.clicks.importing import lines
from diffacet.data.clicks.importing.folder import Progress, put
from diffacet.data.clicks.importing.lines import Lines, Tally
from diffacet.data.sequences import BoolArray, IntArray

COLUMNS = ("user", "time_stamp", "btag", "cate", "brand")
TAGS = ("pv", "cart", "fav", "buy")
ZONE = "Asia/Shanghai"
END = 1_494_691_200
"""2017-05-14 00:00 in Shanghai, in seconds: where the data end."""

DAYS = 22
STATE = "state.json"
_EMPTY = np.iinfo(np.int32).min
_ROW = np.dtype([("user", "<i8"), ("time", "<i4"), ("category", "<i4"), ("brand", "<i4"), ("tag", "i1")])
_SHARE = 2**24  # bytes of the log for each file
_MOST = 256


@dataclass(frozen=True)
class Log:
    """What to take from a behaviour log.

    Attributes:
        path: the file.
        tags: kinds of behaviour that are kept.
        chosen: which of the users (n,) are kept.
        key: changes when any of this, or the file, does.
        block: bytes that are read at once; the result does not depend on it.
    """

    path: Path
    tags: Sequence[str]
    chosen: Callable[[IntArray], BoolArray]
    key: str
    block: int = lines.BLOCK


def in_range(seconds: pl.Series, days: int, what: str, tally: Tally) -> pl.Series:
    """Whether times lie in the last `days` days of the data; the others are counted as `what`."""
    nothing, inside = seconds <= 0, (seconds >= END - days * 86_400) & (seconds < END)
    tally.counts[f"{what} at time 0 or before, dropped"] += int(nothing.sum())
    tally.counts[f"{what} outside the {days} days, dropped"] += int((~nothing & ~inside).sum())
    return inside


def convert(log: Log, work: Path, progress: Progress | None = None) -> tuple[list[Path], Tally]:
    """Parquet files with the sorted behaviours, one user in one of them; and what was counted.

    They have user_id, category_id, brand_id (Int64), behaviour_type (String), timestamp (Int64 milliseconds). What a
    killed run left in `work` is gone on with when it was of the same log and the same choice.
    """
    size = log.path.stat().st_size
    n = int(np.clip(size // _SHARE, 1, _MOST))
    tally = _scatter(log, work, n, size, progress)
    parts = []
    for place in range(n):
        rows, part = work / f"{place:03d}.rows", work / f"{place:03d}.parquet"
        if not part.exists() and rows.exists():
            put(_sorted(np.fromfile(rows, _ROW)), part)
        rows.unlink(missing_ok=True)
        parts += [part] if part.exists() else []
        if progress is not None:
            progress(size + (place + 1) * size // n, 2 * size)
    return parts, tally


def _scatter(log: Log, work: Path, n: int, size: int, progress: Progress | None) -> Tally:
    """Read the log from where it was left, and append its rows to the files of their users."""
    state = _state(work, log.key, n)
    tally = Tally.from_json(state["tally"])
    if state["done"]:
        return tally
    names = [work / f"{place:03d}.rows" for place in range(n)]
    for name, length in zip(names, state["sizes"], strict=True):
        with name.open("ab") as file:
            file.truncate(length)
    if not state["offset"]:
        state["offset"], state["line"] = lines.header(log.path, COLUMNS, tally), 2
    for block, end in lines.blocks(log.path, state["offset"], log.block):
        rows = _rows(lines.split(block, COLUMNS, state["line"], tally), log, tally)
        tally.check(log.path)
        owner = (hashing.mixed(rows["user"].astype(np.uint64)) % np.uint64(n)).astype(np.int64)
        order = np.argsort(owner, kind="stable")
        ends = np.searchsorted(owner[order], np.arange(n + 1))
        rows = rows[order]
        for place, name in enumerate(names):
            if ends[place] < ends[place + 1]:
                with name.open("ab") as file:
                    file.write(rows[ends[place] : ends[place + 1]].tobytes())
                state["sizes"][place] += int(ends[place + 1] - ends[place]) * _ROW.itemsize
        state |= {"offset": end, "line": state["line"] + lines.line_count(block), "tally": tally.to_json()}
        files.write_json(work / STATE, state)
        if progress is not None:
            progress(min(end, size), 2 * size)
    state |= {"done": True, "tally": tally.to_json()}
    files.write_json(work / STATE, state)
    return tally


def _state(work: Path, key: str, n: int) -> dict[str, Any]:
    """How far the log was read before; from its start when that was another log, or another choice."""
    try:
        state = files.read_json(work / STATE)
    except (OSError, ValueError):
        state = {}
    if state.get("key") == key:
        return state
    for old in [*work.glob("*.rows"), *work.glob("*.parquet")]:
        old.unlink()
    return {"key": key, "offset": 0, "line": 1, "sizes": [0] * n, "done": False, "tally": Tally().to_json()}


def _rows(part: Lines, log: Log, tally: Tally) -> NDArray[Any]:
    """The rows that are kept, as records in their order."""
    found, bad = {}, pl.Series([False]).new_from_index(0, part.frame.height)
    for name in ("user", "time_stamp", "cate", "brand"):
        found[name], wrong = lines.whole(part.frame[name], tally)
        bad = bad | wrong | (found[name].is_null() if name in ("user", "time_stamp") else found[name].abs() >= 2**31)
    bad = bad.fill_null(False)
    refuse(part, bad, tally)
    tag = part.frame["btag"].str.strip_chars().replace_strict(TAGS, range(len(TAGS)), default=None).cast(pl.Int8)
    unknown = ~bad & tag.is_null()
    tally.counts[f"behaviours of a kind other than {', '.join(TAGS)}, dropped"] += int(unknown.sum())
    frame = pl.DataFrame([*found.values(), tag]).filter(~bad & ~unknown)
    frame = frame.filter(in_range(frame["time_stamp"], DAYS, "behaviours", tally))
    asked = [TAGS.index(name) for name in log.tags]
    frame = frame.filter(pl.col("btag").is_in(asked))
    frame = frame.filter(pl.Series(log.chosen(frame["user"].to_numpy()), dtype=pl.Boolean))
    tally.counts["behaviours without a brand, kept"] += frame["brand"].null_count()
    rows = np.empty(frame.height, _ROW)
    rows["user"], rows["time"], rows["tag"] = frame["user"], frame["time_stamp"], frame["btag"]
    rows["category"], rows["brand"] = frame["cate"].fill_null(_EMPTY), frame["brand"].fill_null(_EMPTY)
    return rows


def refuse(part: Lines, bad: pl.Series, tally: Tally) -> None:
    """Count the rows of `part` that are `bad`, since a value of theirs is missing or no number."""
    rows = bad.arg_true()
    if len(rows):
        frame = part.frame[rows]
        told = zip(
            part.number[rows],
            frame.select(pl.concat_str(pl.all(), separator=",", ignore_nulls=True)).to_series(),
            strict=True,
        )
        tally.refuse(lines.UNREADABLE, [(number, repr(text[:60])) for number, text in told])


def _sorted(rows: NDArray[Any]) -> pl.DataFrame:
    """The rows by user and time, those of one moment in the order of the log."""
    rows = rows[np.lexsort((rows["time"], rows["user"]))]
    columns = {name: pl.Series(rows[name].astype(np.int64)) for name in ("category", "brand")}
    known = {name: pl.select(pl.when(column != _EMPTY).then(column)).to_series() for name, column in columns.items()}
    return pl.DataFrame(
        {
            "user_id": rows["user"],
            "category_id": known["category"],
            "brand_id": known["brand"],
            "behaviour_type": pl.Series(TAGS).gather(pl.Series(rows["tag"].astype(np.int64))),
            "timestamp": rows["time"].astype(np.int64) * 1000,
        }
    )
