"""The clicks of a generated log, one block of users at a time, without a loop over users, sessions or clicks.

Shapes: U users, V sessions, n clicks of a block; the clicks of a session, and the sessions of a user, are neighbours.
"""

from dataclasses import dataclass

import numpy as np

from diffacet import seeds
from diffacet.data.sequences import IntArray
from diffacet.data.synth.catalogue import Catalogue, FloatArray, ordered
from diffacet.data.synth.people import Activity, Float32Array, People, chosen, make_people
from diffacet.data.synth.settings import SLOTS, Settings

DAY, WEEK = 86_400, 7 * 86_400
PAUSE = 45.0
"""Mean seconds between two clicks of a session, beyond the first second."""
STEP = 0.25
"""Standard deviation of the way from one click of a session to the next, in widths."""
NOISE = -1
_HOURS = np.array([4, 2, 1, 1, 1, 2, 4, 6, 7, 8, 8, 9, 9, 9, 9, 9, 10, 11, 12, 14, 15, 14, 10, 7], np.float64)
_DAYS = np.array([9, 9, 9, 9, 10, 12, 12], np.float64)
"""Clicks by hour and by day of the week, Monday first."""


@dataclass(frozen=True, eq=False)
class Block:
    """The clicks of a block of users, user by user, session by session.

    Attributes:
        first: number of the first user.
        people: the users.
        user: (n,) int64 row of `people`.
        session: (n,) int64, counted over the block.
        slot: (n,) int64 the interest that a click is for, NOISE if for none.
        item: (n,) int64 item numbers from 0.
        time: (n,) int64 seconds since 1970.
        rating: (n,) float64 of 1..5, or None.
    """

    first: int
    people: People
    user: IntArray
    session: IntArray
    slot: IntArray
    item: IntArray
    time: IntArray
    rating: FloatArray | None


@dataclass(frozen=True, eq=False)
class _Sessions:
    """V sessions: user, begin in seconds of the span, knot of time, interest, its place."""

    user: IntArray
    begin: FloatArray
    knot: IntArray
    slot: IntArray
    running: Float32Array
    offset: FloatArray


@dataclass(frozen=True, eq=False)
class _Aim:
    """The cell (n,), moment and topic, and the place (n,) on the topic's ring then, about which clicks fall."""

    cell: IntArray
    place: FloatArray


def draw_block(settings: Settings, catalogue: Catalogue, activity: Activity, block: int) -> Block:
    """All clicks of the users of one block; they depend on the settings and the block's number only."""
    s, counts = settings, activity.counts(block)
    people = make_people(s, catalogue, block, len(counts))
    draw = seeds.stream(s.seed, "synth", "clicks", block)
    n = int(counts.sum())
    starts = np.cumsum(counts) - counts
    fresh = draw.random(n, np.float32) < 1 / s.session
    fresh[starts] = True
    opening = np.flatnonzero(fresh)
    session = np.cumsum(fresh) - 1
    user = np.repeat(np.arange(len(counts)), counts)
    visits = _sessions(draw, s, people, user[opening], session[starts])
    slot = _slots(draw, s, visits, session)
    walk = np.cumsum(draw.standard_normal(n, np.float32) * np.float32(STEP), dtype=np.float64)
    walk -= walk[opening][session]
    away = s.width * (walk + visits.offset[session])
    aim = _aim(draw, s, catalogue, people, visits.knot[session], user, slot)
    item = catalogue.find(aim.cell, aim.place + away)
    if s.repeats < 1:
        _anew(draw, s, catalogue, user, aim, item, away)
    pause = np.floor(draw.standard_exponential(n, np.float32) * np.float32(PAUSE)).astype(np.int64) + 1
    since = np.cumsum(pause)
    since -= since[opening][session]
    time = s.begin + visits.begin.astype(np.int64)[session] + since
    rating = _ratings(draw, s, slot, away) if s.ratings else None
    return Block(block * s.block_users, people, user, session, slot, item, time, rating)


