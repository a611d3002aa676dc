"""What a run of DiffuMIN makes of one showing: a map of the behaviours, by interest channel, and of the interests.

A map is a t-SNE (scikit-learn's) of unit vectors, so neighbours are vectors of like direction: an interest's length
tells how well its channel matched, and generated interests have lengths of their own. Maps say who is near whom; empty
space and sizes of groups say nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch.nn import functional

from diffacet import seeds
from diffacet.app import report
from diffacet.app.clicks import picture
from diffacet.app.clicks.evaluation import PARTS
from diffacet.app.clicks.run import ClickRun
from diffacet.app.figures import COLOURS, Figure
from diffacet.core.batch import ClickBatch
from diffacet.data import clicks
from diffacet.data.clicks import ClickLog, Packed
from diffacet.errors import BadRun, BadSetting
from diffacet.models.diffumin import DiffuMIN
from diffacet.rank.evaluate import device_of, evaluating

PERPLEXITY = 30.0
FEWEST = 3
"""Behaviours without which there is nothing to draw."""


@dataclass(frozen=True)
class Channel:
    """An interest channel of a showing.

    Attributes:
        number: from 1.
        behaviours: that were routed to it.
        kept: of those.
        aggregated: where the aggregated interest lies; None where the channel got nothing.
        generated: where the generated one does; None without diffusion.
        cosine: between the two; None where one is missing.
    """

    number: int
    behaviours: int
    kept: int
    aggregated: tuple[float, float] | None
    generated: tuple[float, float] | None
    cosine: float | None


@dataclass(frozen=True)
class Behaviour:
    """A behaviour on the map.

    Attributes:
        channel: the nearest, from 1.
        kept: whether an interest is made of it.
        place: where it lies.
        told: its fields in words.
    """

    channel: int
    kept: bool
    place: tuple[float, float]
    told: str


@dataclass(frozen=True)
class Portrait:
    """A showing as the model sees it.

    Attributes:
        sample: row of samples.parquet, from 0.
        user: the user's own id.
        item: that of the item shown.
        clicked: whether it was.
        probability: of a click, as predicted.
        target: where the item lies.
        channels: one for each.
        behaviours: oldest first.
    """

    sample: int
    user: Any
    item: Any
    clicked: bool
    probability: float
    target: tuple[float, float]
    channels: tuple[Channel, ...]
    behaviours: tuple[Behaviour, ...]


def portraits(
    run: ClickRun, samples: Sequence[int] = (), *, on: str = "test", data: Path | None = None, seed: int = 0
) -> list[Portrait]:
    """The portraits of some showings, or of one that has much to show.

    Args:
        run: of DiffuMIN.
        samples: rows of samples.parquet, from 0; none: the clicked one of a part with the longest history.
        on: that part.
        data: the data directory, where it has moved.
        seed: of t-SNE.

    Raises:
        BadRun: a run of another model, or its data are gone or are others.
        BadSetting: no such sample, or one with fewer than FEWEST behaviours.
    """
    model = run.model
    if not isinstance(model, DiffuMIN):
        raise BadRun(f"{run.path}: {run.card.name} has no interest channels to show; take a run of diffumin")
    if on not in PARTS:
        raise BadSetting(f"--on takes valid or test; got '{on}'")
    packed = run.packed(data)
    rows = list(samples) or [_richest(packed, on)]
    for row in rows:
        _check(packed.log, row)
    return [_portrait(model, packed, row, run.settings.training.length, seed) for row in rows]


def _richest(packed: Packed, on: str) -> int:
    """The clicked sample of a part with the longest history, the first of equals."""
    log, rows = packed.log, getattr(packed.split, on)
    lengths = np.where(log.label[rows] == 1, log.end[rows] - log.begin[rows], -1)
    return int(rows[lengths.argmax()])


def _check(log: ClickLog, row: int) -> None:
    if not 0 <= row < len(log):
        raise BadSetting(f"--sample takes a row of samples.parquet, 0 to {len(log) - 1}; got {row}")
    count = int(log.end[row] - log.begin[row])
    if count < FEWEST:
        raise BadSetting(f"--sample {row}: its user had {count} behaviours before it; {FEWEST} are needed for a map")


def _portrait(model: DiffuMIN, packed: Packed, row: int, length: int, seed: int) -> Portrait:
    log = packed.log
    batch = ClickBatch.from_arrays(clicks.cut(log, np.array([row]), length)).to(device_of(model))
    with evaluating(model):
        target = model.fields.target(batch)
        raw, directions, routed = model.channels(model.fields, batch, target)
        made = None if model.network is None else model.answer(batch, raw, directions, routed)[0]
        embedded = model.fields(batch.behaviours)  # (n, d), all of them this sample's
        nearest = (embedded @ directions[0].T).argmax(1).tolist()
        logit = model.logits(batch)
        active = routed.active[0].nonzero().flatten()
        vectors = [embedded, target, raw[0, active], *([] if made is None else [made[active]])]
        unit = functional.normalize(torch.cat(vectors).float(), dim=1).cpu().numpy()
        cosines = None if made is None else functional.cosine_similarity(raw[0], made, dim=1).tolist()
    n, kept = len(embedded), set(routed.place.tolist())
    places = [(float(x), float(y)) for x, y in _map(unit, seed)]
    of_channel = {j: n + 1 + order for order, j in enumerate(active.tolist())}
    shift = len(of_channel)
    told = _told(log, batch.behaviours.cpu().numpy())
    channels = tuple(
        Channel(
            j + 1,
            int(routed.got[0, j]),
            int(routed.kept[0, j]),
            places[of_channel[j]] if j in of_channel else None,
            places[of_channel[j] + shift] if j in of_channel and made is not None else None,
            cosines[j] if j in of_channel and cosines is not None else None,
        )
        for j in range(raw.shape[1])
    )
    behaviours = tuple(Behaviour(nearest[i] + 1, i in kept, places[i], told[i]) for i in range(n))
    user, item = (
        pl.scan_parquet(packed.path / clicks.SAMPLES).select("user_id", "item_id").slice(row, 1).collect().row(0)
    )
    chance = float(torch.sigmoid(logit.double())[0])
    return Portrait(row, user, item, bool(log.label[row]), chance, places[n], channels, behaviours)


def _map(unit: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """(P, 2) places of unit vectors (P, d); the same for a seed, whatever the number of threads."""
    # Their import takes long, and no other command needs it.
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(PERPLEXITY, (len(unit) - 1) / 3)
    chosen = seeds.number(seed, "t-SNE") % 2**32
    with threadpool_limits(1):
        return TSNE(2, perplexity=perplexity, init="random", random_state=chosen).fit_transform(unit)


def _told(log: ClickLog, values: NDArray[np.int64]) -> list[str]:
    """Each row of (n, F) field values in words."""
    columns = []
    for name, numbers in zip(log.names, values.T, strict=True):
        words = pl.Series(["padding", "unknown", "of the target"], dtype=pl.String)
        every = pl.concat([words, log.vocabularies[name].values.cast(pl.String)])
        columns.append([f"{name} {word}" for word in every.gather(numbers.tolist())])
    return [", ".join(row) for row in zip(*columns, strict=True)]


def figure(portrait: Portrait) -> Figure:
    """The map: behaviours in their channel's colour, larger where kept; diamonds are aggregated, stars generated."""
    data: list[dict[str, Any]] = []
    for channel in portrait.channels:
        colour, name = COLOURS[(channel.number - 1) % len(COLOURS)], f"channel {channel.number}"
        own = [one for one in portrait.behaviours if one.channel == channel.number]
        for kept, size, opacity in ((False, 5, 0.4), (True, 9, 0.95)):
            some = [one for one in own if one.kept == kept]
            mark = {"color": colour, "size": size, "opacity": opacity}
            label = f"{name}, {'kept' if kept else 'left out'}"
            data.append(_points(label, [one.place for one in some], mark, [one.told for one in some]))
        for what, place, symbol, size in (
            ("aggregated", channel.aggregated, "diamond", 24),
            ("generated", channel.generated, "star", 14),
        ):
            if place is not None:
                edge = {"color": "#ffffff", "width": 1.5}
                mark = {"color": colour, "size": size, "symbol": symbol, "line": edge}
                data.append(_points(f"{name}, {what}", [place], mark, [f"{what} interest of {name}"]))
    mark = {"color": "ink", "size": 15, "symbol": "x"}
    data.append(_points("item shown", [portrait.target], mark, [f"item {portrait.item}"]))
    axis = {"visible": False}
    layout = {"xaxis": axis, "yaxis": axis | {"scaleanchor": "x"}, "height": 620}
    return {"data": [trace for trace in data if trace["x"]], "layout": layout}


