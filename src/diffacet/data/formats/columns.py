"""Which column is what: the common names of users, items, times and ratings, in order of preference."""

from collections.abc import Sequence
from pathlib import Path

from diffacet.data.formats.source import Names, Table
from diffacet.errors import BadLog, nearest

# Compared without regard to case, blanks, "-" and "_": user_id also means userId, UserID, "User ID".
USER = (
    *("user_id", "user", "uid", "reviewer_id", "visitor_id", "customer_id", "member_id", "account_id"),
    *("client_id", "person_id", "customer", "reviewer", "session_id", "session", "u"),
)
ITEM = (
    *("item_id", "item", "iid", "parent_asin", "asin", "movie_id", "video_id", "business_id", "product_id"),
    *("article_id", "news_id", "track_id", "song_id", "book_id", "game_id", "venue_id", "location_id", "poi_id"),
    *("photo_id", "content_id", "sku", "isbn", "movie", "product", "i"),
)
TIME = (
    *("timestamp", "unix_review_time", "unix_timestamp", "timestamp_ms", "time_ms", "time", "ts", "event_time"),
    *("datetime", "date_time", "created_at", "date", "position", "rank", "t"),
)
RATING = ("rating", "ratings", "stars", "overall", "score", "watch_ratio")
TITLE = ("title", "name", "product_title", "movie_title", "item_name", "item_title", "product_name")
CATEGORIES = (
    *("categories", "category", "genres", "genre", "class", "feat", "tags", "cate", "category_id"),
    *("item_category", "main_category", "category_name"),
)
NONE = "none"


def find(columns: Sequence[str], known: Sequence[str]) -> str | None:
    """The column whose name stands first in `known`; None when there is none."""
    plain = {_plain(column): column for column in reversed(columns)}
    return next((plain[_plain(name)] for name in known if _plain(name) in plain), None)


def resolve(table: Table, names: Names) -> Names:
    """The columns of `table` by role (rating None: there is none); raises BadLog with the option to pass."""
    user = _needed(table, names.user, USER, "user")
    item = _needed(table, names.item, ITEM, "item")
    time = NONE if names.time == NONE else _needed(table, names.time, TIME, "time")
    if names.rating == NONE:
        rating = None
    elif names.rating is None:
        rating = find(table.columns, RATING)
    else:
        rating = _needed(table, names.rating, (), "rating")
    if user == item:
        raise BadLog(f"{table.path}: column '{user}' cannot be both user and item; pass --user COL and --item COL")
    return Names(user, item, time, rating, names.form)


def listed(columns: Sequence[str]) -> str:
    """The column names for a message, at most 30 of them."""
    shown = ", ".join(" ".join(name.split())[:40] for name in columns[:30])
    return shown + (f", … ({len(columns)} in all)" if len(columns) > 30 else "")


def _needed(table: Table, name: str | None, known: Sequence[str], option: str) -> str:
    columns, path = table.columns, table.path
    if name is not None:
        if name in columns:
            return name
        same = [column for column in columns if _plain(column) == _plain(name)]
        if len(same) == 1:
            return same[0]
        raise BadLog(
            f"{path} has no column '{name}'{nearest(name, columns)}, which --{option} names; "
            f"its columns are: {listed(columns)}"
        )
    found = find(columns, known)
    if found is not None:
        return found
    instead = f", or --{option} none to take the rows in file order" if option == "time" else ""
    article = "an" if option == "item" else "a"
    raise BadLog(
        f"{path}: no column is named like {article} {option}; its columns are: {listed(columns)}; "
        f"pass --{option} COL{instead}{_headless(path, columns)}"
    )


def _headless(path: Path, columns: Sequence[str]) -> str:
    if columns and all(any(c.isdigit() for c in name) and name[:1].isdigit() for name in columns):
        return f" (the first row of {path.name} looks like values: the first row must name the columns)"
    return ""


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c not in " _-")
