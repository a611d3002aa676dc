"""What a training step of DMI costs, by the size of the catalogue and by the number of users.

    python benchmarks/scale/training.py
    python benchmarks/scale/training.py --largest 1000000

Batches are the real ones (`learn.batches`), of a log in memory whose items are uniform over the catalogue, so that no
row of the table is in a cache by popularity: the worst case. A step is batch, loss, gradient and row-sparse Adam. Each
size has a process of its own; sizes are gone through in turn, round by round, so that noise of the machine falls on all
alike. The number of users is varied with one catalogue.
"""

import resource
import statistics
import time
from typing import Any

import at_serving  # noqa: F401 - finds what lies in benchmarks/serving
import recording
from recording import Record, at_most, say, told

DIM, BATCH, LENGTH, NEGATIVES = 64, 128, 20, 1280
BASE, LARGE = 12_000, 1_000_000
CATALOGUES = (12_000, 100_000, 1_000_000, 10_000_000)
USERS = (10_000, 100_000, 1_000_000)
MOST = 1.3


def step(items: int, users: int, steps: int, sampling: str = "drawn") -> Record:
    """Milliseconds of a step, median of `steps`, and the peak MiB of this process."""
    import numpy as np
    import torch

    from diffacet.core.contract import Training
    from diffacet.data.sequences import Sequences
    from diffacet.learn import batches
    from diffacet.learn.fit import initial_weights
    from diffacet.learn.optim import Optimizer
    from diffacet.models import card

    rng = np.random.default_rng(recording.SEED)
    each = LENGTH + 1
    numbers = rng.integers(1, items + 1, users * each)
    log = Sequences(numbers, np.arange(users + 1) * each, np.arange(users))
    training = Training(
        batch_size=BATCH,
        length=LENGTH,
        negatives=NEGATIVES,
        item_updates="row-sparse",
        sampling=sampling,  # type: ignore[arg-type]
    )
    chosen = card("dmi")
    with initial_weights(0):
        model: Any = chosen.build(chosen.presets["best"].model, batches.facts(log, items, training))
    optimizer, batch_at = Optimizer(model, training), batches.batch_at(log, items, training)
    seconds = []
    for number in range(steps + 5):
        start = time.perf_counter()
        terms = model.train().loss(batch_at(number))
        optimizer.step(torch.stack(list(terms.values())).sum(), training.lr)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "items": items,
        "users": users,
        "sampling": sampling,
        "ms": 1e3 * statistics.median(seconds[5:]),
        "mib": peak,
    }


def rounds_of(asked: list[dict[str, Any]], rounds: int) -> list[Record]:
    """Each of `asked` once a round, in turn: the median of its rounds, all of them, and its largest peak."""
    found: list[list[Record]] = [[] for _ in asked]
    for turn in range(rounds):
        for place, one in enumerate(asked):
            found[place].append(recording.apart(__file__, "step", **one))
            say(f"round {turn + 1} of {rounds}: {found[place][-1]}")
    return [
        one[0]
        | {"ms": statistics.median(r["ms"] for r in one), "rounds": [r["ms"] for r in one]}
        | {"mib": max(r["mib"] for r in one)}
        for one in found
    ]


def page(record: Record) -> str:
    """The Markdown page."""
    how = (
        f"DMI (preset best), d {DIM}, B {BATCH}, L {LENGTH}, {NEGATIVES} negatives, row-sparse Adam, one thread; "
        f"medians of {record['steps']} steps and {record['times']} rounds in turn."
    )
    tables = []
    for what, name in (("catalogues", "items"), ("users", "users")):
        rows = [
            (
                f"{one[name]:,}",
                [f"{one['ms']:.1f}", ", ".join(f"{ms:.1f}" for ms in one["rounds"]), f"{one['mib']:,.0f}"],
            )
            for one in record[what]
        ]
        fixed = f"{USERS[1]:,} users" if what == "catalogues" else f"{BASE:,} items"
        tables += recording.table(f"{name} ({fixed})", ["ms a step", "each round", "peak MiB"], rows)
    return recording.page(record, "A training step by catalogue and users", how, tables)


def main() -> None:
    """Measure everything."""
    options = recording.parser(__doc__, __file__)
    options.add_argument("--largest", type=int, default=CATALOGUES[-1], help="the largest catalogue")
    given = recording.arguments(options, __file__, {"step": step})
    steps, rounds = (20, 1) if given.quick else (200, 3)
    sizes = [size for size in CATALOGUES if size <= given.largest]
    record = recording.begun(given, __file__) | {"steps": steps, "times": rounds}
    by_items = rounds_of([{"items": size, "users": USERS[1], "steps": steps} for size in sizes], rounds)
    by_users = rounds_of([{"items": BASE, "users": count, "steps": steps} for count in USERS], rounds)
    record |= {"catalogues": by_items, "users": by_users}
    of = {one["items"]: one["ms"] for one in by_items}
    aims = [
        at_most(f"step at {LARGE:,} items / at {BASE:,}", of[LARGE] / of[BASE], MOST),
        at_most(f"step at {USERS[-1]:,} users / at {USERS[0]:,}", by_users[-1]["ms"] / by_users[0]["ms"], 1.1),
    ]
    if CATALOGUES[-1] in of:
        aims.append(told(f"step at {CATALOGUES[-1]:,} items / at {BASE:,}", of[CATALOGUES[-1]] / of[BASE]))
        aims.append(at_most(f"peak memory at {CATALOGUES[-1]:,} items", by_items[-1]["mib"] / 1024, 24, " GiB"))
    recording.finish(record, given, aims, page)


if __name__ == "__main__":
    main()
