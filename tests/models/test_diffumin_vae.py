"""DiffuMIN-VAE against its equations in loops: condition, latents, divergence, annealing, what trains what."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import clicks
from diffacet.app import settings as app_settings
from diffacet.core.contract import Facts
from diffacet.core.diffusion import KeyedNoise
from diffacet.errors import BadSetting
from diffacet.models import card
from diffacet.models.diffumin_vae import ConditionalVAE, DiffuMINVAEConfig, divergence
from reference import normal

CARD = card("diffumin-vae")
ITS_DIFFUSION = card("diffumin")


def made(preset="best", seed=0, **changes):
    return clicks.model(CARD, preset, seed, **({"channels": 3} | changes))


def found_by(model, batch):
    """Raw interests, their rescaled form, channels, and which are active."""
    raw, channels, routed = model.channels(model.fields, batch, model.fields.target(batch))
    length = math.sqrt(raw.shape[2]) if model.config.scale == "root-d" else 1.0
    return raw, length * nn.functional.normalize(raw, dim=-1), channels, routed.active


def mlp(network, x):
    hidden = (network[0].weight @ x + network[0].bias).clamp(min=0)
    return network[2].weight @ hidden + network[2].bias


def by_hand(vae, interests, channels, active, noise):
    """For each active pair (sample, channel): mean and log variance of the latent, and what is made of it."""
    told = {}
    for b in range(len(interests)):
        for i in range(interests.shape[1]):
            if not active[b, i]:
                continue
            others = [interests[b, j] for j in range(interests.shape[1]) if j != i and active[b, j]]
            around = sum(others) / len(others) if others else torch.zeros_like(interests[b, i])
            condition = torch.cat([around, channels[b, i]])
            mean, log_variance = mlp(vae.encoder, torch.cat([interests[b, i], condition])).chunk(2)
            log_variance = log_variance.clamp(-10, 10)
            latent = mean + torch.exp(log_variance / 2) * noise[b, i]
            told[b, i] = mean, log_variance, mlp(vae.decoder, torch.cat([latent, condition]))
    return told


@torch.no_grad()
@pytest.mark.parametrize("preset", ["paper", "best"])
@settings(max_examples=15)
@given(seed=st.integers(0, 99), latent=st.sampled_from([None, 1, 5]), c=st.integers(1, 4))
def test_losses_equal_their_loops(preset, seed, latent, c):
    model = made(preset, seed, latent=latent, channels=c, contrast_weight=0.0)
    batch = clicks.changed(clicks.batch(seed), step=3, total=60)
    _, interests, channels, active = found_by(model, batch)
    torch.manual_seed(seed)
    terms = model.train().loss(batch)
    torch.manual_seed(seed)
    noise = torch.randn(8, c, latent or 12, dtype=torch.float64)
    told = by_hand(model.vae, interests, channels, active, noise)
    rebuilt = sum(float(((interests[key] - out) ** 2).mean()) for key, (_, _, out) in told.items())
    apart = sum(
        float(sum(m**2 + math.exp(v) - 1 - v for m, v in zip(mean.tolist(), log.tolist(), strict=True)) / len(mean) / 2)
        for mean, log, _ in told.values()
    )
    count = max(len(told), 1)
    assert float(terms["reconstruction"]) == pytest.approx(0.01 * rebuilt / count)
    assert float(terms["divergence"]) == pytest.approx(0.01 * 0.1 * 3 / 12 * apart / count)


@torch.no_grad()
@settings(max_examples=10)
@given(seed=st.integers(0, 99))
def test_the_prediction_reads_the_decoded_means(seed):
    model, batch = made(seed=seed).eval(), clicks.batch(seed)
    raw, interests, channels, active = found_by(model, batch)
    generated = torch.zeros_like(raw)
    for key, (_, _, out) in by_hand(model.vae, interests, channels, active, torch.zeros_like(raw)).items():
        generated[key] = out
    joined = torch.cat([raw.flatten(1), generated.flatten(1)], 1)
    assert torch.allclose(model.logits(batch), clicks.together(model, batch, joined), atol=1e-9)


@torch.no_grad()
def test_seeded_draws_are_those_of_the_key():
    model, batch = made(sampling_noise="seeded", noise_seed=5, latent=5).eval(), clicks.batch(1)
    raw, interests, channels, active = found_by(model, batch)
    noise = KeyedNoise(batch.case, 3, 5, 0, 5)[0].double()
    expected = torch.zeros_like(raw)
    for key, (_, _, out) in by_hand(model.vae, interests, channels, active, noise).items():
        expected[key] = out
    assert torch.allclose(model.answer(batch, raw, channels, active), expected, atol=1e-9)


@torch.no_grad()
def test_answers_depend_on_noise_only_if_asked():
    model, batch = made().eval(), clicks.batch(2)
    other = clicks.changed(batch, case=batch.case + 1)
    still = model.logits(batch)
    assert torch.equal(model.logits(batch), still)
    assert torch.equal(model.logits(other), still)
    model.config = dataclasses.replace(model.config, sampling_noise="seeded")
    drawn = model.logits(batch)
    assert torch.equal(model.logits(batch), drawn)
    filled = batch.lengths > 0
    assert torch.equal(drawn[~filled], still[~filled])
    for changed in (still, model.logits(other)):
        assert (changed != drawn)[filled].all()
    for b in range(8):
        assert torch.allclose(model.logits(clicks.alone(batch, b)), drawn[b : b + 1], atol=1e-9)
    model.config = dataclasses.replace(model.config, noise_seed=1)
    assert (model.logits(batch) != drawn)[filled].all()


# --- the autoencoder -------------------------------------------------------------------------------------------


def test_the_divergence_is_zero_for_the_prior_alone():
    nothing = torch.zeros(2, 3, 5, dtype=torch.float64)
    assert not divergence(nothing, nothing).any()
    for mean, log_variance in ((normal(40, 5), normal(40, 5, seed=1)), (1e-3 * normal(40, 5), torch.zeros(40, 5))):
        assert (divergence(mean, log_variance) > 0).all()


def test_the_divergence_is_that_of_many_draws():
    mean, log_variance = normal(1, 4), 0.5 * normal(1, 4, seed=1)
    torch.manual_seed(0)
    drawn = mean + (log_variance / 2).exp() * torch.randn(100_000, 4, dtype=torch.float64)
    of_posterior = -((drawn - mean).square() / log_variance.exp() + log_variance) / 2
    ratio = (of_posterior + drawn.square() / 2).mean(1)  # log q / p, by the mean over coordinates
    assert abs(float(ratio.mean() - divergence(mean, log_variance))) < 5 * float(ratio.std()) / math.sqrt(100_000)


def test_log_variances_are_bounded():
    vae = ConditionalVAE(4, 3)
    with torch.no_grad():
        vae.encoder[2].bias[3:] = torch.tensor([99.0, -99.0, 0.5])
    _, log_variance = vae.encode(torch.zeros(1, 1, 4), torch.zeros(1, 1, 8))
    assert log_variance.flatten().tolist() == [10.0, -10.0, 0.5]


def test_the_condition_is_the_mean_of_the_others_and_the_channel():
    vae = ConditionalVAE(3, 3)
    interests, channels = normal(2, 3, 3), normal(2, 3, 3, seed=1)
    active = torch.tensor([[True, True, True], [False, True, False]])
    told = vae.told(interests, channels, active)
    assert torch.allclose(told[0, 1], torch.cat([(interests[0, 0] + interests[0, 2]) / 2, channels[0, 1]]))
    assert torch.allclose(told[1, 1], torch.cat([torch.zeros(3), channels[1, 1]]))
    assert torch.allclose(told[1, 0, :3], interests[1, 1])
    assert torch.equal(vae.told(interests[:, :1], channels[:, :1], active[:, :1])[..., :3], torch.zeros(2, 1, 3))


def test_without_divergence_a_small_set_is_rebuilt():
    """By the mean latent, as wide as an interest."""
    torch.manual_seed(0)
    vae = ConditionalVAE(6, 6)
    interests, channels = normal(8, 2, 6, dtype=torch.float32), normal(8, 2, 6, seed=1, dtype=torch.float32)
    told = vae.told(interests, channels, torch.ones(8, 2, dtype=torch.bool))
    adam = torch.optim.Adam(vae.parameters(), 0.01)
    for _ in range(500):
        adam.zero_grad()
        lost = (vae.decode(vae.encode(interests, told)[0], told) - interests).square().mean()
        lost.backward()
        adam.step()
    assert float(lost.detach()) < 1e-3


def test_it_is_about_as_large_as_the_diffusion():
    sizes = []
    for one, part in ((CARD, "vae"), (ITS_DIFFUSION, "network")):
        model = one.build(one.presets["best"].model, clicks.facts())
        sizes.append(sum(p.numel() for p in model.get_submodule(part).parameters()))
    assert 0.5 < sizes[0] / sizes[1] < 2


# --- training --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "total", "annealed", "share"),
    [
        (0, 100, 0.2, 0.0),
        (10, 100, 0.2, 0.5),
        (20, 100, 0.2, 1.0),
        (99, 100, 0.2, 1.0),
        (0, 0, 0.2, 1.0),
        (0, 100, 0.0, 1.0),
        (25, 100, 1.0, 0.25),
    ],
)
def test_the_divergence_comes_in_slowly(step, total, annealed, share):
    model = made(divergence_weight=0.3, annealed=annealed)
    batch = clicks.changed(clicks.batch(3), step=step, total=total)
    assert model.kappa(batch) == pytest.approx(0.3 * share)
    torch.manual_seed(0)
    term = float(model.loss(batch)["divergence"].detach())
    torch.manual_seed(0)
    whole = float(model.loss(clicks.changed(batch, total=0))["divergence"].detach())
    assert term == pytest.approx(share * whole)


def gradients(model, batch, *names):
    model.train().zero_grad()
    torch.manual_seed(1)
    terms = model.loss(batch)
    sum(terms[name] for name in names or terms).backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}


def test_a_reconstruction_is_no_aim_for_the_interest():
    """With its gradient stopped, moving the aim changes the loss and trains nothing; without, it does."""
    batch, found = clicks.batch(4, B=12), []
    for stop in (True, False):
        model = made(stop_gradient=stop)
        with torch.no_grad():  # what is rebuilt depends on nothing
            model.vae.decoder[2].weight.zero_()
        found.append(gradients(model, batch, "reconstruction"))
    for name, moved in (("fields.table.weight", True), ("channels.weight", True), ("vae.decoder.2.bias", False)):
        assert bool(found[0][name].any()) != moved
        assert found[1][name].any()


def test_weights_of_zero_leave_the_click_alone():
    model, batch = made(diffusion_weight=0.0, contrast_weight=0.0), clicks.batch(5, B=12)
    together, click = gradients(model, batch), gradients(model, batch, "click")
    assert all(torch.equal(together[name], grad) for name, grad in click.items())
    assert model.contrast is None
    assert click["vae.encoder.0.weight"].any()
    assert click["channels.weight"].any()


@pytest.mark.parametrize("preset", list(CARD.presets))
def test_a_batch_of_users_without_behaviours_trains(preset):
    model, batch = made(preset), clicks.batch(6)
    empty = clicks.changed(batch, behaviours=batch.behaviours[:0], times=batch.times[:0])
    empty = clicks.changed(empty, start=batch.start * 0, end=batch.end * 0)
    terms = model.train().loss(empty)
    assert not any(terms[name] for name in ("reconstruction", "divergence", "contrast"))
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    with torch.no_grad():
        assert model.eval().logits(empty).isfinite().all()


@torch.no_grad()
def test_gauges_tell_what_happened():
    model, batch = made().eval(), clicks.batch(7, B=12)
    found = {name: float(value) for name, value in model.diagnose(batch).items()}
    assert set(found) == {"active", "largest", "got_1", "got_2", "got_3", "alike", "unchanged", "informed"}
    raw, interests, channels, active = found_by(model, batch)
    walked = model.answer(batch, raw, channels, active)
    cosine = nn.functional.cosine_similarity(raw, walked, dim=-1)[active]
    assert found["unchanged"] == pytest.approx(float(cosine.mean()))
    told = by_hand(model.vae, interests, channels, active, torch.zeros_like(raw))
    apart = [float(divergence(mean, log)) for mean, log, _ in told.values()]
    assert found["informed"] == pytest.approx(sum(apart) / len(apart))


# --- presets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["paper", "best"])
def test_presets_follow_those_of_diffumin(preset):
    mine, its = (dataclasses.asdict(one.presets[preset].model) for one in (CARD, ITS_DIFFUSION))
    own = {"latent": None, "divergence_weight": 0.1, "annealed": 0.2}
    assert {name: mine[name] for name in own} == own
    shared = set(mine) - set(own)
    assert shared <= set(its)
    assert {name: mine[name] for name in shared} == {name: its[name] for name in shared}
    assert CARD.presets[preset].training == ITS_DIFFUSION.presets[preset].training


def test_what_is_refused():
    with pytest.raises(BadSetting, match="divergence_weight"):
        app_settings.apply(CARD, CARD.presets["best"], {"divergence_weigth": 1})
    with pytest.raises(BadSetting, match="clicks"):
        CARD.build(DiffuMINVAEConfig(), Facts(3, 5))
    with pytest.raises(BadSetting, match="12 channels"):
        made(channels=13)
    assert app_settings.inference_settings(DiffuMINVAEConfig) == {"sampling_noise", "noise_seed"}
