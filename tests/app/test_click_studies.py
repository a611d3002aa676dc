"""Studies of click models: their numbers against direct computation, their tables, and what is refused."""

import copy
import json
import math

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import roc_auc_score

import clickshop
from diffacet import seeds
from diffacet.app import runs, search
from diffacet.app.clicks import interests
from diffacet.app.importing import import_log
from diffacet.app.studies import (
    beside,
    click_pairs,
    click_work,
    clicks,
    conduct,
    folder,
    pictures,
    plan,
    spec,
    work,
)
from diffacet.app.studies import statistics as paired
from diffacet.app.studies.plan import Cut
from diffacet.app.studies.results import Line, Trial
from diffacet.core.batch import ClickBatch
from diffacet.data.clicks import cut
from diffacet.errors import BadLog, BadRun, BadSetting
from diffacet.rank import click_tests
from diffacet.rank.evaluate import evaluating
from shoplog import write_shop

SMALL = {"dim": 4, "hidden": [12, 6], "batch_size": 32, "length": 8, "lr": 0.02, "max_epochs": 3, "patience": 3}
MADE = SMALL | {"recent": 3, "sampling_steps": 2, "channels": 2, "keep": 50.0}
STUDY = {
    "name": "shown",
    "title": "Showings",
    "note": "Of a shop.",
    "data": ["shop"],
    "seeds": [0, 1],
    "metrics": ["auc", "gauc", "log_loss", "ne", "pcoc", "ece", "gauc_coverage"],
    "tests": ["auc"],
    "base": "DIN(S)",
    "row": [
        {"label": "DIN(S)", "model": "din", "preset": "short", "set": SMALL | {"window": 3}},
        {"label": "DIN, {dim}", "model": "din", "set": SMALL, "grid": {"dim": [2, 4]}},
        {
            "label": "DiffuMIN",
            "model": "diffumin",
            "set": MADE,
            "asks": [{}, {"sampling_noise": "seeded"}, {"sampling_noise": "average", "draws": 2, "label": "average"}],
            "seeds": 1,
        },
    ],
}


def planned(place, cut=Cut(), **changes):  # noqa: B008
    return plan.make(spec.parse(copy.deepcopy(STUDY) | changes, "shown.toml"), place, cut)


def here(plan, jobs, out, *, device, watch, **_):
    """The farm's work in this process, which is all that these tests need of it."""
    for job in jobs:
        watch.begun(job)
        place = folder.place(out, job)
        place.mkdir(parents=True, exist_ok=True)
        work.perform(job, plan.study, place, device=device)
        watch.ended(job, None)
    return []


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """No other processes, and no browser for pictures; as many threads as before."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conduct.farm, "run", here)
        patch.setattr(pictures, "write_static", lambda *_: None)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with the click data of a shop, and with a log of another one."""
    place = tmp_path_factory.mktemp("data")
    clickshop.folder(place / "shop", samples=600)
    log, items = write_shop(place)
    import_log([log], place / "log", user="customer", item="sku", time="ts", rating="stars", items=items)
    return place


@pytest.fixture(scope="module")
def out(data, tmp_path_factory):
    """The folder of STUDY, run."""
    place = tmp_path_factory.mktemp("study") / "out"
    assert conduct.conduct(planned(data), place, device="cpu").failures == ()
    return place


@pytest.fixture(scope="module")
def page(data, out):
    return conduct.reread(planned(data), out)


def line(page, label):
    return next(one for one in page.sheets[0].lines if one.label == label)


def pair(page, label):
    return next(one for one in page.sheets[0].pairs if one.one == label)


# --- what is kept ------------------------------------------------------------------------------------------------


