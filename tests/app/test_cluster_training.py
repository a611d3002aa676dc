"""Training by the workers of a Ray cluster on this machine, which all tests of this file share."""

import json

import pytest
from safetensors.torch import load_file

import diffacet
from diffacet.app import runs
from diffacet.app.cluster import connecting, training
from diffacet.errors import BadLog, BadRun, BadSetting

pytest.importorskip("ray", reason="the extra 'ray' is not installed")


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


def test_workers_that_are_lost_too_often_end_a_training_which_may_go_on(shop_data, tmp_path, monkeypatch):
    class Lost:
        def __init__(self, *_, **__):
            pass

        def fit(self):
            raise RuntimeError("a trace\n\nthe node is gone")

    monkeypatch.setattr("ray.train.torch.TorchTrainer", Lost)
    alone = connecting.Cluster(None, 2, 0)
    with pytest.raises(BadRun, match=r"replaced 2 times, the last loss was: the node is gone; .*--resume"):
        training.train(alone, "dmi", shop_data, tmp_path / "run", workers=2, failures=2)
    assert not list(tmp_path.iterdir())


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


def test_what_a_worker_refuses_is_said_as_it_is_and_not_tried_again(shop_data, tmp_path, monkeypatch):
    from torch import distributed

    from diffacet.app import fitting

    def refuse(*_, **__):
        raise BadLog("row 7 is no row")

    out = tmp_path / "run"
    work = training.Work(
        "dmi", shop_data, out, None, fitting.Asked("best", "auto", 0, "cpu", 1, True, None, runs.train)
    )
    monkeypatch.setattr(fitting, "fitted", refuse)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    training._work({"work": work, "board": None})
    assert not distributed.is_initialized()  # so that nobody waits for this one
    training._work({"work": work, "board": None})  # the next attempt ends at once
    with pytest.raises(BadLog, match="row 7 is no row"):
        training._raise_refused(training._refused(out))


@pytest.mark.parametrize(
    ("name", "workers", "words"), [("ease", 2, "ease is trained by one process"), ("dmi", 10_000, "at most the")]
)
def test_what_no_workers_can_share(shop_data, tmp_path, name, workers, words):
    with pytest.raises(BadSetting, match=words):
        training.train(connecting.Cluster(None, 2, 0), name, shop_data, tmp_path / "run", workers=workers)
    assert not list(tmp_path.iterdir())
