"""DiffuMIN against its equations in loops: noising, losses, the walk back, what trains what, variants, presets."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import clicks
from diffacet.app import settings as app_settings
from diffacet.core.batch import ClickBatch
from diffacet.core.contract import ClickFields, Facts
from diffacet.core.diffusion import KeyedNoise
from diffacet.errors import BadSetting
from diffacet.models import card
from diffacet.models.diffumin import DiffuMIN, DiffuMINConfig
from reference import normal

CARD = card("diffumin")
SMALL = {"steps": 30, "sampling_steps": 4, "channels": 3}
VARIANTS = ("full", "A", "B", "C", "D", "E", "W", "X", "Y", "Z")


def made(preset="best", seed=0, about=None, **changes):
    return clicks.model(CARD, preset, seed, about, **(SMALL | changes))


def asked(model, **changes):
    """The same model with other settings of inference."""
    model.config = dataclasses.replace(model.config, **changes)
    return model


def world(model, B=5, seed=0, share=0.8):
    """Interests of the model's length, channels, and which are active."""
    c, d = model.channels.count, model.fields.width
    active = torch.rand(B, c, generator=torch.Generator().manual_seed(seed)) < share
    length = math.sqrt(d) if model.config.scale == "root-d" else 1.0
    interests = nn.functional.normalize(normal(B, c, d, seed=seed), dim=-1) * length * active.unsqueeze(-1)
    channels = nn.functional.normalize(normal(B, c, d, seed=seed + 1), dim=-1)
    return interests, channels, active


def betas(config):
    """beta_t at entry t; entry 0 is no level."""
    T, low, high = config.steps, config.noise_min, config.noise_max
    return [0.0] + [low + (t - 1) * (high - low) / (T - 1) for t in range(1, T + 1)]


def signals(config):
    told = [1.0]
    for beta in betas(config)[1:]:
        told.append(told[-1] * (1 - beta))
    return told


# --- the chain -------------------------------------------------------------------------------------------------


def test_the_schedule_is_the_published_one():
    schedule = DiffuMIN(CARD.presets["best"].model, clicks.facts()).schedule
    assert schedule.steps == 1000
    assert float(schedule.beta[1]) == 1e-4
    assert float(schedule.beta[1000]) == pytest.approx(0.02, abs=1e-15)
    expected = {1: 0.9999, 10: 0.998105, 20: 0.994231, 100: 0.897018, 500: 0.078587, 1000: 4.0e-5}
    for t, value in expected.items():
        assert float(schedule.alpha_bar[t]) == pytest.approx(value, abs=6e-7)
    assert (schedule.alpha_bar.diff() < 0).all()
    config = CARD.presets["best"].model
    assert schedule.beta.tolist()[1:] == pytest.approx(betas(config)[1:])
    assert schedule.alpha_bar.tolist() == pytest.approx(signals(config))


def test_noising_has_the_mean_and_variance_of_its_level():
    model = made(steps=1000)
    interests, _, _ = world(model, B=1, share=1.0)
    many = interests.expand(20_000, -1, -1)
    levels = torch.tensor([[1, 300, 1000]]).expand(20_000, -1)
    torch.manual_seed(0)
    found = model.noised(many, levels, torch.randn_like(many))
    for j, t in enumerate((1, 300, 1000)):
        signal = signals(model.config)[t]
        error = math.sqrt((1 - signal) / 20_000)
        assert (found[:, j].mean(0) - math.sqrt(signal) * interests[0, j]).abs().max() < 5 * error
        assert (found[:, j].var(0) - (1 - signal)).abs().max() < 5 * (1 - signal) * math.sqrt(2 / 20_000)


