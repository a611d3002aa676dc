"""The service over real runs, one of each kind of model: what answers hold, and that they are those of the library."""

import asyncio
import json
import shutil

import pytest
from pydantic import TypeAdapter

from diffacet.app.serving import answers
from diffacet.app.serving.recommender import Recommender
from servingfakes import KEY, metric, served

ALL = ("dmi", "comirec-sa", "sasrec", "facet", "ease", "pop")
HISTORY = [3, 4, 17, 9, 21, 8]


@pytest.fixture(scope="module")
def recommenders(shop_runs):
    """Each run, loaded once."""
    return {name: Recommender.load(path, device="cpu") for name, path in shop_runs.items()}


def run(recommender, story, **options):
    async def whole():
        async with served(recommender, **options) as (client, app):
            client.headers["X-API-Key"] = KEY
            return await story(client, app)

    return asyncio.run(whole())


def ask(recommender, path, sent=None, **options):
    """The answer of one request: status and JSON; sent None: a GET."""

    async def story(client, app):
        answer = await (client.get(path) if sent is None else client.post(path, json=sent))
        return answer.status_code, answer.json()

    return run(recommender, story, **options)


def shaped(shape, told):
    """`told` is of this shape, with no field beside."""
    read = TypeAdapter(shape).validate_python(told, strict=True)
    assert json.loads(TypeAdapter(shape).dump_json(read)) == told
    return told


def same(items, found):
    """The items of an answer are these candidates, to the bit."""
    assert [one["item_id"] for one in items] == found.item_id.to_list()
    assert [one["score"] for one in items] == found.score.tolist()
    assert [one["interest"] for one in items] == found.interest.tolist()
    assert [one["title"] for one in items] == found.titles.to_list()
    assert [one["category"] for one in items] == found.category.to_list()


@pytest.mark.parametrize("name", ALL)
def test_every_model_recommends_as_the_library_does(recommenders, name):
    recommender = recommenders[name]
    status, told = ask(recommender, "/v1/recommend", {"history": [*HISTORY, "nothing", 999], "k": 7})
    assert status == 200
    shaped(answers.RecommendAnswer, told)
    found = recommender.recommend([*HISTORY, "nothing", 999], 7)
    same(told["items"], found)
    assert told["model_version"] == recommender.version
    assert told["model_version"].startswith(f"{name}-")
    assert told["unknown"] == ["nothing", 999]
    assert told["notes"] == []
    assert not {one["item_id"] for one in told["items"]} & set(HISTORY)


@pytest.mark.parametrize("name", ALL)
def test_what_is_asked_for_is_done(recommenders, name):
    recommender = recommenders[name]
    asked = {"k": 40, "exclude_seen": False, "exclude": ["1", 2, "none"], "categories": ["left"], "diversity": 0.5}
    status, told = ask(recommender, "/v1/recommend", {"history": HISTORY, **asked})
    assert status == 200
    ids = [one["item_id"] for one in told["items"]]
    assert {1, 2} & set(ids) == set()
    assert set(ids) <= set(range(1, 21))
    assert "40 were asked for" in told["notes"][0]
    same(told["items"], recommender.recommend(HISTORY, **asked))


@pytest.mark.parametrize("name", ALL)
def test_several_histories_are_answered_as_each_alone(recommenders, name):
    recommender = recommenders[name]
    histories = [[n, n + 1, 3 * n] for n in range(1, 12)]
    status, told = ask(recommender, "/v1/recommend", {"histories": histories, "k": 5}, max_batch=4)
    assert status == 200
    shaped(answers.RecommendManyAnswer, told)
    for history, result in zip(histories, told["results"], strict=True):
        same(result["items"], recommender.recommend(history, 5))
        alone = ask(recommender, "/v1/recommend", {"history": history, "k": 5}, gather=0)[1]
        assert {**result, "model_version": told["model_version"]} == alone


@pytest.mark.parametrize("name", ALL)
def test_requests_at_once_are_computed_together_and_answered_as_alone(recommenders, name):
    recommender = recommenders[name]
    histories = [[1 + n % 40, 1 + (7 * n) % 40] for n in range(40)]

    async def crowd(client, app):
        sent = [client.post("/v1/recommend", json={"history": one, "k": 5}) for one in histories]
        texts = [answer.content for answer in await asyncio.gather(*sent)]
        return texts, metric(app, "batch_size_count"), metric(app, "batch_size_sum")

    async def alone(client, app):
        return [(await client.post("/v1/recommend", json={"history": one, "k": 5})).content for one in histories]

    together, calls, queries = run(recommender, crowd)
    assert together == run(recommender, alone)
    assert queries == 40
    assert calls < 20


