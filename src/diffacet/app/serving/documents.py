"""The OpenAPI document: what FastAPI reads from the routes, and what it cannot know: bodies, limits, keys."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from diffacet.app.serving import schemas
from diffacet.app.serving.answers import ErrorAnswer
from diffacet.app.serving.faults import CODES
from diffacet.app.serving.options import ServeOptions

_TOLD = {
    400: "The body is no JSON.",
    401: "No key, or an unknown one.",
    403: "The service was started without keys.",
    404: "The catalogue does not hold the item.",
    405: "The method is not one of this path.",
    408: "The body did not arrive in time.",
    409: "The new run is refused, or a reload is running; the old run goes on.",
    413: "The body is too large.",
    415: "The body is no application/json.",
    422: "A field is unknown, missing or out of range, or the model cannot answer it.",
    429: "Too many requests are being answered.",
    500: "The service failed; its log tells more.",
    503: "Not now; ask again.",
    504: "No answer within the time of a request.",
}
_REF = "#/components/schemas/{model}"
_OPEN = ("/healthz", "/readyz")
_DESCRIPTION = """Candidates for histories of item ids, by a model that refines several interests by diffusion.

Errors have one shape: `{"error": {"code", "message", "field"}}`. Every answer carries `X-Request-Id`, which the log
knows, too; a client may give its own.
"""


def documented(answer: Any, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """The responses of a route: 200 with `answer` (None: plain text), the errors named, and those of any route."""
    told: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorAnswer, "description": f"{_TOLD[status]} Codes: {', '.join(CODES[status])}."}
        for status in sorted({401, 500, *statuses})
    }
    if answer is None:
        told[200] = {"content": {"text/plain": {"schema": {"type": "string"}}}}
    else:
        told[200] = {"model": answer, "description": "The answer."}
    return told


def asks(*kinds: type[BaseModel]) -> dict[str, Any]:
    """What a route says of its body: one of these requests."""
    references = [{"$ref": _REF.format(model=kind.__name__)} for kind in kinds]
    schema = references[0] if len(references) == 1 else {"oneOf": references}
    examples = {
        kind.__name__: {"value": kind.model_config["json_schema_extra"]["examples"][0]}  # type: ignore[index]
        for kind in kinds
    }
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": examples}}}
    }


def document(app: FastAPI, options: ServeOptions) -> dict[str, Any]:
    """The whole document of an application with these limits and keys."""
    told = get_openapi(title="diffacet", version=app.version, description=_DESCRIPTION, routes=app.routes)
    _, more = models_json_schema([(kind, "validation") for kind in schemas.REQUESTS], ref_template=_REF)
    parts = told["components"]
    parts["schemas"] |= more["$defs"]
    _limit(parts["schemas"], options)
    parts["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, operations in told["paths"].items():
        for operation in operations.values():
            if path in _OPEN or not options.auth:
                del operation["responses"]["401"]
            else:
                operation["security"] = [{"bearer": []}, {"key": []}]
            for status in ("429", "503"):
                if status in operation["responses"]:
                    wait = {"description": "Seconds to wait.", "schema": {"type": "integer"}}
                    operation["responses"][status]["headers"] = {"Retry-After": wait}
            operation["responses"] = dict(sorted(operation["responses"].items()))
    return told


def _limit(known: dict[str, Any], options: ServeOptions) -> None:
    """Write the limits that options set into the schemas of the requests."""
    for kind in schemas.REQUESTS:
        fields = known[kind.__name__]["properties"]
        if "k" in fields:
            fields["k"]["maximum"] = options.max_k
        if "histories" in fields:
            fields["histories"]["maxItems"] = options.max_histories
        if "history" in fields:
            fields["history"]["description"] += f" Of more than {options.max_history} the newest are used."
