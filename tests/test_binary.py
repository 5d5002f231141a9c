"""Layers of one bit, and the cells that are made of them."""

import dataclasses
import itertools
import json
import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import nas
from nas.commands import cli, search
from nas.config import build
from nas.errors import UsageError
from nas.evaluators.train import check
from nas.job.chosen import with_recipes
from nas.job.subject import load_subject
from nas.tasks import load
from nas.tasks.kinds.classification import Classification
from nas.testing import check_space
from nas.training.discretise import discretise
from nas.training.net import alone, flatten, forward, split, with_real_weights
from nas.training.recipe import Recipe
from nas.training.sgd import fit
from spaces import binary_cells, published
from spaces.binary import PRESETS, Binary
from spaces.binary_ops import BinaryConv, binarised, centred, conv_in_groups, sign
from spaces.cell_pairs import EDGES, Rows
from spaces.darts import prune
from spaces.dense import library_conv
from spaces.layers import generator, shuffled
from spaces.shufflenet import PRESETS as SHUFFLENET
from strategies.differentiable import Differentiable, bats, bnas
from strategies.reducing import Reducing, given_up

TEMPLATES = ("bnas", "bats", "beihang")
light = settings(max_examples=25, deadline=None)


def small(template: str, **more) -> Binary:
    return Binary(template=template, width=4, cells=3, image_size=8, image_channels=1, num_classes=3, **more)  # pyright: ignore


def row(space: Binary) -> np.ndarray:
    return np.array([(i + 1) % size for i, size in enumerate(space.cardinalities)], np.int32)


# Layers


def test_the_sign_of_zero_is_one():
    np.testing.assert_array_equal(sign(jnp.array([-2.0, -0.0, 0.0, 1e-30, 3.0])), [-1, 1, 1, 1, 1])


@pytest.mark.parametrize(
    ("estimator", "slopes"), [("clip", [0, 1, 1, 1, 0]), ("polynomial", [0, 2 - 2 * 0.5, 2, 2 - 2 * 0.25, 0])]
)
def test_the_gradient_of_the_sign_is_estimated_by_its_formula(estimator, slopes):
    x = jnp.array([-1.5, -0.5, 0.0, 0.25, 1.01])
    flow = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0])
    found = jax.vjp(lambda x: sign(x, estimator), x)[1](flow)[0]
    np.testing.assert_allclose(found, flow * jnp.array(slopes))


def test_the_gradient_of_binarised_weights_is_that_of_the_authors_code(key):
    kernel, flow = jr.normal(key, (3, 3, 5, 4)), jr.normal(jr.fold_in(key, 1), (3, 3, 5, 4))
    value, pull = jax.vjp(binarised, kernel)
    w = np.clip(kernel - kernel.mean(2, keepdims=True), -1, 1)
    n, s = 45, np.abs(w).mean((0, 1, 2))
    signs = np.where(w >= 0, 1, -1)
    np.testing.assert_allclose(value, s * signs, rtol=1e-6)
    by_scale = (signs * np.asarray(flow)).sum((0, 1, 2)) / n
    expected = (s * (np.abs(w) <= 1) * flow + signs * by_scale) * (1 - 1 / 5) * n
    np.testing.assert_allclose(pull(flow)[0], expected, rtol=1e-4, atol=1e-5)


@light
@given(st.sampled_from(["mean", "learned", "none"]), st.sampled_from([1, 2, 4]), st.integers(0, 100))
def test_every_filter_of_one_bit_has_two_values(scale, groups, seed):
    conv = BinaryConv((3, 3), 8, 4, np.random.default_rng(seed), groups=groups, scale=scale)
    weights = np.asarray(conv.weights())
    for i in range(4):
        sizes = np.unique(np.abs(weights[..., i]))
        assert len(sizes) == 1
        if scale == "mean":
            held = np.asarray(centred(jnp.asarray(conv.kernel.get_value())))[..., i]
            np.testing.assert_allclose(sizes[0], np.abs(held).mean(), rtol=1e-6)
        else:
            assert sizes[0] == 1


