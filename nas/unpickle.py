"""Pickles of plain data, read without running anything that they name.

A pickle is a program: it may name any function there is, and call it. Here the names of a short list are understood,
and stand for functions of this file, which make containers and numbers and nothing else; any other is refused. A few
bytes can ask for any amount of memory, or for a text or a hash that takes for ever: how many bytes are unpacked, how
many containers are made and how deep they lie, what a key holds, and the time, are bounded by the size of the file.
The container of `torch.save` is https://github.com/pytorch/pytorch/blob/v2.5.0/torch/serialization.py; the tensors in
it are left out, and torch is not needed. The file is long so that all that a pickle can reach stands in one place.
"""

import bz2
import functools
import io
import math
import os
import pickle  # noqa: TID251 - only through `_Reader`, which finds no class or function but those below
import re
import struct
import time
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from nas.errors import UsageError, one_line
from nas.plain import check_regular

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TORCH_PROTOCOL = 1001
TORCH_SKIPPED = re.compile(r"torch\.(_utils\._rebuild_\w+|(storage\.)?\w*Storage)")
NUMBERS = re.compile(r"[biufc][1-9]\d?|\?")  # the dtypes without objects, fields, texts or dates
DAMAGE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, EOFError, OSError, MemoryError, RuntimeError),
    *(AttributeError, TypeError, ValueError, LookupError, ArithmeticError, ImportError, struct.error),
)
# What a file may be unpacked to: so many bytes, or times its own size if that is more. Curves take a tenth.
TRUSTED_BYTES, MAX_RATIO = 2**23, 50
MOST_LEVELS = 1000  # of containers in containers
MOST_IN_KEY = 1000  # values of a tuple, with those of tuples in it as often as they are there: all are hashed
MOST_DIGITS = 1000  # bytes of an integer, for the same reason
# Containers for which no bytes are asked, and bytes for each further one.
FREE_CONTAINERS, CONTAINER_BYTES = 100_000, 4
FREE_SECONDS, BYTE_SECONDS = 2.0, 5e-6  # of the processor; twenty times what a slow one takes
LOOK = 1000  # entries of a container from one look at the clock to the next
PIECE = 2**20  # bytes that are asked of a stream at once


def load(path: str | Path) -> Any:
    """What a file holds: a pickle, one compressed by bz2, or what `torch.save` wrote, in which tensors are None.

    Raises UsageError for what cannot be read and for a pickle that names anything but plain data.
    """
    field = f"file={str(path)!r}"
    check_regular(field, path)
    try:
        with open(path, "rb") as file:
            start, size = file.peek(4)[:4], os.fstat(file.fileno()).st_size
            if start.startswith(b"BZh"):
                with bz2.open(file) as stream:
                    return _load(field, _Bounded(stream, max(TRUSTED_BYTES, MAX_RATIO * size)))
            return _load_zip(field, file, size) if start == b"PK\3\4" else _load(field, _Bounded(file, size))
    except DAMAGE as error:
        raise _unreadable(field, error) from error


def loads(field: str, data: bytes) -> Any:
    """What a pickle of Python 2 holds, whose texts are bytes. Raises UsageError, as `load` does."""
    try:
        return _Reader(field, _Bounded(io.BytesIO(data), len(data)), encoding="bytes").load()
    except DAMAGE as error:
        raise _unreadable(field, error) from error


def _unreadable(field: str, error: BaseException) -> UsageError:
    said = getattr(error, "strerror", None) or one_line(error) or type(error).__name__
    return UsageError(f"{field} cannot be read: {said}")


class _Bounded:
    """A stream of which no more is read than so many bytes, and at once no more than a piece."""

    def __init__(self, stream: Any, most: int):
        self._stream, self._most, self.taken = stream, most, 0

    def read(self, n: int) -> bytes:
        if n <= PIECE:
            return self._count(self._stream.read(n))
        pieces = []
        while n > 0 and (piece := self.read(min(n, PIECE))):
            pieces.append(piece)
            n -= len(piece)
        return b"".join(pieces)

    def readline(self) -> bytes:
        return self._count(self._stream.readline(PIECE))

    def _count(self, data: bytes) -> bytes:
        self.taken += len(data)
        if self.taken > self._most:
            raise ValueError(f"it holds more than {self._most} bytes; allowed: {MAX_RATIO} times its size")
        return data


