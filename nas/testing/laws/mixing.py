"""The laws of mixtures, of spaces that have them: see `spaces.abilities.Mixable`."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from nas.testing.laws.base import calls, first, law
from spaces.abilities import Mixable, Mixing
from spaces.base import Encodings
from spaces.shared import OneHot


def check(space: Mixable, rows: Encodings) -> None:
    """Mixtures that stand for architectures, and any others. Raises Broken."""
    mixing = calls("mixing() says how a mixture is laid out", space, space.mixing)
    law(isinstance(mixing, Mixing), "mixing() gives a spaces.abilities.Mixing", space, type(mixing).__name__)
    _check_fields(mixing)
    edges, n = len(mixing.nodes), len(mixing.ops)
    ops = calls("edge_ops takes encodings", rows[0], jax.jit(space.edge_ops), rows)
    law(ops.shape == (len(rows), edges), "edge_ops gives an operation for each edge", rows[0], ops.shape)
    first(((ops >= 0) & (ops < _counts(mixing)[None])).all(1), "edge_ops are operations of mixing()", rows, ops)
    derive = jax.jit(jax.vmap(space.derive))
    own = jax.nn.one_hot(ops, n)
    found = calls("derive takes a mixture [edges, ops]", ops[0], derive, own)
    law(found.shape == rows.shape, "derive gives an encoding", ops[0], found.shape)
    again = space.edge_ops(found)
    first((again == ops).all(1), "an architecture is derived from its own operations", rows, found)
    costs = space.cost(rows)
    for name, (fixed, table) in mixing.costs.items():
        law(name in costs, "mixing().costs are some of cost", name, ", ".join(costs))
        sums = float(fixed) + (own * jnp.asarray(table, jnp.float32)[None]).sum((1, 2))
        right = jnp.abs(sums - costs[name]) <= 1e-4 * jnp.abs(costs[name])
        first(right, f"mixing().costs[{name!r}] add up to the costs of architectures", rows, sums)
    weights = jax.nn.softmax(jax.vmap(mixing.masked)(jr.normal(jr.key(0), (len(rows), edges, n))))
    found, cubed = derive(weights), derive(weights**3)
    check_derived(space, weights, found)
    first((found == cubed).all(1), "only the order of the weights decides what is derived", weights, cubed)


def check_derived(space: Mixable, weights: jax.Array, found: Encodings) -> None:
    inside = ((found >= 0) & (found < jnp.asarray(space.cardinalities)[None])).all(1)
    first(inside, "what is derived is of the space", weights, found)


def of(space: Mixable, row: np.ndarray) -> Any:
    """A mixture for the supernet: the operations of this row where it takes one-hot ones alone, else of all."""
    mixing = space.mixing()
    if mixing.one_hot:
        return OneHot(jax.nn.one_hot(space.edge_ops(jnp.asarray(row)[None])[0], len(mixing.ops)))
    shape = len(mixing.nodes), len(mixing.ops)
    return jax.nn.softmax(mixing.masked(jr.normal(jr.key(0), shape)))


def _counts(mixing: Mixing) -> np.ndarray:
    return np.full(len(mixing.nodes), len(mixing.ops)) if mixing.counts is None else np.asarray(mixing.counts)


def _check_fields(mixing: Mixing) -> None:
    edges, n = len(mixing.nodes), len(mixing.ops)
    law(edges and n, "mixing() has edges and operations", mixing.ops, mixing.nodes)

    def keeps(name: str, holds: bool, said: str) -> None:
        law(holds, f"mixing().{name} {said}", f"{edges} edges, {n} operations", getattr(mixing, name))

    keeps(
        "kept", len(mixing.kept) == edges and all(0 < each <= 1 for each in mixing.kept), "is in (0, 1] for each edge"
    )
    keeps("normal", 0 <= mixing.normal <= edges, f"is in 0..{edges}")
    keeps("partial", mixing.partial >= 1, "is at least 1")
    for name in ("none", "skip"):
        op = getattr(mixing, name)
        keeps(name, op is None or (type(op) is int and 0 <= op < n), f"is an operation, in 0..{n - 1}, or None")
    keeps("skip", mixing.skip is None or mixing.skip != mixing.none, "is another operation than none")
    counts = _counts(mixing)
    fits = counts.shape == (edges,) and bool(((counts >= 1) & (counts <= n)).all())
    keeps("counts", fits, f"is in 1..{n} for each edge, or None")
    for name, (_, table) in mixing.costs.items():
        law(
            np.shape(table) == (edges, n),
            f"mixing().costs[{name!r}] is a number for each operation",
            edges,
            np.shape(table),
        )
