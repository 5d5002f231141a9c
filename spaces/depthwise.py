"""Depthwise convolution: one function, fast on each platform, with its own gradient.

On a CPU `lax.conv_general_dilated` with `feature_group_count` is tens of times slower than a sum of shifted
products, which XLA fuses into one loop. Its weight gradient is one variadic `lax.reduce` over all taps instead of
one reduction a tap. Elsewhere the library's grouped convolution is the fast one.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from spaces.forms import for_cpu
from spaces.precision import widened

Images = Float[Array, "n _ _ channels"]  # height and width change with the stride
Kernel = Float[Array, "k k channels"]


def depthwise_conv(images: Images, kernel: Kernel, stride: int = 1, dilation: int = 1) -> Images:
    """Each channel convolved with its own k x k kernel, k odd, padded on both sides by half of what it spans, as
    PyTorch code pads: k // 2 pixels times the dilation, which is the distance of the taps."""
    if for_cpu():
        return _shifted(images, kernel, stride, dilation)
    return grouped_conv(images, kernel, stride, dilation)


def grouped_conv(images: Images, kernel: Kernel, stride: int = 1, dilation: int = 1) -> Images:
    """The same by the library's grouped convolution: the GPU's path and the reference of the tests."""
    pad = kernel.shape[0] // 2 * dilation
    return lax.conv_general_dilated(
        images,
        kernel[:, :, None, :],
        (stride, stride),
        [(pad, pad), (pad, pad)],
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=images.shape[-1],
    )


def _spaced(gradient: Images, images: Images, stride: int) -> Images:
    """The gradient with zeros between its rows and columns, as large as the images: that by them is then a convolution
    of stride 1."""
    if stride == 1:
        return gradient
    sides = zip(images.shape[1:3], gradient.shape[1:3], strict=True)
    between = [(0, size - ((out - 1) * stride + 1), stride - 1) for size, out in sides]
    return lax.pad(gradient, jnp.zeros((), gradient.dtype), [(0, 0, 0), *between, (0, 0, 0)])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted(images: Images, kernel: Kernel, stride: int, dilation: int = 1) -> Images:
    return _sum_of_shifts(images, kernel, stride, dilation)


def _forward(images: Images, kernel: Kernel, stride: int, dilation: int):
    return _sum_of_shifts(images, kernel, stride, dilation), (images, kernel)


def _backward(stride: int, dilation: int, saved: tuple[Images, Kernel], gradient: Images) -> tuple[Images, Kernel]:
    images, kernel = saved
    gradient = lax.optimization_barrier(gradient)
    by_images = _sum_of_shifts(_spaced(gradient, images, stride), kernel[::-1, ::-1], 1, dilation)
    return by_images, _kernel_gradient(images, gradient, kernel, stride, dilation)


_shifted.defvjp(_forward, _backward)


@functools.partial(jax.jit, static_argnums=(2, 3))  # traced once per shape, however many blocks share it
def _sum_of_shifts(images: Images, kernel: Kernel, stride: int, dilation: int) -> Images:
    dtype, images, kernel = images.dtype, widened(images), widened(kernel)
    windows = _windows(images, kernel.shape[0], stride, dilation)

    # `lax` alone: these are most of a program's operations, and `jnp` takes several times as long to trace.
    def product(i: int, j: int, window: Images) -> Images:
        weight = lax.squeeze(lax.slice(kernel, (i, j, 0), (i + 1, j + 1, kernel.shape[2])), (0, 1))
        return lax.mul(window, lax.broadcast_in_dim(weight, window.shape, (3,)))

    products = [product(*tap, window) for tap, window in windows]
    # The barriers keep XLA from computing the producer of the input again in every shifted read.
    return lax.optimization_barrier(functools.reduce(lax.add, products).astype(dtype))


@functools.partial(jax.jit, static_argnums=(3, 4))
def _kernel_gradient(images: Images, gradient: Images, kernel: Kernel, stride: int, dilation: int) -> Kernel:
    windows, gradient = _windows(images, kernel.shape[0], stride, dilation), widened(gradient)
    products = [widened(window) * gradient for _, window in windows]
    zeros = [jnp.zeros((), gradient.dtype)] * len(products)
    sums = lax.reduce(products, zeros, lambda a, b: [x + y for x, y in zip(a, b, strict=True)], (0, 1, 2))
    rows, columns = np.array([tap for tap, _ in windows]).T
    return jnp.zeros_like(kernel).at[rows, columns].set(jnp.stack(sums).astype(kernel.dtype))


def _windows(images: Images, k: int, stride: int, dilation: int) -> list[tuple[tuple[int, int], Images]]:
    """The taps (i, j) that touch the image at all, each with the part of the padded image it multiplies."""
    n, height, width, channels = images.shape
    pad = k // 2 * dilation
    rows, columns = -(-height // stride), -(-width // stride)
    padded = lax.optimization_barrier(jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0))))

    def window(i: int, j: int) -> Images:
        i, j = i * dilation, j * dilation
        stop = (n, i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1, channels)
        return lax.slice(padded, (0, i, j, 0), stop, (1, stride, stride, 1))

    taps = itertools.product(
        _touching(k, height, rows, stride, dilation), _touching(k, width, columns, stride, dilation)
    )
    return [(tap, window(*tap)) for tap in taps]


def _touching(k: int, size: int, out: int, stride: int, dilation: int) -> list[int]:
    """Taps that read at least one real pixel: on a 2 x 2 map a 7 x 7 kernel has 3 x 3 of them."""
    return [i for i in range(k) if any(0 <= o * stride + (i - k // 2) * dilation < size for o in range(out))]
