"""Scores as a predictor learns them: the normal quantiles of their ranks, and the way back.

The bad scores, of which there are many and which differ much, no longer decide what the good ones look like; nor does
the unit matter.
"""

import jax.numpy as jnp
import jax.scipy as jsp
from flax import struct
from jaxtyping import Array, Bool, Float


@struct.dataclass
class Scale:
    """Quantiles, ascending, and the scores that they stand for."""

    latent: Float[Array, "n"]
    scores: Float[Array, "n"]


def quantiles(scores: Float[Array, "n"], known: Bool[Array, "n"]) -> Float[Array, "n"]:
    """The normal quantile of each known score's rank, equal scores sharing theirs; 0 for the unknown."""
    below = (known[None] & (scores[None] < scores[:, None])).sum(1)
    equal = (known[None] & (scores[None] == scores[:, None])).sum(1)
    share = (below + equal / 2) / jnp.maximum(known.sum(), 1)
    return jnp.where(known, jsp.special.ndtri(jnp.clip(share, 1e-4, 1 - 1e-4)), 0.0)


def scale(scores: Float[Array, "n"], latent: Float[Array, "n"], known: Bool[Array, "n"]) -> Scale:
    order = jnp.argsort(jnp.where(known, scores, jnp.inf))
    # Behind the last known one it is repeated.
    place = jnp.minimum(jnp.arange(len(scores)), jnp.maximum(known.sum() - 1, 0))
    return Scale(latent[order][place], jnp.where(known, scores, 0.0)[order][place])


def restore(scale: Scale, latent: Float[Array, "m"]) -> Float[Array, "m"]:
    """The scores of quantiles; beyond the best and the worst known one in a straight line, which keeps the order."""
    width = jnp.maximum(scale.latent[-1] - scale.latent[0], 1e-6)
    slope = (scale.scores[-1] - scale.scores[0]) / width
    outside = latent - jnp.clip(latent, scale.latent[0], scale.latent[-1])
    return jnp.interp(latent, scale.latent, scale.scores) + slope * outside


def restored(
    scale: Scale, mean: Float[Array, "m"], deviation: Float[Array, "m"]
) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
    """Mean and standard deviation in the unit of the scores."""
    return restore(scale, mean), (restore(scale, mean + deviation) - restore(scale, mean - deviation)) / 2


def rest_of(
    latent: Float[Array, "n"], before: Float[Array, "n"], known: Bool[Array, "n"]
) -> tuple[Float[Array, ""], Float[Array, "n"]]:
    """What an earlier prediction counts, by least squares, and what it leaves to be learned; 0 for the unknown."""
    slope = (known * before * latent).sum() / ((known * before**2).sum() + 1e-6)
    return slope, jnp.where(known, latent - slope * before, 0.0)
