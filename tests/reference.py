"""Every formula as a loop that a reader can hold against the paper; slow, float64, and independent of the library.

Only plain numbers, lists and tensor indexing: no formula here is rearranged for speed or stability.
"""

import itertools
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

# --- diffusion -------------------------------------------------------------------------------------------------


def scaled_linear_levels(T, s, low, high):
    """[1 - alpha_bar_t], t = 1..T (DMI Eq. 8)."""
    return [s * (low + ((t - 1) / (T - 1) if T > 1 else 0.0) * (high - low)) for t in range(1, T + 1)]


def posterior_by_conditioning(alpha_bar_before, alpha, x0, xt):
    """Mean and variance of x_{t-1} given (x_t, x_0): the joint Gaussian of the pair, conditioned on its second part."""
    mean_before, var_before = math.sqrt(alpha_bar_before) * x0, 1 - alpha_bar_before
    mean_t, var_t = math.sqrt(alpha) * mean_before, alpha * var_before + 1 - alpha
    covariance = math.sqrt(alpha) * var_before
    gain = covariance / var_t
    return mean_before + gain * (xt - mean_t), var_before - gain * covariance


def ddim_step(xt, x0, signal, signal_next):
    """One deterministic step from alpha_bar = signal to signal_next (DDIM Eq. 12 with sigma = 0)."""
    eps = (xt - math.sqrt(signal) * x0) / math.sqrt(1 - signal)
    return math.sqrt(signal_next) * x0 + math.sqrt(1 - signal_next) * eps


# --- extraction ------------------------------------------------------------------------------------------------


@torch.no_grad()
def self_attentive(embedded, mask, W1, W2, P):
    """A = softmax_j(W2 tanh(W1 (H + P)^T)) over real positions, V = A H, entry by entry."""
    B, L, d = embedded.shape
    K = len(W2)
    interests = torch.zeros(B, K, d, dtype=embedded.dtype)
    attention = torch.zeros(B, K, L, dtype=embedded.dtype)
    for b in range(B):
        real = [j for j in range(L) if mask[b, j]]
        for k in range(K):
            scores = {j: float(W2[k] @ torch.tanh(W1 @ (embedded[b, j] + P[j]))) for j in real}
            total = sum(math.exp(score) for score in scores.values())
            for j in real:
                attention[b, k, j] = math.exp(scores[j]) / total
                interests[b, k] += attention[b, k, j] * embedded[b, j]
    return interests, attention


