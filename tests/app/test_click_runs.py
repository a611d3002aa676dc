"""Runs of click models: what they keep, what they answer about files and candidates, and what is refused."""

import dataclasses
import json

import numpy as np
import polars as pl
import pytest
import torch

import clickshop
import diffacet
from clickshop import HOUR, SPLIT
from diffacet.app import runs
from diffacet.app.clicks import evaluation, prediction
from diffacet.app.clicks.run import ClickRun, Reading, read_vocabularies, vocabulary_table
from diffacet.data import clicks
from diffacet.errors import BadLog, BadRun, BadSetting
from diffacet.rank.click_evaluate import evaluate_clicks
from diffacet.rank.clicks import sigmoid

TINY = {"dim": 4, "hidden": "12,6", "batch_size": 64, "length": 6}


def train(data, out, **more):
    return runs.train("din", data, out, **{"set": TINY, **more})


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with data/ and run/, a run of DIN on it."""
    folder = tmp_path_factory.mktemp("shop")
    clickshop.folder(folder / "data")
    train(folder / "data", folder / "run")
    return folder


@pytest.fixture(scope="module")
def run(shop):
    return runs.load(shop / "run")


def told(call, *words):
    code, out, err = call(*words, "--json")
    assert code == 0, err
    return json.loads(out, parse_constant=pytest.fail)


def refused(call, *words):
    """The one line with which a command refuses."""
    code, out, err = call(*words)
    assert (code, out) == (2, ""), out
    assert err.startswith("diffacet: error: ")
    assert err.count("\n") == 1
    return err


# --- what a run keeps --------------------------------------------------------------------------------------------


def test_a_run_tells_how_it_was_made(run):
    about = run.about
    assert (about["task"], about["model"], about["data"]["name"]) == ("click", "din", "shop")
    assert about["split"]["borders"] == list(SPLIT)
    assert about["split"]["last"] < SPLIT[0]
    assert about["reading"] == {"min_count": 1, "gap": 0, "history_until": "sample"}
    assert sum(about["split"]["samples"].values()) == 900
    assert clicks.Schema.from_json(about["schema"]) == run.schema
    assert about["environment"]["torch"] == torch.__version__
    assert run.items.columns == ["item_id", "kind"]
    assert isinstance(diffacet.load(run.path), ClickRun)
    assert [record.metrics.keys() >= {"auc", "gauc", "log_loss"} for record in run.trail()] == [True]


def test_vocabularies_are_kept(run, shop):
    packed = run.packed()
    assert packed.log.vocabularies.keys() == run.vocabularies.keys()
    for name, vocabulary in packed.log.vocabularies.items():
        assert vocabulary.values.to_list() == run.vocabularies[name].values.to_list(), name
        assert vocabulary.values.dtype == run.vocabularies[name].values.dtype, name
    assert packed.statistics == run.statistics


def test_a_field_without_values_is_kept():
    empty = {"none": clicks.Vocabulary(pl.Series([], dtype=pl.Int64)), "one": clicks.Vocabulary(pl.Series(["a"]))}
    found = read_vocabularies(vocabulary_table(empty))
    assert {name: one.values.to_list() for name, one in found.items()} == {"none": [], "one": ["a"]}
    assert found["none"].size == 3


@pytest.mark.parametrize("killed", [1, 3, 6])
def test_a_killed_run_goes_on_between_validations(shop, tmp_path, killed):
    settings = {**TINY, "save_every": 2, "max_epochs": 1}

    def stop(moment):
        if moment.step == killed:
            raise KeyboardInterrupt

    whole = train(shop / "data", tmp_path / "whole", set=settings)
    with pytest.raises(KeyboardInterrupt):
        train(shop / "data", tmp_path / "broken", set=settings, watch=stop)
    seen = []
    broken = train(shop / "data", tmp_path / "broken", set=settings, resume=True, watch=seen.append)
    assert seen[0].step == killed - killed % 2 + 1
    assert all(
        torch.equal(one, other)
        for one, other in zip(whole.model.state_dict().values(), broken.model.state_dict().values(), strict=True)
    )
    steady = [dataclasses.replace(record, seconds=0.0) for record in whole.trail()]
    assert [dataclasses.replace(record, seconds=0.0) for record in broken.trail()] == steady


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split": "quantile:0.6:0.2"}, "was trained on other data"),
        ({"reading": Reading(gap=1000)}, "was trained on other data"),
        ({"set": {**TINY, "length": 5}}, "length is 5, was 6"),
    ],
)
def test_another_run_is_not_gone_on_with(shop, change, said):
    with pytest.raises(BadRun, match=said):
        train(shop / "data", shop / "run", resume=True, **change)


# --- evaluation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["valid", "test"])
def test_evaluation_is_that_of_all_samples_of_the_part(run, on):
    result = run.evaluate(on)
    packed = run.packed()
    rows = getattr(packed.split, on)
    found = evaluate_clicks(run.model, packed.log, rows, length=6)
    assert result["metrics"] == pytest.approx(found.measure(packed.log.group[rows]))
    low, high = result["auc_interval"]
    assert low < result["metrics"]["auc"] < high
    assert (result["samples"], result["clicks"]) == (len(rows), int(packed.log.label[rows].sum()))
    assert {one["by"] for one in result["slices"]} == {"history", "item", "user", "day"}
    for by in ("history", "item", "user", "day"):
        assert sum(one["samples"] for one in result["slices"] if one["by"] == by) == len(rows)
    best = max(run.trail(), key=lambda record: record.metrics["auc"])
    if on == "valid":
        assert best.metrics["auc"] == pytest.approx(result["metrics"]["auc"])


def test_the_numbers_do_not_depend_on_how_many_are_asked_at_once(run):
    one, other = run.evaluate(batch_size=1), run.evaluate(batch_size=1000)
    assert one["metrics"] == pytest.approx(other["metrics"], abs=1e-6)


def test_a_base_is_compared_on_the_same_samples(run, shop, tmp_path):
    base = train(shop / "data", tmp_path / "base", set={**TINY, "max_epochs": 4}, seed=3)
    against = run.evaluate(base=base)["base"]
    ours, theirs = run.evaluate()["metrics"]["auc"], base.evaluate()["metrics"]["auc"]
    assert against["difference"] == pytest.approx(ours - theirs)
    assert against["auc"] == pytest.approx(theirs)
    assert against["delong"]["low"] < against["difference"] < against["delong"]["high"]
    assert against["users"]["low"] < against["users"]["high"]
    expected = ((ours - 0.5) / (theirs - 0.5) - 1) * 100 if theirs > 0.5 else None
    assert against["relative_improvement"] == (None if expected is None else pytest.approx(expected))
    same = run.evaluate(base=run)["base"]
    assert (same["difference"], same["delong"]["p"]) == (0, 1)
    other = train(shop / "data", tmp_path / "other", split="quantile:0.5:0.2")
    with pytest.raises(BadRun, match="only runs of the same showings are compared"):
        run.evaluate(base=other)


def test_dropped_negatives_are_corrected_for(run):
    plain, fair = run.evaluate()["metrics"], run.evaluate(negative_rate=0.5)["metrics"]
    assert plain["auc"] == pytest.approx(fair["auc"])
    assert fair["pcoc"] < plain["pcoc"]
    for rate in (0, 1.5, float("nan")):
        with pytest.raises(BadSetting, match="--negative-rate is the share"):
            run.evaluate(negative_rate=rate)


def test_moved_and_changed_data(run, shop, tmp_path):
    (shop / "data").rename(shop / "moved")
    try:
        with pytest.raises(BadRun, match="which is not there; say where it is with --data DIR"):
            run.evaluate()
        assert run.evaluate(data=shop / "moved")["samples"] > 0
    finally:
        (shop / "moved").rename(shop / "data")
    other = clickshop.folder(tmp_path / "other", seed=5)
    with pytest.raises(BadRun, match="it is other data, or was changed since"):
        run.evaluate(data=other)


def test_the_calibration_is_drawn(run, shop, call, tmp_path):
    pytest.importorskip("plotly")
    page = tmp_path / "page.html"
    code, out, err = call("evaluate", run.path, "--picture", page, "--base", run.path)
    assert (code, err) == (0, "")
    assert "AUC" in out
    assert "relative improvement" in out
    text = page.read_text(encoding="utf-8")
    asked = evaluation.Asked()
    table = evaluation.calibration(evaluation.answers(run, asked))
    assert json.dumps(table.expected.tolist()) in text
    assert json.dumps(table.observed.tolist()) in text
    assert text.count("<tr>") >= len(table.counts)
    assert "ends in .html or .png" in refused(call, "evaluate", run.path, "--picture", tmp_path / "page.pdf")


# --- predictions for files ---------------------------------------------------------------------------------------


@pytest.fixture
def inputs(tmp_path):
    """The showings from the test's border on, without labels, and all behaviours, as text."""
    shown, done, _ = clickshop.frames()
    shown = shown.filter(pl.col("timestamp") >= SPLIT[1])
    shown.drop("label").write_csv(tmp_path / "shown.csv")
    done.write_csv(tmp_path / "done.csv")
    return tmp_path


