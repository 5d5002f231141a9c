"""Modules of the user's own for a process that has not their files: what lies beside a part, and is imported by it.

They travel as text, as parts do themselves, so that a worker on another machine imports what this process has imported.
"""

import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping
from importlib.machinery import ModuleSpec

MOST_BYTES = 2**24  # of all of them: what a worker is sent when it starts
INSTALLED = ("site-packages", "dist-packages")  # of which every machine has its own
Sources = dict[str, tuple[str, bytes]]  # by the name of the module: where its file lies, and what is in it


def beside(folders: Iterable[str], apart: Iterable[str]) -> Sources:
    """The modules of this process whose files lie in these folders or below; but those of the packages `apart`."""
    found: Sources = {}
    roots, apart = {os.path.join(folder, "") for folder in folders}, {*apart, "__main__", "__mp_main__"}
    for name, module in sorted(sys.modules.items()) if roots else ():
        path = getattr(module, "__file__", None)
        if not path or not path.endswith(".py") or name.partition(".")[0] in apart:
            continue
        if any(_is_below(path, root) for root in roots):
            _add(found, name, path)
    return found if sum(len(source) for _, source in found.values()) <= MOST_BYTES else {}


def _is_below(path: str, root: str) -> bool:
    """Whether a file belongs to a folder, and not to an environment that lies in it."""
    if not path.startswith(root):
        return False
    below = path.removeprefix(root).split(os.sep)
    return not any(part in INSTALLED or part.startswith(".") for part in below[:-1])


def _add(found: Sources, name: str, path: str) -> None:
    try:
        with open(path, "rb") as file:
            found[name] = path, file.read(MOST_BYTES + 1)
    except OSError:
        return  # it is gone since it was imported
    parent = name.rpartition(".")[0]
    while parent and parent not in found:
        if getattr(sys.modules.get(parent), "__file__", None) is None:  # a package without a file
            found[parent] = os.path.join(os.path.dirname(path), "__init__.py"), b""
        parent = parent.rpartition(".")[0]


def serve(sources: Mapping[str, tuple[str, bytes]]) -> None:
    """Lets this process import these modules, before any other of their names."""
    if sources:
        sys.meta_path.insert(0, _Finder(dict(sources)))


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Finds and loads modules of which it has the text."""

    def __init__(self, sources: Sources):
        self._sources = sources

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        del path, target
        return importlib.util.spec_from_loader(name, self) if name in self._sources else None

    def get_filename(self, fullname: str) -> str:
        return self._sources[fullname][0]

    def get_data(self, path: str | bytes) -> bytes:
        for place, source in self._sources.values():
            if place == path:
                return source
        raise OSError(path)  # such as compiled code, of which there is none
