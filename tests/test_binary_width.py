"""Widths of networks of one bit: published counts, and one network by path and alone."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from conftest import RECIPE
from flax import nnx

from nas.commands import cli, search
from nas.tasks.kinds.classification import Classification, cross_entropy
from nas.training.net import forward, split
from nas.training.sgd import Program, train_step
from spaces import published
from spaces.base import smallest
from spaces.binary_ops import BinaryConv, binarised
from spaces.binary_width import FOUND, PRESETS, PUBLISHED, BinaryWidth, prune
from spaces.shared import put, select
from spaces.sliced import Slices

MINI = {
    "vgg": BinaryWidth("vgg-small", (4, 4, 6, 6, 8, 8), (0.5, 1.0, 1.5), image_size=6, image_channels=1, num_classes=3),
    "resnet": BinaryWidth("resnet-18", (4, 4, 8, 8), (0.5, 1.0, 2.0), image_size=8, image_channels=1, num_classes=3),
}
VGG = MINI["vgg"]

# Published counts, and those of the definition: multiply-adds of two bits, others, operations, weights of one bit.

COUNTS = {
    "ResNet-18": (1_695_547_392, 118_525_952, 0.1450e9, 11.158e6),
    "(2,2,2,2,2,2,2,2,2,2,2,2)": (6.782e9, 237.1e6, 0.3430e9, 44.630e6),
    "Res18-Auto-A": (15.851e9, 237.1e6, 0.4847e9, 94.339e6),
    "Res18-Auto-B": (18.638e9, 355.6e6, 0.6468e9, 113.893e6),
    "VGG-small": (603_979_776, 3_620_864, 0.01306e9, 4_571_136),
    "VGG-Auto-A": (603_979_776, 1_810_432, 0.01125e9, 3_686_400),
    "VGG-Auto-B": (3_321_888_768, 7_118_848, 0.05902e9, 21_823_488),
    "Bi-Real-18": (1_676_279_808, 137_793_536, 1.640e8, None),
    "Bi-Real-34": (3_525_967_872, 137_793_536, 1.929e8, None),
}


def near(found: float, said: float) -> bool:
    """Whole numbers are said exactly, others to four digits."""
    return found == said if isinstance(said, int) else math.isclose(found, said, rel_tol=5e-4)


@pytest.mark.parametrize("name", COUNTS)
def test_published_networks_have_the_published_counts(name):
    bops, flops, ops, binary = COUNTS[name]
    (found,) = published("binary-width", name).costs.values()
    assert near(found["bops"], bops)
    assert near(found["flops"], flops)
    assert near(found["ops"], ops)
    assert found["ops"] == found["bops"] / 64 + found["flops"]
    assert found["macs"] == found["bops"] + found["flops"]
    if binary is not None:
        assert near(_weights(name), binary)


def _weights(name: str) -> int:
    """Weights of one bit."""
    backbone = FOUND[name].backbone if name in FOUND else "resnet-18"
    space = PRESETS["imagenet" if backbone == "resnet-18" else "vgg-small"]
    taken = [sizes[i] for sizes, i in zip(space.choices, space.parse(name), strict=True)]
    layers = [layer for layer in space.form.layers() if layer.binary]
    return sum(layer.counts(taken[layer.source or 0], taken[layer.target or 0]).binary_weights for layer in layers)


@pytest.mark.parametrize("name", FOUND)
def test_costs_of_rows_are_the_published_counts_rounded_once(name):
    space = PRESETS["imagenet" if FOUND[name].backbone == "resnet-18" else "vgg-small"]
    (exact,) = published("binary-width", name).costs.values()
    found = jax.jit(space.cost)(jnp.asarray(space.parse(name))[None])
    assert found.keys() == exact.keys() == {"macs", "params", "bops", "flops", "ops", "bits"}
    for cost, value in exact.items():
        assert float(found[cost][0]) == np.float32(value), cost


@pytest.mark.parametrize("name", MINI)
def test_a_built_network_has_the_size_in_bits_of_its_cost(name, key):
    space = MINI[name]
    row = np.arange(len(space.cardinalities)) % 3
    network = space.build(row, key)
    kernels = [part.kernel.get_value() for _, part in nnx.iter_modules(network) if isinstance(part, BinaryConv)]
    norms = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.BatchStat))) // 2
    params = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    binary, filters = sum(kernel.size for kernel in kernels), sum(kernel.shape[-1] for kernel in kernels)
    real = params - binary - 2 * norms
    cost = space.cost(jnp.asarray(row)[None])
    assert cost["bits"][0] == binary + 32 * (real + filters) + 128 * norms
    assert cost["params"][0] == params


def test_what_is_published_is_shown_with_the_formula_of_its_operations(capsys):
    for name in PUBLISHED:
        assert cli.main(["show", f"binary-width:{name}"]) == 0
        assert "ops = bops / 64 + flops" in capsys.readouterr().out
    assert cli.main(["show", "binary-width:Bi-Real-18", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["flops"] == 137_793_536
    for text in ("Bi-Real-50", "a,b", "(1,2,3)", "(9,9,9,9,9,9)", "(1,,1)"):
        assert cli.main(["show", f"binary-width:{text}"]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


# Encodings and fields


@pytest.mark.parametrize("name", FOUND)
def test_published_ratios_are_read_by_name_and_by_text(name):
    space = PRESETS["imagenet" if FOUND[name].backbone == "resnet-18" else "vgg-small"]
    row = space.parse(name)
    assert tuple(space.ratios[i] for i in row) == FOUND[name].genes
    for text in (space.describe(row), space.describe(row).strip("()"), str(list(FOUND[name].genes))):
        np.testing.assert_array_equal(space.parse(text), row)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("VGG-Auto-C", "not a list of ratios"),
        ("Res18-Auto-A", "backbone='resnet-18'"),
        ("(1,1,1)", "must have 6 ratios, not 3"),
        ("(1,1,1,1,1,0.7)", "has the ratio 0.7"),
        ("(1,1,1,1,1,)", "not a list of ratios"),
        ("(1,1,1,1,1,1e0)", "not a list of ratios"),
        ("(1,1,1,1,1,.)", "not a list of ratios"),
        ("(1,1,1,1,1,-1)", "not a list of ratios"),
    ],
)
def test_text_that_is_no_architecture_is_refused_with_the_reason(text, said):
    with pytest.raises(ValueError, match=said):
        VGG.parse(text)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"backbone": "resnet-34"}, "backbone='resnet-34' must be one of"),
        ({"backbone": "vgg-small"}, "must be 6 numbers"),
        ({"widths": (8, 16, 32, 0)}, "of at least 1"),
        ({"ratios": (1.0, 0.5)}, "each larger than the last"),
        ({"ratios": (1.0, 1.0)}, "each larger than the last"),
        ({"ratios": (0.0, 1.0)}, "must be positive"),
        ({"ratios": ()}, "must be positive"),
        ({"ratios": (0.3, 1.0)}, "must be whole numbers"),
        ({"image_size": 0}, "image_size=0"),
    ],
)
def test_fields_that_make_no_space_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        BinaryWidth(**fields)
    with pytest.raises(ValueError, match="large_stem"):
        BinaryWidth("vgg-small", VGG.widths, large_stem=True)


def test_the_narrowest_network_costs_least():
    for space in MINI.values():
        assert not smallest(space, (("ops", 1.0),)).any()


@pytest.mark.parametrize("name", MINI)
def test_a_body_gives_the_maps_that_its_space_says(name, key):
    space = BinaryWidth(**{**vars(MINI[name]), "num_classes": 0})
    row = np.arange(len(space.cardinalities)) % 3
    said = space.map_shapes()[int(space.map_kinds(jnp.asarray(row)[None])[0])]
    maps = space.build(row, key)(jnp.zeros((1, space.image_size, space.image_size, 1)))
    assert tuple(each.shape[1:] for each in maps) == said


# One network by path and alone


def test_bits_of_channels_that_are_there_are_those_of_a_narrower_kernel(key):
    kernel, flow = jr.normal(key, (2, 3, 3, 7, 5))
    there = jnp.arange(7) < 4
    found, pull = jax.vjp(lambda kernel: binarised(kernel, there), kernel)
    alone, pull_alone = jax.vjp(binarised, kernel[:, :, :4])
    for whole, part in ((found, alone), (pull(flow)[0], pull_alone(flow[:, :, :4])[0])):
        np.testing.assert_allclose(whole[:, :, :4], part, rtol=2e-5, atol=1e-6)
        assert not np.asarray(whole[:, :, 4:]).any()


@functools.partial(jax.jit, static_argnums=0)
def measure(graph, weights, statistics, images, labels, path):
    def loss(weights):
        logits, left = forward(graph, weights, statistics, images, path, train=True)
        return cross_entropy(logits, labels), (logits, left)

    gradient, (trained, left) = jax.grad(loss, has_aux=True)(weights)
    evaluated, _ = forward(graph, weights, left, images, path, train=False)
    return {"train": trained, "eval": evaluated, "statistics": left, "gradient": gradient}


@functools.cache
def supernet(name: str):
    """With scales and biases, all of them away from 1 and 0."""
    graph, weights, statistics = split(MINI[name].supernet(jr.key(1), affine=True))
    draw = np.random.default_rng(0)
    return graph, jax.tree.map(lambda w: w + 0.1 * draw.standard_normal(w.shape, np.float32), weights), statistics


def batch(space: BinaryWidth):
    key_images, key_labels = jr.split(jr.key(2))
    images = jr.normal(key_images, (6, space.image_size, space.image_size, 1))
    return images, jax.nn.one_hot(jr.randint(key_labels, (6,), 0, 3), 3)


def sliced(name: str, weights, statistics, row) -> nnx.Module:
    whole = nnx.merge(supernet(name)[0].definition, weights, statistics, copy=True)
    return prune(whole, MINI[name].build(np.array(row), jr.key(3)))


def all_close(found, expected) -> None:
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * float(np.abs(other).max()))


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("vgg", (0, 1, 2, 0, 1, 2)),
        pytest.param("vgg", (2, 2, 2, 2, 2, 2), marks=pytest.mark.slow),
        pytest.param("resnet", (1, 0, 2, 1, 2, 0, 1, 2, 0, 1, 1, 0), marks=pytest.mark.slow),
    ],
)
def test_a_path_is_the_network_of_the_first_channels(name, row):
    graph, weights, statistics = supernet(name)
    space = MINI[name]
    found = measure(graph, weights, statistics, *batch(space), jnp.array(row, jnp.int32))
    alone = measure(*split(sliced(name, weights, statistics, row)), *batch(space), ())
    for part in ("train", "eval"):
        np.testing.assert_allclose(found[part], alone[part], rtol=1e-4, atol=1e-5)
    left = nnx.state(sliced(name, weights, found["statistics"], row), nnx.BatchStat)
    all_close(left, alone["statistics"])
    all_close(nnx.state(sliced(name, found["gradient"], statistics, row), nnx.Param), alone["gradient"])
    gradient = found["gradient"]
    off = put(gradient, jax.tree.map(jnp.zeros_like, select(gradient, jnp.array(row))), jnp.array(row))
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(off))


def test_one_program_serves_every_path():
    graph, weights, statistics = supernet("vgg")
    images, _ = batch(VGG)
    program = jax.jit(lambda path: forward(graph, weights, statistics, images, path, train=True)[0])
    logits = [program(jnp.array(row, jnp.int32)) for row in ((0,) * 6, (1,) * 6, (2, 0, 2, 0, 2, 0))]
    assert program._cache_size() == 1
    assert not np.allclose(logits[0], logits[1])


@pytest.mark.parametrize("optimiser", ["sgd", pytest.param("adamw", marks=pytest.mark.slow)])
def test_what_is_off_the_path_keeps_its_bits(optimiser):
    """Weights and the optimiser's state, also with momentum, decay and an average of the weights."""
    graph, weights, statistics = supernet("vgg")
    recipe = {**vars(RECIPE), "optimiser": optimiser, "momentum": 0.9, "weight_decay": 0.1, "ema": 0.9, "clip": 1.0}
    program = Program(graph, type(RECIPE)(**recipe), Classification(3), ((0.0,), (1.0,)), shared=True)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 255, (8, 6, 6, 1)), jnp.uint8)
    data, indices = (images, jnp.arange(8) % 3), jnp.arange(8)
    wide, narrow = (jnp.full(6, choice, jnp.int32) for choice in (2, 0))

    def step(state, path):
        copied = jax.tree.map(jnp.array, state)  # which the step takes
        return train_step(program, copied, statistics, data, indices, path, 0.1, jr.key(0), 0)[0]

    before = step(program.begin(weights), wide)  # so that there is momentum everywhere
    after = step(before, narrow)
    pieces = [jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, Slices)) for tree in (before, after)]
    shared = [(one, other) for one, other in zip(*pieces, strict=True) if isinstance(one, Slices)]
    assert len(shared) >= 3 * len(jax.tree.leaves(weights))
    for one, other in shared:
        on, old, new = np.asarray(one.on(narrow)), np.asarray(one.get_value()), np.asarray(other.get_value())
        assert 0 < on.mean() < 1
        np.testing.assert_array_equal(old[~on], new[~on])
        assert (old[on] != new[on]).mean() > 0.2


