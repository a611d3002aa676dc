"""The page of mutation testing: `run`'s samples in OUT -> results/mutation.md.

    python benchmarks/mutation/report.py OUT

Mutants that cannot be told from the program are named, each with its reason, in `equivalent.toml`.
"""

import math
import sys
import tomllib
from pathlib import Path
from typing import Any

from run import read

HERE = Path(__file__).resolve().parent
NAMED = ("module", "function", "before", "after")
"""What a mutant is known by in `equivalent.toml`, which outlives changes elsewhere in its module."""


def interval(hits: int, n: int) -> str:
    """A share with Wilson's interval of 95 %, in per cent."""
    if not n:
        return "-"
    share, z = hits / n, 1.96
    centre, wide = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((centre + side * wide) / (1 + z * z / n) for side in (-1, 1))
    return f"{100 * share:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def report(out: Path) -> None:
    """Write results/mutation.md out of every seed's results."""
    known = tomllib.loads((HERE / "equivalent.toml").read_text(encoding="utf-8"))["mutants"]
    reasons = {tuple(one[key] for key in NAMED): one["reason"] for one in known}
    places = sorted(out.glob("*.jsonl"), key=lambda place: int(place.stem))
    last = {place.stem: read(place) for place in places}

    def row(name: str, mutants: list[dict[str, Any]], *more: Any) -> str:
        killed = sum(one["killed"] for one in mutants)
        same = sum(not one["killed"] and tuple(one[key] for key in NAMED) in reasons for one in mutants)
        counts = (len(mutants), killed, same, len(mutants) - killed - same)
        cells = (name, *more, *counts, interval(killed, len(mutants)), interval(killed, len(mutants) - same))
        return "| " + " | ".join(map(str, cells)) + " |"

    head = "mutants run | killed | judged equivalent | survive | score, % | without the equivalent, % |"
    lines = [(HERE / "head.md").read_text(encoding="utf-8")]
    lines += [f"| sample | {head}", "|---|" + "---|" * 6]
    for seed, mutants in last.items():
        lines.append(row(f"seed {seed}, each as it was run first", read(out / f"{seed}.jsonl", first=True)))
        lines.append(row(f"seed {seed}, each as it was run last", mutants))
    union = {(one["module"], one["number"]): one for mutants in last.values() for one in mutants}
    lines.append(row("all seeds, each mutant once", list(union.values())))
    for room in ("core", "rank", "data"):
        found = [one for one in union.values() if one["module"].startswith(room)]
        lines.append(row(f"of these in {room}/", found))
    lines += ["", "## By module", ""]
    lines += [f"| module | mutants there | {head}", "|---|---|" + "---|" * 6]
    modules: dict[str, list[dict[str, Any]]] = {}
    for one in union.values():
        modules.setdefault(one["module"], []).append(one)
    lines += [row(name, found, found[0]["of"]) for name, found in sorted(modules.items())]
    weights = sum(found[0]["of"] for found in modules.values())
    whole = sum(found[0]["of"] * sum(one["killed"] for one in found) / len(found) for found in modules.values())
    lines += [
        "",
        f"Weighed by the mutants that each module has ({weights} in all), the score is {100 * whole / weights:.1f} %.",
    ]
    for title, wanted in (("Survivors that are judged equivalent", True), ("Survivors that are not", False)):
        lines += ["", f"## {title}", "", "| module | function | was | is |" + (" why |" if wanted else "")]
        lines.append("|---|---|---|---|" + ("---|" if wanted else ""))
        for one in sorted(union.values(), key=lambda one: (one["module"], one["number"])):
            reason = reasons.get(tuple(one[key] for key in NAMED))
            if not one["killed"] and (reason is not None) == wanted:
                shown = [one["module"], one["function"], f"`{one['before']}`", f"`{one['after']}`"]
                cells = [cell.replace("|", "\\|") for cell in shown + ([reason] if reason else [])]
                lines.append("| " + " | ".join(cells) + " |")
    (HERE.parent / "results" / "mutation.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    report(Path(sys.argv[1]))
