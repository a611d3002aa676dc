import itertools
import sys

import numpy as np
import pytest
import scipy.sparse
import torch
from implicit.cpu.als import AlternatingLeastSquares

import contract
from diffacet.core.batch import Histories
from diffacet.core.contract import Facts
from diffacet.errors import MissingExtra
from diffacet.learn.fit import initial_weights
from diffacet.models import als
from diffacet.models.als import ALS, CARDS, ALSConfig

N, D = 11, 3
ROWS = [[1, 2, 3], [3, 4, 2], [], [5, 1, 5, 6], [7, 8, 9, 10], [9, 1], [10, 2, 7]]  # item 11 is nobody's
SHOWN = [[1, 2, 3], [], [4, 4, 9, 4], [11], [8, 2, 10, 1, 5]]


def facts(rows=ROWS, n_items=N):
    items = np.array(list(itertools.chain.from_iterable(rows)), dtype=np.int64)
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return Facts(n_items, 0, items, offsets, np.arange(len(rows), dtype=np.int64), len(rows))


def build(rows=ROWS, n_items=N, seed=0, **settings):
    with initial_weights(seed):
        return ALS(ALSConfig(**{"dim": D, "regularization": 0.5, "alpha": 4.0, **settings}), facts(rows, n_items))


def histories(rows, user=-1):
    items = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for b, row in enumerate(rows):
        items[b, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return Histories(items, torch.full((len(rows),), user), torch.zeros(len(rows), dtype=torch.int64))


def weights(row, oldest):
    """{item: weight} of a row, each item where it came last, rising evenly from the oldest to 1."""
    distinct = [item for place, item in enumerate(row) if item not in row[place + 1 :]]
    steps = max(1, len(distinct) - 1)
    return {item: oldest + place / steps * (1 - oldest) for place, item in enumerate(distinct)}


def solve(table, weighted, alpha, penalty):
    """The vector that minimises, over all rows y of `table`, c (p - x^T y)^2 + penalty |x|^2, entry by entry."""
    A, b = penalty * np.eye(table.shape[1]), np.zeros(table.shape[1])
    for number, y in enumerate(table):
        confidence = 1 + alpha * weighted.get(number, 0)
        A += confidence * np.outer(y, y)
        b += confidence * (number in weighted) * y
    return np.linalg.solve(A, b)


@pytest.mark.parametrize("oldest", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("cells", [1, 2**22])
def test_a_user_is_solved_from_the_history(oldest, cells, monkeypatch):
    monkeypatch.setattr(als, "CELLS_AT_ONCE", cells)
    model = build(oldest_weight=oldest).double()
    found = model.interests(histories(SHOWN))
    assert found.shape == (len(SHOWN), 1, D)
    for row, user in zip(SHOWN, found[:, 0].numpy(), strict=True):
        assert np.allclose(user, solve(model.factors.numpy(), weights(row, oldest), 4.0, 0.5), atol=1e-6)
    assert not found[1].any()
    assert torch.equal(model.interests(histories(SHOWN, user=3)), found)  # who it is does not matter


def test_a_user_is_solved_as_by_the_library():
    model = build()
    peer = AlternatingLeastSquares(D, regularization=0.5, num_threads=1)
    peer.item_factors = model.factors[1:].numpy()
    rows = [[1, 2, 3], [4, 9], [11], [8, 2, 10, 1, 5]]
    where = [(user, item - 1) for user, row in enumerate(rows) for item in row]
    matrix = scipy.sparse.csr_matrix((np.full(len(where), 5.0, np.float32), tuple(zip(*where, strict=True))), (4, N))
    expected = peer.recalculate_user(np.arange(4), matrix)
    assert np.allclose(model.interests(histories(rows))[:, 0].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.5, 4.0])
def test_item_factors_answer_the_users(alpha):
    """After many sweeps every item's vector solves its own system, given its users' vectors (Eq. 5)."""
    model = build(alpha=alpha, iterations=400).double()
    table = model.interests(histories(ROWS))[:, 0].numpy()
    assert np.abs(table).max() > 0.1
    for item in range(1, N + 1):
        met = {user: 1.0 for user, row in enumerate(ROWS) if item in row}
        assert np.allclose(model.factors[item].numpy(), solve(table, met, alpha, 0.5), atol=1e-3), item
    assert not model.factors[0].any()
    assert not model.factors[N].any()


def objective(model, rows=ROWS, alpha=4.0, penalty=0.5):
    """Eq. 3."""
    table, users = model.factors[1:].double(), model.double().interests(histories(rows))[:, 0]
    p = torch.zeros(len(rows), N, dtype=torch.float64)
    for user, row in enumerate(rows):
        p[user, torch.tensor(row, dtype=torch.int64) - 1] = 1
    error = ((1 + alpha * p) * (p - users @ table.T).square()).sum()
    return float(error + penalty * (table.square().sum() + users.square().sum()))


def test_sweeps_lower_the_objective():
    found = [objective(build(iterations=count)) for count in (1, 3, 30)]
    assert found[0] > found[1] > found[2]


def test_a_repeated_item_counts_once():
    once = [[item for place, item in enumerate(row) if item not in row[:place]] for row in ROWS]
    assert torch.equal(build().factors, build(once).factors)


def test_one_seed_is_one_model_and_two_are_two():
    assert torch.equal(build().factors, build().factors)
    assert not torch.allclose(build().factors, build(seed=1).factors, atol=1e-3)
    state = torch.get_rng_state()
    build(seed=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_sizes():
    model = build()
    assert not list(model.parameters())
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == {
        "factors": (N + 1, D),
        "squares": (D, D),
    }
    assert model.catalogue() is model.factors
    assert model.factors.dtype == model.interests(histories(SHOWN)).dtype == torch.float32


def test_two_blocks_of_items_are_told_apart():
    """Users like seven of the ten items of a block: those missing come before the other block's."""
    rng = np.random.default_rng(0)
    rows = [(1 + 10 * (user % 2) + rng.permutation(10)[:7]).tolist() for user in range(60)]
    model = build(rows, 20, dim=2, regularization=2.0)
    for user, scores in enumerate(contract.answer(model, histories(rows))):
        scores[torch.tensor([0, *rows[user]])] = -torch.inf
        assert {(item - 1) // 10 for item in scores.topk(3).indices.tolist()} == {user % 2}


def test_nobody_gets_nothing():
    model, nobody = build(), torch.zeros(0, dtype=torch.int64)
    assert model.interests(Histories(torch.zeros(0, 4, dtype=torch.int64), nobody, nobody)).shape == (0, 1, D)
    assert model.interests(histories([[], []])).shape == (2, 1, D)


def test_without_the_library_nothing_is_fitted_but_a_run_answers(monkeypatch):
    model = build()
    monkeypatch.setitem(sys.modules, "implicit.als", None)
    with pytest.raises(MissingExtra, match=r"pip install .*diffacet\[als\]"):
        build()
    loaded = ALS(model.config, facts().without_training())
    assert not loaded.factors.numel()
    for name, value in model.state_dict().items():
        setattr(loaded, name, value)
    assert torch.equal(loaded.interests(histories(SHOWN)), model.interests(histories(SHOWN)))


@pytest.mark.parametrize("preset", CARDS[0].presets)
def test_what_every_model_promises(preset, tmp_path):
    (card,) = CARDS
    contract.shapes(card, preset)
    contract.same_answer_alone_or_in_a_batch(card, preset)
    contract.padding_is_irrelevant(card, preset)
    contract.an_empty_history_is_finite(card, preset)
    contract.inference_leaves_everything_alone(card, preset)
    contract.checkpoint_round_trip(card, preset, tmp_path)
    contract.settings_round_trip(card, preset)
    contract.learns_a_checkerboard(card, preset)
