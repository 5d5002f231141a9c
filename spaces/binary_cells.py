"""What binary cells are made of, by template: layers of normalisation, sign and convolution of one bit.

See `spaces.binary` for the papers.
"""

import functools
import math
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from spaces import binary_costs, darts
from spaces.binary_ops import BinaryConv, PReLU
from spaces.cell_kit import Kit, counts
from spaces.cell_ops import NONE, SKIP, operation, spread
from spaces.layers import BatchNorm, normal, shuffled

GROUPS = 12  # of the convolutions of `bats`, where they divide the channels
SHUFFLE = 4  # groups that are dealt out after them


class Taps(NamedTuple):
    """A convolution of `k` x `k` taps: dense, in groups, or of each channel by itself."""

    k: int
    dilation: int = 1
    depthwise: bool = False


class Form(NamedTuple):
    """What the layers of a template are."""

    ops: tuple[str, ...]  # of an edge
    taps: dict[str, tuple[Taps, ...]]  # the layers of the operations that convolve
    kept: bool = False  # whether `none` is a choice of what is found
    skips: bool = False  # whether a cell adds the output of the cell before it
    activation: Literal["relu", "prelu", "none"] = "none"
    grouped: bool = False  # whether convolutions are in groups, whose channels are then dealt out
    around: bool = False  # whether a convolution adds its input
    scale: Literal["mean", "learned"] = "mean"
    real_search: Literal["", "inputs", "all"] = ""  # which weights are no bits while a search shares them


POINT = Taps(1)
FORMS: dict[str, Form] = {
    "bnas": Form(
        ops=(
            *(NONE, "max_pool_3x3", "avg_pool_3x3"),
            *("bin_dil_conv_3x3", "bin_dil_conv_5x5", "bin_conv_3x3", "bin_conv_5x5"),
        ),
        taps={f"bin_{dil}conv_{k}x{k}": (Taps(k, 2 if dil else 1),) for dil in ("dil_", "") for k in (3, 5)},
        kept=True,
        skips=True,
        activation="relu",
        real_search="inputs",
    ),
    "bats": Form(
        ops=darts.OPS,
        taps={f"{kind}_conv_{k}x{k}": (Taps(k, 1 + (kind == "dil")),) for kind in ("sep", "dil") for k in (3, 5)},
        activation="prelu",
        grouped=True,
        around=True,
        scale="learned",
        real_search="all",
    ),
    "beihang": Form(
        ops=darts.OPS,
        taps={
            **{f"sep_conv_{k}x{k}": (Taps(k, depthwise=True), POINT) * 2 for k in (3, 5)},
            **{f"dil_conv_{k}x{k}": (Taps(k, 2, depthwise=True), POINT) for k in (3, 5)},
        },
    ),
}


class Style(NamedTuple):
    template: str
    real: bool  # whether nothing is of one bit

    @property
    def form(self) -> Form:
        return FORMS[self.template]


@functools.cache
def kit_of(style: Style, joined: bool) -> Kit:
    form = style.form
    learned = form.scale == "learned"

    def part(function):
        return functools.partial(function, style)

    return Kit(
        operation=part(_operation),
        cost=part(_cost),
        fit=part(_fit),
        halve=part(_halve),
        fit_cost=part(_fit_cost),
        skip=Strided if form.skips and joined else None,
        skip_cost=_skip_cost if form.skips and joined else None,
        norm_first=True,
        whole=functools.partial(_whole, learned=learned),
        scaled=binary_costs.scaled,
    )


def _whole(found: np.ndarray, *, learned: bool) -> dict[str, Any]:
    return binary_costs.whole(binary_costs.Counts(*np.moveaxis(found, -1, 0)), learned)


class Layer(nnx.Module, pytree=False):
    """Normalisation, sign, convolution of one bit, and what follows."""

    def __init__(
        self,
        style: Style,
        taps: Taps,
        width_in: int,
        width: int,
        draw: np.random.Generator,
        *,
        stride: int = 1,
        affine: bool,
        real: bool,
    ):
        form = style.form
        self.norm = BatchNorm(width_in, affine=affine)
        self.conv = BinaryConv(
            (taps.k, taps.k),
            width_in,
            width,
            draw,
            strides=(stride, stride),
            dilation=taps.dilation,
            groups=_groups(form, taps, width_in, width),
            scale=form.scale,
            real=real or style.real,
            signs=not style.real,
        )
        self.activation = PReLU(width) if form.activation == "prelu" else None
        self.relu = form.activation == "relu"

    def __call__(self, x: Array, path, train: bool) -> Array:
        y = self.conv(self.norm(x, train))
        if self.relu:
            y = jnp.maximum(y, 0)
        return y if self.activation is None else self.activation(y)


def _real(style: Style, affine: bool, *where: str) -> bool:
    """Whether weights are no bits: in a search, where the template says so."""
    return not affine and style.form.real_search in where


def _groups(form: Form, taps: Taps, width_in: int, width: int) -> int:
    if taps.depthwise:
        return width_in
    return math.gcd(GROUPS, width_in, width) if form.grouped and taps.k > 1 else 1