def walk_by_hand(model, interests, channels, active, t0, start, noise):
    """x_0 of every interest, level by level by the noise that the network names (Eq. 13, 19)."""
    c, beta, signal = model.config, betas(model.config), signals(model.config)
    around = model.network.read(interests, active, channels)
    x = torch.zeros_like(interests)
    for b in range(len(x)):
        for i in range(x.shape[1]):
            level = int(t0[b, i]) if c.start == "anywhere" else c.sampling_steps
            pure = c.start == "gaussian" or c.variant == "Z"
            kept, added = (0.0, 1.0) if pure else (math.sqrt(signal[level]), math.sqrt(1 - signal[level]))
            x[b, i] = kept * interests[b, i] + added * start[b, i]
    for t in range(c.sampling_steps, 0, -1):
        named = model.network(x, torch.full(x.shape[:2], t), around)
        spread = math.sqrt(beta[t])
        if c.deviation == "posterior":
            spread = math.sqrt(beta[t] * (1 - signal[t - 1]) / (1 - signal[t]))
        new = torch.zeros_like(x)
        for b in range(len(x)):
            for i in range(x.shape[1]):
                mean = (x[b, i] - beta[t] / math.sqrt(1 - signal[t]) * named[b, i]) / math.sqrt(1 - beta[t])
                new[b, i] = mean if noise is None or t == 1 else mean + spread * noise[t - 1][b, i]
        x = new
    return torch.where(active.unsqueeze(-1), x, 0.0)


@torch.no_grad()
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"start": "anywhere"},
        {"start": "gaussian"},
        {"variant": "Z"},
        {"variant": "W"},
        {"deviation": "posterior", "scale": "one"},
        {"sampling_steps": 1},
        {"sampling_steps": 30, "channels": 1},
        {"predicts": "released", "output": False},
    ],
)
def test_the_walk_back_equals_its_loop(changes, noisy):
    model = made(**changes)
    interests, channels, active = world(model)
    start = normal(*interests.shape, seed=5)
    noise = normal(model.config.sampling_steps, *interests.shape, seed=6) if noisy else None
    t0 = torch.randint(1, 31, active.shape, generator=torch.Generator().manual_seed(0))
    found = model.generate(interests, channels, active, t0, start, noise)
    assert torch.allclose(found, walk_by_hand(model, interests, channels, active, t0, start, noise), atol=1e-9)
    assert not found[~active].any()


class Oracle(nn.Module):
    """Names the noise that x_t holds if `clean` is its interest."""

    def __init__(self, config, clean):
        super().__init__()
        self.signal, self.clean = signals(config), clean

    def read(self, interests, active, channels):
        return None

    def forward(self, x, t, around):
        signal = self.signal[int(t.flatten()[0])]
        return (x - math.sqrt(signal) * self.clean) / math.sqrt(1 - signal)


@pytest.mark.parametrize("start", ["last", "anywhere", "gaussian"])
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_who_knows_the_noise_finds_the_interest(start, steps):
    """From any start and with any noise on the way: the mean of the last step is what it knows."""
    model = made(steps=1000, sampling_steps=steps, start=start)
    interests, channels, active = world(model, share=1.0)
    model.network = Oracle(model.config, interests)
    for seed in range(3):
        noise = 3 * normal(steps, *interests.shape, seed=seed)
        begin = 3 * normal(*interests.shape, seed=seed + 10)
        t0 = torch.randint(1, 1001, active.shape)
        assert torch.allclose(model.generate(interests, channels, active, t0, begin, noise), interests, atol=1e-4)