# Searches

SMALL = ("--space.backbone", "vgg-small", "--space.widths", "(4,4,8,8,8,8)", "--space.ratios", "(0.5,1,2)")


@pytest.mark.parametrize("words", [SMALL, pytest.param((), marks=pytest.mark.slow)], ids=["small", "default preset"])
def test_a_search_from_the_command_line_keeps_a_limit_on_multiply_adds_of_bits(words, tmp_path, capsys):
    url = f"sqlite:///{tmp_path / 'nas.db'}"
    space = BinaryWidth("vgg-small", (4, 4, 8, 8, 8, 8), (0.5, 1.0, 2.0), image_size=8) if words else PRESETS["tiny"]
    rows = np.random.default_rng(0).integers(0, space.cardinalities, (200, len(space.cardinalities)))
    most = int(np.median(space.cost(jnp.asarray(rows))["bops"]))
    given = ["--space", "binary-width", *words, "--limit", f"bops <= {most}", "--objectives", "error,ops"]
    given += ["--strategy", "nsga2", "--strategy.population-size", "4", "--trials", "8", "--workers", "0"]
    assert search.main([*given, "--training.steps", "3", "--final.steps", "3", "--name", "a", "--store", url]) == 0
    capsys.readouterr()
    assert cli.main(["top", "a", "--by", "ops", "--format", "json", "--store", url]) == 0
    trials = json.loads(capsys.readouterr().out)
    assert len(trials) >= 8
    assert all(row["bops"] <= most and row["ops"] == row["bops"] / 64 + row["flops"] for row in trials)
