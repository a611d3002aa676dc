"""The pictures that explain: the diffusion of one interest, computed; the house and a batch's journey, laid out.

    python docs/making/pictures.py

writes them to docs/pictures/, where the repository's pages find them. In the site they stand in the page itself and
take their colours from its theme; opened alone they follow the reader's system.
"""

import math
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from diffacet.core import diffusion
from diffacet.core.denoisers import catalogue_mean

HERE = Path(__file__).parents[1] / "pictures"
SEED = 3
STEPS, DRAWS = 10, 40
Points = NDArray[np.float64]

_STYLE = """svg.drawn { font-family: system-ui, sans-serif; font-size: 13px; color-scheme: light dark; }
svg.drawn { --ink: #222; --faint: #999; --paper: #fff; --fill: #f5f5f4;
  --one: #c2410c; --two: #1d4ed8; --three: #15803d; }
@media (prefers-color-scheme: dark) { svg.drawn {
  --ink: #ddd; --faint: #888; --paper: #16181d; --fill: #2b2f3a; --one: #fb923c; --two: #93c5fd; --three: #86efac; } }
svg.drawn text { fill: var(--ink); } svg.drawn .small { font-size: 11.5px; } svg.drawn .strong { font-weight: 600; }
svg.drawn .code { font-family: ui-monospace, monospace; font-size: 12px; }
svg.drawn .middle { text-anchor: middle; } svg.drawn .box { fill: var(--fill); stroke: var(--faint); }
svg.drawn .line { fill: none; stroke: var(--faint); } svg.drawn .arrow { fill: none; stroke: var(--ink); }
svg.drawn .one { fill: var(--one); } svg.drawn .two { fill: var(--two); } svg.drawn .three { fill: var(--three); }
svg.drawn .faint { fill: var(--faint); } svg.drawn .open { fill: var(--paper); stroke: var(--faint); }
svg.drawn .path1 { fill: none; stroke: var(--one); stroke-width: 1.5; }
svg.drawn .path2 { fill: none; stroke: var(--two); stroke-width: 1.5; }"""


def drawings() -> dict[str, str]:
    """File name -> picture."""
    return {"diffusion.svg": diffusion_of_one(), "house.svg": house(), "journey.svg": journey()}


