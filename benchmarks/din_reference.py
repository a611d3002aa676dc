"""DIN on real data against a plain loop over samples and behaviours, on the same weights, and AUC against scikit-learn.

    python benchmarks/din_reference.py CLICKS RUN [--on test] [--out FILE]

CLICKS is a click data folder, RUN a run of `din` trained on it. The loop knows no windows and no batches: it filters a
user's behaviours by time for each sample, weighs each by the attention network written out, and walks the head layer by
layer, in float64 NumPy. Nothing of the library but the vocabularies and the weights is used by it.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

HERE = Path(__file__).parent
Array = np.ndarray[Any, np.dtype[np.float64]]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def standardised(weights: dict[str, Array], name: str, x: Array, epsilon: float) -> Array:
    return (x - weights[f"{name}.running_mean"]) / np.sqrt(weights[f"{name}.running_var"] + epsilon)


def dice(weights: dict[str, Array], name: str, x: Array) -> Array:
    p = sigmoid(standardised(weights, f"{name}.norm", x, 1e-9))
    return p * x + weights[f"{name}.alpha"] * (1 - p) * x


def layer(weights: dict[str, Array], name: str, x: Array) -> Array:
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def weight_of(weights: dict[str, Array], target: Array, behaviour: Array) -> float:
    """The attention network: layers of Dice over [target, behaviour, difference, product]."""
    x = np.concatenate([target, behaviour, target - behaviour, target * behaviour])
    x = dice(weights, "interest.unit.rest.0", layer(weights, "interest.unit.first", x))
    x = dice(weights, "interest.unit.rest.2", layer(weights, "interest.unit.rest.1", x))
    return float(layer(weights, "interest.unit.rest.3", x)[0])


def head(weights: dict[str, Array], x: Array, layers: int) -> float:
    """Linear, BatchNorm, Dice, as often as there are hidden layers; then one unit."""
    for n in range(layers):
        x = layer(weights, f"head.layers.{3 * n}", x)
        name = f"head.layers.{3 * n + 1}"
        x = standardised(weights, name, x, 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]
        x = dice(weights, f"head.layers.{3 * n + 2}", x)
    return float(layer(weights, f"head.layers.{3 * layers}", x)[0])


def numbered(frame: pl.DataFrame, column: str, vocabulary: Any) -> np.ndarray[Any, Any]:
    return np.asarray(vocabulary.numbers(frame[column]))


def looped(raw: Any, run: Any, rows: Any) -> list[float]:
    """The log odds of the samples `rows`, one after another."""
    weights = {name: value.double().numpy() for name, value in run.model.state_dict().items()}
    schema, words, length = run.schema, run.vocabularies, run.settings.training.length
    items = raw.items
    sides = {"behaviour": raw.behaviours.with_row_index("at"), "target": raw.samples}
    found: dict[str, list[Any]] = {"behaviour": [], "target": []}
    for side, frame in sides.items():
        for field in schema.behaviour_fields:
            column = getattr(field, side)
            if column is None:
                found[side].append(np.full(len(frame), 2))
            elif column.startswith("items."):
                name = column.removeprefix("items.")
                joined = frame.join(items.select("item_id", name), on="item_id", how="left", maintain_order="left")
                found[side].append(numbered(joined, name, words[field.name]))
            else:
                found[side].append(numbered(frame, column, words[field.name]))
    sizes = [words[field.name].size for field in schema.behaviour_fields]
    sizes += [words[name].size for name in schema.other_names]
    begins = np.cumsum([0, *sizes])
    table = weights["fields.table.weight"]
    of_user: dict[Any, list[int]] = {}
    for at, user in enumerate(raw.behaviours["user_id"]):
        of_user.setdefault(user, []).append(at)
    times = raw.behaviours["timestamp"].to_list()
    users, moments = raw.samples["user_id"].to_list(), raw.samples["timestamp"].to_list()
    others = [numbered(raw.samples, name, words[name]) for name in schema.other_names]
    layers = len(run.settings.model.hidden)
    answers = []
    for s in rows.tolist():
        target = np.concatenate([table[begins[f] + ids[s]] for f, ids in enumerate(found["target"])])
        earlier = sorted((times[at], at) for at in of_user.get(users[s], ()) if times[at] < moments[s])
        interest = np.zeros_like(target)
        for _, at in earlier[-length:]:
            behaviour = np.concatenate([table[begins[f] + ids[at]] for f, ids in enumerate(found["behaviour"])])
            interest += weight_of(weights, target, behaviour) * behaviour
        more = [table[begins[len(found["target"]) + g] + ids[s]] for g, ids in enumerate(others)]
        answers.append(head(weights, np.concatenate([interest, target, *more]), layers))
    return answers


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clicks", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--on", default="test", choices=("valid", "test"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "din-reference.json")
    asked = parser.parse_args()
    import torch
    from sklearn.metrics import roc_auc_score

    from diffacet.app import runs
    from diffacet.app.environment import environment
    from diffacet.data import clicks
    from diffacet.rank.click_evaluate import evaluate_clicks

    torch.set_num_threads(1)
    run: Any = runs.load(asked.run, device="cpu")
    packed = run.packed(asked.clicks)
    rows = getattr(packed.split, asked.on)
    run.model.double()
    ours = evaluate_clicks(run.model, packed.log, rows, length=run.settings.training.length)
    begun = time.perf_counter()
    theirs = np.array(looped(clicks.read(asked.clicks), run, rows))
    labels = packed.log.label[rows]
    record = {
        "command": f"python benchmarks/din_reference.py {asked.clicks.name} RUN --on {asked.on}",
        "commit": environment(torch.device("cpu"))["commit"],
        "data": packed.fingerprint,
        "samples": len(rows),
        "seconds of the loop": round(time.perf_counter() - begun, 1),
        "auc, library": ours.measure()["auc"],
        "auc, scikit-learn on the library's scores": float(roc_auc_score(labels, ours.logits)),
        "auc, loop": float(roc_auc_score(labels, theirs)),
        "largest difference of log odds": float(np.abs(theirs - ours.logits).max()),
    }
    record["difference of auc"] = abs(record["auc, loop"] - record["auc, library"])
    asked.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
