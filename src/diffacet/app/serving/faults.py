"""What goes wrong in a request, and the one shape in which it is answered."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic_core import to_json

from diffacet.errors import BadSetting, DiffacetError, UnknownItem

CODES = {
    400: ("bad_json",),
    401: ("unauthorised",),
    403: ("forbidden",),
    404: ("not_found", "unknown_item"),
    405: ("method_not_allowed",),
    408: ("slow_request",),
    409: ("refused", "reloading"),
    413: ("too_large",),
    415: ("unsupported_media_type",),
    422: ("bad_value", "unknown_items", "not_supported"),
    429: ("busy",),
    500: ("internal",),
    503: ("not_ready",),
    504: ("timeout",),
}
"""Status: the codes that come with it, the usual one first."""

_ABILITY = {"refine_steps": "refine", "diversity": "diversity", "categories": "categories"}


class Fault(Exception):
    """An error answer: `status`, `code`, the message for the client, `field`, and `headers` of the answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.field = status, message, field
        self.code = code or CODES[status][0]
        self.headers = dict(headers or {})

    def told(self) -> dict[str, Any]:
        """{"error": {"code", "message", "field"}}."""
        return {"error": {"code": self.code, "message": self.message, "field": self.field}}

    def body(self) -> bytes:
        """`told` as JSON."""
        return to_json(self.told())


def of_error(error: Exception, can: Mapping[str, bool], history: str = "history") -> Fault | None:
    """The answer to an error of the recommender; None for a bug, or what is no fault of the request.

    Args:
        error: as raised, or as it stands in `Answered.answers`.
        can: what the model can, as in its card: tells a value out of range from a field that it cannot answer.
        history: what the request calls the history, such as "histories.3".
    """
    if isinstance(error, UnknownItem):
        # The recommender counts histories in its own call, which may hold those of other requests: said anew.
        message = "no id of the history is in the catalogue; GET /v1/items finds ids by their beginning or a title"
        return Fault(422, message, code="unknown_items", field=history)
    if isinstance(error, BadSetting):
        field = history if error.field == "history" else error.field
        ability = _ABILITY.get(field or "")
        lacks = field is None or (ability is not None and not can.get(ability, True))
        return Fault(422, str(error), code="not_supported" if lacks else "bad_value", field=field)
    return None


def of_status(status: int, detail: str) -> Fault:
    """The answer to what the router refuses."""
    if status in CODES:
        return Fault(status, detail)
    return Fault(status, detail, code=HTTPStatus(status).phrase.lower().replace(" ", "_"))


def internal(request_id: str) -> Fault:
    """The answer to a bug: no word of what it was, but where it can be looked up."""
    return Fault(500, f"the service failed; its log tells more under the request id {request_id}")


def is_users(error: BaseException) -> bool:
    """Whether an error is a refusal, not a bug."""
    return isinstance(error, DiffacetError | Fault)
