"""Users as rows over the whole catalogue, held by their entries; and the layers that read and write such rows.

A row is 0 but for the items that its user has met, so the first layer of an auto-encoder is a sum of item vectors,
and its last one, linear in a hidden vector, is a catalogue of vectors that the hidden vector is matched with.
Shapes: B users, N items, n entries of all rows together, h width of a hidden layer.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core.batch import Histories
from diffacet.core.graph import product


@dataclass(frozen=True)
class Profiles:
    """B rows over N items by their entries that are not 0.

    Attributes:
        item: (n,) int64 item numbers 1..N; each once in a row.
        row: (n,) int64, ascending.
        value: (n,) floating: 1, or a weight.
        users: B.
    """

    item: Tensor
    row: Tensor
    value: Tensor
    users: int

    def total(self, values: Tensor) -> Tensor:
        """(n,) numbers -> (B,) their sums in each row."""
        return values.new_zeros(self.users).index_add_(0, self.row, values)

    def dense(self, n_items: int) -> Tensor:
        """(B, N); column i is item i + 1."""
        rows = self.value.new_zeros(self.users, n_items)
        rows[self.row, self.item - 1] = self.value
        return rows

    def summed(self, vectors: Tensor) -> Tensor:
        """(N + 1, h) vectors of items, row 0 being padding -> (B, h) each row's values times its items' vectors."""
        return _Sum.apply(vectors, self.item, self.row, self.value, self.users)  # type: ignore[no-untyped-call]

    def normalised(self) -> "Profiles":
        """Each row divided by its Euclidean length; a row without entries, or of weight 0, stays so."""
        length = self.total(self.value.square()).sqrt().clamp(min=1e-12)
        return replace(self, value=self.value / length[self.row])

    def ones(self) -> "Profiles":
        """The same entries without their weights: each is 1."""
        return replace(self, value=torch.ones_like(self.value))

    def thinned(self, dropout: float, training: bool) -> "Profiles":
        """Inverted dropout on the rows; that of a 0 is 0, so only entries are drawn. As it is in evaluation."""
        return replace(self, value=functional.dropout(self.value, dropout, training))


def read(history: Histories, oldest: float = 1.0, dtype: torch.dtype = torch.float32) -> Profiles:
    """The rows of `history`; see `entries`."""
    row, position = history.mask.nonzero(as_tuple=True)
    return entries(row, history.items[row, position], len(history.items), oldest, dtype)


def entries(row: Tensor, item: Tensor, users: int, oldest: float = 1.0, dtype: torch.dtype = torch.float32) -> Profiles:
    """`users` rows, of which row[n] met item[n]: an item that occurs several times counts once, where it came last.

    row (n,) int64, ascending; item (n,) int64, of each row in order of time. The values of a row of M items rise
    evenly from `oldest` to 1 in order of time: oldest + (m - 1) / (M - 1) * (1 - oldest), m = 1..M; `oldest` for
    M = 1 (T-DiffRec, Eq. 16).
    """
    keys, order = (row * (int(item.max()) + 1 if len(item) else 1) + item).sort(stable=True)
    last = functional.pad(keys[1:] != keys[:-1], (0, 1), value=True)[: len(keys)]
    if not bool(last.all()):
        kept = order[last].sort().values
        row, item = row[kept], item[kept]
    if oldest == 1.0:
        return Profiles(item, row, torch.ones(len(item), dtype=dtype, device=item.device), users)
    counts = torch.bincount(row, minlength=users)
    place = torch.arange(len(item), device=item.device) - (counts.cumsum(0) - counts)[row]
    share = place.to(dtype) / (counts[row] - 1).clamp(min=1)
    return Profiles(item, row, oldest + (1 - oldest) * share, users)


def xavier(inputs: int, outputs: int, rows: int, columns: int) -> nn.Parameter:
    """(rows, columns), normal with deviation sqrt(2 / (inputs + outputs)) (Glorot and Bengio 2010)."""
    return nn.Parameter(torch.randn(rows, columns) * math.sqrt(2 / (inputs + outputs)))


class ItemSum(nn.Module):
    """The first layer of an auto-encoder: a row (N,) times a matrix, plus a bias; a sum of item vectors."""

    def __init__(self, n_items: int, width: int, *, beside: int = 0) -> None:
        """N and h; `beside` counts inputs that other weights read, which Xavier's deviation knows of."""
        super().__init__()
        self.weight = xavier(n_items + beside, width, n_items, width)  # row i is item i + 1
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, profiles: Profiles) -> Tensor:
        """(B, h)."""
        return replace(profiles, item=profiles.item - 1).summed(self.weight) + self.bias

    def dense(self, rows: Tensor) -> Tensor:
        """(B, N) -> (B, h)."""
        return torch.addmm(self.bias, rows, self.weight)


