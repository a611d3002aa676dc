"""How behaviours are weighed: target attention, the activation unit, the short-term branch, and the head."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from diffacet.core.batch import ClickBatch
from diffacet.core.behaviours import (
    ActivationUnit,
    Block,
    ClickHead,
    Dice,
    Fields,
    ShortTerm,
    TargetAttention,
    bare,
    click_loss,
    he,
    masked_softmax,
    readable,
)
from diffacet.core.contract import ClickFields
from diffacet.errors import BadSetting
from reference import normal

CLICK = ClickFields(("item", "category"), (20, 6), (True, True))
D = 8


def masks(counts, width):
    return torch.arange(width) >= width - torch.tensor(counts).unsqueeze(1)


def shaken(module, seed=0):
    """No parameter is what initialisation made it, so that none is zero or one by chance."""
    with torch.no_grad():
        for n, parameter in enumerate(module.parameters()):
            parameter.add_(0.3 * normal(*parameter.shape, seed=seed + n).to(parameter.dtype))
    return module


def softmax(scores):
    total = sum(math.exp(score) for score in scores)
    return [math.exp(score) / total for score in scores]


# --- attention -------------------------------------------------------------------------------------------------


def test_masked_softmax_shares_among_what_is_kept():
    logits, mask = normal(4, 5), masks([5, 1, 3, 0], 5)
    found = masked_softmax(logits, mask)
    for row, kept, shares in zip(logits, mask, found, strict=True):
        assert shares[kept].tolist() == pytest.approx(softmax(row[kept].tolist()) if kept.any() else [])
        assert not shares[~kept].any()
    for harmful in (math.inf, -math.inf, math.nan, 1e30):
        assert torch.equal(masked_softmax(logits.masked_fill(~mask, harmful), mask), found)


def test_an_empty_row_has_no_share_and_a_finite_gradient():
    logits = normal(2, 3).requires_grad_()
    found = masked_softmax(logits, masks([0, 2], 3))
    assert found[0].tolist() == [0, 0, 0]
    found.square().sum().backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[0].any()


@pytest.mark.parametrize(("heads", "inner", "out"), [(1, None, 6), (2, None, 6), (3, 12, 5), (2, 4, 6)])
def test_target_attention_equals_its_loop(heads, inner, out):
    torch.manual_seed(0)
    attend = shaken(TargetAttention(6, 7, out, heads=heads, inner=inner).double())
    size = (out if inner is None else inner) // heads
    assert all(layer.bias is None for layer in attend.children())
    target, behaviours, mask = normal(4, 6), normal(4, 5, 7), masks([5, 1, 3, 0], 5)
    found = attend(target, behaviours, mask)
    for b in range(4):
        read = []
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            query = attend.query.weight[part] @ target[b]
            kept = [behaviours[b, i] for i in range(5) if mask[b, i]]
            scores = [float((attend.key.weight[part] @ e @ query).detach()) / math.sqrt(size) for e in kept]
            shares = zip(softmax(scores), kept, strict=True)
            read.append(sum((w * (attend.value.weight[part] @ e) for w, e in shares), torch.zeros(size).double()))
        assert torch.allclose(found[b], attend.out.weight @ torch.cat(read), atol=1e-12)


def test_target_attention_equals_torchs():
    torch.manual_seed(0)
    attend = shaken(TargetAttention(6, 6, 6, heads=3).double())
    theirs = nn.MultiheadAttention(6, 3, bias=False, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([attend.query.weight, attend.key.weight, attend.value.weight]))
        theirs.out_proj.weight.copy_(attend.out.weight)
    target, behaviours, mask = normal(3, 6), normal(3, 5, 6), masks([5, 1, 3], 5)
    expected, _ = theirs(target.unsqueeze(1), behaviours, behaviours, key_padding_mask=~mask, need_weights=False)
    assert torch.allclose(attend(target, behaviours, mask), expected.squeeze(1), atol=1e-12)


def test_target_attention_reads_a_set_and_nothing_reads_zero():
    torch.manual_seed(0)
    attend = TargetAttention(6, 6, 6).double()
    target, behaviours, mask = normal(2, 6), normal(2, 5, 6), masks([0, 3], 5)
    found = attend(target, behaviours, mask)
    assert not found[0].any()
    order = torch.randperm(5, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(attend(target, behaviours[:, order], mask[:, order]), found, atol=1e-12)
    wild = behaviours.masked_fill(~mask.unsqueeze(-1), 1e9)
    assert torch.allclose(attend(target, wild, mask), found, atol=1e-12)


def test_heads_divide_the_width():
    for build in (lambda: TargetAttention(6, 6, 6, heads=4), lambda: Block(6, 4, 9), lambda: ShortTerm(7, 5)):
        with pytest.raises(BadSetting, match="heads"):
            build()
    TargetAttention(6, 6, 7, heads=4, inner=8)
    ShortTerm(7, 5, "din")


def test_layers_start_as_said():
    torch.manual_seed(0)
    layer = bare(300, 500)
    assert layer.bias is None
    assert float(layer.weight.detach().abs().max()) <= math.sqrt(6 / 800)
    layer = he(400, 500)
    assert not layer.bias.any()
    assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / 400), rel=0.02)


# --- the activation unit ---------------------------------------------------------------------------------------


def test_dice_in_training_is_its_formula():
    dice = shaken(Dice(3).double())
    x = 3 * normal(7, 3) + 1
    found = dice.train()(x)
    for j in range(3):
        column = x[:, j].tolist()
        mean = sum(column) / 7
        variance = sum((value - mean) ** 2 for value in column) / 7
        alpha = float(dice.alpha[j].detach())
        for i, value in enumerate(column):
            p = 1 / (1 + math.exp(-(value - mean) / math.sqrt(variance + 1e-9)))
            assert float(found[i, j].detach()) == pytest.approx(p * value + alpha * (1 - p) * value, abs=1e-12)
        assert float(dice.norm.running_mean[j]) == pytest.approx(mean)
        assert float(dice.norm.running_var[j]) == pytest.approx(variance * 7 / 6)


def test_dice_remembers_the_mean_of_its_first_batches_and_then_forgets_slowly():
    dice = Dice(1).double().train()
    means = []
    for n in range(130):
        x = normal(5, 1) + n
        dice(x)
        means.append(float(x.mean()))
        if n == 99:
            expected = sum(means) / 100
            assert float(dice.norm.running_mean) == pytest.approx(expected)
        elif n > 99:
            expected = 0.99 * expected + 0.01 * means[-1]
    assert float(dice.norm.running_mean) == pytest.approx(expected)


def test_dice_in_evaluation_uses_running_moments():
    dice = shaken(Dice(2).double())
    dice.norm.running_mean.copy_(torch.tensor([0.5, -2.0]))
    dice.norm.running_var.copy_(torch.tensor([4.0, 0.25]))
    x = normal(5, 2)
    found = dice.eval()(x)
    p = 1 / (1 + torch.exp(-(x - dice.norm.running_mean) / (dice.norm.running_var + 1e-9).sqrt()))
    assert torch.allclose(found, p * x + dice.alpha * (1 - p) * x, atol=1e-12)
    assert torch.allclose(found[:1], dice(x[:1]), atol=1e-12)
    # A single row in training is standardised by the running moments, and moves none of them.
    assert torch.allclose(dice.train()(x[:1]), found[:1], atol=1e-12)
    assert dice.norm.running_mean.tolist() == [0.5, -2.0]
    assert dice(x[:0]).shape == (0, 2)


def test_dice_starts_as_a_gate():
    dice = Dice(4)
    assert dice.alpha.tolist() == [0] * 4
    with torch.no_grad():
        dice.alpha.fill_(1.0)
    x = normal(9, 4, dtype=torch.float32)
    assert torch.allclose(dice(x), x, atol=1e-6)


@pytest.mark.parametrize("hidden", [(5,), (8, 4), (6, 5, 3)])
@pytest.mark.parametrize("training", [True, False])
def test_the_activation_unit_equals_the_direct_form(hidden, training):
    torch.manual_seed(0)
    unit = shaken(ActivationUnit(4, hidden).double()).train(training)
    target, behaviours, row = normal(3, 4), normal(9, 4), torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 1])
    found = unit(target, behaviours, row)
    e = target[row]
    direct = unit.first(torch.cat([e, behaviours, e - behaviours, e * behaviours], 1))
    state = {name: value.clone() for name, value in unit.state_dict().items()}
    assert found.shape == (9,)
    assert torch.allclose(found, unit.rest(direct).squeeze(1), atol=1e-12)
    assert len([layer for layer in unit.rest if isinstance(layer, Dice)]) == len(hidden)
    if not training:
        assert all(torch.equal(state[name], value) for name, value in unit.state_dict().items())
        alone = torch.cat(
            [unit(target[r : r + 1], behaviours[i : i + 1], torch.tensor([0])) for i, r in enumerate(row)]
        )
        assert torch.allclose(found, alone, atol=1e-12)


def test_the_activation_unit_of_no_pair_is_empty():
    unit = ActivationUnit(4)
    assert unit(torch.ones(3, 4), torch.ones(0, 4), torch.zeros(0, dtype=torch.int64)).shape == (0,)


# --- blocks ----------------------------------------------------------------------------------------------------


def block(heads=2, guided=False, dim=D):
    torch.manual_seed(0)
    return shaken(Block(dim, heads, 3 * dim, guided=guided).double())


def norm(layer, x):
    return (x - x.mean()) / math.sqrt(float(((x - x.mean()) ** 2).mean()) + 1e-6) * layer.weight + layer.bias


@torch.no_grad()
def written_out(made, x, mask, guide=None):
    """A block row by row; `mask` (n, r)."""
    out, size = torch.zeros_like(x), made.size
    for n in range(len(x)):
        keys = [made.key.weight @ row for row in x[n]]
        values = [made.value.weight @ row for row in x[n]]
        kept = [j for j in range(x.shape[1]) if mask[n, j]]
        for a, row in enumerate(x[n]):
            query, read = made.query.weight @ row, []
            for h in range(made.heads):
                part = slice(h * size, (h + 1) * size)
                shares = softmax([float(query[part] @ keys[j][part]) / math.sqrt(size) for j in kept])
                read.append(sum(w * values[j][part] for w, j in zip(shares, kept, strict=True)))
            y = norm(made.norms[0], row + made.out.weight @ torch.cat(read))
            if guide is not None:
                y = norm(made.norms[1], y + guide[n, 0])
            inner = (made.inner.weight @ y + made.inner.bias).clamp(min=0)
            out[n, a] = norm(made.norms[-1], y + made.outer.weight @ inner + made.outer.bias)
    return out


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("guided", [False, True])
def test_a_block_equals_its_loop(guided, heads):
    made, x, mask = block(heads, guided), normal(4, 5, D), masks([5, 2, 1, 3], 5)
    guide = normal(4, 1, D, seed=3) if guided else None
    assert torch.allclose(made(x, readable(mask).double(), guide), written_out(made, x, mask, guide), atol=1e-12)
    assert len(made.norms) == 2 + guided


def test_a_block_equals_torchs_layer():
    made, x, mask = block(heads=4), normal(3, 5, D), masks([5, 2, 1], 5)
    theirs = nn.TransformerEncoderLayer(D, 4, 3 * D, dropout=0.0, batch_first=True, layer_norm_eps=1e-6).double()
    own = {"linear1": made.inner, "linear2": made.outer, "norm1": made.norms[0], "norm2": made.norms[1]}
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(torch.cat([made.query.weight, made.key.weight, made.value.weight]))
        theirs.self_attn.out_proj.weight.copy_(made.out.weight)
        theirs.self_attn.in_proj_bias.zero_()
        theirs.self_attn.out_proj.bias.zero_()
        for name, layer in own.items():
            getattr(theirs, name).load_state_dict(layer.state_dict())
    expected = theirs(x, src_key_padding_mask=~mask)
    assert torch.allclose(made(x, readable(mask).double()), expected, atol=1e-12)


def test_the_asking_rows_alone_get_the_answers_of_the_whole_block():
    made, x, bias = block(), normal(4, 5, D), readable(masks([5, 2, 1, 3], 5)).double()
    whole = made(x, bias)
    assert torch.allclose(made(x, bias, own=x[:, -1:]), whole[:, -1:], atol=1e-12)
    assert torch.allclose(made(x, bias, own=x[:, 1:3]), whole[:, 1:3], atol=1e-12)


def test_rows_that_may_not_be_read_change_nothing():
    made, x, mask = block(), normal(3, 5, D), masks([4, 2, 1], 5)
    bias = readable(mask).double()
    assert bias.shape == (3, 1, 5)
    assert ((bias == 0).squeeze(1) == mask).all()
    assert (bias[bias != 0] == -math.inf).all()
    other = torch.where(mask.unsqueeze(-1), x, 1e3 * normal(3, 5, D, seed=1))
    kept = made(x, bias)[mask]
    assert torch.allclose(made(other, bias)[mask], kept, atol=1e-12)
    assert torch.allclose(made(x[:, 1:], bias[..., 1:])[mask[:, 1:]], kept, atol=1e-12)


# --- the short-term branch -------------------------------------------------------------------------------------


def showings(histories, hidden=0, seed=0):
    """One sample a user, whose behaviours are told item by item; `hidden`: older ones that stand in the batch, too."""
    generator = torch.Generator().manual_seed(seed)
    rows = [(item, item % 5 + 1) for history in histories for item in [*range(3, 3 + hidden), *history]]
    ends = torch.tensor([0, *(len(h) + hidden for h in histories)]).cumsum(0)
    count = len(histories)
    return ClickBatch(
        behaviours=torch.tensor(rows, dtype=torch.int64).reshape(-1, 2),
        times=None,
        sizes=None,
        start=ends[:-1] + hidden,
        end=ends[1:],
        target=torch.randint(3, 6, (count, 2), generator=generator),
        other=torch.zeros(count, 0, dtype=torch.int64),
        numeric=torch.zeros(count, 0),
        label=torch.zeros(count),
        user=torch.arange(count),
        time=torch.zeros(count, dtype=torch.int64),
        case=torch.arange(count),
    )


def branch(kind="transformer", seed=0, recent=4, **how):
    torch.manual_seed(seed)
    fields = Fields(CLICK, 4, deviation=1.0).double()
    return fields, shaken(ShortTerm(fields.width, recent, kind, **how).double()).eval()


def short(fields, term, batch):
    return term(fields, batch, fields.target(batch))


PASTS = [[3, 4, 5], [], [6], [7, 8, 9, 10, 11, 12], [4, 4]]


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("position", ["none", "recency"])
def test_the_short_term_branch_equals_its_loop(layers, position):
    fields, term = branch(layers=layers, position=position)
    batch = showings(PASTS)
    found = short(fields, term, batch)
    for b, past in enumerate(PASTS):
        kept = past[-4:]
        rows = [fields(torch.tensor([item, item % 5 + 1])) for item in kept] + [fields(batch.target[b])]
        if term.position is not None:
            ranks = [*range(len(kept) - 1, -1, -1)]  # 0: the most recent
            learned = [term.position[-2 - rank] for rank in ranks] + [term.position[-1]]
            rows = [row + vector for row, vector in zip(rows, learned, strict=True)]
        x = torch.stack(rows).unsqueeze(0)
        for one in term.blocks:
            x = written_out(one, x, torch.ones(1, len(rows), dtype=torch.bool))
        assert torch.allclose(found[b], x[0, -1], atol=1e-10)


@pytest.mark.parametrize("kind", ["transformer", "din", "none"])
def test_only_the_most_recent_behaviours_count(kind):
    fields, term = branch(kind)
    batch = showings(PASTS)
    found = short(fields, term, batch)
    assert found.shape == (5, 0 if kind == "none" else D)
    older = showings([[*range(13, 18), *past] if len(past) >= 4 else past for past in PASTS])
    assert torch.allclose(short(fields, term, older), found, atol=1e-12)
    if kind != "none":
        newer = showings([[*past, 19] for past in PASTS])
        assert not torch.isclose(short(fields, term, newer), found).all(1).any()


@pytest.mark.parametrize(("kind", "position"), [("transformer", "none"), ("din", "none")])
def test_without_positions_order_is_invisible(kind, position):
    fields, term = branch(kind, position=position)
    one, other = showings([[3, 4, 5, 6], [7, 8]]), showings([[5, 3, 6, 4], [8, 7]])
    assert torch.allclose(short(fields, term, one), short(fields, term, other), atol=1e-12)


def test_with_positions_order_is_seen():
    fields, term = branch()
    one, other = showings([[3, 4, 5, 6], [7, 8]]), showings([[5, 3, 6, 4], [8, 7]])
    assert not torch.isclose(short(fields, term, one), short(fields, term, other)).all(1).any()


@pytest.mark.parametrize("kind", ["transformer", "din"])
def test_an_answer_depends_neither_on_padding_nor_on_the_batch(kind):
    fields, term = branch(kind)
    found = short(fields, term, showings(PASTS))
    targets = showings(PASTS).target
    for b, past in enumerate(PASTS):
        alone = dataclasses.replace(showings([past]), target=targets[b : b + 1])
        assert torch.allclose(short(fields, term, alone)[0], found[b], atol=1e-12)
        behind = dataclasses.replace(showings([past], hidden=3), target=targets[b : b + 1])
        assert torch.allclose(short(fields, term, behind)[0], found[b], atol=1e-12)


@pytest.mark.parametrize("kind", ["transformer", "din"])
def test_an_empty_history_leaves_the_target_alone(kind):
    fields, term = branch(kind)
    batch = showings([[], [], [3]])
    batch = dataclasses.replace(batch, target=torch.tensor([[4, 3], [4, 3], [4, 3]]))
    found = short(fields, term, batch)
    assert found.isfinite().all()
    assert torch.allclose(found[0], found[1], atol=1e-12)
    nobody = dataclasses.replace(showings([[], []]), target=batch.target[:2])
    assert torch.allclose(short(fields, term, nobody), found[:2], atol=1e-12)
    other = dataclasses.replace(nobody, target=torch.tensor([[4, 3], [5, 3]]))
    assert torch.allclose(*short(fields, term, other)) == (kind == "din")  # DIN's sum over nothing is 0


def test_dins_branch_is_its_weighted_sum():
    fields, term = branch("din")
    batch = showings(PASTS)
    found = short(fields, term, batch)
    for b, past in enumerate(PASTS):
        total = torch.zeros(D).double()
        for item in past[-4:]:
            e = fields(torch.tensor([[item, item % 5 + 1]]))
            total = total + term.unit(fields.target(batch)[b : b + 1], e, torch.tensor([0])) * e[0]
        assert torch.allclose(found[b], total, atol=1e-12)


@pytest.mark.parametrize("kind", ["transformer", "din"])
def test_every_parameter_of_the_branch_learns(kind):
    fields, term = branch(kind)
    term.train()
    short(fields, term, showings(PASTS)).square().sum().backward()
    for name, parameter in term.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    learned = {item for past in PASTS for item in past[-4:]} | set(showings(PASTS).target[:, 0].tolist())
    assert set(fields.table.weight.grad[:20].any(1).nonzero().squeeze(1).tolist()) == learned


# --- the head --------------------------------------------------------------------------------------------------


def head(hidden=(6, 5), training=True, **how):
    torch.manual_seed(0)
    return shaken(ClickHead(9, hidden, **how).double()).train(training)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_the_head_is_its_layers(normalise, training):
    made = head(training=training, normalise_logit=normalise)
    expected = [nn.Linear, nn.BatchNorm1d, Dice] * 2 + [nn.Linear] + [nn.BatchNorm1d] * normalise
    assert [type(layer) for layer in made.layers] == expected
    parts = normal(7, 4), normal(7, 3, seed=1), normal(7, 1, 2, seed=2)
    x = torch.cat([parts[0], parts[1], parts[2].flatten(1)], 1)
    for layer in made.layers:
        if isinstance(layer, nn.BatchNorm1d):
            mean = x.mean(0) if training else torch.zeros(x.shape[1])
            spread = x.var(0, unbiased=False) if training else torch.ones(x.shape[1])
            x = (x - mean) / (spread + 1e-5).sqrt() * layer.weight + layer.bias
        elif isinstance(layer, Dice):
            mean, spread = (x.mean(0), x.var(0, unbiased=False)) if training else (0.0, torch.ones(x.shape[1]))
            p = 1 / (1 + torch.exp(-(x - mean) / (spread + 1e-9).sqrt()))
            x = p * x + layer.alpha * (1 - p) * x
        else:
            x = x @ layer.weight.T + layer.bias
    found = made(*parts)
    assert found.shape == (7,)
    assert torch.allclose(found, x.squeeze(1), atol=1e-10)


def test_one_sample_alone_can_be_trained_on_and_scored():
    made, x = head(), normal(1, 9)
    click_loss(made(x), torch.ones(1)).backward()
    assert all(parameter.grad.isfinite().all() for parameter in made.parameters())
    made = head(training=False)
    many = normal(4, 9)
    assert torch.allclose(torch.cat([made(row.unsqueeze(0)) for row in many]), made(many), atol=1e-12)


def test_the_loss_is_cross_entropy():
    logits, label = normal(50, dtype=torch.float32), torch.arange(50) % 3 == 0
    expected = 0.0
    for z, y in zip(logits.tolist(), label.tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        expected -= (math.log(p) if y else math.log(1 - p)) / 50
    assert float(click_loss(logits, label)) == pytest.approx(expected, abs=1e-6)
    assert float(click_loss(torch.zeros(3), torch.tensor([0.0, 1.0, 1.0]))) == pytest.approx(math.log(2))
    assert float(click_loss(torch.tensor([1e4, -1e4]), torch.tensor([1.0, 0.0]))) == 0
    assert functional.softplus(torch.tensor(300.0)) == click_loss(torch.tensor([300.0]), torch.zeros(1))
