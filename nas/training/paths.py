"""Which path each step of the supernet's training takes."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from nas.errors import UsageError
from nas.training.recipe import Paths
from spaces.base import Limits, Space, feasible, sample

TRIES = 64  # for each path
PROBES = 4096  # from which the bins are taken


def training_paths(kind: Paths, space: Space, key: jax.Array, steps: int, *, bins: int, limits: Limits) -> np.ndarray:
    """Those of a training, (steps, decisions). Only cost-binned ones have bins, and keep limits."""
    match kind:
        case "uniform":
            return uniform_paths(space, key, steps)
        case "fair":
            return fair_paths(space, key, steps)
        case "cost-binned":
            return cost_binned_paths(space, key, steps, bins=bins, limits=limits)


def uniform_paths(space: Space, key: jax.Array, steps: int) -> np.ndarray:
    """Every choice of every decision equally often: Guo et al., 2019, https://arxiv.org/abs/1904.00420, eq. 6."""
    return np.asarray(sample(space, key, steps))


def fair_paths(space: Space, key: jax.Array, steps: int) -> np.ndarray:
    """In as many steps as a decision has choices each of them once, in an order that is drawn anew every time.

    Chu et al., "FairNAS", 2019, https://arxiv.org/abs/1907.01845, section 3.2. There the gradients of such a round are
    added up to one step of the optimiser; here each path has a step of its own.
    """
    columns = []
    for i, choices in enumerate(space.cardinalities):
        orders = jr.uniform(jr.fold_in(key, i), (-(-steps // choices), choices)).argsort(1)
        columns.append(np.asarray(orders, np.int32).ravel()[:steps])
    return np.stack(columns, 1)


def cost_binned_paths(
    space: Space, key: jax.Array, steps: int, *, bins: int, limits: Limits = (), cost: str = "macs"
) -> np.ndarray:
    """A bin of the cost drawn uniformly, then a uniform path of a cost in it, as the released SPOS code samples.

    The bins are of equal width, between the least and the largest cost of a large sample that keeps the limits.
    A path that misses its bin in all tries is the one that came nearest. Every path keeps the limits.
    """
    key_range, key_bins, key_paths = jr.split(key, 3)
    probe = sample(space, key_range, PROBES)
    probe = probe[feasible(space, probe, limits)]
    if not len(probe):
        most = " and ".join(f"{name} <= {value:g}" for name, value in limits)
        raise UsageError(f"paths='cost-binned': none of {PROBES} random paths keeps {most}; 'uniform' needs none")
    costs = space.cost(probe)[cost]
    low, high = costs.min(), costs.max()
    centre = low + (high - low) * (jr.randint(key_bins, (steps,), 0, bins) + 0.5) / bins

    def pick(key: jax.Array, centre: jax.Array) -> jax.Array:
        paths = sample(space, key, TRIES)
        distance = jnp.where(feasible(space, paths, limits), jnp.abs(space.cost(paths)[cost] - centre), jnp.inf)
        # The first that hits; a miss counts by its distance, and is worse than any hit.
        best = jnp.argmin(jnp.where(distance <= (high - low) / bins / 2, -1.0, distance))
        # Under tight limits none may be legal; then the nearest of the sample is.
        nearest = probe[jnp.argmin(jnp.abs(costs - centre))]
        return jnp.where(jnp.isfinite(distance[best]), paths[best], nearest)

    return np.asarray(jax.lax.map(lambda each: pick(*each), (jr.split(key_paths, steps), centre), batch_size=256))
