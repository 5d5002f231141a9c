"""Rows of a database as records: SQLite keeps anything in any column, and anybody may have written a file of it."""

import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from nas.plain import from_json, shown

MOST = 2**63 - 1
MOST_CHOICE = 2**31 - 1  # of an encoding, and of what else becomes a number of 32 bits
SMALL = ("number", "budget", "order", "repeats")


class Damaged(Exception):
    """What is no record. The line says which, and what of it."""


def data_in(text: Any) -> Any:
    """The data of a column of JSON. Raises Damaged."""
    try:
        if not isinstance(text, str | bytes):
            raise ValueError
        return from_json(text)
    except ValueError as error:
        raise Damaged(f"{shown(repr(text), 60)} is no JSON") from error


def checked(kind: type, row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record, each of the type that the record has for it. Raises Damaged."""
    for name, fits in _checks(kind).items():
        if name in row and not fits(row[name]):
            number = row.get("number", row.get("name", row.get("id")))
            called = f"{kind.__name__.lower()} {shown(repr(number), 60)}"
            raise Damaged(f"{called} is damaged: {name}={shown(repr(row[name]), 100)} was not written there")
    return dict(row)


@functools.cache
def _checks(kind: type) -> dict[str, Callable[[Any], bool]]:
    """By field, whether a value is one that a record has there: asked of every row, so what follows from the type is
    found out once."""
    return {name: _check(name, hint) for name, hint in typing.get_type_hints(kind).items()}


def _check(name: str, hint: Any) -> Callable[[Any], bool]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        first, *others = (_check(name, each) for each in arguments if each is not type(None))
        nothing = type(None) in arguments
        return lambda value: nothing if value is None else first(value) or any(check(value) for check in others)
    if origin is typing.Literal:
        return lambda value: isinstance(value, str) and value in arguments
    if hint is int:
        most = MOST_CHOICE if name in SMALL else MOST
        return lambda value: type(value) is int and 0 <= value <= most
    if hint is float:
        return lambda value: type(value) in (int, float) and math.isfinite(value)
    if origin is list:
        return _are_choices
    return lambda value: isinstance(value, origin or hint)


def _are_choices(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int and 0 <= each <= MOST_CHOICE for each in value)
