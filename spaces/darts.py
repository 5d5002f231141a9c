"""The DARTS space: a normal and a reduction cell, each of four nodes with two operations on earlier states.

Liu et al., "DARTS: Differentiable Architecture Search", 2019, https://arxiv.org/abs/1806.09055.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from spaces import genotype as notation
from spaces.abilities import Drawing, Mixing, Published
from spaces.base import Encodings, additive_costs
from spaces.cell_network import Body, Network, Sizes
from spaces.cell_ops import cost, operation
from spaces.cell_runs import Drop, Shape
from spaces.fixed_cells import Fixed, FixedCore, fixed_network, genotype_cost
from spaces.genotype import PUBLISHED, Cell, Genotype
from spaces.layers import generator
from spaces.node_loop import NODES, Edges, Inputs, through_nodes
from spaces.precision import widened
from spaces.shared import OneHot, Path
from spaces.single_path import Choice, Run

OPS = (
    *("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect"),
    *("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
)
EDGES = tuple((node, source) for node in range(NODES) for source in range(2 + node))  # of one cell
INPUTS = tuple(i for i, (_, source) in enumerate(EDGES) if source < 2)  # the edges from the inputs of the cell
INNER = tuple(i for i, (_, source) in enumerate(EDGES) if source >= 2)
CONCAT = tuple(range(2, 2 + NODES))
OUTPUTS = (NODES, NODES)
# The two states that a node may take; its first decision is which, but for the first node, which has no choice.
PAIRS = tuple(tuple(itertools.combinations(range(2 + node), 2)) for node in range(NODES))
CELL = tuple(size for pairs in PAIRS for size in (len(pairs), len(OPS) - 1, len(OPS) - 1) if size > 1)
CELLS = 2  # normal, reduction

Mixture = Float[Array, "edges ops"]  # a weight for each operation of each edge


@dataclasses.dataclass(frozen=True)
class Darts(Sizes):
    """`cells` cells, of which those at a third and two thirds reduce the resolution and double the width.

    The decisions of a cell are, for each node: which two earlier states it takes (not asked of the first node), and the
    operations on the one that is earlier and on the other, both in the order of `OPS` without `none`.
    """

    @property
    def cardinalities(self) -> tuple[int, ...]:
        return CELL * CELLS

    def identity(self) -> dict:
        return {"ops": OPS, "pairs": PAIRS, **self.own_sizes()}

    def canonical(self, encodings: Encodings) -> Encodings:
        """The first, in lexicographic order, of the rows that number the nodes of each cell in another way.

        A cell joins all its nodes, so nothing else is equal. Networks that differ in the numbers of nodes are equal up
        to the order of channels; with the shared weights of a supernet, which belong to numbers, they are not.
        """
        cells = encodings.reshape(-1, len(CELL))
        return _first_of_equals(cells).reshape(encodings.shape)

    def describe(self, encoding: np.ndarray) -> str:
        return str(self.genotype(encoding))

    def parse(self, text: str) -> np.ndarray:
        """Reads a genotype in DARTS's notation, or the name of a published one."""
        found = PUBLISHED.get(text.strip()) or notation.parse(text)
        row: list[int] = []
        said = notation.quoted(text)
        for name, cell in zip(found._fields, found, strict=True):
            odd = [op for op, _ in cell.edges if op not in OPS]
            if odd:
                raise ValueError(f"{said} has the operation {odd[0]!r}, which is not one of {', '.join(OPS[1:])}")
            if len(cell.edges) != 2 * NODES or sorted(cell.concat) != list(CONCAT):
                raise ValueError(f"{said} has a {name} cell that is not of {NODES} nodes, all of them joined")
            for node, pair in enumerate(zip(cell.edges[::2], cell.edges[1::2], strict=True)):
                (op, source), (other, last) = sorted(pair, key=lambda edge: edge[1])
                if source == last:
                    raise ValueError(f"{said} has a node in {name} that takes state {source} twice")
                row += [PAIRS[node].index((source, last))] if node > 0 else []
                row += [OPS.index(op) - 1, OPS.index(other) - 1]
        return np.array(row, np.int32)

    def genotype(self, encoding: np.ndarray) -> Genotype:
        ops = np.asarray(edge_ops(jnp.asarray(encoding, jnp.int32)))
        halves = np.split(ops, CELLS)
        chosen = ([(OPS[op], source) for op, (_, source) in zip(half, EDGES, strict=True) if op] for half in halves)
        return Genotype(*(Cell(tuple(edges), CONCAT) for edges in chosen))

    def drawings(self, encoding: np.ndarray) -> list[Drawing]:
        return notation.drawings(self.genotype(encoding))

    def derive(self, mixture: Mixture | tuple[Array, Array]) -> Int[Array, "length"]:
        """The architecture that a mixture stands for: on each edge its heaviest operation, for each node the two edges
        on which that is heaviest. `none` counts for neither. Of equal weights the first is taken.

        Weights of different edges are compared: logits must be made weights (by a softmax an edge) before.
        """
        weights = jnp.concatenate(mixture) if isinstance(mixture, tuple) else mixture
        return jnp.concatenate([_derive(half) for half in jnp.split(weights, CELLS)])

    def cost(self, encodings: Encodings) -> dict[str, Float[Array, "n"]]:
        """Multiply-adds of one image, and parameters with affine normalisation, of the network of each genotype
        without an auxiliary head."""
        fixed, table = self._costs()
        return additive_costs(fixed, table, edge_ops(encodings))

    def mixing(self) -> Mixing:
        fixed, table = self._costs()
        nodes = tuple(cell * NODES + node for cell in range(CELLS) for node, _ in EDGES)
        kept = tuple(2 / (2 + node) for node, _ in EDGES) * CELLS
        costs = {name: (fixed[name], table[name]) for name in table}
        return Mixing(OPS, nodes, kept, len(EDGES), costs, self.width, OPS.index("none"), OPS.index("skip_connect"))

    def edge_ops(self, encodings: Encodings) -> Int[Array, "n edges"]:
        return edge_ops(encodings)

    def supernet(self, key: jax.Array, *, affine: bool = False, partial: int = 1) -> Body:
        """With `partial`, operations see one channel in so many (PC-DARTS, https://arxiv.org/abs/1907.05737)."""
        draw = generator(key)
        if self.width % partial:
            raise ValueError(f"partial={partial} must divide width={self.width}")

        def core(shape: Shape) -> Mixed:
            return Mixed(shape, draw, affine, partial)

        return (Network if self.num_classes else Body)(self.frame, OUTPUTS, core, draw, affine)

    def build(self, encoding: np.ndarray, key: jax.Array, *, auxiliary: bool = False) -> Body:
        return fixed_network(self.frame, self.genotype(encoding), generator(key), auxiliary)

    def _costs(self) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        macs, params = self.frame.cost(OUTPUTS)
        table = np.zeros((2, CELLS, len(EDGES), len(OPS)), np.int64)
        for shape in self.frame.shapes(OUTPUTS):
            for (i, (_, source)), (j, op) in itertools.product(enumerate(EDGES), enumerate(OPS)):
                strided = shape.reduction and source < 2
                more = cost(op, shape.width, 2 if strided else 1, shape.size if strided else shape.out)
                table[:, int(shape.reduction), i, j] += shape.length * np.array(more)
        flat = table.reshape(2, CELLS * len(EDGES), len(OPS))
        return {"macs": macs, "params": params}, {"macs": flat[0], "params": flat[1]}


