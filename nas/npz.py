"""The members of an npz file that may come from anybody: nothing is unpickled, nor read without a bound."""

import lzma
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import UsageError, one_line
from nas.plain import check_regular, shown

# A few compressed bytes can stand for any number: data are not so alike that more than these are taken on trust.
MAX_RATIO, TRUSTED_BYTES = 200, 2**28
MOST_MEMBERS, MOST_DIMENSIONS = 10_000, 32
AT_ONCE = 2**25  # bytes that are read at once
# What zipfile and NumPy raise for damaged archives, and for headers that are no Python.
UNREADABLE = (OSError, ValueError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, LookupError, TypeError)
UNREADABLE += (RuntimeError, MemoryError, SyntaxError, tokenize.TokenError, ArithmeticError)


def open_arrays(
    field: str,
    path: str | Path,
    most: int | Callable[[int], int],
    names: Collection[str] | None = None,
    *,
    mapped: bool = False,
    room: Callable[[tuple[int, ...], np.dtype], np.ndarray] = np.empty,
    hint: str = "",
) -> dict[str, Any]:
    """The members of an npz by name; where that is asked for, memory-mapped if they are not compressed.

    Of others than `names` there is no more than the name, and None. What is read is no more than `most` bytes, which
    may depend on how many there are, and goes into the array that `room` gives for a shape and a type. Raises
    UsageError, with a hint where it is no archive of arrays.
    """
    arrays: dict[str, Any] = {}
    check_regular(field, path)
    try:
        with open(path, "rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise ValueError("it is a single array")
            size = os.fstat(file.fileno()).st_size
            with zipfile.ZipFile(file) as archive:
                entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()[:MOST_MEMBERS]}
                wanted = {name: entry for name, entry in entries.items() if names is None or name in names}
                held = sum(entry.file_size for entry in wanted.values())
                _check_sizes(field, len(archive.infolist()), held, size, most if isinstance(most, int) else most(held))
                for name, entry in wanted.items():
                    with archive.open(entry) as member:
                        arrays[name] = _array(path, file, size, entry, member, mapped, room)
    except UNREADABLE as error:
        said = getattr(error, "strerror", None) or shown(one_line(error) or type(error).__name__)
        raise UsageError(f"{field} cannot be read: {said}{hint and f'; {hint}'}") from error
    return {name: arrays.get(name) for name in entries}


def _check_sizes(field: str, members: int, held: int, size: int, most: int) -> None:
    """Raises UsageError for members that hold more than can be read: no more than they say is ever read."""
    if members > MOST_MEMBERS or held > most:
        raise UsageError(f"{field} has {members} arrays, of {held} bytes; allowed: {MOST_MEMBERS} of {most} in all")
    if held > max(TRUSTED_BYTES, MAX_RATIO * size):  # several members may be of the same bytes
        said = f"{held} bytes in a file of {size}"
        raise UsageError(f"{field} holds {said}; allowed: {MAX_RATIO} times as many")


def _array(
    path: str | Path, file: Any, size: int, entry: zipfile.ZipInfo, member: Any, mapped: bool, room: Any
) -> np.ndarray:
    version = np.lib.format.read_magic(member)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise ValueError(f"{entry.filename} is of an unknown version {version}")
    shape, fortran, dtype = read_header[version](member)
    if dtype.hasobject:
        raise ValueError(f"{entry.filename} holds pickled objects, which are not read")
    if len(shape) > MOST_DIMENSIONS or not all(0 <= length < 2**62 for length in shape):
        raise ValueError(f"{entry.filename} has the shape {shown(shape, 60)}, of which there is no array")
    header = member.tell()
    needed = math.prod(shape) * dtype.itemsize
    if needed > entry.file_size - header:
        raise ValueError(f"{entry.filename} is cut short")
    if not needed:
        return np.empty(shape, dtype)
    if not mapped or entry.compress_type != zipfile.ZIP_STORED:
        found = room(shape[::-1] if fortran else shape, dtype)
        content = found.reshape(-1).view(np.uint8)
        for start in range(0, needed, AT_ONCE):
            data = member.read(min(AT_ONCE, needed - start))
            if len(data) < min(AT_ONCE, needed - start):
                raise ValueError(f"{entry.filename} is cut short")
            content[start : start + len(data)] = np.frombuffer(data, np.uint8)
        member.read()  # what follows, if anything: at the end the sum is checked
        return found.T if fortran else found
    file.seek(entry.header_offset + 26)
    name_size, extra_size = np.frombuffer(file.read(4), "<u2")
    offset = entry.header_offset + 30 + int(name_size) + int(extra_size) + header
    if offset + needed > size:
        raise ValueError(f"{entry.filename} is cut short")
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
