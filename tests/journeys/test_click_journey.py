"""Clicks, as a person asks for them: from raw logs to calibrated probabilities, and candidates in a better order."""

import json
import signal
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

import clickshop
from clickshop import SPLIT
from diffacet.app import cli

TINY = ["dim=4", "hidden=12,6", "batch_size=64", "length=8", "max_epochs=9", "save_every=4", "validate_every=18"]
SETS = [word for pair in (*TINY, "lr=0.02", "validate_epochs=none", "patience=9") for word in ("--set", pair)]


def train(folder, out, *more):
    return ["train", "din", "--data", str(folder / "clicks"), "--out", str(folder / out), "--seed", "3", *SETS, *more]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with samples.csv, behaviours.csv, items.csv, clicks/ made of them, and din/, a run on it."""
    folder = tmp_path_factory.mktemp("clicks")
    shown, done, items = map(str, clickshop.files(folder))
    words = ["--samples", shown, "--behaviours", done, "--items", items]
    words += ["--field", "kind", "--field", "slot", "--field", "price:numeric"]
    split = f"instant:{SPLIT[0]}:{SPLIT[1]}"
    assert cli.main(["import-clicks", *words, "--split", split, "--out", str(folder / "clicks")]) == 0
    assert cli.main(train(folder, "din")) == 0
    return folder


def told(call, *words):
    """What a command says to a program."""
    code, out, err = call(*words, "--json")
    assert (code, err) == (0, "")
    return json.loads(out, parse_constant=pytest.fail)


def test_evaluation_tells_what_the_probabilities_are_worth(shop, call):
    result = told(call, "evaluate", shop / "din")
    shown, *_ = clickshop.frames()
    test = shown.filter(pl.col("timestamp") >= SPLIT[1])
    assert (result["model"], result["on"], result["borders"]) == ("din", "test", list(SPLIT))
    assert (result["samples"], result["clicks"]) == (test.height, test["label"].sum())
    assert result["metrics"]["click_rate"] == pytest.approx(test["label"].mean())
    assert result["metrics"]["auc"] > 0.6
    code, out, err = call("evaluate", shop / "din", "--on", "valid", "--base", shop / "din")
    assert (code, err) == (0, "")
    assert "AUC" in out
    assert "relative improvement +0.00 %" in out


def test_a_killed_run_resumes_to_the_bits_of_an_unbroken_one(shop, call):
    line = [sys.executable, "-m", "diffacet", *train(shop, "broken")]
    broken = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    assert broken.stderr is not None
    assert "step 18/" in broken.stderr.readline()
    broken.send_signal(signal.SIGKILL)
    broken.communicate()
    assert call(*train(shop, "broken", "--resume"))[0] == 0
    runs = [shop / "din", shop / "broken"]
    trails = [[json.loads(record) for record in (run / "metrics.jsonl").read_text().splitlines()] for run in runs]
    assert len(trails[0]) > 3
    for one, other in zip(*trails, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    assert told(call, "evaluate", runs[0])["metrics"] == told(call, "evaluate", runs[1])["metrics"]


def test_predictions_for_new_showings_are_those_that_evaluation_measures(shop, call):
    shown, *_ = clickshop.frames()
    test = shown.filter(pl.col("timestamp") >= SPLIT[1])
    test.drop("label").write_csv(shop / "today.csv")
    files = ["--samples", shop / "today.csv", "--behaviours", shop / "behaviours.csv", "--out", shop / "scored.csv"]
    code, out, err = call("predict", shop / "din", *files)
    assert (code, err) == (0, "")
    assert f"{test.height} probabilities" in out
    scored = pl.read_csv(shop / "scored.csv")
    assert scored.drop("probability").equals(pl.read_csv(shop / "today.csv"))
    p, label = scored["probability"].to_numpy(), test["label"].to_numpy()
    metrics = told(call, "evaluate", shop / "din")["metrics"]
    assert metrics["pcoc"] == pytest.approx(p.mean() / label.mean(), rel=1e-5)
    assert metrics["log_loss"] == pytest.approx(-np.mean(np.log(np.where(label == 1, p, 1 - p))), rel=1e-5)
    pairs = np.sign(p[label == 1][:, None] - p[label == 0])
    assert metrics["auc"] == pytest.approx((pairs.mean() + 1) / 2, abs=1e-4)


def test_candidates_of_a_matching_run_are_brought_into_the_order_of_their_clicks(shop, call):
    names = ["--user", "user_id", "--item", "item_id", "--time", "timestamp", "--rating", "none"]
    assert call("import", shop / "behaviours.csv", *names, "--out", shop / "data")[0] == 0
    assert call("train", "item-knn", "--data", shop / "data", "--split", "leave-last", "--out", shop / "knn")[0] == 0
    asked = ["recommend", shop / "knn", "--history", "3,5,8", "--k", 4]
    rerank = [*asked, "--rerank", shop / "din", "--user", 4, "--at", SPLIT[1], "--context", "slot=top"]
    found = told(call, *rerank)["items"]
    plain = told(call, *asked[:-1], 100)["items"]
    order, score = [item["item_id"] for item in plain], {item["item_id"]: item["score"] for item in plain}
    assert len(found) == 4
    assert {item["item_id"] for item in found}.isdisjoint({3, 5, 8})
    chances = [item["probability"] for item in found]
    assert chances == sorted(chances, reverse=True)
    for item in found:
        assert item["score"] == pytest.approx(score[item["item_id"]])
        assert order[item["place"] - 1] == item["item_id"]
    few = told(call, *rerank, "--candidates", 4)["items"]
    assert {item["item_id"] for item in few} == set(order[:4])
    code, out, _ = call(*rerank, "--behaviour", "behaviour_type=cart")
    assert code == 0
    assert "rank before" in out
    assert "probability" in out


def test_bad_input_is_one_line_and_writes_nothing(shop, call):
    lines = {
        ("train", "dmi", "--data", shop / "clicks", "--out", shop / "no"): "holds click data (samples.parquet)",
        ("train", "din", "--data", shop / "nowhere", "--out", shop / "no"): "nowhere is not a folder",
        ("evaluate", shop / "din", "--k", "5"): "--k means nothing here",
        ("predict", shop / "din", "--samples", shop / "no.csv", "--out", shop / "p.csv"): "no.csv: no such file",
    }
    for words, said in lines.items():
        code, out, err = call(*words)
        assert (code, out) == (2, "")
        assert err.startswith("diffacet: error: ")
        assert said in err
        assert err.count("\n") == 1
    assert not (shop / "no").exists()
