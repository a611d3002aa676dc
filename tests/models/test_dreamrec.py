import math

import pytest
import torch

import contract
from diffacet.core import diffusion
from diffacet.core.batch import SequenceBatch
from diffacet.core.contract import Facts
from diffacet.errors import BadSetting
from diffacet.learn import batches
from diffacet.models.dreamrec import CARDS, Denoiser, DreamRec, DreamRecConfig

N, LENGTH, D = 12, 5, 8
ROWS = [[3, 1, 7], [2], [5, 4, 11, 1, 9], [9, 8]]
PRESETS = CARDS[0].presets


def build(shake=True, **settings):
    torch.manual_seed(0)
    model = DreamRec(DreamRecConfig(**{"dim": D, "steps": 6, **settings}), Facts(N, LENGTH)).double().eval()
    return contract.shaken(model) if shake else model


def history(rows=ROWS, case=None):
    return contract.histories(rows, LENGTH, case)


def batch(rows=ROWS, target=(4, 12, 6, 1)):
    return SequenceBatch(history(rows), torch.tensor(target[: len(rows)]), torch.tensor([1]))


def loss(model, given, seed=3):
    torch.manual_seed(seed)
    return model.loss(given)["reconstruction"]


def weights_of(layer):
    return layer.weight.detach(), layer.bias.detach()


