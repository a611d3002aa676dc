"""Cut batches against the histories of each sample: the same behaviours, each once, of any length."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffacet.core.batch import ClickBatch
from diffacet.data.clicks import cut, encode, from_frames, learn
from diffacet.data.clicks.cutting import union
from diffacet.errors import BadSetting
from showings import frames, schema

END = 1_600_000_024_000


def packed(about=None, seed=0, **sizes):
    raw = from_frames(schema() if about is None else about, *frames(seed, **sizes))
    return encode(raw, *learn(raw, END))


LOG = packed(samples=80, behaviours=200)


@given(st.lists(st.integers(0, 79), max_size=12), st.integers(0, 12))
def test_a_batch_has_the_histories_of_its_samples(rows, length):
    found = cut(LOG, np.array(rows, dtype=np.int64), length)
    assert len(found["start"]) == len(rows)
    for b, s in enumerate(rows):
        begin, end = LOG.begin[s], LOG.end[s]
        begin = max(begin, end - length) if length else begin
        own = slice(found["start"][b], found["end"][b])
        np.testing.assert_array_equal(found["behaviours"][own].T, LOG.behaviours[:, begin:end])
        np.testing.assert_array_equal(found["times"][own], LOG.behaviour_time[begin:end])
        assert (found["times"][own] < found["time"][b]).all()
        np.testing.assert_array_equal(found["target"][b], LOG.target[:, s])
        np.testing.assert_array_equal(found["other"][b], LOG.other[:, s])
        np.testing.assert_array_equal(found["numeric"][b], LOG.numeric[s])
        for name in ("label", "user", "time", "case"):
            assert found[name][b] == getattr(LOG, name)[s]
    assert 0 not in found["behaviours"]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 6)), max_size=10))
def test_union_has_each_number_once(ranges):
    begin, end = (np.array([r[0] + k * r[1] for r in ranges], dtype=np.int64) for k in (0, 1))
    places, start = union(begin, end)
    assert places.tolist() == sorted({n for a, b in zip(begin, end, strict=True) for n in range(a, b)})
    for a, b, at in zip(begin, end, start, strict=True):
        assert places[at : at + b - a].tolist() == list(range(a, b))


def test_behaviours_of_a_user_are_there_once():
    rows = np.flatnonzero(LOG.user == np.bincount(LOG.user).argmax())
    found = cut(LOG, rows, 0)
    assert len(rows) > 3
    assert len(found["behaviours"]) == (LOG.end[rows] - LOG.begin[rows]).max()


def test_a_longer_history_ends_in_the_shorter():
    rows = np.arange(len(LOG))
    for short in range(1, 9):
        one, two = cut(LOG, rows, short), cut(LOG, rows, short + 3)
        for b in rows:
            brief = one["behaviours"][one["start"][b] : one["end"][b]]
            whole = two["behaviours"][two["start"][b] : two["end"][b]]
            np.testing.assert_array_equal(whole[len(whole) - len(brief) :], brief)
            assert len(brief) == min(len(whole), short)


def test_arrays_are_what_a_batch_is_made_of():
    found = cut(LOG, np.array([3, 1]), 5)
    assert set(found) == {field.name for field in dataclasses.fields(ClickBatch)} - {"step", "total"}
    batch = ClickBatch.from_arrays(found, step=4, total=9)
    floats = {"numeric", "label"}
    for name, array in found.items():
        if array is not None:
            assert array.flags.c_contiguous
            assert array.flags.writeable
            assert array.dtype == (np.float32 if name in floats else np.int64), name
    assert len(batch) == 2
    assert batch.behaviours.shape == (int((batch.lengths).sum()), 3)
    assert batch.numeric.shape == (2, 2)
    assert batch.sizes is None
    assert batch.target.dtype == torch.int64


def test_times_that_only_order_are_not_shown():
    found = cut(packed(schema(behaviour_times="order")), np.arange(4), 0)
    assert found["times"] is None


def test_sizes_are_cut_like_behaviours():
    sizes = np.arange(LOG.behaviours.shape[1], dtype=np.float32)
    log = dataclasses.replace(LOG, sizes=sizes)
    found = cut(log, np.arange(20), 3)
    for b in range(20):
        end = log.end[b]
        begin = max(log.begin[b], end - 3)
        assert found["sizes"][found["start"][b] : found["end"][b]].tolist() == list(range(begin, end))


def test_a_batch_does_not_depend_on_the_others():
    one, many = cut(LOG, np.array([7]), 6), cut(LOG, np.arange(40), 6)
    np.testing.assert_array_equal(one["behaviours"], many["behaviours"][many["start"][7] : many["end"][7]])


def test_a_negative_length_is_refused():
    with pytest.raises(BadSetting, match="length"):
        cut(LOG, np.arange(3), -1)
