"""Settings by name: `key=value` onto a preset, and the table of what there is to set."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_type_hints

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from diffacet.core.contract import INFERENCE, Card, Preset, Training
from diffacet.errors import BadSetting, nearest


def preset(card: Card, name: str) -> Preset:
    """The preset of `card` called `name`; raises BadSetting with the nearest name."""
    if name not in card.presets:
        raise BadSetting(
            f"{card.name} has no preset '{name}'{nearest(name, card.presets) or '.'} It has: {', '.join(card.presets)}"
        )
    return card.presets[name]


def split_pairs(pairs: Iterable[str]) -> dict[str, str]:
    """`["a=1"]` -> `{"a": "1"}`; raises BadSetting for what is no pair, or for a key given twice."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise BadSetting(f"--set takes key=value; got '{pair}'")
        if key.strip() in found:
            raise BadSetting(f"--set {key.strip()} is given twice")
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
                f"{card.name} has no setting '{key}'{nearest(key, names | general) or '.'} "
                f"See 'diffacet models {card.name}'"
            )
    model = _replace(base.model, {k: v for k, v in changes.items() if k in names})
    training = _replace(base.training, {k: v for k, v in changes.items() if k in general})
    return Preset(model, training, base.source)


def from_dict(kind: type[Any], values: Mapping[str, Any], what: str) -> Any:
    """A settings dataclass out of a stored dict; raises BadSetting that names `what` it was read from."""
    try:
        return kind(**values)
    except (ValidationError, TypeError) as error:
        raise BadSetting(f"{what} holds settings that this version does not take: {_explain(error, kind)}") from error


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


def _explain(error: Exception, kind: type[Any]) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    key = str(first["loc"][0]) if first["loc"] else ""
    if not key:
        return first["msg"]
    got = first.get("input")
    rule = first["msg"].replace("Input should", "it should").replace("String should", "it should")
    return f"{key}: {rule}{_interval(kind, key)}; got {got!r} (from --set {key}={got})"


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