def _layer_cost(style: Style, taps: Taps, width_in: int, width: int, size: int) -> np.ndarray:
    """`size` is that of what comes out."""
    form = style.form
    weights = taps.k**2 * width_in * width // _groups(form, taps, width_in, width)
    slopes = width if form.activation == "prelu" else 0
    if style.real:
        scales = width if form.scale == "learned" else 0
        return counts(macs=weights * size**2, weights=weights + slopes + scales, channels=width_in)
    return counts(weights * size**2, 0, weights, slopes, width, width_in)


class Convolved(nnx.Module, pytree=False):
    """The layers of an operation; those of `bats` deal out channels and add their input."""

    def __init__(self, style: Style, name: str, width: int, stride: int, draw: np.random.Generator, affine: bool):
        self.style, self.layers, self.same = style, nnx.List(), stride == 1
        real = _real(style, affine, "all")
        for taps in style.form.taps[name]:
            self.layers.append(Layer(style, taps, width, width, draw, stride=stride, affine=affine, real=real))
            stride = 1

    def __call__(self, x: Array, path, train: bool) -> Array:
        y = x
        for layer in self.layers:
            y = layer(y, path, train)
        form = self.style.form
        if form.grouped and y.shape[-1] % SHUFFLE == 0:
            y = shuffled(y, SHUFFLE)
        return x + y if form.around and self.same else y


class Halves(nnx.Module, pytree=False):
    """Half the resolution: two layers of 1 x 1 and stride 2, of which one sees the even pixels, the other the odd."""

    def __init__(self, style: Style, width_in: int, width: int, draw: np.random.Generator, affine: bool, real: bool):
        halves, how = (width // 2, width - width // 2), {"affine": affine, "real": real}
        self.layers = nnx.List([Layer(style, POINT, width_in, half, draw, **how) for half in halves])

    def __call__(self, x: Array, path, train: bool) -> Array:
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        even, odd = self.layers
        return jnp.concatenate([even(x[:, ::2, ::2], path, train), odd(x[:, 1::2, 1::2], path, train)], axis=-1)


class Strided(nnx.Module, pytree=False):
    """From a cell to a reduction cell: normalisation, and a real convolution of 2 x 2 pixels and stride 2."""

    def __init__(self, width_in: int, width: int, draw: np.random.Generator):
        self.norm = BatchNorm(width_in, affine=False)
        self.kernel = nnx.Param(normal(draw, (4 * width_in, width), spread(4 * width_in)))
        self.bias = nnx.Param(np.zeros(width, np.float32))

    def __call__(self, x: Array, path, train: bool) -> Array:
        x = jnp.pad(self.norm(x, train), ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        pixels = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        y = jnp.concatenate(pixels, axis=-1) @ jnp.asarray(self.kernel.get_value(), x.dtype)
        return y + jnp.asarray(self.bias.get_value(), x.dtype)[None, None, None]


def _skip_cost(width_in: int, width: int, size: int) -> np.ndarray:
    weights = 4 * width_in * width
    # The statistics of its normalisation, which has no parameters, are in the file as scales are.
    return counts(macs=weights * size**2, weights=weights + width, scales=2 * width_in)


def _operation(style: Style, name: str, width: int, stride: int, draw: np.random.Generator, affine: bool) -> nnx.Module:
    if name in style.form.taps:
        return Convolved(style, name, width, stride, draw, affine)
    if name == SKIP and stride > 1:
        return Halves(style, width, width, draw, affine, _real(style, affine, "all"))
    return operation(name, width, stride, draw, affine)


def _cost(style: Style, name: str, width: int, stride: int, size: int) -> np.ndarray:
    out = -(-size // stride)
    if name == SKIP and stride > 1:
        return _halves_cost(style, width, width, out)
    layers = (_layer_cost(style, taps, width, width, out) for taps in style.form.taps.get(name, ()))
    return sum(layers, counts())


def _halves_cost(style: Style, width_in: int, width: int, size: int) -> np.ndarray:
    halves = (width // 2, width - width // 2)
    return sum((_layer_cost(style, POINT, width_in, half, size) for half in halves), counts())


def _fit(style: Style, width_in: int, width: int, draw: np.random.Generator, affine: bool) -> nnx.Module:
    return Layer(style, POINT, width_in, width, draw, affine=affine, real=_real(style, affine, "inputs", "all"))


def _halve(style: Style, width_in: int, width: int, draw: np.random.Generator, affine: bool) -> nnx.Module:
    real = _real(style, affine, "inputs", "all")
    if style.template == "bnas":
        return Layer(style, Taps(3), width_in, width, draw, stride=2, affine=affine, real=real)
    return Halves(style, width_in, width, draw, affine, real)


def _fit_cost(style: Style, width_in: int, width: int, size: int, halves: bool) -> np.ndarray:
    if halves and style.template != "bnas":
        return _halves_cost(style, width_in, width, size)
    return _layer_cost(style, Taps(3) if halves else POINT, width_in, width, size)
