"""Rows over the catalogue: what is read from histories, and the layers and losses on them, against dense loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffacet.core import profiles
from diffacet.core.batch import Histories
from diffacet.core.profiles import ItemScores, ItemSum

N = 11


def histories(rows, width=None):
    width = max(map(len, rows), default=0) if width is None else width
    items = torch.zeros(len(rows), width, dtype=torch.int64)
    for b, row in enumerate(rows):
        items[b, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return Histories(items, torch.full((len(rows),), -1), torch.zeros(len(rows), dtype=torch.int64))


def dense(rows, oldest=1.0):
    """The rows by a loop: an item counts where it came last."""
    x = np.zeros((len(rows), N))
    for b, row in enumerate(rows):
        own = [item for k, item in enumerate(row) if item not in row[k + 1 :]]
        for m, item in enumerate(own):
            x[b, item - 1] = oldest + (m / (len(own) - 1) if len(own) > 1 else 0.0) * (1 - oldest)
    return x


ROWS = [[1, 2, 3], [], [11], [5, 4, 5, 9], [2, 2, 2]]
many = st.lists(st.lists(st.integers(1, N), max_size=9), min_size=1, max_size=6)


@given(rows=many, oldest=st.sampled_from([1.0, 0.5, 0.1, 0.0]), extra=st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_rows_are_those_of_a_loop(rows, oldest, extra):
    width = max(map(len, rows)) + extra
    x = profiles.read(histories(rows, width), oldest, torch.float64)
    np.testing.assert_allclose(x.dense(N).numpy(), dense(rows, oldest), atol=1e-12)
    assert x.users == len(rows)
    assert (x.row.diff() >= 0).all()
    assert len(x.item) == sum(len(set(row)) for row in rows)  # an entry of weight 0 is an entry


def test_time_weights_of_five_items_and_of_one():
    """P16 of DiffRec's spec."""
    x = profiles.read(histories([[7, 1, 3, 2, 9], [4]]), 0.1, torch.float64)
    np.testing.assert_allclose(x.value.numpy(), [0.1, 0.325, 0.55, 0.775, 1.0, 0.1], atol=1e-12)


def test_normalised_rows_have_length_one_and_an_empty_row_stays():
    x = profiles.read(histories(ROWS), 0.3, torch.float64).normalised().dense(N)
    np.testing.assert_allclose(x.norm(dim=1).numpy(), [1, 0, 1, 1, 1], atol=1e-12)


def test_thinning_drops_entries_scales_the_others_and_rests_in_evaluation():
    x = profiles.read(histories([list(range(1, N + 1))] * 300))
    torch.manual_seed(0)
    dropped = x.thinned(0.25, True).value
    assert set(dropped.unique().tolist()) == {0.0, np.float32(1 / 0.75)}
    assert dropped.mean().item() == pytest.approx(1.0, abs=3 * math.sqrt(0.25 / 0.75 / len(dropped)))
    assert torch.equal(x.thinned(0.25, False).value, x.value)


def test_the_first_layer_is_a_product_with_the_dense_row():
    layer = ItemSum(N, 4).double()
    torch.nn.init.normal_(layer.bias)
    x = profiles.read(histories(ROWS), 0.2, torch.float64)
    product = x.dense(N) @ layer.weight + layer.bias
    torch.testing.assert_close(layer(x), product)
    torch.testing.assert_close(layer.dense(x.dense(N)), product)
    torch.testing.assert_close(layer(x)[1], layer.bias)  # nobody without items


def test_the_first_layer_has_the_gradient_of_the_product():
    layer = ItemSum(N, 4).double()
    x = profiles.read(histories(ROWS), 0.2, torch.float64)
    layer(x).square().sum().backward()
    sparse = layer.weight.grad.clone()
    layer.zero_grad()
    layer.dense(x.dense(N)).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, sparse)


def test_scores_are_inner_products_with_the_catalogue():
    layer = ItemScores(N, 4).double()
    torch.nn.init.normal_(layer.bias)
    hidden = torch.randn(3, 4, dtype=torch.float64)
    product = (profiles.interest(hidden) @ layer.catalogue().T)[:, 0]
    torch.testing.assert_close(product[:, 1:], layer(hidden))
    assert not product[:, 0].any()


