"""Our DiffRec beside RecBole 1.2.1's: the same split, run in turn, one process at a time; table and JSON.

    python benchmarks/peers/compare.py                 # 5 rounds, one thread and two
    python benchmarks/peers/compare.py --rounds 1 --epochs 20 --threads 1 --out build/peers/quick

RecBole runs in the environment of recbole_diffrec.sh, which $PEER_ENV moves. Every round runs each contender once,
in a process of its own on as many cores as threads, with the round's seed. Speeds are medians over the rounds; a
ratio is the median of the ratios within the rounds, so what slows the machine down for a while slows both sides; on
a busy machine, read the CPU seconds. Quality is that of the weights after the last epoch, which nobody selects.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OUT = HERE.parent / "results" / "peers-recbole-diffrec"
SHOWN = ("ndcg@10", "recall@10", "ndcg@20", "recall@20")
Found = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """Who runs: RecBole, or a preset of ours, which is held against one of RecBole's; with what changed."""

    label: str
    set: tuple[str, ...] = ()
    preset: str | None = None
    against: str = ""


SAME = (
    "dims=[300]",
    "steps=5",
    "schedule=linear",
    "noise_scale=0.001",
    "noise_min=0.0005",
    "noise_max=0.005",
    "lr=0.001",
)
DEFAULTS, SMALL = "RecBole, its defaults", "RecBole, batches of 400"
RECBOLE = (Contender(DEFAULTS), Contender(SMALL, ("train_batch_size=400",)))
OURS = (
    Contender("diffacet, RecBole's settings", (*SAME, "batch_size=2048"), "recommended", DEFAULTS),
    Contender("the same with 16 shared noise rows", (*SAME, "batch_size=2048", "shared_noise=16"), "best", DEFAULTS),
    Contender("diffacet, RecBole's settings, batches of 400", (*SAME, "batch_size=400"), "recommended", SMALL),
    Contender("diffacet, preset best", (), "best", DEFAULTS),
)
AIMS = (
    ("seconds_per_epoch", "seconds per epoch / RecBole's", "≤ 0.33"),
    ("cpu_seconds_per_epoch", "the same in CPU seconds", ""),
    ("eval_users_per_second", "evaluation users/s / RecBole's best", "≥ 2"),
    ("eval_users_per_cpu_second", "the same in CPU seconds", ""),
)


def run(who: Contender, seed: int, threads: int, arguments: argparse.Namespace) -> Found:
    """One process; what it wrote."""
    out = arguments.work / "last.json"
    words = ["--out", str(out), "--split", str(arguments.work / "split"), "--seed", str(seed)]
    words += ["--epochs", str(arguments.epochs), "--threads", str(threads)]
    words += [word for change in who.set for word in ("--set", change)]
    if who.preset is None:
        command = [str(HERE / "recbole_diffrec.sh"), *words]
    else:
        data = ["--data", str(arguments.work / "data"), "--preset", who.preset]
        command = [sys.executable, str(HERE / "ours_diffrec.py"), *words, *data]
    out.unlink(missing_ok=True)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": str(threads)}
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    found: Found = json.loads(out.read_text())
    parts = ", ".join(f"{key} {found[key]:.4g}" for key in ("seconds_per_epoch", "eval_users_per_second"))
    print(f"{who.label}, seed {seed}, {threads} threads: {parts}, NDCG@10 {quality(found)['ndcg@10']:.4f}", flush=True)
    return found


def quality(found: Found) -> dict[str, float]:
    """Test metrics by our names; every user has one target, so the definitions of both sides agree."""
    return {name.lower(): value for name, value in found["metrics"]["test"].items()}


def checked(runs: dict[str, list[Found]]) -> None:
    """Stop unless both sides had the same rows and RecBole evaluated as we do."""
    data = {json.dumps(each["data"], sort_keys=True) for found in runs.values() for each in found}
    protocols = {json.dumps(each["protocol"]) for found in runs.values() for each in found if "protocol" in each}
    if len(data) > 1 or protocols != {
        json.dumps({"input": "train", "masked_valid": "train", "masked_test": "train+valid"})
    }:
        raise SystemExit(f"the two sides do not do the same thing: {data}, {protocols}")


def summary(found: Sequence[Found]) -> Found:
    """A contender's rounds in a few numbers."""
    tested = [quality(each) for each in found]
    return {
        "steps_per_epoch": found[0]["steps_per_epoch"],
        "parameters": found[0]["parameters"],
        **{key: median(each[key] for each in found) for key, _, _ in AIMS},
        "peak_gib": max(each["peak_gib"] for each in found),
        "metrics": {name: mean(each[name] for each in tested) for name in SHOWN},
        "deviation": {name: stdev(each[name] for each in tested) if len(tested) > 1 else None for name in SHOWN},
    }


