"""Successive cells of equal shape as one loop, so that what is compiled does not grow with depth."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from spaces.cell_kit import PLAIN, Kit

LOOPED = True  # whether equal cells are one loop; written out they are the same, and take longer to compile


class Shape(NamedTuple):
    """Successive cells of one kind: where they begin, how many there are, and what sizes."""

    first: int
    length: int
    reduction: bool
    width: int
    size: int  # pixels of a side before the first cell
    width_in: tuple[int, int]  # channels of the outputs of the two cells before
    after_reduction: bool  # whether the cell before reduced the resolution

    @property
    def out(self) -> int:
        return -(-self.size // 2) if self.reduction else self.size


class Drop(NamedTuple):
    """Drop path: in each image, what an operation other than the identity brings is left out with a probability.

    With `cells`, how many there are, the probability rises with depth and is reached in the last cell.
    """

    key: jax.Array
    probability: Float[Array, ""] | float
    cells: int | None = None

    def at(self, i: Any) -> "Drop":
        return self._replace(key=jr.fold_in(self.key, i))

    def in_cell(self, i: Any) -> "Drop":
        share = 1.0 if self.cells is None else (i + 1) / self.cells
        return self.at(i)._replace(probability=self.probability * share)

    def __call__(self, x: Array) -> Array:
        keep = 1 - self.probability
        mask = jr.bernoulli(self.key, keep, (len(x), 1, 1, 1))
        return jnp.where(mask, x / jnp.asarray(keep, x.dtype), 0)


class Core(Protocol):
    """The cells of a run without what brings their inputs to their width."""

    def opened(self, path: Any, train: bool, drop: Drop | None) -> tuple[Callable, Any]:
        """A function `(input, input, part) -> (output, statistics)` and the parts of all cells, as leading axis."""
        ...

    def keep(self, statistics: Any) -> None:
        """Takes the statistics that a batch has left in all cells."""
        ...


def stack(modules: Sequence[nnx.Module], count: int) -> tuple[Any, Any]:
    """Modules of equal structure as one: their structure, and their arrays along a new axis, zeros after the last."""
    parts = [nnx.split(module) for module in modules]

    def join(*leaves: Any) -> Array:
        empty = [jnp.zeros_like(leaves[0])] * (count - len(leaves))
        return jnp.stack([jnp.asarray(leaf) for leaf in leaves] + empty)

    return parts[0][0], jax.tree.map(join, *(state for _, state in parts))


def unstack(modules: Sequence[nnx.Module], statistics: Any) -> None:
    for i, module in enumerate(modules):
        nnx.update(module, jax.tree.map(lambda leaf, i=i: leaf[i], statistics))


def call(graph: Any, state: Any, x: Array, train: bool) -> tuple[Array, Any]:
    module = nnx.merge(graph, state, copy=True)
    return module(x, (), train), nnx.state(module, nnx.BatchStat)


class Run(nnx.Module):
    """Successive cells of equal shape, as one loop.

    The inputs of a cell are prepared as soon as they are known, by the cells that give them: what a step of the loop
    passes on is then of one shape, whatever came before the first. After the last cell there is nothing to prepare,
    and zeros stand for the weights that would.
    """

    def __init__(
        self,
        shape: Shape,
        outputs: tuple[int, int],
        core: Any,
        draw: np.random.Generator,
        affine: bool,
        kit: Kit = PLAIN,
    ):
        width, (before, last) = shape.width, shape.width_in
        out = width * outputs[shape.reduction]
        fit, first = kit.fit, kit.halve if shape.after_reduction else kit.fit
        self.width = width
        self.enter = nnx.List([first(before, width, draw, affine), fit(last, width, draw, affine)])
        self.second = nnx.List([fit(last, width, draw, affine)] if shape.length > 1 else [])
        self.near = nnx.List([fit(out, width, draw, affine) for _ in range(shape.length - 1)])
        self.far = nnx.List([fit(out, width, draw, affine) for _ in range(shape.length - 2)])
        self.core, self.length = core, shape.length
        # Cells may add the output of the cell before, which the first of a network does not.
        self.adds, self.opens, self.joined = kit.skip is not None, shape.first == 0, out
        strided = kit.skip is not None and shape.reduction and not self.opens
        self.skip = nnx.List([kit.skip(last, out, draw)] if strided else [])  # pyright: ignore[reportOptionalCall]

    def __call__(self, before: Array, last: Array, path, train: bool, drop: Drop | None) -> tuple[Array, Array]:
        """The outputs of the last two cells, of all that there are so far."""
        first, next_ = (fit(x, path, train) for fit, x in zip(self.enter, (before, last), strict=True))
        run, parts = self.core.opened(path, train, drop)
        beside = self._beside(last, first, path, train)
        if self.length == 1:
            out, left = run(first, next_, jax.tree.map(lambda leaf: leaf[0], parts))
            out = _added(out, beside)
            if train:
                self.core.keep(jax.tree.map(lambda leaf: leaf[None], left))
            return last, out
        ahead = self.second[0](last, path, train)
        if not LOOPED:
            return self._written_out(run, parts, (first, next_, ahead, beside), path, train)
        near, near_states = stack(self.near, self.length)
        far, far_states = (
            stack(self.far, self.length) if self.far else (near, jax.tree.map(jnp.zeros_like, near_states))
        )

        def cell(carry, part):
            first, next_, ahead, beside = carry
            part, near_state, far_state = part
            out, left = run(first, next_, part)
            out = _added(out, beside)
            next_, near_left = call(near, near_state, out, train)
            after, far_left = call(far, far_state, out, train)
            beside = None if beside is None else out
            return (ahead, next_, after, beside), (out, left, near_left, far_left)

        parts = (parts, near_states, far_states)
        _, (outs, left, near_left, far_left) = lax.scan(cell, (first, next_, ahead, beside), parts)
        if train:
            self.core.keep(left)
            unstack(self.near, near_left)
            unstack(self.far, far_left)
        return outs[-2], outs[-1]

    def _beside(self, last: Array, like: Array, path, train: bool) -> Array | None:
        """What is added to the output of the first cell here, where cells add anything: zeros in a network's first."""
        if not self.adds or (self.opens and self.length == 1):
            return None
        if self.opens:
            return jnp.zeros((*like.shape[:-1], self.joined), like.dtype)
        return self.skip[0](last, path, train) if self.skip else last

    def _written_out(self, run, parts, inputs, path, train: bool) -> tuple[Array, Array]:
        (first, next_, ahead, beside), outs, lefts = inputs, [], []
        for i in range(self.length):
            out, left = run(first, next_, jax.tree.map(lambda leaf, i=i: leaf[i], parts))
            out = _added(out, beside)
            beside = None if beside is None else out
            outs, lefts = [*outs, out], [*lefts, left]
            if i < self.length - 1:
                first, next_ = ahead, self.near[i](out, path, train)
            if i < self.length - 2:
                ahead = self.far[i](out, path, train)
        if train:
            self.core.keep(jax.tree.map(lambda *leaves: jnp.stack(leaves), *lefts))
        return outs[-2], outs[-1]


def _added(out: Array, beside: Array | None) -> Array:
    return out if beside is None else out + beside
