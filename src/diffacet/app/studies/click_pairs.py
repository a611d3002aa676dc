"""Rows of click models compared in pairs: on the same samples by DeLong's test, over users, and over seeds.

Seeds that both rows have count. DeLong's test, which needs one pair of models, is of the first of them; the difference,
its interval, RelaImpr and Welch's test are of all.
"""

import statistics
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from diffacet.app.studies.results import Line, Pair, Trial
from diffacet.app.studies.statistics import FloatArray, holm
from diffacet.errors import BadSetting
from diffacet.rank import click_tests, clicks

AUC = "auc"
Both = list[tuple[Trial, Trial]]


def compare(pairs: Sequence[tuple[Line, Line]], metrics: Sequence[str], on: str) -> list[Pair]:
    """Each first line against the second by AUC, over the seeds that both have; left out without a common one.

    Of a `Pair`: mean is the difference of the mean AUCs, relative RelaImpr as a share (NaN where the second's mean is
    not above one half), low and high the bootstrap over users, p_users DeLong's p, p_seeds that of Welch's test, NaN
    below two seeds. Both p are corrected by Holm over the pairs.
    """
    if AUC not in metrics:
        return []
    found = [_pair(one, other, both, on) for one, other in pairs if (both := _both(one, other, on))]
    over_samples, over_seeds = holm([pair.p_users for pair in found]), holm([pair.p_seeds for pair in found])
    return [replace(pair, p_users=a, p_seeds=b) for pair, a, b in zip(found, over_samples, over_seeds, strict=True)]


def _pair(one: Line, other: Line, both: Both, on: str) -> Pair:
    """A pair with p that are not corrected yet."""
    first, second = (predictions(trial, on) for trial in both[0])
    ours, theirs = ([trial.value(AUC, on) for trial in side] for side in zip(*both, strict=True))
    logits = (frame["logit"].to_numpy() for frame in (first, second))
    low, high = _interval(both, on)
    return Pair(
        one.label,
        other.label,
        AUC,
        statistics.fmean(ours) - statistics.fmean(theirs),
        relative(statistics.fmean(ours), statistics.fmean(theirs)),
        low,
        high,
        click_tests.delong(first["label"].to_numpy(), *logits).p,
        click_tests.welch(ours, theirs),
        len(both),
        first["user"].n_unique(),
    )


def relative(value: float, base: float) -> float:
    """RelaImpr as a share; NaN where the base's AUC is not above one half."""
    try:
        return clicks.relative_improvement(value, base) / 100
    except BadSetting:
        return float("nan")


def predictions(trial: Trial, on: str) -> pl.DataFrame:
    """row, user, label and logit of a trial's samples, in the order of its data."""
    return trial.users.filter((pl.col("ask") == trial.ask) & (pl.col("on") == on))


def _both(one: Line, other: Line, on: str) -> Both:
    """The runs of both that have a seed, a split and their samples in common, and an AUC."""
    theirs = {trial.key: trial for trial in other.trials}
    both: Both = []
    for trial in one.trials:
        match = theirs.get(trial.key)
        if match is None or match.told["data"]["fingerprint"] != trial.told["data"]["fingerprint"]:
            continue
        defined = all(each.value(AUC, on) == each.value(AUC, on) for each in (trial, match))
        if defined and predictions(trial, on)["row"].equals(predictions(match, on)["row"]):
            both.append((trial, match))
    return both


def _interval(both: Both, on: str) -> tuple[float, float]:
    """Ends of the 95 % interval of the mean difference when users are drawn anew, the same ones for all runs."""
    gains = [_draws(trial, on) - _draws(match, on) for trial, match in both]
    gain: FloatArray = np.mean(gains, axis=0)
    gain = gain[~np.isnan(gain)]
    if len(gain) < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(gain, [0.025, 0.975]).tolist()
    return low, high


def _draws(trial: Trial, on: str) -> FloatArray:
    if trial.draws is None:
        return np.full(1, np.nan)
    return trial.draws.filter((pl.col("ask") == trial.ask) & (pl.col("on") == on))["auc"].to_numpy()