def test_the_last_step_adds_no_noise():
    model = made(sampling_steps=1)
    interests, channels, active = world(model)
    start, t0 = normal(*interests.shape), torch.ones(active.shape, dtype=torch.int64)
    drawn = [
        model.generate(interests, channels, active, t0, start, 9 * normal(1, *interests.shape, seed=seed))
        for seed in range(3)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("predicts", ["noise", "released"])
@pytest.mark.parametrize("levels", ["all", "used"])
def test_the_diffusion_loss_equals_its_loop(levels, predicts):
    model = made(train_levels=levels, predicts=predicts)
    interests, channels, active = world(model)
    torch.manual_seed(3)
    found = float(model.diffusion_loss(interests, channels, active).detach())
    torch.manual_seed(3)
    t = torch.randint(1, (30 if levels == "all" else 4) + 1, active.shape)
    noise = torch.randn_like(interests)
    signal, total, count = signals(model.config), 0.0, 0
    noisy = torch.zeros_like(interests)
    for b in range(5):
        for i in range(3):
            kept = signal[int(t[b, i])]
            noisy[b, i] = math.sqrt(kept) * interests[b, i] + math.sqrt(1 - kept) * noise[b, i]
    named = model.network(noisy, t, model.network.read(interests, active, channels)).detach()
    for b in range(5):
        for i in range(3):
            if active[b, i]:
                aim = noise[b, i] if predicts == "noise" else interests[b, i]
                total += float(((aim - named[b, i]) ** 2).mean())
                count += 1
    assert 0 < count < 15
    assert found == pytest.approx(total / count)
    nothing = model.diffusion_loss(torch.zeros_like(interests), channels, torch.zeros_like(active))
    assert float(nothing.detach()) == 0


# --- the whole -------------------------------------------------------------------------------------------------


@torch.no_grad()
@settings(max_examples=10)
@given(seed=st.integers(0, 99))
def test_the_prediction_reads_its_parts_in_order(seed):
    model, batch = made(seed=seed).eval(), clicks.batch(seed)
    target = model.fields.target(batch)
    raw, channels, routed = model.channels(model.fields, batch, target)
    length = raw.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    interests = raw / length * math.sqrt(model.fields.width)
    t0 = torch.ones(routed.active.shape, dtype=torch.int64)
    walked = walk_by_hand(model, interests, channels, routed.active, t0, torch.zeros_like(raw), None)
    joined = torch.cat([raw.flatten(1), walked.flatten(1)], 1)
    assert torch.allclose(model.logits(batch), clicks.together(model, batch, joined), atol=1e-9)


def test_a_walk_without_noise_from_anywhere_starts_in_the_middle():
    model, batch = made(start="anywhere", steps=31).eval(), clicks.batch(1)
    with torch.no_grad():
        raw, channels, routed = model.channels(model.fields, batch, model.fields.target(batch))
        interests = nn.functional.normalize(raw, dim=-1) * math.sqrt(model.fields.width)
        t0 = torch.full(routed.active.shape, 16)
        expected = walk_by_hand(model, interests, channels, routed.active, t0, torch.zeros_like(raw), None)
        assert torch.allclose(model.answer(batch, raw, channels, routed), expected, atol=1e-9)


def test_seeded_noise_is_that_of_the_key():
    model, batch = made(start="anywhere", sampling_noise="seeded", noise_seed=5).eval(), clicks.batch(1)
    with torch.no_grad():
        raw, channels, routed = model.channels(model.fields, batch, model.fields.target(batch))
        interests = nn.functional.normalize(raw, dim=-1) * math.sqrt(model.fields.width)
        noise = KeyedNoise(batch.case, 3, model.fields.width, 4, 5)
        told = (noise.level(30), noise[4].double(), [noise[t].double() for t in range(4)])
        expected = walk_by_hand(model, interests, channels, routed.active, *told)
        assert torch.allclose(model.answer(batch, raw, channels, routed), expected, atol=1e-9)


def test_empty_channels_and_empty_histories_have_no_interests():
    model, batch = made(channels=8), clicks.batch(2)
    raw, channels, routed = model.channels(model.fields, batch, model.fields.target(batch))
    generated = model.answer(batch, raw, channels, routed)
    empty = routed.got == 0
    assert empty[0].all()
    assert empty.any(1).all()
    assert not raw[empty].any()
    assert not generated[empty].any()
    assert raw[~empty].any(-1).all()
    # And what they hold counts in no loss.
    interests = nn.functional.normalize(raw, dim=-1)
    wild = torch.where(empty.unsqueeze(-1), 7.0, interests)
    losses = []
    for each in (interests, wild):
        torch.manual_seed(0)
        lost = model.diffusion_loss(each, channels, routed.active)
        losses.append(float((lost + model.contrast(each, generated, routed.active, batch.user)).detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


@pytest.mark.parametrize("preset", list(CARD.presets))
def test_a_batch_of_users_without_behaviours_trains(preset):
    model, batch = made(preset), clicks.batch(3)
    none = clicks.changed(batch, end=batch.start)
    empty = clicks.changed(none, behaviours=batch.behaviours[:0], times=batch.times[:0], start=none.start * 0)
    empty = clicks.changed(empty, end=empty.start)
    terms = model.train().loss(empty)
    assert not terms["diffusion"]
    assert not terms["contrast"]
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert model.head.layers[0].weight.grad.any()
    model.eval()
    with torch.no_grad():
        assert torch.equal(model.logits(empty), model.logits(none))
        assert model.logits(none).isfinite().all()
        # It depends on target and context alone, so it is that of anyone without behaviours.
        stranger = clicks.changed(none, user=none.user + 1, case=none.case + (preset == "best"))
        assert torch.equal(model.logits(stranger), model.logits(none))


@torch.no_grad()
def test_what_a_sample_does_not_see_is_irrelevant_to_the_bit():
    """Behaviours at and after its time, and those before what is read of its history."""
    model, batch = made().eval(), clicks.batch(4, B=30)
    expected, tried = model.logits(batch), 0
    for b in range(30):
        outside = torch.ones(len(batch.behaviours), dtype=torch.bool)
        outside[clicks.seen(batch, b)] = False
        others = torch.where(outside.unsqueeze(1), 3, batch.behaviours)
        later = torch.cat([others, normal(9, 3).abs().long() + 3])
        found = model.logits(clicks.changed(batch, behaviours=later))
        assert torch.equal(found[b], expected[b])
        tried += not torch.equal(found, expected)
    assert tried > 20


# --- randomness ------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_answers_without_noise_are_functions_of_the_input():
    model, batch = made().eval(), clicks.batch(5)
    assert torch.equal(model.logits(batch), model.logits(batch))
    assert torch.equal(model.logits(clicks.changed(batch, case=batch.case + 1)), model.logits(batch))


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"start": "anywhere"}, {"variant": "Z"}])
def test_seeded_answers_belong_to_the_sample(changes):
    model, batch = made(sampling_noise="seeded", **changes).eval(), clicks.batch(6)
    together = model.logits(batch)
    again = made(sampling_noise="seeded", **changes).eval()
    assert torch.equal(again.logits(batch), together)
    for b in range(len(batch)):
        assert torch.allclose(model.logits(clicks.alone(batch, b)), together[b : b + 1], atol=1e-9)
    order = torch.tensor([5, 2, 7, 0, 1, 3, 4, 6])
    moved = {
        name: getattr(batch, name)[order]
        for name in ("start", "end", "target", "other", "numeric", "label", "user", "time", "case")
    }
    assert torch.allclose(model.logits(clicks.changed(batch, **moved)), together[order], atol=1e-9)
    filled = batch.lengths > 0
    other = asked(model, noise_seed=1).logits(batch)
    assert (other != together)[filled].all()
    assert torch.equal(other[~filled], together[~filled])


