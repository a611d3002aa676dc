"""Many independent tasks on a cluster, by Ray Data: a pool of processes takes one after another.

A process that dies is replaced, and its task done again by another one; so a task leaves the same behind when it is
done twice, such as a file that appears whole under one name.
"""

import contextlib
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from diffacet import errors
from diffacet.app.cluster.connecting import Cluster, said
from diffacet.errors import BadSetting, DiffacetError

T = TypeVar("T")
R = TypeVar("R")
Outcome = tuple[Any, tuple[str, str, str | None] | None]
"""The result of a task, or the kind, message and field of the refusal that it ended in."""


def mapped(
    cluster: Cluster,
    function: Callable[[T], R],
    tasks: Sequence[T],
    *,
    workers: int,
    cpus: int = 1,
    gpus: int = 0,
) -> Iterator[R]:
    """The results of `function(task)` as they come, in any order, and each once.

    Args:
        cluster: see `connecting.connected`.
        function: of a module of ours, or an object of a class of one, which each process gets a copy of once and keeps:
            what such an object has opened for one task is there for the next. Relative paths are those of this
            process, where all nodes have its directory.
        tasks: what travels: numbers, paths and small arrays, never a log.
        workers: processes.
        cpus: of each of them, as Ray counts; also the threads of its mathematics.
        gpus: of each of them.

    Raises:
        DiffacetError: the one that a task has raised; the others are given up.
        BadSetting: the cluster is too small for so many workers.
    """
    _check_room(cluster, workers, cpus, gpus)
    if not tasks:
        return
    many = min(workers, len(tasks))
    by = _relayed if cluster.is_elsewhere else _run
    for result, refused in by(function, tasks, str(Path.cwd()), many, cpus, gpus):
        if refused is not None:
            raise _refusal(*refused)
        yield result


def _run(
    function: Callable[[Any], Any], tasks: Sequence[Any], folder: str, workers: int, cpus: int, gpus: int
) -> Iterator[Outcome]:
    """The outcomes of all tasks as they come, by Ray Data."""
    import ray

    with _quietly(ray):
        there = ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=len(tasks))
        worker = function, folder
        how: dict[str, Any] = {"batch_size": None, "batch_format": "numpy", "num_cpus": cpus, "num_gpus": gpus or None}
        if inspect.isfunction(function):  # keeps nothing, so processes that have done other tasks will do
            done = there.map_batches(_Worker(*worker), compute=ray.data.TaskPoolStrategy(size=workers), **how)
        else:
            pool = ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1)
            done = there.map_batches(_Worker, fn_constructor_args=worker, compute=pool, **how)
        try:
            for row in done.iter_rows():
                yield row["result"], row["refused"]
        except ray.exceptions.RayError as error:
            raise _lost(error) from error


def _relayed(*asked: Any) -> Iterator[Outcome]:
    """The same from afar: Ray Data does not work through a client, so a process of the cluster asks for it."""
    import ray

    actor: Any = ray.remote(num_cpus=0)(_Relay)
    relay = actor.remote(*asked)
    try:
        while (outcome := ray.get(relay.following.remote())) is not None:
            yield outcome[0], outcome[1]
    except ray.exceptions.RayError as error:
        raise _lost(error) from error
    finally:
        ray.kill(relay)


class _Relay:
    """What asks for the tasks on the cluster."""

    def __init__(self, *asked: Any) -> None:
        self._outcomes = _run(*asked)

    def following(self) -> Outcome | None:
        """The next outcome; None behind the last."""
        return next(self._outcomes, None)


def workers_for(cluster: Cluster, asked: int | None, cpus: int = 1, gpus: int = 0) -> int:
    """How many workers: as many as were asked for, else as many as there is room for, at least one."""
    if asked is not None:
        return asked
    room = cluster.cpus // cpus
    return max(min(room, cluster.gpus // gpus) if gpus else room, 1)


class _Worker:
    """What a process of the pool does with its tasks."""

    def __init__(self, function: Callable[[Any], Any], folder: str) -> None:
        self._function, self._folder = function, folder

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The result of each task, or the refusal that it ended in."""
        with contextlib.suppress(OSError):
            os.chdir(self._folder)
        results, refused = list[Any](), list[Any]()
        for task in batch["task"]:
            result, refusal = None, None
            try:
                result = self._function(task)
            except DiffacetError as error:
                refusal = type(error).__name__, str(error), error.field
            results.append(result)
            refused.append(refusal)
        return {"result": results, "refused": refused}


def _refusal(kind: str, message: str, field: str | None) -> DiffacetError:
    found = getattr(errors, kind, DiffacetError)
    return found(message, field=field)


def _lost(error: Exception) -> Exception:
    """Our own error in place of Ray's for a cluster that is gone; any other is a bug, and stays what it is."""
    import ray

    gone = (ray.exceptions.RayActorError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError)
    if isinstance(error, gone):
        return errors.BadRun(
            f"the cluster has lost the processes that did the work ({said(error)}); when it is well again, give the"
            " same command with --resume, if it has that"
        )
    return error


def _check_room(cluster: Cluster, workers: int, cpus: int, gpus: int) -> None:
    if workers < 1:
        raise BadSetting(f"workers, the processes that do the work, are at least 1; got {workers}", field="workers")
    if workers * cpus > cluster.cpus or workers * gpus > cluster.gpus:
        needed = f"{workers * cpus} CPUs" + (f" and {workers * gpus} GPUs" if gpus else "")
        raise BadSetting(
            f"{workers} workers of {cpus} thread{'s' if cpus > 1 else ''} need {needed}, and the cluster has"
            f" {cluster.cpus} CPUs and {cluster.gpus} GPUs; ask for fewer --workers or --threads",
            field="workers",
        )


@contextlib.contextmanager
def _quietly(ray: Any) -> Iterator[None]:
    """Let Ray Data work without bars and lines of its own, and start lost processes as often as it takes."""
    import ray.data

    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars, context.enable_operator_progress_bars
    context.enable_progress_bars = context.enable_operator_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars, context.enable_operator_progress_bars = before
