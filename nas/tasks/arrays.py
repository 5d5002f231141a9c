"""A NumPy archive of images and labels, in one piece or in parts."""

import numpy as np

from nas.errors import UsageError
from nas.npz import open_arrays
from nas.plain import shown
from nas.tasks.base import Arrays, Raw, count_classes
from nas.tasks.pixels import most_bytes
from nas.tasks.room import empty

KEYS = "images and labels, or train_images and train_labels, and where given valid_*, test_* and classes"
NAMES = {f"{part}{kind}" for part in ("", "train_", "valid_", "test_") for kind in ("images", "labels")} | {"classes"}


def read_npz(place: str) -> Raw:
    """The number of classes is one more than the largest label; `classes` are their names, in order."""
    hint = f"allowed: a .npz archive of {KEYS}"
    found = open_arrays(f"npz={place!r}", place, most_bytes, NAMES, room=empty, hint=hint)
    names = list(found)
    found = {name: np.asarray(array) for name, array in found.items() if array is not None}

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
        raise UsageError(f"npz={place!r} has the arrays {shown(repr(sorted(names)))}; allowed: {KEYS}")
    valid, test = arrays("valid_"), arrays("test_")
    num_classes = count_classes(part[1] for part in (train, valid, test) if part is not None)
    classes = found.get("classes")
    if classes is None:
        return Raw(train, num_classes, valid, test)
    if classes.dtype.kind != "U" or classes.shape != (num_classes,):
        kind = f"{classes.dtype} {list(classes.shape)}"
        raise UsageError(f"npz={place!r}: classes={kind} must be texts [{num_classes}], one for each label")
    return Raw(train, num_classes, valid, test, tuple(classes.tolist()))
