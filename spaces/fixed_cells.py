"""Cells whose operations are chosen: a genotype, in DARTS's sense, as a network of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from spaces.cell_kit import PLAIN, Kit, counts, priced
from spaces.cell_network import Body, Frame, Network
from spaces.cell_ops import SKIP
from spaces.cell_runs import Drop, Shape, stack, unstack
from spaces.genotype import Cell, Genotype


class Fixed(nnx.Module):
    """One cell. What a node joins, instead of adding it, is brought back to the width of the cell; so are, in number of
    pixels, those inputs of a reduction cell that its output joins."""

    def __init__(self, cell: Cell, width: int, reduction: bool, draw: np.random.Generator, kit: Kit = PLAIN):
        self.wiring, self.concat, self.joined = cell.edges, cell.concat, cell.joined
        strides = [2 if reduction and source < 2 else 1 for _, source in cell.edges]
        ops = [
            kit.operation(op, width, stride, draw, True) for (op, _), stride in zip(cell.edges, strides, strict=True)
        ]
        self.ops = nnx.List(ops)
        self.fits = nnx.List([kit.fit(2 * width, width, draw, True) for _ in cell.joined])
        inputs = [state for state in cell.concat if state < 2 and reduction]
        self.reduced = nnx.List([kit.halve(width, width, draw, True) for _ in inputs])
        # What is never dropped.
        self.same = tuple(op == SKIP and stride == 1 for (op, _), stride in zip(cell.edges, strides, strict=True))

    def __call__(self, first: Array, second: Array, train: bool, drop: Drop | None) -> Array:
        states = [first, second]
        brought = []
        for i, ((_, source), op) in enumerate(zip(self.wiring, self.ops, strict=True)):
            x = op(states[source], (), train)
            brought.append(x if drop is None or self.same[i] else drop.at(i)(x))
            if i % 2 and i // 2 in self.joined:
                both = jnp.concatenate(brought[i - 1 :], axis=-1)
                states.append(self.fits[self.joined.index(i // 2)](both, (), train))
            elif i % 2:
                states.append(brought[i - 1] + brought[i])
        outputs = [states[i] for i in self.concat]
        for i, reduce in enumerate(self.reduced):  # inputs come first
            outputs[i] = reduce(outputs[i], (), train)
        return jnp.concatenate(outputs, axis=-1)


class FixedCore(nnx.Module):
    """The cells of a run, each with weights of its own. `first` is the number of its first cell."""

    def __init__(self, cells: Sequence[nnx.Module], first: int):
        self.cells, self.first = nnx.List(cells), first

    def opened(self, path: Any, train: bool, drop: Drop | None) -> tuple[Callable, Any]:
        graph, states = stack(self.cells, len(self.cells))

        def run(first: Array, second: Array, part) -> tuple[Array, Any]:
            state, i = part
            cell = nnx.merge(graph, state, copy=True)
            out = cell(first, second, train, None if drop is None else drop.in_cell(self.first + i))
            return out, nnx.state(cell, nnx.BatchStat)

        return run, (states, jnp.arange(len(self.cells)))

    def keep(self, statistics: Any) -> None:
        unstack(self.cells, statistics)


def fixed_network(
    frame: Frame, genotype: Genotype, draw: np.random.Generator, auxiliary: bool = False, scheduled: bool = False
) -> Body:
    """Without outputs it has no classifier, and no auxiliary head."""

    def core(shape: Shape) -> FixedCore:
        cell = genotype.cell(shape.reduction)
        cells = [Fixed(cell, shape.width, shape.reduction, draw, frame.kit) for _ in range(shape.length)]
        return FixedCore(cells, shape.first)

    if auxiliary and not frame.num_classes:
        raise ValueError("an auxiliary head needs classes: the task ends this network by a head of its own")
    if not frame.num_classes:
        return Body(frame, outputs(genotype), core, draw, True, scheduled)
    return Network(frame, outputs(genotype), core, draw, True, scheduled, auxiliary)


def outputs(genotype: Genotype) -> tuple[int, int]:
    return len(genotype.normal.concat), len(genotype.reduce.concat)


def genotype_cost(frame: Frame, genotype: Genotype) -> dict[str, int]:
    """The costs of the network of a genotype, without an auxiliary head: multiply-adds are those of one image."""
    kit, found = frame.kit, frame.cost(outputs(genotype))
    for shape in frame.shapes(outputs(genotype)):
        for op, source in genotype.cell(shape.reduction).edges:
            strided = shape.reduction and source < 2
            size = shape.size if strided else shape.out
            found += shape.length * kit.cost(op, shape.width, 2 if strided else 1, size)
        cell, width = genotype.cell(shape.reduction), shape.width
        more = [kit.fit_cost(2 * width, width, shape.out, False)] * len(cell.joined)
        more += [kit.cost(SKIP, width, 2, shape.size) for state in cell.concat if state < 2 and shape.reduction]
        found += shape.length * sum(more, counts())
    return priced(frame.kit, found)
