import dataclasses

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from diffacet.core.batch import Histories, SequenceBatch
from diffacet.core.contract import Facts, Training
from diffacet.core.interests import select
from diffacet.data import splits
from diffacet.data.ids import Ids
from diffacet.data.interactions import Interactions
from diffacet.data.sequences import Sequences
from diffacet.errors import BadSetting
from diffacet.learn.batches import batch_at
from diffacet.models.pimirec import PIMIRec, PIMIRecConfig
from diffacet.models.re4 import Re4, Re4Config
from diffacet.rank.evaluate import evaluate
from diffacet.rank.retriever import Retriever

N, L, D, K, DAY = 12, 6, 8, 3, 86_400
FACTS = Facts(N, L)
ROWS = [[1, 2, 3, 4, 5, 6], [7], [8, 8, 9], [10, 2], [3, 4, 5, 1]]


def re4(seed=0, **changes):
    torch.manual_seed(seed)
    return Re4(Re4Config(**{"dim": D, "interests": K, **changes}), FACTS).double()


def pimirec(seed=0, **changes):
    torch.manual_seed(seed)
    return PIMIRec(PIMIRecConfig(**{"dim": D, "interests": K, "graph_dropout": 0.0, **changes}), FACTS).double()


def histories(rows=ROWS, times=True):
    items = torch.zeros(len(rows), L, dtype=torch.int64)
    for b, row in enumerate(rows):
        items[b, : len(row)] = torch.tensor(row)
    when = (DAY * torch.arange(L).square() + 1_500_000_000) * (items != 0)
    return Histories(items, torch.full((len(rows),), -1), torch.arange(len(rows)), when if times else None)


def batch(times=True):
    return SequenceBatch(histories(times=times), torch.tensor([7, 1, 12, 2, 2]), torch.tensor([3, 11, 11, 7, 5, 1]))


def softmax_loop(model, interests, given):
    table = model.items.weight.detach()
    user, _ = select(interests.detach(), table[given.target])
    return reference.softmax_loss(user, table[given.target], table[given.negatives])


# --- Re4 -------------------------------------------------------------------------------------------------------


def test_re4s_terms_are_weighted():
    model, given = re4(attend=0.5, contrast=2.0, construct=3.0), batch()
    terms, history = model.loss(given), given.history
    embedded = model.items(history.items)
    back = model.extract.losses(embedded, history.mask, *model.extract.coarse(embedded, history.mask))
    assert list(terms) == ["softmax", "attend", "contrast", "construct"]
    for name, weight in (("attend", 0.5), ("contrast", 2.0), ("construct", 3.0)):
        assert torch.allclose(terms[name], weight * back[name])
        assert terms[name] > 0
    assert terms["softmax"].item() == pytest.approx(softmax_loop(model, model.interests(history), given), rel=1e-10)


def test_re4_scores_what_has_passed_the_last_layer():
    model, history = re4(), histories()
    interests, _ = model.extract(model.items(history.items), history.mask)
    assert torch.equal(model.interests(history), interests)
    assert interests.abs().max() < 1
    assert model.catalogue() is model.items.weight


def test_re4s_weights_choose_what_is_trained():
    """The way back learns from re-constructing only, and the last layer from the softmax only."""
    model = re4()
    model.loss(batch())["construct"].backward()
    assert model.extract.unroll.grad.any()
    assert model.extract.dense.grad is None
    model = re4()
    model.loss(batch())["softmax"].backward()
    assert model.extract.dense.grad.any()
    assert model.extract.unroll.grad is None


def test_the_temperature_is_the_contrasts():
    cold, warm = re4().loss(batch()), re4(temperature=0.5).loss(batch())
    assert not torch.allclose(cold["contrast"], warm["contrast"])
    for name in ("softmax", "attend", "construct"):
        assert torch.equal(cold[name], warm[name])


# --- PIMIRec ---------------------------------------------------------------------------------------------------


def test_pimirecs_loss_is_its_loop():
    model, given = pimirec(), batch()
    terms = model.loss(given)
    assert list(terms) == ["softmax"]
    assert terms["softmax"].item() == pytest.approx(
        softmax_loop(model, model.interests(given.history), given), rel=1e-10
    )


def test_pimirec_reads_times_in_training_and_in_use():
    model, plain = pimirec(), pimirec(span=0)
    plain.load_state_dict({**model.state_dict(), "extract.interval.table": model.extract.interval.table[:1]})
    given, blind = batch(), batch(times=False)
    assert not torch.allclose(model.interests(given.history), model.interests(blind.history))
    assert not torch.allclose(model.loss(given)["softmax"], model.loss(blind)["softmax"])
    # A span of 0 is the same as no times: all intervals are one.
    assert torch.allclose(plain.interests(given.history), model.interests(blind.history), atol=1e-12)
    assert torch.allclose(plain.loss(given)["softmax"], model.loss(blind)["softmax"], atol=1e-12)


