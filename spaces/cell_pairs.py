"""Cells of four nodes, each of which adds two operations on earlier states, as rows of decisions.

The decisions of a cell are, for each node: which two earlier states it takes (not asked of the first node), and the
operations on the one that is earlier and on the other.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spaces.abilities import Decision
from spaces.node_loop import NODES

EDGES = tuple((node, source) for node in range(NODES) for source in range(2 + node))  # of one cell
# The two states that a node may take.
PAIRS = tuple(tuple(itertools.combinations(range(2 + node), 2)) for node in range(NODES))
CELLS = 2  # normal, reduction


def state(number: int) -> str:
    """How a drawing calls an earlier state."""
    return ("c_{k-2}", "c_{k-1}")[number] if number < 2 else str(number - 2)


class Wired(NamedTuple):
    """A node's two edges: the earlier state, the later one, and the operations on them."""

    low: int
    high: int
    ops: tuple[int, int]


class Rows(NamedTuple):
    """How rows are read: of so many operations, of which the first, `none`, may be `kept` as a choice."""

    ops: int
    kept: bool = False

    @property
    def first(self) -> int:
        """The operation that choice 0 stands for."""
        return 0 if self.kept else 1

    @property
    def cell(self) -> tuple[int, ...]:
        """The numbers of choices of a cell's decisions."""
        choices = self.ops - self.first
        return tuple(size for pairs in PAIRS for size in (len(pairs), choices, choices) if size > 1)

    def decisions(self, ops: tuple[str, ...]) -> tuple[Decision, ...]:
        """What the decisions of both cells are, with operations of these names."""
        found: list[Decision] = []
        for cell in ("normal", "reduction"):
            for node, pairs in enumerate(PAIRS):
                where, words = f"{cell} node {node}", tuple(f"{state(low)} and {state(high)}" for low, high in pairs)
                found += [Decision(f"{where}: takes", words)] if len(pairs) > 1 else []
                found += [Decision(f"{where}: {place} operation", ops[self.first :]) for place in ("first", "second")]
        return tuple(found)

    def edge_ops(self, rows: Int[Array, "*n length"]) -> Int[Array, "*n edges"]:
        """The operation on each edge: `none` where there is no edge."""
        return _edge_ops(self.first, rows)

    def __call__(self, path: Int[Array, "_"]) -> Int[Array, "edges"]:
        """A path is a row, or has the operations of all edges itself."""
        return path if len(path) == CELLS * len(EDGES) else self.edge_ops(path)

    def wiring(self, cell: np.ndarray) -> list[Wired]:
        """Of the decisions of one cell, the edges into each node."""
        found, values = [], iter(np.asarray(cell).tolist())
        for pairs in PAIRS:
            low, high = pairs[next(values) if len(pairs) > 1 else 0]
            found.append(Wired(low, high, (next(values) + self.first, next(values) + self.first)))
        return found

    def row(self, cell: list[Wired]) -> list[int]:
        """The decisions of one cell."""
        found: list[int] = []
        for pairs, (low, high, ops) in zip(PAIRS, cell, strict=True):
            found += [pairs.index((low, high))] if len(pairs) > 1 else []
            found += [op - self.first for op in ops]
        return found

    def derive(self, weights: Float[Array, "14 ops"]) -> Int[Array, "11"]:
        """The cell of a mixture: on each edge its heaviest operation, for each node the two edges on which that is
        heaviest. `none` counts only where it is kept. Of equal weights the first is taken."""
        allowed = jax.lax.stop_gradient(weights)[:, self.first :]
        best, ops = allowed.max(1), allowed.argmax(1).astype(jnp.int32)
        if self.kept:  # of equal weights one that gives something comes first
            best = jnp.where(ops == 0, jnp.nextafter(best, jnp.full_like(best, -jnp.inf)), best)
        row, at = [], 0
        for node, pairs in enumerate(PAIRS):
            size = 2 + node
            _, chosen = jax.lax.top_k(best[at : at + size], 2)
            low, high = chosen.min(), chosen.max()
            row += [jnp.asarray(_places()[size])[low, high]] if len(pairs) > 1 else []
            row += [ops[at + low], ops[at + high]]
            at += size
        return jnp.stack(row).astype(jnp.int32)

    def first_of_equals(self, cells: Int[Array, "n 11"]) -> Int[Array, "n 11"]:
        """The first, in lexicographic order, of the rows that number the nodes of a cell in another way; and, where
        `none` is kept, of those in which it lies on another edge."""
        low, high = [], []
        ops, at = [], 0
        for pairs in PAIRS:
            pair = cells[:, at] if len(pairs) > 1 else jnp.zeros_like(cells[:, 0])
            at += len(pairs) > 1
            sources = jnp.asarray(pairs, jnp.int32)[pair]
            low, high = [*low, sources[:, 0]], [*high, sources[:, 1]]
            ops.append(cells[:, at : at + 2])
            at += 2
        low, high, op = jnp.stack(low, 1), jnp.stack(high, 1), jnp.stack(ops, 1)  # [n, node], [n, node, 2]
        orders = np.array(list(itertools.permutations(range(NODES))), np.int32)  # the old node at each new place
        found = [self._renumbered(low, high, op, order) for order in orders]
        numbers = jnp.stack([number for number, _ in found], 1)
        rows = jnp.stack([row for _, row in found], 1)
        return rows[jnp.arange(len(cells)), numbers.argmin(1)]

    def _renumbered(self, low: Array, high: Array, op: Array, order: np.ndarray) -> tuple[Array, Array]:
        """The rows with the nodes in another order, and these as numbers, the largest where a node would come before
        what it takes. There are at most 180 * 7^8 cells, which an int32 can count."""
        places = np.concatenate([[0, 1], 2 + np.argsort(order)]).astype(np.int32)  # new numbers of states
        first, second = (jnp.asarray(places)[each[:, order]] for each in (low, high))
        ops = op[:, order]
        if self.kept:
            first, second, ops = _without_dead(first, second, ops)
        swapped = (first > second)[..., None]
        ops = jnp.where(swapped, ops[..., ::-1], ops)
        low, high = jnp.minimum(first, second), jnp.maximum(first, second)
        legal = (high < 2 + np.arange(NODES)[None]).all(1)
        row: list[Array] = []
        for node, pairs in enumerate(PAIRS):
            table = jnp.asarray(_places()[2 + node])
            edge = jnp.minimum(low[:, node], 1 + node), jnp.minimum(high[:, node], 1 + node)
            row += [table[edge]] if len(pairs) > 1 else []
            row += [ops[:, node, 0], ops[:, node, 1]]
        rows = jnp.stack(row, 1)
        values = np.cumprod([1, *self.cell[:0:-1]])[::-1].astype(np.int32)
        return jnp.where(legal, rows @ jnp.asarray(values), np.iinfo(np.int32).max), rows


