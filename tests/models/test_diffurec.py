import math

import pytest
import torch

import contract
from diffacet.core import diffusion
from diffacet.core.batch import SequenceBatch
from diffacet.core.contract import Facts
from diffacet.errors import BadSetting
from diffacet.models.diffurec import CARDS, DiffuRec, DiffuRecConfig

N, LENGTH, D = 12, 5, 8
ROWS = [[3, 1, 7], [2], [5, 4, 11, 1, 9], [9, 8]]
EVERYTHING = torch.arange(1, N + 1)


def build(length=LENGTH, **settings):
    torch.manual_seed(0)
    small = {"dim": D, "steps": 6, "layers": 2, "heads": 2, "delta": 0.3}
    return contract.shaken(DiffuRec(DiffuRecConfig(**{**small, **settings}), Facts(N, length)).double().eval())


def history(rows=ROWS, case=None, width=LENGTH):
    return contract.histories(rows, width, case)


def batch(rows=ROWS, target=(4, 12, 6, 1)):
    return SequenceBatch(history(rows), torch.tensor(target[: len(rows)]), EVERYTHING, everything=True)


def loss(model, given, seed=3):
    torch.manual_seed(seed)
    return model.loss(given)["softmax"]


def normalised(layer, x):
    """One vector, coordinate by coordinate; the code's layer, with epsilon under the root."""
    mean = sum(x.tolist()) / len(x)
    variance = sum((v - mean) ** 2 for v in x.tolist()) / len(x)
    return layer.weight.detach() * (x - mean) / math.sqrt(variance + 1e-12) + layer.bias.detach()


def through(layer, x):
    return layer.weight.detach() @ x + layer.bias.detach()


def block(layer, x, real, mask, heads):
    """(U6) position by position: x is a list of vectors, real a list of whether there is an item."""
    width, normed = len(x[0]) // heads, [normalised(layer.norm_attention, v) for v in x]
    query, key, value = ([through(part, v) for v in normed] for part in (layer.query, layer.key, layer.value))
    out = []
    for i, own in enumerate(x):
        joined = []
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            logits = [torch.dot(query[i][part], k[part]).item() / math.sqrt(width) for k in key]
            if mask == "key":
                logits = [a if there else -math.inf for a, there in zip(logits, real, strict=True)]
            elif not real[i]:
                logits = [-1e9] * len(x)
            weights = [math.exp(a - max(logits)) for a in logits]
            joined.append(sum(w * v[part] for w, v in zip(weights, value, strict=True)) / sum(weights))
        y = own + through(layer.out, torch.cat(joined))
        inner = through(layer.inner, normalised(layer.norm_feed, y))
        inner = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        out.append(y + through(layer.outer, inner))
    return out


def approximated(model, row, noisy, s, normal):
    """(U1) and (U3)-(U6) for one history, padded on the right to the length of `normal`."""
    c, net = model.config, model.approximator
    items = [*row, *[0] * (len(normal) - len(row))]
    embedded = [model.items.weight[i].detach() * (i > 0) for i in items]
    angles = [1000 * s / c.steps * 10_000 ** (-j / (c.dim / 2)) for j in range(c.dim // 2)]
    told = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles], dtype=torch.float64)
    inner = through(net.step_in, told)
    moved = noisy + through(net.step_out, inner * torch.sigmoid(inner))
    x = [normalised(model.norm, e) + (c.delta + c.delta * w) * moved for e, w in zip(embedded, normal, strict=True)]
    for layer in net.blocks:
        x = block(layer, x, [i > 0 for i in items], c.mask, c.heads)
    return normalised(net.norm, x[len(row) - 1])


@pytest.mark.parametrize("mask", ["key", "query"])
def test_the_loss_is_that_of_the_loop(mask):
    """Cross-entropy over all classes of the approximator's output for the noised target."""
    model, given = build(mask=mask), batch()
    torch.manual_seed(3)
    s = torch.randint(1, 7, (4,)).tolist()
    noise, normal = torch.randn(4, D, dtype=torch.float64), torch.randn(4, LENGTH, D, dtype=torch.float64)
    expected, table = 0.0, model.items.weight.detach()
    for b, row in enumerate(ROWS):
        level = model.schedule.alpha_bar[s[b]].item()
        noisy = math.sqrt(level) * table[given.target[b]] + math.sqrt(1 - level) * noise[b]
        scores = [torch.dot(approximated(model, row, noisy, s[b], normal[b]), e).item() for e in table[1:]]
        expected += (math.log(sum(map(math.exp, scores))) - scores[given.target[b] - 1]) / 4
    assert loss(model, given).item() == pytest.approx(expected, rel=1e-9)


