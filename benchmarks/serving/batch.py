"""Batch candidates: the rate of `diffacet candidates` beside that of its bare operators, and its memory.

    python benchmarks/serving/batch.py

Bare is what cannot be left out: encode, matrix product, maximum over the interests and top k, on the same blocks of
users, of histories cut beforehand. The job reads the log's histories, leaves out what was seen, finds ids and writes
Parquet; loading of run and log does not count for either. Both in turn in one process, one thread. Peak memory is that
of a process with one job and nothing else, and of one that only opens the log.
"""

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import made
import recording
from recording import Record, at_least, at_most, say, told

LEAST_SHARE, MOST_GROWTH, K = 0.6, 1.1, 50
JOB, OPEN = "job", "open"


def rate(work: str, users: int, rounds: int) -> Record:
    """Users a second of the job and of the bare loop, round by round."""
    from diffacet.app import batch_candidates

    folder = Path(work)
    path, data = made.run(folder), made.data(folder, users)
    run = bare(path, data)
    found: dict[str, list[float]] = {"job": [], "bare": []}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        for turn in range(rounds):
            out = Path(temporary) / f"{turn}.parquet"
            done = batch_candidates.write(path, data, out, batch_candidates.Wish(k=K), device="cpu", threads=1)
            found["job"].append(done["users_per_second"])
            out.unlink()
            start = time.perf_counter()
            count = run()
            found["bare"].append(count / (time.perf_counter() - start))
            say(f"round {turn + 1} of {rounds}: {found['job'][-1]:,.0f} and {found['bare'][-1]:,.0f} users/s")
    return {"users": users, "rounds": found}


def bare(path: Path, data: Path) -> Any:
    """A call that encodes and searches all users of the log with nothing around it, and tells how many they are."""
    import numpy as np
    import torch

    from diffacet.app import runs
    from diffacet.app.batch_candidates import TOGETHER
    from diffacet.core.batch import Histories
    from diffacet.data import store
    from diffacet.data.sequences import Sequences

    loaded: Any = runs.load(path, device="cpu")
    model, log = loaded.model, store.open(data).log
    rows = Sequences.from_rows(log.column("user"), log.column("item"), None, log.n_users)
    items = torch.from_numpy(rows.last(np.arange(len(rows)), made.LENGTH))
    catalogue = model.catalogue().detach().T.contiguous()

    @torch.inference_mode()
    def run() -> int:
        for part in items.split(TOGETHER):
            history = Histories(part, torch.full((len(part),), -1), torch.zeros(len(part), dtype=torch.int64))
            interests = model.interests(history)
            scores = (interests.reshape(-1, interests.shape[2]) @ catalogue).view(len(part), -1, catalogue.shape[1])
            scores.amax(1).topk(K)
        return len(items)

    return run


def memory(work: str, users: int, what: str) -> Record:
    """Peak MiB of this process with one job, or with the log's histories in memory and no job."""
    import torch

    from diffacet.app import batch_candidates, batch_work

    torch.set_num_threads(1)
    folder = Path(work)
    path, data = made.run(folder), made.data(folder, users)
    start = time.perf_counter()
    if what == JOB:
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            out = Path(temporary) / "out.parquet"
            batch_candidates.write(path, data, out, batch_candidates.Wish(k=K), device="cpu", threads=1)
    else:
        wish = batch_candidates.Wish(k=K)
        asked = batch_work.Job(path, data, wish, "exact", None, {}, "cpu", 1, batch_candidates.TOGETHER)
        batch_work.Answering(asked).histories.lengths()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"users": users, "what": what, "mib": peak, "seconds": time.perf_counter() - start}


def page(record: Record) -> str:
    """The Markdown page."""
    rounds = record["rate"]["rounds"]
    shares = record["share_of_rounds"]
    how = (
        f"DMI with {made.STEPS} DDIM steps, {made.ITEMS:,} items, k {K}, {record['rate']['users']:,} users of "
        f"{made.LENGTH + 1} interactions; medians of {len(shares)} rounds in turn, whose shares lie in "
        f"{min(shares):.2f} to {max(shares):.2f}."
    )
    rows = [(name, [f"{record['users_per_second'][name]:,.0f}", ", ".join(f"{one:,.0f}" for one in rounds[name])])
            for name in rounds]  # fmt: skip
    tables = recording.table("users/s", ["median", "each round"], rows)
    of = {(one["users"], one["what"]): one["mib"] for one in record["memory"]}
    sizes = sorted({users for users, _ in of})
    names = {JOB: "the whole job", OPEN: "run and log opened, no job"}
    rows = [(names[what], [f"{of[users, what]:,.0f}" for users in sizes]) for what in (JOB, OPEN)]
    rows.append(("difference", [f"{of[users, JOB] - of[users, OPEN]:,.0f}" for users in sizes]))
    tables += recording.table("peak MiB of a process", [f"{users:,} users" for users in sizes], rows)
    return recording.page(record, "Batch candidates", how, tables)


def main() -> None:
    """Measure everything."""
    given = recording.arguments(recording.parser(__doc__, __file__), __file__, {"rate": rate, "memory": memory})
    users, rounds, sizes = (2_000, 2, (1_000, 2_000)) if given.quick else (50_000, 5, (20_000, 200_000))
    made.run(given.work)
    for count in {users, *sizes}:
        made.data(given.work, count)
    record = recording.begun(given, __file__)
    record["rate"] = recording.apart(__file__, "rate", work=given.work, users=users, rounds=rounds)
    record["memory"] = []
    for count in sizes:
        for what in (JOB, OPEN):
            record["memory"].append(recording.apart(__file__, "memory", work=given.work, users=count, what=what))
            say(str(record["memory"][-1]))
    both = record["rate"]["rounds"]
    middle = {name: sorted(values)[len(values) // 2] for name, values in both.items()}
    record["users_per_second"] = middle
    record["share_of_rounds"] = [job / base for job, base in zip(both["job"], both["bare"], strict=True)]
    small, large = (next(m["mib"] for m in record["memory"] if m["users"] == n and m["what"] == JOB) for n in sizes)
    opened = next(m["mib"] for m in record["memory"] if m["users"] == sizes[1] and m["what"] == OPEN)
    aims = [
        at_least("rate of the job / of its bare operators", middle["job"] / middle["bare"], LEAST_SHARE),
        at_most(f"peak memory at {sizes[1]:,} users, the job / run and log opened", large / opened, MOST_GROWTH),
        told("peak memory that ten times as many users add, nearly all of it the log", large - small, " MiB"),
    ]
    recording.finish(record, given, aims, page)


if __name__ == "__main__":
    main()
