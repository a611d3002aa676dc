"""Data that carries its own split: made, imported, trained on, measured; through the program as a person calls it."""

import dataclasses
import json

import numpy as np
import polars as pl
import pytest

import diffacet
from diffacet.app import cli, splitting
from diffacet.app.studies import plan, spec
from diffacet.data import parts, splits, store
from diffacet.errors import BadLog, BadSetting
from diffacet.models import card
from shoplog import write_shop

COLUMNS = ["--user", "customer", "--item", "sku", "--time", "ts"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with rated/, plain/ (no ratings), split/ (of plain/) and runs on split/ and plain/."""
    folder = tmp_path_factory.mktemp("shop")
    log, items = write_shop(folder)
    rated = [str(log), *COLUMNS, "--rating", "stars", "--items", str(items)]
    assert cli.main(["import", *rated, "--out", str(folder / "rated")]) == 0
    assert cli.main(["import", str(log), *COLUMNS, "--rating", "none", "--out", str(folder / "plain")]) == 0
    assert cli.main(["split", str(folder / "plain"), "--k-core", "2", "--out", str(folder / "split")]) == 0
    for run, data in (("given", "split"), ("by-user", "plain")):
        assert cli.main(["train", "pop", "--data", str(folder / data), "--out", str(folder / run)]) == 0
    assert cli.main(["train", "pop", "--data", str(folder / "plain"), "--split", "collaborative",
                     "--out", str(folder / "collaborative")]) == 0  # fmt: skip
    return folder


def told(call, *words):
    code, out, err = call(*words, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_split_writes_parts_and_says_how(shop):
    dataset = store.open(shop / "split")
    log = dataset.log
    assert (log.has_parts, log.n_users, len(log)) == (True, 60, 720)
    assert log.column("part").tolist() == parts.assign(log).tolist()
    first = log.items.ids(log.column("item")[log.column("part") == 0]).unique(maintain_order=True)
    assert log.items.values.to_list()[: len(first)] == first.to_list()
    assert dataset.provenance["split"] == {"ratio": "7:2:1", "k_core": 2}
    assert [step["what"] for step in dataset.provenance["steps"]] == ["read", "earliest of each pair", "2-core"]
    assert dataset.provenance["from"] == {"name": "plain", "fingerprint": store.open(shop / "plain").fingerprint}


def test_the_default_split_is_the_datas_own_else_the_tasks(shop):
    names = {run: json.loads((shop / run / "run.json").read_text())["split"] for run in ("given", "by-user")}
    assert {run: split["name"] for run, split in names.items()} == {"given": "given", "by-user": "by-user"}
    assert splitting.resolve("auto", False, "matching") == "by-user"
    assert splitting.resolve("auto", False, "collaborative") == "collaborative"
    assert splitting.resolve("auto", True, "matching") == splitting.resolve("auto", True, "collaborative") == "given"
    assert splitting.resolve("leave-last", True, "collaborative") == "leave-last"
    assert splitting.resolve("auto", False, "next-item") == splitting.resolve("auto", True, "next-item") == "next-item"
    for task in ("matching", "next-item", "collaborative"):
        assert splitting.resolve("auto", True, task, parts_divide_users=True) == "next-item-given"
    with pytest.raises(BadSetting, match=r"no split 'givn' \(did you mean 'given'\?\).*auto, by-user"):
        splitting.resolve("givn", True, "matching")


def test_the_same_cut_from_the_data_and_by_name(shop):
    """`split` with --k-core 2 drops nothing here, so both runs learn and are asked the same; items' numbers differ."""
    found = []
    for run, data in (("given", "split"), ("collaborative", "plain")):
        split, items = diffacet.load(shop / run).split(), store.open(shop / data).log.items
        sequences = (split.train, split.valid.target, split.test.target, split.test.masked())
        found.append([items.ids(part.items).to_list() for part in sequences])
    assert found[0] == found[1]


def test_the_protocol_masks_at_test_and_at_validation(shop, call):
    for run, masks in (("given", True), ("collaborative", True), ("by-user", False)):
        result = told(call, "evaluate", shop / run, "--k", 20)
        assert result["exclude_seen"] == masks
        assert result["input"] == "train"
        free = told(call, "evaluate", shop / run, "--k", 20, "--include-seen")
        assert not free["exclude_seen"]
        assert (free["metrics"] == result["metrics"]) == (not masks)
    valid = told(call, "evaluate", shop / "given", "--on", "valid", "--k", 20)["metrics"]
    trail = diffacet.load(shop / "given").trail()[-1].metrics
    assert {"recall@20", "recall@50", "ndcg@50"} <= set(trail)
    assert trail["recall@20"] == pytest.approx(valid["recall@20"])


def test_the_mask_at_test_is_train_and_valid(shop):
    run = diffacet.load(shop / "given")
    holdout = run.holdout("test")
    log = store.open(shop / "split").log
    for row, user in enumerate(holdout.history.users.tolist()):
        mine = log.frame.filter(pl.col("user") == user)
        assert holdout.history.row(row).tolist() == mine.filter(pl.col("part") == 0)["item"].to_list()
        assert holdout.masked().row(row).tolist() == mine.filter(pl.col("part") < 2)["item"].to_list()


def test_the_validation_part_may_be_the_tests_input(shop, call):
    run = diffacet.load(shop / "given")
    shown = run.holdout("test", input="train+valid")
    assert np.array_equal(shown.history.items, run.holdout("test").masked().items)
    result = told(call, "evaluate", shop / "given", "--input", "train+valid", "--k", 5)
    assert result["input"] == "train+valid"
    assert result == told(call, "evaluate", shop / "given", "--input", "train+valid", "--k", 5) | {
        "seconds": result["seconds"]
    }


def test_ratings_need_a_threshold(shop, call, tmp_path):
    rated = store.open(shop / "rated")
    with pytest.raises(BadLog, match=r"has ratings, and nothing says .*'diffacet split .* --min-rating 4 --out NEW'"):
        splitting.cut(rated, "collaborative", 0)
    assert splitting.cut(rated, "by-user", 0).protocol == "by-user"  # whatever is rated was met
    for words in (["--min-rating", "2"], ["--min-rating", "none"]):
        out = tmp_path / words[1]
        assert call("split", shop / "rated", *words, "--k-core", 0, "--out", out)[0] == 0
        made = store.open(out)
        assert splitting.cut(made, "collaborative", 0).protocol == "collaborative"
        assert made.provenance["steps"][1]["what"] == ("rating 2 or more" if words[1] == "2" else "rating any")
        assert made.log.frame["rating"].min() == (2 if words[1] == "2" else 1)
        assert made.log.titles is not None
    log = shop / "log.csv"
    rated = [log, *COLUMNS, "--rating", "stars", "--min-rating", 3]
    assert call("import", *rated, "--out", tmp_path / "high")[0] == 0
    assert splitting.cut(store.open(tmp_path / "high"), "collaborative", 0).exclude_seen


def test_noise_is_recorded_and_random_noise_can_be_added_later(shop, call, tmp_path):
    words = ["--noise", "random", "--share", 0.3, "--noise-seed", 4]
    assert call("split", shop / "split", *words, "--out", tmp_path / "later")[0] == 0
    assert call("split", shop / "plain", "--k-core", 2, *words, "--out", tmp_path / "at-once")[0] == 0
    later, once = store.open(tmp_path / "later"), store.open(tmp_path / "at-once")
    assert later.fingerprint == once.fingerprint
    noise = [{"kind": "random", "seed": 4, "share": 0.3, "mode": "add"}]
    assert later.provenance["noise"] == once.provenance["noise"] == noise
    assert later.provenance["split"] == once.provenance["split"]
    assert len(later.log) > 720
    words[3] = 0
    assert call("split", shop / "split", *words, "--out", tmp_path / "none")[0] == 0
    assert store.open(tmp_path / "none").fingerprint == store.open(shop / "split").fingerprint
    words = ["--min-rating", 3, "--k-core", 0, "--noise", "natural"]
    code, out, _ = call("split", shop / "rated", *words, "--out", tmp_path / "natural")
    assert code == 0
    assert "natural noise" in out
    natural = store.open(tmp_path / "natural")
    assert natural.provenance["noise"] == [{"kind": "natural", "seed": 0}]
    low = natural.log.frame.filter(pl.col("rating") < 3)["part"]
    assert len(low) > 0
    assert 2 not in low.to_list()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["split", "{rated}"], "has ratings; say which count as positive: --min-rating 4, or --min-rating none"),
        (["split", "{rated}", "--min-rating", "high"], "--min-rating is a number, or none; got 'high'"),
        (["split", "{rated}", "--min-rating", "9"], "no interaction is rated 9 or more"),
        (["split", "{plain}", "--min-rating", "3"], "the log has no ratings"),
        (["split", "{plain}", "--k-core", "50"], "the 50-core is empty"),
        (["split", "{plain}", "--k-core", "-1"], "--k-core is 0 (off) or more; got -1"),
        (["split", "{plain}", "--ratio", "7:3"], "as in 7:2:1; got '7:3'"),
        (["split", "{plain}", "--ratio", "7:3:0"], "three positive numbers, such as 7:2:1; got '7:3:0'"),
        (["split", "{plain}", "--ratio", "0:0:0"], "got '0:0:0'"),
        (["split", "{plain}", "--noise", "some"], "--noise takes none, natural, random; got 'some'"),
        (["split", "{plain}", "--noise", "random"], "random noise needs --share, such as 0.1"),
        (["split", "{plain}", "--share", "0.1"], "--share belongs to --noise random"),
        (["split", "{plain}", "--noise", "random", "--share", "1.1"], "--share lies between 0 and 1; got 1.1"),
        (
            ["split", "{plain}", "--noise", "random", "--share", "0.1", "--noise-mode", "x"],
            "takes add, replace; got 'x'",
        ),
        (["split", "{plain}", "--k-core", "2", "--noise", "natural"], "what is rated below --min-rating; give it"),
        (["split", "{split}"], "has parts already, and they are kept; only --noise random --share P"),
        (["split", "{split}", "--ratio", "8:1:1", "--noise", "random", "--share", "0.1"], "without --ratio"),
        (["split", "{plain}/none"], "is not a directory"),
        (
            ["train", "pop", "--data", "{plain}", "--split", "given"],
            "the log has no parts of its own: 'diffacet import",
        ),
        (["train", "pop", "--data", "{rated}", "--split", "collaborative"], "nothing says which of them count"),
        (["import-split", *("--train", "{a}", "--valid", "{a}", "--test", "{a}")], "both say that user u0 has item 1"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(shop, call, tmp_path, words, said):
    part = tmp_path / "a.csv"
    part.write_text("user,item\nu0,1\n")
    places = {name: shop / name for name in ("rated", "plain", "split")} | {"a": part}
    code, out, err = call(*(word.format(**places) for word in words), "--out", tmp_path / "new")
    assert (code, out) == (2, "")
    assert err.startswith("diffacet: error: ")
    assert err.count("\n") == 1
    assert said in err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{given}", "--input", "both"], "--input takes train or train+valid, the second with --on test only"),
        (["{given}", "--input", "train+valid", "--on", "valid"], "the second with --on test only"),
        (["{by-user}", "--input", "train+valid"], "this one is by-user, where the test's history is fixed"),
        (["{by-user}", "--include-empty"], "which ask for every item of a user; this one is by-user"),
    ],
)
def test_inputs_that_there_are_not_are_refused(shop, call, words, said):
    places = {name: shop / name for name in ("given", "by-user")}
    code, _, err = call("evaluate", *(word.format(**places) for word in words))
    assert code == 2
    assert said in err


