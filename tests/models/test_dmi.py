import dataclasses
import itertools
import math

import pytest
import torch

import reference
from diffacet.core import diffusion, objectives
from diffacet.core.batch import Histories, SequenceBatch
from diffacet.core.contract import Facts
from diffacet.core.interests import prune
from diffacet.errors import BadSetting
from diffacet.models.comirec import ComiRecSA, ComiRecSAConfig
from diffacet.models.dmi import DMI, DMIConfig
from diffacet.models.remi import REMI, REMIConfig

N, L, D, K, T = 40, 6, 8, 3, 5
TABLE, EXTRACTOR = "items.weight", {"extract.inner", "extract.outer", "extract.position"}
each_variant = pytest.mark.parametrize("variant", ["full", "diff", "gd", "t", "ip"])
each_context = pytest.mark.parametrize("context_grad", ["all", "rec", "none"])


def config(**changes):
    return DMIConfig(
        **({"dim": D, "interests": K, "steps": T, "heads": 2, "noise_max": 0.05, "noise_scale": 5.0} | changes)
    )


def build(seed=0, **changes):
    torch.manual_seed(seed)
    return DMI(config(**changes), Facts(N, L)).double()


def trained(seed=0, **changes):
    """As after some training: nothing is zero that need not be."""
    model = build(seed, **changes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != TABLE:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def histories(counts=(6, 1, 3, 4, 2, 5), case=None, seed=0):
    numbers = torch.randint(1, N + 1, (len(counts), L), generator=torch.Generator().manual_seed(seed))
    items = numbers * (torch.arange(L) < torch.tensor(counts).unsqueeze(1))
    case = torch.arange(len(counts)) if case is None else torch.tensor(case)
    return Histories(items, torch.full((len(counts),), -1), case)


def batch(seed=0, negatives=20, counts=(6, 1, 3, 4, 2, 5)):
    draw = torch.Generator().manual_seed(seed + 100)
    target = torch.randint(1, N + 1, (len(counts),), generator=draw)
    return SequenceBatch(histories(counts, seed=seed), target, torch.randint(1, N + 1, (negatives,), generator=draw))


def gradients(model, value):
    """name -> gradient, or None where the value does not depend on the parameter."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
    return dict(zip(names, found, strict=True))


def moved(found):
    return {name for name, gradient in found.items() if gradient is not None and (gradient != 0).any()}


def losses(model, seed=3, **changes):
    torch.manual_seed(seed)
    return model.loss(batch(**changes))


# --- the training step -----------------------------------------------------------------------------------------


@each_variant
@pytest.mark.parametrize("base", ["remi", "comirec-sa"])
def test_the_terms_of_the_loss(variant, base):
    terms = losses(trained(variant=variant, base=base))
    expected = {"softmax", "routing", "reconstruction"}
    absent = {name for name, gone in (("routing", base != "remi"), ("reconstruction", variant == "diff")) if gone}
    assert set(terms) == expected - absent
    for term in terms.values():
        assert term.ndim == 0
        assert term.isfinite()


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("variant", ["full", "ip", "gd"])
def test_the_loss_is_algorithm_1_written_out(norm, variant):
    """Selection, pruning, noising, denoising, mixing and the three losses, one sample at a time."""
    model = trained(norm=norm, variant=variant, gamma=0.3)
    b, c = batch(), model.config
    table = model.items.weight.detach()
    embedded, mask = table[b.history.items], b.history.mask
    interests, attention = reference.self_attentive(
        embedded, mask, model.extract.inner, model.extract.outer, model.extract.position[0]
    )
    torch.manual_seed(3)
    t = torch.randint(1, T + 1, (6,))
    noise = torch.randn(6, D, dtype=torch.float64)
    levels = reference.scaled_linear_levels(T, c.noise_scale, c.noise_min, c.noise_max)
    eta, tenths = (1.0 if variant == "gd" else c.eta), (10 if variant == "ip" else 3)
    user, distances = [], []
    for u in range(6):
        scores = [float(interests[u, k] @ table[b.target[u]]) for k in range(K)]
        m = scores.index(max(scores))
        kept = torch.zeros(1, 1, L, dtype=torch.bool)
        kept[0, 0, list(reference.prune(attention[u, m], mask[u], tenths))] = True
        level = levels[int(t[u]) - 1]
        noisy = math.sqrt(1 - level) * interests[u, m] + math.sqrt(level) * noise[u]
        rebuilt = reference.cross_attention(
            model.denoiser, noisy.view(1, 1, D), t[u : u + 1], embedded[u : u + 1], kept
        )[0, 0]
        distances.append(math.sqrt(float(((rebuilt - interests[u, m]) ** 2).sum()) + 1e-12))
        user.append(eta * rebuilt + (1 - eta) * interests[u, m])
    user = torch.stack(user)
    expected = {
        "reconstruction": c.dm_weight * sum(distances) / 6,
        "softmax": reference.softmax_loss(user, table[b.target], table[b.negatives], hardness=c.hardness),
        "routing": c.routing * reference.routing(attention, D),
    }
    terms = losses(model)
    for name, value in expected.items():
        assert math.isclose(terms[name].item(), value, rel_tol=1e-8), name


@each_context
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_reconstruction_never_reaches_the_extractor(context_grad, norm):
    """P8, as changed by section 0: W_1, W_2 and P exactly nothing; the table only through the guiding items."""
    model = trained(context_grad=context_grad, norm=norm)
    found = gradients(model, losses(model)["reconstruction"])
    for name in EXTRACTOR:
        assert found[name] is None or not found[name].any()
    reached = moved(found)
    assert (TABLE in reached) == (context_grad == "all")
    assert {name for name in found if name.startswith("denoiser.")} <= reached


def test_reconstruction_reaches_only_the_table_rows_of_kept_items():
    model = trained(context_grad="all", gamma=0.3)
    b = batch()
    torch.manual_seed(3)
    gradient = gradients(model, model.loss(b)["reconstruction"])[TABLE]
    embedded = model.items(b.history.items)
    interests, attention = model.extract(embedded, b.history.mask)
    best = torch.einsum("bkd,bd->bk", interests, model.items(b.target)).argmax(-1)
    kept = prune(attention[torch.arange(6), best], b.history.mask, 0.3)
    assert set(gradient.any(-1).nonzero()[:, 0].tolist()) == set(b.history.items[kept].tolist())


def test_without_detachment_reconstruction_reaches_everything():
    for context_grad in ("all", "rec", "none"):  # gd stops nothing, whatever the other setting says
        model = trained(variant="gd", context_grad=context_grad)
        reached = moved(gradients(model, losses(model)["reconstruction"]))
        assert reached == set(dict(model.named_parameters()))


def test_rec_lets_the_recommendation_through_the_guiding_items_but_not_the_reconstruction():
    """At eta = 1 the user vector depends on the table through C only (and on r and the negatives)."""
    table = {}
    for context_grad in ("all", "rec", "none"):
        model = trained(context_grad=context_grad, eta=1.0)
        terms = losses(model)
        assert (TABLE in moved(gradients(model, terms["reconstruction"]))) == (context_grad == "all")
        b = batch()
        only_history = sorted(
            set(b.history.items.flatten().tolist()) - {0} - set(b.target.tolist()) - set(b.negatives.tolist())
        )
        assert only_history
        table[context_grad] = gradients(model, terms["softmax"])[TABLE][only_history]
    assert torch.equal(table["all"], table["rec"])
    assert table["rec"].any()
    assert not table["none"].any()


@each_context
def test_context_grad_changes_no_value(context_grad):
    for name, value in losses(trained(context_grad=context_grad)).items():
        assert torch.equal(value, losses(trained())[name])


@each_context
def test_recommendation_reaches_the_extractor_by_the_share_of_the_raw_interest(context_grad):
    """P9: (1 - eta) times the gradient with Z replaced by a leaf of the same value, pushed through v."""
    model = trained(context_grad=context_grad, eta=0.4)
    b, c = batch(), model.config
    torch.manual_seed(3)
    found = gradients(model, model.loss(b)["softmax"])

    torch.manual_seed(3)
    embedded, target, negatives = model.items.rows(b.history.items, b.target, b.negatives)
    interests, attention = model.extract(embedded, b.history.mask)
    best = torch.einsum("bkd,bd->bk", interests, target).argmax(-1)
    interest = interests[torch.arange(6), best]
    t = torch.randint(1, T + 1, best.shape)
    noisy = diffusion.forward_noise(interest, t, torch.randn_like(interest), model.schedule).unsqueeze(1)
    kept = prune(attention[torch.arange(6), best], b.history.mask, c.gamma).unsqueeze(1)
    rebuilt = model.denoiser(noisy, t, embedded, kept).squeeze(1)
    leaf = (0.4 * rebuilt + 0.6 * interest).detach().requires_grad_()
    loss = objectives.sampled_softmax(leaf, target.detach(), negatives.detach(), b, c.hardness)
    expected = gradients(model, (interest * torch.autograd.grad(loss, leaf)[0]).sum())
    for name in EXTRACTOR:
        assert torch.allclose(found[name], 0.6 * expected[name], rtol=1e-9, atol=1e-14)
        assert found[name].any()


def test_with_eta_one_the_recommendation_does_not_reach_the_extractor():
    model = trained(eta=1.0)
    assert moved(gradients(model, losses(model)["softmax"])).isdisjoint(EXTRACTOR)


def test_routing_reaches_extractor_and_table_only():
    model = trained()
    assert moved(gradients(model, losses(model)["routing"])) == EXTRACTOR | {TABLE}


@pytest.mark.parametrize("eta", [0.0, 0.4])
@each_context
def test_each_loss_reaches_what_the_table_of_the_spec_says(eta, context_grad):
    model = trained(eta=eta, context_grad=context_grad)
    reached = moved(gradients(model, losses(model)["softmax"]))
    denoiser = {name for name, _ in model.named_parameters() if name.startswith("denoiser.")}
    assert reached == EXTRACTOR | {TABLE} | (denoiser if eta else set())


def test_zero_start_trains_only_its_outputs_at_first():
    """P8's remark, for norm=pre: zero matrices block what stands before them, for one step."""
    model = build(norm="pre")
    reached = moved(gradients(model, losses(model)["reconstruction"]))
    assert reached == {"denoiser.out.weight", "denoiser.out.bias", "denoiser.outer.weight", "denoiser.outer.bias"}
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses(model)["reconstruction"].backward()
    optimizer.step()
    reached = moved(gradients(model, losses(model)["reconstruction"]))
    assert {name for name, _ in model.named_parameters() if name.startswith("denoiser.")} <= reached


# --- the base model inside -------------------------------------------------------------------------------------


def pair(base, **changes):
    """DMI and its base with the same weights."""
    model = trained(base=base, **changes)
    if base == "remi":
        kind = REMI(REMIConfig(D, K, model.config.hardness, model.config.routing), Facts(N, L))
    else:
        kind = ComiRecSA(ComiRecSAConfig(D, K), Facts(N, L))
    plain = kind.double().eval()
    plain.load_state_dict({n: v for n, v in model.state_dict().items() if not n.startswith("denoiser")})
    return model, plain


@pytest.mark.parametrize("base", ["remi", "comirec-sa"])
def test_diff_is_the_base_model_with_all_its_losses(base):
    model, plain = pair(base, variant="diff")
    assert torch.equal(model.interests(histories()), plain.interests(histories()))
    mine, its = model.loss(batch()), plain.loss(batch())
    assert set(mine) == set(its)
    for name in mine:
        assert torch.equal(mine[name], its[name])


@pytest.mark.parametrize("base", ["remi", "comirec-sa"])
def test_eta_zero_and_no_refinement_are_the_base_model(base):
    """P10, training and inference."""
    model, plain = pair(base, eta=0.0)
    assert torch.equal(model.interests(histories()), plain.interests(histories()))
    assert torch.equal(losses(model)["softmax"], plain.loss(batch())["softmax"])
    model, plain = pair(base, refine_steps=0)
    assert torch.equal(model.interests(histories()), plain.interests(histories()))


def test_gamma_one_is_ip_bit_for_bit():
    """P11."""
    whole, ip = trained(gamma=1.0), trained(gamma=0.2, variant="ip")
    assert torch.equal(whole.interests(histories()), ip.interests(histories()))
    for name, term in losses(whole).items():
        assert torch.equal(term, losses(ip)[name])
    assert not torch.equal(trained(gamma=0.2).interests(histories()), ip.interests(histories()))


def test_vanishing_noise_leaves_the_base_at_the_start():
    """P19 (norm=pre, whose start is the identity): alpha_max -> 0 gives v_t -> v_0 and Z -> v."""
    refined = {}
    for size in (1e-12, 1e-4):
        model = build(norm="pre", noise_scale=1.0, noise_min=size, noise_max=2 * size).eval()
        plain = build(norm="pre", refine_steps=0).eval()
        refined[size] = (model.interests(histories()) - plain.interests(histories())).abs().max()
    assert refined[1e-12] < 1e-5
    assert refined[1e-12] < 1e-3 * refined[1e-4]


# --- inference -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "chain"),
    [(None, "posterior"), (T, "posterior"), (1, "posterior"), (2, "ddim"), (T, "ddim"), (None, "ddim")],
)
@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("start", ["noise", "mean"])
def test_inference_is_algorithm_2_one_interest_at_a_time(steps, chain, norm, start):
    """P17, A12, A29: own noise, own kept items, every formula written out."""
    model = trained(refine_steps=steps, chain=chain, norm=norm, gamma=0.3, start=start, noise_seed=9)
    whole = steps in (None, T) and chain == "posterior"
    history, c = histories(case=[7, 0, 1030, 3, 7, 1023]), model.config
    table = model.items.weight.detach()
    embedded, mask = table[history.items], history.mask
    interests, attention = reference.self_attentive(
        embedded, mask, model.extract.inner, model.extract.outer, model.extract.position[0]
    )
    signal = [1.0] + [1 - x for x in reference.scaled_linear_levels(T, c.noise_scale, c.noise_min, c.noise_max)]
    expected = torch.zeros(6, K, D, dtype=torch.float64)
    for u, k in itertools.product(range(6), range(K)):
        one = slice(u, u + 1)
        kept = torch.zeros(1, 1, L, dtype=torch.bool)
        kept[0, 0, list(reference.prune(attention[u, k], mask[u], 3))] = True
        noise = diffusion.case_noise(history.case[one], (1, K, D), 9)[0, 0, k].double()
        x = math.sqrt(signal[T]) * interests[u, k]
        if start == "noise":
            x = x + math.sqrt(1 - signal[T]) * noise
        visited = list(range(1, T + 1)) if whole else diffusion.ddim_steps(T, steps or T)
        for step, earlier in zip(visited[::-1], [*visited[-2::-1], 0], strict=True):
            x0 = reference.cross_attention(
                model.denoiser, x.view(1, 1, D), torch.tensor([step]), embedded[one], kept
            ).view(D)
            if earlier == 0:
                x = x0
            elif whole:
                x, _ = reference.posterior_by_conditioning(signal[earlier], signal[step] / signal[earlier], x0, x)
            else:
                x = reference.ddim_step(x, x0, signal[step], signal[earlier])
        expected[u, k] = c.eta * x + (1 - c.eta) * interests[u, k]
    assert torch.allclose(model.interests(history), expected, atol=1e-8)


