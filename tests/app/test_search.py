import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
from types import SimpleNamespace

import optuna
import polars as pl
import pytest

from diffacet.app import cli, runs, search, settings
from diffacet.app.importing import import_log
from diffacet.app.search import space as spaces
from diffacet.core.contract import Preset, Search, Training
from diffacet.data import splits
from diffacet.errors import BadRun, BadSetting, MissingExtra
from diffacet.learn.checkpoint import Record, Trail
from diffacet.learn.fit import Moment
from diffacet.models import MODELS, card
from shoplog import TINY, write_shop

CARDS = [card(name) for name in MODELS]
KNN = {"set": {"length": 8}, "metric": "recall@5"}
REMI = {"set": dict(pair.split("=") for pair in TINY) | {"max_steps": 10}, "only": ["hardness", "dropout"]}
"""With these, a trial of REMI has two validations, at steps 5 and 10."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A data directory."""
    folder = tmp_path_factory.mktemp("shop")
    log, items = write_shop(folder)
    import_log([log], folder / "data", user="customer", item="sku", time="ts", rating="stars", items=items)
    return folder / "data"


@pytest.fixture(scope="module")
def whole(shop, tmp_path_factory):
    """An unbroken search of six trials of item-knn over two splits."""
    return search.tune("item-knn", shop, tmp_path_factory.mktemp("whole"), trials=6, split_seeds=(0, 1), **KNN)


def essence(trials):
    """What a repetition must give again."""
    return [(t.number, t.state, t.values, t.value, t.splits, t.error) for t in trials]


@pytest.fixture
def judged(monkeypatch):
    """Replaces training: `judged(f)` makes f(settings, split seed, step) the metric at steps 5 and 10."""
    calls = []

    def become(quality, steps=(5, 10)):
        def train(name, data, out, *, set, split_seed, watch, **rest):  # noqa: A002
            calls.append((out.name, split_seed))
            trail = Trail("recall@5")
            for step in steps:
                record = Record(step, {"recall@5": quality(set, split_seed, step)})
                trail.records.append(record)
                watch(Moment(step, {}, trail, record))
            return SimpleNamespace(trail=lambda: trail.records)

        monkeypatch.setattr(runs, "train", train)
        return calls

    return become


def tune_remi(shop, out, trials, **more):
    return search.tune("remi", shop, out, trials=trials, **(REMI | more))


# --- the space -------------------------------------------------------------------------------------------------


def marked(kind):
    """Names whose Annotated holds a Search, by the annotations as they are written."""
    return {n for n, hint in kind.__annotations__.items() if any(isinstance(m, Search) for m in hint.__metadata__)}


@pytest.mark.parametrize("one", CARDS, ids=lambda c: c.name)
def test_space_is_the_marked_fields_and_holds_every_preset(one):
    trained = any(preset.training.max_steps for preset in one.presets.values())
    nowhere = {name for name, search in one.search.items() if search is None}
    expected = marked(one.config) | (marked(Training) - nowhere if trained else set())
    for preset in one.presets.values():
        if not expected:
            with pytest.raises(BadSetting, match="nothing left to search"):
                spaces.space(one, preset)
            continue
        found = spaces.space(one, preset)
        assert set(found) == expected
        values = spaces.of_preset(found, preset)
        for name, dimension in found.items():
            told = dimension.nearest(values[name])
            assert dimension.distribution(optuna)._contains(dimension.distribution(optuna).to_internal_repr(told))
            assert dimension.value(told) == values[name] or (dimension.log and values[name] == 0)


@pytest.mark.parametrize("one", CARDS, ids=lambda c: c.name)
def test_every_end_of_every_range_is_a_legal_setting(one):
    base = one.presets["best"]
    for row in settings.describe(one):
        searched = (marked(one.config) | marked(Training)) - {name for name, s in one.search.items() if s is None}
        assert bool(row["search"]) == (row["name"] in searched)
    for name, dimension in spaces.space(one, base).items() if marked(one.config) else ():
        for value in dimension.choices or (dimension.low, dimension.high):
            changed = settings.apply(one, base, {name: value})
            assert spaces.of_preset({name: dimension}, changed) == {name: value}


