"""Sequential models: SASRec's training step against torch's own Transformer, and DimeRec's generation against a pass.

    python benchmarks/sequential_speed.py            # every part, in processes of their own, one thread

The log is made up: users with more items than a window holds, of MovieLens-1M's 3,706, popular items more often. A
step of the library is a whole one: the batch, the embedding of its items, the encoder, a loss at every position, Adam.
Beside it stands `torch.nn.TransformerEncoder` of the same layers, heads, widths, dropout and causal mask, forward and
backward over a tensor that is there already, and nothing else; and once more in the library's place, in whole steps
with the library's batches, loss and optimiser. What is compared is timed in turn, A B A B ..., in one
process, and the ratio is taken of the medians.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
LENGTHS = (50, 200)
N_ITEMS, USERS, BATCH, DIM, LAYERS, HEADS, DROPOUT = 3_706, 1_000, 128, 64, 2, 1, 0.2
ASKED, STEPS = 1_024, 20
BARE = "torch.nn.TransformerEncoder, forward and backward alone"
Run = Callable[[], None]
KINDS: dict[str, dict[str, Any]] = {
    "SASRec, the paper's binary loss": {"preset": "paper"},
    "torch's encoder in its place": {"preset": "paper", "foreign": True},
    "SASRec, full softmax": {"preset": "best"},
    "torch's encoder in its place, full softmax": {"preset": "best", "foreign": True},
}


def log(length: int) -> Any:
    """Training sequences of the made-up log, each longer than a window."""
    from diffacet.data.sequences import Sequences

    rng = np.random.default_rng(0)
    lengths = length + 1 + rng.integers(0, 50, USERS)
    items = np.minimum((N_ITEMS * rng.random(lengths.sum()) ** 3).astype(np.int64) + 1, N_ITEMS)
    return Sequences.from_rows(np.repeat(np.arange(USERS), lengths), items, None, USERS)


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


def torchs(length: int) -> Any:
    """Torch's encoder of the same shape, and its causal mask."""
    from torch import nn

    layer = nn.TransformerEncoderLayer(DIM, HEADS, DIM, dropout=DROPOUT, batch_first=True)
    encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False).train()
    return encoder, nn.Transformer.generate_square_subsequent_mask(length)


def place(encoder: Any, mask: Any) -> Any:
    """Torch's encoder as the library calls its own: (vectors of the items, which of them are real) -> states."""
    from torch import nn

    class Place(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, embedded: Any, real: Any) -> Any:
            del real  # every window is full
            return self.encoder(embedded, mask=mask, is_causal=True)

    return Place()


def library(train: Any, length: int, preset: str, foreign: bool = False) -> Run:
    """One training step of SASRec, batch included; `foreign` puts torch's encoder in the place of its own."""
    import torch

    from diffacet import seeds
    from diffacet.app import settings as presets
    from diffacet.learn import batches
    from diffacet.learn.optim import Optimizer
    from diffacet.models import card

    found = card("sasrec")
    sizes = {"dim": DIM, "layers": LAYERS, "heads": HEADS, "dropout": DROPOUT, "norm": "original"}
    asked = {**sizes, "batch_size": BATCH, "length": length}
    chosen = presets.apply(found, presets.preset(found, preset), asked)
    model = found.build(chosen.model, batches.facts(train, N_ITEMS, chosen.training)).train()
    if foreign:
        model.encoder = place(*torchs(length))
    batch_at = batches.batch_at(train, N_ITEMS, chosen.training, batches.form(found, chosen.training))
    optimizer, state = Optimizer(model, chosen.training), {"step": 0}

    def step() -> None:
        torch.manual_seed(seeds.number(0, "model", state["step"]))
        terms = model.loss(batch_at(state["step"]))
        optimizer.step(torch.stack(list(terms.values())).sum(), chosen.training.lr)
        state["step"] += 1

    return step


def bare(length: int) -> Run:
    """Forward and backward of torch's encoder."""
    import torch

    encoder, mask = torchs(length)
    x = torch.randn(BATCH, length, DIM, requires_grad=True)

    def step() -> None:
        encoder.zero_grad()
        encoder(x, mask=mask, is_causal=True).sum().backward()

    return step


