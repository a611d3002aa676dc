"""L-DiffRec against its equations written out, user by user and item by item, in float64."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffacet.app import settings
from diffacet.core import profiles
from diffacet.core.batch import Histories, ProfileBatch
from diffacet.core.clusters import ClusterDecoders, members, shares
from diffacet.core.contract import Facts, Training
from diffacet.core.diffusion import case_noise, posterior_tables
from diffacet.core.profiles import Profiles
from diffacet.errors import BadSetting
from diffacet.learn.fit import initial_weights
from diffacet.learn.optim import Optimizer
from diffacet.models.ldiffrec import CARDS, LDiffRec, LDiffRecConfig

N = 11
ROWS = [[3, 1, 7], [2], [5, 11, 10, 4], [], [6, 9], [8, 3, 2, 1, 10], [4, 5]]
CLUSTERS = {1: np.array([-1] + [0] * N), 2: np.array([-1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1])}
CLUSTERS[3] = np.array([-1, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1])
TINY = LDiffRecConfig(latent=7, dims=(6,), steps=5, dropout=0.0, denoiser_dropout=0.0, noise_scale=0.5, kl_steps=0)


def history(rows=ROWS, case=None):
    items = torch.zeros(len(rows), max(1, *map(len, rows)), dtype=torch.int64)
    for b, row in enumerate(rows):
        items[b, : len(row)] = torch.tensor(row, dtype=torch.int64)
    case = torch.arange(len(rows)) if case is None else torch.tensor(case)
    return Histories(items, torch.full((len(rows),), -1), case)


def build(config=TINY, seed=0, clusters=None):
    known = CLUSTERS[config.clusters] if clusters is None else clusters
    with initial_weights(seed):
        model = LDiffRec(config, Facts(len(known) - 1, 0, clusters=known)).double()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def scores(model, told):
    with torch.no_grad():
        return torch.einsum("bkd,nd->bn", model.eval().interests(told), model.catalogue())[:, 1:]


# --- the equations, written out --------------------------------------------------------------------------------


def value(tensor):
    return tensor.detach().numpy()


def row_of(items, oldest):
    x = [0.0] * N
    for place, item in enumerate(items):
        x[item - 1] = oldest + (place / (len(items) - 1) if len(items) > 1 else 0.0) * (1 - oldest)
    return x


def encoded(model, config, x):
    """Mean and log variance of one row, with one layer in each encoder."""
    mean, log_variance = [], []
    for c, encoder in enumerate(model.encode.encoders):
        weight, bias = value(encoder.first.weight), value(encoder.first.bias)
        own = [i for i in range(N) if CLUSTERS[config.clusters][i + 1] == c]
        g = [math.tanh(bias[j] + sum(x[i] * weight[k, j] for k, i in enumerate(own))) for j in range(len(bias))]
        mean += g[: len(g) // 2]
        log_variance += g[len(g) // 2 :]
    return mean, log_variance


def denoised(model, config, z, t):
    """Section 4 of the network for d -> m -> d; t from 1."""
    net, half = model.denoiser, config.emb_size // 2
    angles = [(t - 1) * math.exp(-math.log(10_000) * k / half) for k in range(half)]
    wave = np.array([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
    step = value(net.step.weight) @ wave + value(net.step.bias)
    hidden = np.tanh(z @ value(net.first.weight) + step @ value(net.step_in) + value(net.first.bias))
    return value(net.last.weight) @ hidden + value(net.last.bias)


def levels(config):
    """Beta and 1 - alpha_bar of steps 1..T (3.1-3.5, beta_1 not fixed)."""
    c, T = config, config.steps
    v = [c.noise_scale * (c.noise_min + k / (T - 1) * (c.noise_max - c.noise_min)) for k in range(T)]
    return [v[0]] + [1 - (1 - v[k]) / (1 - v[k - 1]) for k in range(1, T)], v


def snr(level):
    return (1 - level) / level


@pytest.mark.parametrize("clusters", [1, 2, 3])
@pytest.mark.parametrize("oldest", [1.0, 0.1])
def test_the_loss_is_that_of_the_equations(clusters, oldest, monkeypatch):
    config = replace(TINY, clusters=clusters, oldest_weight=oldest, kl_weight=0.2, diffusion_weight=0.03)
    model, d, T = build(config).train(), config.latent, config.steps
    rng = np.random.default_rng(5)
    eps, noise = rng.standard_normal((2, len(ROWS), d))
    t, share = [1, 5, 2, 3, 3, 4, 5], [0.5, 1, 2, 1, 0.25, 1, 3]
    drawn = iter([torch.from_numpy(eps), torch.from_numpy(noise)])
    monkeypatch.setattr(torch, "randn_like", lambda _: next(drawn))
    monkeypatch.setattr(model.history, "draw", lambda n, _: (torch.tensor(t), torch.tensor(share, dtype=torch.float64)))
    terms = model.loss(ProfileBatch(history(), step=3, epoch=250))

    _, v = levels(config)
    weight = [1.0] + [snr(v[k - 1]) - snr(v[k]) for k in range(1, T)]
    E = R = KL = 0.0
    losses = {step: [] for step in range(1, T + 1)}
    decoder = model.decode.last
    for b, items in enumerate(ROWS):
        x = row_of(items, oldest)
        mean, log_variance = encoded(model, config, x)
        z0 = np.array([m + math.exp(s / 2) * e for m, s, e in zip(mean, log_variance, eps[b], strict=True)])
        level = v[t[b] - 1]
        guess = denoised(model, config, math.sqrt(1 - level) * z0 + math.sqrt(level) * noise[b], t[b])
        m = sum((z0[j] - guess[j]) ** 2 for j in range(d)) / d
        losses[t[b]].append(weight[t[b] - 1] * m)
        E += weight[t[b] - 1] * m * share[b] / len(ROWS)
        o = value(decoder.weight) @ guess + value(decoder.bias)
        R -= sum(x[i] * (o[i] - math.log(sum(map(math.exp, o)))) for i in range(N)) / len(ROWS)
        KL += sum(-0.5 * (1 + s - m * m - math.exp(s)) for m, s in zip(mean, log_variance, strict=True)) / len(ROWS)
    expected = {"diffusion": 0.015 * E, "reconstruction": R, "kl": 0.2 * KL}  # (1 - 250/500) * 0.03
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-9)
    for step, own in losses.items():  # what importance sampling remembers: weighted, before 1 / p
        assert model.history.losses[step - 1, : len(own)].tolist() == pytest.approx(own, rel=1e-9)
        assert model.history.filled[step - 1] == len(own)


@pytest.mark.parametrize("clusters", [1, 2, 3])
@pytest.mark.parametrize("sampling_steps", [0, 3])
@pytest.mark.parametrize("sampling_noise", [False, True])
def test_the_scores_are_those_of_the_reverse_chain(clusters, sampling_steps, sampling_noise):
    config = replace(
        TINY, clusters=clusters, sampling_steps=sampling_steps, sampling_noise=sampling_noise, oldest_weight=0.5
    )
    model, T = build(config), config.steps
    beta, v = levels(config)
    case = [4, 0, 2, 1, 3, 3, 9]
    draws = value(case_noise(torch.tensor(case), (T + 1 if sampling_noise else 1, config.latent), 0)).astype(float)
    expected = np.zeros((len(ROWS), N))
    for b, items in enumerate(ROWS):
        z = np.array(encoded(model, config, row_of(items, 0.5))[0])
        if sampling_steps:
            level = v[sampling_steps - 1]
            z = math.sqrt(1 - level) * z + math.sqrt(level) * draws[b, 0]
        for t in range(T, 0, -1):
            level, before = v[t - 1], v[t - 2] if t > 1 else 0.0
            of_x0 = beta[t - 1] * math.sqrt(1 - before) / level
            of_xt = before * math.sqrt(1 - beta[t - 1]) / level
            z = of_x0 * denoised(model, config, z, t) + of_xt * z
            if sampling_noise and t > 1:
                z = z + math.sqrt(beta[t - 1] * before / level) * draws[b, t]
        expected[b] = value(model.decode.last.weight) @ z + value(model.decode.last.bias)
    np.testing.assert_allclose(value(scores(model, history(case=case))), expected, rtol=1e-9, atol=1e-9)


def test_the_schedule_keeps_its_first_variance():
    """1 - alpha_bar and the weights of the released ML-1M settings (property 2, beta_1 not fixed)."""
    model = build(replace(CARDS[0].presets["paper"].model, latent=7, dims=(6,)))
    assert model.schedule.noise_level[[1, 2, 40]].tolist() == pytest.approx([2.5e-5, 2.69231e-5, 1e-4], rel=1e-4)
    assert model.weight[[1, 2, 3, 40]].tolist() == pytest.approx([1, 2857.14, 2476.19, 196.078], rel=1e-4)


# --- clusters --------------------------------------------------------------------------------------------------


def test_parameters_and_latent_sizes_are_the_published_ones():
    known = np.concatenate([[-1], np.zeros(1016), np.ones(1794)]).astype(np.int64)
    model = LDiffRec(LDiffRecConfig(), Facts(2810, 0, clusters=known))
    assert model.encode.latents == [108, 192]
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_938_472
    assert shares(300, [9_495, 85_454], "latent") == [30, 270]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=6), st.integers(1, 400))
def test_dimensions_are_dealt_without_remainder(sizes, total):
    try:
        dealt = shares(total, sizes, "latent")
    except BadSetting:
        assert total < 2 * len(sizes)  # only tiny totals can be used up before the last cluster
        return
    assert sum(dealt) == total
    assert min(dealt) >= 1
    for size, own in zip(sizes[:-1], dealt[:-1], strict=True):
        assert own == max(1, math.floor(size * total / sum(sizes) + 1e-9))


@pytest.mark.parametrize("clusters", [1, 2, 3])
def test_every_item_is_in_one_cluster(clusters):
    groups = members(Facts(N, 0, clusters=CLUSTERS[clusters]), clusters)
    assert sorted(np.concatenate(groups).tolist()) == list(range(1, N + 1))
    assert all((np.diff(group) > 0).all() for group in groups)
    model = build(replace(TINY, clusters=clusters))
    for number, group in enumerate(groups):
        assert model.encode.place[group].tolist() == list(range(1, len(group) + 1))
        assert (model.encode.cluster[group] == number).all()


def test_one_cluster_needs_no_clusters_and_is_a_plain_encoder():
    model = LDiffRec(replace(TINY, clusters=1), Facts(N, 0)).double()
    x = profiles.read(history(), dtype=torch.float64)
    only = model.encode.encoders[0].first
    g = torch.tanh(x.dense(N) @ only.weight + only.bias)
    mean, log_variance = model.encode(x)
    assert torch.allclose(mean, g[:, :7])
    assert torch.allclose(log_variance, g[:, 7:])


def test_a_cluster_s_dimensions_read_its_own_items_only():
    model = build()
    rows = torch.eye(N, dtype=torch.float64)
    x = Profiles(torch.arange(1, N + 1), torch.arange(N), torch.ones(N, dtype=torch.float64), N)
    assert torch.equal(x.dense(N), rows)
    empty, _ = model.encode(Profiles(x.item[:0], x.row[:0], x.value[:0], 1))
    moved = (model.encode(x)[0] - empty).abs() > 1e-12  # (N, d): which dimensions an item moves
    first = model.encode.latents[0]
    for item in range(1, N + 1):
        inside = slice(0, first) if CLUSTERS[2][item] == 0 else slice(first, None)
        assert moved[item - 1, inside].all()
        assert moved[item - 1].sum() == moved[item - 1, inside].sum()


@pytest.mark.parametrize("decoders", ["shared", "separate"])
@pytest.mark.parametrize("out_dims", [(), (8, 9)])
def test_scores_come_back_in_the_order_of_items(decoders, out_dims):
    """With weights 0 and each item's number as its bias, item i scores i (property 19)."""
    model = build(replace(TINY, decoders=decoders, out_dims=out_dims))
    parts = [model.decode] if decoders == "shared" else list(model.decode.decoders)
    groups = [range(1, N + 1)] if decoders == "shared" else members(Facts(N, 0, clusters=CLUSTERS[2]), 2)
    for part, group in zip(parts, groups, strict=True):
        part.last.weight.data.zero_()
        part.last.bias.data = torch.tensor(list(group), dtype=torch.float64)
    wanted = torch.arange(1.0, N + 1).double().expand(len(ROWS), N)
    assert torch.equal(scores(model, history()), wanted)
    assert torch.equal(model.decode(torch.randn(len(ROWS), 7).double()), wanted)