def estimate(model, xt, c, t):
    """(D4) and (D5) for one vector: [x_t ; c ; tau(t)] side by side, one coordinate of the wave at a time."""
    angles = [(t - 1) * 10_000 ** (-j / (D / 2 - 1)) for j in range(D // 2)]
    told = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=torch.float64)
    net = model.denoiser
    (w1, b1), (w2, b2), (w, b) = weights_of(net.step_in), weights_of(net.step_out), weights_of(net.first)
    tau = w2 @ torch.nn.functional.gelu(w1 @ told + b1) + b2
    out = w @ torch.cat([xt, c, tau]) + b
    if net.second is not None:
        w, b = weights_of(net.second)
        out = w @ torch.nn.functional.gelu(out) + b
    return out


def encoded(model, rows=ROWS):
    there = history(rows)
    with torch.no_grad():
        return model.encode(model.items(there.items), there.mask)


@pytest.mark.parametrize("denoiser", ["mlp1", "mlp2"])
def test_the_loss_is_that_of_the_loop(denoiser):
    model, given = build(denoiser=denoiser, unconditional=0.5), batch()
    torch.manual_seed(4)
    hidden = (torch.rand(4, 1) < 0.5)[:, 0].tolist()
    t = torch.randint(1, 7, (4,)).tolist()
    noise = torch.randn(4, D, dtype=torch.float64)
    assert {True, False} == set(hidden)
    expected, conditions = 0.0, encoded(model)
    for b in range(4):
        e = model.items.weight[given.target[b]].detach()
        level = model.schedule.alpha_bar[t[b]].item()
        xt = math.sqrt(level) * e + math.sqrt(1 - level) * noise[b]
        c = model.nothing.detach() if hidden[b] else conditions[b]
        expected += sum((a - x) ** 2 for a, x in zip(e, estimate(model, xt, c, t[b]), strict=True)).item() / (4 * D)
    assert loss(model, given, seed=4).item() == pytest.approx(expected, rel=1e-9)


def test_every_step_is_drawn_equally_often():
    model = build(steps=4)
    drawn, keep = [], model.denoiser.of_step
    model.denoiser.of_step = lambda t: drawn.append(t) or keep(t)
    many = batch([[1]] * 4_000, [2] * 4_000)
    loss(model, many)
    counts = torch.bincount(drawn[0], minlength=5).tolist()
    assert counts[0] == 0
    assert all(abs(count - 1_000) < 4 * math.sqrt(750) for count in counts[1:])


def test_a_hidden_history_does_not_matter():
    model = build(unconditional=1.0)
    assert loss(model, batch()).item() == loss(model, batch([[1], [2, 2], [], [7]])).item()
    model = build(unconditional=0.0)
    assert loss(model, batch()).item() != loss(model, batch([[1], [2, 2], [], [7]])).item()
    before = loss(model, batch()).item()
    with torch.no_grad():
        model.nothing += 1
    assert loss(model, batch()).item() == before


def test_items_learn_as_targets_as_noised_vectors_and_as_histories():
    """The gradient of a row is what automatic differentiation finds with no part of the loss detached."""
    torch.manual_seed(1)
    model, given = build(unconditional=0.0), batch([[3, 1]], [4])
    loss(model, given, seed=5).backward()
    found = model.items.weight.grad
    torch.manual_seed(5)
    torch.rand(1, 1)
    t = torch.randint(1, 7, (1,))
    noise = torch.randn(1, D, dtype=torch.float64)
    net = model.denoiser

    def paths(target, noised, past):
        """d loss / d table with the target, x_t and c free or held."""
        table = model.items.weight.detach().clone().requires_grad_()
        held = table.detach()
        item = (table if target else held)[4]
        clean = (table if noised else held)[4].unsqueeze(0)
        xt = diffusion.forward_noise(clean, t, noise, model.schedule)
        there = torch.ones(1, 2, dtype=torch.bool)
        c = model.encode((table if past else held)[torch.tensor([[3, 1]])], there)
        (net(xt, net.of_history(c), net.of_step(t)) - item).square().mean().backward()
        return table.grad

    assert torch.allclose(found, paths(True, True, True), atol=1e-12)
    parts = [paths(True, False, False), paths(False, True, False), paths(False, False, True)]
    assert torch.allclose(found, sum(parts), atol=1e-12)
    assert all(part[4].abs().max() > 1e-4 for part in parts[:2])
    assert parts[2][[3, 1]].abs().amax(1).min() > 1e-6
    assert not found[[0, 2, 5, 12]].any()


@pytest.mark.parametrize("denoiser", ["mlp1", "mlp2"])
@pytest.mark.parametrize("w", [0.0, 2.0])
def test_guidance_moves_away_from_what_no_history_gives(denoiser, w):
    model = build(denoiser=denoiser, guidance=w)
    torch.manual_seed(2)
    x, t, conditions = torch.randn(4, 2, D, dtype=torch.float64), torch.tensor([1, 3, 6, 2]), encoded(model)
    with torch.no_grad():
        found = model.guided(conditions.unsqueeze(1))(x, t)
    for b in range(4):
        for sample in range(2):
            known = estimate(model, x[b, sample], conditions[b], t[b].item())
            hidden = estimate(model, x[b, sample], model.nothing.detach(), t[b].item())
            assert torch.allclose(found[b, sample], (1 + w) * known - w * hidden, atol=1e-12)


def watched(monkeypatch, name):
    """What the walk `name` of the diffusion core is given."""
    given, walk = {}, getattr(diffusion, name)

    def watch(denoise, x, *rest, **more):
        given.update(denoise=denoise, x=x, **more)
        return walk(denoise, x, *rest, **more)

    monkeypatch.setattr(diffusion, name, watch)
    return given


def test_generation_is_that_of_the_loop(monkeypatch):
    model = build(samples=2)
    given = watched(monkeypatch, "ancestral")
    with torch.no_grad():
        found = model.interests(history())
        x, beta = given["x"], model.schedule.beta.tolist()
        level = model.schedule.alpha_bar.tolist()
        for t in range(6, 0, -1):
            rebuilt = given["denoise"](x, torch.full((4,), t))
            of_x0 = math.sqrt(level[t - 1]) * beta[t] / (1 - level[t])
            of_xt = math.sqrt(1 - beta[t]) * (1 - level[t - 1]) / (1 - level[t])
            x = of_x0 * rebuilt + of_xt * x
            if t > 1:
                x = x + math.sqrt(beta[t] * (1 - level[t - 1]) / (1 - level[t])) * given["noise"][t - 1]
    assert found.shape == (4, 2, D)
    assert torch.allclose(found, x, atol=1e-9)


def test_noise_is_standard_normal_and_new_at_every_step(monkeypatch):
    model = build(dim=64, steps=3, samples=2)
    given = watched(monkeypatch, "ancestral")
    with torch.no_grad():
        model.interests(history([[1]] * 60, range(60)))
    drawn = torch.stack([given["x"], *(given["noise"][entry] for entry in range(3))]).flatten(2)  # (4, 60, 2 * 64)
    flat = torch.cat([drawn[..., :64], drawn[..., 64:]]).flatten(1)  # (8, 60 * 64), each row its own draw
    assert torch.allclose(flat.mean(1), torch.zeros(8, dtype=torch.float64), atol=4 / math.sqrt(3840))
    assert torch.allclose(torch.corrcoef(flat), torch.eye(8, dtype=torch.float64), atol=4 / math.sqrt(3840))
    assert torch.allclose(flat.var(1), torch.ones(8, dtype=torch.float64), atol=4 * math.sqrt(2 / 3840))


def test_one_step_returns_the_guided_estimate(monkeypatch):
    model = build(steps=1)
    given = watched(monkeypatch, "ancestral")
    with torch.no_grad():
        found = model.interests(history())
        assert torch.equal(found, given["denoise"](given["x"], torch.ones(4, dtype=torch.int64)))


def test_fewer_steps_are_those_of_ddim(monkeypatch):
    model = build(denoise_steps=3)
    given = watched(monkeypatch, "ddim")
    with torch.no_grad():
        found = model.interests(history())
        level, x = model.schedule.alpha_bar.tolist(), given["x"]
        for t, earlier in ((6, 4), (4, 1), (1, 0)):
            rebuilt = given["denoise"](x, torch.full((4,), t))
            eps = (x - math.sqrt(level[t]) * rebuilt) / math.sqrt(1 - level[t])
            x = math.sqrt(level[earlier]) * rebuilt + math.sqrt(1 - level[earlier]) * eps
    assert torch.allclose(found, x, atol=1e-9)


def test_more_samples_keep_those_there_were():
    with torch.no_grad():
        one, three = build().interests(history()), build(samples=3).interests(history())
        other = build(noise_seed=1).interests(history())
    assert three.shape == (4, 3, D)
    assert torch.allclose(three[:, :1], one, atol=1e-12)
    assert not torch.allclose(three[:, 1], three[:, 0])
    assert not torch.allclose(other, one)


def test_the_same_history_generates_by_its_case():
    with torch.no_grad():
        found = build().interests(history([[3, 1]] * 3, [5, 6, 5]))
    assert torch.equal(found[0], found[2])
    assert not torch.allclose(found[0], found[1])


def test_gauges_are_those_of_the_pairs():
    model = build()
    told = model.diagnose(batch())
    rows = model.items.weight[1:].detach()
    cosines = [
        torch.dot(rows[i], rows[j]).item() / (rows[i].norm() * rows[j].norm()).item()
        for i in range(N)
        for j in range(N)
        if i != j
    ]
    assert told["item_norm"].item() == pytest.approx(sum(row.norm().item() for row in rows) / N)
    assert told["item_cosine"].item() == pytest.approx(sum(cosines) / len(cosines))


def test_items_start_as_wide_as_the_noise():
    torch.manual_seed(0)
    model = DreamRec(DreamRecConfig(), Facts(500, LENGTH))
    assert model.items.weight[1:].std().item() == pytest.approx(1.0, abs=0.02)
    assert not model.items.weight[0].any()
    told = model.diagnose(batch())
    assert told["item_norm"].item() == pytest.approx(8.0, rel=0.02)
    assert abs(told["item_cosine"].item()) < 0.01


def test_published_settings():
    assert (PRESETS["paper"].model.schedule, PRESETS["paper"].model.steps, PRESETS["paper"].training.lr) == (
        "exp",
        500,
        0.001,
    )
    kuairec = PRESETS["paper-kuairec"]
    assert (kuairec.model.schedule, kuairec.model.steps, kuairec.training.lr) == ("cosine", 2000, 5e-5)
    zhihu = PRESETS["paper-zhihu"]
    assert (zhihu.model.schedule, zhihu.model.guidance, zhihu.training.lr) == ("linear", 4.0, 0.01)
    assert all(preset.training.batch_size == 256 for preset in PRESETS.values())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dim": 9}, "dim is even"),
        ({"denoise_steps": 7}, "denoise_steps lies in 1..steps; got 7 with steps=6"),
    ],
)
def test_refused_settings(settings, said):
    with pytest.raises(BadSetting, match=said):
        build(**settings)