@torch.no_grad()
def test_the_average_is_that_of_its_draws():
    model, batch = made(sampling_noise="seeded").eval(), clicks.batch(7)
    drawn = [asked(model, noise_seed=seed).logits(batch) for seed in range(3, 7)]
    asked(model, sampling_noise="average", noise_seed=3)
    assert torch.equal(asked(model, draws=1).logits(batch), drawn[0])
    assert torch.allclose(asked(model, draws=4).logits(batch), torch.stack(drawn).mean(0), atol=1e-12)


def test_training_draws_from_torchs_generator():
    model, batch = made().train(), clicks.batch(8)
    lost = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        lost.append(float(sum(model.loss(batch).values()).detach()))
    assert lost[0] == lost[1] != lost[2]


# --- what trains what ------------------------------------------------------------------------------------------


def gradients(model, batch, *names):
    """Parameter name -> gradient of the sum of these loss terms."""
    model.train().zero_grad()
    torch.manual_seed(1)
    terms = model.loss(batch)
    sum(terms[name] for name in names or terms).backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}


def test_the_projection_learns_through_scores_or_guides_only():
    """With means it has no gradient without diffusion, and none without guides; scores give it one."""
    batch = clicks.batch(9, B=12)
    for changes, learns in [
        ({"aggregation": "mean", "variant": "D"}, False),
        ({"aggregation": "mean", "variant": "X"}, False),
        ({"aggregation": "mean"}, True),
        ({"variant": "D"}, True),
        ({"variant": "X"}, True),
    ]:
        found = gradients(made(**changes), batch)["channels.weight"]
        assert bool(found.any()) == learns, changes


