"""Splits by name for whatever trains or measures, and data directories that carry their own split.

`cut` is the one place where a data directory becomes a `Split`; `resolve` says which protocol "auto" is.
"""

from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

from diffacet.app.importing import READ, Filter, Imported, Step, filtered
from diffacet.core.contract import Task, Training
from diffacet.data import filters, next_item, noise, parts, splits, store, streamed_split
from diffacet.data.interactions import PARTS, Interactions
from diffacet.data.splits import SPLITS, Holdout, Split
from diffacet.data.store import Dataset
from diffacet.data.streamed_split import StreamedSplit
from diffacet.data.user_ranges import InMemory
from diffacet.errors import BadLog, BadSetting, nearest

AUTO = "auto"
INPUTS = ("train", "train+valid")
"""What a model is shown at test: the protocol's own histories, or with the validation part."""
MANY = 1_000_000
"""Cases of a part from which on measuring it takes long enough to be told."""
NOISES = ("none", "natural", "random")
CORE, RATIO, ANY = 10, "7:2:1", "none"
_RATED = "rating "  # how a step that asked for a threshold begins, see `importing`


def resolve(name: str, has_parts: bool, task: Task, parts_divide_users: bool = False) -> str:
    """The protocol that `name` is: "auto" is the data's own split, if it `has_parts`, else that of the model's task.

    A model of the next item takes parts only if they divide the users; parts that do are never `given`.

    Raises:
        BadSetting: there is no such split.
    """
    if name != AUTO:
        if name not in SPLITS:
            known = f"There are: {AUTO}, {', '.join(SPLITS)}"
            raise BadSetting(f"there is no split '{name}'{nearest(name, SPLITS)}. {known}")
        return name
    if has_parts and parts_divide_users:
        return "next-item-given"
    if task == "next-item":
        return "next-item"
    if has_parts:
        return "given"
    return "collaborative" if task == "collaborative" else "by-user"


def cut(dataset: Dataset, name: str, seed: int, tell: Callable[[str], None] | None = None) -> Split:
    """The split `name` (one of SPLITS, resolved before) of a data directory.

    For next-item-given the parts of a directory that others made count, too. `tell` is called with a line of advice
    where there is some, see `many_cases`.

    Raises:
        BadSetting: there is no such split.
        BadLog: it cannot be made; or it is collaborative, and the log has ratings of which nobody said which count.
    """
    if name == "collaborative" and "rating" in dataset.log.frame.columns and not _threshold_asked(dataset):
        raise BadLog(
            f"{dataset.path} has ratings, and nothing says which of them count as positive; 'diffacet split "
            f"{dataset.path} --min-rating 4 --out NEW' makes data of the high ones ('--min-rating {ANY}' of all), or "
            "import with --min-rating"
        )
    log = dataset.log
    if name == "next-item-given" and not log.has_parts:
        log = store.open(dataset.path, parts=True).log
    made = splits.make_split(log, name, seed)
    if tell is not None and (advice := many_cases(made)) is not None:
        tell(advice)
    return made


def cut_for(
    dataset: Dataset, name: str, seed: int, training: Training, tell: Callable[[str], None] | None = None
) -> Split | StreamedSplit:
    """The split of `cut` as a run of these settings reads it: with sampling="blocks" out of partitions, piece by piece.

    There is no advice on many cases where the settings say how many are asked for.

    Raises:
        BadSetting, BadLog: see `cut`; BadSetting too when the split cannot be read so.
    """
    tell = tell if training.validate_cases is None else None
    if training.sampling != "blocks":
        return cut(dataset, name, seed, tell)
    made = streamed_split.make(dataset.partitions or InMemory(dataset.log.sequences()), name, seed)
    if tell is not None and (advice := many_cases(made)) is not None:
        tell(advice)
    return made


def many_cases(split: Split | StreamedSplit) -> str | None:
    """A line that says so where a part of the split has more than MANY cases; None where none has."""
    cases = split.cut if isinstance(split, StreamedSplit) else split  # what is not read yet is counted all the same
    counts = {"valid": len(cases.valid), "test": len(cases.test)}
    if max(counts.values()) <= MANY:
        return None
    told = " and ".join(f"{count:,} in {on}" for on, count in counts.items())
    fewer = "--split next-item-last asks for one item a user; " if split.protocol in next_item.EVERY else ""
    return (
        f"{split.protocol} has many cases, {told}, and each validation ranks the catalogue for all of its own: {fewer}"
        "a larger validate_epochs or validate_every makes validations fewer, and validate_cases=N asks N of them"
    )


