"""A Gaussian process on the ranks of scores.

Rasmussen & Williams, "Gaussian Processes for Machine Learning", 2006, chapters 2 and 5: a Matern-5/2 kernel on
`predictors.features`, its length and its noise by marginal likelihood. That is maximised over a grid, which has no
step size and no local optimum; the amplitude has a closed form.

Scores are replaced by the normal quantiles of their ranks: the bad ones, of which there are many and which differ
much, no longer decide what the good ones look like.
"""

import dataclasses

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from predictors.features import features
from spaces.base import Encodings, Space

LENGTHS = np.array([0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0], np.float32)
NOISES = np.array([1e-3, 1e-2, 0.1, 0.3], np.float32)  # variance, as a share of the signal's


@struct.dataclass
class Posterior:
    """Of a latent function with mean 0: what is needed to say its mean and deviation anywhere."""

    points: Float[Array, "n d"]
    known: Bool[Array, "n"]
    length: Float[Array, ""]
    amplitude: Float[Array, ""]  # variance of the latent function
    noise: Float[Array, ""]  # as a share of the amplitude
    root: Float[Array, "n n"]  # the inverse of the Cholesky factor of the correlations
    weights: Float[Array, "n"]


@struct.dataclass
class GaussianProcessParams:
    space: Space = struct.field(pytree_node=False)
    posterior: Posterior
    latent: Float[Array, "n"]  # the quantiles, ascending, and the scores they stand for
    scores: Float[Array, "n"]


@dataclasses.dataclass(frozen=True)
class GaussianProcess:
    """Fits at once; its variance says where it has not looked."""

    def fit(self, space: Space, encodings: Encodings, targets: Float[Array, "n"]) -> GaussianProcessParams:
        known = jnp.isfinite(targets)
        latent = quantiles(targets, known)
        order = jnp.argsort(jnp.where(known, targets, jnp.inf))
        last = jnp.maximum(known.sum() - 1, 0)
        place = jnp.minimum(jnp.arange(len(targets)), last)  # behind the last known one it is repeated
        return GaussianProcessParams(
            space=space,
            posterior=condition(features(space, encodings), latent, known),
            latent=latent[order][place],
            scores=jnp.where(known, targets, 0.0)[order][place],
        )

    def predict(
        self, params: GaussianProcessParams, encodings: Encodings
    ) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
        mean, deviation = predict(params.posterior, features(params.space, encodings))
        deviation = jnp.sqrt(deviation**2 + params.posterior.noise * params.posterior.amplitude)

        def score(latent: Array) -> Array:
            return jnp.interp(latent, params.latent, params.scores)

        return score(mean), (score(mean + deviation) - score(mean - deviation)) / 2


def quantiles(scores: Float[Array, "n"], known: Bool[Array, "n"]) -> Float[Array, "n"]:
    """The normal quantile of each known score's rank, equal scores sharing theirs; 0 for the unknown."""
    below = (known[None] & (scores[None] < scores[:, None])).sum(1)
    equal = (known[None] & (scores[None] == scores[:, None])).sum(1)
    share = (below + equal / 2) / jnp.maximum(known.sum(), 1)
    return jnp.where(known, jsp.special.ndtri(jnp.clip(share, 1e-4, 1 - 1e-4)), 0.0)


def condition(points: Float[Array, "n d"], values: Float[Array, "n"], known: Bool[Array, "n"]) -> Posterior:
    """The posterior after these values, with the length and noise of highest marginal likelihood.

    Rows that are not known do not count.
    """
    n = jnp.maximum(known.sum(), 1)
    distances = jnp.sqrt(jnp.maximum(squared_distances(points, points), 0.0))

    def evidence(correlations: Array, noise: Array) -> Array:
        root = jnp.linalg.cholesky(_with_noise(correlations, known, noise))
        z = jsp.linalg.solve_triangular(root, values, lower=True)
        found = -0.5 * n * jnp.log((z**2).sum() / n + 1e-12) - jnp.log(jnp.diagonal(root)).sum()
        return jnp.where(jnp.isfinite(found), found, -jnp.inf)

    def evidences(length: Array) -> Array:
        correlations = matern(distances / length)
        return jax.lax.map(lambda noise: evidence(correlations, noise), jnp.asarray(NOISES))

    # One after another: XLA's factorisations of many matrices at once have been seen to wait forever on a CPU.
    best = jnp.argmax(jax.lax.map(evidences, jnp.asarray(LENGTHS)))
    length, noise = jnp.asarray(LENGTHS)[best // len(NOISES)], jnp.asarray(NOISES)[best % len(NOISES)]
    return at(points, values, known, length, noise)


def at(points: Float[Array, "n d"], values: Float[Array, "n"], known: Bool[Array, "n"], length, noise) -> Posterior:
    """The posterior with this length and noise."""
    distances = jnp.sqrt(jnp.maximum(squared_distances(points, points), 0.0))
    factor = jnp.linalg.cholesky(_with_noise(matern(distances / length), known, noise))
    root = jsp.linalg.solve_triangular(factor, jnp.eye(len(values)), lower=True)
    z = root @ values
    amplitude = (z**2).sum() / jnp.maximum(known.sum(), 1) + 1e-12
    return Posterior(points, known, length, amplitude, noise, root, root.T @ z)


def _with_noise(correlations: Float[Array, "n n"], known: Bool[Array, "n"], noise) -> Float[Array, "n n"]:
    """An unknown row is independent of all others, with variance 1."""
    among = jnp.where(known[:, None] & known[None], correlations, 0.0)
    return among + jnp.where(known, noise, 1.0)[:, None] * jnp.eye(len(known))


def predict(posterior: Posterior, points: Float[Array, "m d"]) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
    """The mean and the standard deviation of the latent function."""
    distances = jnp.sqrt(jnp.maximum(squared_distances(points, posterior.points), 0.0))
    correlations = jnp.where(posterior.known[None], matern(distances / posterior.length), 0.0)
    variance = jnp.maximum(1 - ((correlations @ posterior.root.T) ** 2).sum(1), 1e-6)
    return correlations @ posterior.weights, jnp.sqrt(posterior.amplitude * variance)


def matern(r: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The Matern-5/2 correlation at a distance in units of the length (Rasmussen & Williams, eq. 4.17)."""
    s = np.float32(np.sqrt(5)) * r
    return (1 + s + s**2 / 3) * jnp.exp(-s)


def squared_distances(a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, "n m"]:
    return (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
