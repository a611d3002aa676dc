"""Generated logs on disk: `diffacet synth`.

    DIR/interactions.00000.parquet   user_id, item_id, timestamp (seconds since 1970, UTC), maybe rating; by time
    DIR/items.parquet                item_id, title, categories
    DIR/truth/synth.json             every setting, and what was written
    DIR/truth/topics.parquet         the topics
    DIR/truth/items.00000.parquet    what is planted in the items
    DIR/truth/users.00000.parquet    what is planted in the users of the part of that number, one row an interest

`diffacet import DIR` reads the interactions as one log and finds the items; it does not look into truth/. While it is
being made all of it lies in .DIR.parts beside DIR, file by file, and becomes DIR at the end.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from diffacet import files
from diffacet.app import resuming
from diffacet.data import store
from diffacet.data.sequences import IntArray
from diffacet.data.synth.catalogue import Catalogue, ordered
from diffacet.data.synth.clicks import Block, draw_block
from diffacet.data.synth.naming import Names
from diffacet.data.synth.people import Activity
from diffacet.data.synth.settings import Settings
from diffacet.errors import BadLog, BadSetting

FORMAT = 1
PART_ROWS = 2_000_000
TRUTH, ABOUT, LOCK = "truth", "synth.json", ".lock"
_FAILURES = (OSError, pl.exceptions.PolarsError)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Written:
    """A log that was generated: where, of what, in how many parts, and how many rows earlier processes had made."""

    path: Path
    settings: Settings
    parts: int
    resumed: int


def synthesise(
    settings: Settings,
    out: Path | str,
    *,
    part_rows: int = PART_ROWS,
    parts: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Generate a log in the directory `out`, whole or not at all; part after part, each written when it is drawn.

    A part holds the clicks of a range of users, sorted by time. How the log is cut into parts does not change its rows;
    the same arguments give the same bytes (on one machine, with one version of NumPy and Polars).

    Args:
        settings: what decides the rows.
        out: the directory; new or empty.
        part_rows: rows of a part, about: parts are whole blocks of users.
        parts: how many parts, instead of `part_rows`.
        resume: go on with the parts that a killed process has left.
        progress: told (rows written, all rows).

    Raises:
        BadLog: `out` holds something or cannot be written, another process writes it, or what is left there is of
            another log.
        BadSetting: part_rows or parts is below 1.
    """
    out = Path(out)
    for name, value in (("part-rows", part_rows), ("parts", parts)):
        if value is not None and value < 1:
            raise BadSetting(f"{name} is 1 or more; got {value} (from --{name} {value})")
    store.check_out(out)
    rows = part_rows if parts is None else -(-settings.interactions // parts)
    told = {"format": FORMAT, "diffacet": metadata.version("diffacet"), "part_rows": rows} | settings.told()
    folder = out.with_name(f".{out.name}.parts")
    try:
        with files.held(folder / LOCK, f"the making of {out}"):
            _begin(folder, told, resume)
            try:
                return _write(settings, out, folder, rows, progress)
            finally:
                if not any(folder.glob("*.parquet")):
                    shutil.rmtree(folder, ignore_errors=True)
    except _FAILURES as error:
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or ["unknown"])[0]
        raise BadLog(
            f"{out} cannot be written ({reason}); make room, then give the same command with --resume: the parts that "
            "are finished stay"
        ) from error


def _begin(folder: Path, told: dict[str, Any], resume: bool) -> None:
    """Refuse what is left of another log, or of this one if `resume` is not said; write down what is being made."""
    about = folder / TRUTH / ABOUT
    if about.exists():
        if not resume:
            raise BadLog(
                f"{folder} holds parts of a log that was not finished; go on with it by --resume, or remove that "
                "directory to begin anew"
            )
        resuming.check_told(folder, f"{TRUTH}/{ABOUT}", told, "parts of another log", BadLog)
        return
    about.parent.mkdir(exist_ok=True)
    files.write_json(about, told)


