"""Denoisers of vectors: (x_t, t, what guides them) -> an estimate of x_0.

Each but the last, which no history guides, has `read(context)`, called once per user, and a call for every step:
(x_t (B, Q, d), t (B,) int64, memory, kept (B, Q, L) bool) -> (B, Q, d), where the Q vectors of a row do
not see each other.
"""

import itertools
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core.diffusion import Schedule
from diffacet.core.layers import linear, sinusoid
from diffacet.core.profiles import ItemScores, ItemSum, xavier


class StepToken(nn.Module):
    """One vector for each step 1..T: a learned table, or a sinusoid through a two-layer MLP (DMI Eq. 11's e_t)."""

    def __init__(self, dim: int, steps: int, kind: Literal["learned", "sinusoid"]) -> None:
        """d, T and the form; the learned table starts Xavier-uniform."""
        super().__init__()
        self.dim = dim
        if kind == "learned":
            self.table: nn.Parameter | None = nn.Parameter(nn.init.xavier_uniform_(torch.empty(steps, dim)))
        else:
            self.table = None
            self.inner, self.outer = linear(dim, dim), linear(dim, dim)

    def forward(self, t: Tensor) -> Tensor:
        """(B,) -> (B, d)."""
        if self.table is not None:
            return functional.embedding(t - 1, self.table)
        wave = sinusoid(t, self.dim).to(self.inner.weight.dtype)
        return self.outer(functional.silu(self.inner(wave)))


class CrossAttention(nn.Module):
    """One transformer layer in which each noisy vector attends to a step token and to the items kept for it.

    DMI Eq. 11: queries are x_t, keys and values [e_t ; C]. `norm="post"`: x = LN(x_t + attention),
    out = LN(x + feed-forward) with ReLU. `norm="pre"`: norms before each block, GELU, no norm at the end, and
    zero-initialised outputs, so that the layer starts as the identity.

    A query is alone in its softmax, so the key projection is folded into the query, (q W_K) . m = q . (W_K m),
    and the value projection is applied to the attended mean: the history is never projected, and the result
    is the same. A bias on the keys would cancel in the softmax, so there is none.
    """

    def __init__(
        self,
        dim: int,
        steps: int,
        *,
        heads: int = 1,
        norm: Literal["post", "pre"] = "post",
        step_token: Literal["learned", "sinusoid"] = "learned",
        dropout: float = 0.0,
    ) -> None:
        """d, T; `heads` divides d; feed-forward width 4d."""
        super().__init__()
        self.heads, self.norm = heads, norm
        self.step = StepToken(dim, steps, step_token)
        self.query, self.value, self.out = linear(dim, dim), linear(dim, dim), linear(dim, dim)
        self.key = nn.Parameter(nn.init.xavier_uniform_(torch.empty(dim, dim)))
        self.inner, self.outer = linear(dim, 4 * dim), linear(4 * dim, dim)
        self.norm_attention, self.norm_feed = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.norm_memory = nn.LayerNorm(dim) if norm == "pre" else nn.Identity()
        self.drop = nn.Dropout(dropout)
        if norm == "pre":
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.outer.weight)

    def read(self, context: Tensor) -> Tensor:
        """Item vectors (B, L, d) -> what every step attends to, (B, L, d)."""
        return self.norm_memory(context)

    def forward(self, xt: Tensor, t: Tensor, memory: Tensor, kept: Tensor) -> Tensor:
        """(B, Q, d), (B,), (B, L, d), (B, Q, L) bool -> (B, Q, d)."""
        token = self.norm_memory(self.step(t))  # (B, d)
        if self.norm == "post":
            x = self.norm_attention(xt + self._attend(xt, token, memory, kept))
            return self.norm_feed(x + self._feed(functional.relu(self.inner(x))))
        x = xt + self._attend(self.norm_attention(xt), token, memory, kept)
        return x + self._feed(functional.gelu(self.inner(self.norm_feed(x))))

    def _feed(self, hidden: Tensor) -> Tensor:
        return self.drop(self.outer(self.drop(hidden)))

    def _attend(self, query: Tensor, token: Tensor, memory: Tensor, kept: Tensor) -> Tensor:
        B, Q, d = query.shape
        H, width = self.heads, d // self.heads
        heads = self.query(query).view(B, Q, H, width) * width**-0.5
        folded = torch.einsum("bqhw,hwd->bqhd", heads, self.key.view(H, width, d)).reshape(B, Q * H, d)
        seen = kept.unsqueeze(2).expand(B, Q, H, -1).reshape(B, Q * H, -1)
        logits = (folded @ memory.transpose(1, 2)).masked_fill(~seen, float("-inf"))  # (B, Q*H, L)
        step = folded @ token.unsqueeze(-1)  # (B, Q*H, 1); never masked, so no row is empty
        weights = self.drop(torch.cat([step, logits], -1).softmax(-1))
        mean = weights[..., :1] * token.unsqueeze(1) + weights[..., 1:] @ memory  # (B, Q*H, d)
        values = torch.einsum("bqhd,hwd->bqhw", mean.view(B, Q, H, d), self.value.weight.view(H, width, d))
        # The bias enters as often as the weights sum to: once, but for dropout on them.
        bias = self.value.bias.view(H, width) * weights.sum(-1).view(B, Q, H, 1)
        return self.drop(self.out((values + bias).reshape(B, Q, d)))


