"""The routes of the HTTP API, version 1: from a parsed request to the bytes of its answer."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic_core import to_json

from diffacet.app.serving import answers as a
from diffacet.app.serving import faults, metrics, rendering, schemas
from diffacet.app.serving.batching import Answer, Outcome
from diffacet.app.serving.documents import asks, documented
from diffacet.app.serving.faults import Fault
from diffacet.app.serving.recommender import Explained
from diffacet.app.serving.service import Service, Trace, restless
from diffacet.errors import DiffacetError, UnknownItem
from diffacet.rank.candidates import Query as Wanted

router = APIRouter()
Asked = schemas.RecommendRequest | schemas.RecommendManyRequest


def json_answer(value: Any) -> Response:
    """An answer as JSON, status 200; a number that is none (a metric of nothing) is null."""
    return Response(to_json(value, inf_nan_mode="null"), media_type="application/json")


@router.post(
    "/v1/recommend",
    summary="Candidates for one history, or for several.",
    responses=documented(a.RecommendAnswer | a.RecommendManyAnswer, 400, 408, 413, 415, 422, 429, 503, 504),
    openapi_extra=asks(schemas.RecommendRequest, schemas.RecommendManyRequest),
)
async def recommend(request: Request) -> Response:
    """Items for histories of the log's own ids, also of users never seen in training."""
    service, trace = _of(request)
    asked = schemas.read_recommend(await _value(request), service.options)
    trace.told["k"] = asked.k
    if isinstance(asked, schemas.RecommendManyRequest):
        names = [f"histories.{row}" for row in range(len(asked.histories))]
        version, results = await _results(service, trace, asked, asked.histories, names)
        return json_answer({"model_version": version, "results": results})
    version, (result,) = await _results(service, trace, asked, [asked.history], ["history"])
    return json_answer({"model_version": version, **result})


@router.post(
    "/v1/interests",
    summary="The interests of a history, before and after refinement.",
    responses=documented(a.InterestsAnswer, 400, 408, 413, 415, 422, 429, 503, 504),
    openapi_extra=asks(schemas.InterestsRequest),
)
async def interests(request: Request) -> Response:
    """K interests, coarse and refined, what they attend to, and what pruning keeps."""
    service, trace = _of(request)
    asked = schemas.read(schemas.InterestsRequest, await _value(request), service.options)
    ((history, notes),) = _cut(service, trace, [asked.history])
    explain = service.recommender.explain
    version, explained = await _called(service, lambda: explain(history, refine_steps=asked.refine_steps))
    trace.told["model_version"] = version
    return json_answer({"model_version": version, **rendering.explanation(explained, notes)})


@router.post(
    "/v1/similar",
    summary="Items like one.",
    responses=documented(a.SimilarAnswer, 400, 404, 408, 413, 415, 422, 429, 503, 504),
    openapi_extra=asks(schemas.SimilarRequest),
)
async def similar(request: Request) -> Response:
    """The items whose vectors point the same way; the score is the cosine."""
    service, trace = _of(request)
    asked = schemas.read(schemas.SimilarRequest, await _value(request), service.options)
    trace.told["k"] = asked.k
    find = service.recommender.similar
    try:
        version, found = await service.call(
            lambda: find(asked.item_id, asked.k, exclude=asked.exclude, categories=asked.categories)
        )
    except UnknownItem as error:
        message = f"the catalogue holds no item {schemas.short(asked.item_id)}; GET /v1/items finds ids"
        raise Fault(404, message, code="unknown_item", field="item_id") from error
    except DiffacetError as error:
        raise _fault(service, error) from error
    trace.told["model_version"] = version
    return json_answer({"model_version": version, "items": rendering.items(found)})


@router.get(
    "/v1/items", summary="Search the catalogue.", responses=documented(a.ItemsAnswer, 408, 413, 422, 429, 503, 504)
)
async def items(request: Request, asked: Annotated[schemas.ItemsQuery, Query()]) -> Response:
    """Items by the beginning of their id or by their title, paged."""
    service, trace = _of(request)
    _, found = await _called(service, service.recommender.find, asked.q, asked.limit, asked.offset)
    told = rendering.named(found.item_id, found.titles, found.category)
    trace.told["model_version"] = found.version
    page = {"total": found.total, "offset": asked.offset, "limit": asked.limit, "items": told}
    return json_answer({"model_version": found.version, **page})


@router.get(
    "/v1/examples",
    summary="Held-out users to look at.",
    responses=documented(a.ExamplesAnswer, 408, 413, 429, 503, 504),
)
async def examples(request: Request) -> Response:
    """Histories of users that training did not see, and what came next; none for runs that carry none."""
    service, trace = _of(request)
    version, told = await _called(service, _examples, service)
    trace.told["model_version"] = version
    return json_answer({"model_version": version, "examples": told})


@router.get("/v1/model", summary="The model card.", responses=documented(a.ModelAnswer, 408, 413, 429, 504))
async def model(request: Request) -> Response:
    """What answers: model, settings, data, validation metrics, and what can be asked of it."""
    service, _ = _of(request)
    return json_answer(await service.batcher.run(service.card))


@router.post(
    "/v1/admin/reload",
    summary="Exchange the run for what lies in its path now.",
    responses=documented(a.ReloadAnswer, 400, 403, 408, 409, 413, 415, 422, 429),
    openapi_extra=asks(schemas.ReloadRequest),
)
async def reload(request: Request) -> Response:
    """The new run is loaded beside the old, checked, and exchanged at once; a bad one is refused, the old goes on."""
    service, _ = _of(request)
    asked = schemas.read(schemas.ReloadRequest, await _value(request), service.options)
    try:
        done = await asyncio.to_thread(service.reload, force=asked.force)
    except DiffacetError as error:
        raise Fault(409, str(error), field=error.field) from error
    told = {"changed": done.changed, "model_version": done.version, "before": done.before, "seconds": done.seconds}
    return json_answer(told)


