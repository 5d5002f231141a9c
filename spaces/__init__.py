"""The spaces by name. Each is a module whose `PRESETS` are its values by name, the first being the default."""

import importlib

from spaces.base import Space

SPACES = {"shufflenet": "spaces.shufflenet", "nasbench201": "spaces.nasbench201"}


def presets(name: str) -> dict[str, Space]:
    """The values of a space by preset. Raises KeyError for a name that is not in `SPACES`."""
    return importlib.import_module(SPACES[name]).PRESETS
