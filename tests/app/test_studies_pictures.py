"""Pictures of a study that stand on numbers: loss terms over training steps, metrics over a setting of inference."""

import json
import statistics

import pytest

from diffacet.app.importing import import_log
from diffacet.app.studies import conduct, pictures, plan, spec
from diffacet.app.studies.results import Line, Trial
from diffacet.app.studies.tables import Layout, Sheet
from diffacet.errors import BadRun
from diffacet.learn.checkpoint import Record, Trail
from shoplog import TINY, write_shop

SET = dict(pair.split("=") for pair in TINY) | {"max_steps": 15}
METRICS = ("recall@5", "ndcg@5")
STUDY = {
    "name": "curves",
    "title": "Curves",
    "data": ["shop"],
    "seeds": [0, 1],
    "ks": [5],
    "metrics": METRICS,
    "tests": METRICS,
    "picture": "terms",
    "row": [
        {"label": "Pop", "model": "pop"},
        {"label": "REMI", "model": "remi", "set": SET},
        {
            "label": "DMI",
            "model": "dmi",
            "set": SET | {"steps": 5},
            "asks": [{}, {"refine_steps": 3}, {"refine_steps": 0, "label": "unrefined"}, {"refine_steps": 1}],
        },
    ],
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(sheet, folder) of STUDY, run."""
    place = tmp_path_factory.mktemp("study")
    log, items = write_shop(place)
    import_log([log], place / "shop", user="customer", item="sku", time="ts", rating="stars", items=items)
    planned = plan.make(spec.parse(STUDY, "curves.toml"), place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "write_static", lambda *_: None)  # it needs a browser
        outcome = conduct.conduct(planned, place / "out", workers=1, device="cpu")
    assert outcome.failures == ()
    return outcome.page.sheets[0], place / "out"


def names(figure):
    return [trace["name"] for trace in figure["data"]]


def test_each_loss_term_is_a_figure_with_a_line_for_each_row_that_has_it(study):
    sheet, out = study
    drawn = pictures.draw("terms", sheet, METRICS, "test", out)
    assert {caption: names(figure) for caption, figure in drawn.items()} == {
        "softmax loss on shop": ["REMI", "DMI"],
        "routing loss on shop": ["REMI", "DMI"],
        "reconstruction loss on shop": ["DMI"],
    }
    for caption, figure in drawn.items():
        json.dumps(figure, allow_nan=False)
        for trace in figure["data"]:
            trails = [
                [json.loads(line) for line in (out / f"runs/shop/{run}/run/metrics.jsonl").read_text().splitlines()]
                for run in (f"{trace['name'].lower()}-s0", f"{trace['name'].lower()}-s1")
            ]
            term = caption.split()[0]
            assert trace["x"] == [record["step"] for record in trails[0]] == [5, 10, 15]
            means = [statistics.fmean(record["terms"][term] for record in pair) for pair in zip(*trails, strict=True)]
            assert trace["y"] == pytest.approx(means, abs=1e-12)


def test_asks_stand_at_the_number_that_they_differ_in(study):
    sheet, out = study
    drawn = pictures.draw("asks", sheet, METRICS, "test", out)
    assert [*drawn] == ["recall@5 against refine_steps on shop", "ndcg@5 against refine_steps on shop"]
    found = {line.label: line for line in sheet.lines}
    # As trained, `refine_steps` is None, all steps: that is no number, and has no place on the axis.
    ordered = [found["DMI, unrefined"], found["DMI, refine_steps 1"], found["DMI, refine_steps 3"]]
    for metric, figure in zip(METRICS, drawn.values(), strict=True):
        (trace,) = figure["data"]
        assert (trace["name"], trace["x"]) == ("DMI", [0, 1, 3])
        assert "type" not in figure["layout"]["xaxis"]  # not categories: Plotly reads numbers as numbers
        assert trace["y"] == [line.mean(metric, "test") for line in ordered]


def asked(*asks, trained=2, label="row"):
    """A row whose one run was trained with stop = `trained` and is asked in these ways."""
    measured = [{"exclude_seen": False, "settings": {}} | ask for ask in asks]
    numbers = [{"on": {"test": {"metrics": {"recall@5": 0.1 * n}}}} for n in range(len(asks))]
    settings = {"model": {"stop": trained, "samples": 1}, "training": {}}
    told = {"settings": settings, "measured": {"asks": measured}, "asks": numbers}
    suffixes = [f"ask {n}" if n else "" for n in range(len(asks))]
    return [Line(f"{label}, {s}" if s else label, "shop", (Trial(told, None, n),), suffix=s)
            for n, s in enumerate(suffixes)]  # fmt: skip


def sheet_of(*lines):
    return Sheet("shop", Layout(("recall@5",), ("recall@5",)), lines, (), (), (), "")


def test_a_setting_that_an_ask_leaves_alone_has_its_trained_value():
    rows = asked({}, {"settings": {"stop": 9}}, {"settings": {"stop": 0}})
    rows += asked({}, {"settings": {"stop": 1}}, trained=7, label="other")
    (figure,) = pictures.draw("asks", sheet_of(*rows), ("recall@5",), "test").values()
    assert {trace["name"]: trace["x"] for trace in figure["data"]} == {"row": [0, 2, 9], "other": [1, 7]}
    assert figure["data"][0]["y"] == pytest.approx([0.2, 0.0, 0.1])


def test_what_all_asks_change_alike_is_no_difference():
    rows = asked({"settings": {"stop": 1, "samples": 4}}, {"settings": {"stop": 0, "samples": 4}})
    (figure,) = pictures.draw("asks", sheet_of(*rows), ("recall@5",), "test").values()
    assert figure["data"][0]["x"] == [0, 1]


@pytest.mark.parametrize(
    "asks",
    [
        [{}],
        [{}, {"exclude_seen": True}],
        [{}, {"settings": {"stop": 0}}, {"settings": {"samples": 4}}],
        [{}, {"settings": {"stop": 0}, "exclude_seen": True}],
        [{}, {"settings": {"stop": "all"}}],
    ],
)
def test_asks_without_one_number_to_differ_in_get_bars(asks):
    (figure,) = pictures.draw("asks", sheet_of(*asked(*asks)), ("recall@5",), "test").values()
    assert figure["data"][0]["type"] == "bar"


def test_a_file_has_the_height_that_its_rows_need(monkeypatch, tmp_path):
    """Otherwise every second of many labels is left out."""
    kept = {}
    monkeypatch.setattr("plotly.io.write_images", lambda papers, files, **more: kept.update(more, files=files))
    many = asked(*[{"settings": {"stop": stop}} for stop in range(30)])
    (figure,) = pictures.draw("bars", sheet_of(*many), ("recall@5",), "test").values()
    assert pictures.write_static({"bars": figure, "plain": {"data": [], "layout": {}}}, tmp_path) is None
    assert [path.name for path in kept["files"]] == ["bars.png", "plain.png"]
    assert kept["width"] == [1000, 1000]
    assert kept["height"] == [130 + 30 * 30, 460]


@pytest.fixture
def trails(monkeypatch):
    """Run -> its records as {step: terms}, in place of checkpoints."""
    told = {}

    def read_trail(place):
        return Trail("recall@5", [Record(step, {}, terms) for step, terms in told[place.parent.name].items()])

    monkeypatch.setattr(pictures.checkpoint, "read_trail", read_trail)
    return told


def trained(label, *jobs):
    return Line(label, "shop", tuple(Trial({"job": f"shop/{job}"}, None) for job in jobs))


def test_the_mean_ends_where_the_first_seed_ends(trails, tmp_path):
    trails["a"] = {5: {"x": 4.0}, 10: {"x": 2.0}}
    trails["b"] = {5: {"x": 2.0}, 10: {"x": 1.0}, 15: {"x": 0.5}}
    (figure,) = pictures.draw("terms", sheet_of(trained("row", "a", "b")), (), "test", tmp_path).values()
    (trace,) = figure["data"]
    assert (trace["x"], trace["y"]) == ([5, 10], [3.0, 1.5])


@pytest.mark.parametrize(
    ("values", "axis"),
    [
        ([1.0, 0.01], None),  # exactly a hundredfold
        ([1.0, 0.009], "log"),
        ([100.0, 0.0], None),  # zero has no logarithm
        ([100.0, -0.1], None),
    ],
)
def test_losses_far_apart_stand_on_a_logarithmic_axis(trails, tmp_path, values, axis):
    trails["a"], trails["b"] = ({5: {"x": value}} for value in values)
    lines = trained("one", "a"), trained("other", "b")
    (figure,) = pictures.draw("terms", sheet_of(*lines), (), "test", tmp_path).values()
    assert figure["layout"]["yaxis"].get("type") == axis


def test_rows_that_were_never_trained_get_bars(study):
    sheet, out = study
    pop = next(line for line in sheet.lines if line.label == "Pop")
    (figure,) = pictures.draw("terms", sheet_of(pop), ("recall@5",), "test", out).values()
    assert figure["data"][0]["type"] == "bar"


def test_a_run_without_its_checkpoint_is_named(study, tmp_path):
    with pytest.raises(BadRun, match=r"runs/shop/pop-s0/run/best.safetensors is missing"):
        pictures.draw("terms", study[0], METRICS, "test", tmp_path)


def test_a_study_file_may_ask_for_them():
    for kind in ("terms", "asks"):
        assert spec.parse(STUDY | {"picture": kind}, "curves.toml").picture == kind
