"""Settings that click models have in common: the same names, ranges and words in each."""

from typing import Annotated, Literal

import torch
from pydantic import Field

from diffacet import seeds
from diffacet.core.behaviours.channels import Aggregation, Decomposition, Filter, Routing, Scale, Scope
from diffacet.core.behaviours.transformer import Position, ShortKind
from diffacet.core.contract import INFERENCE, Search

Dim = Annotated[int, Field(ge=1, description="width of the embedding of one field")]
Hidden = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...], Field(description="widths of the layers of the network at the end")
]
UserId = Annotated[bool, Field(description="whether the user's number is one of the fields that are read")]
Kept = Annotated[int, Field(ge=1, title="K", description="behaviours that the first stage leaves for the second")]
Recent = Annotated[int, Field(ge=1, title="k", description="most recent behaviours that the short-term branch reads")]
Short = Annotated[
    ShortKind, Field(description="what reads the most recent behaviours: a Transformer, DIN's weighted sum, or nothing")
]
Order = Annotated[
    Position, Field(description="whether the Transformer knows the order: a vector for each rank of recency, or none")
]
Heads = Annotated[int, Field(ge=1, description="heads of the target attention; divides the width of a behaviour")]
Ages = Annotated[
    Literal["auto", "none"],
    Field(description="age of a behaviour as a field of its own; auto: where the log's times are real"),
]
HashSeed = Annotated[int, Field(ge=0, description="seed of the random hyperplanes, which are saved with the weights")]

# Of interest channels: DiffuMIN and what is compared with its diffusion.
ChannelCount = Annotated[
    int, Field(ge=1, le=120, title="c", description="interest channels of a target"), Search(choices=(2, 4, 8))
]
Percent = Annotated[
    float, Field(ge=0.01, le=100, title="p", description="percent of its behaviours that a channel keeps (Eq. 7)")
]
KeepCount = Annotated[int, Field(ge=1, description='behaviours that a channel keeps, with filter "top-k"')]
Route = Annotated[Routing, Field(description="channels that a behaviour goes to (Eq. 6, Figure 2a)")]
Keeps = Annotated[Filter, Field(description="what a channel keeps (Eq. 7, Figure 2a)")]
KeepsOf = Annotated[
    Scope, Field(description="rank what was routed to a channel, or the whole history and keep what is its own")
]
Pooling = Annotated[Aggregation, Field(description="how a channel's behaviours become one interest (Eq. 8, Figure 2a)")]
Split = Annotated[Decomposition, Field(description="how the target is split into channels (Eq. 3)")]
ShortLayers = Annotated[int, Field(ge=1, title="L", description="blocks of the short-term branch")]
ShortHeads = Annotated[int, Field(ge=1, title="h", description="attention heads; divide d")]
Temperature = Annotated[
    float, Field(gt=0, title="τ", description="of the contrast"), Search(choices=(0.001, 0.005, 0.01, 0.05))
]
DiffusionWeight = Annotated[
    float, Field(ge=0, title="λ1", description="weight of the generative loss (Eq. 24)"), Search(1e-4, 1e-1, log=True)
]
ContrastWeight = Annotated[
    float, Field(ge=0, title="λ2", description="weight of L_cl (Eq. 24)"), Search(1e-4, 1e-1, log=True)
]
NoiseSeed = Annotated[int, Field(ge=0, le=2**53, description="of the noise at inference"), INFERENCE]
Length = Annotated[
    Scale, Field(title="s", description="length of the interests that are generated from: 1, or sqrt(d)")
]
SameUser = Annotated[bool, Field(description="a user's other samples are negatives of the contrast, too")]


def generator(seed: int, *keys: str | int) -> torch.Generator:
    """Where random hyperplanes are drawn from: a function of `seed` and `keys` only."""
    return torch.Generator().manual_seed(seeds.number(seed, *keys))
