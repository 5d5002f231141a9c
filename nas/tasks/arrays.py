"""A NumPy archive of images and labels, in one piece or in parts."""

import math
import zipfile
import zlib
from typing import Any

import numpy as np

from nas.errors import UsageError
from nas.plain import check_archive
from nas.tasks.base import Arrays, Raw, count_classes
from nas.tasks.pixels import most_bytes
from nas.tasks.room import empty, is_large, pieces

KEYS = "images and labels, or train_images and train_labels, and where given valid_*, test_* and classes"
NAMES = {f"{part}{kind}" for part in ("", "train_", "valid_", "test_") for kind in ("images", "labels")} | {"classes"}
UNREADABLE = (OSError, ValueError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read_npz(place: str) -> Raw:
    """The number of classes is one more than the largest label; `classes` are their names, in order."""
    try:
        with open(place, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise UsageError(f"npz={place!r} is a single array; allowed: a .npz archive of {KEYS}")
            names = archive.files
            assert archive.zip is not None  # it is open
            wanted = [entry for entry in archive.zip.infolist() if entry.filename.removesuffix(".npy") in NAMES]
            check_archive(f"npz={place!r}", wanted, most_bytes(sum(entry.file_size for entry in wanted)))
            members = {entry.filename.removesuffix(".npy"): entry for entry in wanted}
            found = {key: _array(archive, key, members[key]) for key in names if key in NAMES}
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"npz={place!r} cannot be read ({reason}); allowed: a .npz archive of {KEYS}") from error

    def arrays(part: str) -> Arrays | None:
        keys = (f"{part}images", f"{part}labels")
        if not any(key in found for key in keys):
            return None
        for key in keys:
            if key not in found:
                raise UsageError(f"npz={place!r} has no {key}; allowed: {KEYS}")
        return found[keys[0]], found[keys[1]]

    whole, train = arrays(""), arrays("train_")
    if whole is not None and train is not None:
        raise UsageError(f"npz={place!r} has both images and train_images; allowed: {KEYS}")
    train = train or whole
    if train is None:
        raise UsageError(f"npz={place!r} has the arrays {sorted(names)}; allowed: {KEYS}")
    valid, test = arrays("valid_"), arrays("test_")
    num_classes = count_classes(part[1] for part in (train, valid, test) if part is not None)
    classes = found.get("classes")
    if classes is None:
        return Raw(train, num_classes, valid, test)
    if classes.dtype.kind != "U" or classes.shape != (num_classes,):
        kind = f"{classes.dtype} {list(classes.shape)}"
        raise UsageError(f"npz={place!r}: classes={kind} must be texts [{num_classes}], one for each label")
    return Raw(train, num_classes, valid, test, tuple(classes.tolist()))


def _array(archive: Any, key: str, entry: zipfile.ZipInfo) -> np.ndarray:
    """An array of an archive. A large one goes into a file as it is read. Raises what NumPy does."""
    if not is_large(entry.file_size):
        return archive[key]
    with archive.zip.open(entry) as member:
        version = np.lib.format.read_magic(member)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"{key} has version {version} of its header; allowed: (1, 0) and (2, 0)")
        shape, is_fortran, dtype = readers[version](member)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or size != entry.file_size - member.tell():
            raise ValueError(f"{key} holds {entry.file_size - member.tell()} bytes; its header says {size}")
        found = empty(shape[::-1] if is_fortran else shape, dtype)
        content = found.reshape(-1).view(np.uint8)
        for some in pieces(size, 1, found):
            content[some] = np.frombuffer(member.read(some.stop - some.start), np.uint8)
        member.read()  # to the end, where its checksum is
        return found.T if is_fortran else found
