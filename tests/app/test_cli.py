import json
import math
import re
import shutil
import subprocess
import sys

import pytest

import diffacet
from diffacet.app import cli, runs
from diffacet.app.studies import spec, work
from diffacet.errors import BadSetting
from shoplog import TINY, write_shop

SETS = [word for pair in TINY for word in ("--set", pair)]


TRAIN = ["train", "dmi", "--data", "{data}", "--out", "{new}"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with log.csv, items.csv, data/, and the runs pop/ and dmi/."""
    folder = tmp_path_factory.mktemp("shop")
    log, items = write_shop(folder)
    data = folder / "data"
    names = ["--user", "customer", "--item", "sku", "--time", "ts", "--rating", "stars"]
    assert cli.main(["import", str(log), *names, "--items", str(items), "--out", str(data)]) == 0
    where = ["--data", str(data), "--max-steps", "10"]
    assert cli.main(["train", "pop", *where, "--out", str(folder / "pop")]) == 0
    assert cli.main(["train", "dmi", *where, "--out", str(folder / "dmi"), *SETS]) == 0
    return folder


@pytest.fixture
def refused(call):
    """Runs a command line that must be refused in one line; returns the line."""

    def run(*words):
        code, out, err = call(*words)
        assert (code, out) == (2, "")
        assert err.startswith("diffacet: error: ")
        assert err.count("\n") == 1
        return err

    return run


# Pydantic is not among them: newer versions of Typer convert arguments by it.
HEAVY = {"torch", "polars", "numpy", "scipy", "sklearn", "rich", "faiss", "plotly", "safetensors"}


def test_help_loads_no_heavy_module():
    code = (
        "import sys; from diffacet.app.cli import main; assert main(['train', '--help']) == 0; assert main([]) == 0;"
        f"heavy = {HEAVY} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Examples:" in done.stdout


def test_the_package_itself_loads_nothing_but_the_standard_library():
    code = (
        "import sys; there = set(sys.modules); import diffacet; dir(diffacet);"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - there} - {'diffacet'};"
        "assert loaded <= sys.stdlib_module_names, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_teaches_by_examples(call, command):
    code, out, _ = call(command, "--help")
    assert code == 0
    assert f"  diffacet {command}" in out.partition("Examples:")[2]


def test_public_names_are_sorted_and_there():
    assert diffacet.__all__ == sorted(diffacet.__all__)
    for name in diffacet.__all__:
        assert getattr(diffacet, name) is not None
        assert getattr(diffacet, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = diffacet.nothing
    assert set(dir(diffacet)) == set(diffacet.__all__)


def test_version(call):
    assert call("--version") == (0, diffacet.__version__ + "\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tran"], "No such command 'tran' (did you mean 'train'?); see 'diffacet --help'"),
        (["recommend", "{data}", "--history", "1"], "is no run directory: it is a data directory; 'diffacet train'"),
        (["evaluate", "{new}"], "is no run directory: there is no such directory; 'diffacet train' makes one"),
        (["evaluate", "{data}/dataset.json"], "is no run directory: there is no such directory"),
        (["evaluate", "{dmi}", "--k", "5", "--k", "0"], "k, the length of a list, is at least 1; got 5, 0"),
        (
            ["recommend", "{dmi}", "--history", "1", "--index", "hsnw"],
            "index kind 'hsnw' (did you mean 'hnsw'?); kinds",
        ),
        ([*TRAIN, "--set", "dim=big"], "dim: it should be a valid integer (it lies in [1, ∞)); got 'big' (from --set"),
        (["--nothing"], "no such option: --nothing"),
        (["train"], "missing argument 'model'"),
        ([*TRAIN, "--seed", "x"], "--seed"),
        (["train", "dim", "--data", "{data}", "--out", "{new}"], "unknown model 'dim' (did you mean 'dmi'?)"),
        ([*TRAIN, "--preset", "bets"], "no preset 'bets' (did you mean 'best'?)"),
        ([*TRAIN, "--set", "gama=1"], "no setting 'gama' (did you mean 'gamma'?)"),
        ([*TRAIN, "--set", "gamma=1.5"], "from --set gamma=1.5"),
        ([*TRAIN, "--set", "gamma=0"], "from --set gamma=0"),
        ([*TRAIN, "--set", "steps=0"], "from --set steps=0"),
        ([*TRAIN, "--set", "interests=0"], "from --set interests=0"),
        ([*TRAIN, "--set", "eta=-0.1"], "from --set eta=-0.1"),
        ([*TRAIN, "--set", "eta"], "key=value"),
        ([*TRAIN, "--split", "by-usr"], "did you mean 'by-user'?"),
        ([*TRAIN, "--device", "tpu"], "auto, cpu or cuda"),
        (["train", "dmi", "--data", "{shop}", "--out", "{new}"], "interactions.parquet"),
        (["train", "dmi", "--data", "{shop}/none", "--out", "{new}"], "not a directory"),
        (["train", "pop", "--data", "{data}", "--out", "{pop}"], "exists"),
        (["train", "dmi", "--data", "{data}", "--out", "{dmi}", "--resume"], "begun with other settings"),
        (["models", "dim"], "did you mean 'dmi'?"),
        (["stats", "{shop}/none"], "not a directory"),
        (["evaluate", "{data}"], "no run directory"),
        (["evaluate", "{dmi}", "--on", "train"], "valid or test"),
        (["evaluate", "{dmi}", "--k", "0"], "at least 1"),
        (["evaluate", "{dmi}", "--memory", "0"], "--memory"),
        (["evaluate", "{dmi}", "--average", "mean"], "evaluated, all, users"),
        (["evaluate", "{dmi}", "--category", "leaf"], "first, last, rarest"),
        (["evaluate", "{dmi}", "--include-empty"], "this one is by-user"),
        (["probe", "{shop}"], "no run directory"),
        (["probe", "{pop}"], "pop scores items without a vector of each"),
        (["probe", "{dmi}", "--category", "leaf"], "first, last, rarest"),
        (["probe", "{dmi}", "--data", "{shop}/none"], "which is not there"),
        (["evaluate", "{dmi}", "--refine-steps", "99"], "refine_steps"),
        (["evaluate", "{pop}", "--refine-steps", "1"], "refine_steps"),
        (["evaluate", "{dmi}", "--set", "gamma=0.1"], "is fixed when dmi is trained"),
        (["recommend", "{dmi}", "--history", "1", "--set", "strt=mean"], "did you mean 'start'?"),
        (["evaluate", "{dmi}", "--data", "{shop}"], "interactions.parquet"),
        (["recommend", "{dmi}", "--history", ""], "--history is empty"),
        (["recommend", "{dmi}", "--history", "x,y"], "in the catalogue"),
        (["recommend", "{dmi}", "--history", "1", "--k", "0"], "at least 1"),
        (["recommend", "{dmi}", "--history", "1", "--diversity", "-1"], "diversity"),
        (["recommend", "{dmi}", "--history", "1", "--index", "tree"], "exact"),
        (["demo", "--out", "{new}", "--seeds", "0"], "--seeds is 1 or more"),
        (["import", "{shop}/none.csv", "--out", "{new}"], "none.csv"),
        (["import", "{shop}/none.csv", "--out", "{data}"], "exists and is not an empty directory"),
        (["import", "{shop}/log.csv", "--user", "buyer", "--out", "{new}"], "customer"),
        (["import", "{shop}/log.csv", "--out", "{new}", "--duplicates", "x"], "keep or drop"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(shop, refused, tmp_path, words, said):
    new = tmp_path / "new"
    places = {"shop": shop, "data": shop / "data", "pop": shop / "pop", "dmi": shop / "dmi", "new": new}
    line = refused(*(word.format(**places) for word in words))
    assert said.lower() in line.lower()
    assert not new.exists()


def test_a_filter_that_leaves_nobody_tells_each_step(shop, refused, tmp_path):
    names = ["--user", "customer", "--item", "sku", "--time", "ts", "--rating", "stars"]
    line = refused("import", shop / "log.csv", *names, "--min-rating", 4, "--k-core", 30, "--out", tmp_path / "d")
    assert "read: 60 users, 40 items, 720 interactions; rating 4 or more: 60 users" in line
    assert list(tmp_path.iterdir()) == []


def test_import_tells_what_each_filter_left(shop, call, tmp_path):
    log = tmp_path / "twice.csv"
    text = (shop / "log.csv").read_text()
    log.write_text(text + text.splitlines()[1] + "\n")
    names = ["--user", "customer", "--item", "sku", "--time", "ts"]
    code, out, err = call("import", log, *names, "--duplicates", "drop", "--min-count", 2, "--out", tmp_path / "d")
    assert (code, err) == (0, "")
    assert "repeats of user, item and time: 1 (dropped)" in out
    assert "fingerprint" in out
    assert f"next: diffacet train dmi --data {tmp_path / 'd'}" in out
    code, out, _ = call("stats", tmp_path / "d", "--json")
    told = json.loads(out)
    assert told["statistics"]["interactions"] == 720
    steps = [step["what"] for step in told["provenance"]["steps"]]
    assert steps == ["read", "repeated rows dropped", "count 2 or more, once"]
    assert told["provenance"]["repeated_rows"] == 1


def test_stats_for_people(shop, call):
    code, out, err = call("stats", shop / "data")
    assert (code, err) == (0, "")
    assert "interactions" in out
    assert "720" in out
    assert "2020-09-13" in out


def test_models_for_people_and_programs(call):
    code, out, _ = call("models")
    assert code == 0
    listed = json.loads(call("models", "--json")[1])["models"]
    for model in listed:
        assert model["name"] in out
        assert {"name", "paper", "task", "presets"} <= set(model)
        assert {"paper", "best"} <= set(model["presets"])
    code, out, _ = call("models", "dmi")
    assert code == 0
    for word in ("gamma", "γ", "> 0, ≤ 1", "preset paper", "@inproceedings{dmi"):
        assert word in out
    told = json.loads(call("models", "dmi", "--json")[1])
    assert "None" not in out
    assert re.search(r"refine_steps +S +none \| int +≥ 0 +none ", out)
    gamma = next(row for row in told["settings"] if row["name"] == "gamma")
    assert (gamma["symbol"], gamma["range"]) == ("γ", "> 0, ≤ 1")
    assert {"default", "presets", "description"} <= set(gamma)


def test_evaluate_json_is_one_object_without_nan(shop, call):
    code, out, err = call("evaluate", shop / "dmi", "--k", 3, "--k", 10, "--json")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    told = json.loads(out, parse_constant=pytest.fail)
    assert {"model", "dataset", "split", "on", "seed", "users", "seconds", "metrics"} <= set(told)
    facts = {"model": "dmi", "dataset": "data", "split": "by-user", "on": "test", "seed": 0, "users": 6}
    assert facts == {name: told[name] for name in facts}
    for name in ("recall", "hit_rate", "ndcg", "ndcg_set", "ndcg_textbook"):
        assert {f"{name}@3", f"{name}@10"} <= set(told["metrics"])


def test_evaluate_for_people_names_the_textbook_apart(shop, call):
    code, out, _ = call("evaluate", shop / "pop", "--on", "valid", "--exclude-seen")
    assert code == 0
    fields, others = out.split("by other definitions")
    textbook, lists = others.split("what the lists hold")
    assert "ndcg_set" in fields
    assert "ndcg_textbook" in textbook
    assert all(name in lists and name not in textbook for name in ("coverage", "gini", "kinds_random"))
    assert "users/s" in out


@pytest.fixture(scope="module")
def last(shop):
    """A run on the split that asks for last items."""
    where = ["--data", str(shop / "data"), "--max-steps", "10", "--split", "leave-last"]
    assert cli.main(["train", "remi", *where, "--out", str(shop / "last"), *SETS]) == 0
    return shop / "last"


def test_evaluate_of_next_items(last, call):
    told = json.loads(call("evaluate", last, "--json")[1])
    assert {int(name.partition("@")[2]) for name in told["metrics"]} == {5, 10, 20, 50}
    assert (told["users"], told["cases"], told["average"], told["category"]) == (60, 60, "evaluated", "last")
    assert 0 <= told["untrained_items"] < 1
    averaged = json.loads(call("evaluate", last, "--json", "--average", "users")[1])
    assert averaged["metrics"] == told["metrics"]  # one case each
    seven = json.loads(call("evaluate", last, "--json", "--k", 7)[1])["metrics"]
    assert set(seven) == {f"{name.partition('@')[0]}@7" for name in told["metrics"]}
    code, out, _ = call("evaluate", last)
    fields, others = out.split("by other definitions")
    assert code == 0
    assert all(name in fields for name in ("hit_rate", "ndcg", "mrr", "60 users", "users/s"))
    assert all(name not in fields and name in others for name in ("ndcg_set", "precision", "gini", "kinds_random"))


def test_evaluate_takes_the_category_that_counts(shop, call):
    first, last, rarest = (
        json.loads(call("evaluate", shop / "dmi", "--k", 10, "--category", name, "--json")[1])["metrics"]
        for name in ("first", "last", "rarest")
    )
    # The first of a ware's categories is one of four kinds, ten wares each; the last is one of two sides.
    assert first["kinds_random@10"] == pytest.approx(4 * (1 - math.comb(30, 10) / math.comb(40, 10)))
    assert last["kinds_random@10"] == pytest.approx(2 * (1 - math.comb(20, 10) / math.comb(40, 10)))
    assert rarest["kinds@10"] == first["kinds@10"] > last["kinds@10"]
    assert first["kinds_all@10"] == last["kinds_all@10"] <= 6
    assert first["recall@10"] == last["recall@10"]


def test_a_study_says_which_category_counts(shop):
    told = {"title": "T", "data": ["data"], "row": [{"label": "DMI", "model": "dmi"}], "metrics": ["kinds@20"]}
    run = runs.load(shop / "dmi")
    seen = {}
    for category in ("last", "first"):
        study = spec.parse({**told, "tests": ["kinds_all@20"], "category": category}, "s.toml")
        what = work.wanted_of(study, (spec.Ask(),))
        numbers, users, _ = work.measure(run, what)
        seen[category] = numbers[0]["on"]["test"]["metrics"]
        expected = run.evaluate(category=category)["metrics"]
        assert {key: seen[category][key] for key in ("kinds@20", "gini@20")} == {
            key: expected[key] for key in ("kinds@20", "gini@20")
        }
        assert {"kinds@20", "kinds_all@20"} <= set(users.columns)
        assert what["asks"][0].get("category") == (None if category == "last" else "first")
    assert seen["first"]["kinds@20"] > seen["last"]["kinds@20"]
    plain = spec.parse({**told, "metrics": ["recall@20"], "tests": ["ndcg@20"], "category": "first"}, "s.toml")
    assert "category" not in work.wanted_of(plain, (spec.Ask(),))["asks"][0]
    with pytest.raises(BadSetting, match="category: it should be 'first', 'last' or 'rarest'; got 'leaf'"):
        spec.parse({**told, "category": "leaf"}, "s.toml")


def test_probe_for_programs_and_people(shop, call):
    code, out, err = call("probe", shop / "dmi", "--category", "first", "--json")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    told = json.loads(out, parse_constant=pytest.fail)
    facts = {"model": "dmi", "dataset": "data", "split": "by-user", "seed": 0, "category": "first", "seeds": 5}
    facts |= {"standardised": True, "items": 40, "classes": 4, "merged": 0, "majority": 0.25, "converged": True}
    assert facts == {name: told[name] for name in facts}
    assert told["vectors"] == "item vectors, 8 numbers each"
    assert 0 <= told["accuracy"] <= 1
    raw = json.loads(call("probe", shop / "dmi", "--category", "first", "--json", "--raw")[1])
    assert (raw["standardised"], raw["train_accuracy"] == told["train_accuracy"]) == (False, False)
    code, out, err = call("probe", shop / "dmi")
    assert (code, err) == (0, "")
    assert "largest class alone" in out
    assert "0.5000" in out


def test_probe_says_that_vectors_are_those_of_the_last_layer(shop, call, tmp_path):
    words = ["--set", "dims=[3,5]", "--set", "validate_epochs=1", "--split", "collaborative"]
    names = ["--user", "customer", "--item", "sku", "--time", "ts", "--items", shop / "items.csv"]
    assert call("import", shop / "log.csv", *names, "--rating", "none", "--out", tmp_path / "d")[0] == 0
    assert (
        call("train", "multi-vae", "--data", tmp_path / "d", "--max-steps", 2, *words, "--out", tmp_path / "run")[0]
        == 0
    )
    told = json.loads(call("probe", tmp_path / "run", "--json")[1])
    assert told["vectors"] == "last layer, weights and bias, 6 numbers each"


def test_probe_of_data_without_categories_says_what_is_missing(shop, call, refused, tmp_path):
    names = ["--user", "customer", "--item", "sku", "--time", "ts"]
    assert call("import", shop / "log.csv", *names, "--out", tmp_path / "d")[0] == 0
    words = ["--data", tmp_path / "d", "--max-steps", 5, "--out", tmp_path / "run", *SETS]
    assert call("train", "remi", *words)[0] == 0
    line = refused("probe", tmp_path / "run")
    assert "the items of d have no categories" in line
    assert "'diffacet import LOG --items FILE --out DIR'" in line


def test_evaluate_gives_the_same_numbers_in_less_memory(shop, call):
    whole, little = (
        json.loads(call("evaluate", shop / "dmi", "--json", "--memory", mib)[1])["metrics"] for mib in (256, 1)
    )
    assert whole == little


def test_evaluate_takes_refinement_steps_and_moved_data(shop, call, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(shop / "data", moved)
    metrics = [
        json.loads(call("evaluate", shop / "dmi", "--json", "--data", moved, *words)[1])["metrics"]
        for words in ([], ["--refine-steps", 0], ["--set", "refine_steps=0"], [])
    ]
    assert metrics[0] != metrics[1]
    assert metrics[1] == metrics[2]
    assert metrics[0] == metrics[3]


def test_other_data_are_refused(shop, call, refused, tmp_path):
    names = ["--user", "customer", "--item", "sku", "--time", "ts"]
    assert call("import", shop / "log.csv", *names, "--min-count", 12, "--out", tmp_path / "d")[0] == 0
    assert "fingerprint" in refused("evaluate", shop / "dmi", "--data", tmp_path / "d")
    assert "other data" in refused("train", "pop", "--data", tmp_path / "d", "--out", shop / "pop", "--resume")


def test_a_damaged_run_is_refused(shop, refused, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(shop / "dmi", run)
    (run / "best.safetensors").write_bytes((run / "best.safetensors").read_bytes()[:100])
    assert "best.safetensors is damaged" in refused("evaluate", run)
    shutil.copy(shop / "pop" / "best.safetensors", run / "best.safetensors")
    assert "another model" in refused("recommend", run, "--history", "1")
    (run / "run.json").write_text("{")
    assert "run.json is damaged" in refused("evaluate", run)


def test_recommend_json_keeps_ids_and_names_the_unknown(shop, call):
    code, out, err = call("recommend", shop / "dmi", "--history", "1,2,nix,3", "--k", 5, "--json")
    assert code == 0
    assert "nix" in err
    told = json.loads(out)
    assert told["unknown"] == ["nix"]
    assert [len(vector) for vector in told["interests"]] == [8] * 4
    assert set(told) == {"interests", "items", "unknown"}
    assert len(told["items"]) == 5
    for item in told["items"]:
        assert isinstance(item["item_id"], int)
        assert item["item_id"] not in (1, 2, 3)
        assert item["title"] == f"Ware <{item['item_id']}> & co"
        assert 0 <= item["interest"] < 4
    scores = [item["score"] for item in told["items"]]
    assert scores == sorted(scores, reverse=True)


def test_recommend_without_interests_and_with_seen(shop, call):
    code, out, _ = call("recommend", shop / "pop", "--history", "1", "--k", 40, "--include-seen", "--json")
    told = json.loads(out)
    assert (code, told["interests"]) == (0, [])
    assert {item["item_id"] for item in told["items"]} == set(range(1, 41))


def test_recommend_for_people_shows_titles(shop, call):
    code, out, err = call("recommend", shop / "dmi", "--history", "1,2", "--diversity", 1, "--index", "hnsw", "--k", 4)
    assert (code, err) == (0, "")
    assert out.count("Ware <") == 4


def test_ctrl_c_ends_with_130_and_a_hint(call, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "train", interrupted)
    code, out, err = call("train", "dmi", "--data", tmp_path, "--out", tmp_path / "run")
    assert (code, out) == (130, "")
    assert "--resume" in err


def test_a_bug_keeps_its_traceback(call, monkeypatch, tmp_path):
    def broken(*_, **__):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(runs, "load", broken)
    with pytest.raises(ZeroDivisionError, match="ours"):
        call("evaluate", tmp_path)


def test_tables_in_a_pipe_are_as_wide_as_they_are(call, monkeypatch):
    def row():
        return next(line for line in call("models", "dmi")[1].splitlines() if line.startswith("noise_scale"))

    monkeypatch.delenv("COLUMNS", raising=False)
    assert "(paper-gowalla: 5.0, paper-book: 5.0" in row()
    monkeypatch.setenv("COLUMNS", "90")
    assert len(row()) <= 90
