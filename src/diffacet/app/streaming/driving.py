"""What a driver of the steps needs: how tasks are mapped, and what a person sees meanwhile."""

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import polars as pl

T = TypeVar("T")
R = TypeVar("R")
_FULL = "No space left on device"  # what Polars says of a full disk, in an error that is no OSError
TOGETHER = 4
"""Tasks that are done at a time in one process, at most: each has some millions of rows in memory."""
Count = Callable[[int, int], None]
Watch = Callable[[str], AbstractContextManager[Count]]
"""Given what is counted, a context that is told (done, all)."""


class Mapped(Protocol):
    """Applies a function to every task, here or elsewhere, and yields the results in any order, each once.

    Functions, tasks and results can be pickled, and are small: paths and numbers. A task may be done twice.
    """

    def __call__(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterable[R]:
        """The results."""


def here(function: Callable[[T], R], tasks: Sequence[T]) -> Iterable[R]:
    """In this process, a few at a time: Polars keeps all cores busy by itself, and NumPy one."""
    many = min(os.cpu_count() or 1, TOGETHER, len(tasks))
    if many < 2:
        yield from map(function, tasks)
        return
    pool = ThreadPoolExecutor(many)
    try:
        for done in as_completed([pool.submit(function, task) for task in tasks]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def unwatched(_what: str) -> AbstractContextManager[Count]:
    """Shows nothing."""
    return nullcontext(lambda _done, _all: None)


@dataclass(frozen=True)
class _Failure:
    """A file that could not be written or read by a task, wherever that ran."""

    number: int | None
    reason: str


@dataclass(frozen=True)
class _Guarded(Generic[T, R]):
    """A step whose failures to write come back as results: an engine would wrap an exception in ones of its own."""

    step: Callable[[T], R]

    def __call__(self, task: T) -> R | _Failure:
        try:
            return self.step(task)
        except OSError as error:
            return _Failure(error.errno, error.strerror or str(error))
        except pl.exceptions.PolarsError as error:
            if _FULL not in str(error):
                raise
            return _Failure(errno.ENOSPC, _FULL)


def followed(
    mapped: Mapped,
    step: Callable[[T], R],
    tasks: Sequence[T],
    watch: AbstractContextManager[Count],
    sizes: Sequence[int],
) -> list[R]:
    """All results, in any order; `watch` is told how much is done, `sizes` (tasks,) being the size of each task.

    Raises:
        DiffacetError: the one that a task has raised.
        OSError: a task could not write or read a file.
    """
    found: list[R] = []
    whole, done = sum(sizes), 0
    with watch as told:
        told(0, whole)
        for result in mapped(_Guarded(step), tasks):
            if isinstance(result, _Failure):
                raise OSError(result.number, result.reason)
            found.append(result)
            done += sizes[len(found) - 1]
            told(done, whole)
    return found
