"""What ends the body of a one-stage detector: heads that are shared by the levels of a pyramid.

Lin et al., "Focal Loss for Dense Object Detection", 2017, https://arxiv.org/abs/1708.02002, with normalisation by each
level, as in the code of NAS-FPN. A body that gives no pyramid gets the plain one of Lin et al., "Feature Pyramid
Networks for Object Detection", 2017, https://arxiv.org/abs/1612.03144, on its last three maps.

A body may give several pyramids, each made of the one before it: these are exits, at which a network may be left. The
heads are those of all of them, and what is normalised has the statistics, scale and bias of its exit.
"""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from nas.tasks.detection.boxes import ANCHORS, LEVELS
from spaces.layers import BatchNorm, Conv, Pointwise

Shape = tuple[int, ...]  # height, width, channels
PLAIN_WIDTH = 64  # of a pyramid that is not the space's
PRIOR = 0.01  # of an anchor to find anything, before training
FINAL_SCALE = 0.01  # of the last convolutions' initial weights


def depth(width: int) -> int:
    """Convolutions of each head before its last one: as many as RetinaNet has, in narrow ones as few as EfficientDet's
    (Tan et al., 2020, https://arxiv.org/abs/1911.09070) or fewer."""
    return 4 if width >= 160 else 3 if width >= 64 else 2


def is_pyramid(shapes: Sequence[Shape]) -> bool:
    """Whether these maps are the levels of one: equally wide, each half as large as the one before it."""
    halves = all(-(-a[0] // 2) == b[0] and -(-a[1] // 2) == b[1] for a, b in itertools.pairwise(shapes))
    return len(shapes) == LEVELS and len({shape[2] for shape in shapes}) == 1 and halves


def exits_of(shapes: Sequence[Shape]) -> int:
    """Of how many pyramids, one after the other, these are the maps; 0 where they are none."""
    count, rest = divmod(len(shapes), LEVELS)
    first = list(shapes[:LEVELS])
    return count if not rest and is_pyramid(first) and list(shapes) == first * count else 0


def check(shapes: Sequence[Shape]) -> None:
    """Raises ValueError for maps that no heads end."""
    if len(shapes) < 3:
        raise ValueError(f"a detector needs the maps of three resolutions or more, not of {len(shapes)}")


def cost(shapes: Sequence[Shape], num_classes: int) -> dict[str, int]:
    """Multiply-adds of one image, at the one exit that is taken, and parameters, of `Heads`."""
    check(shapes)
    macs = params = 0
    exits = exits_of(shapes)
    sizes, width = [shape[:2] for shape in shapes[:LEVELS]], shapes[0][2]
    if not exits:
        sizes, width, exits = [shape[:2] for shape in shapes[-3:]], PLAIN_WIDTH, 1
        for (rows, columns), shape in zip(sizes, shapes[-3:], strict=True):
            weights = shape[2] * width + 9 * width**2
            macs, params = macs + weights * rows * columns, params + weights + 2 * width
        while len(sizes) < LEVELS:
            rows, columns = sizes[-1]
            sizes.append((-(-rows // 2), -(-columns // 2)))
    for outputs in (ANCHORS * num_classes, ANCHORS * 4):
        weights = 9 * width * (depth(width) * width + outputs)
        macs += weights * sum(rows * columns for rows, columns in sizes)
        params += weights + outputs + exits * LEVELS * depth(width) * 2 * width
    return {"macs": macs, "params": params}


class Level(nnx.Module):
    """The normalisation of one level, after each convolution of a head."""

    def __init__(self, width: int, count: int):
        self.norms = nnx.List([BatchNorm(width, affine=True) for _ in range(count)])


class Tower(nnx.Module):
    """One head: convolutions that all levels share, each with a level's own normalisation, and a last one with bias.
    The levels are those of all exits, one after the other."""

    def __init__(self, width: int, outputs: int, bias: float, draw: np.random.Generator, exits: int = 1):
        scale, count = (2 / (9 * width)) ** 0.5, depth(width)
        self.convs = nnx.List([Conv((3, 3), width, width, draw, scale=scale) for _ in range(count)])
        self.levels = nnx.List([Level(width, count) for _ in range(exits * LEVELS)])
        self.last = Conv((3, 3), width, outputs, draw, scale=FINAL_SCALE)
        self.bias = nnx.Param(np.full(outputs, bias, np.float32))

    def __call__(self, x: Float[Array, "n h w c"], level: int, train: bool) -> Float[Array, "n h w outputs"]:
        for conv, norm in zip(self.convs, self.levels[level].norms, strict=True):
            x = jax.nn.relu(norm(conv(x), train))
        return self.last(x) + jnp.asarray(self.bias.get_value(), x.dtype)[None, None, None]


class PlainPyramid(nnx.Module):
    """Five levels of the last three maps: from the coarsest down they are added up; the last two are pooled."""

    def __init__(self, shapes: Sequence[Shape], width: int, draw: np.random.Generator):
        inputs = [shape[2] for shape in shapes[-3:]]
        self.laterals = nnx.List([Pointwise(wide, width, draw, scale=wide**-0.5) for wide in inputs])
        self.convs = nnx.List([Conv((3, 3), width, width, draw, scale=(1 / (9 * width)) ** 0.5) for _ in inputs])
        self.norms = nnx.List([BatchNorm(width, affine=True) for _ in inputs])

    def __call__(self, maps: Sequence[Array], train: bool) -> list[Array]:
        merged = [lateral(x) for lateral, x in zip(self.laterals, maps[-len(self.laterals) :], strict=True)]
        for i in reversed(range(len(merged) - 1)):
            rows, columns = merged[i].shape[1:3]
            above = merged[i + 1].repeat(2, axis=1).repeat(2, axis=2)[:, :rows, :columns]
            merged[i] = merged[i] + above
        levels = [norm(conv(x), train) for x, conv, norm in zip(merged, self.convs, self.norms, strict=True)]
        while len(levels) < LEVELS:
            x = levels[-1]
            pads = ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0))
            levels.append(lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), pads))
        return levels


class Heads(nnx.Module):
    """Gives for each level the logits of classes `[n, h, w, anchors * classes]` and the boxes `[n, h, w, anchors * 4]`,
    relative to anchors; where there are several exits, for the levels of each."""

    def __init__(self, shapes: Sequence[Shape], num_classes: int, draw: np.random.Generator):
        check(shapes)
        own = exits_of(shapes)
        width, self.exits = shapes[0][2] if own else PLAIN_WIDTH, max(own, 1)
        self.pyramid = nnx.List([] if own else [PlainPyramid(shapes, width, draw)])
        self.classes = Tower(width, ANCHORS * num_classes, -math.log((1 - PRIOR) / PRIOR), draw, self.exits)
        self.boxes = Tower(width, ANCHORS * 4, 0.0, draw, self.exits)

    def end(self, exit: int) -> None:
        """From now on it ends the pyramid of one exit, counted from 1."""
        self.exits = 1
        for tower in (self.classes, self.boxes):
            tower.levels = nnx.List(list(tower.levels)[(exit - 1) * LEVELS : exit * LEVELS])

    def __call__(self, maps: Sequence[Array], *, train: bool) -> tuple[tuple[Array, Array], ...]:
        levels = list(maps)
        for pyramid in self.pyramid:
            levels = pyramid(levels, train)
        return tuple((self.classes(x, i, train), self.boxes(x, i, train)) for i, x in enumerate(levels))
