"""Which path each step of the supernet's training takes."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from spaces.base import Limits, Space, feasible, sample

TRIES = 64


def uniform_paths(space: Space, key: jax.Array, steps: int) -> np.ndarray:
    """Every choice of every decision equally often: Guo et al., 2019, https://arxiv.org/abs/1904.00420, eq. 6."""
    return np.asarray(sample(space, key, steps))


def cost_binned_paths(
    space: Space, key: jax.Array, steps: int, *, bins: int, limits: Limits = (), cost: str = "macs"
) -> np.ndarray:
    """A bin of the cost drawn uniformly, then a uniform path of a cost in it, as the released SPOS code samples.

    The bins are of equal width, between the least and the largest cost of a large sample that keeps the limits.
    A path that misses its bin in all tries is the one that came nearest.
    """
    key_range, key_bins, key_paths = jr.split(key, 3)
    probe = sample(space, key_range, 4096)
    costs = jnp.where(feasible(space, probe, limits), space.cost(probe)[cost], jnp.nan)
    low, high = jnp.nanmin(costs), jnp.nanmax(costs)
    centre = low + (high - low) * (jr.randint(key_bins, (steps,), 0, bins) + 0.5) / bins

    def pick(key: jax.Array, centre: jax.Array) -> jax.Array:
        paths = sample(space, key, TRIES)
        distance = jnp.abs(space.cost(paths)[cost] - centre)
        inside = (distance <= (high - low) / bins / 2) & feasible(space, paths, limits)
        # The first that hits; a miss counts by its distance, and is worse than any hit.
        return paths[jnp.argmin(jnp.where(inside, -1.0, distance))]

    return np.asarray(jax.lax.map(lambda each: pick(*each), (jr.split(key_paths, steps), centre), batch_size=256))