def test_the_unit_of_an_interval():
    days, ranks = pimirec(), pimirec(interval_unit=1)
    history = histories()
    ranked = dataclasses.replace(history, times=history.times // DAY)
    assert torch.allclose(days.interests(history), ranks.interests(ranked), atol=1e-12)
    assert not torch.allclose(days.interests(history), days.interests(ranked))


def test_graph_dropout_acts_in_training_only():
    torch.manual_seed(1)
    model, given = pimirec(graph_dropout=0.5), batch()
    first, second = (model.train().loss(given)["softmax"] for _ in range(2))
    assert first != second
    assert torch.equal(model.eval().interests(given.history), pimirec().eval().interests(given.history))


def test_heads_divide_the_width():
    with pytest.raises(BadSetting, match="heads divides dim; got heads=3 and dim=8"):
        PIMIRecConfig(dim=8, heads=3)


@pytest.mark.parametrize("build", [re4, pimirec])
def test_dropouts_act_on_the_history_in_training_only(build):
    given = batch()
    plain = build().eval()
    for changes in ({"dropout": 0.5}, {"item_dropout": 0.5}):
        model = build(**changes)
        torch.manual_seed(3)
        assert model.train().loss(given)["softmax"] != plain.loss(given)["softmax"]
        assert torch.equal(model.eval().loss(given)["softmax"], plain.loss(given)["softmax"])
        assert torch.equal(model.interests(given.history), plain.interests(given.history))


# --- times on their way to a model -----------------------------------------------------------------------------


def timed(items):
    """A time that tells the item; 0 for padding."""
    return (1_000 + 7 * items) * (items != 0)


def sequences(lengths, seed=0):
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    items = np.random.default_rng(seed).integers(1, N + 1, offsets[-1])
    return Sequences(items, offsets, np.arange(len(lengths), dtype=np.int64), timed(items))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 7), st.data())
def test_window_times_are_those_of_the_window(lengths, length, data):
    given = sequences(lengths)
    rows = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=8)), dtype=np.int64)
    ends = np.array([data.draw(st.integers(0, lengths[row])) for row in rows], dtype=np.int64)
    times = given.window_times(rows, ends, length)
    assert times.dtype == np.int64
    assert np.array_equal(times, timed(given.windows(rows, ends, length)))
    assert np.array_equal(given.last_times(rows, length), timed(given.last(rows, length)))
    without = dataclasses.replace(given, times=None)
    assert without.window_times(rows, ends, length) is None
    assert without.last_times(rows, length) is None


def test_a_batch_has_the_times_of_its_window():
    train, training = sequences([9, 2, 12, 5, 0, 7]), Training(batch_size=4, length=L, negatives=5)
    cut, without = (batch_at(one, N, training) for one in (train, dataclasses.replace(train, times=None)))
    for step in range(5):
        given, other = cut(step), without(step)
        assert torch.equal(given.history.times, timed(given.history.items))
        assert torch.equal(given.to(torch.device("cpu")).history.times, given.history.times)
        assert other.history.times is None
        assert other.to(torch.device("cpu")).history.times is None
        for name in ("items", "users", "case"):  # nothing else depends on times
            assert torch.equal(getattr(given.history, name), getattr(other.history, name))
        assert torch.equal(given.negatives, other.negatives)


class Watching(torch.nn.Module):
    """A Matcher that remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.eye(N + 1))
        self.shown = []

    def interests(self, history):
        self.shown.append(history)
        return self.table[history.items].sum(1, keepdim=True)

    def catalogue(self):
        return self.table


@pytest.mark.parametrize("split", sorted({*splits.SPLITS} - {"given", "next-item-given"}))
def test_evaluation_shows_the_times_of_the_log(split):
    draw = np.random.default_rng(0)
    user = np.repeat(np.arange(40), draw.integers(3, 10, 40))
    frame = pl.DataFrame(
        {"user_id": user, "item_id": draw.integers(1, N + 1, len(user)), "timestamp": draw.permutation(len(user)) + 9}
    )
    log = Interactions.from_frame(frame)
    what = {int(t): (u, i) for u, i, t in log.frame.select("user", "item", "time").iter_rows()}  # a time tells the row
    cut = splits.make_split(log, split, seed=0)
    for holdout in (cut.valid, cut.test):
        model = Watching()
        evaluate(model, holdout, length=L, batch_size=3)
        assert sum(len(history.items) for history in model.shown) == len(holdout)
        for history in model.shown:
            for items, times, owner in zip(history.items, history.times, history.users, strict=True):
                real = items != 0
                assert [what[int(t)] for t in times[real]] == [(int(owner), int(i)) for i in items[real]]
                assert (times[real].diff() > 0).all()
                assert (times[~real] == 0).all()
    train = cut.train
    for row in range(len(train)):
        times = train.times[train.offsets[row] : train.offsets[row + 1]]
        assert [what[int(t)] for t in times] == [(int(train.users[row]), int(i)) for i in train.row(row)]


def test_a_request_has_no_times_and_is_answered():
    model = pimirec().float().eval()
    recommender = Retriever(model, Ids(pl.Series([f"i{n}" for n in range(1, N + 1)]), 1), length=L)
    found = recommender.recommend(["i3", "i4", "i5"], k=4)
    with torch.no_grad():
        interests = model.interests(histories([[3, 4, 5]], times=False))[0]
        scores = (model.catalogue() @ interests.T).amax(1)
    scores[[0, 3, 4, 5]] = -torch.inf
    assert list(found.item_id) == [f"i{n}" for n in scores.topk(4).indices.tolist()]
