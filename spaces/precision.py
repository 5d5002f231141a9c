"""What is computed in more bits than images have, where these have few: sums, divisions, logits."""

import jax.numpy as jnp
from jaxtyping import Array


def widened(x: Array) -> Array:
    """In float32 at least. A sum that is kept in bfloat16 stops growing where a term is 1/256 of it."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
