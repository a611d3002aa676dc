"""What every contender measures with, in its own environment: clocks, the command line, what is said of the process.

Standard library alone, so that it runs wherever a peer runs.
"""

import argparse
import itertools
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import median_high
from typing import Any, TypeVar

Clocks = tuple[float, float]
Way = TypeVar("Way", bound=Hashable)


def clocks() -> Clocks:
    """Seconds now: by the wall, and of this process on all its cores, which other processes hardly disturb."""
    return time.perf_counter(), time.process_time()


def lapses(ends: Sequence[Clocks]) -> tuple[list[float], list[float]]:
    """Seconds of each epoch by both clocks, from the ends of all; the first and the last are not counted.

    The first is preceded by all preparation, and our last one ends with the one validation of the run.
    """
    wall, cpu = ([b - a for a, b in itertools.pairwise(clock[:-1])] for clock in zip(*ends, strict=True))
    return wall, cpu


def epochs_told(
    epochs: int, wall: Sequence[float], cpu: Sequence[float], middle: Callable[[Sequence[float]], float]
) -> dict[str, Any]:
    """How many epochs there were, and the `middle` of the seconds of those that were timed, by both clocks."""
    return {
        "epochs": epochs,
        "seconds_per_epoch": middle(wall),
        "cpu_seconds_per_epoch": middle(cpu),
        "seconds_of_epochs": wall,
    }


@dataclass(frozen=True)
class Speed:
    """Users per second: of the median round by the wall and by the CPU, and of the fastest round."""

    median: float
    cpu: float
    fastest: float


def speeds(ways: Mapping[Way, Callable[[], Any]], users: int, rounds: int) -> dict[Way, Speed]:
    """How fast several ways to do something for all users are, measured in turn after a round that warms up."""
    taken: dict[Way, list[Clocks]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            before = clocks()
            way()
            after = clocks()
            taken[name].append((after[0] - before[0], after[1] - before[1]))
    found = {}
    for name, each in taken.items():
        wall, cpu = zip(*each[1:], strict=True)
        found[name] = Speed(users / median_high(wall), users / median_high(cpu), users / min(wall))
    return found


def machine_told(arguments: argparse.Namespace, packages: Sequence[str]) -> dict[str, Any]:
    """Seed, threads, memory and versions."""
    return {
        "seed": arguments.seed,
        "threads": arguments.threads,
        "cores": sorted(os.sched_getaffinity(0)),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in packages},
    }


def asked(parser: argparse.ArgumentParser, *, epochs: int, seed: int, least: int = 3) -> argparse.Namespace:
    """The command line with what all contenders take; the process is bound to as many cores as threads.

    `least` is how many epochs there must be: 3 where the first and the last are not timed (`lapses`).
    """
    parser.add_argument("--out", type=Path, required=True, help="gets the JSON")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting; a peer takes JSON"
    )
    parser.add_argument("--epochs", type=int, default=epochs, help=f"{least} or more")
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--threads", type=int, default=1, help="of torch, and cores that the process may use")
    parser.add_argument("--rounds", type=int, default=5, help="of evaluating, or recommending to, all users")
    arguments = parser.parse_args()
    if arguments.epochs < least:
        why = ", because the first and the last are not timed" if least > 1 else ""
        parser.error(f"--epochs is {least} or more{why}; got {arguments.epochs}")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    return arguments


def written(arguments: argparse.Namespace, found: dict[str, Any], speed: str) -> None:
    """Write what was found, and print the short of it in one line; `speed` names the users per second."""
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({key: found[key] for key in ("seconds_per_epoch", speed, "metrics")}))
