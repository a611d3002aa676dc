"""From raw files to a data directory: read, filter, write; with an account of what each step left."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffacet.arrays import distinct
from diffacet.data import filters, readers, store
from diffacet.data.formats import read_raw
from diffacet.data.formats.source import Names
from diffacet.data.interactions import PARTS, Interactions
from diffacet.data.presplit import read_parts
from diffacet.errors import BadLog, BadSetting
from diffacet.files import write_file

if TYPE_CHECKING:
    from diffacet.app.streaming.driving import Mapped, Watch

READ = "read"
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
        loaded: what it holds, where it was in memory anyway; see `log`.
        fingerprint: 16 hex digits of the log's content.
        files: what was read, in order.
        format: how it was read.
        steps: what was read, and what each filter left.
        repeats: rows that repeat user, item and time of an earlier one; None where there can be none.
        notes: what the reader decided, in words.
        partitions: how many the directory has; None: it is not partitioned.
        seconds: how long it took, where that was measured.
    """

    path: Path
    loaded: Interactions | None
    fingerprint: str
    files: tuple[str, ...]
    format: str
    steps: tuple[Step, ...]
    repeats: int | None
    notes: tuple[str, ...]
    partitions: int | None = None
    seconds: float | None = None

    @cached_property
    def log(self) -> Interactions:
        """What the directory holds; of a partitioned one read now, all of it."""
        return store.open(self.path).log if self.loaded is None else self.loaded

    @property
    def parts_divide_users(self) -> bool:
        """Whether the log carries a split of its own, and each user's interactions are all in one part of it."""
        return self.loaded is not None and self.loaded.parts_divide_users

    @property
    def rows(self) -> int:
        """Interactions that were read, before any filter."""
        return self.steps[0].interactions


def import_log(
    paths: Sequence[Path | str],
    out: Path | str,
    *,
    format: str = "auto",  # noqa: A002
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    time_format: str | None = None,
    rating: str | None = None,
    items: Path | str | None = None,
    min_rating: float | None = None,
    min_count: int | None = None,
    k_core: int | None = None,
    duplicates: str = "keep",
    partitions: int | None = None,
    mapped: "Mapped | None" = None,
    watch: "Watch | None" = None,
) -> Imported:
    """Read `paths` as one log, filter it, and write the data directory `out`, whole or not at all.

    Filters apply in this order: duplicates, min_rating, min_count, k_core.

    A log of 1 GiB or more, or with `partitions`, is read piece by piece, in memory that its length does not change,
    into Parquet partitioned by user. There users and items have a canonical order, not that of their appearance, so
    the directory depends on the rows alone: not on the number of partitions, nor on the order of the files (but
    without times that order is the order of a user's rows).

    Args:
        paths: files, or directories that stand for their files; see `read_log` for these and the columns.
        out: the data directory; new or empty.
        format: a form that `read_log` knows, or "auto".
        user: column of the users; None: found by name. The same holds of `item`, `time` and `rating`.
        item: column of the items.
        time: column of the times, or "none".
        time_format: how the times are written, if neither as numbers nor in ISO 8601: "%d.%m.%Y %H:%M".
        rating: column of the ratings, or "none".
        items: file with the items' titles and categories.
        min_rating: keep interactions rated this much or more.
        min_count: the published protocol's one-pass filter: items, then users, with at least this many.
        k_core: repeat dropping users and items with fewer until nothing changes.
        duplicates: "keep" or "drop" exact repeats of user, item and time; they are counted either way.
        partitions: how many partitions to write, 1 to 9999; None: none for a log below 1 GiB, else one for some four
            million rows.
        mapped: how the tasks of a partitioned import are run; None: here, one after another. With it a log of any size
            is partitioned.
        watch: shows the progress of a partitioned import.

    Raises:
        BadLog: `out` holds something, a file cannot be read, or a filter leaves nobody (with what was left
            at each step); nothing is written then.
        BadSetting: an argument is out of range.
        BadRun: another process imports into `out`.
    """
    from diffacet.app.streaming import driving, filtering, pipeline, planning, workplace

    out, files = Path(out), [Path(path) for path in paths]
    if duplicates not in ("keep", "drop"):
        raise BadSetting(f"--duplicates takes keep or drop; got '{duplicates}'")
    store.check_out(out)
    described = None if items is None else Path(items)
    names = Names(user, item, time, rating, time_format)
    with workplace.held(out) as work:
        store.check_out(out)
        plan = planning.planned(files, format, names, partitions, always=mapped is not None)
        if plan is not None:
            filters = filtering.Filters(min_rating, min_count, k_core, duplicates == "drop")
            how, seen = mapped or driving.here, watch or driving.unwatched
            return pipeline.stream(plan, out, work, items=described, filters=filters, mapped=how, watch=seen)
        raw = read_raw(format, files, names=names, items=described)
        return _in_memory(raw, out, min_rating, min_count, k_core, duplicates)


