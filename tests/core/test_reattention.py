import math

import pytest
import torch

from diffacet.core.interests import ReAttentive
from diffacet.core.interests.reattention import attend, contrast, positives
from reference import normal

B, K, L, D = 5, 3, 6, 4
COUNTS = [6, 1, 3, 0, 2]


def extractor(seed=0, **changes):
    torch.manual_seed(seed)
    extract = ReAttentive(**{"dim": D, "interests": K, "length": L, **changes}).double()
    with torch.no_grad():  # biases begin at zero
        for parameter in extract.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return extract


def histories(counts=COUNTS, length=L, seed=0):
    """(B, L, d) rows that are zero at padding, and the mask."""
    mask = torch.arange(length) < torch.tensor(counts).unsqueeze(1)
    return normal(len(counts), length, D, seed=seed) * mask.unsqueeze(-1), mask


# --- the formulas as loops -------------------------------------------------------------------------------------


@torch.no_grad()
def forward_loop(extract, embedded, mask):
    """V', V and A, entry by entry."""
    users, length, d = embedded.shape
    coarse = torch.zeros(users, K, d, dtype=embedded.dtype)
    attention = torch.zeros(users, K, length, dtype=embedded.dtype)
    for b in range(users):
        real = [j for j in range(length) if mask[b, j]]
        for k in range(K):
            score = {j: float(extract.outer[k] @ torch.tanh(extract.inner @ embedded[b, j])) for j in real}
            for j in real:
                attention[b, k, j] = math.exp(score[j]) / sum(map(math.exp, score.values()))
                coarse[b, k] += attention[b, k, j] * (embedded[b, j] @ extract.value)
    return coarse, torch.tanh(coarse @ extract.dense + extract.dense_bias), attention


def cosine(x, y):
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size else 0.0


def own_items(attention, mask, b, k):
    n = int(mask[b].sum())
    return [j for j in range(mask.shape[1]) if mask[b, j] and float(attention[b, k, j]) > 1 / n + 1e-12]


def attend_loop(embedded, mask, coarse, attention):
    total, weight = 0.0, 0.0
    for b in range(len(mask)):
        real = [j for j in range(mask.shape[1]) if mask[b, j]]
        for k in range(coarse.shape[1]):
            e = {j: math.exp(float(coarse[b, k] @ embedded[b, j])) for j in real}
            for j in real:
                rho = e[j] / sum(e.values())
                total -= rho * math.log(float(attention[b, k, j]))
                weight += rho
    return total / weight


def contrast_loop(embedded, mask, coarse, attention, temperature):
    total = 0.0
    users, interests, length = attention.shape
    for b in range(users):
        before = b - 1  # of the first user: the last one
        for k in range(interests):
            z = 0.0
            for j in range(length):
                if mask[b, j]:
                    z += math.exp(cosine(coarse[b, k], embedded[b, j]) / temperature)
                if mask[before, j]:
                    z += math.exp(cosine(coarse[b, k], embedded[before, j]) / temperature)
            for other in range(interests):
                if other != k and mask[b].any():
                    z += math.exp(cosine(coarse[b, k], coarse[b, other]) / temperature)
            for j in own_items(attention, mask, b, k):
                total += math.log(z) - cosine(coarse[b, k], embedded[b, j]) / temperature
    return total / (users * interests * length)


@torch.no_grad()
def construct_loop(extract, embedded, mask, coarse, attention):
    total = 0.0
    users, interests, length = attention.shape
    for b in range(users):
        real = [m for m in range(length) if mask[b, m]]
        for k in range(interests):
            X = [extract.unroll[m] @ coarse[b, k] + extract.unroll_bias[m] for m in range(length)]
            for j in own_items(attention, mask, b, k):
                e = {m: math.exp(float(extract.mix_outer[j] @ torch.tanh(extract.mix_inner @ X[m]))) for m in real}
                rebuilt = sum(e[m] / sum(e.values()) * (X[m] @ extract.mix_value) for m in real)
                total += float(((rebuilt - embedded[b, j]) ** 2).sum())
    return total / (users * interests * length * embedded.shape[-1])


