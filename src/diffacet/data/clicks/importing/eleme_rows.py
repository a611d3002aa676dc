"""The rows of Ele.me's files: 39 columns into samples with their lists, oldest first."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from diffacet.data.clicks.importing import lines
from diffacet.data.clicks.importing.lines import Lines, Tally
from diffacet.data.formats.delimited import shorten
from diffacet.errors import BadLog

ZONE = "Asia/Shanghai"
ORDER = "recent_first"
USER = ("user_id", "gender", "visit_city", "avg_price", "is_supervip", "ctr_30", "ord_30", "total_amt_30")
_ITEM = (
    *("shop_id", "item_id", "city_id", "district_id", "shop_aoi_id", "shop_geohash_6", "shop_geohash_12"),
    *("brand_id", "category_1_id", "merge_standard_food_id", "rank_7", "rank_30", "rank_90"),
)
_LISTS = (
    *("shop_id_list", "item_id_list", "category_1_id_list", "merge_standard_food_id_list", "brand_id_list"),
    *("price_list", "shop_aoi_id_list", "shop_geohash6_list", "timediff_list", "hours_list", "time_type_list"),
    "weekdays_list",
)
COLUMNS = ("label", *USER, *_ITEM, *_LISTS, "times", "hours", "time_type", "weekdays", "geohash12")
FIELDS = (
    ("shop", "shop_id", "shop_id_list"),
    ("item", "item_id", "item_id_list"),
    ("category", "category_1_id", "category_1_id_list"),
    ("aoi", "shop_aoi_id", "shop_aoi_id_list"),
    ("hour", "hours", "hours_list"),
)
"""The fields of a behaviour, as in the authors' code: name, column of the target, list of the history."""

CONTEXT = ("time_type", "weekdays", "geohash12")
TARGET = tuple(name for name in _ITEM if name not in {target for _, target, _ in FIELDS})
BUCKETS = "timediff_bucket_list"
HEAD = 1000
_MOST = 0.9
LISTS_DIFFER = "rows whose lists differ in length, dropped"
GENDER = "genders that are empty or not positive, unknown"

_WHOLE = re.compile(r"-?\d{1,18}")
_SECONDS = (10**9, 4 * 10**9)  # 2001 to 2096
_CLOCK = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2})?$"

TimesForm = Literal["epoch seconds", "epoch milliseconds", "dates with a clock"]


@dataclass(frozen=True)
class Form:
    """What the first rows say of the files: what `times` are, and which columns hold whole numbers only, sorted."""

    times: TimesForm
    whole: tuple[str, ...]


def form_of(path: Path) -> Form:
    """The form of the files, by the first 1,000 rows of the first; raises BadLog when times are of no known form."""
    block, _ = next(lines.blocks(path, 0, 2**24), (b"", 0))
    rows = lines.split(block, COLUMNS, 1, Tally())
    head = rows.frame.head(HEAD)
    if not head.height:
        raise BadLog(
            f"{path} has no row of {len(COLUMNS)} fields; the files of this data set have no header and commas"
        )
    shares = {name: _plain(head[name]) for name in head.columns}
    # The ids decide by most of their values: a damaged one makes a bad row, and not a column of text.
    pairs = [("user_id",), *((target, history) for _, target, history in FIELDS)]
    ids = {name for pair in pairs for name in pair if all(shares[one] > _MOST for one in pair)}
    rest = {name for name, share in shares.items() if share == 1} - {name for pair in pairs for name in pair}
    return Form(_times_form(head["times"], rows, path), tuple(sorted((ids | rest) - {"times", "label"})))


def _plain(column: pl.Series) -> float:
    """The share of values, or of entries of lists, that are whole numbers; 1 where all are empty."""
    parts = column.drop_nulls().str.split(";").explode().str.strip_chars()
    whole = parts.filter(parts != "").str.contains(rf"^{_WHOLE.pattern}$")
    return float(np.mean(whole.to_numpy())) if len(whole) else 1.0


