"""From item vectors to clusters, and what is kept of the way."""

import io
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from diffacet import files
from diffacet.app import clusters, importing, runs
from diffacet.data.sequences import Sequences
from diffacet.errors import BadRun, BadSetting
from diffacet.models.ldiffrec import LDiffRecConfig
from shoplog import write_shop

N = 30
TRAIN = Sequences.from_rows(np.array([0, 0, 1]), np.array([1, 2, 3]), None, 2)
DATA = SimpleNamespace(fingerprint="data", path=Path("nowhere"), log=SimpleNamespace(n_items=N))
SPLIT = {"name": "collaborative", "seed": 1230}
GROUPS = np.arange(N) % 3


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DIFFACET_CACHE", str(tmp_path_factory.mktemp("cache")))


def vectors(seed=0):
    """Three groups that k-means cannot mistake."""
    rng = np.random.default_rng(seed)
    return (10 * np.eye(3)[GROUPS] + rng.normal(0, 0.1, (N, 3))).astype(np.float32)


def planned(count=3, seed=0, file=None, split=SPLIT, data=DATA, train=TRAIN):
    return clusters.plan(LDiffRecConfig(clusters=count), seed, data, train, split, file)


class Trainer:
    """In the place of `runs.train`: counts its calls, and may be stopped in one."""

    def __init__(self, error=None):
        self.calls, self.error = [], error

    def __call__(self, **asked):
        self.calls.append(asked)
        (asked["out"] / "begun").mkdir(parents=True, exist_ok=True)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return SimpleNamespace(model=SimpleNamespace(item_embeddings=lambda: torch.from_numpy(vectors())))


def make(plan, train=None, tell=None, catalogue=None):
    missing = clusters.cache() / "no.parquet"
    return clusters.make(plan, missing if catalogue is None else catalogue, train or Trainer(), tell)


def test_clusters_are_numbered_by_their_smallest_item():
    labels = np.array([4, 2, 4, 0, 2, 7])
    assert clusters.in_order(labels).tolist() == [-1, 0, 1, 0, 2, 1, 3]
    assert clusters.in_order(np.array([1, 0])).tolist() == [-1, 0, 1]


@pytest.mark.parametrize("seed", range(3))
def test_k_means_finds_planted_groups_and_repeats_itself(seed):
    found = clusters.k_means(vectors(seed), 3, seed)
    assert (clusters.in_order(found)[1:] == GROUPS).all()
    assert (clusters.k_means(vectors(seed), 3, seed) == found).all()


def test_fewer_different_vectors_than_clusters_are_refused():
    with pytest.raises(BadSetting, match=r"finds 2 clusters of items and not 3.*set clusters=2"):
        clusters.k_means(np.repeat(np.eye(2), 5, axis=0), 3, 0)


def test_a_model_without_clusters_has_no_plan(tmp_path):
    assert planned(1) is None
    assert clusters.plan(object(), 0, DATA, TRAIN, SPLIT) is None
    assert clusters.make(None, tmp_path / "catalogue.parquet", Trainer()) is None
    with pytest.raises(BadSetting, match="--item-vectors is for models with 2 or more clusters"):
        planned(1, file=tmp_path / "v.npy")


def test_vectors_of_a_file_train_nothing(tmp_path):
    np.save(tmp_path / "v.npy", vectors().astype(np.float64))
    train = Trainer()
    plan = planned(file=tmp_path / "v.npy")
    assert (make(plan, train)[1:] == GROUPS).all()
    assert not train.calls
    assert plan.told == {"from": "file", "file": "v.npy", "fingerprint": plan.told["fingerprint"]}
    np.save(tmp_path / "w.npy", vectors(1))
    assert planned(file=str(tmp_path / "w.npy")).told["fingerprint"] != plan.told["fingerprint"]


def bad(change):
    array = vectors()
    change(array)
    return array


