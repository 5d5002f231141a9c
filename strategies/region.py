"""The part of a space that keeps the hard limits, how to draw from it, and how not to propose anything twice.

Proposals have a fixed shape and no retry loop: each slot has a row of candidates, and takes the first that will do.
Where the legal architectures can be listed, draws are uniform over the list and what is left of it is known. Elsewhere
a draw that was refused each time is a walk inside the region (Gibbs sampling: Geman & Geman, "Stochastic Relaxation,
Gibbs Distributions, and the Bayesian Restoration of Images", 1984, https://doi.org/10.1109/TPAMI.1984.4767596).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flax import struct
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Int

from spaces.base import Encodings, Limits, Space, feasible, neighbours, sample, smallest
from strategies.visited import INDEXED, Hashes, Visited, also, among, contains, hash_rows

Candidates = Int[Array, "n tries length"]

FREE = 2**16  # encodings of a space without limits that are listed: it matters only once nearly all were seen
FLOODED = 2**10  # legal encodings of a larger space that are listed at most
CHUNK = 2**14  # rows that are looked at by one program
SWEEPS = 20  # of a walk: how often each decision is drawn anew


@struct.dataclass
class Listed:
    """Every legal architecture once."""

    rows: Int[Array, "m length"]  # canonical
    ends: Int[Array, "m"]  # running sum of the number of encodings of each: draws are uniform over encodings


@struct.dataclass
class Region:
    """A space and its limits."""

    space: Space = struct.field(pytree_node=False)
    limits: Limits = struct.field(pytree_node=False)
    anchor: tuple[int, ...] = struct.field(pytree_node=False)  # keeps all limits: where walks begin
    listed: Listed | None  # where there are few enough


def region(space: Space, limits: Limits = ()) -> Region:
    """Raises ValueError, saying the smallest cost there is, where no architecture keeps the limits."""
    return _region(space, tuple(limits))


@functools.lru_cache(maxsize=8)
def _region(space: Space, limits: Limits) -> Region:
    names = space.cost(jnp.zeros((1, len(space.cardinalities)), jnp.int32))
    for name, most in limits:
        if name not in names:
            known = ", ".join(sorted(names))
            raise ValueError(f"limit {name} <= {most:g}: {name!r} is not one of the space's costs, {known}")
        least = float(space.cost(jnp.asarray(smallest(space, ((name, 1.0),)))[None])[name][0])
        if not most >= least:
            raise ValueError(
                f"limit {name} <= {most:g} excludes every architecture: the smallest {name} is {least:.9g}"
            )
    anchor = smallest(space, limits) if limits else np.zeros(len(space.cardinalities), np.int32)
    encodings = _legal_encodings(space, limits, anchor)
    if encodings is not None and len(encodings):
        anchor = encodings[0]
    if not len(_legal_rows(space, limits, np.asarray(anchor)[None])):
        both = "limit " + " and ".join(f"{name} <= {most:g}" for name, most in limits)
        nearest = space.cost(jnp.asarray(anchor, jnp.int32)[None])
        has = ", ".join(f"{name} {float(nearest[name][0]):g}" for name, _ in limits)
        raise ValueError(f"{both}: no architecture was found that keeps all of these limits together; one has {has}")
    listed = None
    if encodings is not None:
        rows, counts = np.unique(encodings, axis=0, return_counts=True)
        listed = Listed(jnp.asarray(rows), jnp.asarray(np.cumsum(counts), jnp.int32))
    return Region(space, limits, tuple(int(choice) for choice in anchor), listed)


def _legal_encodings(space: Space, limits: Limits, anchor: np.ndarray) -> np.ndarray | None:
    """All legal encodings, each as its canonical row, or None where they are too many to list."""
    size, shape = math.prod(space.cardinalities), space.cardinalities
    if size <= (INDEXED if limits else FREE):
        places = (np.arange(i, min(i + CHUNK, size)) for i in range(0, size, CHUNK))
        rows = (np.stack(np.unravel_index(each, shape), 1).astype(np.int32) for each in places)
        return np.concatenate([_legal_rows(space, limits, each) for each in rows])
    return _flooded(space, limits, anchor) if limits else None


def _flooded(space: Space, limits: Limits, anchor: np.ndarray) -> np.ndarray | None:
    """The legal encodings that changes of one or two decisions lead to from the anchor; None if they are many."""
    singles = jax.jit(jax.vmap(lambda row: neighbours(space, row)))
    known, fresh = {anchor.tobytes(): anchor}, [anchor]

    def spread(rows: list[np.ndarray], changed: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
        """Those beside these rows that are legal and were not known."""
        found = []
        for row in rows:
            for other in _legal_as_they_are(space, limits, changed(row)):
                if other.tobytes() not in known:
                    known[other.tobytes()] = other
                    found.append(other)
            if len(known) > FLOODED:
                break
        return found

    def one(row: np.ndarray) -> np.ndarray:
        return np.asarray(singles(row[None]))[0]

    def two(row: np.ndarray) -> np.ndarray:
        return np.asarray(singles(one(row))).reshape(-1, len(row))

    while fresh and len(known) <= FLOODED:
        fresh = spread(fresh, one) or spread(list(known.values()), two)
    return None if len(known) > FLOODED else _legal_rows(space, limits, np.stack(list(known.values())))


def _legal_rows(space: Space, limits: Limits, rows: np.ndarray) -> np.ndarray:
    """Those of these rows whose networks are legal, as their canonical rows."""
    return _kept(rows, lambda part: _as_canonical(space, limits, part))


def _legal_as_they_are(space: Space, limits: Limits, rows: np.ndarray) -> np.ndarray:
    return _kept(rows, lambda part: (part, _legal(space, limits, part)))


def _kept(rows: np.ndarray, look: Callable[[np.ndarray], tuple[Any, Any]]) -> np.ndarray:
    size, found = min(CHUNK, len(rows)), []
    for i in range(0, len(rows), size):
        part = rows[i : i + size]
        filled = np.concatenate([part, np.zeros((size - len(part), rows.shape[1]), np.int32)])  # one program
        those, legal = (np.asarray(each)[: len(part)] for each in look(filled))
        found.append(those[legal])
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _as_canonical(space: Space, limits: Limits, rows: Encodings) -> tuple[Encodings, Bool[Array, "n"]]:
    canonical = space.canonical(rows)
    return canonical, feasible(space, canonical, limits)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _legal(space: Space, limits: Limits, rows: Encodings) -> Bool[Array, "n"]:
    return feasible(space, rows, limits)


def draw(where: Region, key: jax.Array, n: int, tries: int = 32) -> Encodings:
    """`n` legal rows, each independent of the others and uniform over the legal encodings."""
    space = where.space
    if not where.limits:
        return space.canonical(sample(space, key, n))
    if where.listed is not None:
        ends = where.listed.ends
        return where.listed.rows[jnp.searchsorted(ends, jr.randint(key, (n,), 0, ends[-1]), side="right")]
    key_sample, key_walk = jr.split(key)
    rows = repeat(lambda k: sample(space, k, n), key_sample, tries)
    legal = feasible(space, rows.reshape(n * tries, -1), where.limits).reshape(n, tries)
    found, refused = rows[jnp.arange(n), jnp.argmax(legal, axis=1)], ~legal.any(1)
    walked = jax.lax.cond(refused.any(), lambda: walk(where, key_walk, n), lambda: found)
    return space.canonical(jnp.where(refused[:, None], walked, found))


def draws(where: Region, key: jax.Array, n: int, tries: int) -> Candidates:
    """`tries` such rows for each slot, all drawn at once: one after another under vmap, each would walk."""
    return draw(where, key, n * tries).reshape(n, tries, -1)


def walk(where: Region, key: jax.Array, n: int, sweeps: int = SWEEPS) -> Encodings:
    """`n` walks from the anchor: two decisions at a time are drawn anew from their choices that keep the limits.

    Two, so that one may become dearer as the other becomes cheaper. The distribution tends to the uniform one over
    the legal encodings that such steps lead to.
    """
    space, length = where.space, len(where.space.cardinalities)
    sizes, most = jnp.asarray(space.cardinalities, jnp.int32), max(space.cardinalities)
    both = jnp.asarray(np.indices((most, most)).reshape(2, -1), jnp.int32)  # choices of the one, and of the other

    def visit(rows: Encodings, step: tuple[Array, Array]) -> tuple[Encodings, None]:
        pair, key = step
        choices = jnp.minimum(both, sizes[pair][:, None] - 1)
        exist = (both == choices).all(0) & ((pair[0] != pair[1]) | (both[0] == both[1]))
        options = jnp.repeat(rows[:, None], both.shape[1], axis=1)
        options = options.at[:, :, pair[0]].set(choices[0][None]).at[:, :, pair[1]].set(choices[1][None])
        legal = feasible(space, options.reshape(-1, length), where.limits).reshape(n, -1) & exist[None]
        chosen = jr.categorical(key, jnp.where(legal, 0.0, -jnp.inf))
        return options[jnp.arange(n), chosen], None

    key_order, key_visit = jr.split(key)
    orders = jax.vmap(lambda k: jr.permutation(k, length))(jr.split(key_order, sweeps))
    orders = jnp.concatenate([orders, orders[:, : length % 2]], axis=1).reshape(-1, 2)
    start = jnp.broadcast_to(jnp.asarray(where.anchor, jnp.int32)[None], (n, length))
    return jax.lax.scan(visit, start, (orders, jr.split(key_visit, len(orders))))[0]


def repeat(propose: Callable[[jax.Array], Encodings], key: jax.Array, tries: int) -> Candidates:
    """`tries` independent proposals for each slot."""
    return jnp.swapaxes(jax.vmap(propose)(jr.split(key, tries)), 0, 1)


def pick(where: Region, candidates: Candidates, key: jax.Array, seen: Visited | None = None) -> Encodings:
    """For each slot its first candidate that is legal and, where `seen` is given, new: neither seen nor taken by
    another slot.

    Where none is, the candidates are pulled towards a random legal architecture, each just until it is legal, and the
    first new one of these is taken; then any new one. Where no new one is left, or none is found in a region too large
    to list, it is a legal one that is not new.
    """
    n, tries, length = candidates.shape
    canonical = where.space.canonical
    if not where.limits and seen is None:
        return canonical(candidates[:, 0])
    key_target, key_pull, key_others = jr.split(key, 3)
    if where.limits:
        target = jnp.repeat(draw(where, key_target, n), tries, axis=0)
        pulled = _pull(where, key_pull, candidates.reshape(n * tries, length), target).reshape(n, tries, length)
        candidates = jnp.concatenate([candidates, pulled], axis=1)
    rows = canonical(candidates.reshape(-1, length)).reshape(candidates.shape)
    legal = feasible(where.space, rows.reshape(-1, length), where.limits).reshape(rows.shape[:2])
    if seen is None:
        return rows[jnp.arange(n), jnp.argmax(legal, axis=1)]
    found, is_new = _distinct(rows, legal & ~contains(seen, rows.reshape(-1, length)).reshape(legal.shape))
    taken = also(seen, jnp.where(is_new[:, None], found, -1))
    leaves, structure = jax.tree.flatten((where, taken))
    return _completed(structure)(found, is_new, key_others, leaves)


def _completed(structure: Any) -> Callable[..., Encodings]:
    """Where a row is not new, any new one; `structure` is that of the region and of what was seen."""

    @custom_vmap
    def completed(found: Encodings, is_new: Bool[Array, "n"], key: jax.Array, leaves: list[Array]) -> Encodings:
        def rest() -> Encodings:
            where, seen = jax.tree.unflatten(structure, leaves)
            others = _any_new(where, key, len(found), seen)
            return jnp.where(is_new[:, None], found, others[jnp.cumsum(~is_new) - 1])  # the first to the first in need

        return jax.lax.cond(is_new.all(), lambda: found, rest)

    @completed.def_vmap
    def side_by_side(size: int, batched: Any, *given: Any) -> tuple[Array, bool]:
        # A batched condition would look for something new always; of many searches it is rare that one has need of it.
        axes = jax.tree.map(lambda each: 0 if each else None, batched)
        found, is_new = (
            each if one else jnp.broadcast_to(each, (size, *each.shape))
            for each, one in zip(given[:2], batched[:2], strict=True)
        )
        looked = jax.vmap(completed.fun, tuple(axes), axis_size=size)
        return jax.lax.cond(is_new.all(), lambda: found, lambda: looked(*given)), True

    return completed


def _distinct(rows: Candidates, free: Bool[Array, "n tries"]) -> tuple[Encodings, Bool[Array, "n"]]:
    """For each slot its first free row that is not taken by an earlier slot, and whether there is one."""
    hashes = hash_rows(rows)

    def take(taken: Hashes, slot):
        i, row, free, hashes = slot
        free = free & ~among(taken, hashes)
        first = jnp.argmax(free)
        return taken.at[i].set(jnp.where(free[first], hashes[first], 0)), (row[first], free[first])

    n = len(rows)
    return jax.lax.scan(take, jnp.zeros((n, 2), jnp.uint32), (jnp.arange(n), rows, free, hashes))[1]


def _any_new(where: Region, key: jax.Array, n: int, seen: Visited) -> Encodings:
    """`n` different legal rows that were not seen; as many of them as there are, or as are found, come first."""
    key_new, key_old = jr.split(key)
    if where.listed is None:
        spare = draw(where, key_new, 4 * n)
        found, is_new = _distinct(spare.reshape(n, 4, -1), ~contains(seen, spare).reshape(n, 4))
        return jnp.where(is_new[:, None], found, spare[:n])[jnp.argsort(~is_new, stable=True)]
    new = ~contains(seen, where.listed.rows)
    ends = jnp.cumsum(new)
    ranks, exist = _different(key_new, n, ends[-1])
    found = where.listed.rows[jnp.searchsorted(ends, ranks + 1)]
    return jnp.where(exist[:, None], found, draw(where, key_old, n))


def _different(key: jax.Array, n: int, size: Int[Array, ""]) -> tuple[Int[Array, "n"], Bool[Array, "n"]]:
    """`n` different random numbers below `size`; where it is less than `n`, which of them exist."""
    left = size - jnp.arange(n)
    order = jr.randint(key, (n,), 0, jnp.maximum(left, 1))
    place = jnp.arange(n)

    def insert(chosen: Array, each: tuple[Array, Array]) -> tuple[Array, Array]:
        # The number of this rank among those that are not chosen; `chosen` is sorted, and filled up with large ones.
        number = each[1] + (chosen - place <= each[1]).sum()
        return jnp.sort(chosen.at[-1].set(jnp.where(left[each[0]] > 0, number, chosen[-1]))), number

    many = jnp.full(n, jnp.iinfo(jnp.int32).max, jnp.int32)
    return jax.lax.scan(insert, many, (place, order))[1], left > 0


def _pull(where: Region, key: jax.Array, rows: Encodings, target: Encodings) -> Encodings:
    """Each row with as few decisions as it takes, in random order, set to those of a legal row."""
    n, length = rows.shape
    rank = jnp.argsort(jr.uniform(key, (n, length)), axis=1)
    steps = jnp.arange(length + 1)
    moved = jnp.where(rank[:, None] < steps[None, :, None], target[:, None], rows[:, None])
    legal = feasible(where.space, moved.reshape(-1, length), where.limits).reshape(n, length + 1)
    return moved[jnp.arange(n), jnp.argmax(legal, axis=1)]
