"""Parts of a search by name: ours, those of installed packages, and the user's own.

A part is named `package.module:Name` or `path/file.py:Name`, or by the entry point of an installed package in a group
of `nas.spaces`, `nas.strategies`, `nas.predictors`, `nas.tasks`, `nas.evaluators` and `nas.costs`. It is a class whose
fields have defaults, a function without arguments that gives a value, or the value itself; of a task it is a function
that gives images and labels, of a cost one that gives numbers.
Python callers may give the value: `nas.search(space=MySpace(), task=(images, labels))`.

Naming a part runs its code. So a name counts only where the user gives it: on the command line, in a configuration,
from Python, or by going on with a run. A name that stands in a file that came from elsewhere, such as an exported
network or a saved predictor, is looked up among the parts that this process has been given, and nowhere else. The
file is long, for all of it asks one record, of the code of the user's own that this process has been given.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import operator
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from nas import shipped
from nas.errors import RunError, UsageError, unknown
from nas.plain import read_bounded, shown

MOST_BYTES = 2**22  # of a file with parts
MOST_SAID = 500  # letters of what an exception says
OURS = ("nas", "spaces", "strategies", "predictors")  # packages
# What classes that can be a part have; what of other kinds can be one is a function.
METHODS = {"space": "cardinalities describe", "strategy": "init", "predictor": "fit predict", "evaluator": "prepare"}
MARK = "__nas_part__"  # of a module that is the user's own file: its name, the same on every machine
_given: dict[tuple[str, str], Any] = {}  # the user's own parts of this process, by kind and portable name
_values: dict[tuple[str, str], Any] = {}  # those of them that were given as values, by kind and lasting name
_loading: list[str] = []  # the files that are being run, the innermost last
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
    if (kind, name) in _given or name in entry_points(kind) or name.endswith(".py") or module.endswith(".py"):
        return True
    dotted = all(word.isidentifier() for word in module.split("."))
    return bool(colon) and dotted and attribute.isidentifier() and (not given or _module_exists(module))


def own(kind: str, name: str, *, given: bool = True) -> Any:
    """The user's own part of a name, as it is: see `is_own`. `given` says whether the user gave the name.

    Raises UsageError, with file and line, where its code fails.
    """
    short = portable(name)
    module_name, _, attribute = name.rpartition(":")
    if (kind, lasting(name)) in _values:  # what was given, and not what its file says by now
        return _values[kind, lasting(name)]
    if (kind, short) in _given and not (given and module_name.endswith(".py")):  # a file may be another one
        return _given[kind, short]
    if module_name == "__main__" or "<locals>" in attribute:
        raise UsageError(
            f"{kind}={name!r} lay in the memory of a process; give it again: nas.search(resume=..., {kind}=...)"
        )
    if not given:
        raise UsageError(
            f"{kind}={name!r} is code that this process was not told to run; name it: --{kind} path/to/{short}, or "
            f"nas.registry.own({kind!r}, 'path/to/{short}')"
        )
    with guarded(f"{kind}={name!r}"):
        if name in entry_points(kind):
            part = entry_points(kind)[name].load()
        elif name.endswith(".py"):
            part = _attribute(kind, name, _from_file(kind, name, Path(name)), "")
        elif module_name.endswith(".py"):
            part = _attribute(kind, name, _from_file(kind, name, Path(module_name)), attribute)
        else:
            part = _attribute(kind, name, importlib.import_module(module_name), attribute)
    _given[kind, short] = part
    return part


def _attribute(kind: str, name: str, module: ModuleType, attribute: str) -> Any:
    with contextlib.suppress(AttributeError):
        return operator.attrgetter(attribute)(module)
    place = name.rpartition(":")[0] if attribute else name.removesuffix(":")
    names = [f"{place}:{each}" for each, value in vars(module).items() if _can_be(kind, each, value, module)]
    if attribute and names:
        raise unknown(kind, name, names)
    form = "CLASS" if kind in METHODS else "FUNCTION"
    known = f"one of {', '.join(sorted(names))}" if names else f"in which there is none that can be a {kind}"
    raise UsageError(f"{kind}={name!r} must be {place}:{form}, {known}")


def _can_be(kind: str, name: str, value: Any, module: ModuleType) -> bool:
    """Whether what a module defines can be a part of this kind: to be listed, nothing is run."""
    if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
        return False
    if not inspect.isfunction(value):
        has = {*dir(value), *getattr(value, "__dataclass_fields__", ())}
        return kind in METHODS and has.issuperset(METHODS[kind].split())
    needed = [each for each in inspect.signature(value).parameters.values() if each.default is each.empty]
    return kind == "cost" or not needed


@contextlib.contextmanager
def guarded(field: str) -> Iterator[None]:
    """Code of the user's own runs in it: what that raises, also to end the process, is one line. Raises UsageError."""
    try:
        yield
    except (UsageError, RunError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise UsageError(f"{field}: {told(error)}") from error


def calling(kind: str, part: Any) -> contextlib.AbstractContextManager[None]:
    """`guarded` for a part of the user's own; what ours raises is as it is."""
    cls = type(part)
    return contextlib.nullcontext() if is_ours(cls.__module__) else guarded(f"{kind}={cls.__name__!r}")


def value(kind: str, name: str, *, given: bool = True) -> Any:
    """The user's own part as the value whose fields can be set: a frozen dataclass. Raises UsageError."""
    part = own(kind, name, given=given)
    with guarded(f"{kind}={name!r} must be a class or function that can be called without arguments"):
        made = part if dataclasses.is_dataclass(part) and not isinstance(part, type) else part()
    if not dataclasses.is_dataclass(made) or not made.__dataclass_params__.frozen:  # pyright: ignore
        raise UsageError(f"{kind}={name!r} gives {type(made).__name__}, which must be a frozen dataclass")
    return made


def name_of(kind: str, part: Any) -> str:
    """The name by which another process finds a class or function of the user's own, which this one now knows.

    Raises UsageError for what has no name.
    """
    called = getattr(part, "__qualname__", None)
    if called is None or called.endswith("<lambda>"):
        said = f"{kind}={called or type(part).__name__!r}"
        raise UsageError(f"{said} has no name by which to find it again; write it as a function, by def")
    if part.__module__ == "__main__" and (script := _script()) is not None:
        _as_part(script)
    name = f"{_sources.get(part.__module__, (part.__module__, b''))[0]}:{called}"
    _given[kind, portable(name)] = _values[kind, name] = part
    return name


def mark(kind: str, name: str) -> str | None:
    """A digest of the code of the module that a part of the user's own is of; None where there is no file of it."""
    module = sys.modules.get(getattr(own(kind, name), "__module__", ""))
    path = getattr(module, "__file__", None)
    if module is None or hasattr(module, MARK) or is_ours(module.__name__):
        return getattr(module, MARK, None)
    return _mark(os.path.basename(path), Path(path).read_bytes()) if path and os.path.isfile(path) else None


def marks_beside() -> dict[str, str]:
    """Digests, by name, of the modules that lie beside parts of the user's own and were imported."""
    found = shipped.beside(_folders(), (*OURS, *_sources))
    return {name: _mark(name, source) for name, (_, source) in found.items()}


def is_ours(module: str) -> bool:
    return module.partition(".")[0] in OURS


def _script() -> Path | None:
    """The file that this process runs; None for a notebook, `python -c` and `python -`."""
    path = Path(str(getattr(sys.modules["__main__"], "__file__", None) or "")).resolve()
    return path if path.is_file() else None


def _as_part(script: Path) -> ModuleType:
    """The running script as a module with parts: what it defines is there, and it must not be run again."""
    module = sys.modules["__main__"]
    if module.__name__ not in _sources:
        _sources[module.__name__] = (str(script), script.read_bytes())
        setattr(module, MARK, _mark(script.name, _sources[module.__name__][1]))
    return module


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
    modules = {getattr(part, "__module__", None) or "" for part in _given.values()}
    paths = {getattr(sys.modules.get(name), "__file__", None) for name in modules if not is_ours(name)}
    paths |= {path for path, _ in _sources.values()}
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((str(error.filename), error.lineno))
    inside = [(path, line) for path, line in places if path in paths]
    return f"{os.path.basename(inside[-1][0])}, line {inside[-1][1]}" if inside else None


def is_of_own(error: BaseException) -> bool:
    """Whether an exception, or one that it was raised from, arose in a user's own file."""
    return where(error) is not None or (error.__cause__ is not None and is_of_own(error.__cause__))


def told(error: BaseException) -> str:
    """An exception in one line, with its place in a user's own file where it arose there."""
    place, said = where(error), type(error).__name__
    what = error.msg if isinstance(error, SyntaxError) else error  # which has its place already
    said = f"{said}: {_shown(what, str)}".removesuffix(": ")
    return said if place is None else f"{place}: {said}"


def _shown(value: Any, write: Any = repr) -> str:
    """What a value of anybody's says of itself, in one line that every stream takes."""
    try:
        text = write(value)
    except Exception as error:
        return f"{type(value).__name__} that says nothing ({type(error).__name__})"
    text = text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")  # which no server keeps
    return shown(" ".join(text.split()), MOST_SAID)


# The code of one process for another.


def sources() -> dict[str, tuple[str, bytes]]:
    """The user's own files that this process has run, by the name of their modules, and before them those that these
    have imported: what a worker needs."""
    return {**shipped.beside(_folders(), (*OURS, *_sources)), **_sources}


def _folders() -> set[str]:
    """Where parts of the user's own lie, each a file or in a package that is not installed."""
    found = {os.path.dirname(path) for path, _ in _sources.values()}
    for part in _given.values():
        top = (getattr(part, "__module__", None) or "").partition(".")[0]
        path = getattr(sys.modules.get(top), "__file__", None)
        if top in OURS or top in sys.stdlib_module_names:
            continue
        if path and not any(f"{os.sep}{name}{os.sep}" in path for name in shipped.INSTALLED):
            found.add(os.path.dirname(path))
    return found


def install(given: Mapping[str, tuple[str, bytes]]) -> None:
    """Makes modules of files of another process, on whatever machine that is."""
    parts = {name: source for name, source in given.items() if name == "__main__" or name.startswith(shipped.PART)}
    shipped.serve({name: source for name, source in given.items() if name not in parts})
    for name, (path, source) in parts.items():
        if name == "__main__":  # classes of the script travel by value; theirs is the identity of its code
            _sources[name] = (path, source)
            setattr(sys.modules[name], MARK, _mark(os.path.basename(path), source))
        elif name not in sys.modules:
            _run(name, path, source)


def _from_file(kind: str, name: str, path: Path) -> ModuleType:
    path = path.expanduser().resolve()
    if path == _script():  # which is a file
        return _as_part(path)
    if not path.exists():  # a file of another process, which this one was sent
        for module_name, (place, _) in _sources.items():
            if place == str(path):
                return sys.modules[module_name]
    source = read_bounded(f"{kind}={name!r}: the file", path, MOST_BYTES, "part")
    module_name = f"{shipped.PART}{path.stem}_{hashlib.sha256(str(path).encode() + source).hexdigest()[:12]}"
    return sys.modules[module_name] if module_name in sys.modules else _run(module_name, str(path), source)


def _run(name: str, path: str, source: bytes) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = path
    setattr(module, MARK, _mark(os.path.basename(path), source))
    sys.modules[name], _sources[name] = module, (path, source)
    _loading.append(path)
    try:
        with shipped.importing_beside(path):
            exec(compile(source, path, "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        _loading.pop()
    return module


def check_done() -> None:
    """Raises UsageError in a file that is run for its parts alone: a job that it starts would be another one."""
    if _loading:
        name = os.path.basename(_loading[-1])
        raise UsageError(
            f'{name} starts a job where its parts are looked for: put that under if __name__ == "__main__":'
        )


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
def entry_points(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    group = "nas.strategies" if kind == "strategy" else f"nas.{kind}s"
    return {point.name: point for point in importlib.metadata.entry_points(group=group)}
