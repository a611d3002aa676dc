import errno
import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import diffacet
from diffacet.app import batch_candidates, batch_parts
from diffacet.app.batch_candidates import Wish
from diffacet.app.serving.recommender import Recommender
from diffacet.data.ids import Ids
from diffacet.errors import BadLog, BadRun, BadSetting

K, BLOCK = 7, 16
"""60 users are four blocks, of which the last is a short one."""
USUAL = Wish(K, block=BLOCK)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out" / "c.parquet"


@pytest.fixture
def written(shop_run, shop_data, out):
    """Writes the candidates of the shop, with what a test changes: (what it said, the table)."""

    def write(wish=USUAL, run=shop_run, data=shop_data, to=out, **more):
        told = batch_candidates.write(run, data, to, wish, **more)
        return told, pl.read_parquet(to)

    return write


@pytest.fixture
def broken(written, out):
    """Leaves two finished blocks of a job that was stopped in its third."""
    with pytest.raises(KeyboardInterrupt):
        written(progress=stop_at(3 * BLOCK))
    return batch_parts.folder_of(out)


def stop_at(users):
    def progress(done, total):
        if done >= users:
            raise KeyboardInterrupt

    return progress


def histories(data):
    log = diffacet.open_data(data).log
    rows = log.sequences()
    return {log.users.values[u]: log.items.ids(rows.row(u)).to_list() for u in range(log.n_users)}


def same(table, recommender, histories, k, **asked):
    """Whether the table has what each user would get alone, the users in their order."""
    assert table["user_id"].unique(maintain_order=True).to_list() == list(histories)
    assert table.columns == ["user_id", "item_id", "rank", "score", "interest"]
    by_user = table.partition_by("user_id", as_dict=True, maintain_order=True)
    for user, history in histories.items():
        alone, mine = recommender.recommend(history, k, **asked), by_user[(user,)]
        assert mine["item_id"].to_list() == alone.item_id.to_list()
        assert mine["rank"].to_list() == list(range(1, len(alone) + 1))
        assert mine["interest"].to_list() == alone.interest.tolist()
        np.testing.assert_allclose(mine["score"], alone.score, rtol=1e-5, atol=1e-6)  # other blocks round otherwise


@pytest.mark.parametrize("model", ["dmi", "comirec-sa", "sasrec", "facet", "ease", "pop"])
def test_every_user_gets_what_it_would_get_alone(model, shop_runs, shop_data, written, monkeypatch):
    monkeypatch.setattr(batch_candidates, "TOGETHER", 5)  # so that a block is several calls, the last one filled up
    told, table = written(run=shop_runs[model])
    recommender = Recommender.load(shop_runs[model])
    same(table, recommender, histories(shop_data), K)
    assert table.schema == {
        "user_id": pl.String,
        "item_id": recommender.run.catalogue["item_id"].dtype,
        "rank": pl.Int32,
        "score": pl.Float32,
        "interest": pl.Int32,
    }
    assert (told["users"], told["rows"], told["model_version"]) == (60, 60 * K, recommender.version)
    assert [told[name] for name in ("resumed", "without_history", "without_candidates", "unknown_items")] == [0] * 4


@pytest.mark.parametrize(
    ("wish", "loading", "asked"),
    [
        (Wish(K, exclude_seen=False, block=BLOCK), {}, {"exclude_seen": False}),
        (Wish(K, diversity=0.7, block=BLOCK), {}, {"diversity": 0.7}),
        (USUAL, {"refine_steps": 1}, {}),
        (USUAL, {"set": ["refine_steps=0"]}, {}),
        (USUAL, {"index": "hnsw"}, {}),
        (Wish(99, block=7), {}, {}),
    ],
)
def test_options_are_those_of_a_single_request(wish, loading, asked, shop_run, shop_data, written, tmp_path):
    run = shutil.copytree(shop_run, tmp_path / "run")  # an index is kept beside the weights
    _, table = written(wish, run=run, **loading)
    same(table, Recommender.load(run, **loading), histories(shop_data), wish.k, **asked)


def newer(folder, *rows):
    """A data directory that others made: users are numbers, items are text."""
    folder.mkdir()
    users, items = zip(*rows, strict=True)
    frame = pl.DataFrame({"user_id": users, "item_id": items, "timestamp": range(len(rows))})
    frame.write_parquet(folder / "interactions.parquet")
    return folder


def test_the_public_function_takes_the_wish_in_words(written, shop_run, shop_data, tmp_path):
    _, table = written(Wish(K, exclude_seen=False, diversity=0.7, block=BLOCK))
    told = diffacet.write_candidates(
        shop_run, shop_data, tmp_path / "more.parquet", K, exclude_seen=False, diversity=0.7, threads=1
    )
    assert told["rows"] == len(table)
    assert pl.read_parquet(tmp_path / "more.parquet").equals(table)


