"""The trainer of one network, with its path fixed, or of shared weights, with a new path each step.

Data order, augmentation, dropout and path are functions of (seed, step). So a training that was killed goes on from
its checkpoint bit for bit.
"""

import dataclasses
import functools
import hashlib
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

from nas.devices import Queue, divided, everywhere, whole
from nas.streams import OWN_TRAINING, TRAINING, stream
from nas.tasks.augment import Augment, normalise
from nas.tasks.base import Split, Task
from nas.training.distillation import Lesson, Teacher, answers, mixed
from nas.training.driver import Checkpoints, checkpoints, drive
from nas.training.net import PRECISIONS, Graph, Scaling, forward, in_float32, with_real_weights
from nas.training.optimiser import Average, optimiser
from nas.training.recipe import Recipe
from nas.training.schedule import batch_indices, drop_rates, learning_rates
from spaces.shared import decay_mask, put, select

# What a step does not depend on, as `Program` has it.
AT_ANY_PACE: dict[str, Any] = {"steps": 1, "learning_rate": 0.0, "min_learning_rate": 0.0, "schedule": "constant"}
AT_ANY_PACE |= {"warmup": 0.0, "checkpoint_seconds": 0.0, "real_weights": 0.0, "teacher": None}


@struct.dataclass
class TrainState:
    weights: nnx.State
    optimiser: Any  # its state, over all weights
    average: Average | None = None  # of the weights, where the recipe has one


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
    lesson: Lesson | None = None  # where there is a teacher

    def __post_init__(self):
        at_any_pace = dataclasses.replace(self.recipe, **AT_ANY_PACE)
        object.__setattr__(self, "recipe", at_any_pace)

    def optimiser(self) -> optax.GradientTransformation:
        return optimiser(self.recipe)

    def begin(self, weights: nnx.State) -> TrainState:
        """The state before the first step."""
        average = Average.of(weights) if self.recipe.ema else None
        return TrainState(weights, at_rest(self, weights), average)


@functools.partial(jax.jit, static_argnums=0)
def at_rest(learner: Any, values: Any) -> Any:
    """The state of a learner's optimiser before the first step: one program for all shapes, and for all its starts."""
    return learner.optimiser().init(values)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    program: Program,
    state: TrainState,
    statistics,
    data,
    indices: Int[Array, "n"] | None,
    path,
    rate,
    key,
    step,
    drop=0.0,
    held=(),
) -> tuple[TrainState, Array]:
    """One step of the optimiser. With shared weights, whatever is off the path keeps its bits.

    `rate` is the learning rate and `drop` the probability with which operations of cells are left out; `held` are the
    weights and statistics of a teacher.
    """
    chosen = select(state, path) if program.shared else state
    loss = loss_of(program, statistics, data, indices, key, step, drop, held)
    value, gradient = jax.value_and_grad(loss)(chosen.weights, path)
    new = descend(program, chosen, gradient, path, rate)
    return whole((put(state, new, path) if program.shared else new, value))


def augmentation(recipe: Recipe) -> Augment:
    return Augment(**{field.name: getattr(recipe, field.name) for field in dataclasses.fields(Augment)})


def loss_of(
    program: Program, statistics, data, indices, key, step, drop=0.0, held=()
) -> Callable[[nnx.State, Any], Array]:
    """The loss of a step's images, augmented, as a function of the weights and the path. Without indices these are all
    of the data."""
    recipe = program.recipe
    key_augment, key_dropout = jr.split(jr.fold_in(key, step))
    pictures, labels = data if indices is None else (data[0][indices], data[1][indices])
    images = normalise(divided(pictures), *program.scaling, jnp.float32)
    targets = program.kind.targets(labels, recipe.label_smoothing)
    images, targets = program.kind.augmented(augmentation(recipe), images, targets, key_augment)
    measured = _measured(program, images, targets, held)
    images = images.astype(PRECISIONS[recipe.precision])

    def loss(weights, path) -> Array:
        logits, _ = forward(program.graph, weights, statistics, images, path, train=True, key=key_dropout)
        return measured(logits)

    def loss_in_cells(weights, path) -> Array:
        network: Any = nnx.merge(program.graph.definition, weights, statistics, copy=True)
        dropped = {"drop_path": drop} if recipe.drop_path else {}
        outputs = in_float32(network(images, path, train=True, key=key_dropout, **dropped))
        if not recipe.auxiliary:
            return measured(outputs)
        first, second = outputs  # of which the teacher has the first
        return measured(first) + recipe.auxiliary * program.kind.loss(second, targets)

    return loss_in_cells if recipe.drop_path or recipe.auxiliary else loss