@pytest.mark.parametrize("decoders", ["shared", "separate"])
def test_the_catalogue_is_what_the_decoder_trains(decoders):
    """Hidden vector times catalogue is the decoder's output, through hidden layers of encoders and decoders."""
    model = build(replace(TINY, decoders=decoders, in_dims=(8, 12), out_dims=(8, 12)))
    z = torch.randn(4, 7, generator=torch.Generator().manual_seed(0)).double()
    matched = profiles.interest(model.decode.hidden(z)).squeeze(1) @ model.catalogue().T
    assert torch.allclose(matched[:, 1:], model.decode(z), atol=1e-12)
    assert not model.catalogue()[0].any()
    assert [layer.weight.shape[::-1] for layer in model.encode.encoders[0].layers] == [(4, 2), (2, 4)]  # 12 and 8 dealt
    assert model.encode.encoders[0].first.weight.shape == (4, 4)


def test_separate_decoders_read_their_own_dimensions_only():
    """11 items in clusters of 4 and 7: a change of the first cluster's dimensions moves its items, and no other."""
    decode = ClusterDecoders(members(Facts(N, 0, clusters=CLUSTERS[2]), 2), [2, 5], (6,), "tanh")
    z = torch.randn(1, 7, generator=torch.Generator().manual_seed(0))
    other = z.clone()
    other[:, :2] += 1
    assert ((decode(z) != decode(other))[0].numpy() == (CLUSTERS[2][1:] == 0)).all()


