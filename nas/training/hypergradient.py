"""The gradient of a held-out loss by the mixture of operations that the weights are trained with.

Liu et al., "DARTS: Differentiable Architecture Search", 2019, https://arxiv.org/abs/1806.09055. With the weights w,
the mixture m, and w' = w - rate * (what a step of SGD would move them by), the gradient is

- of first order: d valid(w, m) / dm;
- of second order: d valid(w', m) / dm - rate * d/dm <d train(w, m) / dw, v>, where v = d valid(w', m) / dw' (eq. 7).
  The second term is the derivative of the gradient by the mixture in the direction v of weights: taken exactly, or as
  a difference quotient (eq. 8), which needs no program that is not there already.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, struct
from jaxtyping import Array

from nas.training.sgd import Program, TrainState, descend, loss_of
from spaces.shared import decay_mask

WEIGHTS, MIXTURE = 0, 1


@struct.dataclass
class Batch:
    """The images of a step, and what decides how they are augmented."""

    statistics: Any
    data: tuple[Array, Array]
    indices: Array | np.ndarray | None
    key: jax.Array
    step: Any

    def loss(self, program: Program):
        return loss_of(program, self.statistics, self.data, self.indices, self.key, self.step)


@functools.partial(jax.jit, static_argnums=(0, 1))
def gradients(program: Program, wanted: tuple[int, ...], weights, mixture, batch: Batch) -> tuple[Array, tuple]:
    """The loss and its gradients by the arguments that are wanted. One program serves both halves of a search step:
    it takes longer to compile two than to compute what one half has no use for."""
    return jax.value_and_grad(batch.loss(program), wanted)(weights, mixture)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def weight_step(program: Program, state: TrainState, gradient, mixture, rate) -> TrainState:
    return descend(program, state, gradient, mixture, rate)


def hypergradient(program: Program, order: str, state: TrainState, mixture, train: Batch, valid: Batch, rate) -> Array:
    """`order` is `first`, `second` or `second-finite`."""
    if order == "first":
        return gradients(program, (WEIGHTS, MIXTURE), state.weights, mixture, valid)[1][MIXTURE]
    _, (by_weights, _) = gradients(program, (WEIGHTS, MIXTURE), state.weights, mixture, train)
    ahead = unrolled(program, state, by_weights, mixture, rate)
    _, (direction, direct) = gradients(program, (WEIGHTS, MIXTURE), ahead, mixture, valid)
    if order == "second":
        return direct - rate * mixed(program, state.weights, mixture, direction, train)
    size = 0.01 / jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(direction)))
    sides = (_moved(state.weights, direction, each) for each in (size, -size))
    more, less = (gradients(program, (WEIGHTS, MIXTURE), side, mixture, train)[1][MIXTURE] for side in sides)
    return direct - rate * (more - less) / (2 * size)


@functools.partial(jax.jit, static_argnums=0)
def unrolled(program: Program, state: TrainState, gradient, mixture, rate) -> nnx.State:
    """The weights after one more step, of SGD, which is not clipped. Its momentum is plain also where that of the step
    is Nesterov's, as in the code of NAS-Bench-201."""
    recipe, mask = program.recipe, decay_mask(state.weights, mixture)
    velocity = optax.tree_utils.tree_get(state.optimiser, "trace")

    def move(w, g, b, decays):
        return w - rate * (recipe.momentum * b + g + recipe.weight_decay * w * decays)

    return jax.tree.map(move, state.weights, gradient, velocity, mask)


@functools.partial(jax.jit, static_argnums=0)
def mixed(program: Program, weights, mixture, direction, batch: Batch) -> Array:
    """How the gradient by the mixture changes as the weights move in a direction.

    Forward through the gradient: the loops of a network have a gradient of their own, that has no gradient itself.
    The gradient is that by the weights too, or operations before the first mixture would be left as they are, which
    have no forward derivative; what is not used of it is not computed.
    """
    by_both = jax.grad(batch.loss(program), (WEIGHTS, MIXTURE))
    return jax.jvp(lambda w: by_both(w, mixture)[MIXTURE], (weights,), (direction,))[1]


@jax.jit
def _moved(weights, direction, size) -> nnx.State:
    return jax.tree.map(lambda w, d: w + size * d, weights, direction)


def dominant(product, start: Array, iterations: int) -> float:
    """The eigenvalue of largest magnitude of a symmetric operator, by power iteration."""
    vector, value = start / jnp.linalg.norm(start), 0.0
    for _ in range(iterations):
        image = product(vector)
        value = float((vector * image).sum())
        vector = image / jnp.maximum(jnp.linalg.norm(image), 1e-30)
    return abs(value)
