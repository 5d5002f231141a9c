"""NASNet: counts, notation, equal cells, combiners, and its scheduled drop path."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.base import architecture_id, fingerprint
from spaces.cell_ops import SKIP
from spaces.cell_runs import Drop
from spaces.fixed_cells import Fixed, genotype_cost
from spaces.genotype import PUBLISHED as IN_DARTS
from spaces.genotype import Cell
from spaces.layers import generator
from spaces.nasnet import OPS, PRESETS, PUBLISHED, NasNet

CIFAR = PRESETS["cifar"]
SMALL = NasNet(width=4, cells=3, stem_multiplier=1, image_size=8, image_channels=1, num_classes=3)

rows_of = st.tuples(*(st.integers(0, size - 1) for size in SMALL.cardinalities)).map(lambda r: np.array(r, np.int32))
light = settings(max_examples=25, deadline=None)
canonical, costs_of = jax.jit(SMALL.canonical), jax.jit(SMALL.cost)


def count(module: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def some(n: int, seed: int = 0) -> np.ndarray:
    size = SMALL.cardinalities
    return np.random.default_rng(seed).integers(0, size, (n, len(size))).astype(np.int32)


def test_the_space_has_as_many_cells_as_published():
    sizes = CIFAR.cardinalities
    assert len(sizes) == 50  # the softmaxes of the controller
    assert math.prod(sizes[:25]) == pytest.approx(2.287e18, rel=1e-3)
    assert math.prod(sizes) == pytest.approx(5.230e36, rel=1e-3)
    assert math.prod(size for i, size in enumerate(sizes[:25]) if i % 5 < 4) == pytest.approx(7.147e16, rel=1e-3)
    assert len(OPS) == 13


def test_the_identity_of_the_published_space_never_changes():
    row = CIFAR.parse("NASNet-A")
    assert fingerprint(CIFAR) == "2c68ad079872b848"
    assert architecture_id(CIFAR, row) == "02c49754cd01"


def test_nasnet_a_is_the_one_that_darts_prints():
    found = CIFAR.genotype(CIFAR.parse("NASNet-A"))
    assert found == IN_DARTS["NASNet"]
    assert 3.0e6 < genotype_cost(CIFAR.frame, found)["params"] < 3.4e6  # the paper says 3.3M, with more states joined


@light
@given(row=rows_of)
def test_rows_are_read_back(row):
    np.testing.assert_array_equal(SMALL.parse(SMALL.describe(row)), row)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("add(sep_conv_5x5~1", "mul(sep_conv_5x5~1"), "two cells of 5 blocks"),
        (("add(sep_conv_5x5~1", "add(sep_conv_9x9~1"), "operation 'sep_conv_9x9'"),
        (("add(sep_conv_5x5~1", "add(sep_conv_5x5~2"), "state 2 in block 0"),
        (("normal:", "formal:"), "two cells"),
        (("; reduce:", "; and more; reduce:"), "two cells"),
    ],
)
def test_text_that_is_no_cell_is_refused_with_the_reason(change, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        SMALL.parse(PUBLISHED["NASNet-A"].replace(*change, 1))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("field", ["width", "cells", "stem_multiplier", "image_size"])
def test_a_space_that_cannot_be_built_is_refused_with_the_field(field):
    with pytest.raises(ValueError, match=f"{field}=0"):
        NasNet(**{field: 0})


def test_a_shared_network_is_refused_with_the_reason(key):
    with pytest.raises(ValueError, match="no shared network"):
        SMALL.supernet(key)


@light
@given(row=rows_of, seed=st.integers(0, 2**31 - 1))
def test_the_order_of_a_blocks_operations_does_not_matter(row, seed):
    blocks = row.reshape(10, 5).copy()
    turn = np.random.default_rng(seed).integers(0, 2, 10) == 1
    blocks[turn] = blocks[turn][:, [1, 0, 3, 2, 4]]
    one, other = np.asarray(canonical(jnp.array([row, blocks.ravel()])))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(canonical(jnp.asarray(one)[None])[0], one)


def test_costs_are_those_of_the_built_networks(key):
    rows = some(40)
    found = {name: np.asarray(values) for name, values in costs_of(jnp.asarray(rows)).items()}
    for i, row in enumerate(rows):
        expected = genotype_cost(SMALL.frame, SMALL.genotype(row))
        assert {name: values[i] for name, values in found.items()} == expected
    for row, params in zip(rows[:4], found["params"], strict=False):
        assert count(SMALL.build(row, key)) == params


def test_what_no_block_takes_is_the_output():
    for row in some(50):
        for cell in SMALL.genotype(row):
            taken = {state for _, state in cell.edges}
            assert set(cell.concat) == set(range(7)) - taken
            assert 6 in cell.concat


@pytest.mark.parametrize("reduction", [False, True])
def test_combiners_add_or_join(key, reduction):
    edges = ((SKIP, 1), (SKIP, 1)) * 5
    x, y = jr.normal(key, (2, 3, 8, 8, 4))
    cell = Fixed(Cell(edges, (0, 2, 6), joined=(4,)), 4, reduction, generator(key))
    out = cell(x, y, True, None)
    assert out.shape == (3, 4, 4, 12) if reduction else (3, 8, 8, 12)
    if not reduction:
        np.testing.assert_array_equal(out[..., :4], x)
        np.testing.assert_allclose(out[..., 4:8], 2 * y, rtol=1e-6)
        fitted = cell.fits[0](jnp.concatenate([y, y], -1), (), True)
        np.testing.assert_allclose(out[..., 8:], fitted, rtol=1e-5)


def test_a_network_gives_logits_and_has_a_gradient(key):
    row = some(1)[0]
    row.reshape(10, 5)[:, 2:4] = OPS.index("conv_1x1")
    network = SMALL.build(row, key)
    graph, weights, rest = nnx.split(network, nnx.Param, ...)

    def loss(weights, drop):
        logits = nnx.merge(graph, weights, rest, copy=True)(jnp.ones((2, 8, 8, 1)), train=True, key=key, drop_path=drop)
        return (logits**2).sum(), logits

    gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(weights, 0.3)
    assert logits.shape == (2, 3)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_the_scheduled_drop_path_rises_with_depth(key):
    drop = Drop(key, 0.4, cells=20)
    assert [float(drop.in_cell(i).probability) for i in (0, 9, 19)] == pytest.approx([0.02, 0.2, 0.4])
    assert float(Drop(key, 0.4).in_cell(3).probability) == 0.4
    assert SMALL.build(some(1)[0], key).drop_cells == 3
