"""The packed store: a click data set as arrays that are mapped into memory, made once for each choice of options.

    FOLDER/packed/KEY/    behaviours.npy ... one an array, vocabulary-*.parquet, about.json
    FOLDER/packed/files.json    what the raw files were when they were last read

KEY depends on the bytes of the raw files and on the options. Where FOLDER cannot be written, the store is made under
$XDG_CACHE_HOME/diffacet/clicks or ~/.cache/diffacet/clicks. What is in a store can be removed at any time.
"""

import hashlib
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diffacet import files
from diffacet.data.clicks import packing, reading, splitting
from diffacet.data.clicks.dense import Statistics
from diffacet.data.clicks.log import ClickLog
from diffacet.data.clicks.schema import Schema
from diffacet.data.clicks.splitting import ClickSplit
from diffacet.data.clicks.vocabulary import Vocabulary
from diffacet.errors import BadLog, BadSetting, nearest

FORMAT = 1
ABOUT, FILES, LOCK = "about.json", "files.json", ".lock"
RAW = (reading.SAMPLES, reading.BEHAVIOURS, reading.ITEMS, reading.USERS, reading.ABOUT)
ARRAYS = (
    "behaviours", "behaviour_time", "user", "time", "label", "group", "begin", "end", "case", "target", "other",
    "numeric", "known_user", "known_item", "pointers",
)  # fmt: skip
PARTS = ("train", "valid", "test")
SETTLED_NS = 2_000_000_000
"""A file that was changed less than this before it was read may change again under the same time stamp."""

HistoryUntil = Literal["sample", "split"]


@dataclass(frozen=True, eq=False)
class Packed:
    """A click data set, packed and split.

    Attributes:
        path: the folder with the raw files.
        name: of the data set.
        log: the samples and behaviours; its arrays are mapped, so they must not be written.
        split: which samples train, validate and test.
        statistics: how dense columns were scaled.
        fingerprint: 16 hex digits of all that a model can see, and of the options. Where the folder is does not count,
            nor the order of rows of behaviours (unless of one user at one time), items and users; that of samples does.
        options: split, min_count, gap, history_until.
        counts: users, with samples or behaviours, and items, of samples.
        notes: what a person should know, one sentence each.
    """

    path: Path
    name: str
    log: ClickLog
    split: ClickSplit
    statistics: tuple[Statistics, ...]
    fingerprint: str
    options: dict[str, Any]
    counts: dict[str, int]
    notes: tuple[str, ...]


def open(  # noqa: A001
    folder: Path, *, split: str | None = None, min_count: int = 1, gap: int = 0, history_until: HistoryUntil = "sample"
) -> Packed:
    """The click data set in `folder`, packed; from the store if these files were packed with these options before.

    Args:
        folder: a folder as `reading` describes it.
        split: a rule in short, see `splitting`; None: that of dataset.json.
        min_count: values of a field that are rarer in training are unknown.
        gap: milliseconds before a showing in which behaviours are not visible yet.
        history_until: "sample"; or "split": histories of validation and test samples end where their part begins, as
            if they came from one snapshot. Training samples see what was before each.

    Raises:
        BadLog: the folder cannot be read, a part is empty, or the store cannot be written anywhere.
        BadSetting: an option is not allowed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadLog(f"{folder} is not a folder; a click data set is one, with {reading.SAMPLES} and {reading.ABOUT}")
    if history_until not in get_args(HistoryUntil):
        allowed = get_args(HistoryUntil)
        raise BadSetting(
            f"history_until is {' or '.join(allowed)}; got {history_until!r}{nearest(history_until, allowed)}"
        )
    schema = reading.read_schema(folder)
    if split is not None:
        schema = replace(schema, split=splitting.rule_of(split))
    rule = splitting.checked(schema.split, str(folder / reading.ABOUT))
    options: dict[str, Any] = {"split": rule, "min_count": min_count, "gap": gap, "history_until": history_until}
    store = _store(folder)
    with files.held(store / LOCK, f"the packing of {folder}", wait=True):
        place = store / files.fingerprint(f"format {FORMAT}", json.dumps(options), json.dumps(_hashes(folder, store)))
        packed = _load(folder, place)
        if packed is None:
            shutil.rmtree(place, ignore_errors=True)
            _pack(folder, place, options)
            packed = _load(folder, place)
    if packed is None:
        raise BadLog(f"{place} cannot be read again after it was written; remove it, and look after the disk")
    return packed


def _store(folder: Path) -> Path:
    """Where the store of `folder` is: in it, or in the user's cache; it exists and can be written."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffacet" / "clicks"
    places = (folder / "packed", cache / files.fingerprint(str(folder.resolve())))
    reasons = []
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            (place / LOCK).touch()
        except OSError as error:
            reasons.append(str(error))
        else:
            return place
    raise BadLog(f"the packed arrays of {folder} can be written nowhere ({'; '.join(reasons)}); set XDG_CACHE_HOME")


