"""Pickles of plain data, read without running anything that they name.

A pickle is a program: it may name any function there is, and call it. Here the names of a short list are understood,
and stand for functions of this file, which make containers and numbers and nothing else; any other is refused.
The container of `torch.save` is https://github.com/pytorch/pytorch/blob/v2.5.0/torch/serialization.py; the tensors in
it are left out, and torch is not needed.
"""

import bz2
import math
import pickle  # noqa: TID251 - only through `_Reader`, which finds no class or function but those below
import re
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from nas.errors import UsageError

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TORCH_PROTOCOL = 1001
TORCH_SKIPPED = re.compile(r"torch\.(_utils\._rebuild_\w+|(storage\.)?\w*Storage)")
NUMBERS = re.compile(r"[biufc][1-9]\d?|\?")  # the dtypes without objects, fields, texts or dates
DAMAGE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, EOFError, OSError, MemoryError, RuntimeError),
    *(AttributeError, TypeError, ValueError, LookupError, ArithmeticError, ImportError),
)


def load(path: str | Path) -> Any:
    """What a file holds: a pickle, one compressed by bz2, or what `torch.save` wrote, in which tensors are None.

    Raises UsageError for what cannot be read and for a pickle that names anything but plain data.
    """
    try:
        with open(path, "rb") as file:
            start = file.peek(4)[:4]
            if start.startswith(b"BZh"):
                with bz2.open(file) as stream:
                    return _load(path, stream)
            return _load_zip(path, file) if start == b"PK\3\4" else _load(path, file)
    except DAMAGE as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"file={str(path)!r} cannot be read: {said}") from error


def _load(path: str | Path, stream: Any) -> Any:
    first = _Reader(path, stream).load()
    if not isinstance(first, int) or first != TORCH_MAGIC:
        return first
    # A number, a protocol, facts about the machine, what was saved; tensors follow, which nobody asks for.
    protocol, _ = _Reader(path, stream).load(), _Reader(path, stream).load()
    if protocol != TORCH_PROTOCOL:
        raise ValueError(f"it is of the protocol {protocol!r} of torch.save; {TORCH_PROTOCOL} is known")
    return _Reader(path, stream, torch=True).load()


def _load_zip(path: str | Path, file: Any) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if len(names) != 1:
            raise ValueError("it is a zip without the data.pkl of torch.save")
        with archive.open(names[0]) as stream:
            return _Reader(path, stream, torch=True).load()


class _Reader(pickle.Unpickler):
    def __init__(self, path: str | Path, stream: Any, torch: bool = False):
        super().__init__(stream)
        self.path, self.torch = str(path), torch

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        name = f"{module_name}.{global_name}"
        if name in KNOWN:
            return _Function(KNOWN[name])
        if self.torch and TORCH_SKIPPED.fullmatch(name):
            return _Function(_nothing)
        raise UsageError(f"file={self.path!r} names {name[:80]!r}, which is not plain data; nothing of it is run")

    def persistent_load(self, pid: Any) -> None:
        if not self.torch:
            raise UsageError(f"file={self.path!r} refers to an object outside of it, which is not plain data")


class _Function:
    """What a name stands for. A pickle may call it, and cannot change it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]):
        object.__setattr__(self, "_call", call)

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        # The instruction that sets the attributes of an object comes here.
        raise AttributeError("a pickle may not change what its names stand for")


class _Dtype:
    """The name of a numeric dtype, and the order of its bytes, which a pickle states later."""

    __slots__ = ("dtype",)

    def __init__(self, name: Any, *_: Any):
        if not isinstance(name, str) or not NUMBERS.fullmatch(name):
            raise ValueError(f"the dtype {str(name)[:40]!r} is not one of numbers")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        _, order, *structure = state[:5]
        if order not in ("<", ">", "|", "=") or structure != [None] * 3:
            raise ValueError("a dtype with fields is not one of numbers")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array, which a pickle makes empty and fills later."""

    def __setstate__(self, state: Any, /) -> None:
        version, shape, kind, fortran, data = state
        dtype = _numeric(kind)
        sizes = isinstance(shape, tuple) and all(isinstance(size, int) and size >= 0 for size in shape)
        if not sizes or not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.itemsize:
            raise ValueError("an array has not as many numbers as its shape says")
        checked: Any = (version, shape, dtype, bool(fortran), data)
        super().__setstate__(checked)


def _numeric(kind: Any) -> np.dtype:
    if not isinstance(kind, _Dtype):
        raise ValueError(f"{type(kind).__name__} is not a dtype")
    return kind.dtype


def _empty(*_: Any) -> np.ndarray:
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _scalar(kind: Any, data: Any) -> Any:
    dtype = _numeric(kind)
    if not isinstance(data, bytes) or len(data) != dtype.itemsize:
        raise ValueError(f"a number of {dtype} does not have {dtype.itemsize} bytes")
    return np.frombuffer(data, dtype)[0]


def _encode(text: Any, encoding: Any) -> bytes:
    # So bytes are written in protocol 2, which torch.save uses.
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError(f"bytes are written in {encoding!r}, not in latin1")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _nothing(*_: Any) -> None:
    return None


KNOWN: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _encode,
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _nothing,  # an argument of _reconstruct
    **{
        f"numpy.{core}.multiarray.{name}": call
        for core in ("core", "_core")
        for name, call in (("scalar", _scalar), ("_reconstruct", _empty))
    },
    **{f"{builtins}.bytes": _no_bytes for builtins in ("builtins", "__builtin__")},
    **{f"{builtins}.{kind.__name__}": kind for builtins in ("builtins", "__builtin__") for kind in (set, frozenset)},
}
