"""The trainer of differentiable searches: steps on logits and on weights in turn, each on images of its own.

One for every gradient strategy and every space whose network takes a mixture. Batches, augmentation and noise are
functions of (seed, step), so a search that was killed goes on from its checkpoint bit for bit.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flax import nnx, struct
from jaxtyping import Array

from nas.devices import Queue, everywhere
from nas.errors import UsageError
from nas.streams import CURVATURE, HALVES, SEARCH, generator, stream
from nas.streams import WEIGHTS as INITIAL
from nas.tasks.base import Task
from nas.training.discretise import discretise
from nas.training.driver import checkpoints, drive
from nas.training.hypergradient import MIXTURE, WEIGHTS, Batch, dominant, gradients, hypergradient, weight_step
from nas.training.net import measure, split, supernet
from nas.training.recipe import Recipe
from nas.training.schedule import batch_indices, learning_rates
from nas.training.sgd import Program, TrainState, at_rest, train_step
from spaces.abilities import Mixable
from spaces.base import Limits
from spaces.shared import OneHot
from strategies.base import GradientStrategy, Reacts

WINDOW = 5  # epochs over which the curvature is averaged
LOOK_BACK = 4  # windows that far apart are compared, and the architecture before the growth is taken
FIRST_STOP = 10  # epochs that a search lasts at least
ITERATIONS = 8  # for the curvature


class Rule(NamedTuple):
    """How logits learn: static where it is compiled."""

    strategy: GradientStrategy
    space: Mixable
    limits: Limits


@struct.dataclass
class SearchState:
    train: TrainState
    logits: Any
    optimiser: Any  # of the logits
    curvature: Array  # of each epoch, NaN where it was not measured


class Epoch(NamedTuple):
    """What an epoch has come to."""

    number: int
    encoding: np.ndarray
    metrics: dict[str, float]
    seconds: float


def search(
    rule: Rule,
    task: Task,
    recipe: Recipe,
    *,
    seed: int,
    epochs: int,
    saved: Path | None = None,
    note: dict | None = None,
    recorded: int | None = None,
    say: Callable[[str], None] = lambda said: None,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[int, SearchState]:
    """The epoch whose architecture is the one that was found, and the state at the end.

    `recipe` is that of the weights, its steps as many as the epochs have, its batch no larger than either half. With
    `saved`, progress is kept in that file, with `note`, each time after `on_epoch` has heard; a file that is there is
    gone on from. `recorded` is how many epochs the caller knows to the end: a checkpoint that is ahead of them is not
    gone on from, and `say` hears that the search begins anew. So `on_epoch` may hear the same epoch twice, with the
    same architecture. `on_step` hears how many steps are done, of how many, and the loss: NaN before the first step,
    which waits for its compilation.
    """
    strategy, space, _ = rule
    check_recipe(strategy, recipe)
    for_weights, for_logits = halves(task, seed) if strategy.bilevel else (np.arange(len(task.train)),) * 2
    batch_size = min(recipe.batch_size, len(for_weights), len(for_logits))
    recipe = dataclasses.replace(recipe, batch_size=batch_size)
    per_epoch = -(-len(for_weights) // recipe.batch_size)
    steps = epochs * per_epoch
    rates = learning_rates(recipe.with_steps(steps))
    options: dict[str, Any] = {"partial": strategy.partial} if strategy.partial > 1 else {}
    graph, weights, statistics = split(supernet(space, task.kind, stream(seed, INITIAL), **options))
    program = Program(graph, recipe, task.kind, (task.mean, task.std), shared=strategy.along_paths)
    key_logits, key_noise, key_train, key_valid = jr.split(stream(seed, SEARCH), 4)
    key_images, key_direction = jr.split(stream(seed, CURVATURE))
    logits = strategy.init(key_logits, space.mixing())
    kept = checkpoints(saved, note, recipe, task, seed, epochs=epochs, strategy=repr(strategy), limits=rule.limits)
    fresh = begin(rule, program, weights, logits, epochs)
    state, start = kept.begin(fresh)
    if recorded is not None and start // per_epoch > recorded:
        said = f"{saved} is after {start // per_epoch} epochs, of which the store knows {recorded}"
        say(f"{said}: the search begins anew, and finds the same.")
        state, start = everywhere(fresh), 0
    statistics, under_way = everywhere(statistics), Queue(given=task.train.file is not None)
    began = time.monotonic()

    def batch(which: np.ndarray, key: jax.Array, step: int, *address: int) -> Batch:
        chosen = which[batch_indices(seed, step, len(which), recipe.batch_size, *address)]
        data, indices = task.train.batch(chosen)
        return Batch(statistics, data, indices, key, step)

    def take(state: SearchState, step: int) -> tuple[SearchState, Array]:
        epoch = step // per_epoch
        progress = np.float32(epoch / max(epochs - 1, 1))
        train = batch(for_weights, key_train, step, SEARCH, 0)
        valid = batch(for_logits, key_valid, step, SEARCH, 1) if strategy.bilevel else train
        learns, key = epoch >= round(strategy.warmup * epochs), jr.fold_in(key_noise, step)
        state, loss = search_step(rule, program, state, train, valid, key, progress, rates[step], learns=learns)
        under_way.add(loss)
        return state, loss

    def after(state: SearchState, epoch: int) -> SearchState:
        nonlocal began
        if strategy.stop_growth:
            # The same images and the same direction in every epoch: their curvatures are compared.
            looked_at = batch(for_logits, key_images, 0, CURVATURE)
            value = curvature(rule, program, state, looked_at, key_direction)
            state = dataclasses.replace(state, curvature=state.curvature.at[epoch].set(value))
        measured = _measured(rule, program, task, state, statistics, epoch, time.monotonic() - began)
        on_epoch(measured)
        if isinstance(strategy, Reacts):
            error, key = measured.metrics[task.kind.metric], jr.fold_in(jr.fold_in(key_logits, 2), epoch)
            logits = strategy.after_epoch(state.logits, space.mixing(), epoch, epochs, error, key)
            state = dataclasses.replace(state, logits=everywhere(logits))
        began = time.monotonic()
        return state

    def found(state: SearchState, epoch: int) -> int | None:
        return stopped(strategy, np.asarray(state.curvature), epoch)

    if start < steps:
        on_step(start, steps, float("nan"))
    state, done = drive(
        take,
        state,
        range(start, steps),
        kept,
        epoch=per_epoch,
        diverged="the search diverged at step {step}: the loss is {loss}; lower training.learning_rate",
        on_step=lambda done, loss: on_step(done, steps, loss),
        on_epoch=after,
        ended=lambda state, epoch: found(state, epoch) is not None,
    )
    best = found(state, done // per_epoch)
    return epochs - 1 if best is None else best, state


def check_recipe(strategy: GradientStrategy, recipe: Recipe) -> None:
    """Raises UsageError for a recipe that a strategy's search cannot train weights by."""
    if strategy.order != "first" and recipe.optimiser != "sgd":
        raise UsageError(
            f"training.optimiser={recipe.optimiser!r} must be 'sgd' with strategy.order={strategy.order!r}, "
            "which looks ahead by a step of SGD"
        )
    if recipe.ema:
        raise UsageError(f"training.ema={recipe.ema} must be 0: a gradient search keeps no weights to average")


