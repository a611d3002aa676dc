"""Batches of showings, their fields, windows and ages."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffacet.core.batch import ClickBatch
from diffacet.core.behaviours import Fields, ages, at, finest, recent, window, windows
from diffacet.core.contract import ClickFields

HOUR = 3_600_000
CLICK = ClickFields(
    names=("item", "category", "type"),
    sizes=(12, 7, 5),
    shared=(True, True, False),
    other_names=("user_id", "hour"),
    other_sizes=(6, 9),
    numeric=2,
)


def arrays(histories, samples, click=CLICK, seed=0):
    """What a cutter gives: `histories` of users, as lengths; `samples` as (user, behaviours seen, of which hidden)."""
    rng = np.random.default_rng(seed)
    begins = np.cumsum([0, *histories])
    count, rows = int(begins[-1]), len(samples)
    times = [np.sort(rng.integers(0, 400 * HOUR, length)) for length in histories]
    return {
        "behaviours": np.stack([rng.integers(1, size, count) for size in click.sizes], 1).astype(np.int64),
        "times": np.concatenate([np.zeros(0, np.int64), *times]),
        "sizes": None,
        "start": np.array([begins[user] + hidden for user, _, hidden in samples], np.int64),
        "end": np.array([begins[user] + seen for user, seen, _ in samples], np.int64),
        "target": np.stack(
            [
                rng.integers(1, size, rows) if both else np.full(rows, 2)
                for size, both in zip(click.sizes, click.shared, strict=True)
            ],
            1,
        ).astype(np.int64),
        "other": np.stack([rng.integers(1, size, rows) for size in click.other_sizes], 1).astype(np.int64),
        "numeric": rng.standard_normal((rows, click.numeric)).astype(np.float32),
        "label": rng.integers(0, 2, rows).astype(np.float32),
        "user": np.array([user for user, _, _ in samples], np.int64),
        "time": np.full(rows, 500 * HOUR, np.int64),
        "case": rng.integers(0, 2**62, rows),
    }


def batch(histories=(5, 0, 3), samples=((0, 5, 0), (0, 2, 0), (1, 0, 0), (2, 3, 1), (0, 5, 3)), seed=0):
    return ClickBatch.from_arrays(arrays(histories, samples, seed=seed))


def fields(dim=4, seed=0, **how):
    torch.manual_seed(seed)
    return Fields(CLICK, dim, **how)


cases = st.lists(st.integers(0, 7), min_size=1, max_size=4).flatmap(
    lambda lengths: st.tuples(
        st.just(lengths),
        st.lists(
            st.integers(0, len(lengths) - 1).flatmap(
                lambda user: st.tuples(st.just(user), st.integers(0, lengths[user]), st.integers(0, lengths[user])).map(
                    lambda told: (told[0], max(told[1:]), min(told[1:]))
                )
            ),
            min_size=1,
            max_size=6,
        ),
    )
)


# --- batches ---------------------------------------------------------------------------------------------------


def test_a_batch_out_of_arrays_holds_their_values():
    told = arrays((2, 0), [(0, 2, 0), (1, 0, 0), (0, 1, 1)])
    made = ClickBatch.from_arrays(told, step=7, total=9)
    assert (made.step, made.total, len(made), made.sizes) == (7, 9, 3, None)
    assert made.lengths.tolist() == [2, 0, 0]
    for name, values in told.items():
        if values is not None:
            assert torch.equal(getattr(made, name), torch.from_numpy(values)), name
    assert {made.behaviours.dtype, made.start.dtype, made.end.dtype, made.target.dtype, made.other.dtype} == {
        torch.int64
    }
    assert ClickBatch.from_arrays(told).total == 0


def test_arrays_of_a_batch_are_all_needed():
    told = arrays((2,), [(0, 2, 0)])
    del told["target"]
    with pytest.raises(TypeError, match="target"):
        ClickBatch.from_arrays(told)


def test_a_batch_moves_as_a_whole():
    told = arrays((2,), [(0, 2, 0)]) | {"times": None, "sizes": np.ones(2, np.float32)}
    made = ClickBatch.from_arrays(told, 3, 4)
    moved = made.to(torch.device("meta"))
    assert (moved.times, moved.step, moved.total) == (None, 3, 4)
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        if isinstance(value, torch.Tensor):
            other = getattr(moved, field.name)
            assert (other.device.type, other.shape, other.dtype) == ("meta", value.shape, value.dtype)
    same = made.to(torch.device("cpu"))
    assert all(torch.equal(getattr(made, name), getattr(same, name)) for name in ("sizes", "behaviours", "case"))


# --- windows ---------------------------------------------------------------------------------------------------


@given(cases, st.integers(1, 20))
def test_windows_hold_every_sample_once_with_all_its_behaviours(case, budget):
    b = batch(*case)
    found = windows(b, budget)
    assert sorted(torch.cat([w.samples for w in found]).tolist()) == list(range(len(b)))
    longest = [int(b.lengths[w.samples].max()) for w in found]
    assert longest == sorted(longest, reverse=True)
    for w in found:
        count, width = w.place.shape
        assert w.mask.shape == (count, width)
        assert width == max(1, int(b.lengths[w.samples].max()))
        assert count == 1 or count * width <= budget
        assert w.place.min() >= 0
        assert not len(b.behaviours) or w.place.max() < len(b.behaviours)
        for s, place, mask in zip(w.samples.tolist(), w.place, w.mask, strict=True):
            assert place[mask].tolist() == list(range(int(b.start[s]), int(b.end[s])))
            # Most recent last, padding in front.
            assert mask.tolist() == sorted(mask.tolist())


@given(cases, st.integers(1, 9))
def test_a_recent_window_holds_the_last_behaviours(case, width):
    b = batch(*case)
    found = recent(b, width)
    assert found.samples.tolist() == list(range(len(b)))
    assert found.place.shape[1] == max(1, min(width, int(b.lengths.max())))
    for s in range(len(b)):
        expected = list(range(int(b.start[s]), int(b.end[s])))[-width:]
        assert found.place[s][found.mask[s]].tolist() == expected


def test_a_window_is_of_the_samples_asked_for():
    b = batch()
    found = window(b, torch.tensor([3, 0]), 4)
    assert found.mask.tolist() == [[False, False, True, True], [True] * 4]
    assert found.place[0][found.mask[0]].tolist() == [6, 7]
    assert found.place[1].tolist() == [1, 2, 3, 4]


def test_windows_of_a_batch_in_which_nobody_has_behaviours():
    b = batch((0, 0), ((0, 0, 0), (1, 0, 0)))
    (whole,) = windows(b)
    for found in (whole, recent(b, 5)):
        assert found.place.shape == (2, 1)
        assert not found.mask.any()
        assert fields().behaviours(b, found.place).isfinite().all()
    assert at(b.behaviours, whole.place).tolist() == [[[0, 0, 0]], [[0, 0, 0]]]


def test_a_small_budget_keeps_windows_small_and_few_samples_need_one():
    b = batch((9, 4, 4, 1), ((0, 9, 0), (1, 4, 0), (2, 4, 0), (3, 1, 0), (3, 0, 0)))
    assert [tuple(w.place.shape) for w in windows(b, 8)] == [(1, 9), (2, 4), (2, 1)]
    assert [tuple(w.place.shape) for w in windows(b)] == [(5, 9)]


# --- fields ----------------------------------------------------------------------------------------------------


def test_each_field_has_its_own_part_of_one_table():
    f, b = fields(), batch()
    assert (f.width, f.other_width, f.names, f.sizes) == (12, 2 * 4 + 2, CLICK.names, CLICK.sizes)
    assert f.table.weight.shape == (12 + 7 + 5 + 6 + 9, 4)
    begins = [0, 12, 19, 24, 30]
    for s in range(len(b)):
        rows = [f.table.weight[begins[n] + int(b.target[s, n])] for n in range(3)]
        assert torch.equal(f.target(b)[s], torch.cat(rows))
        rows = [f.table.weight[begins[3 + n] + int(b.other[s, n])] for n in range(2)]
        assert torch.equal(f.other(b)[s], torch.cat([*rows, b.numeric[s]]))
    place = torch.tensor([[0, 3], [7, 0]])
    for i, j in ((0, 0), (0, 1), (1, 0)):
        values = b.behaviours[place[i, j]]
        rows = [f.table.weight[begins[n] + int(values[n])] for n in range(3)]
        assert torch.equal(f.behaviours(b, place)[i, j], torch.cat(rows))


def test_target_and_behaviours_share_their_vectors():
    f, b = fields(), batch()
    values = torch.tensor([[5, 4, 2]])
    as_target = dataclasses.replace(b, target=values.expand(len(b), -1))
    as_behaviour = dataclasses.replace(b, behaviours=values.expand(len(b.behaviours), -1))
    assert torch.equal(f.target(as_target)[0], f.behaviours(as_behaviour, torch.tensor([0]))[0])
    f.target(as_target)[0].sum().backward()
    touched = f.table.weight.grad.abs().sum(1).nonzero().squeeze(1)
    assert touched.tolist() == [5, 12 + 4, 19 + 2]


def test_without_the_users_number_nothing_tells_users_apart():
    f, b = fields(use_user_id=False), batch()
    assert f.other_width == 4 + 2
    others = b.other.clone()
    others[:, 0] = 5
    assert torch.equal(f.other(b), f.other(dataclasses.replace(b, other=others)))
    others[:, 1] = (others[:, 1] + 1) % 9
    assert not torch.equal(f.other(b), f.other(dataclasses.replace(b, other=others)))
    f.other(b).sum().backward()
    assert not f.table.weight.grad[24:30].any()
    only = dataclasses.replace(CLICK, other_names=("user_id",), other_sizes=(6,), numeric=0)
    bare = Fields(only, 4, use_user_id=False)
    b = dataclasses.replace(b, other=b.other[:, :1], numeric=b.numeric[:, :0])
    assert bare.other_width == 0
    assert bare.other(b).shape == (len(b), 0)


def test_a_model_may_know_nothing_but_behaviours_and_target():
    alone = dataclasses.replace(CLICK, other_names=(), other_sizes=(), numeric=0)
    b = batch()
    b = dataclasses.replace(b, other=b.other[:, :0], numeric=b.numeric[:, :0])
    assert Fields(alone, 4).other(b).shape == (len(b), 0)


def test_the_table_starts_as_said():
    big = ClickFields(("item",), (20_000,), (True,))
    torch.manual_seed(0)
    weight = Fields(big, 8, deviation=0.2).table.weight[1:]
    assert abs(float(weight.detach().std()) - 0.2) < 3 * 0.2 / math.sqrt(2 * weight.numel())
    assert abs(float(weight.detach().mean())) < 3 * 0.2 / math.sqrt(weight.numel())


def test_what_stands_in_the_padding_is_never_read():
    f, b = fields(), batch()
    (found,) = windows(b)
    embedded = f.behaviours(b, found.place)
    narrow = [f.behaviours(b, torch.arange(int(b.start[s]), int(b.end[s]))) for s in found.samples.tolist()]
    for row, mask, expected in zip(embedded, found.mask, narrow, strict=True):
        assert torch.equal(row[mask], expected)


@pytest.mark.parametrize(
    ("shared", "sizes", "skip", "expected"),
    [
        ((True, True, True), (90, 7, 9), (0,), 2),
        ((True, True, False), (90, 7, 50), (0,), 1),
        ((True, False, False), (90, 7, 9), (0,), None),
        ((True, True, True), (90, 7, 9), (), 0),
        ((True, True, True), (90, 7, 7), (0,), 1),
    ],
)
def test_the_finest_field_is_shared_and_has_most_values(shared, sizes, skip, expected):
    assert finest(ClickFields(("a", "b", "c"), sizes, shared), skip) == expected


# --- ages ------------------------------------------------------------------------------------------------------


def test_ages_are_logarithms_of_whole_hours():
    hours = [0, 1, 2, 3, 4, 7, 8, 15, 16, *[2**p + o for p in range(5, 18) for o in (-1, 0, 1)]]
    b = batch((len(hours),), ((0, len(hours), 0),))
    shown = 10**6 * HOUR
    for less in (0, 1):  # a millisecond short of the full hour is the hour before
        times = torch.tensor([shown - hour * HOUR + less for hour in hours])
        b = dataclasses.replace(b, times=times, time=torch.tensor([shown]))
        told = [max(1, hour - less) for hour in hours]
        expected = [min(15, hour.bit_length() - 1) for hour in told]
        place = torch.arange(len(hours)).unsqueeze(0)
        found = ages(b, torch.tensor([0]), place)
        assert found.dtype == torch.int64
        assert found[0].tolist() == expected


def test_ages_are_those_of_the_sample_that_asks():
    b = batch((2,), ((0, 2, 0), (0, 2, 0)))
    b = dataclasses.replace(b, times=torch.tensor([0, 8 * HOUR]), time=torch.tensor([9 * HOUR, 24 * HOUR]))
    assert ages(b, torch.tensor([1, 0]), torch.tensor([[0, 1], [0, 1]])).tolist() == [[4, 4], [3, 0]]
    assert ages(b, torch.tensor([1]), torch.tensor([1])).tolist() == [4]
    assert ages(b, torch.tensor([1]), torch.zeros(1, 2, 3, dtype=torch.int64)).shape == (1, 2, 3)


def test_a_behaviour_in_the_future_has_age_zero_and_nobody_has_one_without_behaviours():
    b = batch((1,), ((0, 1, 0),))
    b = dataclasses.replace(b, times=b.time + HOUR * 99)
    assert ages(b, torch.tensor([0]), torch.tensor([[0]])).tolist() == [[0]]
    empty = batch((0,), ((0, 0, 0),))
    assert ages(empty, torch.tensor([0]), recent(empty, 3).place).shape == (1, 1)
