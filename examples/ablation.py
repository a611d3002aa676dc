"""What do refinement and pruning give? DMI and three ablations of it, several seeds, paired tests.

python examples/ablation.py                                            # MovieLens-100K, three seeds, a few minutes
python examples/ablation.py --data data/shop --out runs/ablation-shop --seeds 5 --steps 4000
"""

import argparse
from pathlib import Path

import diffacet

ROWS = {
    "DMI": {},
    "no pruning": {"variant": "ip"},  # all items of the history guide the refinement
    "no diffusion": {"variant": "diff"},  # the base model, REMI
}
METRICS = ("recall@20", "ndcg@20")

ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ask.add_argument("--data", type=Path, default=Path("runs/examples/ml-100k"), help="a data directory")
ask.add_argument("--out", type=Path, default=Path("runs/ablation"), help="folder of the runs; what is there is kept")
ask.add_argument("--seeds", type=int, default=3)
ask.add_argument("--steps", type=int, default=1000)
args = ask.parse_args()
if not args.data.exists():
    diffacet.import_log([diffacet.example_log()], args.data)

# A seed is that of the initial weights and of the split, so each seed tests other users; rows share their seeds.
# Length, interests and dropout are those of 'diffacet demo', chosen on validation for REMI and DMI alike.
settings = {"max_steps": args.steps, "validate_every": max(1, args.steps // 10)}
settings |= {"length": 10, "interests": 2, "dropout": 0.3}
runs: dict[str, list[diffacet.Run]] = {label: [] for label in ROWS}
for seed in range(args.seeds):
    for label, changes in ROWS.items():
        path = args.out / f"{label.replace(' ', '-')}-{seed}"
        print(f"training {path}", flush=True)
        how = {"set": settings | changes, "seed": seed, "split_seed": seed, "resume": True}
        runs[label].append(diffacet.train("dmi", args.data, path, **how))

# The same weights as DMI's, asked without their refinement: what the diffusion does in training is still in them.
runs["DMI, unrefined"] = [diffacet.load(run.path, set={"refine_steps": 0}) for run in runs["DMI"]]

(sheet,) = diffacet.compare_runs(runs, metrics=METRICS, base="DMI").sheets
for metric in METRICS:
    tests = {pair.one: pair for pair in sheet.pairs if pair.metric == metric}
    print(f"\n{metric:16}  {'mean ± std':17}  {'minus DMI':9}  95 % interval       p users  p seeds")
    for line in sheet.lines:
        row = f"{line.label:16}  {line.mean(metric, 'test'):.4f} ± {line.deviation(metric, 'test'):.4f}"
        if (pair := tests.get(line.label)) is not None:
            row += f"    {pair.mean:+.4f}   [{pair.low:+.4f}, {pair.high:+.4f}]"
            row += f"   {pair.p_users:.3f}    {pair.p_seeds:.3f}"
        print(row)
print(*("", *sheet.notes), sep="\n")