def overfitted(rounds, lr, **settings):
    """HR@1 on 50 histories of 5 random items, each with its target, after so many steps on all of them; the model."""
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(1)
    items = torch.randint(1, 61, (50, 5), generator=draw)
    target = torch.randint(1, 61, (50,), generator=draw)
    given = SequenceBatch(contract.histories(items.tolist(), 5), target, torch.tensor([1]))
    model = DreamRec(DreamRecConfig(**{"steps": 20, "dropout": 0.0, **settings}), Facts(60, 5))
    optimizer = torch.optim.Adam(model.parameters(), lr)
    for _ in range(rounds):
        optimizer.zero_grad()
        model.train().loss(given)["reconstruction"].backward()
        optimizer.step()
    best = contract.answer(model.eval(), given.history)[:, 1:].argmax(1) + 1
    return (best == target).float().mean().item(), model.diagnose(given)


def test_fifty_sequences_are_learnt_by_heart():
    hit_rate, _ = overfitted(120, 0.005)
    assert hit_rate >= 0.95


def test_items_collapse_when_only_the_reconstruction_is_trained():
    """What the gauges are for: the loss goes on falling while items move together, and the ranking is lost."""
    early, began = overfitted(80, 0.01, dim=32, steps=10)
    late, ended = overfitted(400, 0.01, dim=32, steps=10)
    assert ended["item_norm"] < 0.8 * began["item_norm"]
    assert ended["item_cosine"] > began["item_cosine"] + 0.03
    assert late < early


