"""Runs of a model that reads clusters of behaviours: what they keep, and that every use clusters alike."""

import dataclasses
import json

import numpy as np
import polars as pl
import pytest

import clickshop
from diffacet.app import runs
from diffacet.app.clicks import grouping
from diffacet.data.clicks.clustering import clustered, item_vectors
from diffacet.data.clicks.kmeans import Rule
from diffacet.errors import BadRun

TINY = {"dim": 4, "hidden": "12,6", "inner": 8, "batch_size": 32, "length": 20, "recent": 3, "most": 6}
SIZES = {"samples": 160, "behaviours": 24}


def train(data, out, **more):
    return runs.train("twin-v2", data, out, **{"set": TINY, **more})


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with data/, the raw files, and run/, a run of TWIN-V2 on them."""
    folder = tmp_path_factory.mktemp("shop")
    clickshop.folder(folder / "data", **SIZES)
    clickshop.files(folder, **SIZES)
    train(folder / "data", folder / "run")
    return folder


@pytest.fixture(scope="module")
def run(shop):
    return runs.load(shop / "run")


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """Even small logs are kept, here."""
    monkeypatch.setattr(grouping, "SMALL", 0)
    monkeypatch.setenv("DIFFACET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "click-clusters"


def equal(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in grouping.ARRAYS)


def test_a_run_keeps_the_vectors_and_reads_clusters(run):
    packed = run.packed()
    np.testing.assert_array_equal(run.vectors, np.load(run.path / "item_vectors.npy"))
    np.testing.assert_array_equal(run.vectors, item_vectors(packed.log, packed.split.borders[0]))
    read = run.as_read(packed)
    expected = clustered(packed.log, run.vectors, rule=Rule(most=6), length=20, apart=3)
    assert equal(read, expected)
    assert read.sizes.max() > 2
    assert (read.end - read.begin).max() < (packed.log.end - packed.log.begin).max()


def test_evaluation_and_prediction_answer_alike(run, shop):
    told = run.evaluate("test")
    assert 0 <= told["metrics"]["auc"] <= 1
    lengths = [one for one in told["slices"] if one["by"] == "history"]
    packed = run.packed()
    counts = (packed.log.end - packed.log.begin)[packed.split.test]
    assert (counts == 0).any()
    assert sum(one["samples"] for one in lengths if one["name"].startswith("0")) == (counts == 0).sum()

    run.predict(shop / "samples.csv", shop / "behaviours.csv", shop / "out.csv", items=shop / "items.csv")
    answers = pl.read_csv(shop / "out.csv")["probability"].to_numpy()
    from diffacet.app.clicks import evaluation

    found = evaluation.answers(run, evaluation.Asked("test"))
    expected = 1 / (1 + np.exp(-found.predicted.logits.astype(np.float64)))
    np.testing.assert_allclose(answers[packed.split.test], expected, atol=1e-5)


def test_candidates_are_ordered(run):
    found = run.rerank([1, 2, 3] * 9, [4, 5, 6])
    assert sorted(found["item_id"].to_list()) == ["4", "5", "6"]
    assert found["probability"].is_sorted(descending=True)


def test_resuming_is_an_unbroken_run(shop, tmp_path):
    whole = train(shop / "data", tmp_path / "whole", max_steps=4, set=TINY | {"save_every": 2})

    class Killed(Exception):
        pass

    def kill(moment):
        if moment.step == 3:
            raise Killed

    out = tmp_path / "out"
    with pytest.raises(Killed):
        train(shop / "data", out, max_steps=4, set=TINY | {"save_every": 2}, watch=kill)
    again = train(shop / "data", out, max_steps=4, set=TINY | {"save_every": 2}, resume=True)
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert one.equal(other)


def test_without_clusters_nothing_is_kept(shop, tmp_path):
    run = train(shop / "data", tmp_path / "run", set=TINY | {"clusters": False}, max_steps=2)
    assert run.vectors is None
    assert not (run.path / "item_vectors.npy").exists()
    packed = run.packed()
    assert run.as_read(packed) is packed.log
    assert run.as_read(packed.log) is packed.log


def test_without_a_short_term_branch_nothing_is_apart(shop, tmp_path):
    run = train(shop / "data", tmp_path / "run", set=TINY | {"short": "none"}, max_steps=2)
    packed = run.packed()
    assert equal(run.as_read(packed), clustered(packed.log, run.vectors, rule=Rule(most=6), length=20))


def test_damage_is_told(run, tmp_path):
    packed = run.packed()
    with pytest.raises(BadRun, match="do not fit its data"):
        dataclasses.replace(run, vectors=run.vectors[1:]).as_read(packed)
    copy = tmp_path / "copy"
    copy.mkdir()
    for content, message in ((None, "missing"), (b"x", "damaged")):
        for path in run.path.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        (copy / "item_vectors.npy").unlink()
        if content is not None:
            (copy / "item_vectors.npy").write_bytes(content)
        with pytest.raises(BadRun, match=message):
            runs.load(copy)


# --- what is kept of large data ----------------------------------------------------------------------------------


def test_clusters_are_made_once(run, cached, monkeypatch):
    packed, told = run.packed(), []
    fresh = grouping.packed_as_read(run.settings, run.vectors, packed, told.append)
    assert told[0].startswith("clusters: k-means of the histories of 160 showings")
    assert told[-1].startswith("clusters: ")
    assert " of " in told[-1]
    (folder,) = cached.iterdir()
    assert json.loads((folder / "about.json").read_text())["rows"] == len(fresh.sizes)
    with monkeypatch.context() as patch:
        patch.setattr(grouping, "clustered", lambda *_, **__: pytest.fail("made again"))
        again = grouping.packed_as_read(run.settings, run.vectors, packed, told.append)
    assert told[-1] == f"clusters: kept in {folder}"
    assert equal(fresh, again)
    assert again.pointers is None
    np.testing.assert_array_equal(again.time, fresh.time)


@pytest.mark.parametrize("damage", ["gone", "short", "broken"])
def test_a_damaged_cache_is_made_again(run, cached, damage):
    packed = run.packed()
    fresh = run.as_read(packed)
    (folder,) = cached.iterdir()
    if damage == "gone":
        (folder / "sizes.npy").unlink()
    elif damage == "short":
        np.save(folder / "begin.npy", np.zeros(3, np.int64))
    else:
        (folder / "about.json").write_text("{")
    assert equal(run.as_read(packed), fresh)
    assert np.load(folder / "begin.npy").shape == fresh.begin.shape


def test_what_clusters_depend_on_has_its_own_folder(run, cached):
    packed = run.packed()
    model, training = run.settings.model, run.settings.training
    for changes in ({}, {"most": 5}, {"cluster_seed": 1}, {"recent": 4}, {"exponent": 0.5}, {"iterations": 3}):
        chosen = dataclasses.replace(run.settings, model=dataclasses.replace(model, **changes))
        grouping.packed_as_read(chosen, run.vectors, packed)
    longer = dataclasses.replace(run.settings, training=dataclasses.replace(training, length=9))
    grouping.packed_as_read(longer, run.vectors, packed)
    grouping.packed_as_read(run.settings, run.vectors + 1, packed)
    other = dataclasses.replace(run.settings, model=dataclasses.replace(model, kept=9))
    grouping.packed_as_read(other, run.vectors, packed)  # no cluster depends on it
    assert len(list(cached.iterdir())) == 8


def test_a_cache_that_cannot_be_written_is_told(run, monkeypatch, tmp_path):
    monkeypatch.setattr(grouping, "SMALL", 0)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIFFACET_CACHE", str(tmp_path / "file"))
    with pytest.raises(BadRun, match="DIFFACET_CACHE"):
        run.as_read(run.packed())
