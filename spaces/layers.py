"""The building blocks of networks: convolutions without bias and batch normalisation, as Flax modules.

Images are `[n, height, width, channels]`. Padding is symmetric (k // 2), as in the PyTorch code that published
weights and counts come from. Kernels are kept in float32 and used in the precision of the images. Layers are no
pytrees: a supernet has thousands of them, and Flax's checks of pytrees take half of the time in which it is made.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from spaces.dense import dense_conv
from spaces.depthwise import depthwise_conv
from spaces.forms import is_plain
from spaces.precision import widened

EPSILON = 1e-5


def generator(key: jax.Array) -> np.random.Generator:
    """Draws the initial weights of a network, by NumPy: a supernet has a hundred shapes, and JAX would compile a
    program for each."""
    return np.random.default_rng(np.asarray(jr.key_data(key)))


def normal(draw: np.random.Generator, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    return np.float32(scale) * draw.standard_normal(shape, np.float32)


class Conv(nnx.Module, pytree=False):
    """A dense convolution of so many rows and columns of taps."""

    def __init__(
        self,
        taps: tuple[int, int],
        width_in: int,
        width_out: int,
        draw: np.random.Generator,
        *,
        strides: tuple[int, int] = (1, 1),
        dilation: int = 1,
        scale: float,
    ):
        self.strides, self.dilation = strides, dilation
        self.kernel = nnx.Param(normal(draw, (*taps, width_in, width_out), scale))

    def __call__(self, x: Float[Array, "n _ _ c"]) -> Float[Array, "n _ _ d"]:
        return dense_conv(x, jnp.asarray(self.kernel.get_value(), x.dtype), self.strides, self.dilation)


class Pointwise(nnx.Module, pytree=False):
    """A 1 x 1 convolution, or a linear layer without bias: it acts on the last axis."""

    def __init__(self, width_in: int, width_out: int, draw: np.random.Generator, *, scale: float | None = None):
        scale = 1 / width_in if scale is None else scale
        self.kernel = nnx.Param(normal(draw, (width_in, width_out), scale))

    def __call__(self, x: Float[Array, "*axes c"]) -> Float[Array, "*axes d"]:
        return x @ jnp.asarray(self.kernel.get_value(), x.dtype)


class Depthwise(nnx.Module, pytree=False):
    """A k x k convolution of each channel by itself."""

    def __init__(
        self,
        k: int,
        width: int,
        draw: np.random.Generator,
        *,
        stride: int = 1,
        dilation: int = 1,
        scale: float = 1.0,
    ):
        self.stride, self.dilation = stride, dilation
        self.kernel = nnx.Param(normal(draw, (k, k, width), scale))

    def __call__(self, x: Float[Array, "n _ _ c"]) -> Float[Array, "n _ _ c"]:
        return depthwise_conv(x, jnp.asarray(self.kernel.get_value(), x.dtype), self.stride, self.dilation)


def stages(maps: Sequence[Array]) -> tuple[Array, ...]:
    """Of the maps that successive blocks give, the last of each resolution: the features of a body."""
    ends = [i for i, (x, y) in enumerate(itertools.pairwise(maps)) if x.shape[1:3] != y.shape[1:3]]
    return tuple(maps[i] for i in (*ends, len(maps) - 1))


def shuffled(x: Array, groups: int) -> Array:
    """Channels dealt out anew, so that each group of the next convolution has some of every group of this one."""
    return jnp.swapaxes(x.reshape(*x.shape[:-1], groups, -1), -1, -2).reshape(x.shape)


def largest(x: Float[Array, "n _ _ c"], k: int, stride: int, pads: tuple[int, int]) -> Float[Array, "n _ _ c"]:
    """The largest of each window of k x k pixels, with so many before and behind, which are never the largest."""
    around = ((0, 0), pads, pads, (0, 0))
    if is_plain():  # converters know windows that lie within the image
        padded = jnp.pad(x, around, constant_values=-jnp.inf)
        return nnx.max_pool(padded, window_shape=(k, k), strides=(stride, stride), padding="VALID")
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, k, k, 1), (1, stride, stride, 1), around)


class BatchNorm(nnx.Module, pytree=False):
    """Batch normalisation whose statistics are those of one batch, never a moving average.

    In training it normalises by the batch and leaves the batch's mean and variance in `mean` and `var`; what is
    averaged over which batches is the caller's choice (`nas.training.net.calibrate`). Otherwise it uses them. Images of
    fewer bits than float32 are normalised in float32, and what comes out has their bits again.
    """

    def __init__(self, width: int, *, affine: bool):
        self.scale = nnx.Param(np.ones(width, np.float32)) if affine else None
        self.bias = nnx.Param(np.full(width, 1e-4, np.float32)) if affine else None
        self.mean = nnx.BatchStat(np.zeros(width, np.float32))
        self.var = nnx.BatchStat(np.ones(width, np.float32))

    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h w c"]:
        if train:
            y, mean, var = normalise_by_batch(x)
            self.mean.set_value(mean)
            self.var.set_value(var)
            y = widened(y)
        else:
            y = widened(x)
            mean, var = (jnp.asarray(s.get_value(), y.dtype)[None, None, None] for s in (self.mean, self.var))
            y = (y - mean) * lax.rsqrt(var + EPSILON)
        if self.scale is not None and self.bias is not None:
            scale, bias = (jnp.asarray(p.get_value(), y.dtype)[None, None, None] for p in (self.scale, self.bias))
            y = y * scale + bias
        return y.astype(x.dtype)


@jax.custom_vjp
def normalise_by_batch(x: Float[Array, "n h w c"]) -> tuple[Array, Float[Array, "c"], Float[Array, "c"]]:
    """`x` with mean 0 and variance 1 in every channel, and the (biased) mean and variance it had, in float32.

    Its own gradient, because the one XLA derives from the two reductions is slower to compile and to run. No
    gradient flows through the statistics that are returned.
    """
    return _normalise(x)[0]


@jax.jit  # traced once per shape, however many layers share it
def _normalise(x: Array):
    exact = x.astype(jnp.float32)
    mean = exact.mean((0, 1, 2))
    var = jnp.maximum((exact * exact).mean((0, 1, 2)) - mean * mean, 0)
    scale = lax.rsqrt(var + EPSILON)
    y = (exact - mean[None, None, None]) * scale[None, None, None]
    return (y.astype(x.dtype), mean, var), (x, mean, scale)


@jax.jit
def _normalise_backward(saved, gradients):
    x, mean, scale = saved
    gradient = gradients[0].astype(jnp.float32)
    y = (x.astype(jnp.float32) - mean[None, None, None]) * scale[None, None, None]
    size = x.size // x.shape[-1]
    zero = jnp.zeros((), jnp.float32)
    sums = lax.reduce((gradient, gradient * y), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (0, 1, 2))
    shift, along = (s[None, None, None] / size for s in sums)
    return (((gradient - shift - y * along) * scale[None, None, None]).astype(x.dtype),)


normalise_by_batch.defvjp(_normalise, _normalise_backward)
