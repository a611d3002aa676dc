"""The example of docs/adding-a-model.md, through the public ways: a file, a package, and a run whose code is gone."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import contract
import diffacet
import shoplog
from diffacet.app import cards

FILE = Path(__file__).parents[1] / "examples" / "new_model.py"
QUICK = ["dim=8", "negatives=32", "validate_every=20"]


@pytest.fixture
def elsewhere(monkeypatch):
    monkeypatch.setenv("DIFFACET_MODELS", str(FILE))
    return diffacet.card("fading-mean")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A data directory and a run of the example on it."""
    folder = tmp_path_factory.mktemp("new-model")
    log, _ = shoplog.write_shop(folder)
    diffacet.import_log([log], folder / "data", user="customer", item="sku", time="ts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFACET_MODELS", str(FILE))
        diffacet.train("fading-mean", folder / "data", folder / "run", set=QUICK, max_steps=40)
    return folder / "run"


def test_the_example_fits_one_screen():
    assert len(FILE.read_text(encoding="utf-8").splitlines()) <= 60


def test_the_example_keeps_the_contract(elsewhere, tmp_path):
    contract.finite_loss_of_named_terms(elsewhere, "best")
    contract.gradient_where_it_should_be(elsewhere, "best")
    contract.shapes(elsewhere, "best")
    contract.same_answer_alone_or_in_a_batch(elsewhere, "best")
    contract.bit_equal_in_any_company(elsewhere, "best")
    contract.padding_is_irrelevant(elsewhere, "best")
    contract.padding_row_is_irrelevant(elsewhere, "best")
    contract.an_empty_history_is_finite(elsewhere, "best")
    contract.inference_leaves_everything_alone(elsewhere, "best")
    contract.settings_round_trip(elsewhere, "best")
    contract.learns_a_checkerboard(elsewhere, "best")
    for name, updates in (("whole", "dense"), ("touched", "row-sparse")):
        (tmp_path / name).mkdir()
        contract.resuming_equals_an_unbroken_run(elsewhere, "best", tmp_path / name, updates)
    (tmp_path / "round").mkdir()
    contract.checkpoint_round_trip(elsewhere, "best", tmp_path / "round")


def test_a_run_of_it_is_asked_like_any_other(elsewhere, run, call):
    code, out, _ = call("evaluate", run, "--json")
    assert code == 0
    assert 0 < json.loads(out)["metrics"]["recall@20"] <= 1
    item = diffacet.load(run).catalogue["item_id"][0]
    code, out, _ = call("recommend", run, "--history", item, "--k", "3", "--json")
    assert code == 0
    assert len(json.loads(out)["items"]) == 3
    assert json.loads((run / "run.json").read_text())["model_code"].startswith("new_model.py, SHA-256 ")


def test_it_is_listed_beside_the_others(elsewhere, call):
    told = json.loads(call("models", "--json")[1])["models"]
    assert [one["name"] for one in told] == cards.names()
    assert told[-1]["name"] == "fading-mean"
    assert "by which e-fold" in call("models", "fading-mean")[1].replace("\n", " ")


def test_without_its_code_a_run_says_what_is_missing(run, monkeypatch, call):
    monkeypatch.delenv("DIFFACET_MODELS", raising=False)
    asked = (["evaluate", run], ["recommend", run, "--history", "1"], ["export", run, "--out", run.parent / "out"])
    for words in asked:
        code, _, err = call(*words)
        assert code == 2
        assert "a run of 'fading-mean', a model outside diffacet whose code is not here: it was new_model.py" in err
        assert "DIFFACET_MODELS" in err


def test_a_run_brings_no_code_of_its_own(run, monkeypatch, tmp_path):
    """What run.json says of the model's code is told to the user and never loaded."""
    monkeypatch.delenv("DIFFACET_MODELS", raising=False)
    (run / "new_model.py").write_text("raise SystemExit('executed')")
    try:
        monkeypatch.chdir(run)
        with pytest.raises(diffacet.BadRun, match="not here"):
            diffacet.load(run)
    finally:
        (run / "new_model.py").unlink()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no CARDS"),
        ("from diffacet.models.dmi import CARDS", "calls a model 'dmi', as diffacet calls one of its own"),
    ],
)
def test_a_file_that_is_no_model_is_refused(text, said, tmp_path, monkeypatch, call):
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.setenv("DIFFACET_MODELS", os.pathsep.join([str(FILE), str(tmp_path / "mine.py")]))
    for name in ("dmi", "fading-mean"):  # no file may take the place of a model, whichever is asked for
        code, _, err = call("models", name)
        assert code == 2
        assert said in err
        assert "mine.py" in err


