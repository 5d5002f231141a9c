"""Residual networks as bodies of detectors: the maps of four stages, of strides 4 to 32.

He et al., "Deep Residual Learning for Image Recognition", 2016, https://arxiv.org/abs/1512.03385, with the stride of a
bottleneck in its 3 x 3 convolution, as in torchvision, from whose counts the tests take theirs.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from spaces.layers import BatchNorm, Conv, largest

BLOCKS = {"resnet-10": (1, 1, 1, 1), "resnet-18": (2, 2, 2, 2), "resnet-50": (3, 4, 6, 3)}
BLOCKS["resnet-10-thin"] = BLOCKS["resnet-10"]  # a sixteenth of its multiply-adds, for small images on a CPU
BOTTLENECKS = ("resnet-50",)


def stem_width(name: str) -> int:
    return 16 if name.endswith("-thin") else 64


class Layer(NamedTuple):
    """A convolution of k x k taps and its normalisation."""

    k: int
    width_in: int
    width_out: int
    stride: int = 1


class Spec(NamedTuple):
    """A block: its convolutions, and that of its shortcut where the shape changes."""

    layers: tuple[Layer, ...]
    shortcut: Layer | None
    stage: int


def specs(name: str) -> Iterator[Spec]:
    """The blocks of a network by name, one of `BLOCKS`."""
    width_in = stem_width(name)
    for stage, count in enumerate(BLOCKS[name]):
        width = stem_width(name) * 2**stage
        for i in range(count):
            stride = 2 if stage and not i else 1
            if name in BOTTLENECKS:
                out = 4 * width
                layers = (Layer(1, width_in, width), Layer(3, width, width, stride), Layer(1, width, out))
            else:
                out = width
                layers = (Layer(3, width_in, width, stride), Layer(3, width, out))
            yield Spec(layers, Layer(1, width_in, out, stride) if stride > 1 or width_in != out else None, stage)
            width_in = out


def widths(name: str) -> tuple[int, ...]:
    """Channels of the map of each stage."""
    return tuple({spec.stage: spec.layers[-1].width_out for spec in specs(name)}.values())


def cost(name: str, image_channels: int, image_size: int) -> tuple[int, int]:
    """Multiply-adds of one image, and parameters with affine normalisation."""
    size = -(-image_size // 2)
    stem = stem_width(name)
    macs, params = 49 * image_channels * stem * size**2, 49 * image_channels * stem + 2 * stem
    size = -(-size // 2)
    for layers, shortcut, _ in specs(name):
        start = size
        for k, width_in, width_out, stride in layers:
            size = -(-size // stride)
            macs += k * k * width_in * width_out * size**2
            params += k * k * width_in * width_out + 2 * width_out
        if shortcut is not None:
            _, width_in, width_out, stride = shortcut
            macs += width_in * width_out * (-(-start // stride)) ** 2
            params += width_in * width_out + 2 * width_out
    return macs, params


class ConvNorm(nnx.Module):
    def __init__(self, layer: Layer, draw: np.random.Generator, affine: bool):
        k, width_in, width_out, stride = layer
        scale = (2 / (k * k * width_out)) ** 0.5
        self.conv = Conv((k, k), width_in, width_out, draw, strides=(stride, stride), scale=scale)
        self.norm = BatchNorm(width_out, affine=affine)

    def __call__(self, x: Array, train: bool) -> Array:
        return self.norm(self.conv(x), train)


class Block(nnx.Module):
    def __init__(self, spec: Spec, draw: np.random.Generator, affine: bool):
        self.layers = nnx.List([ConvNorm(layer, draw, affine) for layer in spec.layers])
        self.shortcut = nnx.List([] if spec.shortcut is None else [ConvNorm(spec.shortcut, draw, affine)])

    def __call__(self, x: Array, train: bool) -> Array:
        y = x
        for i, layer in enumerate(self.layers):
            y = layer(jax.nn.relu(y) if i else y, train)
        for layer in self.shortcut:
            x = layer(x, train)
        return jax.nn.relu(x + y)


class ResNet(nnx.Module):
    """Gives the maps of its four stages, the finest first."""

    def __init__(self, name: str, image_channels: int, draw: np.random.Generator, affine: bool = True):
        self.stem = ConvNorm(Layer(7, image_channels, stem_width(name), 2), draw, affine)
        blocks = list(specs(name))
        self.blocks = nnx.List([Block(spec, draw, affine) for spec in blocks])
        self.ends = tuple(
            i for i, spec in enumerate(blocks) if i + 1 == len(blocks) or blocks[i + 1].stage > spec.stage
        )

    def __call__(self, images: Float[Array, "n height width channels"], train: bool) -> tuple[Array, ...]:
        x = jax.nn.relu(self.stem(images, train))
        x = largest(x, 3, 2, (1, 1))
        maps = []
        for block in self.blocks:
            x = block(x, train)
            maps.append(x)
        return tuple(maps[i] for i in self.ends)
