"""A Gaussian process on the ranks of scores.

Rasmussen & Williams, "Gaussian Processes for Machine Learning", 2006, chapters 2 and 5: a Matern-5/2 kernel on
`predictors.features`, with a relevance of each group of them and a noise, by marginal likelihood. That is maximised by
a grid and then along one coordinate after the other, which has no step size; the amplitude has a closed form.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from predictors.features import features, groups
from predictors.targets import Scale, quantiles, rest_of, restored, scale
from spaces.base import Encodings, Space

LENGTHS = np.array([0.5, 1.0, 2.0, 4.0], np.float32)
NOISES = np.array([1e-3, 1e-2, 0.1], np.float32)  # variance, as a share of the signal's
LEAST_NOISE, MOST_NOISE = 1e-3, 0.5
SWEEPS, FACTOR = 2, np.float32(4.0)  # over the coordinates, and how far each moves in one


@struct.dataclass
class Posterior:
    """Of a latent function with mean 0: what is needed to say its mean and deviation anywhere."""

    points: Float[Array, "n d"]
    known: Bool[Array, "n"]
    relevance: Float[Array, "d"]  # what a squared distance in each feature counts
    amplitude: Float[Array, ""]  # variance of the latent function
    noise: Float[Array, ""]  # as a share of the amplitude
    root: Float[Array, "n n"]  # the inverse of the Cholesky factor of the correlations
    weights: Float[Array, "n"]


@struct.dataclass
class GaussianProcessParams:
    space: Space = struct.field(pytree_node=False)
    posterior: Posterior
    scale: Scale
    earlier: Any  # the parameters that this fit started from, or None
    slope: Float[Array, ""]  # what the earlier prediction counts


@dataclasses.dataclass(frozen=True)
class GaussianProcess:
    """Fits at once; its variance says where it has not looked. Started from another, it learns what that got wrong."""

    sizes: ClassVar[tuple[int, ...]] = (32, 64, 96, 128, 256)  # of fits, which take the longer the more rows there are

    def fit(self, space: Space, encodings: Encodings, targets: Float[Array, "n"], start: Any = None) -> Any:
        known = jnp.isfinite(targets)
        latent = quantiles(targets, known)
        slope, rest = jnp.zeros(()), latent
        if start is not None:
            slope, rest = rest_of(latent, _latent(start, encodings)[0], known)
        return GaussianProcessParams(
            space=space,
            posterior=condition(features(space, encodings), rest, known, groups(space)),
            scale=scale(targets, latent, known),
            earlier=start,
            slope=slope,
        )

    def predict(self, params: Any, encodings: Encodings) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
        mean, deviation = _latent(params, encodings)
        noise = params.posterior.noise * params.posterior.amplitude
        return restored(params.scale, mean, jnp.sqrt(deviation**2 + noise))


def _latent(params: GaussianProcessParams, encodings: Encodings) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
    return latent_at(params, features(params.space, encodings))


def latent_at(
    params: GaussianProcessParams, points: Float[Array, "m d"]
) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
    """The mean and the standard deviation, in quantiles, where the features are these."""
    mean, deviation = predict(params.posterior, points)
    if params.earlier is None:
        return mean, deviation
    before, doubt = latent_at(params.earlier, points)
    return mean + params.slope * before, jnp.sqrt(deviation**2 + (params.slope * doubt) ** 2)


def condition(
    points: Float[Array, "n d"], values: Float[Array, "n"], known: Bool[Array, "n"], group: Int[np.ndarray, "d"]
) -> Posterior:
    """The posterior after these values, with the relevances and the noise of highest marginal likelihood.

    `group` says which features share their relevance. Rows that are not known do not count.
    """
    n, count = jnp.maximum(known.sum(), 1), int(group.max()) + 1
    parts = [points[:, group == i] for i in range(count)]
    distances = jnp.stack([jnp.maximum(squared_distances(part, part), 0.0) for part in parts])

    def evidence(logs: Array) -> Array:
        """Of the logarithms of the relevances and, last, of the noise."""
        correlations = matern(jnp.sqrt(jnp.einsum("g,gab->ab", jnp.exp(logs[:-1]), distances)))
        root = jnp.linalg.cholesky(_with_noise(correlations, known, jnp.exp(logs[-1])))
        z = jsp.linalg.solve_triangular(root, values, lower=True)
        found = -0.5 * n * jnp.log((z**2).sum() / n + 1e-12) - jnp.log(jnp.diagonal(root)).sum()
        return jnp.where(jnp.isfinite(found), found, -jnp.inf)

    def best(candidates: Array) -> tuple[Array, Array]:
        # One after another: XLA's factorisations of many matrices at once have been seen to wait forever on a CPU.
        found = jax.lax.map(evidence, candidates)
        return candidates[jnp.argmax(found)], found.max()

    def along(here: tuple[Array, Array], axis: Array) -> tuple[tuple[Array, Array], None]:
        step = np.log(FACTOR) * (jnp.arange(count + 1) == axis)
        there = jnp.stack([here[0] - step, here[0] + step])
        there = there.at[:, -1].set(jnp.clip(there[:, -1], np.log(LEAST_NOISE), np.log(MOST_NOISE)))
        other, value = best(there)
        better = value > here[1]
        return (jnp.where(better, other, here[0]), jnp.where(better, value, here[1])), None

    grid = [[*[-2 * np.log(length)] * count, np.log(noise)] for length in LENGTHS for noise in NOISES]
    axes = jnp.tile(jnp.arange(count + 1), SWEEPS)
    (logs, _), _ = jax.lax.scan(along, best(jnp.asarray(grid, jnp.float32)), axes)
    return at(points, values, known, jnp.exp(logs[:-1])[group], jnp.exp(logs[-1]))


def at(points: Float[Array, "n d"], values: Float[Array, "n"], known: Bool[Array, "n"], relevance, noise) -> Posterior:
    """The posterior with this relevance of each feature and this noise."""
    scaled = points * jnp.sqrt(relevance)[None]
    distances = jnp.sqrt(jnp.maximum(squared_distances(scaled, scaled), 0.0))
    factor = jnp.linalg.cholesky(_with_noise(matern(distances), known, noise))
    root = jsp.linalg.solve_triangular(factor, jnp.eye(len(values)), lower=True)
    z = root @ values
    amplitude = (z**2).sum() / jnp.maximum(known.sum(), 1) + 1e-12
    return Posterior(points, known, relevance, amplitude, noise, root, root.T @ z)


def _with_noise(correlations: Float[Array, "n n"], known: Bool[Array, "n"], noise) -> Float[Array, "n n"]:
    """An unknown row is independent of all others, with variance 1."""
    among = jnp.where(known[:, None] & known[None], correlations, 0.0)
    return among + jnp.where(known, noise, 1.0)[:, None] * jnp.eye(len(known))


def predict(posterior: Posterior, points: Float[Array, "m d"]) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
    """The mean and the standard deviation of the latent function."""
    ours, theirs = (each * jnp.sqrt(posterior.relevance)[None] for each in (points, posterior.points))
    distances = jnp.sqrt(jnp.maximum(squared_distances(ours, theirs), 0.0))
    correlations = jnp.where(posterior.known[None], matern(distances), 0.0)
    variance = jnp.maximum(1 - ((correlations @ posterior.root.T) ** 2).sum(1), 1e-6)
    return correlations @ posterior.weights, jnp.sqrt(posterior.amplitude * variance)


def matern(r: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The Matern-5/2 correlation at a distance in units of the length (Rasmussen & Williams, eq. 4.17)."""
    s = np.float32(np.sqrt(5)) * r
    return (1 + s + s**2 / 3) * jnp.exp(-s)


def squared_distances(a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, "n m"]:
    return (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
