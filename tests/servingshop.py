"""Small trained runs of the shop in `shoplog`, for tests of what serves them."""

from pathlib import Path

import diffacet
from shoplog import TINY, write_shop

MODELS = ("dmi", "comirec-sa", "sasrec", "facet", "ease", "pop")


def shop_data(folder: Path) -> Path:
    """The data directory of the shop: 40 items with titles and two categories each, 60 users."""
    log, items = write_shop(folder)
    diffacet.import_log([log], folder / "data", user="customer", item="sku", time="ts", rating="none", items=items)
    return folder / "data"


def served_run(data: Path, out: Path, model: str = "dmi", seed: int = 3) -> Path:
    """A run of `model`, trained for a moment."""
    learns = "dim" in diffacet.card(model).config.__dataclass_fields__
    sets = [pair for pair in TINY if learns or not pair.startswith("dim=")]
    diffacet.train(model, data, out, set=sets, seed=seed, max_steps=20 if learns else None)
    return out
