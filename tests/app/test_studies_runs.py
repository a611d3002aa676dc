"""Small studies in processes of their own: output, resumption, refusals, and the comparison of runs."""

import copy
import dataclasses
import json

import polars as pl
import pytest
from rich.console import Console

import diffacet
from diffacet import files
from diffacet.app import cli, runs
from diffacet.app.importing import import_log
from diffacet.app.studies import beside, conduct, folder, pictures, plan, spec
from diffacet.app.studies.plan import Cut
from diffacet.errors import BadRun, BadSetting, MissingExtra
from shoplog import TINY, write_shop

WRITE_STATIC = pictures.write_static
SET = dict(pair.split("=") for pair in TINY) | {"max_steps": 10}
STUDY = {
    "name": "tiny",
    "title": "A tiny study",
    "note": "Of no meaning.",
    "data": ["shop"],
    "seeds": [0, 1],
    "ks": [5, 10],
    "metrics": ["recall@5", "recall@10", "div_all@5"],
    "tests": ["recall@5", "ndcg@5"],
    "base": "Pop",
    "picture": "line",
    "row": [
        {"label": "Pop", "model": "pop", "published": {"shop": {"recall@5": 0.1234}}},
        {
            "label": "DMI, K = {interests}",
            "model": "dmi",
            "set": SET,
            "grid": {"interests": [1, 2]},
            "asks": [{}, {"refine_steps": 0, "label": "unrefined"}, {"exclude_seen": True}],
            "published": {"shop": {"recall@5": [0.2, 0.3]}},
        },
    ],
}


def planned(data, cut=Cut(), **changes):  # noqa: B008
    told = copy.deepcopy(STUDY) | changes
    return plan.make(spec.parse(told, "tiny.toml"), data, cut)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    place = tmp_path_factory.mktemp("data")
    log, items = write_shop(place)
    import_log([log], place / "shop", user="customer", item="sku", time="ts", rating="stars", items=items)
    return place


@pytest.fixture(scope="module", autouse=True)
def static():
    """Static pictures need a browser, which a test must not: the names of those that would be drawn."""
    names = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "write_static", lambda figures, _: names.extend(figures))
        yield names


@pytest.fixture(scope="module")
def out(data, tmp_path_factory, static):
    """The folder of STUDY, run with two workers."""
    place = tmp_path_factory.mktemp("study") / "out"
    said = Console(record=True, file=open(place.parent / "said.txt", "w"), width=200)  # noqa: PTH123, SIM115
    outcome = conduct.conduct(planned(data), place, workers=2, device="cpu", console=said)
    assert outcome.failures == ()
    said.file.close()
    return place


def written(out):
    """File -> time of change, of all that a run writes."""
    return {
        path: path.stat().st_mtime_ns
        for path in (out / "runs").rglob("*")
        if path.is_file() and path.name != folder.LOCK
    }


def test_a_study_writes_tables_pages_and_tidy_numbers(out):
    page = (out / "table.md").read_text(encoding="utf-8")
    for part in ("# A tiny study", "| DMI, K = 2, unrefined | 2 |", "0.1234", "sign-flip", "Holm", "Of no meaning."):
        assert part in page
    html = (out / "report.html").read_text(encoding="utf-8")
    assert "DMI, K = 1, seen excluded" in html
    assert "Plotly.react" in html
    assert "src=" not in html.replace("srcdoc=", "").split("<script>")[0]
    frame = pl.read_parquet(out / "results.parquet")
    assert set(frame["label"]) == {"Pop"} | {
        f"DMI, K = {k}{ask}" for k in (1, 2) for ask in ("", ", unrefined", ", seen excluded")
    }
    of_run = frame.filter(label="DMI, K = 2", seed=1, on="test", metric="recall@5")["value"].item()
    run = runs.load(out / "runs/shop/dmi-k-2-s1/run")
    assert run.evaluate("test", (5,))["metrics"]["recall@5"] == pytest.approx(of_run, abs=1e-12)
    assert run.about["split"]["seed"] == 1


def test_pictures_follow_the_grid_and_stand_in_the_page(out, static):
    assert static[:1] == ["shop-dmi-k-interests"]
    assert "![DMI, K = interests on shop](pictures/shop-dmi-k-interests.png)" in (out / "table.md").read_text()
    place = (out / "report.html").read_text(encoding="utf-8").split('data-plot="plot-shop-1">')[1]
    figure = json.loads(place.split("</script>")[0])
    named = {trace["name"]: trace for trace in figure["data"]}
    assert named["recall@5, published"]["y"] == [0.2, 0.3]
    assert named["recall@5"]["x"] == ["1", "2"]
    frame = pl.read_parquet(out / "results.parquet").filter(label="DMI, K = 2", on="test", metric="recall@5")
    assert named["recall@5"]["y"][1] == pytest.approx(frame["value"].mean())


