"""The search behind the presets called "best": settings judged on validation alone, the same ones for each model.

    python benchmarks/search.py beauty --data DATA_DIR --runs RUNS_DIR --workers 2
    python benchmarks/search.py beauty-paper ...    # what the paper leaves open, at its protocol

Trials run on splits 0, 1, 2. The result keeps every trial that was run, what did not
help too; where time was short a trial was run on fewer splits. Those of the
committed results ran under earlier defaults of s; their labels and settings were completed afterwards, and the
trials "s 5" of splits 1 to 4 are the validations of the table's row with the preset's patience.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
# Cuts from 1: with cuts from 4 a user of five interactions gives one pair (the protocol's, not a model's, change).
START: dict[str, Any] = {
    "first_target": 1,
    "validate_every": 500,
    "patience": 3,
    "max_steps": 10_000,
    "item_updates": "dense",
}
CHANGES: dict[str, dict[str, Any]] = {
    "no dropout": {},
    "embedding dropout .1": {"dropout": 0.1},
    "embedding dropout .3": {"dropout": 0.3},
    "item dropout .2": {"item_dropout": 0.2},
    "item dropout .2, annealed": {"item_dropout": 0.2, "anneal": 0.5, "max_steps": 8_000, "patience": 16},
}
NOISE: dict[str, dict[str, Any]] = {"": {"noise_scale": 5.0}, ", s 20": {"noise_scale": 20.0}}
# The paper prints no s: only the product s * alpha_max matters. At its protocol, with a longer patience.
PAPER: dict[str, dict[str, Any]] = {
    "s 2.5 (noise .01)": {"noise_scale": 2.5},
    "s 5 (noise .02)": {"noise_scale": 5.0},
    "s 10 (noise .04)": {"noise_scale": 10.0},
    "s 20 (noise .08)": {"noise_scale": 20.0},
}


def run_one(model: str, label: str, changes: dict[str, Any], seed: int, data: Path, folder: Path) -> dict[str, Any]:
    """One trial on one split; its test users are never looked at."""
    import torch

    from diffacet.app import runs

    torch.set_num_threads(1)
    done = folder / "result.json"
    if not done.exists():
        run = runs.train(
            model, data, folder / "run", preset="paper", set=changes, seed=seed, split_seed=seed, resume=True
        )
        best = max(run.trail(), key=lambda record: record.metrics["recall@50"])
        told = {"model": model, "label": label, "set": changes, "seed": seed, "best_step": best.step}
        done.write_text(json.dumps(told | {"seconds": run.trail()[-1].seconds, "valid": best.metrics}))
    return json.loads(done.read_text())


def page(command: str, results: list[dict[str, Any]]) -> str:
    """The trials as Markdown: validation R@50 by split."""
    seeds = sorted({r["seed"] for r in results})
    lines = [
        "# Search on Amazon Beauty",
        "",
        f"Command: `{command}`. Recall@50 of the best validation, by split seed.",
        "",
    ]
    lines += ["| model | trial | " + " | ".join(map(str, seeds)) + " |", "|---|---|" + "---|" * len(seeds)]
    for model, label in sorted({(r["model"], r["label"]) for r in results}):
        of = {r["seed"]: r["valid"]["recall@50"] for r in results if (r["model"], r["label"]) == (model, label)}
        lines.append(f"| {model} | {label} | " + " | ".join(f"{of[s]:.4f}" if s in of else "" for s in seeds) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run all trials and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("beauty", "beauty-paper"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--collect", action="store_true", help="run nothing; write what is done")
    parser.add_argument("--only", nargs="*", help="labels of the trials to run")
    arguments = parser.parse_args()
    trials = [("remi", label, START | c) for label, c in CHANGES.items()]
    trials += [("dmi", label + more, START | c | n) for label, c in CHANGES.items() for more, n in NOISE.items()]
    if arguments.name == "beauty-paper":
        longer = {"patience": 12}
        trials = [("remi", "as it is", longer), *(("dmi", label, longer | c) for label, c in PAPER.items())]
    trials = [t for t in trials if not arguments.collect and (not arguments.only or t[1] in arguments.only)]
    with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as pool:
        futures = [
            pool.submit(run_one, m, label, c, seed, arguments.data, arguments.runs / f"{m}-{label}-{seed}")
            for seed in arguments.seeds
            for m, label, c in trials
        ]
        for future in as_completed(futures):
            r = future.result()
            print(
                f"{r['model']:5} {r['label']:38} seed {r['seed']}: R@50 {r['valid']['recall@50']:.4f} "
                f"R@20 {r['valid']['recall@20']:.4f} HR@50 {r['valid']['hit_rate@50']:.4f} "
                f"step {r['best_step']}, {r['seconds']:.0f} s",
                flush=True,
            )
    results = [json.loads(p.read_text()) for p in sorted(arguments.runs.glob("*/result.json"))]
    out = HERE / "results" / f"{arguments.name}-search.json"
    command = f"python benchmarks/search.py {arguments.name} --data {arguments.data.name} --runs RUNS"
    out.write_text(json.dumps({"command": command, "trials": results}, indent=1) + "\n")
    out.with_suffix(".md").write_text(page(command, results))


if __name__ == "__main__":
    main()
