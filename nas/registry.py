"""Parts of a search by name: ours, those of installed packages, and the user's own.

A part is named `package.module:Name` or `path/file.py:Name`, or by the entry point of an installed package in a group
of `nas.spaces`, `nas.strategies`, `nas.predictors`, `nas.tasks`, `nas.evaluators` and `nas.costs`. It is a class whose
fields have defaults, a function without arguments that gives a value, or the value itself; of a task it is a function
that gives images and labels, of a cost one that gives numbers.
Python callers may give the value: `nas.search(space=MySpace(), task=(images, labels))`.

Naming a part runs its code. So a name counts only where the user gives it: on the command line, in a configuration,
from Python, or by going on with a run. A name that stands in a file that came from elsewhere, such as an exported
network or a saved predictor, is looked up among the parts that this process has been given, and nowhere else.
"""

import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from nas.errors import UsageError, unknown

MARK = "__nas_part__"  # of a module that is the user's own file: its name, the same on every machine
_given: dict[tuple[str, str], Any] = {}  # the user's own parts of this process, by kind and portable name
_sources: dict[str, tuple[str, bytes]] = {}  # of modules made of files: where they lie, and what is in them


def ours(kind: str) -> tuple[str, ...]:
    """The names of our own parts of a kind."""
    if kind == "space":
        from spaces import SPACES as names
    elif kind == "strategy":
        from strategies import GRADIENT_STRATEGIES, STRATEGIES

        names = (*STRATEGIES, *GRADIENT_STRATEGIES)
    elif kind == "predictor":
        from predictors import PREDICTORS as names
    elif kind == "evaluator":
        from nas.evaluators import EVALUATORS as names
    elif kind == "cost":
        names = ()
    else:
        from nas.tasks.names import NAMES as names
    return tuple(names)


def factors(kind: str, name: str) -> tuple[str, str] | None:
    """Of a product of two spaces, `BACKBONE+NECK`, the names of both: one of them at least is ours."""
    first, plus, second = name.rpartition("+")
    ends = {each.partition(":")[0] for each in (first, second)}
    return (first, second) if kind == "space" and plus and ends & set(ours(kind)) else None


def is_own(kind: str, name: str, *, given: bool = True) -> bool:
    """Whether a name is that of a part of the user's own: a file, a module that there is, or an entry point.

    Of a name that the user did not give nothing is looked for: to find a module is to run the packages around it.
    """
    module, colon, attribute = name.rpartition(":")
    if name.partition(":")[0] in {each.partition(":")[0] for each in ours(kind)} or factors(kind, name):
        return False
    if (kind, name) in _given or name in _entry_points(kind) or module.endswith(".py"):
        return True
    dotted = all(word.isidentifier() for word in module.split("."))
    return bool(colon) and dotted and attribute.isidentifier() and (not given or _module_exists(module))


def own(kind: str, name: str, *, given: bool = True) -> Any:
    """The user's own part of a name, as it is: see `is_own`. `given` says whether the user gave the name.

    Raises UsageError, with file and line, where its code fails.
    """
    short = portable(name)
    module_name, _, attribute = name.rpartition(":")
    if (kind, short) in _given and not (given and module_name.endswith(".py")):  # a file may be another one
        return _given[kind, short]
    if not given:
        raise UsageError(
            f"{kind}={name!r} is code that this process was not told to run; name it: --{kind} path/to/{short}, or "
            f"nas.registry.own({kind!r}, 'path/to/{short}')"
        )
    try:
        if name in _entry_points(kind):
            part = _entry_points(kind)[name].load()
        elif module_name.endswith(".py"):
            part = _attribute(kind, name, _from_file(kind, name, Path(module_name)), attribute)
        else:
            part = _attribute(kind, name, importlib.import_module(module_name), attribute)
    except UsageError:
        raise
    except Exception as error:
        said = told(error) if where(error) else f"{module_name}: {told(error)}"
        raise UsageError(f"{kind}={name!r}: {said}") from error
    _given[kind, short] = part
    return part


