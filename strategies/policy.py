"""Distributions over the choices of decisions that have different numbers of them."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from spaces.base import Encodings, Space


def moved(
    moments: Float[Array, "3"], decay: float, mean: Float[Array, ""], variance: Float[Array, ""] | float = 0.0
) -> Float[Array, "3"]:
    """Exponential moving averages of numbers, their mean, variance and weight, with the mean and variance of new ones.

    They have no bias from a start at 0, and are kept so that large numbers do not cancel.
    """
    before, spread, weight = moments
    new = 1 - decay
    weight = decay * weight + new
    share, gap = new / weight, mean - before  # at first exactly 1: what was there before counts for nothing
    return jnp.stack([before + share * gap, (1 - share) * (spread + share * gap**2) + share * variance, weight])


def mask(space: Space) -> Bool[np.ndarray, "decisions choices"]:
    """Which choices each decision has, of as many as the largest."""
    return np.arange(max(space.cardinalities))[None] < np.array(space.cardinalities)[:, None]


def log_softmax(logits: Float[Array, "*n choices"], allowed: Bool[np.ndarray | Array, "*#n choices"]) -> Array:
    """Log-probabilities; those of choices that there are not are -1e9, so that gradients stay finite."""
    return jnp.where(allowed, jax.nn.log_softmax(jnp.where(allowed, logits, -1e9)), -1e9)


def as_drawn(space: Space, candidates: Int[Array, "n tries length"], rows: Encodings) -> Encodings:
    """Each row as the policy drew it: the first of its candidates that is the same architecture.

    A gradient by the canonical row would teach a policy choices that it did not make. A row that none of its candidates
    is, because limits are tight and it came from elsewhere, stays as it is.
    """
    n, tries, length = candidates.shape
    canonical = space.canonical(candidates.reshape(-1, length)).reshape(n, tries, length)
    same = (canonical == rows[:, None]).all(-1)
    return jnp.where(same.any(1)[:, None], candidates[jnp.arange(n), same.argmax(1)], rows)