def _measured(program: Program, images: Array, targets: Array, held: Any) -> Callable[[Any], Array]:
    """The loss of outputs for these images, in float32: with a teacher that of its answers too."""
    kind, lesson = program.kind, program.lesson
    if lesson is None:
        return lambda outputs: kind.loss(outputs, targets)
    taught = answers(lesson, held, images, program.scaling, PRECISIONS[program.recipe.precision])
    imitated = functools.partial(kind.imitated, taught=taught, temperature=lesson.temperature)
    return lambda outputs: mixed(lesson, kind.loss(outputs, targets), imitated(outputs))


def descend(program: Program, state: TrainState, gradient: nnx.State, path, rate) -> TrainState:
    mask = decay_mask(state.weights, path)
    decayed = jax.tree.map(jnp.multiply, state.weights, mask)
    updates, rest = program.optimiser().update(gradient, state.optimiser, decayed)
    weights = jax.tree.map(lambda w, update: w - rate * update, state.weights, updates)
    if most := program.recipe.clip_weights:
        weights = jax.tree.map(lambda w, which: jnp.where(which, jnp.clip(w, -most, most), w), weights, mask)
    average = None if state.average is None else state.average.after(weights, program.recipe.ema)
    return TrainState(weights, rest, average)


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
    purpose: int | None = None,
    teacher: Teacher | None = None,
    stop: int | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> nnx.State:
    """The trained weights; with `ema`, their average.

    `paths[step]` is the path of each step over shared weights; else `path` is that of all steps, and `weights` are
    just those on it. Training is on `data`, by default the task's training split. With `saved`, progress is kept in
    that file, with `note`; a file that is there is gone on from, if its note is the same. `purpose` is the address of
    its random numbers, see `nas.streams`. `teacher` is the network that the recipe names. With `stop`, it ends after
    so many of the recipe's steps, and can be gone on with from its file. `on_step` hears the loss now and then.
    """
    data = task.train if data is None else data
    assert (teacher is None) == (recipe.teacher is None)
    lesson, held, of_whom = None, (), {}
    if teacher is not None:
        lesson, held = teacher.lesson(recipe.teacher_weight, recipe.temperature), teacher.held
        of_whom = {"teacher": teacher.digest}
    program = Program(graph, recipe, task.kind, (task.mean, task.std), shared=paths is not None, lesson=lesson)
    first, real_steps = program, round(recipe.real_weights * recipe.steps)
    if real_steps:
        first = dataclasses.replace(program, graph=with_real_weights(graph, weights, statistics))
    digest = hashlib.sha256(np.asarray(path if paths is None else paths).tobytes()).hexdigest()
    kept = checkpoints(saved, note, recipe, task, seed, paths=digest, **of_whom)
    stop = recipe.steps if stop is None else min(stop, recipe.steps)
    state, start = kept.begin(program.begin(weights))
    if start > stop:  # the file is of later than is asked for
        kept = Checkpoints()
        state, start = kept.begin(program.begin(weights))
    statistics, under_way = everywhere(statistics), Queue(given=data.file is not None)
    if purpose is None:
        purpose = TRAINING if program.shared else OWN_TRAINING
    key, rates, drops = stream(seed, purpose), learning_rates(recipe), drop_rates(recipe)

    def take(state: TrainState, step: int) -> tuple[TrainState, Array]:
        where = path if paths is None else paths[step]
        arrays, indices = data.batch(batch_indices(seed, step, len(data.labels), recipe.batch_size, purpose))
        pace = rates[step], key, step, drops[step], held
        now = first if step < real_steps else program
        state, loss = train_step(now, state, statistics, arrays, indices, where, *pace)
        under_way.add(loss)
        return state, loss

    said = "training diverged at step {step}: the loss is {loss}; lower the learning rate"
    steps = range(start, stop)
    state, _ = drive(take, state, steps, kept, epoch=stop, diverged=said, on_step=on_step)
    return state.weights if state.average is None else state.average.weights
