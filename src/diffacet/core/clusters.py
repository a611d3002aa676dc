"""Auto-encoders of rows over a catalogue that is cut into clusters of items: one encoder for each, one latent of all.

W. Wang et al., "Diffusion Recommender Model", SIGIR 2023 (L-DiffRec, Eq. 14-15) and its code.
Shapes: B users, N items, C clusters of N_c items, d latent dimensions of which d_c are of cluster c.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core.contract import Facts, IntArray
from diffacet.core.profiles import ItemScores, ItemSum, Profiles
from diffacet.errors import BadSetting

Activation = Literal["tanh", "relu", "sigmoid", "leaky-relu", "none"]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": functional.relu,
    "sigmoid": torch.sigmoid,
    "leaky-relu": functional.leaky_relu,
    "none": lambda x: x,
}


def check_count(clusters: int, n_items: int) -> None:
    """Refuse more clusters than items by BadSetting."""
    if clusters > n_items:
        raise BadSetting(f"clusters lies in 1..{n_items}, the number of items; got {clusters}; set fewer clusters")


def members(facts: Facts, clusters: int) -> list[IntArray]:
    """The item numbers of each of C clusters, ascending, (N_c,) int64; with C = 1 no clusters need be known.

    Raises:
        BadSetting: more clusters than items, clusters that are not known, or one that is empty.
    """
    n = facts.n_items
    check_count(clusters, n)
    if clusters == 1:
        return [np.arange(1, n + 1)]
    found = facts.clusters[1:]
    if len(found) != n:
        raise BadSetting(
            f"clusters={clusters} needs the cluster of each of the {n} items; got {len(found)}; 'diffacet train' makes "
            "them from item vectors; else give Facts.clusters, or set clusters=1"
        )
    if found.min() < 0 or found.max() >= clusters:
        raise BadSetting(
            f"with clusters={clusters} an item's cluster lies in 0..{clusters - 1}; got {found.min()}..{found.max()}; "
            "set clusters to the number that there are"
        )
    sizes = np.bincount(found, minlength=clusters)
    if not sizes.all():
        raise BadSetting(f"cluster {sizes.argmin()} of {clusters} has no item; set clusters={np.count_nonzero(sizes)}")
    return [np.flatnonzero(found == cluster) + 1 for cluster in range(clusters)]


def shares(total: int, sizes: Sequence[int], name: str) -> list[int]:
    """`total` dimensions of the setting `name` dealt to clusters of `sizes` items: max(1, floor(N_c / N total)).

    The last cluster has what is left; raises BadSetting when that is nothing.
    """
    dealt = [max(1, size * total // sum(sizes)) for size in sizes[:-1]]
    rest = total - sum(dealt)
    if rest < 1:
        raise BadSetting(
            f"{name}={total} leaves {rest} dimensions for the last of {len(sizes)} clusters, which needs 1 or more; "
            f"set a larger {name}, or fewer clusters"
        )
    return [*dealt, rest]


def _dealt(hidden: Sequence[int], sizes: Sequence[int], name: str) -> list[tuple[int, ...]]:
    """For each cluster its shares of all hidden sizes."""
    rows = [shares(size, sizes, name) for size in hidden]
    return [tuple(row[cluster] for row in rows) for cluster in range(len(sizes))]


def _layers(sizes: Sequence[int]) -> nn.ModuleList:
    """Linear layers from size to size: Xavier normal weights, zero biases."""
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    for layer in layers:
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.ModuleList(layers)


class _Encoder(nn.Module):
    """A row over the N_c items of a cluster -> mean and log variance of its d_c dimensions."""

    def __init__(self, sizes: Sequence[int], inner: Activation, last: Activation) -> None:
        """Widths from N_c to 2 d_c."""
        super().__init__()
        self.first, self.layers = ItemSum(sizes[0], sizes[1]), _layers(sizes[1:])
        self.inner, self.last = _ACTIVATIONS[inner], _ACTIVATIONS[last]

    def forward(self, x: Profiles) -> tuple[Tensor, Tensor]:
        hidden = self.first(x)
        for layer in self.layers:
            hidden = layer(self.inner(hidden))
        mean, log_variance = self.last(hidden).chunk(2, 1)
        return mean, log_variance


class ClusterEncoders(nn.Module):
    """Rows -> mean and log variance of their latent: cluster c's dimensions read its own items only (Eq. 14).

    Attributes:
        latents: d_c of every cluster.
    """

    cluster: Tensor
    place: Tensor

    def __init__(
        self, groups: Sequence[IntArray], latent: int, hidden: Sequence[int], inner: Activation, last: Activation
    ) -> None:
        """Members of the clusters, d, hidden sizes from the latent outwards; `last` is the activation of the output.

        Raises:
            BadSetting: a cluster would have no dimension.
        """
        super().__init__()
        sizes = [len(group) for group in groups]
        self.latents = shares(latent, sizes, "latent")
        each = zip(sizes, _dealt(hidden, sizes, "in_dims"), self.latents, strict=True)
        self.encoders = nn.ModuleList(_Encoder([n, *reversed(h), 2 * d], inner, last) for n, h, d in each)
        cluster, place = np.full(sum(sizes) + 1, -1), np.zeros(sum(sizes) + 1, np.int64)
        for number, group in enumerate(groups):
            cluster[group], place[group] = number, np.arange(1, len(group) + 1)
        self.register_buffer("cluster", torch.from_numpy(cluster), persistent=False)  # (N + 1,)
        self.register_buffer("place", torch.from_numpy(place), persistent=False)  # (N + 1,), 1..N_c

    def forward(self, x: Profiles) -> tuple[Tensor, Tensor]:
        """(B, d) each, the dimensions of cluster 0 first."""
        owner, means, log_variances = self.cluster[x.item], [], []
        for number, encoder in enumerate(self.encoders):
            own = (owner == number).nonzero().squeeze(1)
            part = Profiles(self.place[x.item[own]], x.row[own], x.value[own], x.users)
            mean, log_variance = encoder(part)
            means.append(mean)
            log_variances.append(log_variance)
        return torch.cat(means, 1), torch.cat(log_variances, 1)


class Decoder(nn.Module):
    """Latent -> scores of all items: hidden layers, then a layer without activation, shared by all clusters."""

    def __init__(self, n_items: int, latent: int, hidden: Sequence[int], inner: Activation) -> None:
        """N, d, hidden sizes from the latent outwards."""
        super().__init__()
        sizes = [latent, *hidden]
        self.layers, self.last, self.inner = _layers(sizes), ItemScores(n_items, sizes[-1]), _ACTIVATIONS[inner]

    def forward(self, z: Tensor) -> Tensor:
        """(B, d) -> (B, N)."""
        return self.last(self.hidden(z))

    def hidden(self, z: Tensor) -> Tensor:
        """(B, d) -> the last hidden vector (B, h); the latent itself when there is no hidden layer."""
        for layer in self.layers:
            z = self.inner(layer(z))
        return z

    def catalogue(self) -> Tensor:
        """(N + 1, h + 1): weights and bias of the last layer; row 0 is padding."""
        return self.last.catalogue()


class ClusterDecoders(nn.Module):
    """Latent -> scores of all items: cluster c's items read its own dimensions only (Eq. 15)."""

    column: Tensor

    def __init__(
        self, groups: Sequence[IntArray], latents: Sequence[int], hidden: Sequence[int], inner: Activation
    ) -> None:
        """Members of the clusters, d_c, hidden sizes of all clusters together from the latent outwards.

        Raises:
            BadSetting: a cluster would have no share of a hidden size.
        """
        super().__init__()
        self.latents, sizes = list(latents), [len(group) for group in groups]
        each = zip(sizes, latents, _dealt(hidden, sizes, "out_dims"), strict=True)
        self.decoders = nn.ModuleList(Decoder(*one, inner) for one in each)
        # Where item i + 1 stands when the clusters come one after another.
        column = np.concatenate(groups).argsort()
        self.register_buffer("column", torch.from_numpy(column), persistent=False)  # (N,)

    def forward(self, z: Tensor) -> Tensor:
        """(B, d) -> (B, N), in the order of items."""
        return torch.cat([decoder(part) for decoder, part in self._parts(z)], 1)[:, self.column]

    def hidden(self, z: Tensor) -> Tensor:
        """(B, d) -> the last hidden vectors of all clusters side by side, (B, h)."""
        return torch.cat([decoder.hidden(part) for decoder, part in self._parts(z)], 1)

    def catalogue(self) -> Tensor:
        """(N + 1, h + 1): an item's weights stand where the hidden vector of its cluster does, with 0 elsewhere."""
        layers = [decoder.last for decoder in self._decoders()]
        weights: Tensor = torch.block_diag(*(layer.weight for layer in layers))  # type: ignore[no-untyped-call]
        biases = torch.cat(tuple(layer.bias for layer in layers))
        vectors = torch.cat([weights, biases.unsqueeze(1)], 1)[self.column]
        return functional.pad(vectors, (0, 0, 1, 0))

    def _decoders(self) -> list[Decoder]:
        return cast("list[Decoder]", list(self.decoders))

    def _parts(self, z: Tensor) -> Iterator[tuple[Decoder, Tensor]]:
        """Each cluster's decoder, and its share of the latent (B, d_c)."""
        return zip(self._decoders(), z.split_with_sizes(self.latents, 1), strict=True)