def test_a_preset_outside_a_range_widens_it():
    remi = card("remi")
    base = settings.apply(remi, remi.presets["best"], {"hardness": 20.0, "dropout": 0.75, "negatives": 16})
    found = spaces.space(remi, base)
    assert (found["hardness"].low, found["hardness"].high) == (0.01, 20.0)
    assert found["dropout"].high == 0.75
    assert 16 in found["negatives"].choices
    assert (found["lr"].low, found["lr"].high, found["lr"].log) == (5e-4, 5e-3, True)
    zero = spaces.space(remi, settings.apply(remi, base, {"hardness": 0.0}))["hardness"]
    assert (zero.low, zero.nearest(0.0)) == (0.01, 0.01)


def test_kinds_of_dimensions():
    number = spaces._dimension("n", Search(1, 8), int, 4)
    assert isinstance(number.distribution(optuna), optuna.distributions.IntDistribution)
    widths = spaces._dimension("w", Search(choices=((), (8,), (16, 8))), tuple, (8,))
    assert widths.distribution(optuna).choices == ("", "8", "16,8")
    assert widths.value("16,8") == (16, 8)
    assert widths.described() == " | 8 | 16,8"


# --- a search --------------------------------------------------------------------------------------------------


def test_files_of_a_search(whole):
    assert sorted(path.name for path in whole.out.iterdir()) == [
        "best.json", "lock.db", "report.html", "study.log", "trials.csv", "tune.json",
    ]  # fmt: skip
    assert [tried.number for tried in whole.trials] == list(range(6))
    first = whole.trials[0]
    assert first.values == dataclasses.asdict(card("item-knn").presets["best"].model)
    assert whole.start == first.value == pytest.approx(sum(first.splits) / 2)
    best = max(whole.trials, key=lambda tried: tried.value or 0)
    assert whole.value == best.value >= whole.start
    assert dataclasses.asdict(whole.best.model) == best.values
    rows = pl.read_csv(whole.out / "trials.csv")
    assert rows["recall@5"].to_list() == [tried.value for tried in whole.trials]
    assert rows["recall@5 split 1"].to_list() == [tried.splits[1] if tried.value else None for tried in whole.trials]
    assert set(best.values) < set(rows.columns)
    assert all(word in whole.best.source for word in ("recall@5", "split seeds 0, 1", "of 6", "preset best"))


def test_the_page_is_whole_and_loads_nothing(whole):
    page = (whole.out / "report.html").read_text(encoding="utf-8")
    assert '<link rel="stylesheet"' not in page
    assert 'src="http' not in page
    for name in whole.trials[0].values:
        assert f'data-plot="plot-slice-{name}"' in page
    assert page.rstrip().endswith("</html>")
    assert f"{whole.value:.4f}" in page


def test_what_mattered_is_told_from_ten_trials_on(shop, tmp_path, judged):
    # At steps this early nothing is pruned.
    judged(lambda setting, seed, step: 1 / (1 + abs(setting["hardness"] - 0.3)), steps=(1, 2))
    found = tune_remi(shop, tmp_path, 12)
    assert sum(found.importance.values()) == pytest.approx(1)
    assert set(found.importance) == {"hardness", "dropout"}
    assert 'data-plot="plot-importance"' in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert abs(found.best.model.hardness - 0.3) < abs(found.trials[0].values["hardness"] - 0.3)