def test_import_split_through_the_program(shop, call, tmp_path):
    log = store.open(shop / "split").log
    for place, name in enumerate(("train", "valid", "test")):
        rows = log.frame.filter(pl.col("part") == place)
        ids = {"who": log.users.ids(rows["user"].to_numpy()), "what": log.items.ids(rows["item"].to_numpy())}
        pl.DataFrame(ids).write_csv(tmp_path / f"{name}.csv")
    files = [word for name in ("train", "valid", "test") for word in (f"--{name}", tmp_path / f"{name}.csv")]
    words = [*files, "--user", "who", "--item", "what", "--items", shop / "items.csv"]
    code, out, err = call("import-split", *words, "--out", tmp_path / "new")
    assert (code, err) == (0, "")
    assert "train before" not in out
    assert "timestamp: the position within the user: train, then valid, then test" in out
    made = store.open(tmp_path / "new")
    assert made.log.items.values.to_list() == log.items.values.to_list()
    assert made.log.column("item").tolist() == log.column("item").tolist()
    assert made.log.titles is not None
    assert made.provenance["steps"][0]["what"] == "train"
    assert made.provenance["files"] == [str(word) for word in (*files[1::2], shop / "items.csv")]
    assert call("train", "pop", "--data", tmp_path / "new", "--out", tmp_path / "run")[0] == 0
    one, other = (told(call, "evaluate", run, "--k", 5)["metrics"] for run in (tmp_path / "run", shop / "given"))
    assert {name: one[name] for name in other if name in one} == pytest.approx(
        {name: value for name, value in other.items() if name in one}
    )
    assert "full" in call("import-split", *words, "--out", tmp_path / "new")[2] or (tmp_path / "new").exists()
    assert told(call, "stats", tmp_path / "new")["statistics"]["parts"] == log.statistics()["parts"]