def test_predictions_of_every_ask_and_part_are_kept(out):
    place = out / "runs/shop/diffumin-s0"
    assert not (place / "users.parquet").exists()
    kept = pl.read_parquet(place / "predictions.parquet")
    assert dict(kept.schema) == {
        "ask": pl.Int16,
        "on": pl.Categorical,
        "row": pl.Int64,
        "user": pl.Int64,
        "label": pl.UInt8,
        "logit": pl.Float32,
    }
    changes = [{}, {"sampling_noise": "seeded"}, {"sampling_noise": "average", "draws": 2}]
    for ask, change in enumerate(changes):
        run = runs.load(place / "run", set=change)
        packed = run.packed()
        for on in ("valid", "test"):
            some = kept.filter((pl.col("ask") == ask) & (pl.col("on") == on))
            rows = some["row"].to_numpy()
            assert np.array_equal(rows, getattr(packed.split, on))
            assert np.array_equal(some["label"].to_numpy(), packed.log.label[rows])
            assert np.array_equal(some["user"].to_numpy(), packed.log.user[rows])
            with evaluating(run.model):
                logits = run.model.logits(ClickBatch.from_arrays(cut(packed.log, rows, 8))).numpy()
            assert some["logit"].to_numpy() == pytest.approx(logits, abs=1e-5)


def test_numbers_are_those_of_the_evaluation(out, page):
    for label, name in (("DIN, 4", "din-4-s1"), ("DIN(S)", "din-s-s1")):
        run = runs.load(out / "runs/shop" / name / "run")
        for on in ("valid", "test"):
            told, found = run.evaluate(on), line(page, label).trials[1].part(on)
            assert found["metrics"] == pytest.approx(told["metrics"], abs=1e-9)
            assert found["auc_interval"] == pytest.approx(told["auc_interval"], abs=1e-9)
            assert (found["samples"], found["clicks"], found["users"]) == tuple(
                told[key] for key in ("samples", "clicks", "users")
            )


def test_draws_are_of_the_same_users_in_all_runs(page):
    """Draw n of a run is its AUC over samples of users that a stream of NumPy's names, written out."""
    trial = line(page, "DIN(S)").trials[0]
    some = click_pairs.predictions(trial, "test")
    users = some["user"].to_numpy()
    different, rng = np.unique(users), seeds.stream(0, "resampled users")
    drawn = trial.draws.filter((pl.col("ask") == 0) & (pl.col("on") == "test"))["auc"].to_list()
    assert len(drawn) == click_work.RESAMPLES
    for value in drawn[:20]:
        picks = different[rng.integers(0, len(different), len(different))]
        rows = np.concatenate([np.flatnonzero(users == user) for user in picks])
        assert value == pytest.approx(roc_auc_score(some["label"].to_numpy()[rows], some["logit"].to_numpy()[rows]))


# --- pairs -------------------------------------------------------------------------------------------------------


def test_differences_are_of_the_mean_aucs_over_common_seeds(page):
    base = line(page, "DIN(S)")
    for label, seeds_ in (("DIN, 2", 2), ("DIN, 4", 2), ("DiffuMIN", 1), ("DiffuMIN, average", 1)):
        one, found = line(page, label), pair(page, label)
        ours = [trial.value("auc", "test") for trial in one.trials[:seeds_]]
        theirs = [trial.value("auc", "test") for trial in base.trials[:seeds_]]
        assert found.mean == pytest.approx(np.mean(ours) - np.mean(theirs), abs=1e-12)
        assert found.relative == pytest.approx((np.mean(ours) - 0.5) / (np.mean(theirs) - 0.5) - 1)
        assert found.seeds == seeds_
        assert found.users == len(set(click_pairs.predictions(base.trials[0], "test")["user"]))


def test_p_are_delongs_and_welchs_after_holm(page):
    base = line(page, "DIN(S)")
    labels = ["DIN, 2", "DIN, 4", "DiffuMIN", "DiffuMIN, sampling_noise seeded", "DiffuMIN, average"]
    by_samples, by_seeds = [], []
    for label in labels:
        one = line(page, label)
        first, second = (click_pairs.predictions(some.trials[0], "test") for some in (one, base))
        scores = (some["logit"].to_numpy() for some in (first, second))
        by_samples.append(click_tests.delong(first["label"].to_numpy(), *scores).p)
        aucs = [[trial.value("auc", "test") for trial in some.trials] for some in (one, base)]
        by_seeds.append(click_tests.welch(*aucs) if len(one.trials) > 1 else math.nan)
    found = [pair(page, label) for label in labels]
    assert [one.p_users for one in found] == pytest.approx(paired.holm(by_samples))
    assert [one.p_seeds for one in found] == pytest.approx(paired.holm(by_seeds), nan_ok=True)
    assert math.isnan(found[2].p_seeds)


