"""Refusals: every error that a user can cause, each one sentence that says what, where, what is allowed, what to do.

    DiffacetError
    ├── BadLog         a log, a data directory or a filter that cannot be used
    ├── BadSetting     an unknown or mistyped setting, model or preset, or a value out of range
    ├── BadRun         a run directory or checkpoint that cannot be used
    ├── UnknownItem    an item id outside the catalogue
    └── MissingExtra   an optional dependency that is not installed

The command line prints the message of a DiffacetError as one line and exits with 2; any other
exception is a bug of ours and keeps its traceback.
"""

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class DiffacetError(Exception):
    """Base of all refusals; `str(error)` is the message for the user, `field` what was refused, where it has a name."""

    def __init__(self, message: str = "", *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class BadLog(DiffacetError):
    """A log, a data directory or a filter of it cannot be used as it is."""


class BadSetting(DiffacetError):
    """A setting, a model or a preset is unknown, mistyped or out of range."""


class BadRun(DiffacetError):
    """A run directory or a checkpoint cannot be used as it is."""


class UnknownItem(DiffacetError):
    """An item id is not in the catalogue."""


class MissingExtra(DiffacetError):
    """An optional dependency is not installed."""


def nearest(name: str, names: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the closest of `names`, or `""` when none is close; swapped letters are closest.

    It stands directly after the wrong name, whatever follows it.
    """
    known = list(names)
    swapped = [one for one in known if sorted(one) == sorted(name)]
    close = swapped or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def require(module: str, extra: str) -> ModuleType:
    """The imported `module`; raises MissingExtra with the install command when it is not there."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"{module} is not installed ({error}); it comes with: pip install 'diffacet[{extra}]'"
        ) from error