def test_xaviers_deviation_counts_inputs_beside():
    torch.manual_seed(0)
    weight = ItemSum(300, 100, beside=200).weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 600), rel=0.03)


def test_multinomial_of_uniform_logits_and_of_shifted_ones():
    x = profiles.read(histories(ROWS), dtype=torch.float64)
    counts = torch.tensor([3, 0, 1, 3, 1])
    uniform = profiles.multinomial(torch.zeros(5, N, dtype=torch.float64), x)
    assert uniform.item() == pytest.approx(counts.sum().item() / 5 * math.log(N))
    logits = torch.randn(5, N, dtype=torch.float64)
    expected = -(x.dense(N) * logits.log_softmax(1)).sum() / 5
    torch.testing.assert_close(profiles.multinomial(logits, x), expected)
    torch.testing.assert_close(profiles.multinomial(logits + torch.randn(5, 1), x), expected)


@given(rows=many, oldest=st.sampled_from([1.0, 0.1]), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=40)
def test_squared_error_and_its_gradient_are_the_dense_ones(rows, oldest, seed):
    generator = torch.Generator().manual_seed(seed)
    x = profiles.read(histories(rows), oldest, torch.float64)
    rebuilt = torch.randn(len(rows), N, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.rand(len(rows), dtype=torch.float64, generator=generator)
    error = profiles.squared_error(rebuilt, x)
    (weight * error).sum().backward()
    found = rebuilt.grad.clone()
    rebuilt.grad = None
    reference = (rebuilt - x.dense(N)).square().mean(1)
    (weight * reference).sum().backward()
    torch.testing.assert_close(error, reference)
    torch.testing.assert_close(found, rebuilt.grad)


def test_a_perfect_row_has_no_error():
    x = profiles.read(histories(ROWS))
    assert profiles.squared_error(x.dense(N).requires_grad_(), x).max().item() < 1e-6


@pytest.mark.parametrize(("items", "width"), [(40, 3), (4, 8)])
def test_squared_error_of_a_last_layer_is_that_of_its_scores(items, width):
    """A narrow layer never makes its scores; a wide one does; value and gradients are the same."""
    generator = torch.Generator().manual_seed(0)
    layer = ItemScores(items, width).double()
    torch.nn.init.normal_(layer.bias, generator=generator)
    x = profiles.read(histories([[1, 2], [], [3, 1, 4], [4], [2, 3], [1]]), 0.3, torch.float64)
    hidden = torch.randn(6, width, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.rand(6, dtype=torch.float64, generator=generator)
    leaves = (hidden, layer.weight, layer.bias)
    found = profiles.squared_error_of(hidden, layer, x)
    expected = profiles.squared_error(layer(hidden), x)
    torch.testing.assert_close(found, expected)
    ours = torch.autograd.grad((weight * found).sum(), leaves)
    theirs = torch.autograd.grad((weight * expected).sum(), leaves)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_kl_is_that_of_the_normal_laws():
    mu, logvar = torch.tensor([[0.3, -1.2], [0.0, 2.0]]).double(), torch.tensor([[0.1, -0.7], [0.0, 1.0]]).double()
    own = torch.distributions.Normal(mu, (logvar / 2).exp())
    expected = torch.distributions.kl_divergence(own, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    assert torch.allclose(profiles.kl_standard(mu, logvar), expected)
    assert profiles.kl_standard(torch.zeros(3, 2), torch.zeros(3, 2)) == 0


def test_layers_begin_as_those_of_mult_vae():
    torch.manual_seed(0)
    model = torch.nn.Sequential(ItemSum(300, 200), torch.nn.Linear(200, 400), ItemScores(300, 200))
    start = [layer.weight.clone() for layer in (model[0], model[2])]
    torch.nn.init.ones_(model[1].weight)
    profiles.start_as_mult_vae(model)
    assert model[1].weight.std().item() == pytest.approx(math.sqrt(2 / 600), rel=0.02)
    assert abs(model[1].weight.mean().item()) < 1e-3
    for before, layer in zip(start, (model[0], model[2]), strict=True):
        assert torch.equal(before, layer.weight)  # Xavier's already
    for layer in model:
        assert layer.bias.abs().max().item() <= 0.002
        # A normal that is cut at two deviations has 0.88 of its deviation.
        assert layer.bias.std().item() == pytest.approx(0.88 * 0.001, rel=0.15)
