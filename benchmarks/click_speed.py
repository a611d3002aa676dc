"""Click models against the length of the history: samples a second in training and inference, and peak memory.

    python benchmarks/click_speed.py            # every part, in processes of their own, one thread

Showings are made up: 256 users a batch, each with as many behaviours as the length says, three fields of width 8 (an
item out of 100,000, a category, a type), the whole history read by every model but DIN(S), which sees the last 100. A
training step is a whole one: loss, gradient, clipping, Adam. What is compared is timed in turn, A B A B ..., in one
process, and ratios are taken of the medians. TWIN-V2 reads clusters of ten, as its clustering would leave them. Memory
is that of a process which takes three training steps of one model and nothing else.
"""

import resource
import time
from typing import Any

from diffrec_speed import Run, head, measure, median_ms

LENGTHS = (50, 500, 1_500, 5_000)
BATCH, ITEMS, CATEGORIES, TYPES, SECOND_STAGE, SHORT = 256, 100_000, 500, 6, 100, 100
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "DIN(S)": ("din", "short", {"window": SHORT}),
    "DIN": ("din", "paper", {}),
    "CAN": ("can", "paper", {}),
    "SIM soft": ("sim", "soft", {}),
    "SIM hard": ("sim", "hard", {}),
    "ETA": ("eta", "paper", {}),
    "SDIM": ("sdim", "paper", {}),
    "TWIN": ("twin", "paper", {}),
    "TWIN-V2": ("twin-v2", "paper", {}),
    "DiffuMIN, T' = 20": ("diffumin", "best", {"sampling_steps": 20}),
    "DiffuMIN, T' = 5": ("diffumin", "best", {"sampling_steps": 5}),
    "DiffuMIN without diffusion (D)": ("diffumin", "best", {"variant": "D"}),
    "DiffuMIN-VAE": ("diffumin-vae", "best", {}),
}
MEMORY = "memory of "
BASE, OURS, FULL = "SIM soft", "DiffuMIN, T' = 20", "DIN"