def _times_form(column: pl.Series, rows: Lines, path: Path) -> TimesForm:
    number = column.cast(pl.Int64, strict=False)
    low, high = _SECONDS
    tests: dict[TimesForm, pl.Series] = {
        "epoch seconds": (number >= low) & (number < high),
        "epoch milliseconds": (number >= 1000 * low) & (number < 1000 * high),
        "dates with a clock": column.str.contains(_CLOCK),
    }
    best = max(tests, key=lambda name: int(tests[name].fill_null(False).sum()))
    wrong = ~tests[best].fill_null(False)
    if wrong.any():
        index = wrong.arg_max() or 0
        raise _no_time(path, int(rows.number[index]), column[index])
    return best


def _no_time(path: Path, row: int, value: str | None) -> BadLog:
    return BadLog(
        f"{path}, row {row}: times is {shorten(value)}; all rows of all files have epoch seconds, or all "
        "milliseconds, or all dates such as 2022-04-01 12:30:00 (in Shanghai); correct or drop the row"
    )


def samples(
    rows: Lines, form: Form, path: Path, tally: Tally, found: Counter[str], *, recent_first: bool
) -> pl.DataFrame:
    """The samples in `rows`: user_id, item_id, timestamp, label, further columns, lists oldest first.

    Bad rows are counted in `tally`; `found` counts the days, and what timediff_list shows.

    Raises:
        BadLog: a time is not of the form of the first rows.
    """
    frame = rows.frame.with_columns(pl.all().str.strip_chars()).with_columns(pl.all().replace({"": None}))
    frame = frame.with_columns(rows.number.alias("number"))
    frame = _numbered(frame, form, tally)
    frame = frame.with_columns(_timestamp(frame, form, path))
    frame = _listed(frame, form, tally)
    unknown = frame["gender"].is_null() | (frame["gender"].cast(pl.Float64, strict=False) <= 0).fill_null(False)
    tally.counts[GENDER] += int(unknown.sum())
    frame = frame.with_columns(pl.when(~unknown).then(pl.col("gender")).alias("gender"))
    frame = frame.with_columns(_ages(frame, found))
    day = pl.from_epoch("timestamp", time_unit="ms").dt.replace_time_zone("UTC").dt.convert_time_zone(ZONE).dt.date()
    for each, count in frame.group_by(day.alias("day")).len().sort("day").rows():
        found[f"day {each}"] += count
    histories = [history for _, _, history in FIELDS]
    if recent_first:
        frame = frame.with_columns(pl.col(*histories, BUCKETS).list.reverse())
    first = ("user_id", "item_id", "timestamp", "label")
    rest = [name for name in (*USER, *_ITEM, "hours", *CONTEXT) if name not in first]
    return frame.select(*first, *rest, *histories, BUCKETS)


def _numbered(frame: pl.DataFrame, form: Form, tally: Tally) -> pl.DataFrame:
    """The sound rows with whole numbers as Int64; the others, counted, are left out."""
    label = frame["label"].cast(pl.Float64, strict=False)
    bad = ~label.is_in([0.0, 1.0]).fill_null(False) | frame["user_id"].is_null() | frame["item_id"].is_null()
    columns = [label.cast(pl.Int8, strict=False)]
    for name in form.whole:
        if name in _LISTS:
            continue
        column, wrong = lines.whole(frame[name], tally)
        columns.append(column)
        bad = bad | wrong
    told = frame.filter(bad).select("number", pl.concat_str(pl.exclude("number"), separator=",", ignore_nulls=True))
    tally.refuse(lines.UNREADABLE, [(number, shorten(text)) for number, text in told.rows()])
    return frame.with_columns(columns).filter(~bad)


def _timestamp(frame: pl.DataFrame, form: Form, path: Path) -> pl.Series:
    """Int64 milliseconds in UTC; raises BadLog for a time of another form."""
    text = frame["times"]
    low, high = (bound * (1000 if form.times == "epoch milliseconds" else 1) for bound in _SECONDS)
    if form.times == "dates with a clock":
        clock = pl.when(text.str.len_chars() == 16).then(text + ":00").otherwise(text).str.replace("T", " ")
        found = pl.select(clock.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="ms", strict=False)).to_series()
        found = found.dt.replace_time_zone(ZONE, ambiguous="earliest", non_existent="null").dt.epoch("ms")
    else:
        found = text.cast(pl.Int64, strict=False)
        found = pl.select(pl.when((found >= low) & (found < high)).then(found)).to_series()
        found = found * (1000 if form.times == "epoch seconds" else 1)
    if found.null_count():
        index = found.is_null().arg_max() or 0
        raise _no_time(path, int(frame["number"][index]), text[index])
    return found.alias("timestamp")


