"""Bayesian linear regression on one-hot encodings: each choice adds its own amount to the quantile of the score's rank.

MacKay, "Bayesian Interpolation", 1992, https://doi.org/10.1162/neco.1992.4.3.415 (the evidence fixes the two
precisions); notation of Bishop, "Pattern Recognition and Machine Learning", 2006, section 3.5.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from predictors.targets import Scale, quantiles, restored, scale
from spaces.base import Encodings, Space, one_hot


@struct.dataclass
class LinearParams:
    space: Space = struct.field(pytree_node=False)
    earlier: Any  # the parameters that this fit started from, of which the prediction is one more input, or None
    weights: Float[Array, "d"]
    basis: Float[Array, "d d"]  # the covariance is basis diag(spread) basisᵀ
    spread: Float[Array, "d"]
    noise: Float[Array, ""]  # variance
    centre: Float[Array, ""]  # of the quantiles, and by what they are divided
    width: Float[Array, ""]
    scale: Scale


@dataclasses.dataclass(frozen=True)
class Linear:
    """The simplest predictor with a variance: the yardstick for the others."""

    iterations: int = 50
    """Updates of the two precisions."""

    def __post_init__(self):
        if self.iterations < 1:
            raise ValueError(f"iterations={self.iterations} must be at least 1")

    def fit(self, space: Space, encodings: Encodings, targets: Float[Array, "n"], start: Any = None) -> LinearParams:
        known = jnp.isfinite(targets)
        n = jnp.maximum(known.sum(), 1)
        latent = quantiles(targets, known)
        centre = latent.sum() / n
        width = jnp.sqrt((known * (latent - centre) ** 2).sum() / n) + 1e-8
        t = known * (latent - centre) / width
        phi = self._inputs(space, encodings, start) * known[:, None]
        eigenvalues, basis = jnp.linalg.eigh(phi.T @ phi)
        # The choices of a decision add up to 1, so some directions are never seen; rounding must not fill them.
        seen = eigenvalues > 1e-5 * eigenvalues[-1]
        eigenvalues = jnp.where(seen, eigenvalues, 0.0)
        projected = jnp.where(seen, basis.T @ (phi.T @ t), 0.0)

        def update(precisions, _):
            alpha, beta = precisions
            mean = beta * projected / (alpha + beta * eigenvalues)  # eq. 3.53, in the eigenbasis
            gamma = (beta * eigenvalues / (alpha + beta * eigenvalues)).sum()  # eq. 3.91
            residual = ((t - phi @ (basis @ mean)) ** 2).sum()
            alpha = (gamma + 1e-3) / ((mean**2).sum() + 1e-3)  # eq. 3.92, kept finite by a weak prior
            beta = (jnp.maximum(n - gamma, 0.0) + 1e-3) / (residual + 1e-3)  # eq. 3.95
            return (alpha, beta), None

        ones = (jnp.ones(()), jnp.ones(()))
        (alpha, beta), _ = jax.lax.scan(update, ones, length=self.iterations)
        spread = 1 / (alpha + beta * eigenvalues)
        return LinearParams(
            space=space,
            earlier=start,
            weights=basis @ (beta * projected * spread),
            basis=basis,
            spread=spread,  # eq. 3.54
            noise=1 / beta,
            centre=centre,
            width=width,
            scale=scale(targets, latent, known),
        )

    def predict(self, params: LinearParams, encodings: Encodings) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
        phi = self._inputs(params.space, encodings, params.earlier)
        variance = params.noise + ((phi @ params.basis) ** 2 @ params.spread)  # eq. 3.59
        mean = params.centre + params.width * (phi @ params.weights)
        return restored(params.scale, mean, params.width * jnp.sqrt(variance))

    def _inputs(self, space: Space, encodings: Encodings, start: Any) -> Float[Array, "n d"]:
        x = one_hot(space, encodings)
        if start is None:
            return x
        before = self._inputs(start.space, encodings, start.earlier) @ start.weights
        return jnp.concatenate([x, before[:, None]], 1)
