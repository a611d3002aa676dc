"""The command import-clicks: each way of making click data, and what it refuses."""

import json

import polars as pl
import pytest

from diffacet.data import clicks
from shoplog import write_shop

SAMPLES = "user_id,item_id,timestamp,label,page,watched\n" + "".join(
    f"u{n % 3},{n % 5},{1_600_000_000 + 60 * n},{n % 2},p{n // 3},{n % 2}\n" for n in range(60)
)
BEHAVIOURS = "user_id,item_id,timestamp,event\n" + "".join(
    f"u{n % 3},{n % 4},{1_600_000_000 + 50 * n - 100},{'view' if n % 3 else 'buy'}\n" for n in range(60)
)


@pytest.fixture
def tables(tmp_path):
    """Options that name samples.csv, behaviours.csv, items.csv."""
    (tmp_path / "samples.csv").write_text(SAMPLES)
    (tmp_path / "behaviours.csv").write_text(BEHAVIOURS)
    (tmp_path / "items.csv").write_text("item_id,category,price\n" + "".join(f"{n},c{n % 2},{n}.5\n" for n in range(5)))
    return [part for name in ("samples", "behaviours", "items") for part in (f"--{name}", tmp_path / f"{name}.csv")]


@pytest.fixture
def refused(call):
    def run(*words):
        code, out, err = call("import-clicks", *words)
        assert (code, out) == (2, "")
        assert err.startswith("diffacet: error: ")
        assert err.count("\n") == 1
        return err

    return run


