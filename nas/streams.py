"""What each part of a run draws from, below the run's seed: a part's numbers do not move when another's change."""

import jax
import jax.random as jr

WEIGHTS, PATHS, SEARCH, BASELINE = range(4)


def stream(seed: int | jax.Array, part: int) -> jax.Array:
    return jr.fold_in(jr.key(seed), part)