def test_recommend_says_when_nothing_is_left(shop, call):
    everything = ",".join(map(str, store.open(shop / "split").log.items.values))
    code, out, err = call("recommend", shop / "given", "--history", everything, "--json")
    assert (code, json.loads(out)["items"]) == (0, [])
    assert "nothing is left to recommend: the history holds the whole catalogue" in err


def test_a_study_finds_its_protocol_and_its_masks(shop):
    study = spec.parse(
        {
            "name": "mine",
            "title": "Mine",
            "data": ["split"],
            "metrics": ["recall@20"],
            "tests": ["recall@20"],
            "row": [
                {"label": "Pop", "model": "pop", "asks": [{}, {"exclude_seen": False}]},
                {"label": "Last", "model": "pop", "split": "leave-last"},
            ],
        },
        "mine.toml",
    )
    made = plan.make(study, shop / "split")
    assert [variant.split for variant in made.variants] == ["given", "leave-last"]
    assert [[ask.exclude_seen for ask in variant.asks] for variant in made.variants] == [[True, False], [False]]
    assert made.variants[0].labels() == ["Pop", "Pop, seen included"]
    assert {job.identity()["split"] for job in made.jobs} == {"given", "leave-last"}
    plain = plan.make(dataclasses.replace(study, data=("plain",)), shop / "plain")
    assert [variant.split for variant in plain.variants] == ["by-user", "leave-last"]
    assert not plain.variants[0].asks[0].exclude_seen


