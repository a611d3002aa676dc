"""Batches move as wholes; what is a number in them stays as it is."""

import dataclasses

import pytest
import torch

from diffacet.core.batch import Histories, PairBatch, PositionBatch, ProfileBatch, SequenceBatch

HISTORY = Histories(torch.tensor([[3, 1, 0], [2, 0, 0]]), torch.tensor([0, -1]), torch.tensor([4, 5]))
TIMED = dataclasses.replace(HISTORY, times=torch.tensor([[9, 10, 0], [7, 0, 0]]))
ROW, LOG_Q, HITS = torch.tensor([1, 2]), (torch.zeros(2), torch.ones(3)), torch.tensor([[True, False, False]] * 2)
BATCHES = {
    "histories": HISTORY,
    "timed": TIMED,
    "sequence": SequenceBatch(TIMED, ROW, torch.tensor([1, 2, 3]), LOG_Q, HITS, 7, True),
    "sequence-plain": SequenceBatch(HISTORY, ROW, torch.tensor([1, 2, 3])),
    "position": PositionBatch(TIMED, ROW, ROW, ROW, LOG_Q[0], torch.tensor([1, 2, 3]), LOG_Q, HITS, 7, True),
    "position-plain": PositionBatch(HISTORY, ROW, ROW, ROW, LOG_Q[0], torch.tensor([1, 2, 3])),
    "profile": ProfileBatch(HISTORY, 7, 2),
    "pair": PairBatch(ROW, ROW + 1, ROW + 2, 7, 2),
}


def leaves(value):
    """Tensors and numbers, in order."""
    if dataclasses.is_dataclass(value):
        value = tuple(getattr(value, field.name) for field in dataclasses.fields(value))
    if isinstance(value, tuple):
        return [leaf for part in value for leaf in leaves(part)]
    return [value]


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
def test_a_batch_moves_as_a_whole(batch):
    moved, same = batch.to(torch.device("meta")), batch.to(torch.device("cpu"))
    assert type(moved) is type(same) is type(batch)
    for before, there, here in zip(leaves(batch), leaves(moved), leaves(same), strict=True):
        if isinstance(before, torch.Tensor):
            assert there.device.type == "meta"
            assert torch.equal(before, here)
        else:
            assert before is there is here


def test_batches_begin_at_step_0():
    assert (BATCHES["sequence-plain"].step, BATCHES["position-plain"].step) == (0, 0)
    assert not BATCHES["sequence-plain"].everything
    assert not BATCHES["position-plain"].everything
    profile, pair = ProfileBatch(HISTORY), PairBatch(ROW, ROW, ROW)
    assert (profile.step, profile.epoch, pair.step, pair.epoch) == (0, 0, 0, 0)


def test_padding_is_item_0():
    assert HISTORY.mask.tolist() == [[True, True, False], [True, False, False]]