@pytest.mark.parametrize("name", ALL)
def test_the_card_tells_what_can_be_asked_and_the_answers_keep_to_it(recommenders, name):
    recommender = recommenders[name]
    status, card = ask(recommender, "/v1/model")
    assert status == 200
    shaped(answers.ModelAnswer, card)
    assert card["model"] == name
    assert card["version"] == recommender.version
    can = card["can"]
    asked = {
        "interests": ("/v1/interests", {"history": HISTORY}, None),
        "similar": ("/v1/similar", {"item_id": 3}, None),
        "refine": ("/v1/recommend", {"history": HISTORY, "refine_steps": 1}, "refine_steps"),
        "categories": ("/v1/recommend", {"history": HISTORY, "categories": ["tea"]}, "categories"),
        "diversity": ("/v1/recommend", {"history": HISTORY, "diversity": 0.5}, "diversity"),
    }
    for what, (path, sent, field) in asked.items():
        status, told = ask(recommender, path, sent)
        assert (status == 200) == can[what], (what, told)
        if status != 200:
            assert status == 422
            assert (told["error"]["code"], told["error"]["field"]) == ("not_supported", field)
    assert can["titles"]
    assert can["examples"]


@pytest.mark.parametrize("name", ["dmi", "comirec-sa", "sasrec", "facet"])
def test_interests_are_explained(recommenders, name):
    recommender = recommenders[name]
    status, told = ask(recommender, "/v1/interests", {"history": [777, *HISTORY]})
    assert status == 200
    shaped(answers.InterestsAnswer, told)
    explained = recommender.explain([777, *HISTORY])
    assert [one["item_id"] for one in told["history"]] == explained.item_id.to_list()
    assert [one["coarse"] for one in told["interests"]] == explained.coarse.tolist()
    assert [one["refined"] for one in told["interests"]] == explained.refined.tolist()
    assert told["unknown"] == [777]
    n = len(told["history"])
    for one in told["interests"]:
        squares = [(a - b) ** 2 for a, b in zip(one["coarse"], one["refined"], strict=True)]
        assert one["moved"] == pytest.approx(sum(squares) ** 0.5, abs=1e-5)
        assert one["attention"] is None or len(one["attention"]) == n
        if one["kept"] is not None:
            ids = [item["item_id"] for item in told["history"]]
            assert one["kept_items"] == [item for item, stays in zip(ids, one["kept"], strict=True) if stays]
    assert len(told["plane"]["items"]) == n


def test_a_history_longer_than_the_model_reads_is_noted(recommenders):
    _, told = ask(recommenders["dmi"], "/v1/interests", {"history": list(range(1, 21))})
    assert [one["item_id"] for one in told["history"]] == list(range(13, 21))
    assert told["cut"] == 12
    assert "12 older" in told["notes"][0]


def test_an_explanation_comes_with_candidates(recommenders):
    recommender = recommenders["dmi"]
    status, told = ask(recommender, "/v1/recommend", {"histories": [HISTORY, [999], [5]], "k": 3, "explain": True})
    assert status == 200
    shaped(answers.RecommendManyAnswer, told)
    whole = ask(recommender, "/v1/interests", {"history": HISTORY})[1]
    assert told["results"][0]["explain"] | {"model_version": recommender.version} == whole
    assert told["results"][1]["error"]["field"] == "histories.1"
    same(told["results"][2]["items"], recommender.recommend([5], 3))
    one = ask(recommender, "/v1/recommend", {"history": HISTORY, "k": 3, "explain": True})[1]
    shaped(answers.RecommendAnswer, one)
    assert {**told["results"][0], "model_version": recommender.version} == one


def test_refinement_steps_are_chosen_by_the_request(recommenders):
    recommender = recommenders["dmi"]
    _, none = ask(recommender, "/v1/interests", {"history": HISTORY, "refine_steps": 0})
    assert none["refine_steps"] == 0
    assert all(one["coarse"] == one["refined"] for one in none["interests"])
    _, told = ask(recommender, "/v1/recommend", {"history": HISTORY, "refine_steps": 1})
    same(told["items"], recommender.recommend(HISTORY, refine_steps=1))
    status, told = ask(recommender, "/v1/recommend", {"history": HISTORY, "refine_steps": 9999})
    assert status == 422
    assert (told["error"]["code"], told["error"]["field"]) == ("bad_value", "refine_steps")


def test_a_category_that_is_none_names_the_nearest(recommenders):
    status, told = ask(recommenders["pop"], "/v1/recommend", {"history": HISTORY, "categories": ["tee"]})
    assert status == 422
    assert told["error"]["field"] == "categories"
    assert "no category 'tee' (did you mean 'tea'?); ask for one" in told["error"]["message"]


def test_similar_items(recommenders):
    recommender = recommenders["comirec-sa"]
    status, told = ask(recommender, "/v1/similar", {"item_id": "3", "k": 4, "exclude": [5], "categories": ["left"]})
    assert status == 200
    shaped(answers.SimilarAnswer, told)
    same(told["items"], recommender.similar(3, 4, exclude=[5], categories=["left"]))
    status, told = ask(recommender, "/v1/similar", {"item_id": "x" * 200})
    assert status == 404
    assert (told["error"]["code"], told["error"]["field"]) == ("unknown_item", "item_id")
    assert len(told["error"]["message"]) < 200