@pytest.mark.parametrize("decoders", ["shared", "separate"])
def test_renumbering_the_items_renumbers_the_scores(decoders):
    """Items change numbers inside and across the places of their clusters; weights go with them (property 10)."""
    config = replace(TINY, decoders=decoders)
    one = build(config)
    new = np.concatenate([[0], 1 + np.random.default_rng(0).permutation(N)])  # old number -> new number
    clusters = np.full(N + 1, -1)
    clusters[new[1:]] = CLUSTERS[2][1:]
    other = build(config, seed=1, clusters=clusters)
    other.load_state_dict(one.state_dict())
    old_groups = members(Facts(N, 0, clusters=CLUSTERS[2]), 2)
    for c, old in enumerate(old_groups):
        order = new[old].argsort()
        other.encode.encoders[c].first.weight.data = one.encode.encoders[c].first.weight.data[order]
        if decoders == "separate":
            for name in ("weight", "bias"):
                getattr(other.decode.decoders[c].last, name).data = getattr(one.decode.decoders[c].last, name)[order]
    if decoders == "shared":
        for name in ("weight", "bias"):
            getattr(other.decode.last, name).data[new[1:] - 1] = getattr(one.decode.last, name).data
    renumbered = [[int(new[item]) for item in row] for row in ROWS]
    assert torch.allclose(scores(other, history(renumbered))[:, new[1:] - 1], scores(one, history()), atol=1e-12)


