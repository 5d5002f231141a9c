"""Shared weights of which a path uses the first channels: layers whose widths are chosen.

Weights lie there at the largest widths. Which channels there are at a choice is a mask, for a path is an array and
shapes are not; so one compiled program serves every architecture, at the cost of the widest one (Yu et al., "Slimmable
Neural Networks", 2018, https://arxiv.org/abs/1812.08928). A training step works on all weights, and what lies off the
path is put back: parameters and the optimiser's state keep their bits there.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool

from spaces.shared import Path, Shared

Widths = tuple[tuple[int, ...], ...]  # of each decision the channels that it may choose: of an architecture one
Present = tuple[Bool[Array, "_"] | None, ...]  # of each decision which channels there are; None where all


def present(widths: Widths, path: Path | tuple) -> Present:
    """Without a path, all channels of all decisions."""
    if not len(path):
        return (None,) * len(widths)
    picks = enumerate(widths)
    return tuple(None if len(sizes) == 1 else jnp.arange(max(sizes)) < _chosen(sizes, path[i]) for i, sizes in picks)


def _chosen(sizes: tuple[int, ...], choice: Any) -> Array:
    return jnp.asarray(sizes)[choice]


class Slices(Shared):
    """Parameters of which a path has the first so many along some axes.

    `axes` are these, each with the decision that says how many and the numbers among which it chooses. What is
    counted of steps is so of each entry.
    """

    axes: tuple[tuple[int, int, tuple[int, ...]], ...]

    def on(self, path: Path) -> Array:
        """Which entries are on the path."""
        masks = [
            lax.broadcasted_iota(jnp.int32, self.shape, axis) < _chosen(sizes, jnp.asarray(path)[decision])
            for axis, decision, sizes in self.axes
        ]
        return functools.reduce(operator.and_, masks)

    def part(self, path: Path) -> Any:
        """All of them: the shape of a part would depend on the path."""
        del path
        return self

    def with_part(self, part: Any, path: Path) -> Any:
        return self.replace(jnp.where(self.on(path), part.get_value(), self.get_value()))

    def decays(self, path: Path) -> Any:
        return self.replace(self.on(path) & (self.ndim > 1))

    def counters(self) -> Any:
        return self.replace(jnp.zeros(self.shape, jnp.int32))

    def total(self, measure: Callable[..., Array], path: Path, *others: Any) -> Array:
        """What is off the path is as if it were 0."""
        if self.ndim == 1:
            return jnp.zeros(())
        inside = self.on(path)
        return measure(*(jnp.where(inside, each.get_value(), 0) for each in (self, *others)))


def sliced(param: nnx.Param, widths: Widths, decisions: dict[int, int | None]) -> nnx.Param:
    """The parameters as shared ones, where decisions choose how long some of their axes are: `decisions` by axis."""
    ends = ((axis, decision) for axis, decision in decisions.items() if decision is not None)
    axes = tuple((axis, decision, widths[decision]) for axis, decision in ends if len(widths[decision]) > 1)
    return Slices(param.get_value(), axes=axes) if axes else param