def test_the_interval_is_of_the_mean_difference_under_draws_of_users(page):
    base, one = line(page, "DIN(S)"), line(page, "DIN, 4")
    gains = []
    for ours, theirs in zip(one.trials, base.trials, strict=True):
        some, other = (click_pairs.predictions(trial, "test") for trial in (ours, theirs))
        scores = [frame["logit"].to_numpy() for frame in (some, other)]
        drawn = click_tests.resampled(some["label"].to_numpy(), scores, some["user"].to_numpy())
        gains.append(drawn[:, 0] - drawn[:, 1])
    found = pair(page, "DIN, 4")
    assert [found.low, found.high] == pytest.approx(np.quantile(np.mean(gains, 0), [0.025, 0.975]).tolist())


def made(seed, labels, logits, *, fingerprint="f", rows=None):
    """A run with these answers on test, without a model behind it."""
    rows = list(range(len(labels))) if rows is None else rows
    columns = {"ask": [0] * len(rows), "on": ["test"] * len(rows), "row": rows, "user": rows}
    frame = pl.DataFrame(columns | {"label": labels, "logit": logits})
    value = roc_auc_score(labels, logits) if len({*labels}) == 2 else math.nan
    told = {"split": "auto", "split_seed": None, "seed": seed, "task": "click", "data": {"fingerprint": fingerprint}}
    told["asks"] = [{"on": {"test": {"metrics": {} if math.isnan(value) else {"auc": value}}}}]
    return Trial(told, frame)


def row(label, *trials):
    return Line(label, "shop", trials)


def test_without_a_common_sample_seed_or_auc_nothing_is_compared():
    base = row("base", made(0, [0, 1, 1, 0], [0.1, 0.4, 0.2, 0.3]))
    others = [
        row("seed", made(1, [0, 1, 1, 0], [0.1, 0.4, 0.2, 0.3])),
        row("data", made(0, [0, 1, 1, 0], [0.1, 0.4, 0.2, 0.3], fingerprint="g")),
        row("rows", made(0, [0, 1, 1, 0], [0.1, 0.4, 0.2, 0.3], rows=[4, 5, 6, 7])),
        row("clicks", made(0, [1, 1, 1, 1], [0.1, 0.4, 0.2, 0.3])),
    ]
    assert click_pairs.compare([(other, base) for other in others], ["auc"], "test") == []
    (found,) = click_pairs.compare([(base, base)], ["auc"], "test")
    assert (found.mean, found.relative, found.p_users) == (0.0, 0.0, 1.0)
    assert math.isnan(found.low)  # there are no draws
    assert click_pairs.compare([(base, base)], ["gauc"], "test") == []


def test_relative_improvement_over_a_base_of_no_use_is_not_defined():
    good, bad = made(0, [0, 1], [0.0, 1.0]), made(0, [0, 1], [1.0, 0.0])
    (found,) = click_pairs.compare([(row("good", good), row("bad", bad))], ["auc"], "test")
    assert found.mean == 1.0
    assert math.isnan(found.relative)
    assert click_pairs.relative(0.75, 0.625) == pytest.approx(1.0)


# --- tables and pictures -----------------------------------------------------------------------------------------