@pytest.mark.parametrize(
    ("config", "clusters", "message"),
    [
        (replace(TINY, clusters=12), CLUSTERS[2], "clusters lies in 1..11, the number of items; got 12"),
        (TINY, np.zeros(0, np.int64), "needs the cluster of each of the 11 items; got 0"),
        (TINY, CLUSTERS[3], r"lies in 0..1; got 0..2; set clusters"),
        (replace(TINY, clusters=3), CLUSTERS[2], "cluster 2 of 3 has no item; set clusters=2"),
        (replace(TINY, latent=1), CLUSTERS[2], "latent=1 leaves 0 dimensions for the last of 2 clusters"),
        (replace(TINY, in_dims=(5, 1)), CLUSTERS[2], "in_dims=1 leaves 0"),
        (replace(TINY, out_dims=(1,), decoders="separate"), CLUSTERS[2], "out_dims=1 leaves 0"),
        (replace(TINY, sampling_steps=6), CLUSTERS[2], r"sampling_steps lies in 0..T = 5; got 6"),
        (replace(TINY, noise_min=0.02), CLUSTERS[2], "keep the lower bound below the upper"),
    ],
)
def test_what_does_not_fit_is_refused(config, clusters, message):
    with pytest.raises(BadSetting, match=message):
        LDiffRec(config, Facts(N, 0, clusters=clusters))


@pytest.mark.parametrize("change", ["steps=1", "noise_scale=-0.1", "clusters=0", "latent=0", "dims="])
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(BadSetting, match=change.partition("=")[0]):
        settings.apply(CARDS[0], CARDS[0].presets["best"], settings.split_pairs([change]))


# --- training --------------------------------------------------------------------------------------------------


