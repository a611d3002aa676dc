"""What turns a history into rows that guide a diffusion, against written-out loops."""

import math

import pytest
import torch

from diffacet.core.interests import Guidance
from reference import normal

D, K, L = 4, 3, 5
LENGTHS = [5, 3, 2, 1, 0]


def given():
    mask = torch.arange(L) < torch.tensor(LENGTHS).unsqueeze(1)
    return normal(len(LENGTHS), L, D), mask


@pytest.mark.parametrize("front", [False, True], ids=["padded behind", "padded in front"])
def test_latest_fills_the_last_rows_with_the_latest_items(front):
    embedded, mask = given()
    if front:
        embedded, mask = embedded.flip(1), mask.flip(1)
    rows, there = Guidance("latest", D, K, L)(embedded, mask)
    assert rows.shape == (len(LENGTHS), K, D)
    for b, n in enumerate(LENGTHS):
        own = embedded[b][mask[b]][-K:]
        assert there[b].tolist() == [place >= K - n for place in range(K)]
        assert torch.equal(rows[b][K - len(own) :], own)
        assert not rows[b][: K - len(own)].any()


def test_more_rows_than_a_history_has_places():
    embedded, mask = given()
    rows, there = Guidance("latest", D, L + 2, L)(embedded, mask)
    assert torch.equal(rows[0, 2:], embedded[0])
    assert there[0].tolist() == [False] * 2 + [True] * L


def test_mlp_reads_the_mean_of_the_history():
    embedded, mask = given()
    module = Guidance("mlp", D, K, L).double()
    assert module.inner.weight.shape == (4 * D, D)
    assert module.outer.weight.shape == (K * D, 4 * D)
    torch.nn.init.normal_(module.outer.bias)
    rows, there = module(embedded, mask)
    assert there.all()
    for b, n in enumerate(LENGTHS):
        if not n:
            assert not rows[b].any()
            continue
        mean = [sum(embedded[b, j, i].item() for j in range(n)) / n for i in range(D)]
        hidden = [
            math.tanh(sum(w * x for w, x in zip(row, mean, strict=True)) + bias)
            for row, bias in zip(module.inner.weight.tolist(), module.inner.bias.tolist(), strict=True)
        ]
        flat = module.outer.weight @ torch.tensor(hidden, dtype=torch.float64) + module.outer.bias
        assert torch.allclose(rows[b], flat.view(K, D), rtol=1e-12)


@pytest.mark.parametrize("gem", ["comirec-sa", "comirec-dr", "sasrec", "mlp", "latest"])
def test_rows_and_who_is_there(gem):
    embedded, mask = given()
    module = Guidance(gem, D, K, L).double().eval()
    rows, there = module(embedded, mask)
    count = 1 if gem == "sasrec" else K
    assert module.rows == count
    assert rows.shape == (len(LENGTHS), count, D)
    assert there.shape == (len(LENGTHS), count)
    assert there.all() == (gem != "latest")
    assert not rows[-1].any()  # an empty history


def test_values_may_have_their_positions():
    embedded, mask = given()
    module = Guidance("comirec-sa", D, K, L, values_with_position=True).double()
    rows, _ = module(embedded[:, :4], mask[:, :4])
    plain, attention = module.attentive(embedded[:, :4], mask[:, :4])
    places = sum(attention[..., j : j + 1] * module.attentive.position[0, j] for j in range(4))
    assert torch.allclose(rows, plain + places, rtol=1e-12)
