"""The optimisers of a recipe, over weights of which a step may have but a part.

A step on shared weights sees the rows on its path alone, and so does the optimiser: the others keep their bits. What
counts steps therefore counts them by row, as PyTorch does by tensor: a row that is trained for the first time late in
a training is at the first of its steps, and its moments are corrected as such.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array

from nas.training.recipe import Recipe
from spaces.shared import is_shared

# As PyTorch has them.
SECOND = {"adamw": 0.999, "rmsprop": 0.99}  # decay of the mean of squared gradients
EPSILON = 1e-8  # added to its root


def optimiser(recipe: Recipe) -> optax.GradientTransformation:
    """From gradients to what the learning rate scales. The weights that it is given are those that
    decay, and 0 for the others."""
    clip = optax.clip_by_global_norm(recipe.clip) if recipe.clip else optax.identity()
    decay = optax.stateless(lambda gradient, weights: jax.tree.map(decayed, gradient, weights))

    def decayed(gradient: Array, weight: Array) -> Array:
        return gradient + recipe.weight_decay * weight

    match recipe.optimiser:
        case "sgd":
            return optax.chain(clip, decay, optax.trace(recipe.momentum, recipe.nesterov))
        case "adamw":
            return optax.chain(clip, scale_by_adam(recipe.momentum, SECOND["adamw"], EPSILON), decay)
        case "rmsprop":
            scale = optax.scale_by_rms(SECOND["rmsprop"], EPSILON, eps_in_sqrt=False)
            return optax.chain(clip, decay, scale, optax.trace(recipe.momentum))


class Moments(NamedTuple):
    """The state of Adam: trees like the weights."""

    counts: Any  # see `no_steps`
    first: Any
    second: Any


def scale_by_adam(b1: float, b2: float, epsilon: float) -> optax.GradientTransformation:
    """Kingma & Ba, "Adam: A Method for Stochastic Optimization", 2015, https://arxiv.org/abs/1412.6980, algorithm 1."""

    def init(params: Any) -> Moments:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return Moments(no_steps(params), zeros, zeros)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Moments]:
        del params
        counts = jax.tree.map(lambda n: n + 1, state.counts)
        first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.first, updates)
        second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.second, updates)

        def direction(n: Array, m: Array, v: Array) -> Array:
            return m / _beside(m, _forgotten(b1, n)) / (jnp.sqrt(v / _beside(v, _forgotten(b2, n))) + epsilon)

        return jax.tree.map(direction, counts, first, second), Moments(counts, first, second)

    return optax.GradientTransformation(init, update)


@struct.dataclass
class Average:
    """The exponential moving average of weights, over the steps that trained them."""

    counts: Any  # see `no_steps`
    weights: Any

    @classmethod
    def of(cls, weights: Any) -> "Average":
        """Before the first step: the weights as they are, in buffers of its own."""
        return cls(no_steps(weights), jax.tree.map(jnp.array, weights))

    def after(self, weights: Any, decay: float) -> "Average":
        """With the weights after one more step. Those before the first have no part in it: a short training would
        give little else."""
        counts = jax.tree.map(lambda n: n + 1, self.counts)

        def move(n: Array, old: Array, new: Array) -> Array:
            return old + (1 - decay) / _beside(old, _forgotten(decay, n)) * (new - old)

        return Average(counts, jax.tree.map(move, counts, self.weights, weights))


def no_steps(weights: Any) -> Any:
    """The number of steps, 0, of each row of shared weights and of each other tensor, in the structure of the
    weights: so paths select it as they do weights."""

    def count(leaf: Any) -> Any:
        return leaf.counters() if is_shared(leaf) else jax.tree.map(lambda _: jnp.zeros((), jnp.int32), leaf)

    return jax.tree.map(count, weights, is_leaf=is_shared)


def _forgotten(decay: float, steps: Array) -> Array:
    """1 - decay^steps, exact also where it is small."""
    return -jnp.expm1(steps * math.log(decay)) if decay else jnp.ones(steps.shape)


def _beside(array: Array, by_row: Array) -> Array:
    """What there is one of for each row, or for all, in a shape that goes with the array's."""
    return by_row.reshape(by_row.shape + (1,) * (array.ndim - by_row.ndim))
