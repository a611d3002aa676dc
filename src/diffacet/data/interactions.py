"""The columnar log: who met which item when, with ids turned into numbers once."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl

from diffacet.arrays import distinct
from diffacet.data.ids import Ids
from diffacet.data.sequences import BoolArray, IntArray, Sequences
from diffacet.errors import BadLog

Times = Literal["real", "rank"]
PARTS = ("train", "valid", "test")
"""The parts of a log that carries its own split; their numbers are their places."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """A log of interactions, with users 0..U - 1 and items 1..N.

    Attributes:
        frame: user (Int64 number), item (Int64 number), time (Int64), maybe rating (Float64), maybe part (Int64,
            a place in PARTS); sorted by user and time, ties in the order in which they were read.
        users: the users' ids, by number: the order of first appearance.
        items: the items' ids, by number: the catalogue.
        titles: (N,) Utf8 by item number, row 0 being item 1; or None.
        categories: (N,) List[Utf8] by item number, never null, maybe empty; or None.
        times: "real", or "rank" when a time only counts a user's interactions: 0, 1, 2, ...
    """

    frame: pl.DataFrame
    users: Ids
    items: Ids
    titles: pl.Series | None = None
    categories: pl.Series | None = None
    times: Times = "real"

    @classmethod
    def from_frame(
        cls,
        frame: pl.DataFrame,
        items: pl.DataFrame | None = None,
        *,
        catalogue: bool = False,
        times: Times | None = None,
        parts: bool = False,
    ) -> "Interactions":
        """The log of `frame`, with ids turned into numbers.

        Args:
            frame: user_id, item_id (integers or strings), timestamp (integers), maybe rating (numbers); any order.
            items: item_id, maybe title (Utf8) and categories (a list of strings or numbers); the first row of an
                item counts, and rows of items that are not in the catalogue are ignored.
            catalogue: item numbers are the rows of `items`, in that order. Otherwise the catalogue is what occurs
                in `frame`, numbered by descending count, ties by first appearance (as ComiRec and REMI do).
            times: what the timestamps are; None finds out: ranks, if each user's are exactly 0, 1, 2, ...
            parts: the column `part` of `frame` (train, valid or test) is the log's own split; otherwise it is ignored.

        Raises:
            BadLog: a column is missing or of the wrong type, an id or time is missing, or there is no row.
        """
        log = _checked(frame, parts)
        details = None if items is None else _checked_items(items)
        users = log["user_id"].unique(maintain_order=True)
        if not catalogue:
            names = _by_count(log["item_id"])
        elif details is None:
            raise BadLog("a catalogue was asked for without a table of items")
        else:
            names = _same_type(details["item_id"], log["item_id"].dtype)
            if names.n_unique() < len(names):
                twice = names.filter(names.is_duplicated())[0]
                raise BadLog(f"item_id {twice} occurs more than once among the items; a catalogue holds each item once")
        numbered = pl.DataFrame(
            {
                "user": _numbered(log["user_id"], users, 0),
                "item": _numbered(log["item_id"], names, 1),
                "time": log["timestamp"],
            }
        ).with_columns(log[name] for name in ("rating", "part") if name in log.columns)
        if numbered["item"].null_count():
            stray = log["item_id"].filter(numbered["item"].is_null()).unique(maintain_order=True)
            raise BadLog(f"{len(stray)} items of the log are not in the catalogue, such as {stray[0]}")
        numbered = numbered.sort("user", "time", maintain_order=True).rechunk()
        titles, categories = (None, None) if details is None else _described(details, names)
        return cls(numbered, Ids(users, 0), Ids(names, 1), titles, categories, times or _kind_of_times(numbered))

    @property
    def n_users(self) -> int:
        """U; each has at least one interaction."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """N, the size of the catalogue; an item may have no interaction."""
        return len(self.items)

    def __len__(self) -> int:
        """The number of interactions."""
        return len(self.frame)

    def column(self, name: str) -> IntArray:
        """The column user, item, time or part: (n,) int64, read-only."""
        return self.frame[name].to_numpy()

    @property
    def has_parts(self) -> bool:
        """Whether the log carries its own split."""
        return "part" in self.frame.columns

    @property
    def parts_divide_users(self) -> bool:
        """Whether the log carries its own split, and each user's interactions are all in one part of it."""
        return self.has_parts and self.first_divided_user() is None

    def first_divided_user(self) -> int | None:
        """The first user, by number, with interactions in two parts; None when there is none. Needs parts."""
        user, part = self.column("user"), self.column("part")
        divided = np.flatnonzero((user[1:] == user[:-1]) & (part[1:] != part[:-1]))
        return int(user[divided[0]]) if len(divided) else None

    def with_parts(self, part: IntArray) -> "Interactions":
        """The log with a split of its own: `part` (n,) int64, each row's place in PARTS."""
        return replace(self, frame=self.frame.with_columns(pl.Series("part", part, dtype=pl.Int64)))

    def sequences(self) -> Sequences:
        """The users' items and times, row u being user u."""
        return Sequences.from_rows(self.column("user"), self.column("item"), self.column("time"), self.n_users)

    def restrict(self, rows: BoolArray, items: BoolArray | None = None) -> "Interactions":
        """The log of some rows: users without a row leave, and the others move up, all orders kept.

        Args:
            rows: (n,) bool, the interactions that stay.
            items: (N,) bool, the items that stay in the catalogue; None: all. They must cover `rows`.
        """
        kept = self.frame.filter(pl.Series(rows))
        stay = np.bincount(kept["user"].to_numpy(), minlength=self.n_users) > 0
        keep = np.ones(self.n_items, dtype=np.bool_) if items is None else items
        user, item = np.cumsum(stay) - 1, np.concatenate([[0], np.cumsum(keep)])
        kept = kept.with_columns(
            pl.Series("user", user[kept["user"].to_numpy()], dtype=pl.Int64),
            pl.Series("item", item[kept["item"].to_numpy()], dtype=pl.Int64),
        )
        mask = pl.Series(keep)
        return replace(
            self,
            frame=kept.rechunk(),
            users=Ids(self.users.values.filter(pl.Series(stay)), 0),
            items=Ids(self.items.values.filter(mask), 1),
            titles=None if self.titles is None else self.titles.filter(mask),
            categories=None if self.categories is None else self.categories.filter(mask),
        )

    def statistics(self) -> dict[str, Any]:
        """Plain numbers that describe the log.

        users, items, interactions; pairs (distinct user-item pairs), repeated_pairs (interactions beyond the first
        of their pair), density = pairs / (users * items); per_user and per_item (interactions: min, median, mean,
        max; items without any count as 0); first_time, last_time, times ("real" or "rank"); with_categories (share
        of the items that have one), categories (how many distinct ones). No category at all: 0.0 and 0. A log with
        a split of its own: parts (interactions of each).
        """
        user, item = self.column("user"), self.column("item")
        pairs = len(distinct(user * (self.n_items + 1) + item))
        lists = self.categories
        parts = np.bincount(self.column("part"), minlength=len(PARTS)).tolist() if self.has_parts else []
        return {
            "users": self.n_users,
            "items": self.n_items,
            "interactions": len(self),
            "pairs": pairs,
            "repeated_pairs": len(self) - pairs,
            "density": pairs / (self.n_users * self.n_items),
            "per_user": _spread(np.bincount(user, minlength=self.n_users)),
            "per_item": _spread(np.bincount(item, minlength=self.n_items + 1)[1:]),
            "first_time": int(self.column("time").min()),
            "last_time": int(self.column("time").max()),
            "times": self.times,
            "with_categories": 0.0 if lists is None else float((lists.list.len() > 0).sum()) / self.n_items,
            "categories": 0 if lists is None else lists.explode().drop_nulls().n_unique(),
            **({"parts": dict(zip(PARTS, parts, strict=True))} if parts else {}),
        }