@each_variant
@pytest.mark.parametrize("reverse_noise", ["none", "posterior"])
def test_a_request_is_answered_as_in_a_batch(variant, reverse_noise):
    model = trained(variant=variant, reverse_noise=reverse_noise)
    history = histories(case=[7, 0, 1030, 3, 7, 1023])
    together = model.interests(history)
    order = [4, 1, 5, 0, 3, 2]
    turned = model.interests(Histories(history.items[order], history.users[order], history.case[order]))
    assert torch.allclose(turned, together[order], atol=1e-10)
    for u in range(6):
        one = slice(u, u + 1)
        alone = model.interests(Histories(history.items[one], history.users[one], history.case[one]))
        assert torch.allclose(alone[0], together[u], atol=1e-10)
    assert torch.equal(model.interests(history), together)


def test_every_case_has_its_own_noise_and_every_seed_its_own():
    items = histories((4,)).items.expand(5, L)
    same = Histories(items, torch.full((5,), -1), torch.tensor([0, 1, 2, 1024, 0]))
    found = trained().interests(same)
    for one, other in itertools.combinations(range(4), 2):
        assert not torch.allclose(found[one], found[other], atol=1e-9)
    assert torch.allclose(found[0], found[4], atol=1e-12)
    assert not torch.allclose(trained(noise_seed=1).interests(same), found, atol=1e-9)
    mean = trained(start="mean").interests(same)
    assert torch.allclose(mean, mean[:1].expand_as(mean), atol=1e-12)


