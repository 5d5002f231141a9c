"""A dense convolution and its gradients are the library's, in any shape, in loops and forward over backward."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from spaces.dense import dense_conv, library_conv

SHAPES = st.tuples(st.integers(1, 3), st.integers(5, 9), st.integers(5, 9), st.integers(1, 3), st.integers(1, 3))


def some(shape: tuple[int, ...], seed: int):
    return jr.normal(jr.key(seed), shape)


@given(
    shape=SHAPES,
    taps=st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 3, 5])),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.integers(1, 2),
)
@settings(max_examples=12, deadline=None)
def test_it_is_the_librarys(shape, taps, strides, dilation):
    images, kernel = some(shape[:4], 0), some((*taps, *shape[3:]), 1)
    y, pull = jax.vjp(lambda *args: dense_conv(*args, strides, dilation), images, kernel)
    expected, library = jax.vjp(lambda *args: library_conv(*args, strides, dilation), images, kernel)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    for found, wanted in zip(pull(jnp.cos(y)), library(jnp.cos(y)), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_it_has_derivatives_forward_over_backward(strides):
    images, kernel, along = some((2, 6, 6, 2), 0), some((3, 3, 2, 3), 1), some((3, 3, 2, 3), 2)

    def curved(conv):
        def gradient(kernel):
            return jax.grad(lambda kernel: jnp.tanh(conv(images, kernel, strides)).sum())(kernel)

        return jax.jvp(gradient, (kernel,), (along,))[1]

    np.testing.assert_allclose(curved(dense_conv), curved(library_conv), atol=1e-4)


def test_it_is_the_same_in_a_branch_of_a_loop():
    images, kernels = some((2, 6, 6, 2), 0), some((3, 3, 3, 2, 2), 1)

    def through(conv, kernels):
        def block(x, kernel):
            return lax.cond(kernel[0, 0, 0, 0] > -9, lambda x: jnp.tanh(conv(x, kernel)), lambda x: x, x), None

        return lax.scan(block, images, kernels)[0].sum()

    found, wanted = (jax.grad(through, 1)(conv, kernels) for conv in (dense_conv, library_conv))
    np.testing.assert_allclose(found, wanted, atol=1e-4)