def predict(run, folder, out="out.csv", **more):
    shown, done = (more.pop(name, f"{name}.csv") for name in ("shown", "done"))
    result = run.predict(folder / shown, folder / done, folder / out, **more)
    read = pl.read_csv if out.endswith("csv") else pl.read_parquet
    return result, read(folder / out)


@pytest.mark.parametrize("block", [1 << 18, 7])
@pytest.mark.parametrize("out", ["out.csv", "out.parquet"])
def test_predictions_are_those_of_the_evaluation(run, inputs, out, block, monkeypatch):
    """However many rows are read at a time, and with the labels left out."""
    monkeypatch.setattr(prediction, "BLOCK", block)
    result, found = predict(run, inputs, out)
    packed = run.packed()
    expected = sigmoid(evaluate_clicks(run.model, packed.log, packed.split.test, length=6).logits)
    np.testing.assert_allclose(found["probability"].to_numpy(), expected, atol=1e-6)
    assert found.columns == ["user_id", "item_id", "timestamp", "slot", "price", "probability"]
    assert result["samples"] == len(expected)
    assert result["mean"] == pytest.approx(expected.mean())
    assert result["unknown"]["item"] > 0  # two items are new in the test
    assert result["ignored"] == []
    assert sorted(path.name for path in inputs.iterdir()) == sorted([out, "shown.csv", "done.csv"])


