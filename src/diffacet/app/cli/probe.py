"""The command that reads categories from item vectors: probe."""

from typing import TYPE_CHECKING, Any

from diffacet.app import options as o
from diffacet.app.cli.shell import app, console_of, print_json
from diffacet.errors import BadLog, BadSetting

if TYPE_CHECKING:
    from pathlib import Path

    from diffacet.app.runs import Run


@app.command(
    short_help="See how well item vectors tell categories.",
    help=o.described(
        "How well a linear classifier reads an item's category from its vector in a trained run: the vectors that the"
        " model scores with, frozen; four fifths of the items are learned from, the rest is asked for, five times. The"
        " accuracy of the largest category alone stands beside it.",
        "diffacet probe runs/comirec",
        "diffacet probe runs/sasrec --category first --json",
        "diffacet probe runs/sasrec --raw",
    ),
)
def probe(
    run: o.RunDir,
    category: o.Category = "last",
    raw: o.Raw = False,
    data: o.MovedData = None,
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """Run to accuracy of its item vectors."""
    from diffacet.app import runs, show

    told = probed(runs.of_items(runs.load(run, device=device), "probe"), category=category, raw=raw, data=data)
    if as_json:
        print_json(told)
    else:
        show.probe(console_of(), told)


def probed(run: "Run", *, category: str = "last", raw: bool = False, data: "Path | None" = None) -> dict[str, Any]:
    """What `diffacet probe --json` prints: model, dataset, split, category, vectors, and what `rank.probing` finds.

    Raises:
        BadSetting: the model has no item vectors, or there is no such choice of a category.
        BadLog: the data have no categories, or fewer than two.
        BadRun: the data are gone, or are not those of the run.
    """
    import dataclasses

    import numpy as np
    import torch

    from diffacet.core.batch import ProfileBatch
    from diffacet.core.contract import Matcher
    from diffacet.rank.categories import ItemCategories, check_primary
    from diffacet.rank.probing import probe as measure

    primary, about = check_primary(category), run.about
    if not isinstance(run.model, Matcher):
        raise BadSetting(
            f"{run.path}: {run.card.name} scores items without a vector of each, so there is nothing to probe; take a "
            "run of a model that compares vectors, such as comirec-sa"
        )
    if "categories" not in run.catalogue.columns:
        raise BadLog(
            f"{run.path}: the items of {about['data']['name']} have no categories; give a file of item ids and their "
            "categories to 'diffacet import LOG --items FILE --out DIR', and train on that"
        )
    with torch.inference_mode():
        vectors = run.model.catalogue().float().cpu().numpy()
    counts = np.bincount(run.split(data).train.items, minlength=len(vectors))
    categories = ItemCategories.from_lists(run.catalogue["categories"].to_list(), primary)
    found = measure(vectors, categories, counts, standardise=not raw)
    # A model of rows learns no table of items: what it scores them with is the layer that ends in one unit for each.
    kind = "last layer, weights and bias" if run.card.batch is ProfileBatch else "item vectors"
    return {
        "model": run.card.name,
        "dataset": about["data"]["name"],
        "split": about["split"]["name"],
        "seed": run.settings.training.seed,
        "category": category,
        "standardised": not raw,
        "vectors": f"{kind}, {vectors.shape[1]} numbers each",
        **dataclasses.asdict(found),
    }
