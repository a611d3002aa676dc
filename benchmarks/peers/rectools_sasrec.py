"""RecTools 0.19's SASRec on MovieLens 100K: seconds per epoch, recommended users per second, quality; as JSON.

Runs inside the environment that `peer.sh` makes, and imports nothing of diffacet. It reads the split that
`ours_sasrec.py` writes: a user's last interaction is the test's, the one before the validation's. The model is fitted
to the training part and shown the training and the validation part when it recommends; what it is shown is left out
of its lists. RecTools keeps the last `session_max_len` + 1 training rows of a user, and no item that is in none of
these. Quality and what is said of the split are found here for both sides.
"""

import argparse
import hashlib
import json
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import measuring
from measuring import Clocks

PACKAGES = ("rectools", "pytorch-lightning", "torch", "numpy", "scipy", "pandas")
PARTS = ("train", "valid", "test")
LISTED = 10
CHOSEN = {"n_factors": 64, "session_max_len": 50}
"""What differs from RecTools' defaults, which are 256 and 100."""
STATED = (
    "n_blocks",
    "n_heads",
    "n_factors",
    "dropout_rate",
    "session_max_len",
    "train_min_user_interactions",
    "loss",
    "lr",
    "batch_size",
    "use_pos_emb",
    "use_causal_attn",
    "use_key_padding_mask",
)


def recommending_told(ways: Mapping[str, Callable[[], Any]], users: int, rounds: int) -> dict[str, Any]:
    """Users per second of several ways to recommend to all users; the best way counts."""
    found = measuring.speeds(ways, users, rounds)
    return {
        "users": users,
        "users_per_second": max(speed.median for speed in found.values()),
        "users_per_cpu_second": max(speed.cpu for speed in found.values()),
        "users_per_second_by_way": {way: speed.median for way, speed in found.items()},
        "users_per_second_fastest_round": max(speed.fastest for speed in found.values()),
    }


def quality(lists: Mapping[Hashable, Sequence[Hashable]], targets: Mapping[Hashable, Hashable]) -> dict[str, float]:
    """HR and NDCG at 10 over all users with a target: 1 / log2(1 + rank) of it, the ideal list having it first."""
    ranks = [list(lists[user])[:LISTED].index(item) + 1 for user, item in targets.items() if item in lists[user]]
    return {
        f"ndcg@{LISTED}": sum(1 / math.log2(1 + rank) for rank in ranks) / len(targets),
        f"hit_rate@{LISTED}": len(ranks) / len(targets),
    }


def split_told(texts: Mapping[str, str]) -> dict[str, Any]:
    """Rows of each part (its CSV with one line of names), and a fingerprint of all three."""
    rows = {part: len(texts[part].splitlines()) - 1 for part in PARTS}
    return rows | {"fingerprint": hashlib.sha256("".join(texts[part] for part in PARTS).encode()).hexdigest()[:16]}


def fitted(arguments: argparse.Namespace, dataset: Any) -> tuple[Any, list[Clocks]]:
    """The model after its last epoch, and when each epoch ended."""
    import pytorch_lightning
    from rectools.models import SASRecModel

    ends: list[Clocks] = []

    class Ends(pytorch_lightning.Callback):
        """Keeps no state of its own, because RecTools copies its trainer before it trains."""

        def on_train_epoch_end(self, *_: Any) -> None:
            ends.append(measuring.clocks())

    def trainer() -> Any:
        """RecTools' default one, on the CPU, which tells when an epoch ends."""
        return pytorch_lightning.Trainer(
            max_epochs=arguments.epochs,
            min_epochs=arguments.epochs,
            deterministic=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
            enable_checkpointing=False,
            devices=1,
            accelerator="cpu",
            callbacks=[Ends()],
        )

    changes = {key: json.loads(value) for key, _, value in (pair.partition("=") for pair in arguments.set)}
    pytorch_lightning.seed_everything(arguments.seed)
    model = SASRecModel(get_trainer_func=trainer, recommend_torch_device="cpu", **(CHOSEN | changes))
    model.fit(dataset)
    return model, ends


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that is written."""
    import pandas
    import torch
    from rectools.dataset import Dataset

    torch.set_num_threads(arguments.threads)
    parts = {part: pandas.read_csv(arguments.split / f"{part}.csv") for part in PARTS}

    def dataset(*names: str) -> Any:
        # Times are seconds with ties; RecTools sorts by them and leaves tied rows in their order.
        rows = pandas.concat([parts[name] for name in names])
        times = pandas.to_datetime(rows["timestamp"], unit="s")
        return Dataset.construct(rows[["user_id", "item_id"]].assign(weight=1.0, datetime=times))

    train, shown = dataset("train"), dataset("train", "valid")
    model, ends = fitted(arguments, train)
    targets = dict(zip(parts["test"]["user_id"], parts["test"]["item_id"], strict=True))
    users = parts["test"]["user_id"].to_numpy()

    def recommended(at_a_time: int) -> Any:
        model.recommend_batch_size = at_a_time
        return model.recommend(users, shown, k=LISTED, filter_viewed=True)

    default = model.recommend_batch_size
    frame = recommended(default).sort_values(["user_id", "rank"])
    lists = frame.groupby("user_id")["item_id"].agg(list).to_dict()
    sizes = {f"{default} users at a time (default)": default}
    sizes |= {f"{size} users at a time": size for size in arguments.recommend_users}
    ways = {name: lambda size=size: recommended(size) for name, size in sizes.items()}
    texts = {part: (arguments.split / f"{part}.csv").read_text() for part in PARTS}
    return {
        "who": "rectools",
        "settings": {name: getattr(model, name) for name in STATED},
        "changed": arguments.set,
        "data": split_told(texts) | {"users": len(users)},
        "items": len(model.data_preparator.get_known_item_ids()),
        "parameters": sum(p.numel() for p in model.torch_model.parameters()),
        "steps_per_epoch": len(model.data_preparator.get_dataloader_train()),
        **measuring.epochs_told(arguments.epochs, *measuring.lapses(ends), fmean),
        **recommending_told(ways, len(users), arguments.rounds),
        "metrics": quality(lists, targets),
        **measuring.machine_told(arguments, PACKAGES),
    }


def main() -> None:
    """Read the command line, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", type=Path, required=True, help="folder with train.csv, valid.csv and test.csv")
    parser.add_argument("--recommend-users", type=int, nargs="*", default=[64, 943], help="users at a time, to try")
    arguments = measuring.asked(parser, epochs=20, seed=1)
    measuring.written(arguments, measured(arguments), "users_per_second")


if __name__ == "__main__":
    main()
