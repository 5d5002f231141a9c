"""Rows of a database as records: SQLite keeps anything in any column, and anybody may have written a file of it."""

import functools
import math
import types
import typing
from collections.abc import Mapping
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
    for name, hint in _hints(kind).items():
        if name in row and not _fits(name, hint, row[name]):
            number = row.get("number", row.get("name", row.get("id")))
            called = f"{kind.__name__.lower()} {shown(repr(number), 60)}"
            raise Damaged(f"{called} is damaged: {name}={shown(repr(row[name]), 100)} was not written there")
    return dict(row)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _fits(name: str, hint: Any, value: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(name, each, value) for each in arguments)
    if origin is typing.Literal:
        return value in arguments and isinstance(value, str)
    if hint is int:
        return type(value) is int and 0 <= value <= (MOST_CHOICE if name in SMALL else MOST)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    if origin is list:
        return isinstance(value, list) and all(type(each) is int and 0 <= each <= MOST_CHOICE for each in value)
    return isinstance(value, origin or hint)
