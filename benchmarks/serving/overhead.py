"""What the service adds to a lone request: the same history asked in process and by HTTP on the loopback, in turn.

    python benchmarks/serving/overhead.py

DMI, two DDIM steps, exact index; one thread each; one keep-alive connection, one request after the other. Rounds of
direct calls and of requests follow each other, so what slows the machine down slows both.
"""

import time
from collections.abc import Callable
from typing import Any

import made
import numpy as np
import recording
import wire
from recording import Record, at_most, say, told
from served import served

MOST_ADDED, K = 1.5, 20
DIRECT, HTTP, FLOOR = "direct call", "HTTP request", "HTTP request to /healthz"


def compared(work: str, rounds: int, each: int) -> Record:
    """Milliseconds of every call, by contender and round."""
    import torch

    from diffacet import Recommender

    torch.set_num_threads(1)
    from pathlib import Path

    folder = Path(work)
    path = made.run(folder)
    recommender, history = Recommender.load(path, device="cpu"), made.histories(1)[0]
    with served(path, folder / "overhead.log") as service:
        line, request, health = wire.Line(service.port), wire.recommendations([history], K)[0], wire.get("/healthz")

        def ask(what: bytes) -> None:
            status, body = line.ask(what)
            if status != 200:
                raise SystemExit(f"answered {status}: {body[:500]!r}")

        ways: dict[str, Callable[[], Any]] = {
            DIRECT: lambda: recommender.recommend(history, K),
            HTTP: lambda: ask(request),
            FLOOR: lambda: ask(health),
        }
        for way in ways.values():
            for _ in range(each):
                way()
        times: dict[str, list[list[float]]] = {name: [] for name in ways}
        cpu = service.cpu()
        for turn in range(rounds):
            for name, way in ways.items():
                times[name].append(_timed(way, each))
            say(f"round {turn + 1} of {rounds}")
        cpu = service.cpu() - cpu
        line.close()
    return {"times": times, "server_cpu_ms": 1000 * cpu / (rounds * each)}


def summary(times: dict[str, list[list[float]]]) -> Record:
    """Medians and 99th percentiles, and what HTTP adds: of all calls, and within the rounds."""
    whole = {name: np.concatenate(rounds) for name, rounds in times.items()}
    found: Record = {
        "calls": {name: len(every) for name, every in whole.items()},
        "ms": {name: {"p50": float(np.median(v)), "p99": float(np.percentile(v, 99))} for name, v in whole.items()},
    }
    ms, rounds = found["ms"], zip(times[HTTP], times[DIRECT], strict=True)
    within = [float(np.median(http) - np.median(direct)) for http, direct in rounds]
    return found | {
        "added_ms": {q: ms[HTTP][q] - ms[DIRECT][q] for q in ("p50", "p99")},
        "added_ms_of_rounds": within,
        "ratio": ms[HTTP]["p50"] / ms[DIRECT]["p50"],
    }


def page(record: Record) -> str:
    """The Markdown page."""
    rows = [(name, [f"{v['p50']:.2f}", f"{v['p99']:.2f}", f"{record['calls'][name]:,}"])
            for name, v in record["ms"].items()]  # fmt: skip
    rows.append(("added by HTTP", [f"{record['added_ms'][q]:.2f}" for q in ("p50", "p99")] + [""]))
    rounds = record["added_ms_of_rounds"]
    how = (
        f"DMI `best` with {made.STEPS} DDIM steps, {made.ITEMS:,} items, d {made.DIM}, K {made.INTERESTS}, exact "
        f"index, one history of {made.LENGTH} items, k {K}; medians of calls in turn, in {len(rounds)} rounds. The "
        f"median that HTTP adds within a round lies in {min(rounds):.2f} to {max(rounds):.2f} ms."
    )
    table = recording.table("ms", ["median", "p99", "calls"], rows)
    return recording.page(record, "What the service adds to a request", how, table)


def _timed(way: Callable[[], Any], count: int) -> list[float]:
    found = []
    for _ in range(count):
        start = time.perf_counter()
        way()
        found.append(1000 * (time.perf_counter() - start))
    return found


def main() -> None:
    """Measure everything."""
    parts = {"compared": compared}
    given = recording.arguments(recording.parser(__doc__, __file__), __file__, parts)
    made.run(given.work)
    record = recording.begun(given, __file__)
    rounds, each = (3, 20) if given.quick else (30, 50)
    found = recording.apart(__file__, "compared", work=given.work, rounds=rounds, each=each)
    record |= summary(found["times"]) | found
    aims = [
        at_most("time that HTTP adds, median", record["added_ms"]["p50"], MOST_ADDED, " ms"),
        told("HTTP request / direct call, medians", record["ratio"]),
    ]
    recording.finish(record, given, aims, page)


if __name__ == "__main__":
    main()
