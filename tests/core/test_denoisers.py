import itertools

import pytest
import torch
from torch.nn import functional

import reference
from diffacet.core.denoisers import CrossAttention, GuidedMLP, ProfileMLP, StepMLP, StepToken
from diffacet.core.layers import sinusoid
from reference import normal

B, Q, L, D, T = 3, 2, 5, 8, 6
each_norm = pytest.mark.parametrize("norm", ["post", "pre"])
each_head_count = pytest.mark.parametrize("heads", [1, 2, 4])


def denoiser(norm="post", heads=1, step_token="learned", dropout=0.0, seed=0):
    """A cross-attention denoiser as after some training: no parameter is zero or one."""
    torch.manual_seed(seed)
    module = CrossAttention(D, T, heads=heads, norm=norm, step_token=step_token, dropout=dropout).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def inputs(seed=0):
    kept = torch.tensor([[[1, 0, 1, 0, 0], [0, 1, 1, 1, 0]], [[0] * 5, [1] * 5], [[0, 0, 0, 0, 1], [1, 1, 0, 0, 0]]])
    return normal(B, Q, D, seed=seed), torch.tensor([1, T, 3]), normal(B, L, D, seed=seed + 1), kept.bool()


def run(module, xt, t, context, kept):
    return module(xt, t, module.read(context), kept)


@each_norm
@each_head_count
@pytest.mark.parametrize("step_token", ["learned", "sinusoid"])
def test_folded_projections_equal_unfolded_attention(norm, heads, step_token):
    module = denoiser(norm, heads, step_token)
    expected = reference.cross_attention(module, *inputs())
    assert torch.allclose(run(module, *inputs()), expected, atol=1e-10)


@each_norm
@each_head_count
def test_the_block_is_torchs_multi_head_attention(norm, heads):
    module = denoiser(norm, heads)
    xt, t, context, kept = inputs()
    token = module.norm_memory(module.step(t))
    memory = module.read(context)
    keys = torch.cat([token.unsqueeze(1), memory], 1)
    expected = reference.torch_attention(module, xt, keys, kept)
    assert torch.allclose(module._attend(xt, token, memory, kept), expected, atol=1e-10)


@each_norm
def test_a_bias_on_the_keys_would_change_nothing(norm):
    """Why the module has none: in a row of the softmax it adds the same number to every logit."""
    module = denoiser(norm, 2)
    query, keys = normal(1, D), normal(4, D, seed=1)
    bias = normal(D, seed=2)
    for part in (slice(0, 4), slice(4, 8)):
        plain = (query[0, part] @ (keys @ module.key.T)[:, part].T).softmax(-1)
        biased = (query[0, part] @ (keys @ module.key.T + bias)[:, part].T).softmax(-1)
        assert torch.allclose(plain, biased, atol=1e-12)


@each_norm
@each_head_count
def test_pruned_items_do_not_matter_and_kept_items_do(norm, heads):
    module = denoiser(norm, heads)
    xt, t, context, kept = inputs()
    expected = run(module, xt, t, context, kept)
    for b, j in itertools.product(range(B), range(L)):
        changed = context.clone()
        changed[b, j] = 50 * normal(D, seed=7)
        found = run(module, xt, t, changed, kept)
        for other, q in itertools.product(range(B), range(Q)):
            if other == b and kept[b, q, j]:
                assert not torch.allclose(found[other, q], expected[other, q], atol=1e-6)
            else:
                assert torch.equal(found[other, q], expected[other, q])


@each_norm
@each_head_count
def test_padding_and_what_it_holds_do_not_matter(norm, heads):
    module = denoiser(norm, heads)
    xt, t, context, kept = inputs()
    expected = run(module, xt, t, context, kept)
    for extra in (1, 4):
        wider = torch.cat([context, torch.full((B, extra, D), -1e5, dtype=torch.float64)], 1)
        closed = torch.cat([kept, torch.zeros(B, Q, extra, dtype=torch.bool)], -1)
        assert torch.allclose(run(module, xt, t, wider, closed), expected, atol=1e-12)


@each_norm
@each_head_count
def test_order_of_the_kept_items_does_not_matter(norm, heads):
    module = denoiser(norm, heads)
    xt, t, context, kept = inputs()
    order = torch.tensor([3, 0, 4, 2, 1])
    found = run(module, xt, t, context[:, order], kept[..., order])
    assert torch.allclose(found, run(module, xt, t, context, kept), atol=1e-12)


@each_norm
@each_head_count
def test_queries_and_rows_are_alone(norm, heads):
    module = denoiser(norm, heads)
    xt, t, context, kept = inputs()
    together = run(module, xt, t, context, kept)
    for b, q in itertools.product(range(B), range(Q)):
        one = slice(b, b + 1)
        alone = run(module, xt[one, q : q + 1], t[one], context[one], kept[one, q : q + 1])
        assert torch.allclose(together[b, q], alone[0, 0], atol=1e-12)