def test_one_worker_repeats_itself_and_resumes_to_the_same(shop, whole, tmp_path):
    begun = []
    search.tune("item-knn", shop, tmp_path, trials=2, split_seeds=(0, 1), **KNN)
    found = search.tune(
        "item-knn", shop, tmp_path, trials=6, split_seeds=(0, 1), resume=True, watch=begun.append, **KNN
    )
    assert essence(found.trials) == essence(whole.trials)
    assert begun[0].done == begun[0].begun == 2
    assert [s.latest.number for s in begun if s.latest] == [2, 3, 4, 5]  # no trial twice
    assert begun[-1].left == 0
    again = search.tune("item-knn", shop, tmp_path, trials=6, split_seeds=(0, 1), resume=True, **KNN)
    assert essence(again.trials) == essence(whole.trials)


def test_what_a_killed_process_leaves_is_no_damage(shop, whole, tmp_path):
    out = shutil.copytree(whole.out, tmp_path / "out")
    with (out / "study.log").open("ab") as log:
        log.write(b'{"op_code": 4, "wor')
    (out / "study.log.lock").symlink_to(out / "study.log")
    found = search.tune("item-knn", shop, out, trials=7, split_seeds=(0, 1), resume=True, **KNN)
    assert essence(found.trials)[:6] == essence(whole.trials)
    assert len(found.trials) == 7


def test_a_killed_trial_goes_on_from_its_checkpoint(shop, tmp_path):
    unbroken = tune_remi(shop, tmp_path / "unbroken", 3)

    def kill(standing):
        if "trial 1," in standing.running and "step 5" in standing.running:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune_remi(shop, tmp_path / "broken", 3, watch=kill)
    told = [record.step for record in checkpointed(tmp_path / "broken")]
    assert told == [5]
    seen = []
    found = tune_remi(shop, tmp_path / "broken", 3, resume=True, watch=lambda s: seen.append(s.running))
    assert essence(found.trials) == essence(unbroken.trials)
    assert not (tmp_path / "broken" / "runs").exists()
    assert seen[1].startswith("trial 1, split 1, step 5")


def checkpointed(out):
    from diffacet.learn.checkpoint import read_trail

    return read_trail(out / "runs" / "trial-0001-split-1230").records


def test_a_trial_that_always_kills_its_process_is_given_up(shop, tmp_path, judged):
    def quality(setting, seed, step):
        if setting["hardness"] != 0.1:
            raise KeyboardInterrupt
        return 0.5

    judged(quality)
    for attempt in range(3):
        with pytest.raises(KeyboardInterrupt):
            tune_remi(shop, tmp_path, 2, resume=attempt > 0)
    found = tune_remi(shop, tmp_path, 2, resume=True)
    assert [tried.state for tried in found.trials] == ["complete", "failed"]
    assert "died each of 3 times" in found.trials[1].error


def test_pruning_is_by_the_median_at_the_same_point_of_the_same_split(shop, tmp_path, judged):
    numbers = iter(range(9))
    scores, order = {}, {}

    def quality(setting, seed, step):
        number = order.setdefault(setting["hardness"], next(numbers) if setting["hardness"] not in order else 0)
        # Five good trials; then one that is bad at once, one only on the second split, and one that is the best.
        bad = (number == 5) or (number == 6 and seed == 1)
        scores[number, seed, step] = 0.1 if bad else 0.5 + 0.01 * number
        return scores[number, seed, step]

    calls = judged(quality)
    found = tune_remi(shop, tmp_path, 8, split_seeds=(0, 1))
    assert [tried.state for tried in found.trials] == ["complete"] * 5 + ["pruned", "pruned", "complete"]
    assert [len(tried.splits) for tried in found.trials] == [2] * 5 + [0, 1, 2]
    assert (5, 0, 10) not in scores  # pruned after its first validation
    assert (6, 0, 10) in scores
    assert (6, 1, 10) not in scores
    assert len(calls) == 15
    assert found.value == pytest.approx(0.57)


