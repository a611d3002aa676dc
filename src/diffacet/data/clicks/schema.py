"""The schema of a click data set: what dataset.json says its columns mean."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from diffacet.data.clicks import splitting
from diffacet.errors import BadLog, nearest

History = Literal["log", "inline"]
BehaviourTimes = Literal["real", "order"]

KNOWN_USERS, KNOWN_ITEMS = "samples.user_id", "samples.item_id"
"""The names under which vocabularies hold the users and the items of training samples; no field may have them."""

_TUPLES = ("target_fields", "user_fields", "context_fields", "dense_fields", "outcome_columns")


@dataclass(frozen=True)
class BehaviourField:
    """A field that describes a behaviour and, mostly, the target alike.

    Attributes:
        name: of the field.
        behaviour: the column on the behaviour's side: x of the behaviours, or items.x or users.x, which is joined.
        target: the column on the sample's side, likewise; None where only behaviours have the field.
    """

    name: str
    behaviour: str
    target: str | None = None


@dataclass(frozen=True, kw_only=True)
class Schema:
    """What the columns of a click data set mean; raises BadLog, when made, for what contradicts itself.

    A column is named x (of the samples, on the behaviour's side of the behaviours), items.x or users.x (of that file).

    Attributes:
        name: of the data set.
        source: where it comes from.
        licence: under which it may be used.
        timezone: IANA name, for the borders of days; times are in UTC.
        history: "log", one list of behaviours a user; or "inline", lists inside the samples.
        behaviour_times: "real"; or "order" where they only order, and ages mean nothing.
        group: column of the samples whose groups GAUC averages over; None: the user.
        behaviour_fields: at least one; the first is the finest, mostly the item.
        target_fields: further categorical columns of the target.
        user_fields: categorical columns of the user.
        context_fields: categorical columns of the showing.
        dense_fields: numeric columns of a sample.
        outcome_columns: known only after the showing: fields of past behaviours at most. `label` always is one.
        split: the rule, see `splitting`.
    """

    name: str
    behaviour_fields: tuple[BehaviourField, ...]
    split: Mapping[str, str | int | float]
    source: str = ""
    licence: str = ""
    timezone: str = "UTC"
    history: History = "log"
    behaviour_times: BehaviourTimes = "real"
    group: str | None = None
    target_fields: tuple[str, ...] = ()
    user_fields: tuple[str, ...] = ()
    context_fields: tuple[str, ...] = ()
    dense_fields: tuple[str, ...] = ()
    outcome_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self, self.name or "the schema")

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str = "dataset.json") -> "Schema":
        """The schema in the JSON object `value`; raises BadLog, which starts with `where`, for all that is wrong."""
        names = [field.name for field in fields(cls)]
        for key in value:
            if key not in names:
                raise BadLog(f"{where}: unknown key {key!r}{nearest(key, names)}; the keys are {', '.join(names)}")
        for key in ("name", "behaviour_fields", "split"):
            if key not in value:
                raise BadLog(f"{where} lacks {key!r}; name, behaviour_fields and split are always said")
        made: dict[str, Any] = dict(value)
        for key in _TUPLES:
            if not isinstance(made.get(key, []), list):
                raise BadLog(f"{where}: {key} is a list of column names; got {made[key]!r}")
            made[key] = tuple(made.get(key, []))
        if not isinstance(made["split"], dict):
            raise BadLog(f"{where}: split is an object such as {{'by': 'day'}}; got {made['split']!r}")
        made["behaviour_fields"] = _behaviour_fields(made["behaviour_fields"], where)
        try:
            return cls(**made)
        except BadLog as error:
            raise BadLog(f"{where}: {error}") from None

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads: the content of dataset.json."""
        value = asdict(self)
        value["behaviour_fields"] = [asdict(field) for field in self.behaviour_fields]
        return {key: list(part) if isinstance(part, tuple) else part for key, part in value.items()}

    @property
    def timed(self) -> bool:
        """Whether the times of behaviours are real, so that ages mean something."""
        return self.behaviour_times == "real"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the F behaviour fields."""
        return tuple(field.name for field in self.behaviour_fields)

    @property
    def other_names(self) -> tuple[str, ...]:
        """The G further categorical fields of a sample: of user, context and target, in this order."""
        return self.user_fields + self.context_fields + self.target_fields

    @property
    def outcomes(self) -> frozenset[str]:
        """Columns that are known only after the showing."""
        return frozenset(self.outcome_columns) | {"label"}

    @property
    def sample_columns(self) -> dict[str, str]:
        """The columns that describe a sample to a model, each with what it serves as."""
        served = {
            field.target: f"target of behaviour field {field.name!r}" for field in self.behaviour_fields if field.target
        }
        for key in ("user_fields", "context_fields", "target_fields", "dense_fields"):
            served |= dict.fromkeys(getattr(self, key), key)
        return served


def source_of(column: str) -> tuple[str | None, str]:
    """The file ("items", "users" or None) and the plain name that `column` (x, items.x, users.x) stands for."""
    table, dot, name = column.partition(".")
    return (table, name) if dot and table in ("items", "users") else (None, column)


def _behaviour_fields(value: object, where: str) -> tuple[BehaviourField, ...]:
    """The behaviour fields in a list of JSON objects."""
    if not isinstance(value, list):
        raise BadLog(f"{where}: behaviour_fields is a list of objects with name, behaviour and target; got {value!r}")
    keys = [field.name for field in fields(BehaviourField)]
    for place, one in enumerate(value, 1):
        if not isinstance(one, dict) or not {"name", "behaviour"} <= set(one):
            raise BadLog(f"{where}: behaviour field {place} is an object with name, behaviour and target; got {one!r}")
        for key in one:
            if key not in keys:
                raise BadLog(f"{where}: unknown key {key!r}{nearest(key, keys)} of behaviour field {place}")
    return tuple(BehaviourField(**one) for one in value)


def _check(schema: Schema, where: str) -> None:
    """Raise BadLog for whatever in `schema` is of the wrong kind, named twice, or tells the answer."""
    texts = [schema.name, schema.source, schema.licence, schema.timezone, schema.group or ""]
    named = [name for key in _TUPLES for name in getattr(schema, key)]
    both = [part for one in schema.behaviour_fields for part in (one.name, one.behaviour, one.target or "-")]
    for text in (*texts, *named, *both):
        if not isinstance(text, str):
            raise BadLog(f"names and columns of a schema are texts; got {text!r}")
    if not schema.name or not all(named) or not all(both):
        raise BadLog("the name of the data set, of a field or of a column is empty; write one")
    if not schema.behaviour_fields:
        raise BadLog("behaviour_fields is empty; a behaviour needs at least one field, such as the item")
    for key, allowed in (("history", get_args(History)), ("behaviour_times", get_args(BehaviourTimes))):
        if getattr(schema, key) not in allowed:
            raise BadLog(f"{key} is {' or '.join(map(repr, allowed))}; got {getattr(schema, key)!r}")
    if not splitting.known_zone(schema.timezone):
        raise BadLog(f"timezone {schema.timezone!r} is unknown; write an IANA name such as UTC or Asia/Shanghai")
    everything = [*schema.names, *schema.other_names, KNOWN_USERS, KNOWN_ITEMS]
    twice = sorted({name for name in everything if everything.count(name) > 1})
    if twice:
        raise BadLog(f"field {twice[0]!r} is named twice; each field has a name of its own")
    if len(set(schema.dense_fields)) < len(schema.dense_fields):
        raise BadLog(f"a column is named twice in dense_fields: {', '.join(schema.dense_fields)}; name it once")
    for column, use in schema.sample_columns.items():
        if column in schema.outcomes:
            raise BadLog(
                f"column {column!r} is known only after the showing (outcome_columns, and label), so it cannot "
                f"describe a sample, but it is named in {use}; only past behaviours may have it"
            )
    splitting.checked(schema.split, where)