def _load(field: str, stream: _Bounded) -> Any:
    first = _Reader(field, stream).load()
    if not isinstance(first, int) or first != TORCH_MAGIC:
        return first
    # A number, a protocol, facts about the machine, what was saved; tensors follow, which nobody asks for.
    protocol, _ = _Reader(field, stream).load(), _Reader(field, stream).load()
    if protocol != TORCH_PROTOCOL:
        said = protocol if isinstance(protocol, int) else type(protocol).__name__
        raise ValueError(f"it is of the protocol {said} of torch.save; {TORCH_PROTOCOL} is known")
    return _Reader(field, stream, torch=True).load()


def _load_zip(field: str, file: Any, size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if len(names) != 1:
            raise ValueError("it is a zip without the data.pkl of torch.save")
        with archive.open(names[0]) as stream:
            return _Reader(field, _Bounded(stream, max(TRUSTED_BYTES, MAX_RATIO * size)), torch=True).load()


class _Instructions(dict[int, Any]):
    def __missing__(self, code: int) -> NoReturn:
        raise pickle.UnpicklingError(f"the instruction {code:#04x} is not one of plain data")


OF_PYTHON: Any = pickle._Unpickler.dispatch  # pyright: ignore[reportAttributeAccessIssue]


class _Reader(pickle._Unpickler):  # not its twin in C, which allocates as long a memo as a file asks for
    dispatch: Any = _Instructions(OF_PYTHON)

    def __init__(self, field: str, stream: _Bounded, torch: bool = False, encoding: str = "ASCII"):
        super().__init__(stream, encoding=encoding)  # pyright: ignore[reportArgumentType]
        self.field, self.stream, self.torch = field, stream, torch
        self.made, self.entries, self.end = 0, 0, time.process_time() + FREE_SECONDS

    def find_class(self, module: str, name: str) -> Any:
        whole = f"{module}.{name}"
        if whole in KNOWN:
            call = KNOWN[whole]
            return _Function(functools.partial(call, self) if call in (_filled, _ordered, _frozen) else call)
        if self.torch and TORCH_SKIPPED.fullmatch(whole):
            return _Function(_nothing)
        raise UsageError(f"{self.field} names {whole[:80]!r}, which is not plain data; nothing of it is run")

    def persistent_load(self, pid: Any) -> None:
        if not self.torch:
            raise UsageError(f"{self.field} refers to an object outside of it, which is not plain data")

    def count(self, containers: int) -> None:
        self.made += containers
        if self.made > FREE_CONTAINERS + self.stream.taken // CONTAINER_BYTES:
            raise ValueError(f"it has more containers than its {self.stream.taken} bytes can be of")

    def timed(self, entries: list[Any]) -> Iterable[Any]:
        """The entries, as long as there is time."""
        for entry in entries:
            self.count_entry()
            yield entry

    def count_entry(self) -> None:
        """Of a mapping or a set. Numbers can be chosen so that all have one place in a table: they have a time."""
        if self.entries % LOOK == 0 and time.process_time() > self.end + BYTE_SECONDS * self.stream.taken:
            raise ValueError(f"it takes more than {FREE_SECONDS:g} seconds")
        self.entries += 1


def _instruction(code: bytes) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    def put(function: Callable[[Any], None]) -> Callable[[Any], None]:
        _Reader.dispatch[code[0]] = function
        return function

    return put


def _counted(code: bytes, containers: int) -> None:
    """The instruction makes a container, of so many times the memory of a list."""
    make = _Reader.dispatch[code[0]]

    def made(self: Any) -> None:
        self.count(containers)
        make(self)

    _Reader.dispatch[code[0]] = made


def _weighed(code: bytes) -> None:
    """The instruction makes a tuple, whose values must not be too many."""
    make = _Reader.dispatch[code[0]]

    def made(self: Any) -> None:
        make(self)
        count, waiting = 0, [self.stack[-1]]
        while waiting:
            values = waiting.pop()
            count += len(values)
            if count > MOST_IN_KEY:
                raise ValueError(f"a tuple has more than {MOST_IN_KEY} values")
            waiting += [each for each in values if type(each) in (tuple, frozenset)]

    _Reader.dispatch[code[0]] = made


for _code in (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.NEWOBJ, pickle.NEWOBJ_EX):
    del _Reader.dispatch[_code[0]]
for _code in (pickle.EXT1, pickle.EXT2, pickle.EXT4):
    del _Reader.dispatch[_code[0]]
for _code in (pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.LIST):
    _counted(_code, 1)
for _code in (pickle.EMPTY_SET, pickle.REDUCE, pickle.INST, pickle.OBJ):
    _counted(_code, 4)
for _code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3):
    _weighed(_code)