def test_nothing_is_pruned_early_in_a_training(shop, tmp_path, judged):
    judged(lambda setting, seed, step: 0.5 if setting["hardness"] == 0.1 else 0.1, steps=(1, 2))
    found = tune_remi(shop, tmp_path, 7)
    # A quarter of ten steps is not over, and the last validation of the last split prunes nothing.
    assert {tried.state for tried in found.trials} == {"complete"}


def test_failures_are_recorded_and_the_search_goes_on(shop, tmp_path, judged):
    def quality(setting, seed, step):
        if 0.1 < setting["hardness"] < 1:
            raise RuntimeError("the matrix\nis singular")
        return float("nan") if setting["hardness"] >= 1 else 0.5

    judged(quality)
    found = tune_remi(shop, tmp_path, 8)
    errors = {tried.error for tried in found.trials if tried.state == "failed"}
    assert errors == {"RuntimeError: the matrix is singular", "BadRun: recall@5 is -inf on the split of seed 1230"}
    assert {tried.state for tried in found.trials if tried.values["hardness"] <= 0.1} == {"complete"}
    assert "the matrix is singular" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "RuntimeError: the matrix is singular" in pl.read_csv(tmp_path / "trials.csv")["error"].to_list()


def test_when_every_trial_fails(shop, tmp_path, judged):
    judged(lambda setting, seed, step: 1 / 0)
    with pytest.raises(BadRun, match=r"all 2 trials failed; .*trials\.csv says why"):
        tune_remi(shop, tmp_path, 2)
    assert pl.read_csv(tmp_path / "trials.csv")["error"].to_list() == ["ZeroDivisionError: division by zero"] * 2
    assert not (tmp_path / "best.json").exists()


def test_test_users_are_never_measured(shop, tmp_path, monkeypatch):
    made = splits.make_split
    monkeypatch.setattr("diffacet.data.splits.make_split", lambda *given: dataclasses.replace(made(*given), test=None))
    assert len(tune_remi(shop, tmp_path, 2).trials) == 2


def test_runs_are_kept_when_asked(shop, tmp_path):
    found = search.tune("item-knn", shop, tmp_path, trials=2, keep=True, **KNN)
    for tried in found.trials:
        run = runs.load(tmp_path / "runs" / f"trial-{tried.number:04d}-split-1230")
        assert dataclasses.asdict(run.settings.model) == tried.values
        assert run.trail()[0].metrics["recall@5"] == tried.value


def test_workers_share_a_search_and_one_that_is_killed_costs_no_trial(shop, tmp_path):
    killed = []

    def kill(standing):
        if standing.running and not killed:
            killed.append(multiprocessing.active_children()[0])
            os.kill(killed[0].pid, signal.SIGKILL)

    found = search.tune("item-knn", shop, tmp_path, trials=2, workers=2, watch=kill, **KNN)
    assert killed
    assert [tried.state for tried in found.trials] == ["complete"] * 2
    assert not multiprocessing.active_children()


# --- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "rmi"}, r"unknown model 'rmi' \(did you mean 'remi'\?\)"),
        ({"name": "pop"}, r"pop has nothing left to search\. Searched: nothing"),
        ({"trials": 0}, "trials and workers are at least 1; got 0 and 1"),
        ({"workers": 0}, "got 1 and 0"),
        ({"metric": "recal@5"}, r"there is no 'recal' \(did you mean 'recall'\?\)"),
        ({"metric": "recall"}, "metric: it should match"),
        ({"metric": "recall@5", "set": ["metric=recall@20"]}, "metric is given twice"),
        ({"max_steps": 5, "set": ["max_steps=6"]}, "max_steps is given twice"),
        ({"set": ["hardnes=1"]}, r"no setting 'hardnes' \(did you mean 'hardness'\?\)"),
        ({"set": ["dropout=2"]}, "from --set dropout=2"),
        ({"only": ["hardnes"]}, r"--only hardnes \(did you mean 'hardness'\?\): tune looks for no such setting"),
        (
            {"only": ["batch_size"]},
            r"--only batch_size: tune looks for no such setting of remi; it has no search range\. Searched: ",
        ),
        ({"only": ["lr"], "set": ["lr=0.1"]}, "--only lr and --set lr contradict each other"),
        ({"preset": "bset"}, "did you mean 'best'"),
        ({"split_seeds": []}, "split seeds are one or more different numbers; got none"),
        ({"split_seeds": [1, 2, 1]}, "different numbers; got 1, 2, 1"),
        ({"split": "by-usr"}, "did you mean 'by-user'"),
        ({"device": "tpu"}, "auto, cpu or cuda"),
    ],
)
def test_bad_input_writes_nothing(shop, tmp_path, changes, message):
    given = {"name": "remi", "data": shop, "out": tmp_path / "new", "trials": 1} | changes
    with pytest.raises(BadSetting, match=message):
        search.tune(**given)
    assert not (tmp_path / "new").exists()


