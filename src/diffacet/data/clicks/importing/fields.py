"""What a column serves as: which side of a click log has it decides, unless the user says more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from diffacet.data.clicks.importing.wanted import Asked, Kind
from diffacet.data.clicks.schema import BehaviourField
from diffacet.data.formats import columns
from diffacet.errors import BadLog, nearest

FILES = ("samples", "behaviours", "items", "users")
RESERVED = ("user_id", "item_id", "timestamp", "label", "behaviour_type")
"""Columns of our own in the files; no other column may be called so."""


@dataclass(frozen=True)
class Plan:
    """The fields of a schema, and `read`: by file, the columns that they need and what those hold."""

    behaviour_fields: tuple[BehaviourField, ...] = ()
    target_fields: tuple[str, ...] = ()
    user_fields: tuple[str, ...] = ()
    context_fields: tuple[str, ...] = ()
    dense_fields: tuple[str, ...] = ()
    read: Mapping[str, Mapping[str, Kind]] = field(default_factory=lambda: {name: {} for name in FILES})


def plan(
    wanted: Sequence[Asked],
    there: Mapping[str, Sequence[str]],
    *,
    itemised: bool,
    outcomes: Sequence[str],
    taken: Mapping[str, str],
) -> Plan:
    """What each of the `wanted` fields serves as.

    A column of behaviours and samples, or of items (where `itemised`: behaviours name their item), describes a
    behaviour and the target alike; one of behaviours alone, a behaviour; one of the samples, the showing; one of users,
    the user. Numbers describe a sample only.

    Args:
        wanted: the fields.
        there: by file, the columns that may be fields.
        itemised: behaviours have an item id, so that what is known of items is known of behaviours.
        outcomes: columns that are known only after the showing; they describe past behaviours at most.
        taken: columns that have a role already, and which.

    Raises:
        BadLog: no file has the column, or none on the side that it is needed on.
    """
    made: dict[str, list[str]] = {"target": [], "user": [], "context": [], "dense": []}
    shared: list[BehaviourField] = []
    read: dict[str, dict[str, Kind]] = {name: {} for name in FILES}
    for one in wanted:
        _check(one, there, taken, outcomes)
        files = [name for name in FILES if one.column in there.get(name, ())]
        if one.column in outcomes:
            files = [name for name in files if name == "behaviours"]
            _check_outcome(one, files)
        if one.kind == "numeric":
            use, sources = "dense", [_numeric(one, files)]
        else:
            use, sources = _categorical(files, itemised)
        for source in sources:
            read[source][one.column] = one.kind
        paths = [one.column if source in ("samples", "behaviours") else f"{source}.{one.column}" for source in sources]
        if use == "behaviour":
            target = None if sources == ["behaviours"] else paths[-1]
            shared.append(BehaviourField(one.name or one.column, paths[0], target))
        else:
            made[use].append(paths[0])
    rest = {f"{use}_fields": tuple(columns) for use, columns in made.items()}
    return Plan(behaviour_fields=tuple(shared), read=read, **rest)


def _categorical(files: Sequence[str], itemised: bool) -> tuple[str, list[str]]:
    """(use, the file of the behaviour's side and that of the target's, or the one file that there is)."""
    if "behaviours" in files and "samples" in files:
        return "behaviour", ["behaviours", "samples"]
    if "items" in files and "behaviours" in files and not itemised:
        return "behaviour", ["behaviours", "items"]
    if "items" in files:
        return ("behaviour", ["items"]) if itemised else ("target", ["items"])
    if "users" in files:
        return "user", ["users"]
    return ("context", ["samples"]) if "samples" in files else ("behaviour", ["behaviours"])


def _numeric(one: Asked, files: Sequence[str]) -> str:
    for name in ("samples", "items", "users"):
        if name in files:
            return name
    raise BadLog(
        f"--field {one.column}:numeric: only the behaviours have this column, and numbers describe a sample; "
        "put it into buckets and pass it as categorical, or leave it out"
    )


def _check(one: Asked, there: Mapping[str, Sequence[str]], taken: Mapping[str, str], outcomes: Sequence[str]) -> None:
    if one.column in taken:
        raise BadLog(f"--field {one.column}: this column is {taken[one.column]} already; leave the option out")
    if one.column in RESERVED and one.column not in outcomes:
        raise BadLog(f"--field {one.column}: this name is needed for another column; rename the column in its file")
    if not any(one.column in names for names in there.values()):
        every = [name for names in there.values() for name in names]
        listed = "; ".join(f"{file}: {columns.listed(tuple(names))}" for file, names in there.items() if names)
        raise BadLog(f"--field {one.column}{nearest(one.column, every)}: no file has this column ({listed})")


def _check_outcome(one: Asked, files: Sequence[str]) -> None:
    if not files:
        raise BadLog(
            f"--field {one.column}: this column is known only after the showing (--outcome, and the label), so it "
            "cannot describe a sample; only a column of past behaviours may be of this kind"
        )