def test_tables_have_the_words_of_clicks(page):
    (sheet,) = page.sheets
    quality, differences, intervals, parts, costs = sheet.grids
    assert quality.title == "Test samples"
    assert quality.head == ("row", "runs", "valid auc", *STUDY["metrics"])
    assert quality.note.startswith("Lower is better: log_loss, ne (")
    assert differences.title == "Differences on test samples"
    assert differences.head[4:] == ("RelaImpr", "95 % interval", "p DeLong", "p seeds (Welch)", "users, runs")
    assert [cells[0] for cells in differences.rows] == [one.label for one in sheet.lines[1:]]
    assert intervals.title == "95 % interval of test AUC, first seed"
    assert "samples/s" in costs.head
    assert "users/s" not in costs.head
    assert any("DeLong" in note and "Welch" in note for note in sheet.notes)
    assert not any("sign-flip" in note for note in sheet.notes)
    assert "A seed is that of the initial weights and of the order of the samples." in sheet.provenance
    assert "Validation from 2023-11-20 00:00:00, test from 2023-11-21 00:00:00 (UTC)" in sheet.provenance
    assert parts.title == "Test AUC of parts of the samples"
    assert page.notes == ("Of a shop.",)


def test_the_best_is_the_highest_auc_and_the_lowest_loss(page):
    (sheet,) = page.sheets
    quality = sheet.grids[0]
    for metric, best in (("auc", max), ("gauc", max), ("log_loss", min), ("ne", min), ("ece", min)):
        means = [one.mean(metric, "test") for one in sheet.lines]
        column = quality.head.index(metric)
        top = {place for place, mean in enumerate(means) if mean == best(means)}
        assert {place for place, n in quality.best if n == column} == top
    unmarked = {quality.head.index(name) for name in ("pcoc", "gauc_coverage")}
    assert not unmarked & {n for _, n in quality.best}


def test_intervals_and_parts_are_of_the_runs(page):
    (sheet,) = page.sheets
    _, _, intervals, parts, _ = sheet.grids
    some = click_pairs.predictions(sheet.lines[0].trials[0], "test")
    value, low, high = click_tests.delong_interval(some["label"].to_numpy(), some["logit"].to_numpy())
    clicked = f"{some['label'].sum()}"
    assert intervals.rows[0] == ("DIN(S)", "0", f"{value:.4f}", f"{low:.4f} to {high:.4f}", f"{len(some)}", clicked)
    column = next(n for n, name in enumerate(parts.head) if name.startswith("known item"))
    told = [next(one for one in trial.part("test")["slices"] if (one["by"], one["name"]) == ("item", "known"))
            for trial in sheet.lines[0].trials]  # fmt: skip
    assert parts.head[column] == f"known item ({told[0]['samples']})"
    assert parts.rows[0][column] == f"{np.mean([one['auc'] for one in told]):.4f}"


def test_one_seed_is_said(data, out):
    cut_ = planned(data, Cut(seeds=(0,)))
    page = conduct.reread(cut_, out)
    assert any(sentence.startswith("One seed only: what is tested is these trained models") for sentence in page.lead)
    assert {one.seeds for one in page.sheets[0].pairs} == {1}


def test_auc_is_drawn_away_from_zero(data, out, page):
    (sheet,) = page.sheets
    (figure,) = pictures.draw("bars", sheet, ("auc",), "test").values()
    assert figure["layout"]["xaxis"]["rangemode"] == "normal"
    assert {trace["type"] for trace in figure["data"]} == {"scatter"}  # a bar would begin at zero
    (figure,) = pictures.draw("bars", sheet, ("log_loss",), "test").values()
    assert figure["data"][0]["type"] == "bar"
    (figure,) = pictures.draw("line", sheet, ("auc",), "test").values()
    assert figure["data"][0]["x"] == ["2", "4"]
    assert figure["data"][0]["y"] == [line(page, f"DIN, {dim}").mean("auc", "test") for dim in (2, 4)]
    quality, speed = pictures.draw("steps", sheet, ("auc",), "test").items()
    assert quality[1]["data"][0]["x"] == ["as trained", "sampling_noise seeded", "average"]
    assert speed[0] == "samples a second on shop"
    assert min(speed[1]["data"][0]["y"]) > 0
    (figure,) = pictures.across([sheet, sheet], ("auc",), "test").values()
    assert len(figure["data"]) == len(sheet.lines)
    for drawn in (figure, quality[1], speed[1]):
        json.dumps(drawn, allow_nan=False)