def _tables() -> list[np.ndarray]:
    """For each node and pair of states, what each edge into the node takes: 0 nothing, 1 the first operation, 2 the
    second."""
    return [
        np.array([[1 + pair.index(s) if s in pair else 0 for s in range(2 + node)] for pair in PAIRS[node]])
        for node in range(NODES)
    ]


@jax.jit
def edge_ops(rows: Int[Array, "*n length"]) -> Int[Array, "*n edges"]:
    """The operation on each edge, in the order of `OPS`: `none` where there is no edge."""
    parts, at = [], 0
    for _, table in itertools.product(range(CELLS), _tables()):
        pair = rows[..., at] if len(table) > 1 else jnp.zeros_like(rows[..., 0])
        at += len(table) > 1
        first, second = (rows[..., at + i, None] + 1 for i in range(2))
        slots = jnp.asarray(table, jnp.int32)[pair]
        parts.append(jnp.where(slots == 1, first, jnp.where(slots == 2, second, 0)))
        at += 2
    return jnp.concatenate(parts, axis=-1)


def _read(path: Path) -> Int[Array, "edges"]:
    """A path is an encoding, or has the operations of all edges itself."""
    return path if len(path) == CELLS * len(EDGES) else edge_ops(path)


def _in_part(run: Run, partial: int, stride: int, x: Array, rows: Array, statistics: Array, pick: Array):
    """An edge of which the first channels alone see the operations. The others go by, weighted as all operations
    together, and channels are dealt out anew, so that at the next edge other ones are first."""
    width = x.shape[-1] // partial
    y, left = run(x[..., :width], rows, statistics, pick)
    beside = x[..., width:]
    if stride == 2:
        beside = _halved(beside)
    if pick.ndim:
        exact = widened(beside)
        beside = (exact * pick.sum().astype(exact.dtype)).astype(x.dtype)
    y = jnp.concatenate([y, beside], axis=-1)
    return jnp.swapaxes(y.reshape(*y.shape[:-1], partial, width), -1, -2).reshape(y.shape), left


