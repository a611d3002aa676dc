"""DimeRec: the checkable properties of its losses, its gradients, its walk back, and what it refuses."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from contract import N_ITEMS, histories
from diffacet import seeds
from diffacet.app import settings
from diffacet.core import diffusion, objectives
from diffacet.core.batch import Histories, SequenceBatch
from diffacet.core.contract import Facts, Training
from diffacet.data.sequences import Sequences
from diffacet.errors import BadSetting
from diffacet.learn import batches
from diffacet.learn.fit import initial_weights
from diffacet.models import card
from diffacet.models.comirec import ComiRecSA, ComiRecSAConfig
from diffacet.models.dimerec import CARDS, DimeRec, DimeRecConfig, readout

LENGTH, B, M = 7, 6, 4
PAPER = replace(CARDS[0].presets["paper"].model, dim=16, interests=3, hidden=(32,))
CALIBRATED = replace(CARDS[0].presets["calibrated"].model, dim=16, interests=3, hidden=(32,))
GEMS = ["comirec-sa", "comirec-dr", "sasrec", "mlp", "latest"]
FORMS = ["one-step", "walk", "vp-geodesic", "ddpm-normalise", "euclidean"]


def build(config, seed=0, length=LENGTH):
    with initial_weights(seed):
        return DimeRec(config, Facts(N_ITEMS, length))


def batch(seed=0):
    """Histories, targets and negatives of which none is in two of the three."""
    rng = np.random.default_rng(seed)
    items = torch.zeros(B, LENGTH, dtype=torch.int64)
    for b in range(B):
        items[b, : 2 + b % 5] = torch.from_numpy(rng.integers(1, 9, 2 + b % 5))
    nothing = torch.zeros(B, dtype=torch.int64)
    target = torch.from_numpy(rng.integers(9, 15, B))
    return SequenceBatch(Histories(items, nothing, nothing), target, torch.from_numpy(rng.integers(15, 25, (B, M))))


def gradients(model, names, seed=3):
    """What each term, alone, gives the parameters: term -> name -> gradient (zeros where there is none)."""
    found = {}
    torch.manual_seed(seed)
    terms = model.loss(batch())
    for name in names:
        model.zero_grad()
        terms[name].backward(retain_graph=True)
        found[name] = {
            key: torch.zeros_like(p) if p.grad is None else p.grad.clone() for key, p in model.named_parameters()
        }
    return found


def touched(gradient, rows):
    return bool(gradient[rows].any())


def test_who_learns_from_which_loss():
    """The table of gradients: nothing is detached, and the guidance loss does not reach the denoiser."""
    model = build(PAPER)
    one = batch()
    history = one.history.items[one.history.items > 0].unique()
    found = gradients(model, ["guidance", "reconstruction", "softmax"])
    for name, gradient in found.items():
        gem = [key for key in gradient if key.startswith("gem.")]
        assert gem
        assert all(gradient[key].any() for key in gem), name
        dam = any(gradient[key].any() for key in gradient if key.startswith("denoiser."))
        assert dam == (name != "guidance")
        table = gradient["items.weight"]
        assert touched(table, history)
        assert touched(table, one.target)
        assert touched(table, one.negatives) == (name != "reconstruction")
        assert not table[0].any()


def test_detached_guidance_leaves_the_extractor_to_the_guidance_loss():
    found = gradients(build(replace(PAPER, detach_guidance=True)), ["guidance", "reconstruction", "softmax"])
    for name, gradient in found.items():
        reached = any(gradient[key].any() for key in gradient if key.startswith("gem."))
        assert reached == (name == "guidance")


def test_detached_target_pulls_the_target_less():
    whole = gradients(build(PAPER), ["reconstruction"])["reconstruction"]["items.weight"]
    cut = gradients(build(replace(PAPER, detach_target=True)), ["reconstruction"])["reconstruction"]["items.weight"]
    assert not torch.allclose(whole[batch().target], cut[batch().target])


def test_the_readout_is_the_largest_product_and_the_only_row_that_learns():
    torch.manual_seed(0)
    guidance, target = torch.randn(5, 4, 3, requires_grad=True), torch.randn(5, 3)
    there = torch.ones(5, 4, dtype=torch.bool)
    row = readout(guidance, there, target)
    products = torch.einsum("bkd,bd->bk", guidance, target)
    assert torch.allclose((row * target).sum(-1), products.amax(-1))
    row.square().sum().backward()
    best = products.argmax(-1)
    for b in range(5):
        for k in range(4):
            assert guidance.grad[b, k].any() == (k == best[b])
    without = there.clone()
    without[torch.arange(5), best] = False
    assert ((readout(guidance, without, target) * target).sum(-1) < products.amax(-1)).all()


@pytest.mark.parametrize("gem", ["comirec-sa", "comirec-dr"])
def test_without_diffusion_it_is_the_multi_interest_model(gem):
    """lambda = mu = 0: the denoiser learns nothing, and the rest exactly what the plain model learns."""
    model = build(replace(PAPER, gem=gem, reconstruction_weight=0.0, softmax_weight=0.0)).double()
    kind = card(gem)
    other = kind.build(kind.config(dim=16, interests=3), Facts(N_ITEMS, LENGTH)).double()
    with torch.no_grad():
        other.items.weight.copy_(model.items.weight)
        own = model.gem.attentive if gem == "comirec-sa" else model.gem.capsules
        for name, parameter in other.extract.named_parameters():
            parameter.copy_(own.get_parameter(name))
    sum(model.loss(batch()).values()).backward()
    sum(other.loss(batch()).values()).backward()
    assert torch.allclose(model.items.weight.grad, other.items.weight.grad)
    for name, parameter in other.extract.named_parameters():
        assert torch.allclose(own.get_parameter(name).grad, parameter.grad, atol=1e-12), name
    assert all(p.grad is None or not p.grad.any() for p in model.denoiser.parameters())
    model.config = replace(model.config, serve="gem")
    past = histories([[1, 2, 3], [8], [4, 5, 6, 7, 8, 9, 10]], LENGTH)
    assert torch.allclose(model.eval().interests(past), other.eval().interests(past))


def test_the_attention_is_the_papers_written_out():
    """Eq. 16-17 in a loop, with b_1 and without b_2, which cancels."""
    model = build(PAPER).double()
    own = model.gem.attentive
    with torch.no_grad():
        own.bias.normal_()
    past = histories([[3, 1, 4], [1]], LENGTH)
    embedded = model.items(past.items)
    found, _ = model.gem(embedded, past.mask)
    for b, n in enumerate((3, 1)):
        for k in range(3):
            logits = torch.stack(
                [
                    own.outer[k] @ torch.tanh(own.inner @ (embedded[b, j] + own.position[0, j]) + own.bias)
                    for j in range(n)
                ]
            )
            mean = sum(w * embedded[b, j] for j, w in enumerate(logits.softmax(0)))
            assert torch.allclose(found[b, k], mean)
    placed, _ = build(replace(PAPER, values_with_position=True)).double().gem(embedded, past.mask)
    assert not torch.allclose(placed, found)


def test_one_item_makes_every_row_of_guidance():
    model = build(PAPER)
    past = histories([[5]], LENGTH)
    rows, _ = model.gem(model.items(past.items), past.mask)
    assert torch.allclose(rows, model.items.weight[5].expand(1, 3, -1), atol=1e-6)


def test_the_latest_items_are_the_rule_based_guidance():
    model = build(replace(PAPER, gem="latest", interests=LENGTH))
    assert not list(model.gem.parameters())
    past = histories([[1, 2, 3, 4, 5, 6, 7], [8, 9]], LENGTH)
    embedded = model.items(past.items)
    rows, there = model.gem(embedded, past.mask)
    assert torch.equal(rows[0], embedded[0])
    assert there[0].all()
    assert there[1].tolist() == [False] * 5 + [True] * 2
    assert torch.equal(rows[1, -2:], embedded[1, :2])
    assert not rows[1, :5].any()
    model.config = replace(model.config, serve="gem")
    served = model.interests(past)[1]
    assert torch.equal(served[:5], embedded[1, 1].expand(5, -1))  # no zero vector searches


@pytest.mark.parametrize("gem", GEMS)
@pytest.mark.parametrize("forward", FORMS)
def test_every_guidance_learns_with_every_noise(gem, forward):
    model = build(replace(PAPER, gem=gem, forward=forward, steps=4)).train()
    terms = model.loss(batch())
    assert terms.keys() == {"guidance", "reconstruction", "softmax"}
    sum(terms.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    made = model.eval().interests(histories([[1, 2], []], LENGTH))
    assert made.isfinite().all()
    if forward != "euclidean":
        assert torch.allclose(made.norm(dim=-1), torch.ones(2, 1), atol=1e-5)


def test_the_variants_drop_their_terms():
    variants = {
        ("guidance_weight",): {"reconstruction", "softmax"},
        ("guidance_weight", "reconstruction_weight"): {"softmax"},
        ("guidance_weight", "softmax_weight"): {"reconstruction"},
    }
    for off, left in variants.items():
        model = build(replace(PAPER, **dict.fromkeys(off, 0.0)))
        assert model.loss(batch()).keys() == left


def test_weights_multiply_their_terms():
    torch.manual_seed(1)
    one = build(PAPER).loss(batch())
    torch.manual_seed(1)
    two = build(replace(PAPER, reconstruction_weight=0.3, softmax_weight=5.0)).loss(batch())
    assert torch.allclose(two["reconstruction"], 3 * one["reconstruction"])
    assert torch.allclose(two["softmax"], 5 * one["softmax"])
    assert torch.allclose(two["guidance"], one["guidance"])


def test_unit_vectors_make_the_reconstruction_a_cosine():
    """L_recon = 2 - 2 <x_0, x>, within 0..4, and both losses follow the directions of item vectors only."""
    model = build(replace(CALIBRATED, reconstruction_weight=1.0))
    torch.manual_seed(2)
    terms = model.loss(batch())
    torch.manual_seed(2)
    guidance, _ = model.gem(model._vectors(batch())[0], batch().history.mask)
    target = model._vectors(batch())[1]
    clean, rebuilt = model._rebuild(guidance, target, model._steps(target))
    assert terms["reconstruction"].item() == pytest.approx((2 - 2 * (clean * rebuilt).sum(-1)).mean().item(), abs=1e-6)
    assert 0 <= terms["reconstruction"] <= 4


def test_scale_of_the_table_matters_to_the_paper_and_not_to_the_sphere():
    for config, same in ((PAPER, False), (CALIBRATED, True)):
        model = build(config)
        torch.manual_seed(4)
        before = model.loss(batch())["guidance"]
        with torch.no_grad():
            model.items.weight.mul_(3)
        torch.manual_seed(4)
        assert torch.allclose(model.loss(batch())["guidance"], before, atol=1e-5) == same


def test_the_softmax_over_all_others_is_the_cross_entropy():
    model = build(replace(PAPER, vectors="unit", temperature=0.2))
    one = batch()
    others = torch.stack([torch.tensor([i for i in range(1, N_ITEMS + 1) if i != a]) for a in one.target.tolist()])
    embedded, target, negatives = model._vectors(replace(one, negatives=others))
    guidance, there = model.gem(embedded, one.history.mask)
    row = model._logits_of(readout(guidance, there, target))
    found = objectives.sampled_softmax(row, target, negatives, one)
    logits = row @ diffusion.unit(model.items.weight[1:]).T
    assert torch.allclose(found, torch.nn.functional.cross_entropy(logits, one.target - 1), atol=1e-6)


def test_steps_are_drawn_evenly_or_late():
    model = build(replace(PAPER, steps=5))
    torch.manual_seed(0)
    t = model._steps(torch.zeros(50_000, 16))
    counts = torch.bincount(t, minlength=6)
    assert counts[0] == 0
    assert ((counts[1:] / 50_000 - 0.2).abs() < 0.01).all()  # 5 deviations of a share
    late = build(replace(PAPER, steps=5, late_steps=1.0))._steps(torch.zeros(50_000, 16))
    shares = torch.bincount(late, minlength=6)[1:] / 50_000
    expected = torch.tensor([(t**2 - (t - 1) ** 2) / 25 for t in range(1, 6)])  # P(t) = t^2/T^2 - (t-1)^2/T^2
    assert ((shares - expected).abs() < 0.012).all()


PAST = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], []]


def test_one_step_is_a_plain_call_of_the_denoiser():
    """T = 1: norm(f(x_1, 1, g)), whatever the noise of a step would be."""
    model = build(replace(PAPER, steps=1)).eval()
    past = histories(PAST, LENGTH)
    guidance, _ = model.gem(model.items(past.items), past.mask)
    noise = diffusion.case_noise(past.case, (2, 16), seeds.number(0, "sample", 0))
    start = diffusion.unit(noise[:, 0])
    expected = diffusion.unit(model.denoiser(start, torch.ones(4, dtype=torch.int64), model.denoiser.read(guidance)))
    assert torch.allclose(model.interests(past)[:, 0], expected, atol=1e-6)


def test_the_denoiser_reads_noise_step_and_guidance_side_by_side():
    """Eq. 20 by concatenation."""
    model = build(PAPER)
    denoiser = model.denoiser
    xt, guidance, t = torch.randn(4, 16), torch.randn(4, 3, 16), torch.tensor([1, 20, 3, 7])
    beside = torch.cat([xt, denoiser.step(t), guidance.flatten(1)], 1)
    expected = denoiser.last(torch.nn.functional.gelu(denoiser.first(beside)))
    assert torch.allclose(denoiser(xt, t, denoiser.read(guidance)), expected, atol=1e-6)
    pooled = build(replace(PAPER, guidance="mean", hidden=(32, 24))).denoiser
    beside = torch.cat([xt, pooled.step(t), guidance.mean(1)], 1)
    expected = torch.nn.functional.gelu(pooled.inner[0](torch.nn.functional.gelu(pooled.first(beside))))
    assert torch.allclose(pooled(xt, t, pooled.read(guidance)), pooled.last(expected), atol=1e-6)


def test_the_same_history_gets_the_same_vector_and_another_seed_another():
    model = build(CALIBRATED).eval()
    past = histories([[1, 2, 3], [1, 2, 3], [4]], LENGTH, case=[0, 0, 0])
    made = model.interests(past)
    assert torch.equal(model.interests(past), made)
    # A matrix product may round the rows of one batch by different kernels, by its size and the processor.
    assert torch.allclose(made[0], made[1], atol=1e-6)
    model.config = replace(model.config, noise_seed=1)
    assert not torch.allclose(model.interests(past), made)


def test_more_samples_begin_with_the_fewer():
    model = build(CALIBRATED).eval()
    past = histories(PAST, LENGTH)
    one = model.interests(past)
    model.config = replace(model.config, samples=3)
    three = model.interests(past)
    assert three.shape == (4, 3, 16)
    assert torch.equal(three[:, :1], one)
    assert not torch.allclose(three[:, 1], three[:, 0])
    model.config = replace(model.config, serve="union")
    both = model.interests(past)
    assert both.shape == (4, 6, 16)
    lengths = both.norm(dim=-1)
    assert torch.allclose(lengths[:3], torch.ones(3, 6), atol=1e-5)
    assert torch.allclose(lengths[3], torch.tensor([1.0] * 3 + [0.0] * 3), atol=1e-5)  # an empty history guides nothing


def test_stopping_short_leaves_steps_undone():
    """The vector after k steps of the walk is the start of those that follow it."""
    model = build(replace(CALIBRATED, steps=6)).eval()
    past = histories(PAST, LENGTH)
    made = {}
    for stop in range(7):
        model.config = replace(model.config, stop=stop)
        made[stop] = model.interests(past)[:, 0]
        assert torch.allclose(made[stop].norm(dim=-1), torch.ones(4), atol=1e-5)
    assert len({tuple(v.flatten().tolist()) for v in made.values()}) == 7
    guidance, _ = model.gem(diffusion.unit(model.items(past.items)), past.mask)
    last = model.denoiser(made[1], torch.ones(4, dtype=torch.int64), model.denoiser.read(guidance))
    assert torch.allclose(diffusion.unit(last), made[0], atol=1e-6)


def test_fewer_denoising_steps_visit_a_part_of_the_chain():
    model = build(replace(CALIBRATED, steps=6)).eval()
    asked, plain = [], model.denoiser.forward

    def watching(xt, t, memory):
        asked.append(int(t[0]))
        return plain(xt, t, memory)

    model.denoiser.forward = watching
    for used in (1, 2, 3, 6):
        asked.clear()
        model.config = replace(model.config, denoise_steps=used)
        model.interests(histories(PAST, LENGTH))
        assert len(asked) == used
        assert asked == sorted(asked, reverse=True)
        assert asked[0] == 6
        assert used == 1 or asked[-1] == 1


def test_cosine_serves_directions():
    model = build(CALIBRATED).eval()
    assert torch.allclose(model.catalogue()[1:].norm(dim=-1), torch.ones(N_ITEMS), atol=1e-6)
    assert not model.catalogue()[0].any()
    assert torch.equal(build(PAPER).catalogue(), build(PAPER).items.weight)


def test_vectors_of_length_zero_never_make_a_nan():
    model = build(CALIBRATED).train()
    with torch.no_grad():
        model.items.weight[5:].zero_()
    sum(model.loss(batch()).values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert model.eval().interests(histories([[20, 21], [1]], LENGTH)).isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"steps": 0}, "steps"),
        ({"samples": 0}, "samples"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": -1.0}, "temperature"),
        ({"gem": "comirec"}, "gem"),
        ({"forward": "straight"}, "forward"),
        ({"denoise_steps": 21}, "denoise_steps lies in 1..steps"),
        ({"stop": 21}, "stop lies in 0..20"),
        ({"interests": 0}, "interests"),
    ],
)
def test_bad_settings_are_told(wrong, told):
    one = card("dimerec")
    with pytest.raises(BadSetting, match=told):
        settings.apply(one, one.presets["paper"], wrong)


def successors(users=50, items=30):
    """Each item is followed by the next of a circle."""
    starts = np.random.default_rng(0).integers(0, items, users)
    rows = (starts[:, None] + np.arange(6)) % items + 1
    return Sequences(rows.ravel(), np.arange(users + 1) * 6, np.arange(users))


@pytest.mark.parametrize(
    ("preset", "steps", "least"), [("calibrated", 350, 0.95), ("best", 100, 0.95), ("paper", 100, 0.3)]
)
def test_it_learns_who_follows_whom(preset, steps, least):
    """Deterministic successors of 50 users: HR@1; the most popular item would have about 1/30."""
    one, train = card("dimerec"), successors()
    changes = {"length": 5, "batch_size": 250, "lr": 0.005}
    chosen = settings.apply(one, settings.preset(one, preset), changes)
    with initial_weights(0):
        model = one.build(chosen.model, Facts(30, 5))
    at = batches.batch_at(train, 30, chosen.training)
    optimizer = torch.optim.Adam(model.parameters(), 0.005)
    torch.manual_seed(0)
    for step in range(steps):
        optimizer.zero_grad()
        sum(model.train().loss(at(step)).values()).backward()
        optimizer.step()
    rows = [train.row(u)[-5:] for u in range(50)]
    past = histories([row.tolist() for row in rows], 5)
    with torch.no_grad():
        made, vectors = model.eval().interests(past), model.catalogue()
    best = torch.einsum("bkd,nd->bkn", made, vectors).amax(1)[:, 1:].argmax(1) + 1
    wanted = torch.tensor([int(row[-1]) % 30 + 1 for row in rows])
    assert (best == wanted).float().mean() >= least


def test_noise_may_begin_where_the_target_is_hidden():
    """1 - alpha_bar rises evenly from noise_min to .999."""
    schedule = build(replace(CALIBRATED, noise_min=0.9, steps=4)).schedule
    expected = torch.tensor([0.0, 0.9, 0.933, 0.966, 0.999], dtype=torch.float64)
    assert torch.allclose(schedule.noise_level, expected)
    assert build(replace(CALIBRATED, steps=4)).schedule.noise_level[1] < 0.5


def test_a_denoiser_that_skips_starts_from_its_guidance():
    """Untrained, with one row: the estimate is the guidance; with several: their mixture by nearness to x_t."""
    torch.manual_seed(0)
    guidance, xt, t = torch.randn(5, 3, 16), torch.randn(5, 16), torch.tensor([1, 2, 3, 4, 5])
    one = build(replace(CALIBRATED, interests=1, skip=True)).denoiser
    assert torch.allclose(one(xt, t, one.read(guidance[:, :1])), guidance[:, 0], atol=1e-6)
    several = build(replace(CALIBRATED, skip=True)).denoiser
    with torch.no_grad():
        several.rows.weight.zero_()
    found = several(xt, t, several.read(guidance))
    for b in range(5):
        weights = torch.stack([xt[b] @ guidance[b, k] for k in range(3)]).softmax(0)
        assert torch.allclose(found[b], sum(w * guidance[b, k] for k, w in enumerate(weights)), atol=1e-5)


def test_dropout_of_the_denoiser_is_for_training_only():
    denoiser = build(replace(CALIBRATED, denoiser_dropout=0.5)).denoiser
    xt, t, guidance = torch.randn(5, 16), torch.tensor([1, 2, 3, 4, 5]), torch.randn(5, 3, 16)
    assert not torch.equal(denoiser(xt, t, denoiser.read(guidance)), denoiser(xt, t, denoiser.read(guidance)))
    denoiser.eval()
    assert torch.equal(denoiser(xt, t, denoiser.read(guidance)), denoiser(xt, t, denoiser.read(guidance)))


def test_it_reports_on_itself():
    model = build(CALIBRATED)
    with torch.no_grad():
        told = model.diagnose(batch())
    assert {"cosine_first", "cosine_middle", "cosine_last", "guidance_cosine", "item_norm"} == told.keys()
    assert all(value.shape == () and value.isfinite() for value in told.values())


def test_plain_comirec_is_what_the_guidance_is():
    """The names that the equality above leans on."""
    assert ComiRecSA(ComiRecSAConfig(), Facts(N_ITEMS, LENGTH)).extract.bias is None
    assert DimeRecConfig().gem == "comirec-sa"
    assert Training().length
    assert copy.deepcopy(PAPER) == PAPER
