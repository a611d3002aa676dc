"""RecBole 1.2.1's DiffRec on MovieLens 100K: seconds per epoch, evaluation users per second, quality; as JSON.

Runs inside the environment that `peer.sh` makes, and imports nothing of diffacet. The log is RecBole's
own example; the split is its leave-one-out in the order of time: a user's last interaction is for the test, the one
before for validation. `--split DIR` writes the three parts as CSV, so that others train on the same rows.
"""

import argparse
import csv
import json
import os
import sys
from functools import partial
from pathlib import Path
from statistics import median_high
from typing import Any

import measuring

PACKAGES = ("recbole", "torch", "numpy", "scipy", "pandas", "setuptools", "ray")
COLUMNS = ("user_id", "item_id", "timestamp")
STATED = (
    "noise_schedule",
    "noise_scale",
    "noise_min",
    "noise_max",
    "sampling_noise",
    "sampling_steps",
    "reweight",
    "mean_type",
    "steps",
    "history_num_per_term",
    "beta_fixed",
    "dims_dnn",
    "embedding_size",
    "mlp_act_func",
    "time-aware",
    "w_max",
    "w_min",
    "learner",
    "learning_rate",
    "weight_decay",
    "train_batch_size",
    "eval_batch_size",
    "eval_args",
    "metrics",
    "topk",
    "seed",
)


def numpy_names() -> None:
    """Give NumPy 2 the names that RecBole 1.2.1 asks for."""
    import numpy as np

    for old, new in {"float_": "float64", "complex_": "complex128", "unicode_": "str_"}.items():
        if not hasattr(np, old):
            setattr(np, old, getattr(np, new))


def prepared(arguments: argparse.Namespace) -> tuple[Any, Any, Any, Any]:
    """RecBole's config, and its three loaders: train, valid, test."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import init_seed

    asked = {
        "load_col": {"inter": list(COLUMNS)},
        "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
        "metrics": ["Recall", "NDCG"],
        "topk": [10, 20],
        "valid_metric": "NDCG@10",
        "metric_decimal_place": 6,
        "epochs": arguments.epochs,
        "seed": arguments.seed,
        "use_gpu": False,
        "show_progress": False,
        "checkpoint_dir": str(arguments.work),
    }
    asked |= {key: json.loads(value) for key, _, value in (pair.partition("=") for pair in arguments.set)}
    sys.argv = sys.argv[:1]  # Config reads the command line as well
    config = Config(model="DiffRec", dataset="ml-100k", config_dict=asked)
    init_seed(config["seed"], config["reproducibility"])
    return config, *data_preparation(config, create_dataset(config))


def export(loaders: dict[str, Any], config: Any, place: Path) -> None:
    """The parts as DIR/train.csv, valid.csv and test.csv, by user and time, with the log's own ids and times.

    The times are read from the log again, because RecBole keeps them as float32 shares of their range. It sorts by
    these, so that times a second apart may be ties to it; ties stay in the order of the log.
    """
    with (Path(config["data_path"]) / "ml-100k.inter").open() as file:
        times = {(row[0], row[1]): int(row[3]) for row in list(csv.reader(file, delimiter="\t"))[1:]}
    place.mkdir(parents=True, exist_ok=True)
    for part, loader in loaders.items():
        dataset = loader.dataset
        users = dataset.id2token("user_id", dataset.inter_feat["user_id"].numpy())
        items = dataset.id2token("item_id", dataset.inter_feat["item_id"].numpy())
        rows = [(user, item, times[user, item]) for user, item in zip(users, items, strict=True)]
        with (place / f"{part}.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(sorted(rows, key=lambda row: (int(row[0]), row[2])))


def shown_and_masked(model: Any, loaders: dict[str, Any]) -> dict[str, Any]:
    """What the model is shown and what is masked when it is evaluated, found in RecBole's own arrays."""
    items: dict[str, dict[int, set[int]]] = {part: {} for part in loaders}
    for part, loader in loaders.items():
        frame = loader.dataset.inter_feat
        for user, item in zip(frame["user_id"].tolist(), frame["item_id"].tolist(), strict=True):
            items[part].setdefault(user, set()).add(item)
    shown = {u: set(row) - {0} for u, row in enumerate(model.history_item_id.tolist()) if u}
    found: dict[str, Any] = {"input": "train" if shown == items["train"] else "not train alone"}
    for part, before in (("valid", ("train",)), ("test", ("train", "valid"))):
        masked = {u: set(loaders[part].uid2history_item[u].tolist()) for u in items[part]}
        wanted = {u: set().union(*(items[p].get(u, set()) for p in before)) for u in items[part]}
        found[f"masked_{part}"] = "+".join(before) if masked == wanted else "something else"
    return found


