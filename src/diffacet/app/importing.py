"""From raw files to a data directory: read, filter, write; with an account of what each step left."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from diffacet.data import filters, readers, store
from diffacet.data.interactions import Interactions
from diffacet.errors import BadLog, BadSetting

DROPPED = "repeated rows dropped"
Filter = tuple[str, Callable[[Interactions], Interactions]]


@dataclass(frozen=True)
class Step:
    """What was left of the log after one step of an import."""

    what: str
    users: int
    items: int
    interactions: int


@dataclass(frozen=True, eq=False)
class Imported:
    """An import that is done.

    Attributes:
        path: the data directory.
        log: what it holds.
        fingerprint: 16 hex digits of the log's content.
        files: what was read, in order.
        format: how it was read.
        steps: what was read, and what each filter left.
        repeats: rows that repeat user, item and time of an earlier one.
        notes: what the reader decided, in words.
    """

    path: Path
    log: Interactions
    fingerprint: str
    files: tuple[str, ...]
    format: str
    steps: tuple[Step, ...]
    repeats: int
    notes: tuple[str, ...]


def import_log(
    paths: Sequence[Path | str],
    out: Path | str,
    *,
    format: str = "auto",  # noqa: A002
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    rating: str | None = None,
    items: Path | str | None = None,
    min_rating: float | None = None,
    min_count: int | None = None,
    k_core: int | None = None,
    duplicates: str = "keep",
) -> Imported:
    """Read `paths` as one log, filter it, and write the data directory `out`, whole or not at all.

    Filters apply in this order: duplicates, min_rating, min_count, k_core.

    Args:
        paths: files, or directories that stand for their files; see `read_log` for these and the columns.
        out: the data directory; new or empty.
        format: a form that `read_log` knows, or "auto".
        user: column of the users; None: found by name. The same holds of `item`, `time` and `rating`.
        item: column of the items.
        time: column of the times, or "none".
        rating: column of the ratings, or "none".
        items: file with the items' titles and categories.
        min_rating: keep interactions rated this much or more.
        min_count: the published protocol's one-pass filter: items, then users, with at least this many.
        k_core: repeat dropping users and items with fewer until nothing changes.
        duplicates: "keep" or "drop" exact repeats of user, item and time; they are counted either way.

    Raises:
        BadLog: `out` holds something, a file cannot be read, or a filter leaves nobody (with what was left
            at each step); nothing is written then.
        BadSetting: an argument is out of range.
    """
    out = Path(out)
    if duplicates not in ("keep", "drop"):
        raise BadSetting(f"--duplicates takes keep or drop; got '{duplicates}'")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise BadLog(f"{out} exists and is not an empty directory; name another one, or remove it first")
    described = None if items is None else Path(items)
    raw = readers.read_log(
        [Path(path) for path in paths], format=format, user=user, item=item, time=time, rating=rating, items=described
    )
    log = Interactions.from_frame(raw.frame, raw.items)
    distinct, repeats = filters.drop_repeated_rows(log)
    wanted: list[Filter] = []
    if duplicates == "drop":
        wanted.append((DROPPED, lambda _: distinct))
    if min_rating is not None:
        wanted.append((f"rating {min_rating:g} or more", lambda log: filters.min_rating(log, min_rating)))
    if min_count is not None:
        wanted.append((f"count {min_count} or more, once", lambda log: filters.min_count_once(log, min_count)))
    if k_core is not None:
        wanted.append((f"{k_core}-core", lambda log: filters.k_core(log, k_core)))
    log, steps = _filtered(log, wanted)
    provenance: dict[str, Any] = {
        "files": list(raw.files),
        "format": raw.format,
        "steps": [asdict(step) for step in steps],
        "repeated_rows": repeats,
        "notes": list(raw.notes),
        "diffacet": metadata.version("diffacet"),
    }
    store.write(log, out, provenance)
    return Imported(out, log, store.fingerprint(log), raw.files, raw.format, steps, repeats, raw.notes)


def _filtered(log: Interactions, wanted: Sequence[Filter]) -> tuple[Interactions, tuple[Step, ...]]:
    """The log after all filters, and what each left; raises BadLog with all of it when one leaves nobody."""
    steps = [_step("read", log)]
    for what, keep in wanted:
        try:
            log = keep(log)
        except BadLog as error:
            raise BadLog(f"{error}; up to there: {'; '.join(map(_told, steps))}") from error
        steps.append(_step(what, log))
    return log, tuple(steps)


def _step(what: str, log: Interactions) -> Step:
    return Step(what, log.n_users, log.n_items, len(log))


def _told(step: Step) -> str:
    return f"{step.what}: {step.users} users, {step.items} items, {step.interactions} interactions"
