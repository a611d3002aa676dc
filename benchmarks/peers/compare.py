"""Our DiffRec beside RecBole 1.2.1's: the same split, run in turn, one process at a time; table and JSON.

    python benchmarks/peers/compare.py                 # 5 rounds, one thread and two
    python benchmarks/peers/compare.py --rounds 1 --epochs 20 --threads 1 --out build/peers/quick

How contenders are run and compared is said in rounds.py, and shown by --help.
"""

import json
import sys

import rounds
from rounds import HERE, Contender, Found, Runs

SHOWN = ("ndcg@10", "recall@10", "ndcg@20", "recall@20")
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
COLUMNS = (
    ("steps per epoch", "steps_per_epoch", ""),
    ("s per epoch", "seconds_per_epoch", ".4f"),
    ("evaluation users/s", "eval_users_per_second", ",.0f"),
    ("peak GiB", "peak_gib", ".2f"),
)
PROTOCOL = {"input": "train", "masked_valid": "train", "masked_test": "train+valid"}


def quality(found: Found) -> dict[str, float]:
    """Test metrics by our names; every user has one target, so the definitions of both sides agree."""
    return {name.lower(): value for name, value in found["metrics"]["test"].items()}


def part(runs: Runs) -> Found:
    """Stop unless both sides had the same rows and RecBole evaluated as we do; sum up."""
    data = rounds.data_of(runs)
    protocols = {json.dumps(each["protocol"]) for found in runs.values() for each in found if "protocol" in each}
    if len(data) > 1 or protocols != {json.dumps(PROTOCOL)}:
        raise SystemExit(f"the two sides do not do the same thing: {data}, {protocols}")
    return {
        "contenders": {
            label: rounds.summary(found, [quality(each) for each in found], AIMS, SHOWN)
            for label, found in runs.items()
        },
        "ratios": [row for who in OURS for row in rounds.ratios(who, runs, AIMS)],
    }


def page(record: Found) -> str:
    """The Markdown table."""
    protocol = "MovieLens 100K, leave-last-out as RecBole cuts it, shown: train, masked at the test: train and valid"
    lines = rounds.head(record, "DiffRec beside RecBole 1.2.1's", protocol, peer="recbole", whose="RecBole's")
    for threads, told in record["threads"].items():
        lines += rounds.table(threads, told, COLUMNS, SHOWN)
        lines += ["| ours | against | ratio | value | aim |", "|---|---|---|---|---|"]
        lines += [
            f"| {row['ours']} | {row['against']} | {row['what']} | {row['value']:.2f} | {row['aim']} |"
            for row in told["ratios"]
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
    arguments = rounds.parser(__doc__, "peers-recbole-diffrec", 100).parse_args()
    arguments.work = arguments.work.resolve()
    split = ["--split", str(arguments.work / "split")]

    def command(who: Contender) -> list[str]:
        if who.preset is None:
            return [str(HERE / "peer.sh"), "recbole_diffrec", *split]
        return [sys.executable, str(HERE / "ours_diffrec.py"), *split, "--data", str(arguments.work / "data")]

    record = rounds.compared((*RECBOLE, *OURS), arguments, command, part)  # RecBole first: it writes the split
    rounds.written(record, page(record), arguments.out)


if __name__ == "__main__":
    main()