def test_columns_of_other_names_and_columns_of_no_use(run, inputs):
    shown = pl.read_csv(inputs / "shown.csv").rename({"user_id": "who", "timestamp": "when"})
    shown = shown.with_columns(note=pl.lit("a, b"), label=pl.lit(None))
    shown.write_csv(inputs / "other.csv")
    pl.read_csv(inputs / "done.csv").rename({"user_id": "who"}).write_parquet(inputs / "done.parquet")
    columns = {"user_id": "who", "timestamp": "when"}
    result, found = predict(run, inputs, "a.csv", shown="other.csv", done="done.parquet", columns=columns)
    plain, expected = predict(run, inputs, "b.csv")
    np.testing.assert_allclose(found["probability"], expected["probability"], atol=1e-12)
    assert found.columns == [*shown.columns, "probability"]
    assert found["note"].unique().to_list() == ["a, b"]
    assert result["ignored"] == ["note"]
    assert plain["mean"] == pytest.approx(result["mean"])


def test_unknown_values_and_people_without_a_past(run, inputs):
    rows = [("nobody", "nothing", SPLIT[1], "below", None), (39, 3, SPLIT[1], None, 2.0)]
    schema = ["user_id", "item_id", "timestamp", "slot", "price"]
    text = "\n".join([",".join(schema), *(",".join("" if v is None else str(v) for v in row) for row in rows)])
    (inputs / "new.csv").write_text(text + "\n", encoding="utf-8")
    result, found = predict(run, inputs, shown="new.csv")
    assert found["probability"].is_between(0, 1).all()
    assert result["without_history"] == 2
    assert result["unknown"] == {"item": 1, "kind": 1, "user_id": 1, "slot": 2}