def _without_dead(first: Array, second: Array, ops: Array) -> tuple[Array, Array, Array]:
    """Edges whose operation is `none` brought to the earliest state that is free, for they give nothing from any."""
    dead, other = ops == 0, jnp.stack([second, first], -1)
    free = jnp.where(other == 0, 1, 0)  # of a dead edge, beside a live one
    both = dead.all(-1, keepdims=True)
    states = jnp.where(dead, free, jnp.stack([first, second], -1))
    states = jnp.where(both, jnp.arange(2), states)
    return states[..., 0], states[..., 1], ops


@functools.partial(jax.jit, static_argnums=0)
def _edge_ops(lowest: int, rows: Array) -> Array:
    parts, at = [], 0
    for _, table in itertools.product(range(CELLS), _tables()):
        pair = rows[..., at] if len(table) > 1 else jnp.zeros_like(rows[..., 0])
        at += len(table) > 1
        first, second = (rows[..., at + i, None] + lowest for i in range(2))
        slots = jnp.asarray(table, jnp.int32)[pair]
        parts.append(jnp.where(slots == 1, first, jnp.where(slots == 2, second, 0)))
        at += 2
    return jnp.concatenate(parts, axis=-1)


def _tables() -> list[np.ndarray]:
    """For each node and pair of states, what each edge into the node takes: 0 nothing, 1 the first operation, 2 the
    second."""
    return [
        np.array([[1 + pair.index(s) if s in pair else 0 for s in range(2 + node)] for pair in PAIRS[node]])
        for node in range(NODES)
    ]


@functools.cache
def _places() -> dict[int, np.ndarray]:
    """By the number of states: the place of a pair of states among the pairs."""
    tables = {}
    for pairs in PAIRS:
        size = pairs[-1][1] + 1
        tables[size] = np.zeros((size, size), np.int32)
        for i, (low, high) in enumerate(pairs):
            tables[size][low, high] = i
    return tables
