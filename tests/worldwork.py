"""What the processes of the tests of training together do: `python worldwork.py FOLDER SIZE SCENARIO...`.

The ranks are forks of one process, which has loaded PyTorch for all of them. A scenario is a function of this file. Its
assertions end the process; what a test is to compare lies in FOLDER.
"""

import dataclasses
import datetime
import json
import os
import shutil
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo  # PyTorch's optimisers ask for it: once for all ranks
from safetensors.torch import save_file
from torch import distributed

import contract
from diffacet import files
from diffacet.app import settings
from diffacet.core import layers, world
from diffacet.core.layers import ItemTable, whole_tables
from diffacet.core.world import World
from diffacet.data.sequences import Sequences
from diffacet.data.splits import Holdout
from diffacet.errors import BadRun, BadSetting
from diffacet.learn import batches, shards
from diffacet.learn.checkpoint import Checkpoints
from diffacet.learn.fit import fit
from diffacet.models import MODELS, card
from diffacet.rank.evaluate import evaluate, per_user

# --- the messages ------------------------------------------------------------------------------------------------


def messages(folder, here):
    """Every collective against what one process that knows all would compute."""
    rank, size = here.rank, here.size
    rows = [2, 0, 3]
    everything = torch.arange(10.0).view(5, 2)
    mine = everything.split(rows)[rank].clone().requires_grad_()
    found = here.gathered(mine, rows)
    assert torch.equal(found, everything)
    weights = torch.arange(10.0).view(5, 2) + 100 * rank
    (found * weights).sum().backward()  # the scalars of all processes add up
    assert torch.equal(mine.grad, (size * torch.arange(10.0) + 300).view(5, 2).split(rows)[rank])

    sent = [[1, 2, 0], [0, 1, 1], [2, 0, 1]]  # rows that each sends to each
    x = torch.tensor([[10.0 * rank + place] for place in range(sum(sent[rank]))], requires_grad=True)
    received = [row[rank] for row in sent]
    got = here.exchanged(x, sent[rank], received)
    want = [10.0 * source + sum(sent[source][:rank]) + j for source in range(size) for j in range(sent[source][rank])]
    assert got.flatten().tolist() == want
    (got * (rank + 1)).sum().backward()
    assert x.grad.flatten().tolist() == [float(to + 1) for to in range(size) for _ in range(sent[rank][to])]

    y = torch.full((2,), float(rank), requires_grad=True)
    (here.total(y) * (rank + 1)).sum().backward()
    assert here.total(y).tolist() == [3.0, 3.0]
    assert y.grad.tolist() == [6.0, 6.0]
    parts = [torch.tensor([1.0 + rank]), torch.tensor([[rank, 1]], dtype=torch.int64)]
    here.add_up(parts)
    assert [part.tolist() for part in parts] == [[6.0], [[3, 3]]]
    assert torch.equal(here.whole(everything.split(rows)[rank], rows), everything)
    assert here.table([rank, -rank]) == [[0, 0], [1, -1], [2, -2]]
    assert here.from_first([0.1 + rank, 1e300]) == [0.1, 1e300]

    kind, message = (ValueError, "not in list") if rank == 1 else (BadRun, "worker 2 of 3 has failed")
    with pytest.raises(kind, match=message), here.together():
        [].remove("mine") if rank == 1 else None


def dealt(folder, here):
    """What a loss computes from its rows alone, where some have none."""
    x = torch.arange(14.0).view(7, 2).square()
    for counted in ((3, 2, 2), (1, 0, 1), (0, 0, 2)):
        whole = x[: sum(counted)]
        own = whole.split(counted)[here.rank] if counted[here.rank] else whole[:1]
        held = tuple(max(1, count) for count in counted)
        part = world.Part(here, counted, held, held)
        with world.dealt(part):
            mean = here.total(world.mean(own) * (not part.idle))
            assert torch.allclose(mean, whole.mean())
            assert world.entries(own) == whole.numel()
            assert torch.equal(world.summed(own.sum()), whole.sum())
            assert world.most(10 + here.rank) == 10 + max(rank for rank in range(3) if counted[rank])
            for kind in (whole, whole > 20):
                mine = kind.split(counted)[here.rank] if counted[here.rank] else kind[:1]
                assert world.rolled(mine).dtype == kind.dtype
                if not part.idle:
                    assert torch.equal(world.rolled(mine), kind.roll(1, 0).split(counted)[here.rank])
                else:
                    world.rolled(mine)


