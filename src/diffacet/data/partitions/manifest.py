"""manifest.json: which files make a partitioned data directory, and whether they are there and whole."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffacet import files
from diffacet.data.about import ITEMS
from diffacet.errors import BadLog

FORMAT = 1
MANIFEST, INTERACTIONS, USERS = "manifest.json", "interactions", "users"
MEND = "restore it from a copy, or import the data again"
_NAMES = {folder: re.compile(rf"{folder}/[^/\\]+\.parquet") for folder in (INTERACTIONS, USERS)}
_READERS = 4  # checksums are waited for by the disk as much as by the processor


@dataclass(frozen=True)
class FileEntry:
    """A file as the manifest knows it.

    Attributes:
        file: its path in the data directory, with forward slashes.
        rows: of its table.
        bytes: its size.
        sha256: 64 hex digits of its content.
    """

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """A partition: the users whose hashes lie in one range, and their interactions.

    Attributes:
        interactions: the file of its interactions.
        users: the file of its users.
        first_user: the number of its first user; it has those from there on, maybe none.
        number: its place among the partitions.
    """

    interactions: FileEntry
    users: FileEntry
    first_user: int
    number: int

    @property
    def end(self) -> int:
        """The number after that of its last user."""
        return self.first_user + self.users.rows


@dataclass(frozen=True)
class Manifest:
    """What manifest.json says.

    Attributes:
        parts: the partitions, in order.
        items: the file of the catalogue.
        ratings: whether interactions have ratings.
    """

    parts: tuple[Part, ...]
    items: FileEntry
    ratings: bool

    def entries(self) -> list[FileEntry]:
        """Every file."""
        return [self.items, *(entry for part in self.parts for entry in (part.users, part.interactions))]

    def to_json(self) -> dict[str, Any]:
        """The content of manifest.json."""
        parts = [{INTERACTIONS: asdict(part.interactions), USERS: asdict(part.users)} for part in self.parts]
        return {"format": FORMAT, "partitions": parts, "items": asdict(self.items), "ratings": self.ratings}


def read(folder: Path) -> Manifest:
    """The manifest in `folder`. Raises BadLog when it is missing, damaged, or names a file twice."""
    path = folder / MANIFEST
    try:
        told = files.read_json(path)
        if told["format"] != FORMAT:
            raise BadLog(
                f"{path} has format {told['format']!r}, and this version reads {FORMAT}; import the data again"
            )
        if not isinstance(told["ratings"], bool) or not told["partitions"]:
            raise ValueError("it is not what 'diffacet import' writes")
        found, first = [], 0
        for number, part in enumerate(told["partitions"]):
            entries = [_entry(part[folder], _NAMES[folder]) for folder in (INTERACTIONS, USERS)]
            found.append(Part(entries[0], entries[1], first, number))
            first = found[-1].end
        manifest = Manifest(tuple(found), _entry(told["items"], re.compile(re.escape(ITEMS))), told["ratings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise BadLog(f"{path} is missing or damaged ({why}); {MEND}") from error
    names = [entry.file for entry in manifest.entries()]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise BadLog(f"{path} names {twice} twice; {MEND}")
    return manifest


def _entry(told: dict[str, Any], name: re.Pattern[str]) -> FileEntry:
    """An entry out of JSON; raises ValueError, KeyError or TypeError for what is none, or lies elsewhere."""
    entry = FileEntry(told["file"], told["rows"], told["bytes"], told["sha256"])
    counts = all(type(count) is int and count >= 0 for count in (entry.rows, entry.bytes))
    if not counts or not name.fullmatch(entry.file) or not re.fullmatch("[0-9a-f]{64}", entry.sha256):
        raise ValueError(f"an entry is {told}")
    return entry


def check(folder: Path, manifest: Manifest, *, verify: bool) -> None:
    """Refuse a directory whose files are not those of its manifest; no table is read.

    Args:
        folder: the data directory.
        manifest: what it should hold.
        verify: read all files for their checksums; otherwise they are looked for and their sizes compared.

    Raises:
        BadLog: a file is missing, or there and not named, or another one than was written; it is named.
    """
    named = {entry.file for entry in manifest.entries()}
    for part in (INTERACTIONS, USERS):
        if (folder / part).is_dir():
            there = sorted(f"{part}/{path.name}" for path in (folder / part).iterdir())
            stray = next((name for name in there if name not in named), None)
            if stray is not None:
                raise BadLog(
                    f"{folder / stray} is not in {MANIFEST}: it was added later, or {MANIFEST} has lost it; remove the "
                    f"file if it is not of these data, else {MEND}"
                )
    _check_entries(folder, manifest.entries(), verify=verify)


def _check_entries(folder: Path, entries: Sequence[FileEntry], *, verify: bool) -> None:
    """Refuse files that are missing or other ones than were written. Raises BadLog that names the first."""
    for entry in entries:
        path = folder / entry.file
        try:
            size = path.stat().st_size
        except OSError as error:
            raise BadLog(f"{path} is in {MANIFEST} and cannot be read ({error.strerror}); {MEND}") from error
        if size != entry.bytes:
            raise BadLog(f"{path} has {size} bytes, and {MANIFEST} says {entry.bytes}; {MEND}")
    if not verify:
        return
    for entry, digest in zip(entries, digests(folder / entry.file for entry in entries), strict=True):
        if digest != entry.sha256:
            raise BadLog(
                f"{folder / entry.file} was changed after it was written: its SHA-256 begins with {digest[:12]}, and "
                f"{MANIFEST} says {entry.sha256[:12]}; {MEND}"
            )


def digests(paths: Iterable[Path]) -> Iterable[str]:
    """The SHA-256 of each file, in order, as 64 hex digits. Raises BadLog when one cannot be read."""
    with ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(digest, paths)


def digest(path: Path) -> str:
    """The SHA-256 of a file as 64 hex digits. Raises BadLog when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadLog(f"{path} cannot be read ({error.strerror}); {MEND}") from error
