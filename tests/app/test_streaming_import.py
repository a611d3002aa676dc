"""`diffacet import` into partitions: the same rows as in memory, whatever the pieces; and nothing left of a failure."""

import errno
import gzip
import json
import multiprocessing
import os
import random
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffacet import files
from diffacet.app import cli, importing
from diffacet.app.streaming import planning, workplace
from diffacet.data import partitions, store
from diffacet.data.streaming import finishing, scatter
from diffacet.errors import BadLog, BadRun, BadSetting

COLUMNS = ("user_id", "item_id", "timestamp", "rating")


def csv(path, rows):
    text = "user,item,time,rating\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def made(seed=0, rows=400, users=40, items=25, real=True):
    draw = random.Random(seed)
    times = (lambda: 1_600_000_000 + draw.randrange(50)) if real else (lambda: draw.randrange(50))
    return [
        (f"u{draw.randrange(users)}", draw.randrange(items) ** 2, times(), draw.randrange(1, 6)) for _ in range(rows)
    ]


def rows_of(path):
    """Every interaction as a tuple of ids, time and rating, in no order: of either layout."""
    log = store.open(path).log
    told = [log.users.ids(log.column("user")), log.items.ids(log.column("item")), log.frame["time"]]
    told += [log.frame["rating"]] if "rating" in log.frame.columns else []
    return sorted(zip(*(map(str, column.to_list()) for column in told), strict=True))


def same(one, two):
    """Whether two partitioned directories hold bit for bit the same log."""
    first, second = store.open(one), store.open(two)
    assert first.fingerprint == second.fingerprint
    assert first.log.frame.equals(second.log.frame)
    assert first.log.users.values.equals(second.log.users.values)
    assert first.log.items.values.equals(second.log.items.values)
    assert first.log.times == second.log.times
    about = [files.read_json(path / "dataset.json") for path in (one, two)]
    assert about[0]["statistics"] == about[1]["statistics"]
    assert [about[0]["provenance"][key] for key in ("steps", "notes")] == [
        about[1]["provenance"][key] for key in ("steps", "notes")
    ]


def agree(memory, streamed):
    """Whether an import in memory and one in partitions have the same content and account."""
    assert rows_of(memory.path) == rows_of(streamed.path)
    one, two = memory.log, store.open(streamed.path).log
    assert sorted(map(str, one.items.values)) == sorted(map(str, two.items.values))
    assert one.items.values.dtype == two.items.values.dtype
    assert one.users.values.dtype == two.users.values.dtype
    assert memory.steps == streamed.steps
    assert (memory.repeats, memory.notes, memory.format, memory.files) == (
        streamed.repeats,
        streamed.notes,
        streamed.format,
        streamed.files,
    )
    about = [files.read_json(path / "dataset.json") for path in (memory.path, streamed.path)]
    assert about[0]["statistics"] == about[1]["statistics"] == two.statistics()
    assert about[0]["times"] == about[1]["times"]


def test_partitions_and_order_of_files_change_nothing(tmp_path):
    rows = made()
    logs = [
        csv(tmp_path / f"{name}.csv", rows[start:end])
        for name, start, end in (("a", 0, 150), ("b", 150, 160), ("c", 160, 400))
    ]
    outs = []
    for number, order in ((1, [0, 1, 2]), (7, [2, 0, 1]), (64, [1, 2, 0])):
        outs.append(tmp_path / f"out{number}")
        done = importing.import_log([logs[place] for place in order], outs[-1], partitions=number)
        assert done.partitions == number
        assert len(list((outs[-1] / "interactions").iterdir())) == number
    same(outs[0], outs[1])
    same(outs[0], outs[2])
    agree(importing.import_log(logs, tmp_path / "memory"), importing.import_log(logs, tmp_path / "again", partitions=7))


def test_canonical_numbers(tmp_path):
    rows = [("b", 10, 5, 1), ("b", 9, 5, 2), ("a", 10, 7, 3), ("b", 9, 5, 1), ("a", 7, 6, 1), ("c", 7, 1, 1)]
    importing.import_log([csv(tmp_path / "log.csv", rows)], tmp_path / "out", partitions=3)
    log = store.open(tmp_path / "out").log
    from diffacet.data import hashing

    ids = sorted("abc", key=lambda one: int(hashing.ids(pl.Series([one]))[0]))
    assert log.users.values.to_list() == ids
    assert log.items.values.to_list() == [10, 7, 9]  # twice each: by text
    expected = [(ids.index(user), time, {10: 1, 7: 2, 9: 3}[item], float(stars)) for user, item, time, stars in rows]
    assert log.frame.select("user", "time", "item", "rating").rows() == sorted(expected)