def _halved(x: Array) -> Array:
    """The largest of each 2 x 2 pixels."""
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)), constant_values=-jnp.inf)
    rows = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])


def _derive(weights: Float[Array, "14 8"]) -> Int[Array, "11"]:
    best, ops = weights[:, 1:].max(1), weights[:, 1:].argmax(1).astype(jnp.int32)
    row, at = [], 0
    for node, pairs in enumerate(PAIRS):
        size = 2 + node
        _, chosen = jax.lax.top_k(best[at : at + size], 2)
        low, high = chosen.min(), chosen.max()
        place = jnp.asarray(_places()[size])[low, high]
        row += [place] if len(pairs) > 1 else []
        row += [ops[at + low], ops[at + high]]
        at += size
    return jnp.stack(row).astype(jnp.int32)


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


def _first_of_equals(cells: Int[Array, "n 11"]) -> Int[Array, "n 11"]:
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
    found = [_renumbered(low, high, op, order) for order in orders]
    numbers = jnp.stack([number for number, _ in found], 1)
    rows = jnp.stack([row for _, row in found], 1)
    return rows[jnp.arange(len(cells)), numbers.argmin(1)]


def _renumbered(low: Array, high: Array, op: Array, order: np.ndarray) -> tuple[Array, Array]:
    """The rows with the nodes in another order, and these as numbers, the largest where a node would come before what
    it takes. There are 180 * 7^8 cells, which an int32 can count."""
    places = np.concatenate([[0, 1], 2 + np.argsort(order)]).astype(np.int32)  # new numbers of states
    first, second = (jnp.asarray(places)[each[:, order]] for each in (low, high))
    ops, swapped = op[:, order], (first > second)[..., None]
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
    values = np.cumprod([1, *CELL[:0:-1]])[::-1].astype(np.int32)
    return jnp.where(legal, rows @ jnp.asarray(values), np.iinfo(np.int32).max), rows