def test_the_gradient_is_that_of_the_softmax_alone():
    """The noised target is not detached, and every item of the catalogue is pushed or pulled."""
    model = build()
    loss(model, batch()).backward()
    assert model.items.weight.grad[1:].any(1).all()
    assert not model.items.weight.grad[0].any()


def test_every_step_is_drawn_equally_often():
    model, drawn = build(steps=4), []
    model.approximator.register_forward_pre_hook(lambda _, given: drawn.append(given[3]))
    loss(model, batch([[1]] * 4_000, [2] * 4_000))
    counts = torch.bincount(drawn[0], minlength=5).tolist()
    assert counts[0] == 0
    assert all(abs(count - 1_000) < 4 * math.sqrt(750) for count in counts[1:])


def test_without_mixing_the_noise_has_no_effect():
    model = build(delta=0.0)
    assert loss(model, batch(), seed=3).item() == loss(model, batch(), seed=4).item()
    with torch.no_grad():
        found = model.interests(history())
        assert torch.equal(build(delta=0.0, noise_seed=1).interests(history()), found)
        assert torch.allclose(build(delta=0.0, denoise_steps=1).interests(history()), found, atol=1e-12)
    assert loss(build(), batch(), seed=3).item() != loss(build(), batch(), seed=4).item()


def watched(monkeypatch):
    """What the walk of the diffusion core is given."""
    given, walk = {}, diffusion.descend

    def watch(denoise, x, schedule, **more):
        given.update(denoise=denoise, x=x, schedule=schedule, **more)
        return walk(denoise, x, schedule, **more)

    monkeypatch.setattr(diffusion, "descend", watch)
    return given


def test_generation_is_that_of_the_loop(monkeypatch):
    """(U8): the posterior's mean, but noise of the forward chain's variance, and none at the last step."""
    model = build(samples=2)
    given = watched(monkeypatch)
    with torch.no_grad():
        found = model.interests(history())
        x, beta, level = given["x"], model.schedule.beta.tolist(), model.schedule.alpha_bar.tolist()
        for s in range(6, 0, -1):
            of_x0 = math.sqrt(level[s - 1]) * beta[s] / (1 - level[s])
            of_xs = math.sqrt(1 - beta[s]) * (1 - level[s - 1]) / (1 - level[s])
            x = of_x0 * given["denoise"](x, torch.full((4,), s)) + of_xs * x
            if s > 1:
                x = x + math.sqrt(beta[s]) * given["noise"][s - 1]
    assert found.shape == (4, 2, D)
    assert torch.allclose(found, x, atol=1e-9)


def test_mixing_weights_have_mean_and_deviation_delta_and_are_new_at_every_step():
    model, seen = build(dim=16, steps=3, delta=0.1), []
    model.approximator.register_forward_pre_hook(lambda _, given: seen.append(given[4]))
    with torch.no_grad():
        model.interests(history([[1, 2, 3, 4, 5]] * 60))
    weights = torch.stack([0.1 + 0.1 * normal for normal in seen]).flatten(1)  # (3, 60 * 5 * 16)
    count = weights.shape[1]
    assert torch.allclose(weights.mean(1), torch.full((3,), 0.1, dtype=torch.float64), atol=0.4 / math.sqrt(count))
    assert torch.allclose(weights.std(1), torch.full((3,), 0.1, dtype=torch.float64), atol=0.4 / math.sqrt(2 * count))
    assert torch.allclose(torch.corrcoef(weights), torch.eye(3, dtype=torch.float64), atol=4 / math.sqrt(count))


