"""The HTTP application: routes behind their guards, errors in one shape, and the life of the service."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

import diffacet
from diffacet.app.serving import faults, routes, schemas
from diffacet.app.serving.documents import document
from diffacet.app.serving.faults import Fault
from diffacet.app.serving.guards import STATIC, Envelope, Guard
from diffacet.app.serving.options import ServeOptions
from diffacet.app.serving.pages import Pages
from diffacet.app.serving.recommender import Recommender
from diffacet.app.serving.service import Service


def create_app(
    recommender: Recommender, options: ServeOptions, *, on_reload: Callable[[], None] | None = None
) -> FastAPI:
    """The application that serves `recommender`; `app.state.service` is the `Service` behind it.

    Args:
        recommender: loaded.
        options: limits and keys.
        on_reload: called after a reload by request that changed the run, in a thread of its own.
    """
    service = Service(recommender, options, on_reload)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.begin_drain()
        service.stop()

    app = FastAPI(
        title="diffacet",
        version=diffacet.__version__,
        docs_url=None,  # its pages load from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=life,
    )
    app.state.service = service
    app.include_router(routes.router)
    pages = Pages()
    app.add_route("/", pages.index, methods=["GET"], include_in_schema=False)
    app.add_route(STATIC + "{name:path}", pages.static, methods=["GET"], include_in_schema=False)
    for path, endpoint in (("/healthz", routes.healthz), ("/readyz", routes.readyz)):
        app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
    app.exception_handler(Fault)(_of_fault)
    app.exception_handler(HTTPException)(_of_router)
    app.exception_handler(RequestValidationError)(_of_query)

    def whole() -> dict[str, object]:
        if app.openapi_schema is None:
            app.openapi_schema = document(app, options)
        return app.openapi_schema

    app.openapi = whole  # type: ignore[method-assign]
    _guarded(app, service)
    return app


def _guarded(app: FastAPI, service: Service) -> None:
    """Put the layers before the application, the inner one first."""
    app.add_middleware(Guard, service=service)
    if service.options.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=service.options.cors,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-Id"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    known = ["/", "/openapi.json", *(route.path for route in routes.router.routes if isinstance(route, APIRoute))]
    app.add_middleware(Envelope, service=service, routes=known)


async def _of_fault(request: Request, fault: Exception) -> Response:
    """The answer to a fault that a route raised."""
    assert isinstance(fault, Fault)
    request.state.trace.code = fault.code
    return Response(fault.body(), fault.status, fault.headers, "application/json")


async def _of_router(request: Request, error: Exception) -> Response:
    """The answer to what the router refuses: an unknown path, another method."""
    assert isinstance(error, HTTPException)
    message = {
        404: "there is no such path; GET /openapi.json lists them",
        405: f"{request.method[:16]} is not a method of this path",
    }.get(error.status_code, str(error.detail))
    fault = faults.of_status(error.status_code, message)
    fault.headers |= dict(error.headers or {})
    return await _of_fault(request, fault)


async def _of_query(request: Request, error: Exception) -> Response:
    """The answer to a parameter of the address that cannot be."""
    assert isinstance(error, RequestValidationError)
    told = [{**one, "loc": one["loc"][1:]} for one in error.errors()]
    return await _of_fault(request, schemas.refusal(told, schemas.ItemsQuery.model_fields))
