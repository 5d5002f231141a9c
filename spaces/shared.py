"""Parameters that architectures share, and what says which of them an architecture uses.

A network is called with images and one of these:

- a path, the choice of each decision: an architecture;
- a mixture, which gives every choice of each decision a weight;
- `OneHot`, a mixture of one choice each: only that one runs, and the weights still have gradients;
- `()`, where it is the network of one architecture alone.

Training along a path works on the part of the parameters that lies on it, and puts that back, so whatever is off the
path (parameters and the optimiser's state alike) stays bit-identical, and costs nothing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jaxtyping import Array, Float, Int

Path = Int[Array, "length"]
Mixture = Float[Array, "length choices"]


@struct.dataclass
class OneHot:
    """A mixture that gives one choice of each decision the weight 1, and the others 0."""

    weights: Mixture
    ndim = 2

    def choices(self) -> Path:
        return self.weights.argmax(1).astype(jnp.int32)


def is_mixture(path: Any) -> bool:
    return np.ndim(path) == 2


class Shared(nnx.Param):
    """Parameters of which an architecture uses a part. How they lie says a class: `single_path.Rows` are the rows of
    the choices of decisions. The functions below work on trees that have such parameters among others."""

    def part(self, path: Path) -> Any:
        """The part on the path, as parameters of the same class."""
        raise NotImplementedError

    def with_part(self, part: Any, path: Path) -> Any:
        """All of them, with the part on the path replaced; every other entry keeps its bits."""
        raise NotImplementedError

    def decays(self, path: Any) -> Any:
        """Which entries weight decay acts on: of a part, or of all of them where there is a mixture."""
        raise NotImplementedError

    def counters(self) -> Any:
        """A whole number, 0, for each piece of which a path takes all or nothing."""
        raise NotImplementedError

    def total(self, measure: Callable[..., Array], path: Any, *others: Any) -> Array:
        """See `total`: of the part on the path, which this is."""
        raise NotImplementedError


def is_shared(node: Any) -> bool:
    return isinstance(node, Shared)


def select(tree: Any, path: Path) -> Any:
    """The part of weights (or of an optimiser's state over them) that lies on the path."""
    return jax.tree.map(lambda leaf: leaf.part(path) if is_shared(leaf) else leaf, tree, is_leaf=is_shared)


def put(tree: Any, selected: Any, path: Path) -> Any:
    """The tree with its part on the path replaced; every other entry keeps its bits."""

    def place(leaf: Any, new: Any) -> Any:
        return leaf.with_part(new, path) if is_shared(leaf) else new

    return jax.tree.map(place, tree, selected, is_leaf=is_shared)


def decay_mask(selected: Any, path: Path | Mixture | tuple[()]) -> Any:
    """Which selected parameters weight decay acts on: those of tensors with more than one axis."""

    def mask(leaf: Any) -> Any:
        return leaf.decays(path) if is_shared(leaf) else jnp.full(leaf.shape, leaf.ndim > 1)

    return jax.tree.map(mask, selected, is_leaf=is_shared)


def total(measure: Callable[..., Array], path: Path | tuple[()], *trees: Any) -> Array:
    """The sum of a measure of each weight tensor on the path, given as it is in each of the selected trees (weights,
    their gradients). Parameters of one axis, biases and scales, are left out."""

    def one(leaf: Any, *others: Any) -> Array | float:
        if is_shared(leaf):
            return leaf.total(measure, path, *others)
        return measure(leaf, *others) if leaf.ndim > 1 else 0.0

    return jnp.asarray(sum(jax.tree.leaves(jax.tree.map(one, *trees, is_leaf=is_shared))))
