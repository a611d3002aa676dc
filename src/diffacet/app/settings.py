"""Settings by name: presets and preset files, `key=value` onto them, and the table of what there is to set."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from diffacet import files
from diffacet.core.contract import INFERENCE, Card, Preset, Search, Training
from diffacet.errors import BadSetting, nearest

FORMAT = 1
"""Of preset files."""


def preset(card: Card, name: str) -> Preset:
    """The preset of `card` called `name`, or in the preset file `name` (.json); raises BadSetting."""
    if name.endswith(".json"):
        return read_preset(card, Path(name))
    if name not in card.presets:
        raise BadSetting(
            f"{card.name} has no preset '{name}'{nearest(name, card.presets)}. It has: {', '.join(card.presets)}"
        )
    return card.presets[name]


def write_preset(path: Path, card: Card, preset: Preset) -> None:
    """Write a preset file, which `preset` reads and `diffacet train --preset FILE` takes, whole or not at all."""
    told: dict[str, Any] = {"format": FORMAT, "model": card.name, "source": preset.source}
    told["settings"] = {"model": dataclasses.asdict(preset.model), "training": dataclasses.asdict(preset.training)}
    files.write_json(path, told)


def read_preset(card: Card, path: Path) -> Preset:
    """The preset in a file of `write_preset`; a setting that it leaves out has its default.

    Raises:
        BadSetting: no such file, a damaged one, one of another model, or settings that are unknown or out of range.
    """
    try:
        told = files.read_json(path)
        groups = {name: dict(told["settings"][name]) for name in ("model", "training")}
        found, model = told["format"], told["model"]
    except FileNotFoundError as error:
        raise BadSetting(f"there is no preset file {path}; 'diffacet tune' writes one (best.json)") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise BadSetting(f"{path} is no preset file, or a damaged one ({why}); restore it from a copy") from error
    if found != FORMAT:
        raise BadSetting(f"{path} has format {found!r}; this version reads {FORMAT}")
    if model != card.name:
        raise BadSetting(f"{path} is a preset of {model}, not of {card.name}; train {model} with it")
    own = from_dict(card.config, groups["model"], str(path))
    return Preset(own, from_dict(Training, groups["training"], str(path)), str(told.get("source", path)))


def text(value: Any) -> str:
    """A setting's value as `--set` takes it."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def split_pairs(pairs: Iterable[str], option: str = "--set") -> dict[str, str]:
    """`["a=1"]` -> `{"a": "1"}`; raises BadSetting for what is no pair of `option`, or for a key given twice."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise BadSetting(f"{option} takes key=value; got '{pair}'")
        if key.strip() in found:
            raise BadSetting(f"{option} {key.strip()} is given twice")
        found[key.strip()] = value.strip()
    return found


def apply(card: Card, base: Preset, changes: Mapping[str, Any]) -> Preset:
    """`base` with `changes`, which may be strings, checked and typed by the dataclasses that own the names.

    Raises:
        BadSetting: unknown key (with the nearest), wrong type, value out of range.
    """
    names = {field.name for field in dataclasses.fields(base.model)}
    general = {field.name for field in dataclasses.fields(Training)}
    for key in changes:
        if key not in names | general:
            raise BadSetting(
                f"{card.name} has no setting '{key}'{nearest(key, names | general)}. See 'diffacet models {card.name}'"
            )
    model = _replace(base.model, {k: v for k, v in changes.items() if k in names})
    training = _replace(base.training, {k: v for k, v in changes.items() if k in general})
    return Preset(model, training, base.source)


def from_dict(kind: type[Any], values: Mapping[str, Any], what: str) -> Any:
    """A settings dataclass out of a stored dict; raises BadSetting that names `what` it was read from."""
    try:
        return kind(**values)
    except (ValidationError, TypeError) as error:
        raise BadSetting(
            f"{what} holds settings that this version does not take: {_explain(error, kind, typed=False)}"
        ) from error


def defaults(card: Card) -> dict[str, Any]:
    """Every setting of a model and of its training at its default: what one means that an older record lacks."""
    return dataclasses.asdict(Training()) | dataclasses.asdict(card.config())


def inference_settings(config: type[Any]) -> set[str]:
    """Names of the settings that may change on a trained model."""
    hints = get_type_hints(config, include_extras=True)
    return {name for name, hint in hints.items() if INFERENCE in getattr(hint, "__metadata__", ())}


def _replace(value: Any, changes: Mapping[str, Any]) -> Any:
    if not changes:
        return value
    kind = type(value)
    hints = get_type_hints(kind)
    current = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    typed = {key: _read(text, hints[key]) for key, text in changes.items()}
    try:
        return kind(**{**current, **typed})
    except ValidationError as error:
        raise BadSetting(_explain(error, kind)) from error


def _read(text: Any, hint: Any) -> Any:
    """The Python value a string stands for where pydantic would not know: none, and lists of numbers."""
    if not isinstance(text, str):
        return text
    nothing, several = text.lower() in {"none", "null", ""}, getattr(hint, "__origin__", None) is tuple
    if nothing and type(None) in get_args(hint):
        return None
    if several:
        return () if nothing else tuple(part for part in text.strip("()[]").split(",") if part.strip())
    return text


def search_range(hint: Any) -> Search | None:
    """Where `diffacet tune` looks for a setting with this type hint; None: it leaves it as it is."""
    return next((m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Search)), None)


def _explain(error: Exception, kind: type[Any], *, typed: bool = True) -> str:
    """One line about the first thing that is wrong; `typed`: the value was given by --set."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    key = str(first["loc"][0]) if first["loc"] else ""
    if not key:
        return first["msg"]
    got = first.get("input")
    rule = first["msg"].partition(", unable to parse")[0]
    for what in ("Input", "String", "Tuple"):
        rule = rule.replace(f"{what} should", "it should")
    names = [field.name for field in dataclasses.fields(kind)]
    if key not in names:
        return f"there is no setting '{key}'{nearest(key, names)}"
    return f"{key}: {rule}{_interval(kind, key)}; got {got!r}" + (f" (from --set {key}={text(got)})" if typed else "")


