"""What a log and a catalogue of any size ask for, out of constants that were measured: the tables of docs/scale.md.

    python benchmarks/scale/plan.py     # reads the records of importing.py, training.py, workers.py and candidates.py

Constants come from one size; what they say of other sizes is put beside what was measured there. Then the plan: users
and items by hours, machines and memory. It assumes that work which is divided by users, by partitions or by rows goes
as fast on each core of a larger machine as on one of these, and that many machines go on together without loss: that
has been tried with the processes of one machine only. One thing is measured here: how fast training users are read.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import at_serving  # noqa: F401 - finds what lies in benchmarks/serving
import candidates
import recording
from recording import Record, at_most, say
from training import BATCH, LENGTH, NEGATIVES

DIM, INTERESTS, FLOAT, MIB = 64, 4, 4, 2**20
TRAINED = 3 * FLOAT * DIM  # bytes of an item: its vector and the two moments of Adam
SERVED = FLOAT * DIM
HNSW_MIB = 504  # of a million items, benchmarks/results/serving-indexes.md, as the rate and its recall
HNSW_RATE, HNSW_RECALL = 954, 0.956
USER = 56  # bytes: lengths, beginnings, cut and the orders they are made by
ROW_ON_DISK = 5.2  # bytes of an interaction in a data directory: docs/tutorials/scale.md
READS = 1024
CORES, WIRE, HOP = 32, 1.25e9, 1e-4  # of a machine of the plan: cores, bytes/s of its network, seconds of a message
SHARD = 4 * 2**30  # bytes of the table that a worker of the plan takes
EACH = 10  # interactions of a user of the plan
USERS, ITEMS = (10**6, 10**8, 10**9), (10**6, 10**7, 10**8)
MOST_OFF = 1.3
DOCS = recording.ROOT / "docs" / "scale.md"


@dataclass(frozen=True)
class Constants:
    """What was measured at one size.

    Attributes:
        start: seconds that an import takes whatever it reads.
        row: seconds of each imported interaction, of two threads.
        base: bytes of a training process without items.
        step: seconds of a step of BATCH users, one thread.
        user, item: seconds of one thread that a user's candidates take, and that each item of the catalogue adds.
        read: seconds of an interaction of a training user that is read from partitions.
        numbers: numbers of the model beside the item table.
        history: items of a history that a step reads, on the mean.
    """

    start: float
    row: float
    base: float
    step: float
    user: float
    item: float
    read: float
    numbers: int
    history: float


def sent(constants: Constants, workers: int, batch: int) -> float:
    """Bytes that each of so many workers sends in a step.

    Of the rows that its users name, all but its own come from others: the number goes out, the vector comes, the
    gradient goes. Every user's vector goes to all, with three log-sums back, and both have gradients. What is no table
    is summed in a ring.
    """
    others = (workers - 1) / workers
    looked_up = batch / workers * (constants.history + 1) * (8 + 2 * FLOAT * DIM)
    softmax = 2 * FLOAT * batch * (DIM + 3)
    return others * (looked_up + softmax + 2 * FLOAT * constants.numbers)


def reading(work: str, batches: int) -> Record:
    """Seconds for each interaction that training by blocks reads, and the mean length of the histories of a step."""
    from diffacet.core.contract import Training
    from diffacet.data import store
    from diffacet.data.streamed_split import make
    from diffacet.learn import batches as cutting

    folder = Path(work)
    dataset = store.open(candidates.data(folder, candidates.MIDDLE, candidates.SMALL))
    assert dataset.partitions is not None
    training = Training(batch_size=READS, length=LENGTH, negatives=NEGATIVES, sampling="blocks")
    split = make(dataset.partitions, "by-user", 0)
    batch_at: Callable[[int], Any] = cutting.batch_at(split.train, dataset.n_items, training)
    start = time.perf_counter()
    for number in range(batches):
        batch_at(number)
    return {"seconds": (time.perf_counter() - start) / batches / READS / candidates.EACH}


def fitted(records: dict[str, Record], read: float) -> Constants:
    """The constants: import of two smaller logs, training at the smallest catalogue, candidates of the two smallest."""
    few_rows, more_rows = _logs(records)[:2]
    row = (_seconds(more_rows) - _seconds(few_rows)) / (more_rows["rows"] - few_rows["rows"])
    smallest = min(records["training"]["catalogues"], key=lambda one: one["items"])
    few = records["candidates"]["memory"][0]
    many = min(records["candidates"]["rates"], key=lambda one: one["items"])
    seconds = {candidates.SMALL: 1 / few["users_per_second"], many["items"]: 1 / _rate(many)}
    item = (seconds[many["items"]] - seconds[candidates.SMALL]) / (many["items"] - candidates.SMALL)
    return Constants(
        start=_seconds(few_rows) - row * few_rows["rows"],
        row=row,
        base=smallest["mib"] * MIB - smallest["items"] * TRAINED,
        step=smallest["ms"] / 1e3,
        user=seconds[candidates.SMALL] - item * candidates.SMALL,
        item=item,
        read=read,
        numbers=records["workers"]["worlds"][0]["own_numbers"],
        history=(LENGTH + 1) / 2,  # every place of a sequence of LENGTH + 1 is as likely to be the target
    )


def _logs(records: dict[str, Record]) -> list[Record]:
    """The logs of Parquet that were imported, the smallest first."""
    return sorted(
        (one for one in records["importing"]["logs"] if one["form"] == "parquet"), key=lambda one: one["rows"]
    )


def _seconds(log: Record) -> float:
    return log["rows"] / log["rows_per_second"]["ours"]


def _rate(one: Record) -> float:
    return statistics.median(one["rounds"]["job"])


def checked(records: dict[str, Record], constants: Constants) -> list[Record]:
    """What the constants say of every size that was measured and they were not taken from, beside what was."""
    found = list[Record]()

    def add(what: str, predicted: float, measured: float, unit: str) -> None:
        ratio = predicted / measured
        found.append({"what": what, "predicted": predicted, "measured": measured, "unit": unit, "ratio": ratio})

    for one in _logs(records)[2:]:
        add(f"import, {one['rows']:,} rows", constants.start + one["rows"] * constants.row, _seconds(one), "s")
    for one in records["training"]["catalogues"][1:]:
        add(f"training, {one['items']:,} items", (constants.base + TRAINED * one["items"]) / MIB, one["mib"], "MiB")
    for one in records["training"]["catalogues"][1:]:
        add(f"a step, {one['items']:,} items", 1e3 * constants.step, one["ms"], "ms")
    for one in records["workers"]["worlds"]:
        if one["workers"] > 1:
            what = f"sent by each of {one['workers']} workers, batch {one['batch']}"
            add(what, sent(constants, one["workers"], one["batch"]) / 1e3, one["bytes"] / 1e3, "kB")
    timed = [(candidates.SMALL, records["candidates"]["memory"][1]["users_per_second"])]
    timed += [(one["items"], _rate(one)) for one in records["candidates"]["rates"][1:]]
    for items, rate in timed:
        add(f"candidates, {items:,} items, one thread", 1 / (constants.user + constants.item * items), rate, "users/s")
    return found


def planned(constants: Constants) -> list[Record]:
    """Hours, machines and memory for every number of users and items."""
    return [_planned(constants, users, items) for users in USERS for items in ITEMS]


def _planned(constants: Constants, users: int, items: int) -> Record:
    rows = users * EACH
    workers = max(1, round(items * TRAINED / SHARD + 0.5))
    batch = BATCH * workers
    wire = sent(constants, workers, batch) / WIRE + 9 * HOP if workers > 1 else 0.0
    reads = constants.read * EACH * batch  # every worker reads the whole batch
    step = constants.step + wire + reads
    exact = users * (constants.user + constants.item * items)
    near = users * (constants.user + INTERESTS / HNSW_RATE)
    hours = 3600 * CORES
    return {
        "users": users,
        "items": items,
        "disk_gb": rows * ROW_ON_DISK / 1e9,
        "import_hours": rows * constants.row * 2 / hours,
        "workers": workers,
        "worker_gb": (constants.base + items * TRAINED / workers + users * USER) / 1e9,
        "step_ms": 1e3 * step,
        "step_parts_ms": {"compute": 1e3 * constants.step, "network": 1e3 * wire, "reading": 1e3 * reads},
        "pass_hours": users / batch * step / 3600,
        "candidates_hours_exact": exact / hours,
        "candidates_hours_hnsw": near / hours,
        "served_gb": items * SERVED / 1e9,
        "served_gb_hnsw": items * HNSW_MIB * MIB / 1e15,
    }


def page(record: Record) -> str:
    """The Markdown page."""
    how = (
        f"DMI (preset best), d {DIM}, {INTERESTS} interests, L {LENGTH}, {NEGATIVES} negatives, {BATCH} users a worker"
        f" and step, {EACH} interactions a user; machines of {CORES} cores and {8 * WIRE / 1e9:.0f} Gbit/s."
        f" HNSW: {HNSW_RATE} queries/s a thread at recall@50 {HNSW_RECALL}, as at a million items."
    )
    return recording.page(record, "The plan on paper", how, [line for part in tables(record) for line in part])


def tables(record: Record) -> tuple[list[str], list[str], list[str]]:
    """The tables of constants, of what they predict, and of the plan."""
    constants = record["constants"]
    share = constants["read"] * EACH * BATCH  # seconds of reading that each worker more brings to all
    rows = [
        (
            "an import, and each interaction, two threads",
            [f"{constants['start']:.1f} s + {1e6 * constants['row']:.2f} µs"],
        ),
        ("an interaction in a data directory", [f"{ROW_ON_DISK} bytes"]),
        ("an interaction read for training", [f"{1e6 * constants['read']:.2f} µs"]),
        (f"a step of {BATCH} users", [f"{1e3 * constants['step']:.1f} ms"]),
        ("an item in training", [f"{TRAINED} bytes"]),
        ("an item served, exact / HNSW", [f"{SERVED} / {HNSW_MIB * MIB / 1e6:.0f} bytes"]),
        ("a user in training by blocks", [f"{USER} bytes in each process"]),
        ("a training process without items", [f"{constants['base'] / MIB:,.0f} MiB"]),
        ("candidates of a user, without search", [f"{1e6 * constants['user']:.0f} µs"]),
        ("candidates of a user, for each item searched", [f"{1e9 * constants['item']:.2f} ns"]),
        ("numbers beside the item table", [f"{constants['numbers']:,}"]),
        ("workers with whom reading takes as long as computing", [f"{constants['step'] / share:.0f}"]),
    ]
    constant = recording.table("constant", [""], rows)
    rows = [
        (
            one["what"],
            [f"{_short(one['predicted'])} {one['unit']}", _short(one["measured"]), f"{one['ratio']:.2f}"],
        )
        for one in record["checked"]
    ]
    beside = recording.table("predicted beside measured", ["predicted", "measured", "ratio"], rows)
    rows = [
        (
            f"{one['users']:,} / {one['items']:,}",
            [
                f"{one['disk_gb']:,.1f}",
                f"{one['import_hours']:,.2f}",
                str(one["workers"]),
                f"{one['worker_gb']:,.1f}",
                f"{one['step_ms']:.0f}",
                f"{one['pass_hours']:,.2f}",
                f"{one['candidates_hours_exact']:,.1f}",
                f"{one['candidates_hours_hnsw']:,.1f}",
                f"{one['served_gb']:,.2f} / {one['served_gb_hnsw']:,.2f}",
            ],
        )
        for one in record["planned"]
    ]
    columns = [
        "log, GB", "import, machine-hours", "training workers", "GB each", "ms a step", "hours a pass",
        "candidates exact, machine-hours", "HNSW", "served GB, exact / HNSW",
    ]  # fmt: skip
    return constant, beside, recording.table("users / items", columns, rows)


def into_docs(record: Record, records: dict[str, Record]) -> None:
    """Put the tables into docs/scale.md, between their marks; of the other records what was aimed at."""
    rows = [
        (
            one["what"],
            [f"{_short(one['value'])}{one['unit']}", one["aim"] and f"{one['aim']}{'' if one['met'] else ', missed'}"],
        )
        for other in records.values()
        for one in other["aims"]
    ]
    parts = dict(zip(("constants", "checked", "plan"), tables(record), strict=True))
    parts["measured"] = recording.table("what", ["measured", "aim"], rows)
    text = DOCS.read_text(encoding="utf-8")
    for name, lines in parts.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, rest = text.split(start)
        text = f"{before}{start}\n" + "\n".join(lines).rstrip() + f"\n{end}{rest.split(end)[1]}"
    DOCS.write_text(text, encoding="utf-8")


def _short(value: float) -> str:
    return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def main() -> None:
    """Read what was measured, measure reading, and plan."""
    given = recording.arguments(recording.parser(__doc__, __file__), __file__, {"reading": reading})
    folder = given.work if given.quick else recording.ROOT / "benchmarks" / "results"
    names = ("importing", "training", "workers", "candidates")
    records = {name: json.loads((folder / f"scale-{name}.json").read_text()) for name in names}
    candidates.data(given.work, candidates.MIDDLE, candidates.SMALL)
    record = recording.begun(given, __file__)
    read = recording.apart(__file__, "reading", work=given.work, batches=5 if given.quick else 200)["seconds"]
    say(f"{1e6 * read:.2f} µs an interaction read")
    constants = fitted(records, read)
    record |= {"constants": constants.__dict__, "of": {name: one["commit"] for name, one in records.items()}}
    record |= {"checked": checked(records, constants), "planned": planned(constants)}
    off = max(max(one["ratio"], 1 / one["ratio"]) for one in record["checked"])
    aims = [at_most("largest ratio of predicted and measured, either way", off, MOST_OFF)]
    recording.finish(record, given, aims, page)
    if not given.quick:
        into_docs(record, records)


if __name__ == "__main__":
    main()