def attempt(logs, out, asked):
    """(the import, None), or (None, why it was refused)."""
    try:
        return importing.import_log(logs, out, **asked), None
    except BadLog as error:
        return None, str(error)


ids = st.sampled_from(["1", "2", "30", "-4"]) | st.sampled_from(["1", "x", "007", "ü b", "2"])
row = st.tuples(ids, ids, st.integers(0, 3), st.sampled_from([1, 2, 2.5]))


@given(
    st.lists(st.lists(row, min_size=1, max_size=12), min_size=1, max_size=4),
    st.sampled_from([1, 2, 5]),
    st.sampled_from(["keep", "drop"]),
    st.sampled_from([None, 2]),
    st.sampled_from([None, 1, 2]),
    st.sampled_from([None, 1, 2, 3]),
    st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_small_logs_agree_with_the_import_in_memory(
    tmp_path_factory, blocks, number, duplicates, min_rating, min_count, k_core, draw
):
    # Of repeats that differ in their ratings memory keeps the one read first: what is compared has none.
    stars = {}
    blocks = [[(*one[:3], stars.setdefault(one[:3], one[3])) for one in rows] for rows in blocks]
    folder = tmp_path_factory.mktemp("small")
    logs = [csv(folder / f"{place}.csv", rows) for place, rows in enumerate(blocks)]
    asked = {"min_rating": min_rating, "min_count": min_count, "k_core": k_core, "duplicates": duplicates}
    memory, refused = attempt(logs, folder / "memory", asked)
    if memory is None:
        _, words = attempt(logs, folder / "out", asked | {"partitions": number})
        assert words == refused
        assert sorted(path.name for path in folder.iterdir()) == sorted(log.name for log in logs)
        return
    agree(memory, importing.import_log(logs, folder / "out", partitions=number, **asked))
    draw.shuffle(logs)
    importing.import_log(logs, folder / "shuffled", partitions=6 - number, **asked)
    same(folder / "out", folder / "shuffled")


@pytest.mark.parametrize(
    "asked", [{"k_core": 3}, {"min_count": 7, "k_core": 3}, {"min_rating": 3, "duplicates": "drop"}]
)
def test_filters_of_a_larger_log_agree(tmp_path, asked):
    rows = list({row[:3]: row for row in made(rows=900, users=150, items=130)}.values())
    log = csv(tmp_path / "log.csv", rows + rows[:50])
    agree(
        importing.import_log([log], tmp_path / "memory", **asked),
        importing.import_log([log], tmp_path / "out", partitions=5, **asked),
    )


def test_files_of_every_form_and_many_pieces(tmp_path, monkeypatch):
    rows = made(rows=300)
    one, two, three = rows[:100], rows[100:200], rows[200:]
    plain = csv(tmp_path / "whole.csv", rows)
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(csv(tmp_path / "log.csv", one).read_bytes()))
    pl.DataFrame(two, schema=["user", "item", "time", "rating"], orient="row").write_parquet(
        tmp_path / "log.parquet", row_group_size=30
    )
    lines = [json.dumps(dict(zip(("user", "item", "time", "rating"), row, strict=True))) for row in three]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(scatter, "TOGETHER", 17)
    monkeypatch.setattr(scatter, "_TEXT", 300)
    monkeypatch.setattr(scatter, "_SPAN", 700)
    importing.import_log([plain], tmp_path / "expected", partitions=3)
    for number, parts in enumerate((("log.csv.gz", one), ("log.parquet", two), ("log.jsonl", three))):
        path, some = tmp_path / parts[0], parts[1]
        importing.import_log([path], tmp_path / f"out{number}", partitions=4)
        importing.import_log([csv(tmp_path / f"{number}.csv", some)], tmp_path / f"csv{number}", partitions=2)
        same(tmp_path / f"out{number}", tmp_path / f"csv{number}")
    importing.import_log([plain], tmp_path / "again", partitions=5)
    same(tmp_path / "expected", tmp_path / "again")