@light
@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2]), st.sampled_from([1, 2]), st.integers(0, 100))
def test_groups_see_their_own_channels_alone(groups, stride, dilation, seed):
    draw = np.random.default_rng(seed)
    x = jnp.asarray(draw.normal(size=(2, 7, 6, 8)), jnp.float32)
    kernel = jnp.asarray(draw.normal(size=(3, 3, 8 // groups, 8)), jnp.float32)
    expected = library_conv(x, kernel, (stride, stride), dilation, groups)
    found = conv_in_groups(x, kernel, (stride, stride), dilation, groups)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_shuffled_channels_come_from_every_group():
    np.testing.assert_array_equal(shuffled(jnp.arange(12)[None, None, None], 4)[0, 0, 0, :4], [0, 3, 6, 9])


def test_groups_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match="groups=3 must divide width_in=8 and width_out=9"):
        BinaryConv((1, 1), 8, 9, np.random.default_rng(0), groups=3)


# Rows in which `none` is kept

KEPT = Rows(7, kept=True)


def random_cells(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, KEPT.cell, (n, len(KEPT.cell))).astype(np.int32)


def test_there_are_as_many_cells_as_published():
    assert math.prod(KEPT.cell) == 180 * 7**8
    assert math.prod(Rows(8).cell) == 1_037_664_180


def signature(cell: np.ndarray) -> tuple:
    """Of the cell as a graph: the multiset of what nodes add up, written out down to the inputs."""
    states: list = [("a",), ("b",)]
    for low, high, ops in KEPT.wiring(cell):
        edges = ((op, states[source]) for op, source in zip(ops, (low, high), strict=True) if op)
        states.append(tuple(sorted(edges, key=repr)))
    return tuple(sorted(map(repr, states[2:])))


def test_the_canonical_cell_is_equal_and_one_for_all_that_differ_in_numbers_or_in_where_nothing_comes_from():
    cells = random_cells(2000, 0)
    cells[:1000] *= np.random.default_rng(1).random(cells[:1000].shape) < 0.5  # many with `none`
    found = np.asarray(jax.jit(KEPT.first_of_equals)(jnp.asarray(cells)))
    first: dict[tuple, tuple] = {}
    for cell, canonical in zip(cells, found, strict=True):
        assert signature(cell) == signature(canonical)
        assert tuple(canonical) <= tuple(cell)
        assert first.setdefault(signature(cell), tuple(canonical)) == tuple(canonical)
    again = np.asarray(KEPT.first_of_equals(jnp.asarray(found)))
    np.testing.assert_array_equal(again, found)


@pytest.mark.parametrize("template", TEMPLATES)
def test_all_operations_with_weights_look_at_their_input_and_learn(template, key):
    """A depthwise kernel has one input channel, which less its mean were nothing."""
    space = small(template)
    x = jr.normal(key, (2, 8, 8, 4))
    for name in space.ops:
        if name in ("none", "skip_connect") or "pool" in name:
            continue
        definition, weights, rest = nnx.split(space.kit.operation(name, 4, 1, generator(key), True), nnx.Param, ...)

        def called(weights, definition=definition, rest=rest):
            return nnx.merge(definition, weights, rest, copy=True)(x, (), True)

        assert float(jnp.std(called(weights))) > 0, name
        gradients = jax.tree.leaves(jax.grad(lambda weights: (called(weights) ** 3).sum())(weights))
        assert all(bool((each != 0).any()) for each in gradients if each.ndim == 4), name


def test_none_wins_where_it_is_heaviest_and_gamma_makes_it_rarer():
    space = small("bnas")
    weights = np.full((28, 7), 0.1, np.float32)
    weights[:, 0] = 0.5
    rows = {gamma: discretise(dataclasses.replace(space, gamma=gamma), weights) for gamma in (1.0, 4.9, 5.1)}
    for gamma in (1.0, 4.9):
        assert (np.asarray(space.edge_ops(jnp.asarray(rows[gamma])[None])[0]) == 0).all()
        assert "none" in space.describe(rows[gamma])
    assert all(op != "none" for cell in space.genotype(rows[5.1]) for op, _ in cell.edges)


def test_derived_cells_follow_the_rule():
    space, weights = small("bnas"), np.random.default_rng(0).random((28, 7)).astype(np.float32)
    found = space.genotype(np.asarray(space.derive(jnp.asarray(weights))))
    for half, cell in zip(np.split(weights, 2), found, strict=True):
        for node in range(4):
            edges = [i for i, (to, _) in enumerate(EDGES) if to == node]
            best = sorted(sorted(edges, key=lambda i: -half[i].max())[:2])
            expected = tuple((space.ops[half[i].argmax()], EDGES[i][1]) for i in best)
            assert cell.edges[2 * node : 2 * node + 2] == expected


# Spaces and their networks


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_space_keeps_its_laws(template):
    check_space(small(template))


@pytest.mark.parametrize("template", TEMPLATES)
def test_costs_are_those_of_the_built_network(template, key):
    space = small(template)
    for seed in range(3):
        encoding = np.random.default_rng(seed).integers(0, space.cardinalities).astype(np.int32)
        network = space.build(encoding, key)
        held = sum(each.size for each in jax.tree.leaves(nnx.state(network, nnx.Param)))
        found = {name: float(each[0]) for name, each in space.cost(jnp.asarray(encoding)[None]).items()}
        assert found["params"] == held
        assert found["macs"] == found["bops"] + found["flops"]
        assert found["ops"] == pytest.approx(found["bops"] / 64 + found["flops"])
        convs = [each for _, each in nnx.iter_modules(network) if isinstance(each, BinaryConv)]
        assert not any(conv.real for conv in convs)
        bits = sum(conv.kernel.get_value().size for conv in convs)
        real = held - bits - sum(conv.scale.get_value().size for conv in convs if conv.scale is not None)
        rest = sum(each.size for each in jax.tree.leaves(nnx.state(network, nnx.BatchStat)))
        scales = sum(conv.kernel.get_value().shape[-1] for conv in convs)
        # Normalisation is four numbers a channel in a packed file.
        assert found["bits"] == bits + 32 * (real + scales + rest)


def test_the_published_network_has_the_published_count():
    costs = published("binary", "BNAS-A").costs
    assert costs["CIFAR-10, 36 channels, 20 cells"]["params"] == 5_578_252
    text = published("binary", "BNAS-A").description
    assert text.count("none") == 12
    np.testing.assert_array_equal(PRESETS["bnas"].parse(text), PRESETS["bnas"].parse("BNAS-A"))


def test_a_published_cell_of_darts_is_one_of_one_bit_too():
    for template in ("bats", "beihang"):
        space = small(template)
        assert "sep_conv_3x3" in space.describe(space.parse("DARTS_V2"))
    with pytest.raises(ValueError, match="'sep_conv_3x3', which is not one of none, max_pool_3x3"):
        small("bnas").parse(str(small("bats").genotype(small("bats").parse("DARTS_V2"))))


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_path_of_a_supernet_is_the_pruned_network(template, key):
    space = small(template)
    encoding, images = row(space), jr.normal(key, (4, 8, 8, 1))
    network = space.supernet(key, affine=True)
    expected = network(images, jnp.asarray(encoding), train=True)
    found = prune(space.supernet(key, affine=True), space, encoding)(images, train=True)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_cells_add_the_output_of_the_cell_before(key):
    space = small("bnas")
    nothing = np.zeros(len(space.cardinalities), np.int32)  # all operations are `none`
    images = jr.normal(key, (2, 8, 8, 1))
    with_skips, without = (
        dataclasses.replace(space, joined=joined).build(nothing, key)(images) for joined in (True, False)
    )
    # Nothing passes where cells are zeros, but for what goes by; and the first cell has nothing beside it.
    assert np.ptp(np.asarray(without), axis=0).max() == 0
    assert np.ptp(np.asarray(with_skips), axis=0).max() >= 0
    shapes = space.frame.shapes((4, 4))
    runs = space.build(nothing, key).runs
    assert [len(run.skip) for run in runs] == [int(shape.reduction and shape.first > 0) for shape in shapes]


def test_weights_are_real_in_a_search_where_the_template_says_so(key):
    for template, expected in (("bnas", {True, False}), ("bats", {True}), ("beihang", {False})):
        style = binary_cells.Style(template, real=False)
        layers = [binary_cells._fit(style, 4, 4, generator(key), False)]
        layers.append(binary_cells._operation(style, binary_cells.FORMS[template].ops[-1], 4, 1, generator(key), False))
        convs = [c for layer in layers for _, c in nnx.iter_modules(layer) if isinstance(c, BinaryConv)]
        assert {conv.real for conv in convs} == expected


def test_real_weights_first_is_another_program_over_the_same_weights(key):
    space, kind = small("bats"), Classification(3)
    graph, weights, statistics = split(alone(space, kind, row(space), key))
    real = with_real_weights(graph, weights, statistics)
    assert real != graph
    images = jr.normal(key, (2, 8, 8, 1))
    one_bit, as_they_are = (forward(each, weights, statistics, images, (), train=True)[0] for each in (graph, real))
    assert not np.allclose(one_bit, as_they_are, atol=1e-3)
    assert with_real_weights(real, weights, statistics) == real
    assert flatten(weights).keys() == flatten(split(alone(space, kind, row(space), key))[1]).keys()


def test_a_gamma_below_one_is_refused():
    with pytest.raises(ValueError, match=r"gamma=0.5 must be at least 1"):
        Binary(gamma=0.5)


# The strategy


def test_diversity_is_the_mean_entropy_and_falls_with_the_epochs(key):
    space = small("bnas")
    mixing, strategy = space.mixing(), bnas()
    logits = strategy.init(key, mixing)
    logits = logits.replace(ops=jr.normal(key, logits.ops.shape))
    shares = np.asarray(jax.nn.softmax(logits.ops))
    entropy = -(shares * np.log(shares)).sum(1).mean()
    assert len(shares) == 28
    for epoch in (0, 10, 49):
        expected = -entropy * math.exp(-epoch / 7.7)
        assert float(strategy.penalty(logits, mixing, epoch / 49)) == pytest.approx(expected, rel=1e-5)
    assert float(Differentiable().penalty(logits, mixing, 0.0)) == 0


def test_a_sharper_softmax_is_that_of_larger_logits(key):
    mixing = small("bats").mixing()
    logits = bats().init(key, mixing)
    logits = dataclasses.replace(logits, ops=jr.normal(key, logits.ops.shape))
    np.testing.assert_allclose(bats().weights(logits, mixing), jax.nn.softmax(logits.ops / 0.2), rtol=1e-5)


def test_diversity_needs_operations_that_compete():
    with pytest.raises(ValueError, match=r"diversity=1\.0 needs gate='softmax'"):
        Differentiable(gate="sigmoid", diversity=1.0)


def test_mixtures_of_one_bit_cost_what_their_paths_cost():
    space = small("bnas")
    mixing, encodings = space.mixing(), np.stack([row(space), np.zeros(len(space.cardinalities), np.int32)])
    ops = np.asarray(space.edge_ops(jnp.asarray(encodings)))
    for i, (name, (fixed, table)) in itertools.product(range(2), mixing.costs.items()):
        total = fixed + table[np.arange(len(EDGES) * 2), ops[i]].sum()
        assert float(space.cost(jnp.asarray(encodings))[name][i]) == pytest.approx(float(total))


# Operations given up one by one


def test_an_edge_gives_up_one_operation_a_cycle_and_keeps_one():
    space, strategy, epochs = small("beihang"), Reducing(partial=1), 21
    mixing = space.mixing()
    logits = strategy.init(jr.key(0), mixing)
    counts, sampled = [], []
    for epoch in range(epochs):
        sampled.append(float(logits.sampled.sum()))
        assert (np.asarray(logits.sampled) <= np.asarray(logits.left)).all()
        logits = strategy.after_epoch(logits, mixing, epoch, epochs, 0.5, jr.key(epoch))
        counts.append(set(np.asarray(logits.left.sum(1)).astype(int).tolist()))
    assert counts == [{8 - (epoch + 1) // 3} for epoch in range(epochs)]
    assert sampled == [28, 28, 0] * 7  # of three epochs two have a sampled network
    shares = np.asarray(strategy.weights(logits, mixing))
    assert ((shares > 0).sum(1) == 1).all()


@light
@given(st.integers(1, 40), st.integers(0, 10))
def test_however_many_epochs_there_are_one_operation_is_left(epochs, seed):
    mixing, strategy = small("bats").mixing(), Reducing(partial=1)
    logits = strategy.init(jr.key(seed), mixing)
    for epoch in range(epochs):
        logits = strategy.after_epoch(logits, mixing, epoch, epochs, 0.1, jr.key(seed + epoch))
    assert (np.asarray(logits.left).sum(1) == 1).all()


def test_what_is_given_up_has_the_least_of_accuracy_and_logits():
    mixing, strategy = small("beihang").mixing(), Reducing(partial=1)
    logits = strategy.init(jr.key(0), mixing)
    errors = np.full((28, 8), 0.3, np.float32)
    errors[:, 5], errors[:, 2] = 0.9, 0.35
    ops = np.zeros((28, 8), np.float32)
    tried = jnp.ones((28, 8))
    state = dataclasses.replace(logits, errors=jnp.asarray(errors), tried=tried, ops=jnp.asarray(ops))
    assert (np.asarray(given_up(state).left)[:, 5] == 0).all()
    ops[:, 2] = -5.0
    state = dataclasses.replace(state, ops=jnp.asarray(ops))
    assert (np.asarray(given_up(state).left)[:, 2] == 0).all()


def test_a_mixture_of_a_sampled_network_is_one_hot_and_has_gradients(key):
    mixing, strategy = small("beihang").mixing(), Reducing(partial=1)
    logits = strategy.init(key, mixing)
    found = np.asarray(strategy.mixture(logits, mixing, key, 0.0))
    np.testing.assert_array_equal(found, np.asarray(logits.sampled))
    weights = jr.normal(key, found.shape)
    gradient = jax.grad(lambda logits: (strategy.mixture(logits, mixing, key, 0.0) * weights).sum())(logits)
    assert (np.asarray(gradient.ops) != 0).all()
    for held in (gradient.left, gradient.errors, gradient.tried, gradient.sampled):
        assert not np.asarray(held).any()
    updates, _ = strategy.optimiser().update(gradient, strategy.optimiser().init(logits), logits)
    assert not np.asarray(updates.left).any()
    assert np.asarray(updates.ops).all()


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_same_cells_with_real_weights_have_no_operations_of_bits(template, key):
    space = small(template, real=True)
    network = space.build(row(space), key)
    held = sum(each.size for each in jax.tree.leaves(nnx.state(network, nnx.Param)))
    found = {name: float(each[0]) for name, each in space.cost(jnp.asarray(row(space))[None]).items()}
    one_bit = {name: float(each[0]) for name, each in small(template).cost(jnp.asarray(row(space))[None]).items()}
    assert found["params"] == held == one_bit["params"]
    assert found["bops"] == 0
    assert found["flops"] == found["macs"] == found["ops"] == one_bit["macs"]
    convs = [each for _, each in nnx.iter_modules(network) if isinstance(each, BinaryConv)]
    assert all(conv.real and not conv.signs for conv in convs)


# Searches

QUICK = ("--final.steps", "20", "--final.batch-size", "16", "--workers", "0", "--finalists", "1", "--baselines", "0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "strategy", "more"),
    [
        ("tiny", "bnas", ("--epochs", "2")),
        ("tiny", "gumbel-darts", ("--epochs", "2")),
        ("tiny", "bnas-beihang", ("--epochs", "2", "--space.template", "beihang")),
        ("tiny", "bats", ("--epochs", "2", "--space.template", "bats")),
        ("tiny", "evolution", ("--trials", "4", "--strategy.population-size", "4", "--training.steps", "5")),
    ],
)
def test_a_search_from_the_command_line_ends_with_a_network_of_one_bit(space, strategy, more, tmp_path, capsys):
    url = f"sqlite:///{tmp_path / 'nas.db'}"
    given = ["--space", f"binary:{space}", "--strategy", strategy, "--name", "a", "--store", url, "--max-images", "400"]
    assert search.main([*given, "--training.batch-size", "64", *more, *QUICK]) == 0
    capsys.readouterr()
    assert cli.main(["top", "a", "--format", "json", "--store", url]) == 0
    rows = json.loads(capsys.readouterr().out)
    best = next(row for row in rows if row["test_error"] is not None)  # what is found is not always the first
    assert best["ops"] == pytest.approx(best["bops"] / 64 + best["flops"], rel=1e-6)
    assert cli.main(["export", best["architecture"], "--packed", "--out", str(tmp_path / "net"), "--store", url]) == 0
    images = np.zeros((3, 8, 8, 1), np.uint8)
    assert nas.load(tmp_path / "net").predict(images).shape == (3, 10)


class Killed(Exception):
    pass


@pytest.mark.slow
def test_a_training_in_two_steps_that_was_killed_ends_as_if_it_had_not_been(tmp_path, key):
    """In either of them."""
    task = load("digits", max_images=200)
    space = dataclasses.replace(small("bats"), num_classes=10)
    recipe = Recipe(steps=12, batch_size=16, real_weights=0.5, clip_weights=1.0, checkpoint_seconds=0.0)
    made = split(alone(space, task.kind, row(space), key))
    whole = fit(*made, task, recipe, seed=0)
    for at in (3, 9):
        saved = tmp_path / f"{at}.safetensors"

        def kill(step: int, loss: float, at: int = at) -> None:
            if step >= at:
                raise Killed

        with pytest.raises(Killed):
            fit(*made, task, recipe, seed=0, saved=saved, on_step=kill)
        again = fit(*made, task, recipe, seed=0, saved=saved)
        for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
            np.testing.assert_array_equal(one, other)
    least = max(float(jnp.abs(each).max()) for each in jax.tree.leaves(whole) if each.ndim > 1)
    assert least <= 1


def test_real_weights_are_for_networks_of_one_bit():
    with pytest.raises(UsageError, match=r"final.real_weights=0.5 needs a network of one bit: binary, binary-width"):
        check(SHUFFLENET["tiny"], Recipe(real_weights=0.5))
    check(small("bats"), Recipe(real_weights=0.5))


def test_recipes_of_the_space_are_defaults_that_a_user_overrides():
    given = {"space": "binary:bats", "strategy": "bnas", "training": {"learning_rate": 0.5}}
    found = with_recipes(build(given), given, load_subject(build(given), "binary"))
    assert (found.training.optimiser, found.training.learning_rate, found.training.nesterov) == ("adamw", 0.5, False)
    assert (found.final.optimiser, found.final.real_weights, found.final.clip_weights) == ("adamw", 0.5, 1.0)