def check_asked(on: str, input: str) -> None:  # noqa: A002 - the command line's own word
    """Refuse held-out users or a test input that there are not, before data are opened. Raises BadSetting."""
    if on not in ("valid", "test"):
        raise BadSetting(f"--on takes valid or test; got '{on}'")
    if input not in INPUTS or (input != INPUTS[0] and on != "test"):
        raise BadSetting(f"--input takes {' or '.join(INPUTS)}, the second with --on test only; got '{input}'")


def holdout(split: Split | StreamedSplit, on: str, input: str, include_empty: bool = False) -> Holdout:  # noqa: A002
    """The cases of a split, at test maybe shown the validation part, too.

    Args:
        split: of any protocol.
        on: "valid" or "test".
        input: one of INPUTS.
        include_empty: ask for the first item of each user, too, of whom nothing is shown then.

    Raises:
        BadSetting: the protocol has no such input, or does not ask for every item.
    """
    cases = (split if input == INPUTS[0] else splits.with_valid(split)).holdout(on)
    if not include_empty:
        return cases
    if split.protocol not in next_item.EVERY:
        raise BadSetting(
            f"empty histories belong to the splits {', '.join(next_item.EVERY)}, which ask for every item of a user; "
            f"this one is {split.protocol}"
        )
    return next_item.with_empty(cases)


def _threshold_asked(dataset: Dataset) -> bool:
    """Whether the data directory says that a threshold of ratings, or none, was asked for."""
    steps = (dataset.provenance or {}).get("steps", [])
    return any(str(step.get("what", "")).startswith(_RATED) for step in steps if isinstance(step, dict))


def split_data(
    data: Path | str,
    out: Path | str,
    *,
    min_rating: float | str | None = None,
    k_core: int | None = None,
    ratio: str | None = None,
    noise: str = "none",
    share: float | None = None,
    noise_mode: str = "add",
    noise_seed: int = 0,
) -> Imported:
    """Write the data directory `out`: the log of `data` with a split of its own, as DiffRec's authors cut theirs.

    Ratings from a threshold on; the earliest row of each pair; the core; the cut of `data.parts.counts`, user by
    user in time order; items numbered by first appearance in training. Data that already has parts keeps them, and
    only random noise can be added to it.

    Args:
        data: a data directory.
        out: the data directory to make; new or empty.
        min_rating: keep interactions rated this much or more; "none": any; needed where the log has ratings.
        k_core: users and items with fewer interactions leave until nothing changes; None: 10; 0: none does.
        ratio: of train, valid and test; None: "7:2:1".
        noise: "none"; "natural", from low ratings; "random", items that a user never met.
        share: of random noise: 0.1 adds a tenth of a user's rows.
        noise_mode: whether random noise is to "add" rows or "replace" some.
        noise_seed: of the noise.

    Raises:
        BadLog: the data cannot be read or split, or `out` holds something; nothing is written then.
        BadSetting: an argument is out of range, or asks for what this data cannot have.
    """
    out = Path(out)
    store.check_out(out)
    dataset = store.open(Path(data))
    _check_noise(noise, share, noise_mode)
    asked = {"--min-rating": min_rating, "--k-core": k_core, "--ratio": ratio}
    before = dataset.provenance or {}
    steps: tuple[Step, ...] = ()
    told: dict[str, Any] = {}
    if dataset.log.has_parts:
        _check_parted(dataset, noise, [name for name, value in asked.items() if value is not None])
        log = dataset.log
    else:
        log, steps, told = _parted(dataset, min_rating, CORE if k_core is None else k_core, ratio or RATIO)
    if noise != "none":
        log, step, more = _noisy(dataset, log, min_rating, noise, share or 0.0, noise_mode, noise_seed)
        steps, told = (*steps, step), told | {"noise": [*before.get("noise", []), more]}
    provenance: dict[str, Any] = {
        "from": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        "files": before.get("files", []),
        "format": "split",
        "steps": [
            *before.get("steps", []),
            *(asdict(step) for step in steps if "steps" not in before or step.what != READ),
        ],
        "notes": before.get("notes", []),
        **{name: before[name] for name in ("split", "noise") if name in before},
        **told,
        "diffacet": metadata.version("diffacet"),
    }
    store.write(log, out, provenance)
    rows = log.statistics()["parts"]
    note = "rows: " + ", ".join(f"{name} {rows[name]:,}" for name in PARTS)
    return Imported(out, log, store.fingerprint(log), (str(data),), "data directory", steps, None, (note,))


