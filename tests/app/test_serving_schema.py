"""Generated requests, good and bad, against the OpenAPI document: never a 5xx, and answers as documented.

DIFFACET_FUZZ_CASES sets how many there are, about; 10,000 take some minutes.
"""

import copy
import os
from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.generation import GenerationMode

from diffacet.app.serving.api import create_app
from diffacet.app.serving.options import ServeOptions
from diffacet.app.serving.recommender import Recommender
from servingfakes import KEY

CASES = int(os.environ.get("DIFFACET_FUZZ_CASES", "300"))
SHARES = {
    ("POST", "/v1/recommend"): 0.4,
    ("POST", "/v1/interests"): 0.2,
    ("POST", "/v1/similar"): 0.15,
    ("GET", "/v1/items"): 0.15,
    ("POST", "/v1/admin/reload"): 0.1,
    ("GET", "/v1/model"): 0,
    ("GET", "/v1/examples"): 0,
    ("GET", "/healthz"): 0,
    ("GET", "/readyz"): 0,
    ("GET", "/metrics"): 0,
}
"""Of the cases; most go where most can be said. Of what takes no input a few do."""

load_all_checks()
# An id that the catalogue does not hold fits the document, and is refused.
LEFT_OUT = [CHECKS.get_one("positive_data_acceptance")]


@pytest.fixture(scope="module")
def document(shop_run):
    """The document of a service over a real run, whose limits are small enough to be met.

    It says nothing of keys, which every request gets: else most bad requests would be bad for their keys alone.
    """
    options = ServeOptions(keys=(KEY,), max_k=50, max_histories=4, max_history=6)
    app = create_app(Recommender.load(shop_run, device="cpu"), options)
    told = copy.deepcopy(app.openapi())
    for operation in (one for operations in told["paths"].values() for one in operations.values()):
        operation.pop("security", None)
    found = schemathesis.openapi.from_dict(told)
    found.app = app
    return found


def homely(body, draw):
    """A body whose ids are of the catalogue now and then, else nearly all histories would be unknown."""
    if not isinstance(body, dict):
        return body
    own = {name: body[name] for name in ("history", "histories", "item_id") if name in body}
    return body | {name: _homely(value, draw) for name, value in own.items()}


def _homely(value, draw):
    if isinstance(value, list):
        return [_homely(one, draw) for one in value]
    return draw(st.integers(1, 45)) if type(value) is int else value


@pytest.mark.parametrize(("method", "path"), SHARES)
def test_no_request_breaks_the_service(document, method, path):
    operation, seen, count = document[path][method], Counter(), round(CASES * SHARES[method, path])
    cases = st.sampled_from([GenerationMode.POSITIVE, GenerationMode.NEGATIVE]).flatmap(
        lambda mode: operation.as_strategy(generation_mode=mode)
    )

    @settings(max_examples=max(3, count), suppress_health_check=list(HealthCheck))
    @given(cases, st.data())
    def fuzz(case, data):
        if data.draw(st.booleans()):
            case.body = homely(case.body, data.draw)
        answer = case.call(headers={"X-API-Key": KEY})
        seen[answer.status_code] += 1
        case.validate_response(answer, excluded_checks=LEFT_OUT)

    fuzz()
    assert seen.total() >= count
    assert max(seen) < 500
    assert seen[200]
    if method == "POST":
        assert seen[422] + seen[415] + seen[400]
