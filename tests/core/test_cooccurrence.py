import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffacet.core import cooccurrence
from diffacet.core.batch import Histories
from diffacet.core.contract import Facts
from diffacet.core.cooccurrence import CoOccurrence, co_occurrence

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
@given(sequences=some_sequences, window=some_window, decay=st.floats(0, 3), at_once=st.sampled_from([1, 7, 30, 10**6]))
def test_pairs_are_counted_as_by_a_loop(sequences, window, decay, at_once):
    """However few pairs are held at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cooccurrence, "PAIRS_AT_ONCE", at_once)
        left, right, weight = co_occurrence(*flat(sequences), window, decay, N)
    expected = counted(sequences, window, decay)
    assert list(zip(left.tolist(), right.tolist(), strict=True)) == sorted(expected)
    assert weight.tolist() == pytest.approx([expected[pair] for pair in sorted(expected)], rel=1e-12)


@settings(max_examples=60)
@given(
    sequences=some_sequences,
    past=st.lists(st.integers(1, N), max_size=L),
    window=some_window,
    decay=st.floats(0, 3),
    history_power=st.floats(0, 1),
    candidate_power=st.floats(0, 1),
    shrinkage=st.floats(0, 30),
    recency=st.floats(0.1, 1),
)
def test_scores_are_their_loop(sequences, past, window, decay, history_power, candidate_power, shrinkage, recency):
    made = CoOccurrence(
        Facts(N, L, *flat(sequences)),
        window=window,
        decay=decay,
        history_power=history_power,
        candidate_power=candidate_power,
        shrinkage=shrinkage,
    )
    counts = [sum(sequence.count(item) for sequence in sequences) for item in range(N + 1)]
    expected = np.zeros(N + 1)
    for (i, j), weight in counted(sequences, window, decay).items():
        similarity = weight / (counts[i] ** history_power * counts[j] ** candidate_power + shrinkage)
        for age, item in enumerate(reversed(past)):
            if item == i:
                expected[j] += recency**age * similarity
    found = made(histories([past, []]), recency)
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