def test_seconds_and_dates_are_times_too(run, inputs):
    shown = pl.read_csv(inputs / "shown.csv")
    _, expected = predict(run, inputs, "a.csv")
    shown.with_columns(pl.col("timestamp") // 1000).write_csv(inputs / "seconds.csv")
    dates = pl.from_epoch(shown["timestamp"], time_unit="ms").dt.strftime("%Y-%m-%dT%H:%M:%S")
    shown.with_columns(dates.alias("timestamp")).write_csv(inputs / "dates.csv")
    for name in ("seconds.csv", "dates.csv"):
        _, found = predict(run, inputs, "b.csv", shown=name)
        np.testing.assert_allclose(found["probability"], expected["probability"], atol=1e-9)


def test_the_gap_of_the_training_is_kept(shop, inputs, tmp_path):
    """A run that was trained without the last six hours does not see them when it predicts."""
    hidden = train(shop / "data", tmp_path / "gap", reading=Reading(gap=6 * HOUR))
    _, found = predict(hidden, inputs)
    packed = hidden.packed()
    assert int((packed.log.end - packed.log.begin).sum()) < int((clickshop.log().end - clickshop.log().begin).sum())
    expected = sigmoid(evaluate_clicks(hidden.model, packed.log, packed.split.test, length=6).logits)
    np.testing.assert_allclose(found["probability"], expected, atol=1e-6)


def spoilt(column, row, text):
    """The showings with `text` in one place."""
    return lambda shown: shown.with_columns(shown[column].cast(pl.String).scatter([row], text))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda shown: shown.drop("slot"), "shown.csv has no column 'slot', which is needed (context_fields); it has "),
        (lambda shown: shown.rename({"slot": "slots"}), "did you mean 'slots'?"),
        (lambda shown: shown.rename({"user_id": "x"}), "name it by --user COL; it has x, item_id"),
        (
            spoilt("price", 3, "cheap"),
            "shown.csv, row 5: column 'price': 'cheap' is no finite number",
        ),
        (spoilt("price", 4, "NaN"), "row 6: column 'price': 'NaN'"),
        (
            spoilt("timestamp", 0, "noon"),
            "shown.csv, row 2: column 'timestamp'",
        ),
        (spoilt("item_id", 2, None), "row 4: column 'item_id'"),
        (lambda shown: shown.with_columns(probability=1), "has a column 'probability' already"),
        (lambda shown: shown.clear(), "has no row; there is nothing to predict"),
    ],
)
def test_bad_files_are_refused_and_nothing_is_written(run, inputs, change, said, call, monkeypatch):
    monkeypatch.setattr(prediction, "BLOCK", 2)
    change(pl.read_csv(inputs / "shown.csv")).write_csv(inputs / "shown.csv")
    words = ["--samples", inputs / "shown.csv", "--behaviours", inputs / "done.csv", "--out", inputs / "out.csv"]
    assert said in refused(call, "predict", run.path, *words)
    assert sorted(path.name for path in inputs.iterdir()) == ["done.csv", "shown.csv"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "{}/out.json"], "--out takes a file that ends in .parquet or .csv"),
        (["--out", "{}/no/out.csv"], "its folder is not there"),
        (["--samples", "{}/none.csv"], "none.csv: no such file"),
        (["--samples", "{}/shown.txt.zip"], "tables are read from .csv, .tsv, .txt, .parquet, .pq"),
        (["--batch-size", 0], "--batch-size is at least 1; got 0"),
        (["--negative-rate", 2], "--negative-rate is the share"),
        (["--user", "customer"], "has no column 'customer', which --user names; it has "),
        (["--set", "length=3"], "'length' is fixed when din is trained"),
    ],
)
def test_bad_options_of_predict(run, inputs, words, said, call):
    asked = {"--samples": "{}/shown.csv", "--behaviours": "{}/done.csv", "--out": "{}/out.csv"}
    asked |= dict([words])
    line = [str(word).format(inputs) for pair in asked.items() for word in pair]
    if words[0] == "--user":
        pl.read_csv(inputs / "shown.csv").rename({"user_id": "x"}).write_csv(inputs / "shown.csv")
    assert said in refused(call, "predict", run.path, *line)
    assert not list(inputs.glob("out*"))


def test_behaviours_are_needed(run, inputs, call):
    words = ["--samples", inputs / "shown.csv", "--out", inputs / "out.csv"]
    assert "a model of shop needs --behaviours FILE" in refused(call, "predict", run.path, *words)


# --- re-ranking --------------------------------------------------------------------------------------------------