@pytest.mark.parametrize("number", [1, 5])
def test_without_times_the_order_of_the_files_is_that_of_a_user(tmp_path, number, monkeypatch):
    monkeypatch.setattr(scatter, "_TEXT", 64)
    logs = [csv(tmp_path / "b.csv", made(1)), csv(tmp_path / "a.csv", made(2))]
    streamed = importing.import_log(logs, tmp_path / "out", time="none", partitions=number)
    agree(importing.import_log(logs, tmp_path / "memory", time="none"), streamed)
    assert store.open(tmp_path / "out").log.times == "rank"


def test_milliseconds_become_seconds_where_no_two_times_of_a_user_fall_together(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("user,item,time\na,1,1600000000100\na,2,1600000001200\nb,1,1600000000300\n")
    agree(importing.import_log([log], tmp_path / "memory"), importing.import_log([log], tmp_path / "out", partitions=2))
    assert store.open(tmp_path / "out").log.column("time").max() == 1600000001
    log.write_text("user,item,time\na,1,1600000000100\na,2,1600000000200\nb,1,1600000000300\n")
    done = importing.import_log([log], tmp_path / "kept", partitions=2)
    assert store.open(tmp_path / "kept").log.column("time").max() == 1600000000300
    assert "timestamp: kept in milliseconds; a coarser unit would lose the order of 1 rows" in done.notes


def test_units_of_several_files_are_made_one(tmp_path):
    logs = [tmp_path / f"{name}.csv" for name in "abc"]
    for log, times in zip(
        logs,
        (("1600000000", "1600000005"), ("1600000000500", "1600000009000"), ("2020-09-13", "2020-09-14")),
        strict=True,
    ):
        log.write_text("user,item,time\n" + "".join(f"{log.stem}{n},{n},{time}\n" for n, time in enumerate(times)))
    agree(
        importing.import_log(logs, tmp_path / "memory"), importing.import_log(logs[::1], tmp_path / "out", partitions=3)
    )
    importing.import_log(logs[::-1], tmp_path / "back", partitions=2)
    same(tmp_path / "out", tmp_path / "back")


def test_items_are_described(tmp_path):
    log = csv(tmp_path / "log.csv", made())
    items = tmp_path / "items.csv"
    items.write_text(
        "item,title,categories\n" + "".join(f"{n * n},Ware {n},{'tea|cups' if n % 3 else ''}\n" for n in range(20))
    )
    memory = importing.import_log([log], tmp_path / "memory", items=items, min_count=10)
    streamed = importing.import_log([log], tmp_path / "out", items=items, min_count=10, partitions=3)
    agree(memory, streamed)
    one, two = memory.log, store.open(tmp_path / "out").log
    order = one.items.numbers(two.items.values) - 1
    assert one.titles.gather(order).to_list() == two.titles.to_list()
    assert one.categories.gather(order).to_list() == two.categories.to_list()


def test_items_that_fit_nothing_are_refused(tmp_path):
    log, items = csv(tmp_path / "log.csv", made()), tmp_path / "items.csv"
    items.write_text("item,title\nzzz,Nothing\n")
    with pytest.raises(BadLog, match="describes none of the log's"):
        importing.import_log([log], tmp_path / "out", items=items, partitions=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["items.csv", "log.csv"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (",1,1600000000,3", r"b\.csv, row 4: column 'user': a missing value is no id"),
        ("u,,1600000000,3", r"b\.csv, row 4: column 'item': a missing value is no id"),
        ("u,1,,3", r"b\.csv, row 4: column 'time': the time is missing"),
        ("u,1,soon,3", r"b\.csv, row 4: column 'time': 'soon' is no time"),
        ("u,1,1600000000,inf", r"b\.csv, row 4: column 'rating': 'inf' is no rating"),
        ("u,1,1600000000", r"b\.csv, row 4: 3 fields where 4 columns are"),
    ],
)
@pytest.mark.parametrize("size", [20, 2**26])
def test_bad_rows_are_named_and_change_nothing(tmp_path, line, words, size, monkeypatch):
    monkeypatch.setattr(scatter, "_TEXT", size)
    logs = [csv(tmp_path / "a.csv", made(rows=20)), csv(tmp_path / "b.csv", made(1, 2))]
    logs[1].write_text(logs[1].read_text() + line + "\nu,1,1600000000,1\n")
    with pytest.raises(BadLog, match=words):
        importing.import_log(logs, tmp_path / "deep" / "out", partitions=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.csv"]


def test_nulls_of_a_parquet_file_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(scatter, "TOGETHER", 4)
    frame = pl.DataFrame({"user": [1, 2, 3, 4, 5, None], "item": [1] * 6, "time": [1] * 6})
    frame.write_parquet(tmp_path / "log.parquet")
    with pytest.raises(BadLog, match=r"log\.parquet, row 6: column 'user': a missing value"):
        importing.import_log([tmp_path / "log.parquet"], tmp_path / "out", partitions=2)
    frame.with_columns(user=1, time=pl.Series([1, 1, 1, 1, 1, 10**15])).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(
        BadLog, match=r"log\.parquet, row 1: column 'time': '1' is in seconds \(or missing\) while others"
    ):
        importing.import_log([tmp_path / "log.parquet"], tmp_path / "out", partitions=2)


@pytest.mark.parametrize("number", [0, -1, 10_000])
def test_partitions_are_1_to_9999(tmp_path, number):
    with pytest.raises(BadSetting, match=rf"partitions lie in 1..9999; got {number}"):
        importing.import_log([csv(tmp_path / "log.csv", made())], tmp_path / "out", partitions=number)


def test_a_minimum_below_one_is_refused_before_anything_is_read(tmp_path):
    log = csv(tmp_path / "log.csv", [("", "", "", "")])
    for asked in ({"min_count": 0}, {"k_core": -1}):
        with pytest.raises(BadSetting, match="is 1 or more"):
            importing.import_log([log], tmp_path / "out", partitions=2, **asked)


def test_large_logs_are_partitioned_by_themselves(tmp_path, monkeypatch):
    log = csv(tmp_path / "log.csv", made())
    assert importing.import_log([log], tmp_path / "small").partitions is None
    monkeypatch.setattr(planning, "LARGE", log.stat().st_size)
    monkeypatch.setattr(planning, "ROWS", 100)
    done = importing.import_log([log], tmp_path / "large")
    assert done.partitions in (4, 5)  # 400 rows, by the length of a line
    assert rows_of(tmp_path / "small") == rows_of(tmp_path / "large")
    pl.read_csv(log).write_parquet(tmp_path / "log.parquet")
    monkeypatch.setattr(planning, "LARGE", 1)
    assert importing.import_log([tmp_path / "log.parquet"], tmp_path / "exact").partitions == 4


def test_any_engine_gives_the_same_bytes(tmp_path, monkeypatch):
    """What an engine may do: shuffle tasks, run one twice, run it in another process that lies elsewhere."""
    monkeypatch.chdir(tmp_path)
    log = csv(Path("log.csv"), made())

    def elsewhere(function, tasks):
        tasks = [*tasks, *tasks]
        random.Random(1).shuffle(tasks)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn, initializer=os.chdir, initargs=("/",)) as pool:
            found = {done.number: done for done in pool.map(function, tasks)}
        yield from reversed(found.values())

    importing.import_log([log], Path("here"), partitions=3, k_core=2)
    importing.import_log([log], Path("there"), partitions=3, k_core=2, mapped=elsewhere)
    one, two = tmp_path / "here", tmp_path / "there"
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*") if path.is_file())
    assert names == sorted(str(path.relative_to(two)) for path in two.rglob("*") if path.is_file())
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def test_what_a_killed_worker_of_an_engine_leaves_is_removed(tmp_path):
    def careless(function, tasks):
        for task in tasks:
            yield function(task)
            if hasattr(task, "first_user"):
                (task.folder / "users" / ".00000.parquet.1.tmp").write_text("half")

    importing.import_log([csv(tmp_path / "log.csv", made())], tmp_path / "out", partitions=2, mapped=careless)
    assert not list((tmp_path / "out").rglob(".*"))


def test_a_failure_of_an_engine_to_write_is_one_refusal(tmp_path, monkeypatch):
    def full(*_args, **_more):
        raise pl.exceptions.ComputeError("sink: No space left on device (os error 28)")

    monkeypatch.setattr(finishing.partitions, "write_partition", full)
    with pytest.raises(BadLog, match="out cannot be written"):
        importing.import_log([csv(tmp_path / "log.csv", made())], tmp_path / "out", partitions=2)


def test_a_second_import_into_the_directory_is_refused_at_once(tmp_path):
    log = csv(tmp_path / "log.csv", made())
    with workplace.held(tmp_path / "out"):
        for number in (None, 3):
            with pytest.raises(BadRun, match=r"an import into .*out is being run by another process"):
                importing.import_log([log], tmp_path / "out", partitions=number)
        importing.import_log([log], tmp_path / "other", partitions=2)
    importing.import_log([log], tmp_path / "out", partitions=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "other", "out"]


@pytest.mark.parametrize("stage", ["spill", "partition", "about"])
def test_a_full_disk_changes_nothing(tmp_path, stage, monkeypatch):
    def full(*_args, **_more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    place, name = {
        "spill": (scatter.spill, "append"),
        "partition": (finishing.partitions, "write_partition"),
        "about": (partitions, "write_about"),
    }[stage]
    monkeypatch.setattr(place, name, full)
    log = csv(tmp_path / "log.csv", made())
    (tmp_path / "out").mkdir()
    with pytest.raises(BadLog, match=r"out cannot be written \(No space left on device\)") as error:
        importing.import_log([log], tmp_path / "out", partitions=3)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "out"]
    assert not any((tmp_path / "out").iterdir())


def _stuck(log, out, ready):
    def wait(_function, _tasks):
        ready.touch()
        time.sleep(60)
        return []

    importing.import_log([log], out, partitions=2, mapped=wait)


def test_what_a_killed_import_leaves_goes_with_the_next(tmp_path):
    log, out, ready = csv(tmp_path / "log.csv", made()), tmp_path / "out", tmp_path / "ready"
    process = multiprocessing.get_context("spawn").Process(target=_stuck, args=(log, out, ready))
    process.start()
    deadline = time.monotonic() + 240
    while not ready.exists() and time.monotonic() < deadline:
        process.join(0.02)
    assert ready.exists()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    work = tmp_path / ".out.importing"
    (work / workplace.SPILL / "left").write_text("of the dead")
    assert not out.exists()
    importing.import_log([log], out, partitions=2)
    assert not work.exists()


def test_a_directory_with_content_is_refused(tmp_path):
    log = csv(tmp_path / "log.csv", made())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(BadLog, match="is not an empty directory"):
        importing.import_log([log], tmp_path / "out", partitions=2)


def test_progress_is_told_of_each_stage(tmp_path):
    from contextlib import contextmanager

    seen = {}

    @contextmanager
    def watch(what):
        seen.setdefault(what, [])
        yield lambda done, whole: seen[what].append((done, whole))

    importing.import_log([csv(tmp_path / "log.csv", made())], tmp_path / "out", partitions=3, watch=watch)
    assert list(seen) == ["MiB read", "MiB sorted", "rows written"]
    assert all(told[-1][0] == told[-1][1] and told[0][0] == 0 for told in seen.values())
    assert seen["rows written"][-1] == (400, 400)


def test_the_command(tmp_path, capsys):
    log = csv(tmp_path / "log.csv", made())
    assert cli.main(["import", str(log), "--out", str(tmp_path / "out"), "--partitions", "3", "--k-core", "2"]) == 0
    told = capsys.readouterr()
    assert "400 rows in" in told.out
    assert "rows/s" in told.out
    assert "3 partitions" in told.out
    assert cli.main(["import", str(log), "--out", str(tmp_path / "two"), "--partitions", "0"]) == 2
    assert "partitions lie in 1..9999" in capsys.readouterr().err
    assert len(list((tmp_path / "out" / "users").iterdir())) == 3


def test_dates_in_a_form_of_ones_own_are_streamed_alike(tmp_path):
    form, stamps = "%d/%m/%Y %H:%M", [60 * (28_000_000 + 11 * n % 5_000) for n in range(400)]
    rows = [f"u{n % 17};i{n % 5};{datetime.fromtimestamp(t, UTC).strftime(form)}" for n, t in enumerate(stamps)]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["user;item;time", *rows]) + "\n")
    memory = importing.import_log([path], tmp_path / "memory", time_format=form)
    agree(memory, importing.import_log([path], tmp_path / "streamed", time_format=form, partitions=3))
    with pytest.raises(BadLog, match=r"log\.csv, row 2: .* is not written as --time-format '%Y' says"):
        importing.import_log([path], tmp_path / "bad", time_format="%Y", partitions=3)
    assert not (tmp_path / "bad").exists()