# --- forwards --------------------------------------------------------------------------------------------------


def test_extraction_equals_its_loop():
    extract = extractor()
    embedded, mask = histories()
    coarse, attention = extract.coarse(embedded, mask)
    interests, again = extract(embedded, mask)
    expected = forward_loop(extract, embedded, mask)
    assert torch.equal(attention, again)
    for found, wanted in zip((coarse, interests, attention), expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-12)


def test_attention_is_a_distribution_over_real_positions():
    embedded, mask = histories()
    interests, attention = extractor()(embedded, mask)
    assert torch.allclose(attention.sum(-1), mask.any(-1).double().unsqueeze(-1).expand(-1, K))
    assert (attention[~mask.unsqueeze(1).expand_as(attention)] == 0).all()
    assert interests.abs().max() < 1


@pytest.mark.parametrize("width", [3, 4, 6])
def test_more_padding_and_what_it_holds_change_nothing(width):
    extract = extractor()
    embedded, mask = histories([3, 1, 2], 3)
    expected = extract(embedded, mask)
    wide_mask = torch.zeros(3, width, dtype=torch.bool)
    wide_mask[:, :3] = mask
    wide = torch.full((3, width, D), 1e3, dtype=torch.float64)
    wide[:, :3] = torch.where(mask.unsqueeze(-1), embedded, 1e3)
    coarse, attention = extract.coarse(wide, wide_mask)
    assert torch.allclose(extract.finish(coarse), expected[0], atol=1e-12)
    assert torch.allclose(attention[..., :3], expected[1], atol=1e-12)
    # The losses are means over L, and otherwise know nothing of padding.
    narrow = extract.losses(embedded, mask, *extract.coarse(embedded, mask))
    for name, term in extract.losses(wide, wide_mask, coarse, attention).items():
        scale = 1 if name == "attend" else width / 3
        assert torch.allclose(term * scale, narrow[name], atol=1e-12), name


def test_order_does_not_matter_forwards():
    extract = extractor()
    embedded, mask = histories([5])
    order = [4, 2, 0, 3, 1, 5]
    (one, a), (other, b) = extract(embedded, mask), extract(embedded[:, order], mask)
    assert torch.allclose(one, other, atol=1e-12)
    assert torch.allclose(a[..., order], b, atol=1e-12)


# --- backwards -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.02, 0.3])
@pytest.mark.parametrize("counts", [[6, 1, 3, 4, 2], COUNTS, [4]])
def test_losses_equal_their_loops(counts, temperature):
    extract = extractor(temperature=temperature)
    embedded, mask = histories(counts)
    coarse, attention = extract.coarse(embedded, mask)
    found = extract.losses(embedded, mask, coarse, attention)
    e, c, a = embedded, coarse.detach(), attention.detach()
    assert list(found) == ["attend", "contrast", "construct"]
    assert found["attend"].item() == pytest.approx(attend_loop(e, mask, c, a), rel=1e-10)
    assert found["contrast"].item() == pytest.approx(contrast_loop(e, mask, c, a, temperature), rel=1e-10)
    assert found["construct"].item() == pytest.approx(construct_loop(extract, e, mask, c, a), rel=1e-10)
    assert all(term > 0 for term in found.values())


