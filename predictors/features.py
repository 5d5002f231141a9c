"""Architectures as vectors of numbers in which similar ones are close: what predictors look at."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from spaces.base import Encodings, Space, every, one_hot, sample


def features(space: Space, encodings: Encodings) -> Float[Array, "n d"]:
    """The space's own features, or the choices if it has none, and the logarithms of the costs, of canonical rows.

    Each of these groups has mean 0, and two architectures of the space differ by 2 in it on average (as a squared
    distance), so that a group does not count for more because it has more columns.
    """
    space = getattr(space, "space", space)  # a table's space is that of its architectures
    means, scales = _moments(space)
    return (jnp.concatenate(_groups(space, encodings), 1) - means[None]) / scales[None]


def _groups(space: Space, encodings: Encodings) -> list[Array]:
    rows = space.canonical(encodings)
    own = getattr(space, "features", None)
    groups = [one_hot(space, rows)] if own is None else [jnp.asarray(group, jnp.float32) for group in own(rows)]
    costs = space.cost(rows)
    groups.append(jnp.stack([jnp.log(jnp.maximum(costs[name], 1.0)) for name in sorted(costs)], 1))
    return groups


@functools.lru_cache(maxsize=16)
def _moments(space: Space) -> tuple[np.ndarray, np.ndarray]:
    """The mean of every feature, and what it is divided by, over the space or 2,000 architectures of it."""
    with jax.ensure_compile_time_eval():
        rows = every(space)
        groups = [
            np.asarray(group, np.float64)
            for group in _groups(space, sample(space, jax.random.key(0), 2000) if rows is None else jnp.asarray(rows))
        ]
    columns = np.concatenate(groups, 1)
    deviations = columns.std(0)
    sizes = np.concatenate([np.full(group.shape[1], max((group.std(0) > 0).sum(), 1)) for group in groups])
    scales = np.where(deviations > 0, deviations * np.sqrt(sizes), 1.0)
    return columns.mean(0).astype(np.float32), scales.astype(np.float32)
