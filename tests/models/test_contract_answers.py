"""What every preset answers depends on the history alone: not on its batch, its company or its padding."""

import contract
from presets import ALL, over


@over(ALL)
def test_same_answer_alone_or_in_a_batch(one, preset):
    contract.same_answer_alone_or_in_a_batch(one, preset)


@over(ALL)
def test_bit_equal_in_any_company(one, preset):
    contract.bit_equal_in_any_company(one, preset)


@over(ALL)
def test_padding_is_irrelevant(one, preset):
    contract.padding_is_irrelevant(one, preset)
    contract.padding_row_is_irrelevant(one, preset)
