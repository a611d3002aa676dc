"""Models by name: those of the table in `diffacet.models`, and those that a user has elsewhere.

Elsewhere are files that the environment variable DIFFACET_MODELS names, separated as in PATH, and modules that an
installed package names as entry points of the group `diffacet.models`. Either holds CARDS, as a file of `models/` does.
A run directory tells the name of its model, never where code is to be loaded from: a foreign run brings none.
"""

import hashlib
import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from diffacet.core.contract import Card, Task, Training
from diffacet.errors import BadRun, BadSetting, nearest
from diffacet.models import MODELS
from diffacet.models import card as of_table

FILES = "DIFFACET_MODELS"
"""The environment variable with files of models; processes that a command starts have it, too."""

PACKAGES = "diffacet.models"
"""The group of entry points: name of a model = module with its card."""

TASKS: tuple[str, ...] = get_args(Task)

_READ: dict[str, tuple[Path, str]] = {}
"""Modules of files, by name: which file, and what of it, they were made from."""


def card(name: str) -> Card:
    """The card of the model called `name`; raises BadSetting with the nearest name for an unknown one."""
    return _found(name)[0]


def names() -> list[str]:
    """The names of all models there are, the table's first; raises BadSetting for a bad file of models."""
    return list(dict.fromkeys([*MODELS, *(one.name for one, _ in _of_files()), *_points()]))


def origin(name: str) -> str | None:
    """The code of a model from elsewhere, for run.json: a file and its SHA-256 (the start), or a package; or None."""
    return _found(name)[1]


def card_of(run: Path, told: Mapping[str, Any]) -> Card:
    """The card of the model of a run, by its run.json; raises BadRun when the model's code is not here."""
    name, code = told["model"], told.get("model_code")
    if code is not None and name not in names():
        raise BadRun(
            f"{run} is a run of '{name}', a model outside diffacet whose code is not here: it was {code}; "
            f"name the file in {FILES}, or install the package"
        )
    return card(name)


def _found(name: str) -> tuple[Card, str | None]:
    others = {one.name: (one, code) for one, code in _of_files()}  # looked at first: they must not be called as ours
    if name in MODELS:
        return of_table(name), None
    points = _points()
    if name in points and name not in others:
        point = points[name]
        code = point.value + (f" of {point.dist.name} {point.dist.version}" if point.dist else "")
        others |= {one.name: (one, code) for one in _cards(point.load(), f"the module {point.value}")}
    if name in others:
        return others[name]
    if name.endswith(".py"):
        raise BadSetting(f"'{name}' is a file, and a model has a name; {FILES}={name} diffacet models shows it")
    raise BadSetting(f"unknown model '{name}'{nearest(name, [*MODELS, *others, *points])}. See 'diffacet models'")


def _points() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=PACKAGES)}


def _files() -> list[Path]:
    return [Path(name).resolve() for name in os.environ.get(FILES, "").split(os.pathsep) if name]


def _of_files() -> Iterator[tuple[Card, str]]:
    """Each card of the files in FILES, with the name of the file and the start of its SHA-256."""
    files = _files()
    for path in files:
        if path.suffix != ".py" or "." in path.stem:
            raise BadSetting(f"{FILES} names {path}, which is no Python module; its name is letters and digits and .py")
        if sum(path.stem == other.stem for other in files) > 1:
            raise BadSetting(f"{FILES} names two files called {path.name}; rename one of them")
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        except OSError as error:
            raise BadSetting(
                f"{FILES} names {path}, which cannot be read ({error.strerror}); name a file that is there, or unset it"
            ) from error
        for one in _cards(_module(path, digest), str(path)):
            yield one, f"{path.name}, SHA-256 {digest}"


def _module(path: Path, digest: str) -> ModuleType:
    """The file as a module of this package. It is run once, so that its classes stay the same, until it is changed."""
    name, read = f"{__name__}.{path.stem}", (path, digest)
    there = sys.modules.get(name)
    if there is not None and _READ.get(name, read) != read:
        del sys.modules[name]
    if str(path.parent) != __path__[0]:
        __path__.insert(0, str(path.parent))
    importlib.invalidate_caches()
    module = importlib.import_module(name)
    _READ[name] = read
    return module


def _cards(module: ModuleType, where: str) -> list[Card]:
    cards: list[Card] = list(getattr(module, "CARDS", []))
    if not cards:
        raise BadSetting(f"{where} holds no CARDS, the list that tells diffacet of the models in it")
    for one in cards:
        if one.name in MODELS:
            raise BadSetting(f"{where} calls a model '{one.name}', as diffacet calls one of its own; rename it")
        if one.task not in TASKS:
            raise BadSetting(
                f"{where} says that the task of '{one.name}' is '{one.task}'{nearest(one.task, TASKS)}; tasks are"
                f" {', '.join(TASKS)}"
            )
        taken = {field.name for field in fields(one.config)} & {field.name for field in fields(Training)}
        if taken:
            raise BadSetting(
                f"{where} gives '{one.name}' a setting {min(taken)}, which is one of the training; rename it"
            )
    return cards


# A process that is given settings of such a model imports its module by name, before it asks for any card.
__path__[:0] = [str(path.parent) for path in _files()]
