"""The spaces by name. Each is a module whose `PRESETS` are its values by name, the first being the default.

Where another preset suits larger images better, its `LARGER` says from how many pixels of a side on.
"""

import importlib

from spaces.abilities import Published
from spaces.base import Space

SPACES = {
    "shufflenet": "spaces.shufflenet",
    "nasbench201": "spaces.nasbench201",
    "darts": "spaces.darts",
    "nasnet": "spaces.nasnet",
    "binary": "spaces.binary",
    "nas-fpn": "spaces.nas_fpn",
    "binary-width": "spaces.binary_width",
}


def presets(name: str) -> dict[str, Space]:
    """The values of a space by preset. Raises KeyError for a name that is not in `SPACES`."""
    return importlib.import_module(SPACES[name]).PRESETS


def suited(name: str, image_size: int) -> str | None:
    """The preset of a space that suits images of this size; None for the default. Raises KeyError as `presets` does."""
    larger = getattr(importlib.import_module(SPACES[name]), "LARGER", {})
    return max((each for each in larger if image_size >= larger[each]), key=larger.__getitem__, default=None)


def published(space: str, name: str) -> Published:
    """An architecture by its name. Raises KeyError with all names that there are."""
    try:
        return importlib.import_module(SPACES[space]).published(name)
    except (KeyError, AttributeError):
        modules = {each: importlib.import_module(place) for each, place in SPACES.items()}
        known = {each: module for each, module in modules.items() if hasattr(module, "published")}
        raise KeyError([f"{each}:{one}" for each, module in known.items() for one in module.PUBLISHED]) from None