def test_one_table_has_one_protocol(monkeypatch):
    collaborative = dataclasses.replace(card("pop"), task="collaborative")
    monkeypatch.setattr(plan, "card", lambda name: collaborative if name == "ease" else card(name))
    rows = [{"label": "Pop", "model": "pop"}, {"label": "EASE", "model": "ease"}]
    study = spec.parse({"name": "mine", "title": "Mine", "data": ["d"], "row": rows}, "mine.toml")
    places = {"d": plan.Place("d", "f", categories=False)}
    with pytest.raises(BadSetting, match="'Pop' would be on by-user; 'EASE' would be on collaborative; say which"):
        plan.assemble(study, places, plan.Cut())
    whole = plan.assemble(dataclasses.replace(study, split="collaborative"), places, plan.Cut())
    assert {variant.split for variant in whole.variants} == {"collaborative"} <= set(splits.MASKING)


def sessions(folder, parts):
    """A data directory that others made: 30 sessions of 2 to 5 items, with a column part."""
    rows = [
        (user, user * place % 7, place, parts[user % len(parts)]) for user in range(30) for place in range(2 + user % 4)
    ]
    folder.mkdir()
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "part"], orient="row")
    frame.write_parquet(folder / "interactions.parquet")
    return folder


def test_next_items_of_data_that_others_split(call, tmp_path):
    """Their parts count where they are asked for, and nowhere else; what the data are called by does not change."""
    data = sessions(tmp_path / "data", ["train", "train", "val", "test"])
    dataset = store.open(data)
    assert not dataset.log.has_parts
    bare = tmp_path / "bare"
    bare.mkdir()
    pl.read_parquet(data / "interactions.parquet").drop("part").write_parquet(bare / "interactions.parquet")
    assert store.open(bare).fingerprint == store.open(bare, parts=True).fingerprint == dataset.fingerprint
    counts = {}
    for name in ("next-item", "next-item-last", "next-item-given"):
        run = tmp_path / name
        assert call("train", "pop", "--data", data, "--split", name, "--out", run)[0] == 0
        counts[name] = told(call, "evaluate", run, "--k", 3)["cases"]
    split = splitting.cut(dataset, "next-item", 1230)
    assert counts["next-item"] == len(split.test) == split.test.history.base.lengths().sum() - 3
    assert counts["next-item-last"] == 3
    assert counts["next-item-given"] == sum(1 + user % 4 for user in range(3, 30, 4))
    more = told(call, "evaluate", tmp_path / "next-item-given", "--include-empty", "--k", 3)
    assert more["cases"] == counts["next-item-given"] + 7
    code, _, err = call("train", "pop", "--data", bare, "--split", "next-item-given", "--out", tmp_path / "no")
    assert (code, "the log has no parts of its own" in err) == (2, True)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (["val", "test"], "next-item-given: no user is in 'train'; use --split next-item, which cuts 30 users"),
        (["train", "val"], "next-item-given: no user is in 'test'"),
        (["train", "holdout", "test"], "part is train, valid, test; got 'holdout'"),
    ],
)
def test_parts_that_are_no_split_are_refused(call, tmp_path, parts, said):
    data = sessions(tmp_path / "data", parts)
    code, out, err = call("train", "pop", "--data", data, "--split", "next-item-given", "--out", tmp_path / "run")
    assert (code, out) == (2, "")
    assert said in err
    assert not (tmp_path / "run").exists()
    assert call("train", "pop", "--data", data, "--split", "next-item", "--out", tmp_path / "run")[0] == 0


