"""The members of an npz file that may come from anybody: nothing is unpickled, nor read without a bound."""

import lzma
import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import UsageError
from nas.plain import check_archive, check_regular, shown

MOST_BYTES = 2**34
# What zipfile and NumPy raise for damaged archives, and for headers that are no Python.
UNREADABLE = (OSError, ValueError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, EOFError)
UNREADABLE += (RuntimeError, MemoryError, SyntaxError, tokenize.TokenError)


def open_arrays(path: str) -> dict[str, np.ndarray]:
    """The members of an npz: memory-mapped where they are stored, read where they are compressed. Never unpickled."""
    arrays = {}
    check_regular(f"table={path!r}", path)
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            check_archive(f"table={path!r}", archive.infolist(), MOST_BYTES)
            for info in archive.infolist():
                with archive.open(info) as member:
                    arrays[info.filename.removesuffix(".npy")] = _open_member(path, file, info, member)
    except UNREADABLE as error:
        said = getattr(error, "strerror", None) or shown(" ".join(str(error).split()) or type(error).__name__)
        raise UsageError(f"table={path!r} cannot be read: {said}") from error
    return arrays


def _open_member(path: str, file: Any, info: zipfile.ZipInfo, member: Any) -> np.ndarray:
    version = np.lib.format.read_magic(member)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise ValueError(f"{info.filename} is of an unknown version {version}")
    shape, fortran, dtype = read_header[version](member)
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds pickled objects, which are not read")
    header = member.tell()
    size = math.prod(shape) * dtype.itemsize
    if size > info.file_size - header:
        raise ValueError(f"{info.filename} is cut short")
    if not size:
        return np.empty(shape, dtype)
    if info.compress_type != zipfile.ZIP_STORED:
        return np.frombuffer(member.read(size), dtype).reshape(shape, order="F" if fortran else "C")
    file.seek(info.header_offset + 26)
    name_size, extra_size = np.frombuffer(file.read(4), "<u2")
    offset = info.header_offset + 30 + int(name_size) + int(extra_size) + header
    if offset + size > Path(path).stat().st_size:
        raise ValueError(f"{info.filename} is cut short")
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
