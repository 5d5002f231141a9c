"""Room for images: memory for few, and for many a file without a name, which goes with the process that fills it.

Files are mapped: the kernel holds of them what is looked at, and takes it back when it needs the memory.
"""

import atexit
import contextlib
import functools
import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from nas.errors import UsageError, unwritable
from nas.plain import WHOLE, shown

FOLDER = "NAS_IMAGE_CACHE"  # where images are kept that are too many for memory; `off`: they are held in memory
MEMORY = "NAS_IMAGE_MEMORY"  # MiB of images of a task that are held in memory
OFF, DEFAULT = "off", 256
CHUNK = 32 * 2**20  # bytes that are dealt with at once


def folder(*, make: bool = True) -> Path | None:
    """Where images are kept; None where they are to be held in memory, or, without `make`, where there can be none yet.
    Raises UsageError for a folder that cannot be made."""
    given = os.environ.get(FOLDER)
    if given == OFF:
        return None
    if not given:
        return _own_folder(make)
    place = Path(os.path.abspath(os.path.expanduser(given)))
    try:
        if make:
            place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(f"{FOLDER}={given!r}", error) from error
    return place


def _own_folder(make: bool) -> Path | None:
    """The user's; where there is none that can be written, one that this process and its workers share, and that goes
    with it."""
    with contextlib.suppress(RuntimeError, OSError):
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        place = Path(home) / "nas-engine" / "images"
        if make:
            place.mkdir(parents=True, exist_ok=True)
        if not make or os.access(place, os.W_OK):
            return place
    return _passing_folder() if make else None


@functools.cache
def _passing_folder() -> Path:
    place = Path(tempfile.mkdtemp(prefix="nas-engine-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


def is_large(size: int) -> bool:
    """Whether so many bytes of images are too many for memory. Raises UsageError for a setting that is none."""
    given = os.environ.get(MEMORY) or str(DEFAULT)
    if not WHOLE.match(given) or int(given) < 0:
        raise UsageError(f"{MEMORY}={shown(repr(given))} must be a whole number of MiB, 0 or more")
    return size > int(given) * 2**20 and os.environ.get(FOLDER) != OFF


def empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """An array to be filled. Raises RunError where the disk has no room for it."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if not is_large(size):
        return np.empty(shape, dtype)
    with on_disk(), _nameless() as file:
        reserve(file, size)
        return np.asarray(np.memmap(file, dtype, "r+", shape=tuple(shape)))


@contextlib.contextmanager
def on_disk() -> Iterator[None]:
    """What the disk refuses in it is one line that names the folder. Raises RunError where it is full."""
    try:
        yield
    except OSError as error:
        raise unwritable(f"{folder()}, where large tasks are kept decoded ({FOLDER} moves it),", error) from error


def _nameless() -> IO[bytes]:
    """A file that lasts while it is open or mapped."""
    return tempfile.TemporaryFile(dir=folder())


def reserve(file: IO[bytes], size: int) -> None:
    """Takes the room on the disk, before any work is done: where a mapped file found none later, the process would be
    ended at once."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    begin = file.tell()
    for start in range(begin, size, CHUNK):
        file.write(bytes(min(CHUNK, size - start)))
    file.seek(begin)


def pieces(count: int, size: int, *mapped: np.ndarray) -> Iterator[slice]:
    """The first `count` places, some at a time, of which each is so many bytes; of arrays that are mapped nothing is
    held from one piece to the next."""
    step = max(1, CHUNK // max(1, size))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
        for array in mapped:
            let_go(array)


def let_go(array: Any) -> None:
    """Takes the pages of a mapped file from this process. The kernel may still have them, and reads them again where it
    has not; what was written is not lost. Of other arrays it does nothing."""
    while isinstance(array, np.ndarray):
        array = array.base
    if isinstance(array, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.madvise(mmap.MADV_DONTNEED)


class Rows:
    """uint8 arrays of one shape, one after the other: in memory until they are large, and then in a file."""

    def __init__(self):
        self._held: list[np.ndarray] = []
        self._file: IO[bytes] | None = None
        self._shape: tuple[int, ...] = ()
        self._count = self._bytes = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        return self._bytes

    def add(self, row: np.ndarray) -> int:
        """The place of the row."""
        self._shape = row.shape
        self._bytes += row.nbytes
        self._count += 1
        self._held.append(row)
        if self._file is not None or is_large(self._bytes):
            with on_disk():
                if self._file is None:
                    self._file = _nameless()
                    weakref.finalize(self, self._file.close)
                for each in self._held:
                    self._file.write(each.tobytes())
            self._held.clear()
        return self._count - 1

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self._all())

    def _all(self) -> Sequence[np.ndarray] | np.ndarray:
        if self._file is None:
            return self._held
        with on_disk():
            self._file.flush()
            return np.asarray(np.memmap(self._file, np.uint8, "r", shape=(self._count, *self._shape)))

    def taken(self, places: Sequence[int]) -> np.ndarray:
        """The rows at these places `[n, ...]`; in memory unless all are large."""
        rows = self._all()
        if not isinstance(rows, np.ndarray):
            return np.stack([rows[place] for place in places])
        order = np.asarray(places, np.int64)
        if np.array_equal(order, np.arange(order[0], order[0] + len(order))):
            return rows[order[0] : order[0] + len(order)]
        found = empty((len(order), *self._shape), np.uint8)
        for some in pieces(len(order), found[0].nbytes, rows, found):
            found[some] = rows[order[some]]
        return found
