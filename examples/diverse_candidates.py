"""Candidates with diversity: what it does to the categories of a list and to its hits; then lists for all users.

python examples/diverse_candidates.py                                              # MovieLens-100K, under a minute
python examples/diverse_candidates.py --data data/shop --run runs/shop --keep 0.5 --out shop.parquet
"""

import argparse
from pathlib import Path
from statistics import fmean

import polars as pl

import diffacet

ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ask.add_argument("--data", type=Path, default=Path("runs/examples/ml-100k"), help="a data directory with categories")
ask.add_argument("--run", type=Path, default=Path("runs/examples/dmi"), help="a run on it; trained if there is none")
ask.add_argument("--k", type=int, default=20)
ask.add_argument("--keep", type=float, default=0.5, help="the diversity of the lists that are written")
ask.add_argument("--out", type=Path, default=Path("runs/examples/diverse.parquet"), help="a new file for all users")
args = ask.parse_args()
if not args.data.exists():
    diffacet.import_log([diffacet.example_log()], args.data)
if not args.run.exists():
    diffacet.train("dmi", args.data, args.run, max_steps=1000, set={"length": 10, "interests": 2})

# 1. Users whom training never saw: their history, and what they met next. Lists leave out what they have seen.
run = diffacet.load(args.run)
recommender, cases = run.recommender(), run.holdout("test", args.data)
ids = recommender.retriever.items.ids
histories = [ids(cases.history.row(case)).to_list() for case in range(len(cases))]
following = [set(ids(cases.target.row(case))) for case in range(len(cases))]

# 2. Each pick pays `diversity`, in units of the score, for every item of its category that is in the list already.
print(f"diversity   categories among {args.k}   share of the largest   recall@{args.k}")
for diversity in (0.0, 0.1, 0.25, 0.5, 1.0, 2.0):
    lists = recommender.recommend_many(histories, args.k, diversity=diversity)
    kinds = fmean(one.category.n_unique() for one in lists)
    largest = fmean(one.category.value_counts()["count"].max() / len(one) for one in lists)
    recall = fmean(len(next_ & set(one.item_id)) / len(next_) for one, next_ in zip(lists, following, strict=True))
    print(f"{diversity:9.2f}{kinds:15.1f}{largest:25.2f}{recall:18.4f}")

# 3. Every user of the log, in blocks; a killed job goes on with resume=True.
told = diffacet.write_candidates(args.run, args.data, args.out, args.k, diversity=args.keep)
print(f"\n{told['out']}: {told['rows']:,} candidates of {told['users']:,} users")
print(pl.read_parquet(args.out, n_rows=5))
