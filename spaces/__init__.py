"""The spaces by name. Each is a module whose `PRESETS` are its values by name, the first being the default."""

import importlib

from spaces.abilities import Published
from spaces.base import Space

SPACES = {
    "shufflenet": "spaces.shufflenet",
    "nasbench201": "spaces.nasbench201",
    "darts": "spaces.darts",
    "nasnet": "spaces.nasnet",
}


def presets(name: str) -> dict[str, Space]:
    """The values of a space by preset. Raises KeyError for a name that is not in `SPACES`."""
    return importlib.import_module(SPACES[name]).PRESETS


def published(space: str, name: str) -> Published:
    """An architecture by its name. Raises KeyError with all names that there are."""
    known = [name for name in SPACES if hasattr(importlib.import_module(SPACES[name]), "published")]
    names = [f"{each}:{one}" for each in known for one in importlib.import_module(SPACES[each]).PUBLISHED]
    try:
        return importlib.import_module(SPACES[space]).published(name)
    except (KeyError, AttributeError):
        raise KeyError(names) from None
