"""Sequential models: SASRec's training step against torch's own Transformer, and DimeRec's generation against a pass.

    python benchmarks/sequential_speed.py            # every part, in processes of their own, one thread

The log is made up: users with more items than a window holds, of MovieLens-1M's 3,706, popular items more often. A
step of the library is a whole one: the batch, the embedding of its items, the encoder, a loss at every position, Adam.
Beside it stands `torch.nn.TransformerEncoder` of the same layers, heads, widths, dropout and causal mask, forward and
backward over a tensor that is there already, and nothing else; and once more in the library's place, in whole steps
with the library's batches, loss and optimiser. What is compared is timed in turn, A B A B ..., in one
process, and the ratio is taken of the medians.
"""

from typing import Any

import numpy as np

from diffrec_speed import Run, head, measure, median_ms, stepper

LENGTHS = (50, 200)
N_ITEMS, USERS, BATCH, DIM, LAYERS, HEADS, DROPOUT = 3_706, 1_000, 128, 64, 2, 1, 0.2
ASKED, STEPS = 1_024, 20
BARE = "torch.nn.TransformerEncoder, forward and backward alone"
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
    from diffacet.app import settings as presets
    from diffacet.learn import batches
    from diffacet.models import card

    found = card("sasrec")
    sizes = {"dim": DIM, "layers": LAYERS, "heads": HEADS, "dropout": DROPOUT, "norm": "original"}
    asked = {**sizes, "batch_size": BATCH, "length": length}
    chosen = presets.apply(found, presets.preset(found, preset), asked)
    model = found.build(chosen.model, batches.facts(train, N_ITEMS, chosen.training)).train()
    if foreign:
        model.encoder = place(*torchs(length))
    batch_at = batches.batch_at(train, N_ITEMS, chosen.training, batches.form(found, chosen.training))
    return stepper(model, batch_at, chosen.training)


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
        *head(record, "Speed of the sequential models"),
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
    """Measure everything."""
    measure(__file__, __doc__, [(kind, length) for kind in ("step", "answer") for length in LENGTHS], part, page)


if __name__ == "__main__":
    main()
