import errno
import json
import random

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from diffacet.core.contract import Training
from diffacet.core.layers import ItemTable
from diffacet.errors import BadRun
from diffacet.learn import checkpoint
from diffacet.learn.checkpoint import BEST, LAST, METRICS, Checkpoints, Record, Trail
from diffacet.learn.optim import Optimizer


class Toy(nn.Module):
    def __init__(self, n_items=5, dim=3, pairs=4):
        super().__init__()
        self.items = ItemTable(n_items, dim)
        self.layer = nn.Linear(dim, 2)
        self.register_buffer("pairs", torch.arange(pairs, dtype=torch.int32))

    def step(self, optimizer):
        optimizer.step((self.layer(self.items(torch.tensor([1, 3, 3]))) ** 2).sum(), 0.1)


def build(seed=0, updates="dense", **sizes):
    torch.manual_seed(seed)
    model = Toy(**sizes)
    return model, Optimizer(model, Training(item_updates=updates))


def trail(*values):
    return Trail("recall@50", [Record(10 * i, {"recall@50": v, "ndcg@20": v / 2}) for i, v in enumerate(values, 1)])


def saved(path, *values, updates="dense", seed=0):
    """A run directory after validations with these metrics; the model and optimiser of the last."""
    path.mkdir(exist_ok=True)
    model, optimizer = build(seed, updates)
    for count in range(1, len(values) + 1):
        model.step(optimizer)
        Checkpoints(path).save(model, optimizer, trail(*values[:count]))
    return model, optimizer


def snapshot(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize("updates", ["dense", "row-sparse"])
def test_round_trip(tmp_path, updates):
    model, optimizer = saved(tmp_path, 0.1, 0.3, updates=updates)
    other, fresh = build(7, updates)
    found = Checkpoints(tmp_path).resume(other, fresh, "recall@50")
    assert found == trail(0.1, 0.3)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
        assert other.state_dict()[name].dtype == value.dtype
    assert fresh.state().keys() == optimizer.state().keys()
    for name, value in optimizer.state().items():
        assert torch.equal(fresh.state()[name], value)


def test_nothing_to_resume_is_an_empty_trail(tmp_path):
    model, optimizer = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert Checkpoints(tmp_path).resume(model, optimizer, "recall@20") == Trail("recall@20", [])
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_trail():
    assert trail().best is None
    assert not trail().stale(0)
    assert trail(0.1, 0.4, 0.4, 0.2).best.step == 20
    assert trail(0.1, 0.4, 0.4, 0.2).stale(1)
    assert not trail(0.1, 0.4, 0.4, 0.2).stale(2)
    assert trail(float("nan"), 0.0).best.step == 20


def test_best_is_kept_and_last_is_newest(tmp_path):
    saved(tmp_path, 0.1, 0.3, 0.2)
    after_two, after_three = tmp_path / "two", tmp_path / "three"
    best = checkpoint.read(tmp_path / BEST)
    assert not any(name.startswith("optimizer.") for name in best[0])
    assert [record["step"] for record in best[1]["records"]] == [10, 20]
    two, _ = saved(after_two, 0.1, 0.3)
    three, _ = saved(after_three, 0.1, 0.3, 0.2)
    assert torch.equal(best[0]["model.items.weight"], two.items.weight)
    assert torch.equal(checkpoint.read(tmp_path / LAST)[0]["model.items.weight"], three.items.weight)


def test_metrics_are_the_trail_as_lines(tmp_path):
    saved(tmp_path, 0.1, 0.3, 0.2)
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [Record(**line) for line in lines] == trail(0.1, 0.3, 0.2).records


def test_metrics_match_the_trail_after_resuming(tmp_path):
    """A run killed after its metrics and before its checkpoint has a line too many."""
    saved(tmp_path, 0.1, 0.3)
    kept = (tmp_path / METRICS).read_text()
    (tmp_path / METRICS).write_text(kept + kept.splitlines()[1] + "\n" + '{"step": 3')
    model, optimizer = build()
    Checkpoints(tmp_path).resume(model, optimizer, "recall@50")
    assert (tmp_path / METRICS).read_text() == kept


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -5])
def test_truncated_files_are_refused(tmp_path, kept):
    saved(tmp_path, 0.1)
    content = (tmp_path / LAST).read_bytes()
    (tmp_path / LAST).write_bytes(content[:kept])
    model, optimizer = build()
    with pytest.raises(BadRun, match=r"last\.safetensors is damaged .* restore it from a copy, or train again"):
        Checkpoints(tmp_path).resume(model, optimizer, "recall@50")


