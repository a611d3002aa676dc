"""The collaborative protocol from ratings to candidates, on the command line, for every model of DiffRec's table."""

import json

import numpy as np
import polars as pl
import pytest

from diffacet.app import cli, runs
from diffacet.models import MODELS, card
from shoplog import write_shop

NAMES = [name for name in MODELS if card(name).task == "collaborative" or name in ("pop", "item-knn", "ease")]
SMALL = ("max_epochs=2", "validate_epochs=1", "batch_size=16", "metric=recall@5")
SIZES = {"dims": "(8,)", "dim": 8, "width": 8, "latent": 12, "regularization": 1.0}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A data directory with parts of its own, made of a log with ratings."""
    folder = tmp_path_factory.mktemp("ratings")
    log, items = write_shop(folder)
    columns = ("--user", "customer", "--item", "sku", "--time", "ts", "--rating", "stars")
    assert run("import", log, *columns, "--items", items, "--out", folder / "shop") == 0
    assert run("split", folder / "shop", "--min-rating", 2, "--k-core", 3, "--out", folder / "parts") == 0
    return folder / "parts"


def run(*words):
    """The program's exit code for a command line."""
    return cli.main([str(word) for word in words])


def small(name):
    fields = {*card(name).config.__dataclass_fields__}
    return [f"--set={pair}" for pair in (*SMALL, *(f"{k}={v}" for k, v in SIZES.items() if k in fields))]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_trained_measured_and_asked(name, shop, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIFFACET_CACHE", str(tmp_path / "cache"))
    vectors = tmp_path / "vectors.npy"
    np.save(vectors, np.random.default_rng(0).normal(size=(len(pl.read_parquet(shop / "items.parquet")), 4)))
    more = ["--item-vectors", vectors] if "clusters" in card(name).config.__dataclass_fields__ else []
    presets = card(name).presets
    preset = "collaborative" if "collaborative" in presets else "best"
    assert run("train", name, "--preset", preset, "--data", shop, "--out", tmp_path / "run", *small(name), *more) == 0
    capsys.readouterr()
    assert run("evaluate", tmp_path / "run", "--k", 5, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["split"], told["exclude_seen"], told["input"]) == ("given", True, "train")
    assert 0 <= told["metrics"]["recall@5"] <= 1
    assert run("recommend", tmp_path / "run", "--history", "3,5,8", "--k", 4, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    found = [row["item_id"] for row in answer["items"]]
    assert len({*found}) == 4
    assert not {*found} & {3, 5, 8}


def test_inference_settings_are_asked_for_and_checked(shop, tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", "diffrec", "--data", shop, "--out", out, *small("diffrec")) == 0
    capsys.readouterr()

    def asked(*pairs):
        code = run("recommend", out, "--history", "3,5,8", "--k", 5, "--json", *(f"--set={pair}" for pair in pairs))
        said = capsys.readouterr()
        return code, json.loads(said.out)["items"] if not code else said.err

    _, plain = asked()
    assert asked("sampling_steps=0") == (0, plain)
    _, noisy = asked("sampling_steps=5", "sampling_noise=true")
    assert noisy != plain
    assert asked("sampling_steps=5", "sampling_noise=true") == (0, noisy)
    assert asked("sampling_steps=5", "sampling_noise=true", "noise_seed=1")[1] != noisy
    code, said = asked("sampling_steps=6")
    assert (code, "sampling_steps lies in 0..T = 5; got 6" in said) == (2, True)
    code, said = asked("noise_scale=0.1")
    assert (code, "'noise_scale' is fixed when diffrec is trained" in said) == (2, True)


def test_a_history_that_holds_everything_has_no_candidates(shop, tmp_path, capsys):
    assert run("train", "ease", "--preset", "collaborative", "--data", shop, "--out", tmp_path / "run") == 0
    everything = ",".join(map(str, runs.load(tmp_path / "run").catalogue["item_id"]))
    capsys.readouterr()
    assert run("recommend", tmp_path / "run", "--history", everything) == 0
    assert "nothing is left to recommend" in capsys.readouterr().err
