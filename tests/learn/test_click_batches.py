"""Batches of click logs: each training sample once an epoch, in an order of the seed, with what it may see."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import clickshop
from diffacet.core.contract import Training
from diffacet.data.clicks import cut
from diffacet.errors import BadLog, BadSetting
from diffacet.learn.clicks import batch_at, click_facts, epoch_steps

LOG = clickshop.log()
ROWS = clickshop.train_rows(LOG)


def training(**changes):
    return Training(**{"batch_size": 64, "length": 5, "max_epochs": 2, "max_steps": 10**6, **changes})


@given(rows=st.integers(2, 200), size=st.integers(2, 50))
def test_an_epoch_holds_every_sample_and_no_batch_of_one(rows, size):
    chosen = training(batch_size=size)
    mine = ROWS[:rows]
    steps, at = epoch_steps(rows, chosen), batch_at(LOG, mine, chosen)
    assert steps in (math.ceil(rows / size), max(1, math.ceil(rows / size) - 1))
    for epoch in range(2):
        batches = [at(epoch * steps + step) for step in range(steps)]
        assert all(len(batch) == size for batch in batches[:-1])
        assert 2 <= len(batches[-1]) <= size + 1
        found = sorted(case for batch in batches for case in batch.case.tolist())
        assert found == sorted(LOG.case[mine].tolist())


def test_a_batch_is_what_the_cutter_gives():
    at = batch_at(LOG, ROWS, training())
    batch = at(3)
    places = [int(np.flatnonzero(LOG.case == case)[0]) for case in batch.case.tolist()]
    expected = cut(LOG, np.array(places), 5)
    for name, value in expected.items():
        found = getattr(batch, name)
        assert (found is None) == (value is None), name
        assert value is None or torch.equal(found, torch.from_numpy(value)), name
    assert int(batch.lengths.max()) <= 5


def test_a_batch_depends_on_seed_and_step_only():
    one, other = batch_at(LOG, ROWS, training()), batch_at(LOG, ROWS, training())
    later = other(9)
    for step in (9, 0, 4):
        assert torch.equal(one(step).case, (later if step == 9 else other(step)).case)
    steps = epoch_steps(len(ROWS), training())
    assert not torch.equal(one(0).case, one(steps).case)  # the next epoch has an order of its own
    assert not torch.equal(one(0).case, batch_at(LOG, ROWS, training(seed=1))(0).case)


def test_models_are_told_how_long_the_training_is():
    chosen = training()
    steps = epoch_steps(len(ROWS), chosen)
    batch = batch_at(LOG, ROWS, chosen)(3)
    assert (batch.step, batch.total) == (3, 2 * steps)
    assert batch_at(LOG, ROWS, training(max_steps=5))(0).total == 5
    told = dataclasses.replace(chosen, max_steps=7, max_epochs=None)
    assert batch_at(LOG, ROWS, told)(0).total == 7


def test_too_little_is_refused():
    with pytest.raises(BadSetting, match="takes batch_size 2 or more; got 1"):
        epoch_steps(10, training(batch_size=1))
    with pytest.raises(BadLog, match="there are 1 training samples, and 2 are needed"):
        batch_at(LOG, ROWS[:1], training())


def test_facts_are_those_of_the_fields():
    facts = click_facts(LOG, training())
    assert facts.click.names == ("item", "kind", "type")
    assert facts.click.shared == (True, True, False)
    assert facts.click.other_names == ("user_id", "slot")
    assert facts.click.sizes[0] == facts.n_items + 3 == LOG.vocabularies["item"].size
    assert (facts.click.numeric, facts.click.timed, facts.length) == (LOG.numeric.shape[1], True, 5)
    assert facts.without_training().click == facts.click


def test_in_the_order_of_time_samples_come_as_they_were_shown():
    chosen = training(order="time")
    at, steps = batch_at(LOG, ROWS, chosen), epoch_steps(len(ROWS), chosen)
    for epoch in range(2):
        times = torch.cat([at(epoch * steps + step).time for step in range(steps)])
        assert len(times) == len(ROWS)
        assert (times.diff() >= 0).all()
