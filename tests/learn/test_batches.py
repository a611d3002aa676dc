import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffacet.core.contract import Training
from diffacet.data.sequences import Sequences
from diffacet.errors import BadLog, BadSetting
from diffacet.learn import batches
from diffacet.learn.batches import batch_at
from diffacet.learn.negatives import draw, log_expected_count

N = 30


def sequences(lengths, n_items=N, seed=0):
    rng = np.random.default_rng(seed)
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    items = rng.integers(1, n_items + 1, offsets[-1])
    return Sequences(items, offsets, np.arange(len(lengths), dtype=np.int64) * 10 + 3)


def training(**changes):
    return dataclasses.replace(Training(batch_size=8, length=6, negatives=15), **changes)


def same(one, other):
    pairs = [
        (one.history.items, other.history.items),
        (one.history.users, other.history.users),
        (one.history.case, other.history.case),
        (one.target, other.target),
        (one.negatives, other.negatives),
    ]
    return all(torch.equal(a, b) for a, b in pairs)


# --- what a batch is -------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 25), min_size=1, max_size=20).filter(lambda x: max(x) >= 2),
    size=st.integers(1, 25),
    length=st.integers(1, 12),
    first=st.integers(1, 6),
    step=st.integers(0, 10**6),
)
def test_history_and_target_are_a_slice_of_a_users_sequence(lengths, size, length, first, step):
    train = sequences(lengths)
    settings = training(batch_size=size, length=length, first_target=first)
    batch = batch_at(train, N, settings)(step)
    eligible = [u for u, n in enumerate(lengths) if n >= 2]
    B = min(size, len(eligible))
    assert batch.history.items.shape == (B, length)
    assert batch.step == step
    rows = batch.history.case.tolist()
    assert len(set(rows)) == B  # distinct users
    assert set(rows) <= set(eligible)
    assert batch.history.users.tolist() == [10 * row + 3 for row in rows]
    for b, row in enumerate(rows):
        sequence = train.row(row).tolist()
        # Items repeat, so all places where the window and its target could have been cut are tried.
        lowest = min(first, len(sequence) - 1)
        window = batch.history.items[b].tolist()
        cut = [
            k
            for k in range(lowest, len(sequence))
            if sequence[k] == batch.target[b]
            and window == sequence[max(0, k - length) : k] + [0] * (length - min(k, length))
        ]
        assert cut
    mask = batch.history.mask
    assert (mask[:, :-1] >= mask[:, 1:]).all()  # padding on the right only
    assert mask.any(1).all()
    for tensor in (batch.history.items, batch.history.users, batch.history.case, batch.target, batch.negatives):
        assert tensor.dtype == torch.int64


def test_batch_is_a_function_of_seed_and_step_only():
    train = sequences([12, 9, 30, 5, 7, 2, 15, 8, 8, 20])
    forwards, backwards = batch_at(train, N, training()), batch_at(train, N, training())
    ahead = [forwards(step) for step in range(6)]
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the global stream must not matter
    for step in reversed(range(6)):
        assert same(ahead[step], backwards(step))
    for one, other in itertools.combinations(ahead, 2):
        assert not same(one, other)
    assert not same(ahead[0], batch_at(train, N, training(seed=1))(0))
    # Nothing of how long or how the run is trained shows in its batches.
    other = training(max_steps=7, lr=0.5, validate_every=3, patience=0, item_updates="row-sparse", anneal=0.5)
    assert same(ahead[2], batch_at(train, N, other)(2))