def test_candidates_are_ordered_by_their_clicks(run):
    """As samples of the same user, time, context and behaviours would be answered, built here by hand."""
    history, candidates, at = [3, 7, 7, 12], [1, 5, 29, 12, "none"], SPLIT[1]
    found = run.rerank(
        history, candidates, [0.5, 0.4, 0.3, 0.2, 0.1], user=2, at=at, context={"slot": "top", "price": 3}
    )
    samples = pl.DataFrame(
        {
            "user_id": ["2"] * 5,
            "item_id": [str(one) for one in candidates],
            "timestamp": [at] * 5,
            "label": [0] * 5,
            "slot": ["top"] * 5,
            "price": [3.0] * 5,
        }
    )
    done = pl.DataFrame(
        {
            "user_id": ["2"] * 4,
            "item_id": [str(one) for one in history],
            "timestamp": [at - 4000, at - 3000, at - 2000, at - 1000],
            "behaviour_type": pl.Series([None] * 4, dtype=pl.String),
        }
    )
    raw = clicks.from_frames(clickshop.renamed(group=None), samples, done, run.items)
    log = clicks.encode(raw, run.vocabularies, run.statistics)
    logits = evaluate_clicks(run.model, log, np.arange(5), length=6).logits
    order = np.argsort(-logits, kind="stable")
    assert found["item_id"].to_list() == [str(candidates[place]) for place in order]
    assert found["place"].to_list() == (order + 1).tolist()
    np.testing.assert_allclose(found["probability"], sigmoid(logits[order]), atol=1e-6)
    np.testing.assert_allclose(found["score"], np.array([0.5, 0.4, 0.3, 0.2, 0.1])[order], atol=1e-6)
    assert dict(zip(found["item_id"], found["known"], strict=True)) == {"1": 1, "5": 1, "29": 0, "12": 1, "none": 0}


def test_what_is_not_said_is_unknown(run):
    plain = run.rerank([3], [1, 2])
    assert plain.columns == ["item_id", "place", "probability", "known"]
    assert plain.equals(run.rerank([3], [1, 2], user="nobody", at=run.about["split"]["last"]))
    assert not plain["probability"].equals(run.rerank([3], [1, 2], behaviour={"behaviour_type": "cart"})["probability"])
    assert run.rerank([], [1, 2])["probability"].is_between(0, 1).all()
    later = run.rerank([3], [1, 2], at="2023-11-20T12:00")
    assert later.equals(run.rerank([3], [1, 2], at="2023-11-20T14:00+02:00"))
    assert later.equals(run.rerank([3], [1, 2], at=1700481600000))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"candidates": []}, "there is at least one candidate"),
        ({"candidates": "12"}, "are lists of item ids"),
        ({"scores": [1.0]}, "there are 2 candidates and 1 scores"),
        ({"context": {"slots": "top"}}, r"no context 'slots' \(did you mean 'slot'\?\); it takes slot, price"),
        ({"context": {"price": "cheap"}}, "the context 'price' is a number; got 'cheap'"),
        ({"context": {"price": "inf"}}, "the context 'price' is a finite number"),
        ({"behaviour": {"type": "cart"}}, "no column 'type' of behaviours.* it takes behaviour_type"),
        ({"at": "noon"}, "--at is a time in milliseconds since 1970, or such as"),
    ],
)
def test_bad_requests(run, change, said):
    asked = {"history": [3], "candidates": [1, 2], **change}
    with pytest.raises(BadSetting, match=said):
        run.rerank(asked.pop("history"), asked.pop("candidates"), **asked)


# --- refusals of commands ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--k", 5], "--k means nothing here: din is a model of clicks"),
        (["--include-seen"], "--exclude-seen means nothing here"),
        (["--average", "users"], "--average means nothing here"),
        (["--input", "train+valid"], "--input means nothing here"),
        (["--on", "train"], "--on takes valid or test; got 'train'"),
        (["--refine-steps", 2], "no setting 'refine_steps'"),
        (["--base", "nowhere"], "nowhere is no run directory"),
    ],
)
def test_bad_options_of_evaluate(run, call, words, said):
    assert said in refused(call, "evaluate", run.path, *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--split", "by-user"], "unknown split 'by-user'"),
        (["--split", "quantile:0.9"], "has 1 numbers; write day"),
        (["--split-seed", 3], "--split-seed shuffles users, and din is a model of clicks"),
        (["--item-vectors", "x.npy"], "--item-vectors is for L-DiffRec"),
        (["--gap", -1], "--gap 0 or more milliseconds"),
        (["--history-until", "day"], "--history-until sample or split"),
        (["--set", "metric=recall@50"], "a model of clicks is validated by auc or gauc"),
        (["--set", "batch_size=1"], "takes batch_size 2 or more; got 1"),
        (["--threads", 0], "threads is at least 1"),
    ],
)
def test_bad_options_of_train(shop, call, tmp_path, words, said):
    assert said in refused(call, "train", "din", "--data", shop / "data", "--out", tmp_path / "new", *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("part", "low", "high"), [("valid", *SPLIT), ("test", SPLIT[1], 2**62), ("train", 0, SPLIT[0])]
)
@pytest.mark.parametrize("label", [0, 1])
def test_a_part_of_one_class_is_refused_before_training(call, tmp_path, part, low, high, label):
    shown, *_ = clickshop.frames(samples=300)
    inside = pl.col("timestamp").is_between(low, high, closed="left")
    data = clickshop.folder(tmp_path / "data")
    shown.with_columns(pl.when(inside).then(label).otherwise("label").alias("label")).write_parquet(
        data / "samples.parquet"
    )
    line = refused(call, "train", "din", "--data", data, "--out", tmp_path / "new")
    assert f"the {part} part has {'clicks only' if label else 'no click'} in" in line
    assert not (tmp_path / "new").exists()