def ratios(runs: dict[str, list[Found]]) -> list[Found]:
    """What the aims are about: each of ours against its counterpart, round by round."""
    rows = []
    for who in OURS:
        for key, what, aim in AIMS:
            pairs = zip(runs[who.label], runs[who.against], strict=True)
            each = [mine[key] / other[key] for mine, other in pairs]
            row = {"ours": who.label, "against": who.against, "what": what, "aim": aim}
            rows.append(row | {"value": median(each), "rounds": each})
    return rows


def page(record: Found) -> str:
    """The Markdown table."""
    lines = ["# DiffRec beside RecBole 1.2.1's", "", record["reading"], ""]
    lines += [
        f"Command: `{record['command']}`; commit {record['commit']}; {record['machine']}; ours with torch "
        f"{record['versions']['diffacet']['torch']}, RecBole's with {record['versions']['recbole']['torch']}.  ",
        f"MovieLens 100K, leave-last-out as RecBole cuts it, shown: train, masked at the test: train and valid; "
        f"{record['epochs']} epochs, {record['rounds']} rounds in turn, a seed each; quality of the last epoch on the "
        "test, mean ± sample deviation.",
        "",
    ]
    for threads, part in record["threads"].items():
        lines += [f"## {threads} thread{'s' if threads != '1' else ''}", ""]
        lines += ["| | steps per epoch | s per epoch | evaluation users/s | peak GiB | " + " | ".join(SHOWN) + " |"]
        lines += ["|" + "---|" * (5 + len(SHOWN))]
        for label, told in part["contenders"].items():
            cells = [str(told["steps_per_epoch"]), f"{told['seconds_per_epoch']:.4f}"]
            cells += [f"{told['eval_users_per_second']:,.0f}", f"{told['peak_gib']:.2f}"]
            for name in SHOWN:
                spread = told["deviation"][name]
                cells.append(f"{told['metrics'][name]:.4f}" + (f" ± {spread:.4f}" if spread is not None else ""))
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
        lines += ["", "| ours | against | ratio | value | aim |", "|---|---|---|---|---|"]
        lines += [
            f"| {row['ours']} | {row['against']} | {row['what']} | {row['value']:.2f} | {row['aim']} |"
            for row in part["ratios"]
        ]
        lines.append("")
    lines += [
        "## Settings",
        "",
        "| | what differs from the defaults of RecBole, or from the preset of ours |",
        "|---|---|",
    ]
    lines += [f"| {who['label']} | {' '.join(who['set']) or 'nothing'} |" for who in record["contenders"]]
    return "\n".join(lines) + "\n\nMade by `benchmarks/peers/compare.py`.\n"


def main() -> None:
    """Run all contenders in turn and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "peers", help="what is made on the way")
    parser.add_argument("--out", type=Path, default=OUT, help="path of the .json and the .md, without either")
    parser.add_argument("--reading", help="what the table says first, in words")
    arguments = parser.parse_args()
    arguments.work = arguments.work.resolve()
    arguments.work.mkdir(parents=True, exist_ok=True)
    before = arguments.out.with_suffix(".json")
    reading = arguments.reading or (json.loads(before.read_text())["reading"] if before.exists() else "")
    everyone = (*RECBOLE, *OURS)  # RecBole first: its first run writes the split
    record: Found = {
        "command": " ".join(["python", "benchmarks/peers/compare.py", *sys.argv[1:]]),
        "commit": subprocess.run(
            ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude", "*"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "reading": reading,
        "epochs": arguments.epochs,
        "rounds": arguments.rounds,
        "contenders": [asdict(who) for who in everyone],
        "threads": {},
    }
    for threads in arguments.threads:
        runs: dict[str, list[Found]] = {who.label: [] for who in everyone}
        for seed in range(1, arguments.rounds + 1):
            for who in everyone:
                runs[who.label].append(run(who, seed, threads, arguments))
        checked(runs)
        record["versions"] = {each[0]["who"]: each[0]["versions"] for each in runs.values()}
        record["threads"][str(threads)] = {
            "contenders": {label: summary(found) for label, found in runs.items()},
            "ratios": ratios(runs),
            "runs": runs,
        }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    before.write_text(json.dumps(record, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(page(record))


if __name__ == "__main__":
    main()
