"""Training by the workers of a Ray cluster on this machine, which all tests of this file share."""

import json

import pytest
from safetensors.torch import load_file

import diffacet
from diffacet.app import runs
from diffacet.app.cluster import connecting, training
from diffacet.errors import BadRun, BadSetting

pytest.importorskip("ray", reason="the extra 'ray' is not installed")

import os
from pathlib import Path

import clusterwork

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]
STEPS, EVERY = 24, 6
ASKED = {
    "set": [f"validate_every={EVERY}", "item_updates=row-sparse", "dim=16", "batch_size=16", "negatives=20"],
    "max_steps": STEPS,
}


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(clusterwork.__file__).parent), prepend=os.pathsep)
        with connecting.connected(cpus=2) as cluster:
            yield cluster


@pytest.fixture(scope="module")
def unbroken(shop_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "run"
    return runs.train("dmi", shop_data, out, **ASKED).path


def same(path, other):
    """Weights agree within 1e-3 of their size (rounding, after 24 steps of Adam), and so do the validations."""
    mine, theirs = (load_file(one / "best.safetensors") for one in (path, other))
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert (tensor - theirs[name]).norm() <= 1e-3 * theirs[name].norm() + 1e-6, name
    records = [[json.loads(line) for line in (one / "metrics.jsonl").read_text().splitlines()] for one in (path, other)]
    assert [record["step"] for record in records[0]] == [record["step"] for record in records[1]]
    for one, two in zip(*records, strict=True):
        assert one["terms"] == pytest.approx(two["terms"], rel=1e-3)


def test_lost_workers_end_a_training_that_one_process_goes_on_with(cluster, shop_data, tmp_path, unbroken, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setattr(training, "_work", clusterwork.mortal_training)
    with pytest.raises(BadRun, match=r"workers were lost 1 times.*--resume"):
        training.train(cluster, "dmi", shop_data, out, workers=2, failures=0, **ASKED)
    assert not (out / "golden.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "run"]
    done = runs.train("dmi", shop_data, out, resume=True, **ASKED)
    same(done.path, unbroken)


def test_two_workers_go_on_with_one_processs_run_and_with_their_own_after_a_loss(
    cluster, shop_data, tmp_path, unbroken, monkeypatch
):
    out, moments = tmp_path / "run", []

    def stop(moment):
        if moment.step == EVERY + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.train("dmi", shop_data, out, watch=stop, **ASKED)
    monkeypatch.setattr(training, "_work", clusterwork.mortal_training)
    done = training.train(cluster, "dmi", shop_data, out, workers=2, resume=True, watch=moments.append, **ASKED)
    assert (tmp_path / "killed").exists()
    same(done.path, unbroken)
    assert moments[-1].step == STEPS
    assert moments[-1].record is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "run"]
    known = done.catalogue["item_id"].head(2).to_list()
    assert len(diffacet.Recommender.load(out).recommend(known, 3)) == 3


def test_what_a_worker_refuses_is_said_as_it_is(cluster, shop_data, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(BadRun, match="the loss is not finite"):
        training.train(cluster, "dmi", shop_data, out, workers=2, **ASKED | {"set": ["lr=1e30", "validate_every=6"]})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize(
    ("name", "workers", "words"), [("ease", 2, "ease is trained by one process"), ("dmi", 10_000, "at most the")]
)
def test_what_no_workers_can_share(shop_data, tmp_path, name, workers, words):
    with pytest.raises(BadSetting, match=words):
        training.train(connecting.Cluster(None, 2, 0), name, shop_data, tmp_path / "run", workers=workers)
    assert not list(tmp_path.iterdir())
