"""Optimisers: their steps are optax's own, rows off the path keep their bits, and a killed training goes on."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from nas import config
from nas.job.subject import bind, load_task
from nas.saved import checkpoint
from nas.training.net import flatten, split
from nas.training.optimiser import Average, no_steps
from nas.training.paths import uniform_paths
from nas.training.recipe import Recipe
from nas.training.schedule import batch_indices
from nas.training.sgd import Program, descend, fit, loss_of, train_step
from spaces.shared import Shared, put, select
from spaces.shufflenet import ShuffleNet

ONE = ShuffleNet((1,), (8,), (2,), 4, 4, 8, image_size=8, image_channels=1, num_classes=3)
BASE = Recipe(steps=25, batch_size=16, learning_rate=0.01, weight_decay=0.1, crop=0, checkpoint_seconds=0.0)
RECIPES = {
    "sgd, averaged": dataclasses.replace(BASE, ema=0.8),
    "adamw": dataclasses.replace(BASE, optimiser="adamw"),
    "adamw, averaged": dataclasses.replace(BASE, optimiser="adamw", ema=0.8),
    "rmsprop": dataclasses.replace(BASE, optimiser="rmsprop"),
}
each = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
Stop = type("Stop", (Exception,), {})


@pytest.fixture(scope="module")
def shared():
    """The structure, weights and statistics of a network of one decision, which four rows compete for."""
    return split(ONE.supernet(jr.key(0)))


def program(recipe: Recipe, graph, task, *, shared: bool) -> Program:
    return Program(graph, recipe, task.kind, (task.mean, task.std), shared=shared)


def many_axes(weights):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, weights)


ORACLES = {
    "adamw": (
        {"optimiser": "adamw", "momentum": 0.8},
        lambda rate, decay: optax.adamw(rate, 0.8, 0.999, 1e-8, weight_decay=decay, mask=many_axes),
    ),
    "adamw without momentum": (
        {"optimiser": "adamw", "momentum": 0.0},
        lambda rate, decay: optax.adamw(rate, 0.0, 0.999, 1e-8, weight_decay=decay, mask=many_axes),
    ),
    "rmsprop": (
        {"optimiser": "rmsprop", "momentum": 0.8},
        lambda rate, decay: optax.chain(
            optax.add_decayed_weights(decay, many_axes),
            optax.rmsprop(rate, 0.99, 1e-8, eps_in_sqrt=False, momentum=0.8),
        ),
    ),
}


@pytest.mark.parametrize(("fields", "oracle"), ORACLES.values(), ids=ORACLES)
def test_steps_are_those_of_optax(task, fields, oracle):
    graph, weights, statistics = split(ONE.build(np.array([0], np.int32), jr.key(0)))
    recipe = dataclasses.replace(BASE, clip=0.0, **fields)
    ours = program(recipe, graph, task, shared=False)
    state, theirs = ours.begin(weights), jax.tree.map(jnp.asarray, weights)
    optimiser = oracle(np.float32(0.01), recipe.weight_decay)
    rest, data = optimiser.init(theirs), (jnp.asarray(task.train.images), jnp.asarray(task.train.labels))
    gradient_at = jax.jit(
        lambda weights, step, indices: jax.grad(loss_of(ours, statistics, data, indices, jr.key(0), step))(weights, ())
    )
    for step in range(6):
        gradient = gradient_at(state.weights, step, batch_indices(0, step, len(task.train), 16))
        state = descend(ours, state, gradient, (), np.float32(0.01))
        updates, rest = optimiser.update(gradient, rest, theirs)
        theirs = optax.apply_updates(theirs, updates)
    for name, array in flatten(state.weights).items():
        np.testing.assert_allclose(array, flatten(theirs)[name], rtol=1e-5, atol=3e-6, err_msg=name)
    moved = [np.abs(array - flatten(weights)[name]).max() for name, array in flatten(state.weights).items()]
    assert max(moved) > 0.03


# Shared weights


@each
def test_a_step_leaves_what_is_off_its_path_bit_identical(shared, task, recipe):
    graph, weights, statistics = shared
    ours = program(recipe, graph, task, shared=True)
    data = jnp.asarray(task.train.images), jnp.asarray(task.train.labels)
    states = [ours.begin(jax.tree.map(jnp.array, weights))]
    paths = [jnp.array([choice], jnp.int32) for choice in (0, 1, 1)]
    for step, path in enumerate(paths):
        given = jax.tree.map(jnp.array, states[-1])
        batch = batch_indices(0, step, len(task.train), recipe.batch_size)
        how = batch, path, np.float32(0.01), jr.key(0), step
        states.append(train_step(ours, given, jax.tree.map(jnp.asarray, statistics), data, *how)[0])
    before, after = states[1:3]
    ones = jax.tree.map(jnp.ones_like, select(before, paths[1]))
    on = put(jax.tree.map(jnp.zeros_like, before), ones, paths[1])
    assert len(rows_of(before)) >= 2 * len(rows_of(weights))
    for old, new, mask in zip(*map(rows_of, (before, after, on)), strict=True):
        assert (mask == 0).mean() == 0.75
        assert old[mask == 0].tobytes() == new[mask == 0].tobytes()
        assert old[mask == 0].any()  # what the step before has left
        assert (old[mask == 1] != new[mask == 1]).any()


def rows_of(tree) -> list[np.ndarray]:
    leaves = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, Shared))
    return [np.asarray(leaf.get_value()) for leaf in leaves if isinstance(leaf, Shared)]


def test_a_row_counts_its_own_steps(shared, task):
    """So its first one goes as far as any first step of Adam: by the learning rate."""
    graph, weights, _ = shared
    ours = program(dataclasses.replace(RECIPES["adamw"], weight_decay=0.0, clip=0.0), graph, task, shared=True)
    state = ours.begin(weights)
    for choice in (0, 0, 0, 0, 2):
        path = jnp.array([choice], jnp.int32)
        chosen = select(state, path)
        gradient = jax.tree.map(jnp.ones_like, chosen.weights)
        before, state = state, put(state, descend(ours, chosen, gradient, path, np.float32(0.01)), path)
    (counts,) = rows_of(state.optimiser[1].counts)
    np.testing.assert_array_equal(counts, [[4, 0, 1, 0]])
    assert {int(n) for n in jax.tree.leaves(state.optimiser[1].counts) if n.ndim == 0} == {5}
    for old, new in zip(rows_of(before.weights), rows_of(state.weights), strict=True):
        np.testing.assert_allclose(old[:, 2] - new[:, 2], 0.01, atol=1e-6)


def test_the_average_is_that_of_optax_over_the_steps_of_a_row(shared):
    _, weights, _ = shared
    average, oracle = Average.of(weights), optax.ema(0.9, debias=True)
    assert jax.tree.structure(no_steps(weights)) == jax.tree.structure(weights)
    path, draw = jnp.array([1], jnp.int32), np.random.default_rng(0)
    rest = oracle.init(select(weights, path))
    for _ in range(5):
        noise = jax.tree.map(lambda leaf: jnp.asarray(draw.standard_normal(leaf.shape, np.float32)), weights)
        new = select(noise, path)
        average = put(average, select(average, path).after(new, 0.9), path)
        expected, rest = oracle.update(new, rest)
    for found, wanted in zip(*map(jax.tree.leaves, (select(average.weights, path), expected)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    for found, old in zip(*map(rows_of, (average.weights, weights)), strict=True):
        assert found[:, [0, 2, 3]].tobytes() == old[:, [0, 2, 3]].tobytes()


# Trainings


@each
def test_a_stopped_training_ends_as_the_uninterrupted_one(shared, task, tmp_path, recipe):
    paths = uniform_paths(ONE, jr.key(5), recipe.steps)

    def train(name, on_step=lambda step, loss: None):
        return flatten(fit(*shared, task, recipe, seed=0, paths=paths, saved=tmp_path / name, on_step=on_step))

    def stop(step, loss):
        if step > 1:
            raise Stop

    expected = train("whole")
    with pytest.raises(Stop):
        train("stopped", stop)
    assert checkpoint.read(tmp_path / "stopped")[1]["step"] == 20
    assert {name: array.tobytes() for name, array in train("stopped").items()} == {
        name: array.tobytes() for name, array in expected.items()
    }
    whole, stopped = (checkpoint.read(tmp_path / name) for name in ("whole", "stopped"))
    assert {name: array.tobytes() for name, array in whole[0].items()} == {
        name: array.tobytes() for name, array in stopped[0].items()
    }
    assert whole[1] == stopped[1]
    given = "average.weights." if recipe.ema else "weights."
    assert all(whole[0][given + name].tobytes() == array.tobytes() for name, array in expected.items())
    assert any(whole[0]["weights." + name].tobytes() != array.tobytes() for name, array in expected.items()) == bool(
        recipe.ema
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rate"), [("adamw", "0.02"), ("rmsprop", "0.0005")])
def test_an_optimiser_from_the_command_line_trains_shared_weights(name, rate):
    flags = ["--training.optimiser", name, "--training.learning-rate", rate]
    settings = config.build(config.parse(["--space", "shufflenet:tiny", "--training.steps", "300", *flags])[0])
    assert (settings.training.optimiser, settings.final.optimiser) == (name, "sgd")
    task = load_task(settings)
    space, losses = bind(settings.space, task), []
    network = split(space.supernet(jr.key(0)))
    paths = uniform_paths(space, jr.key(1), 300)
    fit(*network, task, settings.training, seed=0, paths=paths, on_step=lambda step, loss: losses.append(loss))
    assert np.mean(losses[-4:]) < losses[0] - 0.2


# Mistakes


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"optimiser": "adam"}, "optimiser='adam' must be sgd, adamw, rmsprop"),
        (
            {"optimiser": "adamw", "nesterov": True},
            "nesterov=True needs optimiser='sgd', not 'adamw': set nesterov to false too",
        ),
        ({"ema": 1.0}, "ema=1.0 must lie in [0, 1)"),
        ({"ema": float("nan")}, "ema=nan must lie in [0, 1)"),
    ],
)
def test_a_recipe_that_nothing_is_trained_by_is_refused(fields, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        Recipe(**fields)