def _interval(kind: type[Any], key: str) -> str:
    """`" (it lies in (0, 1])"` for a setting with bounds."""
    info = _info(get_type_hints(kind, include_extras=True).get(key))
    bounds = {n: getattr(m, n) for m in info.metadata for n in ("ge", "gt", "le", "lt") if hasattr(m, n)}
    bounds = {n: bound for n, bound in bounds.items() if bound is not None}
    if not bounds:
        return ""
    low = f"[{bounds['ge']}" if "ge" in bounds else f"({bounds.get('gt', '-∞')}"
    high = f"{bounds['le']}]" if "le" in bounds else f"{bounds.get('lt', '∞')})"
    return f" (it lies in {low}, {high})"


def _info(hint: Any) -> FieldInfo:
    """What pydantic knows of a setting beside its type."""
    return next((m for m in getattr(hint, "__metadata__", ()) if isinstance(m, FieldInfo)), FieldInfo())


def describe(card: Card) -> list[dict[str, Any]]:
    """Every setting of a model: name, symbol, type, range, default, description, inference, group; presets' values."""
    rows = []
    for group, kind in (("model", card.config), ("training", Training)):
        hints = get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            hint = hints[field.name]
            info = _info(hint)
            values = {
                n: getattr(p.model if group == "model" else p.training, field.name) for n, p in card.presets.items()
            }
            default = field.default.default if isinstance(field.default, FieldInfo) else field.default
            rows.append(
                {
                    "name": field.name,
                    "symbol": info.title,
                    "type": _type_name(get_type_hints(kind)[field.name]),
                    "range": _range(info),
                    "search": _searched(card.search.get(field.name, search_range(hint))),
                    "default": default,
                    "description": info.description or "",
                    "inference": INFERENCE in getattr(hint, "__metadata__", ()),
                    "group": group,
                    "presets": values,
                }
            )
    return rows


def _type_name(hint: Any) -> str:
    arguments = get_args(hint)
    if arguments and all(isinstance(a, str) for a in arguments):
        return " | ".join(arguments)
    if type(None) in arguments:
        return " | ".join(["none", *(_type_name(a) for a in arguments if a is not type(None))])
    return getattr(hint, "__name__", str(hint)) if not arguments else str(hint).replace("typing.", "")


def _range(info: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [f"{signs[n]} {getattr(m, n)}" for m in info.metadata for n in signs if getattr(m, n, None) is not None]
    return ", ".join(bounds)


def _searched(search: Search | None) -> str:
    if search is None:
        return ""
    if search.choices:
        return " | ".join(map(text, search.choices))
    return f"{search.low:g}..{search.high:g}{', log' if search.log else ''}"