def test_gradients_reach_the_parts_that_they_should():
    """The error of denoising reaches the encoders, reconstruction all three parts; KL the encoders only."""
    model = build().train()
    terms = model.loss(ProfileBatch(history()))
    reached = {}
    for name, term in terms.items():
        model.zero_grad()
        term.backward(retain_graph=True)
        reached[name] = {
            key.partition(".")[0] for key, p in model.named_parameters() if p.grad is not None and p.grad.any()
        }
    assert reached == {
        "diffusion": {"encode", "denoiser"},
        "reconstruction": {"encode", "denoiser", "decode"},
        "kl": {"encode"},
    }


@pytest.mark.parametrize("target", ["dropped", "clean"])
def test_the_target_is_the_row_after_dropout_or_before_it(target, monkeypatch):
    """With uniform logits a row's loss is ln N times the sum of its target: survivors count 1 / (1 - p)."""
    model = build(replace(TINY, dropout=0.5, recon_target=target)).train()
    for parameter in model.decode.parameters():
        parameter.data.zero_()
    kept = []

    def thinned(x, p, training):
        assert training
        kept.append(replace(x, value=x.value * (x.item % 2) / (1 - p)))
        return kept[-1]

    monkeypatch.setattr(Profiles, "thinned", thinned)
    weights = [sum(2.0 if target == "dropped" else 1.0 for i in row if target == "clean" or i % 2) for row in ROWS]
    found = model.loss(ProfileBatch(history()))["reconstruction"].item()
    assert found == pytest.approx(math.log(N) * sum(weights) / len(ROWS))


def test_the_weights_of_the_terms_are_annealed():
    """Property 22: λ by epochs, γ by batches."""
    model = build(LDiffRecConfig(latent=7, dims=(6,), diffusion_weight=0.03))
    assert [model.diffusion_weight(epoch) for epoch in (0, 250, 500, 900)] == pytest.approx([0.03, 0.015, 0.005, 0.005])
    assert [model.kl_weight(step) for step in (0, 30, 60, 1000)] == pytest.approx([0, 0.15, 0.3, 0.3])
    assert build(replace(TINY, kl_weight=0.7)).kl_weight(0) == 0.7  # kl_steps=0


def test_mean_and_log_variance_are_bounded_and_kl_vanishes_at_the_prior():
    model = build()
    for parameter in model.encode.parameters():
        parameter.data *= 50
    mean, log_variance = model.encode(profiles.read(history(), dtype=torch.float64))
    assert max(mean.abs().max(), log_variance.abs().max()) <= 1
    model.train()
    assert model.loss(ProfileBatch(history()))["kl"] > 0
    for parameter in model.encode.parameters():
        parameter.data.zero_()
    assert model.loss(ProfileBatch(history()))["kl"] == 0
    free = build(replace(TINY, latent_activation="none"))
    for parameter in free.encode.parameters():
        parameter.data *= 50
    assert free.encode(profiles.read(history(), dtype=torch.float64))[0].abs().max() > 1


def test_the_denoiser_has_its_own_learning_rate():
    """Adam's first step moves a parameter by its learning rate."""
    model = build(replace(TINY, denoiser_rate=0.25)).train()
    optimizer = Optimizer(model, Training(lr=0.01))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step(torch.stack(list(model.loss(ProfileBatch(history())).values())).sum(), 0.01)
    for name, p in model.named_parameters():
        wanted = 0.0025 if name.startswith("denoiser.") else 0.01
        assert (p.detach() - before[name]).abs().max().item() == pytest.approx(wanted, rel=1e-3), name


def test_answers_are_repeatable_and_training_is_not():
    model = build(replace(TINY, dropout=0.1, denoiser_dropout=0.5))
    assert torch.equal(scores(model, history()), scores(model, history()))
    first, second = (model.train().loss(ProfileBatch(history()))["reconstruction"] for _ in range(2))
    assert first != second


def test_one_user_s_items_change_nobody_else_s_scores():
    changed = [*ROWS[:2], [9, 1], *ROWS[3:]]
    same = torch.isclose(scores(build(), history(changed)), scores(build(), history()), atol=1e-12).all(1)
    assert same.tolist() == [True, True, False, True, True, True, True]


