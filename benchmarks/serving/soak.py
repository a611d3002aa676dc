"""A service under load while its run is exchanged every thirty seconds: nothing lost, nothing wrong, no growth.

    python benchmarks/serving/soak.py                  # ten minutes, at most 200,000 requests

Eight clients ask as fast as they are answered, from a second process, up to so many requests, spread over the time. Two
runs take turns behind a link: now by POST /v1/admin/reload, now by SIGHUP. Every answer is compared with what the run
that it names gives for that history in this process: same items, same bits of every score. What is counted as lost: no
answer, or one that is not 200. A state file in --work tells after each minute how far it is.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import made
import numpy as np
import recording
import wire
from recording import Record, at_most, say, told
from served import served
from wire import Connection

CLIENTS, HISTORIES, K, EVERY, MOST_GROWTH = 8, 512, 20, 30.0, 1.05
KEY = "a-key-of-the-soak-nothing-else"


def expected(work: Path) -> tuple[list[Path], dict[str, list[Any]]]:
    """Two runs, and by version the answer to each history: ids and scores."""
    from diffacet import Recommender

    runs, answers = [made.run(work, seed) for seed in (0, 1)], {}
    for run in runs:
        recommender = Recommender.load(run, device="cpu")
        found = recommender.recommend_many(made.histories(HISTORIES), K)
        answers[recommender.version] = [[one.item_id.to_list(), one.score.tolist()] for one in found]
    return runs, answers


async def asked(port: int, seconds: float, most: int, answers: dict[str, list[Any]]) -> Record:
    """The load of one process: counts by status, answers that are wrong, versions seen, latencies by minute."""
    loop = asyncio.get_running_loop()
    requests = wire.recommendations(made.histories(HISTORIES), K, KEY)
    start, counts, versions = loop.time(), Counter[str](), Counter[str]()
    latencies: list[list[float]] = []
    wrong, number = list[str](), 0

    async def client() -> None:
        nonlocal number
        line = await Connection.to(port)
        while (now := loop.time()) < start + seconds and number < most:
            turn, number = number, number + 1
            wait = start + turn * seconds / most - now
            if wait > 0:
                await asyncio.sleep(wait)
            begin = loop.time()
            status, body = await line.ask(requests[turn % HISTORIES])
            counts[str(status)] += 1
            while len(latencies) <= (begin - start) // 60:
                latencies.append([])
            latencies[-1].append(1000 * (loop.time() - begin))
            if status == wire.GONE:
                line = await Connection.to(port)
            elif status == 200:
                told = json.loads(body)
                versions[told["model_version"]] += 1
                own = [[one["item_id"] for one in told["items"]], [one["score"] for one in told["items"]]]
                if own != answers[told["model_version"]][turn % HISTORIES] and len(wrong) < 10:
                    wrong.append(body[:500].decode())

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    minutes = [
        {"requests": len(one), **{f"p{q}": float(np.percentile(one, q)) for q in (50, 99)}} for one in latencies if one
    ]
    return {
        "statuses": counts,
        "versions": versions,
        "wrong": wrong,
        "minutes": minutes,
        "seconds": loop.time() - start,
    }


def soak(given: Any, seconds: float, most: int, workers: int) -> Record:
    """The whole: service, load in a second process, reloads and memory from here."""
    runs, answers = expected(given.work)
    link, keys, known = (given.work / name for name in ("current", "soak.keys", "soak.answers.json"))
    keys.write_text(KEY + "\n")
    known.write_text(json.dumps(answers))
    _point(link, runs[0])
    memory, reloads = list[tuple[float, float]](), Counter[str]()
    options = ("--api-key-file", str(keys), "--workers", str(workers))
    with served(link, given.work / "soak.log", *options) as service:
        command = [sys.executable, __file__, "--load", json.dumps([service.port, seconds, most, str(known)])]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        start, turn = time.monotonic(), 0
        while process.poll() is None:
            time.sleep(1.0)
            now = time.monotonic() - start
            memory.append((now, service.memory()))
            if now >= EVERY * (turn + 1) and now < seconds - 5:
                turn += 1
                _point(link, runs[turn % 2])
                if turn % 2:
                    line = wire.Line(service.port)
                    status, _ = line.ask(wire.post("/v1/admin/reload", {}, KEY))
                    line.close()
                    reloads[f"request: {status}"] += 1
                else:
                    os.kill(service.pid, signal.SIGHUP)
                    reloads["SIGHUP"] += 1
            if len(memory) % 60 == 0:
                (given.work / "soak.state.json").write_text(json.dumps({"memory": memory, "reloads": reloads}))
                say(f"{now:.0f} s: {memory[-1][1]:.0f} MiB, reloads {dict(reloads)}")
        found = json.loads(process.stdout.read()) if process.stdout is not None else {}
    return {"load": found, "memory": memory, "reloads": dict(reloads), "workers": workers}


def _point(link: Path, run: Path) -> None:
    """Turn the link, at once."""
    beside = link.with_name(link.name + ".new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(run)
    beside.replace(link)


def by_minute(memory: list[tuple[float, float]]) -> list[float]:
    """Mean MiB of each whole minute."""
    minutes: dict[int, list[float]] = {}
    for at, mib in memory:
        minutes.setdefault(int(at // 60), []).append(mib)
    return [float(np.mean(one)) for one in minutes.values() if len(one) >= 45]


def page(record: Record) -> str:
    """The Markdown page."""
    found, minutes = record["load"], record["load"]["minutes"]
    rows = [
        (f"{number}", [f"{one['requests']:,}", f"{one['p50']:.1f}", f"{one['p99']:.1f}", mib])
        for number, (one, mib) in enumerate(zip(minutes, record["mib"] + ["–"] * len(minutes), strict=False), 1)
    ]
    how = (
        f"{sum(found['statuses'].values()):,} requests in {found['seconds']:.0f} s by {CLIENTS} clients, {HISTORIES} "
        f"histories; {record['workers']} worker; reloads: {record['reloads']}; answers by version: {found['versions']}."
    )
    return recording.page(record, "Soak", how, recording.table("minute", ["requests", "p50 ms", "p99 ms", "MiB"], rows))


def main() -> None:
    """Measure everything."""
    if sys.argv[1:2] == ["--load"]:
        import uvloop

        port, seconds, most, known = json.loads(sys.argv[2])
        found = uvloop.run(asked(port, seconds, most, json.loads(Path(known).read_text())))
        sys.stdout.write(json.dumps(found) + "\n")
        return
    parser = recording.parser(__doc__, __file__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=1)
    given = recording.arguments(parser, __file__, {})
    record = recording.begun(given, __file__)
    seconds, most = (70.0, 3_000) if given.quick else (60 * given.minutes, given.requests)
    record |= soak(given, seconds, most, given.workers)
    found, mib = record["load"], by_minute(record["memory"])
    record["memory"] = [[round(at), round(size, 1)] for at, size in record["memory"][::10]]
    record["mib"] = [f"{one:,.0f}" for one in mib]
    total = sum(found["statuses"].values())
    aims = [
        at_most("requests lost (no answer, or not 200)", total - found["statuses"].get("200", 0), 0),
        at_most("wrong answers", len(found["wrong"]), 0),
        at_most("memory of the last minute / of the first", mib[-1] / mib[0], MOST_GROWTH),
        told("requests", total),
        told("reloads", sum(record["reloads"].values())),
    ]
    recording.finish(record, given, aims, page)


if __name__ == "__main__":
    main()
