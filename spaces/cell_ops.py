"""The operations of cells, from C channels to C: those of DARTS and of NASNet, by name, as modules and as counts.

Liu et al., "DARTS: Differentiable Architecture Search", 2019, https://arxiv.org/abs/1806.09055; Zoph et al., "Learning
Transferable Architectures for Scalable Image Recognition", 2018, https://arxiv.org/abs/1707.07012.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array

from spaces.forms import is_plain
from spaces.layers import BatchNorm, Conv, Depthwise, Pointwise, largest
from spaces.precision import widened


class Kernel(NamedTuple):
    """A convolution of `rows` x `columns` taps: dense, or of each channel by itself."""

    rows: int
    columns: int
    depthwise: bool = False
    dilation: int = 1


POINT = Kernel(1, 1)


def _separable(k: int, dilation: int = 1) -> tuple[Kernel, Kernel]:
    return Kernel(k, k, depthwise=True, dilation=dilation), POINT


# The units of an operation. A unit is a ReLU, convolutions and a normalisation; the stride is that of the first unit.
CONVOLUTIONS: dict[str, tuple[tuple[Kernel, ...], ...]] = {
    **{f"sep_conv_{k}x{k}": (_separable(k), _separable(k)) for k in (3, 5, 7)},
    **{f"dil_conv_{k}x{k}": (_separable(k, 2),) for k in (3, 5)},
    **{f"conv_{k}x1_1x{k}": ((Kernel(1, k), Kernel(k, 1)),) for k in (3, 7)},
    **{f"conv_{k}x{k}": ((Kernel(k, k),),) for k in (1, 3)},
    "full_dil_conv_3x3": ((Kernel(3, 3, dilation=2),),),
}
POOLS = {"avg_pool_3x3": 3, **{f"max_pool_{k}x{k}": k for k in (3, 5, 7)}}
NONE, SKIP = "none", "skip_connect"
OPERATIONS = (NONE, SKIP, *POOLS, *CONVOLUTIONS)


def operation(name: str, width: int, stride: int, draw: np.random.Generator, affine: bool) -> nnx.Module:
    """A module that is called as `module(x, path, train)`.

    While a search shares its weights (not `affine`), a pool is followed by a normalisation, as in the code of DARTS.
    """
    if name in CONVOLUTIONS:
        return Convolutions(CONVOLUTIONS[name], width, stride, draw, affine)
    if name in POOLS:
        return Pool(name, stride, None if affine else BatchNorm(width, affine=False))
    if name == SKIP and stride > 1:
        return FactorizedReduce(width, width, draw, affine)
    return Stand(name == SKIP, stride)


def cost(name: str, width: int, stride: int, size: int) -> tuple[int, int]:
    """Multiply-adds and parameters, with affine normalisation, of an operation on `size` x `size` pixels."""
    out = -(-size // stride)
    if name == SKIP and stride > 1:
        return width**2 * out**2, width**2 + 2 * width
    macs = params = 0
    height = columns = size
    for unit in CONVOLUTIONS.get(name, ()):
        for i, conv in enumerate(unit):
            down, right = _strides(conv, stride, i)
            height, columns = -(-height // down), -(-columns // right)
            weights = conv.rows * conv.columns * width * (1 if conv.depthwise else width)
            macs, params = macs + weights * height * columns, params + weights
        stride, params = 1, params + 2 * width
    return macs, params


def _strides(conv: Kernel, stride: int, place: int) -> tuple[int, int]:
    """The strides of a unit's convolution: all in the first, but that of a row or a column only along itself."""
    if (conv.rows == 1) != (conv.columns == 1):
        return (stride if conv.rows > 1 else 1), (stride if conv.columns > 1 else 1)
    return (stride, stride) if place == 0 else (1, 1)


def spread(fan_in: int) -> float:
    """The deviation of PyTorch's initial weights."""
    return (1 / (3 * fan_in)) ** 0.5


def _conv(conv: Kernel, width: int, strides: tuple[int, int], draw: np.random.Generator) -> nnx.Module:
    if conv.depthwise:
        scale = spread(conv.rows * conv.columns)
        return Depthwise(conv.rows, width, draw, stride=strides[0], dilation=conv.dilation, scale=scale)
    if conv == POINT and strides == (1, 1):
        return Pointwise(width, width, draw, scale=spread(width))
    taps = conv.rows, conv.columns
    scale = spread(conv.rows * conv.columns * width)
    return Conv(taps, width, width, draw, strides=strides, dilation=conv.dilation, scale=scale)


