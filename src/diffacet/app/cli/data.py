"""Commands about data and models: import, import-split, split, stats, models."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from diffacet.app import engine_options as e
from diffacet.app import options as o
from diffacet.app.cli.shell import app, console_of, print_json, tell_next

if TYPE_CHECKING:
    from diffacet.app.streaming.driving import Mapped


@app.command(
    "import",
    short_help="Read raw logs into a data directory.",
    help=o.described(
        "Read interaction logs of any form into a data directory: ids numbered once, filters applied, provenance and"
        " fingerprint written. Columns are found by their names, or told. Bad rows are refused with file, row and"
        " value; nothing is written then. Raw files of 1 GiB and more are read piece by piece, in memory that their"
        " length does not change, into partitions of users, which other commands read alike.",
        "diffacet import log.csv --out data/mine",
        "diffacet import day1.csv.gz day2.csv.gz --user customer --item sku --time ts --out data/mine --k-core 5",
        "diffacet import orders.csv --time bought --time-format '%d.%m.%Y %H:%M' --out data/mine",
        "diffacet import reviews.parquet --rating stars --min-rating 4 --items products.csv --out data/mine",
        "diffacet import ml-1m/ --format movielens --out data/ml-1m",
        "diffacet import logs/ --partitions 64 --out data/shop",
    ),
)
def import_(
    log: o.Logs,
    out: o.NewData,
    user: o.User = None,
    item: o.Item = None,
    time: o.Time = None,
    time_format: o.TimeFormat = None,
    rating: o.Rating = None,
    min_rating: o.MinRating = None,
    items: o.Items = None,
    min_count: o.MinCount = None,
    k_core: o.KCore = None,
    duplicates: o.Duplicates = "keep",
    format: o.Format = "auto",  # noqa: A002
    partitions: o.Partitions = None,
    engine: e.EngineName = e.Engine.LOCAL,
    address: e.Address = None,
    workers: e.Workers = None,
) -> None:
    """Raw log to data directory."""
    e.check(engine, address, workers)
    from diffacet.app import progress, show
    from diffacet.app.importing import import_log
    from diffacet.data import store

    store.check_out(out)
    with _engine(engine, address, workers) as mapped:
        done = import_log(
            log,
            out,
            format=format,
            user=user,
            item=item,
            time=time,
            time_format=time_format,
            rating=rating,
            items=items,
            min_rating=min_rating,
            min_count=min_count,
            k_core=k_core,
            duplicates=duplicates,
            partitions=partitions,
            mapped=mapped,
            watch=lambda what: progress.counting(console_of(stderr=True), what, lines="filtered" not in what),
        )
    console = console_of()
    show.imported(console, done)
    model = "dimerec" if done.parts_divide_users else "dmi"
    tell_next(console, f"diffacet stats {out}", f"diffacet train {model} --data {out} --out RUN")


@contextmanager
def _engine(engine: e.Engine, address: str | None, workers: int | None) -> "Iterator[Mapped | None]":
    """How an import runs its tasks, for as long as it takes; None: here."""
    if engine is e.Engine.LOCAL:
        yield None
        return
    from diffacet.app.cluster import connecting, importing

    with connecting.connected(address, cpus=workers) as cluster:
        yield importing.on(cluster, workers)


@app.command(
    "import-split",
    short_help="Read files that are already split into a data directory.",
    help=o.described(
        "Read a log that comes in three files, train, valid and test, into a data directory that keeps this split:"
        " 'diffacet train' then uses it (--split given). Parquet, CSV or TSV with a header, or .npy of two integer"
        " columns (user, item). Without times the order is that of the files. A pair of user and item may occur once"
        " only, and each user of valid and test must be in train. In the MovieLens-1M files that DiffRec's authors"
        " released, valid is later in time than test; their figures use the names as they stand, and swapping the two"
        " options gives the chronological reading.",
        "diffacet import-split --train train.parquet --valid valid.parquet --test test.parquet --out data/ml-1m-clean",
        "diffacet import-split --train train_list.npy --valid valid_list.npy --test test_list.npy --out data/yelp",
        "diffacet import-split --train train.csv --valid dev.csv --test test.csv --user who --item sku --out data/mine",
    ),
)
def import_split(
    train: o.TrainPart,
    valid: o.ValidPart,
    test: o.TestPart,
    out: o.NewData,
    user: o.User = None,
    item: o.Item = None,
    time: o.PartTime = None,
    items: o.Items = None,
    item_vectors: o.PartVectors = None,
) -> None:
    """Split files to data directory."""
    from diffacet.app import importing, show

    done = importing.import_split(
        train, valid, test, out, user=user, item=item, time=time, items=items, item_vectors=item_vectors
    )
    console = console_of()
    show.imported(console, done)
    tell_next(console, f"diffacet stats {out}", f"diffacet train ease --data {out} --out RUN")


@app.command(
    short_help="Make a data directory with a split of its own, maybe with noise.",
    help=o.described(
        "Make a data directory that carries its own split from one that does not, as DiffRec's authors cut theirs:"
        " ratings from a threshold on, the earliest row of each pair, a core, then user by user in time order. With"
        " --noise natural low ratings stand in for some rows of train and valid; with --noise random items that the"
        " user never met do, or are added; test stays clean. A directory that has parts takes random noise only.",
        "diffacet split data/ml-1m --min-rating 4 --out data/ml-1m-clean",
        "diffacet split data/ml-1m --min-rating 4 --noise natural --noise-seed 1 --out data/ml-1m-natural",
        "diffacet split data/ml-1m-clean --noise random --share 0.3 --out data/ml-1m-random-30",
        "diffacet split data/shop --k-core 5 --ratio 7:1:2 --out data/shop-split",
    ),
)
def split(
    data: o.DataDir,
    out: o.NewData,
    min_rating: o.Positive = None,
    k_core: o.Core = None,
    ratio: o.RatioOf = None,
    noise: o.Noise = "none",
    share: o.NoiseShare = None,
    noise_mode: o.NoiseMode = "add",
    noise_seed: o.NoiseSeed = 0,
) -> None:
    """Data directory to one with parts."""
    from diffacet.app import show, splitting

    done = splitting.split_data(
        data,
        out,
        min_rating=min_rating,
        k_core=k_core,
        ratio=ratio,
        noise=noise,
        share=share,
        noise_mode=noise_mode,
        noise_seed=noise_seed,
    )
    console = console_of()
    show.imported(console, done)
    tell_next(console, f"diffacet stats {out}", f"diffacet train ease --data {out} --out RUN")


@app.command(
    short_help="Show the figures of a data directory, beside known data sets.",
    help=o.described(
        "Figures of a data directory, and where they differ from the tables of papers that used the same data; of click"
        " data those of each part, and how long the histories are that samples see.",
        "diffacet stats data/mine",
        "diffacet stats data/mine --json",
    ),
)
def stats(directory: o.DataDir, as_json: o.Json = False) -> None:
    """Figures of a data directory."""
    from diffacet.app import click_show, show
    from diffacet.data import atlas, clicks, store

    if (directory / clicks.SAMPLES).is_file():
        packed = clicks.open(directory)
        figures = clicks.statistics(packed)
        if as_json:
            about = {"name": packed.name, "path": str(directory), "fingerprint": packed.fingerprint}
            print_json(about | {"statistics": figures, "notes": packed.notes})
        else:
            click_show.statistics(console_of(), packed, figures)
        return
    dataset = store.open(directory)
    facts = dataset.statistics()
    near = atlas.compare(dataset.name, facts)
    if not as_json:
        show.statistics(console_of(), dataset, near)
        return
    told = {"name": dataset.name, "path": str(dataset.path), "fingerprint": dataset.fingerprint}
    print_json(told | {"statistics": facts, "known": show.known(near), "provenance": dataset.provenance})


@app.command(
    short_help="List the models; with NAME its settings, presets and citation.",
    help=o.described(
        "The models there are; with NAME its presets, every setting with symbol, range and default, and its citation.",
        "diffacet models",
        "diffacet models dmi",
        "diffacet models dmi --json",
    ),
)
def models(name: o.MaybeModel = None, as_json: o.Json = False) -> None:
    """The models and their settings."""
    from diffacet.app import settings, show
    from diffacet.app.cards import card, names

    if name is None:
        cards = [card(each) for each in names()]
        if as_json:
            print_json({"models": [show.about(each) for each in cards]})
        else:
            show.models(console_of(), cards)
        return
    chosen = card(name)
    rows = settings.describe(chosen)
    if as_json:
        print_json(show.about(chosen) | {"settings": rows, "citation": chosen.paper.bibtex()})
    else:
        show.model(console_of(), chosen, rows)
