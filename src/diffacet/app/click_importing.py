"""From raw files to a click data folder: which reader, what it is told, and where the folder goes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from diffacet.data import readers, store
from diffacet.data.clicks import splitting
from diffacet.data.clicks.importing import alibaba, eleme, folder, generic, impressions, ratings
from diffacet.data.clicks.importing.casting import UNITS
from diffacet.data.clicks.importing.folder import Progress, Report
from diffacet.data.clicks.importing.wanted import Wanted, asked
from diffacet.data.interactions import Interactions
from diffacet.errors import BadSetting, nearest


def wanted(
    out: Path,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    label: str | None = None,
    fields: Sequence[str] = (),
    group: str | None = None,
    behaviour_type: str | None = None,
    outcomes: Sequence[str] = (),
    timezone: str | None = None,
    split: str | None = None,
    time_unit: str = "auto",
    order_only: bool = False,
    source: str = "",
    licence: str = "",
) -> Wanted:
    """What a command says of a log that becomes the folder `out`, whose name the data set has.

    Raises:
        BadSetting: an unknown time zone, unit, rule of a split, or kind of field.
    """
    if timezone is not None and not splitting.known_zone(timezone):
        raise BadSetting(f"--timezone {timezone!r} is unknown; write an IANA name such as UTC or Asia/Shanghai")
    if time_unit not in UNITS:
        raise BadSetting(f"--time-unit is {', '.join(UNITS)}; got {time_unit!r}{nearest(time_unit, UNITS)}")
    return Wanted(
        name=Path(out).resolve().name,
        user=user,
        item=item,
        time=time,
        label=label,
        fields=tuple(asked(text) for text in fields),
        group=group,
        behaviour_type=behaviour_type,
        outcomes=tuple(dict.fromkeys(outcomes)),
        timezone=timezone or "UTC",
        split=None if split is None else splitting.rule_of(split),
        time_unit=time_unit,
        order_only=order_only,
        source=source,
        licence=licence,
    )


def import_tables(
    samples: Sequence[Path],
    behaviours: Sequence[Path],
    out: Path,
    said: Wanted,
    *,
    items: Path | None = None,
    users: Path | None = None,
) -> Report:
    """Write the click data folder `out` from tables of samples and behaviours, whole or not at all; see `generic.read`.

    Raises BadLog.
    """
    store.check_out(out)
    return folder.write(generic.read(samples, behaviours, said, items=items, users=users), out, "tables")


def import_impressions(
    shown: Sequence[Path],
    out: Path,
    said: Wanted,
    columns: impressions.Columns,
    *,
    exposures: bool = False,
    behaviours: Sequence[Path] = (),
    items: Path | None = None,
    users: Path | None = None,
) -> Report:
    """Write the click data folder `out` from a table of showings, whole or not at all; see `impressions.read`.

    Raises BadLog.
    """
    store.check_out(out)
    made = impressions.read(shown, said, columns, exposures=exposures, behaviours=behaviours, items=items, users=users)
    return folder.write(made, out, "impressions")


def import_ratings(
    paths: Sequence[Path],
    out: Path,
    said: Wanted,
    rule: ratings.Rule,
    *,
    rating: str | None = None,
    items: Path | None = None,
    users: Path | None = None,
) -> Report:
    """Write the click data folder `out` from a rating log or a data directory, whole or not at all; see `ratings.make`.

    The users.parquet of a data directory is found where a field asks for it.

    Raises:
        BadLog: a log cannot be used.
        BadSetting: the rule contradicts itself.
    """
    store.check_out(out)
    if len(paths) == 1 and store.there(paths[0]):
        dataset = store.open(paths[0])
        log, files, notes = dataset.log, (str(paths[0]),), ()
        items = items or _there(paths[0] / store.ITEMS, said)
        users = users or _there(paths[0] / "users.parquet", said)
    else:
        raw = readers.read_log(paths, user=said.user, item=said.item, time=said.time, rating=rating, items=items)
        log = Interactions.from_frame(raw.frame, raw.items, catalogue=raw.catalogue)
        files, notes = raw.files, raw.notes  # type: ignore[assignment]
    details = generic.open_details(items, users)
    made = ratings.make(log, rule, said, details=details, files=files, notes=notes)
    return folder.write(replace(made, files=tuple(dict.fromkeys(made.files))), out, "ratings")


def _there(path: Path, said: Wanted) -> Path | None:
    """The file of a data directory, if it is there and fields are asked for."""
    return path if said.fields and path.is_file() else None


def import_alibaba(
    source: Path, out: Path, said: Wanted, choice: alibaba.Choice, *, progress: Progress | None = None
) -> Report:
    """Write the click data folder `out` from the files of Tianchi 56, whole or not at all; see `alibaba.convert`."""
    return alibaba.convert(
        source, out, choice, name=said.name, source=said.source, licence=said.licence, progress=progress
    )


def import_eleme(
    paths: Sequence[Path], out: Path, said: Wanted, choice: eleme.Choice, *, progress: Progress | None = None
) -> Report:
    """Write the click data folder `out` from the files of Tianchi 131047, whole or not at all; see `eleme.convert`."""
    return eleme.convert(
        paths, out, choice, name=said.name, source=said.source, licence=said.licence, progress=progress
    )
