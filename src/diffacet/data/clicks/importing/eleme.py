"""Ele.me's food orders (Tianchi 131047): files D1_0.csv, D3_1.csv and so on, each sample with its history inside.

The files have no header and 39 columns; lists inside a field are separated by ";". What is not documented is decided
once, from the first rows, and told: what times are, which columns are numbers, whether lists start with the latest.
"""

import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from diffacet import files
from diffacet.data import store
from diffacet.data.clicks import splitting
from diffacet.data.clicks.importing import eleme_rows, lines
from diffacet.data.clicks.importing.eleme_rows import ORDER, ZONE, Form, form_of
from diffacet.data.clicks.importing.folder import Progress, Report, figures, join, new, put
from diffacet.data.clicks.importing.lines import Tally
from diffacet.data.clicks.reading import ABOUT, SAMPLES
from diffacet.data.clicks.schema import BehaviourField, Schema
from diffacet.data.formats.raw import bare, listing
from diffacet.errors import BadLog, BadSetting, nearest

ORDERS = (ORDER, "oldest_first")

STATE = "state.json"
_NAME = re.compile(r"d(\d+)_(\d+)\.csv")
_ROWS = 2**16
_BLOCK = 2**27


@dataclass(frozen=True)
class Choice:
    """What to make of the files.

    Attributes:
        inline_order: what the lists start with, one of ORDERS.
        split: a rule of `splitting`; None: the last day that there is tests, the one before it validates.
        block: bytes that are read at once; what the data set holds does not depend on it.
    """

    inline_order: str = ORDER
    split: splitting.Rule | None = None
    block: int = _BLOCK

    def __post_init__(self) -> None:
        if self.inline_order not in ORDERS:
            close = nearest(self.inline_order, ORDERS)
            raise BadSetting(f"--inline-order is {' or '.join(ORDERS)}; got {self.inline_order!r}{close}")


def convert(
    paths: Sequence[Path],
    out: Path,
    choice: Choice,
    *,
    name: str,
    source: str = "",
    licence: str = "",
    progress: Progress | None = None,
) -> Report:
    """Write the click data set `out` from the parts in `paths`, whole or not at all; what was met is counted.

    Parts are read by day and number. A conversion that was killed goes on in its working folder beside `out` when it is
    called again.

    Raises:
        BadLog: a file is missing, its times are of no known form, more than 0.1 % of its rows are bad, or nothing is
            left.
        BadRun: another process is at it.
    """
    store.check_out(out)
    parts = _ordered(paths)
    work = out.with_name(f".{out.name}.parts")
    work.mkdir(parents=True, exist_ok=True)
    with files.held(work / "lock", f"the import to {out}"):
        form = form_of(parts[0])
        stats = [path.stat() for path in parts]
        marks = [f"{path.name} {stat.st_size} {stat.st_mtime_ns}" for path, stat in zip(parts, stats, strict=True)]
        state = _read(parts, form, choice, work, files.fingerprint(str(choice), str(form), *marks), progress)
        made = sorted(work.glob("*.parquet"))
        if not made:
            raise BadLog(f"{parts[0]} and the other files have no sound row; check that they are of this data set")
        found = Counter(state["found"])
        rule, told = _split(found, choice)
        schema = _schema(name, source, licence, rule)
        with new(out) as folder:
            join(made, folder / SAMPLES, _ROWS)
            files.write_json(folder / ABOUT, schema.to_json())
            size = figures(made, None)
        shutil.rmtree(work)
    tallies = [Tally.from_json(value) for value in state["tallies"]]
    counts = sum((tally.counts for tally in tallies), Counter[str]())
    notes = [note for path, tally in zip(parts, tallies, strict=True) for note in tally.note(path)]
    notes = [f"{sum(tally.rows for tally in tallies):,} rows read from {len(parts)} files", *notes, *told]
    notes += _findings(form, found, choice)
    counted = tuple((what, count) for what, count in counts.items() if count)
    return Report(out, schema, size, counted, tuple(notes), tuple(map(str, parts)), "eleme")


def _ordered(paths: Sequence[Path]) -> list[Path]:
    """The files by day and part; those that are called otherwise after them, by name."""
    found = listing(paths)

    def place(path: Path) -> tuple[int, int, int, str]:
        known = _NAME.fullmatch(bare(path))
        return (0, int(known[1]), int(known[2]), path.name) if known else (1, 0, 0, path.name)

    return sorted(found, key=place)