class ItemScores(nn.Module):
    """The last layer of an auto-encoder: a hidden vector (h,) times a matrix, plus a bias; one score an item."""

    def __init__(self, n_items: int, width: int) -> None:
        """N and h."""
        super().__init__()
        self.weight = xavier(width, n_items, n_items, width)  # row i is item i + 1
        self.bias = nn.Parameter(torch.zeros(n_items))

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, h) -> (B, N)."""
        return functional.linear(hidden, self.weight, self.bias)

    def catalogue(self) -> Tensor:
        """(N + 1, h + 1): each item's weights and bias, row 0 being padding; `interest` is matched with it."""
        vectors = torch.cat([self.weight, self.bias.unsqueeze(1)], 1)
        return functional.pad(vectors, (0, 0, 1, 0))


def start_as_mult_vae(model: nn.Module) -> None:
    """Linear layers as the code of Mult-VAE begins them: weights Xavier's, biases normal around 0.

    Biases have deviation 0.001 and are cut at two deviations. Deviates: weights are normal where that code has the
    uniform law of the same variance, as everywhere here.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
        if isinstance(layer, nn.Linear | ItemSum | ItemScores):
            nn.init.trunc_normal_(layer.bias, std=0.001, a=-0.002, b=0.002)


def interest(hidden: Tensor) -> Tensor:
    """(B, h) -> (B, 1, h + 1): the vector whose inner products with `ItemScores.catalogue` are the scores."""
    return functional.pad(hidden, (0, 1), value=1.0).unsqueeze(1)


class _Sum(torch.autograd.Function):
    """See `Profiles.summed`; the gradient is a sum of the same kind with the entries in order of their items."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, vectors: Tensor, item: Tensor, row: Tensor, value: Tensor, users: int
    ) -> Tensor:
        ctx.save_for_backward(item, row, value)
        ctx.rows = len(vectors)  # type: ignore[attr-defined]
        starts = torch.searchsorted(row, torch.arange(users + 1, device=row.device))
        return product(vectors, starts, item, value)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        item, row, value = ctx.saved_tensors  # type: ignore[attr-defined]
        ordered, order = item.sort(stable=True)
        edges = torch.arange(ctx.rows + 1, device=item.device)  # type: ignore[attr-defined]
        back = product(gradients[0].contiguous(), torch.searchsorted(ordered, edges), row[order], value[order])
        return back, None, None, None, None


def multinomial(logits: Tensor, target: Profiles) -> Tensor:
    """The multinomial log-loss -(1/B) sum over users and items of x log softmax(logits); a scalar.

    logits (B, N), x the rows of `target` (Mult-VAE, WWW 2018, Eq. 2).
    """
    weight = target.total(target.value)
    taken = (target.value * logits[target.row, target.item - 1]).sum()
    return ((weight * logits.logsumexp(1)).sum() - taken) / target.users


def kl_standard(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp logvar), N(0, 1)), summed over the dimensions of (B, d) and averaged over users; a scalar >= 0.

    -1/2 (1 + logvar - mu^2 - exp logvar) for each dimension (Mult-VAE, WWW 2018, Eq. 5; DiffRec's latent form).
    """
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(1).mean()


def squared_error(rebuilt: Tensor, target: Profiles) -> Tensor:
    """(B,) the mean over all N items of the squared difference of `rebuilt` (B, N) and the rows of `target`.

    The target is never made dense: N numbers of a row enter as their own squares, and its entries by what they
    differ. The gradient, too, takes one pass.
    """
    return _SquaredError.apply(rebuilt, target.row, target.item - 1, target.value)  # type: ignore[no-untyped-call]


def squared_error_of(hidden: Tensor, scores: ItemScores, target: Profiles) -> Tensor:
    """`squared_error(scores(hidden), target)` (B,), by whichever way takes fewer products.

    A narrow last layer never makes the scores: |V h + b|^2 is a quadratic form of [h, 1] whose matrix (h + 1, h + 1)
    the batch shares, and of the scores only those of the target's entries are left. That takes about 3 N h^2 + 3 B h^2
    multiplications instead of 3 B N h, forwards and backwards.
    """
    users, (n_items, width) = len(hidden), scores.weight.shape
    if (n_items + users) * width + len(target.item) >= users * n_items:
        return squared_error(scores(hidden), target)
    vectors = torch.cat([scores.weight, scores.bias.unsqueeze(1)], 1)  # (N, h + 1)
    own = interest(hidden).squeeze(1)  # (B, h + 1)
    squares = ((own @ (vectors.T @ vectors)) * own).sum(1)
    taken = (own * target.summed(functional.pad(vectors, (0, 0, 1, 0)))).sum(1)
    return (squares - 2 * taken + target.total(target.value.square())).clamp(min=0) / n_items


class _SquaredError(torch.autograd.Function):
    """See `squared_error`."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, *inputs: Tensor) -> Tensor:
        rebuilt, row, column, value = inputs
        ctx.save_for_backward(*inputs)
        taken = value * (value - 2 * rebuilt[row, column])
        squares = torch.linalg.vector_norm(rebuilt, dim=1).square()
        return squares.index_add(0, row, taken).clamp_(min=0) / rebuilt.shape[1]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rebuilt, row, column, value = ctx.saved_tensors  # type: ignore[attr-defined]
        scale = gradients[0] * (2 / rebuilt.shape[1])  # (B,)
        back = rebuilt * scale.unsqueeze(1)
        back.view(-1).index_add_(0, row * rebuilt.shape[1] + column, -value * scale[row])
        return back, None, None, None
