import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffacet.core import cooccurrence
from diffacet.core.batch import Histories
from diffacet.core.contract import Facts
from diffacet.core.cooccurrence import CoOccurrence, among_nearest, co_occurrence

N, L = 9, 6
some_sequences = st.lists(st.lists(st.integers(1, N), max_size=10), max_size=8)
some_window = st.one_of(st.none(), st.integers(1, 12))


def flat(sequences):
    items = np.array(list(itertools.chain.from_iterable(sequences)), dtype=np.int64)
    return items, np.cumsum([0, *map(len, sequences)], dtype=np.int64)


def histories(rows):
    items = torch.zeros(len(rows), L, dtype=torch.int64)
    for b, row in enumerate(rows):
        items[b, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return Histories(items, torch.full((len(rows),), -1), torch.arange(len(rows)))


def counted(sequences, window, decay):
    """{(i, j): W_ij}, pair of positions by pair of positions."""
    together = {}
    for sequence in sequences:
        for p, q in itertools.permutations(range(len(sequence)), 2):
            if sequence[p] != sequence[q] and (window is None or abs(p - q) <= window):
                pair = (sequence[p], sequence[q])
                together[pair] = together.get(pair, 0.0) + abs(p - q) ** -decay
    return together


@settings(max_examples=60)
@given(
    sequences=some_sequences,
    window=some_window,
    decay=st.one_of(st.just(0.0), st.floats(0, 3)),
    at_once=st.sampled_from([1, 7, 30, 10**6]),
    cost=st.sampled_from([0, 10**9]),
)
def test_pairs_are_counted_as_by_a_loop(sequences, window, decay, at_once, cost):
    """However few pairs, or cells of a product of rows, are held at once; plain counts in both ways."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cooccurrence, "PAIRS_AT_ONCE", at_once)
        patch.setattr(cooccurrence, "CELLS_AT_ONCE", at_once)
        patch.setattr(cooccurrence, "PAIR_COST", cost)
        left, right, weight = co_occurrence(*flat(sequences), window, decay, N)
    expected = counted(sequences, window, decay)
    assert list(zip(left.tolist(), right.tolist(), strict=True)) == sorted(expected)
    assert weight.tolist() == pytest.approx([expected[pair] for pair in sorted(expected)], rel=1e-12)


@settings(max_examples=60)
@given(sequences=some_sequences)
def test_plain_counts_are_the_same_to_the_bit_in_both_ways(sequences):
    """Repeated items are counted by pairs of positions, as a product of rows of counts does."""
    found = []
    for cost in (0, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cooccurrence, "PAIR_COST", cost)
            found.append(co_occurrence(*flat(sequences), None, 0.0, N))
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


@given(
    st.dictionaries(
        st.tuples(st.integers(1, 6), st.integers(1, 6)), st.sampled_from([0.1, 0.25, 0.5, 0.5000001, 1.0, 3.0])
    ),
    st.integers(1, 7),
)
def test_the_nearest_are_those_of_a_sorted_list(similarity, count):
    """The largest of every j, and of equal ones those of the smaller i."""
    pairs = sorted(similarity)
    values = np.array([similarity[pair] for pair in pairs], dtype=np.float32)
    found = among_nearest(np.array([j for _, j in pairs], dtype=np.int64), values, count)
    kept = set()
    for j in range(1, 7):
        mine = sorted((-np.float32(value), i) for (i, other), value in similarity.items() if other == j)
        kept |= {(i, j) for _, i in mine[:count]}
    assert {pair for pair, there in zip(pairs, found, strict=True) if there} == kept


@settings(max_examples=60)
@given(
    sequences=some_sequences,
    past=st.lists(st.integers(1, N), max_size=L),
    window=some_window,
    decay=st.floats(0, 3),
    history_power=st.floats(0, 1),
    candidate_power=st.floats(0, 1),
    shrinkage=st.floats(0, 30),
    recency=st.one_of(st.just(1.0), st.floats(0.1, 1)),
    nearest=st.one_of(st.none(), st.integers(1, N)),
    oldest=st.sampled_from([1.0, 0.4, 0.0]),
    at_once=st.sampled_from([1, 5, 10**6]),
    cost=st.sampled_from([0, 10**9]),
)
def test_scores_are_their_loop(
    sequences,
    past,
    window,
    decay,
    history_power,
    candidate_power,
    shrinkage,
    recency,
    nearest,
    oldest,
    at_once,
    cost,
):
    """By sparse pairs, however few are gathered at once, and by dense rows."""
    made = CoOccurrence(
        Facts(N, L, *flat(sequences)),
        window=window,
        decay=decay,
        history_power=history_power,
        candidate_power=candidate_power,
        shrinkage=shrinkage,
        nearest=nearest,
    )
    counts = [sum(sequence.count(item) for sequence in sequences) for item in range(N + 1)]
    similarity = {
        (i, j): np.float32(weight / (counts[i] ** history_power * counts[j] ** candidate_power + shrinkage))
        for (i, j), weight in counted(sequences, window, decay).items()
    }
    # With time weights each item counts once, where it came last.
    read = [item for place, item in enumerate(past) if oldest == 1 or item not in past[place + 1 :]]
    steps = max(1, len(read) - 1)
    expected = np.zeros(N + 1)
    for j in range(1, N + 1):
        mine = sorted((-value, i) for (i, other), value in similarity.items() if other == j)
        for value, i in mine[:nearest]:
            for place, item in enumerate(read):
                if item == i:
                    weight = oldest + place / steps * (1 - oldest)
                    expected[j] += recency ** (len(read) - 1 - place) * weight * -value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cooccurrence, "SCORES_AT_ONCE", at_once)
        patch.setattr(cooccurrence, "PAIR_COST", cost)
        found = made(histories([past, []]), recency, oldest)
    assert found.shape == (2, N + 1)
    assert np.allclose(found[0].numpy(), expected, rtol=1e-5)
    assert not found[1].any()


def test_it_is_loaded_without_the_sequences_that_made_it():
    options = {"window": None, "decay": 0.5, "history_power": 0.5, "candidate_power": 0.5, "shrinkage": 1.0}
    made = CoOccurrence(Facts(N, L, *flat([[1, 2, 3], [3, 1, 9, 9]])), **options)
    empty = CoOccurrence(Facts(N, L), **options)
    past = histories([[1, 3], [9]])
    assert not empty(past, 0.9).any()
    for name, value in made.state_dict().items():
        setattr(empty, name, value)
    assert made(past, 0.9).any()
    assert torch.equal(made(past, 0.9), empty(past, 0.9))


def test_it_has_nothing_to_learn():
    made = CoOccurrence(
        Facts(N, L, *flat([[1, 2, 3]])),
        window=1,
        decay=0.0,
        history_power=0.0,
        candidate_power=0.0,
        shrinkage=0.0,
    )
    assert not list(made.parameters())
    assert set(made.state_dict()) == {"starts", "neighbours", "similarity"}
    assert made(histories([[2]]), 1.0)[0].tolist() == [0, 1, 0, 1, 0, 0, 0, 0, 0, 0]
