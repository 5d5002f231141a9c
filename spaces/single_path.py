"""Shared weights of which a path uses one part: the choice module, and views of weights on a path.

The parameters of the modules that compete for one decision lie as the rows of one matrix, padded to a common width.
A path selects one row of each. Training works on the selected rows alone and puts them back, so whatever is off the
path (parameters and optimiser state alike) stays bit-identical, and costs nothing.

The path is an array argument: one compiled program serves every architecture, and only the chosen branch runs.
In its place may stand a mixture, which gives every choice a weight; then all branches run, and what they give is added.
Of a mixture that is one-hot (`OneHot`) only the chosen branch runs, and the weights still have gradients.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.custom_derivatives import CustomVJPPrimal
from jaxtyping import Array

from spaces.precision import widened
from spaces.shared import Mixture, OneHot, Path, Shared, is_mixture


class Rows(Shared):
    """Parameters `[count, choices, width]`: for each `i` the choices of decision `decisions[i]`, as rows.

    `decayed[choice]` is the number of leading entries that are weights; normalisation scales and biases follow.
    `sizes[choice]` are the numbers of entries of these weights' tensors, one after another.
    `read` makes decisions of a path, where an encoding says them in another way; a mixture is given by decision.
    """

    decisions: tuple[int, ...]
    decayed: tuple[int, ...]
    sizes: tuple[tuple[int, ...], ...]
    read: Callable[[Path], Path]

    def picks(self, path: Path | Mixture | OneHot) -> Array:
        """What the path chooses at these decisions, or the weights that the mixture gives to their choices."""
        path = jnp.asarray(path.weights if isinstance(path, OneHot) else path)
        return (path if is_mixture(path) else self.read(path))[np.array(self.decisions)]

    def part(self, path: Path) -> Any:
        return self.replace(self.get_value()[np.arange(self.shape[0]), self.picks(path)])

    def with_part(self, part: Any, path: Path) -> Any:
        rows = jnp.asarray(self.get_value()).at[np.arange(self.shape[0]), self.picks(path)]
        return self.replace(rows.set(part.get_value()))

    def decays(self, path: Path | Mixture) -> Any:
        weights = jnp.asarray(self.decayed)
        weights = weights[self.picks(path)] if self.ndim == 2 else weights[None]  # of one choice a row, or of all
        return self.replace(lax.broadcasted_iota(jnp.int32, self.shape, self.ndim - 1) < weights[..., None])

    def counters(self) -> Any:
        return self.replace(jnp.zeros(self.shape[:-1], jnp.int32))

    def total(self, measure: Callable[..., Array], path: Any, *others: Any) -> Array:
        rows = [each.get_value() for each in (self, *others)]
        by_choice = []
        for sizes in self.sizes:
            ends = np.cumsum((0, *sizes))
            parts = [[row[:, a:b] for row in rows] for a, b in itertools.pairwise(ends)]
            by_choice.append(sum((jax.vmap(measure)(*part) for part in parts), jnp.zeros(self.shape[0])))
        return jnp.stack(by_choice)[self.picks(path), np.arange(self.shape[0])].sum()


class Statistics(nnx.BatchStat):
    """Statistics `[count, width]`, one row a decision; `initial[choice]` is the row, as bytes, that a choice is made
    with."""

    decisions: tuple[int, ...]
    initial: tuple[bytes, ...]


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
    def sizes(self) -> tuple[int, ...]:
        """Of the tensors with more than one axis, which come first."""
        return tuple(math.prod(self[1][i]) for i in self.order if len(self[1][i]) > 1)

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


Around = Callable[..., Array]  # (input of a block, *its branches) -> its output
Run = Callable[..., tuple[Array, Array]]  # (input, weights, statistics, pick) -> output, statistics


def directly(x: Array, branch: Callable[[Array], Array]) -> Array:
    return branch(x)


def as_written(path: Path) -> Path:
    return path


class Choice(nnx.Module):
    """Successive blocks of equal shape, each of `together` branches: `modules[i][choice]` compete for branch `i` of
    them all, and `decisions[i]` decides. A decision may be taken once for several branches.

    Modules are called as `module(x, path, train)` and equal in output shape; `around` says what a block does with its
    branches. The blocks are one loop, so that they are traced and compiled once.
    """

    def __init__(
        self,
        decisions: Sequence[int],
        modules: Sequence[Sequence[nnx.Module]],
        around: Around = directly,
        together: int = 1,
        read: Callable[[Path], Path] = as_written,
    ):
        parts = [[nnx.split(module, nnx.Param, nnx.BatchStat) for module in choices] for choices in modules]
        graphs = [[graph for graph, _, _ in choices] for choices in parts]
        if any(choices != graphs[0] for choices in graphs):
            raise ValueError("decisions of one Choice must offer the same modules")
        weights = [Layout.of(params) for _, params, _ in parts[0]]
        statistics = [Layout.of(stats) for _, _, stats in parts[0]]
        width = max(layout.width for layout in weights)
        rows = [
            [layout.pack(params, width, np) for layout, (_, params, _) in zip(weights, choices, strict=True)]
            for choices in parts
        ]
        self.around, self.together = around, together
        self.branches = tuple(zip(graphs[0], weights, statistics, strict=True))
        sizes = tuple(layout.sizes for layout in weights)
        decayed = tuple(map(sum, sizes))
        self.weights = Rows(np.array(rows), decisions=tuple(decisions), decayed=decayed, sizes=sizes, read=read)
        # Of the branch that ran last; one row a decision, because a path has its own statistics.
        size = max(layout.width for layout in statistics)
        zeros = np.zeros((len(rows), size), np.float32)
        initial = tuple(
            layout.pack(stats, size, np).astype(np.float32).tobytes()
            for layout, (_, _, stats) in zip(statistics, parts[0], strict=True)
        )
        self.statistics = Statistics(zeros, decisions=tuple(decisions), initial=initial)

    def opened(self, path: Path | Mixture | OneHot, train: bool) -> tuple[Run, tuple[Array, Array, Array]]:
        """How a decision is run, as a function of its input and of what follows: the weights, the statistics and the
        pick of every decision."""
        picks, rows = self.weights.picks(path), jnp.asarray(self.weights.get_value())
        inputs = jnp.asarray(self.statistics.get_value()), picks
        if is_mixture(path) and not isinstance(path, OneHot):
            return functools.partial(_mix, self.branches), (rows, *inputs)
        if rows.ndim == 3:  # all rows are here: the caller has not selected
            rows = rows[jnp.arange(len(rows)), picks.argmax(1) if isinstance(path, OneHot) else picks]
        if isinstance(path, OneHot):
            return functools.partial(_sampled, self.branches), (rows, *inputs)
        return functools.partial(_run, self.branches, train), (rows, *inputs)

    def __call__(self, x: Array, path: Path | Mixture | OneHot, train: bool) -> Array:
        run, inputs = self.opened(path, train)
        n = len(inputs[0])

        def block(x: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            left: dict[int, Array] = {}

            def branch(i: int, x: Array) -> Array:
                y, left[i] = run(x, *(each[i] for each in inputs))
                return y

            x = self.around(x, *(functools.partial(branch, i) for i in range(self.together)))
            return x, jnp.stack([left[i] for i in range(self.together)])

        inputs = jax.tree.map(lambda each: each.reshape(-1, self.together, *each.shape[1:]), inputs)
        if n == self.together:  # one block may change the shape
            x, statistics = block(x, jax.tree.map(lambda each: each[0], inputs))
        else:
            x, statistics = lax.scan(block, x, inputs)
        self.statistics.set_value(statistics.reshape(n, -1))
        return x

    def branch(self, i: int, choice: int) -> nnx.Module:
        """A module of its own for decision `decisions[i]`, with the weights that its row has now."""
        graph, weights, statistics = self.branches[choice]
        row, numbers = self.weights.get_value()[i, choice], self.statistics.get_value()[i]
        return nnx.merge(graph, weights.unpack(row), statistics.unpack(numbers))


def _mix(branches, x: Array, rows: Array, statistics: Array, weights: Array) -> tuple[Array, Array]:
    """The sum over all branches, each normalised by the batch, and the statistics as they were."""
    outputs = [_call(branch, True, x, row, statistics)[0] for branch, row in zip(branches, rows, strict=True)]
    exact = [widened(y) for y in outputs]
    terms = [weight * y for weight, y in zip(weights.astype(exact[0].dtype), exact, strict=True)]
    return functools.reduce(jnp.add, terms).astype(x.dtype), statistics


# Differentiated as it is, a switch saves what every branch would need, zeros for those that did not run. So the
# branch is kept whole: what is saved is its input, and the backward pass runs it again.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(branches, train: bool, x: Array, row: Array, statistics: Array, choice: Array):
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sampled(branches, x: Array, row: Array, statistics: Array, weights: Array) -> tuple[Array, Array]:
    """What the branch of weight 1 gives, normalised by the batch, and the statistics as they were.

    To the gradient it is h_k * branch_k(x) + the sum of all other h (Dong & Yang, "Searching for a Robust Neural
    Architecture in Four GPU Hours", 2019, https://arxiv.org/abs/1910.04465, and its code).
    """
    found: Any = _run(branches, True, x, row, statistics, weights.argmax().astype(jnp.int32))
    return found[0], statistics


def _sampled_forward(branches, *primals: CustomVJPPrimal):
    x, row, statistics, weights = (primal.value for primal in primals)
    wanted = () if primals[1].perturbed else None  # whether the gradient by the row is: a structure, to stay static
    return _sampled(branches, x, row, statistics, weights), (x, row, statistics, weights, wanted)


def _sampled_backward(branches, saved, gradients):
    x, row, statistics, weights, wanted = saved
    flow = gradients[0]

    def pull(branch, x: Array, row: Array) -> tuple[Array, Array | None, Array]:
        if wanted is None:
            y, pull = jax.vjp(lambda x: _call(branch, True, x, row, statistics)[0], x)
            (by_x,), by_row = pull(flow), None
        else:
            y, pull = jax.vjp(lambda x, row: _call(branch, True, x, row, statistics)[0], x, row)
            by_x, by_row = pull(flow)
        return by_x, by_row, jnp.vdot(widened(flow), widened(y)).astype(weights.dtype)

    choice = weights.argmax()
    pulls = [functools.partial(pull, branch) for branch in branches]
    by_x, by_row, by_choice = lax.switch(choice, pulls, x, row)
    by_weights = jnp.where(jnp.arange(len(weights)) == choice, by_choice, widened(flow).sum().astype(weights.dtype))
    return by_x, by_row, None, by_weights


_sampled.defvjp(_sampled_forward, _sampled_backward, symbolic_zeros=True)


@functools.partial(jax.jit, static_argnums=(0, 1))  # traced once per shape, however many loops and runs share it
def _call(branch, train: bool, x: Array, row: Array, statistics: Array) -> tuple[Array, Array]:
    graph, weights, layout = branch
    module = nnx.merge(graph, weights.unpack(row), layout.unpack(statistics), copy=True)
    y = module(x, (), train)
    return y, layout.pack(nnx.state(module, nnx.BatchStat), statistics.size) if train else statistics


def _pull(branch, train: bool, x: Array, row: Array, statistics: Array, gradient: Array) -> tuple[Array, Array]:
    return jax.vjp(lambda x, row: _call(branch, train, x, row, statistics)[0], x, row)[1](gradient)


def initial_statistics(statistics: Any, path: Path | tuple[()]) -> Any:
    """The statistics that the modules on the path are made with: mean 0, variance 1."""

    def begin(where: Any, leaf: Any) -> Any:
        if not isinstance(leaf, Statistics):
            return leaf.replace(jnp.full(leaf.shape, where[-1].key == "var", jnp.float32))
        table = np.stack([np.frombuffer(row, np.float32) for row in leaf.initial])
        return leaf.replace(jnp.asarray(table)[jnp.asarray(path)[np.array(leaf.decisions)]])

    return jax.tree_util.tree_map_with_path(begin, statistics, is_leaf=lambda node: isinstance(node, nnx.Variable))
