"""What users type, as plain data: numbers and texts by the type of their field, in decimal alone; JSON; and files, read
in bounds and written whole."""

import argparse
import contextlib
import json
import math
import os
import re
import secrets
import stat
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nas.errors import UsageError, unknown, unwritable

WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,99})\Z")
# With leading zeros a number is octal to some.
DECIMAL = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]{0,99})(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,9})?\Z")
ENDLESS = re.compile(r"(?:[-+]?\.?inf|\.?nan)\Z", re.IGNORECASE)
TRUTHS = {"true": True, "false": False}


def shown(text: Any, most: int = 300) -> str:
    """A text, or what Python writes for a value, cut to what one line of an error may hold."""
    text = text if isinstance(text, str) else repr(text)
    return text if len(text) <= most else f"{text[:most]}..."


def printable(text: str) -> str:
    """A text of anybody's for a terminal: what is no letter, such as the codes that move its cursor, as an escape."""
    return text if text.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def by_type(hint: Any, raw: Any) -> Any:
    """What a value says, to a field of this type: text is a number, a list or a truth only to fields of these.

    What fits no type is given back as it is; whoever checks the type refuses it.
    """
    if getattr(raw, "shape", None) == () and hasattr(raw, "item"):
        raw = raw.item()  # a scalar of NumPy or JAX
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return raw if raw is None or len(kinds) > 1 else by_type(kinds[0], raw)
    if tuple in (hint, typing.get_origin(hint)):
        raw = _listed(raw) if isinstance(raw, str) else raw.tolist() if hasattr(raw, "tolist") else raw
        element = next(iter(typing.get_args(hint)), Any)
        return tuple(by_type(element, each) for each in raw) if isinstance(raw, list | tuple) else raw
    if isinstance(raw, str):
        if hint is int and WHOLE.match(raw):
            return int(raw)
        if hint is float and (DECIMAL.match(raw) or ENDLESS.match(raw)):
            return float(raw.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if hint is bool:
            return TRUTHS.get(raw.lower(), raw)
    return raw


def _listed(text: str) -> Any:
    """The words between brackets, as `(1,2)` or `[1, 2]`; what has none stays text."""
    text = text.strip()
    if text[:1] + text[1:][-1:] not in ("()", "[]"):
        return text
    words = [word.strip() for word in text[1:-1].split(",")]
    return words[:-1] if words[-1] == "" else words  # as in (1,) and ()


def number(text: str) -> float:
    """What a flag of another command takes as a finite number, as fields do. Raises ArgumentTypeError."""
    if not DECIMAL.match(text) or not math.isfinite(float(text)):
        raise argparse.ArgumentTypeError(f"{shown(repr(text))} must be a finite number, in decimal digits")
    return float(text)


def one_of(field: str, allowed: Sequence[str]) -> Callable[[str], str]:
    """What a flag takes as one of a few words. The function raises UsageError for any other."""

    def known(word: str) -> str:
        if word not in allowed:
            raise unknown(field, word, allowed)
        return word

    return known


def place(text: str) -> Path:
    """What a flag takes as a file or folder. Raises ArgumentTypeError for an empty text, which would be this folder."""
    if not text:
        raise argparse.ArgumentTypeError("'' must be a path")
    return Path(text)


# Of JSON: lists and mappings for which no bytes are asked, and bytes for each further one.
FREE_CONTAINERS, CONTAINER_BYTES = 100_000, 8
MOST_LEVELS = 100  # of lists and mappings in JSON: whoever reads it goes down into them


def from_json(text: str | bytes) -> Any:
    """What JSON that nobody trusts says. Raises ValueError, also where it is nested beyond `MOST_LEVELS`, or empty
    lists and mappings would take many times the memory of the text."""
    marks = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    found = sum(text.count(mark) for mark in marks)  # pyright: ignore[reportArgumentType]
    if found > FREE_CONTAINERS + len(text) // CONTAINER_BYTES:
        raise ValueError(f"it has {found} lists and mappings, more than its {len(text)} bytes can be of")
    try:
        value = json.loads(text)
    except RecursionError:
        value = None
    else:
        if found <= MOST_LEVELS or not _is_deeper(value, MOST_LEVELS):
            return value
    raise ValueError(f"it has more than {MOST_LEVELS} levels of lists and mappings")


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether it has more levels of lists and mappings."""
    inner = [value]
    for _ in range(levels):
        within = (each.values() if isinstance(each, dict) else each for each in inner if isinstance(each, dict | list))
        inner = [each for values in within for each in values if isinstance(each, dict | list)]
        if not inner:
            return False
    return True


def check_regular(field: str, path: str | Path) -> None:
    """Raises UsageError for a device, pipe or folder: reading one may never end."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise UsageError(f"{field} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise UsageError(f"{field} cannot be read: it is not a file")


START = 32  # bytes, by which the format of a file is known


def read_bounded(
    field: str, path: str | Path, most: int, what: str, begins: Callable[[bytes], bool] = lambda start: True
) -> bytes:
    """The content of a file, of which no more than `most` bytes are read; `what` is what it should hold, in errors.
    Where it does not begin as it should, no more than the beginning. Raises UsageError for a longer one, and for what
    is no file."""
    check_regular(field, path)
    try:
        with open(path, "rb") as file:
            found = file.peek(START)[:START]
            if begins(found) and os.fstat(file.fileno()).st_size <= most:
                found = file.read(most + 1)
            elif begins(found):
                raise UsageError(f"{field} is longer than {most} bytes, which no {what} is")
    except OSError as error:
        raise UsageError(f"{field} cannot be read: {error.strerror}") from error
    if len(found) > most:
        raise UsageError(f"{field} is longer than {most} bytes, which no {what} is")
    return found


def check_target(field: str, path: str | Path) -> None:
    """Raises UsageError where no file can be put: nothing would be left of a device, pipe or folder that is there."""
    folder, real = os.path.dirname(path) or ".", os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise UsageError(f"{field} cannot be written: {folder!r} is not a folder")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"{field} cannot be written: it is there, and is not a file")
    if os.path.isdir(real) and not os.access(real, os.W_OK):
        raise UsageError(f"{field} cannot be written: {real!r} is read-only; choose another folder")


UNFINISHED = ".tmp"  # how the name of a file ends that is being written


def write_whole(path: Path, data: bytes) -> None:
    """Replaces a file atomically and durably, also its name in its folder, which is made where it is not there. Of one
    that is a link, what it leads to. Raises RunError or UsageError."""
    path = path.resolve() if path.is_symlink() else path
    # A name of its own: others may write the same file, and what lies beside it may be anybody's.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # it has the file's name by now, where all went well
            temporary.unlink()
    # Else a power cut may give back the old file, after others were told of the new one.
    with contextlib.suppress(OSError):  # some file systems cannot, of a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def whole(text: str) -> int:
    """What a flag of another command takes as an integer, as fields do. Raises ArgumentTypeError."""
    if not WHOLE.match(text):
        raise argparse.ArgumentTypeError(f"{shown(repr(text))} must be a valid integer, in decimal digits")
    return int(text)