def timed_training(trainer: Any, train: Any) -> tuple[list[float], list[float]]:
    """Train for all epochs, with neither validation nor checkpoint; seconds of each epoch's own work by both clocks."""
    wall: list[float] = []
    cpu: list[float] = []
    epoch = trainer._train_epoch

    def timed(*arguments: Any, **named: Any) -> Any:
        before = measuring.clocks()
        loss = epoch(*arguments, **named)
        after = measuring.clocks()
        wall.append(after[0] - before[0])
        cpu.append(after[1] - before[1])
        return loss

    trainer._train_epoch = timed
    trainer.fit(train, saved=False, verbose=False)
    return wall, cpu


def timed_evaluation(trainer: Any, config: Any, test: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Users per second of RecBole's evaluation for several numbers of users at a time, measured in turn."""
    from recbole.data.dataloader import FullSortEvalDataLoader

    users = len(test.uid_list)
    loaders = {}
    for size in [0, *arguments.eval_users]:  # 0: RecBole's default, 4,096 scores at a time
        if size:
            config["eval_batch_size"] = size * test.dataset.item_num
        loaders[size] = FullSortEvalDataLoader(config, test.dataset, test._sampler, shuffle=False)
    ways = {size: partial(trainer.evaluate, loader, load_best_model=False) for size, loader in loaders.items()}
    found = measuring.speeds(ways, users, arguments.rounds)
    best = max(found, key=lambda size: found[size].median)
    default = loaders[0].step
    return {
        "users": users,
        "eval_users_per_second": found[best].median,
        "eval_users_per_cpu_second": max(speed.cpu for speed in found.values()),
        "eval_users_at_a_time": best or default,
        "eval_users_per_second_by_size": {str(n or f"{default} (default)"): found[n].median for n in found},
        "eval_users_per_second_fastest_round": max(speed.fastest for speed in found.values()),
    }


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that is written."""
    import torch

    torch.set_num_threads(arguments.threads)
    numpy_names()
    from recbole.utils import get_model, get_trainer

    config, train, valid, test = prepared(arguments)
    loaders = {"train": train, "valid": valid, "test": test}
    stated = {key: config[key] for key in STATED}
    if arguments.split:
        export(loaders, config, arguments.split)
    model = get_model(config["model"])(config, train.dataset).to(config["device"])
    protocol = shown_and_masked(model, loaders)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    seconds, cpu = timed_training(trainer, train)
    quality = {}
    if not arguments.measure_only:
        # Without a reload: torch.load refuses RecBole's pickled checkpoint, and the last epoch is what is wanted.
        for part, loader in (("valid", valid), ("test", test)):
            quality[part] = {k: float(v) for k, v in trainer.evaluate(loader, load_best_model=False).items()}
    return {
        "who": "recbole",
        "settings": stated,
        "changed": arguments.set,
        "data": {part: len(loader.dataset.inter_feat) for part, loader in loaders.items()}
        | {"users": train.dataset.user_num - 1, "items": train.dataset.item_num - 1},
        "protocol": protocol,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps_per_epoch": len(train),
        **measuring.epochs_told(arguments.epochs, seconds, cpu, median_high),
        **timed_evaluation(trainer, config, test, arguments),
        "metrics": quality,
        **measuring.machine_told(arguments, PACKAGES),
    }


def main() -> None:
    """Read the command line, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", type=Path, help="folder that gets train.csv, valid.csv and test.csv")
    parser.add_argument("--eval-users", type=int, nargs="*", default=[16, 64, 128, 256, 512, 943])
    parser.add_argument("--measure-only", action="store_true", help="speed alone, no quality")
    arguments = measuring.asked(parser, epochs=100, seed=2020, least=1)
    arguments.out, arguments.split = (path and path.resolve() for path in (arguments.out, arguments.split))
    arguments.work = arguments.out.parent / "recbole-work"
    arguments.work.mkdir(parents=True, exist_ok=True)
    os.chdir(arguments.work)  # RecBole writes its TensorBoard files below the current folder
    measuring.written(arguments, measured(arguments), "eval_users_per_second")


if __name__ == "__main__":
    main()
