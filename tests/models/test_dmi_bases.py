"""DMI on every published multi-interest model: the base is the base, and refinement does something to it."""

import dataclasses
from typing import get_args

import pytest
import torch

from diffacet.core import diffusion, objectives
from diffacet.core.batch import Histories, SequenceBatch
from diffacet.core.contract import Facts
from diffacet.core.interests import Base, extract, prune, select
from diffacet.errors import BadSetting
from diffacet.models import card
from diffacet.models.dmi import DMI, DMIConfig

N, L, D, K, T, DAY = 30, 6, 8, 3, 4, 86_400
FACTS = Facts(N, L)
ROWS = [[1, 2, 3, 4, 5, 6], [7], [8, 8, 9], [10, 2], [3, 4, 5, 1], [21, 22, 23, 24, 25]]
SIZES = {"dim": D, "interests": K}
OWN_TERMS = {"remi": {"routing"}, "re4": {"attend", "contrast", "construct"}}
each_base = pytest.mark.parametrize("base", get_args(Base))


def dmi(base, **changes):
    """As after some training: nothing but padding and what starts a routing is as it was initialised."""
    torch.manual_seed(0)
    sizes = {**SIZES, "base": base, "steps": T, "heads": 2, "noise_max": 0.05, "noise_scale": 5.0}
    model = DMI(DMIConfig(**{**sizes, **changes}), FACTS).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.items.weight[0] = 0
    return model.eval()


def pair(base, **changes):
    """DMI and its base, as its preset `paper` has it, with the same weights."""
    one, model = card(base), dmi(base, **changes)
    plain = one.build(dataclasses.replace(one.presets["paper"].model, **SIZES), FACTS).double().eval()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if "denoiser" not in name})
    return model, plain


def histories(gap=DAY):
    items = torch.zeros(len(ROWS), L, dtype=torch.int64)
    for b, row in enumerate(ROWS):
        items[b, : len(row)] = torch.tensor(row)
    times = gap * torch.arange(L).square() * (items != 0)
    return Histories(items, torch.full((len(ROWS),), -1), torch.arange(len(ROWS)), times)


def batch(gap=DAY):
    return SequenceBatch(histories(gap), torch.tensor([7, 1, 12, 2, 2, 9]), torch.tensor([3, 11, 11, 7, 5, 1, 30]))


@each_base
@pytest.mark.parametrize("training", [False, True])
def test_without_diffusion_it_is_the_base_with_all_its_losses(base, training):
    """Also with what the base draws in training: MIND's routing starts, PIMIRec's dropout."""
    model, plain = pair(base, variant="diff")
    assert torch.equal(model.interests(histories()), plain.interests(histories()))
    torch.manual_seed(5)
    mine = model.train(training).loss(batch())
    torch.manual_seed(5)
    its = plain.train(training).loss(batch())
    assert set(mine) == set(its) == {"softmax"} | OWN_TERMS.get(base, set())
    for name, term in its.items():
        assert torch.equal(mine[name], term), name
    sum(mine.values()).backward()
    sum(its.values()).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, parameter in plain.named_parameters():
        one, other = gradients[name], parameter.grad
        assert (one is None) == (other is None), name
        assert one is None or torch.allclose(one, other, rtol=1e-9, atol=1e-14), name


@each_base
def test_without_refinement_or_its_share_it_answers_as_the_base(base):
    for changes in ({"refine_steps": 0}, {"eta": 0.0}):
        model, plain = pair(base, **changes)
        assert torch.equal(model.interests(histories()), plain.interests(histories()))


@each_base
@pytest.mark.parametrize("variant", ["full", "gd", "t", "ip"])
def test_every_base_is_refined(base, variant):
    refined = dmi(base, variant=variant).interests(histories())
    plain = dmi(base, variant=variant, refine_steps=0).interests(histories())
    assert refined.shape == plain.shape == (len(ROWS), K, D)
    assert refined.isfinite().all()
    assert ((refined - plain).norm(dim=-1) > 1e-3).all()
    answers = [dmi(base, variant=variant, refine_steps=steps).interests(histories()) for steps in (1, 2, None)]
    assert all(answer.isfinite().all() for answer in answers)
    assert not torch.allclose(answers[0], answers[1], atol=1e-6)