def search_step(
    rule: Rule,
    program: Program,
    state: SearchState,
    train: Batch,
    valid: Batch,
    key: jax.Array,
    progress,
    rate,
    *,
    learns: bool = True,
) -> tuple[SearchState, Array]:
    """A step on the logits, if they learn, then one on the weights; and the loss of the latter.

    `progress` is how much of the search is over, from 0 to 1, `rate` the learning rate of the weights.
    """
    strategy, weights = rule.strategy, state.train.weights
    key_before, key_after = jr.split(key)
    if learns:
        mixture = drawn(rule, state.logits, key_before, progress)
        if strategy.along_paths:
            by_mixture = gradients(program, (MIXTURE,), weights, OneHot(mixture), valid)[1][0].weights
        else:
            by_mixture = hypergradient(program, strategy.order, state.train, mixture, train, valid, rate)
        logits, optimiser = logits_step(rule, state.logits, state.optimiser, by_mixture, key_before, progress)
        state = dataclasses.replace(state, logits=logits, optimiser=optimiser)
    mixture = drawn(rule, state.logits, key_after, progress)
    if strategy.along_paths:
        path = OneHot(mixture).choices()
        how = train.statistics, train.data, train.indices, path, rate, train.key, train.step
        new, loss = train_step(program, state.train, *how)
    else:
        loss, (gradient, _) = gradients(program, (WEIGHTS, MIXTURE), weights, mixture, train)
        new = weight_step(program, state.train, gradient, mixture, rate)
    return dataclasses.replace(state, train=new), loss


