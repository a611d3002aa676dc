from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from diffacet.core import world
from diffacet.core.world import World, cuts
from worlds import spawned


@given(st.integers(0, 200), st.integers(1, 9))
def test_cuts_are_even_and_whole(total, parts):
    ends = cuts(total, parts)
    sizes = [end - begin for begin, end in pairwise(ends)]
    assert (ends[0], ends[-1], len(sizes)) == (0, total, parts)
    assert max(sizes) - min(sizes) <= 1


def test_a_world_of_one_is_none():
    for alone in (None, World(0, 1)):
        with world.entered(alone):
            assert world.current() is None
    with world.entered(World(1, 2)):
        assert world.current() == World(1, 2)
        with world.entered(None):
            assert world.current() is None
        assert world.current() == World(1, 2)
    assert world.current() is None


def test_three_processes(tmp_path):
    """The assertions are in the processes: messages, parts of a loss, a divided table."""
    spawned(tmp_path, 3, "messages", "dealt", "tables")