def test_results_are_tidy(out, page):
    frame = pl.read_parquet(out / "results.parquet")
    assert frame.equals(pl.read_csv(out / "results.csv", schema_overrides=frame.schema))
    some = frame.filter(label="DIN, 2", on="test", metric="auc")
    assert some["value"].to_list() == line(page, "DIN, 2").values("auc", "test")
    assert frame["split_seed"].null_count() == len(frame)
    counts = {"samples", "clicks", "users", "samples_per_second"}
    assert counts <= set(frame.filter(on="valid")["metric"])
    text = (out / "table.md").read_text(encoding="utf-8")
    assert "| DiffuMIN, average | 1 |" in text
    assert "RelaImpr" in (out / "report.html").read_text(encoding="utf-8")


# --- going on ----------------------------------------------------------------------------------------------------


def test_what_is_finished_is_not_repeated_and_asks_may_be_added(data, out):
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*") if path.is_file()}
    assert folder.unfinished(out, planned(data)) == []
    rows = copy.deepcopy(STUDY["row"])
    rows[2]["asks"].append({"noise_seed": 3, "sampling_noise": "seeded"})
    more = planned(data, row=rows)
    assert [job.name for job in folder.unfinished(out, more)] == ["shop/diffumin-s0"]
    found = conduct.conduct(more, out, resume=True, device="cpu")
    assert "DiffuMIN, noise_seed 3, sampling_noise seeded" in {one.label for one in found.page.sheets[0].lines}
    changed = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert {path.relative_to(out / "runs/shop").parts[0] for path in changed} == {"diffumin-s0"}
    assert not any(path.suffix == ".safetensors" for path in changed)
    conduct.conduct(planned(data), out, resume=True, device="cpu")


def test_metrics_are_usual_where_the_file_says_none(data):
    told = {key: value for key, value in STUDY.items() if key not in ("metrics", "tests")}
    made = plan.make(spec.parse(told, "shown.toml"), data)
    assert (made.study.metrics, made.study.tests) == (clicks.METRICS, ("auc",))


def one(**changes):
    """A study of one row with changes."""
    return {"row": [{"label": "DIN(S)", "model": "din"} | changes]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"row": [*STUDY["row"], {"label": "Pop", "model": "pop"}]}, "row 'DIN(S)' predicts clicks and row 'Pop'"),
        ({"metrics": ["recall@20"]}, "metrics: there is no metric 'recall@20' of clicks"),
        ({"metrics": ["aucc"]}, "did you mean 'auc'?"),
        ({"tests": ["gauc"]}, "tests: gauc is not tested; of click models only auc is"),
        ({"split_seeds": [1, 2]}, "click data are split by time"),
        ({"split": "by-user"}, "unknown split 'by-user'"),
        ({"split": "quantile:0.9:0.2"}, "quantile"),
        (one(asks=[{"exclude_seen": True, "label": ""}]), "row 'DIN(S)': asks: exclude_seen is for lists"),
        (one(asks=[{"window": 3, "label": ""}]), "row 'DIN(S)': asks: 'window' cannot be changed on a trained din"),
        (one(set={"metric": "recall@5"}), "row 'DIN(S)': a model of clicks is validated by auc or gauc"),
        (one(model="dinn"), "row 'DIN(S)': unknown model 'dinn' (did you mean 'din'?)"),
        ({"data": ["shpo"]}, "'diffacet import-clicks LOG"),
    ],
)
def test_a_file_that_cannot_be_is_refused(data, changes, said):
    with pytest.raises(BadSetting) as error:
        planned(data, **changes)
    assert said in str(error.value)
    assert str(error.value).startswith("shown")


def test_models_and_data_of_other_kinds_are_refused(data):
    with pytest.raises(BadLog, match=r"holds no samples\.parquet"):
        planned(data / "log")
    with pytest.raises(BadLog, match="holds click data"):
        planned(data / "shop", row=[{"label": "DIN(S)", "model": "pop"}], metrics=["recall@20"], tests=["recall@20"])


