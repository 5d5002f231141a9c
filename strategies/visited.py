"""What a search has seen, so that nothing is proposed twice: all of it in a space whose encodings can be numbered,
the last of it in a larger one."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int, UInt32

from spaces.base import Encodings, Space, indices

INDEXED = 2**18  # encodings of a space that are looked at one by one

Rows = Int[Array, "n length"]  # those of -1 stand for nothing
Hashes = UInt32[Array, "*n 2"]


@struct.dataclass
class Visited:
    space: Space = struct.field(pytree_node=False)
    marked: Bool[Array, "size"] | None  # by the number of an encoding
    ring: Hashes | None  # else of the last rows; 0 where there is none


def nothing(space: Space, memory: int) -> Visited:
    size = math.prod(space.cardinalities)
    if size <= INDEXED:
        return Visited(space, jnp.zeros(size, bool), None)
    return Visited(space, None, jnp.zeros((memory, 2), jnp.uint32))


def visit(visited: Visited, rows: Rows, count: Int[Array, ""]) -> Visited:
    """What was seen, and these rows, before which `count` were observed; the oldest make room."""
    if visited.ring is None:
        return also(visited, rows)
    memory = len(visited.ring)
    first = max(len(rows) - memory, 0)  # a slot is written once
    slots = (count + first + jnp.arange(len(rows) - first)) % memory
    hashes = hash_rows(visited.space.canonical(rows[first:]))
    return dataclasses.replace(visited, ring=visited.ring.at[slots].set(hashes))


def also(visited: Visited, rows: Rows) -> Visited:
    """What was seen, and these rows, whose number is not limited."""
    nobody, rows = rows[:, :1] < 0, visited.space.canonical(jnp.maximum(rows, 0))
    if visited.marked is None:
        assert visited.ring is not None
        hashes = jnp.where(nobody, jnp.uint32(0), hash_rows(rows))
        return dataclasses.replace(visited, ring=jnp.concatenate([visited.ring, hashes]))
    places = jnp.where(nobody[:, 0], len(visited.marked), indices(visited.space, rows))
    return dataclasses.replace(visited, marked=visited.marked.at[places].set(True, mode="drop"))


def contains(visited: Visited, rows: Encodings) -> Bool[Array, "n"]:
    """Whether each canonical row was seen."""
    if visited.marked is not None:
        return visited.marked[indices(visited.space, rows)]
    assert visited.ring is not None
    return among(visited.ring, hash_rows(rows))


def hash_rows(rows: Int[Array, "*n length"]) -> Hashes:
    """64 bits a row. Among 4,096 rows two different ones share a hash with probability below 1e-12."""
    factors = np.random.default_rng(0).integers(1, 2**32, (2, rows.shape[-1] + 1), dtype=np.uint32) | 1
    mixed = (rows[..., None, :].astype(jnp.uint32) + 1) * jnp.asarray(factors[:, 1:])[(None,) * (rows.ndim - 1)]
    mixed = mixed ^ (mixed >> 15)
    total = (mixed * jnp.asarray(factors[:, 1:] * 3)[(None,) * (rows.ndim - 1)]).sum(-1, dtype=jnp.uint32)
    return jnp.maximum(total ^ (total >> 13), 1)  # 0 marks an empty slot


def among(table: UInt32[Array, "entries 2"], hashes: UInt32[Array, "n 2"]) -> Bool[Array, "n"]:
    return (hashes[:, None] == table[None]).all(-1).any(1)
