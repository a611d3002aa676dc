"""Time of a training step and of evaluation, against the bare torch operators that they consist of.

    python benchmarks/speed.py            # every part, one thread and two, in processes of their own
    python benchmarks/speed.py --device cuda

The log is made up: 20,000 users with 5 to 60 interactions (Beauty's shape), items by a Zipf law. What is
compared is timed in turn, A B A B ..., in one process, and the ratio is taken of the medians.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
MODELS = ("comirec-sa", "remi", "dmi")
CATALOGUES = (12_101, 100_000, 1_000_000)
Run = Callable[[], None]
BATCH, LENGTH, DIM, INTERESTS, NEGATIVES = 128, 20, 64, 4, 1_280


def log(n_items: int) -> Any:
    """Training sequences of the made-up log."""
    from diffacet.data.sequences import Sequences

    rng = np.random.default_rng(0)
    lengths = np.minimum(5 + rng.geometric(0.25, 20_000), 60)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = np.minimum(np.exp(rng.random(offsets[-1]) * np.log(n_items + 1)).astype(np.int64), n_items)
    return Sequences(items, offsets, np.arange(20_000), None)


def median_ms(contenders: dict[str, Run], rounds: int, synchronise: Run, warm: int = 5) -> dict[str, float]:
    """Median milliseconds of each contender, run in turn."""
    for run in contenders.values():
        for _ in range(warm):
            run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            synchronise()
            start = time.perf_counter()
            run()
            synchronise()
            times[name].append(time.perf_counter() - start)
    return {name: 1000 * float(np.median(found)) for name, found in times.items()}


def stepper(name: str, n_items: int, updates: str, device: Any) -> Run:
    """One training step of a model as `fit` makes it, batch included."""
    import torch

    from diffacet import seeds
    from diffacet.app import settings
    from diffacet.learn import batches
    from diffacet.learn.fit import initial_weights, rate
    from diffacet.learn.optim import Optimizer
    from diffacet.models import card

    train, found = log(n_items), card(name)
    chosen = settings.apply(found, settings.preset(found, "paper"), {"item_updates": updates})
    with initial_weights(0):
        model = found.build(chosen.model, batches.facts(train, n_items, chosen.training)).to(device).train()
    batch_at, optimizer = batches.batch_at(train, n_items, chosen.training), Optimizer(model, chosen.training)
    state = {"step": 0}

    def step() -> None:
        torch.manual_seed(seeds.number(0, "model", state["step"]))
        terms = model.loss(batch_at(state["step"]).to(device))
        optimizer.step(torch.stack(list(terms.values())).sum(), rate(chosen.training, state["step"]))
        state["step"] += 1

    return step


def bare_remi(n_items: int, device: Any) -> Run:
    """The torch operators of a dense REMI step, back to back, on batches cut beforehand."""
    import torch
    from torch.nn import functional

    from diffacet.core.contract import Training
    from diffacet.learn import batches

    train = log(n_items)
    batch_at = batches.batch_at(train, n_items, Training())
    ready = []
    for s in range(64):
        b = batch_at(s).to(device)
        mask = b.history.mask
        ids = torch.cat([b.history.items.reshape(-1), b.target, b.negatives])
        ready.append((ids, mask.nonzero(as_tuple=True)))

    def weight(*shape: int, scale: float) -> Any:
        return (torch.randn(*shape, device=device) * scale).requires_grad_()

    table = weight(n_items + 1, DIM, scale=0.18)
    inner, outer = weight(4 * DIM, DIM, scale=0.18), weight(INTERESTS, 4 * DIM, scale=0.09)
    position = weight(LENGTH, DIM, scale=0.04)
    parameters = [table, inner, outer, position]
    adam = torch.optim.Adam(parameters, lr=0.002, fused=True)
    rows, state = torch.arange(BATCH, device=device), {"step": 0}

    def step() -> None:
        ids, real = ready[state["step"] % 64]
        state["step"] += 1
        found = functional.embedding(ids, table, padding_idx=0)
        history, target, negatives = found.split([BATCH * LENGTH, BATCH, NEGATIVES])
        history = history.view(BATCH, LENGTH, DIM)
        logits = torch.tanh((history[real] + position[real[1]]) @ inner.T) @ outer.T
        grid = logits.new_full((BATCH, LENGTH, INTERESTS), float("-inf")).index_put(real, logits)
        attention = grid.transpose(1, 2).softmax(-1)
        interests = attention @ history
        best = (interests.detach() @ target.detach().unsqueeze(-1)).squeeze(-1).argmax(-1)
        user = interests[rows, best]
        positive, scores = (user * target).sum(-1), user @ negatives.T
        negative = (1.1 * scores).logsumexp(-1) - (0.1 * scores).logsumexp(-1) + np.log(NEGATIVES)
        spread = (attention - attention.mean(-1, keepdim=True)).square().sum(-1) / DIM
        loss = (torch.logaddexp(positive, negative) - positive).mean() + 100 * spread.square().sum()
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        adam.step()

    return step


def evaluation(name: str, n_items: int, users: int, device: Any) -> dict[str, Run]:
    """Evaluation of `users` users as the library does it, and the bare product with its top 50."""
    import torch

    from diffacet.app import settings
    from diffacet.data.sequences import Sequences
    from diffacet.data.splits import Holdout
    from diffacet.learn import batches
    from diffacet.models import card
    from diffacet.rank.evaluate import evaluate

    train, found = log(n_items), card(name)
    chosen = settings.preset(found, "paper")
    model = found.build(chosen.model, batches.facts(train, n_items, chosen.training)).to(device)
    rows = np.arange(users)
    history = train.take(rows)
    target = Sequences(history.items[: 2 * users].copy(), np.arange(users + 1) * 2, rows, None)
    holdout = Holdout(history, target)
    vectors = torch.randn(users, INTERESTS, DIM, device=device)
    catalogue = model.catalogue().detach()

    def whole() -> None:
        evaluate(model, holdout, length=LENGTH)

    def bare() -> None:
        for block in vectors.split(64):  # larger blocks only cost memory: 64 x 4 x 1 M scores are a gigabyte
            scores = (block.reshape(-1, DIM) @ catalogue.T).view(len(block), INTERESTS, -1).amax(1)
            scores.topk(50)

    return {"library": whole, "bare": bare}


def part(kind: str, n_items: int, threads: int, device_name: str) -> dict[str, Any]:
    """One measurement, in this process."""
    import torch

    torch.set_num_threads(threads)
    device = torch.device(device_name)
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    if kind == "step":
        updates = ("dense", "row-sparse") if n_items <= 100_000 else ("row-sparse",)
        runs = {f"{name} {u}": stepper(name, n_items, u, device) for u in updates for name in MODELS}
        if n_items == CATALOGUES[0]:
            runs["remi bare operators"] = bare_remi(n_items, device)
        found = median_ms(runs, 60, synchronise)
    else:
        runs, users = {}, 1_024 if n_items <= 100_000 else 128
        for name in MODELS if n_items <= 100_000 else ("remi",):
            runs.update({f"{name} {who}": run for who, run in evaluation(name, n_items, users, device).items()})
        found = {name: 1_000 * users / ms for name, ms in median_ms(runs, 3, synchronise, warm=1).items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "kind": kind,
        "items": n_items,
        "threads": threads,
        "device": device_name,
        "peak_gib": peak,
        "values": found,
    }


def page(record: dict[str, Any]) -> str:
    """The Markdown table."""
    lines = ["# Speed", "", record.get("reading", ""), ""]
    lines += [
        f"Command: `{record['command']}`; commit {record['commit']}; {record['machine']}; torch {record['torch']}.  ",
        f"Batch {BATCH}, length {LENGTH}, d {DIM}, K {INTERESTS}, {NEGATIVES:,} negatives; medians of runs in turn.",
        "",
    ]
    columns = " | ".join(f"{n:,} items" for n in CATALOGUES)
    for kind, unit in (("step", "ms per training step"), ("evaluation", "users/s in evaluation, top 50")):
        lines += [
            f"## {unit}",
            "",
            f"| what | device | threads | {columns} |",
            "|---|---|---|" + "---|" * len(CATALOGUES),
        ]
        parts = [p for p in record["parts"] if p["kind"] == kind]
        for device, threads in dict.fromkeys((p["device"], p["threads"]) for p in parts):
            here = {p["items"]: p for p in parts if (p["device"], p["threads"]) == (device, threads)}
            for name in dict.fromkeys(name for p in here.values() for name in p["values"]):
                values = [here.get(n, {"values": {}})["values"].get(name) for n in CATALOGUES]
                cells = ["" if value is None else f"{value:,.1f}" for value in values]
                lines.append(f"| {name} | {device} | {threads} | " + " | ".join(cells) + " |")
            peaks = [f"{here[n]['peak_gib']:.2f}" if n in here else "" for n in CATALOGUES]
            lines.append(f"| *peak memory of the process, GiB* | {device} | {threads} | " + " | ".join(peaks) + " |")
        lines.append("")
    lines += ["## Ratios", "", "| ratio | threads | value | aim |", "|---|---|---|---|"]
    lines += [f"| {r['what']} | {r['threads']} | {r['value']:.2f} | {r['aim']} |" for r in record["ratios"]]
    return "\n".join(lines) + "\n\nMade by `benchmarks/speed.py`.\n"


def ratios(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the targets are about."""
    small, large = CATALOGUES[0], CATALOGUES[-1]
    found = []
    for threads in sorted({p["threads"] for p in parts}):
        step = {p["items"]: p["values"] for p in parts if p["kind"] == "step" and p["threads"] == threads}
        users = {p["items"]: p["values"] for p in parts if p["kind"] == "evaluation" and p["threads"] == threads}
        base = step[small]
        rows = [
            ("REMI step / its bare operators, 12 k items", base["remi dense"] / base["remi bare operators"], "≤ 1.6"),
            ("DMI step / REMI step, 12 k items", base["dmi dense"] / base["remi dense"], "≤ 1.6"),
        ]
        for name in MODELS:
            value = step[large][f"{name} row-sparse"] / base[f"{name} dense"]
            rows.append((f"{name} step, 1 M items row-sparse / 12 k items dense", value, "≤ 1.3"))
        for n in users:
            value = users[n]["remi library"] / users[n]["remi bare"]
            rows.append((f"REMI evaluation / bare product and top-k, {n:,} items", value, "≥ 0.6"))
        found += [{"what": what, "threads": threads, "value": value, "aim": aim} for what, value, aim in rows]
    return found


