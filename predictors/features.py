"""Architectures as vectors of numbers in which similar ones are close: what predictors look at."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spaces.abilities import Featured, Scored, networks
from spaces.base import Encodings, Space, every, one_hot, sample


def features(space: Space, encodings: Encodings) -> Float[Array, "n d"]:
    """The space's own features, or the choices if it has none, the logarithms of the costs, and the scores that need
    no training where a table has them; of canonical rows.

    Each of these groups has mean 0, and two architectures of the space differ by 2 in it on average (as a squared
    distance), so that a group does not count for more because it has more columns.
    """
    means, scales, _ = _moments(space)
    return (jnp.concatenate(_groups(space, encodings), 1) - means[None]) / scales[None]


def groups(space: Space) -> Int[np.ndarray, "d"]:
    """The number of the group that each feature belongs to."""
    return _moments(space)[2]


def _groups(space: Space, encodings: Encodings) -> list[Array]:
    found = [space.scores_of(encodings)] if isinstance(space, Scored) and space.scores else []
    space = networks(space)
    rows = space.canonical(encodings)
    own = space.features(rows) if isinstance(space, Featured) else (one_hot(space, rows),)
    costs = space.cost(rows)
    logs = [jnp.stack([jnp.log(jnp.maximum(costs[name], 1.0)) for name in sorted(costs)], 1)] if costs else []
    return [*(jnp.asarray(group, jnp.float32) for group in own), *logs, *found]


@functools.lru_cache(maxsize=16)
def _moments(space: Space) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean of every feature, what it is divided by, and its group, over the space or 2,000 architectures of it."""
    with jax.ensure_compile_time_eval():
        rows = every(space)
        parts = [
            np.asarray(group, np.float64)
            for group in _groups(space, sample(space, jax.random.key(0), 2000) if rows is None else jnp.asarray(rows))
        ]
    columns = np.concatenate(parts, 1)
    deviations = columns.std(0)
    sizes = np.concatenate([np.full(part.shape[1], max((part.std(0) > 0).sum(), 1)) for part in parts])
    scales = np.where(deviations > 0, deviations * np.sqrt(sizes), 1.0)
    members = np.concatenate([np.full(part.shape[1], i) for i, part in enumerate(parts)])
    return columns.mean(0).astype(np.float32), scales.astype(np.float32), members
