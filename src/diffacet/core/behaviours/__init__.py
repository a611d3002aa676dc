"""What click models over long behaviours share: field embeddings, windows, search units, attention, the head.

One file a subject: `fields` (embeddings, histories as windows), `search` (which behaviours are read closely),
`attention` (how they are weighed), `sums` (of all of them), `twin` (a search that is its own attention), `hashing`
(codes as whole numbers), `channels` (which interests of a target they serve), `contrast` (of interests with generated
ones), `views` (which noise interests hold), `transformer` (the short-term branch), `head` (from vectors to log odds),
`settings` (that models have in common).
"""

from diffacet.core.behaviours.attention import ActivationUnit, TargetAttention, bare, masked_softmax, of_head
from diffacet.core.behaviours.channels import (
    Aggregation,
    Channels,
    Decomposition,
    Filter,
    Routed,
    Router,
    Routing,
    Scale,
    Scope,
    orthonormal,
    rescaled,
)
from diffacet.core.behaviours.contrast import Contrast, info_nce
from diffacet.core.behaviours.fields import (
    AGES,
    BUDGET,
    NAMED,
    Fields,
    Window,
    ages,
    at,
    finest,
    recent,
    window,
    windows,
)
from diffacet.core.behaviours.head import ClickHead, Dice, click_loss, he
from diffacet.core.behaviours.search import SimHash, newest, ordered, products, searched, top
from diffacet.core.behaviours.sums import PAIRS, WeighedSum, over_pairs, over_windows, pairs
from diffacet.core.behaviours.transformer import Block, Position, ShortKind, ShortTerm, readable
from diffacet.core.behaviours.twin import AGE_WIDTH, HeadwiseSearch
from diffacet.core.behaviours.views import Surroundings, ViewDenoiser, level_waves

__all__ = [
    "AGES",
    "AGE_WIDTH",
    "BUDGET",
    "NAMED",
    "PAIRS",
    "ActivationUnit",
    "Aggregation",
    "Block",
    "Channels",
    "ClickHead",
    "Contrast",
    "Decomposition",
    "Dice",
    "Fields",
    "Filter",
    "HeadwiseSearch",
    "Position",
    "Routed",
    "Router",
    "Routing",
    "Scale",
    "Scope",
    "ShortKind",
    "ShortTerm",
    "SimHash",
    "Surroundings",
    "TargetAttention",
    "ViewDenoiser",
    "WeighedSum",
    "Window",
    "ages",
    "at",
    "bare",
    "click_loss",
    "finest",
    "he",
    "info_nce",
    "level_waves",
    "masked_softmax",
    "newest",
    "of_head",
    "ordered",
    "orthonormal",
    "over_pairs",
    "over_windows",
    "pairs",
    "products",
    "readable",
    "recent",
    "rescaled",
    "searched",
    "top",
    "window",
    "windows",
]
