"""Our SASRec beside RecTools 0.19's: the same split of MovieLens 100K, run in turn, one process at a time.

    python benchmarks/peers/compare_sasrec.py                 # 5 rounds, one thread and two
    python benchmarks/peers/compare_sasrec.py --rounds 1 --threads 1 --out build/peers/quick

RecTools runs in the environment of rectools_sasrec.sh, which $PEER_ENV moves. Every round runs each contender once,
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
from dataclasses import asdict
from pathlib import Path
from statistics import mean, median, stdev

from compare import HERE, ROOT, Contender, Found

OUT = HERE.parent / "results" / "peers-rectools-sasrec"
SHOWN = ("ndcg@10", "hit_rate@10")
RECTOOLS = Contender("RecTools, d = 64 and sessions of 50")
# The rest of RecTools' settings are the preset's: 2 blocks, dropout 0.2, batches of 128, Adam at 0.001, full softmax.
OURS = (
    Contender("diffacet, RecTools' settings", ("heads=4", "norm=original"), "best", RECTOOLS.label),
    Contender("diffacet, preset best", (), "best", RECTOOLS.label),
)
SAME = {"dim": 64, "layers": 2, "heads": 4, "dropout": 0.2, "length": 50, "lr": 0.001, "batch_size": 128}
"""What the first of ours is to share with RecTools, whatever the preset becomes."""
AIMS = (
    ("seconds_per_epoch", "seconds per epoch / RecTools'", "≤ 1"),
    ("cpu_seconds_per_epoch", "the same in CPU seconds", ""),
    ("users_per_second", "recommended users/s / RecTools' best", "≥ 4"),
    ("users_per_cpu_second", "the same in CPU seconds", ""),
)


def run(who: Contender, seed: int, threads: int, arguments: argparse.Namespace) -> Found:
    """One process; what it wrote."""
    out = arguments.work / "last.json"
    words = ["--out", str(out), "--split", str(arguments.work / "leave-last"), "--seed", str(seed)]
    words += ["--epochs", str(arguments.epochs), "--threads", str(threads)]
    words += [word for change in who.set for word in ("--set", change)]
    if who.preset is None:
        command = [str(HERE / "rectools_sasrec.sh"), *words]
    else:
        data = ["--data", str(arguments.data), "--preset", who.preset]
        command = [sys.executable, str(HERE / "ours_sasrec.py"), *words, *data]
    out.unlink(missing_ok=True)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": str(threads)}
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    found: Found = json.loads(out.read_text())
    parts = ", ".join(f"{key} {found[key]:.4g}" for key, _, _ in AIMS)
    print(
        f"{who.label}, seed {seed}, threads {threads}: {parts}, NDCG@10 {found['metrics']['ndcg@10']:.4f}", flush=True
    )
    return found


def checked(runs: dict[str, list[Found]]) -> None:
    """Stop unless both sides had the same rows, and the same settings where they are to."""
    data = {json.dumps(each["data"], sort_keys=True) for found in runs.values() for each in found}
    settings = [each["settings"] for each in runs[OURS[0].label]]
    if len(data) > 1 or any(told[key] != value for told in settings for key, value in SAME.items()):
        raise SystemExit(f"the two sides do not do the same thing: {data}; {SAME} and {settings}")


def summary(found: Sequence[Found]) -> Found:
    """A contender's rounds in a few numbers."""
    tested = [each["metrics"] for each in found]
    return {
        "steps_per_epoch": found[0]["steps_per_epoch"],
        "parameters": found[0]["parameters"],
        "items": found[0]["items"],
        **{key: median(each[key] for each in found) for key, _, _ in AIMS},
        "users_per_second_by_way": {
            way: median(each["users_per_second_by_way"][way] for each in found)
            for way in found[0]["users_per_second_by_way"]
        },
        "peak_gib": max(each["peak_gib"] for each in found),
        "metrics": {name: mean(each[name] for each in tested) for name in SHOWN},
        "deviation": {name: stdev(each[name] for each in tested) if len(tested) > 1 else None for name in SHOWN},
    }


