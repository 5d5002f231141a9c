"""Images and labels in three parts, in memory or mapped from files."""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from nas import hosts
from nas.errors import UsageError
from nas.tasks import Resize
from nas.tasks.room import CHUNK, let_go, pieces

_travelling = False  # whether what is pickled now must hold its images


class Mapped(NamedTuple):
    """An .npy file of images. Who is sent one opens it again: no image is copied for a process of this machine."""

    path: str
    channels: int  # with which they are shown: grey ones as many times

    def open(self) -> np.ndarray:
        """The images, uint8 `[n, height, width, channels]`. Raises UsageError where the file is gone or cut."""
        try:
            images = np.asarray(np.load(self.path, mmap_mode="r", allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise UsageError(f"the decoded images in {self.path} cannot be read ({type(error).__name__})") from error
        return np.broadcast_to(images, (*images.shape[:3], self.channels)) if images.ndim == 4 else images


@contextlib.contextmanager
def travelling() -> Iterator[None]:
    """What is pickled in it holds its images, for machines that have not the files."""
    global _travelling
    before, _travelling = _travelling, True
    try:
        yield
    finally:
        _travelling = before


@dataclass(frozen=True, eq=False)
class Split:
    images: np.ndarray  # uint8 [n, height, width, channels]
    labels: np.ndarray  # int32 [n]; float32 [n, ...] where they are numbers
    file: Mapped | None = None  # where the images lie that are too many for memory

    def __post_init__(self):
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4:
            kind = f"{images.dtype} {list(images.shape)}"
            raise UsageError(f"images={kind} must be uint8 [n, height, width, channels]")
        if labels.dtype not in (np.int32, np.float32) or labels.shape[:1] != images.shape[:1]:
            allowed = f"int32 or float32 [{len(images)}, ...]"
            raise UsageError(f"labels={labels.dtype} {list(labels.shape)} must be {allowed}")

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def on_device(self) -> tuple[Any, Any]:
        """Images and labels as arrays of the device, which hold them once."""
        from nas.devices import everywhere

        return everywhere(self.images), everywhere(self.labels)

    def batch(self, indices: np.ndarray) -> tuple[tuple[Any, Any], np.ndarray | None]:
        """Images and labels on the device, and where among them those at `indices` are.

        These are all of the part; of one in a file those that are asked for alone, in their order. A program that takes
        them by these places then computes with the same numbers. Where several
        processes train together they are those at `indices`, without places.
        """
        if hosts.trains():
            from nas.devices import fed

            found = fed(self.images, indices), fed(self.labels, indices)
            if self.file is not None:
                let_go(self.images)
            return found, None
        if self.file is None:
            return self.on_device, indices
        from nas.devices import everywhere

        images = self.images[indices]
        let_go(self.images)
        return everywhere((images, self.labels[indices])), np.arange(len(indices), dtype=np.int32)

    def __getstate__(self) -> dict[str, Any]:
        if self.file is None or _travelling:
            return {"images": self.images, "labels": self.labels, "file": None}
        return {"labels": self.labels, "file": self.file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "images" not in state:
            state = {**state, "images": state["file"].open()}
        vars(self).update(state)


@dataclass(frozen=True, eq=False)
class Task:
    name: str
    train: Split
    valid: Split
    test: Split
    kind: Any  # what is asked of a network: see `nas.tasks.kinds`
    mean: tuple[float, ...]  # of train, per channel, with 255 as 1
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()  # their names by label; without any they are "0", "1", ...
    resize: Resize | None = None  # how images became image_size x image_size; None: they were
    note: str | None = None  # what was done to the images and a user should know, in one line

    def __post_init__(self):
        object.__setattr__(self, "classes", self.kind.named(f"task={self.name!r}: classes", self.classes))

    @property
    def num_classes(self) -> int:
        """How many numbers a network gives for an image, as spaces call it: of classes, one each."""
        return self.kind.outputs

    @property
    def image_size(self) -> int:
        return self.train.images.shape[1]

    @property
    def image_channels(self) -> int:
        return self.train.images.shape[3]

    @property
    def counts(self) -> dict[str, int]:
        """How many images each part has."""
        return {"train": len(self.train), "valid": len(self.valid), "test": len(self.test)}

    def fingerprint(self) -> str:
        """Equal for equal data in equal parts, wherever the files lie and whatever the task is called."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        parts = (self.train, self.valid, self.test)
        return digest_of(self.num_classes, [array for part in parts for array in (part.images, part.labels)])


def digest_of(begin: object, arrays: Iterable[np.ndarray]) -> str:
    """64 hex digits, equal for equal arrays in this order after equal beginnings."""
    digest = hashlib.sha256(str(begin).encode())
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(_digest(array))
    return digest.hexdigest()


def _digest(array: np.ndarray) -> bytes:
    """Of the bytes of an array, which are not held all at once where they are many."""
    if array.nbytes <= CHUNK:
        return hashlib.sha256(np.ascontiguousarray(array).data).digest()
    digest = hashlib.sha256()
    for some in pieces(len(array), array[0].nbytes, array):
        digest.update(np.ascontiguousarray(array[some]).data)
    return digest.digest()


def in_channels(part: Split, channels: int) -> Split:
    """The part with its grey images in so many channels."""
    if part.file is None:
        return dataclasses.replace(part, images=np.repeat(part.images, channels, axis=3))
    file = part.file._replace(channels=channels)
    return dataclasses.replace(part, images=file.open(), file=file)