def test_users_and_positions_are_uniform():
    """Chi-square with a fixed seed: every user and every k of {4, ..., len - 1} alike, whatever the length."""
    lengths = [12, 9, 5, 2, 3, 20]
    items = np.concatenate([np.arange(1, n + 1) for n in lengths])  # the item tells the position
    train = Sequences(items, np.cumsum([0, *lengths]), np.arange(6))
    cut, draws, size = batch_at(train, 20, training(batch_size=3, length=20)), 6000, 3
    drawn = [cut(step) for step in range(draws)]
    users = torch.cat([batch.history.case for batch in drawn])
    position = torch.cat([batch.target for batch in drawn]) - 1
    counts = torch.bincount(users, minlength=6).double()
    expected = draws * size / 6
    # Without replacement the counts are less spread than multinomial ones, so the bound is on the safe side.
    assert ((counts - expected) ** 2 / expected).sum() < 20.5  # chi-square, 5 degrees of freedom, 0.999
    for user, n in enumerate(lengths):
        lowest = min(4, n - 1)
        reached = torch.bincount(position[users == user], minlength=n)[lowest:].double()
        assert (position[users == user] >= lowest).all()
        assert len(reached) == n - lowest
        expected = reached.sum() / len(reached)
        degrees = len(reached) - 1
        bound = degrees + 3.3 * math.sqrt(2 * degrees) + 6  # above the 0.999 quantile for every number of degrees
        assert ((reached - expected) ** 2 / expected).sum() < bound if degrees else reached[0] > 0
    assert (torch.stack([batch.history.mask.sum(1) for batch in drawn]).flatten() == position).all()


def test_sequences_of_one_item_are_never_drawn():
    train = sequences([1, 0, 3, 1, 2])
    for step in range(20):
        assert set(batch_at(train, N, training())(step).history.case.tolist()) == {2, 4}


def test_logs_that_cannot_be_learned_from_are_refused():
    with pytest.raises(BadLog, match="no training sequence has two items"):
        batch_at(sequences([1, 0, 1]), N, training())
    with pytest.raises(BadSetting, match=r"negatives lies in 0\.\.30 with unique_negatives=true; got 31"):
        batch_at(sequences([5]), N, training(negatives=31, unique_negatives=True))
    assert len(batch_at(sequences([5]), N, training(negatives=N, unique_negatives=True))(0).negatives) == N


def test_facts_are_the_training_sequences():
    train = sequences([4, 0, 3])
    facts = batches.facts(train, N, training(length=9))
    assert (facts.n_items, facts.length) == (N, 9)
    expected = [train.items.tolist().count(item) for item in range(N + 1)]
    assert facts.item_counts().tolist() == expected
    assert facts.train_offsets.tolist() == [0, 4, 4, 7]


# --- negatives -------------------------------------------------------------------------------------------------

LAWS = list(itertools.product(["uniform", "log-uniform"], [False, True]))
each_law = pytest.mark.parametrize(("sampler", "unique"), LAWS)


def law(sampler, n):
    """P(item), item = 1..n."""
    if sampler == "uniform":
        return np.full(n, 1 / n)
    return np.array([math.log((i + 1) / i) / math.log(n + 1) for i in range(1, n + 1)])


@each_law
@settings(max_examples=40)
@given(n=st.integers(1, 60), seed=st.integers(0, 1000), data=st.data())
def test_negatives_are_items(sampler, unique, n, seed, data):
    count = data.draw(st.integers(1, n if unique else 200))
    settings = training(sampler=sampler, unique_negatives=unique, negatives=count)
    drawn, tries = draw(np.random.default_rng(seed), n, settings)
    assert drawn.shape == (count,)
    assert drawn.dtype == np.int64
    assert drawn.min() >= 1  # 0 is padding, never a negative
    assert drawn.max() <= n
    assert tries >= count
    if unique:
        assert len(set(drawn.tolist())) == count
    else:
        assert tries == count


@pytest.mark.parametrize("sampler", ["uniform", "log-uniform"])
@pytest.mark.parametrize("n", [1, 2, 25])
def test_frequencies_follow_the_law(sampler, n):
    draws = 60_000
    drawn, _ = draw(np.random.default_rng(0), n, training(sampler=sampler, negatives=draws))
    counts, expected = np.bincount(drawn, minlength=n + 1)[1:], draws * law(sampler, n)
    assert math.isclose(expected.sum(), draws)
    degrees = n - 1
    assert ((counts - expected) ** 2 / expected).sum() <= degrees + 3.3 * math.sqrt(2 * degrees) + 6 * (n > 1)


