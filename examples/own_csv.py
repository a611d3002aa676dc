"""A messy CSV of one's own: data directory, training, metrics beside simple models, recommendations.

python examples/own_csv.py                                                    # makes itself a messy log first
python examples/own_csv.py log.csv --user customer --item sku --time ts --separator , --out runs/shop --steps 4000
"""

import argparse
from pathlib import Path

import polars as pl

import diffacet


def messy(path: Path) -> Path:
    """MovieLens-100K as an export may come: other names, semicolons, dates as text, times that are missing, repeats."""
    log = diffacet.read_log([diffacet.example_log()]).frame
    time = pl.from_epoch("timestamp").dt.to_string("%Y-%m-%d %H:%M:%S")
    lost = pl.int_range(pl.len()) % 1000 == 500
    table = log.select(Customer="user_id", SKU="item_id", When=pl.when(lost).then(pl.lit("n/a")).otherwise(time))
    pl.concat([table, table.tail(200)]).write_csv(path, separator=";")
    return path


ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ask.add_argument("log", nargs="?", type=Path, help="a CSV; without one MovieLens-100K is made messy")
for option, usual in {"user": "Customer", "item": "SKU", "time": "When", "separator": ";"}.items():
    ask.add_argument(f"--{option}", default=usual)
ask.add_argument("--out", type=Path, default=Path("runs/own_csv"), help="a new folder for the data and the runs")
ask.add_argument("--steps", type=int, default=1000)
args = ask.parse_args()
if args.out.exists():
    ask.error(f"{args.out} is there; name a new folder by --out")
args.out.mkdir(parents=True)

# 1. Nothing is guessed about a bad row: it is refused with its place, and nothing is written.
log, data = args.log or messy(args.out / "messy.csv"), args.out / "data"
how = {"user": args.user, "item": args.item, "time": args.time, "duplicates": "drop", "min_count": 5}
try:
    done = diffacet.import_log([log], data, **how)
except diffacet.BadLog as error:
    raw = pl.read_csv(log, separator=args.separator, infer_schema=False, null_values=["", "n/a", "NULL"])
    good = raw.drop_nulls([args.user, args.item, args.time])
    good.write_csv(args.out / "clean.csv")
    print(f"refused: {error}\n\nleft out for want of user, item or time: {len(raw) - len(good)} of {len(raw):,} rows")
    done = diffacet.import_log([args.out / "clean.csv"], data, **how)
print(*(f"  {step.what}: {step.interactions:,} rows, {step.users:,} users" for step in done.steps), sep="\n")

# 2. A trained model is worth what it adds to models that cost nothing.
runs = {name: diffacet.train(name, data, args.out / name) for name in ("pop", "item-knn")}
runs["dmi"] = diffacet.train("dmi", data, args.out / "dmi", max_steps=args.steps)
found = {name: run.evaluate("test", (20,))["metrics"] for name, run in runs.items()}
print(f"\n{'model':10}recall@20  ndcg@20   (held-out users, best first)")
for name, of in sorted(found.items(), key=lambda pair: -pair[1]["recall@20"]):
    print(f"{name:10}{of['recall@20']:9.4f}{of['ndcg@20']:9.4f}")

# 3. Any history of your own ids, also of somebody who was never seen.
history = runs["dmi"].recommender().examples()[0].history
print(f"\nafter {', '.join(map(str, history[-5:]))}:", *runs["dmi"].recommender().recommend(history, k=10).item_id)
