import math

import numpy as np
import torch

import contract
from diffacet.core.contract import Facts
from diffacet.data.sequences import Sequences
from diffacet.data.splits import Holdout
from diffacet.models.random import Random, RandomConfig
from diffacet.rank.evaluate import evaluate

N, CASES = 40, 3_000


def answers(seed=0, cases=5):
    return contract.answer(Random(RandomConfig(seed), Facts(N, 5)), contract.histories([[1, 2]] * cases))


def test_scores_belong_to_the_case_and_the_seed():
    assert torch.equal(answers(), answers())
    assert torch.equal(answers()[:2], answers(cases=2))
    assert not torch.equal(answers()[0], answers()[1])
    assert not torch.equal(answers(), answers(seed=1))


def test_a_list_of_k_holds_a_target_with_chance_k_of_n():
    """Within four standard errors."""
    rows, targets = np.arange(CASES), 1 + np.arange(CASES) % N
    holdout = Holdout(Sequences.from_rows(rows, targets, None, CASES), Sequences.from_rows(rows, targets, None, CASES))
    found = evaluate(Random(RandomConfig(), Facts(N, 5)), holdout, length=5, ks=(1, 10))
    for k in (1, 10):
        chance = k / N
        assert abs(found[f"hit_rate@{k}"] - chance) < 4 * math.sqrt(chance * (1 - chance) / CASES)
