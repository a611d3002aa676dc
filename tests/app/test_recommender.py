"""A run in service: what it answers, what it refuses to load, and how it is exchanged."""

import json
import os
import pickle
import shutil
import threading

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

import diffacet
from diffacet import BadRun, BadSetting, Recommender, UnknownItem
from servingshop import served_run

HISTORY = [3, 5, 8, 12, 14]


@pytest.fixture
def copied(shop_run, tmp_path):
    """A copy of the run, to be damaged."""
    return shutil.copytree(shop_run, tmp_path / "run")


@pytest.fixture(scope="module")
def other_run(shop_data, tmp_path_factory):
    """The same model on the same data, from another seed."""
    return served_run(shop_data, tmp_path_factory.mktemp("other") / "dmi", seed=9)


@pytest.fixture(scope="module")
def strange_run(tmp_path_factory):
    """A run on a log of which the shop has no item."""
    folder = tmp_path_factory.mktemp("strange")
    rows = [f"{user},x{(user + n) % 20},{n}" for user in range(30) for n in range(8)]
    (folder / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    diffacet.import_log([folder / "log.csv"], folder / "data")
    return served_run(folder / "data", folder / "run")


def same(one, other):
    return one.item_id.to_list() == other.item_id.to_list() and one.score.tobytes() == other.score.tobytes()


@pytest.mark.parametrize("name", ["dmi", "comirec-sa", "sasrec", "facet", "ease", "pop"])
def test_every_kind_of_model_answers_as_its_run_does(shop_runs, name):
    service, run = Recommender.load(shop_runs[name]), diffacet.load(shop_runs[name])
    assert same(service.recommend(HISTORY, 7), run.retriever().recommend(HISTORY, 7))
    assert same(service.recommend(HISTORY, 7), run.recommender().recommend(HISTORY, 7))
    card = service.card()
    assert card["model"] == name
    assert card["version"] == service.version == run.recommender().version
    assert card["data"]["items"] == service.n_items == 40
    assert json.loads(json.dumps(card)) == card
    assert service.warnings == []
    assert service.answer([diffacet.Query(HISTORY, 7)]).version == service.version


@pytest.mark.parametrize("name", ["dmi", "facet"])
def test_each_number_of_refinement_steps_is_that_of_a_run_loaded_so(shop_runs, name):
    service = Recommender.load(shop_runs[name])
    steps = service.card()["refine_steps"]
    answers = []
    for number in range(steps["max"] + 1):
        asked = service.recommend(HISTORY, 20, refine_steps=number)
        assert same(asked, Recommender.load(shop_runs[name], refine_steps=number).recommend(HISTORY, 20))
        answers.append(asked.score.tobytes())
    assert len(set(answers)) > 2
    assert same(service.recommend(HISTORY, 20), service.recommend(HISTORY, 20, refine_steps=steps["default"]))
    with pytest.raises(BadSetting, match="refine_steps lies in") as told:
        service.recommend(HISTORY, refine_steps=steps["max"] + 1)
    assert told.value.field == "refine_steps"
    with pytest.raises(BadSetting, match="no refinement steps"):
        Recommender.load(shop_runs["ease"]).recommend(HISTORY, refine_steps=1)


def test_other_settings_are_another_version_and_survive_a_reload(shop_run, other_run, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(shop_run)
    plain, changed = Recommender.load(link), Recommender.load(link, refine_steps=0)
    assert plain.version != changed.version
    assert not changed.reload().changed
    link.unlink()
    link.symlink_to(other_run)
    assert changed.reload().changed
    assert same(changed.recommend(HISTORY), Recommender.load(other_run, refine_steps=0).recommend(HISTORY))


def test_an_explanation_shows_the_way_to_the_interests_that_search(shop_runs):
    service = Recommender.load(shop_runs["dmi"])
    history = [*range(1, 13), "nobody"]
    told = service.explain(history)
    assert told.unknown == ["nobody"]
    assert told.cut == 4  # the model reads eight
    assert told.item_id.to_list() == list(range(5, 13))
    assert told.titles.to_list() == [f"Ware <{n}> & co" for n in range(5, 13)]
    assert told.refine_steps == 10
    np.testing.assert_array_equal(told.refined, service.encode([history])[0])
    assert told.attention.shape == told.kept.shape == (4, 8)
    np.testing.assert_allclose(told.attention.sum(1), 1, atol=1e-5)
    assert (told.kept.sum(1) == 4).all()  # gamma = 0.5
    for row in range(4):
        assert told.attention[row][told.kept[row]].min() >= told.attention[row][~told.kept[row]].max()
    assert [len(told.plane[name]) for name in ("coarse", "refined", "items")] == [4, 4, 8]
    unrefined = service.explain(history, refine_steps=0)
    np.testing.assert_array_equal(unrefined.refined, unrefined.coarse)
    np.testing.assert_array_equal(unrefined.coarse, told.coarse)
    assert not np.allclose(told.refined, told.coarse)


def test_models_explain_what_they_have(shop_runs):
    multi = Recommender.load(shop_runs["comirec-sa"]).explain(HISTORY)
    np.testing.assert_array_equal(multi.coarse, multi.refined)
    assert multi.kept is None
    assert multi.refine_steps is None
    single = Recommender.load(shop_runs["sasrec"]).explain(HISTORY)
    assert single.attention is None
    assert single.refined.shape[0] == 1
    facet = Recommender.load(shop_runs["facet"]).explain(HISTORY)
    assert facet.attention.shape == (4, 5)
    assert not np.allclose(facet.refined, facet.coarse)
    for name in ("ease", "pop"):
        service = Recommender.load(shop_runs[name])
        with pytest.raises(BadSetting, match="no vectors"):
            service.explain(HISTORY)
        with pytest.raises(BadSetting, match="no vectors"):
            service.similar(3)


def test_items_are_found_by_id_and_title(shop_run):
    service = Recommender.load(shop_run)
    assert service.find().total == 40
    assert service.find("7").item_id[0] == 7
    found = service.find("ware <1", limit=5)
    assert found.total == 11
    assert len(found.item_id) == 5
    assert all(title.startswith("Ware <1") for title in found.titles)
    rest = service.find("WARE <1", limit=50, offset=5)
    assert sorted([*found.item_id, *rest.item_id]) == sorted([1, *range(10, 20)])
    assert service.find("& co", limit=2, offset=39).item_id.len() == 1
    assert service.find("nothing of the kind").total == 0
    with pytest.raises(UnknownItem, match="item x is not in the catalogue"):
        service.similar("x")


def test_the_run_carries_held_out_histories(shop_run, shop_data):
    log = pl.read_csv(shop_data.parent / "log.csv")
    for example in Recommender.load(shop_run).examples():
        assert example.history
        assert example.next
        whole = [*example.history, *example.next]
        assert any(set(whole) <= set(rows["sku"]) for _, rows in log.group_by("customer"))


def test_damage_is_refused(copied, other_run, tmp_path):
    weights, golden = copied / "best.safetensors", copied / "golden.json"
    whole, told = weights.read_bytes(), golden.read_text()

    def refused(match):
        with pytest.raises(BadRun, match=match):
            Recommender.load(copied)

    weights.write_bytes(whole[: len(whole) // 2])
    refused("damaged")
    weights.write_bytes((other_run / "best.safetensors").read_bytes())
    refused("is not the file that the run was trained to")
    save_file({"weight": torch.zeros(3)}, weights)
    refused("not a checkpoint of this program")
    weights.unlink()
    refused("missing")
    weights.write_bytes(whole)
    golden.write_text("{}")
    refused("golden.json is damaged")
    answer = json.loads(told)
    answer["answer"]["scores"][3] += 0.1
    golden.write_text(json.dumps(answer))
    refused("answers its golden request otherwise")
    answer = json.loads(told)
    answer["answer"]["items"][0] = 40 if answer["answer"]["items"][0] != 40 else 39
    golden.write_text(json.dumps(answer))
    refused("is missing")
    golden.unlink()
    assert "no golden request" in Recommender.load(copied).warnings[0]
    with pytest.raises(BadRun, match="no run directory"):
        Recommender.load(tmp_path)


def test_a_pickle_in_a_run_is_never_opened(copied, tmp_path):
    """Whoever may write into a run directory must not be able to run code in the service."""
    trap, sprung = tmp_path / "trap", tmp_path / "sprung"

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(sprung),))

    trap.write_bytes(pickle.dumps(Bomb()))
    planted = ["model.pkl", "best.pt", "index.pkl", "golden.pkl", "catalogue.pkl", "data.npy", "index-hnsw-0.faiss"]
    for name in planted:
        shutil.copy(trap, copied / name)
    assert len(Recommender.load(copied, index="hnsw").recommend(HISTORY, 5)) == 5
    for name in ("best.safetensors", "catalogue.parquet", "run.json", "golden.json", "examples.json"):
        kept = (copied / name).read_bytes()
        shutil.copy(trap, copied / name)
        with pytest.raises(BadRun):
            Recommender.load(copied)
        (copied / name).write_bytes(kept)
    index = next(path for path in copied.glob("index-hnsw-*.faiss") if path.name != "index-hnsw-0.faiss")
    shutil.copy(trap, index)
    assert "built anew" in Recommender.load(copied, index="hnsw").warnings[0]
    assert not sprung.exists()
    pickle.loads(trap.read_bytes())
    assert sprung.exists(), "the trap works"


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_a_near_index_is_kept_for_the_next_time(copied, kind):
    first = Recommender.load(copied, index=kind)
    (kept,) = copied.glob(f"index-{kind}-*.faiss")
    before = kept.stat().st_mtime_ns
    again = Recommender.load(copied, index=kind)
    assert kept.stat().st_mtime_ns == before
    assert same(first.recommend(HISTORY, 5), again.recommend(HISTORY, 5))
    assert again.card()["index"] == kind
    os.truncate(kept, 10)
    assert "built anew" in Recommender.load(copied, index=kind).warnings[0]
    assert same(first.recommend(HISTORY, 5), Recommender.load(copied, index=kind).recommend(HISTORY, 5))


def test_a_reload_exchanges_runs_and_refuses_bad_ones(shop_run, other_run, strange_run, tmp_path):
    link = tmp_path / "current"

    def point(to):
        link.unlink(missing_ok=True)
        link.symlink_to(to)

    point(shop_run)
    service = Recommender.load(link)
    old, answer = service.version, service.recommend(HISTORY)
    assert not service.reload().changed
    damaged = shutil.copytree(other_run, tmp_path / "damaged")
    os.truncate(damaged / "best.safetensors", 1000)
    for bad, match in ((damaged, "damaged"), (strange_run, "another data set"), (tmp_path / "nowhere", "no run")):
        point(bad)
        with pytest.raises(BadRun, match=match):
            service.reload()
        assert service.version == old
        assert same(service.recommend(HISTORY), answer)
    point(other_run)
    done = service.reload()
    assert (done.changed, done.before, done.version) == (True, old, service.version)
    assert same(service.recommend(HISTORY), Recommender.load(other_run).recommend(HISTORY))
    point(strange_run)
    assert service.reload(force=True).changed
    assert len(service.recommend(["x1", "x2"], 3)) == 3


def test_a_run_that_is_deleted_goes_on_answering(copied):
    service = Recommender.load(copied)
    before = service.recommend(HISTORY)
    shutil.rmtree(copied)
    assert same(service.recommend(HISTORY), before)
    assert service.card()["model"] == "dmi"
    assert service.explain(HISTORY).version == service.version
    with pytest.raises(BadRun, match="no run directory"):
        service.reload()


def test_whoever_asks_during_a_reload_is_answered_by_one_run(shop_run, other_run, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(shop_run)
    service = Recommender.load(link)
    expected = {
        one.version: one.recommend(HISTORY).score.tobytes() for one in map(Recommender.load, (shop_run, other_run))
    }
    seen, wrong, stop = set(), [], threading.Event()

    def ask():
        while not stop.is_set():
            answered = service.answer([diffacet.Query(HISTORY)])
            seen.add(answered.version)
            if answered.answers[0].score.tobytes() != expected[answered.version]:
                wrong.append(answered.version)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for run in (other_run, shop_run, other_run):
            assert service.reload(run).changed
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert seen <= set(expected)
    assert service.version in expected
