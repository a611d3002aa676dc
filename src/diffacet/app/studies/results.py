"""Results of runs: read back or measured now, put into rows, compared in pairs, and written as one tidy table."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from diffacet import files
from diffacet.app.clicks.evaluation import PARTS
from diffacet.app.clicks.run import ClickRun
from diffacet.app.runs import Run
from diffacet.app.studies import folder, work
from diffacet.app.studies.plan import Plan
from diffacet.app.studies.spec import Ask
from diffacet.app.studies.statistics import FloatArray, bootstrap, holm, interval, paired_t, sign_flips
from diffacet.app.studies.work import DRAWS, RESULT, kept
from diffacet.errors import BadRun

COSTS = ("parameters", "steps", "best_step", "seconds", "ms_per_step", "peak_mb")
PACES = ("users_per_second", "samples_per_second")
COUNTS = ("users", "samples", "clicks", *PACES)
"""Numbers of a held-out part beside its metrics, those that there are."""
AnyRun = Run | ClickRun
Key = tuple[str, int | None, int]


@dataclass(frozen=True, eq=False)
class Trial:
    """One run, asked in one way.

    Attributes:
        told: result.json of the run.
        users: its single users, see `work.measure`; of a model of clicks its predictions, see `click_work.measure`.
        ask: which of its asks.
        draws: of a model of clicks its AUCs under other draws of the users, likewise.
    """

    told: dict[str, Any]
    users: pl.DataFrame
    ask: int = 0
    draws: pl.DataFrame | None = None

    @property
    def key(self) -> Key:
        """Split, seed of the split and seed: what two runs must share to be paired."""
        return self.told["split"], self.told["split_seed"], self.told["seed"]

    def value(self, metric: str, on: str) -> float:
        """The mean over users, or the number of all samples; NaN if the run has none."""
        return float(self.part(on)["metrics"].get(metric, float("nan")))

    def part(self, on: str) -> dict[str, Any]:
        """What was measured on a held-out part: metrics, counts, pace."""
        found: dict[str, Any] = self.told["asks"][self.ask]["on"][on]
        return found

    def by_user(self, metric: str, on: str) -> tuple[FloatArray, FloatArray] | None:
        """(U,) user numbers and (U,) values; None where single users were not kept."""
        if metric not in self.users.columns:
            return None
        of = self.users.filter((pl.col("ask") == self.ask) & (pl.col("on").cast(pl.Utf8) == on))
        return of["user"].to_numpy(), of[metric].cast(pl.Float64).fill_null(float("nan")).to_numpy()


@dataclass(frozen=True, eq=False)
class Line:
    """A row of the table: runs of one kind that differ in their seeds only.

    Attributes:
        label: what the table calls it.
        data: name of the data set.
        trials: in the order of the seeds; never empty.
        published: metric -> the paper's number.
        of: the row of the study that it belongs to.
        point: setting of the row's grid -> value.
        suffix: of the way in which its runs are asked.
    """

    label: str
    data: str
    trials: tuple[Trial, ...]
    published: dict[str, float] = field(default_factory=dict)
    of: str = ""
    point: dict[str, Any] = field(default_factory=dict)
    suffix: str = ""

    @property
    def clicks(self) -> bool:
        """Whether the runs are of a model of clicks."""
        return self.trials[0].told.get("task") == "click"

    @property
    def pace(self) -> str:
        """The cost that says how fast the evaluation on test was, one thread."""
        return PACES[self.clicks]

    @property
    def trained(self) -> bool:
        """Whether any step of training was taken."""
        return self.cost("steps") > 0

    def values(self, metric: str, on: str) -> list[float]:
        """One number a run; those that have none are left out."""
        return [value for trial in self.trials if (value := trial.value(metric, on)) == value]

    def mean(self, metric: str, on: str) -> float:
        """The mean over the runs; NaN if none has the metric."""
        values = self.values(metric, on)
        return statistics.fmean(values) if values else float("nan")

    def deviation(self, metric: str, on: str) -> float:
        """The sample standard deviation over the runs (n - 1 below); NaN below two."""
        values = self.values(metric, on)
        return statistics.stdev(values) if len(values) > 1 else float("nan")

    def cost(self, name: str) -> float:
        """The mean of a cost over the runs that have it; NaN if none has."""
        told = ((t.part("test") if name in PACES else t.told).get(name) for t in self.trials)
        values = [float(value) for value in told if value is not None]
        return statistics.fmean(values) if values else float("nan")


@dataclass(frozen=True)
class Pair:
    """One row minus another, on the same users and seeds; `click_pairs.compare` says what it is for models of clicks.

    Attributes:
        one: label of the first.
        other: label of the second.
        metric: of which.
        mean: the difference, over all users of all seeds.
        relative: as a share of the second's mean over the same seeds.
        low: lower end of the 95 % bootstrap interval over users.
        high: upper end.
        p_users: of the sign-flip permutation over users, corrected by Holm over the rows.
        p_seeds: of the paired t-test over seeds, corrected likewise; NaN below two seeds.
        seeds: pairs of runs.
        users: users that were tested, each once.
    """

    one: str
    other: str
    metric: str
    mean: float
    relative: float
    low: float
    high: float
    p_users: float
    p_seeds: float
    seeds: int
    users: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def lines_of(plan: Plan, out: Path) -> list[Line]:
    """The rows of a study for which there is at least one finished run."""
    lines = []
    for variant in plan.variants:
        jobs = [job for job in plan.jobs if job.variant is variant and folder.finished(out, plan, job)]
        runs = [_read(folder.place(out, job)) for job in jobs]
        for number, ask in enumerate(variant.asks if runs else ()):
            trials = tuple(Trial(told, users, number, draws) for told, users, draws in runs)
            published = dict(variant.published) if number == 0 else {}
            label, point = ask.named(variant.label), dict(variant.point)
            lines.append(Line(label, variant.data, trials, published, variant.row.label, point, ask.suffix))
    return lines


def measured(
    groups: Mapping[str, Sequence[AnyRun]],
    what: Mapping[str, Any],
    *,
    on: Sequence[str] = PARTS,
    data: Path | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> list[Line]:
    """The rows of loaded runs, one for each label and way of asking; each run is asked on its own split.

    Args:
        groups: label -> runs that differ in their seeds only, in the order of the seeds; none is empty.
        what: see `work.wanted`.
        on: the held-out parts, of "valid" and "test".
        data: the data directory, where it has moved.
        device: where a run is asked whose settings an ask changes.
        progress: told (runs measured, all runs).

    Raises:
        BadRun: the data are gone or are others, or a model cannot be asked.
    """
    lines, done, total = [], 0, sum(map(len, groups.values()))
    for label, some in groups.items():
        found = []
        for run in some:
            numbers, cases, draws = work.measure(run, what, on=on, data=data, device=device)
            found.append((work.describe(run, label=label) | {"asks": numbers}, cases, draws))
            done += 1
            if progress is not None:
                progress(done, total)
        for place, ask in enumerate(what["asks"]):
            trials = tuple(Trial(told, cases, place, draws) for told, cases, draws in found)
            named, data_name = Ask(ask["suffix"]).named(label), some[0].about["data"]["name"]
            lines.append(Line(named, data_name, trials, of=label, suffix=ask["suffix"]))
    return lines


def _read(place: Path) -> tuple[dict[str, Any], pl.DataFrame, pl.DataFrame | None]:
    draws = place / DRAWS
    try:
        told, cases = files.read_json(place / RESULT), pl.read_parquet(kept(place))
        return told, cases, pl.read_parquet(draws) if draws.exists() else None
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise BadRun(f"{place} is damaged ({error}); remove it, and go on with --resume") from error


def compare(pairs: Sequence[tuple[Line, Line]], metrics: Sequence[str], on: str, *, fewest: int = 2) -> list[Pair]:
    """Each first line minus the second, metric by metric, over the seeds that both have.

    Lines of other splits, and lines with fewer than `fewest` seeds in common, are left out: there is nothing to pair,
    or, below two, nothing to tell the chance of another training from (the interval is over users only).
    """
    found: list[Pair] = []
    for metric in metrics:
        usable = [(one, other, both) for one, other in pairs if len(both := _paired(one, other, metric, on)) >= fewest]
        if not usable:
            continue
        everyone = np.unique(np.concatenate([users for _, _, both in usable for users, *_ in both]))
        sums, counts = (np.zeros((len(everyone), len(usable))) for _ in range(2))
        for place, (_, _, both) in enumerate(usable):
            for users, first, second in both:
                gain, row = first - second, np.searchsorted(everyone, users)
                there = ~np.isnan(gain)
                np.add.at(sums[:, place], row[there], gain[there])
                np.add.at(counts[:, place], row[there], 1)
        tested = counts.sum(0) > 0
        usable = [each for each, good in zip(usable, tested, strict=True) if good]
        found += _tested(usable, sums[:, tested], counts[:, tested], metric)
    return found


Both = list[tuple[FloatArray, FloatArray, FloatArray]]


def _tested(
    usable: Sequence[tuple[Line, Line, Both]], sums: FloatArray, counts: FloatArray, metric: str
) -> Iterator[Pair]:
    if not usable:
        return
    low, high = interval(bootstrap(sums, counts))
    over_users = holm(sign_flips(sums).tolist())
    gains = [[float(np.nanmean(first - second)) for _, first, second in both] for _, _, both in usable]
    over_seeds = holm([paired_t(each) for each in gains])
    for place, (one, other, both) in enumerate(usable):
        mean = float(sums[:, place].sum() / counts[:, place].sum())
        base = float(np.nanmean(np.concatenate([second for _, _, second in both])))
        yield Pair(
            one.label,
            other.label,
            metric,
            mean,
            mean / base if base else float("nan"),
            float(low[place]),
            float(high[place]),
            over_users[place],
            over_seeds[place],
            len(both),
            int((counts[:, place] > 0).sum()),
        )


def _paired(one: Line, other: Line, metric: str, on: str) -> Both:
    """(users, values of one, values of other) for each run that both have; runs on other users do not count."""
    theirs = {trial.key: trial for trial in other.trials}
    both: Both = []
    for trial in one.trials:
        match = theirs.get(trial.key)
        if match is None or match.told["data"]["fingerprint"] != trial.told["data"]["fingerprint"]:
            continue
        first, second = trial.by_user(metric, on), match.by_user(metric, on)
        if first is None or second is None or not np.array_equal(first[0], second[0]):
            continue
        if not np.isnan(first[1] - second[1]).all():
            both.append((first[0], first[1], second[1]))
    return both


def tidy(lines: Sequence[Line], study: str) -> pl.DataFrame:
    """A row for each run, way of asking, held-out part and metric; costs are metrics without a held-out part."""
    rows: list[dict[str, Any]] = []
    for line in lines:
        for trial in line.trials:
            told = trial.told
            common = {
                "study": study,
                "data": line.data,
                "label": line.label,
                "model": told["model"],
                "preset": told["preset"],
                "set": " ".join(f"{key}={value}" for key, value in told.get("set", {}).items()),
                "ask": line.suffix,
                "split": told["split"],
                "split_seed": told["split_seed"],
                "seed": told["seed"],
            }
            rows += [common | {"on": on, "metric": name, "value": value} for on, name, value in _numbers(trial)]
    schema = {"split_seed": pl.Int64, "seed": pl.Int64, "value": pl.Float64, "on": pl.Utf8}
    return pl.DataFrame(rows, schema_overrides=schema, infer_schema_length=None)


def _numbers(trial: Trial) -> Iterator[tuple[str | None, str, float]]:
    """(held-out part, metric, value) of a trial."""
    for on, found in trial.told["asks"][trial.ask]["on"].items():
        yield from ((on, metric, value) for metric, value in found["metrics"].items())
        yield from ((on, name, found[name]) for name in COUNTS if name in found)
    yield from ((None, name, trial.told[name]) for name in COSTS if trial.told.get(name) is not None)


def write_tidy(lines: Sequence[Line], study: str, out: Path) -> None:
    """results.parquet and results.csv in `out`."""
    frame = tidy(lines, study)
    files.write_file(out / "results.parquet", lambda path: frame.write_parquet(path, compression="zstd"))
    files.write_file(out / "results.csv", lambda path: frame.write_csv(path))
