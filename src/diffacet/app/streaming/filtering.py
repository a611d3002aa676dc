"""The filters of a streamed import: what they leave, found by passes over the sorted partitions.

What stays is the same as of `diffacet.data.filters`: repeats, then ratings, then one pass of minimum counts, then the
core. Of rows that repeat user, item and time the first in canonical order stays, the lowest rated, whatever was read
first.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diffacet.app.importing import DROPPED, READ, Step, told
from diffacet.app.streaming.driving import Mapped, Watch, followed
from diffacet.app.streaming.reading import Read
from diffacet.data.sequences import BoolArray, IntArray
from diffacet.data.streaming import keeping
from diffacet.data.streaming.keeping import Counted, Counting, Least, Rule
from diffacet.errors import BadLog, BadSetting


@dataclass(frozen=True)
class Filters:
    """What is asked for; see `importing.import_log`."""

    min_rating: float | None = None
    min_count: int | None = None
    k_core: int | None = None
    distinct: bool = False

    def check(self) -> None:
        """Refuse what can leave nothing to anybody. Raises BadSetting."""
        for count in (self.min_count, self.k_core):
            if count is not None and count < 1:
                raise BadSetting(f"a minimum number of interactions is 1 or more; got {count}")


@dataclass(frozen=True)
class Left:
    """What filters leave.

    Attributes:
        rule: which rows stay.
        counts: (N,) how often each item of `Read.items` is left.
        catalogue: (N,) bool, the items that stay in the catalogue.
        users: (partitions,) how many each has.
        steps: what was read, and what each filter left.
    """

    rule: Rule
    counts: IntArray
    catalogue: BoolArray
    users: tuple[int, ...]
    steps: tuple[Step, ...]


def filtered(log: Read, filters: Filters, spill: Path, *, rated: bool, mapped: Mapped, watch: Watch) -> Left:
    """What `filters` leave of `log`, whose files lie in `spill`.

    Raises BadLog when one leaves nobody, with what there was up to there.
    """
    return _Pass(log, spill, mapped, watch).all(filters, rated)


class _Pass:
    """Passes over the partitions, each with a longer rule than the one before."""

    def __init__(self, log: Read, spill: Path, mapped: Mapped, watch: Watch) -> None:
        self.log, self.spill, self.mapped, self.watch = log, spill, mapped, watch
        self.rule = Rule()
        self.counts = log.items["len"].to_numpy()
        self.there = np.ones(len(self.counts), np.bool_)
        self.found: list[Counted] = []
        self.steps = [Step(READ, log.users, len(self.counts), log.rows)]

    def all(self, filters: Filters, rated: bool) -> Left:
        try:
            if filters.distinct:
                self.look(replace(self.rule, distinct=True))
                self.step(DROPPED)
            if filters.min_rating is not None:
                self.rating(filters.min_rating, rated)
            if filters.min_count is not None:
                self.once(filters.min_count)
            if filters.k_core is not None:
                self.core(filters.k_core)
        except BadLog as error:
            raise BadLog(f"{error}; up to there: {'; '.join(map(told, self.steps))}") from error
        users = [one.users for one in self.found or self.log.parts]
        return Left(self.rule, self.counts, self.there, tuple(users), tuple(self.steps))

    def look(self, rule: Rule) -> None:
        """Count what `rule` leaves."""
        tasks = [Counting(one.number, one.path, rule, self.spill) for one in self.log.parts]
        sizes = [one.rows for one in self.log.parts]
        found = followed(self.mapped, keeping.count, tasks, self.watch("rows filtered"), sizes)
        self.found = sorted(found, key=lambda one: one.number)
        self.rule, self.counts = rule, keeping.total(self.found, len(self.counts))

    def step(self, what: str) -> None:
        self.steps.append(Step(what, self.users, int(self.there.sum()), self.rows))

    @property
    def rows(self) -> int:
        return sum(one.rows for one in self.found) if self.found else self.log.rows

    @property
    def users(self) -> int:
        return sum(one.users for one in self.found) if self.found else self.log.users

    def rating(self, least: float, rated: bool) -> None:
        if not rated:
            raise BadLog(
                f"a rating of at least {least:g} was asked for, but the log has no ratings; leave out --min-rating,"
                " or name their column by --rating COL"
            )
        before = self.rows
        self.look(replace(self.rule, rating=least))
        if not self.rows:
            ends = [one.ratings for one in self.found if one.ratings is not None]
            raise BadLog(
                f"no interaction is rated {least:g} or more; the ratings of the {before} interactions lie in "
                f"{min(low for low, _ in ends)!r}..{max(high for _, high in ends)!r}"
            )
        self.there = self.counts > 0
        self.step(f"rating {least:g} or more")

    def once(self, least: int) -> None:
        users, items, rows = self.users, int(self.there.sum()), self.rows
        stay = self.counts >= least
        self.look(replace(self.rule, least=(Least(least, self.mask(stay, "once")),)))
        if not self.users:
            raise BadLog(
                f"a minimum of {least} leaves nobody: {users} users, {items} items and {rows} interactions came in; "
                f"{int(stay.sum())} items have {least} or more, and 0 users have {least} or more on these (at most "
                f"{max(one.most for one in self.found)}); lower the minimum"
            )
        self.there = stay
        self.step(f"count {least} or more, once")

    def core(self, least: int) -> None:
        earlier = self.rule.least
        left = [self.left()]
        while True:
            before = self.rows
            # A user or item that is out stays out, so the rows of a round follow from its items alone.
            mask = self.mask(self.counts >= least, f"core-{len(left) % 2}")
            self.look(replace(self.rule, least=(*earlier, Least(least, mask))))
            if not self.rows:
                raise BadLog(
                    f"the {least}-core is empty; round by round there were {'; '.join([*left[:5], 'nobody'])}; lower n"
                )
            if self.rows == before:
                break
            left.append(self.left())
        self.there = self.counts > 0
        self.step(f"{least}-core")

    def left(self) -> str:
        return f"{self.users} users, {int((self.counts > 0).sum())} items, {self.rows} interactions"

    def mask(self, stay: BoolArray, name: str) -> Path:
        path = self.spill / f"{name}.npy"
        np.save(path, stay)
        return path
