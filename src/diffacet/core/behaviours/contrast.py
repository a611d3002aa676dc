"""Contrast of each interest with what was generated for it (DiffuMIN's CMIC, Eq. 20).

Shapes: B samples, c channels, d dimensions.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core.layers import linear


class Contrast(nn.Module):
    """Two MLPs d -> 4 d -> d, one for each side, shared by all channels, and InfoNCE over the batch by channel.

    Negatives of a sample are the same channel's generated interests of other users; with `same_user` of all samples.
    """

    def __init__(self, dim: int, temperature: float, *, same_user: bool = False) -> None:
        """Width d; the temperature tau > 0."""
        super().__init__()
        self.temperature, self.same_user = temperature, same_user
        self.given, self.generated = (
            nn.Sequential(linear(dim, 4 * dim), nn.ReLU(), linear(4 * dim, dim)) for _ in range(2)
        )

    def forward(self, interests: Tensor, augmented: Tensor, active: Tensor, user: Tensor) -> Tensor:
        """(B, c, d) twice, (B, c) active channels, (B,) users -> mean over active pairs with a negative, or 0."""
        u = functional.normalize(self.given(interests), dim=-1).transpose(0, 1)  # (c, B, d)
        v = functional.normalize(self.generated(augmented), dim=-1).transpose(0, 1)
        return info_nce(u, v, active.T, user, self.temperature, same_user=self.same_user)


def info_nce(u: Tensor, v: Tensor, active: Tensor, user: Tensor, temperature: float, *, same_user: bool) -> Tensor:
    """-log exp(s_aa) / sum_b exp(s_ab), s = u_a . v_b / tau, over b = a and the active b of other users; a scalar.

    u, v (c, B, d) of unit length; active (c, B) bool; user (B,). Counted are active rows with a negative.
    """
    scores = u @ v.transpose(1, 2) / temperature  # (c, B, B)
    own = torch.eye(len(user), dtype=torch.bool, device=user.device)
    other = ~own if same_user else user.unsqueeze(1) != user
    negative = other & active.unsqueeze(1)
    counted = active & negative.any(2)
    total = scores.masked_fill(~(negative | own), -torch.inf).logsumexp(2)
    lost = total - scores.diagonal(dim1=1, dim2=2)
    return torch.where(counted, lost, 0.0).sum() / counted.sum().clamp(min=1)
