"""Writing so that nothing is lost: a temporary name first, then one rename; and by one process at a time."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from diffacet.errors import BadRun

_UMASK = os.umask(0)
os.umask(_UMASK)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary path)`, then rename it to `path`: readers see the old file or the whole new one.

    Raises OSError (disk full, no permission); `path` is then as it was, and the temporary file is gone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_UMASK)  # some libraries write for their owner alone, and a service is another user
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` atomically."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as indented JSON to `path` atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; raises ValueError when the file does not hold one."""
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    return value


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A temporary directory beside `path` that becomes `path` when the block ends without an error.

    `path` must not exist or must be an empty directory; whatever happens, it is never half-written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        temporary.chmod(0o755)
        yield temporary
        if path.is_dir():
            path.rmdir()  # refuses, as it should, when something is inside
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fingerprint(*arrays: np.ndarray[Any, Any] | str) -> str:
    """16 hex digits that depend on the content, dtype and shape of `arrays` (and on strings), in their order."""
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        if isinstance(array, str):
            digest.update(b"str" + len(array.encode()).to_bytes(8, "little") + array.encode())
        else:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@contextmanager
def held(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`; it falls with this process, however that ends.

    Raises:
        BadRun: another living process holds it, and `wait` is not said; `what` names it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise BadRun(f"{what} is being run by another process; wait for it, or stop it") from error
        file.truncate(0)
        file.write(str(os.getpid()))  # for people who want to know whom they wait for
        file.flush()
        yield
