"""Tasks that are too large for memory, decoded once and kept in files, a folder a task.

The name of a folder says what it was made from: where the data lie and what was asked of them, then what their files
were like. A folder is there whole or not at all; one whose content is not what was written is made anew.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import PIL

from nas.errors import UsageError
from nas.plain import from_json, read_bounded
from nas.tasks import PARTS_GIVEN, PLACED, Reading, places
from nas.tasks.data import Mapped, Split, Task
from nas.tasks.kinds import described, from_data
from nas.tasks.pixels import is_image
from nas.tasks.room import FOLDER, OFF, folder, is_large, on_disk, pieces, reserve
from nas.unfinished import LOCK, begun

FORMAT = 2  # of a folder, and of how images are decoded: another one is made anew
NOTE, BEGUN = "task.json", "unfinished-"
MOST_BYTES = 16 * 2**20  # of a note
AROUND = 16  # times what is looked at of a mapped file is held of it, as it lies around it


@dataclasses.dataclass(frozen=True)
class Source:
    """Files from which a task is made."""

    asked: tuple[Any, ...]  # where they lie and what becomes of their images
    files: str  # a digest of their names, sizes and times

    def name(self, split_seed: int, max_images: int | None, skipped: bool) -> str:
        """Of the folder; `skipped` says whether what is invalid was left out."""
        asked = (FORMAT, PIL.__version__, *self.asked, split_seed, max_images, skipped)
        return f"{_hex(json.dumps(asked))[:16]}-{self.files[:32]}"


def source_of(asked: Reading) -> Source | None:
    """None for what is not made from files of which the name of the task says where they lie."""
    kind = asked.name.partition(":")[0]
    if asked.place is None or kind not in (*PLACED, "cifar10", "fashion-mnist") or os.environ.get(FOLDER) == OFF:
        return None
    roots = [os.path.realpath(each) for each in places(kind, asked.place)]
    digest = hashlib.sha256()
    for root in roots:
        # What else lies in a folder of classes, such as the database of a search, is not read.
        for line in _listed(root, is_image if kind == "folder" and os.path.isdir(root) else lambda path: True):
            digest.update(line.encode("utf-8", "surrogateescape"))
    return Source((kind, roots, asked.image_size, asked.resize), digest.hexdigest())


def _listed(root: str, wanted: Callable[[PurePosixPath], bool]) -> Iterator[str]:
    """A line for each wanted file that is not hidden, in a fixed order. Of what cannot be looked at its reader
    complains."""
    seen: set[tuple[int, int]] = set()

    def walk(path: str, name: str) -> Iterator[str]:
        with contextlib.suppress(OSError):
            about = os.stat(path)
            if os.path.isdir(path):
                if (about.st_dev, about.st_ino) not in seen:  # a link may lead back up
                    seen.add((about.st_dev, about.st_ino))
                    for each in sorted(each for each in os.listdir(path) if not each.startswith(".")):
                        yield from walk(os.path.join(path, each), f"{name}/{each}")
            elif wanted(PurePosixPath(name)):
                yield f"{name} {about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}\n"

    yield from walk(root, "")


def found(source: Source, asked: Reading, split_seed: int, max_images: int | None) -> Task | None:
    """The task that was decoded before, if it is to be in files."""
    for skipped in (False, True) if asked.skip_invalid else (False,):
        if (task := known(source.name(split_seed, max_images, skipped), asked.name)) is not None:
            return task if is_large(_bytes(task)) else None
    return None


def known(name: str, task_name: str) -> Task | None:
    """The task that is kept in the folder of this name. One that is not what was written is removed."""
    root = folder(make=False)
    if root is None or not (root / name).is_dir():
        return None
    _hold(root / name)
    task = _opened(root / name, task_name)
    if task is None:
        _remove(root / name)
    return None if task is None else told(task)


_held: dict[str, int] = {}  # the lock of each folder whose files this process uses, by its path


def _hold(place: Path) -> None:
    """Keeps others from removing a folder while this process lives, which gives its files to its workers by name."""
    with contextlib.suppress(OSError):  # not every file system has locks
        lock = os.open(place / LOCK, os.O_RDONLY)
        before, _held[str(place)] = _held.get(str(place)), lock
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        finally:
            if before is not None:
                os.close(before)


def _bytes(task: Task) -> int:
    return sum(getattr(task, part).images.nbytes for part in PARTS_GIVEN)


def told(task: Task) -> Task:
    """With a note that says where its images lie."""
    file = task.train.file
    assert file is not None
    count, size = sum(task.counts.values()), _bytes(task) / 2**30
    said = f"{task.name}: {count} images, {size:.2f} GiB decoded, are kept in {os.path.dirname(file.path)}"
    noted = dataclasses.replace(task, note="; ".join(filter(None, (task.note, f"{said} ({FOLDER} moves it)"))))
    vars(noted)["_fingerprint"] = task.fingerprint()  # to take it is to read all of them
    return noted


def _opened(place: Path, name: str) -> Task | None:
    """The task in a folder, called so; None where that is not what was written."""
    try:
        about = from_json(read_bounded(str(place), place / NOTE, MOST_BYTES, "note"))
        parts = {part: _part(place, part) for part in PARTS_GIVEN}
        task = Task(
            name,
            **parts,
            kind=from_data(about["kind"]),
            mean=tuple(about["mean"]),
            std=tuple(about["std"]),
            classes=tuple(about["classes"]),
            resize=about["resize"],
            # The name of a task may be written in several ways.
            note=about["note"] and about["note"].replace(f"{about['name']}: ", f"{name}: "),
        )
        return task if about["format"] == FORMAT and about["fingerprint"] == task.fingerprint() else None
    except (UsageError, OSError, ValueError, KeyError, TypeError, AttributeError, EOFError):
        return None


def _part(place: Path, part: str) -> Split:
    labels = np.load(_file(place, part, "labels"), allow_pickle=False)
    file = Mapped(str(_file(place, part, "images")), 0)
    file = file._replace(channels=np.load(file.path, mmap_mode="r", allow_pickle=False).shape[3])
    return Split(file.open(), labels, file)


def _file(place: Path, part: str, what: str) -> Path:
    return place / f"{part}_{what}.npy"


@contextlib.contextmanager
def written(name: str) -> Iterator["Writing"]:
    """A folder that is to be filled; it is there by this name when the block has ended, and nothing is left of it where
    that fails. Raises RunError where the disk is full."""
    root = folder()
    assert root is not None  # else nothing is large
    with on_disk():
        with begun(root, BEGUN) as unfinished:
            yield Writing(unfinished, root / name)
            _settle(unfinished, root / name)
        _hold(root / name)


@dataclasses.dataclass(frozen=True)
class Writing:
    begun: Path  # where it lies while it is filled
    place: Path  # and then

    def part(
        self, part: str, images: np.ndarray, order: np.ndarray, labels: np.ndarray, change: Callable[..., np.ndarray]
    ) -> Split:
        """Those of the images that are named, in this order, each changed, and their labels."""
        np.save(_file(self.begun, part, "labels"), labels, allow_pickle=False)
        shape = (len(order), *change(images[order[:1]]).shape[1:])
        path = _file(self.begun, part, "images")
        with open(path, "wb") as file:
            header: Any = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.flush()
            reserve(file, file.tell() + int(np.prod(shape, dtype=np.int64)))
            size = max(images[0].nbytes, int(np.prod(shape[1:])))
            for some in pieces(len(order), AROUND * size, images):
                file.write(change(images[order[some]]).tobytes())
        mapped = Mapped(str(path), shape[3])
        return Split(mapped.open(), labels, mapped._replace(path=str(_file(self.place, part, "images"))))

    def describe(self, task: Task) -> None:
        about = {
            "format": FORMAT,
            "name": task.name,
            "kind": described(task.kind),
            "mean": task.mean,
            "std": task.std,
            "classes": task.classes,
            "resize": task.resize,
            "note": task.note,
            "fingerprint": task.fingerprint(),
        }
        (self.begun / NOTE).write_text(json.dumps(about))


def _settle(begun: Path, place: Path) -> None:
    """Puts a folder that is filled in its place, durably, and removes what was made of the same data before they
    changed."""
    for path in (*begun.iterdir(), begun):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    try:
        os.rename(begun, place)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return  # another process was quicker: the same is there
    for other in place.parent.glob(f"{place.name.partition('-')[0]}-*"):
        if other != place:
            _remove(other)


def _remove(place: Path) -> None:
    """At once, for whoever looks for it; whoever has its files open keeps them. One that another process uses stays:
    its workers open files by name."""
    if (mine := _held.pop(str(place), None)) is not None:
        os.close(mine)
    with contextlib.ExitStack() as until_moved:
        try:
            lock = until_moved.enter_context(open(place / LOCK))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:
            pass  # a folder may lack its lock, and a file system may have none
        with contextlib.suppress(OSError):
            gone = Path(tempfile.mkdtemp(prefix=BEGUN, dir=place.parent))
            os.rename(place, gone / place.name)
            shutil.rmtree(gone, ignore_errors=True)


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
