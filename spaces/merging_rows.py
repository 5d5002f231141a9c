"""Many merging cells as rows of numbers: first input, second input of those that are left, level, operation."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from spaces.merging import OPS, OUTPUTS


def inputs(rows: Int[Array, "n cells 4"]) -> tuple[Int[Array, "n cells"], Int[Array, "n cells"]]:
    """The two features that each cell takes, by their numbers in the pool."""
    first, second = rows[:, :, 0], rows[:, :, 1]
    return first, second + (second >= first)


def pool(cells: Int[Array, "n cells"]) -> Int[Array, "n features"]:
    """Of all features what is given of cells; the maps that come first are 0, 1 and so on."""
    return jnp.concatenate([jnp.tile(jnp.arange(OUTPUTS, dtype=jnp.int32)[None], (len(cells), 1)), cells], axis=1)


def order_matters(level: Int[Array, "n cells"], first: Array, second: Array, op: Array) -> Bool[Array, "n cells"]:
    """Of which cells the order of the inputs matters: those that gate two features of one level."""
    one, other = (jnp.take_along_axis(pool(level), each, axis=1) for each in (first, second))
    return (op == OPS.index("attn")) & (one == other)


def sorted_inputs(kept: Bool[Array, "n cells"], first: Array, second: Array) -> tuple[Array, Array]:
    """Two features each, the one that is earlier first, but where the order is kept."""
    low, high = jnp.minimum(first, second), jnp.maximum(first, second)
    return jnp.where(kept, first, low), jnp.where(kept, second, high)
