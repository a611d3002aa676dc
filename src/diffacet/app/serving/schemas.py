"""What a request may hold, and how it is read: strictly, with errors that name the field and what is allowed."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from diffacet.app.serving.faults import Fault
from diffacet.app.serving.options import ServeOptions
from diffacet.errors import nearest

ID_LENGTH, LIST_LENGTH, MOST_DIVERSE, MOST_STEPS, FAR = 256, 1000, 1e6, 10_000, 1_000_000_000


class _OneId:
    """An item id: an integer or a text, each of at most 256 characters; no truth value, no fraction."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        most = 10**ID_LENGTH
        return core_schema.union_schema(
            [
                core_schema.int_schema(strict=True, lt=most, gt=-most),
                core_schema.str_schema(strict=True, max_length=ID_LENGTH),
            ],
            custom_error_type="item_id",
            custom_error_message=f"is an item id: an integer or a text of at most {ID_LENGTH} characters",
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": ID_LENGTH}]}


Id = Annotated[int | str, _OneId()]
Exclude = Annotated[
    list[Id],
    Field(max_length=LIST_LENGTH, description="Further items to leave out; unknown ids are passed over."),
    FailFast(),
]
Categories = Annotated[
    list[Annotated[str, Field(max_length=ID_LENGTH)]] | None,
    Field(min_length=1, max_length=LIST_LENGTH, description="Only items that are in one of these; null: all items."),
    FailFast(),
]
K = Annotated[int, Field(ge=1, description="Items wanted.")]
Steps = Annotated[int, Field(ge=0, le=MOST_STEPS, description="S, refinement steps; null: as the run is set.")]
Force = Annotated[bool, Field(description="Take the new run even if it is one of other items.")]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _OfHistory(_Asked):
    history: Annotated[list[Id], Field(min_length=1, description="Own item ids, oldest first."), FailFast()]


class _OfHistories(_Asked):
    histories: Annotated[
        list[Annotated[list[Id], FailFast()]], Field(min_length=1, description="Histories, see `history`."), FailFast()
    ]


class _Wish(_Asked):
    k: K = 20
    exclude_seen: Annotated[bool, Field(description="Leave out the items of the history.")] = True
    exclude: Exclude = []
    categories: Categories = None
    diversity: Annotated[
        float, Field(ge=0, le=MOST_DIVERSE, description="Above 0: weigh variety of categories, in units of the score.")
    ] = 0.0
    refine_steps: Steps | None = None
    explain: Annotated[bool, Field(description="Tell the interests, too; see /v1/interests.")] = False


class RecommendRequest(_Wish, _OfHistory):  # bases from the right, so that the history comes first
    """Candidates for one history of item ids, oldest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"history": [12, 7, 99], "k": 10}]})


class RecommendManyRequest(_Wish, _OfHistories):
    """Candidates for several histories at once; each has its result, or its error."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"histories": [[12, 7, 99], [3]], "k": 10}]})


class InterestsRequest(_OfHistory):
    """The interests that the model finds in a history, before and after refinement."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"history": [12, 7, 99], "refine_steps": None}]})
    refine_steps: Steps | None = None


class SimilarRequest(_Asked):
    """The items whose vectors point the same way as that of one item."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"item_id": 12, "k": 10}]})
    item_id: Id
    k: K = 20
    exclude: Exclude = []
    categories: Categories = None


class ReloadRequest(_Asked):
    """Exchange the run for what lies in its path now."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"force": False}]})
    force: Force = False


class ItemsQuery(BaseModel):
    """Which items of the catalogue, as parameters of the address."""

    model_config = ConfigDict(extra="forbid")
    q: Annotated[
        str, Field(max_length=ID_LENGTH, description="The beginning of an id, or part of a title; empty: all items.")
    ] = ""
    limit: Annotated[int, Field(ge=1, le=LIST_LENGTH, description="Items of a page.")] = 20
    offset: Annotated[int, Field(ge=0, le=FAR, description="Items before the page.")] = 0


REQUESTS = (RecommendRequest, RecommendManyRequest, InterestsRequest, SimilarRequest, ReloadRequest)
Request = TypeVar("Request", bound=_Asked)


def parse(body: bytes, content_type: str) -> Any:
    """The JSON value of a body.

    Raises:
        Fault: 415 for another content type; 400 for what is no JSON in UTF-8, NaN and Infinity included.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Fault(
            415, "the body is JSON; send it with Content-Type: application/json", headers={"Accept": "application/json"}
        )
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse)
    except RecursionError as error:
        raise Fault(400, "the body is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise Fault(400, f"the body is no UTF-8: byte {error.start} does not belong there") from error
    except json.JSONDecodeError as error:
        raise Fault(400, f"the body is no JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except ValueError as error:
        raise Fault(400, "the body holds an integer of thousands of digits") from error


def read(kind: type[Request], value: Any, options: ServeOptions) -> Request:
    """`value` as a request of this kind; raises Fault 422 naming the field, what was got and what is allowed."""
    try:
        asked = kind.model_validate(value)
    except ValidationError as error:
        raise refusal(error.errors(include_url=False), kind.model_fields) from error
    k, histories = getattr(asked, "k", 1), getattr(asked, "histories", ())
    if k > options.max_k:
        raise _out("k", f"lies in 1..{options.max_k}", k)
    if len(histories) > options.max_histories:
        raise _out("histories", f"holds at most {options.max_histories} histories", histories)
    return asked


def read_recommend(value: Any, options: ServeOptions) -> RecommendRequest | RecommendManyRequest:
    """`value` as a request for candidates of one history or of several; raises Fault as `read`."""
    if isinstance(value, Mapping) and "histories" in value:
        if "history" in value:
            raise Fault(422, "give history or histories, not both", code="bad_value", field="histories")
        return read(RecommendManyRequest, value, options)
    return read(RecommendRequest, value, options)


def refusal(errors: Sequence[Mapping[str, Any]], known: Iterable[str]) -> Fault:
    """What the first of pydantic's `errors` says, in one sentence; `known` are the fields that are allowed."""
    # A field that is unknown says more than the one that is missing for it.
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    field, got = ".".join(map(str, first["loc"])), first.get("input")
    if first["type"] == "extra_forbidden":
        name = field[:80]
        message = f"unknown field {name!r}{nearest(name, known)}; fields are {', '.join(known)}"
        return Fault(422, message, code="bad_value", field=name)
    if first["type"] == "missing":
        return Fault(422, f"{field} is missing; fields are {', '.join(known)}", code="bad_value", field=field)
    if not field:
        whole = "the body holds a text that is no Unicode" if first["type"] == "string_unicode" else None
        message = whole or f"the body is a JSON object; got {short(got)}"
        return Fault(422, message, code="bad_value")
    return _out(field, _allowed(first), got)


def short(value: Any) -> str:
    """A value of a request as it is shown in a message: never more than a few words."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return "an object"
    text = ascii(value[:61]) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:60] + "..."


def _out(field: str, allowed: str, got: Any) -> Fault:
    return Fault(422, f"{field} {allowed}; got {short(got)}", code="bad_value", field=field)


def _allowed(error: Mapping[str, Any]) -> str:
    limits: Mapping[str, Any] = error.get("ctx", {})
    told = {
        "item_id": "{}",
        "int_type": "is an integer",
        "int_parsing": "is an integer",
        "float_type": "is a number",
        "finite_number": "is a finite number",
        "bool_type": "is true or false",
        "list_type": "is a list",
        "string_type": "is a text",
        "string_unicode": "is a text of Unicode",
        "greater_than_equal": "is at least {ge}",
        "less_than_equal": "is at most {le}",
        "too_short": "holds at least {min_length} entry",
        "too_long": "holds at most {max_length} entries",
        "string_too_long": "has at most {max_length} characters",
    }.get(error["type"])
    if told is None or error["type"] == "item_id":
        return str(error["msg"])
    return told.format(**{name: f"{value:g}" if isinstance(value, float) else value for name, value in limits.items()})


def _refuse(name: str) -> None:
    raise Fault(400, f"the body is no JSON: it has no number {name}")