def test_tables_with_usual_names_need_no_column(call, tables, tmp_path):
    code, out, err = call("import-clicks", *tables, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "read as tables" in out
    assert "samples: user 'user_id', item 'item_id', time 'timestamp', label 'label', group 'user_id'" in out
    assert "50.00%" in out
    assert "fields of behaviours: item, category, type" in out
    assert "split: by quantile, train 0.8, valid 0.1; group user_id" in out
    assert f"next: diffacet train din --data {tmp_path / 'out'} --out RUN" in out
    assert len(clicks.open(tmp_path / "out").log) == 60


def test_everything_said(call, tables, tmp_path):
    words = ["--field", "price:numeric", "--group", "page", "--behaviour-type", "event", "--outcome", "watched"]
    words += ["--timezone", "Asia/Shanghai", "--split", "quantile:0.6:0.2", "--source", "a shop", "--licence", "CC0"]
    words += ["--user", "user_id", "--item", "item_id", "--time", "timestamp", "--label", "label", "--time-unit", "s"]
    words += ["--order-only"]
    assert call("import-clicks", *tables, *words, "--out", tmp_path / "mine")[0] == 0
    about = json.loads((tmp_path / "mine" / "dataset.json").read_text())
    assert about["name"] == "mine"
    assert (about["source"], about["licence"], about["timezone"]) == ("a shop", "CC0", "Asia/Shanghai")
    assert about["split"] == {"by": "quantile", "train": 0.6, "valid": 0.2}
    assert (about["group"], about["outcome_columns"]) == ("page", ["watched"])
    assert about["dense_fields"] == ["items.price"]
    assert about["behaviour_times"] == "order"


def test_ratings_from_a_file_and_from_a_data_directory(call, tmp_path):
    log, items = write_shop(tmp_path)
    names = ["--user", "customer", "--item", "sku", "--time", "ts", "--rating", "stars", "--items", str(items)]
    code, out, _ = call("import-clicks", log, "--from-ratings", "4", *names, "--out", tmp_path / "from-file")
    assert code == 0
    assert "low ratings" in out
    assert call("import", log, *names, "--out", tmp_path / "data")[0] == 0
    assert call("import-clicks", tmp_path / "data", "--from-ratings", "4", "--out", tmp_path / "from-data")[0] == 0
    one, two = (pl.read_parquet(tmp_path / name / "samples.parquet") for name in ("from-file", "from-data"))
    assert one.equals(two)
    assert clicks.open(tmp_path / "from-data").log.names == ("item", "category", "type")
    (tmp_path / "data" / "users.parquet").unlink(missing_ok=True)
    pl.DataFrame({"user_id": [f"u{n}" for n in range(60)], "age": range(60)}).write_parquet(
        tmp_path / "data" / "users.parquet"
    )
    words = ["--from-ratings", "4", "--behaviours-kept", "positive", "--field", "age", "--out", tmp_path / "aged"]
    assert call("import-clicks", tmp_path / "data", *words)[0] == 0
    assert clicks.read(tmp_path / "aged").schema.user_fields == ("user_id", "users.age")
    words = ["--sampled-negatives", "2", "--seed", "5", "--out", tmp_path / "drawn"]
    code, out, _ = call("import-clicks", log, *names[:6], *words)
    assert code == 0
    assert "sampled negatives" in out


def test_impressions(call, tmp_path):
    path = tmp_path / "feed.csv"
    path.write_text(SAMPLES.replace("label", "clicked").replace("page", "request_id"))
    words = ["--clicked", "clicked", "--exposures", "--position", "watched", "--out", tmp_path / "out"]
    code, out, _ = call("import-clicks", "--impressions", path, *words)
    assert code == 0
    assert "old ranker" in out
    packed = clicks.open(tmp_path / "out")
    assert packed.log.schema.group == "request_id"
    assert packed.log.names == ("item", "type")


def test_published_sets_are_named(call, refused, tmp_path):
    (tmp_path / "raw").mkdir()
    assert "holds no raw_sample.csv" in refused("--format", "alibaba", tmp_path / "raw", "--out", tmp_path / "out")
    (tmp_path / "D1_0.csv").write_text("1,2\n")
    assert "no row of 39 fields" in refused("--format", "eleme", tmp_path / "D1_0.csv", "--out", tmp_path / "out")
    message = refused("--format", "alibaba", tmp_path / "raw", "--tags", "pv,bye", "--out", tmp_path / "out")
    assert "did you mean 'buy'" in message


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], ["nothing says what to make click data of", "--from-ratings X"]),
        (["--samples", "s.csv"], ["--samples needs --behaviours"]),
        (["--from-ratings", "4"], ["--from-ratings needs PATH"]),
        (["x", "--from-ratings", "4", "--sampled-negatives", "1"], ["exclude each other"]),
        (["--impressions", "x.csv", "--label", "y"], ["--label means nothing with --impressions"]),
        (["--samples", "s.csv", "--behaviours", "b.csv", "--seed", "1"], ["--seed means nothing with --samples"]),
        (["--samples", "s.csv", "--behaviours", "b.csv"], ["s.csv: no such file"]),
        (["a", "b", "--format", "alibaba"], ["one PATH"]),
        (["a", "--format", "elema"], ["did you mean 'eleme'"]),
        (["a", "--from-ratings", "4", "--timezone", "Asia/Shangai"], ["--timezone 'Asia/Shangai' is unknown"]),
        (["a", "--from-ratings", "4", "--split", "dayly"], ["unknown split 'dayly'"]),
        (["a", "--from-ratings", "4", "--field", "x:number"], ["no kind of field"]),
        (["--samples", "s.csv", "--behaviours", "b.csv", "--time-unit", "sec"], ["--time-unit is auto, s, ms"]),
        (["a", "--from-ratings", "4", "--behaviours-kept", "some"], ["--behaviours-kept is all or positive"]),
        (["a", "--format", "eleme", "--inline-order", "x"], ["--inline-order is recent_first or oldest_first"]),
    ],
)
def test_refusals(refused, tmp_path, words, told):
    message = refused(*words, "--out", tmp_path / "out")
    for word in told:
        assert word in message
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_left_alone(refused, tables, tmp_path):
    assert "not an empty directory" in refused(*tables, "--out", tmp_path)


def test_stats_of_click_data(tables, tmp_path, call):
    assert call("import-clicks", *tables, "--out", tmp_path / "clicks")[0] == 0
    code, out, err = call("stats", tmp_path / "clicks", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)["statistics"]
    assert (found["users"], found["samples"], found["behaviours"]) == (3, 60, 60)
    assert sum(part["samples"] for part in found["parts"].values()) == 60
    code, out, err = call("stats", tmp_path / "clicks")
    assert (code, err) == (0, "")
    assert "click rate 50.00%" in out
