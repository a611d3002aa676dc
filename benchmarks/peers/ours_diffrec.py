"""Our DiffRec on a split that `peer.sh recbole_diffrec` has written: the same figures under the same names, as JSON.

    python benchmarks/peers/ours_diffrec.py --split build/peers/split --data build/peers/data --out ours.json

`--data` is made of the three files of `--split` unless it is there.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median_high
from typing import Any

import measuring
import ours

TRAINING = ("lr", "batch_size", "max_epochs", "optimizer", "weight_decay", "seed")
KEPT = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


def imported(split: Path, data: Path) -> None:
    """Make the data directory `data` of the three files in `split`, unless it is there."""
    if data.exists():
        return
    files = [word for part in ("train", "valid", "test") for word in (f"--{part}", str(split / f"{part}.csv"))]
    subprocess.run([sys.executable, "-m", "diffacet", "import-split", *files, "--out", str(data)], check=True)


def evaluated(run: Any, holdout: Any) -> dict[str, float]:
    """Metrics; what is seen is masked at validation as at the test."""
    import diffacet

    found = diffacet.evaluate(run.model, holdout, length=run.settings.training.length, ks=(10, 20), exclude_seen=True)
    return {name: found[name] for name in KEPT}


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that is written."""
    if arguments.split:
        imported(arguments.split, arguments.data)
    with tempfile.TemporaryDirectory() as folder:
        run, ends, steps = ours.trained(
            "diffrec", arguments, Path(folder) / "run", split="given", changes=["metric=ndcg@10"]
        )
        split, holdouts = run.split(), {part: run.holdout(part) for part in ("valid", "test")}
    # The split is cut beforehand, as RecBole's loaders are.
    users = len(split.test)
    speed = measuring.speeds({"": lambda: evaluated(run, holdouts["test"])}, users, arguments.rounds)[""]
    return {
        **ours.told(run, arguments, TRAINING),
        "data": {
            "train": len(split.train.items),
            "valid": len(split.valid.target.items),
            "test": len(split.test.target.items),
            "users": len(split.train),
            "items": len(run.catalogue),
        },
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "steps_per_epoch": steps,
        **measuring.epochs_told(arguments.epochs, *measuring.lapses(ends), median_high),
        "users": users,
        "eval_users_per_second": speed.median,
        "eval_users_per_cpu_second": speed.cpu,
        "eval_users_per_second_fastest_round": speed.fastest,
        "metrics": {} if arguments.measure_only else {part: evaluated(run, each) for part, each in holdouts.items()},
        **measuring.machine_told(arguments, ours.PACKAGES),
    }


def main() -> None:
    """Read the command line, measure, write."""
    parser = ours.asked(__doc__)
    parser.add_argument("--split", type=Path, help="folder with train.csv, valid.csv and test.csv, to make --data of")
    parser.add_argument("--measure-only", action="store_true", help="speed alone, no quality")
    arguments = measuring.asked(parser, epochs=100, seed=2020)
    measuring.written(arguments, measured(arguments), "eval_users_per_second")


if __name__ == "__main__":
    main()
