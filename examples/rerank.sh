#!/bin/sh
# From a raw log of ratings to candidates in the order in which their user would click them.
#
#   examples/rerank.sh ratings.csv runs/rerank                 # columns user_id, item_id, timestamp, rating
#   MATCHING='--max-steps 300' RANKING='--set lr=0.003' examples/rerank.sh ratings.csv runs/rerank
#   HISTORY=50,181,172 examples/rerank.sh ratings.csv runs/rerank
#   python examples/rerank.py runs/rerank                      # the last step from Python
#
# DMI finds candidates in the whole catalogue; DiffuMIN says how likely each is a click. Each step can be killed: run the
# script again, and what is finished stays while the rest goes on.
set -eu
log=$1 out=$2 at_least=${AT_LEAST:-4}

# 1. What users liked, for the model that finds candidates; everything they rated, with its answer, for the one that ranks.
[ -d "$out/log" ] || diffacet import "$log" --min-rating "$at_least" --k-core 5 --out "$out/log"
[ -d "$out/clicks" ] || diffacet import-clicks "$log" --from-ratings "$at_least" --out "$out/clicks"

# 2. Two models. MATCHING and RANKING may hold more options of 'diffacet train'.
diffacet train dmi --data "$out/log" --out "$out/matching" --resume ${MATCHING:-}
diffacet train diffumin --data "$out/clicks" --out "$out/ranking" --resume ${RANKING:-}

# 3. How good each of them is on what it has not seen.
diffacet evaluate "$out/matching"
diffacet evaluate "$out/ranking"

# 4. A user's history, oldest first, to 10 items: found by the first model, put in order by the second.
# Without HISTORY it is one that the matching run holds out; runs carry a few to look at, wherever their data are.
history=${HISTORY:-$(python3 -c 'import sys, diffacet
print(*diffacet.Recommender.load(sys.argv[1]).examples()[0].history[-10:], sep=",")' "$out/matching")}
diffacet recommend "$out/matching" --history "$history" --k 10 --rerank "$out/ranking"
