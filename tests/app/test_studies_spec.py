import copy
import dataclasses
import tomllib

import pytest

from diffacet.app import runs
from diffacet.app.importing import import_log
from diffacet.app.studies import plan, spec
from diffacet.app.studies.plan import Cut
from diffacet.core.contract import Training
from diffacet.errors import BadSetting
from diffacet.models import MODELS, card
from shoplog import write_shop

GOOD = {
    "name": "tiny",
    "title": "A tiny study",
    "data": ["shop"],
    "seeds": [0, 1],
    "base": "REMI",
    "row": [
        {"label": "Pop", "model": "pop", "published": {"shop": {"recall@20": 0.1}}},
        {"label": "REMI", "model": "remi", "preset": "paper", "set": {"dim": 8}},
        {
            "label": "DMI, K = {interests}",
            "model": "dmi",
            "grid": {"interests": [2, 4], "eta": [0.1]},
            "asks": [{}, {"refine_steps": 0, "label": "unrefined"}, {"exclude_seen": True}],
            "seeds": 1,
        },
    ],
}


def changed(**changes):
    """GOOD with some keys replaced; `row2__set` is key `set` of the row with that number."""
    told = copy.deepcopy(GOOD)
    for key, value in changes.items():
        row, _, inner = key.partition("__")
        if inner:
            told["row"][int(row.removeprefix("row"))][inner] = value
        else:
            told[key] = value
    return told


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of data directories: shop, with categories."""
    folder = tmp_path_factory.mktemp("data")
    log, items = write_shop(folder)
    import_log([log], folder / "shop", user="customer", item="sku", time="ts", rating="stars", items=items)
    import_log([log], folder / "bare", user="customer", item="sku", time="ts", rating="stars")
    return folder


def test_grids_and_asks_become_rows_of_the_table():
    study = spec.parse(GOOD, "tiny.toml")
    rows = list(spec.variants(study, "shop"))
    assert [row.label for row in rows] == ["Pop", "REMI", "DMI, K = 2, eta 0.1", "DMI, K = 4, eta 0.1"]
    assert rows[3].labels() == [
        "DMI, K = 4, eta 0.1",
        "DMI, K = 4, eta 0.1, unrefined",
        "DMI, K = 4, eta 0.1, seen excluded",
    ]
    assert dict(rows[3].set) == {"interests": 4, "eta": 0.1}
    assert [row.seeds for row in rows] == [(0, 1), (0, 1), (0,), (0,)]
    assert rows[0].published == {"recall@20": 0.1}
    assert rows[2].asks[2].exclude_seen
    assert rows[2].asks[1].settings == {"refine_steps": 0}


def test_data_sets_have_seeds_presets_and_published_numbers_of_their_own():
    told = changed(data=["shop", "bare"], seeds={"shop": [0, 1, 2], "bare": [7]})
    told["row"][1] |= {"on": {"bare": {"preset": "paper-gowalla", "set": {"length": 9}}}, "data": ["bare"]}
    told["row"][2] |= {"published": {"bare": {"recall@50": [0.1, 0.2]}}, "seeds": None}
    study = spec.parse(told, "tiny.toml")
    assert [row.label for row in spec.variants(study, "shop")][:2] == ["Pop", "DMI, K = 2, eta 0.1"]
    bare = list(spec.variants(study, "bare"))
    assert (bare[1].preset, dict(bare[1].set), bare[1].seeds) == ("paper-gowalla", {"dim": 8, "length": 9}, (7,))
    assert [row.published.get("recall@50") for row in bare] == [None, None, 0.1, 0.2]
    elsewhere = list(spec.variants(study, "elsewhere"))
    assert elsewhere[0].seeds == (0, 1, 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tilte": "x"}, "unknown key 'tilte' (did you mean 'title'?). There are: "),
        ({"row1__modle": "x"}, "row 'REMI': unknown key 'modle' (did you mean 'model'?)"),
        ({"row1__on": {"shop": {"prest": "x"}}}, "unknown key 'prest' (did you mean 'preset'?)"),
        ({"row1__on": {"shp": {}}}, "data set 'shp' (did you mean 'shop'?), which the study has not. It has: "),
        ({"row1__published": {"shp": {}}}, "data set 'shp'"),
        ({"row": []}, "row: "),
        ({"row": {"label": "x"}}, "row: "),
        ({"title": 3}, "title: it should be a valid string; got 3"),
        ({"seeds": [-1]}, "seeds"),
        ({"seeds": "all"}, "seeds"),
        ({"ks": [0]}, "ks"),
        ({"on": "train"}, "on: it should be 'valid' or 'test'"),
        ({"picture": "pie"}, "picture"),
        ({"base": "RMEI"}, "no row is called 'RMEI' (did you mean 'REMI'?)"),
        ({"pairs": [["REMI", "Popp"]]}, "no row is called 'Popp' (did you mean 'Pop'?)"),
        ({"row0__label": "REMI"}, "two rows are called 'REMI' on shop"),
        ({"row2__asks": [{}, {}]}, "two rows are called 'DMI, K = 2, eta 0.1'"),
        ({"row2__published": {"shop": {"recall@50": [0.1]}}}, "2 points in its grid, and 1 published recall@50"),
        ({"row1__asks": []}, "row 'REMI': asks"),
    ],
)
def test_a_bad_study_file_is_refused_by_name(changes, said):
    with pytest.raises(BadSetting) as error:
        spec.parse(changed(**changes), "tiny.toml")
    assert said in str(error.value)
    assert str(error.value).startswith("tiny.toml: ")


@pytest.mark.parametrize("key", ["title", "data", "row"])
def test_what_a_study_must_say(key):
    told = changed()
    del told[key]
    with pytest.raises(BadSetting, match=f"'{key}' is missing"):
        spec.parse(told, "tiny.toml")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"row1__model": "remmi"}, "row 'REMI': unknown model 'remmi' (did you mean 'remi'?)"),
        ({"row1__preset": "papr"}, "remi has no preset 'papr' (did you mean 'paper'?). It has: "),
        ({"row1__set": {"dmi": 8}}, "remi has no setting 'dmi' (did you mean 'dim'?)"),
        ({"row1__set": {"dim": 0}}, "dim: it should be greater than or equal to 1"),
        ({"row1__set": {"seed": 3}}, "seeds are said by `seeds`"),
        ({"row1__set": {"metric": "recal@50"}}, "there is no 'recal' (did you mean 'recall'?). There are: "),
        ({"row1__asks": [{}, {"refine_stps": 0}]}, "asks: 'refine_stps' cannot be changed on a trained remi"),
        (
            {"row2__asks": [{"refine_stps": 0}]},
            "'refine_stps' (did you mean 'refine_steps'?) cannot be changed on a trained dmi. These can: ",
        ),
        ({"row2__asks": [{"refine_steps": 99}]}, "refine_steps lies in 0..steps"),
        ({"row1__split": "by-usr"}, "there is no split 'by-usr' (did you mean 'by-user'?). There are: "),
        ({"data": ["shpo"], "row0__published": {}}, "no data set 'shpo' (did you mean 'shop'?) in "),
        ({"metrics": ["recal@50"]}, "metrics: there is no metric 'recal' (did you mean 'recall'?)"),
        ({"tests": ["ncdg@50"]}, "tests: there is no metric 'ncdg' (did you mean 'ndcg'?). There are: "),
        ({"metrics": ["recall"]}, "a metric is written recall@50"),
        ({"metrics": ["recall@30"]}, "'recall@30' is not measured; ks are 20, 50"),
        ({"tests": ["coverage@50"]}, "coverage@50 is no mean over users"),
        ({"data": ["bare"], "metrics": ["conc@50"], "row0__published": {}}, "needs categories of items"),
        ({"row0__published": {"shop": {"hitrate@20": 1}}}, "did you mean 'hit_rate'?"),
        ({"seeds": [1, 1]}, "two runs are called shop/pop-s1"),
        ({"row0__label": "remi"}, "two runs are called shop/remi-s0 ('remi' and 'REMI')"),
    ],
)
def test_what_a_study_names_must_be_there(data, changes, said):
    told = changed(**changes)
    with pytest.raises(BadSetting) as error:
        plan.make(spec.parse(told, "tiny.toml"), data)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("ks", "metrics"),
    [
        ([5], ("recall@5", "ndcg@5")),
        ([20, 50], ("recall@20", "recall@50", "ndcg@50")),
        ([100, 10, 10], ("recall@10", "recall@100", "ndcg@100")),
    ],
)
def test_what_a_study_does_not_say_is_measured_at_its_largest_k(data, ks, metrics):
    study = plan.make(spec.parse(changed(ks=ks, row0__published={}), "tiny.toml"), data).study
    assert (study.metrics, study.tests) == (metrics, metrics[-2:])
    own = spec.parse(changed(ks=ks, metrics=["mrr@5"]), "tiny.toml")
    assert (own.metrics, own.tests) == (("mrr@5",), metrics[-2:])
    own = spec.parse(changed(ks=ks, tests=["mrr@5"]), "tiny.toml")
    assert (own.metrics, own.tests) == (metrics, ("mrr@5",))


def test_the_runs_of_a_study(data):
    planned = plan.make(spec.parse(GOOD, "tiny.toml"), data)
    assert [job.name for job in planned.jobs] == [
        "shop/pop-s0",
        "shop/remi-s0",
        "shop/dmi-k-2-eta-0.1-s0",
        "shop/dmi-k-4-eta-0.1-s0",
        "shop/pop-s1",
        "shop/remi-s1",
    ]
    remi = planned.jobs[1]
    assert (remi.settings.model.dim, remi.settings.training.seed, remi.split_seed) == (8, 0, 0)
    crossed = plan.make(spec.parse(changed(split_seeds=[5, 6]), "tiny.toml"), data)
    assert [job.name for job in crossed.jobs][:2] == ["shop/pop-s0-p5", "shop/pop-s0-p6"]
    assert {(job.seed, job.split_seed) for job in crossed.jobs} == {(0, 5), (0, 6), (1, 5), (1, 6)}


def test_a_data_directory_may_be_given_itself_under_any_name(data):
    planned = plan.make(spec.parse(changed(data=["beauty"], row0__published={}), "tiny.toml"), data / "shop")
    assert {job.variant.data for job in planned.jobs} == {"shop"}


def test_a_cut_study_says_what_was_cut(data):
    study = spec.parse(GOOD, "tiny.toml")
    cut = Cut(seeds=(4, 5), only=("REMI", "DMI, K = 4, eta 0.1"), data=("shop",), set={"max_steps": "3"})
    planned = plan.make(study, data, cut)
    assert [job.name for job in planned.jobs] == ["shop/remi-s4", "shop/dmi-k-4-eta-0.1-s4", "shop/remi-s5"]
    assert {job.settings.training.max_steps for job in planned.jobs} == {3}
    assert cut.told() == [
        "--seeds 4,5",
        "--only 'REMI'",
        "--only 'DMI, K = 4, eta 0.1'",
        "--on-data shop",
        "--set max_steps=3",
    ]


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (Cut(only=("RMEI",)), "--only: the study has no row 'RMEI' (did you mean 'REMI'?) here"),
        (Cut(data=("shp",)), "--on-data shp (did you mean 'shop'?): the study has no such data set. It has: "),
        (Cut(set={"max_stps": "1"}), "no setting 'max_stps' (did you mean 'max_steps'?)"),
        (Cut(set={"interests": "1"}), "compares values of it"),
    ],
)
def test_a_bad_cut_is_refused(data, cut, said):
    with pytest.raises(BadSetting) as error:
        plan.make(spec.parse(GOOD, "tiny.toml"), data, cut)
    assert said in str(error.value)


def test_metric_names_are_those_of_the_evaluation(data):
    run = runs.train("remi", data / "shop", data / "run", max_steps=2, set={"dim": 4, "validate_every": 2})
    found = run.evaluate("test", (20,))["metrics"]
    assert {name.partition("@")[0] for name in found} == {*plan.BY_USER, *plan.OVERALL}


@pytest.mark.parametrize("name", spec.shipped())
def test_shipped_studies_are_whole(name):
    study = spec.read(name)
    assert study.title
    assert study.note
    fields = {field.name for field in dataclasses.fields(Training)}
    for row in study.row:
        assert row.model in MODELS
        one = card(row.model)
        presets = {row.preset, *(there.preset for there in row.on.values() if there.preset)}
        assert presets <= set(one.presets)
        assert {*row.set, *row.grid} <= fields | {field.name for field in dataclasses.fields(one.config)}
    places = {data: plan.Place(None, "f", categories=data in ("beauty", "ml-100k")) for data in study.data}
    assert plan.assemble(study, places, Cut()).jobs


def test_unknown_studies_are_refused_with_the_nearest(tmp_path):
    with pytest.raises(BadSetting, match=r"no study file 'dmi-tabel2' \(did you mean 'dmi-table2'\?\), nor a shipped"):
        spec.read("dmi-tabel2")
    broken = tmp_path / "x.toml"
    broken.write_text("title = ")
    with pytest.raises(BadSetting, match=r"x\.toml is no study file"):
        spec.read(broken)
    assert tomllib.loads(spec.shipped()["dmi-table2"].read_text(encoding="utf-8"))["title"]