def showings(length: int, grouped: int = 1) -> Any:
    """A batch of made-up showings; `grouped` behaviours stand in one row."""
    import torch

    from diffacet.core.batch import ClickBatch

    generator = torch.Generator().manual_seed(0)

    def drawn(most: int, *shape: int) -> Any:
        return torch.randint(3, most + 3, shape, generator=generator)

    rows = max(1, length // grouped)
    total = BATCH * rows
    user = torch.arange(BATCH)
    hours = drawn(20_000, BATCH, rows).sort(1).values.flatten()
    return ClickBatch(
        behaviours=torch.stack([drawn(ITEMS, total), drawn(CATEGORIES, total), drawn(TYPES, total)], 1),
        times=hours * 3_600_000,
        sizes=torch.full((total,), float(grouped)) if grouped > 1 else None,
        start=user * rows,
        end=(user + 1) * rows,
        target=torch.stack([drawn(ITEMS, BATCH), drawn(CATEGORIES, BATCH), torch.full((BATCH,), 2)], 1),
        other=torch.stack([drawn(10_000, BATCH), drawn(24, BATCH)], 1),
        numeric=torch.zeros(BATCH, 0),
        label=(torch.rand(BATCH, generator=generator) < 0.3).float(),
        user=user,
        time=torch.full((BATCH,), 21_000 * 3_600_000),
        case=user,
    )


def steps(name: str, length: int) -> tuple[Run, Run]:
    """A training step and an answer of a model."""
    import torch

    from diffacet.app import settings
    from diffacet.core.contract import ClickFields, Facts
    from diffacet.learn.optim import Optimizer
    from diffacet.models import card

    model_name, preset, changes = KINDS[name]
    found = card(model_name)
    wanted = {"kept": SECOND_STAGE, "recent": SHORT, "item_updates": "dense", **changes}
    names = {*found.config.__dataclass_fields__, "item_updates"}
    wanted = {key: value for key, value in wanted.items() if key in names}
    chosen = settings.apply(found, settings.preset(found, preset), wanted)
    sizes = (ITEMS + 3, CATEGORIES + 3, TYPES + 3)
    click = ClickFields(
        ("item", "category", "type"), sizes, (True, True, False), ("user_id", "hour"), (10_003, 27), timed=True
    )
    torch.manual_seed(0)
    model = found.build(chosen.model, Facts(ITEMS, length, click=click))
    optimizer = Optimizer(model, chosen.training)
    batch = showings(length, 10 if model_name == "twin-v2" else 1)

    def train() -> None:
        terms = model.train().loss(batch)
        optimizer.step(torch.stack(list(terms.values())).sum(), chosen.training.lr)

    def answer() -> None:
        with torch.inference_mode():
            model.eval().logits(batch)

    return train, answer


def part(kind: str, length: int) -> dict[str, Any]:
    """One measurement, in this process."""
    import torch

    torch.set_num_threads(1)
    if kind.startswith(MEMORY):
        name = kind.removeprefix(MEMORY)
        train, _ = steps(name, length)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun = time.perf_counter()
        for _ in range(3):
            train()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        told = {"seconds": time.perf_counter() - begun, "mb": peak / 1024, "before_mb": before / 1024}
        return {"kind": "memory", "length": length, "name": name, **told}
    pairs = {name: steps(name, length) for name in KINDS}
    which = 0 if kind == "step" else 1
    rounds = 5 if length < 1_000 else 3
    return {"kind": kind, "length": length, "ms": median_ms({n: both[which] for n, both in pairs.items()}, rounds)}


def page(record: dict[str, Any]) -> str:
    """The Markdown tables."""
    timed = {(p["kind"], p["length"]): p["ms"] for p in record["parts"] if p["kind"] != "memory"}
    memory = {p["name"]: p for p in record["parts"] if p["kind"] == "memory"}
    longest, middle = LENGTHS[-1], LENGTHS[1]
    lines = [
        *head(record, "Speed of the click models"),
        f"{BATCH} showings a batch, {ITEMS:,} items, second stages of {SECOND_STAGE}, short-term branch of {SHORT}; "
        "medians of runs in turn.",
    ]
    for kind, title in (("step", "training, samples/s"), ("answer", "inference, samples/s")):
        lines += [
            "",
            f"| {title} | " + " | ".join(f"{n:,}" for n in LENGTHS) + f" | time at {longest:,} / at {middle:,} |",
            "|---|" + "---:|" * (len(LENGTHS) + 1),
        ]
        for name in KINDS:
            cells = [f"{1000 * BATCH / timed[kind, n][name]:,.0f}" for n in LENGTHS]
            lines.append(f"| {name} | " + " | ".join(cells) + f" | {_ratio(timed, kind, name, longest, middle):.2f} |")
        for name, against in ((OURS, BASE), ("DiffuMIN, T' = 5", BASE), ("DiffuMIN without diffusion (D)", BASE),
                              (OURS, "DiffuMIN, T' = 5"), (OURS, FULL)):  # fmt: skip
            cells = [f"{timed[kind, n][name] / timed[kind, n][against]:.2f}" for n in LENGTHS]
            lines.append(f"| time of {name} / {against} | " + " | ".join(cells) + " | |")
    lines += ["", f"| three training steps at {longest:,} | peak MiB | of which before them |", "|---|---:|---:|"]
    lines += [f"| {name} | {told['mb']:,.0f} | {told['before_mb']:,.0f} |" for name, told in memory.items()]
    return "\n".join(lines) + "\n\nMade by `benchmarks/click_speed.py`.\n"


def _ratio(timed: dict[Any, dict[str, float]], kind: str, name: str, over: int, under: int) -> float:
    return timed[kind, over][name] / timed[kind, under][name]


def main() -> None:
    """Measure everything."""
    parts = [(kind, length) for kind in ("step", "answer") for length in LENGTHS]
    parts += [(MEMORY + name, LENGTHS[-1]) for name in KINDS]
    measure(__file__, __doc__, parts, part, page)


if __name__ == "__main__":
    main()
