"""Every preset is kept, and gone on with, as if nothing had been."""

import pytest

import contract
from presets import ALL, TRAINED, over


@over(ALL)
def test_checkpoint_round_trip(one, preset, tmp_path):
    contract.checkpoint_round_trip(one, preset, tmp_path)


@pytest.mark.parametrize("updates", ["dense", "row-sparse"])
@over(TRAINED)
def test_resuming_equals_an_unbroken_run(one, preset, updates, tmp_path):
    contract.resuming_equals_an_unbroken_run(one, preset, tmp_path, updates)
