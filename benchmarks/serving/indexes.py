"""Exact, HNSW and IVF: recall, rate, build time and memory at 12 thousand, 100 thousand and a million items.

    python benchmarks/serving/indexes.py --work build/serving          # built indexes are kept there, so it can go on

Vectors are made up like a trained model's (`made.vectors`), d 64; queries are interests, four a user. Recall@50 is of
each interest's list against the exact one. Rates are of single queries and of batches of 64, one thread; exact is the
matrix product and the selection that the service takes. Builds take two threads.
"""

import os
import time
from pathlib import Path
from typing import Any

import made
import recording
from recording import Record, at_least, say

SIZES, QUICK = (12_000, 100_000, 1_000_000), (2_000, 12_000)
K, USERS, SINGLES = 50, 250, 200
SEARCHED = {"hnsw": (64, 128, 256, 512), "ivf": (8, 16, 32, 64, 128, 256)}
LEAST_RECALL, LEAST_RATE = 0.95, 10.0


def exact(items: int, kind: str) -> Record:
    """Rates of the exact search."""
    import torch

    from diffacet.rank.ranking import top_k

    vectors, interests, _ = _made(items, kind)
    catalogue = torch.nn.functional.pad(torch.from_numpy(vectors), (0, 0, 1, 0))
    queries = torch.from_numpy(interests).reshape(-1, 1, made.DIM)
    block = queries[:16]
    return {
        "kind": "exact",
        "mib": catalogue.nelement() * 4 / 2**20,
        "single": _rate(lambda i: top_k(queries[i : i + 1], catalogue, K), SINGLES),
        "batch": 64 * _rate(lambda i: top_k(queries[i : i + 64], catalogue, K), 10 if items > 200_000 else 30),
        "service": _rate(lambda _: top_k(block, catalogue, K, rows=1), 20 if items > 200_000 else 60),
    }


def near(work: str, items: int, kind: str, index: str) -> Record:
    """Build time, memory, and for each way of searching recall and rates."""
    import faiss

    from diffacet.rank.index import Index

    vectors, interests, truth = _made(items, kind)
    queries = interests.reshape(-1, made.DIM)
    path = Path(work) / f"{index}-{kind}-{items}.faiss"
    timing = path.with_suffix(".seconds")
    if not timing.exists():
        faiss.omp_set_num_threads(os.cpu_count() or 1)
        start = time.perf_counter()
        Index.build(vectors, index).save(path)
        timing.write_text(str(time.perf_counter() - start))
    found = Index.load(path)
    own = found.native.hnsw.efSearch if index == "hnsw" else found.native.nprobe
    faiss.omp_set_num_threads(1)
    ways = []
    for value in sorted({*SEARCHED[index], own}):
        if index == "hnsw":
            found.native.hnsw.efSearch = value
        elif value > found.native.nlist:
            continue
        else:
            found.native.nprobe = value
        lists = found.search(queries, K)[1]
        hits = sum(len(set(a) & set(b)) for a, b in zip(lists.tolist(), truth.tolist(), strict=True))
        ways.append(
            {
                "value": int(value),
                "default": value == own,
                "recall": hits / truth.size,
                "single": _rate(lambda i: found.search(queries[i : i + 1], K), SINGLES),
                "batch": 64 * _rate(lambda i: found.search(queries[i : i + 64], K), 10),
            }
        )
    return {
        "kind": index,
        "build_seconds": float(timing.read_text()),
        "mib": path.stat().st_size / 2**20,
        "ways": ways,
    }


def _made(items: int, kind: str) -> Any:
    """Vectors (N, d), interests (U, K, d) and the exact lists (U K, 50) of item numbers."""
    import numpy as np
    import torch

    vectors, cluster = made.vectors(items, kind)
    interests = made.interests(vectors, cluster, USERS)
    queries, table = torch.from_numpy(interests).reshape(-1, made.DIM), torch.from_numpy(vectors).T
    lists = [(part @ table).topk(K).indices.numpy() + 1 for part in queries.split(50)]
    return vectors, interests, np.concatenate(lists)


def _rate(run: Any, times: int) -> float:
    """Calls a second, by the median of their times; the first ones are not counted."""
    for turn in range(3):
        run(turn)
    spent = []
    for turn in range(times):
        start = time.perf_counter()
        run(turn % 100)
        spent.append(time.perf_counter() - start)
    return 1 / sorted(spent)[len(spent) // 2]


def page(record: Record) -> str:
    """The Markdown page."""
    rows = []
    for size in record["sizes"]:
        base = size["exact"]
        cells = ["1", f"{base['single']:,.0f}", "1", f"{base['batch']:,.0f}", "–", f"{base['mib']:,.0f}"]
        rows.append((f"{size['items']:,} {size['vectors']}, exact", cells))
        for one in size["near"]:
            name = "efSearch" if one["kind"] == "hnsw" else "nprobe"
            for way in one["ways"]:
                label = f"{size['items']:,} {size['vectors']}, {one['kind']} {name} {way['value']}"
                cells = [f"{way['recall']:.3f}", f"{way['single']:,.0f}", f"{way['single'] / base['single']:.1f}"]
                cells += [f"{way['batch']:,.0f}", f"{one['build_seconds']:.0f}", f"{one['mib']:,.0f}"]
                rows.append((label + (" (default)" if way["default"] else ""), cells))
    columns = ["recall@50", "single queries/s", "× exact", "queries/s in 64s", "build s", "MiB"]
    services = ", ".join(f"{size['exact']['service']:,.0f}/s at {size['items']:,}" for size in record["sizes"])
    how = (
        f"d {made.DIM}, {USERS * made.INTERESTS} interests, k {K}; medians, one thread "
        f"(builds: {record['build_threads']}). In the service an exact search of one request is that of a block of 16 "
        f"histories with four interests each, of which one is selected: {services}."
    )
    return recording.page(record, "Indexes", how, recording.table("items and index", columns, rows))


def main() -> None:
    """Measure everything."""
    parts = {"exact": exact, "near": near}
    given = recording.arguments(recording.parser(__doc__, __file__), __file__, parts)
    record = recording.begun(given, __file__)
    record |= {"sizes": [], "build_threads": os.cpu_count()}
    for items in QUICK if given.quick else SIZES:
        for kind in ("trained-like", "isotropic") if items == 100_000 else ("trained-like",):
            size: Record = {"items": items, "vectors": kind, "near": []}
            size["exact"] = recording.apart(__file__, "exact", items=items, kind=kind)
            for index in SEARCHED:
                say(f"{items:,} items, {kind}, {index}")
                found = recording.apart(__file__, "near", work=given.work, items=items, kind=kind, index=index)
                size["near"].append(found)
            record["sizes"].append(size)
    largest = record["sizes"][-1]
    aims = []
    for one in largest["near"]:
        way = next(way for way in one["ways"] if way["default"])
        ratio = way["single"] / largest["exact"]["single"]
        what = f"{one['kind']} as it is built, {largest['items']:,} items"
        aims.append(at_least(f"{what}: recall@50", way["recall"], LEAST_RECALL))
        aims.append(at_least(f"{what}: single queries/s / exact", ratio, LEAST_RATE))
    recording.finish(record, given, aims, page)


if __name__ == "__main__":
    main()
