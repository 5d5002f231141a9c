"""Shared weights of which a path uses one part: the choice module, and views of weights on a path.

The parameters of the modules that compete for one decision lie as the rows of one matrix, padded to a common width.
A path selects one row of each. Training works on the selected rows alone and puts them back, so whatever is off the
path (parameters and optimiser state alike) stays bit-identical, and costs nothing.

The path is an array argument: one compiled program serves every architecture, and only the chosen branch runs.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Int

Path = Int[Array, "length"]


class Shared(nnx.Param):
    """Parameters with one row a choice; `decision` is the place in the path that selects the row.

    `decayed[choice]` is the number of leading entries that are weights; normalisation scales and biases follow.
    """

    decision: int
    decayed: tuple[int, ...]


class Layout(tuple):
    """How a pytree lies in a row: its structure and the shapes of its leaves, those with more axes first."""

    __slots__ = ()

    @classmethod
    def of(cls, tree: Any) -> "Layout":
        leaves, structure = jax.tree.flatten(tree)
        return cls((structure, tuple(leaf.shape for leaf in leaves)))

    @property
    def order(self) -> list[int]:
        return sorted(range(len(self[1])), key=lambda i: -len(self[1][i]))

    @property
    def width(self) -> int:
        return sum(math.prod(shape) for shape in self[1])

    @property
    def decayed(self) -> int:
        return sum(math.prod(shape) for shape in self[1] if len(shape) > 1)

    def pack(self, tree: Any, width: int, numpy: Any = jnp) -> Any:
        leaves = jax.tree.leaves(tree)
        padding = np.zeros(width - self.width, np.float32)
        return numpy.concatenate([leaves[i].ravel() for i in self.order] + [padding])

    def unpack(self, row: Array | np.ndarray) -> Any:
        leaves, start = {}, 0
        for i in self.order:
            size = math.prod(self[1][i])
            leaves[i] = row[start : start + size].reshape(self[1][i])
            start += size
        return jax.tree.unflatten(self[0], [leaves[i] for i in range(len(leaves))])


class Choice(nnx.Module):
    """Modules that compete for one decision, all called as `module(x, path, train)` and equal in output shape."""

    def __init__(self, decision: int, modules: Sequence[nnx.Module]):
        parts = [nnx.split(module, nnx.Param, nnx.BatchStat) for module in modules]
        weights = [Layout.of(params) for _, params, _ in parts]
        statistics = [Layout.of(stats) for _, _, stats in parts]
        width = max(layout.width for layout in weights)
        rows = [layout.pack(params, width, np) for layout, (_, params, _) in zip(weights, parts, strict=True)]
        self.decision = decision
        self.branches = tuple(zip([graph for graph, _, _ in parts], weights, statistics, strict=True))
        self.weights = Shared(np.stack(rows), decision=decision, decayed=tuple(layout.decayed for layout in weights))
        # Of the branch that ran last; one row, because a path has its own statistics.
        self.statistics = nnx.BatchStat(np.zeros(max(layout.width for layout in statistics), np.float32))

    def __call__(self, x: Array, path: Path, train: bool) -> Array:
        choice = path[self.decision]
        row = self.weights.get_value()
        if row.ndim == 2:  # all rows are here: the caller has not selected
            row = row[choice]
        y, statistics = _run_once(self.branches, train, x, row, self.statistics.get_value(), choice)
        self.statistics.set_value(statistics)
        return y

    def branch(self, choice: int) -> nnx.Module:
        """A module of its own, with the weights that its row has now."""
        graph, weights, statistics = self.branches[choice]
        return nnx.merge(
            graph,
            weights.unpack(self.weights.get_value()[choice]),
            statistics.unpack(self.statistics.get_value()),
        )


# Differentiated as it is, a switch saves what every branch would need, zeros for those that did not run. So the
# branch is kept whole: what is saved is its input, and the backward pass runs it again.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(branches, train: bool, x: Array, row: Array, statistics: Array, choice: Array) -> tuple[Array, Array]:
    """The output and the statistics of the chosen branch. No gradient flows through the statistics."""
    calls = [functools.partial(_call, branch, train) for branch in branches]
    return lax.switch(choice, calls, x, row, statistics)


def _forward(branches, train: bool, *inputs):
    return _run(branches, train, *inputs), inputs


def _backward(branches, train: bool, inputs, gradients):
    x, row, statistics, choice = inputs
    pulls = [functools.partial(_pull, branch, train) for branch in branches]
    return *lax.switch(choice, pulls, x, row, statistics, gradients[0]), None, None


_run.defvjp(_forward, _backward)
_run_once = jax.jit(_run, static_argnums=(0, 1))  # traced once for all blocks of equal shape


def _call(branch, train: bool, x: Array, row: Array, statistics: Array) -> tuple[Array, Array]:
    graph, weights, layout = branch
    module = nnx.merge(graph, weights.unpack(row), layout.unpack(statistics), copy=True)
    y = module(x, (), train)
    return y, layout.pack(nnx.state(module, nnx.BatchStat), statistics.size) if train else statistics


def _pull(branch, train: bool, x: Array, row: Array, statistics: Array, gradient: Array) -> tuple[Array, Array]:
    return jax.vjp(lambda x, row: _call(branch, train, x, row, statistics)[0], x, row)[1](gradient)


def _is_shared(node: Any) -> bool:
    return isinstance(node, Shared)


def select(tree: Any, path: Path) -> Any:
    """The part of weights (or of an optimiser's state over them) that lies on the path."""

    def pick(leaf: Any) -> Any:
        return leaf.replace(leaf.get_value()[path[leaf.decision]]) if _is_shared(leaf) else leaf

    return jax.tree.map(pick, tree, is_leaf=_is_shared)


def put(tree: Any, selected: Any, path: Path) -> Any:
    """The tree with its part on the path replaced; every other entry keeps its bits."""

    def place(leaf: Any, new: Any) -> Any:
        return leaf.replace(leaf.get_value().at[path[leaf.decision]].set(new.get_value())) if _is_shared(leaf) else new

    return jax.tree.map(place, tree, selected, is_leaf=_is_shared)


def decay_mask(selected: Any, path: Path) -> Any:
    """Which selected parameters weight decay acts on: those of tensors with more than one axis."""

    def mask(leaf: Any) -> Any:
        if not _is_shared(leaf):
            return jnp.full(leaf.shape, leaf.ndim > 1)
        weights = jnp.asarray(leaf.decayed)[path[leaf.decision]]
        return leaf.replace(jnp.arange(leaf.get_value().size) < weights)

    return jax.tree.map(mask, selected, is_leaf=_is_shared)
