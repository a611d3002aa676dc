"""Re-ranking from Python: DMI finds candidates, DiffuMIN puts them into the order of their clicks.

examples/rerank.sh ratings.csv runs/rerank                       # makes both runs
python examples/rerank.py runs/rerank                            # a history that the matching run holds out
python examples/rerank.py runs/rerank --history 50,181,172 --k 5

No hits are counted: the two runs hold out other things (users here, days there), so the one may have learned from what
the other would be tested on. `diffacet evaluate` measures each by itself.
"""

import argparse
from pathlib import Path

import diffacet

ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ask.add_argument("runs", nargs="?", type=Path, default=Path("runs/rerank"), help="what rerank.sh has made")
ask.add_argument("--history", help="item ids with commas, oldest first")
ask.add_argument("--user", help="the user's id, which DiffuMIN may know")
ask.add_argument("--k", type=int, default=10)
ask.add_argument("--among", type=int, default=50, help="candidates that are put in order")
args = ask.parse_args()

matching = diffacet.Recommender.load(args.runs / "matching")
ranking = diffacet.load(args.runs / "ranking")
history = args.history.split(",") if args.history else matching.examples()[0].history[-20:]

found = matching.recommend(history, args.among)
titles = {} if found.titles is None else dict(zip(map(str, found.item_id), found.titles, strict=True))
ranked = ranking.rerank(history, found.item_id.to_list(), found.score.tolist(), user=args.user)

print(f"{len(found)} candidates for a history of {len(history)} items; the first {args.k} in the order of their clicks")
print("place  was  probability  item")
for place, row in enumerate(ranked.head(args.k).iter_rows(named=True), 1):
    words = f"{row['item_id']} {titles.get(row['item_id'], '')}{'' if row['known'] else '  (never shown in training)'}"
    print(f"{place:5}{row['place']:5}{row['probability']:13.3f}  {words.strip()}")