def _hashes(folder: Path, store: Path) -> dict[str, str]:
    """A hash of the bytes of each raw file of `folder`; read again only if its size or time changed since."""
    try:
        known = files.read_json(store / FILES)
    except (OSError, ValueError):
        known = {}
    found: dict[str, Any] = {}
    for name in RAW:
        path = folder / name
        if not path.is_file():
            continue
        stat = path.stat()
        before = known.get(name, {})
        same = (before.get("size"), before.get("time")) == (stat.st_size, stat.st_mtime_ns)
        if same and before["read"] - stat.st_mtime_ns > SETTLED_NS:
            found[name] = before
            continue
        read = time.time_ns()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        found[name] = {"size": stat.st_size, "time": stat.st_mtime_ns, "read": read, "hash": digest}
    if found != known:
        files.write_json(store / FILES, found)
    return {name: one["hash"] for name, one in found.items()}


def _pack(folder: Path, place: Path, options: dict[str, Any]) -> None:
    """Read, number and write the data set of `folder` as the store `place`."""
    raw = reading.read(folder)
    raw = replace(raw, schema=replace(raw.schema, split=options["split"]))
    rule, zone = options["split"], raw.schema.timezone
    split = splitting.split(raw.samples["timestamp"].to_numpy(), rule, zone)
    vocabularies, statistics = packing.learn(raw, split.borders[0], min_count=options["min_count"])
    freeze = split.borders if options["history_until"] == "split" else ()
    log = packing.encode(raw, vocabularies, statistics, gap=options["gap"], freeze=freeze)
    arrays = [name for name in ARRAYS if getattr(log, name) is not None]
    about = {
        "format": FORMAT,
        "fingerprint": fingerprint(log, split, options),
        "options": options,
        "schema": raw.schema.to_json(),
        "borders": split.borders,
        "statistics": [asdict(one) for one in statistics],
        "vocabularies": list(vocabularies),
        "counts": packing.counts(raw),
        "arrays": arrays,
        "notes": [*raw.notes, *packing.unjoined(raw)],
    }
    del raw
    try:
        with files.new_directory(place) as new:
            for name in arrays:
                np.save(new / f"{name}.npy", getattr(log, name), allow_pickle=False)
            for name in PARTS:
                np.save(new / f"{name}.npy", getattr(split, name), allow_pickle=False)
            for number, vocabulary in enumerate(vocabularies.values()):
                vocabulary.values.alias("value").to_frame().write_parquet(new / f"vocabulary-{number}.parquet")
            files.write_json(new / ABOUT, about)
    except OSError as error:
        raise BadLog(f"{place} cannot be written ({error}); nothing is left of it") from error


def fingerprint(log: ClickLog, split: ClickSplit, options: dict[str, Any]) -> str:
    """16 hex digits of the arrays of `log`, of its vocabularies, of what its schema means, and of the options.

    Name, source and licence of the data set do not count.
    """
    meaning = {k: v for k, v in log.schema.to_json().items() if k not in ("name", "source", "licence")}
    parts: list[NDArray[Any] | str] = [json.dumps(meaning), json.dumps(options), json.dumps(split.borders)]
    parts += [getattr(log, name) for name in ARRAYS if getattr(log, name) is not None]
    for name, vocabulary in log.vocabularies.items():
        parts += [name, *_texts(vocabulary.values)]
    return files.fingerprint(*parts)


def _texts(values: pl.Series) -> tuple[NDArray[Any], str]:
    texts = values.cast(pl.String)
    return texts.str.len_bytes().to_numpy(), texts.str.join("").item() or ""


def _load(folder: Path, place: Path) -> Packed | None:
    """The packed data set in `place`; None when it is not there, or damaged."""
    try:
        about = files.read_json(place / ABOUT)
        schema = Schema.from_json(about["schema"])
        vocabularies = {
            name: Vocabulary(pl.read_parquet(place / f"vocabulary-{number}.parquet")["value"])
            for number, name in enumerate(about["vocabularies"])
        }
        arrays = {name: _array(place / f"{name}.npy") for name in about["arrays"]}
        parts = {name: _array(place / f"{name}.npy") for name in PARTS}
        first, second = about["borders"]
        log = ClickLog(
            schema=schema,
            names=schema.names,
            other_names=schema.other_names,
            vocabularies=vocabularies,
            **arrays,
        )
        return Packed(
            path=folder,
            name=schema.name,
            log=log,
            split=ClickSplit(**parts, borders=(first, second)),
            statistics=tuple(Statistics(**one) for one in about["statistics"]),
            fingerprint=about["fingerprint"],
            options=about["options"],
            counts=about["counts"],
            notes=tuple(about["notes"]),
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadLog, pl.exceptions.PolarsError):
        return None


def _array(path: Path) -> NDArray[Any]:
    """The array in `path`, mapped read-only."""
    mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped.view(np.ndarray)