def _points(
    name: str, places: Sequence[tuple[float, float]], marker: Mapping[str, Any], told: Sequence[str]
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [x for x, _ in places],
        "y": [y for _, y in places],
        "marker": dict(marker),
        "text": list(told),
        "hovertemplate": f"%{{text}}<extra>{name}</extra>",
    }


def words(portrait: Portrait) -> str:
    """A portrait in one line: who saw what, and what each channel got."""
    channels = "; ".join(
        f"channel {one.number}: {one.behaviours} behaviours, {one.kept} kept"
        + ("" if one.cosine is None else f", cosine to generated {one.cosine:.3f}")
        for one in portrait.channels
    )
    verdict = "clicked" if portrait.clicked else "not clicked"
    return (
        f"sample {portrait.sample}: item {portrait.item} shown to user {portrait.user}, {verdict}, predicted "
        f"{portrait.probability:.4f}; {channels}"
    )


def about(run: ClickRun, some: Sequence[Portrait]) -> dict[str, Any]:
    """What `diffacet interests --json` prints: model, preset, dataset, seed, samples (see `Portrait`)."""
    told = run.about
    return {
        "model": run.card.name,
        "preset": told["preset"],
        "dataset": told["data"]["name"],
        "seed": run.settings.training.seed,
        "samples": [asdict(one) for one in some],
    }


def write(path: Path, run: ClickRun, some: Sequence[Portrait]) -> None:
    """Write the page or, of one portrait, the picture `path`.

    Raises:
        MissingExtra: Plotly, Jinja2 or Kaleido is not installed.
        BadSetting: another ending, or several portraits in one picture.
        BadRun: it cannot be written.
    """
    check(path, len(some))
    if path.suffix.lower() == ".png":
        picture.write_static(path, figure(some[0]), "--out")
        return
    drawn = [report.embedded(figure(one)) for one in some]
    told = about(run, ())
    report.write(path, report.renderer("interests.html.j2")(told=told, portraits=list(zip(some, drawn, strict=True))))


def check(path: Path, count: int) -> None:
    """Refuse a file that cannot be drawn; see `write`."""
    picture.check(path, "--out")
    if path.suffix.lower() == ".png" and count > 1:
        raise BadSetting(f"--out {path} holds one sample, and {count} are asked for; FILE.html holds several")