@_instruction(pickle.MARK)
def _load_mark(self: Any) -> None:
    if len(self.metastack) >= MOST_LEVELS:
        raise ValueError(f"it has more than {MOST_LEVELS} levels of containers")
    OF_PYTHON[pickle.MARK[0]](self)


@_instruction(pickle.LONG4)
def _load_long4(self: Any) -> None:
    size = int.from_bytes(self.read(4), "little", signed=True)
    if not 0 <= size <= MOST_DIGITS:
        raise ValueError(f"an integer has {size} bytes; allowed: {MOST_DIGITS}")
    self.append(pickle.decode_long(self.read(size)))


@_instruction(pickle.SETITEMS)
def _load_setitems(self: Any) -> None:
    items = self.pop_mark()
    target = self.stack[-1]
    if not isinstance(target, dict):
        raise ValueError(f"entries are put into a {type(target).__name__}")
    for key, value in zip(self.timed(items[::2]), items[1::2], strict=True):
        target[key] = value


@_instruction(pickle.SETITEM)
def _load_setitem(self: Any) -> None:
    if not isinstance(self.stack[-3], dict):
        raise ValueError(f"an entry is put into a {type(self.stack[-3]).__name__}")
    self.count_entry()
    OF_PYTHON[pickle.SETITEM[0]](self)


@_instruction(pickle.DICT)
def _load_dict(self: Any) -> None:
    self.count(1)
    items = self.pop_mark()
    self.append(dict(zip(self.timed(items[::2]), items[1::2], strict=True)))


@_instruction(pickle.ADDITEMS)
def _load_additems(self: Any) -> None:
    items = self.pop_mark()
    self.stack[-1].update(self.timed(items))


@_instruction(pickle.FROZENSET)
def _load_frozenset(self: Any) -> None:
    self.count(4)
    values = self.pop_mark()
    self.append(frozenset(self.timed(values)))


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
        name = name.decode("latin1") if isinstance(name, bytes) else name  # as in a pickle of Python 2
        if not isinstance(name, str) or not NUMBERS.fullmatch(name):
            said = name[:40] if isinstance(name, str) else type(name).__name__
            raise ValueError(f"the dtype {said!r} is not one of numbers")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        _, order, *structure = state[:5]
        order = order.decode("latin1") if isinstance(order, bytes) else order
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


def _filled(reader: Any, values: Iterable[Any] = ()) -> set[Any]:
    return set(reader.timed(_listed(values)))


def _frozen(reader: Any, values: Iterable[Any] = ()) -> frozenset[Any]:
    return frozenset(reader.timed(_listed(values)))


def _ordered(reader: Any, entries: Iterable[Any] = ()) -> OrderedDict[Any, Any]:
    return OrderedDict(reader.timed(_listed(entries)))


def _listed(values: Any) -> list[Any]:
    if type(values) not in (list, tuple):
        raise ValueError(f"a container is made of a {type(values).__name__}")
    return list(values)


def _no_bytes() -> bytes:
    return b""


def _nothing(*_: Any) -> None:
    return None


KNOWN: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "_codecs.encode": _encode,
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _nothing,  # an argument of _reconstruct
    **{
        f"numpy.{core}.multiarray.{name}": call
        for core in ("core", "_core")
        for name, call in (("scalar", _scalar), ("_reconstruct", _empty))
    },
    **{f"{builtins}.bytes": _no_bytes for builtins in ("builtins", "__builtin__")},
    **{f"{builtins}.set": _filled for builtins in ("builtins", "__builtin__")},
    **{f"{builtins}.frozenset": _frozen for builtins in ("builtins", "__builtin__")},
}
