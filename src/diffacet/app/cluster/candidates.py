"""Candidates by many processes of a cluster: each loads the run once and writes the parts of its blocks of users."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffacet.app import batch_parts
from diffacet.app.batch_candidates import Engine, Work
from diffacet.app.batch_work import Answering, Job
from diffacet.app.cluster.connecting import Cluster
from diffacet.app.cluster.mapping import mapped, workers_for

Block = tuple[int, bytes]
"""The number of a block and its users, as the bytes of int64."""


def engine(cluster: Cluster, workers: int | None = None) -> Engine:
    """Who does the work of `batch_candidates.write`, with `threads` of at least 1: the workers of a cluster.

    Run, data and the place of the table lie on a file system that all nodes see. A worker that dies loses the block
    that it was at, which another one does.

    Args:
        cluster: see `connecting.connected`.
        workers: processes, each with the threads of the job (and a GPU if it computes on one); None: as many as there
            is room for.

    Raises:
        BadRun: a node has other code, or sees another run or other data.
        BadSetting: the cluster is too small.
    """

    def work(asked: Work) -> Iterator[int]:
        cluster.check_code()
        cpus, gpus = asked.told["threads"], int(asked.told["device"] == "cuda")
        tasks = [(number, rows.tobytes()) for number, rows in asked.blocks]
        worker = Worker(asked.job, asked.told, asked.parts.folder.absolute())
        many = workers_for(cluster, workers, cpus, gpus)
        yield from mapped(cluster, worker, tasks, workers=many, cpus=cpus, gpus=gpus)

    return work


@dataclass
class Worker:
    """What a process of the cluster has of a job, and its run and data once it has opened them."""

    job: Job
    told: dict[str, Any]
    folder: Path
    answering: Answering | None = field(default=None, init=False)

    def __call__(self, block: Block) -> int:
        """Write the part of a block, and say how many users it has.

        Raises:
            BadRun: this process sees another run or other data than who asks, or cannot write.
            BadLog: it does not see the data.
        """
        if self.answering is None:
            opened = Answering(self.job, verify=False)
            opened.check(self.told, f"a worker on {socket.gethostname()}")
            self.answering = opened
        number, rows = block[0], np.frombuffer(block[1], dtype=np.int64)
        batch_parts.write(self.folder, number, self.answering.table(rows, list(self.answering.answers(rows))))
        return len(rows)
