"""How well found interests match planted ones: against a written-out loop, and at the ends of the scale."""

import dataclasses
import json

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from diffacet.app import importing, recovery, runs
from diffacet.app.synthesis import synthesise
from diffacet.data.synth.settings import Settings
from diffacet.errors import BadLog, BadSetting
from shoplog import TINY


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recovery")
    synthesise(Settings(300, 80, 6000, seed=7), folder / "log")
    importing.import_log([folder / "log"], folder / "data")
    return folder, runs.train("dmi", folder / "data", folder / "run", set=TINY, max_steps=5)


def test_measures_agree_with_a_written_out_loop():
    draw = np.random.default_rng(0)
    found, vectors, home = draw.normal(size=(3, 6)), draw.normal(size=(40, 6)), draw.random(40) < 0.2
    clicks, size, auc, precision, cosine = recovery._measured(
        found, vectors, home, np.array([0, 1, 2, *home.nonzero()[0][:2]])
    )
    assert clicks == home[:3].sum() + 2
    assert size == home.sum()
    best = [0.0, 0.0, -1.0]
    to = np.mean([vectors[i] for i in range(40) if home[i]], axis=0) - np.mean(vectors, axis=0)
    for v in found:
        scores = [float(v @ e) for e in vectors]
        top = sorted(range(40), key=lambda i: -scores[i])[:size]
        told = (
            roc_auc_score(home, scores),
            np.mean([home[i] for i in top]),
            v @ to / np.sqrt(v @ v) / np.sqrt(to @ to),
        )
        best = np.maximum(best, told)
    np.testing.assert_allclose((auc, precision, cosine), best)


def test_homes_lie_about_a_place_on_a_ring_that_closes():
    homes = recovery.Homes(
        np.array([[0, -1], [0, 1], [1, -1], [1, 0]]), np.array([[0.98, 0], [0.5, 0.1], [0.05, 0], [0.3, 0.04]]), 0.05
    )
    assert homes.about(0, 0.0).tolist() == [True, False, False, True]
    assert homes.about(1, 0.1).tolist() == [False, True, True, False]
    assert not homes.about(0, 0.75).any()


def test_vectors_of_the_truth_find_the_truth(trained):
    """The planted vectors in the place of learned ones: homes are found nearly whole, and shuffled users' are not."""
    folder, _ = trained
    planted = recovery.read_truth(folder / "log")
    topics = pl.read_parquet(folder / "log" / "truth" / "topics.parquet")
    vectors = np.stack(planted.items["vector"].to_list()).astype(np.float64)
    direction, one, two = (np.stack(topics[name].to_list()) for name in ("direction", "axis_1", "axis_2"))
    homes = recovery.Homes(
        planted.items.select(pl.col("topic", "second_topic").fill_null(-1)).to_numpy(),
        planted.items.select(pl.col("place", "second_place").fill_null(0.0)).to_numpy(),
        planted.settings["width"],
    )
    told = []
    for topic, place in planted.interests.head(200).select("topic", "place").iter_rows():
        home = homes.about(topic, place)
        if home.any():
            ring = 0.6 * (np.cos(2 * np.pi * place) * one[topic] + np.sin(2 * np.pi * place) * two[topic])
            told.append(recovery._measured((direction[topic] + ring)[None], vectors, home, home.nonzero()[0])[2:])
    auc, precision, _ = np.mean(told, axis=0)
    assert auc > 0.9
    assert precision > 0.5


def test_each_interest_that_a_history_shows_has_a_row(trained):
    folder, run = trained
    found = recovery.match(run, folder / "log")
    assert found.columns == ["user_id", "topic", "place", "weight", "clicks", "home", "auc", "precision", "cosine"]
    assert found.select(pl.struct("user_id", "topic", "place").is_unique().all()).item()
    assert (found["clicks"] >= 1).all()
    assert found["auc"].is_between(0, 1).all()
    assert found["cosine"].is_between(-1, 1).all()
    assert found["user_id"].n_unique() <= 30
    told = recovery.recovery(run, folder / "log")
    assert told["interests"] == found.height == sum(row["interests"] for row in told["by_clicks"])
    assert told["auc"] == pytest.approx(found["auc"].mean())
    assert recovery.recovery(run, folder / "log", users=5)["users"] <= 5
    assert recovery.recovery(run, folder / "log", refine_steps=0)["auc"] != told["auc"]


def test_what_cannot_be_scored_is_refused(trained, tmp_path):
    folder, run = trained
    with pytest.raises(BadLog, match=r"holds no truth/synth\.json"):
        recovery.recovery(run, tmp_path)
    synthesise(Settings(300, 80, 6000, seed=8), tmp_path / "other")
    with pytest.raises(BadLog, match="are not of the generated log"):
        recovery.recovery(run, tmp_path / "other")
    with pytest.raises(BadSetting, match="users is 1 or more"):
        recovery.recovery(run, folder / "log", users=0)
    pop = runs.train("pop", folder / "data", tmp_path / "pop")
    with pytest.raises(BadSetting, match="there are no vectors"):
        recovery.recovery(pop, folder / "log")
    damaged = tmp_path / "other" / "truth" / "items.00000.parquet"
    damaged.write_bytes(b"PAR1")
    with pytest.raises(BadLog, match="cannot be read"):
        recovery.read_truth(tmp_path / "other")


def test_the_command_shows_a_table_or_json(trained, call):
    folder, run = trained
    code, out, _ = call("synth-score", run.path, folder / "log")
    assert code == 0
    assert "all" in out
    told = json.loads(call("synth-score", run.path, folder / "log", "--refine-steps", "0", "--json")[1])
    assert told["refine_steps"] == 0
    assert told == recovery.recovery(run, folder / "log", refine_steps=0)
    assert dataclasses.is_dataclass(recovery.read_truth(folder / "log"))
