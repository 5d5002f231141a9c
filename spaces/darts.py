"""The DARTS space: a normal and a reduction cell, each of four nodes with two operations on earlier states.

Liu et al., "DARTS: Differentiable Architecture Search", 2019, https://arxiv.org/abs/1806.09055.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from spaces import genotype as notation
from spaces.abilities import Decision, Drawing, Mixing, Published
from spaces.base import Encodings, additive_costs
from spaces.cell_network import Body, Network, Sizes
from spaces.cell_ops import NONE, SKIP, halved
from spaces.cell_pairs import CELLS, EDGES, PAIRS, Rows, Wired
from spaces.cell_runs import Drop, Shape
from spaces.fixed_cells import Fixed, FixedCore, fixed_network, genotype_cost
from spaces.genotype import PUBLISHED, Cell, Genotype
from spaces.layers import generator, shuffled
from spaces.node_loop import NODES, Edges, Inputs, through_nodes
from spaces.precision import widened
from spaces.shared import OneHot, Path
from spaces.single_path import Choice, Run

OPS = (
    *("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect"),
    *("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
)
INPUTS = tuple(i for i, (_, source) in enumerate(EDGES) if source < 2)  # the edges from the inputs of the cell
INNER = tuple(i for i, (_, source) in enumerate(EDGES) if source >= 2)
CONCAT = tuple(range(2, 2 + NODES))
OUTPUTS = (NODES, NODES)

Mixture = Float[Array, "edges ops"]  # a weight for each operation of each edge


@dataclasses.dataclass(frozen=True)
class Darts(Sizes):
    """`cells` cells, of which those at a third and two thirds reduce the resolution and double the width.

    Decisions are those of `spaces.cell_pairs`, operations in the order of `OPS` without `none`.
    """

    @property
    def ops(self) -> tuple[str, ...]:
        """Of an edge of the supernet, `none` first."""
        return OPS

    @property
    def published(self) -> Mapping[str, Genotype]:
        """By the names that `parse` knows."""
        return PUBLISHED

    @property
    def rows(self) -> Rows:
        return Rows(len(self.ops))

    @property
    def cardinalities(self) -> tuple[int, ...]:
        return self.rows.cell * CELLS

    def identity(self) -> dict:
        return {"ops": self.ops, "pairs": PAIRS, **self.own_sizes()}

    def canonical(self, encodings: Encodings) -> Encodings:
        """The first, in lexicographic order, of the rows that number the nodes of each cell in another way.

        A cell joins all its nodes, so nothing else is equal. Networks that differ in the numbers of nodes are equal up
        to the order of channels; with the shared weights of a supernet, which belong to numbers, they are not.
        """
        cells = encodings.reshape(-1, len(self.rows.cell))
        return self.rows.first_of_equals(cells).reshape(encodings.shape)

    def describe(self, encoding: np.ndarray) -> str:
        return str(self.genotype(encoding))

    def parse(self, text: str) -> np.ndarray:
        """Reads a genotype in DARTS's notation, or the name of a published one."""
        allowed = self.ops[self.rows.first :]
        named = dict.fromkeys((*allowed, *notation.NAMES))
        found = self.published.get(text.strip()) or notation.parse(text, named)
        row: list[int] = []
        said = notation.quoted(text)
        for name, cell in zip(found._fields, found, strict=True):
            odd = [op for op, _ in cell.edges if op not in allowed]
            if odd:
                raise ValueError(f"{said} has the operation {odd[0]!r}, which is not one of {', '.join(allowed)}")
            if len(cell.edges) != 2 * NODES or sorted(cell.concat) != list(CONCAT):
                raise ValueError(f"{said} has a {name} cell that is not of {NODES} nodes, all of them joined")
            wired = []
            for pair in zip(cell.edges[::2], cell.edges[1::2], strict=True):
                (op, source), (other, last) = sorted(pair, key=lambda edge: edge[1])
                if source == last:
                    raise ValueError(f"{said} has a node in {name} that takes state {source} twice")
                wired.append(Wired(source, last, (self.ops.index(op), self.ops.index(other))))
            row += self.rows.row(wired)
        return np.array(row, np.int32)

    def genotype(self, encoding: np.ndarray) -> Genotype:
        cells = []
        for half in np.split(np.asarray(encoding), CELLS):
            wired = self.rows.wiring(half)
            edges = [(self.ops[op], source) for *sources, ops in wired for op, source in zip(ops, sources, strict=True)]
            cells.append(Cell(tuple(edges), CONCAT))
        return Genotype(*cells)

    def drawings(self, encoding: np.ndarray) -> list[Drawing]:
        return notation.drawings(self.genotype(encoding))

    def decisions(self) -> tuple[Decision, ...]:
        return self.rows.decisions(self.ops)

    def derive(self, mixture: Mixture | tuple[Array, Array]) -> Int[Array, "length"]:
        """The architecture that a mixture stands for: on each edge its heaviest operation, for each node the two edges
        on which that is heaviest. `none` counts for neither, unless it is kept. Of equal weights the first is taken.

        Weights of different edges are compared: logits must be made weights (by a softmax an edge) before.
        """
        weights = jnp.concatenate(mixture) if isinstance(mixture, tuple) else mixture
        return jnp.concatenate([self.rows.derive(half) for half in jnp.split(weights, CELLS)])

    def cost(self, encodings: Encodings) -> dict[str, Float[Array, "n"]]:
        """Multiply-adds of one image, and parameters with affine normalisation, of the network of each genotype
        without an auxiliary head."""
        fixed, table = self._costs()
        return self.kit.scaled(additive_costs(fixed, table, self.edge_ops(encodings)))

    def mixing(self) -> Mixing:
        fixed, table = map(self.kit.scaled, self._costs())
        nodes = tuple(cell * NODES + node for cell in range(CELLS) for node, _ in EDGES)
        kept = tuple(2 / (2 + node) for node, _ in EDGES) * CELLS
        costs = {name: (fixed[name], table[name]) for name in table}
        skip = self.ops.index(SKIP) if SKIP in self.ops else None
        return Mixing(self.ops, nodes, kept, len(EDGES), costs, self.width, self.ops.index(NONE), skip)

    def edge_ops(self, encodings: Encodings) -> Int[Array, "n edges"]:
        return self.rows.edge_ops(encodings)

    def supernet(self, key: jax.Array, *, affine: bool = False, partial: int = 1) -> Body:
        """With `partial`, operations see one channel in so many (PC-DARTS, https://arxiv.org/abs/1907.05737)."""
        draw = generator(key)
        if self.width % partial:
            raise ValueError(f"partial={partial} must divide width={self.width}")

        def core(shape: Shape) -> Mixed:
            return Mixed(shape, draw, affine, partial, self)

        return (Network if self.num_classes else Body)(self.frame, OUTPUTS, core, draw, affine)

    def build(self, encoding: np.ndarray, key: jax.Array, *, auxiliary: bool = False) -> Body:
        return fixed_network(self.frame, self.genotype(encoding), generator(key), auxiliary)

    def pruned(self, supernet: Body, encoding: np.ndarray) -> Body:
        return prune(supernet, self, encoding)

    def _costs(self) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        """What every architecture pays, and what each operation of each edge adds."""
        kit = self.kit
        fixed = {name: int(value) for name, value in kit.whole(self.frame.cost(OUTPUTS)).items()}
        table = np.zeros((CELLS, len(EDGES), len(self.ops), 6), np.int64)
        for shape in self.frame.shapes(OUTPUTS):
            for (i, (_, source)), (j, op) in itertools.product(enumerate(EDGES), enumerate(self.ops)):
                strided = shape.reduction and source < 2
                more = kit.cost(op, shape.width, 2 if strided else 1, shape.size if strided else shape.out)
                table[int(shape.reduction), i, j] += shape.length * more
        return fixed, kit.whole(table.reshape(CELLS * len(EDGES), len(self.ops), 6))