@pytest.mark.parametrize(("kind", "count"), [("bars", 2), ("line", 1), ("steps", 3)])
def test_each_kind_of_picture_can_be_drawn(data, out, kind, count):
    page = conduct.reread(planned(data, picture=kind), out)
    drawn = pictures.draw(kind, page.sheets[0], ("recall@5", "ndcg@5"), "test")
    assert len(drawn) == count
    for figure in drawn.values():
        json.dumps(figure, allow_nan=False)
        assert all(len(trace["x"]) == len(trace["y"]) for trace in figure["data"])


def test_data_sets_stand_side_by_side_in_one_picture(data, out):
    sheet = conduct.reread(planned(data), out).sheets[0]
    drawn = pictures.across([sheet, dataclasses.replace(sheet, data="again")], ("recall@5",), "test")
    (figure,) = drawn.values()
    assert [*drawn] == ["recall@5 on all data"]  # the file is called by what stands before " on "
    assert [trace["name"] for trace in figure["data"]] == [line.label for line in sheet.lines]
    for trace, line in zip(figure["data"], sheet.lines, strict=True):
        assert trace["x"] == ["shop", "again"]
        assert trace["y"] == [line.mean("recall@5", "test")] * 2


def test_what_must_be_said_first_stands_first(data, out):
    page = conduct.reread(planned(data, lead="Two rows\nwere not reached."), out)
    assert page.lead[0] == "Two rows were not reached."


def test_without_a_browser_the_study_says_so(monkeypatch, tmp_path):
    def missing(*_):
        raise MissingExtra("kaleido is not installed")

    monkeypatch.setattr(pictures, "require", missing)
    assert WRITE_STATIC({"x": {"data": [], "layout": {}}}, tmp_path) == "kaleido is not installed"


def test_progress_in_a_log_is_a_line_a_run(out):
    lines = (out.parent / "said.txt").read_text().splitlines()
    assert lines[0] == "6 runs, 0 of them finished before; 2 at a time"
    assert len(lines) == 7
    assert lines[-1].startswith("[6/6] shop/")


def test_every_run_has_its_costs(out):
    told = json.loads((out / "runs/shop/dmi-k-2-s0/result.json").read_text())
    assert told["parameters"] == sum(p.numel() for p in runs.load(out / "runs/shop/dmi-k-2-s0/run").model.parameters())
    assert told["steps"] == 10
    assert told["ms_per_step"] > 0
    assert told["peak_mb"] > 50
    assert told["environment"]["threads"] == 1
    assert told["asks"][1]["on"]["test"]["users_per_second"] > 0


def test_a_finished_study_is_not_repeated_and_rows_may_be_added(data, out):
    before = written(out)
    told = copy.deepcopy(STUDY)
    told["row"].append({"label": "Pop again", "model": "pop"})
    outcome = conduct.conduct(planned(data, row=told["row"], title="Longer"), out, resume=True, workers=1)
    assert {path: time for path, time in written(out).items() if path in before} == before
    assert "Pop again" in {line.label for sheet in outcome.page.sheets for line in sheet.lines}
    assert (out / "table.md").read_text().startswith("# Longer")


def test_collecting_runs_nothing_and_says_what_is_missing(data, out, tmp_path):
    before = written(out)
    told = copy.deepcopy(STUDY)
    told["row"].append({"label": "Pop later", "model": "pop"})
    outcome = conduct.conduct(planned(data, row=told["row"]), out, resume=True, collect=True)
    assert {path: time for path, time in written(out).items() if path in before} == before
    assert not list((out / "runs").rglob("pop-later*"))
    assert any("missing" in line for line in outcome.page.lead)
    with pytest.raises(BadRun, match="nothing to collect"):
        conduct.conduct(planned(data), tmp_path / "none", resume=True, collect=True)


def test_what_is_asked_of_a_run_may_change_without_training(data, out, tmp_path):
    weights = out / "runs/shop/dmi-k-1-s0/run/best.safetensors"
    before = weights.stat().st_mtime_ns
    study = planned(data, Cut(only=("DMI, K = 1",), seeds=(0,)), tests=["mrr@5"])
    assert [job.name for job in folder.unfinished(out, study)] == ["shop/dmi-k-1-s0"]
    outcome = conduct.conduct(study, out, resume=True, workers=1)
    assert weights.stat().st_mtime_ns == before
    assert outcome.page.lead[0] == "**This is not the whole study.** It was cut by --seeds 0 --only 'DMI, K = 1'."
    assert "One seed only" in outcome.page.lead[1]
    assert [grid.title for grid in outcome.page.sheets[0].grids] == ["Test users", "Costs"]
    conduct.conduct(planned(data), out, resume=True, workers=1)