def answers(length: int) -> dict[str, Run]:
    """What 1,024 users cost: SASRec's pass, DimeRec's guidance, DimeRec's generation in 20 steps."""
    import torch

    from diffacet.app import settings as presets
    from diffacet.core.batch import Histories
    from diffacet.core.contract import Facts
    from diffacet.models import MODELS, card

    rows, facts = torch.arange(ASKED), Facts(N_ITEMS, length)
    history = Histories(torch.randint(1, N_ITEMS + 1, (ASKED, length)), rows, rows)
    asked: dict[str, tuple[str, dict[str, Any]]] = {"SASRec, one pass": ("sasrec", {})}
    if "dimerec" in MODELS:
        asked["DimeRec, its guidance"] = ("dimerec", {"serve": "gem"})
        asked[f"DimeRec, {STEPS} steps"] = ("dimerec", {"serve": "dam", "steps": STEPS})
    contenders: dict[str, Run] = {}
    for name, (model, settings) in asked.items():
        found = card(model)
        chosen = presets.apply(found, presets.preset(found, "paper"), {"dim": DIM, **settings})
        built = found.build(chosen.model, facts).eval()

        def answer(built: Any = built) -> None:
            with torch.inference_mode():
                built.interests(history)

        contenders[name] = answer
    return contenders


def part(kind: str, length: int) -> dict[str, Any]:
    """One measurement, in this process."""
    import torch

    torch.set_num_threads(1)
    if kind == "step":
        train = log(length)
        contenders = {name: library(train, length, **asked) for name, asked in KINDS.items()}
        contenders[BARE] = bare(length)
    else:
        contenders = answers(length)
    return {"kind": kind, "length": length, "ms": median_ms(contenders, 15 if length < 100 else 7)}


def page(record: dict[str, Any]) -> str:
    """The Markdown tables."""
    of = {(p["kind"], p["length"]): p["ms"] for p in record["parts"]}
    lines = [
        "# Speed of the sequential models",
        "",
        record.get("reading", ""),
        "",
        f"Command: `{record['command']}`; commit {record['commit']}; {record['machine']}, one thread; torch "
        f"{record['torch']}.  ",
        f"Width {DIM}, {LAYERS} layers, {HEADS} head, {BATCH} full windows a batch, {N_ITEMS:,} items; medians of runs "
        "in turn.",
        "",
        "| a training step | " + " | ".join(f"{n} items: steps/s | times the bare encoder's" for n in LENGTHS) + " |",
        "|---|" + "---:|" * (2 * len(LENGTHS)),
    ]
    for name in of["step", LENGTHS[0]]:
        cells = [f"{1000 / of['step', n][name]:.1f} | {of['step', n][BARE] / of['step', n][name]:.2f}" for n in LENGTHS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"| {ASKED:,} users answered | " + " | ".join(f"{n} items: ms | times SASRec's pass" for n in LENGTHS) + " |",
        "|---|" + "---:|" * (2 * len(LENGTHS)),
    ]
    for name in of["answer", LENGTHS[0]]:
        one = "SASRec, one pass"
        cells = [f"{of['answer', n][name]:.0f} | {of['answer', n][name] / of['answer', n][one]:.2f}" for n in LENGTHS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\nMade by `benchmarks/sequential_speed.py`.\n"


def main() -> None:
    """Measure everything, each part in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reading", help="what the table says first, in words")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "sequential-speed.json", help="the record")
    parser.add_argument("--part", nargs=2, metavar=("KIND", "LENGTH"), help="one part, printed as JSON")
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(part(arguments.part[0], int(arguments.part[1]))))
        return
    import torch

    parts = []
    for kind, length in [(kind, length) for kind in ("step", "answer") for length in LENGTHS]:
        command = [sys.executable, __file__, "--part", kind, str(length)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        parts.append(json.loads(done.stdout.splitlines()[-1]))
        print(parts[-1], flush=True)
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude", "*"]
    before = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    record = {
        "command": "python benchmarks/sequential_speed.py",
        "commit": subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "torch": str(torch.__version__),
        "reading": arguments.reading or before.get("reading", ""),
        "parts": parts,
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(page(record))


if __name__ == "__main__":
    main()
