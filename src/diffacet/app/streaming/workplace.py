"""Where an import works: a folder beside the data directory, which one process holds and of which nothing is left."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from diffacet import files
from diffacet.errors import BadLog, BadRun

LOCK, SPILL, DATA = "lock", "spill", "data"


@contextmanager
def held(out: Path) -> Iterator[Path]:
    """The folder beside `out` for this process alone, empty but for its lock; it is gone in the end, however that is.

    What a killed process has left in it is removed at once.

    Raises:
        BadRun: another living process imports into `out`.
        BadLog: nothing can be written there.
    """
    out = out.resolve()
    work = out.with_name(f".{out.name}.importing")
    made = [folder for folder in work.parents if not folder.exists()]
    try:
        with ExitStack() as stack:
            try:
                stack.enter_context(files.held(work / LOCK, f"an import into {out}"))
            except OSError as error:
                raise unwritable(out, error) from error
            if not (work / LOCK).exists():  # its holder has ended and removed it while we asked
                raise BadRun(f"an import into {out} was being run by another process, and has just ended; look there")
            try:
                for left in (SPILL, DATA):
                    shutil.rmtree(work / left, ignore_errors=True)
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)
    finally:
        for folder in made:
            with suppress(OSError):  # not empty: it holds what was made
                folder.rmdir()


@contextmanager
def made(out: Path, work: Path) -> Iterator[tuple[Path, Path]]:
    """(a folder for spill files, a folder that becomes `out` when the block ends without an error).

    Raises BadLog when something cannot be written; `out` is then as it was.
    """
    spill, data = work / SPILL, work / DATA
    try:
        spill.mkdir()
        data.mkdir()
        yield spill, data
        if out.is_dir():
            out.rmdir()  # refuses, as it should, when something is inside
        data.replace(out)
    except OSError as error:
        raise unwritable(out, error) from error


def unwritable(out: Path, error: Exception) -> BadLog:
    """The refusal of a directory that cannot be written."""
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or ["unknown"])[0]
    return BadLog(f"{out} cannot be written ({reason}); make room or name another --out; nothing is left of it")
