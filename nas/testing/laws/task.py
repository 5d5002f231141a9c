"""The laws of tasks: what is searched on is the same each time."""

from typing import Any

import numpy as np

from nas import registry
from nas.errors import UsageError
from nas.testing.laws.base import Broken, foreseen, law


@foreseen()
def check_task(part: Any) -> None:
    """That a task of one's own, a function or what it gives, can be searched on. Raises Broken."""
    from nas.tasks.base import own_images, split

    if callable(part) and (called := getattr(part, "__qualname__", None)):
        registry.hold("task", called, part)  # so that a mistake in it is told with its place
    try:
        raw = own_images("own", part)
        # It asks the kind whether there is enough to learn, and to measure by.
        split("own", *raw.train, raw.num_classes, valid=raw.valid, test=raw.test, classes=raw.classes)
        again = own_images("own", part)
    except UsageError as error:
        raise Broken(str(error)) from error
    for name in ("train", "valid", "test"):
        one, other = getattr(raw, name), getattr(again, name)
        law((one is None) == (other is None), "a task has the same parts each time", name, _told(other))
        for what, first, second in zip(("images", "labels"), one or (), other or (), strict=False):
            said = f"a task gives the same data each time: {name}.{what}"
            law(np.array_equal(first, second), said, _told(first), f"another {_told(second)}")
    for name in ("num_classes", "classes"):
        one, other = getattr(raw, name), getattr(again, name)
        law(one == other, f"a task has the same {name} each time", one, other)


def _told(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
