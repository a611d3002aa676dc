"""Candidates for many users over a large catalogue: the job beside its bare operators, its memory, and its engines.

    python benchmarks/scale/candidates.py
    python benchmarks/scale/candidates.py --whole     # then the job for a million users over a million items

Bare is what cannot be left out: encode, matrix product, maximum over the interests and top k, on the same blocks of
users, of histories cut beforehand; job and bare in turn in one process, one thread. Engines: the local one with two
threads and Ray with two workers of one thread, in turn, both on the same users; the seconds are those that a user
waits, with loading, and of Ray also with the start of its cluster. The log is partitioned and read range by range.
`--whole` is of a smaller model, whose products are a quarter of the others': most of an hour on two cores instead of
hours. It is put into the record that is there; killed, it goes on where it was.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import at_serving  # noqa: F401 - finds what lies in benchmarks/serving
import made
import recording
from recording import Aim, Record, at_least, at_most, say

K, EACH, PARTITIONS = 50, 11, 16
LARGE, MIDDLE, SMALL = 1_000_000, 100_000, 12_000
USERS = 1_000_000
WHOLE_DIM, WHOLE_INTERESTS = 32, 2
LEAST_SHARE, MOST_GROWTH, MOST_ENGINE = 0.6, 1.1, 1.5
WHOLE = f"the job for {USERS:,} users over {LARGE:,} items"
LOCAL, RAY = "local, two threads", "Ray, two workers"


def data(work: Path, users: int, items: int) -> Path:
    """A partitioned data directory; user ids are 1..users, item ids 1..items."""
    import numpy as np
    import polars as pl

    from diffacet.app import importing

    out = work / f"partitioned-{users}-{items}"
    if out.exists():
        return out
    with tempfile.TemporaryDirectory(dir=work) as folder:
        for number, begin in enumerate(range(1, users + 1, MIDDLE)):
            ids = np.arange(begin, min(begin + MIDDLE, users + 1))
            rng = np.random.default_rng((recording.SEED, number))
            rows = len(ids) * EACH
            frame = pl.DataFrame(
                {
                    "user_id": np.repeat(ids, EACH),
                    "item_id": np.minimum(np.exp(rng.random(rows) * np.log(items + 1)).astype(np.int64), items),
                    "timestamp": 1_600_000_000 + np.arange(rows),
                }
            )
            frame.write_parquet(Path(folder) / f"{number:03}.parquet")
        importing.import_log(sorted(Path(folder).glob("*.parquet")), out, partitions=PARTITIONS)
    return out


def some(folder: Path, users: int) -> Path:
    """A file with so many user ids."""
    import polars as pl

    path = folder / f"users-{users}.csv"
    pl.DataFrame({"user_id": range(1, users + 1)}).write_csv(path)
    return path


def rate(work: str, items: int, users: int, rounds: int) -> Record:
    """Users a second of the job and of the bare loop, round by round."""
    from diffacet.app import batch_candidates

    folder = Path(work)
    run, log = made.run(folder, items=items), data(folder, USERS if items == LARGE else MIDDLE, items)
    found: dict[str, list[float]] = {"job": [], "bare": []}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        asked = some(Path(temporary), users)
        bare = _bare(run, log, users)
        for turn in range(rounds):
            out = Path(temporary) / f"{turn}.parquet"
            wish = batch_candidates.Wish(k=K)
            done = batch_candidates.write(run, log, out, wish, users=asked, device="cpu", threads=1)
            found["job"].append(done["users_per_second"])
            out.unlink()
            start = time.perf_counter()
            bare()
            found["bare"].append(users / (time.perf_counter() - start))
            say(f"{items:,} items, round {turn + 1}: {found['job'][-1]:,.0f} and {found['bare'][-1]:,.0f} users/s")
    shares = [job / base for job, base in zip(found["job"], found["bare"], strict=True)]
    return {"items": items, "users": users, "rounds": found, "shares": shares, "share": statistics.median(shares)}


def _bare(run: Path, log: Path, users: int) -> Any:
    """A call that encodes and searches so many users with nothing around it."""
    import numpy as np
    import torch

    from diffacet.app import runs
    from diffacet.app.batch_candidates import TOGETHER
    from diffacet.core.batch import Histories
    from diffacet.data.partitions import Partitions

    loaded: Any = runs.load(run, device="cpu")
    rows = Partitions.open(log, verify=False).sequences(0, users)
    items = torch.from_numpy(rows.last(np.arange(users), made.LENGTH))
    catalogue = loaded.model.catalogue().detach().T.contiguous()

    @torch.inference_mode()
    def call() -> None:
        for part in items.split(TOGETHER):
            history = Histories(part, torch.full((len(part),), -1), torch.zeros(len(part), dtype=torch.int64))
            interests = loaded.model.interests(history)
            scores = (interests.reshape(-1, interests.shape[2]) @ catalogue).view(len(part), -1, catalogue.shape[1])
            scores.amax(1).topk(K)

    return call


def memory(work: str, users: int) -> Record:
    """Peak MiB of this process with one job for so many users of a log of so many."""
    from diffacet.app import batch_candidates

    folder = Path(work)
    run, log = made.run(folder, items=SMALL), data(folder, users, SMALL)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        out = Path(temporary) / "out.parquet"
        done = batch_candidates.write(run, log, out, batch_candidates.Wish(k=K), device="cpu", threads=1)
    return {"users": users, "mib": _status("VmHWM"), "users_per_second": done["users_per_second"]}


def engine(work: str, kind: str, users: int) -> Record:
    """Seconds of a job by one engine, and the checksum of its table."""
    import hashlib

    from diffacet.app import batch_candidates

    folder = Path(work)
    run, log = made.run(folder, items=MIDDLE), data(folder, users, MIDDLE)
    wish = batch_candidates.Wish(k=K)
    asked: dict[str, Any] = {"device": "cpu"}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        out = Path(temporary) / "out.parquet"
        start = time.perf_counter()
        if kind == LOCAL:
            batch_candidates.write(run, log, out, wish, threads=2, **asked)
            begun = start
        else:
            from diffacet.app.cluster import candidates, connecting

            with connecting.connected(None, cpus=2) as cluster:
                begun = time.perf_counter()
                batch_candidates.write(run, log, out, wish, threads=1, engine=candidates.engine(cluster, 2), **asked)
        end = time.perf_counter()
        return {
            "name": kind,
            "seconds": end - start,
            "seconds_cluster_there": end - begun,
            "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        }


def whole(work: Path) -> Record:
    """The job for all users over all items, two threads; memory as it goes. What is finished is not done again."""
    import torch

    from diffacet.app import batch_candidates
    from diffacet.app.environment import environment

    record, out = work / "whole.json", work / "whole.parquet"
    if record.exists():
        return json.loads(record.read_text())
    out.unlink(missing_ok=True)
    run = made.run(work, items=LARGE, dim=WHOLE_DIM, interests=WHOLE_INTERESTS)
    log = data(work, USERS, LARGE)
    trace: list[tuple[int, float]] = []

    def progress(done: int, users: int) -> None:
        if not trace or done - trace[-1][0] >= users // 50 or done == users:
            trace.append((done, _status("VmRSS")))
            say(f"{done:,} of {users:,} users, {trace[-1][1]:,.0f} MiB")

    asked: dict[str, Any] = {"device": "cpu", "threads": 2, "resume": True, "progress": progress}
    done = batch_candidates.write(run, log, out, batch_candidates.Wish(k=K), **asked)
    found = done | {"out": out.name, "trace": trace, "peak_mib": _status("VmHWM"), "bytes": out.stat().st_size}
    found |= {"commit": environment(torch.device("cpu"))["commit"]}
    record.write_text(json.dumps(found))
    out.unlink()
    return found


def _status(name: str) -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(name + ":")) / 1024


def page(record: Record) -> str:
    """The Markdown page."""
    how = (
        f"DMI with {made.STEPS} DDIM steps (d {made.DIM}, {made.INTERESTS} interests), exact search, k {K}, users of"
        f" {EACH} interactions in {PARTITIONS} partitions; rounds in turn, medians."
    )
    rows = [
        (
            f"{one['items']:,}",
            [f"{one['users']:,}"]
            + [f"{statistics.median(one['rounds'][name]):,.0f}" for name in ("job", "bare")]
            + [f"{one['share']:.2f}", ", ".join(f"{share:.2f}" for share in one["shares"])],
        )
        for one in record["rates"]
    ]
    tables = recording.table("items", ["users", "users/s", "bare users/s", "share", "each round"], rows)
    rows = [
        (f"{one['users']:,}", [f"{one['mib']:,.0f}", f"{one['users_per_second']:,.0f}"]) for one in record["memory"]
    ]
    tables += recording.table(f"users ({SMALL:,} items)", ["peak MiB", "users/s"], rows)
    rows = [
        (name, [f"{_median(record, name, which):.1f}" for which in ("seconds", "seconds_cluster_there")])
        for name in (LOCAL, RAY)
    ]
    title = f"engine ({record['engine_users']:,} users, {MIDDLE:,} items)"
    tables += recording.table(title, ["s", "s without the start of the cluster"], rows)
    if (one := record.get("whole")) is not None:
        trace = one["trace"]
        tables += recording.table(
            f"{USERS:,} users, {LARGE:,} items; d {WHOLE_DIM}, K {WHOLE_INTERESTS}; commit {one['commit']}",
            ["users/s", "hours", "rows", "peak MiB", "MiB at a tenth of the users", "MiB at the end"],
            [
                (
                    "the whole job, two threads",
                    [
                        f"{one['users_per_second']:,.0f}",
                        f"{one['users'] / one['users_per_second'] / 3600:.2f}",
                        f"{one['rows']:,}",
                        f"{one['peak_mib']:,.0f}",
                        f"{next(mib for done, mib in trace if done >= USERS / 10):,.0f}",
                        f"{trace[-1][1]:,.0f}",
                    ],
                )
            ],
        )
    return recording.page(record, "Candidates for many users over a large catalogue", how, tables)


def _median(record: Record, name: str, which: str) -> float:
    return statistics.median(one[which] for one in record["engines"] if one["name"] == name)


def _add_whole(given: argparse.Namespace) -> None:
    """Do the whole job, and put it into the record of everything else."""
    if not given.out.exists():
        raise SystemExit(f"there is no {given.out}; run this script without --whole first")
    done = whole(given.work)
    record = json.loads(given.out.read_text()) | {"whole": done}
    aims = [Aim(**one) for one in record["aims"] if not one["what"].startswith(WHOLE)]
    first, last = (next(mib for users, mib in done["trace"] if users >= part * USERS) for part in (0.1, 1.0))
    aims.append(at_most(f"{WHOLE}: memory at the end / at a tenth", last / first, MOST_GROWTH))
    recording.finish(record, given, aims, page)


def main() -> None:
    """Measure everything but the whole job."""
    options = recording.parser(__doc__, __file__)
    options.add_argument("--whole", action="store_true", help=f"the job for {USERS:,} users over {LARGE:,} items")
    given = recording.arguments(options, __file__, {"rate": rate, "memory": memory, "engine": engine})
    if given.whole:
        _add_whole(given)
        return
    rates, rounds, sizes, engine_users = ((MIDDLE, 2_000), (LARGE, 2_000)), 3, (MIDDLE, USERS), MIDDLE
    if given.quick:
        rates, rounds, sizes, engine_users = ((SMALL, 1_000),), 1, (1_000, 2_000), 1_000
    for items in {SMALL, MIDDLE} | {items for items, _ in rates}:
        made.run(given.work, items=items)
    for items, _ in rates:
        data(given.work, USERS if items == LARGE else MIDDLE, items)
    for users, items in [(users, SMALL) for users in sizes] + [(engine_users, MIDDLE)]:
        data(given.work, users, items)
    record = recording.begun(given, __file__) | {"engine_users": engine_users}
    record["rates"] = [
        recording.apart(__file__, "rate", work=given.work, items=items, users=users, rounds=rounds)
        for items, users in rates
    ]
    record["memory"] = [recording.apart(__file__, "memory", work=given.work, users=users) for users in sizes]
    say(str(record["memory"]))
    record["engines"] = []
    for _ in range(rounds):
        for name in (LOCAL, RAY):
            record["engines"].append(
                recording.apart(__file__, "engine", work=given.work, kind=name, users=engine_users)
            )
            say(str(record["engines"][-1]))
    if len({one["sha256"] for one in record["engines"]}) > 1:
        say("the tables of the engines differ: threads of another number round differently")
    lost = _median(record, RAY, "seconds") / _median(record, LOCAL, "seconds")
    small, large = record["memory"]
    aims = [
        at_least(f"share of bare users/s, {one['items']:,} items", one["share"], LEAST_SHARE) for one in record["rates"]
    ]
    growth = large["mib"] / small["mib"]
    aims += [
        at_most(f"peak memory, {large['users']:,} users / {small['users']:,}", growth, MOST_GROWTH),
        at_most("seconds with two workers of Ray / with two local threads", lost, MOST_ENGINE),
    ]
    recording.finish(record, given, aims, page)


if __name__ == "__main__":
    main()
