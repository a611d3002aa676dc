import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffacet.data.sequences import Sequences


def build(lists, times=True):
    rows = np.repeat(np.arange(len(lists)), [len(items) for items in lists])
    flat = np.array([item for items in lists for item in items], dtype=np.int64)
    return Sequences.from_rows(rows, flat, flat * 10 if times else None, len(lists))


def lists_of(sequences):
    return [sequences.row(i).tolist() for i in range(len(sequences))]


LISTS = st.lists(st.lists(st.integers(1, 9), max_size=7), min_size=1, max_size=6)


def test_rows_of_a_flat_array():
    sequences = build([[3, 1], [], [2]])
    assert sequences.offsets.tolist() == [0, 2, 2, 3]
    assert sequences.users.tolist() == [0, 1, 2]
    assert sequences.lengths().tolist() == [2, 0, 1]
    assert lists_of(sequences) == [[3, 1], [], [2]]
    assert len(sequences) == 3


@pytest.mark.parametrize("i", [-1, 3])
def test_a_row_that_is_not_there_is_refused(i):
    with pytest.raises(IndexError, match="of 3"):
        build([[3, 1], [], [2]]).row(i)


@settings(deadline=None, max_examples=60)
@given(LISTS, st.data())
def test_take_head_and_tail_are_the_slices(lists, data):
    sequences = build(lists)
    rows = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=8))
    taken = sequences.take(np.array(rows, dtype=np.int64))
    assert lists_of(taken) == [lists[row] for row in rows]
    assert taken.users.tolist() == rows
    assert taken.times.tolist() == [10 * item for row in rows for item in lists[row]]

    cuts = [data.draw(st.integers(0, len(items))) for items in lists]
    at = np.array(cuts, dtype=np.int64)
    assert lists_of(sequences.head(at)) == [items[:c] for items, c in zip(lists, cuts, strict=True)]
    assert lists_of(sequences.tail(at)) == [items[c:] for items, c in zip(lists, cuts, strict=True)]
    assert np.array_equal(sequences.tail(at).times, 10 * sequences.tail(at).items)
    assert sequences.head(at).users.tolist() == sequences.users.tolist()


@settings(deadline=None, max_examples=100)
@given(LISTS, st.integers(1, 5), st.data())
def test_windows_equal_the_written_out_loop(lists, length, data):
    sequences = build(lists)
    rows = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=8))
    ends = [data.draw(st.integers(0, len(lists[row]))) for row in rows]
    expected = np.zeros((len(rows), length), dtype=np.int64)
    for b, (row, end) in enumerate(zip(rows, ends, strict=True)):
        for place, item in enumerate(lists[row][max(0, end - length) : end]):
            expected[b, place] = item
    at = np.array(rows, dtype=np.int64)
    windows = sequences.windows(at, np.array(ends, dtype=np.int64), length)
    assert windows.dtype == np.int64
    assert np.array_equal(windows, expected)
    assert ((windows != 0).sum(1) == np.minimum(ends, length)).all()

    whole = sequences.last(at, length)
    assert [row[row != 0].tolist() for row in whole] == [lists[row][-length:] for row in rows]


def test_a_window_does_not_share_memory_with_the_log():
    sequences = build([[1, 2, 3]])
    sequences.last(np.array([0]), 2)[:] = 9
    assert sequences.items.tolist() == [1, 2, 3]


@pytest.mark.parametrize("end", [-1, 3])
def test_an_end_outside_its_sequence_is_refused_so_that_no_window_reads_a_neighbour(end):
    sequences = build([[1, 2], [3, 4], [5, 6]])
    with pytest.raises(ValueError, match="outside"):
        sequences.windows(np.array([1]), np.array([end]), 4)
    with pytest.raises(ValueError, match="outside"):
        sequences.head(np.array([1, end, 1]))
    with pytest.raises(ValueError, match="outside"):
        sequences.tail(np.array([1, end, 1]))


def test_times_may_be_absent():
    sequences = build([[1, 2], [3]], times=False)
    assert sequences.take(np.array([1])).times is None