@each_norm
def test_without_any_kept_item_only_the_step_is_attended(norm):
    module = denoiser(norm)
    xt, t, context, kept = inputs()
    none = torch.zeros_like(kept)
    found = run(module, xt, t, context, none)
    assert found.isfinite().all()
    assert torch.equal(found, run(module, xt, t, 9 * context, none))
    value = module.value(module.norm_memory(module.step(t)))
    token, memory = module.norm_memory(module.step(t)), module.read(context)
    attended = module._attend(xt, token, memory, none)
    assert torch.allclose(attended, module.out(value).unsqueeze(1).expand_as(xt), atol=1e-12)


@each_norm
@pytest.mark.parametrize("step_token", ["learned", "sinusoid"])
def test_the_step_matters(norm, step_token):
    module = denoiser(norm, step_token=step_token)
    xt, _, context, kept = inputs()
    said = [run(module, xt, torch.full((B,), t), context, kept) for t in range(1, T + 1)]
    for one, other in itertools.combinations(said, 2):
        assert not torch.allclose(one, other, atol=1e-6)


def test_step_tokens():
    torch.manual_seed(0)
    learned, wave = StepToken(D, T, "learned"), StepToken(D, T, "sinusoid")
    t = torch.tensor([1, T, 3, 1])
    assert torch.equal(learned(t), learned.table[t - 1])
    hidden = sinusoid(t, D).float() @ wave.inner.weight.T + wave.inner.bias
    expected = (hidden * hidden.sigmoid()) @ wave.outer.weight.T + wave.outer.bias
    assert torch.allclose(wave(t), expected, atol=1e-6)
    bound = (6 / (D + T)) ** 0.5  # Xavier-uniform
    assert 0.7 * bound < learned.table.abs().max() <= bound


@each_head_count
@pytest.mark.parametrize("build", ["pre", "mlp"])
def test_zero_start_is_the_identity(heads, build):
    """P18; and then only the output layers receive a gradient, after a step of them everything does."""
    torch.manual_seed(0)
    module = (CrossAttention(D, T, heads=heads, norm="pre") if build == "pre" else StepMLP(D, T)).double().eval()
    xt, t, context, kept = inputs()
    assert torch.equal(run(module, xt, t, context, kept), xt)
    outputs = {"out.weight", "out.bias", "outer.weight", "outer.bias"}
    run(module, xt, t, context, kept).pow(3).sum().backward()
    moved = {name for name, p in module.named_parameters() if p.grad is not None and (p.grad != 0).any()}
    assert moved == outputs & set(dict(module.named_parameters()))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.sub_(0.01 * parameter.grad)
    module.zero_grad()
    run(module, xt, t, context, kept).pow(3).sum().backward()
    for name, parameter in module.named_parameters():
        assert (parameter.grad != 0).any(), name