def test_the_diffusion_loss_trains_the_network_alone_if_asked():
    batch = clicks.batch(10, B=12)
    for stop in (True, False):
        found = gradients(made(stop_gradient=stop), batch, "diffusion")
        outside = {name for name, grad in found.items() if grad.any() and not name.startswith("network.")}
        assert outside == (set() if stop else {"fields.table.weight", "channels.weight"})
        assert all(grad.any() for name, grad in found.items() if name.startswith("network."))


class Gated(nn.Module):
    """The network with a factor of 1 for each level of the walk, whose gradient tells whether the level learns."""

    def __init__(self, network, steps):
        super().__init__()
        self.inner, self.gates = network, nn.Parameter(torch.ones(steps + 1, dtype=torch.float64))

    def read(self, *told):
        return self.inner.read(*told)

    def forward(self, x, t, around):
        gate = self.gates[int(t)] if t.numel() == 1 else 1.0
        return self.inner(x, t, around) * gate


@pytest.mark.parametrize("save_memory", [False, True])
@pytest.mark.parametrize("last", [None, 1, 2, 4])
def test_the_click_trains_the_last_steps(last, save_memory):
    model, batch = made(sampling_grad_steps=last, save_memory=save_memory), clicks.batch(11, B=12)
    expected = gradients(made(), batch, "click")
    found = gradients(model, batch, "click")
    assert all(grad.any() for name, grad in found.items() if name.startswith("network."))
    same = all(torch.allclose(found[name], grad, atol=1e-9) for name, grad in expected.items())
    assert same == (last in (None, 4))
    model.network = Gated(model.network, 4)
    gates = gradients(model, batch, "click")["network.gates"]
    assert gates.nonzero().flatten().tolist() == list(range(1, 1 + (last or 4)))


def test_saving_memory_changes_no_number():
    batch = clicks.batch(12, B=12)
    one, other = (gradients(made(save_memory=save), batch) for save in (False, True))
    for name, grad in one.items():
        assert torch.allclose(other[name], grad, atol=1e-12), name


def test_cutting_gradients_changes_no_answer():
    batch, values = clicks.batch(12), []
    for last in (None, 1):
        torch.manual_seed(0)
        values.append({name: float(t.detach()) for name, t in made(sampling_grad_steps=last).loss(batch).items()})
    assert values[0] == pytest.approx(values[1])


def test_weights_of_zero_leave_the_click_alone():
    model, batch = made(diffusion_weight=0.0, contrast_weight=0.0), clicks.batch(13, B=12)
    together, click = gradients(model, batch), gradients(model, batch, "click")
    assert all(torch.equal(together[name], grad) for name, grad in click.items())
    assert model.contrast is None


def test_terms_are_weighed():
    batch = clicks.batch(14, B=12)
    values = []
    for weight in (1.0, 0.5):
        model = made(diffusion_weight=weight, contrast_weight=2 * weight)
        torch.manual_seed(0)
        values.append({name: float(term.detach()) for name, term in model.loss(batch).items()})
    assert values[1]["diffusion"] == pytest.approx(values[0]["diffusion"] / 2)
    assert values[1]["contrast"] == pytest.approx(values[0]["contrast"] / 2)
    assert values[1]["click"] == pytest.approx(values[0]["click"])


# --- variants --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", list(CARD.presets))
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_takes_a_step_and_answers(variant, preset):
    model, batch = made(preset, variant=variant).train(), clicks.batch(15, B=16)
    terms = model.loss(batch)
    expected = {"click", "diffusion", "contrast"}
    expected -= {"C": {"contrast"}, "D": {"contrast", "diffusion"}}.get(variant, set())
    assert set(terms) == expected
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    sum(terms.values()).backward()
    torch.optim.Adam(model.parameters(), 0.01).step()
    assert sum(not torch.equal(p, before[name]) for name, p in model.named_parameters()) > 10
    with torch.no_grad():
        assert model.eval().logits(batch).isfinite().all()


@pytest.mark.parametrize("short", ["transformer", "din", "none"])
@pytest.mark.parametrize("channels", [1, 5])
def test_any_number_of_channels_and_any_short_branch_work(channels, short):
    model, batch = made(channels=channels, short=short), clicks.batch(16, B=16)
    sum(model.train().loss(batch).values()).backward()
    with torch.no_grad():
        assert model.eval().logits(batch).isfinite().all()
    assert model.short.width == (0 if short == "none" else model.fields.width)


