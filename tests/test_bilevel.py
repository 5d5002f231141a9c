"""Differentiable search: laws of its strategies, exact gradients, legal architectures, and a search that goes on."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from conftest import MINI as CHAIN
from conftest import measure_mixture, refusal
from flax import nnx

import nas
from nas.commands import cli
from nas.config import build
from nas.errors import Interrupted, UsageError
from nas.job import run as job
from nas.job import subject
from nas.report.progress import Silent
from nas.saved import checkpoint
from nas.tasks.kinds.classification import Classification
from nas.training import bilevel
from nas.training.bilevel import Rule, logits_step, search, stopped
from nas.training.discretise import discretise
from nas.training.hypergradient import MIXTURE, WEIGHTS, Batch, dominant, gradients, hypergradient
from nas.training.net import flatten, forward, split
from nas.training.recipe import Recipe
from nas.training.schedule import learning_rates
from nas.training.sgd import Program, TrainState, descend
from spaces import SPACES as NAMES
from spaces import cell_ops, presets
from spaces.abilities import Mixable
from spaces.base import every, feasible, sample, smallest
from spaces.binary import PRESETS as BINARY
from spaces.darts import PRESETS as DARTS
from spaces.darts import Darts
from spaces.darts import _in_part as in_part
from spaces.nasbench201 import PRESETS as NASBENCH201
from spaces.nasbench201 import NasBench201
from spaces.shared import OneHot
from spaces.shuffle_blocks import Through
from spaces.shufflenet import PRESETS as SHUFFLENET
from strategies import GRADIENT_STRATEGIES, RECIPES, STRATEGIES, strategy_class
from strategies.base import GradientStrategy
from strategies.differentiable import Differentiable, Logits, fair_darts, gumbel_darts

MINI = NasBench201(width=2, cells=1, image_size=8, image_channels=1, num_classes=3)
SMALL = Darts(width=4, cells=3, stem_multiplier=1, image_size=8, image_channels=1, num_classes=3)
SPACES = {"darts": DARTS["search"], "nasbench201": NASBENCH201["paper"], "shufflenet": SHUFFLENET["tiny"]}
SPACES["binary"] = BINARY["bnas"]
NETWORKS = {"darts": SMALL, "nasbench201": MINI, "shufflenet": CHAIN}  # whose programs compile in seconds
EDGES = Differentiable(edges=True)
ALL = {**{name: strategy_class(name)() for name in GRADIENT_STRATEGIES}, "edges": EDGES}
each = pytest.mark.parametrize("strategy", ALL.values(), ids=ALL)
spaces = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def some_logits(space: Mixable, seed: int = 0, strategy: Differentiable = EDGES) -> Logits:
    mixing = space.mixing()
    keys = jr.split(jr.key(seed))
    ops, edges = jr.normal(keys[0], (len(mixing.nodes), len(mixing.ops))), jr.normal(keys[1], (len(mixing.nodes),))
    return dataclasses.replace(strategy.init(keys[0], mixing), ops=ops, edges=edges)


# Laws


def test_the_two_kinds_of_strategies_are_told_apart():
    assert not STRATEGIES.keys() & GRADIENT_STRATEGIES.keys()
    assert all(isinstance(strategy, GradientStrategy) for strategy in ALL.values())
    assert not any(isinstance(strategy_class(name)(), GradientStrategy) for name in STRATEGIES)
    assert all(isinstance(space, Mixable) for space in SPACES.values())


@each
@spaces
def test_a_mixture_is_a_function_of_logits_key_and_progress(strategy, space, key):
    mixing, logits = space.mixing(), strategy.init(key, space.mixing())
    drawn = [strategy.mixture(logits, mixing, jr.key(seed), 0.5) for seed in (1, 1, 2)]
    assert drawn[0].shape == (len(mixing.nodes), len(mixing.ops))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] == drawn[2]).all() == (strategy.sample == "none")


@each
@spaces
def test_every_logit_of_an_operation_has_a_gradient(strategy, space, key):
    mixing, logits = space.mixing(), some_logits(space, strategy=strategy)
    which = jr.normal(key, (len(mixing.nodes), len(mixing.ops)))
    gradient = jax.grad(lambda logits: (which * strategy.mixture(logits, mixing, key, 0.5)).sum())(logits)
    left_out = (strategy.gate == "sigmoid") & (np.arange(len(mixing.ops)) == mixing.none)
    np.testing.assert_array_equal(np.asarray(gradient.ops) != 0, np.broadcast_to(~left_out, gradient.ops.shape))
    shared = np.bincount(mixing.nodes)[np.array(mixing.nodes)] > 1  # an edge alone has nothing to compete with
    np.testing.assert_array_equal(np.asarray(gradient.edges) != 0, strategy.edges & shared)


@each
@spaces
def test_weights_derive_legal_architectures(strategy, space):
    for seed in range(20):
        row = discretise(space, strategy.weights(some_logits(space, seed, strategy), space.mixing()))
        assert ((row >= 0) & (row < np.array(space.cardinalities))).all()


@spaces
def test_a_mixture_of_one_operation_an_edge_derives_its_architecture(space, key):
    derive = jax.jit(lambda mixture: space.derive(mixture))
    for row in np.asarray(sample(space, key, 20)):
        hot = jnp.eye(len(space.mixing().ops))[space.edge_ops(jnp.asarray(row)[None])[0]]
        found, expected = (space.edge_ops(each[None])[0] for each in (derive(hot), jnp.asarray(row)))
        np.testing.assert_array_equal(found, expected)


@spaces
def test_only_the_order_of_weights_decides_what_is_derived(space):
    derive = jax.jit(lambda mixture: space.derive(mixture))
    for seed in range(20):
        weights = jax.nn.softmax(some_logits(space, seed).ops)
        for other in (jnp.log(weights), 100 * weights**3):
            np.testing.assert_array_equal(derive(other), derive(weights))


@spaces
def test_operations_that_do_nothing_are_known_by_their_names(space):
    mixing = space.mixing()
    named = {mixing.ops[op] for op in (mixing.none, mixing.skip) if op is not None}
    assert named == {"none", "skip_connect"} & set(mixing.ops)


def test_edges_into_a_node_share_one(key):
    mixing = DARTS["search"].mixing()
    sums = np.zeros(8)
    np.add.at(sums, np.array(mixing.nodes), np.asarray(EDGES.weights(some_logits(SMALL), mixing)).sum(1))
    np.testing.assert_allclose(sums, 1, rtol=1e-5)


@pytest.mark.parametrize("space", [DARTS["search"], NASBENCH201["paper"]], ids=["darts", "nasbench201"])
def test_a_gate_that_does_not_compete_knows_no_none(space):
    """Nor is it derived, whatever its logit, or counted by the loss that pulls gates to 0 or 1."""
    mixing = space.mixing()
    logits, none = some_logits(space), mixing.none
    most = logits.replace(ops=logits.ops.at[:, none].set(9.0))
    assert (fair_darts().weights(most, mixing)[:, none] == 0).all()
    row = discretise(space, np.asarray(fair_darts().weights(most, mixing)))
    assert (np.asarray(space.edge_ops(jnp.asarray(row)[None])) != none).sum() == round(sum(mixing.kept))
    others = np.delete(np.asarray(logits.ops), none, axis=1)
    expected = -10 * ((1 / (1 + np.exp(-others)) - 0.5) ** 2).mean()
    np.testing.assert_allclose(fair_darts().penalty(most, mixing, 0.5), expected, rtol=1e-5)


def test_every_gradient_strategy_brings_its_published_recipe():
    published = {  # batch, first and last learning rate, weight decay, Nesterov; of the logits: rate and momentum
        "darts": (64, 0.025, 0.001, 3e-4, False, 3e-4, 0.5),
        "pc-darts": (256, 0.1, 0.0, 3e-4, False, 6e-4, 0.5),
        "fair-darts": (128, 0.005, 0.001, 3e-4, False, 3e-3, 0.9),
        "gumbel-darts": (64, 0.025, 0.001, 5e-4, True, 3e-4, 0.5),
        "snas": (64, 0.025, 0.001, 3e-4, False, 3e-4, 0.5),
        "bnas": (64, 0.025, 0.001, 3e-4, False, 3e-4, 0.5),
        "bats": (64, 0.025, 0.001, 3e-4, False, 3e-4, 0.5),
        "bnas-beihang": (64, 0.025, 0.001, 3e-4, False, 6e-4, 0.5),
    }
    assert published.keys() == GRADIENT_STRATEGIES.keys()
    for name, expected in published.items():
        settings = build({"strategy": name, "space": "nasbench201"})
        recipe, logits = settings.training, settings.strategy
        rates = recipe.learning_rate, recipe.min_learning_rate
        found = (recipe.batch_size, *rates, recipe.weight_decay, recipe.nesterov, logits.learning_rate, logits.momentum)
        assert found == expected
        assert (recipe.momentum, recipe.clip, recipe.schedule, recipe.warmup) == (0.9, 5.0, "cosine", 0.0)
    own = build({"strategy": "pc-darts", "space": "nasbench201", "training": {"batch_size": 8}}).training
    assert own == Recipe(**{**RECIPES["pc-darts"], "batch_size": 8})


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_learning_rate_falls_to_its_minimum(schedule):
    rates = learning_rates(
        Recipe(steps=500, learning_rate=0.025, min_learning_rate=0.001, warmup=0.0, schedule=schedule)
    )
    assert rates[0] == np.float32(0.025)
    assert (np.diff(rates) < 0).all()
    assert 0.001 <= rates[-1] < 0.00106
    # Half way down half way through.
    np.testing.assert_allclose(rates[250], 0.013, rtol=1e-5)
    with pytest.raises(ValueError, match=r"min_learning_rate=0.1 must lie in 0..learning_rate=0.05"):
        Recipe(learning_rate=0.05, min_learning_rate=0.1)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_that_of_pytorch(nesterov):
    program = program_of(dataclasses.replace(RECIPE, clip=0.0, weight_decay=0.0, nesterov=nesterov))
    gradients, weight, buffer = [1.0, -0.5, 2.0], jnp.zeros(()), 0.0
    state = program.optimiser().init(weight)
    for gradient in gradients:
        update, state = program.optimiser().update(jnp.float32(gradient), state, weight)
        buffer = 0.9 * buffer + gradient
        np.testing.assert_allclose(update, gradient + 0.9 * buffer if nesterov else buffer, rtol=1e-6)


def program_of(recipe: Recipe) -> Program:
    graph, _, _ = split(MINI.supernet(jr.key(0)))
    return Program(graph, recipe, Classification(3), ((0.0,), (1.0,)), shared=False)


WRONG = {
    "momentum=1.0 must lie in": {"momentum": 1.0},
    "temperature=0.0 must be more than 0": {"temperature": 0.0},
    "warmup=1.0 must lie in": {"warmup": 1.0},
    "partial=0 must be at least 1": {"partial": 0},
    "zero_one=1.0 needs gate='sigmoid'": {"zero_one": 1.0},
    "sample='soft' needs gate='softmax'": {"sample": "soft", "gate": "sigmoid"},
    "order='second' must be 'first' with": {"order": "second", "sample": "hard"},
    "order='second' needs bilevel": {"order": "second", "bilevel": False},
}


@pytest.mark.parametrize("reason", WRONG)
def test_fields_that_do_not_go_together_are_refused(reason):
    with pytest.raises(ValueError, match=reason[:20]):
        Differentiable(**WRONG[reason])


# Networks


@pytest.mark.usefixtures("smooth")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_mixture_of_one_operation_an_edge_is_the_path_in_training(name, key):
    """And it leaves no statistics; of any mixture, the gradient is what finite differences say."""
    space = NETWORKS[name]
    mixing, net = space.mixing(), split(space.supernet(key))
    images = jr.normal(key, (8, 8, 8, 1))
    row = sample(space, key, 1)
    hot = jnp.eye(len(mixing.ops))[space.edge_ops(row)[0]]
    logits, left, *_ = measure_mixture(*net, images, hot)
    trained, _ = jax.jit(forward, static_argnums=0, static_argnames="train")(*net, images, row[0], train=True)
    np.testing.assert_allclose(logits, trained, rtol=1e-3, atol=1e-3 * float(jnp.abs(trained).max()))
    for before, after in zip(jax.tree.leaves(net[2]), jax.tree.leaves(left), strict=True):
        np.testing.assert_array_equal(before, after)
    mixture, way = jax.nn.softmax(some_logits(space).ops), jr.normal(key, hot.shape)
    more, less = ((measure_mixture(*net, images, mixture + side * way)[0] ** 2).sum() for side in (3e-3, -3e-3))
    gradient = measure_mixture(*net, images, mixture)[3]
    assert float((more - less) / 6e-3) == pytest.approx(float((gradient * way).sum()), rel=0.02)


@pytest.mark.parametrize("parts", [2, 8])
def test_a_block_sends_one_channel_in_so_many_through_its_branch(parts):
    x = jnp.arange(2 * 3 * 3 * 16.0).reshape(2, 3, 3, 16)
    y = Through(parts)(x, lambda part: -part)
    assert sorted(np.abs(y).ravel()) == sorted(np.asarray(x).ravel())
    np.testing.assert_array_equal(y[..., -16 // parts :], -x[..., parts - 1 :: parts])
    np.testing.assert_array_equal(y[..., : 16 // parts], x[..., ::parts])


def test_a_part_of_the_channels_is_searched_with_fewer_weights(key):
    counts = [
        sum(leaf.size for leaf in jax.tree.leaves(nnx.state(CHAIN.supernet(key, partial=partial), nnx.Param)))
        for partial in (1, 2, 4)
    ]
    assert counts[0] > counts[1] > counts[2]
    with pytest.raises(ValueError, match=r"partial=3 must divide half of all widths=\(8, 16\)"):
        CHAIN.supernet(key, partial=3)


# Gumbel


@pytest.mark.parametrize("temperature", [10.0, 1.0, 0.1])
def test_operations_are_drawn_as_often_as_softmax_says(temperature, key):
    strategy = dataclasses.replace(gumbel_darts(), temperature=temperature, last_temperature=temperature)
    mixing, logits = MINI.mixing(), some_logits(MINI)
    draws = jax.vmap(lambda key: strategy.mixture(logits, mixing, key, 0.0))(jr.split(key, 20_000))
    np.testing.assert_allclose(draws.mean(0), jax.nn.softmax(logits.ops), atol=0.015)


def test_a_hard_sample_is_exactly_one_operation():
    mixing, logits = MINI.mixing(), some_logits(MINI)
    draws = np.stack([gumbel_darts().mixture(logits, mixing, jr.key(seed), seed / 50) for seed in range(51)])
    assert set(np.unique(draws)) == {0.0, 1.0}
    assert (draws.sum(-1) == 1).all()


@pytest.mark.parametrize("others", [False, True])
def test_logits_learn_from_what_was_not_sampled_only_if_asked_to(key, others):
    strategy, logits = dataclasses.replace(gumbel_darts(), others=others), some_logits(MINI)
    drawn, pull = jax.vjp(lambda logits: strategy.mixture(logits, MINI.mixing(), key, 0.5), logits)
    assert np.asarray(pull(1 - drawn)[0].ops).any() == others
    assert np.asarray(pull(drawn)[0].ops).any()


def test_the_temperature_falls_evenly(key):
    mixing, logits = MINI.mixing(), some_logits(MINI)
    soft = dataclasses.replace(gumbel_darts(), sample="soft")
    noisy = jax.nn.log_softmax(logits.ops) + jr.gumbel(key, logits.ops.shape)
    for progress, temperature in ((0.0, 10.0), (0.5, 5.05), (1.0, 0.1)):
        found = soft.mixture(logits, mixing, key, progress)
        np.testing.assert_allclose(found, jax.nn.softmax(noisy / temperature), rtol=1e-4, atol=1e-7)


# The gradient


class Toy(nnx.Module):
    """Two layers, each a mixture of three."""

    def __init__(self, key: jax.Array):
        self.layers = nnx.Param(0.3 * jr.normal(key, (2, 3, 4, 4)))

    def __call__(self, images, mixture, *, train, key):
        x = images.reshape(len(images), -1)
        for layer, weights in zip(self.layers.get_value(), mixture, strict=True):
            x = jnp.tanh(x @ jnp.einsum("o,oij->ij", weights, layer))
        return x


@pytest.fixture(scope="module")
def toy():
    graph, weights, statistics = split(Toy(jr.key(0)))
    recipe = Recipe(batch_size=8, weight_decay=0.1, crop=0)
    program = Program(graph, recipe, Classification(4), ((0.5,), (0.3,)), shared=False)
    draw = np.random.default_rng(0)
    data = jnp.asarray(draw.integers(0, 255, (16, 2, 2, 1)), jnp.uint8), jnp.asarray(draw.integers(0, 4, 16))
    train, valid = (Batch(statistics, data, np.arange(8) + start, jr.key(1), 0) for start in (0, 8))
    momentum = program.optimiser().init(weights)
    state = descend(program, TrainState(weights, momentum), weights, (), 0.0)  # some momentum
    mixture = jax.nn.softmax(jr.normal(jr.key(2), (2, 3)))
    return lambda order, rate: hypergradient(program, order, state, mixture, train, valid, rate), (
        program,
        state,
        mixture,
        train,
        valid,
    )


def test_the_second_order_is_the_gradient_through_a_step(toy):
    found, (program, state, mixture, train, valid) = toy
    rate, velocity = 0.5, state.optimiser[-1].trace

    def after_a_step(mixture):
        gradient = jax.grad(train.loss(program))(state.weights, mixture)
        ahead = jax.tree.map(lambda w, g, b: w - rate * (0.9 * b + g + 0.1 * w), state.weights, gradient, velocity)
        return valid.loss(program)(ahead, mixture)

    np.testing.assert_allclose(found("second", rate), jax.grad(after_a_step)(mixture), rtol=1e-4, atol=1e-7)


def test_differences_agree_with_the_exact_second_order(toy):
    first, exact, finite = (toy[0](order, 0.5) for order in ("first", "second", "second-finite"))
    np.testing.assert_allclose(finite, exact, atol=1e-4 * float(jnp.abs(exact).max()))
    assert float(jnp.abs(exact - first).max()) > 1e-2 * float(jnp.abs(exact).max())


@pytest.mark.parametrize("order", ["second", "second-finite"])
def test_without_a_step_the_second_order_is_the_first(toy, order):
    np.testing.assert_allclose(toy[0](order, 0.0), toy[0]("first", 0.0), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("space", NETWORKS.values(), ids=NETWORKS)
def test_one_hot_mixtures_have_the_gradient_of_the_sampled_operations(task, space):
    graph, weights, statistics = split(space.supernet(jr.key(0)))
    recipe = dataclasses.replace(RECIPE, batch_size=16)
    program = Program(graph, recipe, task.kind, (task.mean, task.std), shared=False)
    data = jnp.asarray(task.train.images), jnp.asarray(task.train.labels)
    batch, mixing = Batch(statistics, data, np.arange(16), jr.key(1), 0), space.mixing()
    mixture = gumbel_darts().mixture(some_logits(space), mixing, jr.key(2), 0.5)
    wanted = (WEIGHTS, MIXTURE)
    loss, (by_weights, by_mixture) = gradients(program, wanted, weights, mixture, batch)
    same, (by_rows, by_gates) = gradients(program, wanted, weights, OneHot(mixture), batch)
    assert float(same) == pytest.approx(float(loss), rel=1e-5)
    taken, size = np.asarray(mixture) == 1, float(jnp.abs(by_mixture).max())
    np.testing.assert_allclose(np.asarray(by_gates.weights)[taken], by_mixture[taken], atol=1e-3 * size)
    for few, all_ in zip(jax.tree.leaves(by_rows), jax.tree.leaves(by_weights), strict=True):
        np.testing.assert_allclose(few, all_, atol=1e-3 * max(float(jnp.abs(all_).max()), 1e-6))
    others = np.asarray(by_gates.weights)[~taken].reshape(len(mixing.nodes), -1)
    assert (others == others[:, :1]).all()  # that of a constant added to the edge
    assert others.any()


def test_power_iteration_finds_the_dominant_eigenvalue(key):
    basis = jnp.linalg.qr(jr.normal(key, (4, 4)))[0]
    matrix = basis @ jnp.diag(jnp.array([-3.0, 1.0, 0.5, 0.1])) @ basis.T
    assert dominant(lambda v: matrix @ v, jnp.ones(4), 30) == pytest.approx(3.0, rel=1e-4)


def test_a_search_stops_when_the_curvature_grows():
    strategy = Differentiable(stop_growth=1.3)
    flat = np.full(30, 2.0)
    assert all(stopped(strategy, flat, epochs) is None for epochs in range(31))
    grown = np.where(np.arange(30) < 20, 2.0, 9.0)
    assert [stopped(strategy, grown, epochs) for epochs in (20, 21)] == [None, 16]
    assert stopped(Differentiable(), grown, 25) is None


# Architectures within limits


def test_a_thousand_random_mixtures_derive_legal_architectures():
    for seed in range(1000):
        weights = np.random.default_rng(seed).dirichlet(np.ones(8), 28)
        row = discretise(SMALL, weights, max_skips=2)
        assert ((row >= 0) & (row < np.array(SMALL.cardinalities))).all()
        assert sum(op == "skip_connect" for op, _ in SMALL.genotype(row).normal.edges) <= 2


@spaces
def test_derived_architectures_keep_the_limits(space):
    costs = space.cost(
        jnp.asarray(np.random.default_rng(0).integers(0, space.cardinalities, (500, len(space.cardinalities))))
    )
    for share in (1, 10, 50):
        limits = tuple((name, float(np.percentile(costs[name], share))) for name in ("params", "macs"))
        for seed in range(10):
            weights = jax.nn.softmax(3 * some_logits(space, seed).ops)
            assert feasible(space, jnp.asarray(discretise(space, weights, limits))[None], limits)[0]
    least = smallest(space, (("params", 1.0),))
    limits = (("params", float(space.cost(jnp.asarray(least)[None])["params"][0])),)
    assert feasible(space, jnp.asarray(discretise(space, weights, limits))[None], limits)[0]


@spaces
def test_limits_that_are_kept_anyhow_change_nothing(space):
    weights = jax.nn.softmax(some_logits(space).ops)
    np.testing.assert_array_equal(discretise(space, weights, (("params", 1e12),)), discretise(space, weights))


@spaces
def test_expected_costs_of_a_certain_mixture_are_its_costs(space):
    mixing = space.mixing()
    weights = jax.nn.one_hot(np.full(len(mixing.nodes), 3), len(mixing.ops))
    for name, (fixed, table) in mixing.costs.items():
        expected = fixed + (np.array(mixing.kept) * table[:, 3]).sum()
        assert float(mixing.expected(weights)[name]) == pytest.approx(expected, rel=1e-5)


def test_expected_costs_are_those_of_sampled_paths(key):
    mixing, weights = CHAIN.mixing(), jax.nn.softmax(some_logits(CHAIN).ops)
    rows = np.asarray(every(CHAIN))
    chances = np.prod(np.asarray(weights)[np.arange(4), rows], axis=1)
    for name, values in CHAIN.cost(jnp.asarray(rows)).items():
        if name == "peak_activation_bytes":  # a maximum, which is no sum over blocks
            assert name not in mixing.costs
            continue
        assert float(mixing.expected(weights)[name]) == pytest.approx(float((chances * values).sum()), rel=1e-5)
        hot = jnp.eye(4)[rows[99]]
        assert float(mixing.expected(hot)[name]) == pytest.approx(float(values[99]), rel=1e-6)


def test_costs_count_while_the_architecture_exceeds_the_limits(key):
    strategy = Differentiable(weight_decay=0.0)
    dear, cheap = (jnp.zeros((6, 5)).at[:, op].set(1.0) for op in (3, 1))
    limits = (("params", float(MINI.cost(jnp.full((1, 6), 3))["params"][0]) - 1),)

    def move(ops):
        logits = Logits(ops, jnp.zeros(6))
        optimiser = strategy.optimiser().init(logits)
        new, _ = logits_step(Rule(strategy, MINI, limits), logits, optimiser, jnp.zeros((6, 5)), key, 0.0)
        return np.asarray(new.ops - ops)

    assert (move(dear)[:, 3] < 0).all()  # the 3x3 convolution, dearest of all
    assert (move(dear)[:, 0] > 0).all()
    assert (move(cheap) == 0).all()


# Searches

# As a job's, so that its programs are these.
RECIPE = Recipe(**{**RECIPES["darts"], "batch_size": 40}, checkpoint_seconds=0.0, crop=0)
Stop = type("Stop", (Exception,), {})


def run(strategy, task, space=MINI, saved=None, stop_at=None, epochs=2, limits=(), recipe=RECIPE):
    heard = []

    def on_epoch(epoch):
        heard.append((epoch.number, epoch.encoding.tolist(), epoch.metrics["error"]))

    def on_step(step, steps, loss):
        if step == stop_at:
            raise Stop

    rule = Rule(strategy, space, limits)
    found, state = search(rule, task, recipe, seed=0, epochs=epochs, saved=saved, on_step=on_step, on_epoch=on_epoch)
    return heard, flatten(state), found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "optimiser"), [("darts", "rmsprop"), ("darts", "adamw"), ("gumbel-darts", "adamw")])
def test_weights_learn_by_other_optimisers(task, name, optimiser, tmp_path):
    how = {
        "saved": tmp_path / "search",
        "recipe": dataclasses.replace(RECIPE, optimiser=optimiser, learning_rate=0.003),
    }
    expected, state, _ = run(ALL[name], task, recipe=how["recipe"])
    with pytest.raises(Stop):
        run(ALL[name], task, stop_at=6, **how)
    heard, resumed, _ = run(ALL[name], task, **how)
    assert heard == expected[-len(heard) :]
    assert all(resumed[each].tobytes() == state[each].tobytes() for each in state)


@pytest.mark.parametrize("order", ["second", "second-finite"])
def test_a_look_ahead_by_another_optimiser_is_refused(task, order):
    with pytest.raises(UsageError, match=f"optimiser='adamw' must be 'sgd' with strategy.order='{order}', which"):
        run(Differentiable(order=order), task, recipe=dataclasses.replace(RECIPE, optimiser="adamw"))


def test_halves_are_of_the_training_split_and_apart(task):
    first, second = bilevel.halves(task, 0)
    assert sorted([*first, *second]) == list(range(len(task.train)))
    assert not np.array_equal(first, bilevel.halves(task, 1)[0])


@pytest.mark.parametrize("space", [MINI, CHAIN], ids=["nasbench201", "shufflenet"])
@pytest.mark.parametrize("name", ["darts", "gumbel-darts"])
def test_a_search_that_was_killed_ends_as_the_uninterrupted_one(task, name, space, tmp_path):
    strategy, saved = ALL[name], tmp_path / "search.safetensors"
    expected, state, _ = run(strategy, task, space)
    with pytest.raises(Stop):
        run(strategy, task, space, saved=saved, stop_at=6)
    assert saved.exists()
    heard, resumed, _ = run(strategy, task, space, saved=saved)
    assert heard == expected[-len(heard) :]
    assert all(resumed[each].tobytes() == state[each].tobytes() for each in state)
    assert (state["logits.ops"] != 0).all()


def test_a_batch_is_no_larger_than_the_half_it_is_drawn_from(task, monkeypatch):
    size, seen = len(task.train) // 2, []
    monkeypatch.setattr(bilevel, "learning_rates", lambda recipe: seen.append(recipe) or np.zeros(recipe.steps))
    with pytest.raises(Stop):
        search(Rule(ALL["darts"], MINI, ()), task, dataclasses.replace(RECIPE, batch_size=4096), seed=0, epochs=3,
               on_step=lambda *_: (_ for _ in ()).throw(Stop))  # fmt: skip
    assert [(recipe.batch_size, recipe.steps) for recipe in seen] == [(size, 3 * -(-(len(task.train) - size) // size))]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fair-darts", "snas", "pc-darts", "bats", "bnas-beihang"])
@pytest.mark.parametrize("kind", ["cells", "chain"])
def test_every_strategy_searches(task, name, kind):
    cells = SMALL if ALL[name].partial > 1 else MINI
    heard, _, found = run(ALL[name], task, CHAIN if kind == "chain" else cells)
    assert [number for number, _, _ in heard] == [0, 1]
    assert found == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"order": "second"},
        {"order": "second-finite"},
        {"auxiliary_skip": 1.0, "max_skips": 0},
        {"edges": True, "sample": "soft"},
        {"stop_growth": 1e-9},
    ],
    ids=str,
)
def test_options_search_to_their_end(task, fields):
    stops = "stop_growth" in fields
    heard, state, found = run(Differentiable(**fields), task, epochs=12 if stops else 2)
    assert (len(heard), found) == ((10, 5) if stops else (2, 1))
    assert stops == np.isfinite(state["curvature"][:10]).all()
    assert "max_skips" not in fields or all(1 not in row for _, row, _ in heard)


@pytest.fixture
def smooth(monkeypatch):
    """Where a step passes a kink the gradient jumps: so rectifiers are smooth, and pools are means. What was traced
    with others is forgotten."""
    monkeypatch.setattr(jax.nn, "relu", jax.nn.softplus)
    monkeypatch.setattr(cell_ops, "max_pool", cell_ops.mean_pool)
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.slow
@pytest.mark.usefixtures("smooth")
# The first weights of the chain are so small that the step of the differences is not, beside them. (A tenth of that
# step brings them to 6e-4.)
@pytest.mark.parametrize(("space", "close"), [(SMALL, 0.01), (CHAIN, 0.1)], ids=["cells", "chain"])
def test_differences_agree_with_the_exact_second_order_in_networks(task, space, close):
    graph, weights, statistics = split(space.supernet(jr.key(0)))
    recipe = dataclasses.replace(RECIPE, batch_size=16)
    program = Program(graph, recipe, task.kind, (task.mean, task.std), shared=False)
    data = jnp.asarray(task.train.images), jnp.asarray(task.train.labels)
    train, valid = (Batch(statistics, data, np.arange(16) + start, jr.key(1), 0) for start in (0, 16))
    state = TrainState(weights, program.optimiser().init(weights))
    mixture = jax.nn.softmax(some_logits(space).ops)
    orders = ("first", "second", "second-finite")
    first, exact, finite = (hypergradient(program, order, state, mixture, train, valid, 0.1) for order in orders)
    more = float(jnp.abs(exact - first).max())
    print("second order", more, float(jnp.abs(first).max()), float(jnp.abs(finite - exact).max()))
    np.testing.assert_allclose(finite, exact, atol=close * more)


def test_logits_rest_while_the_weights_warm_up(task):
    _, first, _ = run(Differentiable(warmup=0.9), task)
    _, moved, _ = run(Differentiable(), task)
    assert np.abs(first["logits.ops"]).max() < 5e-3  # as they were drawn
    assert np.abs(moved["logits.ops"] - first["logits.ops"]).min() > 0
    assert not first["optimiser.1.0.count"]


def test_partial_channels_go_by_and_change_places(key):
    network = SMALL.supernet(key, partial=2)
    whole = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(SMALL.supernet(key), nnx.Param)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param))) < whole
    x, nothing = jnp.arange(2 * 4 * 4 * 4.0).reshape(2, 4, 4, 4), jnp.zeros(0)

    def tenfold(x, rows, statistics, pick):
        return 10 * x[:, :: 4 // x.shape[1]], statistics

    y, _ = in_part(tenfold, 2, 1, x[:, :4], nothing, nothing, jnp.array([0.25, 0.25]))
    np.testing.assert_array_equal(y, jnp.stack([10 * x[..., 0], x[..., 2] / 2, 10 * x[..., 1], x[..., 3] / 2], -1))
    with pytest.raises(ValueError, match="partial=3 must divide width=4"):
        SMALL.supernet(key, partial=3)


# Jobs

JOB = {
    "space": {"name": "nasbench201:tiny", "width": 2},
    "strategy": "darts",
    "epochs": 2,
    "training": {"batch_size": 40, "checkpoint_seconds": 0, "crop": 0},
    "final": {"steps": 5, "batch_size": 40, "crop": 0},
    "finalists": 0,
    "baselines": 0,
}


@pytest.fixture
def given(task, tmp_path, monkeypatch):
    for module in (subject, job):
        monkeypatch.setattr(module, "load_task", lambda settings, reporter=None: task)
    return {**JOB, "store": f"sqlite:///{tmp_path / 'nas.db'}"}


# Blocks of both strides, and a limit that two of its 64 architectures keep.
BLOCKS = {"name": "shufflenet:tiny", "blocks": [1, 2], "widths": [8, 16], "strides": [1, 2], "stem_width": 8}
CHAINED = {"space": {**BLOCKS, "last_width": 16}, "strategy": "gumbel-darts", "max_macs": 26_000.0}


@pytest.mark.parametrize(
    "changed",
    [{}, CHAINED, pytest.param({**CHAINED, "strategy": "darts"}, marks=pytest.mark.slow)],
    ids=["nasbench201", "shufflenet", "all choices of shufflenet"],
)
def test_an_interrupted_job_goes_on_and_is_asked_meanwhile(given, changed):
    given |= changed
    expected = job.search({**given, "name": "whole"})
    assert all(row["macs"] <= changed.get("max_macs", np.inf) for row in expected.best)

    class Interrupt(Silent):
        def show(self, stage, done, total, remark):
            if "error" in remark:  # of an epoch that is over
                raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        job.search({**given, "name": "stopped"}, reporter=Interrupt())
    with nas.Store(given["store"]) as store:
        assert len(store.top("stopped")) == 1
    found = job.search({"store": given["store"]}, resume="stopped")
    names = ("architecture", "trial", "error", "params")
    ended, wanted = ([[row[name] for name in names] for row in outcome.best] for outcome in (found, expected))
    assert ended == wanted


COPY = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).backup(sqlite3.connect(sys.argv[2]))"


@pytest.mark.slow
def test_epochs_that_only_files_know_of_are_searched_again(given, tmp_path):
    """As after the store was restored from a copy of the time after the first epoch."""
    copy, said = tmp_path / "copy.db", []

    class Copying(Silent):
        def show(self, stage, done, total, remark):
            if "error" in remark and not copy.exists():
                subprocess.run([sys.executable, "-c", COPY, tmp_path / "nas.db", copy], check=True)

        def say(self, text):
            said.append(text)

    def found():
        with nas.Store(given["store"]) as store:
            trials = store.trials(store.run("mine").id)
        return [(trial.number, trial.encoding, trial.measurements, trial.state) for trial in trials]

    job.search({**given, "name": "mine"}, reporter=Copying())
    expected = found()
    os.replace(copy, tmp_path / "nas.db")
    assert len(found()) < len(expected)
    job.search({"store": given["store"]}, resume="mine", reporter=Copying())
    assert found() == expected
    assert [line for line in said if "is after 2 epochs, of which the store knows 1" in line] == said
    assert len(said) == 1


@pytest.mark.parametrize(
    ("changed", "says"),
    [({"run": "another"}, "its run is 'another', not"), ({"configuration": "x"}, "its configuration is 'x', not")],
)
def test_files_of_another_run_or_configuration_are_refused(given, tmp_path, changed, says):
    class Stop(Silent):
        def show(self, stage, done, total, remark):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        job.search({**given, "name": "mine"}, reporter=Stop())
    with nas.Store(given["store"]) as store:
        run = store.run("mine")
        path = store.folder(run) / "search.safetensors"
    assert run.mark["run"] == run.identity
    checkpoint.write(path, {}, {**run.mark, **changed})
    said = refusal(job.search, {"store": given["store"]}, resume="mine")
    assert f"{path} is of another training: {says}" in said


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["darts", "gumbel-darts"])
def test_killed_three_times_at_random_it_ends_as_the_uninterrupted_job(strategy, tmp_path):
    how: dict = {"cwd": tmp_path, "stderr": subprocess.DEVNULL}
    line = [sys.executable, str(Path(__file__).parent.parent / "run_search.py")]
    words = ["--space", "nasbench201:tiny", "--strategy", strategy, "--task", "digits", "--max-images", "600"]
    words += ["--epochs", "6", "--training.checkpoint-seconds", "0", "--finalists", "0", "--baselines", "0"]
    subprocess.run([*line, *words, "--name", "whole"], check=True, timeout=300, **how)
    files = {name: tmp_path / "nas.db.files" / name / "search.safetensors" for name in ("whole", "killed")}
    expected, note = checkpoint.read(files["whole"])
    for step in sorted(np.random.default_rng(0).integers(1, note["step"] - 1, 3)):
        begun = ["--resume", "killed"] if files["killed"].exists() else [*words, "--name", "killed"]
        job, deadline = subprocess.Popen([*line, *begun], **how), time.monotonic() + 200
        while not files["killed"].exists() or checkpoint.read(files["killed"])[1]["step"] < step:
            assert time.monotonic() < deadline
            assert job.poll() is None
        job.kill()
        job.wait()
        assert checkpoint.read(files["killed"])[1]["step"] < note["step"]
    subprocess.run([*line, "--resume", "killed"], check=True, timeout=300, **how)
    found, _ = checkpoint.read(files["killed"])
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in expected.items()
    }
    with nas.Store(f"sqlite:///{tmp_path / 'nas.db'}") as store:
        trials = [store.trials(store.run(name).id) for name in files]
    whole, killed = ([(t.number, t.encoding, t.measurements) for t in each] for each in trials)
    assert killed == whole


@pytest.mark.slow
def test_what_was_found_last_is_trained_beside_a_random_one(given):
    outcome = job.search({**given, "finalists": 1, "baselines": 1, "workers": 0, "max_params": 2000})
    assert [row["role"] for row in outcome.finals] == ["found", "random"]
    assert outcome.best[0]["test_error"] is not None
    with nas.Store(given["store"]) as store:
        last = store.trials(store.run("latest").id)[-1]
    assert (outcome.finals[0]["architecture"], last.number) == (last.architecture, 1)
    assert max(row["params"] for row in [*outcome.best, *outcome.finals]) <= 2000


@pytest.mark.slow
def test_what_was_found_is_trained_again(given, capsys):
    outcome = job.search({**given, "name": "first"})
    found = outcome.best[0]["architecture"]
    words = [found, "--preset", "tiny", "--epochs", "2", "--store", given["store"], "--final.batch-size", "40"]
    assert cli.main(["retrain", *words]) == 0
    assert "given" in capsys.readouterr().out
    with nas.Store(given["store"]) as store:
        run = store.run("latest")
        (trial,) = store.trials(run.id, "final")
        assert (run.strategy, trial.budget, "test_error" in trial.measurements) == ("retrain", 0, True)


REFUSED = {
    "auxiliary=0.4 needs a network of cells": {"final": {"auxiliary": 0.4}},
    "drop_path=0.2 needs a network of cells": {"final": {"drop_path": 0.2}},
    "training.drop_path=0.2 must be 0": {"training": {"drop_path": 0.2}},
    "must be 'sgd' with strategy.order='second'": {
        "strategy": {"name": "darts", "order": "second"},
        "training": {"optimiser": "adamw"},
    },
    "training.ema=0.9 must be 0": {"training": {"ema": 0.9}},
    "needs 7 or 8 pixels": {"space": "darts:tiny", "final": {"auxiliary": 0.4}},
    "is not a cell such as": {"architecture": "nothing"},
    "space=NasNet has no network that mixes operations, in which a gradient": {"space": "nasnet"},
    "partial=4 must be 1 in this space": {"strategy": "pc-darts"},
    "partial=3 must divide 16": {"space": "shufflenet:tiny", "strategy": {"name": "pc-darts", "partial": 3}},
    "max_skips=2 must be none: this space": {"space": "shufflenet:tiny", "strategy": {"name": "darts", "max_skips": 2}},
    "strategy.auxiliary_skip=1.0 must be 0: this space": {
        "space": "shufflenet:tiny",
        "strategy": {"name": "darts", "auxiliary_skip": 1.0},
    },
    "must be error": {"objectives": "error,macs"},
    "excludes every architecture": {"max_params": 1.0},
    "epochs=0 must be at least 1": {"epochs": 0},
    "did you mean 'darts'": {"strategy": "dart"},
    "prescreen='gp' needs a strategy that proposes": {"prescreen": "gp"},
    "save-predictor='mine' needs a strategy that proposes": {"save_predictor": "mine"},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_job_that_gradients_cannot_do_is_refused(given, reason, tmp_path):
    with pytest.raises(UsageError, match=reason) as caught:
        job.search({**given, **REFUSED[reason]})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())  # nothing is stored


def test_the_refusal_names_the_spaces_that_mix(given):
    with pytest.raises(UsageError) as caught:
        job.search({**given, "space": "nasnet"})
    for name in NAMES:
        mixes = {isinstance(space, Mixable) for space in presets(name).values()}
        assert mixes == {name in str(caught.value)}