def _in_part(run: Run, partial: int, stride: int, x: Array, rows: Array, statistics: Array, pick: Array):
    """An edge of which the first channels alone see the operations. The others go by, weighted as all operations
    together, and channels are dealt out anew, so that at the next edge other ones are first."""
    width = x.shape[-1] // partial
    y, left = run(x[..., :width], rows, statistics, pick)
    beside = x[..., width:]
    if stride == 2:
        beside = halved(beside)
    if pick.ndim:
        exact = widened(beside)
        beside = (exact * pick.sum().astype(exact.dtype)).astype(x.dtype)
    y = jnp.concatenate([y, beside], axis=-1)
    return shuffled(y, partial), left


class Mixed(nnx.Module):
    """The cells of a run with the weights of all operations on all edges, called by a path or by a mixture."""

    def __init__(self, shape: Shape, draw: np.random.Generator, affine: bool, partial: int, space: Darts):
        self.length, self.partial, self.strided = shape.length, partial, shape.reduction
        first = len(EDGES) * shape.reduction
        # Edges of equal stride are run alike.
        kinds = [(INPUTS, 2), (INNER, 1)] if shape.reduction else [(range(len(EDGES)), 1)]
        self.choices = nnx.List()
        for edges, stride in kinds:
            decisions = [first + edge for edge in edges] * shape.length
            width = shape.width // partial
            modules = [[space.kit.operation(op, width, stride, draw, affine) for op in space.ops] for _ in decisions]
            self.choices.append(Choice(decisions, modules, read=space.rows))

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
    """The network of one architecture, with the weights it has in the supernet; the supernet is left as it is."""
    network, genotype = nnx.clone(supernet), space.genotype(encoding)
    cells = [space.rows.wiring(half) for half in np.split(np.asarray(encoding), CELLS)]
    for shape, run in zip(space.frame.shapes(OUTPUTS), network.runs, strict=True):
        run: Any
        cell, nodes = genotype.cell(shape.reduction), cells[shape.reduction]
        found = []
        for i in range(shape.length):
            found.append(Fixed(cell, shape.width, shape.reduction, generator(jax.random.key(0)), space.kit))
            for choice in run.core.choices:
                decisions = choice.weights.decisions
                each = len(decisions) // shape.length
                for j, decision in enumerate(decisions[:each]):
                    node, source = EDGES[decision % len(EDGES)]
                    low, high, ops = nodes[node]
                    if source in (low, high):
                        later = int(source == high)
                        found[i].ops[2 * node + later] = choice.branch(i * each + j, ops[later])
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