@each_law
def test_expected_counts_against_simulation(sampler, unique):
    """Mean appearances over many batches; without repeats and log-uniform the count is given the number of tries."""
    n, count, repeats = 12, 5, 5000
    settings = training(sampler=sampler, unique_negatives=unique, negatives=count)
    seen, predicted = np.zeros(n), np.zeros(n)
    for seed in range(repeats):
        drawn, tries = draw(np.random.default_rng([seed, 1]), n, settings)
        seen += np.bincount(drawn, minlength=n + 1)[1:]
        predicted += np.exp(log_expected_count(np.arange(1, n + 1), n, settings, tries).astype(np.float64))
    seen, predicted = seen / repeats, predicted / repeats
    # The formula with a random number of tries is TensorFlow's approximation: some percent on so small a catalogue.
    share = 0.06 if unique and sampler == "log-uniform" else 0.0
    assert (np.abs(seen - predicted) < 5 * np.sqrt(count / repeats) * 0.6 + share * predicted).all()
    if not (unique and sampler == "log-uniform"):
        assert math.isclose(predicted.sum(), count, rel_tol=1e-6)
        assert np.allclose(predicted, law(sampler, n) * count, rtol=1e-6)


def test_expected_count_of_unique_log_uniform_draws_is_the_chance_of_any_hit():
    settings = training(sampler="log-uniform", unique_negatives=True, negatives=3)
    found = log_expected_count(np.array([1, 5, 9]), 9, settings, 17)
    expected = [math.log(1 - (1 - p) ** 17) for p in law("log-uniform", 9)[[0, 4, 8]]]
    assert np.allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.float32


@each_law
def test_unique_draws_are_the_first_distinct_of_their_law(sampler, unique):
    """Head items are met first, so early negatives follow the law even without repeats."""
    n, repeats = 10, 20_000
    settings = training(sampler=sampler, unique_negatives=unique, negatives=4)
    first = [draw(np.random.default_rng([seed, 2]), n, settings)[0][0] for seed in range(repeats)]
    share = np.bincount(first, minlength=n + 1)[1:] / repeats
    assert np.abs(share - law(sampler, n)).max() < 5 * 0.5 / math.sqrt(repeats)


def test_hits_and_corrections_are_there_when_asked_for():
    train = sequences([12, 9, 30, 5, 7, 2, 15, 8, 8, 20])
    plain = batch_at(train, N, training(negatives=60))(0)
    assert plain.hits is None
    assert plain.log_q is None
    masked = batch_at(train, N, training(negatives=60, mask_hits=True))(0)
    assert same(plain, masked)
    assert masked.hits.any()
    for b, j in itertools.product(range(8), range(60)):
        assert masked.hits[b, j] == (masked.target[b] == masked.negatives[j])
    settings = training(negatives=60, correction=True, sampler="log-uniform")
    corrected = batch_at(train, N, settings)(0)
    for ids, found in zip((corrected.target, corrected.negatives), corrected.log_q, strict=True):
        expected = np.log(60 * law("log-uniform", N)[ids.numpy() - 1])
        assert np.allclose(found.numpy(), expected, rtol=1e-5)


def test_no_negatives_means_every_item_once_and_in_order():
    train = sequences([12, 9, 30, 5])
    for correction in (False, True):
        batch = batch_at(train, N, training(negatives=0, correction=correction))(3)
        assert batch.negatives.tolist() == list(range(1, N + 1))
        assert batch.log_q is None
        assert batch.everything
        assert batch.hits is None


def test_moving_a_batch_keeps_it():
    settings = training(negatives=9, mask_hits=True, correction=True)
    batch = batch_at(sequences([12, 9]), N, settings)(4)
    moved = batch.to(torch.device("cpu"))
    assert same(batch, moved)
    assert torch.equal(batch.hits, moved.hits)
    assert all(torch.equal(a, b) for a, b in zip(batch.log_q, moved.log_q, strict=True))
    assert moved.step == 4