@each_base
def test_the_loss_of_every_base_has_its_terms_and_reaches_its_parameters(base):
    model = dmi(base).train()
    terms = model.loss(batch())
    assert set(terms) == {"softmax", "reconstruction"} | OWN_TERMS.get(base, set())
    sum(terms.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    assert not model.items.weight.grad[0].any()


@each_base
def test_the_guiding_items_are_those_that_an_interest_attends_to(base):
    """With one item kept, what else stands in the history matters only through the interest itself."""
    model = dmi(base, gamma=0.01)
    embedded, given = model.items(histories().items), histories()
    interests, attention = extract(model.extract, embedded, given.mask, given.times)
    assert torch.allclose(attention.sum(-1), torch.ones(len(ROWS), K, dtype=torch.float64))
    kept = model.guides(attention, given)
    refined = model.refine(interests, kept, embedded, given)
    top = attention.argmax(-1)  # (B, K)
    for b in range(len(ROWS)):
        for k in range(K):
            others = embedded.clone()
            others[b, [j for j in range(L) if j != top[b, k]]] += 1.0
            assert torch.allclose(model.refine(interests, kept, others, given)[b, k], refined[b, k], atol=1e-12)


@each_base
def test_the_loss_is_the_bases_interest_and_the_denoiser(base):
    """Eq. 7 and 11-19 from the extractor's interests on."""
    model, given = dmi(base), batch()
    torch.manual_seed(3)
    terms = model.loss(given)
    torch.manual_seed(3)
    embedded, target, negatives = model.items.rows(given.history.items, given.target, given.negatives)
    interests, attention = extract(model.extract, embedded, given.history.mask, given.history.times)
    interest, best = select(interests, target)
    t = torch.randint(1, T + 1, (len(ROWS),))
    noisy = diffusion.forward_noise(interest, t, torch.randn_like(interest), model.schedule).unsqueeze(1)
    kept = prune(attention[torch.arange(len(ROWS)), best], given.history.mask, model.keep).unsqueeze(1)
    rebuilt = model.denoiser(noisy, t, embedded, kept).squeeze(1)
    user = model.eta * rebuilt + (1 - model.eta) * interest
    weight = model.config.hardness if base == "remi" else 0.0
    expected = {
        "softmax": objectives.sampled_softmax(user, target, negatives, given, weight),
        "reconstruction": model.config.dm_weight * (rebuilt - interest).norm(dim=-1).mean(),
    }
    _, plain = pair(base)
    expected |= {name: plain.loss(given)[name] for name in OWN_TERMS.get(base, set())}
    assert set(terms) == set(expected)
    for name, value in expected.items():
        assert torch.allclose(terms[name], value, rtol=1e-9), name


@each_base
def test_times_reach_the_base_that_reads_them(base):
    near, far = histories(DAY), histories(9 * DAY)
    for steps in (0, None):
        model = dmi(base, refine_steps=steps)
        assert torch.equal(model.interests(near), model.interests(far)) == (base != "pimirec")
    model = dmi(base)
    losses = []
    for gap in (DAY, 9 * DAY):
        torch.manual_seed(3)
        losses.append(model.loss(batch(gap))["softmax"])
    assert (losses[0] == losses[1]) == (base != "pimirec")
    gauges = []
    for gap in (DAY, 9 * DAY):
        torch.manual_seed(3)
        gauges.append(model.diagnose(batch(gap))["signal_to_noise"])
    assert (gauges[0] == gauges[1]) == (base != "pimirec")


def test_a_width_that_the_star_graph_cannot_split_is_refused():
    with pytest.raises(BadSetting, match="dim is a multiple of 4 with base=pimirec; got dim=6"):
        DMIConfig(base="pimirec", dim=6)
    assert DMIConfig(base="mind", dim=6).dim == 6