@pytest.mark.parametrize(
    ("changes", "resume", "said"),
    [
        ({}, False, "exists; choose another --out, or go on with the study in it by --resume"),
        ({"name": "other"}, True, "holds the study 'tiny', not 'other'"),
        ({"row": [{"label": "Pop", "model": "item-knn"}], "base": None}, True, "row 'Pop' was changed since"),
        ({"row": [{"label": "Pop", "model": "item-knn"}], "base": None}, True, "model is item-knn, was pop"),
        ({"split": "leave-last"}, True, "split is leave-last, was by-user"),
    ],
)
def test_a_folder_keeps_its_study(data, out, changes, resume, said):
    before = (out / folder.ABOUT).read_bytes()
    with pytest.raises(BadRun) as error:
        conduct.conduct(planned(data, **changes), out, resume=resume)
    assert said in str(error.value)
    assert (out / folder.ABOUT).read_bytes() == before


def test_a_study_keeps_its_data(data, out, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text((data / "log.csv").read_text().replace("u1,", "v1,"), encoding="utf-8")
    items = data / "items.csv"
    import_log([log], tmp_path / "shop", user="customer", item="sku", time="ts", rating="stars", items=items)
    with pytest.raises(BadRun, match="the data of row 'Pop' were changed"):
        conduct.conduct(planned(tmp_path), out, resume=True)


def test_a_study_that_runs_is_not_run_twice(data, out):
    with files.held(out / folder.LOCK, "it"), pytest.raises(BadRun, match="being run by another process"):
        conduct.conduct(planned(data), out, resume=True)


def test_a_foreign_folder_and_no_worker_are_refused(data, tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(BadRun, match=r"not the folder of a study: it holds no study\.json"):
        conduct.conduct(planned(data), tmp_path, resume=True)
    with pytest.raises(BadSetting, match="--workers is 1 or more"):
        conduct.conduct(planned(data), tmp_path / "new", workers=0)
    assert not (tmp_path / "new").exists()


def call(capsys, *words):
    capsys.readouterr()
    code = cli.main([str(word) for word in words])
    return code, *capsys.readouterr()


def test_compare_shows_a_study_again(out, capsys, tmp_path):
    code, text, _ = call(capsys, "compare", out, "--json")
    told = json.loads(text)
    assert code == 0
    assert told["title"] in ("A tiny study", "Longer")
    (shop,) = told["data_sets"]
    row = next(row for row in shop["rows"] if row["label"] == "DMI, K = 2")
    assert row["published"] == {"recall@5": 0.3}
    assert len(row["test"]["recall@5"]["runs"]) == 2
    assert {pair["other"] for pair in shop["pairs"]} == {"Pop"}
    code, text, _ = call(capsys, "compare", out, "--on", "valid", "--metric", "hit_rate@5", "--out", tmp_path / "x.md")
    assert code == 2  # hit_rate is not kept user by user in this study
    code, text, _ = call(capsys, "compare", out, "--on", "valid", "--base", "DMI, K = 1", "--out", tmp_path / "x.md")
    assert code == 0
    assert "Validation users" in text
    assert "Validation users" in (tmp_path / "x.md").read_text()


def test_compare_groups_runs_by_all_but_their_seeds(out, capsys):
    places = [
        out / "runs/shop" / name / "run" for name in ("pop-s0", "pop-s1", "dmi-k-1-s0", "dmi-k-1-s1", "dmi-k-2-s0")
    ]
    page = beside.page(places, metrics=("recall@5", "mrr@5"))
    (sheet,) = page.sheets
    labels = [(line.label, len(line.trials)) for line in sheet.lines]
    assert labels[0] == ("pop, best", 2)
    assert labels[1][0].startswith("dmi, best")
    assert "interests 1" in labels[1][0]
    assert [count for _, count in labels] == [2, 2, 1]
    assert {pair.other for pair in sheet.pairs} == {"pop, best"}
    assert "for want of two seeds" in sheet.notes[-1]
    by_study = pl.read_parquet(out / "results.parquet").filter(label="DMI, K = 1", on="test", metric="recall@5")
    assert sheet.lines[1].values("recall@5", "test") == pytest.approx(by_study["value"].to_list())


def test_runs_are_compared_under_labels_of_ones_own(out):
    """Rows are what they are called and as they were loaded; numbers and tests are those of the study."""
    places = {name: [out / f"runs/shop/{name}-s{seed}/run" for seed in (1, 0)] for name in ("pop", "dmi-k-1")}
    loaded = {name: [runs.load(place) for place in some] for name, some in places.items()}
    bare = [runs.load(place, set={"refine_steps": 0}) for place in places["dmi-k-1"]]
    groups = {"popular": loaded["pop"], "DMI": loaded["dmi-k-1"], "bare": bare}
    counted = []
    page = diffacet.compare_runs(
        groups, metrics=("ndcg@5", "recall@5"), base="DMI", progress=lambda *so_far: counted.append(so_far)
    )
    (sheet,) = page.sheets
    assert [(line.label, [trial.key[2] for trial in line.trials]) for line in sheet.lines] == [
        ("popular", [0, 1]),
        ("DMI", [0, 1]),
        ("bare", [0, 1]),
    ]
    assert counted[-1] == (6, 6)
    table = pl.read_parquet(out / "results.parquet").filter(on="test", metric="recall@5", label="DMI, K = 1, unrefined")
    assert sheet.lines[2].values("recall@5", "test") == pytest.approx(table["value"].to_list())
    assert {(pair.one, pair.other, pair.metric) for pair in sheet.pairs} == {
        (label, "DMI", metric) for label in ("popular", "bare") for metric in ("ndcg@5", "recall@5")
    }

    for wrong, said in (
        ({}, "nothing to compare; give each label its runs"),
        ({"a": bare, "b": []}, "nothing to compare under 'b'"),
        ({"a": [bare[0], bare[0]]}, "are the same run: a, seed 1; name each once"),
    ):
        with pytest.raises(BadRun, match=said):
            diffacet.compare_runs(wrong)
    for changes, said in (
        ({"on": "train"}, "on takes valid or test"),
        ({"base": "DIM"}, r"no row 'DIM' \(did you mean"),
    ):
        with pytest.raises(BadSetting, match=said):
            diffacet.compare_runs(groups, **changes)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{out}/runs/shop/pop-s0/run", "{out}/runs/shop/pop-s0/run"], "are the same run: pop, best, seed 0"),
        (["{other}", "{out}/runs/shop/pop-s0/run"], "is of other data (shop,"),
        (["{out}/runs"], "no run directory"),
        (["{out}/runs/shop/pop-s0/run", "--metric", "recal@5"], "there is no metric 'recal' (did you mean 'recall'?)"),
        (["{out}/runs/shop/pop-s0/run", "--on", "train"], "--on takes valid or test"),
        (["{out}/runs/shop/pop-s0/run", "--base", "dmi"], "--base: there is no row 'dmi'"),
        (["{out}", "--base", "Popp"], "--base: there is no row 'Popp' (did you mean 'Pop'?). There are: "),
        (["{out}", "--metric", "recall@7"], "'recall@7' is not measured; ks are 5, 10"),
        (["{out}", "--out", "{other}/x.txt"], "ends with .md or .html"),
        (["dmi-table2"], "diffacet compare dmi-table2 DIR"),
        (["dmi-table2", "{out}"], "holds the study 'tiny', not 'dmi-table2'"),
    ],
)
def test_bad_comparisons_are_refused_in_one_line(data, out, capsys, tmp_path, words, said):
    other = tmp_path / "other"
    if "{other}" in words:
        log = tmp_path / "log.csv"
        log.write_text((data / "log.csv").read_text().replace("u1,", "v1,"), encoding="utf-8")
        import_log([log], tmp_path / "shop", user="customer", item="sku", time="ts", rating="stars")
        runs.train("pop", tmp_path / "shop", other)
    code, text, line = call(capsys, "compare", *(word.format(out=out, other=other) for word in words))
    assert (code, text) == (2, "")
    assert said in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "missing a study file"),
        (["dmi-table2"], "missing --data DIR"),
        (["dmi-tabel2", "--data", "{data}"], "did you mean 'dmi-table2'?"),
        (["dmi-table2", "--data", "{data}/none"], "is not a directory"),
        (["dmi-table2", "--data", "{data}"], "there is no data set 'beauty'"),
        (["dmi-table3", "--data", "{data}/shop"], "missing --out DIR"),
        (["dmi-table3", "--data", "{data}/shop", "--seeds", "a"], "--seeds takes numbers"),
    ],
)
def test_bad_calls_of_study_are_refused_in_one_line(data, capsys, words, said):
    code, text, line = call(capsys, "study", *(word.format(data=data) for word in words))
    assert (code, text) == (2, "")
    assert said in line


def test_list_and_dry_run_run_nothing(data, capsys):
    code, text, _ = call(capsys, "study", "--list")
    assert code == 0
    assert all(name in text for name in spec.shipped())
    code, text, _ = call(capsys, "study", "dmi-table3", "--data", data / "shop", "--dry-run", "--seeds", "0,1")
    assert code == 0
    assert "10 runs, 60,000 training steps at most" in text
    assert sorted(path.name for path in data.iterdir()) == ["items.csv", "log.csv", "shop"]
