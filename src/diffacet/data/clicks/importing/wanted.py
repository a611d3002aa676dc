"""What a user says of a click log before it is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from diffacet.errors import BadSetting, nearest

Kind = Literal["categorical", "numeric", "first"]
"""What a column holds: values that are only equal or not, numbers, or of several values the first."""

_KINDS = get_args(Kind)[:2]


@dataclass(frozen=True)
class Asked:
    """A field that was asked for: its column, what it holds, and its name where that is another one."""

    column: str
    kind: Kind = "categorical"
    name: str | None = None


def asked(text: str) -> Asked:
    """The field that `COL` or `COL:categorical` or `COL:numeric` asks for; raises BadSetting for another kind."""
    column, colon, kind = text.rpartition(":")
    if not colon:
        return Asked(text)
    for known in _KINDS:
        if kind == known and column:
            return Asked(column, known)
    raise BadSetting(
        f"--field {text}: {kind!r}{nearest(kind, _KINDS)} is no kind of field; "
        "write COL, COL:categorical or COL:numeric"
    )


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user says of a click log; None and empty: found by name, or by default.

    Attributes:
        name: of the data set.
        user: column of the users, in every file; so are `item` and `time`.
        item: column of the items.
        time: column of the times.
        label: column of the answers, in the samples.
        fields: further columns.
        group: column of the samples that GAUC groups by.
        behaviour_type: column of the behaviours.
        outcomes: columns that are known only after the showing.
        timezone: IANA name, for days.
        split: a rule of `splitting`; None: by the log's length.
        time_unit: "auto", "s" or "ms".
        order_only: the times of behaviours only order them, so that their ages mean nothing.
        source: where the data come from.
        licence: under which they may be used.
    """

    name: str
    user: str | None = None
    item: str | None = None
    time: str | None = None
    label: str | None = None
    fields: tuple[Asked, ...] = ()
    group: str | None = None
    behaviour_type: str | None = None
    outcomes: tuple[str, ...] = ()
    timezone: str = "UTC"
    split: Mapping[str, str | int | float] | None = field(default=None)
    time_unit: str = "auto"
    order_only: bool = False
    source: str = ""
    licence: str = ""