@pytest.mark.parametrize("preset", ["paper", "paper-kuairec", "paper-zhihu"])
def test_learns_whose_items_are_whose(preset):
    """Two groups of users who share no item, as in the battery, but wider and faster: items first have to move."""
    card = CARDS[0]
    chosen = contract.small(card, preset, batch_size=20, dim=32, steps=500)
    train = contract.log(groups=2, users=120)
    model = contract.build(card, chosen, train)
    batch_at = batches.batch_at(train, contract.N_ITEMS, chosen.training)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    torch.manual_seed(0)
    for step in range(200):
        optimizer.zero_grad()
        model.train().loss(batch_at(step))["reconstruction"].backward()
        optimizer.step()
    rows = [train.row(user)[-contract.LENGTH :].tolist() for user in range(len(train))]
    best = contract.answer(model.eval(), contract.histories(rows))[:, 1:].topk(6).indices + 1
    own = 1 + torch.arange(len(rows)).unsqueeze(1) % 2
    assert ((best - own) % 2 == 0).float().mean() > 0.9  # by chance one half


def test_the_denoiser_is_one_linear_layer_or_two():
    assert Denoiser(D, deep=False).first.weight.shape == (D, 3 * D)
    deep = Denoiser(D, deep=True)
    assert (deep.first.weight.shape, deep.second.weight.shape) == ((2 * D, 3 * D), (D, 2 * D))
