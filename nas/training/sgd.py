"""The trainer: SGD on one network, with its path fixed, or on shared weights, with a new path each step.

Data order, augmentation, dropout and path are functions of (seed, step). So a training that was killed goes on from
its checkpoint bit for bit.
"""

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from flax import nnx, struct
from jaxtyping import Array, Int

from nas.devices import divided, everywhere
from nas.errors import RunError, UsageError
from nas.interrupts import check
from nas.saved import checkpoint
from nas.streams import OWN_TRAINING, TRAINING, generator, stream
from nas.tasks.augment import Augment, augment, normalise
from nas.tasks.base import Split, Task
from nas.training.net import PRECISIONS, Graph, Scaling, flatten, forward, in_float32, unflatten
from nas.training.recipe import Recipe
from spaces.single_path import decay_mask, put, select


def learning_rates(recipe: Recipe) -> np.ndarray:
    """The learning rate of every step: a linear rise, then the recipe's schedule.

    The code of DARTS and its kin lowers it once an epoch; here it falls a little with every step.
    """
    least = recipe.min_learning_rate
    warm = min(round(recipe.warmup * recipe.steps), recipe.steps - 1)
    falls = {
        "cosine": optax.cosine_decay_schedule(
            recipe.learning_rate, recipe.steps - warm, least / recipe.learning_rate if least else 0.0
        ),
        "linear": optax.linear_schedule(recipe.learning_rate, least, recipe.steps - warm),
        "constant": optax.constant_schedule(recipe.learning_rate),
    }
    rise = optax.linear_schedule(recipe.learning_rate / (warm + 1), recipe.learning_rate, max(warm, 1))
    schedule = optax.join_schedules([rise, falls[recipe.schedule]], [warm])
    return np.broadcast_to(np.asarray(schedule(np.arange(recipe.steps)), np.float32), recipe.steps)


# What a step does not depend on, as `Program` has it.
AT_ANY_PACE: dict[str, Any] = {"steps": 1, "learning_rate": 0.0, "min_learning_rate": 0.0, "schedule": "constant"}
AT_ANY_PACE |= {"warmup": 0.0, "checkpoint_seconds": 0.0}


@struct.dataclass
class TrainState:
    weights: nnx.State
    momentum: Any  # the optimiser's state, over all weights


@dataclasses.dataclass(frozen=True)
class Program:
    """What a step is compiled for: the static half of its arguments.

    Of the recipe it keeps what a step is made of. How many there are, and at what rates, are arguments: trainings of
    one network that differ in these alone share a program.
    """

    graph: Graph
    recipe: Recipe
    kind: Any  # of the task: see `nas.tasks.kinds`
    scaling: Scaling
    shared: bool  # whether the weights hold all choices, of which each step trains those on its path

    def __post_init__(self):
        at_any_pace = dataclasses.replace(self.recipe, **AT_ANY_PACE)
        object.__setattr__(self, "recipe", at_any_pace)

    def optimiser(self) -> optax.GradientTransformation:
        clip = optax.clip_by_global_norm(self.recipe.clip) if self.recipe.clip else optax.identity()
        decay = optax.stateless(lambda gradient, weights: jax.tree.map(self._decayed, gradient, weights))
        return optax.chain(clip, decay, optax.trace(self.recipe.momentum, self.recipe.nesterov))

    def begin(self, weights: nnx.State) -> TrainState:
        """The state before the first step."""
        return TrainState(weights, at_rest(self, weights))

    def _decayed(self, gradient: Array, weight: Array) -> Array:
        return gradient + self.recipe.weight_decay * weight


@functools.partial(jax.jit, static_argnums=0)
def at_rest(learner: Any, values: Any) -> Any:
    """The state of a learner's optimiser before the first step: one program for all shapes, and for all its starts."""
    return learner.optimiser().init(values)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    program: Program, state: TrainState, statistics, data, indices: Int[Array, "n"], path, rate, key, step, drop=0.0
) -> tuple[TrainState, Array]:
    """One step of SGD with coupled weight decay. With shared weights, whatever is off the path keeps its bits.

    `rate` is the learning rate and `drop` the probability with which operations of cells are left out.
    """
    chosen = select(state, path) if program.shared else state
    loss = loss_of(program, statistics, data, indices, key, step, drop)
    value, gradient = jax.value_and_grad(loss)(chosen.weights, path)
    new = descend(program, chosen, gradient, path, rate)
    return (put(state, new, path) if program.shared else new), value