def test_reverse_noise_has_an_effect_only_inside_the_chain():
    plain, noisy = trained(start="mean"), trained(start="mean", reverse_noise="posterior")
    assert not torch.allclose(noisy.interests(histories()), plain.interests(histories()), atol=1e-6)
    one = {"start": "mean", "steps": 1}  # the posterior of a single step has no variance
    assert torch.allclose(
        trained(**one, reverse_noise="posterior").interests(histories()), trained(**one).interests(histories())
    )


@each_variant
@pytest.mark.parametrize("steps", [None, 0, 1, 2, T])
def test_an_empty_history_is_finite(variant, steps):
    """P16, and the noise and the step token are all that is left."""
    model = trained(variant=variant, refine_steps=steps)
    found = model.interests(histories((0, 3)))
    assert found.isfinite().all()
    assert found.shape == (2, K, D)
    for term in losses(model, counts=(0, 3, 1, 1, 2, 4)).values():
        assert term.isfinite()
    torch.stack(list(losses(model, counts=(0, 0, 0, 0, 0, 0)).values())).sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


@each_variant
@pytest.mark.parametrize("steps", [None, 0, 2])
def test_diagnosis_reports_finite_numbers(variant, steps):
    with torch.no_grad():
        found = trained(variant=variant, refine_steps=steps).diagnose(batch())
    assert set(found) == (set() if variant == "diff" else {"signal_to_noise", "denoiser_gain"})
    for value in found.values():
        assert value.ndim == 0
        assert value.isfinite()
        assert value > 0


