"""The tables that studies of click models have beside or instead of the usual ones."""

from collections.abc import Iterable, Sequence

from diffacet.app.studies.click_work import RESAMPLES
from diffacet.app.studies.grids import Grid, number, p_value, percent, signed
from diffacet.app.studies.results import Line, Pair
from diffacet.data.clicks.splitting import instant

METHOD = (
    "± is the sample standard deviation over the runs (n − 1 below). Differences are of the mean AUCs over the "
    "seeds that both rows have. RelaImpr: (AUC − 0.5) / (AUC of the other − 0.5) − 1, from AUCs that are not "
    "rounded; a dash where the other's is not above 0.5. 95 % interval: percentiles of the difference over "
    f"{RESAMPLES:,} draws of users, each with all its samples, the same draws for all seeds. p DeLong: DeLong's test "
    "on the same samples of the first common seed; it takes samples for independent, so that it is too small where "
    "users have many. p seeds (Welch): Welch's two-sided t-test over the AUCs of the seeds. Both p are corrected by "
    "Holm over the rows. DeLong speaks of one trained pair of models, Welch of the methods; fewer than five seeds "
    "cannot show a difference of 0.001."
)
LOWER = {
    "log_loss": "log_loss",
    "ne": "ne (log loss as a share of that of the click rate)",
    "ece": "ece (calibration error, 20 bins)",
}
WORDS = {
    "pcoc": "pcoc: predicted over observed clicks, 1 where calibrated; none is marked.",
    "gauc": "gauc: AUC inside each group of the data; gauc_coverage is the share of samples in groups that count.",
}


def directions(metrics: Sequence[str]) -> str:
    """Sentences on the metrics that need one; empty where none does."""
    lower = [words for name, words in LOWER.items() if name in metrics]
    said = [f"Lower is better: {', '.join(lower)}."] if lower else []
    return " ".join([*said, *(words for name, words in WORDS.items() if name in metrics)])


def differences(pairs: Iterable[Pair], on: str) -> Grid:
    """What was tested."""
    head = ("row", "against", "metric", "difference", "RelaImpr", "95 % interval", "p DeLong")
    rows = [
        (
            pair.one,
            pair.other,
            pair.metric,
            signed(pair.mean),
            percent(pair.relative, 2),
            f"{signed(pair.low)} to {signed(pair.high)}",
            p_value(pair.p_users),
            p_value(pair.p_seeds),
            f"{pair.users:,}, {pair.seeds}",
        )
        for pair in pairs
    ]
    return Grid(f"Differences on {_part(on)} samples", (*head, "p seeds (Welch)", "users, runs"), tuple(rows))


def intervals(lines: Sequence[Line], on: str) -> Grid:
    """The AUC of each row's first run with DeLong's interval."""
    rows = []
    for line in lines:
        first = line.trials[0]
        found, seed = first.part(on), first.told["seed"]
        ends = found.get("auc_interval")
        told = "–" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"
        counts = f"{found['samples']:,}", f"{found['clicks']:,}"
        rows.append((line.label, str(seed), number(first.value("auc", on), "{:.4f}"), told, *counts))
    head = ("row", "seed", "AUC", "95 % interval (DeLong)", "samples", "clicks")
    return Grid(f"95 % interval of {_part(on)} AUC, first seed", head, tuple(rows))


def parts(lines: Sequence[Line], on: str) -> Grid | None:
    """Mean AUC of parts of the samples; None where no part has one, or one part has all samples."""
    counts: dict[str, int] = {}
    for one in lines[0].trials[0].part(on).get("slices", ()):
        if one["auc"] is not None and one["samples"] < lines[0].trials[0].part(on)["samples"]:
            counts[_slice(one)] = one["samples"]
    if not counts:
        return None
    rows = []
    for line in lines:
        values: dict[str, list[float]] = {name: [] for name in counts}
        for trial in line.trials:
            for one in trial.part(on).get("slices", ()):
                if one["auc"] is not None and _slice(one) in values:
                    values[_slice(one)].append(one["auc"])
        means = [sum(some) / len(some) if some else float("nan") for some in values.values()]
        rows.append((line.label, *(number(mean, "{:.4f}") for mean in means)))
    head = ("row", *(f"{name} ({count:,})" for name, count in counts.items()))
    note = (
        "Means over the runs, in brackets how many samples. Behaviours are those before a sample, however many the "
        "model reads; an item or user is known that a training sample has."
    )
    return Grid(f"{_part(on).capitalize()} AUC of parts of the samples", head, tuple(rows), note=note)


def provenance(lines: Sequence[Line]) -> list[str]:
    """What the data were cut into, and what a seed is."""
    told = lines[0].trials[0].told
    zone, counts = told["timezone"], told["samples"]
    valid, test = (instant(border, zone) for border in told["borders"])
    cut = ", ".join(f"{count:,} {part}" for part, count in counts.items())
    return [
        f"Validation from {valid}, test from {test} ({zone}): {cut} samples.",
        "A seed is that of the initial weights and of the order of the samples.",
    ]


def notes(lines: Sequence[Line]) -> list[str]:
    """What the data say of themselves, each once."""
    return list(dict.fromkeys(note for line in lines for trial in line.trials for note in trial.told.get("notes", ())))


def _part(on: str) -> str:
    return "test" if on == "test" else "validation"


def _slice(one: dict[str, object]) -> str:
    """A part of the samples in words."""
    return f"{one['name']} behaviours" if one["by"] == "history" else f"{one['name']} {one['by']}"
