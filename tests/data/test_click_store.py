"""The packed store: the same arrays as in memory, made once, found again, and made anew for changed files."""

import dataclasses
import json
import os

import numpy as np
import polars as pl
import pytest

from diffacet.core.batch import ClickBatch
from diffacet.data import clicks
from diffacet.data.clicks import store
from diffacet.errors import BadLog, BadSetting
from showings import frames, schema, write


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "data", frames(), schema())


@pytest.fixture
def packings(monkeypatch):
    """How often a store was made."""
    made, pack = [], store._pack

    def counted(folder, place, options):
        made.append(place.name)
        pack(folder, place, options)

    monkeypatch.setattr(store, "_pack", counted)
    return made


def same(a, b):
    for name in store.ARRAYS:
        left, right = getattr(a.log, name), getattr(b.log, name)
        assert (left is None) == (right is None)
        if left is not None:
            np.testing.assert_array_equal(left, right)
            assert left.dtype == right.dtype
    for name in store.PARTS:
        np.testing.assert_array_equal(getattr(a.split, name), getattr(b.split, name))


def test_the_store_holds_what_packing_gives(folder):
    packed = clicks.open(folder)
    raw = clicks.from_frames(schema(), *frames())
    vocabularies, statistics = clicks.learn(raw, packed.split.borders[0])
    log = clicks.encode(raw, vocabularies, statistics)
    for name in store.ARRAYS:
        np.testing.assert_array_equal(getattr(packed.log, name), getattr(log, name))
        assert getattr(packed.log, name).dtype == getattr(log, name).dtype
        assert not getattr(packed.log, name).flags.writeable
    assert packed.statistics == statistics
    assert packed.log.vocabularies.keys() == vocabularies.keys()
    for name, vocabulary in vocabularies.items():
        assert packed.log.vocabularies[name].values.equals(vocabulary.values)
    assert packed.log.schema == schema()
    assert (packed.name, packed.path) == ("showings", folder)
    assert packed.counts == {"users": 11, "items": 12}
    parts = [packed.split.train, packed.split.valid, packed.split.test]
    assert sorted(np.concatenate(parts)) == list(range(60))
    assert packed.log.time[parts[0]].max() < packed.split.borders[0] <= packed.log.time[parts[1]].min()
    assert ClickBatch.from_arrays(clicks.cut(packed.log, parts[0], 3)).target.shape == (len(parts[0]), 3)


def test_opening_again_uses_the_store(folder, packings):
    first = clicks.open(folder)
    second = clicks.open(folder)
    assert len(packings) == 1
    assert second.fingerprint == first.fingerprint
    assert (second.options, second.notes) == (first.options, first.notes)
    same(first, second)
    clicks.open(folder, min_count=2)
    clicks.open(folder, gap=1000)
    clicks.open(folder, split="quantile:0.5:0.2")
    clicks.open(folder, history_until="split")
    assert len(packings) == len(set(packings)) == 5
    clicks.open(folder, split="quantile:0.6:0.2")  # what dataset.json says, in short
    assert len(packings) == 5


def test_files_are_read_again_only_when_they_changed(folder, packings, monkeypatch):
    """Settled files of the same size and time are trusted; touched ones are read, and found to be the same."""
    for path in folder.iterdir():
        os.utime(path, ns=(10**18, 10**18))
    clicks.open(folder)
    read, digest = [], store.hashlib.file_digest
    monkeypatch.setattr(store.hashlib, "file_digest", lambda file, kind: read.append(file.name) or digest(file, kind))
    clicks.open(folder)
    assert read == []
    os.utime(folder / "items.parquet", ns=(10**18 + 1, 10**18 + 1))
    clicks.open(folder)
    assert read == [str(folder / "items.parquet")]
    assert len(packings) == 1


@pytest.mark.parametrize("name", ["samples", "behaviours", "items", "users"])
def test_a_changed_file_is_packed_anew(name, folder, packings):
    first = clicks.open(folder)
    frame = pl.read_parquet(folder / f"{name}.parquet")
    frame[1:].write_parquet(folder / f"{name}.parquet")
    assert clicks.open(folder).fingerprint != first.fingerprint
    assert len(packings) == 2
    frame.write_parquet(folder / f"{name}.parquet")
    assert clicks.open(folder).fingerprint == first.fingerprint
    assert len(packings) == 2


