"""Search by operations that are given up one by one, with sampled channels.

Chen et al., "Binarized Neural Architecture Search", 2020, https://arxiv.org/abs/1911.10862, section 3.3. The search has
as many cycles as an edge has operations to lose. In a cycle networks of one operation an edge, sampled evenly, are
trained for an epoch each and validated; then all operations are mixed and logits learn; then every edge gives up the
operation with the lowest sum of softmax(mean accuracy) and softmax(logits). The paper does not say how the two are
weighed; here they count alike.
"""

import dataclasses
import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from flax import struct
from jaxtyping import Array, Float

from spaces.abilities import Mixing
from strategies.differentiable import Differentiable, Logits, Mixture

LEARN = ("ops", "edges")


@struct.dataclass
class Remaining(Logits):
    left: Float[Array, "edges ops"]  # 1 for the operations that are not given up
    errors: Float[Array, "edges ops"]  # the sum over the networks of this cycle that had an operation
    tried: Float[Array, "edges ops"]  # how many had it
    sampled: Float[Array, "edges ops"]  # 1 for the operations of this epoch's network; all 0 where operations are mixed


@dataclasses.dataclass(frozen=True)
class Reducing(Differentiable):
    edges: bool = True
    partial: int = 4
    learning_rate: float = 6e-4
    sampling: float = 0.75
    """The share of the epochs of a cycle in which one network is sampled and trained; in the others logits alone
    decide."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.sampling <= 1:
            raise ValueError(f"sampling={self.sampling} must lie in (0, 1]")
        for name, plain in (("gate", "softmax"), ("sample", "none"), ("softmax_temperature", 1.0)):
            if getattr(self, name) != plain:
                raise ValueError(f"{name}={getattr(self, name)!r} must be {plain!r} where operations are given up")

    def init(self, key: jax.Array, mixing: Mixing) -> Remaining:
        key_logits, key_sampled = jr.split(key)
        logits = super().init(key_logits, mixing)
        nothing = jnp.zeros_like(logits.ops)
        left = jnp.isfinite(mixing.masked(nothing)).astype(jnp.float32)
        start = Remaining(logits.ops, logits.edges, left, nothing, nothing, nothing)
        return replace(start, sampled=_sampled(start, key_sampled))

    def optimiser(self) -> optax.GradientTransformation:
        """Of the logits; what else the state holds has no gradient and is no weight."""

        def decayed(gradient: Any, logits: Any) -> Any:
            ops, edges = (getattr(gradient, name) + self.weight_decay * getattr(logits, name) for name in LEARN)
            return replace(gradient, ops=ops, edges=edges)

        return optax.chain(optax.stateless(decayed), optax.adam(self.learning_rate, b1=self.momentum, b2=0.999))

    def weights(self, logits: Any, mixing: Mixing) -> Mixture:
        return _shares(logits) * self._edge_weights(logits, mixing)

    def tracked(self, logits: Any, mixing: Mixing) -> Mixture:
        mixed = self.weights(logits, mixing)
        return jnp.where(logits.sampled.any(), logits.sampled, mixed)

    def mixture(self, logits: Any, mixing: Mixing, key: jax.Array, progress: Float[Array, ""] | float) -> Mixture:
        mixed = super().mixture(logits, mixing, key, progress)
        nothing = mixed - jax.lax.stop_gradient(mixed)  # exactly 0, and has the gradient of the mixture
        sampled = jax.lax.stop_gradient(logits.sampled)
        return jnp.where(sampled.any(), sampled + nothing, mixed)

    def after_epoch(
        self, logits: Remaining, mixing: Mixing, epoch: int, epochs: int, error: float, key: jax.Array
    ) -> Remaining:
        """The logits of the next epoch; `error` is that of validation, of the network that this one trained."""
        cycles, (key_fresh, key_sampled) = len(mixing.ops) - 1, jr.split(key)
        logits = replace(logits, errors=logits.errors + error * logits.sampled, tried=logits.tried + logits.sampled)
        now, then = epoch * cycles // epochs, (epoch + 1) * cycles // epochs
        for _ in range(then - now):
            logits = given_up(logits)
        if then > now:
            nothing = jnp.zeros_like(logits.ops)
            fresh = 1e-3 * jr.normal(key_fresh, logits.ops.shape)
            logits = replace(logits, ops=fresh, errors=nothing, tried=nothing)
        first, last = (math.ceil(cycle * epochs / cycles) for cycle in (then, then + 1))
        samples = epoch + 1 - first < max(1, round(self.sampling * (last - first)))
        sampled = _sampled(logits, key_sampled) if samples else jnp.zeros_like(logits.ops)
        return replace(logits, sampled=sampled)


def _shares(logits: Remaining) -> Mixture:
    """Of the operations that are left."""
    return jax.nn.softmax(jnp.where(jax.lax.stop_gradient(logits.left) > 0, logits.ops, -jnp.inf))


def _sampled(logits: Remaining, key: jax.Array) -> Mixture:
    """On each edge one of the operations that were tried least, at random."""
    order = jnp.where(logits.left > 0, logits.tried + jr.uniform(key, logits.tried.shape), jnp.inf)
    return jax.nn.one_hot(order.argmin(1), order.shape[1])


def given_up(logits: Remaining) -> Remaining:
    """Without the worst operation of each edge that has more than one. One that was not tried counts as the mean."""
    left, tried = logits.left > 0, logits.tried > 0
    mean = logits.errors.sum() / jnp.maximum(logits.tried.sum(), 1)
    errors = jnp.where(tried, logits.errors / jnp.maximum(logits.tried, 1), mean)
    accuracy = jax.nn.softmax(jnp.where(left, 1 - errors, -jnp.inf))
    scores = jnp.where(left, accuracy + _shares(logits), jnp.inf)
    worst = jax.nn.one_hot(scores.argmin(1), scores.shape[1])
    return replace(logits, left=jnp.where(left.sum(1, keepdims=True) > 1, logits.left - worst, logits.left))