def test_damaged_files_are_refused_or_read_but_never_break(tmp_path):
    """Random bytes: whatever is found out is a refusal, not a traceback."""
    saved(tmp_path, 0.1)
    content, rng, refused = (tmp_path / LAST).read_bytes(), random.Random(0), []
    damaged = tmp_path / "damaged.safetensors"
    for _ in range(300):
        data = bytearray(content)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(min(1200, len(data)))] = rng.randrange(256)  # mostly the header
        damaged.write_bytes(data)
        try:
            checkpoint.read(damaged)
        except BadRun as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert all(str(damaged) in message for message in refused)


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / LAST
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(BadRun, match=r"is not a checkpoint of this program \(format None\)"):
        checkpoint.read(path)
    save_file({"x": torch.zeros(2)}, path, {"format": "diffacet-checkpoint-0"})
    with pytest.raises(BadRun, match="format 'diffacet-checkpoint-0'"):
        checkpoint.read(path)
    save_file({"x": torch.zeros(2)}, path, {"format": checkpoint.FORMAT})
    with pytest.raises(BadRun, match="is damaged"):
        checkpoint.read(path)
    save_file({"x": torch.zeros(2)}, path, {"format": checkpoint.FORMAT, "story": "{"})
    with pytest.raises(BadRun, match="is damaged"):
        checkpoint.read(path)
    path.write_text("step,loss\n1,2\n")
    with pytest.raises(BadRun, match="is damaged"):
        checkpoint.read(path)
    with pytest.raises(BadRun, match="is missing: the run has no checkpoint yet"):
        checkpoint.read(tmp_path / "nowhere.safetensors")
    with pytest.raises(BadRun, match="is damaged"):
        checkpoint.read(tmp_path)


@pytest.mark.parametrize("sizes", [{"n_items": 6}, {"dim": 4}])
def test_other_shapes_are_refused_and_nothing_is_loaded(tmp_path, sizes):
    saved(tmp_path, 0.1)
    model, optimizer = build(3, **sizes)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(BadRun, match=r"holds another model or other data: '.*' differs"):
        Checkpoints(tmp_path).resume(model, optimizer, "recall@50")
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_other_names_are_refused(tmp_path):
    saved(tmp_path, 0.1)
    torch.manual_seed(0)
    model = nn.Sequential(ItemTable(5, 3))
    with pytest.raises(BadRun, match="holds another model"):
        Checkpoints(tmp_path).resume(model, Optimizer(model, Training()), "recall@50")


def test_buffers_take_the_shape_that_was_counted(tmp_path):
    saved(tmp_path, 0.1)
    model, _ = build(3, pairs=0)
    tensors, _ = checkpoint.read(tmp_path / BEST)
    checkpoint.restore(model, tensors, tmp_path / BEST)
    assert torch.equal(model.pairs, torch.arange(4, dtype=torch.int32))
    assert dict(model.named_buffers())["pairs"] is model.pairs


@pytest.mark.parametrize(
    "story",
    [
        {"metric": "recall@50"},
        {"metric": "recall@50", "records": [{"when": 3}]},
        {"metric": "recall@50", "records": 3},
        {"records": []},
    ],
)
def test_a_story_of_another_kind_is_refused(tmp_path, story):
    model, optimizer = saved(tmp_path, 0.1)
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"optimizer.{name}": value for name, value in optimizer.state().items()}
    checkpoint._write(tmp_path / LAST, tensors, story)
    with pytest.raises(BadRun, match="does not belong to this run"):
        Checkpoints(tmp_path).resume(*build(), "recall@50")


def test_an_optimizer_of_another_kind_is_refused(tmp_path):
    saved(tmp_path, 0.1, updates="dense")
    with pytest.raises(BadRun, match="does not belong to this run"):
        Checkpoints(tmp_path).resume(*build(updates="row-sparse"), "recall@50")


def full_disk(at, kind):
    """A save_file that fails, after some bytes, for the checkpoint whose name is `at`."""

    def fail(tensors, path, metadata=None):
        if at in str(path):
            path.write_bytes(b"half a file")
            raise kind
        save_file(tensors, path, metadata)

    return fail


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("at", [BEST, LAST])
@pytest.mark.parametrize("kind", [NO_SPACE, checkpoint.SafetensorError("I/O error: No space left on device")])
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch, at, kind):
    model, optimizer = saved(tmp_path, 0.1)
    before = snapshot(tmp_path)
    model.step(optimizer)
    monkeypatch.setattr(checkpoint, "save_file", full_disk(at, kind))
    message = r"the checkpoint of step 20 was not written: the disk is full; the last good .* --resume"
    with pytest.raises(BadRun, match=message):
        Checkpoints(tmp_path).save(model, optimizer, trail(0.1, 0.3))
    monkeypatch.undo()
    after = snapshot(tmp_path)
    assert after.keys() == before.keys()  # no temporary file is left
    assert after[LAST] == before[LAST]
    other, fresh = build(5)
    assert Checkpoints(tmp_path).resume(other, fresh, "recall@50") == trail(0.1)
    assert (tmp_path / METRICS).read_bytes() == before[METRICS]


def test_a_disk_that_refuses_says_why(tmp_path, monkeypatch):
    model, optimizer = saved(tmp_path, 0.1)
    monkeypatch.setattr(checkpoint, "save_file", full_disk(LAST, PermissionError(13, "Permission denied")))
    with pytest.raises(BadRun, match=r"was not written: .*Permission denied"):
        Checkpoints(tmp_path).save(model, optimizer, trail(0.1, 0.05))
