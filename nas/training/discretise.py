"""From a mixture to an architecture that keeps hard limits, by the derivation rule of its space.

Where what the rule derives is too dear, operations lose weight by what they cost, all at the same rate, and no more
than is needed. Superfluous skips go one after the other, the lightest first (Chen et al., "Progressive Differentiable
Architecture Search", 2019, https://arxiv.org/abs/1904.12760).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from spaces.abilities import Mixable, Mixing
from spaces.base import Limits, feasible, smallest

RATES = (0.0, *np.geomspace(1e-3, 1e5, 65).tolist())  # by how much weights fall, for what costs as much as the limit


def discretise(
    space: Mixable, weights: np.ndarray | Array, limits: Limits = (), max_skips: int | None = None
) -> np.ndarray:
    """The encoding. It keeps the limits if any architecture does; if need be, at the price of too many skips."""
    mixing = _mixing(space)
    scores = np.log(np.maximum(np.asarray(weights, np.float64), 1e-30))
    shares = sum((mixing.costs[name][1] / most for name, most in limits), np.zeros(scores.shape))
    for rate in RATES if limits else RATES[:1]:
        row, legal = _with_few_skips(space, scores - rate * shares, limits, max_skips)
        if legal:
            return row
    return smallest(space, limits)


def _with_few_skips(
    space: Mixable, scores: np.ndarray, limits: Limits, max_skips: int | None
) -> tuple[np.ndarray, bool]:
    mixing, scores = _mixing(space), scores.copy()
    while True:
        row, ops, legal = (np.asarray(each) for each in _derived(space, limits, jnp.asarray(scores, jnp.float32)))
        skips = np.flatnonzero(ops[: mixing.normal] == mixing.skip)
        if max_skips is None or len(skips) <= max_skips:
            return row, bool(legal)
        scores[skips[scores[skips, mixing.skip].argmin()], mixing.skip] = -np.inf


@functools.lru_cache(maxsize=8)
def _mixing(space: Mixable) -> Mixing:
    return space.mixing()


@functools.partial(jax.jit, static_argnums=(0, 1))
def _derived(space: Mixable, limits: Limits, scores: Array) -> tuple[Array, Array, Array]:
    row = space.derive(scores)
    return row, space.edge_ops(row[None])[0], feasible(space, row[None], limits)[0]
