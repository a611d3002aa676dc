"""A training step of DMI by several processes that share the item table: its time, its messages, and its memory.

    python benchmarks/scale/workers.py

The processes are on this machine, one thread each, and talk by gloo over its own network: what is sent is counted
where it is sent, and is what a real network would carry; the time is not what one would take. More processes than
cores are gone through for their bytes and memory only. The batch is the same however many share it. Rounds are in turn.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import at_serving  # noqa: F401 - finds what lies in benchmarks/serving
import recording
from recording import Record, at_most, say, told
from training import BATCH, LENGTH, NEGATIVES, USERS

ITEMS = 1_000_000
SHARED = (1, 2, 4, 8)
MOST_RATIO = 1.1


def member(folder: str, rank: int, size: int, items: int, batch: int, steps: int) -> Record:
    """One process: milliseconds of a step, bytes that it sends and messages in one, and its peak MiB."""
    import numpy as np
    import torch
    from torch import distributed

    from diffacet.core import world
    from diffacet.core.contract import Training
    from diffacet.core.draws import widened
    from diffacet.core.layers import tables
    from diffacet.core.world import World, dealt, entered
    from diffacet.data.sequences import Sequences
    from diffacet.learn import batches
    from diffacet.learn.fit import initial_weights
    from diffacet.learn.optim import Optimizer
    from diffacet.learn.sharing import Share, share
    from diffacet.models import card

    if size > 1:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    here, sent = World(rank, size), [0, 0]
    _count(world, rank, size, sent)
    rng = np.random.default_rng(recording.SEED)
    users, each = USERS[1], LENGTH + 1
    log = Sequences(rng.integers(1, items + 1, users * each), np.arange(users + 1) * each, np.arange(users))
    training = Training(batch_size=batch, length=LENGTH, negatives=NEGATIVES, item_updates="row-sparse")
    chosen = card("dmi")
    with entered(here):
        with initial_weights(0):
            model: Any = chosen.build(chosen.presets["best"].model, batches.facts(log, items, training))
        batch_at, optimizer = batches.batch_at(log, items, training), Optimizer(model, training)
        seconds = []
        for number in range(steps + 5):
            if number == 5:
                sent[:] = 0, 0
            start = time.perf_counter()
            whole = batch_at(number)
            part = share(whole, here, items) if size > 1 else Share(whole, whole)
            torch.manual_seed(number)
            with dealt(part.part), widened(part.part):
                terms = list(part.counted(model.train().loss(part.own)).values())
            optimizer.step(torch.stack(terms).sum(), training.lr, [torch.stack([term.detach() for term in terms])])
            seconds.append(time.perf_counter() - start)
    shared = {id(table.weight) for table in tables(model)}
    found = {
        "ms": 1e3 * statistics.median(seconds[5:]),
        "bytes": sent[0] / steps,
        "messages": sent[1] / steps,
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "own_numbers": sum(one.numel() for one in model.parameters() if id(one) not in shared),
    }
    if size > 1:
        distributed.destroy_process_group()
    return found


def _count(world: Any, rank: int, size: int, sent: list[int]) -> None:
    """Have bytes and messages that leave this process added up in `sent`."""
    exchange, add_up, table = world._sent, world.World.add_up, world.World.table

    def exchanged(x: Any, out: list[int], back: list[int]) -> Any:
        sent[0] += x.element_size() * (x[:1].numel() if len(x) else 0) * (sum(out) - out[rank])
        sent[1] += 1
        return exchange(x, out, back)

    def added(self: Any, tensors: Any) -> None:
        # What a ring sends of a sum over all: each part twice, but for one's own.
        sent[0] += 2 * (size - 1) * sum(one.numel() * one.element_size() for one in tensors) // size
        sent[1] += 1
        add_up(self, tensors)

    def told_to_all(self: Any, numbers: Any) -> Any:
        sent[0] += 8 * len(numbers) * (size - 1)
        sent[1] += 1
        return table(self, numbers)

    world._sent, world.World.add_up, world.World.table = exchanged, added, told_to_all


def together(size: int, items: int, batch: int, steps: int) -> Record:
    """All processes of one world at once; the slowest's time, the largest's memory, means of what is sent."""
    with tempfile.TemporaryDirectory() as folder:
        started = []
        for rank in range(size):
            asked = {"folder": folder, "rank": rank, "size": size, "items": items, "batch": batch, "steps": steps}
            command = [sys.executable, str(Path(__file__).resolve()), "--part", "member", json.dumps(asked)]
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        found = [json.loads(one.communicate()[0].splitlines()[-1]) for one in started]
    return {
        "workers": size,
        "items": items,
        "batch": batch,
        "ms": max(one["ms"] for one in found),
        "mib": max(one["mib"] for one in found),
        "bytes": statistics.mean(one["bytes"] for one in found),
        "messages": found[0]["messages"],
        "own_numbers": found[0]["own_numbers"],
    }


def page(record: Record) -> str:
    """The Markdown page."""
    how = (
        f"DMI (preset best), d 64, L {LENGTH}, {NEGATIVES} negatives, row-sparse Adam, items uniform; one thread a"
        f" process; medians of {record['steps']} steps and {record['times']} rounds in turn. Times of more processes"
        " than cores are not told."
    )
    rows = [
        (
            f"{one['workers']} / {one['items']:,} / {one['batch']}",
            [
                f"{one['ms']:.1f}" if one["workers"] <= record["cores"] else "",
                ", ".join(f"{ms:.1f}" for ms in one["rounds"]) if one["workers"] <= record["cores"] else "",
                f"{one['bytes'] / 1e3:,.0f}",
                f"{one['messages']:.0f}",
                f"{one['mib']:,.0f}",
            ],
        )
        for one in record["worlds"]
    ]
    columns = ["ms a step", "each round", "kB sent by a process", "messages", "peak MiB of a process"]
    return recording.page(
        record, "A training step by workers", how, recording.table("workers / items / batch", columns, rows)
    )


def main() -> None:
    """Measure everything."""
    given = recording.arguments(recording.parser(__doc__, __file__), __file__, {"member": member})
    steps, rounds, items = (5, 1, 50_000) if given.quick else (100, 3, ITEMS)
    cores = os.cpu_count() or 1
    record = recording.begun(given, __file__) | {"steps": steps, "times": rounds, "cores": cores}
    asked = [(size, items, BATCH) for size in SHARED] + [(size, items, 8 * BATCH) for size in SHARED[:2]]
    found: list[list[Record]] = [[] for _ in asked]
    for turn in range(rounds):
        for place, one in enumerate(asked):
            if turn and one[0] > cores:
                continue
            found[place].append(together(*one, steps))
            say(f"round {turn + 1} of {rounds}: {found[place][-1]}")
    record["worlds"] = [
        one[0] | {"ms": statistics.median(r["ms"] for r in one), "rounds": [r["ms"] for r in one]} for one in found
    ]
    of = {(one["workers"], one["batch"]): one for one in record["worlds"]}
    small, large = ((of[1, batch], of[2, batch]) for batch in (BATCH, 8 * BATCH))
    aims = [
        told(f"step of two workers / of one, batch {BATCH}", small[1]["ms"] / small[0]["ms"]),
        told(f"step of two workers / of one, batch {8 * BATCH}", large[1]["ms"] / large[0]["ms"]),
        at_most(
            f"memory that a worker of eight adds for its rows / an eighth of one's, {items:,} items",
            (of[8, BATCH]["mib"] - _base(record)) / ((of[1, BATCH]["mib"] - _base(record)) / 8),
            MOST_RATIO,
        ),
    ]
    recording.finish(record, given, aims, page)


def _base(record: Record) -> float:
    """MiB of a process without rows of the table, by the line through one worker and two."""
    one, two = (next(w["mib"] for w in record["worlds"] if w["workers"] == size) for size in (1, 2))
    return 2 * two - one


if __name__ == "__main__":
    main()
