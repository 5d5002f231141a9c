"""Pyramids that people drew, to compare with those that are found: FPN, PANet and BiFPN.

Each takes the five maps P3 to P7 and gives five of the same shapes, as `spaces.nas_fpn.Neck` does, so that it is built
on the same backbone and trained with the same head and schedule (`reference`).

FPN: Lin et al., 2017, https://arxiv.org/abs/1612.03144, as in tensorflow/tpu: the maps of the backbone, P3 to P5, are
added from the coarsest down, and each of the five has a convolution. PANet: Liu et al., 2018,
https://arxiv.org/abs/1803.01534: an FPN, then from the finest up by convolutions of stride 2. BiFPN: Tan et al.,
"EfficientDet", 2020, https://arxiv.org/abs/1911.09070, as in google/automl.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from spaces.abilities import Drawing, Published
from spaces.layers import BatchNorm, Conv, Depthwise, Pointwise, largest
from spaces.pyramid_path import finer

LEVELS: tuple[int, ...] = (3, 4, 5, 6, 7)
BACKBONE_LEVELS = 3  # P3 to P5; what is coarser are these, pooled
FUSION_EPSILON = 1e-4
Maps = tuple[Array, ...]


class ConvNorm(nnx.Module):
    def __init__(self, width: int, draw: np.random.Generator, stride: int = 1):
        scale = (1 / (9 * width)) ** 0.5
        self.conv = Conv((3, 3), width, width, draw, strides=(stride, stride), scale=scale)
        self.norm = BatchNorm(width, affine=True)

    def __call__(self, x: Array, train: bool) -> Array:
        return self.norm(self.conv(x), train)


class FPN(nnx.Module):
    def __init__(self, width: int, draw: np.random.Generator):
        self.convs = nnx.List([ConvNorm(width, draw) for _ in LEVELS])

    def __call__(self, pyramid: Maps, train: bool) -> Maps:
        maps = list(pyramid)
        for i in reversed(range(BACKBONE_LEVELS - 1)):
            maps[i] = maps[i] + finer(maps[i + 1], 2)
        return tuple(conv(x, train) for conv, x in zip(self.convs, maps, strict=True))


class PANet(nnx.Module):
    def __init__(self, width: int, draw: np.random.Generator):
        self.fpn = FPN(width, draw)
        self.down = nnx.List([ConvNorm(width, draw, stride=2) for _ in LEVELS[1:]])
        self.convs = nnx.List([ConvNorm(width, draw) for _ in LEVELS[1:]])

    def __call__(self, pyramid: Maps, train: bool) -> Maps:
        finest, *rest = self.fpn(pyramid, train)
        maps = [finest]
        for x, down, conv in zip(rest, self.down, self.convs, strict=True):
            maps.append(jax.nn.relu(conv(x + jax.nn.relu(down(maps[-1], train)), train)))
        return tuple(maps)


class Fusion(NamedTuple):
    """A node of a BiFPN: the place of its level in `LEVELS`, and the nodes that it takes. The five maps are nodes 0
    to 4."""

    level: int
    inputs: tuple[int, ...]


BIFPN = (
    *(Fusion(3, (3, 4)), Fusion(2, (2, 5)), Fusion(1, (1, 6)), Fusion(0, (0, 7))),
    *(Fusion(1, (1, 7, 8)), Fusion(2, (2, 6, 9)), Fusion(3, (3, 5, 10)), Fusion(4, (4, 11))),
)


class Fused(nnx.Module):
    """The mean of the inputs by learned weights, swish, a separable 3 x 3 convolution with bias and normalisation."""

    def __init__(self, inputs: int, width: int, draw: np.random.Generator, weighted: bool):
        self.weights = nnx.Param(np.ones(inputs, np.float32)) if weighted else None
        self.depthwise = Depthwise(3, width, draw, scale=1 / 3)
        self.pointwise = Pointwise(width, width, draw, scale=width**-0.5)
        self.bias = nnx.Param(np.zeros(width, np.float32))
        self.norm = BatchNorm(width, affine=True)

    def __call__(self, inputs: list[Array], train: bool) -> Array:
        if self.weights is None:
            x = sum(inputs[1:], inputs[0])
        else:
            weights = jax.nn.relu(jnp.asarray(self.weights.get_value()))
            shares = (weights / (weights.sum() + FUSION_EPSILON)).astype(inputs[0].dtype)
            x = sum((share * each for share, each in zip(shares[1:], inputs[1:], strict=True)), shares[0] * inputs[0])
        x = self.pointwise(self.depthwise(jax.nn.swish(x)))
        return self.norm(x + jnp.asarray(self.bias.get_value(), x.dtype)[None, None, None], train)


class BiFPN(nnx.Module):
    """Without weights it adds, as D6 and D7 do."""

    def __init__(self, width: int, draw: np.random.Generator, weighted: bool = True):
        self.nodes = nnx.List([Fused(len(node.inputs), width, draw, weighted) for node in BIFPN])

    def __call__(self, pyramid: Maps, train: bool) -> Maps:
        maps, levels = list(pyramid), list(range(len(LEVELS)))
        for (level, inputs), node in zip(BIFPN, self.nodes, strict=True):
            maps.append(node([_beside(maps[i], levels[i], level) for i in inputs], train))
            levels.append(level)
        return tuple(maps[-len(LEVELS) :])


def _beside(x: Array, source: int, target: int) -> Array:
    """A map at a level that is at most one away, pooled over 3 x 3 pixels."""
    if target > source:
        return largest(x, 3, 2, (x.shape[1] % 2, 1))  # as many pixels as there are halves of the side
    return finer(x, 2) if target < source else x


REFERENCES = {"FPN": FPN, "PANet": PANet, "BiFPN": BiFPN}


def cost(name: str, width: int, image_size: int, stacks: int = 1, weighted: bool = True) -> dict[str, int]:
    """Multiply-adds of one image and parameters of a pyramid by name, without what brings maps to its width."""
    areas = [(image_size // 2**level) ** 2 for level in LEVELS]
    dense = 9 * width**2
    if name == "BiFPN":
        separable = 9 * width + width**2
        macs = sum(separable * areas[node.level] for node in BIFPN)
        params = len(BIFPN) * (separable + 3 * width) + weighted * sum(len(node.inputs) for node in BIFPN)
    else:
        convs = areas + (2 * areas[1:] if name == "PANet" else [])
        macs, params = dense * sum(convs), len(convs) * (dense + 2 * width)
    return {"macs": stacks * macs, "params": stacks * params}


class Scale(NamedTuple):
    """A BiFPN of EfficientDet. The formula of the paper does not give these widths."""

    width: int
    cells: int
    image_size: int
    weighted: bool = True


EFFICIENTDET = {
    "D0": Scale(64, 3, 512),
    "D1": Scale(88, 4, 640),
    "D2": Scale(112, 5, 768),
    "D3": Scale(160, 6, 896),
    "D4": Scale(224, 7, 1024),
    "D5": Scale(288, 7, 1280),
    "D6": Scale(384, 8, 1280, weighted=False),
    "D7": Scale(384, 8, 1536, weighted=False),
}


def published(name: str) -> Published:
    """KeyError for a name that is not in `REFERENCES`."""
    costs = {"neck at 640 pixels, 256 channels, 1 stack": cost(name, 256, 640)}
    if name == "BiFPN":
        costs = {
            f"{key}: {cells} cells at {size} pixels, {width} channels": cost(name, width, size, cells, weighted)
            for key, (width, cells, size, weighted) in EFFICIENTDET.items()
        }
    drawn = _drawn(name)
    return Published(DESCRIPTIONS[name], [drawn], costs)


DESCRIPTIONS = {
    "FPN": "each of P3 to P5 with the coarser one added, from the coarsest down; 3 x 3 convolutions at five levels",
    "PANet": "an FPN, then each level with the finer one added by a convolution of stride 2, from the finest up",
    "BiFPN": " ".join(f"({','.join(map(str, node.inputs))})@{LEVELS[node.level]}" for node in BIFPN),
}


def _drawn(name: str) -> Drawing:
    names = [f"P{level}" for level in LEVELS]
    if name == "BiFPN":
        names += [f"fused {LEVELS[node.level]}" for node in BIFPN]
        edges = [(i, len(LEVELS) + k, "") for k, node in enumerate(BIFPN) for i in node.inputs]
        return Drawing("pyramid", tuple(names), tuple(edges))
    n = len(LEVELS)
    sums = [f"sum {level}" for level in LEVELS[: BACKBONE_LEVELS - 1]]
    names += [*sums, *(f"conv {level}" for level in LEVELS)]
    merged = [n + i if i < len(sums) else i for i in range(n)]
    first = n + len(sums)
    edges = [(i, n + i, "") for i in range(len(sums))] + [(merged[i + 1], n + i, "finer") for i in range(len(sums))]
    edges += [(merged[i], first + i, "") for i in range(n)]
    if name == "PANet":
        names += [f"up {level}" for level in LEVELS[1:]]
        for i in range(1, n):
            below = first if i == 1 else first + n + i - 2
            edges += [(first + i, first + n + i - 1, ""), (below, first + n + i - 1, "coarser")]
    return Drawing("pyramid", tuple(names), tuple(edges))
