"""Layers of one bit: the sign of activations and of weights, and convolutions of both.

The sign of 0 is +1, in training and when bits are packed. What the sign has no gradient of is estimated: Rastegari et
al., "XNOR-Net", 2016, https://arxiv.org/abs/1603.05279; Liu et al., "Bi-Real Net", 2018,
https://arxiv.org/abs/1808.00278; Bulat & Tzimiropoulos, "XNOR-Net++", 2019, https://arxiv.org/abs/1909.13863.
"""

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from spaces.dense import dense_conv, library_conv
from spaces.depthwise import depthwise_conv
from spaces.forms import for_cpu
from spaces.layers import normal

Estimator = Literal["clip", "polynomial"]
Scale = Literal["mean", "learned", "none"]
Kernel = Float[Array, "rows columns inputs outputs"]
There = Bool[Array, "inputs"]  # which input channels there are, of a kernel that is shared by layers of several widths


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def sign(x: Array, estimator: Estimator = "clip") -> Array:
    """+1 where `x` is at least 0, else -1. Its gradient is taken to be, where |x| <= 1, that of the identity (`clip`),
    or 2 - 2|x| (`polynomial`); elsewhere 0."""
    return _signs(x)


def _signs(x: Array) -> Array:
    return jnp.where(x >= 0, 1, -1).astype(x.dtype)


def _sign_forward(x: Array, estimator: Estimator) -> tuple[Array, Array]:
    return sign(x, estimator), x


def _sign_backward(estimator: Estimator, x: Array, gradient: Array) -> tuple[Array]:
    slope = jnp.ones_like(x) if estimator == "clip" else 2 - 2 * jnp.abs(x)
    return (gradient * jnp.where(jnp.abs(x) <= 1, slope, 0),)


sign.defvjp(_sign_forward, _sign_backward)


def centred(kernel: Kernel, there: There | None = None) -> Kernel:
    """Less its mean over the input channels, and clipped to -1..1. Of channels that are not `there` it is 0. A single
    channel, as in a depthwise convolution, is its own mean, and stays as it is."""
    if there is None:
        mean = kernel.mean(2, keepdims=True) if kernel.shape[2] > 1 else 0.0
        return jnp.clip(kernel - mean, -1, 1)
    there = there.astype(kernel.dtype)[None, None, :, None]
    mean = jnp.where(there.sum() > 1, (kernel * there).sum(2, keepdims=True) / there.sum(), 0)
    return jnp.clip(kernel - mean, -1, 1) * there


def binarised(kernel: Kernel, there: There | None = None) -> Kernel:
    """The sign of each weight, after `centred`, times the mean size of the weights of its filter (XNOR-Net)."""
    signs, size = factors(kernel, there)
    return signs * size


@jax.custom_vjp
def factors(kernel: Kernel, there: There | None = None) -> tuple[Kernel, Float[Array, "1 1 1 outputs"]]:
    """The signs and the sizes whose product is `binarised`. With `there`, all of it is as if the other input channels
    were not, and their signs are 0.

    The gradient of the product is that of the authors' code: with s the mean size, n the weights of a filter and c its
    input channels, (s g [|w| <= 1] + sign(w) mean(sign(w) g)) (1 - 1/c) n; of a single channel, from which no mean is
    taken, without the factor 1 - 1/c. It comes by way of the signs alone, whose gradient is s g; that of the sizes is
    taken to be nothing.
    """
    return _factors_forward(kernel, there)[0]


def _factors_forward(kernel: Kernel, there: There | None) -> tuple[tuple[Kernel, Array], tuple[Kernel, There | None]]:
    w = centred(kernel, there)
    return (_signs_there(w, there), _size(w, there)), (w, there)


def _factors_backward(saved: tuple[Kernel, There | None], gradients: tuple[Kernel, Array]) -> tuple[Kernel, None]:
    w, there = saved
    signs, size, share = _signs_there(w, there), _size(w, there), _share(w, there)
    gradient = gradients[0] / jnp.maximum(size, jnp.finfo(w.dtype).tiny)
    inputs = w.shape[2] * share
    n = math.prod(w.shape[:2]) * inputs
    by_scale = signs * ((signs * gradient).mean((0, 1, 2), keepdims=True) / share)
    by_sign = size * gradient * (jnp.abs(w) <= 1)
    by_sign = by_sign if there is None else by_sign * there[None, None, :, None]
    return (by_sign + by_scale) * jnp.where(inputs > 1, 1 - 1 / inputs, 1) * n, None


def _signs_there(w: Kernel, there: There | None) -> Kernel:
    return _signs(w) if there is None else _signs(w) * there.astype(w.dtype)[None, None, :, None]


def _size(w: Kernel, there: There | None) -> Array:
    """The mean size of the weights of each filter."""
    return jnp.abs(w).mean((0, 1, 2), keepdims=True) / _share(w, there)