def test_more_steps_and_more_noise_matter():
    """A denoiser that ignored its chain would give one answer for all."""
    answers = [trained(refine_steps=steps).interests(histories()) for steps in (None, 0, 1, 2)]
    assert torch.equal(trained(refine_steps=T).interests(histories()), answers[0])  # T steps are the whole chain
    answers.append(trained(refine_steps=T, chain="ddim").interests(histories()))
    for one, other in itertools.combinations(answers, 2):
        assert not torch.allclose(one, other, atol=1e-8)


# --- learning and settings -------------------------------------------------------------------------------------


def test_overfits_a_small_batch():
    """P22: far below the floor of copying the noisy input, and the target on top, for nearly all of 64 samples."""
    torch.manual_seed(0)
    model = DMI(
        config(dim=16, interests=2, noise_max=4e-3, noise_scale=20.0, norm="pre", context_grad="none"), Facts(200, L)
    )
    draw = torch.Generator().manual_seed(1)
    items = torch.randint(1, 201, (64, L), generator=draw)
    fixed = SequenceBatch(
        Histories(items, torch.full((64,), -1), torch.arange(64)),
        torch.randint(1, 201, (64,), generator=draw),
        torch.arange(1, 201),
    )
    fixed = dataclasses.replace(fixed, hits=fixed.target.unsqueeze(1) == fixed.negatives)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    distances = []
    for _ in range(300):
        terms = model.train().loss(fixed)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        distances.append(terms["reconstruction"].item() / model.config.dm_weight)
    floor = math.sqrt(16 * 20.0 * 4e-3)
    assert sum(distances[-20:]) / 20 < 0.7 * floor
    with torch.no_grad():
        scores = torch.einsum("bkd,nd->bkn", model.eval().interests(fixed.history), model.catalogue()[1:]).amax(1)
    rank = (scores > scores.gather(1, fixed.target.unsqueeze(1) - 1)).sum(1)
    assert (rank < 10).float().mean() > 0.9


