"""Tasks by name: images and what is to be said of them, in fixed train, valid and test parts."""

import dataclasses
import os.path
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from nas import registry
from nas.errors import UsageError, unknown
from nas.tasks.invalid import Invalid
from nas.tasks.names import NAMES

if TYPE_CHECKING:
    from nas.tasks.base import Raw, Task
    from nas.tasks.kept import Source

Heard = Callable[[int, int], None]  # how many files were read, and of how many
Resize = Literal["crop", "pad", "stretch"]  # how images become squares of one size: see `nas.tasks.pixels.fit`


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is asked of whoever reads or makes the data of a task."""

    name: str  # of the task, as the user writes it
    place: str | None = None  # where its data lie, or which of them
    image_size: int | None = None
    resize: Resize = "crop"
    skip_invalid: bool = False
    heard: "Heard | None" = dataclasses.field(default=None, compare=False)  # what is told how far it is
    invalid: Invalid = dataclasses.field(init=False)  # what was left out

    def __post_init__(self):
        can_skip = self.name.partition(":")[0] in SKIPPING
        object.__setattr__(self, "invalid", Invalid(self.skip_invalid, can_skip))


def _digits(asked: Reading) -> "Raw":
    del asked
    import numpy as np
    from sklearn.datasets import load_digits

    from nas.tasks.base import Raw

    rows, labels = load_digits(return_X_y=True)
    return Raw((np.reshape(rows, (-1, 8, 8)) / 16, np.asarray(labels)), num_classes=10)


def _fashion_mnist(asked: Reading) -> "Raw":
    from nas.tasks.fashion import read_fashion_mnist

    return read_fashion_mnist(asked.place)


def _cifar10(asked: Reading) -> "Raw":
    from nas.tasks.cifar import read_cifar10

    return read_cifar10(asked)


def _npz(asked: Reading) -> "Raw":
    from nas.tasks.arrays import read_npz

    assert asked.place is not None  # check_name saw to it
    return read_npz(asked.place)


def _folder(asked: Reading) -> "Raw":
    from nas.tasks.folders import read_folder

    return read_folder(asked)


def _voc(asked: Reading) -> "Raw":
    from nas.tasks.detection.voc import read_voc

    return read_voc(asked)


def _coco(asked: Reading) -> "Raw":
    from nas.tasks.detection.coco import read_coco

    return read_coco(asked)


def _scenes(asked: Reading) -> "Raw":
    from nas.tasks.detection.scenes import make_scenes

    return make_scenes(asked)


TASKS: dict[str, Callable[[Reading], "Raw"]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "npz": _npz,
    "folder": _folder,
    "voc": _voc,
    "coco": _coco,
    "scenes": _scenes,
}
PLACED = ("npz", "folder", "voc", "coco")  # their names say where: npz:FILE
DETECTION = ("voc", "coco", "scenes")
PHOTOGRAPHS = ("cifar10", "folder")  # by which the recipe may be chosen: see `nas.job.chosen`
PARTS_GIVEN = ("train", "valid", "test")
SKIPPING = ("folder", *DETECTION)  # what is invalid in them can be left out


def check_name(name: str) -> None:
    """Raises unless `name` is that of a task; whether its data can be read shows when it is loaded."""
    kind, _, place = name.partition(":")
    if registry.is_own("task", name):
        return
    if kind == "arrays":
        raise UsageError(
            f"task={name!r} lay in the memory of a process; give it again: nas.search(resume=..., task=...)"
        )
    if name in NAMES and kind not in PLACED and kind != "table":
        return
    if not place and os.path.exists(os.path.expanduser(name)):
        kind = "npz" if name.endswith(".npz") else "folder"
        raise UsageError(f"task={name!r} must say what is there: {kind}:{name}, or another of {', '.join(NAMES)}")
    if kind not in PLACED or not place:
        raise unknown("task", name, NAMES)
    if kind == "coco" and not all(place.rpartition(",")):
        raise UsageError(f"task={name!r} must be coco:JSON,DIR, with the folder of the images")


def lasting_task(name: str) -> str:
    """The name that finds the data from any folder."""
    kind, colon, place = name.partition(":")
    if colon and kind in (*PLACED, "table"):
        return f"{kind}:{','.join(map(os.path.abspath, places(kind, place)))}"
    return registry.lasting(name)


def places(kind: str, place: str) -> list[str]:
    """The paths in the name of a task, from the home folder where they begin with ~."""
    return [os.path.expanduser(each) for each in (place.rsplit(",", 1) if kind == "coco" else [place])]


def load(
    name: str,
    *,
    data_dir: str | None = None,
    image_size: int | None = None,
    resize: Resize = "crop",
    split_seed: int = 0,
    max_images: int | None = None,
    skip_invalid: bool = False,
    heard: Heard | None = None,
) -> "Task":
    """The task of this name, the same for the same arguments and data.

    `data_dir` says where fashion-mnist and cifar10 lie. Images become `image_size` x `image_size`, by `resize` where
    they are not square: see `split`; those of folders that are not squares of one size become 64 x 64, or 32 x 32 where
    most of them are smaller, where no size is given. `max_images` keeps at most so many training and validation images
    together, and the same share of test. `skip_invalid` leaves out the images and objects of folders and detection
    tasks that are invalid, and says how many in the note of the task; otherwise the first is an error. `heard` is
    called now and then while the files of a folder are read.
    """
    asked = reading(
        name,
        data_dir=data_dir,
        image_size=image_size,
        resize=resize,
        split_seed=split_seed,
        max_images=max_images,
        skip_invalid=skip_invalid,
        heard=heard,
    )
    from nas.tasks import kept

    source = kept.source_of(asked)
    if source is not None and (task := kept.found(source, asked, split_seed, max_images)) is not None:
        return task
    return made(asked, read(asked, source), split_seed, max_images)


def reading(
    name: str,
    *,
    data_dir: str | None,
    image_size: int | None,
    resize: Resize,
    split_seed: int,
    max_images: int | None,
    skip_invalid: bool,
    heard: Heard | None = None,
) -> Reading:
    """What is asked of the reader of a task. Raises UsageError for options that are none, or not of this task."""
    from nas.tasks.base import check_options

    check_name(name)
    check_options(split_seed, max_images, image_size, resize)
    kind, _, place = name.partition(":")
    if data_dir is not None and kind not in ("fashion-mnist", "cifar10"):
        raise UsageError(f"data_dir={data_dir!r} is not used by task={name!r}; allowed: fashion-mnist and cifar10")
    if kind in DETECTION and resize != "crop":
        said = "images of a detection task are scaled to fit, with black to the right and below"
        raise UsageError(f"resize={resize!r} must be crop, its default, for task={name!r}: {said}")
    check_skips(name, skip_invalid)
    where = ",".join(places(kind, place or data_dir or "")) or None
    return Reading(name, where, image_size, resize, skip_invalid, heard)


def read(asked: Reading, source: "Source | None" = None) -> "Raw":
    """The data as they lie there; `source` is what is known of their files already. Raises UsageError."""
    from nas.tasks import kept
    from nas.tasks.base import own_images

    if registry.is_own("task", asked.name):
        return own_images(asked.name, registry.own("task", asked.name))
    source = source or kept.source_of(asked)
    return TASKS[asked.name.partition(":")[0]](asked)._replace(source=source)


def made(asked: Reading, raw: "Raw", split_seed: int, max_images: int | None) -> "Task":
    """The task of what was read: see `nas.tasks.base.split`."""
    from nas.tasks import kept
    from nas.tasks.base import split

    def kept_as() -> str | None:
        """The name of the folder of a task that is large."""
        if raw.source is None:
            return None
        if kept.source_of(asked) != raw.source:
            raise UsageError(f"task={asked.name!r} has files that changed while they were read; try again")
        return raw.source.name(split_seed, max_images, skipped=asked.invalid.count > 0)

    return split(
        asked.name,
        *raw.train,
        raw.num_classes,
        seed=split_seed,
        valid=raw.valid,
        test=raw.test,
        max_images=max_images,
        image_size=asked.image_size,
        resize=asked.resize,
        classes=raw.classes,
        found=raw.found,
        remark=raw.note,
        kept_as=kept_as,
    )


def check_skips(name: str, skip_invalid: bool) -> None:
    """Raises UsageError where what is invalid cannot be left out."""
    if skip_invalid and name.partition(":")[0] not in SKIPPING:
        raise UsageError(f"skip_invalid=True is not used by task={name!r}; allowed: {', '.join(SKIPPING)}")
