"""What is searched: the fields that carry a `Search` marker, as Optuna's distributions and back."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from diffacet.app import settings
from diffacet.core.contract import Card, Preset, Search, Training
from diffacet.errors import BadSetting, nearest


@dataclass(frozen=True)
class Dimension:
    """One searched setting.

    Attributes:
        name: the setting.
        low: smallest value; 0 for choices.
        high: largest value; 0 for choices.
        log: whether values are drawn evenly on a logarithmic scale.
        integer: whether values are whole numbers.
        choices: the values; empty for a number.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False
    choices: tuple[Any, ...] = ()

    def described(self) -> str:
        """The range in words, which also tells one search space from another."""
        if self.choices:
            return " | ".join(map(settings.text, self.choices))
        return f"{self.low!r}..{self.high!r}{', log' if self.log else ''}"

    def distribution(self, optuna: Any) -> Any:
        """As Optuna's distribution; choices go by their text, because a storage holds no tuples."""
        if self.choices:
            return optuna.distributions.CategoricalDistribution([settings.text(value) for value in self.choices])
        if self.integer:
            return optuna.distributions.IntDistribution(int(self.low), int(self.high), log=self.log)
        return optuna.distributions.FloatDistribution(self.low, self.high, log=self.log)

    def value(self, drawn: Any) -> Any:
        """The setting's value for what Optuna has drawn."""
        return next(c for c in self.choices if settings.text(c) == drawn) if self.choices else drawn

    def nearest(self, value: Any) -> Any:
        """What Optuna is told for a preset's value: itself, or for a zero on a logarithmic scale the lower end."""
        return settings.text(value) if self.choices else min(max(value, self.low), self.high)


def space(card: Card, base: Preset, *, fixed: Sequence[str] = (), only: Sequence[str] = ()) -> dict[str, Dimension]:
    """The searched settings of `card` by name: all that are marked, without `fixed`, or of them `only` some.

    A range is widened to hold the value of `base`, so that it can be the first trial. Settings of the training
    are left out where the model is not trained.

    Raises:
        BadSetting: nothing to search, or a name in `only` that is unknown, has no search range, or is fixed.
    """
    hints = get_type_hints(card.config, include_extras=True)
    owners = dict.fromkeys(hints, base.model)
    if any(preset.training.max_steps for preset in card.presets.values()):
        more = get_type_hints(Training, include_extras=True)
        hints, owners = hints | more, owners | dict.fromkeys(more, base.training)
    ranges = {name: settings.search_range(hint) for name, hint in hints.items()}
    ranges |= {name: search for name, search in card.search.items() if name in hints}
    marked = {name: search for name, search in ranges.items() if search is not None}
    for name in only:
        if name not in marked:
            close, why = ("", "; it has no search range") if name in hints else (nearest(name, marked), "")
            raise BadSetting(
                f"--only {name}{close}: tune looks for no such setting of {card.name}{why}. {_offer(marked)}"
            )
        if name in fixed:
            raise BadSetting(f"--only {name} and --set {name} contradict each other: what is set is not searched")
    chosen = {name: s for name, s in marked.items() if name not in fixed and (not only or name in only)}
    if not chosen:
        raise BadSetting(f"{card.name} has nothing left to search. {_offer(marked)}")
    return {name: _dimension(name, s, hints[name], getattr(owners[name], name)) for name, s in chosen.items()}


def _offer(marked: Mapping[str, Search]) -> str:
    return f"Searched: {', '.join(marked) or 'nothing'}"


def _dimension(name: str, search: Search, hint: Any, value: Any) -> Dimension:
    if search.choices:
        return Dimension(name, choices=tuple(dict.fromkeys((*search.choices, value))))
    inside = value > 0 or not search.log
    low, high = (min(search.low, value), max(search.high, value)) if inside else (search.low, search.high)
    return Dimension(name, low, high, search.log, getattr(hint, "__origin__", hint) is int)


def values(dimensions: Mapping[str, Dimension], params: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for what Optuna has drawn."""
    return {name: dimension.value(params[name]) for name, dimension in dimensions.items()}


def of_preset(dimensions: Mapping[str, Dimension], base: Preset) -> dict[str, Any]:
    """The searched settings as `base` has them."""
    own = {field.name for field in dataclasses.fields(base.model)}
    return {name: getattr(base.model if name in own else base.training, name) for name in dimensions}
