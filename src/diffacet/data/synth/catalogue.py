"""The items of a generated log: topics, popularity, places, trends; and how a click finds its item.

A topic is a direction c_t on the sphere and a ring around it. The items of a topic lie around its ring in random order,
each on an arc as long as its share of the topic's popularity; an item's place m_i in [0, 1) is the middle of its arc.
A click that falls on the place y of topic t at the moment e is a click on the item whose arc holds y then.
Shapes: M items, T topics, n entries (an item has one for each of its topics), E knots of time, D latent dimensions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diffacet import seeds
from diffacet.data.sequences import IntArray
from diffacet.data.synth.naming import Names
from diffacet.data.synth.settings import Settings

FloatArray = NDArray[np.float64]
UNIT = 32
"""Bits of a place: y is told in steps of 2^-32."""
GRID = 64
"""Points of a ring at which the arcs' shift with time is tabulated; linear in between."""
TWO_TOPICS = 0.1
"""Share of the items that belong to two topics."""
RADIUS, BLUR = 0.6, 0.1
"""Of a ring about its topic's direction, and of an item about its place on the ring."""
_CHUNK = 1 << 18


@dataclass(frozen=True, eq=False)
class Topics:
    """T topics.

    Attributes:
        category: (T,) int64, the group that a topic is in.
        directions: (T, D) float64 unit vectors.
        axes: (T, 2, D) float64, orthonormal and at right angles to the direction: the plane of the ring.
    """

    category: IntArray
    directions: FloatArray
    axes: FloatArray

    def vectors(self, topic: IntArray, place: FloatArray) -> FloatArray:
        """(n, D) unit vectors of places (n,) on the rings of topics (n,)."""
        angle = 2 * np.pi * place[:, None]
        ring = np.cos(angle) * self.axes[topic, 0] + np.sin(angle) * self.axes[topic, 1]
        return _unit(self.directions[topic] + RADIUS * ring)

    def frame(self) -> pl.DataFrame:
        """topic, name, category, and the vectors: one row a topic."""
        number = np.arange(len(self.category))
        columns = {"topic": number, "name": topic_names(number), "category": category_names(self.category)}
        vectors = {"direction": self.directions, "axis_1": self.axes[:, 0], "axis_2": self.axes[:, 1]}
        return pl.DataFrame(columns | {name: rows.astype(np.float32) for name, rows in vectors.items()})


def topic_names(topic: IntArray) -> pl.Series:
    """Names such as "Topic 017"."""
    return "Topic " + pl.Series(topic).cast(pl.String).str.zfill(3)


def category_names(category: IntArray) -> pl.Series:
    """Names such as "Category 03"."""
    return "Category " + pl.Series(category).cast(pl.String).str.zfill(2)


