"""Noise by key: the exact numbers of its definition, whatever the batch, and normal."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffacet.core.diffusion import DrawnNoise, KeyedNoise, keyed_uniform, mixed

WORD = 2**64 - 1
KEYS = st.integers(-(2**63), 2**63 - 1)


def finaliser(z):
    """splitmix64's, on unsigned numbers of 64 bits."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & WORD
    return z ^ (z >> 31)


def uniform(key, counter):
    """In (0, 1]: the first 24 bits of what is drawn with this key and counter."""
    drawn = finaliser((key + 0x9E3779B97F4A7C15 * (1 + counter)) & WORD)
    return ((drawn >> 40) + 1) / 2**24


def key_of(case, seed):
    return finaliser(seed) ^ (case & WORD)


def entry_by_hand(case, seed, c, d, steps, q):
    """[c][d] values of draw q: 0 the start, then those of levels T', T' - 1, ..., 1."""
    even, key, rows = 2 * math.ceil(d / 2), key_of(case, seed), []
    for j in range(c):
        row = []
        for pair in range(even // 2):
            counter = (j * (steps + 1) + q) * even + 2 * pair
            radius = math.sqrt(-2 * math.log(uniform(key, counter)))
            angle = 2 * math.pi * uniform(key, counter + 1)
            row += [radius * math.cos(angle), radius * math.sin(angle)]
        rows.append(row[:d])
    return rows


def as_signed(word):
    return word - 2**64 if word >= 2**63 else word


def test_the_finaliser_has_its_published_values():
    """The first numbers of splitmix64 started from 1234567: those of its reference implementation."""
    state, drawn = 1234567, []
    for _ in range(5):
        state = state + 0x9E3779B97F4A7C15 & WORD
        drawn.append(finaliser(state))
    assert drawn == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(st.lists(KEYS, min_size=1, max_size=5))
def test_mixing_is_that_of_unsigned_numbers(words):
    found = mixed(torch.tensor(words, dtype=torch.int64)).tolist()
    assert found == [as_signed(finaliser(word & WORD)) for word in words]


@given(KEYS, st.integers(0, 2**40))
def test_uniform_numbers_are_exact(key, counter):
    found = keyed_uniform(torch.tensor([key]), torch.tensor([counter]))
    assert found.dtype == torch.float64
    assert found.tolist() == [[uniform(key & WORD, counter)]]
    assert 0 < float(found) <= 1


@given(
    cases=st.lists(KEYS, min_size=1, max_size=3),
    seed=st.integers(0, 2**53),
    c=st.integers(1, 3),
    d=st.integers(1, 7),
    steps=st.integers(0, 4),
)
def test_noise_is_exactly_its_definition(cases, seed, c, d, steps):
    noise = KeyedNoise(torch.tensor(cases), c, d, steps, seed)
    for level in range(1, steps + 1):
        expected = [entry_by_hand(case, seed, c, d, steps, steps + 1 - level) for case in cases]
        found = noise[level - 1]
        assert (found.dtype, found.shape) == (torch.float32, (len(cases), c, d))
        assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64).float(), rtol=1e-6, atol=1e-6)
    expected = [entry_by_hand(case, seed, c, d, steps, 0) for case in cases]
    assert torch.allclose(noise[steps], torch.tensor(expected, dtype=torch.float64).float(), rtol=1e-6, atol=1e-6)


@given(case=KEYS, seed=st.integers(0, 99), c=st.integers(1, 4), d=st.integers(1, 7), most=st.sampled_from([1, 7, 1000]))
def test_levels_are_exactly_their_definition(case, seed, c, d, most):
    even, key = 2 * math.ceil(d / 2), key_of(case, seed)
    found = KeyedNoise(torch.tensor([case]), c, d, 5, seed).level(most)
    assert found.dtype == torch.int64
    assert found.tolist() == [[math.ceil(uniform(key, c * 6 * even + j) * most) for j in range(c)]]


def test_seed_zero_leaves_the_key():
    assert KeyedNoise(torch.tensor([7]), 1, 2, 1, 0).key.tolist() == [7]


def test_noise_does_not_depend_on_the_batch():
    cases = torch.tensor([5, -3, 2**62, 5, 0])
    together = KeyedNoise(cases, 3, 5, 4, 1)
    for entry in range(5):
        for b, case in enumerate(cases):
            assert torch.equal(KeyedNoise(case.view(1), 3, 5, 4, 1)[entry][0], together[entry][b])
        order = [4, 2, 0, 1, 3]
        assert torch.equal(KeyedNoise(cases[order], 3, 5, 4, 1)[entry], together[entry][order])
        assert torch.equal(together[entry], together[entry])
        assert torch.equal(together[entry][0], together[entry][3])
    assert torch.equal(KeyedNoise(cases[:1], 3, 5, 4, 1).level(1000), together.level(1000)[:1])


def test_no_two_numbers_are_the_same():
    """Of samples, channels, steps, coordinates and seeds, and neither are those of neighbours in the keys."""
    drawn = [KeyedNoise(torch.arange(20), 4, 6, 3, seed)[entry] for seed in range(3) for entry in range(4)]
    values = torch.stack(drawn).double().flatten()
    assert len(values.unique()) > 0.999 * len(values)


def test_noise_is_normal():
    noise = KeyedNoise(torch.arange(3000), 4, 5, 3, 9)
    drawn = torch.stack([noise[entry] for entry in range(4)], 1).double()  # (3000, 4, 4, 5)
    n = drawn.numel()
    assert drawn.isfinite().all()
    assert abs(float(drawn.mean())) < 5 / math.sqrt(n)
    assert abs(float(drawn.square().mean()) - 1) < 5 * math.sqrt(2 / n)
    assert abs(float(drawn.pow(4).mean()) - 3) < 5 * math.sqrt(96 / n)
    flat = drawn.view(3000, -1)  # samples are independent, and so are the numbers of one
    correlation = flat.T @ flat / 3000 - torch.eye(flat.shape[1])
    off = correlation[~torch.eye(len(correlation), dtype=torch.bool)]
    assert off.abs().max() < 6 / math.sqrt(3000)
    between = (drawn[:-1] * drawn[1:]).mean()
    assert abs(float(between)) < 5 / math.sqrt(n)


@pytest.mark.parametrize("most", [1, 4, 1000])
def test_levels_are_uniform(most):
    found = KeyedNoise(torch.arange(5000), 4, 5, 3, 9).level(most).double()
    assert found.min() >= 1
    assert found.max() <= most
    n, mean, variance = found.numel(), (most + 1) / 2, (most**2 - 1) / 12
    assert abs(float(found.mean()) - mean) <= 5 * math.sqrt(variance / n)
    if most <= 4:
        for level in range(1, most + 1):
            share = float((found == level).double().mean())
            assert abs(share - 1 / most) <= 5 * math.sqrt(0.25 / n)


def test_drawn_noise_is_new_each_time_and_torchs():
    noise = DrawnNoise(torch.zeros(2, 3, dtype=torch.float64))
    torch.manual_seed(0)
    one, other = noise[4], noise[4]
    assert not torch.equal(one, other)
    torch.manual_seed(0)
    assert torch.equal(torch.randn(2, 3, dtype=torch.float64), one)