@router.get("/healthz", summary="Whether the process lives.", responses=documented(a.Health))
async def healthz() -> Response:
    """200 while the process lives."""
    return json_answer({"status": "ok"})


@router.get("/readyz", summary="Whether requests may be sent here.", responses=documented(a.Ready, 503))
async def readyz(request: Request) -> Response:
    """200 when the run is loaded; 503 before, and when the service is about to stop."""
    service, _ = _of(request)
    if not service.ready:
        raise Fault(503, "the service starts or stops; ask another one", headers={"Retry-After": "1"})
    return json_answer({"status": "ready", "model_version": service.recommender.version})


@router.get("/metrics", summary="What Prometheus reads.", response_class=Response, responses=documented(None))
async def read_metrics(request: Request) -> Response:
    """Requests, latencies, batches, queue, index and reloads, as Prometheus reads them."""
    service, _ = _of(request)
    return Response(await asyncio.to_thread(service.metrics.text), media_type=metrics.CONTENT_TYPE)


def _of(request: Request) -> tuple[Service, Trace]:
    return request.app.state.service, request.state.trace


async def _value(request: Request) -> Any:
    return schemas.parse(await request.body(), request.headers.get("content-type", ""))


def _cut(service: Service, trace: Trace, given: Sequence[list[int | str]]) -> list[tuple[list[int | str], list[str]]]:
    """The part of each history that is used, with a note if that is not all; the log's line tells of them."""
    most = service.options.max_history
    note = "the history holds {:,} ids; the newest {:,} were used, as if the others were not there"
    cut = [(one[-most:], [note.format(len(one), most)] if len(one) > most else []) for one in given]
    trace.told["histories"] = len(given)
    if service.options.log_histories:
        trace.told["history"] = [history for history, _ in cut]
    return cut


def _fault(service: Service, error: Exception, history: str = "history") -> Exception:
    """The fault of a request, or the error itself where it is none."""
    return faults.of_error(error, service.can, history) or error


async def _called(service: Service, function: Any, *args: Any) -> tuple[str, Any]:
    try:
        return await service.call(function, *args)
    except DiffacetError as error:
        raise _fault(service, error) from error


async def _results(
    service: Service, trace: Trace, asked: Asked, given: Sequence[list[int | str]], names: list[str]
) -> tuple[str, list[dict[str, Any]]]:
    """Of each history its result or its error, and the version that gave all of them; `names` are for errors."""
    cut = _cut(service, trace, given)
    shared = asked.exclude_seen, asked.exclude, asked.categories, asked.diversity, asked.refine_steps
    wanted = [Wanted(history, asked.k, *shared) for history, _ in cut if history]
    outcomes = iter(await (_explained(service, wanted) if asked.explain else _plain(service, wanted, trace.token)))
    version, results = service.recommender.version, list[dict[str, Any]]()
    for name, (history, notes) in zip(names, cut, strict=True):
        if not history:
            empty = Fault(422, f"{name} is empty; give at least one item id", code="bad_value", field=name)
            results.append(_told(service, empty))
            continue
        outcome, explained = next(outcomes)
        if isinstance(outcome, Answer):
            version = outcome.version
            trace.told["batch"] = max(outcome.batch, trace.told.get("batch", 0))
            more = None if explained is None else rendering.explanation(explained, [])
            results.append(rendering.result(outcome.candidates, asked.k, notes, more))
            continue
        fault = _fault(service, outcome, name)
        # What is wrong with all histories alike is wrong with the request.
        if name == "history" or not isinstance(fault, Fault) or fault.field != name:
            raise fault
        results.append(_told(service, fault))
    trace.told["model_version"] = version
    return version, results


async def _plain(service: Service, wanted: list[Wanted], token: object) -> list[tuple[Outcome, None]]:
    return [(outcome, None) for outcome in await service.ask(wanted, token)]


def _told(service: Service, fault: Fault) -> dict[str, Any]:
    service.metrics.failed(fault.code)
    return fault.told()


async def _explained(service: Service, wanted: list[Wanted]) -> list[tuple[Outcome, Explained | None]]:
    """For each query its outcome and explanation, of one version; one call each, so that others have their turn."""
    for _ in range(3):
        told = [await service.batcher.run(_answer_and_explain, service, query) for query in wanted]
        versions = {one.version for pair in told for one in pair if one is not None and not isinstance(one, Exception)}
        if len(versions) < 2:
            return told
    raise restless()


def _answer_and_explain(service: Service, query: Wanted) -> tuple[Outcome, Explained | None]:
    answered = service.recommender.answer([query])
    (found,) = answered.answers
    if isinstance(found, DiffacetError):
        return found, None
    try:
        explained = service.recommender.explain(query.history, refine_steps=query.refine_steps)
    except DiffacetError as error:
        return error, None
    return Answer(answered.version, found, 1), explained


def _examples(service: Service) -> list[dict[str, Any]]:
    told, retriever = [], service.recommender.retriever
    for number, example in enumerate(service.recommender.examples(), 1):
        numbers = retriever.items.find(example.history)
        history = rendering.named(*retriever.named(numbers[numbers > 0]))
        told.append({"name": f"held-out user {number}", "history": history, "next": list(example.next)})
    return told
