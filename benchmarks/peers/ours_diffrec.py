"""Our DiffRec on a split that `recbole_diffrec.sh` has written: the same figures under the same names, as JSON.

python benchmarks/peers/ours_diffrec.py --split build/peers/split --data build/peers/data --out ours.json
"""

import argparse
import itertools
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("diffacet", "torch", "numpy", "polars")
TRAINING = ("lr", "batch_size", "max_epochs", "optimizer", "weight_decay", "seed")


def imported(split: Path, data: Path) -> None:
    """Make the data directory `data` of the three files in `split`, unless it is there."""
    if data.exists():
        return
    files = [word for part in ("train", "valid", "test") for word in (f"--{part}", str(split / f"{part}.csv"))]
    subprocess.run([sys.executable, "-m", "diffacet", "import-split", *files, "--out", str(data)], check=True)


def clocks() -> tuple[float, float]:
    """Seconds now: by the wall, and of this process on all its cores, which other processes hardly disturb."""
    return time.perf_counter(), time.process_time()


def trained(arguments: argparse.Namespace, out: Path) -> tuple[Any, list[float], list[float], int]:
    """The run, seconds of each epoch between the first and the last by both clocks, and steps per epoch.

    The last epoch ends with the one validation of the run, and the first is preceded by all preparation: neither
    is timed.
    """
    import diffacet

    ends: list[tuple[float, float]] = []
    changes = [
        *arguments.set,
        f"max_epochs={arguments.epochs}",
        f"validate_epochs={arguments.epochs}",
        "metric=ndcg@10",
    ]
    run = diffacet.train(
        "diffrec",
        arguments.data,
        out,
        preset=arguments.preset,
        set=changes,
        split="given",
        seed=arguments.seed,
        threads=arguments.threads,
        device="cpu",
        watch=lambda _: ends.append(clocks()),
    )
    steps = math.ceil(len(run.split().train) / run.settings.training.batch_size)
    if len(ends) != steps * arguments.epochs:
        raise SystemExit(f"{len(ends)} steps were made; {steps} in each of {arguments.epochs} epochs were expected")
    marks = ends[steps - 1 :: steps][:-1]
    wall, cpu = ([b - a for a, b in itertools.pairwise(clock)] for clock in zip(*marks, strict=True))
    return run, wall, cpu, steps


def evaluated(run: Any, on: str, rounds: int) -> tuple[dict[str, float], list[float], list[float]]:
    """Metrics of the part `on`, and seconds of each round but the first, which warms up, by both clocks, sorted.

    What is seen is masked at validation as at the test. The split is cut beforehand, as RecBole's loaders are.
    """
    import diffacet

    holdout, wall, cpu, metrics = run.holdout(on), [], [], {}
    for _ in range(rounds + 1):
        before = clocks()
        metrics = diffacet.evaluate(
            run.model, holdout, length=run.settings.training.length, ks=(10, 20), exclude_seen=True
        )
        after = clocks()
        wall.append(after[0] - before[0])
        cpu.append(after[1] - before[1])
    return metrics, sorted(wall[1:]), sorted(cpu[1:])


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that is written."""
    if arguments.split:
        imported(arguments.split, arguments.data)
    with tempfile.TemporaryDirectory() as folder:
        run, seconds, cpu, steps = trained(arguments, Path(folder) / "run")
        test, taken, cpu_taken = evaluated(run, "test", arguments.eval_rounds)
        valid = {} if arguments.measure_only else evaluated(run, "valid", 0)[0]
        split = run.split()
    users = len(split.test)
    kept = [f"{name}@{k}" for name in ("recall", "ndcg") for k in (10, 20)]
    quality = {"valid": valid, "test": test} if not arguments.measure_only else {}
    stated = run.about["settings"]
    return {
        "who": "diffacet",
        "preset": arguments.preset,
        "settings": stated["model"] | {name: stated["training"][name] for name in TRAINING},
        "changed": arguments.set,
        "data": {
            "train": len(split.train.items),
            "valid": len(split.valid.target.items),
            "test": len(split.test.target.items),
            "users": len(split.train),
            "items": len(run.catalogue),
        },
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "steps_per_epoch": steps,
        "epochs": arguments.epochs,
        "seconds_per_epoch": sorted(seconds)[len(seconds) // 2],
        "cpu_seconds_per_epoch": sorted(cpu)[len(cpu) // 2],
        "seconds_of_epochs": seconds,
        "users": users,
        "eval_users_per_second": users / taken[len(taken) // 2],
        "eval_users_per_cpu_second": users / cpu_taken[len(cpu_taken) // 2],
        "eval_users_per_second_fastest_round": users / taken[0],
        "metrics": {part: {k: told[k] for k in kept} for part, told in quality.items()},
        "seed": arguments.seed,
        "threads": arguments.threads,
        "cores": sorted(os.sched_getaffinity(0)),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
    }


def main() -> None:
    """Read the command line, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="gets the JSON")
    parser.add_argument("--data", type=Path, required=True, help="data directory of the split")
    parser.add_argument("--split", type=Path, help="folder with train.csv, valid.csv and test.csv, to make --data of")
    parser.add_argument("--preset", default="best")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the preset")
    parser.add_argument("--epochs", type=int, default=100, help="3 or more")
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--threads", type=int, default=1, help="of torch, and cores that the process may use")
    parser.add_argument("--eval-rounds", type=int, default=5)
    parser.add_argument("--measure-only", action="store_true", help="speed alone, no quality")
    arguments = parser.parse_args()
    if arguments.epochs < 3:
        parser.error(f"--epochs is 3 or more, because the first and the last are not timed; got {arguments.epochs}")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    found = measured(arguments)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({key: found[key] for key in ("seconds_per_epoch", "eval_users_per_second", "metrics")}))


if __name__ == "__main__":
    main()