def two_arrays():
    file = io.BytesIO()
    np.savez(file, vectors(), vectors())
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"no array", "is no NumPy array, or a damaged one"),
        (b"\x93NUMPY", "is no NumPy array, or a damaged one"),
        (two_arrays(), "holds several arrays; save one array of float32"),
        (np.array([{}]), "is no NumPy array"),
        (np.zeros((N, 3), np.int64), "holds int64; save one array of float32"),
        (vectors()[:-1], r"has the shape \(29, 3\); this log has 30 items, so it is \(30, any\)"),
        (vectors().T, r"has the shape \(3, 30\)"),
        (vectors()[:, 0], r"has the shape \(30,\)"),
        (vectors()[:, :0], r"has the shape \(30, 0\)"),
        (bad(lambda v: v.__setitem__(([4, 7], 1), np.nan)), r"row 4 \(from 0\) is not finite, with 1 others"),
        (bad(lambda v: v.__setitem__((9, 0), np.inf)), r"row 9 \(from 0\) is not finite"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_before_anything_runs(content, message, tmp_path):
    path = tmp_path / "v.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(BadSetting, match=rf"--item-vectors {path}.*{message}"):
        planned(file=path)


def test_more_clusters_than_items_are_refused_before_anything_runs():
    with pytest.raises(BadSetting, match=r"clusters lies in 1\.\.30, the number of items; got 31"):
        planned(31)


def test_vectors_are_made_once_and_then_kept():
    told, train = [], Trainer()
    assert (make(planned(), train, told.append)[1:] == GROUPS).all()
    assert (make(planned(2), train, told.append) >= -1).all()  # whatever C is: the vectors are the same
    assert len(train.calls) == 1
    asked = train.calls[0]
    assert (asked["name"], asked["preset"], asked["seed"], asked["resume"]) == ("lightgcn", "paper", 0, True)
    assert [line.partition(":")[0] for line in told] == ["item vectors", "clusters"] * 2
    assert "training lightgcn" in told[0]
    assert "kept in" in told[2]
    folder = planned().folder
    assert {path.name for path in folder.iterdir()} == {"item_vectors.npy", "about.json", "lock"}  # and no run
    assert np.array_equal(np.load(folder / "item_vectors.npy"), vectors())


def test_what_vectors_depend_on_is_in_their_key():
    other = Sequences.from_rows(np.array([0, 0, 1]), np.array([1, 2, 4]), None, 2)
    plans = [
        planned(),
        planned(seed=1),
        planned(split={**SPLIT, "seed": 1}),
        planned(split={**SPLIT, "name": "given"}),
        planned(data=SimpleNamespace(fingerprint="other", path=DATA.path, log=DATA.log)),
        planned(train=other),
    ]
    assert len({plan.told["key"] for plan in plans}) == len(plans)
    assert planned(2).told == planned().told
    assert plans[0].told["settings"]["dim"] == 64


def break_vectors(folder):
    (folder / "item_vectors.npy").write_bytes(b"\x93NUMPY damaged")


def change_vectors(folder):
    np.save(folder / "item_vectors.npy", vectors(5))


def lose_about(folder):
    (folder / "about.json").unlink()


def break_about(folder):
    (folder / "about.json").write_text("{")


@pytest.mark.parametrize("damage", [break_vectors, change_vectors, lose_about, break_about])
def test_what_is_damaged_in_the_cache_is_made_again(damage):
    train = Trainer()
    make(planned(), train)
    damage(planned().folder)
    assert (make(planned(), train)[1:] == GROUPS).all()
    assert len(train.calls) == 2
    make(planned(), train)
    assert len(train.calls) == 2


def test_a_training_that_was_stopped_is_gone_on_with():
    train = Trainer(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        make(planned(), train)
    assert (planned().folder / "run" / "begun").exists()
    assert (make(planned(), train)[1:] == GROUPS).all()
    assert train.calls[0]["out"] == train.calls[1]["out"]


def test_a_begun_training_that_is_damaged_is_begun_anew():
    told = []
    (planned().folder / "run" / "old").mkdir(parents=True)
    train = Trainer(BadRun("last.safetensors is damaged"))
    make(planned(), train, told.append)
    assert len(train.calls) == 2
    assert any("training anew" in line for line in told)
    with pytest.raises(BadRun, match="not finite"):  # but a new one that fails has failed
        make(planned(seed=1), Trainer(BadRun("the loss is not finite")))


def test_who_comes_second_waits_and_takes_what_the_first_has_made():
    folder, held_by_other, leave, train = planned().folder, threading.Event(), threading.Event(), Trainer()
    folder.mkdir(parents=True)

    def first():
        with files.held(folder / "lock", "the test"):
            held_by_other.set()
            leave.wait(30)
            np.save(folder / "item_vectors.npy", vectors())
            told = {"format": clusters.FORMAT, "fingerprint": files.fingerprint(vectors())}
            files.write_json(folder / "about.json", told)

    other = threading.Thread(target=first)
    other.start()
    assert held_by_other.wait(30)
    leave.set()  # it is still writing, or done: either way nothing is trained here
    make(planned(), train)
    other.join()
    assert not train.calls


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIFFACET_CACHE", str(tmp_path / "file"))
    with pytest.raises(BadRun, match="name another place in DIFFACET_CACHE"):
        make(planned())


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFACET_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(clusters.cache()) == "/a"
    monkeypatch.delenv("DIFFACET_CACHE")
    assert str(clusters.cache()) == "/b/diffacet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert clusters.cache() == tmp_path / ".cache" / "diffacet"


def test_a_begun_run_keeps_the_clusters_of_its_catalogue(tmp_path):
    path, train = tmp_path / "catalogue.parquet", Trainer()
    pl.DataFrame({"item_id": ["a", "b", "c"], "cluster": [0, 1, 0]}).write_parquet(path)
    assert make(planned(), train, catalogue=path).tolist() == [-1, 0, 1, 0]
    assert not train.calls
    assert clusters.of_catalogue(pl.DataFrame({"item_id": ["a"]})).tolist() == []
    path.write_bytes(b"damaged")
    with pytest.raises(BadRun, match="is damaged"):
        make(planned(), train, catalogue=path)


# --- in a run --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    log, items = write_shop(folder)
    importing.import_log([log], folder / "data", user="customer", item="sku", time="ts", rating="none", items=items)
    return folder / "data"


SMALL = ("latent=8", "dims=8", "max_epochs=2", "validate_epochs=1", "batch_size=20", "metric=recall@5")


def test_one_command_trains_both_models_and_keeps_the_clusters(shop, tmp_path):
    told = []
    run = runs.train("l-diffrec", shop, tmp_path / "one", set=SMALL, tell=told.append)
    found = run.catalogue["cluster"].to_list()
    assert sorted({*found}) == [0, 1]
    assert found[0] == 0
    about = files.read_json(tmp_path / "one" / "run.json")["clusters"]
    assert about["from"] == "lightgcn"
    assert (clusters.cache() / "item-vectors" / about["key"] / "item_vectors.npy").exists()
    assert told[0].startswith("item vectors: training lightgcn")
    assert any(line.startswith("lightgcn  step") for line in told)
    # Another run finds them, and without the cache a begun one needs them no more.
    again = runs.train("l-diffrec", shop, tmp_path / "two", set=SMALL, tell=told.append)
    assert again.catalogue["cluster"].to_list() == found
    one, two = (load_file(tmp_path / name / "best.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    for path in (clusters.cache() / "item-vectors" / about["key"]).iterdir():
        path.unlink()
    said = len(told)
    runs.train("l-diffrec", shop, tmp_path / "two", set=SMALL, resume=True, tell=told.append)
    assert len(told) == said
    loaded = runs.load(tmp_path / "one", set=["sampling_steps=2", "sampling_noise=true"])
    assert loaded.recommender().recommend(["3", "7"], 5).item_id.shape == (5,)


def test_a_run_on_given_vectors_is_resumed_with_the_same_ones_only(shop, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("v", "w"):
        np.save(tmp_path / f"{name}.npy", rng.normal(0, 1, (40, 4)))
    asked = {"set": SMALL, "item_vectors": tmp_path / "v.npy"}
    run = runs.train("lt-diffrec", shop, tmp_path / "run", **asked)
    assert run.about["clusters"]["file"] == "v.npy"
    runs.train("lt-diffrec", shop, tmp_path / "run", **asked, resume=True)
    for other in (None, tmp_path / "w.npy"):
        with pytest.raises(BadRun, match=r"item_vectors is .*; resume with the same"):
            runs.train("lt-diffrec", shop, tmp_path / "run", **{**asked, "item_vectors": other}, resume=True)


def test_a_refusal_leaves_nothing(shop, tmp_path):
    np.save(tmp_path / "v.npy", np.zeros((39, 2)))
    for more in ({"item_vectors": tmp_path / "v.npy"}, {"set": [*SMALL, "clusters=41"]}):
        with pytest.raises(BadSetting):
            runs.train("l-diffrec", shop, tmp_path / "run", **{"set": SMALL, **more})
    assert not (tmp_path / "run").exists()
    assert not list(clusters.cache().iterdir())


def test_vectors_of_the_data_directory_are_taken_unless_others_are_given(tmp_path):
    own, given = tmp_path / "item_vectors.npy", tmp_path / "given.npy"
    np.save(own, vectors())
    np.save(given, vectors() + 1)
    data = SimpleNamespace(fingerprint="data", path=tmp_path, log=DATA.log)
    assert planned(data=data).told["file"] == "item_vectors.npy"
    np.testing.assert_array_equal(planned(data=data).vectors, vectors())
    assert planned(data=data, file=given).told["file"] == "given.npy"
