"""From a generated log to planted interests found again, by the program: the one test that knows the truth."""

import json

import polars as pl
import pytest

from diffacet.app import cli, recovery, runs

SETS = ["dim=32", "negatives=256", "lr=0.005", "validate_every=500", "patience=99"]
STEPS = 1000
KEYS = ["user_id", "topic", "place"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A log with 30 % of noise, imported, and REMI and DMI trained on it for as many steps."""
    folder = tmp_path_factory.mktemp("planted")
    sizes = ["--users", "2000", "--items", "500", "--interactions", "40000", "--noise", "0.3"]
    sets = [word for pair in SETS for word in ("--set", pair)]
    how = ["--data", f"{folder}/data", "--max-steps", str(STEPS), *sets]
    assert cli.main(["synth", *sizes, "--out", f"{folder}/log"]) == 0
    assert cli.main(["import", f"{folder}/log", "--out", f"{folder}/data"]) == 0
    for name in ("remi", "dmi"):
        assert cli.main(["train", name, *how, "--out", f"{folder}/{name}"]) == 0
    return folder


@pytest.fixture
def score(folder, call):
    return lambda run: json.loads(call("synth-score", folder / run, folder / "log", "--json")[1])


def test_planted_interests_are_found_better_with_more_evidence(score):
    """Interests that a history shows with more clicks are found better, and all far better than by chance."""
    told = score("dmi")
    assert told["interests"] > 300
    assert told["auc"] > 0.7
    by = {row["home_clicks"]: row["precision"] for row in told["by_clicks"]}
    assert by["1"] < by["2-4"] < by["5+"]


def test_dmi_finds_planted_interests_better_than_its_base_model(score):
    """Under noise, the same length of training and the same settings; five seeds are in docs/synth.md."""
    remi, dmi = score("remi"), score("dmi")
    assert dmi["interests"] == remi["interests"]
    # The gains are two and three times these; after 2,000 steps the smallest of five seeds are three times these.
    assert dmi["precision"] > remi["precision"] + 0.005
    assert dmi["cosine"] > remi["cosine"] + 0.008


def test_refinement_itself_moves_interests_towards_the_planted_ones(folder):
    """The same weights, refined and not: interest by interest, so that nothing but refinement differs."""
    run = runs.load(folder / "dmi")
    refined, raw = (recovery.match(run, folder / "log", refine_steps=steps) for steps in (None, 0))
    both = refined.join(raw, on=KEYS, suffix="_raw")
    assert both.height == refined.height == raw.height
    for name in recovery.MEASURES:
        gain = both.select((pl.col(name) - pl.col(f"{name}_raw")).alias("gain"))["gain"]
        # Three standard errors above nothing.
        assert gain.mean() > 3 * gain.std() / len(gain) ** 0.5, name