def _sessions(draw: np.random.Generator, s: Settings, people: People, user: IntArray, firsts: IntArray) -> _Sessions:
    """Sessions of the users (V,), `firsts` (U,) being each user's first one: evenly spread over a life, at random."""
    gaps = draw.standard_exponential(len(user))
    last = draw.standard_exponential(len(firsts))
    passed = np.cumsum(gaps)
    before = passed[firsts] - gaps[firsts]
    whole = np.append(passed[firsts[1:] - 1], passed[-1]) - before + last
    tau = (passed - before[user]) / whole[user]
    share = np.clip(people.birth[user] + people.life[user] * tau, 0.0, 1.0)
    running = people.running(user, tau, s.drift)
    at = share * (s.knots - 1)
    low = np.minimum(at.astype(np.int64), max(s.knots - 2, 0))
    knot = low + (draw.random(len(user)) < at - low)
    slot = chosen(running, draw.random(len(user)))
    begin = _habits(share, s.begin, s.days * DAY)
    return _Sessions(user, begin, knot, slot, running, draw.standard_normal(len(user)))


def _habits(share: FloatArray, begin: int, span: float) -> FloatArray:
    """(V,) seconds since `begin` of the shares (V,) of all activity in `span` seconds, which goes by hour and weekday.

    In their order, without gaps: the inverse of what has been clicked by a moment.
    """
    hours = (_DAYS[:, None] * _HOURS).reshape(-1)
    running = np.concatenate([[0.0], np.cumsum(hours)]) / hours.sum()
    clock = np.arange(len(running)) * 3600.0
    monday = float((begin // DAY + 3) % 7 * DAY + begin % DAY)  # seconds since Monday; 1970 began on a Thursday
    week, part = np.divmod(np.array([monday, monday + span]), WEEK)
    low, high = week + np.interp(part, clock, running)
    week, part = np.divmod(low + share * (high - low), 1.0)
    return np.clip(week * WEEK + np.interp(part, running, clock) - monday, 0.0, span)


def _slots(draw: np.random.Generator, s: Settings, visits: _Sessions, session: IntArray) -> IntArray:
    """(n,) the interest of each click: its session's, or another by the same weights, or NOISE."""
    slot = visits.slot[session]
    other = np.flatnonzero(draw.random(len(session), np.float32) >= s.focus)
    slot[other] = chosen(visits.running[session[other]], draw.random(len(other)))
    slot[draw.random(len(session), np.float32) < s.noise] = NOISE
    return slot


def _aim(
    draw: np.random.Generator,
    s: Settings,
    catalogue: Catalogue,
    people: People,
    knot: IntArray,
    user: IntArray,
    slot: IntArray,
) -> _Aim:
    """Where the clicks (n,) would fall without straying; noise on a place of its own, of topics by popularity."""
    stray = np.flatnonzero(slot == NOISE)
    mine = user * SLOTS + slot
    topic, place = people.topic.reshape(-1)[mine], people.place.reshape(-1)[mine]
    running = np.cumsum(catalogue.share)
    topic[stray] = np.searchsorted(running / running[-1], draw.random(len(stray)), side="right")
    cell = knot * s.T + topic
    if s.knots > 1:
        place = catalogue.moved(cell, place)
    place[stray] = draw.random(len(stray))
    return _Aim(cell, place)


def _anew(
    draw: np.random.Generator,
    s: Settings,
    catalogue: Catalogue,
    user: IntArray,
    aim: _Aim,
    item: IntArray,
    away: FloatArray,
) -> None:
    """Draw clicks on items that their user has met anew, in place, each time from twice as wide a surrounding."""
    let = draw.random(len(item), np.float32) < s.repeats
    bits = (s.block_users * s.items).bit_length()
    for wide in (2.0, 4.0):
        order, pairs = ordered(user * s.items + item, bits)
        again = np.sort(order[1:][pairs[1:] == pairs[:-1]])
        again = again[~let[again]]
        away[again] = wide * s.width * draw.standard_normal(len(again))
        item[again] = catalogue.find(aim.cell[again], aim.place[again] + away[again])


def _ratings(draw: np.random.Generator, s: Settings, slot: IntArray, away: FloatArray) -> FloatArray:
    """(n,) whole ratings of 1..5: high near the user's place, lower farther away, low for noise."""
    liking = 4.6 - 0.8 * np.minimum(np.abs(away) / s.width, 2.0)
    liking[slot == NOISE] = 2.5
    return np.clip(np.rint(liking + 0.7 * draw.standard_normal(len(slot))), 1.0, 5.0)
