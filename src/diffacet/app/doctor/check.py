"""The doctor's self-check: the whole way from a log to a candidate, small enough to take a moment."""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from diffacet.app.doctor import processes
from diffacet.errors import BadRun, DiffacetError

USERS, ITEMS, LENGTH = 40, 30, 8
K = 5
TINY = {
    "max_steps": 4,
    "validate_every": 2,
    "batch_size": 16,
    "negatives": 16,
    "dim": 8,
    "length": 8,
    "steps": 10,
    "metric": "recall@5",
}
"""Settings of the training; they say nothing about the model's quality."""
_CODE = "import sys; from diffacet.app.doctor import check; sys.exit(check.main(sys.argv[1]))"


def self_check() -> dict[str, Any]:
    """A log imported, a model trained, measured and asked: seconds of each, or error; see `check`."""
    with tempfile.TemporaryDirectory(prefix="diffacet-doctor-") as folder:
        done = processes.run(_CODE, folder)
    try:
        told: dict[str, Any] = json.loads(done.out.splitlines()[-1])
    except (ValueError, IndexError):
        return {"error": done.end}
    return told


def main(folder: str) -> int:
    """Check in `folder`, write what was found as one JSON object, or why it failed; returns the exit code."""
    try:
        told = check(Path(folder))
    except DiffacetError as error:
        told = {"error": str(error)}
    sys.stdout.write(json.dumps(told) + "\n")
    return int("error" in told)


def check(folder: Path) -> dict[str, Any]:
    """Import a log in `folder`, train DMI on it, measure it, load it and ask it.

    Returns:
        model, device, items (how many were recommended), seconds (import, train, evaluate, recommend; what is loaded
        on the way included).

    Raises:
        DiffacetError: a step refuses, or there are no finite candidates. What is broken raises whatever it does.
    """
    seconds, start = {}, time.perf_counter()

    def lap(what: str) -> None:
        nonlocal start
        seconds[what], start = round(time.perf_counter() - start, 3), time.perf_counter()

    import numpy as np

    from diffacet.app import runs
    from diffacet.app.importing import import_log

    rows = [f"{u},{(u * 7 + place * (1 + u % 2)) % ITEMS},{place}" for u in range(USERS) for place in range(LENGTH)]
    log = folder / "log.csv"
    log.write_text("user,item,time\n" + "\n".join(rows) + "\n", encoding="utf-8")
    import_log([log], folder / "data", user="user", item="item", time="time")
    lap("import")
    run = runs.of_items(runs.train("dmi", folder / "data", folder / "run", set=TINY), "doctor")
    lap("train")
    run.evaluate("test", ks=(K,))
    lap("evaluate")
    device = str(next(run.model.parameters()).device)
    found = runs.of_items(runs.load(folder / "run"), "doctor").recommender().recommend(["1", "2", "3"], k=K)
    lap("recommend")
    if len(found.item_id) != K or not np.isfinite(found.score).all():
        raise BadRun(
            f"of {K} candidates that were asked for there are {len(found.item_id)}, scored {list(found.score)}"
        )
    return {"model": "dmi", "device": device, "items": len(found.item_id), "seconds": seconds}
