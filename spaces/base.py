"""What a search space is, and the operations on encodings that are written once for all of them.

An architecture is a row of int32: entry `i` is the choice taken at decision `i`, in `0 .. cardinalities[i] - 1`.
"""

import functools
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from spaces import callbacks

Encodings = Int[Array, "n length"]
Limits = tuple[tuple[str, float], ...]  # hard limits: (name of a cost, the most it may be)


@runtime_checkable
class Space(Protocol):
    """A frozen, hashable value: the choices there are, how they are written, what they cost, how they are built."""

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """The number of choices at each decision."""
        ...

    def identity(self) -> dict:
        """The plain data that say which architecture an encoding means; whatever changes the meaning is in it."""
        ...

    def canonical(self, encodings: Encodings) -> Encodings:
        """Equal rows for equal networks, as far as the space knows. Idempotent, and no dearer in any cost."""
        ...

    def describe(self, encoding: np.ndarray) -> str:
        """One architecture in the field's own notation; `parse` reads it back."""
        ...

    def parse(self, text: str) -> np.ndarray:
        """The encoding of a description. Raises ValueError that says what is wrong with the text."""
        ...

    def cost(self, encodings: Encodings) -> dict[str, Float[Array, "n"]]:
        """Named costs of each architecture, such as `macs` (multiply-adds of one image) and `params`."""
        ...

    # What a space may do besides is in `spaces.abilities`.

    def supernet(self, key: jax.Array, *, affine: bool = False) -> nnx.Module:
        """The network that holds the shared weights of all architectures; called with images and a path."""
        ...

    def build(self, encoding: np.ndarray, key: jax.Array) -> nnx.Module:
        """The network of one architecture alone, pruned of all other choices, for training and export."""
        ...


