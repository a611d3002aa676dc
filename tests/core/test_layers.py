import math

import torch

from diffacet.core.layers import ItemTable, kaiming, sinusoid
from reference import normal


def test_item_table_starts_at_the_stated_deviation_with_a_zero_padding_row():
    torch.manual_seed(0)
    table = ItemTable(5_000, 32)
    assert table.weight.shape == (5_001, 32)
    assert torch.equal(table.weight[0], torch.zeros(32))
    deviation = math.sqrt(2 / 32)
    assert abs(table.weight[1:].std().item() / deviation - 1) < 0.01
    assert abs(table.weight[1:].mean().item()) < 5 * deviation / math.sqrt(5_000 * 32)


def test_item_table_starts_at_the_deviation_that_is_asked_for():
    torch.manual_seed(0)
    table = ItemTable(5_000, 32, deviation=0.3)
    assert abs(table.weight[1:].std().item() / 0.3 - 1) < 0.01
    assert not table.weight[0].any()


def test_item_table_looks_up():
    torch.manual_seed(0)
    table, numbers = ItemTable(6, 3), torch.tensor([[1, 0], [6, 1]])
    found = table(numbers)
    for b in range(2):
        for j in range(2):
            assert torch.equal(found[b, j], table.weight[numbers[b, j]])


def test_padding_receives_no_gradient_and_repeats_add_up():
    for sparse in (False, True):
        torch.manual_seed(0)
        table = ItemTable(6, 3)
        table.sparse = sparse
        weights = normal(4, 3, dtype=torch.float32)
        (table(torch.tensor([0, 2, 5, 2])) * weights).sum().backward()
        gradient = table.weight.grad.to_dense()
        expected = torch.zeros(7, 3)
        expected[2], expected[5] = weights[1] + weights[3], weights[2]
        assert torch.allclose(gradient, expected)
        assert table.weight.grad.is_sparse == sparse


def test_one_lookup_of_many_equals_many_lookups():
    torch.manual_seed(0)
    table = ItemTable(9, 3)
    numbers = (torch.tensor([[1, 2, 0], [3, 0, 0]]), torch.tensor([4, 1]), torch.tensor([2, 2, 9, 7]))
    one = table.rows(*numbers)
    for found, ids in zip(one, numbers, strict=True):
        assert torch.equal(found, table(ids))
    scales = [normal(*found.shape, dtype=torch.float32) for found in one]
    sum((found * scale).sum() for found, scale in zip(one, scales, strict=True)).backward()
    joint = table.weight.grad.clone()
    table.weight.grad = None
    sum((table(ids) * scale).sum() for ids, scale in zip(numbers, scales, strict=True)).backward()
    assert torch.allclose(joint, table.weight.grad, rtol=1e-6)


def test_kaiming_takes_all_but_the_first_size_as_fan_in():
    torch.manual_seed(0)
    for shape, fan_in in (((400, 50), 50), ((1, 200, 100), 20_000), ((30, 40, 10), 400)):
        assert abs(kaiming(*shape).std().item() / math.sqrt(2 / fan_in) - 1) < 0.03


def test_sinusoid_against_its_loop():
    for dim in (1, 2, 6, 7, 64):
        t = torch.tensor([1, 2, 17, 1000])
        found = sinusoid(t, dim)
        half = dim // 2
        for row, step in enumerate(t.tolist()):
            expected = [math.cos(step * 10_000 ** (-2 * i / dim)) for i in range(half)]
            expected += [math.sin(step * 10_000 ** (-2 * i / dim)) for i in range(half)]
            expected += [0.0] * (dim % 2)
            assert torch.allclose(found[row], torch.tensor(expected, dtype=torch.float64), atol=1e-12)
