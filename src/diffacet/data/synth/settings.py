"""What a generated log is made from: every number that decides its rows."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from diffacet.errors import BadSetting

MOST_INTERESTS = 5
SLOTS = MOST_INTERESTS + 1
"""Interests that a user may have over a life: the last one replaces another, if it does."""
LONGEST_MEAN = 100_000
MOST_TOPICS = 1_000
BLOCK_ROWS = 131_072
"""Rows that are drawn at once: few enough for the caches, and what bounds the memory."""
NUMBERS, TEXT = "numbers", "text"


@dataclass(frozen=True)
class Settings:
    """Settings of a generated log; the same ones give the same rows.

    Attributes:
        users: N.
        items: M.
        interactions: X, exactly.
        topics: T; None: half the root of M, within 6..1000.
        interests: mean of K_u, which lies in 1..5.
        zipf: exponent s of the items' popularity, (rank + shift)^-s.
        shift: q of the same law; None: 20 + M / 1000, by which no item is most of its topic.
        noise: share of clicks that have nothing to do with the user's interests.
        repeats: share of the clicks on an item that the user has met which are let pass; the others are drawn anew from
            a wider surrounding, twice at most, so that more may remain.
        drift: how far interests move over a life, 0: not at all; also the chance that one of them is replaced.
        width: standard deviation of clicks around the user's place in a topic, in shares of the topic's popularity.
        focus: share of a session's clicks that are of the session's own interest.
        session: mean clicks of a session.
        evergreen: share of the items whose popularity does not change with time.
        activity: standard deviation of the logarithm of users' activity.
        min_history: fewest clicks of a user.
        days: span of time in which sessions begin.
        begin: when the span begins, seconds since 1970.
        latent: D, width of the latent vectors.
        ids: "numbers" or "text".
        ratings: whether clicks have a rating of 1..5.
        seed: of everything.
    """

    users: int
    items: int
    interactions: int
    topics: int | None = None
    interests: float = 3.0
    zipf: float = 1.0
    shift: float | None = None
    noise: float = 0.1
    repeats: float = 0.2
    drift: float = 0.5
    width: float = 0.08
    focus: float = 0.8
    session: float = 4.0
    evergreen: float = 0.5
    activity: float = 1.0
    min_history: int = 1
    days: float = 365.0
    begin: int = 1_704_067_200
    latent: int = 16
    ids: str = NUMBERS
    ratings: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Fill in what is None and check all ranges; raises BadSetting."""
        for name in ("users", "items", "interactions", "min_history"):
            _within(name, getattr(self, name), 1, math.inf)
        if self.topics is None:
            object.__setattr__(self, "topics", min(max(SLOTS, round(math.sqrt(self.items) / 2)), MOST_TOPICS))
        if self.shift is None:
            object.__setattr__(self, "shift", 20 + self.items / 1000)
        _within("topics", self.T, SLOTS, MOST_TOPICS)
        if self.items < self.T:
            raise BadSetting(f"items is {self.T} or more, so that each topic has one; got {self.items}")
        _within("interests", self.interests, 1, MOST_INTERESTS)
        _within("zipf", self.zipf, 0, 4)
        _within("shift", self.q, 0, math.inf)
        for name in ("noise", "repeats", "focus", "evergreen"):
            _within(name, getattr(self, name), 0, 1)
        _within("drift", self.drift, 0, 1)
        _within("width", self.width, 0.001, 0.5)
        _within("session", self.session, 1, 1000)
        _within("activity", self.activity, 0, 2)
        _within("days", self.days, 0.01, 36_500)
        _within("latent", self.latent, 3, 1024)
        if self.ids not in (NUMBERS, TEXT):
            raise BadSetting(f"ids is {NUMBERS} or {TEXT}; got '{self.ids}'")
        fewest = self.users * self.min_history
        if self.interactions < fewest:
            raise BadSetting(
                f"{self.users:,} users with {self.min_history} or more interactions each are {fewest:,} or more; "
                f"got --interactions {self.interactions}; take more of them, or fewer users"
            )
        if self.interactions > self.users * LONGEST_MEAN:
            raise BadSetting(
                f"a user has {LONGEST_MEAN:,} interactions on average at most; {self.interactions:,} of "
                f"{self.users:,} users are more; take more users"
            )

    @property
    def T(self) -> int:  # noqa: N802 - the symbol
        """Topics."""
        assert self.topics is not None
        return self.topics

    @property
    def q(self) -> float:
        """Shift of the popularity law."""
        assert self.shift is not None
        return self.shift

    @property
    def mean(self) -> float:
        """Mean interactions of a user."""
        return self.interactions / self.users

    @property
    def knots(self) -> int:
        """Moments, evenly spaced over the span, at which popularities are told; linear in between."""
        return 1 if self.evergreen == 1 else 6 if self.items <= 10_000_000 else 2

    @property
    def block_users(self) -> int:
        """Users whose clicks are drawn at once; depends on N and X only, so files do not decide what is in them."""
        rows = min(BLOCK_ROWS, max(1024, self.interactions // 64))
        return max(1, min(round(rows / self.mean), 65_536))

    @property
    def blocks(self) -> int:
        """How many such groups of users there are."""
        return -(-self.users // self.block_users)

    def told(self) -> dict[str, Any]:
        """All settings, name -> value, as JSON may hold them."""
        return asdict(self)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        span = f"is {low:g} or more" if high == math.inf else f"lies in {low:g}..{high:g}"
        raise BadSetting(f"{name} {span}; got {value:g} (from --{name.replace('_', '-')} {value:g})")