class Convolutions(nnx.Module, pytree=False):
    """Units one after the other."""

    def __init__(
        self, units: tuple[tuple[Kernel, ...], ...], width: int, stride: int, draw: np.random.Generator, affine: bool
    ):
        self.units = nnx.List()
        for unit in units:
            convs = [_conv(conv, width, _strides(conv, stride, i), draw) for i, conv in enumerate(unit)]
            self.units.append(Unit(convs, BatchNorm(width, affine=affine)))
            stride = 1

    def __call__(self, x: Array, path, train: bool) -> Array:
        for unit in self.units:
            x = unit(x, path, train)
        return x


class Unit(nnx.Module, pytree=False):
    """ReLU, convolutions, normalisation."""

    def __init__(self, convs: list[nnx.Module], norm: BatchNorm):
        self.convs, self.norm = nnx.List(convs), norm

    def __call__(self, x: Array, path, train: bool) -> Array:
        x = jax.nn.relu(x)
        for conv in self.convs:
            x = conv(x)
        return self.norm(x, train)


def relu_conv_norm(width_in: int, width_out: int, draw: np.random.Generator, affine: bool) -> Unit:
    """What brings an input of a cell to its width."""
    return Unit([Pointwise(width_in, width_out, draw, scale=spread(width_in))], BatchNorm(width_out, affine=affine))


class FactorizedReduce(nnx.Module, pytree=False):
    """Half the resolution: two 1 x 1 convolutions of stride 2, of which one sees the even pixels, the other the odd.

    On odd sizes, which the code of DARTS has not, a row and a column of zeros follow.
    """

    def __init__(self, width_in: int, width_out: int, draw: np.random.Generator, affine: bool):
        halves = (width_out // 2, width_out - width_out // 2)
        self.convs = nnx.List([Pointwise(width_in, half, draw, scale=spread(width_in)) for half in halves])
        self.norm = BatchNorm(width_out, affine=affine)

    def __call__(self, x: Array, path, train: bool) -> Array:
        x = jax.nn.relu(x)
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        even, odd = self.convs
        return self.norm(jnp.concatenate([even(x[:, ::2, ::2]), odd(x[:, 1::2, 1::2])], axis=-1), train)


class Pool(nnx.Module, pytree=False):
    def __init__(self, name: str, stride: int, norm: BatchNorm | None):
        self.name, self.stride, self.norm = name, stride, norm

    def __call__(self, x: Array, path, train: bool) -> Array:
        pool = mean_pool if self.name.startswith("avg") else max_pool
        y = pool(x, POOLS[self.name], self.stride)
        return y if self.norm is None else self.norm(y, train)


class Stand(nnx.Module, pytree=False):
    """The input as it is, or nothing."""

    def __init__(self, there: bool, stride: int):
        self.there, self.stride = there, stride

    def __call__(self, x: Array, path, train: bool) -> Array:
        y = x[:, :: self.stride, :: self.stride]
        return y if self.there else jnp.zeros_like(y)


def max_pool(x: Array, k: int, stride: int = 1) -> Array:
    """The largest of each window, one axis after the other: the gradient that XLA has of windows is slow."""
    if is_plain():
        return largest(x, k, stride, (k // 2, k // 2))
    for axis in (1, 2):
        parts = _shifts(x, k, stride, axis, -jnp.inf)
        x = parts[0]
        for part in parts[1:]:
            x = jnp.maximum(x, part)
        x = lax.optimization_barrier(x)
    return x


def halved(x: Array) -> Array:
    """The largest of each 2 x 2 pixels; at the end of an odd number, of those that there are."""
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)), constant_values=-jnp.inf)
    rows = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])


def mean_pool(x: Array, k: int, stride: int = 1) -> Array:
    """The mean of each window, of the pixels that lie in the image."""

    def total(x: Array) -> Array:
        if is_plain():
            pads = ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0))
            return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, (1, k, k, 1), (1, stride, stride, 1), pads)
        for axis in (1, 2):
            x = lax.optimization_barrier(sum(_shifts(x, k, stride, axis, 0.0)))
        return x

    exact = widened(x)
    return (total(exact) / total(jnp.ones((1, *x.shape[1:3], 1), exact.dtype))).astype(x.dtype)


def _shifts(x: Array, k: int, stride: int, axis: int, fill: float) -> list[Array]:
    """The pixels of windows along an axis, padded on both sides as PyTorch pads."""
    size, pad = x.shape[axis], [(0, 0, 0)] * x.ndim
    pad[axis] = (k // 2, k // 2, 0)
    padded = lax.pad(x, jnp.asarray(fill, x.dtype), pad)
    last = (-(-size // stride) - 1) * stride + 1
    return [lax.slice_in_dim(padded, i, i + last, stride, axis) for i in range(k)]
