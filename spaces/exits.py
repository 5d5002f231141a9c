"""What is counted and measured of a network that may be left at several exits, by name: `macs_exit_1` and so on."""

import re
from collections.abc import Iterable

OF_EXIT = re.compile(r"(\w+)_exit_([1-9]\d*)")


def at_exit(name: str, number: int) -> str:
    """What a cost or metric is called, of a network that is left at an exit, which are counted from 1."""
    return f"{name}_exit_{number}"


def exit_of(name: str) -> tuple[str, int] | None:
    """What is counted or measured, and at which exit; None for what is of the whole network."""
    match = OF_EXIT.fullmatch(name)
    return None if match is None else (match[1], int(match[2]))


def of_all_exits(name: str, names: Iterable[str]) -> list[str]:
    """Of these names a cost itself and the same up to each exit: a part of the network that is computed whichever exit
    is taken adds to all of them."""
    return [each for each in names if each == name or (exit_of(each) or ("",))[0] == name]
