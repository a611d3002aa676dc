import math
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import torch
from torch import nn

from diffacet.data.clicks import ClickLog
from diffacet.data.clicks.schema import BehaviourField, Schema
from diffacet.errors import BadLog, BadRun, BadSetting
from diffacet.rank import click_evaluate, clicks
from diffacet.rank.click_evaluate import evaluate_clicks, history_lengths, local_days, slices

ITEMS = 20
LONG = 700
DAY = 86_400_000


def made(samples=150, seed=0):
    """A log of ten users with very different histories: none, a few, hundreds."""
    rng = np.random.default_rng(seed)
    lengths = np.array([0, 1, 3, 9, 10, 40, 99, 130, 600, LONG])
    pointers = np.concatenate([[0], np.cumsum(lengths)])
    user = rng.integers(0, len(lengths), samples)
    begin = pointers[user]
    end = begin + (rng.random(samples) * (lengths[user] + 1)).astype(np.int64)
    fields = (BehaviourField("item", "item_id", "item_id"), BehaviourField("type", "behaviour_type"))
    return ClickLog(
        schema=Schema(name="made", behaviour_fields=fields, split={"by": "day"}, timezone="Asia/Shanghai"),
        names=("item", "type"),
        other_names=("hour",),
        vocabularies={},
        behaviours=rng.integers(3, 3 + ITEMS, (2, pointers[-1])).astype(np.int32),
        behaviour_time=np.arange(pointers[-1]),
        user=user,
        time=1_650_000_000_000 + rng.integers(0, 3 * DAY, samples),
        label=rng.integers(0, 2, samples).astype(np.uint8),
        group=user // 2,
        begin=begin,
        end=end,
        case=rng.integers(0, 2**62, samples),
        target=np.stack([rng.integers(1, 3 + ITEMS, samples), np.full(samples, 2)]).astype(np.int32),
        other=rng.integers(1, 9, (1, samples)).astype(np.int32),
        numeric=rng.integers(-9, 9, (samples, 1)).astype(np.float32),
        known_user=user % 2 == 0,
        known_item=rng.random(samples) < 0.7,
        pointers=pointers,
    )


