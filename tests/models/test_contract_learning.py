"""Every preset learns: who belongs to which group, from histories alone."""

import contract
from presets import PERSONAL, over


@over(PERSONAL)
def test_learns_a_checkerboard(one, preset):
    contract.learns_a_checkerboard(one, preset)