def test_items_are_found_and_paged(recommenders):
    recommender = recommenders["pop"]
    status, told = ask(recommender, "/v1/items?limit=7&offset=35")
    assert status == 200
    shaped(answers.ItemsAnswer, told)
    assert (told["total"], told["limit"], told["offset"], len(told["items"])) == (40, 7, 35, 5)
    first = ask(recommender, "/v1/items?limit=35")[1]["items"]
    assert {one["item_id"] for one in first + told["items"]} == set(range(1, 41))
    found = ask(recommender, "/v1/items?q=ware%20%3C12")[1]
    assert found["items"] == [{"item_id": 12, "title": "Ware <12> & co", "category": "left"}]
    assert ask(recommender, "/v1/items?q=no%20such%20thing")[1]["total"] == 0
    assert ask(recommender, "/v1/items?offset=1000000000")[1]["items"] == []


def test_examples_are_held_out_users(recommenders):
    recommender = recommenders["dmi"]
    status, told = ask(recommender, "/v1/examples")
    assert status == 200
    shaped(answers.ExamplesAnswer, told)
    expected = recommender.examples()
    assert len(told["examples"]) == len(expected) > 0
    first = told["examples"][0]
    assert first["name"] == "held-out user 1"
    assert [one["item_id"] for one in first["history"]] == expected[0].history
    assert first["history"][0]["title"].startswith("Ware")
    assert first["next"] == expected[0].next


def test_a_run_whose_directory_is_deleted_goes_on_and_its_reload_is_refused(shop_run, tmp_path):
    place = tmp_path / "run"
    shutil.copytree(shop_run, place)
    recommender = Recommender.load(place, device="cpu")

    async def story(client, app):
        shutil.rmtree(place)
        seen = [await client.get(path) for path in ("/v1/model", "/v1/items", "/v1/examples", "/readyz", "/metrics")]
        seen.append(await client.post("/v1/recommend", json={"history": HISTORY, "explain": True}))
        seen.append(await client.post("/v1/similar", json={"item_id": 3}))
        return [one.status_code for one in seen], await client.post("/v1/admin/reload", json={})

    statuses, reload = run(recommender, story, keys=(KEY,))
    assert set(statuses) == {200}
    assert reload.status_code == 409
    assert reload.json()["error"]["code"] == "refused"


def test_a_reload_brings_another_run(shop_runs, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(shop_runs["dmi"])
    recommender = Recommender.load(link, device="cpu")

    async def story(client, app):
        before = (await client.post("/v1/recommend", json={"history": HISTORY})).json()
        link.unlink()
        link.symlink_to(shop_runs["ease"])
        told = (await client.post("/v1/admin/reload", json={})).json()
        after = (await client.post("/v1/recommend", json={"history": HISTORY})).json()
        refusal = await client.post("/v1/interests", json={"history": HISTORY})
        again = (await client.post("/v1/admin/reload", json={})).json()
        return before, shaped(answers.ReloadAnswer, told), after, refusal, again

    before, told, after, refusal, again = run(recommender, story, keys=(KEY,))
    assert told["changed"]
    assert (told["before"], told["model_version"]) == (before["model_version"], after["model_version"])
    assert after["model_version"].startswith("ease-")
    assert refusal.status_code == 422
    assert not again["changed"]


def test_the_document_is_complete(recommenders):
    status, told = ask(recommenders["dmi"], "/openapi.json")
    assert status == 200
    paths = {path: sorted(operations) for path, operations in told["paths"].items()}
    assert paths == {
        "/v1/recommend": ["post"],
        "/v1/interests": ["post"],
        "/v1/similar": ["post"],
        "/v1/items": ["get"],
        "/v1/examples": ["get"],
        "/v1/model": ["get"],
        "/v1/admin/reload": ["post"],
        "/healthz": ["get"],
        "/readyz": ["get"],
        "/metrics": ["get"],
    }
    for operations in told["paths"].values():
        for operation in operations.values():
            assert operation["summary"]
            assert operation["description"]
            for status, response in operation["responses"].items():
                if status >= "400":
                    shape = response["content"]["application/json"]["schema"]
                    assert shape == {"$ref": "#/components/schemas/ErrorAnswer"}
            if "requestBody" in operation:
                assert operation["requestBody"]["content"]["application/json"]["examples"]
                assert {"400", "408", "413", "415", "422", "429"} <= set(operation["responses"])
    assert told["components"]["schemas"]["RecommendRequest"]["properties"]["k"]["maximum"] == 1000
    assert "security" not in told["paths"]["/v1/model"]["get"]


def test_nothing_loads_from_elsewhere(recommenders):
    assert {ask(recommenders["pop"], path)[0] for path in ("/docs", "/redoc")} == {404}