def _in_memory(
    raw: readers.RawLog,
    out: Path,
    min_rating: float | None,
    min_count: int | None,
    k_core: int | None,
    duplicates: str,
) -> Imported:
    """Filter a log that was read and write it to `out`."""
    parts = "part" in raw.frame.columns
    log = Interactions.from_frame(raw.frame, raw.items, catalogue=raw.catalogue, parts=parts)
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
    log, steps = filtered(log, wanted)
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


def import_split(
    train: Path | str,
    valid: Path | str,
    test: Path | str,
    out: Path | str,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    items: Path | str | None = None,
    item_vectors: Path | str | None = None,
) -> Imported:
    """Read files that are already split, one for each part, and write the data directory `out`, whole or not at all.

    Args:
        train: Parquet, CSV or TSV with a header, JSON lines, or `.npy` of two integer columns (user, item).
        valid: the same.
        test: the same.
        out: the data directory; new or empty.
        user: column of the users; None: found by name. The same holds of `item` and `time`.
        item: column of the items.
        time: column of the times, or "none"; without times the order is that of the files.
        items: file with the items' titles and categories.
        item_vectors: .npy file (N, any), row n for the n-th item by first appearance in train, valid and test; it is
            kept for models with clusters of items.

    Raises:
        BadLog: `out` holds something, a file cannot be read, a pair of user and item occurs twice, or a user of
            `valid` or `test` is not in `train`; nothing is written then.
        BadSetting: the vectors do not fit the items; nothing is written either.
    """
    out, paths = Path(out), (Path(train), Path(valid), Path(test))
    store.check_out(out)
    described = None if items is None else Path(items)
    log, notes = read_parts(*paths, user=user, item=item, time=time, items=described)
    vectors = None if item_vectors is None else _read_vectors(Path(item_vectors), log.n_items)
    steps = tuple(_step_of_part(log, place) for place in range(len(PARTS)))
    files = tuple(str(path) for path in (*paths, described, item_vectors) if path is not None)
    provenance: dict[str, Any] = {
        "files": list(files),
        "format": "parts",
        "steps": [asdict(step) for step in steps],
        "notes": list(notes),
        "diffacet": metadata.version("diffacet"),
    }
    store.write(log, out, provenance)
    if vectors is not None:
        _write_vectors(out, vectors)
    return Imported(out, log, store.fingerprint(log), files, "parts", steps, None, notes)


def _read_vectors(path: Path, n_items: int) -> Any:
    from diffacet.app import clusters  # with torch, which no other import needs

    return clusters.read_vectors(path, n_items)


def _write_vectors(out: Path, vectors: Any) -> None:
    from diffacet.app import clusters

    write_file(out / clusters.VECTORS, lambda path: clusters.save_vectors(path, vectors))


def filtered(log: Interactions, wanted: Sequence[Filter]) -> tuple[Interactions, tuple[Step, ...]]:
    """The log after all filters, and what each left; raises BadLog with all of it when one leaves nobody."""
    steps = [_step(READ, log)]
    for what, keep in wanted:
        try:
            log = keep(log)
        except BadLog as error:
            raise BadLog(f"{error}; up to there: {'; '.join(map(told, steps))}") from error
        steps.append(_step(what, log))
    return log, tuple(steps)


def _step(what: str, log: Interactions) -> Step:
    return Step(what, log.n_users, log.n_items, len(log))


def _step_of_part(log: Interactions, place: int) -> Step:
    rows = log.column("part") == place
    users, items = (len(distinct(log.column(name)[rows])) for name in ("user", "item"))
    return Step(PARTS[place], users, items, int(rows.sum()))


def told(step: Step) -> str:
    """What a step left, in words."""
    return f"{step.what}: {step.users} users, {step.items} items, {step.interactions} interactions"