def test_a_split_of_its_own_is_another_study(data, out):
    assert plan.make(spec.parse(STUDY, "shown.toml"), data / "shop").places.keys() == {"shop"}
    with pytest.raises(BadRun, match="the data of row 'DIN\\(S\\)' were changed"):
        folder.check(planned(data, split="quantile:0.6:0.2"), out, resume=True)


# --- runs side by side -------------------------------------------------------------------------------------------


def test_runs_are_compared_by_auc(out, page):
    places = [out / "runs/shop" / name / "run" for name in ("din-s-s0", "din-4-s0", "din-s-s1", "din-4-s1")]
    shown = beside.page(places)
    (sheet,) = shown.sheets
    assert [len(one.trials) for one in sheet.lines] == [2, 2]
    assert sheet.lines[0].label.startswith("din, short")
    assert sheet.grids[0].head[2:] == ("valid auc", *clicks.METRICS)
    (found,) = sheet.pairs
    by_study = pair(page, "DIN, 4")
    assert (found.mean, found.low, found.high) == pytest.approx((by_study.mean, by_study.low, by_study.high))
    assert found.seeds == 2
    single = beside.page(places[:2], on="valid", metrics=("gauc",))
    assert single.sheets[0].grids[0].title == "Validation samples"
    assert single.lead[0].startswith("One seed only")


def test_compare_prints_and_refuses(data, out, call, tmp_path):
    place = out / "runs/shop/din-s-s0/run"
    code, text, _ = call("compare", out, "--json")
    assert code == 0
    (shop,) = json.loads(text, parse_constant=pytest.fail)["data_sets"]
    assert "samples_per_second" in shop["rows"][0]["costs"]
    assert {one["metric"] for one in shop["pairs"]} == {"auc"}
    code, _, line_ = call("compare", place, "--metric", "recall@5")
    assert (code, "there is no metric 'recall@5' of clicks" in line_) == (2, True)
    runs.train("pop", data / "log", tmp_path / "pop")
    code, _, line_ = call("compare", place, tmp_path / "pop")
    assert (code, "they have no metric in common" in line_) == (2, True)


def test_settings_are_searched_by_auc(data, tmp_path):
    pytest.importorskip("optuna")
    fixed = {"dim": 2, "hidden": "4", "length": 3, "batch_size": 128}
    found = search.tune("din", data / "shop", tmp_path / "tuned", trials=2, set=fixed)
    assert found.metric == "auc"
    assert set(found.trials[1].values) == {"lr"}
    assert found.start == pytest.approx(found.trials[0].value)
    run = runs.train("din", data / "shop", tmp_path / "run", preset=str(tmp_path / "tuned/best.json"))
    assert run.evaluate("valid")["metrics"]["auc"] == pytest.approx(found.value)
    assert "on validation samples" in (tmp_path / "tuned/report.html").read_text(encoding="utf-8")
    for more, said in (({"metric": "recall@5"}, "validated by auc or gauc"), ({"split_seeds": (1, 2)}, "one split")):
        with pytest.raises(BadSetting, match=said):
            search.tune("din", data / "shop", tmp_path / "none", trials=1, **more)
    with pytest.raises(BadLog, match="holds no samples"):
        search.tune("din", data / "log", tmp_path / "none", trials=1)


# --- the map of a showing ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def diffumin(out):
    return runs.load(out / "runs/shop/diffumin-s0/run")


