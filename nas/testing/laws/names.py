"""The names of abilities: a part that has an attribute of this name has the ability, and must mean the same by it."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from nas.testing.laws.base import called, law
from predictors import base as of_predictors
from predictors.base import Predictor
from spaces import abilities as of_spaces
from spaces.base import Space
from strategies import base as of_strategies

SPACE = (
    of_spaces.Drawable,
    of_spaces.Worded,
    of_spaces.Unshared,
    of_spaces.Prunable,
    of_spaces.Celled,
    of_spaces.OneBit,
    of_spaces.Advised,
    of_spaces.Backbone,
    of_spaces.Neck,
    of_spaces.Varied,
    of_spaces.Featured,
    of_spaces.Scored,
    of_spaces.Wrapping,
    of_spaces.Redundant,
    of_spaces.Graphed,
    of_spaces.Mixable,
)
STRATEGY = (
    of_strategies.Sized,
    of_strategies.Budgeted,
    of_strategies.Granting,
    of_strategies.Waiting,
    of_strategies.Large,
    of_strategies.Learns,
    of_strategies.GoesOn,
)
GRADIENT_STRATEGY = (of_strategies.Reacts,)
PREDICTOR = (of_predictors.Composed, of_predictors.Stepped)


class _Kind(NamedTuple):
    """What an attribute that is no method must be."""

    said: str
    holds: Any  # of a value


def _whole(least: int) -> _Kind:
    return _Kind(f"a whole number of at least {least}", lambda value: type(value) is int and value >= least)


_TRUTH = _Kind("True or False", lambda value: type(value) is bool)
_NUMBERS = _Kind("a tuple of whole numbers", lambda value: type(value) is tuple and {int}.issuperset(map(type, value)))
_MAPPING = _Kind("a mapping", lambda value: isinstance(value, Mapping))
KINDS = {
    "supernets": _TRUTH,
    "cells_train": _TRUTH,
    "one_bit": _TRUTH,
    "recipes": _Kind("a mapping of mappings", lambda value: _holds_mappings(value)),
    "map_widths": _NUMBERS,
    "scores": _MAPPING,
    "space": _Kind("a space", lambda value: isinstance(value, Space)),
    "budgets": _Kind("epochs, ascending, as a tuple", lambda value: _NUMBERS.holds(value) and _ascends(value)),
    "budget": _whole(0),
    "eta": _whole(2),
    "seeds_at_once": _whole(1),
    "predictor": _Kind("a predictor", lambda value: isinstance(value, Predictor)),
    "sizes": _Kind("whole numbers, ascending, as a tuple", lambda value: _NUMBERS.holds(value) and _ascends(value)),
}


def _holds_mappings(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(each, Mapping) for each in value.values())


def _ascends(values: Sequence[int]) -> bool:
    return all(low < high for low, high in zip((0, *values), values, strict=False))


def members(ability: type) -> dict[str, bool]:
    """The names of an ability, but for those that every space has, and whether each is a method."""
    own = [kind for kind in ability.__mro__ if kind not in (Space, Protocol, object) and kind.__name__ != "Generic"]
    named = {name: kind for kind in own for name in (*inspect.get_annotations(kind), *vars(kind))}
    return {name: callable(vars(kind).get(name)) for name, kind in named.items() if not name.startswith("_")}


def check_names(part: Any, abilities: Sequence[type]) -> None:
    """That what has the name of an ability is one. Raises Broken."""
    for ability in abilities:
        if not isinstance(part, ability):
            continue
        for name, is_method in members(ability).items():
            value, kind = getattr(part, name), _Kind("a method", callable) if is_method else KINDS[name]
            said = f"field {name!r} is the name of an ability, {ability.__name__}, where it is {kind.said}"
            law(kind.holds(value), f"{said}: what means something else needs another name", called(part), value)