class Counting(nn.Module):
    """Logits that are sums of eighths, which float32 adds without rounding: the answer cannot depend on the batch."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(5)
        self.weight = nn.Parameter(torch.from_numpy(rng.integers(-8, 9, (3 + ITEMS, 3 + ITEMS)) / 8).float())
        self.dropout = nn.Dropout(0.5)
        self.shapes, self.gradients = [], []

    def logits(self, batch):
        each = self.weight[batch.target[:, 0]]  # (B, V)
        total = torch.cat(
            [torch.zeros(1, 3 + ITEMS), nn.functional.one_hot(batch.behaviours[:, 0], 3 + ITEMS).cumsum(0)]
        )
        counts = total[batch.end] - total[batch.start]  # (B, V)
        self.shapes.append((len(batch), int(batch.lengths.max()), len(batch.behaviours)))
        answer = (each * counts).sum(-1) / 8 + batch.numeric[:, 0] + batch.other[:, 0]
        self.gradients.append(answer.requires_grad)
        return self.dropout(answer)


def loop(model, log, rows, length):
    """The same logits, a sample at a time."""
    weight, answers = model.weight.detach().numpy(), []
    for row in rows:
        history = log.behaviours[0, log.begin[row] : log.end[row]]
        history = history[-length:] if length else history
        value = sum(weight[log.target[0, row], item] for item in history) / 8
        answers.append(value + log.numeric[row, 0] + log.other[0, row])
    return np.array(answers, np.float32)


@pytest.mark.parametrize("length", [0, 1, 50])
@pytest.mark.parametrize("batch_size", [1, 7, 1024])
def test_answers_come_in_the_order_of_the_rows_whatever_the_batches(length, batch_size):
    log, model = made(), Counting()
    rows = np.random.default_rng(1).choice(len(log), 200)  # any order, with repeats
    found = evaluate_clicks(model, log, rows, length=length, batch_size=batch_size)
    np.testing.assert_array_equal(found.logits, loop(model, log, rows, length))
    np.testing.assert_array_equal(found.labels, log.label[rows])
    assert (found.labels.dtype, found.logits.dtype) == (np.uint8, np.float32)
    assert found.labels.nbytes + found.logits.nbytes == 5 * len(found)
    assert not any(model.gradients)


def test_similar_lengths_go_together_and_the_longest_first():
    log, model = made(), Counting()
    evaluate_clicks(model, log, np.arange(len(log)), length=0, batch_size=10)
    longest = [shape[1] for shape in model.shapes]
    assert longest[0] > 500
    assert longest[-1] == 0
    padded = sum(size * width for size, width, _ in model.shapes)
    assert padded < 2.5 * (log.end - log.begin).sum()


def test_the_model_gets_its_mode_back_and_progress_is_told():
    log, model, told = made(), Counting(), []
    model.dropout.eval()
    rows = np.arange(25)
    evaluate_clicks(model, log, rows, length=5, batch_size=10, progress=lambda *numbers: told.append(numbers))
    assert (model.training, model.dropout.training) == (True, False)
    assert told == [(10, 25), (20, 25), (25, 25)]
    assert len(evaluate_clicks(model, log, rows[:0], length=5)) == 0


def test_metrics_and_slices_of_what_was_predicted():
    log = made(400)
    rows = np.arange(400)[::-1]
    found = evaluate_clicks(Counting(), log, rows, length=5)
    groups = log.group[rows]
    assert found.measure(groups) == clicks.measure(found.labels, found.logits, groups)
    assert found.measure(groups, 0.5) == clicks.measure(found.labels, found.logits, groups, 0.5)
    parts = {(part.by, part.name): part for part in found.slices(log, rows)}
    lengths = (log.end - log.begin)[rows]  # uncut
    for name, low, high in [
        ("0", 0, 0),
        ("1-9", 1, 9),
        ("10-99", 10, 99),
        ("100-499", 100, 499),
        (">= 500", 500, LONG),
    ]:
        own = (lengths >= low) & (lengths <= high)
        part = parts["history", name]
        assert own.any()
        assert (part.samples, part.clicks) == (own.sum(), found.labels[own].sum())
        assert part.auc == clicks.auc(found.labels[own], found.logits[own])
    zone = ZoneInfo("Asia/Shanghai")
    days = [
        datetime.fromtimestamp(time / 1000, UTC).astimezone(zone).date().isoformat() for time in log.time[rows].tolist()
    ]
    assert [part.name for part in parts.values() if part.by == "day"] == sorted(set(days))
    for day in set(days):
        assert parts["day", day].samples == days.count(day)
    for by, known in (("item", log.known_item[rows]), ("user", log.known_user[rows])):
        for name, own in (("known", known), ("unknown", ~known)):
            assert parts[by, name].auc == clicks.auc(found.labels[own], found.logits[own])
    for by in ("history", "item", "user", "day"):
        assert sum(part.samples for part in parts.values() if part.by == by) == 400


def test_a_row_that_stands_for_several_behaviours_is_so_many_of_a_history():
    log = made()
    sizes = np.random.default_rng(2).integers(1, 20, log.behaviours.shape[1]).astype(np.float32)
    expected = [sizes[begin:end].sum() for begin, end in zip(log.begin, log.end, strict=True)]
    np.testing.assert_array_equal(history_lengths(replace(log, sizes=sizes)), expected)
    np.testing.assert_array_equal(history_lengths(log), log.end - log.begin)


def test_slices_only_by_what_is_given():
    labels, scores = np.array([0, 1, 1]), np.array([1.0, 2.0, 0.5])
    assert slices(labels, scores) == ()
    parts = slices(labels, scores, lengths=np.array([9, 10, 0]))
    assert [(part.name, part.samples, part.clicks) for part in parts] == [
        ("0", 1, 1),
        ("1-9", 1, 0),
        ("10-99", 1, 1),
        ("100-499", 0, 0),
        (">= 500", 0, 0),
    ]
    assert all(math.isnan(part.auc) for part in parts)
    with pytest.raises(BadSetting, match="one value for each of 3 samples"):
        slices(labels, scores, known_user=np.array([True]))


def test_days_are_those_of_the_time_zone():
    times = np.array([1494001800, 1494084600, 1494088200]) * 1000
    assert local_days(times, "Asia/Shanghai").astype(str).tolist() == ["2017-05-06", "2017-05-06", "2017-05-07"]
    assert local_days(times, "UTC").astype(str).tolist() == ["2017-05-05", "2017-05-06", "2017-05-06"]
    assert len(local_days(times[:0], "UTC")) == 0


class Answering:
    """A model without weights that says what it was told to."""

    def __init__(self, answer):
        self.answer = answer

    def logits(self, batch):
        return self.answer(batch)


def test_refusals():
    log, fine = made(), Answering(lambda batch: batch.numeric[:, 0])
    rows = np.arange(30)
    assert evaluate_clicks(fine, log, rows, length=0).logits.tolist() == log.numeric[:30, 0].tolist()
    for length, size in ((-1, 9), (0, 0)):
        with pytest.raises(BadSetting, match="batch size is at least 1"):
            evaluate_clicks(fine, log, rows, length=length, batch_size=size)
    for wrong in (np.array([0, 150]), np.array([-1])):
        with pytest.raises(BadLog, match="the log has samples 0 to 149; asked for were"):
            evaluate_clicks(fine, log, wrong, length=0)
    shape = Answering(lambda batch: batch.numeric)
    with pytest.raises(BadRun, match=r"Answering answered 30 samples with the shape \(30, 1\)"):
        evaluate_clicks(shape, log, rows, length=0)
    lost = Answering(lambda batch: torch.where(batch.case == log.case[17], torch.nan, batch.numeric[:, 0]))
    with pytest.raises(
        BadRun, match=rf"Answering, sample 17 \(counted from 0\) of user number {log.user[17]}: .* is nan"
    ):
        evaluate_clicks(lost, log, rows, length=0, batch_size=8)
    assert click_evaluate.LENGTHS == (1, 10, 100, 500)
