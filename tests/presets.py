"""Cards and presets that the tests of what every model promises go over: `contract.py` has what that is."""

import numpy as np
import pytest

import contract
from diffacet.core.contract import Facts, Trained
from diffacet.models import MODELS, card

CARDS = [card(name) for name in MODELS]
EVERY = [(one, preset) for one in CARDS if one.task != "click" for preset in one.presets]


def different(pairs, **changes):
    """Of presets that small sizes and `changes` make equal in every setting, the first."""
    found = {}
    for one, preset in pairs:
        chosen = contract.small(one, preset, **changes)
        found.setdefault(repr((one.name, chosen.model, chosen.training)), (one, preset))
    return list(found.values())


ALL = different(EVERY)


def is_trained(one):
    return isinstance(one.build(one.config(), Facts(2, 2, n_users=1, clusters=np.array([-1, 0, 1]))), Trained)


UNTRAINED = {one.name for one in CARDS if one.task != "click" and not is_trained(one)}
TRAINED = [(one, preset) for one, preset in ALL if one.name not in UNTRAINED]
# pop and random: what a history does not move; dreamrec: whose items start at length sqrt(d), and learns the
# checkerboard at sizes of its own (tests/models/test_dreamrec.py).
IMPERSONAL = {"pop", "random", "dreamrec"}
PERSONAL = different([(one, preset) for one, preset in ALL if one.name not in IMPERSONAL], **contract.LEARNING)


def over(pairs):
    return pytest.mark.parametrize(("one", "preset"), pairs, ids=[f"{one.name}-{preset}" for one, preset in pairs])
