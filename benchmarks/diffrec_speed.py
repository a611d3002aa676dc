"""DiffRec's training step, inference and memory, against the dense way: whole rows through both outer layers.

    python benchmarks/diffrec_speed.py            # every part, in processes of their own, one thread

The log is made up: users with 68 items on average (MovieLens-1M's shape), popular items more often. The dense way
holds users x items as a float matrix, makes x_t, feeds it through the first layer, subtracts it from the output, and
walks the reverse chain over whole rows; its optimiser, its noise and its draw of steps are those of the library. What
is compared is timed in turn, A B A B ..., in one process, and the ratio is taken of the medians. An epoch is the step
times the number of batches of 100,000 users.
"""

import argparse
import itertools
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
CATALOGUES = (3_000, 40_000, 100_000)
USERS, BATCH, STEPS, SHARED = 100_000, 400, 5, 16
Run = Callable[[], None]


def log(n_items: int, users: int) -> Any:
    """Training sequences of the made-up log; an item once a user."""
    from diffacet.data.sequences import Sequences

    rng = np.random.default_rng(0)
    lengths = np.minimum(8 + rng.geometric(1 / 62, users), 900)
    rows = np.repeat(np.arange(users), lengths)
    items = np.minimum((n_items * rng.random(len(rows)) ** 3).astype(np.int64) + 1, n_items)
    keys = np.unique(rows * (n_items + 1) + items)
    return Sequences.from_rows(keys // (n_items + 1), keys % (n_items + 1), None, users)


def median_ms(contenders: dict[str, Run], rounds: int) -> dict[str, float]:
    """Median milliseconds of each contender, run in turn after two rounds to warm up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 2):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if turn >= 2:
                times[name].append(time.perf_counter() - start)
    return {name: 1000 * float(np.median(found)) for name, found in times.items()}


def chosen(shared: int | None) -> Any:
    """The preset `best` of diffrec, with so many noise vectors a batch."""
    from diffacet.app import settings
    from diffacet.models import card

    return settings.apply(card("diffrec"), settings.preset(card("diffrec"), "best"), {"shared_noise": shared})


def stepper(model: Any, batch_at: Callable[[int], Any], training: Any) -> Run:
    """One training step of the library, batch included."""
    import torch

    from diffacet import seeds
    from diffacet.learn.optim import Optimizer

    optimizer, state = Optimizer(model, training), {"step": 0}

    def step() -> None:
        torch.manual_seed(seeds.number(0, "model", state["step"]))
        terms = model.loss(batch_at(state["step"]))
        optimizer.step(torch.stack(list(terms.values())).sum(), training.lr)
        state["step"] += 1

    return step


def library(train: Any, n_items: int, shared: int | None) -> Run:
    """One training step of DiffRec, batch included."""
    from diffacet.learn import batches
    from diffacet.models import card

    found, preset = card("diffrec"), chosen(shared)
    model = found.build(preset.model, batches.facts(train, n_items, preset.training)).train()
    return stepper(model, batches.batch_at(train, n_items, preset.training, found.batch), preset.training)


def dense(train: Any, n_items: int) -> Run:
    """The same step over dense rows."""
    import torch
    from torch import nn

    from diffacet.core import diffusion, importance
    from diffacet.core.layers import sinusoid

    c = chosen(None).model
    sizes = [n_items + c.emb_size, *reversed(c.dims), *c.dims[1:], n_items]
    emb = nn.Linear(c.emb_size, c.emb_size)
    layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
    schedule = diffusion.named(c.schedule, c.steps, c.noise_scale, c.noise_min, c.noise_max, c.first_beta)
    history, weight = importance.LossHistory(c.steps), importance.elbo_weight(schedule)
    adam = torch.optim.AdamW([*emb.parameters(), *layers.parameters()], 3e-4, weight_decay=0, fused=True)
    users = min(len(train), 2_000)
    matrix = torch.zeros(users, n_items)
    owner = np.repeat(np.arange(len(train)), train.lengths())
    inside = owner < users
    matrix[torch.from_numpy(owner[inside]), torch.from_numpy(train.items[inside]) - 1] = 1
    order = torch.randperm(users)
    state = {"step": 0}

    def step() -> None:
        begin = state["step"] * BATCH % users
        state["step"] += 1
        x = matrix[order[begin : begin + BATCH]]
        t, share = history.draw(len(x), x.device)
        noisy = diffusion.forward_noise(x, t, torch.randn_like(x), schedule)
        hidden = torch.cat([nn.functional.dropout(noisy, c.dropout), emb(sinusoid(t - 1, c.emb_size).float())], -1)
        for layer in layers[:-1]:
            hidden = layer(hidden).tanh()
        weighted = weight[t] * (x - layers[-1](hidden)).square().mean(1)
        history.record(t, weighted)
        adam.zero_grad()
        (weighted * share).mean().backward()
        adam.step()

    return step


def inference(train: Any, n_items: int) -> dict[str, Run]:
    """Scores of 1,000 users after T steps: in the hidden space, and over whole rows."""
    import torch

    from diffacet.core import diffusion, profiles
    from diffacet.core.batch import Histories
    from diffacet.learn import batches
    from diffacet.models import card

    preset = chosen(None)
    model = card("diffrec").build(preset.model, batches.facts(train, n_items, preset.training)).eval()
    rows = np.arange(1_000)
    items = torch.from_numpy(train.last(rows, int(train.lengths()[rows].max())))
    history = Histories(items, torch.from_numpy(rows), torch.from_numpy(rows))

    @torch.inference_mode()
    def folded() -> None:
        model.eval()  # forgets what it made of the weights
        for begin in range(0, 1_000, 250):
            part = slice(begin, begin + 250)
            one = Histories(history.items[part], history.users[part], history.case[part])
            model.interests(one).squeeze(1) @ model.catalogue().T

    @torch.inference_mode()
    def whole() -> None:
        for begin in range(0, 1_000, 250):
            part = slice(begin, begin + 250)
            one = Histories(history.items[part], history.users[part], history.case[part])
            x = profiles.read(one).dense(n_items)
            diffusion.ancestral(model.net, x, model.schedule)

    return {"library": folded, "dense": whole}


def part(kind: str, n_items: int) -> dict[str, Any]:
    """One measurement, in this process."""
    import torch

    torch.set_num_threads(1)
    users = USERS if kind == "memory" else 4_000
    train = log(n_items, users)
    if kind == "step":
        contenders = {
            "library, a noise vector a user": library(train, n_items, None),
            f"library, {SHARED} shared noise vectors": library(train, n_items, SHARED),
            "dense": dense(train, n_items),
        }
        values = median_ms(contenders, 15 if n_items < 10_000 else 5)
    elif kind == "inference":
        values = {name: 1e6 / ms for name, ms in median_ms(inference(train, n_items), 3).items()}
    else:
        step = library(train, n_items, SHARED)
        for _ in range(4):
            step()
        for run in list(inference(train, n_items).values())[:1]:
            run()
        values = {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"kind": kind, "items": n_items, "users": users, "peak_gib": peak, "values": values}


def page(record: dict[str, Any]) -> str:
    """The Markdown table."""
    of = {(p["kind"], p["items"]): p for p in record["parts"]}
    columns = " | ".join(f"{n:,} items" for n in CATALOGUES)
    batches = math.ceil(USERS / BATCH)
    lines = [
        *head(record, "Speed of DiffRec"),
        f"Hidden sizes 200 and 600, {BATCH} users a batch, T = {STEPS}; medians of runs in turn.",
        "",
        f"| what | {columns} |",
        "|---|" + "---:|" * len(CATALOGUES),
    ]

    def row(what: str, cells: list[str]) -> None:
        lines.append(f"| {what} | " + " | ".join(cells) + " |")

    for name in of["step", CATALOGUES[0]]["values"]:
        seconds = [of["step", n]["values"][name] / 1000 * batches for n in CATALOGUES]
        row(f"s per epoch of {USERS:,} users: {name}", [f"{value:,.0f}" for value in seconds])
    for name in list(of["step", CATALOGUES[0]]["values"])[:2]:
        times = [of["step", n]["values"]["dense"] / of["step", n]["values"][name] for n in CATALOGUES]
        row(f"times as fast as dense: {name}", [f"{value:.2f}" for value in times])
    for name in ("library", "dense"):
        row(f"users/s scored: {name}", [f"{of['inference', n]['values'][name]:,.0f}" for n in CATALOGUES])
    cells = [f"{of['memory', n]['peak_gib']:.2f}" if ("memory", n) in of else "" for n in CATALOGUES]
    row(f"peak memory of the process, {USERS:,} users, GiB", cells)
    return "\n".join(lines) + "\n\nMade by `benchmarks/diffrec_speed.py`.\n"


def head(record: dict[str, Any], title: str) -> list[str]:
    """The first lines of a page: what it says, and how it was made."""
    return [
        f"# {title}",
        "",
        record.get("reading", ""),
        "",
        f"Command: `{record['command']}`; commit {record['commit']}; {record['machine']}, one thread; torch "
        f"{record['torch']}.  ",
    ]


def measure(
    script: str,
    doc: str | None,
    asked: Sequence[tuple[str, int]],
    part: Callable[[str, int], dict[str, Any]],
    page: Callable[[dict[str, Any]], str],
) -> None:
    """Measure every part that is asked for in a process of its own, which is `script` again; write record and page."""
    name = Path(script).stem
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reading", help="what the table says first, in words")
    out = HERE / "results" / f"{name.replace('_', '-')}.json"
    parser.add_argument("--out", type=Path, default=out, help="the record")
    parser.add_argument("--part", nargs=2, metavar=("KIND", "SIZE"), help="one part, printed as JSON")
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(part(arguments.part[0], int(arguments.part[1]))))
        return
    import torch

    from diffacet.app.environment import environment

    parts = []
    for kind, size in asked:
        command = [sys.executable, script, "--part", kind, str(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        parts.append(json.loads(done.stdout.splitlines()[-1]))
        print(parts[-1], flush=True)
    before = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    record = {
        "command": f"python benchmarks/{name}.py",
        "commit": environment(torch.device("cpu"))["commit"],
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "torch": str(torch.__version__),
        "reading": arguments.reading or before.get("reading", ""),
        "parts": parts,
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(page(record))


def main() -> None:
    """Measure everything."""
    asked = [(kind, n) for kind in ("step", "inference") for n in CATALOGUES] + [("memory", CATALOGUES[-1])]
    measure(__file__, __doc__, asked, part, page)


if __name__ == "__main__":
    main()