@pytest.mark.parametrize(("settings", "step"), [({"steps": 1}, 1), ({"denoise_steps": 1}, 6)])
def test_a_single_step_is_one_call_of_the_approximator(settings, step):
    model, calls = build(**settings), []
    model.approximator.register_forward_hook(lambda _, given, out: calls.append((given, out)))
    with torch.no_grad():
        found = model.interests(history())
    assert len(calls) == 1
    assert calls[0][0][3].tolist() == [step] * 4
    assert torch.equal(found, calls[0][1])
    items, normal = history().items, calls[0][0][4]
    for b, row in enumerate(ROWS):
        start = calls[0][0][2][b, 0]
        assert items[b, : len(row)].tolist() == row
        assert torch.allclose(found[b, 0], approximated(model, row, start, step, normal[b, 0]), atol=1e-9)


def test_a_shorter_chain_visits_some_of_the_steps():
    model, seen = build(denoise_steps=3), []
    model.approximator.register_forward_pre_hook(lambda _, given: seen.append(given[3].tolist()))
    with torch.no_grad():
        model.interests(history())
        assert torch.equal(build(denoise_steps=6).interests(history()), build().interests(history()))
    assert seen == [[6] * 4, [4] * 4, [1] * 4]


def test_only_the_mask_of_keys_keeps_padding_out():
    """With mask="query", the code's, what is answered depends on how far histories are padded."""
    for mask, same in (("key", True), ("query", False)):
        with torch.no_grad():
            # Without the noise of a chain, whose mixing weights are drawn for all positions.
            short, long = (
                build(length, mask=mask, delta=0.0).interests(history(width=LENGTH)) for length in (LENGTH, 9)
            )
        assert torch.allclose(short, long, atol=1e-9) == same
        with torch.no_grad():
            narrow = build(9, mask=mask).interests(history(width=LENGTH))
            wide = build(9, mask=mask).interests(history(width=7))
        assert torch.allclose(narrow, wide, atol=1e-9)


def test_more_samples_keep_those_there_were():
    with torch.no_grad():
        one, three = build().interests(history()), build(samples=3).interests(history())
        other = build(noise_seed=1).interests(history())
        cases = build().interests(history([[3, 1]] * 3, [5, 6, 5]))
    assert three.shape == (4, 3, D)
    assert torch.allclose(three[:, :1], one, atol=1e-12)
    assert not torch.allclose(three[:, 1], three[:, 0])
    assert not torch.allclose(other, one)
    assert torch.allclose(cases[0], cases[2], atol=1e-12)
    assert not torch.allclose(cases[0], cases[1])


def test_published_settings():
    paper, mask = CARDS[0].presets["paper"], CARDS[0].presets["original-mask"]
    assert (paper.model.dim, paper.model.steps, paper.model.delta, paper.model.mask) == (128, 32, 0.001, "key")
    assert (paper.training.batch_size, paper.training.length, paper.training.negatives) == (512, 50, 0)
    assert mask.model.mask == "query"
    assert mask.training == paper.training
    schedule = DiffuRec(paper.model, Facts(N, LENGTH)).schedule
    assert schedule.beta[1].item() == pytest.approx(1e-4 * 1000 / 32 + 0.01)
    assert schedule.beta[-1].item() == pytest.approx(0.02 * 1000 / 32 + 0.01)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"heads": 3}, "heads divides dim; got heads=3 and dim=8"),
        ({"denoise_steps": 7}, "denoise_steps lies in 1..steps; got 7 with steps=6"),
    ],
)
def test_refused_settings(settings, said):
    with pytest.raises(BadSetting, match=said):
        build(**settings)


def test_fifty_sequences_are_learnt_by_heart():
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(1)
    items = torch.randint(1, 61, (50, 5), generator=draw)
    target = torch.randint(1, 61, (50,), generator=draw)
    given = SequenceBatch(contract.histories(items.tolist(), 5), target, torch.arange(1, 61), everything=True)
    model = DiffuRec(DiffuRecConfig(dim=16, steps=4, layers=2, dropout=0.0, block_dropout=0.0), Facts(60, 5))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(100):
        optimizer.zero_grad()
        model.train().loss(given)["softmax"].backward()
        optimizer.step()
    best = contract.answer(model.eval(), given.history)[:, 1:].argmax(1) + 1
    assert (best == target).float().mean() >= 0.95