def shares_of(ratio: str) -> parts.Shares:
    """The shares that a ratio such as "7:2:1" means, exactly rounded. Raises BadSetting."""
    try:
        numbers = [Fraction(word) for word in ratio.split(":")]
        train, valid, test = (float(number / sum(numbers)) for number in numbers)
    except (ValueError, ZeroDivisionError) as error:
        raise BadSetting(f"--ratio is train, valid and test as in 7:2:1; got '{ratio}'") from error
    if min(train, valid, test) <= 0:
        raise BadSetting(f"--ratio is three positive numbers, such as 7:2:1; got '{ratio}'")
    return train, valid, test


def _check_noise(kind: str, share: float | None, mode: str) -> None:
    if kind not in NOISES:
        raise BadSetting(f"--noise takes {', '.join(NOISES)}; got '{kind}'")
    if (kind == "random") != (share is not None):
        need = "random noise needs --share, such as 0.1" if share is None else "--share belongs to --noise random"
        raise BadSetting(f"{need}; got --noise {kind}")
    if share is not None and not 0 <= share <= 1:
        raise BadSetting(f"--share lies between 0 and 1; got {share:g}")
    if mode not in get_args(noise.Mode):
        raise BadSetting(f"--noise-mode takes {', '.join(get_args(noise.Mode))}; got '{mode}'")


def _check_parted(dataset: Dataset, kind: str, asked: list[str]) -> None:
    """Refuse to split again what is split."""
    if asked or kind != "random":
        got = asked[0] if asked else f"--noise {kind}"
        raise BadSetting(
            f"{dataset.path} has parts already, and they are kept; only --noise random --share P can be added to it, "
            f"without {got}; to split anew, start from the data directory before the split"
        )


def _parted(
    dataset: Dataset, min_rating: float | str | None, core: int, ratio: str
) -> tuple[Interactions, tuple[Step, ...], dict[str, Any]]:
    """The log with its parts, what each step left, and what provenance says of the split."""
    shares = shares_of(ratio)
    if core < 0:
        raise BadSetting(f"--k-core is 0 (off) or more; got {core}")
    wanted: list[Filter] = []
    if min_rating is None and "rating" in dataset.log.frame.columns and not _threshold_asked(dataset):
        raise BadSetting(
            f"{dataset.path} has ratings; say which count as positive: --min-rating 4, or --min-rating {ANY} for all"
        )
    if min_rating == ANY:
        wanted.append((f"{_RATED}any", lambda log: log))
    elif min_rating is not None:
        least = _threshold(min_rating)
        wanted.append((f"{_RATED}{least:g} or more", lambda log: filters.min_rating(log, least)))
    wanted.append(("earliest of each pair", filters.distinct_pairs))
    if core:
        wanted.append((f"{core}-core", lambda log: filters.k_core(log, core)))
    log, steps = filtered(dataset.log, wanted)
    cut = parts.renumbered(log.with_parts(parts.assign(log, shares)))
    splits.given(cut)  # refuses a log in which nobody has something to be asked for
    return cut, steps, {"split": {"ratio": ratio, "k_core": core}}


def _threshold(text: float | str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise BadSetting(f"--min-rating is a number, or {ANY}; got '{text}'") from error


def _noisy(
    dataset: Dataset, log: Interactions, min_rating: float | str | None, kind: str, share: float, mode: str, seed: int
) -> tuple[Interactions, Step, dict[str, Any]]:
    """The log with noise, what there is then, and what provenance says of the noise."""
    told: dict[str, Any] = {"kind": kind, "seed": seed}
    if kind == "natural":
        if min_rating is None or min_rating == ANY:
            raise BadSetting("natural noise is drawn from what is rated below --min-rating; give it, such as 4")
        log = noise.natural_noise(dataset.log, log, _threshold(min_rating), seed)
    else:
        log = noise.random_noise(log, share, seed, "replace" if mode == "replace" else "add")
        told |= {"share": share, "mode": mode}
    return log, Step(f"{kind} noise", log.n_users, log.n_items, len(log)), told
