"""What a strategy that learns from all it has seen remembers, and how it takes the most promising of many proposals."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from flax import struct
from jaxtyping import Array, Float, Int

from spaces.base import Encodings, Space, feasible
from strategies.base import Observations, Proposals
from strategies.region import Region, draws, pick
from strategies.visited import Visited, also, contains, hash_rows, nothing, visit

REMEMBERED = 2**12  # of what was seen in a large space, at least, however little of it is learned from


@struct.dataclass
class Archive:
    rows: Encodings  # observed, in their order; when full, the worst makes room
    scores: Float[Array, "memory"]  # minimised; NaN for failures and empty slots
    count: Int[Array, ""]  # observed so far
    visited: Visited


def empty(space: Space, memory: int) -> Archive:
    rows = jnp.zeros((memory, len(space.cardinalities)), jnp.int32)
    visited = nothing(space, max(memory, REMEMBERED))
    return Archive(rows, jnp.full(memory, jnp.nan), jnp.zeros((), jnp.int32), visited)


def add(archive: Archive, observed: Observations) -> Archive:
    def one(archive: Archive, seen: tuple[Array, Array]):
        encoding, objective = seen
        worst = jnp.argmax(jnp.where(jnp.isnan(archive.scores), jnp.inf, archive.scores))
        slot = jnp.where(archive.count < len(archive.scores), archive.count, worst)
        return Archive(
            archive.rows.at[slot].set(encoding),
            archive.scores.at[slot].set(objective),
            archive.count + 1,
            visit(archive.visited, encoding[None], archive.count),
        ), None

    return jax.lax.scan(one, archive, (observed.encodings, observed.objectives[:, 0]))[0]


def used(archive: Archive) -> Array:
    """Which slots hold an observation."""
    return jnp.arange(len(archive.scores)) < archive.count


def best(archive: Archive, count: int) -> Encodings:
    """The rows of lowest score; failures and empty slots are last."""
    return archive.rows[jnp.argsort(jnp.where(jnp.isnan(archive.scores), jnp.inf, archive.scores))[:count]]


def seen(archive: Archive, pending: Proposals) -> Visited:
    """All that was observed or is being evaluated."""
    return also(archive.visited, pending.encodings)


def sized(archive: Archive, what: Callable[[Encodings, Array], Any], sizes: Sequence[int]) -> Any:
    """`what` of the observed rows and scores, in arrays no longer than they need be; a program for each size."""
    memory = len(archive.scores)
    lengths = [size for size in sizes if size < memory] + [memory]
    which = jnp.searchsorted(jnp.asarray(lengths), jnp.minimum(archive.count, memory))
    branches = [lambda n=n: what(archive.rows[:n], archive.scores[:n]) for n in lengths]
    return jax.lax.switch(which, branches)


def draw_new(where: Region, key: jax.Array, n: int, known: Visited) -> Encodings:
    """Random architectures that are not known come first, as many as there are; any others follow."""
    key_draw, key_pick = jr.split(key)
    rows = pick(where, draws(where, key_draw, n, 4), key_pick, known)
    hashes = hash_rows(rows)
    earlier = ((hashes[:, None] == hashes[None]).all(-1) & jnp.tri(n, k=-1, dtype=bool)).any(1)
    return rows[jnp.argsort(contains(known, rows) | earlier, stable=True)]


def lowest(
    where: Region,
    rows: Int[Array, "m length"],
    values: Float[Array, "m"],
    n: int,
    key: jax.Array,
    known: Visited,
) -> Int[Array, "chosen length"]:
    """Of the rows the `n` of lowest value that are legal, not known and different; where these are fewer, random ones.

    NaN is no value.
    """
    if len(rows) < n:  # there is nothing to choose
        rows = jnp.concatenate([rows, jnp.zeros((n - len(rows), rows.shape[1]), rows.dtype)])
        values = jnp.concatenate([values, jnp.full(n - len(values), jnp.nan)])
    hashes = hash_rows(rows)
    order = jnp.argsort(values)  # which puts NaN last
    legal = feasible(where.space, rows, where.limits) & ~jnp.isnan(values)
    free = (legal & ~contains(known, rows))[order]
    same = (hashes[order][:, None] == hashes[order][None]).all(-1)
    first = jnp.argmax(same & free[None], axis=1) == jnp.arange(len(rows))
    place, chosen = jax.lax.top_k(jnp.where(free & first, -jnp.arange(len(rows)), -len(rows)), n)
    found = rows[order][chosen]
    missing = place == -len(rows)
    others = draw_new(where, key, n, also(known, jnp.where(missing[:, None], -1, found)))
    return jnp.where(missing[:, None], others[jnp.cumsum(missing) - 1], found)
