"""How a law is tried, and how it is told that a part breaks it: the law; what it was tried on, and what was found."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from nas import registry
from nas.errors import UsageError


class Broken(AssertionError):
    """A law that a part breaks."""


@contextlib.contextmanager
def lawful(field: str) -> Iterator[None]:
    """Laws of a part that a command was given are tried in it. Raises UsageError where one does not hold."""
    try:
        yield
    except Broken as broken:
        raise UsageError(f"{field} breaks a law: {broken}") from broken


@contextlib.contextmanager
def foreseen() -> Iterator[None]:
    """What a part raises where nobody foresaw it breaks a law too."""
    try:
        yield
    except (Broken, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise Broken(f"it can be called as its protocol says; found {registry.told(error)}") from error


def law(holds: Any, said: str, tried: Any, found: Any) -> None:
    """Raises Broken where it does not hold."""
    if not bool(holds):
        raise Broken(f"{said}; tried {text(tried)}, found {text(found)}")


def first(holds: jax.Array | np.ndarray, said: str, rows: Any, found: Any) -> None:
    """The law for all rows, and in its complaint the first row for which it does not hold."""
    wrong = np.flatnonzero(~np.asarray(holds))
    if len(wrong):
        raise Broken(f"{said}; tried {text(rows[wrong[0]])}, found {text(found[wrong[0]])}")


def calls(said: str, tried: Any, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """What the call gives. It breaks the law that it raises."""
    try:
        return call(*given, **named)
    except (Broken, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise Broken(f"{said}; tried {text(tried)}, found {registry.told(error)}") from error


def has(part: Any, names: str) -> None:
    for name in names.split():
        calls(f"it must have {name!r}", called(part), getattr, part, name)


def frozen(part: Any) -> None:
    name = type(part).__name__
    law(not isinstance(part, type), "it is a value, and no class", part, f"a class; give {called(part)}()")
    fields = getattr(part, "__dataclass_params__", None)
    law(fields is not None and fields.frozen, "it is a frozen dataclass", name, "one that is not")
    calls("it can be hashed", f"hash({name})", hash, part)
    twin = dataclasses.replace(part)
    same = calls("values can be compared", part, lambda: twin == part)
    law(same is True and hash(twin) == hash(part), "equal fields make equal values", part, twin)


def called(part: Any) -> str:
    return part.__name__ if isinstance(part, type) else type(part).__name__


def text(value: Any) -> str:
    """In one line, of 200 letters or so."""
    if isinstance(value, jax.Array | np.ndarray):
        value = np.asarray(value).tolist()
    try:
        said = " ".join(str(value).split())
    except Exception:  # what tells of the broken law must not break
        said = f"a {type(value).__name__}"
    return said if len(said) <= 200 else said[:200] + "..."


def anew(function: Callable[..., Any], **how: Any) -> Callable[..., Any]:
    """The function as a program that is traced once more: what it draws from elsewhere than a key is then another."""
    return jax.jit(lambda *given: function(*given), **how)


def leaves(tree: Any) -> Iterator[np.ndarray]:
    for leaf in jax.tree.leaves(tree):
        yield np.asarray(jr.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def shapes(tree: Any) -> list[Any]:
    return [(leaf.shape, leaf.dtype) for leaf in leaves(tree)]


def alike(one: Any, other: Any) -> bool:
    """Whether two trees have equal arrays, those of floats up to rounding."""

    def same(a: np.ndarray, b: np.ndarray) -> bool:
        if a.shape != b.shape:
            return False
        return np.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True) if a.dtype.kind == "f" else np.array_equal(a, b)

    ours, theirs = list(leaves(one)), list(leaves(other))
    return len(ours) == len(theirs) and all(map(same, ours, theirs))
