"""Alibaba's display ads (Tianchi 56): samples of ads shown, and a log of what people did in the shop.

    raw_sample.csv     what was shown: user, second, ad, place; clicked or not
    ad_feature.csv     what an ad is for
    user_profile.csv   what is known of most users
    behavior_log.csv   what users did, by category and brand; no item

Times are seconds and days are Shanghai's. The last file is large: `alibaba_log` reads it in blocks of users.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from diffacet import files, seeds
from diffacet.data import hashing, store
from diffacet.data.clicks import splitting
from diffacet.data.clicks.importing import alibaba_log, lines
from diffacet.data.clicks.importing.alibaba_log import END, ZONE, in_range
from diffacet.data.clicks.importing.folder import Progress, Report, figures, join, new, put
from diffacet.data.clicks.importing.lines import Tally
from diffacet.data.clicks.reading import ABOUT, BEHAVIOURS, ITEMS, SAMPLES, USERS
from diffacet.data.clicks.schema import BehaviourField, Schema
from diffacet.data.formats.raw import bare
from diffacet.errors import BadLog, BadSetting, nearest

FILES = {
    "raw_sample.csv": ("user", "time_stamp", "adgroup_id", "pid", "nonclk", "clk"),
    "ad_feature.csv": ("adgroup_id", "cate_id", "campaign_id", "customer", "brand", "price"),
    "user_profile.csv": (
        *("userid", "cms_segid", "cms_group_id", "final_gender_code", "age_level", "pvalue_level"),
        *("shopping_level", "occupation", "new_user_class_level"),
    ),
    "behavior_log.csv": ("user", "time_stamp", "btag", "cate", "brand"),
}
TAGS = alibaba_log.TAGS
_PROFILE = FILES["user_profile.csv"][1:]


@dataclass(frozen=True)
class Choice:
    """What to take.

    Attributes:
        tags: kinds of behaviour, of pv, cart, fav, buy; with one of them the behaviours have no field type.
        user_fraction: share of the users that are kept, above 0 and at most 1, by a hash of their id.
        seed: of that hash.
        split: a rule of `splitting`; None: 2017-05-13 tests, the day before validates.
        block: bytes that are read at once; the result does not depend on it.
    """

    tags: tuple[str, ...] = TAGS
    user_fraction: float = 1.0
    seed: int = 0
    split: splitting.Rule | None = None
    block: int = lines.BLOCK

    def __post_init__(self) -> None:
        for tag in self.tags:
            if tag not in TAGS:
                raise BadSetting(f"--tags takes some of {','.join(TAGS)}; got {tag!r}{nearest(tag, TAGS)}")
        if not 0 < self.user_fraction <= 1:
            raise BadSetting(f"--user-fraction is above 0 and at most 1; got {self.user_fraction:g}")

    def users(self, ids: Any) -> Any:
        """Which of the users (n,) are kept."""
        if self.user_fraction == 1:
            return np.ones(len(ids), bool)
        key = np.uint64(seeds.number(self.seed, "users"))
        place = hashing.mixed(ids.astype(np.uint64) ^ key) >> np.uint64(11)
        return place.astype(np.float64) / 2**53 < self.user_fraction


def convert(
    folder: Path,
    out: Path,
    choice: Choice = Choice(),
    *,
    name: str,
    source: str = "",
    licence: str = "",
    progress: Progress | None = None,
) -> Report:
    """Write the click data set `out` from the four files in `folder`, whole or not at all; what was met is counted.

    A conversion that was killed goes on in its working folder beside `out` when it is called again.

    Raises:
        BadLog: a file is missing or has other columns, more than 0.1 % of its rows are bad, or nothing is left.
        BadRun: another process is at it.
    """
    store.check_out(out)
    paths = _files(folder)
    work = out.with_name(f".{out.name}.parts")
    work.mkdir(parents=True, exist_ok=True)
    with files.held(work / "lock", f"the import to {out}"):
        tallies = {key: Tally() for key in FILES}
        samples = _samples(paths["raw_sample.csv"], choice, tallies["raw_sample.csv"])
        items = _ads(paths["ad_feature.csv"], choice, tallies["ad_feature.csv"])
        users = _profiles(paths["user_profile.csv"], choice, samples, tallies["user_profile.csv"])
        log = paths["behavior_log.csv"]
        key = files.fingerprint(*(str(part) for part in (choice, log.stat().st_size, log.stat().st_mtime_ns)))
        taken = alibaba_log.Log(log, choice.tags, choice.users, key, choice.block)
        parts, tallies["behavior_log.csv"] = alibaba_log.convert(taken, work, progress)
        if not parts or not samples.height:
            raise BadLog(
                f"{folder}: nothing is left of the {'behaviours' if samples.height else 'samples'}; see --tags"
            )
        counts, notes = _told(paths, tallies, samples, items, users)
        schema = _schema(choice, name, source, licence)
        try:
            splitting.split(samples["timestamp"].to_numpy(), schema.split, ZONE)
        except BadLog as error:
            notes.append(f"warning: {error}")
        with new(out) as made:
            for frame, file in ((samples, SAMPLES), (items, ITEMS), (users, USERS)):
                put(frame, made / file)
            join(parts, made / BEHAVIOURS)
            files.write_json(made / ABOUT, schema.to_json())
            told = figures([samples], parts)
        shutil.rmtree(work)
    return Report(out, schema, told, counts, tuple(notes), tuple(map(str, paths.values())), "alibaba")


def _files(folder: Path) -> dict[str, Path]:
    """The four files by name, plain or gzip."""
    if not folder.is_dir():
        raise BadLog(f"{folder} is not a directory; pass the one that holds {', '.join(FILES)}")
    found = {bare(path): path for path in sorted(folder.iterdir()) if bare(path) in FILES}
    for name in FILES:
        if name not in found:
            there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
            raise BadLog(f"{folder} holds no {name} (but {there}); all of {', '.join(FILES)} are needed")
    return {name: found[name] for name in FILES}


def _parts(path: Path, choice: Choice, tally: Tally) -> Iterator[lines.Lines]:
    """The lines of a file, a block at a time."""
    names = FILES[bare(path)]
    start, number = lines.header(path, names, tally), 2
    for block, _ in lines.blocks(path, start, choice.block):
        yield lines.split(block, names, number, tally)
        tally.check(path)
        number += lines.line_count(block)


def _wholes(
    part: lines.Lines, names: tuple[str, ...], needed: tuple[str, ...], tally: Tally
) -> tuple[pl.DataFrame, pl.Series]:
    """The columns `names` as Int64; and which rows are bad: a value is no whole number, or a needed one missing."""
    found, bad = [], pl.Series([False]).new_from_index(0, part.frame.height)
    for name in names:
        column, wrong = lines.whole(part.frame[name], tally)
        bad = bad | wrong | (column.is_null() if name in needed else False)
        found.append(column)
    return pl.DataFrame(found), bad


def _samples(path: Path, choice: Choice, tally: Tally) -> pl.DataFrame:
    """The samples that are sound, repeats dropped, in the order of the file."""
    places: dict[str | None, int] = {None: -1}
    made = []
    names = ("user", "time_stamp", "adgroup_id", "nonclk", "clk")
    for part in _parts(path, choice, tally):
        frame, bad = _wholes(part, names, names, tally)
        alibaba_log.refuse(part, bad, tally)
        pid = part.frame["pid"].str.strip_chars()
        for value in pid.unique(maintain_order=True):
            places.setdefault(value, len(places) - 1)
        pid = pid.replace_strict(places, return_dtype=pl.Int16) if len(pid) else pl.Series("pid", [], pl.Int16)
        frame = frame.with_columns(pid.alias("pid")).filter(~bad)
        odd = (frame["clk"] + frame["nonclk"] != 1) | ~frame["clk"].is_in([0, 1])
        tally.counts["samples with clk + nonclk other than 1, dropped"] += int(odd.sum())
        frame = frame.filter(~odd)
        frame = frame.filter(in_range(frame["time_stamp"], 8, "samples", tally))
        frame = frame.filter(pl.Series(choice.users(frame["user"].to_numpy()), dtype=pl.Boolean))
        made.append(frame.select("user", "adgroup_id", "time_stamp", pl.col("clk").cast(pl.Int8), "pid"))
    frame = _distinct(pl.concat(made), tally)
    names_of = pl.Series([name for name in places if name is not None], dtype=pl.String)
    pid = names_of.gather(frame["pid"].replace({-1: None}))
    return frame.select(
        pl.col("user").alias("user_id"),
        pl.col("adgroup_id").alias("item_id"),
        (pl.col("time_stamp") * 1000).alias("timestamp"),
        pl.col("clk").alias("label"),
        pid.alias("pid"),
    )


def _distinct(frame: pl.DataFrame, tally: Tally) -> pl.DataFrame:
    """The samples but for those that repeat an earlier one whole; looked for among equal hashes, to spare memory."""
    keys = ("user", "adgroup_id", "time_stamp", "pid")
    hashes = np.zeros(frame.height, np.uint64)
    for key in keys:
        hashes = hashing.mixed(hashes + frame[key].to_numpy().astype(np.uint64))
    order = np.argsort(hashes, kind="stable")
    same = hashes[order][1:] == hashes[order][:-1]
    rows = np.sort(order[np.append(same, False) | np.insert(same, 0, False)])
    some = frame[rows].with_columns(pl.Series("row", rows))
    first = some.unique([*keys, "clk"], keep="first", maintain_order=True)
    tally.counts["samples that repeat user, time, ad, place and answer, dropped"] += some.height - first.height
    both = first.height - first.select(keys).n_unique()
    tally.counts["samples that repeat another one but for the answer, kept"] += both
    kept = np.ones(frame.height, bool)
    kept[rows] = False
    kept[first["row"].to_numpy()] = True
    return frame if kept.all() else frame.filter(pl.Series(kept))


def _ads(path: Path, choice: Choice, tally: Tally) -> pl.DataFrame:
    """What is known of the ads."""
    made = []
    for part in _parts(path, choice, tally):
        frame, bad = _wholes(part, FILES["ad_feature.csv"][:-1], ("adgroup_id",), tally)
        text = part.frame["price"].str.strip_chars()
        price = text.cast(pl.Float64, strict=False)
        bad = bad | (text.is_not_null() & (text != "NULL") & ~price.is_finite().fill_null(False))
        alibaba_log.refuse(part, bad, tally)
        made.append(frame.with_columns(price.alias("price")).filter(~bad))
    every = pl.concat(made)
    frame = every.unique("adgroup_id", keep="first", maintain_order=True)
    tally.counts["ads that occur again, the first kept"] += every.height - frame.height
    tally.counts["ads without a brand (NULL), kept"] += frame["brand"].null_count()
    return frame.rename({"adgroup_id": "item_id", "cate_id": "category_id", "brand": "brand_id"})


def _profiles(path: Path, choice: Choice, samples: pl.DataFrame, tally: Tally) -> pl.DataFrame:
    """The users of the samples by id, with what is known of them and whether anything is."""
    made = []
    for part in _parts(path, choice, tally):
        frame, bad = _wholes(part, FILES["user_profile.csv"], ("userid",), tally)
        alibaba_log.refuse(part, bad, tally)
        made.append(frame.filter(~bad))
    every = pl.concat(made)
    frame = every.unique("userid", keep="first", maintain_order=True)
    tally.counts["profiles that occur again, the first kept"] += every.height - frame.height
    known = frame.rename({"userid": "user_id"}).with_columns(pl.lit(1, pl.Int8).alias("has_profile"))
    users = samples.select(pl.col("user_id").unique().sort())
    users = users.join(known, on="user_id", how="left", maintain_order="left")
    return users.with_columns(pl.col("has_profile").fill_null(0))


def _told(
    paths: dict[str, Path], tallies: dict[str, Tally], samples: pl.DataFrame, items: pl.DataFrame, users: pl.DataFrame
) -> tuple[tuple[tuple[str, int], ...], list[str]]:
    """Every defect with its count, and what a person should know."""
    counts = [
        (f"{name}: {what}", count) for name, tally in tallies.items() for what, count in tally.counts.items() if count
    ]
    missing = users.filter(pl.col("has_profile") == 0)["user_id"]
    further = {
        "users without a profile, kept": len(missing),
        "samples of users without a profile, kept": int(samples["user_id"].is_in(missing.implode()).sum()),
        "samples of ads that ad_feature.csv lacks, kept": int(
            (~samples["item_id"].is_in(items["item_id"].implode())).sum()
        ),
    }
    notes = [f"{name}: {tally.rows:,} rows read" for name, tally in tallies.items()]
    notes += [note for name, tally in tallies.items() for note in tally.note(paths[name])]
    notes.append("times are seconds, days are Shanghai's; behaviours have no item, but category, brand and type")
    return (*counts, *((what, count) for what, count in further.items() if count)), notes


def _schema(choice: Choice, name: str, source: str, licence: str) -> Schema:
    """The meaning of the columns."""
    kind = [BehaviourField("type", "behaviour_type", None)] if len(choice.tags) > 1 else []
    test = (END - 86_400) * 1000
    return Schema(
        name=name,
        source=source or "Tianchi 56, display ads on Taobao",
        licence=licence,
        timezone=ZONE,
        group="user_id",
        behaviour_fields=(
            BehaviourField("category", "category_id", "items.category_id"),
            BehaviourField("brand", "brand_id", "items.brand_id"),
            *kind,
        ),
        target_fields=("item_id", "items.campaign_id", "items.customer"),
        user_fields=("user_id", "users.has_profile", *(f"users.{column}" for column in _PROFILE)),
        context_fields=("pid",),
        dense_fields=("items.price",),
        split=choice.split or {"by": "instant", "valid": test - splitting.DAY_MS, "test": test},
    )
