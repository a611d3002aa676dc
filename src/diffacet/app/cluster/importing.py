"""A partitioned import whose pieces and partitions are done by the workers of a cluster."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from diffacet.app.cluster.connecting import Cluster
from diffacet.app.cluster.mapping import mapped, workers_for
from diffacet.app.streaming.driving import Mapped

T = TypeVar("T")
R = TypeVar("R")


def on(cluster: Cluster, workers: int | None = None) -> Mapped:
    """Runs the tasks of `importing.import_log` on a cluster, to the same directory, bit for bit.

    The files of the log and the place of the directory lie on a file system that all nodes see.

    Args:
        cluster: see `connecting.connected`.
        workers: tasks at a time; None: as many as there is room for.

    Raises:
        BadRun: a node has other code.
    """
    cluster.check_code()
    many = workers_for(cluster, workers)

    def run(function: Callable[[T], R], tasks: Sequence[T]) -> Iterable[R]:
        return mapped(cluster, function, tasks, workers=many)

    return run
