"""Distributions over the choices of decisions that have different numbers of them."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from spaces.base import Space


def mask(space: Space) -> Bool[np.ndarray, "decisions choices"]:
    """Which choices each decision has, of as many as the largest."""
    return np.arange(max(space.cardinalities))[None] < np.array(space.cardinalities)[:, None]


def log_softmax(logits: Float[Array, "*n choices"], allowed: Bool[np.ndarray | Array, "*#n choices"]) -> Array:
    """Log-probabilities; those of choices that there are not are -1e9, so that gradients stay finite."""
    return jnp.where(allowed, jax.nn.log_softmax(jnp.where(allowed, logits, -1e9)), -1e9)