def test_newer_data_are_matched_by_ids(written, shop_run, tmp_path):
    rows = [(1, "3"), (2, "new"), (1, "new"), (3, "40"), (1, "5"), (3, "older"), (3, "39")]
    rows += [(4, str(item)) for item in range(1, 41)]  # has met the whole catalogue
    lines = []
    told, table = written(data=newer(tmp_path / "data", *rows), tell=lines.append)
    same(table, Recommender.load(shop_run), {1: ["3", "5"], 3: ["40", "39"]}, K)
    assert table.schema["user_id"] == pl.Int64
    assert (told["users"], told["rows"], told["unknown_items"]) == (2, 2 * K, 2)
    assert (told["without_history"], told["without_candidates"]) == (1, 1)
    assert "is not what" in lines[0]
    assert "fingerprint" in lines[0]
    assert "2 items of" in lines[1]


def test_data_of_another_shop_are_refused(written, out, tmp_path):
    with pytest.raises(BadLog, match=r"no user has an item .*look like a, those of the run like \d+"):
        written(data=newer(tmp_path / "data", (1, "a"), (2, "a")))
    assert not out.parent.exists()


def write_users(path, ids):
    if path.suffix == ".parquet":
        pl.DataFrame({"at": range(len(ids)), "user_id": ids}).write_parquet(path)
    elif path.suffix == ".csv":
        path.write_text("at,user_id\n" + "".join(f'{n},"{one}"\n' for n, one in enumerate(ids)))
    else:
        text = "\r\n".join(["", *ids, "", ""]).encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["users.txt", "users", "users.txt.gz", "users.csv", "users.parquet"])
def test_the_users_of_a_file_come_in_its_order_each_once(name, written, shop_run, shop_data, tmp_path):
    path = write_users(tmp_path / name, ["u9", "u3", "u50", "u3"])
    told, table = written(users=path)
    alone = histories(shop_data)
    same(table, Recommender.load(shop_run), {user: alone[user] for user in ("u9", "u3", "u50")}, K)
    assert told["users"] == 3


@pytest.mark.parametrize(("name", "row"), [("users.txt", 3), ("users.csv", 3), ("users.parquet", 2)])
def test_unknown_users_are_named_with_their_rows(name, row, written, tmp_path):
    path = write_users(tmp_path / name, ["u1", *(f"v{n}" for n in range(7))])
    with pytest.raises(BadLog, match=rf"v0 \(row {row}\), .*v4 \(row {row + 4}\) and 2 more; its ids look like u0, "):
        written(users=path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("users.csv", b"customer,age\nu1,7\n", "has no column 'user_id'; it has customer, age"),
        ("users.csv", b"user_id,age\n,7\nu1,8\n", "row 2: user_id is missing"),
        ("users.txt", b"\n\n", "is empty"),
        ("users.txt", b"u1\nu2\xff\n", "row 2, byte 5: 0xff is not UTF-8"),
        ("users.parquet", b"u1\n", "not a Parquet file"),
    ],
)
def test_files_of_users_that_cannot_be_used(name, content, said, written, out, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadLog, match=said):
        written(users=tmp_path / name)
    assert not out.parent.exists()


def test_parquet_users_that_are_no_ids(written, tmp_path):
    pl.DataFrame({"user_id": [1.0, 2.0]}).write_parquet(tmp_path / "users.parquet")
    with pytest.raises(BadLog, match="must hold integers or strings, not Float64"):
        written(users=tmp_path / "users.parquet")
    pl.DataFrame({"user": ["u1"]}).write_parquet(tmp_path / "users.parquet")
    with pytest.raises(BadLog, match="has no column 'user_id'"):
        written(users=tmp_path / "users.parquet")


def test_no_id_is_turned_into_text_and_back_for_each_user(written, monkeypatch):
    """What makes a batch fast: the catalogues are matched once, and from there on there are numbers only."""
    asked, find = [], Ids.find
    monkeypatch.setattr(Ids, "find", lambda ids, them: asked.append(len(them)) or find(ids, them))
    told, _ = written(Wish(K, block=4))
    assert told["users"] == 60
    assert sum(asked) < 60 * 2  # the items of the data, and the requests of the check and of the warming up


