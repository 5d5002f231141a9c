"""What is computed on bfloat16 images is computed in float32, and rounded once: statistics, sums, logits."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from conftest import MINI
from flax import nnx

from nas.training.net import forward, split
from spaces.cell_ops import mean_pool
from spaces.darts import Darts
from spaces.depthwise import _shifted, grouped_conv
from spaces.layers import BatchNorm
from spaces.nasbench201 import NasBench201
from spaces.single_path import Choice

HALF = jnp.bfloat16
ROUNDING = 2.0**-8  # of a number in bfloat16, relatively


def exactly(x):
    return np.asarray(x, np.float32)


def near(found, expected, roundings=1.0):
    found, expected = exactly(found), exactly(expected)
    np.testing.assert_allclose(found, expected, rtol=roundings * ROUNDING, atol=roundings * ROUNDING / 100)


@pytest.mark.parametrize("affine", [False, True])
def test_images_far_from_0_are_evaluated_by_statistics_in_float32(key, affine):
    x = (100 + jr.normal(key, (16, 5, 5, 3))).astype(HALF)
    norm = BatchNorm(3, affine=affine)
    if affine:
        norm.scale.set_value(jnp.array([1.3, 0.7, -2.1]))
        norm.bias.set_value(jnp.array([0.3, -5.0, 90.0]))
    trained = norm(x, train=True)
    evaluated = norm(x, train=False)
    assert trained.dtype == evaluated.dtype == HALF
    near(evaluated, norm(x.astype(jnp.float32), train=False))
    np.testing.assert_allclose(exactly(trained), exactly(evaluated), rtol=2 * ROUNDING, atol=3 * ROUNDING)


def test_the_gradient_of_scales_is_summed_in_float32(key):
    key_images, key_flow = jr.split(key)
    x, norm = jr.normal(key_images, (32, 16, 16, 2)).astype(HALF), BatchNorm(2, affine=True)
    flow = (1 + jr.normal(key_flow, x.shape)).astype(HALF)
    graph, weights, statistics = nnx.split(norm, nnx.Param, nnx.BatchStat)

    def gradient(x, flow):
        return jax.grad(lambda w: (nnx.merge(graph, w, statistics)(x, False) * flow).sum())(weights)

    found, expected = gradient(x, flow), gradient(x.astype(jnp.float32), flow.astype(jnp.float32))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_sums_of_windows_are_rounded_once(key):
    key_images, key_kernel, key_flow = jr.split(key, 3)
    x, kernel = (1 + jr.normal(key_images, (2, 9, 9, 3))).astype(HALF), jr.normal(key_kernel, (7, 7, 3)).astype(HALF)
    exact = x.astype(jnp.float32), kernel.astype(jnp.float32)
    np.testing.assert_array_equal(mean_pool(x, 3), mean_pool(exact[0], 3).astype(HALF))
    found, pull = jax.vjp(lambda *args: _shifted(*args, 1), x, kernel)
    expected, exact_pull = jax.vjp(grouped_conv, *exact)
    near(found, expected)
    flow = jr.normal(key_flow, found.shape).astype(HALF)
    for one, other in zip(pull(flow), exact_pull(flow.astype(jnp.float32)), strict=True):
        near(one, other)


SPACES = {
    "shufflenet": dataclasses.replace(MINI, blocks=(2,), widths=(8,), strides=(1,)),
    "nasbench201": NasBench201(width=4, cells=1, image_size=8, image_channels=1, num_classes=10),
    "darts": Darts(width=4, cells=2, image_size=4, image_channels=1),
}


@pytest.mark.parametrize("name", SPACES)
def test_logits_are_computed_in_float32(name, key):
    """Rounded to bfloat16, the logits of two classes would often be equal, and the first would always be the answer."""
    space = SPACES[name]
    graph, weights, statistics = split(space.supernet(key))
    path = jnp.zeros(len(space.cardinalities), jnp.int32)
    images = jnp.zeros((4, space.image_size, space.image_size, space.image_channels), HALF)
    traced = jax.make_jaxpr(lambda images: forward(graph, weights, statistics, images, path, train=False)[0])(images)
    # Not by value: under jit XLA may leave out a rounding, or not.
    last = [equation for equation in traced.eqns if equation.primitive.name == "dot_general"][-1]
    assert {each.aval.dtype for each in (*last.invars, *last.outvars)} == {jnp.dtype(jnp.float32)}


class Times(nnx.Module):
    """The input times a number. A choice wants statistics, too."""

    def __init__(self, number):
        self.statistic = nnx.BatchStat(np.zeros(1, np.float32))
        self.number = nnx.Param(np.full((1, 1), number, np.float32))

    def __call__(self, x, path, train):
        return x * jnp.asarray(self.number.get_value(), x.dtype)[None, None]


def test_the_gradient_by_a_mixture_is_summed_in_float32(key):
    choice = Choice([0], [[Times(1.0), Times(1.5), Times(-0.5)]])
    x = (1 + jr.normal(key, (64, 8, 8, 4))).astype(HALF)

    def by_mixture(x):
        def value(weights):
            return nnx.clone(choice)(x, weights, True).astype(jnp.float32).sum()

        return jax.grad(value)(jnp.array([[0.3, 0.6, 0.1]]))

    np.testing.assert_allclose(by_mixture(x), by_mixture(x.astype(jnp.float32)), rtol=1e-5)
