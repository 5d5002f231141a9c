"""Dense convolution with gradients that are fast in loops and branches too.

XLA's CPU compiler brings a convolution into the layout that its fast kernels know, but only in the outermost part of a
program. Within a loop or a branch, where the gradients that JAX derives lie in other layouts, they run 10 to 100 times
as long. So here they are written in that layout. Elsewhere than on a CPU the library's are the fast ones.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from spaces.forms import for_cpu

Images = Float[Array, "n _ _ _"]
Kernel = Float[Array, "rows columns inputs outputs"]
Pair = tuple[int, int]
FORM = ("NHWC", "HWIO", "NHWC")


def dense_conv(images: Images, kernel: Kernel, strides: Pair = (1, 1), dilation: int = 1) -> Images:
    """Padded on all sides by half of what the kernel spans, whose rows and columns are odd in number."""
    if for_cpu():
        return _conv(images, kernel, strides, dilation)
    return library_conv(images, kernel, strides, dilation)


def library_conv(images: Images, kernel: Kernel, strides: Pair = (1, 1), dilation: int = 1, groups: int = 1) -> Images:
    """The same with the library's gradients, also in groups: the GPU's path and the reference of the tests."""
    padding = [(pad, pad) for pad in _pads(kernel, dilation)]
    how: dict[str, Any] = {"rhs_dilation": (dilation, dilation), "feature_group_count": groups}
    return lax.conv_general_dilated(images, kernel, strides, padding, dimension_numbers=FORM, **how)


def _pads(kernel: Kernel, dilation: int) -> Pair:
    return kernel.shape[0] // 2 * dilation, kernel.shape[1] // 2 * dilation


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(images: Images, kernel: Kernel, strides: Pair, dilation: int) -> Images:
    return library_conv(images, kernel, strides, dilation)


def _forward(images: Images, kernel: Kernel, strides: Pair, dilation: int):
    return library_conv(images, kernel, strides, dilation), (images, kernel)


def _backward(strides: Pair, dilation: int, saved: tuple[Images, Kernel], gradient: Images) -> tuple[Images, Kernel]:
    images, kernel = saved
    sides = list(zip(images.shape[1:3], gradient.shape[1:3], strides, strict=True))
    pads = _pads(kernel, dilation)
    reaches = [(k - 1) * dilation for k in kernel.shape[:2]]
    by_images = lax.conv_general_dilated(
        gradient,
        jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
        (1, 1),
        [
            (reach - pad, size - ((out - 1) * stride + 1) + pad)
            for reach, pad, (size, out, stride) in zip(reaches, pads, sides, strict=True)
        ],
        lhs_dilation=strides,  # not by zeros in an array, which would be multiplied
        rhs_dilation=(dilation, dilation),
        dimension_numbers=FORM,
    )
    # Each channel of the images as an image, each channel of the gradient as a kernel of its size.
    spans = [
        (k - 1) * dilation + (out - 1) * stride + 1 for k, (_, out, stride) in zip(kernel.shape, sides, strict=False)
    ]
    by_kernel = lax.conv_general_dilated(
        images.transpose(3, 1, 2, 0),
        gradient.transpose(1, 2, 0, 3),
        (dilation, dilation),
        [(pad, span - size - pad) for pad, span, (size, _, _) in zip(pads, spans, sides, strict=True)],
        rhs_dilation=strides,
        dimension_numbers=FORM,
    )
    return by_images, by_kernel.transpose(1, 2, 0, 3)


_conv.defvjp(_forward, _backward)