def computed() -> dict[str, Points]:
    """One interest noised and brought back, in two dimensions, by the code that models use.

    items (N, 2) on a ring in groups; history, places in it of what the user took; interest (2,); forward
    (T + 1, DRAWS, 2), the interest at steps 0..T; backward (T + 1, DRAWS, 2), the chain at steps T..0.
    """
    rng = np.random.default_rng(SEED)
    centres = np.array([20.0, 95.0, 160.0, 230.0, 300.0])
    angles = np.radians((centres[:, None] + rng.normal(0, 13, (5, 9))).ravel())
    items = np.stack([np.cos(angles), np.sin(angles)], 1) * rng.normal(1, 0.04, (45, 1))
    history = np.array([9, 10, 11, 12, 19])  # four of the second group, one of the third
    interest = items[history].mean(0)

    schedule = diffusion.scaled_linear(STEPS, 1.0, 0.01, 0.25)
    x0 = torch.tensor(interest).expand(DRAWS, 1, 2).contiguous()  # (B, K, d), K = 1
    noise = diffusion.case_noise(torch.arange(DRAWS), (1, 2), SEED).double()
    steps = [torch.full((DRAWS,), t, dtype=torch.int64) for t in range(STEPS + 1)]
    forward = [diffusion.forward_noise(x0, t, noise, schedule) for t in steps]

    # What guides: the items of the history count ten times as much as any other.
    log_prior = torch.zeros(DRAWS, len(items), dtype=torch.float64)
    log_prior[:, torch.tensor(history)] = math.log(10.0)
    vectors, walked = torch.tensor(items), []

    def denoise(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        walked.append(xt)
        return catalogue_mean(xt, t, vectors, log_prior, schedule)

    walked.append(diffusion.ancestral(denoise, forward[-1], schedule))
    told = {"items": items, "history": history.astype(np.float64), "interest": interest}
    return told | {"forward": torch.stack(forward)[:, :, 0].numpy(), "backward": torch.stack(walked)[:, :, 0].numpy()}


def diffusion_of_one() -> str:
    """Two panels: the interest gets noise, and is brought back among the items that guide it."""
    found = computed()
    size, gap, scale, middle = 300, 40, 118.0, (-0.1, 0.35)

    def at(point: Points, left: float) -> tuple[str, str]:
        across, down = scale * (point[0] - middle[0]), scale * (point[1] - middle[1])
        return f"{left + size / 2 + across:.1f}", f"{40 + size / 2 - down:.1f}"

    def dot(point: Points, left: float, radius: float, kind: str) -> str:
        x, y = at(point, left)
        return f'<circle cx="{x}" cy="{y}" r="{radius}" class="{kind}"/>'

    def line(points: Sequence[Points], left: float, kind: str) -> str:
        return f'<polyline points="{" ".join(",".join(at(p, left)) for p in points)}" class="{kind}"/>'

    parts = [f'<clipPath id="inside"><rect x="0" y="35" width="{2 * size + gap}" height="{size + 10}"/></clipPath>']
    # One draw is followed, and all others are shown only where they end: the sixth of those that went furthest.
    away = np.linalg.norm(found["forward"][-1] - found["interest"], axis=1)
    chosen = int(away.argsort()[-6])
    panels = ((0.0, "forward", "one", "path1"), (float(size + gap), "backward", "two", "path2"))
    titles = ("Forward: noise is added, t = 0 … 10", "Back: the denoiser's chain, t = 10 … 0")
    for (left, name, kind, path), title in zip(panels, titles, strict=True):
        parts.append(f'<rect x="{left + 0.5}" y="34.5" width="{size - 1}" height="{size + 11}" rx="6" class="line"/>')
        parts.append(f'<text x="{left + size / 2}" y="22" class="middle strong">{title}</text>')
        parts.append('<g clip-path="url(#inside)">')
        for place, item in enumerate(found["items"]):
            parts.append(dot(item, left, 4, "three" if place in found["history"] else "open"))
        ends = found[name][-1]
        parts.append(f'<g opacity="0.45">{"".join(dot(end, left, 2.2, kind) for end in ends)}</g>')
        track = list(found[name][:, chosen])
        parts.append(line(track, left, path))
        parts += [dot(point, left, 2.8, kind) for point in track]
        x, y = at(found["interest"], left)
        parts.append(f'<path d="M{x},{y} m-6,0 h12 m-6,-6 v12" stroke="var(--ink)" stroke-width="2"/></g>')
    keys = (("open", "an item"), ("three", "guides: in the history"), ("one", "noised"), ("two", "brought back"))
    across = 0.0
    for kind, told in keys:
        parts.append(f'<circle cx="{across + 8:.0f}" cy="366" r="4.5" class="{kind}"/>')
        parts.append(f'<text x="{across + 18:.0f}" y="370" class="small">{told}</text>')
        across += 42 + 6.3 * len(told)
    parts.append(f'<path d="M{across + 2:.0f},366 h12 m-6,-6 v12" stroke="var(--ink)" stroke-width="2"/>')
    parts.append(f'<text x="{across + 20:.0f}" y="370" class="small">the interest</text>')
    return _svg(2 * size + gap, 380, parts)


ROOMS = (
    ("app", "runs, command line, service, report", 0, 0, 3),
    ("models", "one paper a file", 0, 1, 1),
    ("learn", "batches, the loop, checkpoints", 1, 1, 1),
    ("rank", "top-k, metrics, candidates", 2, 1, 1),
    ("core", "mathematics on tensors, the contract", 0, 2, 2),
    ("data", "logs, ids, splits; no torch", 2, 2, 1),
    ("hall", "arrays, errors, files, seeds: refusing, writing, repeating", 0, 3, 3),
)
"""Name, what it knows, column, row and width of each room."""
IMPORTS = {"models": ("core",), "learn": ("core", "data"), "rank": ("core", "data"), "core": (), "data": ()}
"""Which rooms a room imports beside the hall; app imports all. tests/test_house.py enforces it."""


def house() -> str:
    """The rooms, and which may import which."""
    width, height, gap, wide = 198, 58, 44, 640
    middles, parts = {}, []
    for name, told, column, row, span in ROOMS:
        x, y = column * (width + 23), row * (height + gap)
        broad = span * width + (span - 1) * 23
        middles[name] = (x, y, broad)
        parts.append(f'<rect x="{x + 0.5}" y="{y + 0.5}" width="{broad - 1}" height="{height}" rx="6" class="box"/>')
        parts.append(f'<text x="{x + broad / 2}" y="{y + 25}" class="middle strong code">{name}</text>')
        parts.append(f'<text x="{x + broad / 2}" y="{y + 43}" class="middle small">{escape(told)}</text>')

    def arrow(x1: float, y1: float, x2: float, y2: float) -> None:
        parts.append(f'<path d="M{x1:.0f},{y1:.0f} L{x2:.0f},{y2 - 2:.0f}" class="arrow" marker-end="url(#end)"/>')

    for name in ("models", "learn", "rank"):
        x, y, broad = middles[name]
        arrow(x + broad / 2, y - gap + 1, x + broad / 2, y)
        for other in IMPORTS[name]:
            ox, oy, obroad = middles[other]
            x1 = x + broad / 2 + (0 if len(IMPORTS[name]) == 1 else -28 if other == "core" else 28)
            x2 = min(max(x1, ox + 30), ox + obroad - 30)
            arrow(x1, y + height, x2, oy)
    for name in ("core", "data"):
        x, y, broad = middles[name]
        arrow(x + broad / 2, y + height, x + broad / 2, y + height + gap)
    told = "An arrow is “may import”. app imports every room, and every room the hall."
    parts.append(f'<text x="320" y="390" class="middle small">{told}</text>')
    return _svg(wide, 400, parts)


STAGES = (
    ("raw log", "CSV, Parquet, …", "data/readers", "rows with the user’s own ids"),
    ("data directory", "Interactions, Ids", "data/store", "numbers 1 … N; 0 is padding"),
    ("split", "Sequences, Holdout", "data/splits", "flat items, offsets; what is held out"),
    ("batch", "SequenceBatch", "learn/batches", "history (B, L), target (B,), negatives (M,)"),
    ("loss terms", "dict of scalars", "models/x.py: loss", "weighted; the loop minimises their sum"),
    ("trained run", "weights, settings, ids", "learn/fit, app/runs", "one folder; needs no training data"),
    ("interests", "(B, K, d), refined", "models/x.py: interests", "noised, rebuilt under guidance, mixed"),
    (
        "candidates",
        "ids, scores, which interest",
        "rank/ranking, rank/candidates",
        "best interest’s product; own ids again",
    ),
)
"""Stage, its form, the file that makes it, what it holds."""


def journey() -> str:
    """A batch's way: from the raw log to candidates, with the file that takes each step."""
    row, parts = 56, []
    for place, (stage, form, file, holds) in enumerate(STAGES):
        y = place * row
        parts.append(f'<rect x="0.5" y="{y + 0.5}" width="229" height="40" rx="6" class="box"/>')
        parts.append(f'<text x="12" y="{y + 17}" class="strong">{stage}</text>')
        parts.append(f'<text x="12" y="{y + 33}" class="small">{escape(form)}</text>')
        parts.append(f'<text x="250" y="{y + 17}" class="code">{escape(file)}</text>')
        parts.append(f'<text x="250" y="{y + 33}" class="small">{escape(holds)}</text>')
        if place:
            parts.append(f'<path d="M115,{y - row + 41} V{y - 2}" class="arrow" marker-end="url(#end)"/>')
    return _svg(560, len(STAGES) * row - 12, parts)


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    marker = '<marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    head = f'{marker}<path d="M0,0 L8,4 L0,8 z" fill="var(--ink)"/></marker>'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="drawn" viewBox="0 0 {width} {height}">',
        f"<!-- python docs/making/pictures.py -->\n<style>\n{_STYLE}\n</style>\n<defs>{head}</defs>",
        *parts,
        "</svg>\n",
    ]
    return "\n".join(lines)


def main() -> None:
    """Write the pictures."""
    HERE.mkdir(exist_ok=True)
    for name, drawing in drawings().items():
        (HERE / name).write_text(drawing, encoding="utf-8")
        sys.stdout.write(f"{HERE / name}\n")


if __name__ == "__main__":
    main()
