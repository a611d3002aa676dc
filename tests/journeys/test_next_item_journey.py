"""The next item, as a person asks for it: DimeRec from a log to candidates and categories, DreamRec's own files."""

import json
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch

import diffacet
from diffacet.app import cli, splitting
from pickled import expanded, put
from shoplog import write_shop

TINY = ["dim=8", "hidden=16", "interests=2", "length=5", "batch_size=64", "validate_epochs=1", "metric=hit_rate@5"]
SETS = [word for pair in (*TINY, "steps=6", "denoise_steps=none") for word in ("--set", pair)]
HISTORY = "3,5,8"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with data/, of wares with categories, and dimerec/, a run on it under the default protocol."""
    folder = tmp_path_factory.mktemp("next-item")
    log, items = write_shop(folder)
    names = ["--user", "customer", "--item", "sku", "--time", "ts", "--rating", "none", "--items", str(items)]
    assert cli.main(["import", str(log), *names, "--out", str(folder / "data")]) == 0
    train = ["train", "dimerec", "--data", str(folder / "data"), "--set", "max_epochs=3", *SETS]
    assert cli.main([*train, "--out", str(folder / "dimerec")]) == 0
    return folder


def told(call, *words):
    """What a command says to a program."""
    code, out, err = call(*words, "--json")
    assert (code, err) == (0, "")
    return json.loads(out, parse_constant=pytest.fail)


def refused(call, *words):
    """The one line with which a command refuses."""
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert err.startswith("diffacet: error: ")
    assert err.count("\n") == 1
    return err


def test_every_next_item_of_the_held_out_is_a_case(shop, call):
    """60 users of 12 items, cut 48:6:6, are asked for all but the first."""
    run = shop / "dimerec"
    result = told(call, "evaluate", run)
    facts = {"split": "next-item", "split_seed": 1230, "noise_seed": 0, "users": 6, "cases": 66, "exclude_seen": False}
    assert facts == {name: result[name] for name in facts}
    means = result["metrics"]
    for k in (5, 10, 20, 50):
        assert means[f"mrr@{k}"] <= means[f"ndcg@{k}"] <= means[f"hit_rate@{k}"] == means[f"recall@{k}"]
    assert means["hit_rate@5"] <= means["hit_rate@10"] <= means["hit_rate@20"] <= means["hit_rate@50"] == 1
    assert told(call, "evaluate", run)["metrics"] == means
    assert told(call, "evaluate", run, "--average", "users")["metrics"]["hit_rate@5"] == pytest.approx(
        means["hit_rate@5"]  # as many cases of each
    )
    # No ware comes to a customer twice, so leaving out what was met can only bring the target forward.
    without = told(call, "evaluate", run, "--exclude-seen", "--k", 5, "--k", 50)
    assert without["exclude_seen"]
    assert without["metrics"]["hit_rate@5"] >= means["hit_rate@5"]
    assert told(call, "evaluate", run, "--category", "first")["metrics"]["kinds_random@5"] > means["kinds_random@5"]
    more = told(call, "evaluate", run, "--include-empty")
    assert (more["cases"], more["include_empty"]) == (72, True)
    code, out, _ = call("evaluate", run, "--include-empty", "--average", "users")
    assert code == 0
    assert "(next-item, test, with empty histories, average over users)  6 users, 72 cases" in out


def test_steps_and_samples_are_chosen_when_it_is_asked(shop, call):
    asked = ["recommend", shop / "dimerec", "--history", HISTORY, "--k", 4]
    more = [*asked, "--set", "samples=4", "--set", "denoise_steps=5", "--set", "serve=union"]
    one, several = told(call, *asked, "--set", "samples=1"), told(call, *more)
    assert np.shape(one["interests"]) == (1, 8)
    assert np.shape(several["interests"]) == (6, 8)  # four generated, two rows of guidance
    assert told(call, *more) == several
    other = told(call, *more, "--set", "noise_seed=7")
    assert not np.allclose(np.array(other["interests"])[:4], np.array(several["interests"])[:4])
    assert other["interests"][4:] == several["interests"][4:]
    for answer in (one, several, other):
        items = [item["item_id"] for item in answer["items"]]
        assert len(set(items)) == 4
        assert set(items).isdisjoint({3, 5, 8})
        assert all(np.isfinite(item["score"]) for item in answer["items"])


@pytest.mark.parametrize("serve", ["dam", "gem", "union"])
def test_only_the_last_items_of_a_long_history_count(shop, serve):
    """In a batch with others, too; the items before are seen all the same."""
    service = diffacet.load(shop / "dimerec", set={"serve": serve}).recommender()
    long = list(range(1, 31))
    whole, cut = service.recommend_many([long, long[-5:]], 10, exclude_seen=False)
    assert whole.item_id.to_list() == cut.item_id.to_list()
    alone = service.recommend(long[-5:], 10, exclude_seen=False)
    np.testing.assert_allclose(whole.interests, cut.interests, atol=1e-6)  # rounding differs between places
    np.testing.assert_allclose(alone.interests, cut.interests, atol=1e-6)
    assert alone.item_id.to_list() == cut.item_id.to_list()
    assert sorted(service.recommend(long, 40).item_id) == list(range(31, 41))


@pytest.mark.parametrize("similarity", ["inner", "cosine"])
@pytest.mark.parametrize("serve", ["dam", "gem", "union"])
def test_vectors_of_length_zero_are_recommended_without_a_nan(shop, serve, similarity):
    run = diffacet.load(shop / "dimerec", set={"serve": serve, "similarity": similarity})
    with torch.no_grad():
        run.model.items.weight[1:31].zero_()
    for found in run.recommender().recommend_many([[3, 5, 8], [40]], 39):
        assert np.isfinite(found.score).all()
        assert np.isfinite(found.interests).all()
    assert len(found) == 39


def test_a_run_stopped_inside_an_epoch_goes_on_to_the_same_end(shop, tmp_path):
    sets = dict(pair.split("=") for pair in TINY) | {"validate_epochs": None, "validate_every": 4, "batch_size": 40}
    training = {"preset": "paper", "set": sets, "max_steps": 22, "split": "next-item-last"}  # 14 steps an epoch

    def stop(moment):
        if moment.step == 10:
            raise KeyboardInterrupt

    whole = diffacet.train("dimerec", shop / "data", tmp_path / "whole", **training)
    with pytest.raises(KeyboardInterrupt):
        diffacet.train("dimerec", shop / "data", tmp_path / "broken", watch=stop, **training)
    broken = diffacet.train("dimerec", shop / "data", tmp_path / "broken", resume=True, **training)
    assert [record.step for record in broken.trail()] == [4, 8, 12, 16, 20, 22]
    same = zip(whole.model.state_dict().values(), broken.model.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)
    steady = [replace(record, seconds=0.0) for record in whole.trail()]
    assert [replace(record, seconds=0.0) for record in broken.trail()] == steady


def test_item_vectors_are_probed(shop, call):
    found = told(call, "probe", shop / "dimerec", "--category", "first")
    facts = {"model": "dimerec", "split": "next-item", "items": 40, "classes": 4, "majority": 0.25}
    assert facts == {name: found[name] for name in facts}
    assert 0 <= found["accuracy"] <= 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--set", "steps=0"], "steps: it should be greater than or equal to 1 (it lies in [1, ∞)); got '0'"),
        (["train", "--set", "gem=comirec"], "'mlp' or 'latest'; got 'comirec' (from --set gem=comirec)"),
        (["train", "--set", "temperature=0"], "temperature: it should be greater than 0"),
        (["train", "--set", "denoise_steps=21"], "denoise_steps lies in 1..steps; got 21 with steps=20"),
        (["train", "--set", "hidden="], "hidden: it should have at least 1 item"),
        (["train", "--split", "next"], "there is no split 'next' (did you mean 'next-item'?)"),
        (["recommend", "--set", "samples=0"], "samples: it should be greater than or equal to 1"),
        (["recommend", "--set", "denoise_steps=7"], "denoise_steps lies in 1..steps; got 7 with steps=6"),
        (["recommend", "--set", "temperature=0.2"], "'temperature' is fixed when dimerec is trained; changeable on a"),
        (["recommend", "--refine-steps", "2"], "no setting 'refine_steps' (did you mean 'denoise_steps'?)"),
        (["evaluate", "--refine-steps", "2"], "no setting 'refine_steps' (did you mean 'denoise_steps'?)"),
        (["evaluate", "--input", "train+valid"], "this one is next-item, where the test's history is fixed"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(shop, call, tmp_path, words, said):
    command, *rest = words
    where = {
        "train": ["dimerec", "--data", shop / "data", "--out", tmp_path / "new"],
        "recommend": [shop / "dimerec", "--history", HISTORY],
        "evaluate": [shop / "dimerec"],
    }
    before = sorted(path.name for path in (shop / "dimerec").iterdir())
    assert said in refused(call, command, *where[command], *rest)
    assert list(tmp_path.iterdir()) == []
    assert sorted(path.name for path in (shop / "dimerec").iterdir()) == before


def test_a_protocol_of_very_many_cases_says_so_before_it_trains(shop, call, tmp_path, monkeypatch):
    """On standard error, with a way out; evaluation has a bar of its own."""
    monkeypatch.setattr(splitting, "MANY", 65)
    words = ["train", "pop", "--data", shop / "data"]
    code, _, err = call(*words, "--split", "next-item", "--out", tmp_path / "all")
    assert code == 0
    assert "next-item has many cases, 66 in valid and 66 in test" in err
    assert "--split next-item-last asks for one item a user" in err
    code, _, err = call(*words, "--split", "next-item-last", "--out", tmp_path / "last")
    assert (code, "many cases" in err) == (0, False)
    monkeypatch.setattr(splitting, "MANY", 66)
    code, _, err = call(*words, "--split", "next-item", "--out", tmp_path / "few")
    assert (code, "many cases" in err) == (0, False)


def test_dreamrecs_files_from_the_pickles_to_their_figures(call, tmp_path):
    """Their parts are the protocol; the figures of that line count empty histories, ours leave them out."""
    draw = np.random.default_rng(3)
    sizes = {"train": 24, "val": 4, "test": 5}
    parts = {name: [draw.integers(0, 12, 3 + n % 5).tolist() for n in range(count)] for name, count in sizes.items()}
    put(tmp_path / "ks", n_items=12, **{name: expanded(sessions, 12) for name, sessions in parts.items()})
    code, out, err = call("import", tmp_path / "ks", "--out", tmp_path / "data")
    assert (code, err) == (0, "")
    assert "read as dreamrec" in out
    assert "next: diffacet train dimerec --data" in out
    for model, own in (("dreamrec", ["--set", "steps=6"]), ("random", [])):
        sets = ["--set", "length=4", "--set", "metric=hit_rate@5", *own]
        run = tmp_path / model
        assert call("train", model, "--data", tmp_path / "data", "--max-steps", 4, *sets, "--out", run)[0] == 0
        plain = told(call, "evaluate", run, "--k", 5)
        more = told(call, "evaluate", run, "--k", 5, "--include-empty")
        rows = sum(map(len, parts["test"]))
        assert (plain["split"], plain["users"], plain["cases"]) == ("next-item-given", 5, rows - 5)
        assert (more["users"], more["cases"]) == (5, rows)
        assert plain["untrained_items"] == 1 - len({*chain(*parts["train"])}) / 12
    line = refused(call, "probe", tmp_path / "dreamrec")
    assert "the items of data have no categories" in line
    assert "--items FILE" in line