def make_topics(settings: Settings) -> Topics:
    """The topics of a log, about five a category; those of one category are closer to each other than to others."""
    T, D = settings.T, settings.latent
    draw = seeds.stream(settings.seed, "synth", "topics")
    groups = max(2, T // 5)
    category = np.arange(T) % groups
    heads = _unit(draw.standard_normal((groups, D)))
    directions = _unit(heads[category] + draw.standard_normal((T, D)) / np.sqrt(D))
    axes = draw.standard_normal((T, 2, D))
    axes -= (axes @ directions[:, :, None]) * directions[:, None]
    axes[:, 0] = _unit(axes[:, 0])
    axes[:, 1] = _unit(axes[:, 1] - (axes[:, 1] * axes[:, 0]).sum(1, keepdims=True) * axes[:, 0])
    return Topics(category, directions, axes)


class Catalogue:
    """The items, and the table by which clicks find them.

    Attributes:
        popularity: (M,) float64, sums to 1; item number i has rank i + 1.
        share: (T,) float64, sums to 1: a topic's part of all popularity.
        entry_item, entry_topic, entry_place: (n,) the entries, by topic and place; places as float64 in [0, 1).
    """

    def __init__(self, settings: Settings) -> None:
        """Draw the items of a log."""
        self.settings, self.topics = settings, make_topics(settings)
        self.names = Names(settings.items, settings.ids, "i", settings.seed)
        self.popularity = zipf_mandelbrot(settings.items, settings.zipf, settings.q)
        first, second = self._belong()
        two = np.flatnonzero(second >= 0)
        item = np.concatenate([np.arange(settings.items), two])
        topic = np.concatenate([first, second[two]])
        draw = seeds.stream(settings.seed, "synth", "rings")
        order = np.argsort(topic + draw.random(len(topic)), kind="stable")
        self.entry_item, self.entry_topic = item[order].astype(np.int32), topic[order].astype(np.int16)
        mass = self.popularity[self.entry_item] / (1 + (second >= 0))[self.entry_item]
        self._starts = np.searchsorted(self.entry_topic, np.arange(settings.T + 1))
        self.share = np.add.reduceat(mass, self._starts[:-1])
        upper = self._upper(mass)
        self.entry_place = upper - self.entry_topic - mass / self.share[self.entry_topic] / 2
        self._arcs, self._shift = self._over_time(mass, upper)
        # Where the search for a place begins: a table of about as many buckets as arcs makes it several times as fast.
        self._coarse = UNIT - (len(item) // settings.T).bit_length()
        per_knot = settings.T << (UNIT - self._coarse)
        self._guide = np.empty(settings.knots * per_knot + 1, np.int32)
        for knot in range(settings.knots):
            some = np.arange(knot * per_knot, (knot + 1) * per_knot + 1)
            self._guide[some] = np.searchsorted(self._arcs, some << self._coarse, side="right")

    def _belong(self) -> tuple[IntArray, IntArray]:
        """(M,) the topic of each item, (M,) its second topic or -1; topics differ in size, and none is empty."""
        M, T = self.settings.items, self.settings.T
        draw = seeds.stream(self.settings.seed, "synth", "items")
        sizes = np.cumsum(draw.standard_gamma(4.0, T))
        first = np.minimum(np.searchsorted(sizes, draw.random(M) * sizes[-1]), T - 1)
        first[:T] = draw.permutation(T)
        second = (first + draw.integers(1, T, M)) % T
        return first, np.where(draw.random(M) < TWO_TOPICS, second, -1)

    def _upper(self, mass: FloatArray) -> FloatArray:
        """(n,) where each entry's arc ends, plus its topic's number; the last of a topic at exactly t + 1."""
        total = np.concatenate([[0.0], np.cumsum(mass)])
        begin, end = total[self._starts[:-1]], total[self._starts[1:]]
        within = (total[1:] - begin[self.entry_topic]) / (end - begin)[self.entry_topic]
        upper = self.entry_topic + np.minimum(within, 1.0)
        upper[self._starts[1:] - 1] = np.arange(1, self.settings.T + 1)
        return upper

    def _over_time(self, mass: FloatArray, upper: FloatArray) -> tuple[IntArray, FloatArray]:
        """(E n,) ends of arcs in whole steps, cell by cell; (E T (GRID + 1),) where the places of rings are then."""
        E, T = self.settings.knots, self.settings.T
        arcs = np.empty((E, len(mass)), np.int64)
        shift = np.empty((E, T, GRID + 1))
        grid = np.arange(GRID + 1) / GRID
        factors = None if E == 1 else _Trends(self.settings)
        for e in range(E):
            now = upper
            if factors is not None:
                moved = mass * factors.at(e)[self.entry_item]
                gone = np.add.reduceat(moved, self._starts[:-1]) <= 0
                now = self._upper(np.where(gone[self.entry_topic], mass, moved))
            arcs[e] = np.rint((e * T + now) * (1 << UNIT)).astype(np.int64)
            for t in range(T):
                part = slice(self._starts[t], self._starts[t + 1])
                before, after = (np.concatenate([[0.0], which[part] - t]) for which in (upper, now))
                shift[e, t] = np.interp(grid, before, after)
        return arcs.reshape(-1), shift.reshape(-1)

    def moved(self, cell: IntArray, place: FloatArray) -> FloatArray:
        """(n,) where the places (n,) of rings lie at the moment and in the topic of `cell` (n,), e T + t."""
        at = place * GRID
        low = at.astype(np.int64)
        flat = cell * (GRID + 1) + low
        before = self._shift[flat]
        return before + (at - low) * (self._shift[flat + 1] - before)

    def find(self, cell: IntArray, place: FloatArray) -> IntArray:
        """(n,) the items whose arcs hold the places (n,), any real numbers, taken modulo 1, in cells e T + t (n,)."""
        step = ((place - np.floor(place)) * (1 << UNIT)).astype(np.int64)
        wanted = (cell << UNIT) + np.minimum(step, (1 << UNIT) - 1)
        bucket = wanted >> self._coarse
        low, high = self._guide[bucket].astype(np.int64), self._guide[bucket + 1].astype(np.int64)
        # Few places share their bucket with an end of an arc; those that do halve what is left.
        rows = np.flatnonzero(low < high)
        while len(rows):
            middle = (low[rows] + high[rows]) >> 1
            beyond = self._arcs[middle] <= wanted[rows]
            low[rows[beyond]] = middle[beyond] + 1
            high[rows[~beyond]] = middle[~beyond]
            rows = rows[low[rows] < high[rows]]
        return self.entry_item[low % len(self.entry_item)].astype(np.int64)

    def describe(self) -> Iterator[pl.DataFrame]:
        """item_id, title, categories (its topic's category, then its topic), chunk by chunk."""
        names, groups = topic_names(np.arange(self.settings.T)), category_names(self.topics.category)
        for number in self._chunks():
            topic = self.entry_topic[self._first[number]]
            frame = pl.DataFrame(
                {"item_id": self.names.series(number), "category": groups.gather(topic), "topic": names.gather(topic)}
            )
            title = pl.format("{}, item {}", "topic", "item_id").alias("title")
            yield frame.select("item_id", title, pl.concat_list("category", "topic").alias("categories"))

    def truth(self) -> Iterator[pl.DataFrame]:
        """What is planted in the items, chunk by chunk.

        item_id, topic, place, popularity (of all clicks, by the law), second_topic and second_place (null for most),
        vector (D float32: the mean of the item's places on its rings, blurred, at length 1).
        """
        for number in self._chunks():
            one, other = self._first[number], self._last[number]
            alone = pl.Series(one == other)
            vectors = self._vectors(one) + self._vectors(other)
            draw = seeds.stream(self.settings.seed, "synth", "vectors", int(number[0]))
            vectors = _unit(_unit(vectors) + BLUR * draw.standard_normal(vectors.shape) / np.sqrt(vectors.shape[1]))
            frame = pl.DataFrame(
                {
                    "item_id": self.names.series(number),
                    "topic": self.entry_topic[one].astype(np.int64),
                    "place": self.entry_place[one],
                    "popularity": self.popularity[number],
                    "second_topic": self.entry_topic[other].astype(np.int64),
                    "second_place": self.entry_place[other],
                    "vector": vectors.astype(np.float32),
                }
            )
            yield frame.with_columns(pl.when(~alone).then(pl.col("second_topic", "second_place")))

    def _vectors(self, entry: NDArray[np.int32]) -> FloatArray:
        return self.topics.vectors(self.entry_topic[entry].astype(np.int64), self.entry_place[entry])

    def _chunks(self) -> Iterator[IntArray]:
        return (np.arange(n, min(n + _CHUNK, self.settings.items)) for n in range(0, self.settings.items, _CHUNK))

    @cached_property
    def _first(self) -> NDArray[np.int32]:
        """(M,) the entry of each item that stands first in the table."""
        found = np.empty(self.settings.items, np.int32)
        found[self.entry_item[::-1]] = np.arange(len(self.entry_item), dtype=np.int32)[::-1]
        return found

    @cached_property
    def _last(self) -> NDArray[np.int32]:
        """(M,) the entry that stands last; the same one for an item of one topic."""
        found = np.empty(self.settings.items, np.int32)
        found[self.entry_item] = np.arange(len(self.entry_item), dtype=np.int32)
        return found


class _Trends:
    """How the popularity of items goes with time: some always stay; others are born, at a peak, and fade."""

    _LIFE = 0.3

    def __init__(self, settings: Settings) -> None:
        draw = seeds.stream(settings.seed, "synth", "trends")
        self._knots = np.linspace(0, 1, settings.knots)
        self._ever = draw.random(settings.items) < settings.evergreen
        self._birth = draw.random(settings.items) * 1.5 - 0.5
        weights = np.full(settings.knots, 1 / (settings.knots - 1))
        weights[[0, -1]] /= 2
        self._mean = sum(weight * self._raw(knot) for weight, knot in zip(weights, self._knots, strict=True))

    def _raw(self, time: float) -> FloatArray:
        age = time - self._birth
        return np.where(age < 0, 0.0, np.exp(-np.abs(age) / self._LIFE))

    def at(self, knot: int) -> FloatArray:
        """(M,) the factors of the popularities at a knot; over the whole span their mean is 1 for every item."""
        return np.where(self._ever, 1.0, self._raw(self._knots[knot]) / self._mean)


def zipf_mandelbrot(n: int, exponent: float, shift: float) -> FloatArray:
    """(n,) shares of the ranks 1..n, proportional to (rank + shift)^-exponent; they sum to 1."""
    found = (np.arange(1, n + 1) + shift) ** -exponent
    return found / found.sum()


def ordered(keys: IntArray, bits: int) -> tuple[IntArray, IntArray]:
    """The order (n,) in which the keys (n,), whole numbers below 2^bits, ascend, equal ones as they stand; the keys so.

    Sorting numbers that carry their row is several times as fast as a stable argsort, and the same on all machines.
    """
    room = max(len(keys) - 1, 1).bit_length()
    if bits + room > 63:
        order = np.argsort(keys, kind="stable")
        return order, keys[order]
    packed = np.sort((keys << room) | np.arange(len(keys)))
    return packed & ((1 << room) - 1), packed >> room


def _unit(rows: FloatArray) -> FloatArray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
