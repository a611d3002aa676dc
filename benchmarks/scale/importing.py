"""Import of a log larger than memory: its rate beside that of bare Polars, its peak memory, and how both grow.

    python benchmarks/scale/importing.py
    python benchmarks/scale/importing.py --rows 20000000 --rounds 3
    python benchmarks/scale/importing.py --rows 1000000 --rows 10000000 --rows 100000000 --csv 10000000

Rows are in random order: whole-number ids, users of uneven activity, items by a power law, times over three years. Bare
is what cannot be left out: count users, count items, sort by user and time, write Parquet with zstd, by the streaming
engine of Polars. The import also numbers ids, checks every value, orders ties, measures the log, and writes checksums
and a fingerprint. Both are given the same files, in turn, each time in a process of its own, with all threads; its
seconds begin when the libraries are loaded. The files have been read before, so the disk is left out for both.
"""

import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import at_serving  # noqa: F401 - finds what lies in benchmarks/serving
import recording
from recording import Record, at_least, at_most, say, told

USERS, ITEMS, TOGETHER = 1_000_000, 200_000, 5_000_000
LEAST_SHARE, MOST_GIB, MOST_GROWTH = 0.5, 6.0, 1.3
SIZES = (1_000_000, 10_000_000, 100_000_000)


def made(work: Path, rows: int, form: str) -> list[Path]:
    """The files of a log of so many rows, as "parquet" or "csv", made where they are not there."""
    import numpy as np
    import polars as pl

    folder = work / f"log-{rows}-{form}"
    files = [folder / f"{number:03}.{form}" for number in range(-(-rows // TOGETHER))]
    if all(path.exists() for path in files):
        return files
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, path in enumerate(files):
        rng = np.random.default_rng((recording.SEED, number))
        count = min(TOGETHER, rows - number * TOGETHER)
        items = (ITEMS * rng.random(count) ** 3).astype(np.int64)
        frame = pl.DataFrame(
            {
                "user_id": (USERS * rng.random(count) ** 1.5).astype(np.int64) * 37 + 11,
                "item_id": items * 7919 % 200_003,  # so that the number does not tell the count
                "timestamp": 1_500_000_000 + rng.integers(0, 10**8, count),
            }
        )
        temporary = path.with_suffix(".tmp")
        frame.write_parquet(temporary) if form == "parquet" else frame.write_csv(temporary)
        temporary.rename(path)
    return files


def ours(files: list[str], out: str) -> Record:
    """Seconds and peak MiB of an import."""
    from diffacet.app import importing
    from diffacet.app.streaming import pipeline  # noqa: F401 - is loaded before the clock starts

    start = time.perf_counter()
    done = importing.import_log(files, out, partitions=_partitions(files))
    return _measured(start) | {"partitions": done.partitions, "rows": done.rows}


def bare(files: list[str], out: str) -> Record:
    """Seconds and peak MiB of the operators alone."""
    import polars as pl

    folder = Path(out)
    folder.mkdir()
    start = time.perf_counter()
    log = pl.scan_parquet(files) if files[0].endswith("parquet") else pl.scan_csv(files)
    for name in ("user_id", "item_id"):
        log.group_by(name).len().collect(engine="streaming")
    log.sort("user_id", "timestamp").sink_parquet(folder / "log.parquet", compression="zstd", engine="streaming")
    return _measured(start)


def _measured(start: float) -> Record:
    seconds = time.perf_counter() - start
    # Not getrusage: its peak is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return {"seconds": seconds, "mib": peak / 1024}


def _partitions(files: list[str]) -> int:
    """As many as the import itself would make of a log above 1 GiB."""
    from diffacet.app.streaming import planning
    from diffacet.data.formats.source import Names

    plan = planning.planned([Path(one) for one in files], "auto", Names(), None, always=True)
    assert plan is not None
    return plan.partitions


PARTS: dict[str, Any] = {"ours": ours, "bare": bare}


def compared(work: Path, rows: int, form: str, rounds: int) -> Record:
    """Both on one log, in turn; all rounds and what they say."""
    files = [str(path) for path in made(work, rows, form)]
    for path in files:
        Path(path).read_bytes()
    found: dict[str, list[Record]] = {name: [] for name in PARTS}
    for turn in range(rounds):
        for name, each in found.items():
            out = work / f"{name}-out"
            shutil.rmtree(out, ignore_errors=True)
            each.append(recording.apart(__file__, name, files=files, out=str(out)))
            shutil.rmtree(out, ignore_errors=True)
        say(f"{rows:,} rows, {form}, round {turn + 1} of {rounds}: " + _line(found))
    seconds = {name: [one["seconds"] for one in each] for name, each in found.items()}
    shares = [bare / ours for ours, bare in zip(seconds["ours"], seconds["bare"], strict=True)]
    return {
        "rows": rows,
        "form": form,
        "bytes": sum(Path(path).stat().st_size for path in files),
        "partitions": found["ours"][0]["partitions"],
        "seconds": seconds,
        "rows_per_second": {name: rows / statistics.median(each) for name, each in seconds.items()},
        "share": statistics.median(shares),
        "shares": shares,
        "mib": {name: max(one["mib"] for one in each) for name, each in found.items()},
    }


def _line(found: dict[str, list[Record]]) -> str:
    return ", ".join(f"{name} {each[-1]['seconds']:.1f} s {each[-1]['mib']:,.0f} MiB" for name, each in found.items())


def page(record: Record) -> str:
    """The Markdown page."""
    how = (
        f"{USERS:,} users and {ITEMS:,} items at most; {record['times']} rounds in turn, medians. Share: rows/s of the"
        " import over those of bare Polars in the same round."
    )
    rows = [
        (
            f"{one['rows']:,} ({one['form']})",
            [
                f"{one['rows_per_second']['ours']:,.0f}",
                f"{one['rows_per_second']['bare']:,.0f}",
                f"{one['share']:.2f}",
                ", ".join(f"{share:.2f}" for share in one["shares"]),
                f"{one['mib']['ours']:,.0f}",
                f"{one['mib']['bare']:,.0f}",
                str(one["partitions"]),
            ],
        )
        for one in record["logs"]
    ]
    columns = ["rows/s", "bare rows/s", "share", "each round", "peak MiB", "bare peak MiB", "partitions"]
    return recording.page(record, "Import of logs larger than memory", how, recording.table("rows", columns, rows))


def main() -> None:
    """Measure everything."""
    if "--part" in sys.argv:  # without torch, which an import does not need and whose memory would be counted
        name, asked = sys.argv[sys.argv.index("--part") + 1 :][:2]
        sys.stdout.write(json.dumps(PARTS[name](**json.loads(asked))) + "\n")
        return
    options = recording.parser(__doc__, __file__)
    options.add_argument("--rows", type=int, action="append", help="rows of a log; may be repeated; 1, 10 and 100 M")
    options.add_argument("--csv", type=int, action="append", help="rows of a log as CSV; may be repeated; 10 M")
    options.add_argument("--rounds", type=int, default=3)
    given = recording.arguments(options, __file__, {})
    sizes = sorted(given.rows or ((200_000,) if given.quick else SIZES))
    texts = sorted(given.csv or ([] if given.rows else [sizes[-1] if given.quick else SIZES[1]]))
    rounds = 1 if given.quick else given.rounds
    record = recording.begun(given, __file__) | {"times": rounds}
    record["logs"] = [compared(given.work, rows, "parquet", rounds) for rows in sizes]
    record["logs"] += [compared(given.work, rows, "csv", rounds) for rows in texts]
    aims = []
    for one in record["logs"]:
        what = f"{one['rows']:,} rows, {one['form']}"
        aims.append(at_least(f"share of bare rows/s, {what}", one["share"], LEAST_SHARE))
    largest = record["logs"][len(sizes) - 1]
    aims.append(at_most(f"peak memory, {largest['rows']:,} rows", largest["mib"]["ours"] / 1024, MOST_GIB, " GiB"))
    if len(sizes) > 1:
        first, last = (1 / record["logs"][place]["rows_per_second"]["ours"] for place in (0, len(sizes) - 1))
        aims.append(at_most(f"time per row, {sizes[-1]:,} rows / {sizes[0]:,}", last / first, MOST_GROWTH))
        growth = record["logs"][len(sizes) - 1]["mib"]["ours"] / record["logs"][0]["mib"]["ours"]
        aims.append(told(f"peak memory, {sizes[-1]:,} rows / {sizes[0]:,}", growth))
    recording.finish(record, given, aims, page)


if __name__ == "__main__":
    main()