class Mixed(nnx.Module):
    """The cells of a run with the weights of all operations on all edges, called by a path or by a mixture."""

    def __init__(self, shape: Shape, draw: np.random.Generator, affine: bool, partial: int = 1):
        self.length, self.partial, self.strided = shape.length, partial, shape.reduction
        first = len(EDGES) * shape.reduction
        # Edges of equal stride are run alike.
        kinds = [(INPUTS, 2), (INNER, 1)] if shape.reduction else [(range(len(EDGES)), 1)]
        self.choices = nnx.List()
        for edges, stride in kinds:
            decisions = [first + edge for edge in edges] * shape.length
            width = shape.width // partial
            modules = [[operation(op, width, stride, draw, affine) for op in OPS] for _ in decisions]
            self.choices.append(Choice(decisions, modules, read=_read))

    def opened(self, path: Path | Mixture | OneHot, train: bool, drop: Drop | None) -> tuple[Callable, Any]:
        opened = [choice.opened(path, train) for choice in self.choices]
        if self.partial > 1:
            strides = [2, 1] if self.strided else [1]
            around = [
                functools.partial(_in_part, run, self.partial, s) for (run, _), s in zip(opened, strides, strict=True)
            ]
            opened = [(run, inputs) for run, (_, inputs) in zip(around, opened, strict=True)]
        alone = len(opened) == 1
        kinds = tuple(Edges(run, alone or i == 0, alone or i == 1) for i, (run, _) in enumerate(opened))

        def run(first: Array, second: Array, part) -> tuple[Array, tuple[Array, ...]]:
            found: Any = through_nodes(kinds, jnp.stack([first, second]), part)
            nodes, left = found
            joined = jnp.moveaxis(nodes, 0, -2)
            return joined.reshape(*joined.shape[:-2], -1), left

        parts = tuple(Inputs(*inputs) for _, inputs in opened)
        return run, jax.tree.map(lambda leaf: leaf.reshape(self.length, -1, *leaf.shape[1:]), parts)

    def keep(self, statistics: tuple[Array, ...]) -> None:
        for choice, left in zip(self.choices, statistics, strict=True):
            choice.statistics.set_value(left.reshape(-1, left.shape[-1]))


def prune(supernet: Body, space: Darts, encoding: np.ndarray) -> Body:
    """The network of one architecture, with the weights it has in the supernet, whose normalisation must be affine;
    the supernet is left as it is."""
    network, genotype = nnx.clone(supernet), space.genotype(encoding)
    ops = np.split(np.asarray(edge_ops(jnp.asarray(encoding, jnp.int32))), CELLS)
    for shape, run in zip(space.frame.shapes(OUTPUTS), network.runs, strict=True):
        run: Any
        cell, chosen = genotype.cell(shape.reduction), ops[shape.reduction]
        found = []
        for i in range(shape.length):
            found.append(Fixed(cell, shape.width, shape.reduction, generator(jax.random.key(0))))
            for choice in run.core.choices:
                decisions = choice.weights.decisions
                each = len(decisions) // shape.length
                for j, decision in enumerate(decisions[:each]):
                    edge = decision % len(EDGES)
                    if chosen[edge]:
                        place = int((chosen[:edge] > 0).sum())
                        found[i].ops[place] = choice.branch(i * each + j, int(chosen[edge]))
        run.core = FixedCore(found, shape.first)
    return network


PRESETS = {
    # The network in which DARTS searches on CIFAR.
    "search": Darts(),
    # Those in which it trains what it found.
    "cifar": Darts(width=36, cells=20),
    "imagenet": Darts(width=48, cells=14, stem="imagenet", image_size=224, num_classes=1000),
    # For 8 to 32 pixels on a CPU.
    "tiny": Darts(width=8, cells=5, image_size=8),
}


def published(name: str) -> Published:
    """Also of any cells that are written in DARTS's notation."""
    genotype = notation.parse(name) if "(" in name else PUBLISHED[name]
    networks = {"CIFAR-10, 36 channels, 20 cells": "cifar", "ImageNet, 48 channels, 14 cells": "imagenet"}
    costs = {text: genotype_cost(PRESETS[preset].frame, genotype) for text, preset in networks.items()}
    return Published(str(genotype), notation.drawings(genotype), costs)
