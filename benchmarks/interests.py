"""Does DMI find planted interests better than its base model? Generated logs with noise or without, five seeds.

    OMP_NUM_THREADS=1 python benchmarks/interests.py run OUT [--preset best] [--noise 0.3] ...
    python benchmarks/interests.py table OUT

`run` does what is not done yet and keeps every measurement in OUT/PRESET-NOISE-SEED.parquet; `table` writes
benchmarks/results/interests.json and .md, and the same tables into docs/synth.md.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import polars as pl

from diffacet import files
from diffacet.app import importing, recovery, runs
from diffacet.app.environment import environment, pick_device
from diffacet.app.studies.statistics import paired_t, sign_flips
from diffacet.app.synthesis import synthesise
from diffacet.data.synth.settings import Settings

SIZES = {"users": 2000, "items": 500, "interactions": 40_000}
SETS = {"dim": 32, "negatives": 256, "lr": 0.005, "validate_every": 200, "patience": 99}
STEPS = 2000
RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "synth.md"
KEYS = ["user_id", "topic", "place"]
MODELS = {
    "comirec-sa": ("comirec-sa", {}),
    "dmi on comirec-sa": ("dmi", {"base": "comirec-sa"}),
    "remi": ("remi", {}),
    "dmi on remi": ("dmi", {}),
}
UNREFINED = ", S = 0"
PAIRS = [
    *(("dmi on " + base, base) for base in ("remi", "comirec-sa")),
    *(("dmi on " + base, "dmi on " + base + UNREFINED) for base in ("remi", "comirec-sa")),
]


def measured(out: Path, preset: str, noise: float, seed: int) -> pl.DataFrame:
    """One row for each planted interest and each model of one log."""
    log, data = out / f"log-{noise:g}-{seed}", out / f"data-{noise:g}-{seed}"
    if not log.exists():
        synthesise(Settings(**SIZES, noise=noise, seed=seed), log)
    if not data.exists():
        importing.import_log([log], data)
    frames = []
    for label, (name, more) in MODELS.items():
        where = out / f"{label.replace(' ', '-')}-{preset}-{noise:g}-{seed}"
        how = {"preset": preset, "set": SETS | more, "max_steps": STEPS, "seed": seed}
        run = runs.train(name, data, where, **how, resume=where.exists())
        recall = run.evaluate("test", ks=(20,))["metrics"]["recall@20"]
        found = recovery.match(run, log)
        frames.append(found.with_columns(model=pl.lit(label), recall=pl.lit(recall)))
        if name == "dmi":
            found = recovery.match(run, log, refine_steps=0)
            unknown = pl.lit(None, pl.Float64)
            frames.append(found.with_columns(model=pl.lit(label + UNREFINED), recall=unknown))
    return pl.concat(frames).with_columns(preset=pl.lit(preset), noise=pl.lit(noise), seed=pl.lit(seed))


def run(out: Path, presets: list[str], noises: list[float], seeds: int) -> None:
    """Measure what is not measured yet."""
    files_ = [(p, n, s) for s in range(seeds) for n in noises for p in presets]
    for preset, noise, seed in files_:
        path = out / f"{preset}-{noise:g}-{seed}.parquet"
        if not path.exists():
            out.mkdir(parents=True, exist_ok=True)
            about = environment(pick_device("cpu"))
            measured(out, preset, noise, seed).with_columns(about=pl.lit(json.dumps(about))).write_parquet(path)
            print(path, flush=True)


def compared(rows: pl.DataFrame, measure: str, model: str, base: str) -> dict[str, float]:
    """Mean difference of a model and its base; p over seeds (Student's t) and over users (sign flips)."""
    one, other = (rows.filter(pl.col("model") == name) for name in (model, base))
    both = one.join(other, on=[*KEYS, "seed"], suffix="_base", maintain_order="left").with_columns(
        difference=pl.col(measure) - pl.col(f"{measure}_base")
    )
    by_seed = both.group_by("seed").agg(pl.col("difference").mean()).sort("seed")["difference"].to_list()
    by_user = both.group_by("seed", "user_id").agg(pl.col("difference").sum()).sort("seed", "user_id")
    return {
        "difference": sum(by_seed) / len(by_seed),
        "seeds_better": sum(value > 0 for value in by_seed),
        "p_seeds": paired_t(by_seed),
        "p_users": float(sign_flips(by_user["difference"].to_numpy()[:, None])[0]),
    }


def table(out: Path) -> None:
    """Write the results as JSON, and as a table."""
    rows = pl.concat([pl.read_parquet(path) for path in sorted(out.glob("*.parquet"))])
    results, lines = [], []
    names = ["auc", "precision", "cosine", "recall"]
    lines.append("| preset | noise | model | seeds | AUC | precision | cosine | Recall@20 | interests |")
    lines.append("|---|---|---|---|---|---|---|---|---|")
    tests = ["| preset | noise | compared | measure | difference | seeds better | p (seeds) | p (users) |"]
    tests.append("|---|---|---|---|---|---|---|---|")
    for (preset, noise), group in rows.sort("preset", "noise").group_by(["preset", "noise"], maintain_order=True):
        for model in group["model"].unique(maintain_order=True):
            mine = group.filter(pl.col("model") == model)
            seeds = mine.group_by("seed").agg(pl.col(names).mean(), pl.len()).sort("seed")
            told = {name: [seeds[name].mean(), seeds[name].std()] for name in names}
            results.append({"preset": preset, "noise": noise, "model": model, **told, "seeds": seeds.to_dicts()})
            cells = [f"{m:.4f} ± {s or 0:.4f}" if m is not None else "" for m, s in told.values()]
            lines.append(f"| {preset} | {noise} | {model} | {len(seeds)} | " + " | ".join(cells) + f" | {len(mine)} |")
        for one, other in PAIRS:
            for name in names[:3]:
                test = compared(group, name, one, other)
                results.append({"preset": preset, "noise": noise, "model": one, "base": other, "measure": name, **test})
                tests.append(
                    f"| {preset} | {noise} | {one} over {other} | {name} | {test['difference']:+.4f} | "
                    f"{test['seeds_better']} | {test['p_seeds']:.3g} | {test['p_users']:.3g} |"
                )
    about = json.loads(rows["about"][0])
    commits = sorted({json.loads(text)["commit"] for text in rows["about"].unique()})
    told = f"Command: `python benchmarks/interests.py run OUT`; sizes {SIZES}, {STEPS} steps, {SETS}. "
    told += f"Commit {', '.join(commits)}; torch {about['torch']}; {about['platform']}; threads {about['threads']}."
    files.write_json(RESULTS / "interests.json", {"about": about | {"commits": commits}, "results": results})
    text = "\n".join(lines) + "\n\n" + "\n".join(tests) + f"\n\n{told}\n"
    files.write_text(RESULTS / "interests.md", "# Planted interests found\n\n" + text)
    page = PAGE.read_text(encoding="utf-8")
    start, end = "<!-- interests -->", "<!-- /interests -->"
    files.write_text(PAGE, f"{page.split(start)[0]}{start}\n{brief(results)}\n\n{told}\n{end}{page.split(end)[1]}")


def brief(results: list[dict[str, Any]]) -> str:
    """What DMI adds to each base, a row for each preset, noise and base: precision, and how the others differ."""
    lines = ["| preset | noise | base | precision, base | DMI | DMI, S = 0 | difference (p) | AUC (p) | cosine (p) |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    means = {(r["preset"], r["noise"], r["model"]): r["precision"] for r in results if "measure" not in r}
    tests = {(r["preset"], r["noise"], r["base"], r["measure"]): r for r in results if "measure" in r}
    for preset, noise, base in [key for key in means if key[2] in ("remi", "comirec-sa")]:
        models = (base, f"dmi on {base}", f"dmi on {base}{UNREFINED}")
        cells = ["{:.3f} ± {:.3f}".format(*means[preset, noise, model]) for model in models]
        for measure in ("precision", "auc", "cosine"):
            test = tests[preset, noise, base, measure]
            cells.append(f"{test['difference']:+.3f} ({test['p_seeds']:.2g}; {test['seeds_better']} of 5)")
        lines.append(f"| {preset} | {noise:g} | {base} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", action="append")
    parser.add_argument("--noise", action="append", type=float)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    if given.what == "run":
        run(given.out, given.preset or ["best", "paper"], given.noise or [0.3, 0.0, 0.5], given.seeds)
    else:
        table(given.out)


if __name__ == "__main__":
    main()
