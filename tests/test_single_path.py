"""Shared weights: a path through the supernet is the pruned network, and whatever is off the path keeps its bits."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from conftest import MINI, RECIPE
from flax import nnx
from jax import lax

from nas.tasks.kinds.classification import cross_entropy
from nas.training.net import forward, split
from nas.training.schedule import batch_indices
from nas.training.sgd import Program, TrainState, train_step
from spaces.layers import EPSILON, BatchNorm, normalise_by_batch
from spaces.shared import Shared, decay_mask, put, select
from spaces.shufflenet import prune

# Between them every block takes three of its four choices, and a path of equal choices is not among them.
PATHS = [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)]


def close(found, expected, tolerance=2e-4):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max() + 1e-7


def all_close(found, expected, tolerance=2e-4):
    found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
    for one, other in zip(found, expected, strict=True):
        close(one, other, tolerance)


def pruned(graph, weights, statistics, encoding) -> nnx.Module:
    return prune(nnx.merge(graph.definition, weights, statistics, copy=True), np.array(encoding))


def as_in_pruned(graph, weights, statistics, encoding) -> nnx.State:
    """What a tree of shared weights holds for one architecture, laid out as its own network's parameters."""
    return nnx.state(pruned(graph, weights, statistics, encoding), nnx.Param)


@functools.partial(jax.jit, static_argnums=0)
def measure(graph, weights, statistics, images, labels, path):
    """In one program, because each takes seconds to compile: training, its gradient, then evaluation."""

    def loss(weights):
        logits, left = forward(graph, weights, statistics, images, path, train=True)
        return cross_entropy(logits, labels), (logits, left)

    gradient, (trained, left) = jax.grad(loss, has_aux=True)(weights)
    evaluated, _ = forward(graph, weights, left, images, path, train=False)
    return {"train": trained, "eval": evaluated, "statistics": left, "gradient": gradient}


@pytest.fixture(scope="module")
def affine():
    """The structure, weights and statistics of a supernet with scale and bias, all of them away from 1 and 0."""
    graph, weights, statistics = split(MINI.supernet(jr.key(1), affine=True))
    draw = np.random.default_rng(0)
    weights = jax.tree.map(lambda w: w + 0.1 * (w != 0) * draw.standard_normal(w.shape, np.float32), weights)
    return graph, weights, statistics


@pytest.fixture(scope="module")
def batch():
    key_images, key_labels = jr.split(jr.key(2))
    return jr.normal(key_images, (6, 8, 8, 1)), jax.nn.one_hot(jr.randint(key_labels, (6,), 0, 3), 3)


@pytest.fixture(scope="module")
def supernet_on(affine, batch):
    return functools.cache(lambda encoding: measure(*affine, *batch, jnp.array(encoding)))


@pytest.fixture(scope="module", params=PATHS, ids=str)
def both(request, affine, batch, supernet_on):
    """The encoding, and what the supernet on its path and the pruned network give."""
    alone = measure(*split(pruned(*affine, request.param)), *batch, ())
    return request.param, supernet_on(request.param), alone


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_path_gives_the_logits_of_the_pruned_network(both, mode):
    _, on_path, alone = both
    close(on_path[mode], alone[mode])
    assert np.ptp(alone[mode]) > 0


def test_a_path_has_the_gradient_of_the_pruned_network(both, affine):
    encoding, on_path, alone = both
    all_close(as_in_pruned(affine[0], on_path["gradient"], affine[2], encoding), alone["gradient"])


def test_a_path_leaves_the_statistics_of_the_pruned_network(both, affine):
    encoding, on_path, alone = both
    graph, weights, _ = affine
    found = nnx.state(pruned(graph, weights, on_path["statistics"], encoding), nnx.BatchStat)
    all_close(found, alone["statistics"])


def test_no_gradient_reaches_what_is_off_the_path(both):
    encoding, on_path, _ = both
    gradient, path = on_path["gradient"], jnp.array(encoding)
    off = put(gradient, jax.tree.map(jnp.zeros_like, select(gradient, path)), path)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(off))