def test_a_changed_schema_is_packed_anew(folder, packings):
    first = clicks.open(folder)
    about = dataclasses.replace(schema(), context_fields=())
    (folder / "dataset.json").write_text(json.dumps(about.to_json()))
    second = clicks.open(folder)
    assert second.fingerprint != first.fingerprint
    assert second.log.other_names == ("user_id", "users.town")
    assert len(packings) == 2


def test_a_fingerprint_is_of_content_and_options(folder, tmp_path):
    first = clicks.open(folder)
    shown, done, kinds, towns = frames()
    named = schema(name="other", source="there", licence="none")
    moved = write(tmp_path / "elsewhere", (shown, done, kinds[::-1], towns[::-1]), named)
    assert clicks.open(moved).fingerprint == first.fingerprint
    done = done.unique(["user_id", "timestamp"], maintain_order=True)
    a = write(tmp_path / "a", (shown, done, kinds, towns), schema())
    b = write(tmp_path / "b", (shown, done[::-1], kinds, towns), schema())
    assert clicks.open(a).fingerprint == clicks.open(b).fingerprint
    c = write(tmp_path / "c", (shown[::-1], done, kinds, towns), schema())
    assert clicks.open(c).fingerprint != clicks.open(a).fingerprint
    options = [{}, {"gap": 1}, {"min_count": 2}, {"split": "quantile:0.5:0.2"}, {"history_until": "split"}]
    assert len({clicks.open(folder, **one).fingerprint for one in options}) == len(options)


def test_options_change_the_log(folder):
    plain = clicks.open(folder)
    gap = clicks.open(folder, gap=5000)
    assert (gap.log.end <= plain.log.end).all()
    assert (gap.log.end < plain.log.end).any()
    plain, frozen = (clicks.open(folder, split="quantile:0.3:0.2", history_until=one) for one in ("sample", "split"))
    train, test = plain.split.train, plain.split.test
    np.testing.assert_array_equal(frozen.log.end[train], plain.log.end[train])
    assert (frozen.log.end[test] < plain.log.end[test]).any()
    for s in test:
        own = slice(frozen.log.begin[s], frozen.log.end[s])
        assert (frozen.log.behaviour_time[own] < plain.split.borders[1]).all()
    plain, rare = clicks.open(folder), clicks.open(folder, min_count=8)
    assert rare.log.vocabularies["item"].size < plain.log.vocabularies["item"].size
    assert clicks.open(folder, split="instant:1600000010000:1600000030000").split.borders == (
        1600000010000,
        1600000030000,
    )


def test_a_damaged_store_is_made_anew(folder, packings):
    first = clicks.open(folder)
    place = folder / "packed" / packings[0]
    (place / "target.npy").write_bytes(b"")
    again = clicks.open(folder)
    (place / "about.json").unlink()
    (folder / "packed" / "files.json").write_text("{")
    third = clicks.open(folder)
    assert len(packings) == 3
    assert first.fingerprint == again.fingerprint == third.fingerprint


