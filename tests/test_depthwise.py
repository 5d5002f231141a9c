"""The depthwise convolution equals the library's grouped convolution, value and both gradients."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from spaces import depthwise

SIZES = [(8, 8), (7, 5), (2, 2), (1, 1), (4, 9)]


@pytest.mark.parametrize(
    ("k", "stride", "dilation"), [*itertools.product([3, 5, 7], [1, 2], [1]), (3, 2, 2), (5, 1, 2)]
)
@pytest.mark.parametrize("size", SIZES)
def test_equals_the_grouped_convolution(key, size, k, stride, dilation):
    key_images, key_kernel, key_gradient = jr.split(key, 3)
    images = jr.normal(key_images, (3, *size, 4))
    kernel = jr.normal(key_kernel, (k, k, 4))
    expected, pull_expected = jax.vjp(lambda *args: depthwise.grouped_conv(*args, stride, dilation), images, kernel)
    found, pull_found = jax.vjp(lambda *args: depthwise._shifted(*args, stride, dilation), images, kernel)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    cotangent = jr.normal(key_gradient, expected.shape)
    for got, want in zip(pull_found(cotangent), pull_expected(cotangent), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-4)


def test_keeps_half_precision(key):
    images, kernel = jr.normal(key, (2, 6, 6, 4), jnp.bfloat16), jr.normal(key, (3, 3, 4), jnp.bfloat16)
    value, pull = jax.vjp(lambda *args: depthwise._shifted(*args, 1), images, kernel)
    assert {value.dtype, *(g.dtype for g in pull(value))} == {jnp.dtype(jnp.bfloat16)}


def test_the_cpu_takes_the_shifted_form(key):
    images, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2))
    text = str(jax.make_jaxpr(lambda *args: depthwise.depthwise_conv(*args))(images, kernel))
    assert ("conv_general_dilated" in text) == (jax.default_backend() != "cpu")
