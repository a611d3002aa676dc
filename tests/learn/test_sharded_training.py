"""Training by several processes equals training by one: see `worldwork.py` for what each process does.

Tolerance: weights within 1e-4 of their value or 5e-6, after two to six steps. Sums are taken in another order, which
Adam's first steps, whose size does not depend on the gradient's, carry into the weights. Where the gradient is as small
as Adam's epsilon (1e-8), rounding decides how far a weight goes: one entry in a thousand, or one of a smaller tensor,
may be off by a tenth of a step.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import contract
import worldwork
from diffacet.core import draws
from diffacet.core.batch import PositionBatch, SequenceBatch
from diffacet.core.world import Part, World, cuts
from diffacet.errors import BadRun, BadSetting
from diffacet.learn import batches, checkpoint, shards
from diffacet.learn.checkpoint import BEST, LAST
from diffacet.learn.shards import Own, Shard, Shards
from diffacet.learn.sharing import check_workers, share
from diffacet.models import MODELS, card
from diffacet.rank.evaluate import per_user
from worlds import spawned

RELATIVE, ABSOLUTE, RARE = 1e-4, 5e-6, 2e-4
WAYS = worldwork.WAYS


def near(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        off = (found[name].double() - value.double()).abs() - RELATIVE * value.double().abs()
        assert off.max() <= RARE, name
        assert (off > ABSOLUTE).sum() <= max(1, value.numel() // 1000), name


def together(folder, name, size):
    """The weights that `size` processes hold, as one: replicas are equal to the bit, rows follow each other."""
    parts = [load_file(folder / f"{name}-{rank}.weights") for rank in range(size)]
    whole = dict(parts[0])
    for key, value in whole.items():
        if key == "items.weight":
            whole[key] = torch.cat([value, *(part[key][1:] for part in parts[1:])])
        else:
            assert all(torch.equal(part[key], value) for part in parts[1:]), key
    return whole


def records(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def same_records(found, wanted):
    """Lists, and so metrics, are the same; terms and what a model reports on itself but for rounding."""
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert (one["step"], one["metrics"]) == (other["step"], other["metrics"])
        for kind in ("terms", "gauges"):
            assert one[kind] == pytest.approx(other[kind], rel=1e-3, abs=1e-5)


def same_cases(folder, size, names):
    assert len(names) > 15
    for name in names:
        near(together(folder, name, size), load_file(folder / f"{name}-alone.weights"))
        alone = records(folder, f"{name}-alone")
        for rank in range(size):
            same_records(records(folder, f"{name}-{rank}"), alone)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """By way of updating: weights, records and folder of six steps by one process; and a folder with four of them."""
    folder, found = tmp_path_factory.mktemp("alone"), {}
    for way in WAYS:
        model, told = worldwork.trained(*worldwork.kept(updates=way), folder / f"whole-{way}")
        worldwork.trained(*worldwork.kept(4, way), folder / f"half-1-{way}")
        found[way] = dict(model.state_dict()), told
    return folder, found


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    spawned(folder, 3, "few", "half", "killed_after", codes=[9, None, None])
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory, three, unbroken):
    folder = tmp_path_factory.mktemp("two")
    for way in WAYS:
        shutil.copytree(three / f"half-3-{way}", folder / f"from-3-{way}")
        shutil.copytree(unbroken[0] / f"half-1-{way}", folder / f"from-1-{way}")
    scenarios = ("equal", "half", "resumed", "lists", "refused", "full", "killed_before")
    spawned(folder, 2, *scenarios, codes=[None, 9])
    return folder


# --- the same weights ------------------------------------------------------------------------------------------


def test_two_processes_train_what_one_does(two):
    names = list(worldwork.cases())
    assert {name.split("-best")[0] for name in names if name.endswith("-best")} == {
        name for name in MODELS if card(name).workers
    }
    same_cases(two, 2, names)


def test_three_processes_train_what_one_does_on_batches_of_two(three):
    same_cases(three, 3, [name for name in worldwork.cases() if name.endswith("-best") or name.startswith("odd")])


def test_models_of_one_process_say_so():
    assert not any(card(name).workers for name in ("pop", "item-knn", "mf", "multi-vae", "acvae", "diffurec", "din"))
    check_workers(card("acvae"), 1, 5)
    check_workers(card("dmi"), 5, 5)
    with pytest.raises(BadSetting, match=r"acvae is trained by one process; got workers=2: leave it at 1"):
        check_workers(card("acvae"), 2, 5)
    with pytest.raises(BadSetting, match="workers is at most the 5 items, which they divide; got 6"):
        check_workers(card("dmi"), 6, 5)
    with pytest.raises(BadSetting, match="workers is at least 1; got 0"):
        check_workers(card("dmi"), 0, 5)


# --- lists -----------------------------------------------------------------------------------------------------


def test_lists_of_two_processes_are_those_of_one(two):
    model = contract.build(*worldwork.kept())
    wanted = per_user(
        model, worldwork.holdout(), length=contract.LENGTH, ks=(3, 30), exclude_seen=True, batch_size=4
    ).values
    for rank in range(2):
        found = np.load(two / f"lists-{rank}.npz")
        assert set(found) == set(wanted)
        for name, value in wanted.items():
            assert np.array_equal(found[name], value, equal_nan=True), name


# --- checkpoints -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [2, 3])
def test_what_several_have_begun_one_finishes(two, three, unbroken, tmp_path, size, way):
    """4 -> 1 is of the same kind; any number of files is read below."""
    source = {2: two, 3: three}[size] / f"half-{size}-{way}"
    assert len(list(source.glob("last-*-of-*.safetensors"))) == size
    shutil.copytree(source, tmp_path / "run")
    model, told = worldwork.trained(*worldwork.kept(updates=way), tmp_path / "run")
    weights, wanted = unbroken[1][way]
    near(dict(model.state_dict()), weights)
    same_records(told, wanted)
    assert not list((tmp_path / "run").glob("last-*-of-*"))  # the rows are in `last` again


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("before", [1, 3])
def test_two_finish_what_others_have_begun(two, unbroken, before, way):
    weights, wanted = unbroken[1][way]
    near(together(two, f"from-{before}-{way}", 2), weights)
    same_records(records(two, f"from-{before}-{way}-0"), wanted)
    assert len(list((two / f"from-{before}-{way}").glob("last-*-of-*"))) == 2


@pytest.mark.parametrize("way", WAYS)
def test_the_best_model_is_one_whole_file(two, unbroken, way):
    folder = two / f"from-3-{way}"
    tensors, story = checkpoint.read(folder / BEST)
    best = max(story["records"], key=lambda record: record["metrics"]["recall@50"])
    assert best == story["records"][-1]
    assert tensors["model.items.weight"].shape == (contract.N_ITEMS + 1, 16)
    one, other = load_file(folder / BEST), load_file(unbroken[0] / f"whole-{way}" / BEST)
    near(one, other)
    with safe_open(folder / BEST, "pt") as file, safe_open(unbroken[0] / f"whole-{way}" / BEST, "pt") as usual:
        assert set(file.metadata()) == set(usual.metadata())


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_between_its_files_a_run_goes_on_to_the_same_result(two, three, unbroken, tmp_path, moment):
    """With half of the new rows on the disk, and with all of them but not `last`: the checkpoint before is whole."""
    shutil.copytree({"before": two, "after": three}[moment] / f"killed-{moment}", tmp_path / "run")
    there = {path.name.split("-")[1] for path in (tmp_path / "run").glob("last-*-of-*.safetensors")}
    assert there == {"000002", "000004"}
    assert checkpoint.read_trail(tmp_path / "run").records[-1].step == 2
    model, told = worldwork.trained(*worldwork.kept(), tmp_path / "run")
    weights, wanted = unbroken[1]["dense"]
    near(dict(model.state_dict()), weights)
    same_records(told, wanted)
    assert not list((tmp_path / "run").glob("*last-*-of-*"))


def test_a_full_disk_leaves_the_checkpoint_before(two):
    tensors, story = checkpoint.read(two / "full" / LAST)
    assert [record["step"] for record in story["records"]] == [2]
    assert tensors["optimizer.dense.0.exp_avg"].shape == tensors["model.items.weight"].shape


@pytest.mark.parametrize("change", [worldwork._lost, worldwork._other])
def test_rows_that_are_not_there_are_named(two, tmp_path, change):
    shutil.copytree(two / "half-2-dense", tmp_path / "run")
    change(tmp_path / "run", two)
    name = r"last-000004-00002-of-00002\.safetensors is "
    with pytest.raises(BadRun, match=name):
        checkpoint.read(tmp_path / "run" / LAST)
    with pytest.raises(BadRun, match=name):
        worldwork.trained(*worldwork.kept(), tmp_path / "run")
    checkpoint.read(tmp_path / "run" / BEST)


def test_a_damaged_file_of_rows_is_named(two, tmp_path):
    shutil.copytree(two / "half-2-dense", tmp_path / "run")
    path = next((tmp_path / "run").glob("last-*-00001-of-*"))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BadRun, match=r"00001-of-00002\.safetensors is damaged .* restore it from a copy"):
        checkpoint.read(tmp_path / "run" / LAST)


def test_a_table_of_other_items_is_refused(two):
    own = Own(lambda name: name.endswith("items.weight"), contract.N_ITEMS + 1, 1, 3)
    for file in ("half-2-dense", "from-1-dense"):
        with pytest.raises(BadRun, match="its table has 24 items, the model's 25"):
            checkpoint.read(two / file / LAST, own=own)


@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 7), st.booleans())
def test_any_number_of_files_is_read_by_any_number_of_processes(tmp_path_factory, n_items, before, after, joined):
    before, after = min(before, n_items), min(after, n_items)
    folder = tmp_path_factory.mktemp("shards")
    whole = {"model.a": torch.randn(n_items + 1, 3), "b.step": torch.arange(n_items + 1)}
    ends = [0, *(end + 1 for end in cuts(n_items, before)[1:])]
    files = tuple(Shard(f"last-1-{rank}-of-.safetensors", ends[rank], ends[rank + 1]) for rank in range(before))
    plan = Shards(folder, "mark", files, tuple(whole))
    for rank, file in enumerate(files):
        rows = [0, *range(max(file.first, 1), file.end)]
        plan.write(rank, {name: tensor[rows] for name, tensor in whole.items()})
    assert Shards.of_story(folder, json.loads(json.dumps({"shards": plan.story()}))) == plan
    last = folder / LAST
    if joined:
        shards.write_joined(
            last, {"c": torch.tensor([True])}, plan, list(whole), {"format": checkpoint.FORMAT, "story": "{}"}
        )
        assert torch.equal(load_file(last)["c"], torch.tensor([True]))
    else:
        story = json.dumps({"shards": plan.story()})
        save_file({"c": torch.zeros(1)}, last, {"format": checkpoint.DIVIDED, "story": story})
    for name, tensor in whole.items():
        assert torch.equal(checkpoint.read(last)[0][name], tensor)
    for rank in range(after):
        first, end = World(rank, after).cut(n_items)
        own = Own(lambda name: name != "c", n_items, first + 1, end)
        for name, tensor in whole.items():
            assert torch.equal(checkpoint.read(last, own=own)[0][name], tensor[[0, *range(first + 1, end + 1)]])
    shards.sweep(folder, plan)
    assert len(list(folder.iterdir())) == before + 1
    shards.sweep(folder, None)
    assert [path.name for path in folder.iterdir()] == [LAST]


# --- the parts of a batch --------------------------------------------------------------------------------------


def whole_batch(form, **changes):
    chosen = contract.small(card("sasrec"), "best", **{"batch_size": 5, "negatives": 9, "mask_hits": True, **changes})
    return batches.batch_at(contract.log(), contract.N_ITEMS, chosen.training, form)(3)


@pytest.mark.parametrize("form", [SequenceBatch, PositionBatch])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_every_row_and_every_negative_is_somebodys_once(form, size):
    batch = whole_batch(form, correction=True)
    parts = [share(batch, World(rank, size), contract.N_ITEMS) for rank in range(size)]
    assert all(one.whole is batch for one in parts)
    assert torch.equal(torch.cat([one.own.history.items for one in parts]), batch.history.items)
    assert torch.equal(torch.cat([one.own.history.times for one in parts]), batch.history.times)
    assert torch.equal(torch.cat([one.own.target for one in parts]), batch.target)
    assert torch.equal(torch.cat([one.own.log_q[0] for one in parts]), batch.log_q[0])
    numbers = torch.cat([one.own.negatives for one in parts])
    assert torch.equal(numbers.sort().values, batch.negatives.sort().values)
    for rank, one in enumerate(parts):
        first, last = World(rank, size).cut(contract.N_ITEMS)
        assert ((one.own.negatives > first) & (one.own.negatives <= last)).all()
        assert torch.equal(one.own.hits, batch.target[:, None] == one.own.negatives)
        assert one.own.log_q[1].shape == one.own.negatives.shape
        assert one.part.rows == one.part.counted == tuple(len(other.own.history.items) for other in parts)
        assert one.part.targets == tuple(len(other.own.target) for other in parts)
        if form is PositionBatch:
            begin = sum(one.part.targets[:rank])
            rows = batch.row[begin : begin + len(one.own.target)]
            assert torch.equal(one.own.history.items[one.own.row], batch.history.items[rows])
    if form is PositionBatch:
        assert torch.cat([one.own.weight for one in parts]).sum() == pytest.approx(1)
        assert torch.equal(torch.cat([one.own.position for one in parts]), batch.position)


def test_who_has_no_row_is_idle_and_holds_the_first():
    batch = whole_batch(SequenceBatch, batch_size=2)
    parts = [share(batch, World(rank, 4), contract.N_ITEMS) for rank in range(4)]
    assert [one.part.idle for one in parts] == [True, False, True, False]
    assert torch.equal(parts[0].own.target, batch.target[:1])
    assert torch.equal(parts[3].own.target, batch.target[1:])
    order = torch.tensor([0, 0, 0, 1])
    assert torch.equal(parts[1].own.hits, batch.target[order][:, None] == parts[1].own.negatives)
    terms = {"softmax": torch.tensor(3.0)}
    assert [float(one.counted(terms)["softmax"]) for one in parts] == [0, 3, 0, 3]


def test_negatives_of_ones_own_stay_with_their_row():
    batch = whole_batch(SequenceBatch, own_negatives=True, mask_hits=False, correction=False, negatives=4)
    parts = [share(batch, World(rank, 3), contract.N_ITEMS) for rank in range(3)]
    assert torch.equal(torch.cat([one.own.negatives for one in parts]), batch.negatives)


# --- random numbers --------------------------------------------------------------------------------------------


def drawn(rows, part):
    """What a model might draw for so many rows, and a number after that."""
    torch.manual_seed(0)
    with draws.widened(part):
        found = [
            torch.rand(rows, 4),
            torch.randn((rows, 3)),
            torch.randint(1, 9, (rows,)),
            torch.randint(9, size=(rows, 2)),
            torch.rand_like(torch.ones(rows, 5)),
            torch.randn_like(torch.ones(rows, 2, 3)),
            torch.nn.functional.dropout(torch.ones(rows, 40), 0.5, True),
            torch.nn.Dropout(0.3)(torch.ones(rows, 4, 5)),
        ]
        fixed = torch.rand(30)
        with draws.along(1):
            found.append(torch.randn(6, rows, 2).transpose(0, 1))
        off = torch.nn.functional.dropout(torch.ones(rows, 4), 0.5, False)
    assert off.all()
    return found, fixed, torch.rand(3)


@pytest.mark.parametrize("counted", [(4, 3), (3, 2, 2), (7, 0), (0, 7)])
def test_every_process_draws_what_its_rows_would_have_got(counted):
    whole, fixed, after = drawn(7, None)
    held = tuple(max(1, rows) for rows in counted)
    for rank, rows in enumerate(counted):
        found, same, then = drawn(held[rank], Part(World(rank, len(counted)), counted, held, held))
        assert torch.equal(same, fixed)
        assert torch.equal(then, after)
        if rows:
            begin = sum(counted[:rank])
            for mine, all_rows in zip(found, whole, strict=True):
                assert torch.equal(mine, all_rows[begin : begin + rows])