def test_a_folder_that_cannot_be_written_is_packed_in_the_cache(folder, tmp_path, monkeypatch, packings):
    (folder / "packed").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = clicks.open(folder)
    assert list((tmp_path / "cache" / "diffacet" / "clicks").glob("*/*/about.json"))
    same(first, clicks.open(folder))
    assert len(packings) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    clicks.open(folder)
    assert list((tmp_path / "home" / ".cache" / "diffacet" / "clicks").glob("*/*/about.json"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BadLog, match="can be written nowhere"):
        clicks.open(folder)


def test_a_failed_packing_leaves_nothing(folder, monkeypatch):
    def full(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(store.np, "save", full)
    with pytest.raises(BadLog, match=r"cannot be written.*disk full"):
        clicks.open(folder)
    monkeypatch.undo()
    assert [path.name for path in (folder / "packed").iterdir() if path.is_dir()] == []
    assert len(clicks.open(folder).log) == 60


def test_a_store_without_other_fields_numbers_or_behaviours(tmp_path):
    about = schema(user_fields=(), context_fields=(), dense_fields=())
    shown, done, kinds, _ = frames()
    packed = clicks.open(write(tmp_path / "data", (shown, done[:0], kinds, None), about))
    assert packed.log.other.shape == (0, 60)
    assert packed.log.numeric.shape == (60, 0)
    found = clicks.cut(packed.log, packed.split.test, 0)
    assert found["behaviours"].shape == (0, 3)
    assert clicks.statistics(packed)["no_history"] == 1


def test_a_store_of_inline_histories(tmp_path):
    shown, _, kinds, towns = frames()
    shown = shown.with_columns(pl.Series("seen", [[n % 12] * (n % 4) for n in range(60)]))
    fields = (clicks.BehaviourField("item", "seen", "item_id"),)
    about = schema(behaviour_fields=fields, history="inline", behaviour_times="order")
    folder = write(tmp_path / "data", (shown, None, kinds, towns), about)
    packed = clicks.open(folder)
    assert packed.log.pointers is None
    assert (packed.log.end - packed.log.begin).tolist() == [n % 4 for n in range(60)]
    assert "not known" in packed.notes[0]
    assert "same_second" not in clicks.statistics(packed)
    with pytest.raises(BadSetting, match="history_until"):
        clicks.open(folder, history_until="split")


def test_what_open_refuses(folder, tmp_path):
    for options, message in (
        ({"split": "dya"}, "did you mean 'day'"),
        ({"min_count": 0}, "min_count"),
        ({"gap": -1}, "gap"),
        ({"history_until": "splits"}, "did you mean 'split'"),
    ):
        with pytest.raises(BadSetting, match=message):
            clicks.open(folder, **options)
    with pytest.raises(BadLog, match="is not a folder"):
        clicks.open(tmp_path / "nothing")
    with pytest.raises(BadLog, match=r"holds no dataset\.json"):
        clicks.open(tmp_path)
    with pytest.raises(BadLog, match="leaves no sample to train"):
        clicks.open(folder, split="day")


def test_items_that_cannot_be_joined_are_noted(folder):
    shown, *_ = frames()
    (note,) = clicks.open(folder).notes
    assert note.startswith(f"items.parquet lacks the items of {(shown['item_id'] == 0).mean():.1%} of the samples")


def test_statistics_are_those_of_a_count(folder):
    packed = clicks.open(folder, split="quantile:0.3:0.2")
    shown, done, *_ = frames()
    found = clicks.statistics(packed)
    assert json.loads(json.dumps(found)) == found
    assert (found["samples"], found["behaviours"], found["users"], found["items"]) == (60, 80, 11, 12)
    t1, t2 = packed.split.borders
    train, test = shown.filter(pl.col("timestamp") < t1), shown.filter(pl.col("timestamp") >= t2)
    assert found["parts"]["test"] == {
        "samples": len(test),
        "click_rate": pytest.approx(test["label"].mean()),
        "unknown_user": pytest.approx((~test["user_id"].is_in(train["user_id"].implode())).mean()),
        "unknown_item": pytest.approx((~test["item_id"].is_in(train["item_id"].implode())).mean()),
    }
    assert found["parts"]["test"]["unknown_item"] > 0
    rows = list(shown.iter_rows(named=True))
    lengths = [
        sum(b["user_id"] == s["user_id"] and b["timestamp"] < s["timestamp"] for b in done.iter_rows(named=True))
        for s in rows
    ]
    assert found["history"]["max"] == max(lengths)
    assert found["history"]["median"] == sorted(lengths)[29]
    assert found["history"]["mean"] == pytest.approx(sum(lengths) / 60)
    assert found["no_history"] == pytest.approx(lengths.count(0) / 60)
    times = set(done.select("user_id", "timestamp").iter_rows())
    assert found["same_millisecond"] == pytest.approx(sum((s["user_id"], s["timestamp"]) in times for s in rows) / 60)
    assert found["same_millisecond"] > 0


def test_neighbours_of_the_same_second(tmp_path):
    shown, done, kinds, towns = frames(step=400)
    found = clicks.statistics(clicks.open(write(tmp_path / "data", (shown, done, kinds, towns), schema())))
    seconds = {(user, time // 1000) for user, time in done.select("user_id", "timestamp").iter_rows()}
    share = sum((u, t // 1000) in seconds for u, t in shown.select("user_id", "timestamp").iter_rows()) / 60
    assert found["same_second"] == pytest.approx(share)
    assert found["same_second"] > found["same_millisecond"]
