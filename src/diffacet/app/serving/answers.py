"""What the answers hold: for the OpenAPI document, and to be tested against; answers are not made from these."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.types import JsonValue

Id = int | str


class ErrorBody(BaseModel):
    """What went wrong."""

    code: str
    message: str
    field: Annotated[str | None, Field(description="The field of the request that it is about.")]


class ErrorAnswer(BaseModel):
    """The one shape of all errors."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"error": {"code": "bad_value", "message": "k lies in 1..1000; got 0", "field": "k"}}]
        }
    )
    error: ErrorBody


class Item(BaseModel):
    """An item that is recommended."""

    item_id: Id
    score: float
    interest: Annotated[int, Field(description="Which interest found it, from 0; 0 for a model without interests.")]
    category: str | None
    title: str | None


class NamedItem(BaseModel):
    """An item."""

    item_id: Id
    title: str | None
    category: str | None


class Interest(BaseModel):
    """One interest of a history of n items; vectors have d dimensions."""

    interest: int
    coarse: Annotated[list[float], Field(description="(d) As extracted.")]
    refined: Annotated[list[float], Field(description="(d) As it searches; equal to coarse where nothing refines.")]
    moved: Annotated[float, Field(description="The distance between the two.")]
    attention: Annotated[list[float] | None, Field(description="(n) Over the history; null: the model has none.")]
    kept: Annotated[list[bool] | None, Field(description="(n) Items that guide its refinement; null: none are pruned.")]
    kept_items: Annotated[list[Id] | None, Field(description="Ids of the items that are kept.")]


class Plane(BaseModel):
    """Points in the plane of the two principal axes of interests and items."""

    coarse: list[list[float]]
    refined: list[list[float]]
    items: list[list[float]]


class Explanation(BaseModel):
    """What the model makes of a history."""

    history: Annotated[list[NamedItem], Field(description="The n items that were read, oldest first.")]
    interests: list[Interest]
    unknown: list[Id]
    cut: Annotated[int, Field(description="Known items that are older than what the model reads.")]
    refine_steps: int | None
    plane: Plane
    notes: list[str]


class InterestsAnswer(Explanation):
    """What the model makes of a history, and which version of it."""

    model_version: str


class Result(BaseModel):
    """Candidates for a history, best first."""

    items: list[Item]
    unknown: Annotated[list[Id], Field(description="Ids of the history that the catalogue does not hold.")]
    notes: Annotated[list[str], Field(description="What was done otherwise than asked, such as a history cut.")]
    explain: Explanation | None


_ITEM: dict[str, JsonValue] = {"item_id": 31, "score": 0.8125, "interest": 0, "category": "tea", "title": "Green tea"}
_RESULT: dict[str, JsonValue] = {"items": [_ITEM], "unknown": [99], "notes": [], "explain": None}


class RecommendAnswer(Result):
    """Candidates for one history."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model_version": "dmi-0123456789ab", **_RESULT}]})
    model_version: str


class RecommendManyAnswer(BaseModel):
    """For each history its candidates or its error, in the order of the request."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model_version": "dmi-0123456789ab", "results": [_RESULT]}]}
    )
    model_version: str
    results: list[Result | ErrorAnswer]


class SimilarAnswer(BaseModel):
    """Items like one, nearest first; the score is the cosine."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model_version": "dmi-0123456789ab", "items": [_ITEM]}]})
    model_version: str
    items: list[Item]


class ItemsAnswer(BaseModel):
    """A page of the catalogue."""

    model_version: str
    total: Annotated[int, Field(description="Items that match.")]
    offset: int
    limit: int
    items: list[NamedItem]


class Example(BaseModel):
    """A held-out user: a history, and what came next."""

    name: str
    history: list[NamedItem]
    next: list[Id]


class ExamplesAnswer(BaseModel):
    """Held-out users that the run carries."""

    model_version: str
    examples: list[Example]


class DataCard(BaseModel):
    """What the run was trained on."""

    name: str
    fingerprint: str
    items: int
    users: int | None


class Can(BaseModel):
    """What the model can be asked."""

    interests: bool
    similar: bool
    refine: bool
    categories: bool
    diversity: bool
    titles: bool
    examples: bool


class StepsCard(BaseModel):
    """Refinement steps: as the run is set, and at most."""

    default: int
    max: int


class ModelAnswer(BaseModel):
    """The card of the run that answers."""

    model: str
    preset: str
    task: str
    summary: str
    paper: str | None
    version: str
    trained: str | None
    data: DataCard
    metrics: Annotated[dict[str, float | None], Field(description="Of the best validation.")]
    settings: dict[str, Any]
    interests: Annotated[int | None, Field(description="K.")]
    dim: Annotated[int | None, Field(description="d.")]
    length: Annotated[int, Field(description="L, the newest items of a history that are read; 0: all.")]
    index: str
    refine_steps: StepsCard | None
    categories: list[str]
    can: Can


class ReloadAnswer(BaseModel):
    """What a reload did."""

    changed: bool
    model_version: str
    before: str
    seconds: float


class Health(BaseModel):
    """The process lives."""

    status: str


class Ready(BaseModel):
    """Requests may be sent here."""

    status: str
    model_version: str