def test_a_path_runs_outside_jit_as_inside(affine, batch, supernet_on):
    graph, weights, _ = affine
    on_path = supernet_on(PATHS[0])
    network = nnx.merge(graph.definition, weights, on_path["statistics"], copy=True)
    close(network(batch[0], jnp.array(PATHS[0])), on_path["eval"])


def test_pruning_leaves_the_supernet_as_it_is(affine):
    graph, weights, statistics = affine
    network = nnx.merge(graph.definition, weights, statistics, copy=True)
    alone = prune(network, np.array(PATHS[0]))
    nnx.update(alone, jax.tree.map(jnp.zeros_like, nnx.state(alone, nnx.Param)))
    for before, after in zip(jax.tree.leaves(weights), jax.tree.leaves(nnx.state(network, nnx.Param)), strict=True):
        np.testing.assert_array_equal(before, after)


# Training one path


def shared(tree) -> list[Shared]:
    leaves = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, Shared))
    return [leaf for leaf in leaves if isinstance(leaf, Shared)]


def nonzero(tree) -> np.ndarray:
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    return np.sort(values[values != 0])


@pytest.fixture(scope="module")
def steps(supernet, task):
    """The states before training, after a step on one path, and after another on a path that shares none of it."""
    graph, weights, statistics = supernet
    program = Program(graph, RECIPE, task.kind, (task.mean, task.std), shared=True)
    states = [TrainState(jax.tree.map(jnp.array, weights), program.optimiser().init(weights))]
    data = jnp.asarray(task.train.images), jnp.asarray(task.train.labels)
    statistics = jax.tree.map(jnp.asarray, statistics)
    for step, path in enumerate(PATHS[:2]):
        given = jax.tree.map(jnp.array, states[-1])
        indices = batch_indices(0, step, len(task.train), RECIPE.batch_size)
        path, rate = np.array(path, np.int32), np.float32(0.1)
        states.append(train_step(program, given, statistics, data, indices, path, rate, jr.key(0), step)[0])
    return states


def test_a_step_leaves_weights_and_momentum_off_its_path_bit_identical(steps):
    before, after, path = steps[1], steps[2], jnp.array(PATHS[1])
    ones = jax.tree.map(jnp.ones_like, select(before, path))
    on = put(jax.tree.map(jnp.zeros_like, before), ones, path)
    trees = zip(*map(shared, (before, after, on)), strict=True)
    for old, new, mask in ([np.asarray(leaf.get_value()) for leaf in leaves] for leaves in trees):
        assert (mask == 0).mean() == 0.75
        assert old[mask == 0].tobytes() == new[mask == 0].tobytes()
        # Momentum too is there to be lost: that of the step before.
        assert old[mask == 0].any()


def test_a_step_changes_every_tensor_on_its_path(steps, supernet):
    graph, _, statistics = supernet
    before, after = (as_in_pruned(graph, state.weights, statistics, PATHS[1]) for state in steps[1:])
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (np.asarray(old) != np.asarray(new)).mean() > 0.9


def test_padding_stays_zero(steps, supernet):
    graph, _, statistics = supernet
    for tree in (steps[2].weights, steps[2].optimiser[-1].trace):
        for encoding in PATHS[:2]:
            held = nonzero(select(tree, jnp.array(encoding)))
            np.testing.assert_array_equal(held, nonzero(as_in_pruned(graph, tree, statistics, encoding)))


# Views of weights