def main() -> None:
    """Measure everything, each part in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--reading", help="what the table says first, in words")
    parser.add_argument("--part", nargs=3, metavar=("KIND", "ITEMS", "THREADS"), help="one part, printed as JSON")
    arguments = parser.parse_args()
    if arguments.part:
        kind, items, threads = arguments.part
        print(json.dumps(part(kind, int(items), int(threads), arguments.device)))
        return
    import torch

    parts = []
    for threads in (1, 2):
        for kind in ("step", "evaluation"):
            for n_items in CATALOGUES:
                command = [
                    sys.executable,
                    __file__,
                    "--device",
                    arguments.device,
                    "--part",
                    kind,
                    str(n_items),
                    str(threads),
                ]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                parts.append(json.loads(done.stdout.splitlines()[-1]))
                print(parts[-1], flush=True)
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude", "*"]
    out = HERE / "results" / ("speed.json" if arguments.device == "cpu" else "speed-cuda.json")
    before = json.loads(out.read_text()) if out.exists() else {}
    record = {
        "command": "python benchmarks/speed.py" + (" --device cuda" if arguments.device == "cuda" else ""),
        "commit": subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "torch": str(torch.__version__),
        "reading": arguments.reading or before.get("reading", ""),
        "parts": parts,
        "ratios": ratios(parts),
    }
    out.write_text(json.dumps(record, indent=1) + "\n")
    out.with_suffix(".md").write_text(page(record))


if __name__ == "__main__":
    main()
