"""Candidates by the workers of a Ray cluster on this machine, which all tests of this file share."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from functools import partial

import polars as pl
import pytest

import diffacet
import partitionlog
from diffacet.app import batch_candidates, batch_parts
from diffacet.app.batch_candidates import Wish
from diffacet.app.cluster import candidates, connecting, importing, mapping
from diffacet.data import store
from diffacet.errors import BadLog, BadRun, BadSetting

pytest.importorskip("ray", reason="the extra 'ray' is not installed")

import clusterwork

pytestmark = [
    pytest.mark.ray,
    # Ray leaves sockets and processes to the end of the process.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]
K, BLOCK = 7, 16
"""60 users are four blocks."""
USUAL = Wish(K, block=BLOCK)


@pytest.fixture(scope="module")
def address(cluster):
    import ray

    return ray.get_runtime_context().gcs_address


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out" / "c.parquet"


@pytest.fixture
def write(shop_run, shop_data, out):
    def write(engine=batch_candidates.here, to=out, **more):
        told = batch_candidates.write(shop_run, shop_data, to, USUAL, threads=1, engine=engine, **more)
        return told, to.read_bytes()

    return write


@pytest.fixture
def local(write, tmp_path):
    """The bytes of the table that this process makes alone."""
    return write(to=tmp_path / "local.parquet")[1]


def stop_at(users):
    def progress(done, total):
        if done >= users:
            raise KeyboardInterrupt

    return progress


def test_a_mapped_function_gives_each_result_once_and_a_refusal_as_itself(cluster):
    results = list(mapping.mapped(cluster, clusterwork.doubled, list(range(10)), workers=2))
    assert sorted(value for value, _, _ in results) == list(range(0, 20, 2))
    assert os.getpid() not in {pid for _, pid, _ in results}
    assert {nice for _, _, nice in results} == {os.nice(0)}  # they get as much of the machine as this process
    assert list(mapping.mapped(cluster, clusterwork.doubled, [], workers=2)) == []
    with pytest.raises(BadLog, match=r"^-1 is below 0$") as refused:
        list(mapping.mapped(cluster, clusterwork.doubled, [1, -1], workers=1))
    assert refused.value.field == "task"
    with pytest.raises(Exception, match="thirteen"):  # a bug keeps what it says
        list(mapping.mapped(cluster, clusterwork.doubled, [13], workers=1))


def test_a_cluster_that_is_too_small_is_no_place_to_wait(cluster):
    with pytest.raises(BadSetting, match="3 workers of 1 thread need 3 CPUs, and the cluster has 2 CPUs and 0 GPUs"):
        list(mapping.mapped(cluster, clusterwork.doubled, [1], workers=3))
    assert mapping.workers_for(cluster, None) == 2
    assert mapping.workers_for(cluster, None, cpus=2) == 1
    assert mapping.workers_for(cluster, 5) == 5


def test_a_killed_worker_costs_its_block_which_is_done_again(cluster, write, local, out):
    told, table = write(partial(clusterwork.killed_worker, cluster))
    assert (out.parent / "killed").exists()
    assert table == local
    assert told["users"] == pl.read_parquet(out)["user_id"].n_unique() == 60


def test_a_killed_driver_is_gone_on_with_by_either_engine(cluster, address, write, local, out, shop_run, shop_data):
    command = [sys.executable, "-m", "clusterwork", address, shop_run, shop_data, out, str(BLOCK)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == -9, done.stderr.decode()
    assert not out.exists()
    left = batch_parts.folder_of(out)
    kept = shutil.copytree(left, out.parent / "kept")
    assert len(batch_parts.finished(left)) >= 2
    with pytest.raises(BadRun, match="go on with it by --resume"):
        write(candidates.engine(cluster))
    told, table = write(candidates.engine(cluster), resume=True)
    assert table == local
    assert told["resumed"] >= 2 * BLOCK
    out.unlink()
    kept.rename(left)
    assert write(resume=True)[1] == local


def test_blocks_may_be_missing_anywhere(write, local, out):
    with pytest.raises(KeyboardInterrupt):
        write(progress=stop_at(60))
    (batch_parts.folder_of(out) / "00001.parquet").unlink()
    told, table = write(resume=True)
    assert table == local
    assert told["resumed"] == 2 * BLOCK


def test_an_engine_that_leaves_a_block_out_makes_no_table(write, out):
    def lazy(work):
        yield from batch_candidates.here(dataclasses.replace(work, blocks=work.blocks[:2]))

    with pytest.raises(BadRun, match=r"00002\.parquet is missing, and 1 more; do all who write see this directory"):
        write(lazy)
    assert not out.exists()
    assert batch_parts.finished(batch_parts.folder_of(out)) == {0, 1}


def test_a_worker_that_sees_something_else_is_refused(write, out):
    def other(work):
        worker = candidates.Worker(work.job, work.told | {"data": "0" * 16}, work.parts.folder)
        yield worker((0, work.blocks[0][1].tobytes()))

    with pytest.raises(BadRun, match=r"^a worker on \S+ sees another job: data is \w+, and 0000000000000000 for who"):
        write(other)
    assert not out.exists()


def test_a_node_of_other_code_is_refused(cluster, address, monkeypatch):
    elsewhere = dataclasses.replace(cluster, address=address)
    elsewhere.check_code()
    here = connecting.code()
    monkeypatch.setattr(connecting, "code", lambda: here | {"torch": "1.0"})
    said = rf"^node \S+ \(\S+\) has other code: torch is {re.escape(here['torch'])}, here 1\.0; install"
    with pytest.raises(BadRun, match=said):
        elsewhere.check_code()
    cluster.check_code()  # of this machine, so there is nothing to compare


def test_the_command_works_on_the_cluster_of_an_address(call, address, shop_run, shop_data, out, local):
    words = ["candidates", shop_run, "--data", shop_data, "--out", out, "--k", K, "--block", BLOCK]
    code, told, lines = call(*words, "--engine", "ray", "--address", address, "--workers", 2)
    assert code == 0, lines
    assert f"{out}: 420 candidates of 60 users by dmi-" in told
    assert len(lines.splitlines()) == 4
    assert lines.splitlines()[-1].startswith("60/60 users")
    assert out.read_bytes() == local
    assert list(out.parent.iterdir()) == [out]


def test_partitions_are_read_by_ranges_to_the_same_table(cluster, shop_run, shop_data, out, tmp_path):
    log = diffacet.open_data(shop_data).log
    told = {"user_id": log.users.ids(log.column("user")), "item_id": log.items.ids(log.column("item"))}
    partitionlog.write(pl.DataFrame(told | {"timestamp": log.frame["time"]}), tmp_path / "three", 3)
    whole = store.open(tmp_path / "three").log  # the same users in the same order, in memory
    frame = pl.DataFrame(
        {
            "user_id": whole.users.ids(whole.column("user")),
            "item_id": whole.items.ids(whole.column("item")),
            "timestamp": whole.column("time"),
        }
    )
    (tmp_path / "one").mkdir()
    frame.write_parquet(tmp_path / "one" / "interactions.parquet")
    tables = []
    engines = {"one": batch_candidates.here, "three": batch_candidates.here, "ray": candidates.engine(cluster)}
    for name, engine in engines.items():
        data = tmp_path / name.replace("ray", "three")
        to = out.parent / f"{name}.parquet"
        batch_candidates.write(shop_run, data, to, USUAL, threads=1, engine=engine)
        tables.append(to.read_bytes())
    assert tables[0] == tables[1] == tables[2]


def test_an_import_by_the_cluster_makes_the_same_directory(cluster, tmp_path):
    frame = partitionlog.rows(users=200, items=50, rated=False)
    paths = [tmp_path / f"{n}.csv" for n in range(2)]
    for n, path in enumerate(paths):
        frame[n::2].write_csv(path)
    for name, mapped in (("local", None), ("ray", importing.on(cluster))):
        diffacet.import_log(paths, tmp_path / name, partitions=3, mapped=mapped)
    found = [
        {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("local", "ray")
    ]
    assert len(found[0]) == 9
    assert found[0] == found[1]