def _read(
    parts: Sequence[Path], form: Form, choice: Choice, work: Path, key: str, progress: Progress | None
) -> dict[str, Any]:
    """Turn the files block by block into Parquet files in `work`; goes on where a killed run of the same key ended."""
    state = _state(work, key)
    sizes = [path.stat().st_size for path in parts]
    while state["file"] < len(parts):
        place = state["file"]
        path = parts[place]
        if len(state["tallies"]) == place:
            state["tallies"].append(Tally().to_json())
        tally, found = Tally.from_json(state["tallies"][place]), Counter(state["found"])
        for block, end in lines.blocks(path, state["offset"], choice.block):
            rows = lines.split(block, eleme_rows.COLUMNS, state["line"], tally)
            frame = eleme_rows.samples(rows, form, path, tally, found, recent_first=choice.inline_order == ORDER)
            tally.check(path)
            if frame.height:
                put(frame, work / f"{state['parts']:06d}.parquet")
                state["parts"] += 1
            state |= {"offset": end, "line": state["line"] + lines.line_count(block), "found": dict(found)}
            state["tallies"][place] = tally.to_json()
            files.write_json(work / STATE, state)
            if progress is not None:
                progress(sum(sizes[:place]) + min(end, sizes[place]), sum(sizes))
        state |= {"file": place + 1, "offset": 0, "line": 1}
        files.write_json(work / STATE, state)
    return state


def _state(work: Path, key: str) -> dict[str, Any]:
    """How far the files were read before; from their start when they, or the choice, were others."""
    try:
        state = files.read_json(work / STATE)
    except (OSError, ValueError):
        state = {}
    if state.get("key") != key:
        state = {"key": key, "file": 0, "offset": 0, "line": 1, "parts": 0, "tallies": [], "found": {}}
    for part in work.glob("*.parquet"):
        if int(part.stem) >= state["parts"]:
            part.unlink()
    return state


def _split(found: Counter[str], choice: Choice) -> tuple[splitting.Rule, list[str]]:
    """The rule of the split, and what is told of it."""
    if choice.split is not None:
        return choice.split, []
    rows = {key.removeprefix("day "): count for key, count in found.items() if key.startswith("day ")}
    days = sorted(day for day, count in rows.items() if 1000 * count >= sum(rows.values()))
    if len(days) < 3:
        told = (
            f"split: the files have {len(days)} days, so 80 % of the samples train and 10 % validate, in order of time"
        )
        return {"by": "quantile", "train": 0.8, "valid": 0.1}, [told]
    valid, test = (splitting.midnight(date.fromisoformat(day), ZONE) for day in days[-2:])
    told = f"split: {days[-1]} tests and {days[-2]} validates, the last 2 of {len(days)} days"
    return {"by": "instant", "valid": valid, "test": test}, [told]


def _findings(form: Form, found: Counter[str], choice: Choice) -> list[str]:
    """What was decided about times, lists and columns, and what cannot be known."""
    up, down, flat = (found[name] for name in ("ages ascend", "ages descend", "ages neither"))
    agree, against = (up, down) if choice.inline_order == ORDER else (down, up)
    told = [f"times: {form.times}, by the first rows; days are Shanghai's"]
    if not up + down + flat:
        told.append(f"lists: read as {choice.inline_order}; no row has the ages that would show it")
    else:
        share = f"in {agree:,} of {up + down + flat:,} rows with 2 ages or more, against it in {against:,}"
        warning = "warning: " if against > agree else ""
        hint = "; pass the other --inline-order" if against > agree else ""
        told.append(f"{warning}lists: read as {choice.inline_order}; timediff_list agrees {share}{hint}")
    told.append(
        f"timediff_list: ages in {found['timediff ages']:,} rows, differences between neighbours in "
        f"{found['timediff differences']:,}, of another length in {found['timediff other']:,}; in buckets, no field"
    )
    told.append("histories came inside the rows: that they end before their showings cannot be checked")
    told.append(
        "ctr_30, ord_30 and rank_* are counted over windows whose end is not known: they may tell of later days"
    )
    return told


def _schema(name: str, source: str, licence: str, rule: splitting.Rule) -> Schema:
    """The meaning of the columns."""
    return Schema(
        name=name,
        source=source or "Tianchi 131047, food delivery of Ele.me",
        licence=licence,
        timezone=ZONE,
        history="inline",
        behaviour_times="order",
        group="user_id",
        behaviour_fields=tuple(BehaviourField(field, history, target) for field, target, history in eleme_rows.FIELDS),
        target_fields=eleme_rows.TARGET,
        user_fields=eleme_rows.USER,
        context_fields=eleme_rows.CONTEXT,
        split=rule,
    )
