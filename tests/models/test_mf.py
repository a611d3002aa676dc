import math

import numpy as np
import pytest
import torch

from diffacet.core.batch import Histories, PairBatch
from diffacet.core.contract import Facts, Training
from diffacet.data.sequences import Sequences
from diffacet.learn.batches import batch_at, facts
from diffacet.models.mf import MF, MFConfig

U, N, D = 7, 11, 4
ROWS = [[1, 2, 3], [4], [5, 6, 7, 8], [], [2, 9], [10, 1], [3, 4, 5]]  # nobody meets item 11, user 3 meets none


def sequences(rows):
    users = np.array([user for user, row in enumerate(rows) if row], dtype=np.int64)
    kept = [row for row in rows if row]
    return Sequences(np.concatenate(kept).astype(np.int64), np.cumsum([0, *map(len, kept)], dtype=np.int64), users)


def model(seed=0, **settings):
    torch.manual_seed(seed)
    train = sequences(ROWS)
    return MF(MFConfig(dim=D, **settings), Facts(N, 0, train.items, train.offsets, train.users, U)).double()


def histories(rows, users):
    items = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for b, row in enumerate(rows):
        items[b, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return Histories(items, torch.tensor(users), torch.zeros(len(rows), dtype=torch.int64))


def pairs():
    return PairBatch(torch.tensor([0, 2, 2, 6]), torch.tensor([1, 5, 8, 3]), torch.tensor([9, 5, 11, 1]))


def scores(one, history):
    with torch.no_grad():
        return one.interests(history)[:, 0] @ one.catalogue().T


def test_loss_is_its_loop():
    one, batch = model(dropout=0.0, l2=0.3).train(), pairs()
    users, items = one.users.detach().numpy(), one.items.weight.detach().numpy()
    ranked, squares = [], []
    for u, i, j in zip(batch.user, batch.item, batch.negative, strict=True):
        difference = sum(users[u][k] * (items[j][k] - items[i][k]) for k in range(D))
        ranked.append(math.log(1 + math.exp(difference)))
        squares.append(sum(float(x) ** 2 for vector in (users[u], items[i], items[j]) for x in vector))
    terms = one.loss(batch)
    assert terms["bpr"].item() == pytest.approx(sum(ranked) / 4, rel=1e-12)
    assert terms["l2"].item() == pytest.approx(0.3 * sum(squares) / 8, rel=1e-12)


def test_loss_of_no_vectors_is_ln_2():
    one = model()
    for parameter in one.parameters():
        torch.nn.init.zeros_(parameter)
    terms = one.train().loss(pairs())
    assert terms["bpr"].item() == pytest.approx(math.log(2), rel=1e-12)
    assert terms["l2"].item() == 0


def test_only_what_the_batch_names_gets_a_gradient():
    one = model(dropout=0.0, l2=1.0).train()
    sum(one.loss(pairs()).values()).backward()
    assert one.users.grad.any(1).nonzero()[:, 0].tolist() == [0, 2, 6]
    assert one.items.weight.grad.any(1).nonzero()[:, 0].tolist() == [1, 3, 5, 8, 9, 11]


def test_dropout_is_inverted_and_on_the_scores_alone():
    """With e_u = e_i = 1 and e_j = 0 a score is a sum of d terms that are 0 or 4, each 4 in a quarter of all draws."""
    one, P = model(dropout=0.5), 4000
    with torch.no_grad():
        one.users.fill_(1.0)
        one.items.weight.fill_(0.0)
        one.items.weight[1] = 1.0
    ones = torch.ones(P, dtype=torch.int64)
    batch = PairBatch(0 * ones, ones, 2 * ones)
    torch.manual_seed(0)
    drawn, still = one.train().loss(batch), one.eval().loss(batch)
    law = [math.comb(D, n) * 0.25**n * 0.75 ** (D - n) for n in range(D + 1)]
    expected = sum(share * math.log(1 + math.exp(-4 * n)) for n, share in enumerate(law))
    assert drawn["bpr"].item() == pytest.approx(expected, abs=0.02)
    assert still["bpr"].item() == pytest.approx(math.log(1 + math.exp(-D)), rel=1e-12)
    assert torch.equal(drawn["l2"], still["l2"])


def test_a_trained_user_is_its_vector():
    one = model().eval()
    found = scores(one, histories([[9, 10], [1]], [0, 6]))  # whatever history is shown
    for b, user in enumerate((0, 6)):
        for item in range(1, N + 1):
            expected = sum(one.users[user][k].item() * one.items.weight[item][k].item() for k in range(D))
            assert found[b, item].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("ridge", [1e-3, 1.0, 10.0])
@pytest.mark.parametrize("user", [-1, 3])
def test_another_user_is_the_ridge_regression_of_its_history(user, ridge):
    """By least squares on the stacked system [V; sqrt(r) I] e = [x; 0]; items count once."""
    one = model(ridge=ridge).eval()
    V = one.items.weight.detach().numpy()[1:]
    r = ridge * np.linalg.eigvalsh(V.T @ V).mean()
    rows = [[2, 5, 11], [4, 4, 2], []]
    found = one.interests(histories(rows, [user] * 3)).detach()
    assert found.shape == (3, 1, D)
    for b, row in enumerate(rows):
        x = np.zeros(N)
        x[[item - 1 for item in row]] = 1
        stacked = np.concatenate([V, np.sqrt(r) * np.eye(D)])
        expected = np.linalg.lstsq(stacked, np.concatenate([x, np.zeros(D)]), rcond=None)[0]
        assert np.allclose(found[b, 0].numpy(), expected, atol=1e-10)


def test_new_users_follow_the_weights():
    """What evaluation keeps is dropped when training goes on."""
    one, history = model().eval(), histories([[2, 5]], [-1])
    before = scores(one, history)
    assert torch.equal(scores(one, history), before)
    with torch.no_grad():
        one.train().items.weight[1:3] += 1
    after = scores(one.eval(), history)
    assert not torch.allclose(after, before)
    other = model()
    other.load_state_dict(one.state_dict())
    assert torch.equal(scores(other.eval(), history), after)


def test_items_without_any_length_give_zeros():
    one = model().eval()
    torch.nn.init.zeros_(one.items.weight)
    assert not scores(one, histories([[1, 2], []], [-1, -1])).any()


def test_parameters_are_the_vectors_of_all_users_and_items():
    one = MF(MFConfig(), Facts(2000, 0, n_users=1000))
    assert sum(parameter.numel() for parameter in one.parameters()) == 64 * (1000 + 2000 + 1)  # and padding
    for vectors in (one.users, one.items.weight[1:]):
        assert vectors.std().item() == pytest.approx(0.1, rel=0.02)
        assert abs(vectors.mean().item()) < 0.002
    assert not one.items.weight[0].any()


def test_without_training_sequences_every_user_is_new():
    bare = MF(MFConfig(dim=D), Facts(N, 0, n_users=U))
    assert not bare.trained.any()
    assert bare.eval().interests(histories([[1], [2]], [0, -1])).shape == (2, 1, D)
    assert MF(MFConfig(dim=D), Facts(N, 0)).eval().interests(histories([[1]], [-1])).shape == (1, 1, D)


def fitted(seed):
    """Users of a block meet seven of its ten items; items 1..10 are one block, 11..20 the other."""
    rng = np.random.default_rng(5)
    rows = [(1 + 10 * (user % 2) + rng.choice(10, 7, replace=False)).tolist() for user in range(20)]
    train, training = sequences(rows), Training(length=0, batch_size=70, lr=0.02, seed=seed)
    torch.manual_seed(seed)
    one, draw = MF(MFConfig(dim=8), facts(train, 20, training)), batch_at(train, 20, training, PairBatch)
    optimizer = torch.optim.Adam(one.parameters(), training.lr)
    for step in range(80):
        optimizer.zero_grad()
        sum(one.train().loss(draw(step)).values()).backward()
        optimizer.step()
    return one.eval(), rows


def test_blocks_are_learned_for_known_and_for_new_users():
    one, rows = fitted(0)
    for users in (list(range(20)), [-1] * 20):
        found = scores(one, histories(rows, users))
        for user, row in enumerate(rows):
            own = set(range(1 + 10 * (user % 2), 11 + 10 * (user % 2)))
            missing, other = sorted(own - set(row)), sorted(set(range(1, 21)) - own)
            assert found[user, missing].min() > found[user, other].max()


def test_equal_seeds_equal_vectors():
    first, again, other = (fitted(seed)[0].users for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_folded_in_a_trained_user_is_answered_as_a_new_one():
    own, folded = model(), model(fold_in=True)
    known, new = histories(ROWS, list(range(U))), histories(ROWS, [-1] * U)
    assert torch.equal(scores(folded, known), scores(own, new))
    assert not torch.allclose(scores(own, known)[0], scores(own, new)[0])
