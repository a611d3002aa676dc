"""Contenders run in turn, one process at a time: what every comparison with a peer does and writes alike.

Every round runs each contender once, in a process of its own on as many cores as threads, with the round's seed.
Speeds are medians over the rounds; a ratio is the median of the ratios within the rounds, so what slows the machine
down for a while slows both sides; on a busy machine, read the CPU seconds. Quality is that of the weights after the
last epoch, which nobody selects. A peer runs in the environment of peer.sh, which $PEER_ENV moves.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch

from diffacet.app.environment import environment

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
Found = dict[str, Any]
Runs = dict[str, list[Found]]
"""What each contender's processes wrote, by its label, a round after the other."""
Aims = Sequence[tuple[str, str, str]]
"""The figure, what ours over the peer's is called, and what it is to be."""


@dataclass(frozen=True)
class Contender:
    """Who runs: the peer, or a preset of ours, which is held against one of the peer's; with what changed."""

    label: str
    set: tuple[str, ...] = ()
    preset: str | None = None
    against: str = ""


def parser(doc: str | None, name: str, epochs: int) -> argparse.ArgumentParser:
    """The command line of a comparison, whose table is results/`name`."""
    about = "\n".join([doc or "", (__doc__ or "").partition("\n\n")[2]])
    found = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--rounds", type=int, default=5)
    found.add_argument("--epochs", type=int, default=epochs)
    found.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    found.add_argument("--work", type=Path, default=ROOT / "build" / "peers", help="what is made on the way")
    out = HERE.parent / "results" / name
    found.add_argument("--out", type=Path, default=out, help="path of the .json and the .md, without either")
    found.add_argument("--reading", help="what the table says first, in words")
    return found


def run(who: Contender, seed: int, threads: int, arguments: argparse.Namespace, command: Sequence[str]) -> Found:
    """One process; what it wrote."""
    out = arguments.work / "last.json"
    words = [*command, "--out", str(out), "--seed", str(seed)]
    words += ["--epochs", str(arguments.epochs), "--threads", str(threads)]
    words += [word for change in who.set for word in ("--set", change)]
    words += ["--preset", who.preset] if who.preset is not None else []
    out.unlink(missing_ok=True)
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": str(threads)}
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    print(f"{who.label}, seed {seed}, threads {threads}: {done.stdout.splitlines()[-1]}", flush=True)
    found: Found = json.loads(out.read_text())
    return found


def compared(
    everyone: Sequence[Contender],
    arguments: argparse.Namespace,
    command: Callable[[Contender], Sequence[str]],
    part: Callable[[Runs], Found],
) -> Found:
    """The record of all rounds.

    Args:
        everyone: in the order in which they run; the first one writes the split.
        arguments: of `parser`.
        command: how a contender is called, but for what all of them take.
        part: checks the runs of one number of threads and sums them up.
    """
    arguments.work.mkdir(parents=True, exist_ok=True)
    before = arguments.out.with_suffix(".json")
    reading = arguments.reading or (json.loads(before.read_text())["reading"] if before.exists() else "")
    record: Found = {
        "command": " ".join(["python", f"benchmarks/peers/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": environment(torch.device("cpu"))["commit"],
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "reading": reading,
        "epochs": arguments.epochs,
        "rounds": arguments.rounds,
        "contenders": [asdict(who) for who in everyone],
        "threads": {},
    }
    for threads in arguments.threads:
        runs: Runs = {who.label: [] for who in everyone}
        for seed in range(1, arguments.rounds + 1):
            for who in everyone:
                runs[who.label].append(run(who, seed, threads, arguments, command(who)))
        record["threads"][str(threads)] = part(runs) | {"runs": runs}
        record["versions"] = {each[0]["who"]: each[0]["versions"] for each in runs.values()}
    return record


def written(record: Found, page: str, out: Path) -> None:
    """Write the record and its page."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    out.with_suffix(".md").write_text(page)


def data_of(runs: Runs) -> set[str]:
    """What the runs say of their data: one text where all had the same rows."""
    return {json.dumps(each["data"], sort_keys=True) for found in runs.values() for each in found}


def summary(found: Sequence[Found], tested: Sequence[Found], aims: Aims, shown: Sequence[str]) -> Found:
    """A contender's rounds in a few numbers; `tested` are their metrics."""
    return {
        "steps_per_epoch": found[0]["steps_per_epoch"],
        "parameters": found[0]["parameters"],
        **{key: median(each[key] for each in found) for key, _, _ in aims},
        "peak_gib": max(each["peak_gib"] for each in found),
        "metrics": {name: mean(each[name] for each in tested) for name in shown},
        "deviation": {name: stdev(each[name] for each in tested) if len(tested) > 1 else None for name in shown},
    }


def ratios(who: Contender, runs: Runs, aims: Aims) -> list[Found]:
    """What the aims are about: one of ours against its counterpart, round by round."""
    rows = []
    for key, what, aim in aims:
        each = [mine[key] / other[key] for mine, other in zip(runs[who.label], runs[who.against], strict=True)]
        row = {"ours": who.label, "against": who.against, "what": what, "aim": aim}
        rows.append(row | {"value": median(each), "rounds": each})
    return rows


def head(record: Found, title: str, protocol: str, *, peer: str, whose: str) -> list[str]:
    """The first lines of the Markdown page: what it says, and how it was made; `whose` is the peer as in RecBole's."""
    mine, other = (record["versions"][who]["torch"] for who in ("diffacet", peer))
    return [
        f"# {title}",
        "",
        record["reading"],
        "",
        f"Command: `{record['command']}`; commit {record['commit']}; {record['machine']}; ours with torch "
        f"{mine}, {whose} with {other}.  ",
        f"{protocol}; {record['epochs']} epochs, {record['rounds']} rounds in turn, a seed each; quality of the last "
        "epoch on the test, mean ± sample deviation.",
        "",
    ]


def table(threads: str, part: Found, columns: Sequence[tuple[str, str, str]], shown: Sequence[str]) -> list[str]:
    """A section of the page, for a number of threads: what the contenders were measured to be.

    A column has a name, the figure that it shows, and the form of that.
    """
    names = [name for name, _, _ in columns]
    lines = [f"## {threads} thread{'s' if threads != '1' else ''}", "", f"| | {' | '.join([*names, *shown])} |"]
    lines.append("|" + "---|" * (1 + len(columns) + len(shown)))
    for label, told in part["contenders"].items():
        cells = [format(told[key], form) for _, key, form in columns]
        for name in shown:
            spread = told["deviation"][name]
            cells.append(f"{told['metrics'][name]:.4f}" + (f" ± {spread:.4f}" if spread is not None else ""))
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return [*lines, ""]