def tables(folder, here):
    """A divided table against a whole one: drawing, looking up, gradients of both kinds, more workers than items."""
    layers._ROWS_DRAWN = 16
    for n_items, dim in ((3, 5), (16, 4), (50, 7), (1000, 8)):
        torch.manual_seed(n_items)
        whole, after = ItemTable(n_items, dim), torch.rand(3)
        torch.manual_seed(n_items)
        with world.entered(here):
            table = ItemTable(n_items, dim)
        assert torch.equal(after, torch.rand(3))  # what is drawn next is the same
        rows = [0, *range(table.first, table.last + 1)]
        assert len(table.weight) == len(rows)
        assert torch.equal(table.weight, whole.weight[rows])
        with whole_tables(table):
            assert torch.equal(table.weight, whole.weight)
            assert torch.equal(table(torch.tensor([n_items])), whole.weight[-1:])
        assert torch.equal(table.weight, whole.weight[rows])
        numbers = [
            torch.randint(0, n_items + 1, (4, 6), generator=torch.manual_seed(rank)) for rank in range(here.size)
        ]
        numbers[1] = torch.zeros(0, 6, dtype=torch.int64)
        scale = torch.randn(4, 6, dim, generator=torch.manual_seed(9))
        for sparse in (False, True):
            whole.sparse = table.sparse = sparse
            whole.weight.grad = table.weight.grad = None
            sum((whole(ids) * scale[: len(ids)]).sum() for ids in numbers).backward()
            found = table(numbers[here.rank])
            assert torch.equal(found, whole(numbers[here.rank]))
            (found * scale[: len(found)]).sum().backward()
            assert table.weight.grad.is_sparse == sparse
            assert torch.allclose(table.weight.grad.to_dense(), whole.weight.grad.to_dense()[rows], atol=1e-6)
            assert not table.weight.grad.to_dense()[0].any()
    message = "a table of 2 items cannot be divided among 3 workers; workers is at most 2"
    with world.entered(here), pytest.raises(BadSetting, match=message):
        ItemTable(2, 4)


# --- training ----------------------------------------------------------------------------------------------------

STEPS = 6
"""Of the runs that are broken off after four."""
QUICK = {"batch_size": 7, "max_steps": 3, "validate_every": 3, "max_epochs": None, "validate_epochs": None}
ODD = [
    ("dmi", {"base": "re4", "dropout": 0.3, "denoiser_dropout": 0.2}),
    ("dmi", {"base": "pimirec", "variant": "gd"}),
    ("dmi", {"base": "mind", "variant": "t", "correction": True, "mask_hits": True, "clip": 0.05}),
    ("remi", {"negatives": 0, "dropout": 0.2}),
    ("remi", {"mask_hits": True, "correction": True, "unique_negatives": True, "sampler": "log-uniform"}),
    ("dimerec", {"forward": "walk", "gem": "sasrec", "dropout": 0.3, "own_negatives": False, "negatives": 3}),
    ("sasrec", {"objective": "binary", "own_negatives": False, "negatives": 5, "optimizer": "adamax"}),
    ("facet", {"negatives": 0, "weight_decay": 0.1}),
    ("gru4rec", {"save_every": 2, "correction": True, "anneal": 0.5}),
]
"""Settings that no preset has, by which a loss goes other ways."""