def test_a_portrait_tells_what_the_model_does(diffumin):
    (found,) = interests.portraits(diffumin)
    packed = diffumin.packed()
    log, rows = packed.log, packed.split.test
    clicked = rows[log.label[rows] == 1]
    lengths = (log.end - log.begin)[clicked]
    assert found.sample == clicked[lengths.argmax()]
    shown = pl.read_parquet(packed.path / "samples.parquet")[found.sample]
    assert (found.user, found.item, found.clicked) == (shown["user_id"].item(), shown["item_id"].item(), True)
    assert len(found.behaviours) == min(lengths.max(), 8)
    model = diffumin.model
    batch = ClickBatch.from_arrays(cut(log, np.array([found.sample]), 8))
    with evaluating(model):
        embedded = model.fields(batch.behaviours)
        directions = model.channels.directions(model.fields.target(batch))[0]
        logit = model.logits(batch)
    of = [int(torch.stack([each @ one for one in directions]).argmax()) + 1 for each in embedded]
    assert [one.channel for one in found.behaviours] == of
    assert found.probability == pytest.approx(float(torch.sigmoid(logit)))
    for channel in found.channels:
        own = [n for n, number in enumerate(of) if number == channel.number]
        assert channel.behaviours == len(own)
        assert channel.kept == math.ceil(len(own) / 2) == sum(found.behaviours[n].kept for n in own)
        best = sorted(own, key=lambda n: (-float(embedded[n] @ directions[channel.number - 1]), -n))[: channel.kept]
        assert {n for n in own if found.behaviours[n].kept} == {*best}
        assert (channel.aggregated is None) == (channel.behaviours == 0) == (channel.cosine is None)


def test_portraits_are_repeatable_and_follow_the_asked_noise(diffumin):
    one, again, other = (interests.portraits(diffumin, (seed_row(diffumin),), seed=seed)[0] for seed in (0, 0, 1))
    assert one == again
    assert one.behaviours != other.behaviours
    noisy = runs.load(diffumin.path, set={"sampling_noise": "seeded"})
    (changed,) = interests.portraits(noisy, (one.sample,))
    assert [c.kept for c in changed.channels] == [c.kept for c in one.channels]
    assert [c.cosine for c in changed.channels] != [c.cosine for c in one.channels]


def seed_row(run):
    return interests.portraits(run)[0].sample


def test_the_map_shows_every_behaviour_once(diffumin):
    (found,) = interests.portraits(diffumin)
    drawn = interests.figure(found)
    json.dumps(drawn, allow_nan=False)
    names = [trace["name"] for trace in drawn["data"]]
    assert len(names) == len(set(names))
    points = [len(trace["x"]) for trace in drawn["data"] if trace["name"].endswith(("kept", "left out"))]
    assert sum(points) == len(found.behaviours)
    active = [channel.number for channel in found.channels if channel.behaviours]
    assert [name for name in names if name.endswith("generated")] == [f"channel {n}, generated" for n in active]
    assert names[-1] == "item shown"
    first = found.behaviours[0].told
    assert [part.split()[0] for part in first.split(", ")] == ["item", "kind", "type"]


def test_the_command_writes_a_page(diffumin, out, call, tmp_path):
    row, log = seed_row(diffumin), diffumin.packed().log
    other = int(np.flatnonzero(log.end - log.begin >= interests.FEWEST)[0])
    code, text, _ = call("interests", diffumin.path, "--out", tmp_path / "map.html", "--sample", row, "--sample", other)
    assert code == 0
    assert f"sample {row}: item" in text
    html = (tmp_path / "map.html").read_text(encoding="utf-8")
    assert all(f'data-plot="plot-{number}"' in html for number in (row, other))
    code, text, _ = call("interests", diffumin.path, "--json")
    (told,) = json.loads(text, parse_constant=pytest.fail)["samples"]
    assert told["sample"] == row
    empty = int(np.flatnonzero(log.end == log.begin)[0])
    for words, said in (
        ([], "missing --out FILE"),
        (["--out", tmp_path / "map.txt"], "--out takes a file that ends in .html or .png"),
        (["--out", tmp_path / "map.png", "--sample", 0, "--sample", 1], "holds one sample, and 2 are asked for"),
        (["--json", "--sample", len(log)], f"0 to {len(log) - 1}"),
        (["--json", "--sample", empty], "had 0 behaviours"),
        (["--json", "--on", "train"], "--on takes valid or test"),
    ):
        code, _, line_ = call("interests", diffumin.path, *words)
        assert (code, line_.count("\n")) == (2, 1)
        assert said in line_
    code, _, line_ = call("interests", out / "runs/shop/din-s-s0/run", "--json")
    assert (code, "has no interest channels" in line_) == (2, True)