def loss_of(program: Program, statistics, data, indices, key, step, drop=0.0) -> Callable[[nnx.State, Any], Array]:
    """The loss of a step's images, augmented, as a function of the weights and the path."""
    recipe = program.recipe
    key_augment, key_dropout = jr.split(jr.fold_in(key, step))
    images = normalise(divided(data[0][indices]), *program.scaling, jnp.float32)
    targets = program.kind.targets(data[1][indices], recipe.label_smoothing)
    how = Augment(recipe.crop, recipe.flip, recipe.cutout, recipe.mixup)
    images, targets = augment(how, images, targets, key_augment)
    images = images.astype(PRECISIONS[recipe.precision])

    def loss(weights, path) -> Array:
        logits, _ = forward(program.graph, weights, statistics, images, path, train=True, key=key_dropout)
        return program.kind.loss(logits, targets)

    def loss_in_cells(weights, path) -> Array:
        network: Any = nnx.merge(program.graph.definition, weights, statistics, copy=True)
        dropped = {"drop_path": drop} if recipe.drop_path else {}
        outputs = in_float32(network(images, path, train=True, key=key_dropout, **dropped))
        if not recipe.auxiliary:
            return program.kind.loss(outputs, targets)
        first, second = (program.kind.loss(each, targets) for each in outputs)
        return first + recipe.auxiliary * second

    return loss_in_cells if recipe.drop_path or recipe.auxiliary else loss


def descend(program: Program, state: TrainState, gradient: nnx.State, path, rate) -> TrainState:
    decayed = jax.tree.map(jnp.multiply, state.weights, decay_mask(state.weights, path))
    updates, momentum = program.optimiser().update(gradient, state.momentum, decayed)
    return TrainState(jax.tree.map(lambda w, update: w - rate * update, state.weights, updates), momentum)


def batch_indices(seed: int, step: int, size: int, batch: int, *address: int) -> np.ndarray:
    """The images of a step: each pass over the data is a new permutation; what a batch lacks comes from the next.

    The address, by default `TRAINING`, is a purpose of the seed and what lies below it.
    """
    first, last = step * batch // size, (step * batch + batch - 1) // size
    order = [_order(seed, size, *(address or (TRAINING,)), epoch) for epoch in range(first, last + 1)]
    start = step * batch - first * size
    return np.concatenate(order)[start : start + batch].astype(np.int32)


@functools.lru_cache(maxsize=4)
def _order(seed: int, size: int, *address: int) -> np.ndarray:
    return generator(seed, *address).permutation(size)


def fit(
    graph: Graph,
    weights: nnx.State,
    statistics: nnx.State,
    task: Task,
    recipe: Recipe,
    *,
    seed: int,
    paths: np.ndarray | None = None,
    path: np.ndarray | tuple = (),
    data: Split | None = None,
    saved: Path | None = None,
    note: dict | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> nnx.State:
    """The trained weights.

    `paths[step]` is the path of each step over shared weights; else `path` is that of all steps, and `weights` are
    just those on it. Training is on `data`, by default the task's training split. With `saved`, progress is kept in
    that file, with `note`; a file that is there is gone on from, if its note is the same. `on_step` hears the loss
    now and then.
    """
    data = task.train if data is None else data
    program = Program(graph, recipe, task.kind, (task.mean, task.std), shared=paths is not None)
    state, start = program.begin(weights), 0
    if saved is not None:
        steps = np.asarray(path if paths is None else paths)
        note = identified(note, recipe, task, seed, paths=hashlib.sha256(steps.tobytes()).hexdigest())
        if saved.exists():
            state, start = resume(saved, state, note)
    arrays = data.on_device
    statistics = everywhere(statistics)
    state = everywhere(state)  # a copy: a step gives the buffers of its state away, and the caller keeps the network
    purpose = TRAINING if program.shared else OWN_TRAINING
    key = stream(seed, purpose)
    rates = learning_rates(recipe)
    drops = np.float32(recipe.drop_path) * np.arange(recipe.steps, dtype=np.float32) / np.float32(recipe.steps)
    last_saved = time.monotonic()

    def save(step: int) -> None:
        if saved is not None:
            checkpoint.write(saved, flatten(state), {**(note or {}), "step": step})

    for step in range(start, recipe.steps):
        check()
        where = paths[step] if paths is not None else path
        indices = batch_indices(seed, step, len(data.labels), recipe.batch_size, purpose)
        pace = rates[step], key, step, drops[step]
        state, loss = train_step(program, state, statistics, arrays, indices, where, *pace)
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


def identified(note: dict | None, recipe: Recipe, task: Task, seed: int, **more: Any) -> dict:
    """What a checkpoint is the progress of: all that decides what is computed. It is gone on with by nothing else."""
    given = {f"recipe.{name}": value for name, value in dataclasses.asdict(recipe).items()}
    del given["recipe.checkpoint_seconds"]
    return {**(note or {}), **given, "data": task.fingerprint(), "seed": seed, **more}


def resume(saved: Path, state: Any, note: dict) -> tuple[Any, int]:
    """The state in a checkpoint and its step. Raises UsageError where it is not of this training."""
    arrays, found = checkpoint.read(saved)
    for name, value in json.loads(json.dumps(note)).items():
        if found.get(name) != value:
            raise UsageError(f"{saved} is of another training: its {name} is {found.get(name)!r}, not {value!r}")
    try:
        return unflatten(state, arrays), found["step"]
    except ValueError as error:
        raise UsageError(f"{saved} does not fit this network: {error}") from error
