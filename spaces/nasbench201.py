"""The NAS-Bench-201 space: one cell of four nodes, with one of five operations on each of its six edges.

Dong & Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", 2020,
https://arxiv.org/abs/2001.00326. Its networks are in this file too, which makes it long: what the tables measured is
the two of them together.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int

from spaces.abilities import Decision, Drawing, Graph, Mixing
from spaces.base import Encodings, additive_costs, every, indices
from spaces.layers import BatchNorm, Conv, Pointwise, generator, stages
from spaces.precision import widened
from spaces.shared import is_mixture
from spaces.single_path import Choice

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NONE, SKIP, CONV_1X1, CONV_3X3, POOL = range(5)
KERNELS = {CONV_1X1: 1, CONV_3X3: 3}
NODES = 4  # the first is the input, the last the output
EDGES = tuple((source, target) for target in range(1, NODES) for source in range(target))
ROUTES = ((3,), (0, 4), (1, 5), (0, 2, 5))  # the ways from the input to the output, as edges
STAGES = 3

OP = r"([^|~]+)"
CELL = re.compile(rf"\|{OP}~0\|\+\|{OP}~0\|{OP}~1\|\+\|{OP}~0\|{OP}~1\|{OP}~2\|")


@dataclasses.dataclass(frozen=True)
class NasBench201:
    """Three stages of `cells` equal cells; between them the width doubles and the resolution halves."""

    width: int = 16
    cells: int = 5
    image_size: int = 32
    image_channels: int = 3
    num_classes: int = 10

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            least = 0 if name == "num_classes" else 1
            if value < least:
                raise ValueError(f"{name}={value} must be at least {least}")

    @property
    def cardinalities(self) -> tuple[int, ...]:
        return (len(OPS),) * len(EDGES)

    def identity(self) -> dict:
        return {"ops": OPS, "edges": EDGES, "width": self.width, "cells": self.cells}

    def canonical(self, encodings: Encodings) -> Encodings:
        """The cheapest of the architectures that the benchmark's own rule calls equal (6,466 classes).

        The rule follows `none` and `skip_connect` and sorts sums, but leaves no zero out of them: what takes a sum of
        zeros is not nothing to it. Nor does it tell one operation that is used twice from two of the same kind.
        """
        return jnp.asarray(every(self))[jnp.asarray(representatives())[indices(self, encodings)]]

    def describe(self, encoding: np.ndarray) -> str:
        words = [f"|{OPS[op]}~{source}" for op, (source, _) in zip(encoding, EDGES, strict=True)]
        return "".join(words[:1]) + "|+" + "".join(words[1:3]) + "|+" + "".join(words[3:]) + "|"

    def parse(self, text: str) -> np.ndarray:
        cell = CELL.fullmatch(text.strip())
        if cell is None:
            raise ValueError(f"{text!r} is not a cell such as {self.describe(np.arange(6) % 5)}")
        odd = [op for op in cell.groups() if op not in OPS]
        if odd:
            raise ValueError(f"{text!r} has the operation {odd[0]!r}, which is not one of {', '.join(OPS)}")
        return np.array([OPS.index(op) for op in cell.groups()], np.int32)

    def drawings(self, encoding: np.ndarray) -> list[Drawing]:
        chosen = zip(EDGES, encoding, strict=True)
        edges = tuple((source, target, OPS[op]) for (source, target), op in chosen if op != NONE)
        return [Drawing("cell", ("input", "1", "2", "output"), edges)]

    def decisions(self) -> tuple[Decision, ...]:
        return tuple(Decision(f"edge {source} to {target}", OPS) for source, target in EDGES)

    def cost(self, encodings: Encodings) -> dict[str, Float[Array, "n"]]:
        """Multiply-adds of one image in convolutions and the classifier, and parameters with affine normalisation.

        As published: an operation counts whether or not its output reaches that of the cell.
        """
        return additive_costs(*self._costs_by_edge(), encodings)

    def mixing(self) -> Mixing:
        fixed, table = self._costs_by_edge()
        costs = {name: (fixed[name], table[name]) for name in table}
        nodes = tuple(target for _, target in EDGES)
        return Mixing(OPS, nodes, (1.0,) * len(EDGES), len(EDGES), costs, partial=1, none=NONE, skip=SKIP)

    def edge_ops(self, encodings: Encodings) -> Int[Array, "n edges"]:
        return encodings

    def derive(self, mixture: Float[Array, "edges ops"]) -> Int[Array, "length"]:
        """The heaviest operation of each edge, `none` among them; of equal ones the first."""
        return mixture.argmax(1).astype(jnp.int32)

    def features(self, encodings: Encodings) -> tuple[Float[Array, "n _"], ...]:
        """What predictors see beside the encoding, in four groups: for each route from the input to the output (0-3,
        0-1-3, 0-2-3, 0-1-2-3) whether no `none` blocks it, and if so its operations by kind; the operations of the
        cell by kind, of the edges that are on such a route; these edges' operations; and how deep the cell is."""
        kinds = (encodings[:, :, None] == np.arange(len(OPS))[None, None]).astype(jnp.float32)
        routes = np.array([[edge in route for edge in range(len(EDGES))] for route in ROUTES], np.float32)
        counts = jnp.einsum("re,nek->nrk", routes, kinds)
        alive = (counts[:, :, NONE] == 0).astype(jnp.float32)
        by_route = alive[:, :, None] * counts.at[:, :, NONE].set(1.0)
        used = (alive @ routes > 0)[:, :, None] * kinds
        small, large, pools = (by_route[:, :, op] for op in (CONV_1X1, CONV_3X3, POOL))
        convs = small + large
        direct = alive * (convs == 0)  # routes on which nothing is learned
        depth = [convs.max(1), (convs + pools).max(1), (small + 2 * large).max(1), alive.sum(1), direct.sum(1)]
        flat = (len(encodings), -1)
        return by_route.reshape(flat), used.sum(1), used[:, :, SKIP:].reshape(flat), jnp.stack(depth, 1)

    def equivalents(self, encodings: Encodings, numbers: Int[Array, "n"]) -> Encodings:
        """Another member of the class of each architecture: see `canonical`."""
        members, first, size = _classes()
        places = indices(self, encodings)
        begin, count = jnp.asarray(first)[places], jnp.asarray(size)[places]
        return jnp.asarray(every(self))[jnp.asarray(members)[begin + numbers % count]]

    def graph(self) -> Graph:
        edges = tuple((source, target, decision) for decision, (source, target) in enumerate(EDGES))
        return Graph(NODES, edges, blocked=NONE)

    def supernet(self, key: jax.Array, *, affine: bool = False) -> "Body":
        draw = generator(key)
        blocks: list[nnx.Module] = []
        for stage, (width, _) in enumerate(self._stages()):
            if stage > 0:
                blocks.append(Reduction(width // 2, width, draw, affine))
            edges = [*range(len(EDGES))] * self.cells
            modules = [[operation(choice, width, draw, affine) for choice in range(len(OPS))] for _ in edges]
            blocks.append(Choice(edges, modules, through_cell, together=len(EDGES)))
        return (Network if self.num_classes else Body)(self, blocks, draw, affine)

    def build(self, encoding: np.ndarray, key: jax.Array) -> "Body":
        return prune(self.supernet(key, affine=True), encoding)

    def pruned(self, supernet: "Body", encoding: np.ndarray) -> "Body":
        return prune(supernet, encoding)

    def _stages(self) -> list[tuple[int, int]]:
        """The width and the pixels of a side of each stage."""
        return [(self.width * 2**stage, -(-self.image_size // 2**stage)) for stage in range(STAGES)]

    def _costs_by_edge(self) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        """An operation costs the same on every edge."""
        fixed, table = self._costs()
        return fixed, {name: np.tile(costs, (len(EDGES), 1)) for name, costs in table.items()}

    def _costs(self) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        """What every architecture pays, and what each operation on an edge adds."""
        stages = self._stages()
        table = {name: np.zeros(len(OPS), np.int64) for name in ("macs", "params")}
        for (width, size), (op, k) in itertools.product(stages, KERNELS.items()):
            table["macs"][op] += self.cells * (k * width * size) ** 2
            table["params"][op] += self.cells * ((k * width) ** 2 + 2 * width)
        (width, size), (last, _) = stages[0], stages[-1]
        weights, scales = 9 * self.image_channels * width, 2 * width + (2 * last if self.num_classes else 0)
        macs = weights * size**2
        for width, size in stages[1:]:
            reduction = (9 * (width // 2) + 9 * width + width // 2) * width
            weights, macs, scales = weights + reduction, macs + reduction * size**2, scales + 4 * width
        head = last * self.num_classes
        return {"macs": macs + head, "params": weights + scales + head + self.num_classes}, table


@functools.cache
def representatives() -> np.ndarray:
    """For every architecture the cheapest that is equal to it, the first of those: places in lexicographic order."""
    ops = range(len(OPS))
    names = []
    for into_1 in itertools.product(ops):
        first = ("0", _node(("0",), into_1))
        for into_2 in itertools.product(ops, ops):
            second = (*first, _node(first, into_2))
            names += [_node(second, into_3) for into_3 in itertools.product(ops, ops, ops)]
    rows = np.indices((len(OPS),) * len(EDGES)).reshape(len(EDGES), -1).T
    small, large = (rows == CONV_1X1).sum(1), (rows == CONV_3X3).sum(1)
    # By multiply-adds, of which a 3x3 has nine times those of a 1x1, then by the scales of normalisation.
    order = np.lexsort((small + large, 9 * large + small))
    _, first, class_of = np.unique(np.array(names)[order], return_index=True, return_inverse=True)
    found = np.empty(len(rows), np.int32)
    found[order] = order[first][class_of]
    return found


@functools.cache
def _classes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The architectures class by class; and of each architecture where its class begins, and how large it is."""
    found = representatives()
    members = np.argsort(found, kind="stable").astype(np.int32)
    _, first, which, size = np.unique(found[members], return_index=True, return_inverse=True, return_counts=True)
    where = np.empty(len(found), np.int32)
    where[members] = which
    return members, first[where].astype(np.int32), size[where].astype(np.int32)


def _node(nodes: Sequence[str], ops: Sequence[int]) -> str:
    """What a node holds, in the notation of the benchmark's `Structure.to_unique_str(consider_zero=True)`."""
    parts = []
    for node, op in zip(nodes, ops, strict=True):
        if op == NONE or node == "#":
            parts.append("#")
        else:
            parts.append(node if op == SKIP else f"({node})@{OPS[op]}")
    return "+".join(sorted(parts))


def mean_pool(x: Array, k: int, stride: int = 1) -> Array:
    """The mean over windows of k x k pixels, of those that lie in the image."""

    def total(x: Array) -> Array:
        # One axis after the other: on a CPU several times faster than the square at once.
        rows = lax.reduce_window(x, 0.0, lax.add, (1, k, 1, 1), (1, stride, 1, 1), "SAME")
        return lax.reduce_window(rows, 0.0, lax.add, (1, 1, k, 1), (1, 1, stride, 1), "SAME")

    return total(x) / total(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


def through_cell(x: Array, *edges: Callable[[Array], Array]) -> Array:
    """Each node is the sum of what its edges bring; the last is the output."""
    nodes, following = [x], iter(edges)
    for _ in range(1, NODES):
        nodes.append(functools.reduce(jnp.add, [next(following)(node) for node in nodes]))
    return nodes[-1]


class Plain(nnx.Module):
    """An operation without parameters."""

    def __init__(self, function: Callable[[Array], Array]):
        self.function = function

    def __call__(self, x: Array, path, train: bool) -> Array:
        return self.function(x)


class ConvNorm(nnx.Module):
    """ReLU, convolution, normalisation."""

    def __init__(self, k: int, width_in: int, width_out: int, draw: np.random.Generator, affine: bool, stride: int = 1):
        scale = (2 / (k * k * width_in)) ** 0.5
        if k == 1:
            self.conv = Pointwise(width_in, width_out, draw, scale=scale)
        else:
            self.conv = Conv((k, k), width_in, width_out, draw, strides=(stride, stride), scale=scale)
        self.norm = BatchNorm(width_out, affine=affine)

    def __call__(self, x: Array, path, train: bool) -> Array:
        return self.norm(self.conv(jax.nn.relu(x)), train)


def operation(choice: int, width: int, draw: np.random.Generator, affine: bool) -> nnx.Module:
    if choice in KERNELS:
        return ConvNorm(KERNELS[choice], width, width, draw, affine)
    return Plain({NONE: jnp.zeros_like, SKIP: _same, POOL: _smooth}[choice])


def _same(x: Array) -> Array:
    return x


def _smooth(x: Array) -> Array:
    return mean_pool(x, 3)


class Reduction(nnx.Module):
    """The residual block between stages: half the resolution, twice the width."""

    def __init__(self, width_in: int, width_out: int, draw: np.random.Generator, affine: bool):
        self.first = ConvNorm(3, width_in, width_out, draw, affine, stride=2)
        self.second = ConvNorm(3, width_out, width_out, draw, affine)
        self.shortcut = Pointwise(width_in, width_out, draw, scale=(1 / width_in) ** 0.5)

    def __call__(self, x: Array, path, train: bool) -> Array:
        y = self.second(self.first(x, path, train), path, train)
        return y + self.shortcut(mean_pool(x, 2, stride=2))


class Cell(nnx.Module):
    """A cell whose decisions are taken."""

    def __init__(self, edges: Sequence[nnx.Module]):
        self.edges = nnx.List(edges)

    def __call__(self, x: Array, path, train: bool) -> Array:
        return through_cell(x, *(functools.partial(edge, path=path, train=train) for edge in self.edges))


class Body(nnx.Module):
    """Stem, stages of cells with reductions between them. Gives the map of each stage, the finest first."""

    def __init__(self, space: NasBench201, blocks: Sequence[nnx.Module], draw: np.random.Generator, affine: bool):
        channels, width = space.image_channels, space.width
        self.stem = Conv((3, 3), channels, width, draw, scale=(2 / (9 * channels)) ** 0.5)
        self.stem_norm = BatchNorm(width, affine=affine)
        self.blocks = nnx.List(blocks)

    def __call__(
        self,
        images: Float[Array, "n height width channels"],
        path=(),
        *,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> Any:
        """`path` says which operation each edge takes, or mixes them by a weight `[edge, operation]`; a pruned network
        needs none. A mixture is normalised by the batch, in evaluation too, and leaves no statistics."""
        del key  # nothing here is random
        if is_mixture(path):
            return nnx.clone(self)._outputs(images, path, train=True)
        return self._outputs(images, path, train)

    def _outputs(self, images: Array, path, train: bool) -> Any:
        maps = [self.stem_norm(self.stem(images), train)]
        for block in self.blocks:
            maps.append(block(maps[-1], path, train))
        return stages(maps)


class Network(Body):
    """A body, mean over pixels, classifier. Gives logits `[n, num_classes]`."""

    def __init__(self, space: NasBench201, blocks: Sequence[nnx.Module], draw: np.random.Generator, affine: bool):
        super().__init__(space, blocks, draw, affine)
        last = space.width * 2 ** (STAGES - 1)
        self.norm = BatchNorm(last, affine=affine)
        self.head = Pointwise(last, space.num_classes, draw, scale=(1 / last) ** 0.5)
        self.bias = nnx.Param(np.zeros(space.num_classes, np.float32))

    def _outputs(self, images: Array, path, train: bool) -> Float[Array, "n classes"]:
        x = super()._outputs(images, path, train)[-1]
        x = widened(jax.nn.relu(self.norm(x, train))).mean((1, 2))
        return self.head(x) + jnp.asarray(self.bias.get_value(), x.dtype)[None]


def prune(supernet: Body, encoding: np.ndarray) -> Body:
    """The network of one architecture, with the weights it has in the supernet; the supernet is left as it is."""
    network = nnx.clone(supernet)
    blocks: list[nnx.Module] = []
    for block in network.blocks:
        if isinstance(block, Choice):
            edges = [block.branch(i, int(encoding[edge])) for i, edge in enumerate(block.weights.decisions)]
            blocks += [Cell(cell) for cell in zip(*[iter(edges)] * len(EDGES), strict=True)]
        else:
            blocks.append(block)
    network.blocks = nnx.List(blocks)
    return network


PRESETS = {
    # As published. With the images of CIFAR it is the network of the benchmark's tables.
    "paper": NasBench201(),
    # For 8 to 16 pixels on a CPU.
    "tiny": NasBench201(width=8, cells=1, image_size=8),
}
