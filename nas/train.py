"""The trainer: SGD on one network, with its path fixed, or on shared weights, with a new path each step.

Data order, augmentation, dropout and path are functions of (seed, step). So a training that was killed goes on from
its checkpoint bit for bit.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from flax import nnx, struct
from jaxtyping import Array, Int

from nas import checkpoint
from nas.errors import RunError
from nas.inference import PRECISIONS, Graph, flatten, forward, split, unflatten
from nas.tasks.augment import Augment, augment, cross_entropy, normalise, smooth
from nas.tasks.base import Split, Task
from spaces.single_path import decay_mask, put, select


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    steps: int = 1500
    """Optimiser steps."""
    batch_size: int = 64
    """Images a step."""
    learning_rate: float = 0.1
    """The highest learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls to 0 over the steps."""
    warmup: float = 0.05
    """The share of the steps in which the learning rate rises from 0."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 4e-5
    """Added to the gradient of tensors with more than one axis, before momentum."""
    clip: float = 5.0
    """The gradient's largest global norm; 0 switches clipping off."""
    label_smoothing: float = 0.1
    """The share of the target that is spread over all classes."""
    crop: int = 1
    """Pixels of padding for random crops."""
    flip: bool = False
    """Random horizontal flips."""
    cutout: int = 0
    """Side of the square that is blanked, in pixels."""
    mixup: float = 0.0
    """Alpha of mixup; 0 switches it off."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of activations; weights, statistics and optimiser stay in float32."""
    checkpoint_seconds: float = 30.0
    """Least time between two checkpoints."""

    def __post_init__(self):
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("learning_rate", "weight_decay", "clip", "checkpoint_seconds"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0")
        for name in ("warmup", "momentum", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1)")
        self.augment  # noqa: B018  (validates its own fields)

    @property
    def augment(self) -> Augment:
        return Augment(self.crop, self.flip, self.cutout, self.mixup)

    def rate(self) -> optax.Schedule:
        """The learning rate by step."""
        warm = round(self.warmup * self.steps)
        falls = {
            "cosine": optax.cosine_decay_schedule(self.learning_rate, max(self.steps - warm, 1)),
            "linear": optax.linear_schedule(self.learning_rate, 0.0, max(self.steps - warm, 1)),
            "constant": optax.constant_schedule(self.learning_rate),
        }
        rise = optax.linear_schedule(self.learning_rate / (warm + 1), self.learning_rate, max(warm, 1))
        return optax.join_schedules([rise, falls[self.schedule]], [warm])


@struct.dataclass
class TrainState:
    weights: nnx.State
    momentum: Any  # the optimiser's state, over all weights


@dataclasses.dataclass(frozen=True)
class Program:
    """What a step is compiled for: the static half of its arguments."""

    graph: Graph
    recipe: Recipe
    num_classes: int
    scaling: tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation of the channels
    shared: bool  # whether the weights hold all choices, of which each step trains those on its path

    def optimiser(self) -> optax.GradientTransformation:
        clip = optax.clip_by_global_norm(self.recipe.clip) if self.recipe.clip else optax.identity()
        decay = optax.stateless_with_tree_map(lambda gradient, decayed: gradient + self.recipe.weight_decay * decayed)
        return optax.chain(clip, decay, optax.trace(self.recipe.momentum))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    program: Program, state: TrainState, statistics, data, indices: Int[Array, "n"], path, rate, key
) -> tuple[TrainState, Array]:
    """One step of SGD with coupled weight decay. With shared weights, whatever is off the path keeps its bits."""
    recipe = program.recipe
    key_augment, key_dropout = jr.split(key)
    images = normalise(data[0][indices], *program.scaling, jnp.float32)
    labels = smooth(jax.nn.one_hot(data[1][indices], program.num_classes), recipe.label_smoothing)
    images, labels = augment(recipe.augment, images, labels, key_augment)
    images = images.astype(PRECISIONS[recipe.precision])
    chosen = select(state, path) if program.shared else state

    def loss(weights) -> Array:
        logits, _ = forward(program.graph, weights, statistics, images, path, train=True, key=key_dropout)
        return cross_entropy(logits, labels)

    value, gradient = jax.value_and_grad(loss)(chosen.weights)
    decayed = jax.tree.map(jnp.multiply, chosen.weights, decay_mask(chosen.weights, path))
    updates, momentum = program.optimiser().update(gradient, chosen.momentum, decayed)
    weights = jax.tree.map(lambda w, update: w - rate * update, chosen.weights, updates)
    new = TrainState(weights, momentum)
    return (put(state, new, path) if program.shared else new), value


def batch_indices(seed: int, step: int, size: int, batch: int) -> np.ndarray:
    """The images of a step: each pass over the data is a new permutation; what a batch lacks comes from the next."""
    first, last = step * batch // size, (step * batch + batch - 1) // size
    order = [_order(seed, epoch, size) for epoch in range(first, last + 1)]
    start = step * batch - first * size
    return np.concatenate(order)[start : start + batch].astype(np.int32)


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)


def fit(
    network: nnx.Module,
    task: Task,
    recipe: Recipe,
    *,
    seed: int,
    paths: np.ndarray | None = None,
    path: np.ndarray | tuple = (),
    data: Split | None = None,
    saved: Path | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> nnx.State:
    """The trained weights.

    `paths[step]` is the path of each step over shared weights; else `path` is that of all steps, and `network` has
    just its weights. Training is on `data`, by default the task's training split. With `saved`, progress is kept in
    that file, and a file that is there is gone on from. `on_step` hears the loss now and then.
    """
    data = task.train if data is None else data
    graph, weights, statistics = split(network)
    program = Program(graph, recipe, task.num_classes, (task.mean, task.std), shared=paths is not None)
    state, start = TrainState(weights, program.optimiser().init(weights)), 0
    if saved is not None and saved.exists():
        arrays, note = checkpoint.read(saved)
        state, start = unflatten(state, arrays), note["step"]
    arrays = (jnp.asarray(data.images), jnp.asarray(data.labels))
    state = jax.tree.map(jnp.array, state)  # the step gives its buffers away, and the caller keeps the network
    keys = jr.split(jr.key(seed), recipe.steps)
    rates = np.asarray(recipe.rate()(np.arange(recipe.steps)), np.float32)
    last_saved = time.monotonic()

    def save(step: int) -> None:
        if saved is not None:
            checkpoint.write(saved, flatten(state), {"step": step, "seed": seed})

    for step in range(start, recipe.steps):
        where = paths[step] if paths is not None else path
        indices = batch_indices(seed, step, len(data.labels), recipe.batch_size)
        state, loss = train_step(
            program, state, statistics, arrays, indices, where, rates[step], keys[step]
        )
        if step % 20 == 0 or step == recipe.steps - 1:
            value = float(loss)
            if not np.isfinite(value):
                raise RunError(f"training diverged at step {step}: the loss is {value}; lower the learning rate")
            on_step(step + 1, value)
            if time.monotonic() - last_saved > recipe.checkpoint_seconds:
                save(step + 1)
                last_saved = time.monotonic()
    if start < recipe.steps:
        save(recipe.steps)
    return state.weights
