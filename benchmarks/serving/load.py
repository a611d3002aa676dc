"""The service under load: what gathering brings, how long answers take, and what happens beyond its capacity.

    python benchmarks/serving/load.py

DMI with two DDIM steps, 12,000 items, exact index, one thread; 64 different histories; the load comes from a second
process on the loopback, which takes part of the second core. Closed loops of 64 clients, with and without gathering, in
turn; one client for the unloaded latency; then an open loop at twice the capacity that was found, in which all that the
service does not take at once must be refused with 429, and what it takes must not wait longer than before.
"""

from typing import Any

import made
import recording
from loading import load
from recording import Record, at_least, at_most, say, told
from served import served

CLIENTS, LEAST_GAIN, MOST_TAIL, MOST_WORSE = 64, 3.0, 10.0, 1.5
GATHERED, ALONE, TWO = "gathering (2 ms)", "no gathering", "gathering, two workers"
OPTIONS = {GATHERED: ("--gather", "2"), ALONE: ("--gather", "0"), TWO: ("--gather", "2", "--workers", "2")}


def closed(given: Any, rounds: int, seconds: float) -> Record:
    """Rate and latencies of each way with 64 clients and with one, round by round in turn."""
    path, found = made.run(given.work), {name: {"loaded": [], "lone": []} for name in OPTIONS}
    for turn in range(rounds):
        for name, options in OPTIONS.items():
            with served(path, given.work / "load.log", *options) as service:
                found[name]["lone"].append(load(service.port, clients=1, seconds=seconds / 2))
                before = service.cpu()
                one = load(service.port, clients=CLIENTS, seconds=seconds)
                one["server_cpu_share"] = (service.cpu() - before) / (seconds + 1)
                found[name]["loaded"].append(one)
            say(f"round {turn + 1} of {rounds}, {name}: {one['rate']:,.0f} requests/s, p99 {one['ms']['p99']:.0f} ms")
    return found


def overload(given: Any, capacity: float, seconds: float, in_flight: int) -> Record:
    """An open loop at the capacity's half, at nine tenths and at its double."""
    path, found = made.run(given.work), {}
    options = ("--max-in-flight", str(in_flight))
    with served(path, given.work / "overload.log", *options) as service:
        load(service.port, clients=8, seconds=2)
        for share in (0.5, 0.9, 2.0):
            one = load(service.port, rate=share * capacity, seconds=seconds, connections=1024)
            found[str(share)] = one
            say(f"{share} x capacity: {one['rate']:,.0f} answered/s, {one['statuses']}, p99 {one['ms']['p99']:.0f} ms")
    return found


def middle(values: list[float]) -> float:
    """The median, the upper one of two."""
    return sorted(values)[len(values) // 2]


def page(record: Record) -> str:
    """The Markdown page."""
    rows = []
    for name, found in record["closed"].items():
        loaded, lone = found["loaded"], found["lone"]
        cells = [f"{middle([one['rate'] for one in loaded]):,.0f}", ", ".join(f"{one['rate']:,.0f}" for one in loaded)]
        cells += [f"{middle([one['ms'][q] for one in loaded]):.1f}" for q in ("p50", "p99")]
        cells += [f"{middle([one['ms']['p50'] for one in lone]):.1f}"]
        cells += [f"{middle([one[share] for one in loaded]):.2f}" for share in ("server_cpu_share", "client_cpu_share")]
        rows.append((name, cells))
    columns = ["requests/s", "each round", "p50 ms", "p99 ms", "unloaded p50 ms", "cores: service", "load"]
    tables = recording.table(f"{CLIENTS} clients", columns, rows)
    rows = []
    for share, one in record["overload"].items():
        total = sum(one["statuses"].values())
        refused = one["statuses"].get("429", 0)
        cells = [f"{one['asked_rate']:,.0f}", f"{one['rate']:,.0f}", f"{100 * refused / max(total, 1):.1f} %"]
        others = {status: count for status, count in one["statuses"].items() if status not in ("200", "429")}
        cells += [f"{one['ms'][q]:.0f}" for q in ("p50", "p99")] + [str(others or "none"), str(one["unsent"])]
        rows.append((f"{share} × capacity", cells))
    columns = ["asked/s", "answered/s", "429", "p50 ms", "p99 ms", "other statuses", "unsent"]
    tables += recording.table("open loop", columns, rows)
    how = (
        f"DMI with {made.STEPS} DDIM steps, {made.ITEMS:,} items, exact index; medians of {record['rounds']} rounds in "
        f"turn. Open loop: at most {record['in_flight']} requests in flight; latencies count from when a request was "
        "due, and are those of requests answered 200."
    )
    return recording.page(record, "The service under load", how, tables)


def main() -> None:
    """Measure everything."""
    given = recording.arguments(recording.parser(__doc__, __file__), __file__, {})
    made.run(given.work)
    record = recording.begun(given, __file__)
    rounds, seconds, record["in_flight"] = (1, 3.0, 64) if given.quick else (3, 10.0, 64)
    record["rounds"] = rounds
    record["closed"] = closed(given, rounds, seconds)
    rates = {name: middle([one["rate"] for one in found["loaded"]]) for name, found in record["closed"].items()}
    record["overload"] = overload(given, rates[GATHERED], 2 * seconds, record["in_flight"])
    ways = record["closed"][GATHERED]
    tail = middle([one["ms"]["p99"] for one in ways["loaded"]]) / middle([one["ms"]["p50"] for one in ways["lone"]])
    over, all_over = record["overload"]["2.0"], sum(record["overload"]["2.0"]["statuses"].values())
    wrong = all_over - over["statuses"].get("200", 0) - over["statuses"].get("429", 0)
    loaded = middle([one["ms"]["p99"] for one in ways["loaded"]])
    aims = [
        at_least("requests/s with gathering / without", rates[GATHERED] / rates[ALONE], LEAST_GAIN),
        at_most(f"p99 with {CLIENTS} clients / unloaded median", tail, MOST_TAIL),
        at_most(
            "twice the capacity: p99 of what is answered / p99 at the capacity", over["ms"]["p99"] / loaded, MOST_WORSE
        ),
        at_most("twice the capacity: answers that are neither 200 nor 429", wrong, 0),
        told("twice the capacity: share of 429", over["statuses"].get("429", 0) / all_over),
        told("requests/s with two workers / with one", rates[TWO] / rates[GATHERED]),
    ]
    recording.finish(record, given, aims, page)


if __name__ == "__main__":
    main()