def test_parts_of_users_of_their_own_are_the_default_of_every_task(shop, tmp_path):
    plain = store.open(shop / "plain").log
    store.write(plain.with_parts(plain.column("user") % 3), tmp_path / "mine", {})
    dataset = store.open(tmp_path / "mine")
    assert dataset.log.parts_divide_users
    assert not store.open(shop / "split").log.parts_divide_users
    run = diffacet.train("pop", tmp_path / "mine", tmp_path / "run")
    assert run.about["split"]["name"] == "next-item-given"
    assert len(run.holdout()) == sum(length - 1 for length in plain.sequences().lengths()[2::3])
    rows = [{"label": "Pop", "model": "pop"}]
    study = spec.parse({"name": "m", "title": "M", "data": ["mine"], "row": rows}, "m.toml")
    (variant,) = plan.make(study, tmp_path / "mine").variants
    assert variant.split == "next-item-given"
    assert not variant.asks[0].exclude_seen


def test_empty_histories_belong_to_protocols_of_every_item(shop):
    dataset = store.open(shop / "plain")
    for name in ("next-item", "next-item-chronological"):
        split = splitting.cut(dataset, name, 1)
        for on in ("valid", "test"):
            fewer, more = (splitting.holdout(split, on, "train", include_empty=empty) for empty in (False, True))
            users = len(fewer.history.base)
            assert (len(more) - len(fewer), (more.history.lengths() == 0).sum()) == (users, users)
    for name in ("next-item-last", "leave-last", "by-user"):
        split = splitting.cut(dataset, name, 1)
        with pytest.raises(BadSetting, match=f"splits next-item, .*every item of a user; this one is {name}"):
            splitting.holdout(split, "test", "train", include_empty=True)
