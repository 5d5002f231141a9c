"""How the networks among the predictors are trained: Adam on minibatches, as one program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Int

Weights = dict[str, Array]


def train(
    loss: Callable[[Weights, Any], Array],
    weights: Weights,
    batches: Any,
    learning_rate: float,
    weight_decay: float = 0.0,
    clip: float = 5.0,
) -> Weights:
    """The weights after a step on each of the batches, a pytree with the steps as its leading axis.

    The learning rate falls to 0 as a cosine; the decay is added to the gradient.
    """
    # One vector: an update is then three operations, not three for each of the weights.
    flat, restored = ravel_pytree(weights)
    steps = jax.tree.leaves(batches)[0].shape[0]
    optimiser = optax.chain(
        optax.clip_by_global_norm(clip),
        optax.add_decayed_weights(weight_decay),
        optax.adam(optax.cosine_decay_schedule(learning_rate, steps)),
    )

    def step(carry, batch):
        flat, state = carry
        updates, state = optimiser.update(jax.grad(lambda flat: loss(restored(flat), batch))(flat), state, flat)
        return (flat + updates, state), None

    (flat, _), _ = jax.lax.scan(step, (flat, optimiser.init(flat)), batches)
    return restored(flat)


def draw_known(key: jax.Array, known: Bool[Array, "n"], shape: tuple[int, ...]) -> Int[Array, "..."]:
    """Places of known rows, uniformly."""
    first = jnp.argsort(~known, stable=True)
    share = jax.random.uniform(key, shape)
    return first[(share * jnp.maximum(known.sum(), 1)).astype(jnp.int32)]


def batches(key: jax.Array, shown: Bool[Array, "members n"], shape: tuple[int, int]) -> Int[Array, "members ..."]:
    """Of each member the places of the rows in its batches, `[steps, batch]`."""
    return jax.vmap(lambda key, known: draw_known(key, known, shape))(jr.split(key, len(shown)), shown)