def begin(rule: Rule, program: Program, weights: nnx.State, logits: Any, epochs: int) -> SearchState:
    """The state before the first step."""
    return SearchState(program.begin(weights), logits, at_rest(rule.strategy, logits), jnp.full(epochs, jnp.nan))


def halves(task: Task, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The training images of weights, and those of logits."""
    order = generator(seed, HALVES).permutation(len(task.train))
    middle = -(-len(order) // 2)
    return order[:middle], order[middle:]


@functools.partial(jax.jit, static_argnums=0)
def drawn(rule: Rule, logits: Any, key: jax.Array, progress) -> Array:
    return rule.strategy.mixture(logits, rule.space.mixing(), key, progress)


@functools.partial(jax.jit, static_argnums=0)
def logits_step(rule: Rule, logits: Any, optimiser: Any, by_mixture: Array, key: jax.Array, progress):
    """The logits after a step against the gradient by the mixture that they gave with this key, and the optimiser."""
    strategy, mixing = rule.strategy, rule.space.mixing()
    _, pull = jax.vjp(lambda logits: strategy.mixture(logits, mixing, key, progress), logits)

    def penalty(logits: Any) -> Array:
        weights = strategy.weights(logits, mixing)
        row = rule.space.derive(jnp.log(jnp.maximum(weights, jnp.finfo(weights.dtype).tiny)))
        costs, derived = mixing.expected(weights), rule.space.cost(row[None])
        # While logits are nearly equal, what a mixture costs says little of the architecture that it stands for. So
        # it is that one which decides whether costs count; otherwise they would go on falling until none is left.
        shares = [jnp.where(derived[name][0] > most, costs[name] / most, 0) for name, most in rule.limits]
        return strategy.penalty(logits, mixing, progress) + strategy.cost_weight * sum(shares, jnp.zeros(()))

    gradient = jax.tree.map(jnp.add, pull(by_mixture)[0], jax.grad(penalty)(logits))
    updates, optimiser = strategy.optimiser().update(gradient, optimiser, logits)
    return jax.tree.map(jnp.add, logits, updates), optimiser


def _measured(rule: Rule, program: Program, task: Task, state: SearchState, statistics, epoch: int, seconds: float):
    """The metric is that of the search network in validation, with the mixture that the logits stand for."""
    mixing, strategy = rule.space.mixing(), rule.strategy
    weights = np.asarray(strategy.weights(state.logits, mixing))
    row = discretise(rule.space, weights, rule.limits, strategy.max_skips)
    how = {"batch": program.recipe.batch_size, "precision": program.recipe.precision}
    tracked = strategy.tracked(state.logits, mixing)
    if strategy.along_paths:
        tracked = OneHot(tracked)
    metrics = measure(program.graph, state.train.weights, statistics, task.valid, task, tracked, **how)
    if strategy.stop_growth:
        metrics["curvature"] = float(state.curvature[epoch])
    return Epoch(epoch, row, metrics, seconds)


# Stopping before the collapse: Zela et al., "Understanding and Robustifying Differentiable Architecture Search", 2020,
# https://arxiv.org/abs/1909.09656, section 4.3.


def curvature(rule: Rule, program: Program, state: SearchState, batch: Batch, key: jax.Array) -> float:
    """The dominant eigenvalue of the second derivative of the held-out loss by the logits of operations."""
    weights, logits = state.train.weights, state.logits
    start = jr.normal(key, logits.ops.shape)
    return dominant(lambda v: _curved(rule, program, weights, logits, v, batch), start, ITERATIONS)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _curved(rule: Rule, program: Program, weights: nnx.State, logits: Any, direction: Array, batch: Batch) -> Array:
    loss, mixing = batch.loss(program), rule.space.mixing()

    def by_ops(ops: Array) -> Array:
        return loss(weights, rule.strategy.weights(logits.replace(ops=ops), mixing))

    return jax.jvp(jax.grad(by_ops), (logits.ops,), (direction,))[1]


def stopped(strategy: GradientStrategy, values: np.ndarray, epochs: int) -> int | None:
    """The epoch to take the architecture of, if the curvature of `epochs` epochs has grown too much."""
    if not strategy.stop_growth or epochs < max(FIRST_STOP, WINDOW + LOOK_BACK):
        return None
    means = [values[end - WINDOW : end].mean() for end in (epochs - LOOK_BACK, epochs)]
    return epochs - 1 - LOOK_BACK if means[1] > strategy.stop_growth * means[0] else None
