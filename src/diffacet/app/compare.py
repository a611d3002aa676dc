"""Runs side by side: metrics user by user, means and deviations over seeds, paired intervals."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffacet.app.runs import Run
from diffacet.app.studies.statistics import bootstrap, interval
from diffacet.core.contract import Matcher, Scorer
from diffacet.errors import BadRun
from diffacet.rank.categories import ItemCategories
from diffacet.rank.evaluate import Measured, per_user


@dataclass(frozen=True, eq=False)
class Trial:
    """A run and how it did, user by user."""

    run: Run
    measured: Measured

    @property
    def means(self) -> dict[str, float]:
        """Metric -> mean over the users."""
        return self.measured.means()


@dataclass(frozen=True, eq=False)
class Group:
    """Runs of one kind that differ in their seeds only.

    Attributes:
        label: what the table calls them.
        trials: in order of seeds.
    """

    label: str
    trials: tuple[Trial, ...]

    @property
    def name(self) -> str:
        """The model's name."""
        return self.trials[0].run.card.name

    @property
    def trained(self) -> bool:
        """Whether any step of training was taken."""
        return any(trial.run.trail()[-1].step > 0 for trial in self.trials)

    def mean(self, metric: str) -> float:
        """The mean over the seeds."""
        return statistics.fmean(trial.means[metric] for trial in self.trials)

    def deviation(self, metric: str) -> float:
        """The standard deviation over the seeds (n - 1 below); NaN for one seed."""
        values = [trial.means[metric] for trial in self.trials]
        return statistics.stdev(values) if len(values) > 1 else float("nan")

    def seconds(self) -> float:
        """Mean seconds of training and validation."""
        return statistics.fmean(trial.run.trail()[-1].seconds for trial in self.trials)


@dataclass(frozen=True)
class Difference:
    """One group minus another on the same users.

    Attributes:
        metric: of which.
        mean: of the differences over the users of all seeds.
        low: lower end of the bootstrap interval.
        high: upper end.
        relative: the difference as a share of the second group's mean.
        users: how many (a user counts once for each seed whose test holds it).
    """

    metric: str
    mean: float
    low: float
    high: float
    relative: float
    users: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def measure(
    label: str,
    runs: Sequence[Run],
    *,
    on: str = "test",
    ks: Sequence[int] = (20, 50),
    data: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Group:
    """Evaluate runs of one kind, each on its own split."""
    trials = []
    for run in runs:
        if progress is not None:
            progress(f"evaluating {run.path.name}")
        names = run.catalogue["categories"] if "categories" in run.catalogue.columns else None
        measured = per_user(
            asked(run),
            run.holdout(on, data),
            length=run.settings.training.length,
            ks=ks,
            categories=None if names is None else ItemCategories.from_lists(names.to_list()),
        )
        trials.append(Trial(run, measured))
    return Group(label, tuple(trials))


def asked(run: Run) -> Matcher | Scorer:
    """The run's model, by what it can be asked."""
    if not isinstance(run.model, Matcher | Scorer):
        raise BadRun(f"{run.path}: {run.card.name} can be asked for neither interests nor scores")
    return run.model


def difference(one: Group, other: Group, metric: str) -> Difference:
    """One minus the other, paired by seed and user, with a 95 % percentile bootstrap interval over users.

    Raises:
        BadRun: when the groups were not measured on the same cases.
    """
    parts = []
    for a, b in zip(one.trials, other.trials, strict=True):
        same = all(a.run.about[key] == b.run.about[key] for key in ("split",)) and (
            a.run.about["data"]["fingerprint"] == b.run.about["data"]["fingerprint"]
        )
        if not same:
            raise BadRun(f"{a.run.path} and {b.run.path} were measured on other users; pair runs of one split and data")
        parts.append(a.measured.values[metric] - b.measured.values[metric])
    values = np.concatenate(parts)
    low, high = (ends.item() for ends in interval(bootstrap(values[:, None], np.ones((len(values), 1)))))
    mean, base = float(values.mean()), other.mean(metric)
    return Difference(metric, mean, low, high, mean / base if base else float("nan"), len(values))
