"""Draws of a part of a batch are its rows of the whole batch's draws; no processes are needed to see it."""

import pytest
import torch
from torch.nn import functional

from diffacet.core import draws, world
from diffacet.core.world import Part, World

COUNTED = (3, 0, 2)  # process 1 is idle: it holds a row that does not count
ROWS = (3, 1, 2)
DRAWS = {
    "rand": lambda n: torch.rand(n, 4),
    "rand, a tuple": lambda n: torch.rand((n, 4), dtype=torch.float64),
    "rand, size": lambda n: torch.rand(size=(n, 4)),
    "randn": lambda n: torch.randn(n, 2, 2),
    "randint": lambda n: torch.randint(9, (n, 4)),
    "randint from": lambda n: torch.randint(5, 9, (n,)),
    "randint, size": lambda n: torch.randint(5, 9, size=(n, 2)),
    "rand_like": lambda n: torch.rand_like(torch.zeros(n, 4, dtype=torch.float64)),
    "rand_like, input": lambda n: torch.rand_like(input=torch.zeros(n, 4)),
    "randn_like": lambda n: torch.randn_like(torch.zeros(n, 3), dtype=torch.float64),
    "dropout": lambda n: functional.dropout(torch.full((n, 5), 2.0), 0.4),
    "dropout, half": lambda n: functional.dropout(torch.ones(n, 5)),
}
each_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())


def part(rank):
    return Part(World(rank, 3), COUNTED, ROWS, ROWS)


def drawn(draw, rank, n):
    torch.manual_seed(5)
    with draws.widened(None if rank is None else part(rank)):
        return draw(n), torch.rand(())  # what is drawn next is the same in all


@each_draw
def test_a_part_has_its_rows_of_what_all_would_draw(draw):
    whole, after = drawn(draw, None, 5)
    for rank, begin in ((0, 0), (2, 3)):
        found, next_one = drawn(draw, rank, ROWS[rank])
        assert torch.allclose(found, whole[begin : begin + ROWS[rank]])
        assert found.dtype == whole.dtype
        assert torch.equal(next_one, after)
    idle, next_one = drawn(draw, 1, 1)
    assert idle.shape == whole[:1].shape
    assert torch.equal(next_one, after)


def test_draws_of_other_shapes_are_the_same_in_all():
    for draw in (lambda n: torch.rand(7, 3), lambda n: torch.randn(()), lambda n: torch.randint(9, (4, 3))):
        whole = drawn(draw, None, 5)
        for rank in range(3):
            assert all(torch.equal(a, b) for a, b in zip(whole, drawn(draw, rank, 0), strict=True))


def test_dropout_draws_nothing_where_nothing_is_left_out():
    for draw in (
        lambda n: functional.dropout(torch.ones(n, 4), 0.0),
        lambda n: functional.dropout(torch.ones(n, 4), 0.4, False),
    ):
        found, after = drawn(draw, 2, 2)
        assert torch.equal(found, torch.ones(2, 4))
        assert torch.equal(after, drawn(lambda n: None, None, 0)[1])


def test_rows_may_be_another_dimension():
    def turned(n):
        with draws.along(1):
            first = torch.rand(4, n, 2)
        return first, torch.rand(n, 2)  # afterwards the first dimension again

    torch.manual_seed(5)
    whole = turned(5)
    torch.manual_seed(5)
    with draws.widened(part(2)):
        first, then = turned(2)
    assert torch.equal(first, whole[0][:, 3:])
    assert torch.equal(then, whole[1][3:])


def test_outside_nothing_changes():
    with draws.along(1), draws.ragged(3), draws.widened(None):
        torch.manual_seed(5)
        inside = torch.rand(3, 3)
    torch.manual_seed(5)
    assert torch.equal(inside, torch.rand(3, 3))
    with draws.widened(part(0)):
        pass
    torch.manual_seed(5)
    assert torch.equal(inside, torch.rand(3, 3))


def test_ragged_draws_are_of_as_many_rows_as_are_told(monkeypatch):
    """Each process has two for each of its rows; the idle one tells that it has none."""
    told = []

    def table(self, numbers):
        told.append(numbers)
        return [[2 * rows] for rows in COUNTED]

    monkeypatch.setattr(World, "table", table)
    torch.manual_seed(5)
    whole = torch.rand(10, 3), torch.rand(5, 3)
    for rank, begin in ((0, 0), (2, 6)):
        torch.manual_seed(5)
        with world.dealt(part(rank)), draws.widened(part(rank)):
            with draws.ragged(2 * ROWS[rank]):
                found = torch.rand(2 * ROWS[rank], 3)
            then = torch.rand(ROWS[rank], 3)
        assert torch.equal(found, whole[0][begin : begin + 2 * ROWS[rank]])
        assert torch.equal(then, whole[1][sum(COUNTED[:rank]) :][: ROWS[rank]])
    with world.dealt(part(1)), draws.widened(part(1)), draws.ragged(2):
        assert torch.rand(2, 3).shape == (2, 3)
    assert told == [[6], [4], [0]]
