"""Class folders: every class is a folder of images, in a directory or in a tar.

Either the classes lie side by side, or under train/ and, where given, valid/ (or val/) and test/. A tar is
read from front to back and never extracted. Every image must fit the layout: none is left out in silence.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

import numpy as np

from nas.errors import UsageError
from nas.plain import check_regular, read_bounded, shown
from nas.tasks import Heard, Reading
from nas.tasks.base import Arrays, Raw
from nas.tasks.invalid import Invalid
from nas.tasks.pixels import FORMATS_SAID, MAX_FILE_BYTES, check_bytes, decode, fit, image_bytes, is_image, resize
from nas.tasks.room import Rows

# Where none is given, images that are not squares of one size already become as large as most of them are, of these:
# more pixels cost more, and are to be asked for.
IMAGE_SIZES = (32, 64)
SIZES = range(4, 1025)
STORED = ".files"  # how the folder of a database's files ends, which lies beside it
EVERY = 500  # files, after which it is said how far the reading is
Item = TypeVar("Item")
LEVELS = 4  # of folders in folders that are looked into, with that of the archive around the parts
PARTS = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}
# A few compressed bytes can stand for any number: a tar is read so far, or this many times its size if that is more.
TRUSTED_BYTES, MAX_RATIO = 2**28, 100
MAX_NAME_BYTES = 2**16  # of a name and what else is said of a file in a tar
OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
DAMAGED_TAR = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError)


def is_shown(path: PurePosixPath) -> bool:
    """Whether neither it nor a folder around it is hidden, nor is what macOS adds to archives."""
    return not any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def read_folder(asked: Reading) -> Raw:
    place = asked.place
    assert place is not None  # its name was checked
    field, folders, paths = f"folder={place!r}", set(), []

    def noted() -> Iterator[tuple[PurePosixPath, bytes]]:
        for path, data in files(Path(place), is_image, folders, asked.invalid, asked.heard):
            paths.append(path)
            yield path, data

    raw = class_folders(field, noted(), asked)
    filled = {folder for path in paths for folder in path.parents}
    sides = {path.parent.parent for path in paths}  # of classes; and those of the parts
    above = {side.parent for side in sides if side.name in PARTS}
    for folder in sorted(folders - filled):
        if _is_of_a_store(Path(place) / folder):
            continue
        if folder.parent in sides or (folder.parent in above and folder.name in PARTS):
            with asked.invalid.left_out("image"):
                raise UsageError(f"{field}: {str(folder)!r} holds no image; add some, or take it away")
    return raw


def _is_of_a_store(folder: Path) -> bool:
    """Whether the files of runs lie in it, beside their database: a search may be begun in the folder of its photos."""
    return folder.name.endswith(STORED) and folder.with_name(folder.name.removesuffix(STORED)).is_file()


def counted(items: Collection[Item], heard: Heard | None) -> Iterator[Item]:
    """The items. Of many `heard` is told, now and then and at the end, how many of them are done."""
    for number, item in enumerate(items, 1):
        yield item
        if heard is not None and len(items) > EVERY and (number % EVERY == 0 or number == len(items)):
            heard(number, len(items))


def files(
    root: Path,
    wanted: Callable[[PurePosixPath], bool],
    folders: set[PurePosixPath] | None = None,
    invalid: Invalid | None = None,
    heard: Heard | None = None,
) -> Iterator[tuple[PurePosixPath, bytes]]:
    """The wanted files of a directory (of four levels, sorted) or of a tar (in its order); no hidden ones. Folders that
    are met are added to `folders`. What cannot be read is refused, or left out, if `invalid` says so; where that is
    given, so is what lies deeper. `heard` is called now and then while a directory is read."""
    looks_below = invalid is not None
    invalid = invalid or Invalid(skip=False, can_skip=False)
    folders = set() if folders is None else folders

    def is_wanted(path: PurePosixPath) -> bool:
        return is_shown(path) and wanted(path)

    def inside(path: Path) -> PurePosixPath:
        return PurePosixPath(*path.relative_to(root).parts)

    def is_wanted_below(path: Path) -> bool:
        return is_wanted(inside(path)) and path.is_file()

    if root.is_dir():
        paths = sorted(path for depth in range(1, LEVELS + 1) for path in root.glob("/".join("*" * depth)))
        for path in counted(paths, heard):
            relative = inside(path)
            if is_shown(relative) and path.is_dir():
                folders.add(relative)
                looks = looks_below and len(relative.parts) == LEVELS
                if looks and (deep := next(filter(is_wanted_below, path.rglob("*")), None)):
                    with invalid.left_out("image"):
                        raise UsageError(f"{str(deep)!r} lies deeper than {LEVELS} levels below {str(root)!r}")
            elif is_wanted(relative):  # a pipe or device is refused: to read it may never end
                read, data = image_bytes if is_image(relative) else _batch_bytes, None
                with invalid.left_out("image"):
                    data = read(f"{str(path)!r}", path)
                if data is not None:
                    yield relative, data
    elif not root.exists():
        raise UsageError(f"{str(root)!r} does not exist; allowed: a folder, or a tar of one")
    else:
        check_regular(f"{str(root)!r}", root)
        yield from _tar_files(root, is_wanted, folders, invalid)


def _batch_bytes(field: str, path: Path) -> bytes:
    return read_bounded(field, path, MAX_FILE_BYTES, "batch of images")


def _tar_files(
    root: Path, wanted: Callable[[PurePosixPath], bool], folders: set[PurePosixPath], invalid: Invalid
) -> Iterator[tuple[PurePosixPath, bytes]]:
    try:
        with _decompressed(root) as file, tarfile.open(fileobj=(bounded := _Bounded(root, file)), mode="r:") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if member.isdir() and is_shown(path):
                    folders.add(path)
                field = f"{str(root)!r}: {shown(repr(member.name))}"
                if (member.issym() or member.islnk()) and wanted(path):
                    with invalid.left_out("image"):
                        raise UsageError(f"{field} is a link, which is not followed in a tar; allowed: files (tar -h)")
                if not member.isfile() or not wanted(path):
                    continue
                if member.size > MAX_FILE_BYTES:
                    raise UsageError(f"{field} has {member.size} bytes; allowed: at most {MAX_FILE_BYTES}")
                if member.issparse():
                    raise UsageError(f"{field} is sparse: its size says nothing of what is in it")
                stream = tar.extractfile(member)
                assert stream is not None  # it is a regular file
                with bounded.inside():
                    data = stream.read()
                yield path, data
    except DAMAGED_TAR as error:
        reason = f"({type(error).__name__}); allowed: a complete .tar, .tar.gz, .tar.bz2 or .tar.xz"
        raise UsageError(f"{str(root)!r} cannot be read {reason}") from error


def _decompressed(root: Path) -> io.BufferedIOBase:
    with root.open("rb") as file:
        start = file.read(6)
    return next((opener for magic, opener in OPENERS.items() if start.startswith(magic)), open)(root, "rb")


class _Bounded(io.RawIOBase):
    """A tar as a file of which no more is read at once, nor of it all, than a tar of images needs."""

    def __init__(self, root: Path, file: io.BufferedIOBase):
        self._root, self._file, self._inside = str(root), file, False
        self._end = max(TRUSTED_BYTES, MAX_RATIO * root.stat().st_size)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """What is read in it is the content of a file; else it may be a name, which is read whole."""
        self._inside = True
        yield
        self._inside = False

    def read(self, n: int = -1, /) -> bytes:
        if n > MAX_NAME_BYTES and not self._inside:
            raise UsageError(f"{self._root!r} has a name of {n} bytes; allowed: at most {MAX_NAME_BYTES}")
        self._check(self._file.tell() + max(n, 0))
        return self._file.read(n)

    def seek(self, place: int, whence: int = 0, /) -> int:
        self._check(place)  # what lies before it is decompressed too
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()

    def _check(self, place: int) -> None:
        if place > self._end:
            raise UsageError(f"{self._root!r} holds more than {self._end} bytes; allowed: {MAX_RATIO} times its size")


def class_folders(field: str, found: Iterable[tuple[PurePosixPath, bytes]], asked: Reading) -> Raw:
    """A label is the place of the class among the sorted names. Images are sorted by path, so a folder and
    a tar of it make the same task. Without a size, squares of one size are left as they are, and others become as large
    as most of them are, of the usual sizes.
    """
    invalid, modes = asked.invalid, Counter[str]()
    rows, images, sizes = _squares(field, found, asked, modes)
    if not images:
        if invalid.errors:
            raise UsageError(f"{field} holds no valid image; the first: {invalid.errors[0]}")
        raise UsageError(f"{field} holds no images; allowed: class folders of {FORMATS_SAID} images")
    # An archive often holds one folder that holds it all.
    while len(first := {names[0] for names in images}) == 1 and min(map(len, images)) > 2 and not first & PARTS.keys():
        images = {names[1:]: image for names, image in images.items()}

    parted = any(len(names) == 3 and names[0] in PARTS for names in images)
    parts: dict[str, list[_Image]] = {}
    for names, image in sorted(images.items(), key=lambda item: item[0]):
        with invalid.left_out("image"):
            if len(names) != 2 + parted or (parted and names[0] not in PARTS):
                layout = "train|valid|test/CLASS/IMAGE" if parted else "CLASS/IMAGE"
                raise UsageError(f"{field}: {'/'.join(names)!r} does not fit; allowed: {layout}")
            parts.setdefault(PARTS[names[0]] if parted else "train", []).append(_Image(names, image))
    if "train" not in parts:
        raise UsageError(f"{field} has {' and '.join(parts)} but no train; allowed: train with any of the others")
    classes = {name: label for label, name in enumerate(sorted({each.label for each in parts["train"]}))}
    for part, members in parts.items():
        kept = []
        for each in members:
            with invalid.left_out("image"):
                if each.label not in classes:
                    said = f"is not one of the {len(classes)} of train"
                    raise UsageError(f"{field}: class {each.label!r} of {part} {said}")
                kept.append(each)
        parts[part] = kept

    def arrays(part: str) -> Arrays | None:
        members = parts.get(part)
        if not members:
            return None
        labels = np.array([classes[each.label] for each in members], np.int32)
        return rows.taken([each.row for each in members]), labels

    train = arrays("train")
    assert train is not None  # there is one
    names = {part: ["/".join(each.names) for each in members] for part, members in parts.items()}
    return Raw(
        train,
        len(classes),
        arrays("valid"),
        arrays("test"),
        tuple(classes),
        Counter(sizes.values()),
        invalid.said(asked.name),
        modes,
        names,
    )


class _Image(NamedTuple):
    names: tuple[str, ...]  # of its path
    row: int  # among all images, in the order in which they were read

    @property
    def label(self) -> str:
        return self.names[-2]


def _squares(
    field: str, found: Iterable[tuple[PurePosixPath, bytes]], asked: Reading, modes: Counter[str]
) -> tuple[Rows, dict[tuple[str, ...], int], dict[tuple[str, ...], tuple[int, int]]]:
    """Images `[size, size, 3]`, and by path which of them, and the width and height that it had. Counts them by their
    modes."""
    # Until one differs from the first, all are kept as they are; then in all sizes that may be chosen in the end. No
    # file is read twice.
    rows: dict[int | None, Rows] = {asked.image_size: Rows()}
    places: dict[tuple[str, ...], int] = {}
    sizes: dict[tuple[str, ...], tuple[int, int]] = {}
    first = None
    for path, data in found:
        image = None
        with asked.invalid.left_out("image"):
            image = decode(f"{field}: {str(path)!r}", data, modes)
        if image is None:
            continue
        sizes[path.parts] = image.size
        first = first or image.size
        if None in rows and not (image.width == image.height in SIZES and image.size == first):
            rows = {size: _resized(rows[None], size) for size in IMAGE_SIZES}
        for size, its in rows.items():
            places[path.parts] = its.add(np.asarray(image if size is None else fit(image, size, asked.resize)))
        check_bytes(field, max(its.nbytes for its in rows.values()))
    return rows[_most_have(sizes.values()) if len(rows) > 1 else next(iter(rows))], places, sizes


def _most_have(sizes: Iterable[tuple[int, int]]) -> int:
    """The largest of the usual sizes that half of the images have at least, or the least."""
    sides = [min(size) for size in sizes]
    fitting = [size for size in IMAGE_SIZES if 2 * sum(side >= size for side in sides) >= len(sides)]
    return max(fitting, default=IMAGE_SIZES[0])


def _resized(rows: Rows, size: int) -> Rows:
    resized = Rows()
    for square in rows:
        resized.add(resize(square[None], size)[0])
    return resized