def test_missing_extra(shop, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"pip install 'diffacet\[search\]'"):
        search.tune("remi", shop, tmp_path / "new", trials=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resume": False}, "exists; choose another --out, or go on with the search in it by --resume"),
        ({"name": "remi"}, "is another search: model is remi, was item-knn"),
        ({"preset": "paper"}, "preset is paper, was best"),
        ({"metric": "recall@20"}, "metric is recall@20, was recall@5"),
        ({"seed": 1}, "seed is 1, was 0"),
        ({"split_seeds": (0,)}, r"split seeds is \[0\], was \[0, 1\]"),
        ({"split": "leave-last"}, "split name is leave-last, was by-user"),
        ({"only": ("decay",)}, r"search space of window is not there, was none \| 10 \| 40"),
        ({"set": {"length": 8, "decay": 0.0}}, r"search space of decay is not there, was 0\.0\.\.1\.5"),
        ({"set": {"length": 9}}, "length is 9, was 8"),
    ],
)
def test_another_search_is_not_resumed(shop, whole, changes, message):
    given = {"name": "item-knn", "trials": 7, "split_seeds": (0, 1), "resume": True} | KNN | changes
    before = (whole.out / "study.log").read_bytes()
    with pytest.raises(BadRun, match=message):
        search.tune(data=shop, out=whole.out, **given)
    assert (whole.out / "study.log").read_bytes() == before


def test_other_data_are_not_resumed(shop, whole, tmp_path):
    log, _ = write_shop(tmp_path)
    log.write_text(log.read_text(encoding="utf-8").replace("u1,", "u2,"), encoding="utf-8")
    import_log([log], tmp_path / "data", user="customer", item="sku", time="ts", rating="stars")
    with pytest.raises(BadRun, match=r"data fingerprint is [0-9a-f]+, was [0-9a-f]+"):
        search.tune("item-knn", tmp_path / "data", whole.out, trials=7, split_seeds=(0, 1), resume=True, **KNN)


def test_damaged_and_foreign_directories(shop, tmp_path):
    again = {"name": "item-knn", "data": shop, "trials": 1, "resume": True} | KNN
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x", encoding="utf-8")
    with pytest.raises(BadRun, match=r"holds no search: there is no tune\.json"):
        search.tune(out=tmp_path / "other", **again)
    search.tune(out=tmp_path / "one", **again)
    (tmp_path / "one" / "study.log").write_bytes(b"no journal at all\n" * 2)
    with pytest.raises(BadRun, match=r"study\.log is damaged \("):
        search.tune(out=tmp_path / "one", **again)
    (tmp_path / "one" / "tune.json").write_text("{", encoding="utf-8")
    with pytest.raises(BadRun, match=r"tune\.json is damaged"):
        search.tune(out=tmp_path / "one", **again)


