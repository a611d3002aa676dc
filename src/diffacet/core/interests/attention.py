"""Self-attentive extraction, and what every extractor needs: selecting, pruning and thinning."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core.layers import kaiming


class SelfAttentive(nn.Module):
    """K attention rows over a history: A = softmax(W_2 tanh(W_1 (H + P)^T)), V = A H.

    ComiRec-SA (KDD 2020, Eq. 6-7) with the position embedding P of its code; no biases and Kaiming
    initialisation, as in the code of REMI. P enters the attention only, not V.
    With `recency` a learned logit for each interest and age is added, the newest item having age 0: P counts from
    the window's start, and says nothing of how long ago an item was (ours).
    """

    def __init__(self, dim: int, interests: int, length: int, *, recency: bool = False, bias: bool = False) -> None:
        """d, K, L; hidden width 4d; `bias`: b_1 beside W_1, as DimeRec prints it (its b_2 cancels in the softmax)."""
        super().__init__()
        self.inner = kaiming(4 * dim, dim)  # W_1
        self.outer = kaiming(interests, 4 * dim)  # W_2
        self.position = kaiming(1, length, dim)  # P, whose fan-in is L * d
        self.bias = nn.Parameter(torch.zeros(4 * dim)) if bias else None  # b_1
        self.recency = nn.Parameter(torch.zeros(length, interests)) if recency else None

    def forward(self, embedded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, d), (B, L) bool -> interests (B, K, d) and attention (B, K, L).

        Rows of the attention sum to 1 over real positions and are 0 at padding; without any real position
        both are 0.
        """
        real = packed(mask, self.training)
        place = torch.arange(mask.shape[1], device=mask.device)
        newest = (mask * place).amax(-1)  # (B,)
        if real is None:
            placed, age = embedded + self.position[:, : mask.shape[1]], (newest.unsqueeze(1) - place).clamp(min=0)
        else:
            placed, age = embedded[real] + self.position[0, real[1]], newest[real[0]] - real[1]
        logits = self._logits(placed)  # (B, L, K) or (n, K)
        attention = over_history(logits if self.recency is None else logits + self.recency[age], mask, real)
        return attention @ embedded, attention

    def _logits(self, placed: Tensor) -> Tensor:
        """(..., d) items with their positions -> (..., K)."""
        return torch.tanh(functional.linear(placed, self.inner, self.bias)) @ self.outer.T

    def prefixes(self, embedded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gives for every prefix of the history at once.

        (B, L, d), (B, L) bool -> interests (B, L, K, d) and attention (B, L, K, L): entry n sees the items 0..n.
        The logit of an item does not depend on the others, so only the softmax is taken anew for each prefix.
        Ages count from position n, also where the mask leaves it out; `forward` counts from the newest that is there.
        """
        logits = self._logits(embedded + self.position[:, : embedded.shape[1]])
        age = torch.arange(embedded.shape[1], device=embedded.device)
        age = age[:, None] - age  # (L, L): of an item, in the prefix that ends at a position
        seen = (age >= 0) & mask[:, None, :]  # (B, L, L)
        # A prefix without any real position would be all -inf: its softmax is made finite, then zeroed.
        empty = ~seen.any(-1, keepdim=True)
        grid = logits.transpose(1, 2).unsqueeze(1)  # (B, 1, K, L)
        if self.recency is not None:
            grid = grid + self.recency[age.clamp(min=0)].transpose(1, 2)
        grid = grid.masked_fill(~(seen | empty).unsqueeze(2), float("-inf"))
        attention = grid.softmax(-1) * ~empty.unsqueeze(2)  # (B, L, K, L)
        return (attention.flatten(1, 2) @ embedded).view(*attention.shape[:3], -1), attention


def packed(mask: Tensor, training: bool) -> tuple[Tensor, ...] | None:
    """Where (B, L) `mask` is true, in training; None in evaluation: every position is to be computed.

    A training history fills less than a third of its window, so its real positions alone are computed. But how many
    there are is the batch's business: to the bit, an answer would depend on how long the others' histories are.
    """
    return mask.nonzero(as_tuple=True) if training else None


def over_history(logits: Tensor, mask: Tensor, real: tuple[Tensor, ...] | None) -> Tensor:
    """Softmax over each history's real positions: logits (B, L, K), or (n, K) of `real` -> attention (B, K, L).

    mask (B, L) bool, `real` as `packed` gives it. Padding gets 0, and so does a history without any real position.
    """
    grid = logits
    if real is None:
        grid = grid.masked_fill(~mask.unsqueeze(-1), float("-inf"))
    else:
        grid = logits.new_full((*mask.shape, logits.shape[-1]), float("-inf")).index_put(real, logits)  # (B, L, K)
    # A row without any real position would be all -inf: its softmax is made finite, then zeroed.
    empty = ~mask.any(-1)
    grid = grid.masked_fill(empty[:, None, None], 0.0).transpose(1, 2)  # (B, K, L)
    return grid.softmax(-1) * (~empty)[:, None, None]


def thin(mask: Tensor, share: float, training: bool) -> Tensor:
    """(B, L) bool: `mask` without a random `share` of its positions while training; no history loses its last item.

    The model learns from histories with holes, which no two passes over a short history share.
    """
    if share == 0.0 or not training:
        return mask
    kept = mask & (torch.rand(mask.shape, device=mask.device) >= share)
    return torch.where(kept.any(-1, keepdim=True), kept, mask)


def select(interests: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The interest of each row with the largest product with its target, (B, d), and its index (B,) int64.

    interests (B, K, d), target (B, d). Ties take the lowest index; the index carries no gradient
    (ComiRec Eq. 8; DMI Eq. 14).
    """
    best = torch.einsum("bkd,bd->bk", interests.detach(), target.detach()).argmax(-1)
    return interests[torch.arange(len(best), device=best.device), best], best


def prune(attention: Tensor, mask: Tensor, share: float) -> Tensor:
    """(..., L) bool: the max(1, ceil(share * n)) real positions with the largest attention (DMI Eq. 12).

    attention (..., L), mask (..., L) bool with n true entries; ties keep the earlier position; n = 0 keeps none.
    """
    n = mask.sum(-1, keepdim=True)
    # In float64, and less a little: 0.7 * 10 must not become 8.
    keep = torch.ceil(share * n.double() - 1e-9).clamp(min=1).long()
    order = attention.detach().masked_fill(~mask, float("-inf")).sort(dim=-1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order)
    )
    return (rank < keep) & mask
