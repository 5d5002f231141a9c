"""Networks of one bit of fixed form, whose layers may have any width: residual networks and VGG-small.

The first convolution and the classifier are real. A layer is the convolution of signs, the largest of each window where
the resolution is halved by one, and normalisation; there are no other activations. Two layers of a residual network
have a shortcut around them, which is a layer with a 1 x 1 convolution where the resolution changes.

The form is that of Shen et al., "Searching for Accurate Binary Neural Architectures", 2019,
https://arxiv.org/abs/1909.07378, whose code has activations of 0 and 1. Here they are -1 and +1, so that products of
bits are XNOR, and are of what is normalised; that pooling comes before normalisation makes both about as frequent.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from spaces.binary_costs import Counts
from spaces.binary_ops import BinaryConv
from spaces.cell_ops import halved, max_pool
from spaces.layers import BatchNorm, Conv, normal, stages
from spaces.precision import widened
from spaces.sliced import Present, Widths, present, sliced


class Layer(NamedTuple):
    """A convolution of k x k taps. Its widths are those of decisions, but for the images and the classes: None."""

    k: int
    source: int | None
    target: int | None
    size: int  # pixels of a side of what the convolution gives
    stride: int = 1
    pool: int = 0  # pixels of a side of the windows of which the largest is taken, two pixels apart; 0 for none
    binary: bool = True

    @property
    def out(self) -> int:
        """Pixels of a side of what the layer gives."""
        return -(-self.size // 2) if self.pool else self.size

    def counts(self, width_in: Any, width_out: Any) -> Counts:
        """Of numbers, or of arrays that go together. A layer without a target is a classifier, and not normalised."""
        weights = self.k**2 * width_in * width_out
        macs, each = weights * self.size**2, width_out + 0 * weights
        channels = each * (self.target is not None)
        return Counts(macs, 0, weights, 0, each, channels) if self.binary else Counts(0, macs, 0, weights, 0, channels)


class Step(NamedTuple):
    """Layers one after another, and around them a shortcut: None, or a layer, or no layer, which is the input."""

    layers: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] | None = None


class Form(NamedTuple):
    """The steps of a body, and the classifier, which sees the mean over all pixels where its k is 1."""

    steps: tuple[Step, ...]
    classifier: Layer

    def layers(self) -> list[Layer]:
        return [layer for layers, shortcut in self.steps for layer in (*layers, *(shortcut or ()))]

    def ends(self) -> tuple[Layer, ...]:
        """Those that give the map of each resolution."""
        last = [step.layers[-1] for step in self.steps]
        return (*(one for one, following in itertools.pairwise(last) if following.out != one.out), last[-1])


def residual(blocks: tuple[int, ...], image_size: int, large_stem: bool, *, real_shortcuts: bool = False) -> Form:
    """Decisions are the widths of the stages, the first also that of the first convolution, and then those between the
    two layers of each block."""
    size = -(-image_size // 2) if large_stem else image_size
    stem = Layer(7, None, 0, size, 2, pool=3, binary=False) if large_stem else Layer(3, None, 0, size, binary=False)
    steps, size, decision = [Step((stem,))], stem.out, len(blocks)
    for stage, count in enumerate(blocks):
        for i in range(count):
            changes = stage > 0 and i == 0
            source, stride = (stage - 1, 2) if changes else (stage, 1)
            size = -(-size // stride)
            layers = Layer(3, source, decision, size, stride), Layer(3, decision, stage, size)
            shortcut = (Layer(1, source, stage, size, stride, binary=not real_shortcuts),) if changes else ()
            steps.append(Step(layers, shortcut))
            decision += 1
    return Form(tuple(steps), Layer(1, len(blocks) - 1, None, 1, binary=False))


def vgg(count: int, image_size: int) -> Form:
    """Decisions are the widths of the layers, of which every second one halves the resolution."""
    steps, size = [], image_size
    for i in range(count):
        layer = Layer(3, i - 1 if i else None, i, size, pool=2 * (i % 2), binary=i > 0)
        steps.append(Step((layer,)))
        size = layer.out
    return Form(tuple(steps), Layer(size, count - 1, None, 1, binary=False))


BLOCKS = {"resnet-18": (2, 2, 2, 2), "resnet-34": (3, 4, 6, 3)}
VGG_LAYERS = 6


def form(backbone: str, image_size: int, large_stem: bool) -> Form:
    """Of `vgg-small` or a name in `BLOCKS`."""
    if backbone == "vgg-small":
        return vgg(VGG_LAYERS, image_size)
    return residual(BLOCKS[backbone], image_size, large_stem)


class Unit(nnx.Module):
    """A layer of a body."""

    def __init__(self, layer: Layer, image_channels: int, widths: Widths, draw: np.random.Generator, affine: bool):
        source, target = layer.source, layer.target
        assert target is not None
        wide = image_channels if source is None else max(widths[source]), max(widths[target])
        taps, strides = (layer.k, layer.k), (layer.stride, layer.stride)
        scale = (layer.k**2 * wide[0]) ** -0.5
        if layer.binary:
            self.conv = BinaryConv(taps, *wide, draw, strides=strides)
        else:
            self.conv = Conv(taps, *wide, draw, strides=strides, scale=scale)
        self.norm = BatchNorm(wide[1], affine=affine)
        self.conv.kernel = sliced(self.conv.kernel, widths, {2: source, 3: target})
        if self.norm.scale is not None and self.norm.bias is not None:
            self.norm.scale, self.norm.bias = (
                sliced(each, widths, {0: target}) for each in (self.norm.scale, self.norm.bias)
            )
        self.source, self.target, self.pool = source, target, layer.pool

    def __call__(self, x: Array, there: Present, train: bool) -> Array:
        """Channels that are not `there` are 0 after it."""
        if isinstance(self.conv, BinaryConv):
            y = self.conv(x, None if self.source is None else there[self.source])
        else:
            y = self.conv(x)  # of images, or of an input of which channels that are not there are 0
        if self.pool:
            y = max_pool(y, 3, 2) if self.pool == 3 else halved(y)
        y, inside = self.norm(y, train), there[self.target]
        return y if inside is None else jnp.where(inside[None, None, None], y, 0)


class Part(nnx.Module):
    """A step of a body."""

    def __init__(self, step: Step, *how: Any):
        self.units = nnx.List([Unit(layer, *how) for layer in step.layers])
        self.around = step.shortcut is not None
        self.shortcut = nnx.List([Unit(layer, *how) for layer in step.shortcut or ()])

    def __call__(self, x: Array, there: Present, train: bool) -> Array:
        y = x
        for unit in self.units:
            y = unit(y, there, train)
        if not self.around:
            return y
        for unit in self.shortcut:
            x = unit(x, there, train)
        return x + y


class Body(nnx.Module):
    """Gives the map of each resolution, the finest first.

    Where decisions have several widths it is the network of all architectures: called with a path it is the one of
    that path, with the first of all channels.
    """

    def __init__(self, form: Form, image_channels: int, widths: Widths, draw: np.random.Generator, affine: bool):
        self.widths = widths
        self.parts = nnx.List([Part(step, image_channels, widths, draw, affine) for step in form.steps])

    def __call__(
        self,
        images: Float[Array, "n height width channels"],
        path: Any = (),
        *,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> Any:
        del key  # nothing here is random
        there, maps = present(self.widths, path), [images]
        for part in self.parts:
            maps.append(part(maps[-1], there, train))
        return self._outputs(stages(maps[1:]))

    def _outputs(self, maps: tuple[Array, ...]) -> Any:
        return maps


class Network(Body):
    """A body and its classifier. Gives logits `[n, num_classes]`."""

    def __init__(
        self,
        form: Form,
        image_channels: int,
        num_classes: int,
        widths: Widths,
        draw: np.random.Generator,
        affine: bool,
    ):
        super().__init__(form, image_channels, widths, draw, affine)
        k, source = form.classifier.k, form.classifier.source
        assert source is not None
        self.averages = k == 1
        shape = k**2, max(widths[source]), num_classes
        self.classifier = sliced(nnx.Param(normal(draw, shape, 0.01)), widths, {1: source})

    def _outputs(self, maps: tuple[Array, ...]) -> Float[Array, "n classes"]:
        x = widened(maps[-1])
        x = x.mean((1, 2)) if self.averages else x.reshape(len(x), -1)
        kernel = jnp.asarray(self.classifier.get_value(), x.dtype)
        return x @ kernel.reshape(-1, kernel.shape[-1])