def test_float32_agrees_with_float64():
    wide = trained()
    narrow = DMI(wide.config, Facts(N, L)).eval()
    narrow.load_state_dict({name: value.float() for name, value in wide.state_dict().items()})
    assert torch.allclose(narrow.interests(histories()).double(), wide.interests(histories()), atol=1e-5)
    assert narrow.schedule.beta.dtype == torch.float64


def test_item_table_row_of_padding_is_in_the_catalogue_and_zero():
    model = build()
    assert model.catalogue().shape == (N + 1, D)
    assert not model.catalogue()[0].any()


def test_settings_that_contradict_each_other_are_refused():
    for changes, message in (
        ({"heads": 3}, "heads divides dim"),
        ({"refine_steps": T + 1}, "refine_steps lies in 0..steps"),
        ({"noise_max": 0.9, "noise_scale": 2.0}, r"noise levels lie in \(0, 1\)"),
        ({"noise_min": 0.06}, "beta lies in"),
        ({"schedule": "linear-beta", "noise_scale": 1e3}, "beta lies in"),
    ):
        with pytest.raises(BadSetting, match=message):
            config(**changes)


def test_linear_beta_is_another_chain():
    one, other = build(), build(schedule="linear-beta")
    assert torch.allclose(other.schedule.beta[1:], one.schedule.noise_level[1:], rtol=1e-12)
    assert other.schedule.noise_level[-1] > one.schedule.noise_level[-1]