@functools.lru_cache(maxsize=64)
def fingerprint(space: Space) -> str:
    """The identity of a space as 16 hex digits: equal for equal spaces, on every machine."""
    text = json.dumps({**space.identity(), "kind": _kind(type(space))}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _kind(space: type) -> str:
    """The name of a space's class; of one that is not ours with its module, which tells it from others of its name."""
    if space.__module__.partition(".")[0] in ("spaces", "nas"):
        return space.__name__
    # A file says what is in it: where it lies differs from machine to machine.
    module = getattr(sys.modules.get(space.__module__), "__nas_part__", space.__module__)
    return f"{module}:{space.__qualname__}"


class Architecture(NamedTuple):
    """What is known of an architecture without evaluating it."""

    id: str  # 12 hex digits, of its space and its canonical encoding
    encoding: tuple[int, ...]
    description: str
    costs: dict[str, float]


def identify(space: Space, encodings: np.ndarray) -> list[Architecture]:
    """Each architecture with its identity and costs, by one program for up to 16 rows and a few for more. Raises
    ValueError for a cost that is not a finite number."""
    rows = np.asarray(encodings, np.int32).reshape(-1, len(space.cardinalities))
    size = max(16, 1 << (len(rows) - 1).bit_length())
    filled = np.concatenate([rows, np.zeros((size - len(rows), rows.shape[1]), np.int32)])
    canonical, costs = jax.tree.map(np.asarray, _canonical_and_costs(space, filled))
    callbacks.check()
    found = []
    for i, row in enumerate(rows):
        text = fingerprint(space) + ":" + ",".join(map(str, canonical[i].tolist()))
        identity = hashlib.sha256(text.encode()).hexdigest()[:12]
        price = {name: float(values[i]) for name, values in costs.items()}
        for name, value in price.items():
            if not math.isfinite(value):
                raise ValueError(f"cost {name!r} of {space.describe(row)} is {value}: it must be a finite number")
        found.append(Architecture(identity, tuple(row.tolist()), space.describe(row), price))
    return found


@functools.partial(jax.jit, static_argnums=0)
def _canonical_and_costs(space: Space, rows: Encodings) -> tuple[Encodings, dict[str, Array]]:
    return space.canonical(rows), space.cost(rows)


def costs(space: Space, encoding: Sequence[int]) -> dict[str, float]:
    """The costs of one architecture by name."""
    return identify(space, np.asarray([encoding]))[0].costs


def architecture_id(space: Space, encoding: np.ndarray) -> str:
    """The identity of an architecture as 12 hex digits, from its space and its canonical encoding."""
    return identify(space, encoding)[0].id


def sample(space: Space, key: jax.Array, n: int) -> Encodings:
    """`n` rows, each decision uniform over its choices."""
    high = jnp.asarray(space.cardinalities, jnp.int32)
    return jr.randint(key, (n, len(space.cardinalities)), 0, high[None])


def mutate(space: Space, key: jax.Array, encodings: Encodings, count: int = 1) -> Encodings:
    """Each row with exactly `count` decisions changed, each to a different choice."""
    high = jnp.asarray(space.cardinalities, jnp.int32)
    key_where, key_shift = jr.split(key)
    # A decision with a single choice has no other; it is never picked while there are others.
    order = jr.uniform(key_where, encodings.shape) + (high == 1)[None]
    changed = jnp.argsort(jnp.argsort(order, axis=1), axis=1) < count
    # A shift in 1..cardinality-1, taken modulo the cardinality, never lands on itself.
    shift = jr.randint(key_shift, encodings.shape, 1, jnp.maximum(high, 2)[None])
    return jnp.where(changed, (encodings + shift) % high[None], encodings)


def resample(space: Space, key: jax.Array, encodings: Encodings, probability: float) -> Encodings:
    """Each decision drawn anew with the given probability; the new choice may be the old one."""
    key_where, key_value = jr.split(key)
    where = jr.bernoulli(key_where, probability, encodings.shape)
    return jnp.where(where, sample(space, key_value, encodings.shape[0]), encodings)


def crossover(key: jax.Array, first: Encodings, second: Encodings) -> Encodings:
    """Each decision from either parent with probability 1/2 (uniform crossover)."""
    return jnp.where(jr.bernoulli(key, 0.5, first.shape), first, second)


def neighbours(space: Space, encoding: Int[Array, "length"]) -> Encodings:
    """Every row that differs in exactly one decision, in the order of decisions and then choices."""
    steps = [(i, shift) for i, size in enumerate(space.cardinalities) for shift in range(1, size)]
    where, shifts = np.array(steps, np.int32).reshape(-1, 2).T
    rows = jnp.tile(encoding[None], (len(steps), 1))
    high = np.asarray(space.cardinalities, np.int32)[where]
    return rows.at[np.arange(len(steps)), where].set((encoding[where] + shifts) % high)


def one_hot(space: Space, encodings: Encodings) -> Float[Array, "n width"]:
    """The rows as indicators of every (decision, choice), `sum(cardinalities)` wide."""
    decisions = np.repeat(np.arange(len(space.cardinalities)), space.cardinalities)
    choices = np.concatenate([np.arange(size) for size in space.cardinalities])
    return (encodings[:, decisions] == choices[None]).astype(jnp.float32)


def feasible(space: Space, encodings: Encodings, limits: Limits) -> Bool[Array, "n"]:
    """Whether each architecture keeps every limit."""
    costs = space.cost(encodings)
    inside = jnp.ones(encodings.shape[0], bool)
    for name, most in limits:
        inside &= costs[name] <= most
    return inside


def every(space: Space) -> np.ndarray | None:
    """All encodings in lexicographic order, or None where there are more than 65,536."""
    if math.prod(space.cardinalities) > 2**16:
        return None
    return np.indices(space.cardinalities, np.int32).reshape(len(space.cardinalities), -1).T


def check_encoding(space: Space, encoding: object) -> None:
    """Raises ValueError for what is no encoding of the space: it may come from a file."""
    sizes = space.cardinalities
    if not isinstance(encoding, list | tuple) or len(encoding) != len(sizes):
        raise ValueError(f"encoding must be a list of {len(sizes)} whole numbers")
    for i, (choice, size) in enumerate(zip(encoding, sizes, strict=True)):
        if type(choice) is not int:
            raise ValueError(f"encoding must be a list of {len(sizes)} whole numbers")
        if not 0 <= choice < size:
            raise ValueError(f"encoding[{i}]={choice} must lie in 0..{size - 1}")


def place_values(space: Space) -> np.ndarray:
    """What a choice of each decision counts in an encoding that is read as a number, the first digit most."""
    return np.cumprod([1, *space.cardinalities[:0:-1]])[::-1].astype(np.int32)


def indices(space: Space, encodings: Encodings) -> Int[Array, "n"]:
    """The place of each architecture in the order of `every`."""
    return encodings @ jnp.asarray(place_values(space))


def additive_costs(
    fixed: dict[str, int], table: dict[str, np.ndarray], encodings: Encodings
) -> dict[str, Float[Array, "n"]]:
    """Costs that are sums: what every architecture pays, and what each choice adds, as `[decisions, choices]`."""
    where = np.arange(encodings.shape[1])

    def total(name: str) -> Array:
        # In two halves, of which the sums are exact: a network may have more multiply-adds than an int32 holds.
        halves = zip(divmod(fixed[name], 2**16), np.divmod(table[name], 2**16), strict=True)
        high, low = (first + jnp.asarray(each, jnp.int32)[where, encodings].sum(1) for first, each in halves)
        return high.astype(jnp.float32) * 2**16 + low.astype(jnp.float32)

    return {name: total(name) for name in table}


LEAST = 1e-30  # of what costs are divided by: a limit may be 0


def smallest(space: Space, limits: Limits) -> np.ndarray:
    """The encoding whose largest ratio of cost to limit is least; by coordinate descent where the space is too large
    to look at all of it, which is exact for additive costs. A cost that is the largest of several parts does not fall
    while one of them is changed and another is as large: so there is a second descent, from the best of the rows that
    make the same choice everywhere."""
    rows = every(space)
    if rows is not None:
        return rows[int(_nearest(space, limits, jnp.asarray(rows)))]
    most = np.asarray(space.cardinalities, np.int32)
    alike = np.minimum(np.arange(most.max(), dtype=np.int32)[:, None], most[None] - 1)
    best = alike[int(_nearest(space, limits, jnp.asarray(alike)))]
    ends = np.stack([_descended(space, limits, row) for row in (alike[0], best)])
    return ends[int(_nearest(space, limits, jnp.asarray(ends)))]


def _descended(space: Space, limits: Limits, row: np.ndarray) -> np.ndarray:
    found = np.zeros(0)
    while not np.array_equal(row, found):
        found, row = row, np.asarray(_nearest_beside(space, limits, jnp.asarray(row)))
    return row


@functools.partial(jax.jit, static_argnums=(0, 1))
def _nearest_beside(space: Space, limits: Limits, row: Int[Array, "length"]) -> Int[Array, "length"]:
    rows = jnp.concatenate([row[None], neighbours(space, row)])
    return rows[_nearest(space, limits, rows)]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _nearest(space: Space, limits: Limits, rows: Encodings) -> Int[Array, ""]:
    costs = space.cost(rows)
    ratios = jnp.stack([costs[name] / max(most, LEAST) for name, most in limits])
    ratios = jnp.where(jnp.isnan(ratios), jnp.inf, ratios)  # what is not a number keeps no limit
    return jnp.argmin(ratios.max(0) + 1e-3 * ratios.mean(0))  # the mean breaks ties between architectures
