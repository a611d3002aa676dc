"""The users of a generated log: how much each one clicks, when, and what for.

Shapes: U users of a block, S = 6 slots (interests over a life), K_u of them in use at a time.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffacet import seeds
from diffacet.data.sequences import IntArray
from diffacet.data.synth.catalogue import Catalogue, FloatArray
from diffacet.data.synth.settings import MOST_INTERESTS, SLOTS, Settings

Float32Array = NDArray[np.float32]
SPREAD = 2.0
"""Concentration of the Dirichlet law of a user's weights."""
_TRIES = 8
_POINTS = 8


class Activity:
    """How many clicks each user has: min_history and a lognormal share of the rest, X exactly in all.

    Shares are rounded so that the sum up to any user is off by less than one click.
    """

    def __init__(self, settings: Settings) -> None:
        """Sum up all users' shares, block by block; nothing of the size of the users is kept."""
        self.settings = settings
        sums = np.array([self._weights(block).sum() for block in range(settings.blocks)])
        spare = settings.interactions - settings.users * settings.min_history
        self._ends = _rounded(sums, spare)
        self.rows = np.diff(self._ends, prepend=0) + settings.min_history * self._sizes()
        """(blocks,) clicks of each block."""

    def _sizes(self) -> IntArray:
        s = self.settings
        return np.minimum(s.block_users, s.users - s.block_users * np.arange(s.blocks))

    def _weights(self, block: int) -> FloatArray:
        s = self.settings
        size = min(s.block_users, s.users - block * s.block_users)
        return np.exp(s.activity * seeds.stream(s.seed, "synth", "activity", block).standard_normal(size))

    def counts(self, block: int) -> IntArray:
        """(U,) clicks of the users of a block."""
        spare = self._ends[block] - (self._ends[block - 1] if block else 0)
        return np.diff(_rounded(self._weights(block), int(spare)), prepend=0) + self.settings.min_history


def _rounded(weights: FloatArray, total: int) -> IntArray:
    """(n,) running sums of `total` shared out by `weights` (n,), in whole numbers; the last is `total`."""
    running = np.cumsum(weights)
    found = np.floor(running * (total / running[-1]) + 0.5).astype(np.int64)
    found[-1] = total
    return np.minimum(found, total)


@dataclass(frozen=True, eq=False)
class People:
    """The users of a block.

    At the share tau of a user's life interest k has a weight proportional to base exp(2 drift slope (tau - 1/2)), if
    begins <= tau < ends, else none.

    Attributes:
        topic: (U, S) int64; -1 in a slot that is not used. A user's topics differ.
        place: (U, S) float64 on the topic's ring, in [0, 1).
        base: (U, S) float32 weights of a Dirichlet law; 0 in a slot that is not used.
        slope: (U, S) float32.
        begins: (U, S) float32; 0 for all but an interest that replaces another.
        ends: (U, S) float32; 1 for all but an interest that is replaced; above 1: never.
        birth: (U,) float64 share of the span at which the user's life begins.
        life: (U,) float64 share of the span that it lasts.
    """

    topic: IntArray
    place: FloatArray
    base: Float32Array
    slope: Float32Array
    begins: Float32Array
    ends: Float32Array
    birth: FloatArray
    life: FloatArray

    def running(self, user: IntArray, tau: FloatArray, drift: float) -> Float32Array:
        """(n, S) running sums of the weights that the users (n,) have at the shares tau (n,) of their lives."""
        weight = self.base[user]
        if drift:
            now = tau.astype(np.float32)[:, None]
            weight *= np.exp(self.slope[user] * (np.float32(2 * drift) * (now - np.float32(0.5))))
            weight *= (self.begins[user] <= now) & (now < self.ends[user])
        return np.cumsum(weight, axis=1)

    def weights(self, tau: float, drift: float) -> FloatArray:
        """(U, S) the weights at one share of life; rows sum to 1."""
        n = len(self.birth)
        running = self.running(np.arange(n), np.full(n, tau), drift)
        return np.diff(running.astype(np.float64), axis=1, prepend=0) / running[:, -1:]

    def mean_weights(self, drift: float) -> FloatArray:
        """(U, S) the weights on average over a life, at the middles of eight parts of it; rows sum to 1."""
        return np.mean([self.weights((point + 0.5) / _POINTS, drift) for point in range(_POINTS)], axis=0)


def make_people(settings: Settings, catalogue: Catalogue, block: int, n: int) -> People:
    """The n users of a block; what a block draws depends on the settings and its number only."""
    draw = seeds.stream(settings.seed, "synth", "people", block)
    count = 1 + draw.binomial(MOST_INTERESTS - 1, (settings.interests - 1) / (MOST_INTERESTS - 1), n)
    replaced = draw.random(n) < settings.drift
    slot = np.arange(SLOTS)
    used = (slot < count[:, None]) | ((slot == SLOTS - 1) & replaced[:, None])
    topic = np.where(used, _different(draw, catalogue.share, n), -1)
    base = np.where(used, draw.standard_gamma(SPREAD, (n, SLOTS)), 0.0)
    slope = draw.standard_normal((n, SLOTS))
    old, rows = draw.integers(0, count), np.arange(n)
    at = np.where(replaced, 0.25 + 0.5 * draw.random(n), 2.0)
    ends = np.full((n, SLOTS), 2.0)
    ends[rows, old] = at
    begins = np.zeros((n, SLOTS))
    begins[:, -1] = np.where(replaced, at, 0.0)
    # The newcomer takes over the place that its forerunner had among the others.
    base[:, -1] = np.where(replaced, base[rows, old], 0.0)
    slope[:, -1] = slope[rows, old]
    life = np.sqrt(draw.random(n))
    base /= np.where(slot < SLOTS - 1, base, 0.0).sum(1, keepdims=True)
    weight, tilt, first, last = (numbers.astype(np.float32) for numbers in (base, slope, begins, ends))
    return People(topic, draw.random((n, SLOTS)), weight, tilt, first, last, draw.random(n) * (1 - life), life)


def chosen(running: Float32Array, share: FloatArray) -> IntArray:
    """(n,) the slots in which the shares (n,) of the running sums (n, S) lie; never one of no weight."""
    total = running[:, -1:]
    return ((running <= share[:, None] * total) & (running < total)).sum(1)


def _different(draw: np.random.Generator, share: FloatArray, n: int) -> IntArray:
    """(n, SLOTS) topics drawn by `share`, all different in a row: repeats are drawn anew, then moved to the next."""
    running = np.cumsum(share)
    running /= running[-1]
    found = np.searchsorted(running, draw.random((n, SLOTS)), side="right")
    for _ in range(_TRIES):
        rows, slots = np.nonzero(_repeats(found))
        if not len(rows):
            return found
        found[rows, slots] = np.searchsorted(running, draw.random(len(rows)), side="right")
    while (again := _repeats(found)).any():
        found[again] = (found[again] + 1) % len(share)
    return found


def _repeats(rows: IntArray) -> NDArray[np.bool_]:
    """(n, S) whether an entry is equal to one before it in its row."""
    found = np.zeros(rows.shape, np.bool_)
    for later in range(1, rows.shape[1]):
        found[:, later] = (rows[:, :later] == rows[:, later : later + 1]).any(1)
    return found
