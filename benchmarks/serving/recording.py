"""What all parts of the serving and scale benchmarks have in common: the command line, provenance, record and page.

A part of benchmarks/FAMILY writes benchmarks/results/FAMILY-NAME.json and .md. What must not share a process with
anything else is measured in one of its own: the same script, called with --part NAME and its arguments as JSON.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent))
from diffrec_speed import head  # noqa: E402 - it lies beside this folder

Record = dict[str, Any]
Parts = Mapping[str, Callable[..., Record]]
PACKAGES = ("torch", "faiss-cpu", "numpy", "polars", "fastapi", "uvicorn", "uvloop", "httptools", "pydantic")
SEED = 0
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch and FAISS load


@dataclass(frozen=True)
class Aim:
    """A figure that was to be reached; `met` is None where nothing was aimed at."""

    what: str
    value: float
    aim: str
    met: bool | None
    unit: str = ""


def at_most(what: str, value: float, most: float, unit: str = "") -> Aim:
    """An aim of at most so much."""
    return Aim(what, value, f"≤ {most:g}{unit}", value <= most, unit)


def at_least(what: str, value: float, least: float, unit: str = "") -> Aim:
    """An aim of at least so much."""
    return Aim(what, value, f"≥ {least:g}{unit}", value >= least, unit)


def told(what: str, value: float, unit: str = "") -> Aim:
    """A figure without an aim."""
    return Aim(what, value, "", None, unit)


def parser(doc: str | None, script: str) -> argparse.ArgumentParser:
    """The options that every part has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--out", type=Path, help=f"the record; benchmarks/results/{_named(script)}.json, --quick: in --work"
    )
    made.add_argument("--quick", action="store_true", help="everything, but far too short to be believed")
    made.add_argument("--reading", help="what the page says before its tables, in words")
    made.add_argument("--work", type=Path, default=ROOT / "build" / _family(script), help="logs and runs are kept here")
    made.add_argument("--part", nargs=2, metavar=("NAME", "JSON"), help="one part in this process, printed as JSON")
    return made


def arguments(parser: argparse.ArgumentParser, script: str, parts: Parts) -> argparse.Namespace:
    """The options as given; a call for one part does it and ends here."""
    given = parser.parse_args()
    if given.part:
        import torch

        torch.set_num_threads(1)
        name, told = given.part
        sys.stdout.write(json.dumps(parts[name](**json.loads(told))) + "\n")
        sys.exit(0)
    folder = given.work if given.quick else ROOT / "benchmarks" / "results"
    given.out = given.out or folder / f"{_named(script)}.json"
    given.work = given.work.resolve()
    given.work.mkdir(parents=True, exist_ok=True)
    return given


def apart(script: str, name: str, **asked: Any) -> Record:
    """What the part `name` of a script gives, in a process of its own."""
    command = [sys.executable, script, "--part", name, json.dumps(asked, default=str)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def busy(seconds: float = 1.0) -> float:
    """Cores that are busy now, of all processes, on the mean of so many seconds; our own does nothing meanwhile."""

    def used() -> tuple[float, float]:
        fields = [float(one) for one in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        return sum(fields) - fields[3] - fields[4], sum(fields)

    before = used()
    time.sleep(seconds)
    after = used()
    return (os.cpu_count() or 1) * (after[0] - before[0]) / max(after[1] - before[1], 1e-9)


def begun(given: argparse.Namespace, script: str) -> Record:
    """The record as it begins: command, commit, machine, seed, versions, and how busy the machine is without us."""
    import torch

    from diffacet.app.environment import environment

    name, asked = Path(script).stem, [one for one in sys.argv[1:] if one != "--again"]
    cores = busy()
    if cores > 0.2:
        say(f"{cores:.1f} cores are busy already: figures of this run will say so")
    return {
        "command": " ".join([f"python benchmarks/{_family(script)}/{name}.py", *asked]),
        "commit": environment(torch.device("cpu"))["commit"],
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {_processor()}",
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "seed": SEED,
        "quick": given.quick,
        "busy_cores_before": round(cores, 2),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "reading": given.reading or _reading(given.out),
    }


def page(record: Record, title: str, how: str, tables: Sequence[str]) -> str:
    """The Markdown page: aims and whether they were met, how it was measured, tables."""
    lines = head(record, title)
    reading, rest = lines[2:4], lines[4:]
    aims = [Aim(**one) for one in record["aims"]]
    out = [lines[0], ""]
    out += [f"- **{'met' if one.met else 'NOT met'}** ({one.aim}): {_figure(one)}" for one in aims if one.aim]
    out += [f"- {_figure(one)}" for one in aims if not one.aim]
    out.append("")
    if record["quick"]:
        out += ["**A quick run: these figures say only that the benchmark works.**", ""]
    if record["busy_cores_before"] > 0.2:
        out += [f"Other work kept {record['busy_cores_before']} cores busy when this began.", ""]
    out += [*(reading if reading[0] else []), *rest, how, "", *tables]
    return "\n".join(out) + f"\n\nMade by `{record['command'].split()[1]}`.\n"


def finish(record: Record, given: argparse.Namespace, aims: Sequence[Aim], made: Callable[[Record], str]) -> None:
    """Write the record, with its aims, and the page that `made` makes of it."""
    record["aims"] = [asdict(one) for one in aims]
    record["ended"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(record, indent=1) + "\n")
    text = made(record)
    given.out.with_suffix(".md").write_text(text)
    say(text)


def table(first: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """A Markdown table with a blank line behind it."""
    lines = [f"| {first} | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows]
    return [*lines, ""]


def say(text: str) -> None:
    """A line of progress."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _family(script: str) -> str:
    """The folder of a script: serving or scale."""
    return Path(script).resolve().parent.name


def _named(script: str) -> str:
    """What the record of a script is called."""
    return f"{_family(script)}-{Path(script).stem}"


def _figure(one: Aim) -> str:
    return (
        f"{one.what}: {one.value:,.3g}{one.unit}"
        if abs(one.value) < 1000
        else f"{one.what}: {one.value:,.0f}{one.unit}"
    )


def _reading(out: Path) -> str:
    """The words of the record that was there before."""
    return json.loads(out.read_text()).get("reading", "") if out.exists() else ""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
