"""Every space keeps the laws of encodings, and the networks of the papers have the counts that the papers say."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from conftest import MINI, Toy
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params

from spaces import SPACES as NAMES
from spaces import base, binary_ops, cell_runs, layers, presets
from spaces.base import Space, architecture_id, feasible, fingerprint, smallest
from spaces.dense import library_conv
from spaces.depthwise import grouped_conv
from spaces.nasbench201 import NasBench201
from spaces.shufflenet import PRESETS, ShuffleNet

SPACES = {
    **{f"{name}:{preset}": space for name in NAMES for preset, space in presets(name).items()},
    "mini": MINI,
    "toy": Toy(),
    "hardly a choice": Toy((1, 3, 1)),
}
NETWORKS = {
    **{name: space for name, space in SPACES.items() if not isinstance(space, Toy)},
    "odd sizes": dataclasses.replace(MINI, image_size=7, blocks=(1, 1)),
    "one block": ShuffleNet((1,), (8,), (2,), 4, 2, 8, image_size=8, num_classes=2),
    "odd sizes of cells": NasBench201(width=4, cells=2, image_size=7, image_channels=1, num_classes=2),
}

# Presets of a kind share the code of these laws: by default they are held to the smallest of each.
LARGER = {name for name in SPACES if ":" in name and not name.endswith(":tiny")}
every_space = pytest.mark.parametrize(
    "space",
    [pytest.param(s, marks=[pytest.mark.slow] if name in LARGER else []) for name, s in SPACES.items()],
    ids=SPACES,
)
every_network = pytest.mark.parametrize("space", NETWORKS.values(), ids=NETWORKS)
light = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**31 - 1)

sample = jax.jit(base.sample, static_argnums=(0, 2))
mutate = jax.jit(base.mutate, static_argnums=(0, 3))
resample = jax.jit(base.resample, static_argnums=(0, 3))
crossover = jax.jit(base.crossover)
neighbours = jax.jit(base.neighbours, static_argnums=0)
one_hot = jax.jit(base.one_hot, static_argnums=0)
canonical = jax.jit(lambda space, rows: space.canonical(rows), static_argnums=0)
costs_of = jax.jit(lambda space, rows: space.cost(rows), static_argnums=0)


def some(space: Space, seed: int, n: int = 16):
    return jnp.asarray(np.random.default_rng(seed).integers(0, space.cardinalities, (n, len(space.cardinalities))))


def encodings(space: Space):
    return st.tuples(*(st.integers(0, size - 1) for size in space.cardinalities)).map(
        lambda row: np.array(row, np.int32)
    )


def legal(space: Space, rows) -> bool:
    rows = np.asarray(rows)
    return rows.dtype == np.int32 and bool(((rows >= 0) & (rows < np.array(space.cardinalities))).all())


def decidable(space: Space) -> int:
    return sum(size > 1 for size in space.cardinalities)


# Laws


@every_space
def test_spaces_are_values(space):
    assert isinstance(space, Space)
    again = dataclasses.replace(space)
    assert again == space
    assert hash(again) == hash(space)


@every_space
@light
@given(seed=seeds)
def test_canonical_is_idempotent(space, seed):
    once = canonical(space, some(space, seed))
    assert legal(space, once)
    np.testing.assert_array_equal(canonical(space, once), once)


@every_space
@light
@given(data=st.data())
def test_parse_reads_back_what_describe_writes(space, data):
    encoding = data.draw(encodings(space))
    found = space.parse(space.describe(encoding))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, encoding)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "()",
            "(0,1,2)",
            "(0,1,2,3,0)",
            "(0,1,2,)",
            "0 1 2 3",
            "(0;1;2;3)",
            "k3,k5,k7,x",
            "((0,1,2,3))",
            "(0,1,2,3",
            "[0,1,2,3)",
            "(0,1,2,+3)",
            "(0,1,2,0_3)",
            "(0,1,2,٣)",
        ),
        *("(0,1,2,4)", "(0,-1,2,3)", "(0,1,2,x)", "(0,1,2,1.5)", "(0,1,2,nan)", f"(0,1,2,{10**30})"),
    ],
)
def test_text_that_is_no_architecture_is_refused_with_the_reason(text):
    with pytest.raises(ValueError, match="choices") as caught:
        MINI.parse(text)
    assert repr(text) in str(caught.value)


def test_text_is_read_with_or_without_brackets_and_blanks():
    for text in ("(3,0,1,2)", "3,0,1,2", " ( 3, 0, 1, 2 ) ", "[3, 0, 1, 2]"):
        assert MINI.parse(text).tolist() == [3, 0, 1, 2]


@every_space
@light
@given(seed=seeds, data=st.data())
def test_mutation_changes_exactly_count_decisions(space, seed, data):
    count = data.draw(st.sampled_from([1, 2, decidable(space)][: decidable(space)]))
    rows = some(space, seed)
    mutants = mutate(space, jr.key(seed + 1), rows, count)
    assert legal(space, mutants)
    np.testing.assert_array_equal((np.asarray(mutants) != np.asarray(rows)).sum(1), count)


def test_mutation_reaches_every_neighbour_equally(key):
    space = Toy((2, 3, 1, 4))
    row = jnp.array([1, 2, 0, 3], jnp.int32)
    mutants = np.asarray(mutate(space, key, jnp.tile(row[None], (6000, 1))))
    found, counts = np.unique(mutants, axis=0, return_counts=True)
    assert {tuple(r) for r in found} == {tuple(r) for r in np.asarray(neighbours(space, row)).tolist()}
    # A decision is picked with probability 1/3, then one of its other choices.
    others = np.array([[2, 3, 1, 4][int(np.flatnonzero(r != row)[0])] - 1 for r in found])
    expected = 6000 / 3 / others
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


@every_space
@light
@given(seed=seeds)
def test_crossover_takes_each_decision_from_a_parent(space, seed):
    first, second = some(space, seed), some(space, seed + 1)
    children = np.asarray(crossover(jr.key(seed + 2), first, second))
    assert ((children == np.asarray(first)) | (children == np.asarray(second))).all()


def test_crossover_takes_half_of_the_decisions_from_each_parent(key):
    first, second = jnp.zeros((2000, 20), jnp.int32), jnp.ones((2000, 20), jnp.int32)
    assert float(crossover(key, first, second).mean()) == pytest.approx(0.5, abs=0.02)


@every_space
def test_resampling_is_legal_and_as_frequent_as_asked(space, key):
    rows = jnp.zeros((500, len(space.cardinalities)), jnp.int32)
    np.testing.assert_array_equal(resample(space, key, rows, 0.0), rows)
    drawn = resample(space, key, rows, 0.5)
    assert legal(space, drawn)
    expected = 0.5 * np.mean([1 - 1 / size for size in space.cardinalities])
    assert float((drawn != rows).mean()) == pytest.approx(expected, abs=0.07)


@every_space
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_neighbours_are_all_rows_at_distance_one(space, data):
    encoding = data.draw(encodings(space))
    rows = np.asarray(neighbours(space, jnp.asarray(encoding)))
    assert legal(space, rows)
    assert len(rows) == sum(size - 1 for size in space.cardinalities) == len(np.unique(rows, axis=0))
    assert ((rows != encoding).sum(1) == 1).all()


@every_space
@light
@given(seed=seeds)
def test_one_hot_round_trips(space, seed):
    rows = some(space, seed)
    hot = np.asarray(one_hot(space, rows))
    assert hot.shape == (16, sum(space.cardinalities))
    parts = np.split(hot, np.cumsum(space.cardinalities)[:-1], axis=1)
    assert all((part.sum(1) == 1).all() for part in parts)
    np.testing.assert_array_equal(np.stack([part.argmax(1) for part in parts], 1), rows)


@every_space
def test_samples_are_uniform_over_the_choices(space, key):
    n = 4000
    rows = sample(space, key, n)
    assert rows.shape == (n, len(space.cardinalities))
    assert legal(space, rows)
    for decision, size in enumerate(space.cardinalities):
        counts = np.bincount(np.asarray(rows)[:, decision], minlength=size)
        assert (np.abs(counts - n / size) < 5.5 * np.sqrt(n / size)).all()


@every_space
def test_the_canonical_architecture_costs_no_more(space):
    rows = some(space, 0, 32)
    costs, same = costs_of(space, rows), costs_of(space, canonical(space, rows))
    assert {"macs", "params"} <= costs.keys()
    for name, values in costs.items():
        assert values.shape == (32,)
        assert float(values.min()) > 0
        assert (np.asarray(same[name]) <= np.asarray(values)).all()


@every_space
def test_the_smallest_architecture_has_the_least_cost(space):
    for name in ("macs", "params"):
        rows = jnp.concatenate([jnp.asarray(smallest(space, ((name, 1.0),)))[None], some(space, 0, 500)])
        assert int(jnp.argmin(costs_of(space, rows)[name])) == 0


def test_every_limit_counts():
    rows = some(MINI, 0, 200)
    costs = {name: np.asarray(values) for name, values in costs_of(MINI, rows).items()}
    limits = tuple((name, float(np.median(values))) for name, values in costs.items())
    assert len(limits) > 2
    inside = np.all([costs[name] <= most for name, most in limits], axis=0)
    np.testing.assert_array_equal(feasible(MINI, rows, limits), inside)
    assert feasible(MINI, rows, ()).all()


# Identity

FINGERPRINTS = {"tiny": "a83813dc2ff4d79b", "small": "50a5cb65d0f19cdf", "large": "d2815f126fb074ed"}


def test_the_fingerprints_of_presets_never_change():
    assert {name: fingerprint(space) for name, space in PRESETS.items()} == FINGERPRINTS


def test_an_architecture_keeps_its_id():
    assert architecture_id(PRESETS["tiny"], np.arange(9) % 4) == "2ac5fa3c2b75"


def test_spaces_that_differ_have_different_fingerprints():
    changed = {"blocks": (1, 2), "widths": (8, 20), "last_width": 32}
    others = [dataclasses.replace(MINI, **{name: value}) for name, value in changed.items()]
    others.append(dataclasses.replace(MINI, stem_width=4, strides=(2, 2)))
    others.append(dataclasses.replace(MINI, stem_stride=1))
    prints = [fingerprint(space) for space in (*SPACES.values(), *others)]
    assert len(set(prints)) == len(prints)


def test_the_fingerprint_does_not_depend_on_the_task():
    other = dataclasses.replace(MINI, image_size=32, image_channels=3, num_classes=100, dropout=0.5)
    assert fingerprint(other) == fingerprint(MINI)


def test_architectures_have_their_own_ids():
    rows = itertools.product(*map(range, MINI.cardinalities))
    ids = {architecture_id(MINI, np.array(row)) for row in itertools.islice(rows, 64)}
    assert len(ids) == 64
    assert architecture_id(PRESETS["small"], np.zeros(20, int)) != architecture_id(
        dataclasses.replace(PRESETS["small"], last_width=512), np.zeros(20, int)
    )


def test_equal_networks_have_one_id():
    toy = Toy()
    assert architecture_id(toy, np.array([0, 2, 0, 1, 1, 1])) == architecture_id(toy, np.array([0, 0, 0, 1, 1, 1]))
    assert architecture_id(toy, np.array([1, 2, 0, 1, 1, 1])) != architecture_id(toy, np.array([1, 0, 0, 1, 1, 1]))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"blocks": (1,)}, "blocks"),
        ({"blocks": (), "widths": (), "strides": ()}, "blocks"),
        ({"blocks": (0, 3)}, "blocks"),
        ({"widths": (8, 18)}, r"widths\[1\]=18"),
        ({"widths": (8, 8)}, r"widths\[1\]=8"),
        ({"stem_width": 4}, r"widths\[0\]=8"),
        ({"stem_width": 0}, "stem_width=0"),
        ({"last_width": -1}, "last_width=-1"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_a_space_that_cannot_be_built_is_refused_with_the_field(change, field):
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(MINI, **change)


# Costs and counts of the papers. Multiply-adds at 224 pixels, parameters with affine normalisation.

SPOS = (2, 1, 0, 1, 2, 0, 2, 0, 2, 0, 2, 3, 0, 0, 0, 0, 3, 2, 3, 3)
DETNAS_300M = (2, 1, 2, 0, 2, 1, 1, 2, 3, 3, 1, 3, 0, 0, 3, 1, 3, 1, 3, 2)
DETNAS_1300M = tuple(map(int, "0031210203123320211320222131033313333333"))
DETNAS_3800M = dataclasses.replace(PRESETS["large"], stem_width=72, widths=(172, 432, 864, 1728), last_width=1728)


def cost(space, encoding) -> tuple[float, int]:
    found = costs_of(space, jnp.asarray(encoding, jnp.int32)[None])
    return float(found["macs"][0]) / 1e6, int(found["params"][0])


@pytest.mark.parametrize(
    ("encoding", "macs_millions", "params"),
    [
        (SPOS, 322.92, 3_558_464),
        ((0,) * 20, 295.84, 3_154_880),
        ((1,) * 20, 313.65, 3_211_968),
        ((2,) * 20, 340.37, 3_297_600),
        ((3,) * 20, 358.83, 3_870_816),
    ],
    ids=["found", "k3", "k5", "k7", "xception"],
)
def test_the_networks_of_spos_cost_what_the_repository_says(encoding, macs_millions, params):
    macs, found = cost(PRESETS["small"], encoding)
    assert macs == pytest.approx(macs_millions, abs=0.005)
    assert found == params


def test_the_networks_of_detnas_cost_what_the_repository_says():
    small, last_and_head = PRESETS["small"], (640 * 1024 * 7**2 + 1024 * 1000) / 1e6
    assert cost(small, DETNAS_300M)[0] == pytest.approx(321.2, abs=0.05)
    assert cost(small, DETNAS_300M)[0] - last_and_head == pytest.approx(288.1, abs=0.05)
    assert cost(dataclasses.replace(small, num_classes=0), DETNAS_300M)[0] == pytest.approx(288.1, abs=0.05)
    assert cost(PRESETS["large"], DETNAS_1300M) == (pytest.approx(1318.37, abs=0.005), 10_424_256)
    assert cost(DETNAS_3800M, DETNAS_1300M)[0] == pytest.approx(4085.9, abs=0.05)


def test_the_spaces_of_the_papers_have_their_sizes():
    assert math.prod(PRESETS["small"].cardinalities) == pytest.approx(1.0995e12, rel=1e-4)
    assert math.prod(PRESETS["large"].cardinalities) == pytest.approx(1.2089e24, rel=1e-4)


def test_random_paths_of_spos_spread_as_published(key):
    small = PRESETS["small"]
    macs = np.asarray(costs_of(small, sample(small, key, 5000))["macs"]) / 1e6
    middle = np.percentile(macs, (5, 25, 50, 75, 95))
    np.testing.assert_allclose(middle, (308, 319, 327, 335, 346), atol=1)
    np.testing.assert_allclose(np.percentile(macs, (0, 99.98)), (288, 367), atol=7)
    assert (macs <= 330).mean() == pytest.approx(0.587, abs=0.025)


# Networks


def count(module: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


@functools.cache
def built(space: ShuffleNet) -> tuple[nnx.Module, np.ndarray]:
    encoding = np.asarray(some(space, 0, 1))[0]
    return space.build(encoding, jr.key(0)), encoding


@every_network
def test_a_built_network_has_the_parameters_of_its_cost(space):
    network, encoding = built(space)
    assert count(network) == cost(space, encoding)[1]


def test_the_built_network_of_spos_has_the_published_parameters(key):
    assert count(PRESETS["small"].build(np.array(SPOS), key)) == 3_558_464


def multiply_adds(network: nnx.Module, space: ShuffleNet) -> int:
    """Of the convolutions and products in the trace of one image."""
    images = jnp.zeros((1, space.image_size, space.image_size, space.image_channels))

    def walk(jaxpr) -> int:
        total = 0
        for equation in jaxpr.eqns:
            inputs, outputs = ([v.aval.shape for v in vs] for vs in (equation.invars, equation.outvars))
            if equation.primitive.name == "conv_general_dilated":
                total += math.prod(outputs[0]) * math.prod(inputs[1][:3])
            elif equation.primitive.name == "dot_general":
                total += math.prod(outputs[0]) * inputs[1][0]
            else:
                total += sum(map(walk, jaxprs_in_params(equation.params)))
        return total

    return walk(jax.make_jaxpr(lambda x: network(x))(images).jaxpr)


@every_network
def test_a_traced_network_has_the_multiply_adds_of_its_cost(space, monkeypatch):
    monkeypatch.setattr(layers, "depthwise_conv", grouped_conv)  # which a trace shows as a convolution
    monkeypatch.setattr(binary_ops, "conv_in_groups", library_conv)
    monkeypatch.setattr(cell_runs, "LOOPED", False)
    network, encoding = built(space)
    found = np.float32(multiply_adds(network, space))
    assert found == costs_of(space, jnp.asarray(encoding)[None])["macs"][0]


def test_weights_are_a_function_of_the_key(key):
    first, again, other = (jax.tree.leaves(nnx.state(MINI.supernet(k), nnx.Param)) for k in (key, key, jr.key(1)))
    for one, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, same)
        assert (np.asarray(one) != np.asarray(different)).any()
