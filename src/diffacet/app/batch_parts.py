"""A table that is written block by block, each a Parquet file of its own, until all are there and become one file.

    .FILE.parquet.parts/   beside FILE.parquet
        job.json           what the blocks are made from
        00000.parquet, …   the finished blocks
        lock               held while a process works on them

A killed process loses the block that it was at; FILE.parquet appears whole, at the end.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl

from diffacet import files
from diffacet.app import resuming
from diffacet.errors import BadRun, BadSetting

JOB, LOCK, WHOLE = "job.json", "lock", "whole.parquet"
_FAILURES = (OSError, pl.exceptions.PolarsError)
"""What writing may end in: Polars reports a full disk as an error of its own."""


class Parts:
    """The finished blocks of one table, while this process alone may add to them.

    Attributes:
        out: the file that they become.
        folder: where they are.
        there: their numbers, from 0 on; an engine of several processes may leave gaps.
    """

    def __init__(self, out: Path) -> None:
        """Use `opened`."""
        self.out, self.folder = out, folder_of(out)
        self.there = finished(self.folder)

    @property
    def done(self) -> int:
        """How many there are."""
        return len(self.there)

    def add(self, block: pl.DataFrame) -> None:
        """Write the first block that is missing, whole or not at all; raises BadRun, and the others stay."""
        number = next(n for n in count() if n not in self.there)
        write(self.folder, number, block)
        self.there.add(number)

    def join(self, blocks: int, rows_per_group: int) -> pl.LazyFrame:
        """Make all blocks, of which there are so many, one file in `out`, streaming, and remove them; that file.

        Raises:
            BadRun: one is missing, or it cannot be written; the blocks stay.
        """
        self.there = finished(self.folder)
        missing = [n for n in range(blocks) if n not in self.there]
        if missing:
            raise BadRun(
                f"{_part(self.folder, missing[0])} is missing, and {len(missing) - 1} more; do all who write see this"
                " directory? Try again with --resume"
            )
        whole, parts = self.folder / WHOLE, pl.scan_parquet([_part(self.folder, n) for n in range(blocks)])
        try:
            files.write_file(
                whole,
                lambda path: parts.sink_parquet(
                    path, compression="zstd", row_group_size=rows_per_group, maintain_order=True
                ),
            )
            expected, found = (_height(frame) for frame in (parts, pl.scan_parquet(whole)))
            if found != expected:
                raise BadRun(f"{whole} has {found:,} rows where its blocks have {expected:,}; try again with --resume")
            whole.replace(self.out)
        except _FAILURES as error:
            raise _unwritable(self.out, error) from error
        shutil.rmtree(self.folder, ignore_errors=True)
        return pl.scan_parquet(self.out)


def write(folder: Path, number: int, block: pl.DataFrame) -> None:
    """Write a block, whole or not at all; raises BadRun. Any process may, whoever holds the lock."""
    part = _part(folder, number)
    try:
        files.write_file(
            part, lambda path: block.write_parquet(path, compression="zstd", row_group_size=max(len(block), 1))
        )
    except _FAILURES as error:
        raise _unwritable(part, error) from error


def folder_of(out: Path) -> Path:
    """Where the blocks of the table `out` are kept."""
    return out.with_name(f".{out.name}.parts")


def finished(folder: Path) -> set[int]:
    """The numbers of the blocks that there are in `folder`."""
    return {int(path.stem) for path in folder.glob("*.parquet") if path.stem.isdecimal()}


def check(out: Path, resume: bool) -> None:
    """Refuse, before any work is done, a table that cannot be begun or gone on with.

    Raises:
        BadSetting: `out` is no name of a Parquet file.
        BadRun: `out` is there, another process is writing it, or one was killed while it did and `resume` is not said.
    """
    if out.suffix.lower() != ".parquet":
        raise BadSetting(f"--out is a file that ends in .parquet; got {out}")
    _check_new(out)
    if folder_of(out).exists():
        with _held(out):
            _check_left(out, resume)


@contextmanager
def opened(out: Path, told: Mapping[str, Any], resume: bool) -> Iterator[Parts]:
    """The blocks of the table `out`, for this process alone; nothing is left of them if none was finished.

    Args:
        out: the Parquet file that they are to become.
        told: what they are made from, name -> value, as JSON may hold it; no block of anything else is gone on with.
        resume: go on with the blocks that are there.

    Raises:
        BadRun: as `check`, or the blocks that are there are made from something else; it says from what.
    """
    with _held(out):
        _check_new(out)
        _check_left(out, resume)
        parts = Parts(out)
        try:
            if parts.done:
                resuming.check_told(parts.folder, JOB, told, "blocks of another job", BadRun)
            else:
                _begin(parts, told)
            yield parts
        finally:
            if not finished(parts.folder):
                shutil.rmtree(parts.folder, ignore_errors=True)


@contextmanager
def _held(out: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(files.held(folder_of(out) / LOCK, f"a job that writes {out}"))
        except OSError as error:
            raise BadRun(f"{out} cannot be written ({_reason(error)}); choose another --out") from error
        yield


def _begin(parts: Parts, told: Mapping[str, Any]) -> None:
    try:
        files.write_json(parts.folder / JOB, told)
    except OSError as error:
        raise _unwritable(parts.folder / JOB, error) from error


def _check_new(out: Path) -> None:
    if out.exists():
        raise BadRun(f"{out} exists; choose another --out, or remove it first")


def _check_left(out: Path, resume: bool) -> None:
    """Refuse blocks of another job where none may be; a job that finished none has left nothing."""
    folder = folder_of(out)
    done = len(finished(folder))
    if done and not resume:
        raise BadRun(
            f"{folder} holds {done} finished block{'s' if done > 1 else ''} of a job that did not end; go on with it by"
            f" --resume, or remove that directory to begin anew"
        )


def _part(folder: Path, number: int) -> Path:
    return folder / f"{number:05}.parquet"


def _height(frame: pl.LazyFrame) -> int:
    return int(frame.select(pl.len()).collect().item())


def _unwritable(path: Path, error: Exception) -> BadRun:
    return BadRun(
        f"{path} cannot be written ({_reason(error)}); make room, then give the same command with --resume: the blocks"
        " that are finished stay"
    )


def _reason(error: Exception) -> str:
    """The system's own words, which Polars puts behind its own."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return getattr(error, "strerror", None) or first.rpartition("IO error: ")[2]