def test_two_searches_do_not_share_a_directory(shop, tmp_path, judged):
    judged(lambda setting, seed, step: 0.5)
    refused = []

    def second(standing):
        if standing.latest is not None:
            with pytest.raises(BadRun, match="in use by another search") as refusal:
                tune_remi(shop, tmp_path, 1, resume=True)
            refused.append(refusal)

    tune_remi(shop, tmp_path, 1, watch=second)
    assert refused


# --- preset files ----------------------------------------------------------------------------------------------


def test_a_preset_file_trains(shop, whole, tmp_path, capsys):
    where = ["--data", str(shop), "--out", str(tmp_path / "run")]
    path = whole.out / "best.json"
    assert cli.main(["train", "item-knn", *where, "--preset", str(path), "--split-seed", "1"]) == 0
    run = runs.load(tmp_path / "run")
    best = max(whole.trials, key=lambda tried: tried.value or 0)
    assert run.settings.model == whole.best.model
    assert run.settings.training == whole.best.training
    assert run.about["preset"] == str(path)
    assert run.trail()[0].metrics["recall@5"] == best.splits[1]
    assert settings.preset(card("item-knn"), str(path)) == whole.best
    capsys.readouterr()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("remi", {}, r"best\.json is a preset of item-knn, not of remi"),
        ("item-knn", {"format": 9}, "has format 9; this version reads 1"),
        (
            "item-knn",
            {"settings": {"model": {"decey": 1}, "training": {}}},
            r"no setting 'decey' \(did you mean 'decay'\?\)",
        ),
        ("item-knn", {"settings": {"model": {"decay": -1}, "training": {}}}, r"decay: it should be .*; got -1$"),
        ("item-knn", {"settings": {"model": {}}}, r"is no preset file, or a damaged one \(it has no 'training'\)"),
        ("item-knn", {"settings": [1]}, "is no preset file, or a damaged one"),
    ],
)
def test_preset_files_that_are_refused(tmp_path, whole, name, change, message):
    told = json.loads((whole.out / "best.json").read_text(encoding="utf-8")) | change
    (tmp_path / "best.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(BadSetting, match=message) as refusal:
        settings.preset(card(name), str(tmp_path / "best.json"))
    assert "\n" not in str(refusal.value)


def test_preset_files_that_cannot_be_read(tmp_path):
    with pytest.raises(BadSetting, match=r"there is no preset file .*none\.json"):
        settings.preset(card("remi"), str(tmp_path / "none.json"))
    (tmp_path / "half.json").write_text('{"format": 1, "mod', encoding="utf-8")
    with pytest.raises(BadSetting, match=r"half\.json is no preset file, or a damaged one"):
        settings.preset(card("remi"), str(tmp_path / "half.json"))


@pytest.mark.parametrize("one", CARDS, ids=lambda c: c.name)
def test_preset_files_round_trip(one, tmp_path):
    for preset in one.presets.values():
        settings.write_preset(tmp_path / "one.json", one, preset)
        assert settings.read_preset(one, tmp_path / "one.json") == Preset(preset.model, preset.training, preset.source)


# --- the command -----------------------------------------------------------------------------------------------


def test_the_command(shop, tmp_path, capsys):
    out = tmp_path / "tuned"
    words = ["tune", "item-knn", "--data", str(shop), "--out", str(out), "--trials", "2", "--metric", "recall@5"]
    assert cli.main([*words, "--split-seeds", "0,1", "--only", "decay"]) == 0
    told = capsys.readouterr()
    assert "best of 2 trials (2 complete): recall@5 0." in told.out
    assert f"next: diffacet train item-knn --data {shop} --out RUN --preset {out}/best.json" in told.out
    assert "trial 1  complete" in told.err
    assert "2/2  best 0." in told.err
    assert cli.main([*words, "--split-seeds", "0,x"]) == 2
    assert "--split-seeds takes whole numbers" in capsys.readouterr().err
    assert cli.main(words) == 2
    assert "--resume" in capsys.readouterr().err
