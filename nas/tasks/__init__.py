"""Tasks by name: image classification data with fixed train, valid and test parts."""

import os.path
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from nas import registry
from nas.errors import UsageError, unknown
from nas.tasks.names import NAMES

if TYPE_CHECKING:
    from nas.tasks.base import Raw, Task

Resize = Literal["crop", "pad", "stretch"]  # how images become squares of one size: see `nas.tasks.pixels.fit`


def _digits(place: str | None, image_size: int | None, resize: Resize) -> "Raw":
    del place, image_size, resize
    import numpy as np
    from sklearn.datasets import load_digits

    from nas.tasks.base import Raw

    rows, labels = load_digits(return_X_y=True)
    return Raw((np.reshape(rows, (-1, 8, 8)) / 16, np.asarray(labels)), num_classes=10)


def _fashion_mnist(place: str | None, image_size: int | None, resize: Resize) -> "Raw":
    del image_size, resize
    from nas.tasks.fashion import read_fashion_mnist

    return read_fashion_mnist(place)


def _cifar10(place: str | None, image_size: int | None, resize: Resize) -> "Raw":
    from nas.tasks.cifar import read_cifar10

    return read_cifar10(place, image_size, resize)


def _npz(place: str | None, image_size: int | None, resize: Resize) -> "Raw":
    del image_size, resize
    from nas.tasks.arrays import read_npz

    assert place is not None  # check_name saw to it
    return read_npz(place)


def _folder(place: str | None, image_size: int | None, resize: Resize) -> "Raw":
    from nas.tasks.folders import read_folder

    assert place is not None  # check_name saw to it
    return read_folder(place, image_size, resize)


# From where the data lies and how files are decoded. A name in PLACED says where: npz:FILE.
TASKS: dict[str, Callable[[str | None, int | None, Resize], "Raw"]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "npz": _npz,
    "folder": _folder,
}
PLACED = ("npz", "folder")


def check_name(name: str) -> None:
    """Raises unless `name` is that of a task; whether its data can be read shows when it is loaded."""
    kind, colon, place = name.partition(":")
    if registry.is_own("task", name):
        return
    if kind == "arrays":
        raise UsageError(
            f"task={name!r} lay in the memory of a process; give it again: nas.search(resume=..., task=...)"
        )
    if kind not in TASKS or (kind in PLACED) != bool(place) or (colon and not place):
        raise unknown("task", name, NAMES)


def lasting_task(name: str) -> str:
    """The name that finds the data from any folder."""
    kind, colon, place = name.partition(":")
    if colon and kind in (*PLACED, "table"):
        return f"{kind}:{os.path.abspath(os.path.expanduser(place))}"
    return registry.lasting(name)


def load(
    name: str,
    *,
    data_dir: str | None = None,
    image_size: int | None = None,
    resize: Resize = "crop",
    split_seed: int = 0,
    max_images: int | None = None,
) -> "Task":
    """The task of this name, the same for the same arguments and data.

    `data_dir` says where fashion-mnist and cifar10 lie. Images become `image_size` x `image_size`,
    by `resize` where they are not square: see `split`; those of folders that are not squares of one size
    become 32 x 32 where no size is given. `max_images` keeps at most so many training and validation images
    together, and the same share of test.
    """
    from nas.tasks.base import check_options, own_images, split

    check_name(name)
    check_options(split_seed, max_images, image_size, resize)
    kind, _, place = name.partition(":")
    if data_dir is not None and kind not in ("fashion-mnist", "cifar10"):
        raise UsageError(f"data_dir={data_dir!r} is not used by task={name!r}; allowed: fashion-mnist and cifar10")
    where = place or data_dir
    if registry.is_own("task", name):
        raw = own_images(name, registry.own("task", name))
    else:
        raw = TASKS[kind](where and os.path.expanduser(where), image_size, resize)
    return split(
        name,
        *raw.train,
        raw.num_classes,
        seed=split_seed,
        valid=raw.valid,
        test=raw.test,
        max_images=max_images,
        image_size=image_size,
        resize=resize,
        classes=raw.classes,
        found=raw.found,
    )