def test_positives_are_those_above_the_uniform_attention():
    mask = torch.tensor([[True] * 4 + [False], [True] * 2 + [False] * 3])
    attention = torch.tensor([[[0.25, 0.3, 0.2, 0.25, 0.0]], [[0.5, 0.5, 0.0, 0.0, 0.0]]])
    assert positives(attention, mask).tolist() == [[[False, True, False, False, False]], [[False] * 5]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_uniform_attention_has_no_positive_whatever_its_last_bit(dtype):
    extract = extractor(length=50).to(dtype)
    with torch.no_grad():
        extract.outer.zero_()
    embedded, mask = histories(list(range(1, 51)), 50)
    embedded = embedded.to(dtype)
    coarse, attention = extract.coarse(embedded, mask)
    assert not positives(attention, mask).any()
    found = extract.losses(embedded, mask, coarse, attention)
    assert found["contrast"] == 0
    assert found["construct"] == 0
    assert found["attend"] > 0


def test_re_attending_is_least_where_the_attention_is_the_one_found_back():
    embedded, mask = histories([6, 3])
    coarse = normal(2, K, D)
    logits = (coarse @ embedded.transpose(1, 2)).masked_fill(~mask.unsqueeze(1), float("-inf"))
    best = attend(embedded, mask, coarse, logits.softmax(-1))
    for seed in range(10):
        other = (logits + 0.3 * normal(2, K, L, seed=seed)).softmax(-1)
        assert attend(embedded, mask, coarse, other) > best
    logits = logits.detach().requires_grad_()
    attend(embedded, mask, coarse, logits.softmax(-1)).backward()
    assert torch.allclose(logits.grad, torch.zeros_like(logits.grad), atol=1e-12)


def test_re_attending_sends_a_gradient_through_both_attentions():
    embedded, mask = histories([6, 3])
    coarse, logits = normal(2, K, D).requires_grad_(), normal(2, K, L).requires_grad_()
    attention = logits.masked_fill(~mask.unsqueeze(1), float("-inf")).softmax(-1)
    attend(embedded, mask, coarse, attention).backward()
    assert coarse.grad.any()
    assert logits.grad.any()


def test_the_contrast_looks_at_the_user_before_and_at_no_other():
    embedded, mask = histories([3, 2, 4, 2])
    coarse, own = normal(4, K, D), mask.unsqueeze(1).expand(-1, K, -1)
    single = torch.zeros_like(own)
    single[2] = own[2]
    expected = contrast(embedded, mask, coarse, single, 0.5)
    for b, changes in ((0, False), (1, True), (3, False)):
        other = embedded.clone()
        other[b] = normal(L, D, seed=9) * mask[b].unsqueeze(-1)
        assert torch.equal(contrast(other, mask, coarse, single, 0.5), expected) is not changes, b


def test_one_interest_alone_has_no_other_to_differ_from():
    extract = extractor(interests=1)
    found = extract.losses(*(given := histories([6, 2])), *extract.coarse(*given))
    assert all(term.isfinite() for term in found.values())


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_losses_and_gradients_are_finite_for_any_size_of_logit(scale):
    torch.manual_seed(0)
    extract = ReAttentive(D, K, L)
    with torch.no_grad():
        extract.outer.mul_(scale)
    embedded, mask = histories()
    embedded = (scale * embedded).float().requires_grad_()
    found = extract.losses(embedded, mask, *extract.coarse(embedded, mask))
    sum(found.values()).backward()
    assert all(term.isfinite() for term in found.values())
    for gradient in (embedded.grad, *(p.grad for p in extract.parameters() if p.grad is not None)):
        assert gradient.isfinite().all()


def test_nothing_but_empty_histories_is_finite():
    extract = extractor()
    embedded, mask = histories([0, 0])
    embedded.requires_grad_()
    coarse, attention = extract.coarse(embedded, mask)
    found = extract.losses(embedded, mask, coarse, attention)
    (sum(found.values()) + coarse.square().sum()).backward()
    assert all(term == 0 for term in found.values())
    assert embedded.grad.isfinite().all()


def test_gradients_of_the_losses():
    extract = extractor(temperature=0.5)
    embedded, mask = histories([6, 3])
    names = [f"extract.{name}" for name, _ in extract.named_parameters()]
    values = [p.detach().requires_grad_() for p in extract.parameters()]

    def run(embedded, *values):
        return torch.func.functional_call(Whole(extract), dict(zip(names, values, strict=True)), embedded)

    class Whole(torch.nn.Module):
        def __init__(self, extract):
            super().__init__()
            self.extract = extract

        def forward(self, embedded):
            coarse, attention = self.extract.coarse(embedded, mask)
            terms = self.extract.losses(embedded, mask, coarse, attention)
            return torch.stack([*terms.values(), self.extract.finish(coarse).square().sum()])

    assert torch.autograd.gradcheck(run, (embedded.requires_grad_(), *values))
