"""Several networks trained alike from different weights: their mean predicts, their spread says how surely."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from predictors.targets import Scale, restored, scale
from predictors.training import Weights
from spaces.abilities import networks
from spaces.base import Encodings, Space

Score = Callable[[Weights, Space, Encodings], Array]  # of one network, in quantiles


@struct.dataclass
class EnsembleParams:
    space: Space = struct.field(pytree_node=False)
    weights: Weights  # stacked: one network a member
    scale: Scale
    doubt: Float[Array, ""]  # standard deviation of what a member gets wrong of the rows that it was not shown


def shown(known: Bool[Array, "n"], members: int) -> Bool[Array, "members n"]:
    """The rows that each member learns from: all but another tenth of the known ones, by which it is judged.

    One network alone learns from all.
    """
    tenth = (jnp.cumsum(known) - 1) % 10
    own = jnp.arange(members)[:, None] % 10 if members > 1 else jnp.full((1, 1), -1)
    return known[None] & (tenth[None] != own)


def finished(
    score: Score,
    space: Space,
    weights: Weights,
    encodings: Encodings,
    targets: Float[Array, "n"],
    latent: Float[Array, "n"],
    known: Bool[Array, "n"],
) -> EnsembleParams:
    params = EnsembleParams(space, weights, scale(targets, latent, known), jnp.ones(()))
    wrong = _each(score, params, encodings) - latent[None]
    learned = shown(known, len(wrong))
    judged = known[None] & (~learned if len(wrong) > 1 else learned)
    doubt = jnp.sqrt((judged * wrong**2).sum() / jnp.maximum(judged.sum(), 1))
    # Of no row at all: the deviation of the quantiles themselves.
    return dataclasses.replace(params, doubt=jnp.where(judged.any(), doubt, 1.0))


def _each(score: Score, params: EnsembleParams, encodings: Encodings) -> Float[Array, "members m"]:
    rows = networks(params.space).canonical(encodings)
    return jax.lax.map(lambda weights: score(weights, params.space, rows), params.weights)


def latent_scores(
    score: Score, params: EnsembleParams, encodings: Encodings
) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
    """The mean of the members and their spread, in quantiles."""
    each = _each(score, params, encodings)
    return each.mean(0), each.std(0)


def predict(score: Score, params: EnsembleParams, encodings: Encodings) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
    """The mean and the standard deviation, in the unit of the targets."""
    mean, spread = latent_scores(score, params, encodings)
    return restored(params.scale, mean, jnp.sqrt(spread**2 + params.doubt**2))
