"""Our SASRec on MovieLens 100K beside `peer.sh rectools_sasrec`: the same figures under the same names, as JSON.

    python benchmarks/peers/ours_sasrec.py --data ../shared/data/ml-100k --split build/peers/leave-last --out ours.json

`--split DIR` writes the three parts of the split as CSV, so that others train on the same rows.
"""

import argparse
import csv
import io
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import measuring
import ours
import rectools_sasrec as peer

TRAINING = (
    "lr",
    "batch_size",
    "length",
    "negatives",
    "targets",
    "sampling",
    "weighting",
    "optimizer",
    "max_epochs",
    "seed",
)


def rows_of(part: Any, log: Any) -> tuple[list[Any], list[Any], list[int]]:
    """Users, items (own ids) and times of sequences, row by row, oldest first."""
    import numpy as np

    users = log.users.ids(np.repeat(part.users, part.lengths()))
    return users.to_list(), log.items.ids(part.items).to_list(), part.times.tolist()


def parts_of(data: Path) -> dict[str, tuple[list[Any], list[Any], list[int]]]:
    """The rows of the parts of `leave_last`: a user's last one, the one before, and the rest."""
    from diffacet.data import store
    from diffacet.data.splits import leave_last

    log = store.open(data).log
    cut = leave_last(log)
    parts = {"train": cut.train, "valid": cut.valid.target, "test": cut.test.target}
    return {name: rows_of(part, log) for name, part in parts.items()}


def as_text(rows: tuple[list[Any], list[Any], list[int]]) -> str:
    """The CSV of a part's rows."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("user_id", "item_id", "timestamp"))
    writer.writerows(zip(*rows, strict=True))
    return text.getvalue()


def ranked(run: Any, holdout: Any) -> list[list[Any]]:
    """The lists of all users of the split, as own ids, without what they have seen.

    Histories come as item numbers, as RecTools' data set holds them; ids are given back at the end, as there.
    """
    import numpy as np
    import torch

    from diffacet.rank import evaluate, ranking

    numbers = []
    with torch.inference_mode():
        catalogue = run.model.catalogue()
        for begin in range(0, len(holdout), evaluate.BATCH):
            rows = np.arange(begin, min(begin + evaluate.BATCH, len(holdout)))
            history = evaluate.histories(holdout, rows, run.settings.training.length)
            longest = int(holdout.history.lengths()[rows].max())
            seen = torch.from_numpy(holdout.history.last(rows, longest))
            found = ranking.rank(run.model, history, peer.LISTED, catalogue=catalogue, exclude=seen)
            numbers.append(found.items.numpy())
    items = np.concatenate(numbers)
    return run.catalogue["item_id"].gather(items.ravel() - 1).to_numpy().reshape(items.shape).tolist()


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that is written."""
    parts = parts_of(arguments.data)
    texts = {name: as_text(rows) for name, rows in parts.items()}
    if arguments.split:
        arguments.split.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (arguments.split / f"{name}.csv").write_text(text)
    with tempfile.TemporaryDirectory() as folder:
        run, ends, steps = ours.trained("sasrec", arguments, Path(folder) / "run", split="leave-last")
        recommender = run.recommender()
    # A user's history as its own ids, oldest first, in hand before the clock runs, as RecTools' data set is.
    histories: dict[Any, list[Any]] = {}
    for name in ("train", "valid"):
        for user, item, _ in zip(*parts[name], strict=True):
            histories.setdefault(user, []).append(item)
    targets = dict(zip(parts["test"][0], parts["test"][1], strict=True))
    asked = [histories[user] for user in targets]

    holdout = run.holdout("test")
    ways = {
        "histories as numbers, diffacet.rank": lambda: ranked(run, holdout),
        "histories as ids, Recommender.recommend_many": lambda: recommender.recommend_many(asked, peer.LISTED),
    }
    lists = dict(zip(targets, ranked(run, holdout), strict=True))
    return {
        **ours.told(run, arguments, TRAINING),
        "data": peer.split_told(texts) | {"users": len(asked)},
        "items": len(run.catalogue),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "steps_per_epoch": steps,
        **measuring.epochs_told(arguments.epochs, *measuring.lapses(ends), fmean),
        **peer.recommending_told(ways, len(asked), arguments.rounds),
        "metrics": peer.quality(lists, targets),
        **measuring.machine_told(arguments, ours.PACKAGES),
    }


def main() -> None:
    """Read the command line, measure, write."""
    parser = ours.asked(__doc__)
    parser.add_argument("--split", type=Path, help="folder that gets train.csv, valid.csv and test.csv")
    arguments = measuring.asked(parser, epochs=20, seed=1)
    measuring.written(arguments, measured(arguments), "users_per_second")


if __name__ == "__main__":
    main()