def _share(w: Kernel, there: There | None) -> Array | int:
    """Of the input channels those that are there."""
    return 1 if there is None else there.astype(w.dtype).mean()


factors.defvjp(_factors_forward, _factors_backward)


class BinaryConv(nnx.Module, pytree=False):
    """The convolution of the signs of images with a kernel of one bit a weight, times a scale a filter.

    `scale` is the mean size of a filter's weights (`mean`), a parameter (`learned`), or 1 (`none`). With `groups`, each
    group of outputs sees its group of inputs alone. With `real`, weights are as they are and activations alone are of
    one bit: the first step of a training in two. Without `signs`, activations are as they are too.
    """

    def __init__(
        self,
        taps: tuple[int, int],
        width_in: int,
        width_out: int,
        draw: np.random.Generator,
        *,
        strides: tuple[int, int] = (1, 1),
        dilation: int = 1,
        groups: int = 1,
        scale: Scale = "mean",
        estimator: Estimator = "clip",
        real: bool = False,
        signs: bool = True,
    ):
        if width_in % groups or width_out % groups:
            raise ValueError(f"groups={groups} must divide width_in={width_in} and width_out={width_out}")
        self.strides, self.dilation, self.groups = strides, dilation, groups
        self.scaling, self.estimator, self.real = scale, estimator, real
        self.signs = signs
        fan_in = math.prod(taps) * width_in // groups
        self.kernel = nnx.Param(normal(draw, (*taps, width_in // groups, width_out), 1 / math.sqrt(fan_in)))
        # Outputs then have about the variance of the first batch's inputs.
        self.scale = nnx.Param(np.full(width_out, 1 / math.sqrt(fan_in), np.float32)) if scale == "learned" else None

    def __call__(self, x: Float[Array, "n _ _ c"], there: Bool[Array, "c"] | None = None) -> Float[Array, "n _ _ d"]:
        """With `there`, of channels in one group, as if the other channels were not."""
        kernel, scale = self.factors(there)
        seen: Any = sign(x, self.estimator) if self.signs else x
        seen = seen if there is None else seen * there.astype(x.dtype)[None, None, None]
        y = conv_in_groups(seen, jnp.asarray(kernel, x.dtype), self.strides, self.dilation, self.groups)
        return y if scale is None else y * jnp.asarray(scale, x.dtype)[None, None, None]

    def factors(self, there: There | None = None) -> tuple[Kernel, Float[Array, "outputs"] | None]:
        """A kernel, and what its outputs are multiplied by. Unless weights are real the kernel is +1 and -1: the
        convolution is then a sum of whole numbers, which is the same in any order."""
        kernel = jnp.asarray(self.kernel.get_value())
        if self.scaling == "mean" and not self.real:
            signs, size = factors(kernel, there)
            return signs, size[0, 0, 0]
        scale = None if self.scale is None else jnp.asarray(self.scale.get_value())
        return kernel if self.real else sign(kernel), scale

    def weights(self) -> Kernel:
        """As they are multiplied: two values a filter, unless they are real."""
        kernel = jnp.asarray(self.kernel.get_value())
        if self.real:
            return kernel
        return binarised(kernel) if self.scaling == "mean" else sign(kernel)


def conv_in_groups(x: Array, kernel: Kernel, strides: tuple[int, int], dilation: int, groups: int) -> Array:
    """A convolution in which each group of outputs sees its group of inputs alone.

    On a CPU groups of more than one channel are run as one dense convolution with zeros between groups, which is faster
    than the library's own as long as channels are few.
    """
    if not for_cpu():
        return library_conv(x, kernel, strides, dilation, groups)
    inputs = x.shape[-1]
    if groups == inputs == kernel.shape[-1] and groups > 1 and kernel.shape[0] == kernel.shape[1]:
        return depthwise_conv(x, kernel[:, :, 0], strides[0], dilation)
    if groups > 1:
        outputs = kernel.shape[-1]
        same = np.arange(inputs)[:, None] // (inputs // groups) == np.arange(outputs)[None] // (outputs // groups)
        kernel = jnp.where(same, jnp.tile(kernel, (1, 1, groups, 1)), 0)
    return dense_conv(x, kernel, strides, dilation)


class PReLU(nnx.Module, pytree=False):
    """Negative numbers times a parameter of their channel, 0.25 at first."""

    def __init__(self, width: int):
        self.slope = nnx.Param(np.full(width, 0.25, np.float32))

    def __call__(self, x: Array) -> Array:
        return jnp.where(x >= 0, x, x * jnp.asarray(self.slope.get_value(), x.dtype)[None, None, None])


def set_real(network: nnx.Module, real: bool) -> nnx.Module:
    """The network with the weights of its layers of one bit as they are, or as bits; itself, changed."""
    for _, module in nnx.iter_modules(network):
        if isinstance(module, BinaryConv) and module.signs:
            module.real = real
    return network