@pytest.mark.parametrize("encoding", PATHS, ids=str)
def test_put_is_the_inverse_of_select(supernet, encoding):
    _, weights, _ = supernet
    path = jnp.array(encoding)
    selected = select(weights, path)
    same = put(weights, selected, path)
    for old, new in zip(jax.tree.leaves(weights), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(old, new)
    other = jax.tree.map(lambda leaf: leaf + 1, selected)
    found = select(put(weights, other, path), path)
    assert jax.tree.structure(found) == jax.tree.structure(other)
    for old, new in zip(jax.tree.leaves(other), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("affinity", [False, True])
@pytest.mark.parametrize("choice", range(4))
def test_decay_acts_on_exactly_the_tensors_of_more_than_one_axis(affinity, choice):
    graph, weights, statistics = split(MINI.supernet(jr.key(0), affine=affinity))
    encoding = (choice,) * 4
    path = jnp.array(encoding)
    mask = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), decay_mask(select(weights, path), path))
    assert set(np.unique(nonzero(mask))) == {1.0}
    laid_out = as_in_pruned(graph, put(jax.tree.map(jnp.zeros_like, weights), mask, path), statistics, encoding)
    leaves = jax.tree.leaves(laid_out)
    assert {leaf.ndim > 1 for leaf in leaves} == ({True, False} if affinity else {True})
    assert all((np.asarray(leaf) == (leaf.ndim > 1)).all() for leaf in leaves)
    assert len(nonzero(mask)) == len(nonzero(laid_out))  # none of it is padding


# Normalisation


def plainly(x):
    mean, var = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
    return (x - mean) * lax.rsqrt(var + EPSILON)


def test_normalisation_has_the_value_and_gradient_of_its_formula(key):
    key_images, key_gradient = jr.split(key)
    x = 3 * jr.normal(key_images, (4, 5, 3, 6)) + jnp.arange(6.0)[None, None, None]
    cotangent = jr.normal(key_gradient, x.shape)
    (found, mean, var), pull = jax.vjp(normalise_by_batch, x)
    expected, pull_plainly = jax.vjp(plainly, x)
    close(found, expected)
    close(mean, np.asarray(x, np.float64).mean((0, 1, 2)))
    close(var, np.asarray(x, np.float64).var((0, 1, 2)))
    zero = jnp.zeros(6)
    close(pull((cotangent, zero, zero))[0], pull_plainly(cotangent)[0])
    np.testing.assert_array_equal(pull((jnp.zeros_like(x), zero + 1, zero + 1))[0], 0)


def test_a_constant_channel_is_normalised_to_zero(key):
    x = jnp.full((2, 3, 3, 1), 7.0)
    value, pull = jax.vjp(lambda x: normalise_by_batch(x)[0], x)
    np.testing.assert_allclose(value, 0, atol=1e-3)
    assert np.isfinite(pull(jr.normal(key, x.shape))[0]).all()


def test_training_normalises_by_the_batch_and_leaves_its_statistics(key):
    x = 2 + 3 * jr.normal(key, (4, 5, 5, 3))
    norm = BatchNorm(3, affine=False)
    close(norm(x, train=True), plainly(x))
    close(norm.mean.get_value(), np.asarray(x).mean((0, 1, 2)))
    close(norm.var.get_value(), np.asarray(x).var((0, 1, 2)))


def test_evaluation_uses_the_statistics_it_is_given(key):
    x, norm = jr.normal(key, (4, 5, 5, 3)), BatchNorm(3, affine=True)
    values = {"mean": [1.0, -2.0, 0.5], "var": [4.0, 0.25, 1.0], "scale": [2.0, 1.0, -1.0], "bias": [0.0, 3.0, 1.0]}
    for name, value in values.items():
        getattr(norm, name).set_value(jnp.array(value))
    mean, var, scale, bias = (np.array(value) for value in values.values())
    close(norm(x, train=False), (np.asarray(x) - mean) / np.sqrt(var + EPSILON) * scale + bias)
    np.testing.assert_array_equal(norm.mean.get_value(), jnp.array(values["mean"]))


@pytest.mark.parametrize("train", [True, False])
def test_normalisation_keeps_half_precision_and_measures_in_single(key, train):
    x, norm = jr.normal(key, (4, 5, 5, 3), jnp.bfloat16), BatchNorm(3, affine=True)
    assert norm(x, train).dtype == jnp.bfloat16
    assert norm.mean.get_value().dtype == norm.var.get_value().dtype == jnp.float32


def test_the_gradient_of_normalisation_keeps_half_precision(key):
    x = jr.normal(key, (4, 5, 5, 3), jnp.bfloat16)
    value, pull = jax.vjp(lambda x: normalise_by_batch(x)[0], x)
    assert value.dtype == pull(value)[0].dtype == jnp.bfloat16
