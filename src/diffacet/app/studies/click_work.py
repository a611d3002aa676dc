"""The numbers of a click run in a study, and the predictions that they are of."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from diffacet.app import runs
from diffacet.app.clicks.evaluation import PARTS, Answers, Asked, answers
from diffacet.app.clicks.run import ClickRun
from diffacet.arrays import distinct
from diffacet.errors import BadRun
from diffacet.rank import click_tests

KINDS = ("history", "item", "user")
"""By what the samples are told apart whose AUCs are kept."""
RESAMPLES = 1000


def about(run: ClickRun) -> dict[str, Any]:
    """What result.json holds of a click run beside what it holds of all: split, samples and notes of its data."""
    split = run.about["split"]
    return {
        "borders": split["borders"],
        "timezone": run.schema.timezone,
        "samples": split["samples"],
        "notes": run.about.get("notes", []),
    }


def measure(
    run: ClickRun,
    what: Mapping[str, Any],
    *,
    on: Sequence[str] = PARTS,
    data: Path | None = None,
    device: str = "auto",
) -> tuple[list[dict[str, Any]], pl.DataFrame, pl.DataFrame]:
    """The numbers of each ask on validation and test samples, the predictions, and AUCs under other users.

    Numbers: samples, clicks, users, samples_per_second, metrics (see `rank.clicks.measure`; those that are defined),
    auc_interval (DeLong's; None where it is not defined) and slices (by, name, samples, clicks, auc).
    Predictions: ask int16, on, row int64 (of the sample in its data), user int64, label uint8, logit float32.
    AUCs: ask, on, draw int16, auc float64 (see `click_tests.resampled`): draw n has the same users in all runs that
    were measured on the same samples, so differences of runs can be told from these alone.

    Args:
        run: a trained model.
        what: see `work.wanted`.
        on: the held-out parts, of "valid" and "test".
        data: the data directory, where it has moved.
        device: where it is asked.

    Raises:
        BadRun: the data are gone or are others, or an answer is not finite.
    """
    told, frames, drawn = [], [], []
    for number, ask in enumerate(what["asks"]):
        model = run
        if ask["settings"]:
            changed = runs.load(run.path, set=ask["settings"], device=device)
            if not isinstance(changed, ClickRun):
                raise BadRun(f"{run.path} is no run of a model of clicks any more; train it again")
            model = changed
        numbers: dict[str, Any] = {"suffix": ask["suffix"], "on": {}}
        for part in on:
            found = answers(model, Asked(part, data=data))
            numbers["on"][part] = _numbers(found)
            frames.append(_placed(_predictions(found), number, part))
            drawn.append(_placed(_draws(found), number, part))
        told.append(numbers)
    return told, pl.concat(frames), pl.concat(drawn)


def _predictions(found: Answers) -> pl.DataFrame:
    answered = found.predicted
    users, rows = found.log.user[found.rows], found.rows.astype(np.int64)
    return pl.DataFrame({"row": rows, "user": users, "label": answered.labels, "logit": answered.logits})


def _draws(found: Answers) -> pl.DataFrame:
    answered, users = found.predicted, found.log.user[found.rows]
    aucs = click_tests.resampled(answered.labels, [answered.logits], users, RESAMPLES)[:, 0]
    return pl.DataFrame({"draw": np.arange(RESAMPLES, dtype=np.int16), "auc": aucs})


def _placed(frame: pl.DataFrame, ask: int, on: str) -> pl.DataFrame:
    """The frame behind columns that say of which ask and held-out part it is."""
    return frame.select(pl.lit(ask, pl.Int16).alias("ask"), pl.lit(on).cast(pl.Categorical).alias("on"), pl.all())


def _numbers(found: Answers) -> dict[str, Any]:
    log, rows, predicted = found.log, found.rows, found.predicted
    _, low, high = click_tests.delong_interval(predicted.labels, predicted.logits)
    slices = [asdict(one) for one in predicted.slices(log, rows) if one.by in KINDS]
    return {
        "samples": len(rows),
        "clicks": int(np.count_nonzero(predicted.labels)),
        "users": len(distinct(log.user[rows])),
        "samples_per_second": len(rows) / max(found.seconds, 1e-9),
        "metrics": {key: value for key, value in predicted.measure(log.group[rows]).items() if value == value},
        "auc_interval": [low, high] if low == low else None,
        "slices": [one | {"auc": one["auc"] if one["auc"] == one["auc"] else None} for one in slices],
    }