class StepMLP(nn.Module):
    """x_t + W_b GELU(W_a [x_t ; e_t]): a denoiser that no history guides (ablation DMI-T); starts as the identity."""

    def __init__(
        self,
        dim: int,
        steps: int,
        *,
        step_token: Literal["learned", "sinusoid"] = "learned",
        dropout: float = 0.0,
    ) -> None:
        """d, T; hidden width 4d."""
        super().__init__()
        self.step = StepToken(dim, steps, step_token)
        self.inner, self.outer = linear(2 * dim, 4 * dim), linear(4 * dim, dim)
        self.drop = nn.Dropout(dropout)
        nn.init.zeros_(self.outer.weight)

    def read(self, context: Tensor) -> Tensor:
        """The context (B, L, d) as it is; it is not used."""
        return context

    def forward(self, xt: Tensor, t: Tensor, memory: Tensor, kept: Tensor) -> Tensor:
        """(B, Q, d), (B,), ignored, ignored -> (B, Q, d)."""
        del memory, kept
        token = self.step(t).unsqueeze(1).expand_as(xt)
        hidden = functional.gelu(self.inner(torch.cat([xt, token], -1)))
        return xt + self.drop(self.outer(self.drop(hidden)))


class ProfileMLP(nn.Module):
    """DiffRec's denoiser of a user's whole row, or of its latent: an MLP with tanh that reads [x_t ; e_t].

    Layers I + d_e -> m_n -> ... -> m_1 -> ... -> m_n -> I for `dims` = (m_1, ..., m_n), where m_1 occurs once: the
    sizes run backwards and then forwards, as in the code of the paper. The last layer is linear. The first one is a
    sum, so what it makes of x_t may be given instead of x_t, which is I wide.
    """

    def __init__(
        self, inputs: int, dims: tuple[int, ...], *, emb_size: int = 10, dropout: float = 0.5, bias_std: float = 0.0
    ) -> None:
        """I, hidden sizes, d_e; `dropout` is that of x_t, by `forward`; biases start normal with `bias_std`."""
        super().__init__()
        self.emb_size, self.dropout, outer = emb_size, dropout, dims[-1]
        sizes = [*reversed(dims), *dims[1:]]
        self.first = ItemSum(inputs, outer, beside=emb_size)
        self.step = nn.Linear(emb_size, emb_size)
        self.step_in = xavier(inputs + emb_size, outer, emb_size, outer)  # the first layer's share of e_t
        self.inner = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.last = ItemScores(inputs, outer)
        for module in [self.step, *self.inner]:
            nn.init.xavier_normal_(module.weight)
        for module in [self.first, self.step, *self.inner, self.last]:
            nn.init.normal_(module.bias, 0, bias_std)

    def hidden(self, read: Tensor, t: Tensor) -> Tensor:
        """What the first layer makes of x_t, (B, m_n), and (B,) steps 1..T -> the last hidden layer, (B, m_n)."""
        wave = sinusoid(t - 1, self.emb_size - self.emb_size % 2)
        step = self.step(functional.pad(wave, (0, self.emb_size % 2)).to(read.dtype))
        hidden = (read + step @ self.step_in).tanh()
        for layer in self.inner:
            hidden = layer(hidden).tanh()
        return hidden

    def forward(self, xt: Tensor, t: Tensor) -> Tensor:
        """(B, I), (B,) -> (B, I)."""
        return self.last(self.hidden(self.first.dense(functional.dropout(xt, self.dropout, self.training)), t))


