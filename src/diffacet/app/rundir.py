"""What run directories of all kinds have in common: run.json, the settings in it, and whether a run may go on.

run.json           model, settings, data, split, code and environment
metrics.jsonl      one line a validation
best.safetensors   the model of the best validation
last.safetensors   model, optimiser and trail of the newest checkpoint, to resume from
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from torch import nn

from diffacet import files
from diffacet.app import cards, resuming, settings
from diffacet.app.environment import pick_device
from diffacet.core.contract import Card, Facts, Preset, Training
from diffacet.data import store
from diffacet.errors import BadRun, BadSetting
from diffacet.learn import checkpoint

FORMAT = 1
ABOUT = "run.json"
Changes = Iterable[str] | Mapping[str, Any]
"""Settings to change: `["key=value"]` or a mapping."""


def chosen(card: Card, preset: str, changes: Changes, seed: int, max_steps: int | None) -> Preset:
    """The settings of a new run: those of the preset, then seed and steps, then `changes`; raises BadSetting."""
    first = {"seed": seed} | ({} if max_steps is None else {"max_steps": max_steps})
    return settings.apply(card, settings.preset(card, preset), first | pairs(changes))


def told_settings(name: str, preset: str, chosen: Preset) -> dict[str, Any]:
    """How run.json of a new run begins: format, model (its code too, where it is none of ours), preset, settings."""
    told = {"model": dataclasses.asdict(chosen.model), "training": dataclasses.asdict(chosen.training)}
    code = cards.origin(name)
    elsewhere = {} if code is None else {"model_code": code}
    return {"format": FORMAT, "model": name, **elsewhere, "preset": preset, "settings": told}


def stored(path: Path, card: Card, told: Mapping[str, Any], changes: Changes) -> Preset:
    """The settings that the run in `path` was trained with, and `changes` to those that shape no weight.

    Raises:
        BadSetting: a setting that is unknown, out of range, or shapes weights.
    """
    before = Preset(
        settings.from_dict(card.config, told["settings"]["model"], f"{path}/{ABOUT}"),
        settings.from_dict(Training, told["settings"]["training"], f"{path}/{ABOUT}"),
        told["preset"],
    )
    asked = pairs(changes)
    free = settings.inference_settings(card.config)
    after = settings.apply(card, before, asked)
    for key in asked:
        if key not in free:
            allowed = ", ".join(sorted(free)) or "nothing"
            raise BadSetting(f"'{key}' is fixed when {card.name} is trained; changeable on a run: {allowed}")
    return after


def restored(path: Path, card: Card, chosen: Preset, facts: Facts, device: str) -> nn.Module:
    """The model of the run in `path`, in evaluation mode, with its best weights; raises BadRun."""
    tensors, _ = checkpoint.read(path / checkpoint.BEST)
    model = card.build(chosen.model, facts).to(pick_device(device))
    checkpoint.restore(model, tensors, path / checkpoint.BEST)
    return model.eval()


def read_about(path: Path) -> dict[str, Any]:
    """run.json of a run directory; raises BadRun when it is none."""
    what = f"it holds no {ABOUT}" if Path(path).is_dir() else "there is no such directory"
    if store.there(Path(path)):
        what = "it is a data directory"
    none = f"{path} is no run directory: {what}; 'diffacet train' makes one"
    return read_told(path, ABOUT, FORMAT, none, "restore it from a copy, or train again")


def read_told(path: Path, name: str, version: int, none: str, mend: str) -> dict[str, Any]:
    """The JSON file `name` that tells what the directory `path` holds, in the format `version`.

    Raises:
        BadRun: saying `none` when there is no such file, and `mend` when it is damaged.
    """
    try:
        told = files.read_json(path / name)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadRun(none) from error
    except (OSError, ValueError) as error:
        raise BadRun(f"{path / name} is damaged ({error}); {mend}") from error
    if told.get("format") != version:
        raise BadRun(f"{path} has format {told.get('format')!r}; this version reads {version}")
    return told


def read_table(path: Path) -> pl.DataFrame:
    """A Parquet file of a run; raises BadRun when it is missing or damaged."""
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BadRun(f"{path} is missing or damaged ({error}); restore it from a copy") from error


@contextmanager
def created(out: Path, told: Mapping[str, Any]) -> Iterator[Path]:
    """A new run directory with run.json and what is written into it inside the block, whole or not at all.

    Raises:
        BadRun: it cannot be written.
    """
    try:
        with files.new_directory(out) as folder:
            yield folder
            files.write_json(folder / ABOUT, told)
    except OSError as error:
        raise BadRun(f"{out} cannot be written: {error}; choose another --out") from error


def check_directory(out: Path, told: Mapping[str, Any], resume: bool) -> None:
    """Refuse a directory that holds something else than this run; raises BadRun."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not resume:
        raise BadRun(f"{out} exists; choose another --out, or go on with the run in it by --resume")
    resuming.check(out, read_about(out), told)


def data_of(path: Path, told: Mapping[str, Any], moved: Path | None) -> Path:
    """Where the data of the run in `path` are: where they were, or `moved`; raises BadRun when they are not there."""
    place = moved or Path(told["path"])
    if not place.exists():
        raise BadRun(f"{path} was trained on {place}, which is not there; say where it is with --data DIR")
    return place


def check_fingerprint(path: Path, told: Mapping[str, Any], place: Path, fingerprint: str) -> None:
    """Refuse data that are not those of the run in `path`; raises BadRun."""
    if fingerprint != told["fingerprint"]:
        raise BadRun(
            f"{path} was trained on data with fingerprint {told['fingerprint']}; {place} has "
            f"{fingerprint}: it is other data, or was changed since"
        )


def pairs(changes: Changes) -> dict[str, Any]:
    """Changes as a mapping; raises BadSetting for what is no pair."""
    return dict(changes) if isinstance(changes, Mapping) else settings.split_pairs(changes)