def _spread(counts: IntArray) -> dict[str, float | int]:
    return {
        "min": int(counts.min()),
        "median": float(np.median(counts)),
        "mean": float(counts.mean()),
        "max": int(counts.max()),
    }


def _need(frame: pl.DataFrame, *names: str) -> None:
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise BadLog(f"column {missing[0]!r} is missing; the columns are {', '.join(frame.columns) or 'none'}")


def _refuse_nulls(column: pl.Series) -> None:
    if column.null_count():
        first = column.is_null().arg_max()
        raise BadLog(f"{column.name} is missing in {column.null_count()} rows, first in row {(first or 0) + 1}")


def _ids(column: pl.Series) -> pl.Series:
    if isinstance(column.dtype, pl.Categorical | pl.Enum):
        column = column.cast(pl.Utf8)
    if not (column.dtype.is_integer() or column.dtype == pl.Utf8):
        raise BadLog(f"{column.name} must hold integers or strings, not {column.dtype}; cast it")
    _refuse_nulls(column)
    return column


def _checked(frame: pl.DataFrame, parts: bool) -> pl.DataFrame:
    """`frame` with user_id, item_id, timestamp (Int64), rating if there (Float64, null for NaN), part if asked."""
    _need(frame, "user_id", "item_id", "timestamp", *(["part"] if parts else []))
    if not len(frame):
        raise BadLog("there is no interaction (0 rows)")
    time = frame["timestamp"]
    if not time.dtype.is_integer():
        raise BadLog(f"timestamp must hold integers (such as seconds since 1970), not {time.dtype}; cast it")
    _refuse_nulls(time)
    try:
        columns = [_ids(frame["user_id"]), _ids(frame["item_id"]), time.cast(pl.Int64)]
    except pl.exceptions.InvalidOperationError:
        raise BadLog(f"timestamp {time.max()!r} does not fit into 64 bits with a sign") from None
    if "rating" in frame.columns:
        rating = frame["rating"]
        if not rating.dtype.is_numeric():
            raise BadLog(f"rating must hold numbers, not {rating.dtype}; cast or drop it")
        columns.append(rating.cast(pl.Float64).fill_nan(None))
    if parts:
        places = pl.Series(range(len(PARTS)), dtype=pl.Int64)
        part = frame["part"].cast(pl.Utf8).replace_strict(pl.Series(PARTS), places, default=None, return_dtype=pl.Int64)
        if part.null_count():
            raise BadLog(f"part is {', '.join(PARTS)}; got {frame['part'].filter(part.is_null())[0]!r}")
        columns.append(part.alias("part"))
    return pl.DataFrame(columns)