def test_each_kind_of_data_has_its_kind_of_model(shop, call, tmp_path):
    log = pl.DataFrame({"user": [1, 1, 2, 2], "item": [3, 4, 3, 5], "time": [1, 2, 3, 4]})
    log.write_csv(tmp_path / "log.csv")
    assert call("import", tmp_path / "log.csv", "--out", tmp_path / "items")[0] == 0
    line = refused(call, "train", "din", "--data", tmp_path / "items", "--out", tmp_path / "new")
    assert "holds no samples.parquet" in line
    assert "diffacet import-clicks --from-ratings 4" in line
    line = refused(call, "train", "pop", "--data", shop / "data", "--out", tmp_path / "new")
    assert "holds click data (samples.parquet), and pop learns from interactions" in line
    line = refused(call, "train", "pop", "--data", tmp_path / "items", "--out", tmp_path / "new", "--gap", 5)
    assert "--gap and --history-until are for models of clicks; pop is none" in line


def test_commands_of_other_models_say_so(shop, run, call, tmp_path):
    log = pl.DataFrame({"user": [u for u in range(12) for _ in range(6)], "item": list(range(6)) * 12})
    log.with_columns(time=pl.Series(range(72))).write_csv(tmp_path / "log.csv")
    assert call("import", tmp_path / "log.csv", "--out", tmp_path / "items")[0] == 0
    assert call("train", "pop", "--data", tmp_path / "items", "--out", tmp_path / "pop")[0] == 0
    assert "which is no model of clicks; predict needs one" in refused(
        call, "predict", tmp_path / "pop", "--samples", "s.csv", "--out", "o.csv"
    )
    line = refused(call, "evaluate", tmp_path / "pop", "--base", run.path)
    assert "--base means nothing here: pop is no model of clicks" in line
    line = refused(call, "recommend", run.path, "--history", "3")
    assert "a model of clicks, of which there is no recommendation" in line
    assert "there is no probe" in refused(call, "probe", run.path)
    line = refused(call, "recommend", tmp_path / "pop", "--history", "3", "--user", "7")
    assert "--user is for re-ranking; add --rerank RUN" in line
    line = refused(call, "recommend", tmp_path / "pop", "--history", "3", "--rerank", tmp_path / "pop")
    assert "which is no model of clicks; --rerank needs one" in line
    line = refused(call, "recommend", tmp_path / "pop", "--history", "3", "--rerank", run.path, "--candidates", 5)
    assert "--candidates is at least --k, 20; got 5" in line
    line = refused(call, "recommend", tmp_path / "pop", "--history", "3", "--rerank", run.path, "--context", "slot")
    assert "--context takes key=value; got 'slot'" in line


def test_a_damaged_run(run, tmp_path):
    for name in ("vocabularies.parquet", "best.safetensors"):
        copy = tmp_path / name
        copy.mkdir()
        for path in run.path.iterdir():
            if path.is_file() and path.name != name:
                (copy / path.name).write_bytes(path.read_bytes())
        with pytest.raises(BadRun, match="is missing"):
            runs.load(copy)
    (tmp_path / name / "run.json").write_text("{}")
    with pytest.raises(BadRun, match="has format None"):
        runs.load(tmp_path / name)


def test_a_data_directory_that_is_none(tmp_path):
    with pytest.raises(BadLog, match="is not a folder"):
        train(tmp_path / "nowhere", tmp_path / "run")