def test_a_stopped_job_goes_on_to_the_bytes_of_an_unbroken_one(broken, written, out, tmp_path):
    assert sorted(path.name for path in broken.iterdir()) == ["00000.parquet", "00001.parquet", "job.json", "lock"]
    assert not out.exists()
    seen = []
    told, table = written(resume=True, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (2 * BLOCK, 60)
    assert seen[-1] == (60, 60)
    assert (told["resumed"], told["users"]) == (2 * BLOCK, 60)
    _, whole = written(to=tmp_path / "whole.parquet", resume=True)  # where nothing was begun
    assert table.equals(whole)
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert list(out.parent.iterdir()) == [out]


def test_a_job_that_finished_no_block_leaves_nothing(written, out):
    with pytest.raises(KeyboardInterrupt):
        written(progress=stop_at(0))
    assert list(out.parent.iterdir()) == []
    told, _ = written()
    assert told["users"] == 60


def test_what_was_left_is_gone_on_with_or_removed(broken, written):
    before = {path.name: path.read_bytes() for path in broken.iterdir()}
    with pytest.raises(BadRun, match=r"2 finished blocks of a job that did not end; go on .* --resume, or remove"):
        written()
    assert {path.name: path.read_bytes() for path in broken.iterdir()} == before
    shutil.rmtree(broken)
    told, _ = written()
    assert told["resumed"] == 0


@pytest.mark.parametrize(
    ("wish", "more", "said"),
    [
        (Wish(K + 1, block=BLOCK), {}, "k is 8, was 7;"),
        (Wish(K, block=BLOCK + 1), {}, "block is 17, was 16;"),
        (Wish(K, exclude_seen=False, block=BLOCK), {}, "exclude_seen is False, was True;"),
        (Wish(K, diversity=0.5, block=BLOCK), {}, r"diversity is 0\.5, was 0\.0;"),
        (USUAL, {"refine_steps": 1}, r"refine_steps is 1, was None; run is dmi-\w+, was dmi-"),
        (USUAL, {"set": {"refine_steps": 2}}, r"run is dmi-\w+, was dmi-\w+; set is .*2"),
        (USUAL, {"run": "ease"}, r"run is ease-\w+, was dmi-"),
        (USUAL, {"data": "new"}, r"data is \w{16}, was \w{16}; users is"),
        (USUAL, {"users": "some"}, "users is"),
    ],
)
def test_blocks_of_another_job_are_not_gone_on_with(wish, more, said, broken, written, shop_runs, tmp_path):
    before = {path.name: path.read_bytes() for path in broken.iterdir()}
    if "run" in more:
        more = {"run": shop_runs["ease"]}
    if "data" in more:
        more = {"data": newer(tmp_path / "data", (1, "3"), (2, "4"))}
    if "users" in more:
        more = {"users": write_users(tmp_path / "users.txt", ["u1", "u2"])}
    with pytest.raises(BadRun, match=f"blocks of another job: {said}"):
        written(wish, resume=True, **more)
    assert {path.name: path.read_bytes() for path in broken.iterdir()} == before


def test_a_damaged_job_file_is_told(broken, written):
    (broken / "job.json").write_text("{")
    with pytest.raises(BadRun, match=r"job\.json is damaged .* remove .* to begin anew"):
        written(resume=True)


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    pl.exceptions.ComputeError("parquet: underlying IO error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", FULL, ids=["of the system", "of polars"])
def test_a_full_disk_costs_one_block(error, written, out, tmp_path, monkeypatch):
    write, parts = pl.DataFrame.write_parquet, batch_parts.folder_of(out)

    def full(frame, path, **how):
        write(frame, path, **how)
        if "00002" in path.name:
            raise error

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(BadRun, match=r"00002\.parquet cannot be written \(No space left on device.*with --resume"):
        written()
    monkeypatch.undo()
    assert sorted(path.name for path in parts.iterdir()) == ["00000.parquet", "00001.parquet", "job.json", "lock"]
    assert not out.exists()
    told, table = written(resume=True)
    assert told["resumed"] == 2 * BLOCK
    assert table.equals(written(to=tmp_path / "whole.parquet")[1])


@pytest.fixture
def joining(monkeypatch):
    """Changes what happens when the blocks become one file; each block is written by the same method."""
    sink = pl.LazyFrame.sink_parquet

    def change(instead):
        def joined(frame, path, **how):
            return instead(sink, frame, path, **how) if "whole" in Path(path).name else sink(frame, path, **how)

        monkeypatch.setattr(pl.LazyFrame, "sink_parquet", joined)

    return change


def test_a_disk_that_is_full_at_the_end_costs_nothing(written, out, joining, monkeypatch):
    def full(sink, frame, path, **how):
        sink(frame, path, **how)
        raise FULL[0]

    joining(full)
    with pytest.raises(BadRun, match=r"c\.parquet cannot be written \(No space left on device\).*with --resume"):
        written()
    assert not out.exists()
    monkeypatch.undo()
    told, _ = written(resume=True)
    assert (told["resumed"], told["users_per_second"], told["rows"]) == (60, None, 60 * K)


def test_a_file_that_lost_rows_does_not_appear(written, out, joining):
    joining(lambda sink, frame, path, **how: sink(frame.head(9), path, **how))
    with pytest.raises(BadRun, match="has 9 rows where its blocks have 420"):
        written()
    assert not out.exists()


def test_two_jobs_do_not_write_one_file(written, out):
    tried = []

    def second(done, total):
        with pytest.raises(BadRun, match="is being run by another process") as refused:
            written(resume=bool(done))
        tried.append(refused)

    told, _ = written(progress=second)
    assert len(tried) == 5
    assert told["rows"] == 60 * K
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("resume", [False, True])
def test_a_file_that_is_there_stays(resume, written, out):
    out.parent.mkdir()
    out.write_text("mine")
    with pytest.raises(BadRun, match="exists; choose another --out"):
        written(resume=resume)
    assert out.read_text() == "mine"
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize(
    ("wish", "more", "said"),
    [
        (Wish(0), {}, "k, the number of items asked for, is at least 1; got 0"),
        (Wish(diversity=-1), {}, "diversity is a finite number"),
        (Wish(block=0), {}, "--block, .* is at least 1; got 0"),
        (Wish(), {"threads": 0}, "threads is at least 1; got 0"),
        (Wish(), {"index": "hnws"}, "did you mean 'hnsw'"),
        (Wish(), {"refine_steps": 99}, "refine_steps"),
    ],
)
def test_settings_that_nobody_could_be_answered_with(wish, more, said, written, out):
    with pytest.raises(BadSetting, match=said):
        written(wish, **more)
    assert not out.parent.exists()


def test_places_that_cannot_be_written(written, tmp_path):
    with pytest.raises(BadSetting, match=r"ends in \.parquet"):
        written(to=tmp_path / "c.csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadRun, match=r"cannot be written \(Not a directory\); choose another --out"):
        written(to=tmp_path / "file" / "c.parquet")


@pytest.fixture
def words(shop_run, shop_data, out):
    return ["candidates", shop_run, "--data", shop_data, "--out", out, "--k", K, "--block", BLOCK]


def test_the_command_says_what_it_does(call, words, out, shop_run):
    code, told, lines = call(*words, "--threads", 1)
    assert code == 0
    assert f"{out}: 420 candidates of 60 users by dmi-" in told
    assert "users/s" in told
    assert f"next: diffacet serve {shop_run}" in told
    assert [line.split()[0] for line in lines.splitlines()] == ["16/60", "32/60", "48/60", "60/60"]
    assert call(*words) == (2, "", f"diffacet: error: {out} exists; choose another --out, or remove it first\n")


def test_the_command_in_json(call, words, out, tmp_path):
    path = write_users(tmp_path / "users.csv", ["u5", "u6"])
    code, told, _ = call(*words, "--users", path, "--include-seen", "--diversity", 1, "--refine-steps", 0, "--json")
    assert code == 0
    found = json.loads(told)
    assert {name: found[name] for name in ("users", "rows", "out", "resumed", "without_history")} == {
        "users": 2,
        "rows": 2 * K,
        "out": str(out),
        "resumed": 0,
        "without_history": 0,
    }
    assert found["seconds"] > 0
    assert found["users_per_second"] == pytest.approx(2 / found["seconds"])


def test_an_interrupted_command_tells_how_to_go_on(call, words, monkeypatch):
    add = batch_parts.Parts.add

    def interrupted(parts, block):
        if parts.done == 3:
            raise KeyboardInterrupt
        add(parts, block)

    monkeypatch.setattr(batch_parts.Parts, "add", interrupted)
    code, _, lines = call(*words)
    assert code == 130
    assert "the same command with --resume goes on" in lines
    monkeypatch.undo()
    code, told, lines = call(*words, "--resume")
    assert code == 0
    assert "48 users were finished before" in told
    assert lines.startswith("60/60 users")


def test_the_command_tells_of_those_without_candidates(call, shop_run, out, tmp_path):
    rows = [(1, "3"), (2, "new"), *((3, str(item)) for item in range(1, 41))]
    code, told, lines = call("candidates", shop_run, "--data", newer(tmp_path / "data", *rows), "--out", out)
    assert code == 0
    assert "1 users have no item that the run knows" in told
    assert "1 users have met the whole catalogue" in told
    assert lines.count("diffacet: ") == 2