def _checked_items(items: pl.DataFrame) -> pl.DataFrame:
    """`items` with item_id and, if there, title (Utf8) and categories (List[Utf8], neither null nor with nulls)."""
    _need(items, "item_id")
    columns = [_ids(items["item_id"])]
    if "title" in items.columns:
        if items["title"].dtype.is_nested():
            raise BadLog(f"title must hold strings, not {items['title'].dtype}")
        columns.append(items["title"].cast(pl.Utf8))
    if "categories" in items.columns:
        lists = items["categories"]
        if not isinstance(lists.dtype, pl.List | pl.Array) or lists.explode().dtype.is_nested():
            raise BadLog(f"categories must hold a list of strings for each item, not {lists.dtype}")
        texts = lists.cast(pl.List(pl.Utf8)).list.drop_nulls()
        columns.append(texts.fill_null(pl.Series([[]], dtype=pl.List(pl.Utf8))))
    return pl.DataFrame(columns)


def _by_count(column: pl.Series) -> pl.Series:
    """The distinct values by descending count, ties by first appearance."""
    counts = pl.DataFrame({"id": column}).group_by("id", maintain_order=True).len()
    return counts["id"].gather(np.argsort(-counts["len"].to_numpy().astype(np.int64), kind="stable"))


def _same_type(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    """`column` as `dtype` (integers or strings); raises BadLog when a text is not an integer."""
    try:
        return column.cast(dtype)
    except pl.exceptions.InvalidOperationError:
        raise BadLog(
            f"the log's item_id holds {dtype}, that of the items holds {column.dtype}; make them alike"
        ) from None


def _numbered(column: pl.Series, ids: pl.Series, first: int) -> pl.Series:
    """The number of each value among `ids` (Int64), null for one that is not there."""
    numbers = pl.int_range(first, first + len(ids), eager=True)
    return column.replace_strict(ids, numbers, default=None, return_dtype=pl.Int64)


def _described(details: pl.DataFrame, names: pl.Series) -> tuple[pl.Series | None, pl.Series | None]:
    """Titles and categories in the order of `names`; an item without a row has a null title, an empty list."""
    known = details.with_columns(pl.col("item_id").cast(pl.Utf8)).unique("item_id", keep="first", maintain_order=True)
    row = _numbered(names.cast(pl.Utf8), known["item_id"], 0)
    titles = known["title"].gather(row) if "title" in known.columns else None
    if "categories" not in known.columns:
        return titles, None
    lists = known["categories"].gather(row).fill_null(pl.Series([[]], dtype=pl.List(pl.Utf8)))
    return titles, lists


def _kind_of_times(frame: pl.DataFrame) -> Times:
    """Rank if the times of each user (rows sorted by user and time) are exactly 0, 1, 2, ...; else real."""
    user = frame["user"].to_numpy()
    counts = np.bincount(user)
    rank = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    return "rank" if np.array_equal(rank, frame["time"].to_numpy()) else "real"