def test_parts_that_a_variant_lacks_do_not_exist():
    about = clicks.facts()
    d, other, c = 3 * 4, 3 * 4 + 2, 3
    widths = {"full": 2 * c * d + 2 * d, "A": 2 * d + 2 * d, "B": c * d + 2 * d, "D": c * d + 2 * d, "E": 2 * c * d + d}
    for variant in VARIANTS:
        model = made(variant=variant, about=about)
        assert model.head.layers[0].in_features == widths.get(variant, widths["full"]) + other, variant
        assert (model.network is None) == (variant == "D")
        assert (model.contrast is None) == (variant in "CD")
        assert bool(list(model.short.parameters())) == (variant != "E")
        assert (model.channels.weight is None) == (variant == "A")
        if model.network is not None:
            assert len(model.network.guides) == (0 if variant in "XY" else 2)
            assert model.network.context == (variant not in "AWY")


def test_in_variant_a_the_target_selects():
    """One channel, the target's direction: the best fifth of all behaviours by likeness to it, and their mean."""
    model = made(variant="A")
    batch = clicks.batch(17)
    with torch.no_grad():
        target = model.fields.target(batch)
        raw, channels, _ = model.channels(model.fields, batch, target)
        for b in range(len(batch)):
            rows = clicks.seen(batch, b)
            vectors = {i: clicks.embedding(model.fields, batch.behaviours[i]) for i in rows}
            kept = clicks.best([vectors[i] @ channels[b, 0] for i in rows], rows, -(-len(rows) // 5))
            mean = sum(vectors[i] for i in kept) / len(kept) if kept else torch.zeros_like(raw[b, 0])
            assert torch.allclose(raw[b, 0], mean, atol=1e-12)
            assert torch.allclose(channels[b, 0], target[b] / target[b].norm())


@torch.no_grad()
@pytest.mark.parametrize("variant", ["full", "W", "X", "Y", "Z"])
def test_generated_interests_depend_on_what_the_variant_leaves(variant):
    model = made(variant=variant)
    interests, channels, active = world(model, share=1.0)
    start, noise = normal(*interests.shape, seed=7), normal(4, *interests.shape, seed=8)
    t0 = torch.ones(active.shape, dtype=torch.int64)

    def first(interests, channels):
        return model.generate(interests, channels, active, t0, start, noise)[:, 0]

    found = first(interests, channels)
    own, others = interests.clone(), interests.clone()
    own[:, 0] += 1
    others[:, 1:] += normal(*others[:, 1:].shape, seed=9)
    assert torch.allclose(first(own, channels), found, atol=1e-12) == (variant == "Z")
    assert torch.allclose(first(others, channels), found, atol=1e-12) == (variant in "WY")
    assert torch.allclose(first(interests, channels + 1), found, atol=1e-12) == (variant in "XY")


@torch.no_grad()
def test_predictions_depend_on_what_the_variant_leaves():
    batch = clicks.batch(18)
    for variant in ("full", "B"):
        model = made(variant=variant).eval()
        raw, generated = normal(8, 3, 12, seed=1), normal(8, 3, 12, seed=2)
        beside = model.beside(batch, model.fields.target(batch))
        found = model.predict(raw, generated, *beside)
        assert torch.equal(model.predict(raw + 1, generated, *beside), found) == (variant == "B")
        assert not torch.equal(model.predict(raw, generated + 1, *beside), found)
    order = torch.arange(len(batch.behaviours))
    b = int(batch.lengths.argmax())
    rows = slice(int(batch.start[b]), int(batch.end[b]))
    order[rows] = order[rows].flip(0)
    turned = clicks.changed(batch, behaviours=batch.behaviours[order])
    assert not torch.equal(turned.behaviours, batch.behaviours)
    for variant in ("full", "E"):  # without the short-term branch, order is nothing
        model = made(variant=variant, keep=100.0).eval()
        assert torch.isclose(model.logits(turned)[b], model.logits(batch)[b], atol=1e-9) == (variant == "E")


# --- presets ---------------------------------------------------------------------------------------------------

BOTH = {
    "dim": 8,
    "channels": 4,
    "keep": 20.0,
    "keep_count": 100,
    "routing": "top-1",
    "filter": "top-p",
    "filter_scope": "routed",
    "decomposition": "qr",
    "variant": "full",
    "steps": 1000,
    "noise_min": 1e-4,
    "noise_max": 0.02,
    "sampling_steps": 20,
    "sampling_grad_steps": None,
    "save_memory": False,
    "train_levels": "all",
    "predicts": "noise",
    "deviation": "beta",
    "layers": 2,
    "heads": 2,
    "temperature": 0.05,
    "diffusion_weight": 0.01,
    "contrast_weight": 0.001,
    "same_user": False,
    "recent": 50,
    "short": "transformer",
    "hidden": (1024, 512, 256),
    "normalise_logit": False,
    "use_user_id": True,
    "sampling_noise": "none",
    "draws": 4,
    "noise_seed": 0,
}
OURS = {
    "aggregation": "score-mean",
    "start": "last",
    "scale": "root-d",
    "stop_gradient": True,
    "output": True,
    "position": "recency",
}
PAPERS = {
    "aggregation": "mean",
    "start": "anywhere",
    "scale": "one",
    "stop_gradient": False,
    "output": False,
    "position": "none",
}
RELEASED = {
    "filter": "top-k",
    "filter_scope": "column",
    "aggregation": "released",
    "sampling_steps": 10,
    "predicts": "released",
    "deviation": "posterior",
    "same_user": True,
    "normalise_logit": True,
}


@pytest.mark.parametrize(
    ("preset", "expected"),
    [("best", BOTH | OURS), ("paper", BOTH | PAPERS), ("released", BOTH | PAPERS | RELEASED)],
)
def test_presets_are_the_published_table(preset, expected):
    assert dataclasses.asdict(CARD.presets[preset].model) == expected
    training = CARD.presets[preset].training
    assert (training.optimizer, training.lr, training.batch_size) == ("adam", 1e-3, 1024)
    assert (training.max_epochs, training.clip, training.length) == (1, 10.0, 1000)
    assert (training.weight_decay, training.metric) == (0.0, "auc")


def test_initial_weights_are_the_published_ones():
    about = Facts(5000, 1000, click=ClickFields(("item", "category"), (5003, 60), (True, True)))
    torch.manual_seed(0)
    model = CARD.build(CARD.presets["best"].model, about)
    table = model.fields.table.weight
    assert not table[0].any()
    assert float(table[1:].detach().std()) == pytest.approx(0.05, rel=0.02)
    bound = math.sqrt(6 / (16 + 64))
    assert bound * 0.98 < float(model.channels.weight.detach().abs().max()) <= bound
    parts = {"step.0": (16, 64), "output": (16, 16), "guides.0.0": (16, 16), "blocks.1.inner": (16, 48)}
    for name, (inputs, outputs) in parts.items():
        layer = model.network.get_submodule(name)
        assert float(layer.weight.detach().abs().max()) <= math.sqrt(6 / (inputs + outputs))
        assert layer.bias is None or not layer.bias.any()
    first = model.head.layers[0]
    assert float(first.weight.detach().std()) == pytest.approx(math.sqrt(2 / first.in_features), rel=0.02)
    d = 16
    beyond = sum(p.numel() for p in [*model.channels.parameters(), *model.network.parameters()])
    weights = 4 * d * d + 2 * (6 * d * d + 2 * d * 3 * d) + 8 * d * d + d * d
    biases = 2 * (3 * d + d + 6 * d) + 5 * d + d
    assert beyond == weights + biases
    assert sum(p.numel() for p in model.contrast.parameters()) == 16 * d * d + 2 * 5 * d


def test_what_is_refused():
    chosen = CARD.presets["best"]
    for key, nearest in (("chanels", "channels"), ("sampling_step", "sampling_steps"), ("tempreature", "temperature")):
        with pytest.raises(BadSetting, match=nearest):
            app_settings.apply(CARD, chosen, {key: 4})
    with pytest.raises(BadSetting, match=r"sampling_steps .* 1..steps=10; got 20"):
        app_settings.apply(CARD, chosen, {"steps": 10})
    with pytest.raises(BadSetting, match="clicks"):
        CARD.build(DiffuMINConfig(), Facts(3, 5))
    with pytest.raises(BadSetting, match="12 channels"):
        made(channels=13)
    for changes in ({"keep": 0.0}, {"variant": "F"}, {"channels": 0}, {"temperature": 0.0}):
        with pytest.raises(BadSetting):
            app_settings.apply(CARD, chosen, changes)
    assert app_settings.inference_settings(DiffuMINConfig) == {"sampling_noise", "draws", "noise_seed"}


@torch.no_grad()
def test_gauges_tell_what_happened():
    model, batch = made(), clicks.batch(19, B=12)
    found = {name: float(value) for name, value in model.eval().diagnose(batch).items()}
    assert set(found) == {"active", "largest", "got_1", "got_2", "got_3", "alike", "unchanged"}
    raw, channels, routed = model.channels(model.fields, batch, model.fields.target(batch))
    walked = model.answer(batch, raw, channels, routed)
    cosines = [
        float(raw[b, i] @ walked[b, i] / raw[b, i].norm() / walked[b, i].norm())
        for b in range(12)
        for i in range(3)
        if routed.active[b, i]
    ]
    assert found["unchanged"] == pytest.approx(sum(cosines) / len(cosines))
    assert "unchanged" not in made(variant="D").eval().diagnose(batch)


# --- learning --------------------------------------------------------------------------------------------------

CATEGORIES, OLD, NEW = 50, 480, 20


def old_interests(seed, users, samples):
    """Histories of 500: a target is likely clicked if the user met its category before the 20 most recent ones.

    Each user has half of the categories in the old part; recent behaviours are drawn from all of them. The category
    is the only field.
    """
    rng = np.random.default_rng(seed)
    own = rng.permuted(np.tile(np.arange(CATEGORIES), (users, 1)), axis=1)[:, : CATEGORIES // 2]
    old = np.take_along_axis(own, rng.integers(0, CATEGORIES // 2, (users, OLD)), 1)
    history = np.concatenate([old, rng.integers(0, CATEGORIES, (users, NEW))], 1)
    user = np.sort(rng.integers(0, users, samples))
    category = rng.integers(0, CATEGORIES, samples)
    met = (old[user] == category[:, None]).any(1)
    label = rng.random(samples) < np.where(met, 0.9, 0.1)

    start = torch.from_numpy(user) * (OLD + NEW)
    return ClickBatch(
        behaviours=torch.from_numpy(history.reshape(-1, 1) + 3),
        times=None,
        sizes=None,
        start=start,
        end=start + OLD + NEW,
        target=torch.from_numpy(category.reshape(-1, 1) + 3),
        other=torch.zeros(samples, 0, dtype=torch.int64),
        numeric=torch.zeros(samples, 0),
        label=torch.from_numpy(label).float(),
        user=torch.from_numpy(user),
        time=torch.zeros(samples, dtype=torch.int64),
        case=torch.arange(samples),
    )


def area(score, label):
    """Share of pairs of a click and another showing in which the click is above, ties by half."""
    one, none = score[label > 0], score[label == 0].sort().values
    below, upto = (torch.searchsorted(none, one, right=right) for right in (False, True))
    return float((below + upto).double().mean() / 2 / len(none))


def learned(build, steps=120, size=200):
    """Area under the curve on new users after one pass over the training showings."""
    torch.manual_seed(0)
    model = build()
    adam = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(steps):
        adam.zero_grad()
        sum(model.train().loss(old_interests(step, 20, size)).values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        adam.step()
    test = old_interests(10**6, 100, 2000)
    with torch.no_grad():
        return area(model.eval().logits(test), test.label)


def test_old_behaviours_tell_diffumin_what_a_recent_window_cannot():
    """Without the diffusion, which need not help here; AUC 0.9 is the most that there is to learn."""
    about = Facts(CATEGORIES, 0, click=ClickFields(("category",), (CATEGORIES + 3,), (True,)))
    shared, din = {"hidden": (64, 32), "dim": 16}, card("din")
    window = dataclasses.replace(din.presets["short"].model, window=NEW, **shared)
    recent = learned(lambda: din.build(window, about))
    long = learned(
        lambda: CARD.build(dataclasses.replace(CARD.presets["best"].model, variant="D", short="none", **shared), about)
    )
    assert recent < 0.55
    assert long > recent + 0.1