def test_post_norm_output_is_normalised_and_starts_trainable():
    torch.manual_seed(0)
    module = CrossAttention(D, T).double().eval()
    xt, t, context, kept = inputs()
    out = run(module, xt, t, context, kept)
    assert torch.allclose(out.mean(-1), torch.zeros(B, Q, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(out.square().mean(-1), torch.ones(B, Q, dtype=torch.float64), rtol=1e-3)
    (out * normal(B, Q, D, seed=9)).sum().backward()
    for name, parameter in module.named_parameters():
        assert (parameter.grad != 0).any(), name


def test_step_mlp_is_its_formula_and_is_guided_by_nothing():
    torch.manual_seed(0)
    module = StepMLP(D, T, step_token="sinusoid").double().eval()
    with torch.no_grad():
        module.outer.weight.normal_()
    xt, t, context, kept = inputs()
    found = run(module, xt, t, context, kept)
    for b, q in itertools.product(range(B), range(Q)):
        joined = torch.cat([xt[b, q], module.step(t[b : b + 1])[0]])
        hidden = functional.gelu(module.inner.weight @ joined + module.inner.bias)
        assert torch.allclose(found[b, q], xt[b, q] + module.outer.weight @ hidden + module.outer.bias, atol=1e-12)
    assert torch.equal(found, run(module, xt, t, -context, ~kept))
    assert module.inner.weight.shape == (4 * D, 2 * D)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize(("skip", "rows"), [(False, 3), (True, 3), (True, 1)])
def test_guided_mlp_is_its_formula_row_by_row(pool, skip, rows):
    torch.manual_seed(0)
    module = GuidedMLP(D, T, rows, (10, 7), pool=pool, skip=skip).double().eval()
    assert (module.first.weight.shape[1], module.last.weight.shape) == (D * (3 if pool else 2 + rows), (D, 7))
    assert ((module.trust is None), (module.rows is None)) == (not skip, not (skip and rows > 1))
    if skip:  # starts as what the skip says alone
        assert not module.last.weight.any()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    xt, t, guidance = normal(B, D), torch.tensor([1, T, 3]), normal(B, rows, D, seed=1)
    found = module(xt, t, module.read(guidance))
    for b in range(B):
        step = int(t[b]) - 1
        told = guidance[b].mean(0) if pool else guidance[b].flatten()
        hidden = module.first.weight @ torch.cat([xt[b], module.step.table[step], told]) + module.first.bias
        (inner,) = module.inner
        hidden = functional.gelu(inner.weight @ functional.gelu(hidden) + inner.bias)
        expected = module.last.weight @ hidden + module.last.bias
        if skip:
            logits = [0.0] * rows
            if rows > 1:
                logits = module.rows.weight @ hidden + module.rows.bias
                logits = logits + module.sharpness[step].exp() * (guidance[b] @ xt[b])
            shares = torch.as_tensor(logits, dtype=torch.float64).softmax(0)
            expected = expected + module.trust[step] * xt[b] + shares @ guidance[b]
        assert torch.allclose(found[b], expected, atol=1e-12)


@pytest.mark.parametrize("emb_size", [4, 5])
def test_profile_mlp_is_its_formula(emb_size):
    torch.manual_seed(0)
    module = ProfileMLP(9, (3, 6), emb_size=emb_size, bias_std=0.5).double().eval()
    xt, t = normal(B, 9), torch.tensor([1, T, 3])
    # A sinusoid of t - 1 as wide as an even size; the last of an odd one is 0.
    wave = functional.pad(sinusoid(t - 1, 4), (0, emb_size - 4))
    step = wave @ module.step.weight.T + module.step.bias
    hidden = (module.first.dense(xt) + step @ module.step_in).tanh()
    assert [tuple(layer.weight.shape) for layer in module.inner] == [(3, 6), (6, 3)]
    for layer in module.inner:
        hidden = (hidden @ layer.weight.T + layer.bias).tanh()
    assert torch.allclose(module(xt, t), module.last(hidden), atol=1e-12)
    assert ProfileMLP(9, (3, 6)).dropout == 0.5
    assert not ProfileMLP(9, (3, 6)).step.bias.any()
    halved = module.train()(torch.ones(400, 9, dtype=torch.float64), torch.ones(400, dtype=torch.int64))
    assert halved.std(0).min() > 0  # each row of x_t loses other entries


@each_head_count
def test_dropout_keeps_the_expectation_of_the_block(heads):
    """All three dropouts of the attention block are linear in their masks, the value bias included."""
    module = denoiser("post", heads, dropout=0.3)
    xt, t, context, kept = inputs()
    token = module.step(t)
    with torch.no_grad():
        expected = module._attend(xt, token, context, kept)
        module.train()
        torch.manual_seed(1)
        many = 4000
        repeated = [x.repeat(many, *[1] * (x.ndim - 1)) for x in (xt, token, context, kept)]
        drawn = module._attend(*repeated).view(many, *xt.shape)
    error = drawn.std(0) / many**0.5
    assert ((drawn.mean(0) - expected).abs() < 5 * error).all()
    assert (error > 0).all()


@each_head_count
def test_dropout_of_attention_drops_whole_values(heads):
    """A dropped weight takes its value's bias with it: the fold must not add the bias as if nothing was dropped."""
    module = denoiser("post", heads)
    xt, t, context, _ = inputs()
    everything = torch.ones(B, Q, L, dtype=torch.bool)
    mask = 2.0 * (normal(B, Q, heads, 1 + L) > 0)

    class Dropped(torch.nn.Module):
        def forward(self, x):
            return x * mask.view(B, Q * heads, 1 + L) if x.shape[-1] == 1 + L else x

    module.drop = Dropped()
    token = module.step(t)
    found = module._attend(xt, token, context, everything)
    keys = torch.cat([token.unsqueeze(1), context], 1)
    query, key, value = (
        projected.view(B, -1, heads, D // heads)
        for projected in (module.query(xt), keys @ module.key.T, module.value(keys))
    )
    weights = torch.einsum("bqhw,bkhw->bqhk", query, key).mul((D // heads) ** -0.5).softmax(-1) * mask
    expected = module.out(torch.einsum("bqhk,bkhw->bqhw", weights, value).reshape(B, Q, D))
    assert torch.allclose(found, expected, atol=1e-10)


@each_norm
def test_dropout_is_off_when_evaluating(norm):
    module = denoiser(norm, 2, dropout=0.5)
    assert torch.equal(run(module, *inputs()), run(module, *inputs()))
    assert torch.allclose(run(module, *inputs()), reference.cross_attention(module, *inputs()), atol=1e-10)
    module.train()
    assert not torch.allclose(run(module, *inputs()), run(module, *inputs()))


@each_norm
@each_head_count
def test_gradients_of_the_denoiser(norm, heads):
    module = denoiser(norm, heads)
    xt, t, context, kept = inputs()
    assert torch.autograd.gradcheck(
        lambda x, c: run(module, x, t[:1], c, kept[:1]), (xt[:1].requires_grad_(), context[:1].requires_grad_())
    )