def test_noise_when_inferring_follows_the_case_and_the_seed():
    noisy = replace(TINY, sampling_steps=5)
    one = scores(build(noisy), history())
    assert torch.equal(one, scores(build(noisy), history()))
    assert not torch.allclose(one, scores(build(replace(noisy, noise_seed=1)), history()))
    assert not torch.allclose(one, scores(build(TINY), history()))


def test_without_noise_the_network_is_applied_t_times():
    """s = 0: nothing is NaN, all steps count the same, and noise that inference is asked for is none."""
    config = replace(TINY, noise_scale=0.0, sampling_steps=5, sampling_noise=True)
    model = build(config)
    for part in posterior_tables(model.schedule):
        assert part.isfinite().all()
    terms = model.train().loss(ProfileBatch(history()))
    assert all(term.isfinite() for term in terms.values())
    assert (model.weight[1:] == 1).all()
    with torch.no_grad():
        z, _ = model.eval().encode(profiles.read(history(), dtype=torch.float64))
        for t in range(5, 0, -1):
            z = model.denoiser(z, torch.full((len(ROWS),), t))
        assert torch.allclose(scores(model, history()), model.decode(z), atol=1e-12)


def test_uniform_draws_and_weights_of_one():
    model = build(replace(TINY, reweight=False, importance=False)).train()
    assert (model.weight == 1).all()
    for _ in range(20):
        model.loss(ProfileBatch(history()))
    assert not model.history.filled.any()


@pytest.mark.parametrize("name", ["l-diffrec", "lt-diffrec"])
def test_a_planted_block_is_found(name):
    """Two blocks of ten items, rows 70 % full: the missing items of the own block come before the other block."""
    card = next(card for card in CARDS if card.name == name)
    rng = np.random.default_rng(0)
    rows = [(10 * (u % 2) + 1 + rng.choice(10, 7, replace=False)).tolist() for u in range(40)]
    clusters = np.concatenate([[-1], np.arange(20) % 2])  # not those of the blocks
    with initial_weights(0):
        model = LDiffRec(card.presets["best"].model, Facts(20, 0, clusters=clusters))
    training = Training(lr=0.01)
    optimizer = Optimizer(model, training)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for step in range(100):
            loss = model.train().loss(ProfileBatch(history(rows), step, step))
            optimizer.step(torch.stack(list(loss.values())).sum(), training.lr)
    found = scores(model, history(rows))
    for u, row in enumerate(rows):
        own = torch.arange(10 * (u % 2), 10 * (u % 2) + 10)
        missing = [i for i in own.tolist() if i + 1 not in row]
        other = [i for i in range(20) if i not in own]
        assert found[u, missing].min() > found[u, other].max()


def test_presets_are_the_released_ones():
    """Section 8.2: lr1, lr2, λ, T, s, bounds."""
    rows = {
        "paper": (1e-3, 5e-4, 0.03, 40, 0.005, 0.005, 0.02),
        "paper-noisy": (1e-3, 5e-4, 0.03, 100, 0.005, 0.005, 0.02),
        "paper-amazon-book": (5e-4, 1e-4, 0.05, 5, 0.5, 0.001, 0.005),
        "paper-amazon-book-noisy": (5e-4, 1e-4, 0.07, 5, 0.5, 0.001, 0.005),
        "paper-yelp": (5e-4, 1e-4, 0.03, 5, 0.01, 0.005, 0.01),
        "paper-yelp-noisy": (5e-4, 1e-4, 0.03, 5, 0.01, 0.005, 0.01),
    }
    timed = {
        "paper-amazon-book": (5e-4, 1e-4, 0.03, 5, 0.7, 0.001, 0.005),
        "paper-yelp": (5e-4, 5e-5, 0.03, 5, 0.01, 0.005, 0.01),
    }
    for card, table in zip(CARDS, (rows, timed), strict=True):
        for name, row in table.items():
            c, t = card.presets[name].model, card.presets[name].training
            found = (t.lr, t.lr * c.denoiser_rate, c.diffusion_weight, c.steps, c.noise_scale, c.noise_min, c.noise_max)
            assert found == pytest.approx(row), name
            assert t.batch_size == (200 if (card.name, name) == ("lt-diffrec", "paper-yelp") else 400)
    oldest = {name: preset.model.oldest_weight for name, preset in CARDS[1].presets.items()}
    assert oldest == {"paper": 0.1, "paper-amazon-book": 0.1, "paper-yelp": 0.5, "best": 0.1}
