"""Re4's extractor: self-attention forwards, and three losses that run back from the interests to the items.

S. Zhang et al., "Re4: Learning to Re-contrast, Re-attend, Re-construct for Multi-interest Recommendation",
WWW 2022, as its authors' code has it. Shapes: B users, K interests, L history items, d dimensions.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core import world
from diffacet.core.interests.attention import over_history, packed
from diffacet.core.layers import kaiming


class ReAttentive(nn.Module):
    """K attention rows over a history, a dense layer, and the way back to the items in training.

    A = softmax_j(W_2 tanh(W_1 H^T)), V' = A (H W_3), V = tanh(V' W_4 + b_4). V is scored; `losses` is about the
    coarse V'. The hidden width is 4d, the 256 of the paper's code at its d = 64; every matrix starts by He's law.
    """

    def __init__(self, dim: int, interests: int, length: int, temperature: float = 0.02) -> None:
        """d, K, L, and the temperature of the contrast."""
        super().__init__()
        self.temperature = temperature
        self.inner = kaiming(4 * dim, dim)  # W_1
        self.outer = kaiming(interests, 4 * dim)  # W_2
        self.value = kaiming(dim, dim)  # W_3
        self.dense = kaiming(dim, dim)  # W_4
        self.dense_bias = nn.Parameter(torch.zeros(dim))  # b_4
        # The way back: an interest is unrolled to L rows, which are mixed into each item anew.
        self.unroll = nn.Parameter(torch.randn(length, dim, dim) * math.sqrt(2 / dim))  # W_5, row by row
        self.unroll_bias = nn.Parameter(torch.zeros(length, dim))  # b_5
        self.mix_inner = kaiming(dim, dim)  # W_7
        self.mix_outer = kaiming(length, dim)  # W_6
        self.mix_value = kaiming(dim, dim)  # W_8

    def coarse(self, embedded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, d), (B, L) bool -> V' (B, K, d) and attention (B, K, L).

        Rows of the attention sum to 1 over real positions and are 0 at padding; without any real position
        both are 0.
        """
        real = packed(mask, self.training)
        items = embedded if real is None else embedded[real]  # (B, L, d) or (n, d)
        attention = over_history(torch.tanh(items @ self.inner.T) @ self.outer.T, mask, real)
        # (A H) W_3 instead of A (H W_3): the same, and K rows to multiply instead of L.
        return attention @ embedded @ self.value, attention

    def finish(self, coarse: Tensor) -> Tensor:
        """V' (B, K, d) -> V (B, K, d), each entry within -1..1."""
        return torch.tanh(coarse @ self.dense + self.dense_bias)

    def forward(self, embedded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, d), (B, L) bool -> V (B, K, d) and attention (B, K, L)."""
        coarse, attention = self.coarse(embedded, mask)
        return self.finish(coarse), attention

    def losses(self, embedded: Tensor, mask: Tensor, coarse: Tensor, attention: Tensor) -> dict[str, Tensor]:
        """The unweighted terms "attend", "contrast" and "construct", each a scalar.

        embedded (B, L, d), mask (B, L) bool, coarse (B, K, d) and attention (B, K, L) as `coarse` gave them.
        """
        own = positives(attention, mask)
        with torch.autocast(embedded.device.type, enabled=False):
            wide = torch.promote_types(embedded.dtype, torch.float32)
            embedded, coarse, attention = embedded.to(wide), coarse.to(wide), attention.to(wide)
            return {
                "attend": attend(embedded, mask, coarse, attention),
                "contrast": contrast(embedded, mask, coarse, own, self.temperature),
                "construct": self._construct(embedded, mask, coarse, own),
            }

    def _construct(self, embedded: Tensor, mask: Tensor, coarse: Tensor, own: Tensor) -> Tensor:
        """Mean over all B·K·L·d entries of [j in P_k] (rebuilt item j of interest k - H_j)^2.

        X = reshape(W_5 V'_k + b_5), G = softmax_m(W_6 tanh(W_7 X^T)) over real m, rebuilt = G (X W_8). Only what
        real rows and positives need is multiplied: a training history fills less than a third of its window.
        """
        B, L, d = embedded.shape
        real = mask.nonzero(as_tuple=True)
        rows = torch.einsum("bkd,led->blke", coarse, self.unroll[:L]) + self.unroll_bias[:L].unsqueeze(1)  # X
        logits = torch.tanh(rows[real] @ self.mix_inner.T) @ self.mix_outer[:L].T  # (n, K, L): entry m, K, item j
        K = coarse.shape[1]
        mix = over_history(logits.reshape(-1, K * L), mask, real)  # (B, K * L, L), G
        mixed = mix.view(B, K, L, L) @ rows.transpose(1, 2)  # (B, K, L, d), G X
        chosen = own.nonzero(as_tuple=True)  # (p,) users, interests and items
        error = mixed[chosen] @ self.mix_value - embedded[chosen[0], chosen[2]]  # (p, d)
        return error.square().sum() / world.entries(own) / d


def positives(attention: Tensor, mask: Tensor) -> Tensor:
    """(B, K, L) bool: the items that an interest attends to by more than 1/n, n being the real positions.

    attention (B, K, L), mask (B, L) bool. No row has any when its attention is uniform.
    """
    n = mask.sum(-1)[:, None, None]
    # Beyond rounding: a uniform row must not have a positive for a last bit.
    return attention.detach() * n > 1 + 16 * torch.finfo(attention.dtype).eps


def attend(embedded: Tensor, mask: Tensor, coarse: Tensor, attention: Tensor) -> Tensor:
    """Cross entropy of the attention under rho = softmax_j(V'_k . H_j): -sum rho ln A / sum rho, over all b, k, j.

    embedded (B, L, d), mask (B, L) bool, coarse (B, K, d), attention (B, K, L) -> scalar. The gradient flows
    through rho too, as in Re4's code.
    """
    there = mask.unsqueeze(1)  # (B, 1, L)
    logits = (coarse @ embedded.transpose(1, 2)).masked_fill(~there, torch.finfo(coarse.dtype).min)
    backward = logits.softmax(-1) * there  # rho
    # An attention may underflow to 0, whose logarithm and its gradient would not be finite.
    forward = attention.masked_fill(~there, 1.0).clamp(min=torch.finfo(attention.dtype).tiny).log()
    return -(backward * forward).sum() / world.summed(backward.sum()).clamp(min=1.0)


def contrast(embedded: Tensor, mask: Tensor, coarse: Tensor, own: Tensor, temperature: float) -> Tensor:
    """Mean over all B·K·L entries of [j in P_k] (ln Z - c(V'_k, H_j) / temperature), c being the cosine.

    embedded (B, L, d), mask (B, L) bool, coarse (B, K, d), own = `positives` (B, K, L) -> scalar. Z sums
    e^(c / temperature) over the user's items, the user's other interests, and the items of the user before in the
    batch (the last one's for the first).
    """
    interests, items = functional.normalize(coarse, dim=-1), functional.normalize(embedded, dim=-1)
    floor = torch.finfo(coarse.dtype).min
    mine = interests @ items.transpose(1, 2) / temperature  # (B, K, L)
    before = interests @ world.rolled(items).transpose(1, 2) / temperature  # (B, K, L)
    others = interests @ interests.transpose(1, 2) / temperature  # (B, K, K)
    self_ = torch.eye(others.shape[-1], dtype=torch.bool, device=others.device)
    against = torch.cat(
        [
            mine.masked_fill(~mask.unsqueeze(1), floor),
            before.masked_fill(~world.rolled(mask).unsqueeze(1), floor),
            others.masked_fill(self_, floor),
        ],
        -1,
    )
    lost = against.logsumexp(-1, keepdim=True) - mine  # (B, K, L)
    return world.mean(lost.masked_fill(~own, 0.0))