def _listed(frame: pl.DataFrame, form: Form, tally: Tally) -> pl.DataFrame:
    """The rows whose lists are of one length, with lists; the others, counted, are left out."""
    parsed = [_lists(frame[history], history in form.whole) for _, _, history in FIELDS]
    lengths = [column.list.len() for column in parsed]
    same = pl.Series(np.logical_and.reduce([(length == lengths[0]).to_numpy() for length in lengths]))
    nulls = [column.list.eval(pl.element().is_null()).list.sum().fill_null(0) for column in parsed]
    extra = [count > _empty(frame[name]) for count, (_, _, name) in zip(nulls, FIELDS, strict=True)]
    unread = pl.Series(np.logical_or.reduce([each.to_numpy() for each in extra]))
    told = frame.filter(~same)["number"].to_list()
    tally.refuse(LISTS_DIFFER, [(number, "lists of different lengths") for number in told])
    numbers = frame.filter(same & unread)["number"].to_list()
    tally.refuse(lines.UNREADABLE, [(number, "a list with an entry that is no number") for number in numbers])
    ages = _lists(frame["timediff_list"], True).alias("timediff_list")
    return frame.with_columns(*parsed, ages).filter(same & ~unread)


def _lists(column: pl.Series, whole: bool) -> pl.Series:
    """Lists of the parts between ";", null for an empty part, no part where the field is empty."""
    parts = column.str.split(";").fill_null([]).list.eval(pl.element().str.strip_chars())
    if whole:
        return parts.cast(pl.List(pl.Int64), strict=False)
    return parts.list.eval(pl.element().replace({"": None, "NULL": None}))


def _empty(column: pl.Series) -> pl.Series:
    """How many parts of each list are empty."""
    parts = column.str.split(";").fill_null([])
    return parts.list.eval(pl.element().str.strip_chars().is_in(["", "NULL"])).list.sum().fill_null(0)


def _ages(frame: pl.DataFrame, found: Counter[str]) -> pl.Series:
    """timediff_list in buckets, as long as the other lists, or null; and what it shows, counted.

    Bucket 0 is below a minute, 1 below 2, 2 below 4 and so on: the bit length of the whole minutes.
    """
    ages = frame["timediff_list"]
    length, own = frame[FIELDS[0][2]].list.len().cast(pl.Int64), ages.list.len().cast(pl.Int64)
    kept = length > 0
    whole, one_less = kept & (own == length), kept & (own == length - 1)
    found["timediff ages"] += int(whole.sum())
    found["timediff differences"] += int(one_less.sum())
    found["timediff other"] += int((kept & ~whole & ~one_less).sum())
    steps = ages.filter(whole & (length > 1)).list.eval(pl.element().filter(pl.element() >= 0).diff().drop_nulls())
    low, high = steps.list.min().fill_null(0), steps.list.max().fill_null(0)
    found["ages ascend"] += int(((low >= 0) & (high > 0)).sum())
    found["ages descend"] += int(((low < 0) & (high <= 0)).sum())
    found["ages neither"] += int((~((low >= 0) & (high > 0)) & ~((low < 0) & (high <= 0))).sum())
    table = pl.DataFrame({"ages": ages, "whole": whole, "less": one_less, "empty": ~kept})
    zero = pl.lit(0, pl.Int64)
    full = (
        pl.when("whole")
        .then("ages")
        .when("less")
        .then(pl.concat_list(zero, "ages"))
        .when("empty")
        .then(pl.lit([], pl.List(pl.Int64)))
    )
    minute = pl.element() // 60_000
    bucket = pl.sum_horizontal([(minute >= 2**k).cast(pl.Int8) for k in range(24)])
    return table.select(full.list.eval(pl.when(pl.element() >= 0).then(bucket)).alias(BUCKETS)).to_series()
