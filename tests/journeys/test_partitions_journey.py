"""A partitioned log through the program: the same commands, and a training that never has the log in memory."""

import dataclasses
import json
import shutil

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

import diffacet
import partitionlog
from diffacet.app import splitting
from diffacet.core.contract import Training
from diffacet.data import store
from diffacet.data.partitions import Partitions
from diffacet.errors import BadRun, BadSetting
from shoplog import TINY

FRAME = partitionlog.rows(users=80, items=30, seed=3, most=14)
STREAMED = ("sampling=blocks", "validate_cases=3")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The same log in 1 and in 64 partitions, and as one table that is numbered alike."""
    folder = tmp_path_factory.mktemp("partitioned")
    titles = [f"ware {n}" for n in range(FRAME["item_id"].n_unique())]
    for count in (1, 64):
        partitionlog.write(FRAME, folder / str(count), count, titles=titles)
    log = Partitions.open(folder / "1").log()
    store.write(log, folder / "table", {})
    return folder


def trained(place, data, name, *changes, model="dmi", **options):
    return diffacet.train(model, place / data, place / name, set=[*TINY, *changes], **{"max_steps": 20} | options)


def weights(run):
    return load_file(run.path / "best.safetensors")


def alike(one, other):
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    assert all(np.array_equal(mine[name], theirs[name]) for name in mine)
    assert [record.metrics for record in one.trail()] == [record.metrics for record in other.trail()]


def test_streamed_training_is_the_same_for_any_partitions_and_in_memory(place, monkeypatch):
    table = trained(place, "table", "streamed-table", *STREAMED)
    monkeypatch.setattr(Partitions, "log", lambda _: pytest.fail("the whole log was read"))
    one, many = (trained(place, str(count), f"streamed-{count}", *STREAMED) for count in (1, 64))
    alike(one, many)
    alike(one, table)
    told = [run.evaluate("test", ks=(5,)) for run in (one, many, table)]
    assert told[0]["metrics"] == told[1]["metrics"] == told[2]["metrics"]
    assert told[0]["untrained_items"] == told[1]["untrained_items"] == told[2]["untrained_items"]
    assert told[0]["cases"] > 3
    assert len(one.recommender().recommend(FRAME["item_id"].head(3).to_list(), k=4)) == 4


def test_other_trainings_are_those_of_the_log_in_one_table(place):
    for model, split in (("dmi", "by-user"), ("item-knn", "leave-last"), ("ease", "by-time"), ("sasrec", "next-item")):
        one, table = (
            trained(place, data, f"{model}-{data}", model=model, split=split, max_steps=10)
            if model in ("dmi", "sasrec")
            else diffacet.train(model, place / data, place / f"{model}-{data}", split=split)
            for data in ("64", "table")
        )
        alike(one, table)


def test_a_streamed_training_is_resumed_to_the_same_result(place):
    whole = trained(place, "64", "whole", *STREAMED, "save_every=2")

    class Killed(Exception):
        pass

    def kill(moment):
        if moment.step == 13:
            raise Killed

    with pytest.raises(Killed):
        trained(place, "64", "killed", *STREAMED, "save_every=2", watch=kill)
    alike(trained(place, "64", "killed", *STREAMED, "save_every=2", resume=True), whole)
    with pytest.raises(BadRun, match="validate_cases is 4, was 3"):
        trained(place, "64", "killed", "sampling=blocks", "validate_cases=4", "save_every=2", resume=True)


def test_what_cannot_be_streamed_says_what_can(place):
    refusals = [
        ("facet", "by-user", "looks at all training sequences at once"),
        ("multi-vae", "by-user", "sampling=blocks is for models that learn from windows"),
        ("sasrec", "next-item", "takes the splits by-user and leave-last; got next-item"),
    ]
    for model, split, message in refusals:
        with pytest.raises(BadSetting, match=message):
            diffacet.train(model, place / "64", place / "refused", set=["sampling=blocks"], split=split)
    assert not (place / "refused").exists()


def test_many_cases_are_told_of_unless_their_number_is_set(place, monkeypatch):
    monkeypatch.setattr(splitting, "MANY", 2)
    dataset, training = store.open(place / "64"), Training(sampling="blocks")
    heard = []
    splitting.cut_for(dataset, "by-user", 0, training, heard.append)
    assert "by-user has many cases" in heard[0]
    assert heard[0].endswith("validate_cases=N asks N of them")
    splitting.cut_for(dataset, "by-user", 0, dataclasses.replace(training, validate_cases=2), heard.append)
    assert len(heard) == 1


def test_all_commands_take_a_partitioned_directory(place, call, tmp_path):
    code, out, err = call("stats", place / "64", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["statistics"] == store.open(place / "table").log.statistics()
    assert json.loads(out)["statistics"] == store.open(place / "64").statistics()
    words = [word for change in TINY for word in ("--set", change)]
    run = tmp_path / "run"
    code, _, _ = call("train", "dmi", "--data", place / "64", "--out", run, "--max-steps", "5", *words)
    assert code == 0
    found = {}
    for name in ("64", "table"):
        file = tmp_path / f"{name}.parquet"
        code, _, err = call("candidates", run, "--data", place / name, "--out", file, "--k", "4")
        assert code == 0, err
        found[name] = pl.read_parquet(file)
    assert found["64"].equals(found["table"])
    code, _, err = call("split", place / "64", "--min-rating", "1", "--k-core", "0", "--out", tmp_path / "parted")
    assert code == 0, err
    assert store.open(tmp_path / "parted").log.has_parts


def test_a_damaged_partition_is_one_line_and_no_run(place, call, tmp_path):
    shutil.copytree(place / "64", tmp_path / "data")
    path = next(p for p in sorted((tmp_path / "data" / "interactions").iterdir()))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    code, out, err = call("train", "dmi", "--data", tmp_path / "data", "--out", tmp_path / "run")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "interactions/00000.parquet was changed after it was written" in err
    assert not (tmp_path / "run").exists()
