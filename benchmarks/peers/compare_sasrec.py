"""Our SASRec beside RecTools 0.19's: the same split of MovieLens 100K, run in turn, one process at a time.

    python benchmarks/peers/compare_sasrec.py                 # 5 rounds, one thread and two
    python benchmarks/peers/compare_sasrec.py --rounds 1 --threads 1 --out build/peers/quick

How contenders are run and compared is said in rounds.py, and shown by --help.
"""

import sys
from pathlib import Path
from statistics import mean, median

import rounds
from rounds import HERE, ROOT, Contender, Found, Runs

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
COLUMNS = (
    ("steps per epoch", "steps_per_epoch", ""),
    ("s per epoch", "seconds_per_epoch", ".3f"),
    ("users/s", "users_per_second", ",.0f"),
    ("peak GiB", "peak_gib", ".2f"),
    ("items", "items", ","),
)
PROTOCOL = (
    "MovieLens 100K, a user's last interaction for the test and the one before for validation; trained on the rest, "
    "shown all before the last when recommending, which is left out of the lists; quality by one function for all"
)


def summary(found: list[Found]) -> Found:
    """A contender's rounds in a few numbers; users per second of every way to recommend."""
    ways = found[0]["users_per_second_by_way"]
    return rounds.summary(found, [each["metrics"] for each in found], AIMS, SHOWN) | {
        "items": found[0]["items"],
        "users_per_second_by_way": {
            way: median(each["users_per_second_by_way"][way] for each in found) for way in ways
        },
    }


def part(runs: Runs) -> Found:
    """Stop unless both sides had the same rows, and the same settings where they are to; sum up."""
    data, settings = rounds.data_of(runs), [each["settings"] for each in runs[OURS[0].label]]
    if len(data) > 1 or any(told[key] != value for told in settings for key, value in SAME.items()):
        raise SystemExit(f"the two sides do not do the same thing: {data}; {SAME} and {settings}")
    rows = []
    for who in OURS:
        each = [mine["metrics"]["ndcg@10"] for mine in runs[who.label]]
        rows += rounds.ratios(who, runs, AIMS)
        rows.append({"ours": who.label, "what": "NDCG@10", "aim": "≥ 0.058", "value": mean(each), "rounds": each})
    return {"contenders": {label: summary(found) for label, found in runs.items()}, "ratios": rows}


def page(record: Found) -> str:
    """The Markdown table."""
    lines = rounds.head(record, "SASRec beside RecTools 0.19's", PROTOCOL, peer="rectools", whose="RecTools'")
    for threads, told in record["threads"].items():
        lines += rounds.table(threads, told, COLUMNS, SHOWN)
        lines += ["| ours | against RecTools | value | aim |", "|---|---|---|---|"]
        for row in told["ratios"]:
            value = f"{row['value']:.3f}" if row["what"] == "NDCG@10" else f"{row['value']:.2f}"
            lines.append(f"| {row['ours']} | {row['what']} | {value} | {row['aim']} |")
        lines += ["", "| | way to recommend | users/s |", "|---|---|---|"]
        lines += [
            f"| {label} | {way} | {speed:,.0f} |"
            for label, one in told["contenders"].items()
            for way, speed in one["users_per_second_by_way"].items()
        ]
        lines.append("")
    lines += ["## Settings", "", "| | all |", "|---|---|"]
    for label, settings in record["settings"].items():
        lines.append(f"| {label} | {', '.join(f'{key} {value}' for key, value in settings.items())} |")
    return "\n".join(lines) + "\n\nMade by `benchmarks/peers/compare_sasrec.py`.\n"


def main() -> None:
    """Run all contenders in turn and write the table."""
    parser = rounds.parser(__doc__, "peers-rectools-sasrec", 20)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "ml-100k")
    arguments = parser.parse_args()
    arguments.work, arguments.data = arguments.work.resolve(), arguments.data.resolve()
    split = ["--split", str(arguments.work / "leave-last")]

    def command(who: Contender) -> list[str]:
        if who.preset is None:
            return [str(HERE / "peer.sh"), "rectools_sasrec", *split]
        return [sys.executable, str(HERE / "ours_sasrec.py"), *split, "--data", str(arguments.data)]

    record = rounds.compared((*OURS, RECTOOLS), arguments, command, part)  # ours first: it writes the split
    last = record["threads"][str(arguments.threads[-1])]["runs"]
    record["settings"] = {label: each[0]["settings"] for label, each in last.items()}
    rounds.written(record, page(record), arguments.out)


if __name__ == "__main__":
    main()