def _attribute(kind: str, name: str, module: ModuleType, attribute: str) -> Any:
    if not hasattr(module, attribute):
        names = [each for each, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise unknown(kind, name, [f"{name.rpartition(':')[0]}:{each}" for each in names])
    return getattr(module, attribute)


def value(kind: str, name: str, *, given: bool = True) -> Any:
    """The user's own part as the value whose fields can be set: a frozen dataclass. Raises UsageError."""
    part = own(kind, name, given=given)
    try:
        made = part if dataclasses.is_dataclass(part) and not isinstance(part, type) else part()
    except Exception as error:
        raise UsageError(
            f"{kind}={name!r} must be a class or function that can be called without arguments: {told(error)}"
        ) from error
    if not dataclasses.is_dataclass(made) or not made.__dataclass_params__.frozen:  # pyright: ignore
        raise UsageError(f"{kind}={name!r} gives a {type(made).__name__}, which must be a frozen dataclass")
    return made


def name_of(kind: str, part: Any) -> str:
    """The name by which another process finds a class or function of the user's own, which this one now knows."""
    module = sys.modules[part.__module__]
    if module.__name__ in _sources:
        name = f"{_sources[module.__name__][0]}:{part.__qualname__}"
    elif module.__name__ == "__main__" and getattr(module, "__file__", None):
        path = Path(str(module.__file__)).resolve()
        setattr(module, MARK, _mark(path.name, path.read_bytes()))
        name = f"{path}:{part.__qualname__}"
    else:
        name = f"{module.__name__}:{part.__qualname__}"
    _given[kind, portable(name)] = part
    return name


def hold(kind: str, name: str, part: Any) -> None:
    """Lets a name stand for what lies in the memory of this process alone."""
    _given[kind, name] = part


def portable(name: str) -> str:
    """The name without the folder of its file: the same on every machine."""
    head, colon, attribute = name.rpartition(":")
    return f"{os.path.basename(head)}{colon}{attribute}" if head.endswith(".py") else name


def lasting(name: str) -> str:
    """The name that finds the part from any folder."""
    head, colon, attribute = name.rpartition(":")
    return f"{Path(head).expanduser().resolve()}{colon}{attribute}" if head.endswith(".py") else name


def where(error: BaseException) -> str | None:
    """The place in a user's own file at which an exception arose: `my_space.py, line 12`; None for any other."""
    paths = {path for path, _ in _sources.values()}
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((str(error.filename), error.lineno))
    inside = [(path, line) for path, line in places if path in paths]
    return f"{os.path.basename(inside[-1][0])}, line {inside[-1][1]}" if inside else None


def told(error: BaseException) -> str:
    """An exception in one line, with its place in a user's own file where it arose there."""
    place, said = where(error), f"{type(error).__name__}: {error}"
    return said if place is None else f"{place}: {said}"


# The code of one process for another.


def sources() -> dict[str, tuple[str, bytes]]:
    """The user's own files that this process has run, by the name of their modules: what a worker needs."""
    return dict(_sources)


def install(given: Mapping[str, tuple[str, bytes]]) -> None:
    """Makes modules of files of another process, on whatever machine that is."""
    for name, (path, source) in given.items():
        if name not in sys.modules:
            _run(name, path, source)


def _from_file(kind: str, name: str, path: Path) -> ModuleType:
    path = path.expanduser().resolve()
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{kind}={name!r}: the file cannot be read: {error.strerror}") from error
    module_name = f"nas_part_{path.stem}_{hashlib.sha256(str(path).encode() + source).hexdigest()[:12]}"
    return sys.modules[module_name] if module_name in sys.modules else _run(module_name, str(path), source)


def _run(name: str, path: str, source: bytes) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = path
    setattr(module, MARK, _mark(os.path.basename(path), source))
    folder = os.path.dirname(path)
    if folder not in sys.path:
        sys.path.append(folder)  # as Python does for a script: it may import what lies beside it
    sys.modules[name], _sources[name] = module, (path, source)
    try:
        exec(compile(source, path, "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _mark(name: str, source: bytes) -> str:
    """The name of a file with a digest of its code, for which comments and empty lines do not matter."""
    lines = (line.rstrip() for line in source.splitlines())
    code = b"\n".join(line for line in lines if line and not line.lstrip().startswith(b"#"))
    return f"{name}#{hashlib.sha256(code).hexdigest()[:12]}"


def _module_exists(name: str) -> bool:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # modules beside the configuration, as with `python -m`
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


@functools.cache
def _entry_points(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    group = "nas.strategies" if kind == "strategy" else f"nas.{kind}s"
    return {point.name: point for point in importlib.metadata.entry_points(group=group)}
