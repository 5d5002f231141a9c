"""Modules of the user's own for a process that has not their files: what lies beside a part, and is imported by it.

They travel as text, as parts do themselves, so that a worker on another machine imports what this process has imported.
"""

import contextlib
import filecmp
import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec

from nas.errors import UsageError

MOST_BYTES = 2**24  # of all of them: what a worker is sent when it starts
INSTALLED = ("site-packages", "dist-packages")  # of which every machine has its own
PART = "nas_part_"  # how the names of modules begin that are files of parts
_beside: set[str] = set()  # the folders of parts, whose other modules can be imported
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


@contextlib.contextmanager
def importing_beside(path: str) -> Iterator[None]:
    """A part may import what lies beside its file, as a script may; a module that is installed goes before that.

    Raises UsageError where it imports what lies beside another part by the same name: a process has one of a name.
    """
    folder = os.path.dirname(path)
    if folder in _beside or folder not in sys.path:
        _beside.add(folder)
        sys.path[:] = [each for each in sys.path if each not in _beside] + [folder, *sorted(_beside - {folder})]
    namesakes = _namesakes(folder)
    others = [name for name, files in namesakes.items() if not filecmp.cmp(*files, shallow=False)]
    # Where all are equal to what lies beside it, they are as good.
    aside = {name: sys.modules.pop(name) for name in namesakes} if others else {}
    try:
        yield
    finally:
        twice = [name for name in others if name in sys.modules]
        sys.modules.update(aside)
    if twice:
        raise UsageError(
            f"{os.path.basename(path)} imports {twice[0]!r}, of which there is one beside it, and another one beside a "
            f"part that is in use, {namesakes[twice[0]][0]}: rename one of them"
        )


def _namesakes(folder: str) -> dict[str, tuple[str, str]]:
    """The files of modules that lie beside other parts, each with that of its name in this folder."""
    found = {}
    for name, module in list(sys.modules.items()):
        there = getattr(module, "__file__", None)
        if not there or name.startswith((PART, "__main__")):
            continue
        for other in _beside - {folder}:
            here = os.path.join(folder, there.removeprefix(os.path.join(other, "")))
            if here != there and os.path.isfile(here) and os.path.isfile(there):
                found[name] = there, here
    return found


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