def kept_count(parts, n, whole=10):
    """max(1, ceil(parts / whole * n)) in whole numbers; 0 for n = 0."""
    return max(1, -(-parts * n // whole)) if n else 0


def prune(attention, mask, tenths):
    """Positions kept for one interest: a set (DMI Eq. 12)."""
    real = [j for j in range(len(mask)) if mask[j]]
    return set(sorted(real, key=lambda j: (-float(attention[j]), j))[: kept_count(tenths, len(real))])


# --- denoiser --------------------------------------------------------------------------------------------------


@torch.no_grad()
def cross_attention(module, xt, t, context, kept):
    """The denoiser as it is drawn: keys and values are projected, one head, one query, one key at a time."""
    B, Q, d = xt.shape
    H, width = module.heads, d // module.heads
    out = torch.zeros_like(xt)
    pre = module.norm == "pre"

    def norm(layer, x):
        spread = math.sqrt(float(((x - x.mean()) ** 2).mean()) + layer.eps)
        return (x - x.mean()) / spread * layer.weight + layer.bias

    for b, q in itertools.product(range(B), range(Q)):
        rows = [module.step(t[b : b + 1])[0]] + [context[b, j] for j in range(context.shape[1]) if kept[b, q, j]]
        rows = [norm(module.norm_memory, row) if pre else row for row in rows]
        x = xt[b, q]
        query = module.query.weight @ (norm(module.norm_attention, x) if pre else x) + module.query.bias
        keys = [module.key @ row for row in rows]
        values = [module.value.weight @ row + module.value.bias for row in rows]
        heads = []
        for h in range(H):
            part = slice(h * width, (h + 1) * width)
            weights = [math.exp(float(query[part] @ key[part]) / math.sqrt(width)) for key in keys]
            heads.append(sum(w / sum(weights) * value[part] for w, value in zip(weights, values, strict=True)))
        attended = module.out.weight @ torch.cat(heads) + module.out.bias
        if pre:
            x = x + attended
            hidden = functional.gelu(module.inner.weight @ norm(module.norm_feed, x) + module.inner.bias)
            out[b, q] = x + module.outer.weight @ hidden + module.outer.bias
        else:
            x = norm(module.norm_attention, x + attended)
            hidden = (module.inner.weight @ x + module.inner.bias).clamp(min=0)
            out[b, q] = norm(module.norm_feed, x + module.outer.weight @ hidden + module.outer.bias)
    return out


def torch_attention(module, query, keys, kept):
    """The attention block alone, by torch's own multi-head attention with the same weights. (B, Q, d), (B, 1+L, d)."""
    d = query.shape[-1]
    mha = nn.MultiheadAttention(d, module.heads, batch_first=True).to(query.dtype)
    with torch.no_grad():
        mha.in_proj_weight.copy_(torch.cat([module.query.weight, module.key, module.value.weight]))
        mha.in_proj_bias.copy_(torch.cat([module.query.bias, torch.zeros(d), module.value.bias]))
        mha.out_proj.weight.copy_(module.out.weight)
        mha.out_proj.bias.copy_(module.out.bias)
    open_ = torch.cat([torch.ones_like(kept[..., :1]), kept], -1)  # (B, Q, 1 + L)
    return mha(query, keys, keys, attn_mask=~open_.repeat_interleave(module.heads, 0), need_weights=False)[0]


# --- objectives ------------------------------------------------------------------------------------------------


def softmax_loss(user, target, negatives, *, hits=None, log_q=None, hardness=0.0):
    """Mean over rows of -s+ + ln(e^{s+} + sum_j w_j e^{s_j}), w_j = e^{beta s_j} / mean_i e^{beta s_i}.

    The correction is subtracted from the logits of the sum, and not from those that make the weights.
    """
    total = 0.0
    for b in range(len(user)):
        positive = float(user[b] @ target[b]) - (float(log_q[0][b]) if log_q else 0.0)
        counted = [j for j in range(len(negatives)) if hits is None or not hits[b, j]]
        score = {j: float(user[b] @ negatives[j]) for j in counted}
        expected = {j: math.exp(float(log_q[1][j])) if log_q else 1.0 for j in counted}
        mean = sum(math.exp(hardness * score[j]) for j in counted) / len(counted) if counted else 1.0
        weighted = sum(math.exp(hardness * score[j]) / mean * math.exp(score[j]) / expected[j] for j in counted)
        total += -positive + math.log(math.exp(positive) + weighted)
    return total / len(user)


def full_softmax(user, catalogue, target):
    """Mean of -ln of the target's share among items 1..N."""
    total = 0.0
    for b in range(len(user)):
        scores = [float(user[b] @ vector) for vector in catalogue[1:]]
        total -= scores[int(target[b]) - 1] - math.log(sum(math.exp(s) for s in scores))
    return total / len(user)


def routing(attention, dim):
    """Sum over rows and interests of (Cov_kk)^2, Cov = A~ A~^T / d."""
    total = 0.0
    for row in attention:
        centred = row - row.mean(-1, keepdim=True)
        covariance = centred @ centred.T / dim
        total += sum(float(covariance[k, k]) ** 2 for k in range(len(row)))
    return total


# --- baselines -------------------------------------------------------------------------------------------------


def item_knn(sequences, n_items, history, *, window, decay, a, b, shrinkage, recency):
    """Scores (N + 1,) of ItemKNN for one history (oldest first), pair by pair."""
    together = np.zeros((n_items + 1, n_items + 1))
    counts = np.zeros(n_items + 1)
    for sequence in sequences:
        for p, item in enumerate(sequence):
            counts[item] += 1
            for q, other in enumerate(sequence):
                if p != q and item != other and (window is None or abs(p - q) <= window):
                    together[item, other] += abs(p - q) ** -decay
    scores = np.zeros(n_items + 1)
    for age, item in enumerate(reversed(history)):
        for other in range(1, n_items + 1):
            if together[item, other]:
                norm = counts[item] ** a * counts[other] ** b + shrinkage
                scores[other] += recency**age * together[item, other] / norm
    return scores


# --- optimisers ------------------------------------------------------------------------------------------------


def adam(weight, gradients, lr, *, lazy=False, beta1=0.9, beta2=0.999, eps=1e-8):
    """Adam as printed (Kingma and Ba, Algorithm 1) over a list of gradients; `lazy` skips rows that are None."""
    weight = weight.clone().double()
    m, v = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, gradient in enumerate(gradients, 1):
        for i in range(len(weight)):
            if lazy and gradient[i] is None:
                continue
            m[i] = beta1 * m[i] + (1 - beta1) * gradient[i]
            v[i] = beta2 * v[i] + (1 - beta2) * gradient[i] ** 2
            weight[i] -= lr * (m[i] / (1 - beta1**step)) / ((v[i] / (1 - beta2**step)).sqrt() + eps)
    return weight


# --- inputs ----------------------------------------------------------------------------------------------------


def normal(*shape, seed=0, dtype=torch.float64):
    """Standard normal numbers that depend on shape and seed only."""
    return torch.from_numpy(np.random.default_rng([seed, *shape]).standard_normal(shape)).to(dtype)
