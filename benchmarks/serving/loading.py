"""The load, from a process of its own: closed (clients that ask when they are answered) or open (so many a second).

python benchmarks/serving/loading.py '{"port": 8000, "clients": 64, "seconds": 10, "histories": 64}'
"""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import made
import numpy as np
import wire
from wire import Connection

Found = dict[str, Any]


def load(port: int, **asked: Any) -> Found:
    """Run this file as a process of its own with what `closed` or `opened` take; what it found."""
    command = [sys.executable, __file__, json.dumps({"port": port, **asked})]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the load ended with {done.returncode}")
    return json.loads(done.stdout)


async def closed(port: int, requests: Sequence[bytes], clients: int, seconds: float, warm: float = 1.0) -> Found:
    """So many clients, each on a connection of its own, for `seconds` after some that warm up."""
    loop = asyncio.get_running_loop()
    lines = [await Connection.to(port) for _ in range(clients)]
    counted, end = loop.time() + warm, loop.time() + warm + seconds
    answers: list[tuple[int, float]] = []
    cpu = 0.0

    async def client(number: int, line: Connection) -> None:
        nonlocal cpu
        turn = number
        while (start := loop.time()) < end:
            status, _ = await line.ask(requests[turn % len(requests)])
            turn += 1
            now = loop.time()
            if start >= counted:
                cpu = cpu or time.process_time()
                answers.append((status, now - start))
            if status == wire.GONE:
                return

    await asyncio.gather(*(client(number, line) for number, line in enumerate(lines)))
    return {"clients": clients, **told(answers, seconds), "client_cpu_share": (time.process_time() - cpu) / seconds}


async def opened(port: int, requests: Sequence[bytes], rate: float, seconds: float, connections: int) -> Found:
    """Requests at random times, `rate` a second on the mean, whether or not earlier ones are answered.

    Latency counts from the time at which a request was due. One for which no connection is free within a second, all
    `connections` waiting for answers, is counted as unsent.
    """
    loop = asyncio.get_running_loop()
    free: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
    for _ in range(connections):
        free.put_nowait(await Connection.to(port))
    due = np.cumsum(np.random.default_rng(0).exponential(1 / rate, int(rate * seconds))).tolist()
    answers, tasks, unsent = list[tuple[int, float]](), set[asyncio.Task[None]](), 0
    begin, cpu = loop.time(), time.process_time()

    async def ask(number: int, at: float) -> None:
        nonlocal unsent
        try:
            line = await asyncio.wait_for(free.get(), 1.0)
        except TimeoutError:
            unsent += 1
            return
        if not line.open:  # the service closes connections on which nothing is asked
            line = await Connection.to(port)
        status, _ = await line.ask(requests[number % len(requests)])
        answers.append((status, loop.time() - at))
        free.put_nowait(line if status != wire.GONE else await Connection.to(port))

    for number, at in enumerate(due):
        wait = begin + at - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        task = loop.create_task(ask(number, begin + at))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    took = loop.time() - begin
    await asyncio.gather(*tasks)
    found = {"asked_rate": rate, "due": len(due), "unsent": unsent, **told(answers, took)}
    return found | {"client_cpu_share": (time.process_time() - cpu) / took}


def told(answers: Sequence[tuple[int, float]], seconds: float) -> Found:
    """Counts by status, and the latencies in ms of those that were answered 200."""
    good = np.array([latency for status, latency in answers if status == 200]) * 1000
    statuses = Counter(str(status) for status, _ in answers)
    quantiles = {f"p{q}": float(np.percentile(good, q)) if len(good) else float("nan") for q in (50, 90, 99)}
    return {"seconds": seconds, "statuses": dict(statuses), "rate": len(good) / seconds, "ms": quantiles}


def main() -> None:
    """Do what the argument says, and print what was found."""
    import uvloop

    asked = json.loads(sys.argv[1])
    port, count, k = asked.pop("port"), asked.pop("histories", 64), asked.pop("k", 20)
    requests = wire.recommendations(made.histories(count), k)
    run = opened(port, requests, **asked) if "rate" in asked else closed(port, requests, **asked)
    sys.stdout.write(json.dumps(uvloop.run(run)) + "\n")


if __name__ == "__main__":
    main()