def changed(*pairs):
    """The text of the example with some of it changed."""
    text = FILE.read_text(encoding="utf-8")
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([('"matching"', '"matchin"')], ["the task of 'fading-mean' is 'matchin'", "did you mean 'matching'"]),
        ([("fade: Annotated", "lr: Annotated"), ("config.fade", "config.lr")], ["a setting lr", "rename it"]),
        ([("def loss", "def lost")], ["has no loss(batch), so 40 steps would teach it nothing"]),
        ([("def catalogue", "def catalog")], ["has no interests(history) with catalogue(), or scores(history)"]),
        ([('"matching"', '"click"')], ["a model of clicks is validated by auc or gauc"]),
        ([(".unsqueeze(1)\n\n", "\n\n")], ["interests(history) of fading-mean gave (2, 8)", "(B, K, d) with B = 2"]),
        (
            [("return self.items.weight", "return self.items.weight[1:]")],
            ["catalogue() of fading-mean gave (", "N + 1"],
        ),
        ([("def interests", "def scores")], ["scores(history) of fading-mean gave (2, 1, 8)", "(B, N + 1)"]),
        ([('{"softmax": ', ""), ("batch)}", "batch)")], ["loss(batch) of FadingMean gave a Tensor", "named terms"]),
    ],
)
def test_what_a_first_model_gets_wrong_is_refused_before_it_is_trained(pairs, said, run, tmp_path, monkeypatch, call):
    (tmp_path / "mine.py").write_text(changed(*pairs))
    monkeypatch.setenv("DIFFACET_MODELS", str(tmp_path / "mine.py"))
    sets = [word for one in QUICK for word in ("--set", one)]
    code, _, err = call(
        "train", "fading-mean", "--data", run.parent / "data", "--out", tmp_path / "out", "--max-steps", 40, *sets
    )
    assert code == 2
    assert all(part in err for part in said), err
    assert "Traceback" not in err


def test_a_file_that_is_gone_or_none_of_python(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFACET_MODELS", str(tmp_path / "gone.py"))
    with pytest.raises(diffacet.BadSetting, match=r"DIFFACET_MODELS names .*gone\.py, which cannot be read \(No such"):
        diffacet.card("dmi")
    (tmp_path / "model.txt").write_text("CARDS = []")
    monkeypatch.setenv("DIFFACET_MODELS", str(tmp_path / "model.txt"))
    with pytest.raises(diffacet.BadSetting, match="no Python module"):
        diffacet.card("dmi")


def test_a_bug_of_the_file_keeps_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("CARDS = [undefined]")
    monkeypatch.setenv("DIFFACET_MODELS", str(tmp_path / "broken.py"))
    for _ in range(2):
        with pytest.raises(NameError, match="undefined"):
            diffacet.card("mine")


def test_a_changed_file_is_read_anew(tmp_path, monkeypatch):
    place = tmp_path / "mine.py"
    monkeypatch.setenv("DIFFACET_MODELS", str(place))
    text = FILE.read_text(encoding="utf-8")
    place.write_text(text)
    first = diffacet.card("fading-mean")
    assert diffacet.card("fading-mean") is first
    place.write_text(text.replace('"untuned"', '"tuned"'))
    assert diffacet.card("fading-mean").presets["best"].source == "tuned"


def test_two_files_of_one_name_are_refused(tmp_path, monkeypatch):
    other = tmp_path / FILE.name
    other.write_text(FILE.read_text(encoding="utf-8"))
    monkeypatch.setenv("DIFFACET_MODELS", os.pathsep.join([str(FILE), str(other)]))
    with pytest.raises(diffacet.BadSetting, match=r"two files called new_model\.py"):
        diffacet.card("fading-mean")


def test_its_settings_reach_processes_that_know_no_card_yet(elsewhere, tmp_path):
    """A study hands settings to its workers, each a new process that reads them before anything else."""
    (tmp_path / "settings").write_bytes(pickle.dumps(elsewhere.presets["best"]))
    asked = (
        "import pathlib, pickle, sys; chosen = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()); import diffacet; "
        "assert isinstance(chosen.model, diffacet.card('fading-mean').config)"
    )
    subprocess.run([sys.executable, "-c", asked, tmp_path / "settings"], check=True)


def test_a_file_given_as_the_name_of_a_model_is_explained(call):
    code, _, err = call("models", FILE)
    assert code == 2
    assert "is a file, and a model has a name" in err


def test_an_installed_package_brings_models_by_entry_points(tmp_path, monkeypatch, call):
    (tmp_path / "shop_models.py").write_text(FILE.read_text(encoding="utf-8").replace("fading-mean", "shop-mean"))
    about = tmp_path / "shop_recommender-0.3.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-recommender\nVersion: 0.3\n")
    (about / "entry_points.txt").write_text("[diffacet.models]\nshop-mean = shop_models\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("DIFFACET_MODELS", raising=False)
    try:
        assert diffacet.card("shop-mean").name == "shop-mean"
        assert cards.names()[-1] == "shop-mean"
        assert cards.origin("shop-mean") == "shop_models of shop-recommender 0.3"
        assert "did you mean 'shop-mean'" in call("models", "shop-maen")[2]
    finally:
        sys.modules.pop("shop_models", None)


def test_settings_of_it_are_checked_like_all_others(elsewhere, call):
    code, _, err = call("train", "fading-mean", "--data", "data", "--out", "run", "--set", "fade=-1")
    assert code == 2
    assert "fade" in err
    assert dataclasses.is_dataclass(elsewhere.config)


def test_models_of_the_table_say_no_code():
    assert cards.origin("dmi") is None
    with pytest.raises(diffacet.BadSetting, match="did you mean 'dmi'"):
        diffacet.card("dim")
