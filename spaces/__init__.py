"""The spaces by name. Each is a module whose `PRESETS` are its values by name, the first being the default."""

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


def published(space: str, name: str) -> Published:
    """An architecture by its name. Raises KeyError with all names that there are."""
    try:
        return importlib.import_module(SPACES[space]).published(name)
    except (KeyError, AttributeError):
        modules = {each: importlib.import_module(place) for each, place in SPACES.items()}
        known = {each: module for each, module in modules.items() if hasattr(module, "published")}
        raise KeyError([f"{each}:{one}" for each, module in known.items() for one in module.PUBLISHED]) from None
