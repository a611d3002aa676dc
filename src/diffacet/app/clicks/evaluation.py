"""The numbers of a click run on its own held-out showings, alone or beside those of another run."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffacet.app.clicks.run import ClickRun
from diffacet.app.clicks.training import LEAST_BATCH
from diffacet.arrays import distinct
from diffacet.data.clicks import ClickLog
from diffacet.data.sequences import IntArray
from diffacet.errors import BadRun, BadSetting
from diffacet.rank import click_tests, clicks
from diffacet.rank.click_evaluate import Predicted, evaluate_clicks

PARTS = ("valid", "test")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Asked:
    """What is measured, and how.

    Attributes:
        on: "valid" or "test".
        negative_rate: the share of showings without a click that the data kept; see `rank.clicks.corrected_logits`.
        batch_size: samples at a time; None: as in training, 256 at least.
        data: the data directory, where it has moved.
        picture: the file to draw the calibration into, .html or .png.

    Raises, when made:
        BadSetting: `on` is neither, or the rate or the size is out of range.
    """

    on: str = "test"
    negative_rate: float = 1.0
    batch_size: int | None = None
    data: Path | None = None
    picture: Path | None = None

    def __post_init__(self) -> None:
        if self.on not in PARTS:
            raise BadSetting(f"--on takes valid or test; got '{self.on}'")
        check_rate(self.negative_rate)


@dataclass(frozen=True, eq=False)
class Answers:
    """What a run answers for a part of its data.

    Attributes:
        run: the run.
        log: its data.
        rows: (S,) int64, the samples of the part.
        predicted: labels and logits.
        seconds: that it took.
        borders: of the split.
    """

    run: ClickRun
    log: ClickLog
    rows: IntArray
    predicted: Predicted
    seconds: float
    borders: tuple[int, int]


def answers(run: ClickRun, asked: Asked, progress: Progress | None = None) -> Answers:
    """The answers of `run`; raises BadRun when the data are gone or are others."""
    packed = run.packed(asked.data)
    rows: IntArray = getattr(packed.split, asked.on)
    size = batch_size(run, asked.batch_size)
    start = time.perf_counter()
    found = evaluate_clicks(
        clicker(run), run.as_read(packed), rows, length=run.settings.training.length, batch_size=size, progress=progress
    )
    return Answers(run, packed.log, rows, found, time.perf_counter() - start, packed.split.borders)


def evaluated(
    run: ClickRun, asked: Asked, base: ClickRun | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """What `diffacet evaluate --json` prints.

    model, preset, dataset, split, borders, timezone, on, seed, noise_seed, negative_rate, samples, clicks, users,
    seconds, metrics (those of `rank.clicks.measure`), auc_interval (95 %, by DeLong), slices (by, name, samples,
    clicks, auc); with a base its model and AUC, the relative improvement in percent, and the difference of the AUCs by
    DeLong's test and by the bootstrap over users.

    The relative improvement is None where the base's AUC is not above 0.5.

    Raises:
        BadRun: the data of a run are gone or are others, or the base is a run of other data, or of another split.
    """
    from diffacet.app.clicks import picture  # draws with the report, which knows runs

    if asked.picture is not None:
        picture.check(asked.picture)
    if base is not None:
        _check_same(run, base)
    ours = answers(run, asked, progress)
    log, rows, found = ours.log, ours.rows, ours.predicted
    _, low, high = click_tests.delong_interval(found.labels, found.logits)
    told: dict[str, Any] = {
        "model": run.card.name,
        "preset": run.about["preset"],
        "dataset": run.about["data"]["name"],
        "split": run.about["split"]["name"],
        "borders": list(ours.borders),
        "timezone": log.schema.timezone,
        "on": asked.on,
        "seed": run.settings.training.seed,
        "noise_seed": getattr(run.settings.model, "noise_seed", None),
        "negative_rate": asked.negative_rate,
        "samples": len(rows),
        "clicks": int(np.count_nonzero(found.labels)),
        "users": len(distinct(log.user[rows])),
        "seconds": ours.seconds,
        "metrics": found.measure(log.group[rows], asked.negative_rate),
        "auc_interval": [low, high],
        "slices": [asdict(one) for one in found.slices(log, rows)],
    }
    tables = {_label(run): calibration(ours, asked.negative_rate)}
    if base is not None:
        theirs = answers(base, asked, progress)
        told["base"] = _against(ours, theirs)
        tables[_label(base)] = calibration(theirs, asked.negative_rate)
    if asked.picture is not None:
        picture.write(asked.picture, told, tables)
    return told


def _label(run: ClickRun) -> str:
    return f"{run.card.name} ({run.path.name})"


def calibration(ours: Answers, negative_rate: float = 1.0) -> clicks.Calibration:
    """Predicted and observed click rates of the answers, in bins of equally many samples."""
    fair = clicks.corrected_logits(ours.predicted.logits, negative_rate)
    return clicks.calibration(ours.predicted.labels, clicks.sigmoid(fair))


def _check_same(run: ClickRun, base: ClickRun) -> None:
    """Refuse a base that answers about other showings; raises BadRun."""
    one, other = run.about["data"], base.about["data"]
    if one["fingerprint"] != other["fingerprint"]:
        raise BadRun(
            f"{base.path} is of other data, or of data that were split or read otherwise ({other['name']}, "
            f"{base.about['split']['name']}, {other['fingerprint']}) than {run.path} ({one['name']}, "
            f"{run.about['split']['name']}, {one['fingerprint']}); only runs of the same showings are compared"
        )


def _against(ours: Answers, theirs: Answers) -> dict[str, Any]:
    """How a run stands to another on the same samples."""
    base = theirs.run
    labels, logits, others = ours.predicted.labels, ours.predicted.logits, theirs.predicted.logits
    by_samples = click_tests.delong(labels, logits, others)
    by_users = click_tests.bootstrap_users(labels, logits, others, ours.log.user[ours.rows])
    return {
        "run": str(base.path),
        "model": base.card.name,
        "auc": by_samples.auc_b,
        "relative_improvement": _improvement(by_samples.auc_a, by_samples.auc_b),
        "difference": by_samples.difference,
        "delong": {key: getattr(by_samples, key) for key in ("deviation", "low", "high", "p")},
        "users": {key: getattr(by_users, key) for key in ("deviation", "low", "high", "p")},
    }


def _improvement(value: float, base: float) -> float | None:
    """RelaImpr in percent; None where the base is no better than chance, of which nothing can be a share."""
    return clicks.relative_improvement(value, base) if base > 0.5 else None


def batch_size(run: ClickRun, asked: int | None) -> int:
    """Samples at a time, as asked for or as in training, 256 at least; raises BadSetting below 1."""
    if asked is not None and asked < 1:
        raise BadSetting(f"--batch-size is at least 1; got {asked}")
    return max(run.settings.training.batch_size, LEAST_BATCH) if asked is None else asked


def check_rate(negative_rate: float) -> None:
    """Refuse what is no share of the showings without a click; raises BadSetting."""
    if not (math.isfinite(negative_rate) and 0 < negative_rate <= 1):
        raise BadSetting(
            f"--negative-rate is the share of samples without a click that was kept, in (0, 1]; got {negative_rate}"
        )


def clicker(run: ClickRun) -> Any:
    """The model of `run` as a Clicker, which its card promises that it is."""
    return run.model