class GuidedMLP(nn.Module):
    """DimeRec's f(x_t, s_t, g) (Eq. 20): an MLP that reads the noisy vector, its step and the guidance side by side.

    Hidden layers with GELU, a linear layer at the end; no dropout, no norm. The first layer is a sum of three
    products, so the guidance, which no step changes, is multiplied once by `read`.
    Ours, off in the paper: with `skip` the output starts as a mixture of the guidance's rows, weighed by what the
    hidden layer says of each and by how near it is to the noisy vector, plus c_t x_t: by Bayes' rule the logits of the
    clean item given both are those given the guidance plus those given x_t, so the MLP has only to learn what an
    interest lacks. `dropout` of what is read of the guidance, and of the last hidden layer.
    """

    def __init__(
        self,
        dim: int,
        steps: int,
        rows: int,
        hidden: tuple[int, ...],
        *,
        pool: bool = False,
        skip: bool = False,
        dropout: float = 0.0,
    ) -> None:
        """d, T, K, hidden widths; `pool`: the guidance's mean is read instead of all K rows."""
        super().__init__()
        self.dim, self.pool = dim, pool
        self.step = StepToken(dim, steps, "learned")
        width = (1 if pool else rows) * dim
        self.first = linear(2 * dim + width, hidden[0])
        self.inner = nn.ModuleList(linear(a, b) for a, b in itertools.pairwise(hidden))
        self.last = linear(hidden[-1], dim)
        self.drop = nn.Dropout(dropout)
        several = skip and rows > 1
        self.rows = linear(hidden[-1], rows) if several else None
        # How much nearness to x_t counts at each step: at large t it says nothing of the rows.
        self.sharpness = nn.Parameter(torch.zeros(steps)) if several else None
        self.trust = nn.Parameter(torch.zeros(steps)) if skip else None  # c_t
        if skip:
            nn.init.zeros_(self.last.weight)

    def read(self, guidance: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, d) -> what the guidance adds to the first layer, (B, h), bias included; and the guidance."""
        flat = self.drop(guidance.mean(1) if self.pool else guidance.flatten(1))
        return functional.linear(flat, self.first.weight[:, 2 * self.dim :], self.first.bias), guidance

    def forward(self, xt: Tensor, t: Tensor, memory: tuple[Tensor, Tensor]) -> Tensor:
        """(B, d), (B,) steps 1..T, what `read` gave -> (B, d)."""
        of_x, of_step = self.first.weight[:, : self.dim], self.first.weight[:, self.dim : 2 * self.dim]
        beside, guidance = memory
        hidden = functional.linear(xt, of_x) + functional.linear(self.step(t), of_step) + beside
        for layer in self.inner:
            hidden = layer(functional.gelu(hidden))
        hidden = self.drop(functional.gelu(hidden))
        out = self.last(hidden)
        if self.trust is None:
            return out
        return out + self.trust[t - 1].unsqueeze(-1) * xt + self._mixture(hidden, xt, t, guidance)

    def _mixture(self, hidden: Tensor, xt: Tensor, t: Tensor, guidance: Tensor) -> Tensor:
        """The rows by the weights softmax_k((W h)_k + e^{a_t} x_t . g_k), (B, d)."""
        if self.rows is None or self.sharpness is None:
            return guidance[:, 0]
        near = self.sharpness[t - 1].exp().unsqueeze(-1) * torch.einsum("bd,bkd->bk", xt, guidance)
        return torch.einsum("bk,bkd->bd", (self.rows(hidden) + near).softmax(-1), guidance)


def catalogue_mean(xt: Tensor, t: Tensor, vectors: Tensor, log_prior: Tensor, schedule: Schedule) -> Tensor:
    """The exact denoiser of a finite catalogue: E[x_0 | x_t] when x_0 is one of N vectors, with nothing to learn.

    (B, Q, d), (B,) steps 1..T, (N, d), (B, N) log prior of each row's items -> (B, Q, d), the mean of the
    vectors under p(j | x_t), which grows with exp(log_prior_j + sqrt(ab) x_t . e_j / (1 - ab)), ab = alpha_bar_t.
    That is Bayes' rule for q(x_t | x_0) = N(sqrt(ab) x_0, (1 - ab) I) but for the term in |e_j|^2, which the
    softmax that trains such vectors does not have either: it is part of the prior.
    """
    level = schedule.alpha_bar[t]
    sharp = (level.sqrt() / (1 - level)).to(xt.dtype)[:, None]  # (B, 1)
    # One vector of a row at a time: memory stays at one score for each item.
    return torch.stack([(log_prior + sharp * (x @ vectors.T)).softmax(-1) @ vectors for x in xt.unbind(1)], 1)
