"""A causal Transformer over histories: SASRec's, and the encoder of what is built on it (DreamRec, DimeRec's GEM).

W.-C. Kang and J. McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018.
Shapes: B histories of L items, oldest first, padded on the right, d dimensions.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core import world
from diffacet.errors import BadSetting

Norm = Literal["original", "pre", "post"]
"""Where layer normalisation stands in a block, see `Block`."""

Activation = Literal["relu", "gelu"]
"""Between the two layers of a block's feed-forward part."""


class CausalTransformer(nn.Module):
    """States of a history, each of which knows its own item and those before it.

    X0 = dropout(sqrt(d) E + P), then the blocks, then a layer normalisation; P (length, d) are learned positions,
    counted from the oldest item that is kept. With norm="post" the input is normalised before its dropout, and the
    last block's normalisation is the last one.
    Padding stands behind all items and a state sees none behind its own, so that no item ever sees padding: the
    causal mask is enough.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        layers: int = 2,
        heads: int = 1,
        dropout: float = 0.2,
        norm: Norm = "original",
        inner: int | None = None,
        activation: Activation = "relu",
        scale: bool = True,
    ) -> None:
        """Width d, and the most items of a history.

        inner: width of the feed-forward part, None: d; scale: whether embeddings are multiplied by sqrt(d).
        Positions are normal with deviation 1 / sqrt(d), matrices Xavier's, biases 0.
        Raises BadSetting when d cannot be cut into `heads` parts.
        """
        super().__init__()
        if dim % heads:
            raise BadSetting(f"heads divides the width {dim}; got heads={heads}")
        self.dropout, self.scale = dropout, math.sqrt(dim) if scale else 1.0
        self.position = nn.Parameter(torch.randn(length, dim) / math.sqrt(dim))
        self.blocks = nn.ModuleList(
            Block(dim, heads, inner or dim, dropout=dropout, norm=norm, activation=activation) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.first = norm == "post"

    def forward(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """(B, L, d) vectors of the items, zero at padding, and their (B, L) mask -> (B, L, d), zero at padding.

        L is at most the `length` of the constructor.
        """
        x = self._start(embedded)
        for block in self.blocks:
            x = block(x)
        return self._end(x).masked_fill(~mask.unsqueeze(-1), 0.0)

    def last(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """What `last_state` takes out of `forward`, (B, d), without the last block's other states.

        In training mode dropout draws less than in `forward`: the same law, other numbers.
        """
        if mask.device.type == "cpu":  # elsewhere the width would have to be waited for
            longest = mask.shape[1] - int(mask.any(0).flip(0).int().argmax()) if mask.any() else 0
            width = world.most(longest) or mask.shape[1]  # whole where all histories are empty
            embedded, mask = embedded[:, :width], mask[:, :width]
        x = self._start(embedded)
        for block in self.blocks[:-1]:
            x = block(x)
        at = last_position(mask)
        x = self.blocks[-1](x, at) if len(self.blocks) else _taken(x, at)
        return self._end(x).masked_fill(~mask.any(1, keepdim=True), 0.0)

    def _start(self, embedded: Tensor) -> Tensor:
        x = embedded * self.scale + self.position[: embedded.shape[1]]
        return functional.dropout(self.norm(x) if self.first else x, self.dropout, self.training)

    def _end(self, x: Tensor) -> Tensor:
        return x if self.first else self.norm(x)


class Block(nn.Module):
    """Causal attention and a feed-forward part F(x) = W2 act(W1 x + b1) + b2, each with dropout and a residual.

    A(q, x) is the attention of queries q W_Q over keys x W_K and values x W_V, its heads side by side.
    "original": N = LN(x), y = LN(N + A(N, x)), out = y + F(y): only queries are normalised, the residual adds what is
    normalised, and no projection follows the heads.
    "pre": y = x + A(LN(x), LN(x)) W_O + b_O, out = y + F(LN(y)).
    "post": y = LN(x + A(x, x) W_O + b_O), out = LN(y + F(y)).
    """

    def __init__(self, dim: int, heads: int, inner: int, *, dropout: float, norm: Norm, activation: Activation) -> None:
        """Widths d and that of the feed-forward part; `heads` divides d."""
        super().__init__()
        self.heads, self.dropout, self.kind, self.activation = heads, dropout, norm, activation
        self.query = nn.Linear(dim, dim, bias=False)
        self.memory = nn.Linear(dim, 2 * dim, bias=False)  # keys, then values
        self.out = None if norm == "original" else nn.Linear(dim, dim)
        self.inner, self.outer = nn.Linear(dim, inner), nn.Linear(inner, dim)
        self.norm_attention, self.norm_feed = nn.LayerNorm(dim), nn.LayerNorm(dim)
        for matrix in (self.query.weight, *self.memory.weight.chunk(2), self.inner.weight, self.outer.weight):
            nn.init.xavier_uniform_(matrix)
        for layer in (self.inner, self.outer):
            nn.init.zeros_(layer.bias)
        if self.out is not None:
            nn.init.xavier_uniform_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, position: Tensor | None = None) -> Tensor:
        """(B, L, d) -> (B, L, d); with positions (B,), what it gives there and nothing elsewhere, (B, d)."""
        own = x if position is None else _taken(x, position)
        source = self.norm_attention(x) if self.kind == "pre" else x
        if self.kind == "original":
            asking = self.norm_attention(own)
        else:
            asking = source if position is None else _taken(source, position)
        read = self._attended(asking, source) if position is None else self._attended_at(asking, source, position)
        if self.kind == "original":
            y = self.norm_feed(asking + self._dropped(read))
            return y + self._fed(y)
        y = own + self._dropped(read)
        if self.kind == "pre":
            return y + self._fed(self.norm_feed(y))
        y = self.norm_attention(y)
        return self.norm_feed(y + self._fed(y))

    def _attended_at(self, queries: Tensor, x: Tensor, position: Tensor) -> Tensor:
        """One query a row, (B, d), over x (B, L, d) up to its position -> (B, d).

        q . (W_K x_j) = (W_K^T q) . x_j, and the sum of a_j W_V x_j is W_V times that of a_j x_j: keys and values of
        all positions are never computed.
        """
        B, L, d = x.shape
        keys, values = self.memory.weight.view(2, self.heads, -1, d)  # each (heads, d / heads, d)
        query = self.query(queries).view(B, self.heads, d // self.heads)
        asked = torch.einsum("bhw,hwd->bhd", query, keys) / math.sqrt(query.shape[-1])
        behind = torch.arange(L, device=x.device) > position.unsqueeze(1)  # (B, L)
        logits = (asked @ x.transpose(1, 2)).masked_fill(behind.unsqueeze(1), -math.inf)  # (B, heads, L)
        joined = torch.einsum("bhd,hwd->bhw", logits.softmax(-1) @ x, values).flatten(1)
        return joined if self.out is None else self.out(joined)

    def _attended(self, queries: Tensor, x: Tensor) -> Tensor:
        B, L, d = x.shape
        query = self.query(queries).view(B, L, self.heads, -1).transpose(1, 2)  # (B, heads, L, d / heads)
        memory = self.memory(x).view(B, L, 2, self.heads, -1)
        key, value = memory[:, :, 0].transpose(1, 2), memory[:, :, 1].transpose(1, 2)
        # Dropout acts on what attention gives and not on its weights, so that the weights need never be stored.
        heads = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        joined = heads.transpose(1, 2).reshape(B, L, d)
        return joined if self.out is None else self.out(joined)

    def _fed(self, x: Tensor) -> Tensor:
        hidden = self.inner(x)
        hidden = hidden.relu() if self.activation == "relu" else functional.gelu(hidden)
        return self._dropped(self.outer(hidden))

    def _dropped(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)


def last_state(states: Tensor, mask: Tensor) -> Tensor:
    """(B, L, d) and the (B, L) mask of real positions -> (B, d), the state at the last of them; 0 where there is none.

    Positions may be masked anywhere, not only at the end.
    """
    return _taken(states, last_position(mask)).masked_fill(~mask.any(1, keepdim=True), 0.0)


def last_position(mask: Tensor) -> Tensor:
    """(B, L) mask -> (B,) the last real position, 0 where there is none."""
    return (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(1)


def _taken(x: Tensor, position: Tensor) -> Tensor:
    """(B, L, d) and positions (B,) -> (B, d)."""
    return x[torch.arange(len(x), device=x.device), position]