def cases():
    """Names and settings of all that may be trained together: every preset that small sizes leave a difference to.

    The item table is updated densely, and for each model's best preset by rows, too.
    """
    found, known = {}, set()
    for one in (one for one in map(card, MODELS) if one.workers):
        for preset in sorted(one.presets, key=lambda preset: preset != "best"):
            chosen = contract.small(one, preset, **QUICK, item_updates="dense")
            about = repr((one.name, chosen.model, dataclasses.replace(chosen.training, metric="recall@5", lr=0.01)))
            if about not in known:
                known.add(about)
                found[f"{one.name}-{preset}"] = one, chosen
    for name in list(found):
        one, chosen = found[name]
        if name.endswith("-best"):
            found[f"{name}-rows"] = one, settings.apply(one, chosen, {"item_updates": "row-sparse"})
    for number, (name, changes) in enumerate(ODD):
        updates = ("row-sparse", "dense")[number % 2]
        found[f"odd-{number}-{name}"] = (
            card(name),
            contract.small(card(name), "best", **{**QUICK, "item_updates": updates, **changes}),
        )
    return found


def holdout():
    history = contract.log(seed=5, users=9)
    return Holdout(history, Sequences(np.arange(1, 10) * 2, np.arange(10), history.users, None))


def trained(one, chosen, folder, here=None):
    """The model after training, and the records of its validations, of which seconds are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    with world.entered(here):
        train = contract.log()
        model = contract.build(one, chosen, train)
        at = batches.batch_at(train, contract.N_ITEMS, chosen.training, batches.form(one, chosen.training))
        ks = (5, int(chosen.training.metric.split("@")[1]))

        def validate(model):
            return evaluate(model, holdout(), length=contract.LENGTH, ks=ks, exclude_seen=False)

        trail = fit(model, at, chosen.training, validate=validate, checkpoints=Checkpoints(folder), world=here)
    return model, [dataclasses.asdict(record) | {"seconds": 0} for record in trail.records]


def put(model, records, path):
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, f"{path}.weights")
    Path(f"{path}.json").write_text(json.dumps(records))


def equal(folder, here):
    """Every case by all processes; each process does its share of them alone, too, to compare with."""
    for number, (name, (one, chosen)) in enumerate(cases().items()):
        if number % here.size == here.rank:
            put(*trained(one, chosen, folder / "alone" / name), folder / f"{name}-alone")
        put(*trained(one, chosen, folder / "together" / name, here), folder / f"{name}-{here.rank}")


def few(folder, here):
    """Batches of two rows in three processes, of which one is idle, over a catalogue that three do not divide."""
    usual, contract.N_ITEMS = contract.N_ITEMS, 23
    for number, (name, (one, chosen)) in enumerate(cases().items()):
        if name.endswith("-best") or name.startswith("odd"):
            small = settings.apply(one, chosen, {"batch_size": 2, "max_steps": 2})
            if number % here.size == here.rank:
                put(*trained(one, small, folder / "alone" / name), folder / f"{name}-alone")
            put(*trained(one, small, folder / "together" / name, here), folder / f"{name}-{here.rank}")
    contract.N_ITEMS = usual


# --- checkpoints -------------------------------------------------------------------------------------------------


def kept(max_steps=STEPS, updates="dense"):
    changes = {**QUICK, "item_updates": updates, "validate_every": 2, "max_steps": max_steps, "item_dropout": 0.2}
    return card("dmi"), contract.small(card("dmi"), "best", **changes)


WAYS = ("dense", "row-sparse")


def half(folder, here):
    """The first four of six steps."""
    for updates in WAYS:
        trained(*kept(4, updates), folder / f"half-{here.size}-{updates}", here)


def resumed(folder, here):
    """The last two, of runs that others left in `folder`."""
    for updates in WAYS:
        for source in sorted(folder.glob(f"from-*-{updates}")):
            model, records = trained(*kept(STEPS, updates), source, here)
            put(model, records, f"{folder}/{source.name}-{here.rank}")


def refused(folder, here):
    """What all processes refuse alike."""
    asked = {
        "mf": "models that are trained on a PairBatch are trained by one worker",
        "pop": "has no item table to divide",
    }
    for name, message in asked.items():
        chosen = contract.small(card(name), "best", max_steps=2, validate_every=1)
        with pytest.raises(BadSetting, match=message):
            trained(card(name), chosen, folder / "refused", here)
    for change, message in (
        (_lost, "is missing, which holds rows 13..24 of the items"),
        (_other, "another checkpoint"),
    ):
        copy = folder / "broken"
        if here.rank == 0:
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder / f"half-{here.size}-dense", copy)
            change(copy, folder)
        distributed.barrier()
        with pytest.raises(BadRun, match=f"{message}|has failed"):
            trained(*kept(), copy, here)
        distributed.barrier()


def _lost(copy, folder):
    next(copy.glob("last-*-00002-of-*")).unlink()


def _other(copy, folder):
    shutil.copy(next((folder / "half-2-row-sparse").glob("last-*-00002-of-*")), next(copy.glob("last-*-00002-of-*")))


def full(folder, here):
    """A disk that is full for one process stops all of them, and leaves the checkpoint before."""
    real = shards.save_file

    def failing(tensors, path, header):
        if here.rank == 1 and "last-000004" in str(path):
            path.write_bytes(b"half a file")
            raise OSError(28, "No space left on device")
        real(tensors, path, header)

    shards.save_file = failing
    with pytest.raises(BadRun, match="the disk is full" if here.rank == 1 else "worker 2 of 2 has failed"):
        trained(*kept(), folder / "full", here)
    shards.save_file = real


def killed_before(folder, here):
    """Killed when the first process's rows of the second checkpoint are written, and the second's are not."""
    write = shards.Shards.write

    def dying(self, rank, tensors):
        if "-000004-" in self.shards[rank].file:
            if rank == 1:
                first = self.folder / self.shards[0].file
                while not first.exists():
                    pass
                os._exit(9)
            write(self, rank, tensors)
        else:
            write(self, rank, tensors)

    shards.Shards.write = dying
    trained(*kept(), folder / "killed-before", here)


def killed_after(folder, here):
    """Killed when all rows of the second checkpoint are written, and `last` is not."""
    there = shards.Shards.check_there

    def dying(self):
        there(self)
        if "-000004-" in self.shards[0].file:
            os._exit(9)

    shards.Shards.check_there = dying
    trained(*kept(), folder / "killed-after", here)


def lists(folder, here):
    """Evaluation of every case and interest, with seen items left out, and of a model that diverged."""
    one, chosen = kept()
    with world.entered(here):
        model = contract.build(one, chosen)
        values = per_user(model, holdout(), length=contract.LENGTH, ks=(3, 30), exclude_seen=True, batch_size=4).values
        if here.rank == 1:
            with torch.no_grad():
                model.items.weight[2] = float("nan")
        with pytest.raises(BadRun, match=r"not a number|has failed"):
            per_user(model, holdout(), length=contract.LENGTH, ks=(3,))
    np.savez(folder / f"lists-{here.rank}.npz", **values)


def work(folder, rank, size, scenarios):
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=240),
    )
    for scenario in scenarios:
        begin = time.perf_counter()
        globals()[scenario](folder, World.of_group())
        print(f"{scenario}: {time.perf_counter() - begin:.1f} s", flush=True)
    distributed.destroy_process_group()


def forked(folder, rank, size, scenarios):
    """The number of a new process that does the work of a rank, and tells of it in a file."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with (folder / f"rank{rank}.log").open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        work(folder, rank, size, scenarios)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def main():
    folder, size = Path(sys.argv[1]), int(sys.argv[2])
    files._sync = lambda path: None  # hundreds of checkpoints, none of which is to survive the machine
    ranks = [forked(folder, rank, size, sys.argv[3:]) for rank in range(size)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]
    (folder / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main()
