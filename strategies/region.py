"""The part of a space that keeps the hard limits, and how to draw from it in a bounded number of tries.

Proposals have a fixed shape and no retry loop: each slot has a row of candidates, and takes the first that will do.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int, UInt32

from spaces.base import Encodings, Limits, Space, feasible, sample, smallest

Candidates = Int[Array, "n tries length"]
Hashes = UInt32[Array, "*n 2"]


@struct.dataclass
class Region:
    """A space and its limits. `anchor` keeps all of them; candidates are pulled towards it when none is legal."""

    space: Space = struct.field(pytree_node=False)
    limits: Limits = struct.field(pytree_node=False)
    anchor: tuple[int, ...] = struct.field(pytree_node=False)


def region(space: Space, limits: Limits = ()) -> Region:
    """Raises ValueError, saying the smallest cost there is, where no architecture keeps the limits."""
    names = space.cost(jnp.zeros((1, len(space.cardinalities)), jnp.int32))
    for name, most in limits:
        if name not in names:
            raise ValueError(f"limit on {name!r}: the space's costs are {', '.join(sorted(names))}")
        least = float(space.cost(jnp.asarray(smallest(space, ((name, 1.0),)))[None])[name][0])
        if not most >= least:
            raise ValueError(f"max_{name}={most:g} excludes every architecture: the smallest {name} is {least:.0f}")
    anchor = smallest(space, limits) if limits else np.zeros(len(space.cardinalities), np.int32)
    if not bool(feasible(space, jnp.asarray(anchor)[None], limits)[0]):
        both = ", ".join(f"max_{name}={most:g}" for name, most in limits)
        raise ValueError(f"{both}: no architecture was found that keeps all of these limits together")
    return Region(space, tuple(limits), tuple(int(choice) for choice in anchor))


def draw(where: Region, key: jax.Array, n: int, tries: int = 32) -> Encodings:
    """`n` legal rows, uniform by rejection; one that is refused every time is pulled towards the anchor."""
    tries = tries if where.limits else 1
    return pick(where, repeat(lambda k: sample(where.space, k, n), key, tries), key, no_hashes(), distinct=False)


def repeat(propose: Callable[[jax.Array], Encodings], key: jax.Array, tries: int) -> Candidates:
    """`tries` independent proposals for each slot."""
    return jnp.swapaxes(jax.vmap(propose)(jr.split(key, tries)), 0, 1)


def pick(where: Region, candidates: Candidates, key: jax.Array, seen: Hashes, *, distinct: bool = True) -> Encodings:
    """For each slot its first candidate that is legal and, if `distinct`, neither seen nor taken by another slot.

    Where none is, the candidates are pulled towards the anchor until they are legal, and the first new one of these
    is taken; where even that fails, because hardly any legal architecture is left, a legal one that is not new.
    """
    n, tries, length = candidates.shape
    if not where.limits and not distinct:
        return where.space.canonical(candidates[:, 0])
    if not where.limits:  # everything is legal: nothing needs to be pulled
        rows = where.space.canonical(candidates.reshape(-1, length)).reshape(n, tries, length)
        return _distinct(rows, jnp.ones((n, tries), bool), seen)
    pulled = _pull(where, key, candidates.reshape(n * tries, length)).reshape(n, tries, length)
    rows = jnp.concatenate([where.space.canonical(c.reshape(-1, length)) for c in (candidates, pulled)])
    rows = jnp.swapaxes(rows.reshape(2, n, tries, length), 0, 1).reshape(n, 2 * tries, length)
    legal = feasible(where.space, rows.reshape(-1, length), where.limits).reshape(n, 2 * tries)
    if not distinct:
        return rows[jnp.arange(n), jnp.argmax(legal, axis=1)]
    return _distinct(rows, legal, seen)


def _distinct(rows: Candidates, legal: Bool[Array, "n tries"], seen: Hashes) -> Encodings:
    """For each slot its first row that is legal, not seen and not taken by another slot, or else its first legal."""
    n = len(rows)
    hashes = hash_rows(rows)
    new = ~contains(seen, hashes.reshape(-1, 2)).reshape(legal.shape)

    def take(taken: Hashes, slot):
        i, row, legal, new, hashes = slot
        free = new & ~contains(taken, hashes)
        best = jnp.argmax(2 * legal + (legal & free))  # first of: legal and new, legal
        return taken.at[i].set(hashes[best]), row[best]

    return jax.lax.scan(take, jnp.zeros((n, 2), jnp.uint32), (jnp.arange(n), rows, legal, new, hashes))[1]


def _pull(where: Region, key: jax.Array, rows: Encodings) -> Encodings:
    """Each row with as few decisions as it takes, in random order, set to the anchor's."""
    n, length = rows.shape
    rank = jnp.argsort(jr.uniform(key, (n, length)), axis=1)
    steps = jnp.arange(length + 1)
    moved = jnp.where(
        rank[:, None] < steps[None, :, None], jnp.asarray(where.anchor, jnp.int32)[None, None], rows[:, None]
    )
    legal = feasible(where.space, moved.reshape(-1, length), where.limits).reshape(n, length + 1)
    return moved[jnp.arange(n), jnp.argmax(legal, axis=1)]


def hash_rows(rows: Int[Array, "*n length"]) -> Hashes:
    """64 bits a row. Among 4,096 rows two different ones share a hash with probability below 1e-12."""
    factors = np.random.default_rng(0).integers(1, 2**32, (2, rows.shape[-1] + 1), dtype=np.uint32) | 1
    mixed = (rows[..., None, :].astype(jnp.uint32) + 1) * jnp.asarray(factors[:, 1:])[(None,) * (rows.ndim - 1)]
    mixed = mixed ^ (mixed >> 15)
    total = (mixed * jnp.asarray(factors[:, 1:] * 3)[(None,) * (rows.ndim - 1)]).sum(-1, dtype=jnp.uint32)
    return jnp.maximum(total ^ (total >> 13), 1)  # 0 marks an empty slot


def no_hashes() -> Hashes:
    return jnp.zeros((1, 2), jnp.uint32)


def contains(table: UInt32[Array, "entries 2"], hashes: UInt32[Array, "n 2"]) -> Bool[Array, "n"]:
    return (hashes[:, None] == table[None]).all(-1).any(1)