def _write(s: Settings, out: Path, folder: Path, rows: int, progress: Progress | None) -> Written:
    tell = progress or (lambda _done, _all: None)
    activity = Activity(s)
    cut = _cut(activity.rows, rows)
    tell(0, s.interactions)
    catalogue = Catalogue(s)
    truth = folder / TRUTH
    _parquet(truth / "topics.parquet", catalogue.topics.frame())
    for number, chunk in enumerate(catalogue.truth()):
        _parquet(truth / f"items.{number:05}.parquet", chunk)
    _items(folder / "items.parquet", catalogue.describe())
    users = Names(s.users, s.ids, "u", s.seed)
    items = catalogue.names.series(np.arange(s.items))
    done = resumed = 0
    for number, blocks in enumerate(cut):
        part, planted = folder / f"interactions.{number:05}.parquet", truth / f"users.{number:05}.parquet"
        if part.exists() and planted.exists():
            resumed += int(activity.rows[blocks].sum())
        else:
            drawn = [draw_block(s, catalogue, activity, block) for block in range(blocks.start, blocks.stop)]
            _parquet(planted, pl.concat([_interests(s, users, block) for block in drawn]))
            _parquet(part, _by_time(s, users, items, drawn))
        done += int(activity.rows[blocks].sum())
        tell(done, s.interactions)
    if out.is_dir():
        out.rmdir()
    (folder / LOCK).unlink()
    folder.replace(out)
    return Written(out, s, len(cut), resumed)


def _cut(rows: IntArray, most: int) -> list[slice]:
    """Runs of blocks with `rows` (blocks,) each, of about `most` rows together, at least one block in each."""
    part = (np.cumsum(rows) - rows) // most
    edges = np.flatnonzero(np.diff(part, prepend=-1))
    return [slice(int(a), int(b)) for a, b in zip(edges, [*edges[1:], len(rows)], strict=True)]


def _by_time(s: Settings, users: Names, items: pl.Series, blocks: list[Block]) -> pl.DataFrame:
    """The clicks of some blocks as rows of the log; equal times in the order in which they were drawn."""
    time = np.concatenate([block.time for block in blocks])
    order, since = ordered(time - s.begin, 40)
    user = np.concatenate([block.first + block.user for block in blocks])[order]
    item = np.concatenate([block.item for block in blocks])[order]
    columns = {"user_id": users.series(user), "item_id": items.gather(item), "timestamp": since + s.begin}
    ratings = [block.rating for block in blocks if block.rating is not None]
    return pl.DataFrame(columns | ({"rating": np.concatenate(ratings)[order]} if ratings else {}))


def _interests(s: Settings, users: Names, block: Block) -> pl.DataFrame:
    """What is planted in the users of a block.

    user_id, topic, place, weight (share of the user's clicks that are no noise, on average over the life), first_weight
    and last_weight (at the ends of the life), begins and ends (moments at which the interest comes and goes).
    """
    people = block.people
    row, slot = np.nonzero(people.topic >= 0)
    begin = s.begin + people.birth[row] * s.days * 86_400
    life = people.life[row] * s.days * 86_400

    def moment(tau: Any) -> IntArray:
        return (begin + life * np.clip(tau[row, slot], 0.0, 1.0)).astype(np.int64)

    return pl.DataFrame(
        {
            "user_id": users.series(block.first + row),
            "topic": people.topic[row, slot],
            "place": people.place[row, slot],
            "weight": people.mean_weights(s.drift)[row, slot],
            "first_weight": people.weights(0.0, s.drift)[row, slot],
            "last_weight": people.weights(1.0, s.drift)[row, slot],
            "begins": moment(people.begins),
            "ends": moment(people.ends),
        }
    )


def _parquet(path: Path, frame: pl.DataFrame) -> None:
    files.write_file(path, lambda at: frame.write_parquet(at, compression="zstd", compression_level=1))


def _items(path: Path, chunks: Iterable[pl.DataFrame]) -> None:
    """All chunks as one file, in their order; only one of them is in memory."""
    if path.exists():
        return
    pieces = list(_pieces(path, chunks))
    try:
        whole = pl.scan_parquet(pieces)
        files.write_file(path, lambda at: whole.sink_parquet(at, compression="zstd", maintain_order=True))
    finally:
        for piece in pieces:
            piece.unlink(missing_ok=True)


def _pieces(path: Path, chunks: Iterable[pl.DataFrame]) -> Iterator[Path]:
    for number, chunk in enumerate(chunks):
        piece = path.with_name(f".{path.name}.{number:05}")
        chunk.write_parquet(piece, compression="lz4")
        yield piece
