"""Costs from outside of a space: what somebody measured or models, such as the latency of a device, and the head of a
task, which ends the networks of the space.

A cost is a function of the space and of encodings `[n, decisions]`, which gives `[n]` numbers, or such by name. One
that can be traced by JAX runs within its programs; any other is called from them, with arrays of NumPy.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from spaces import callbacks
from spaces.abilities import Mixable, map_kinds
from spaces.base import Encodings
from spaces.exits import of_all_exits


@runtime_checkable
class Summed(Protocol):
    """A cost whose numbers are sums over the edges of mixtures, which gradient strategies then weigh too."""

    def mixed(self, space: Any) -> dict[str, tuple[float, np.ndarray]]:
        """By name what all architectures pay, and what operations add: see `spaces.abilities.Mixing`."""
        ...


LONGEST = 100  # letters of a name
Cost = Callable[[Any, Any], Any]


def with_cost(space: Any, cost: Cost) -> Any:
    """The space with one cost more, whose name is that of the function unless it gives names.

    It is the same space otherwise, of a class that inherits from its own. Raises ValueError for what is no cost.
    """
    return _kind(type(space), cost, isinstance(space, Mixable) and isinstance(cost, Summed))(**_fields(space))


def with_head(space: Any, head: Mapping[str, tuple[int, ...]]) -> Any:
    """The space with the head of a task, whose `macs` and `params` are those of the whole network then. `head` has of
    each a number for every kind of body: one, but for the spaces that are `Varied`.

    By themselves they are `head_macs` and `head_params`, and what the space had, unless it has these names itself,
    `backbone_macs` and `backbone_params`. The space is the same otherwise, of a class that inherits from its own.
    """
    return _headed(type(space), tuple(head.items()), isinstance(space, Mixable))(**_fields(space))


@functools.lru_cache(maxsize=64)
def _headed(kind: type, head: tuple[tuple[str, tuple[int, ...]], ...], mixes: bool) -> type:
    def named(own: dict[str, Any], more: Callable[[Any, tuple[int, ...]], Any]) -> dict[str, Any]:
        """The costs with the head; `more` adds a number to what the space has, of which some is given."""
        some = next(iter(own.values()))
        body = {f"backbone_{name}": own[name] for name, _ in head if name in own}
        whole = {each: more(own[each], sizes) for name, sizes in head for each in of_all_exits(name, own)}
        return {**body, **own, **whole, **{f"head_{name}": more(_nothing(some), sizes) for name, sizes in head}}

    def cost(self: Any, encodings: Encodings) -> dict[str, jax.Array]:
        bodies = map_kinds(self, encodings)
        of_row = {sizes: jnp.asarray(sizes, jnp.float32)[bodies] for _, sizes in head}
        return named(kind.cost(self, encodings), lambda own, sizes: own + of_row[sizes])  # pyright: ignore

    def mixing(self: Any) -> Any:
        own = kind.mixing(self)  # pyright: ignore
        return own._replace(costs=named(own.costs, lambda cost, sizes: (cost[0] + sizes[0], cost[1])))

    def reduced(self: Any) -> tuple:
        return with_head, (kind(**_fields(self)), dict(head))

    more = {"mixing": mixing} if mixes else {}
    return type(kind.__name__, (kind,), {"cost": cost, "__reduce__": reduced, **more, **_members(kind)})


def _nothing(cost: Any) -> Any:
    return (0, np.zeros_like(cost[1])) if isinstance(cost, tuple) else jnp.zeros_like(cost)


def _members(kind: type) -> dict[str, Any]:
    """Of a class with more costs: its names, and the space without them (see `spaces.abilities.networks`)."""
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return {**names, "space": property(lambda self: kind(**_fields(self)))}


def _fields(space: Any) -> dict[str, Any]:
    return {field.name: getattr(space, field.name) for field in dataclasses.fields(space) if field.init}


@functools.lru_cache(maxsize=64)  # equal spaces are of one class
def _kind(kind: type, cost: Any, mixes: bool) -> type:
    def more(self: Any, encodings: Encodings) -> dict[str, jax.Array]:
        before = kind(**_fields(self))  # without the cost, which may build on what the space costs
        own, added = before.cost(encodings), _costs(before, cost, encodings)
        for name in added:
            if name in own:
                raise ValueError(f"cost {name!r} is one of the space already; give it another name")
        return {**own, **added}

    def mixing(self: Any) -> Any:
        own = kind.mixing(self)  # pyright: ignore
        return own._replace(costs={**own.costs, **cost.mixed(self)})

    def reduced(self: Any) -> tuple:
        """For another process, which has no such class yet."""
        return with_cost, (kind(**_fields(self)), cost)

    mixed = {"mixing": mixing} if mixes else {}
    return type(kind.__name__, (kind,), {"cost": more, "__reduce__": reduced, **mixed, **_members(kind)})


def _costs(space: Any, cost: Cost, encodings: Encodings) -> dict[str, jax.Array]:
    try:
        found = _named(cost, cost(space, encodings))
    except Exception as error:
        # With arrays of JAX code for NumPy fails in many ways. Whether it is such code is seen with its own.
        try:
            traced = isinstance(encodings, Tracer)
            found = _called(space, cost, encodings) if traced else _named(cost, cost(space, np.asarray(encodings)))
        except Exception:
            raise error from None
    n, given = encodings.shape[0], {name: jnp.asarray(values, jnp.float32) for name, values in found.items()}
    for name, values in given.items():
        if values.shape != (n,):
            raise ValueError(f"cost {name!r} gives {list(values.shape)} for {n} architectures, not [{n}]")
    return given


def _called(space: Any, cost: Cost, encodings: Encodings) -> dict[str, jax.Array]:
    """From within a program, for rows that are known only then."""
    length = encodings.shape[-1]
    names = list(_named(cost, cost(space, np.zeros((1, length), np.int32))))

    def host(rows: Any) -> list[np.ndarray]:
        rows = np.asarray(rows)
        try:
            found = _named(cost, cost(space, rows.reshape(-1, length)))
            return [np.asarray(found[name], np.float32).reshape(rows.shape[:-1]) for name in names]
        except BaseException as error:
            callbacks.keep(error)
            return [np.full(rows.shape[:-1], np.nan, np.float32)] * len(names)

    shape = jax.ShapeDtypeStruct(encodings.shape[:-1], jnp.float32)
    values = jax.pure_callback(host, [shape] * len(names), encodings, vmap_method="expand_dims")
    return dict(zip(names, values, strict=True))


def _named(cost: Cost, found: Any) -> dict[str, Any]:
    named = dict(found) if isinstance(found, Mapping) else {getattr(cost, "__name__", type(cost).__name__): found}
    for name in named:
        if not isinstance(name, str) or not name.isidentifier() or len(name) > LONGEST:
            raise ValueError(f"cost {name!r} must be called by a name of at most {LONGEST} letters, such as latency_ms")
    return named