def ratios(runs: dict[str, list[Found]]) -> list[Found]:
    """What the aims are about: each of ours against RecTools, round by round, and the mean of its NDCG@10."""
    rows = []
    for who in OURS:
        for key, what, aim in AIMS:
            pairs = zip(runs[who.label], runs[who.against], strict=True)
            each = [mine[key] / other[key] for mine, other in pairs]
            rows.append({"ours": who.label, "what": what, "aim": aim, "value": median(each), "rounds": each})
        each = [mine["metrics"]["ndcg@10"] for mine in runs[who.label]]
        rows.append({"ours": who.label, "what": "NDCG@10", "aim": "≥ 0.058", "value": mean(each), "rounds": each})
    return rows


def page(record: Found) -> str:
    """The Markdown table."""
    lines = ["# SASRec beside RecTools 0.19's", "", record["reading"], ""]
    lines += [
        f"Command: `{record['command']}`; commit {record['commit']}; {record['machine']}; ours with torch "
        f"{record['versions']['diffacet']['torch']}, RecTools' with {record['versions']['rectools']['torch']}.  ",
        "MovieLens 100K, a user's last interaction for the test and the one before for validation; trained on the "
        "rest, shown all before the last when recommending, which is left out of the lists; "
        f"{record['epochs']} epochs, {record['rounds']} rounds in turn, a seed each; quality of the last epoch on the "
        "test, mean ± sample deviation, by one function for all.",
        "",
    ]
    for threads, part in record["threads"].items():
        lines += [f"## {threads} thread{'s' if threads != '1' else ''}", ""]
        lines += ["| | steps per epoch | s per epoch | users/s | peak GiB | items | " + " | ".join(SHOWN) + " |"]
        lines += ["|" + "---|" * (6 + len(SHOWN))]
        for label, told in part["contenders"].items():
            cells = [str(told["steps_per_epoch"]), f"{told['seconds_per_epoch']:.3f}"]
            cells += [f"{told['users_per_second']:,.0f}", f"{told['peak_gib']:.2f}", f"{told['items']:,}"]
            for name in SHOWN:
                spread = told["deviation"][name]
                cells.append(f"{told['metrics'][name]:.4f}" + (f" ± {spread:.4f}" if spread is not None else ""))
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
        lines += ["", "| ours | against RecTools | value | aim |", "|---|---|---|---|"]
        for row in part["ratios"]:
            value = f"{row['value']:.3f}" if row["what"] == "NDCG@10" else f"{row['value']:.2f}"
            lines.append(f"| {row['ours']} | {row['what']} | {value} | {row['aim']} |")
        lines += ["", "| | way to recommend | users/s |", "|---|---|---|"]
        lines += [
            f"| {label} | {way} | {speed:,.0f} |"
            for label, told in part["contenders"].items()
            for way, speed in told["users_per_second_by_way"].items()
        ]
        lines.append("")
    lines += ["## Settings", "", "| | all |", "|---|---|"]
    for label, settings in record["settings"].items():
        lines.append(f"| {label} | {', '.join(f'{key} {value}' for key, value in settings.items())} |")
    return "\n".join(lines) + "\n\nMade by `benchmarks/peers/compare_sasrec.py`.\n"


def asked() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "ml-100k")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "peers", help="what is made on the way")
    parser.add_argument("--out", type=Path, default=OUT, help="path of the .json and the .md, without either")
    parser.add_argument("--reading", help="what the table says first, in words")
    arguments = parser.parse_args()
    arguments.work, arguments.data = arguments.work.resolve(), arguments.data.resolve()
    arguments.work.mkdir(parents=True, exist_ok=True)
    return arguments


def main() -> None:
    """Run all contenders in turn and write the table."""
    arguments = asked()
    before = arguments.out.with_suffix(".json")
    reading = arguments.reading or (json.loads(before.read_text())["reading"] if before.exists() else "")
    everyone = (*OURS, RECTOOLS)  # ours first: it writes the split
    record: Found = {
        "command": " ".join(["python", "benchmarks/peers/compare_sasrec.py", *sys.argv[1:]]),
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
        record["settings"] = {label: each[0]["settings"] for label, each in runs.items()}
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
