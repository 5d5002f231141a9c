"""Networks of two kinds of cells: a stem, cells of which two reduce the resolution, a classifier.

Each cell sees the outputs of the two cells before it, brought to its width. Successive cells of equal shape are one
loop (`cell_runs.Run`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from spaces.cell_kit import PLAIN, Counts, Kit, counts
from spaces.cell_ops import spread
from spaces.cell_runs import Drop, Run, Shape
from spaces.layers import BatchNorm, Conv, Pointwise, normal, stages
from spaces.precision import widened
from spaces.shared import is_mixture


@dataclasses.dataclass(frozen=True)
class Frame:
    """What a network is beside its cells: `cells` of them, the first `width` channels wide.

    `stem` is `cifar` (a convolution to `stem_multiplier` times the width) or `imagenet` (three of stride 2).
    """

    width: int
    cells: int
    stem: str
    stem_multiplier: int
    image_size: int
    image_channels: int
    num_classes: int
    kit: Kit = PLAIN

    def __post_init__(self):
        least = {"width": 2, "cells": 2, "stem_multiplier": 1, "image_size": 1, "image_channels": 1, "num_classes": 0}
        for name, number in least.items():
            if getattr(self, name) < number:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {number}")
        if self.width % 2:
            raise ValueError(f"width={self.width} must be even")
        if self.stem not in ("cifar", "imagenet"):
            raise ValueError(f"stem={self.stem!r} must be 'cifar' or 'imagenet'")

    @property
    def reductions(self) -> tuple[int, ...]:
        return tuple(sorted({self.cells // 3, 2 * self.cells // 3}))

    def shapes(self, outputs: tuple[int, int]) -> list[Shape]:
        """`outputs` is how many states the outputs of a normal and of a reduction cell join."""
        shapes: list[Shape] = []
        if self.stem == "imagenet":
            size, wide, after = -(-self.image_size // 8), self.width, True
        else:
            size, wide, after = self.image_size, self.stem_multiplier * self.width, False
        width, i, channels = self.width, 0, (wide, wide)
        while i < self.cells:
            reduction = i in self.reductions
            count = 1
            while not reduction and i + count < self.cells and i + count not in self.reductions:
                count += 1
            width = 2 * width if reduction else width
            shape = Shape(i, count, reduction, width, size, channels, after)
            shapes.append(shape)
            wide = width * outputs[reduction]
            channels = (channels[1] if count == 1 else wide, wide)
            size, after, i = shape.out, reduction, i + count
        return shapes

    def maps(self, outputs: tuple[int, int]) -> tuple[tuple[int, int, int], ...]:
        """Rows, columns and channels of the maps that a body gives, the finest first."""
        last = {shape.out: shape.width * outputs[shape.reduction] for shape in self.shapes(outputs)}
        return tuple((side, side, channels) for side, channels in last.items())

    def cost(self, outputs: tuple[int, int]) -> Counts:
        """Of all but the operations of cells."""
        sides = [self.image_size]
        if self.stem == "imagenet":
            half = self.width // 2
            stem = [(self.image_channels, half), (half, self.width), (self.width, self.width)]
            for _ in stem:
                sides.append(-(-sides[-1] // 2))
            sides = sides[1:]
        else:
            stem = [(self.image_channels, self.stem_multiplier * self.width)]
        macs = sum(9 * i * o * side**2 for (i, o), side in zip(stem, sides, strict=True))
        weights = sum(9 * i * o for i, o in stem)
        shapes = self.shapes(outputs)
        found = counts(macs=macs, weights=weights, channels=sum(i if self.kit.norm_first else o for i, o in stem))
        for shape in shapes:
            inner = shape.width * outputs[shape.reduction]
            for i in range(shape.length):
                before = (shape.width_in, (shape.width_in[1], inner), (inner, inner))[min(i, 2)]
                halves = shape.after_reduction and i == 0
                found += self.kit.fit_cost(before[0], shape.width, shape.size, halves)
                found += self.kit.fit_cost(before[1], shape.width, shape.size, False)
            if self.kit.skip_cost and shape.reduction and shape.first:
                found += self.kit.skip_cost(shape.width_in[1], inner, shape.out)
        last = shapes[-1].width * outputs[shapes[-1].reduction]
        return found + counts(macs=last * self.num_classes, weights=(last + 1) * self.num_classes)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a space of cells says of its networks beside the cells: a frame, with defaults."""

    width: int = 16
    """Channels of the operations in the first cell."""
    cells: int = 8
    """How many; the ones at a third and two thirds reduce the resolution and double the width."""
    stem: str = "cifar"
    """`cifar`, a convolution; or `imagenet`, three of stride 2."""
    stem_multiplier: int = 3
    """Channels of the stem `cifar`, as a multiple of the width."""
    image_size: int = 32
    image_channels: int = 3
    num_classes: int = 10

    cells_train: ClassVar[bool] = True  # see `spaces.abilities.Celled`

    @property
    def kit(self) -> Kit:
        return PLAIN

    def __post_init__(self):
        _ = self.frame  # which says what is wrong with it

    @property
    def frame(self) -> Frame:
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(Frame)}
        return Frame(**own)

    def own_sizes(self) -> dict:
        """Those that no task decides."""
        return {name: getattr(self, name) for name in ("width", "cells", "stem", "stem_multiplier")}


class Stem(nnx.Module):
    """What the first two cells see. Its normalisation is affine in a search too."""

    def __init__(self, frame: Frame, draw: np.random.Generator):
        channels, width = frame.image_channels, frame.width
        self.large = frame.stem == "imagenet"
        if self.large:
            widths = [(channels, width // 2), (width // 2, width), (width, width)]
        else:
            widths = [(channels, frame.stem_multiplier * width)]
        strides = (2, 2) if self.large else (1, 1)
        self.convs = nnx.List([Conv((3, 3), i, o, draw, strides=strides, scale=spread(9 * i)) for i, o in widths])
        self.first = frame.kit.norm_first
        self.norms = nnx.List([BatchNorm(i if self.first else o, affine=True) for i, o in widths])

    def __call__(self, images: Array, train: bool) -> tuple[Array, Array]:
        if self.first:
            maps = [images]
            for conv, norm in zip(self.convs, self.norms, strict=True):
                maps.append(jax.nn.relu(conv(norm(maps[-1], train))))
            return maps[-2] if self.large else maps[-1], maps[-1]
        x = self.norms[0](self.convs[0](images), train)
        if not self.large:
            return x, x
        before = self.norms[1](self.convs[1](jax.nn.relu(x)), train)
        return before, self.norms[2](self.convs[2](jax.nn.relu(before)), train)


class Auxiliary(nnx.Module):
    """A second classifier that sees the output of the second reduction, in training only: its loss is added, weighted
    by 0.4, to that of the network. The images are 7 or 8 pixels wide there."""

    def __init__(self, frame: Frame, width: int, size: int, draw: np.random.Generator):
        if size not in (7, 8):
            raise ValueError(f"an auxiliary head needs 7 or 8 pixels of a side after two reductions, not {size}")
        self.stride = size - 5
        self.first = Pointwise(width, 128, draw, scale=spread(width))
        self.norm = BatchNorm(128, affine=True)
        self.second = nnx.Param(normal(draw, (2, 2, 128, 768), spread(4 * 128)))
        # The code of DARTS leaves out this normalisation on ImageNet, as the published results do.
        self.last = BatchNorm(768, affine=True) if frame.stem == "cifar" else None
        self.head = Pointwise(768, frame.num_classes, draw, scale=spread(768))
        self.bias = nnx.Param(np.zeros(frame.num_classes, np.float32))

    def __call__(self, x: Array, train: bool) -> Array:
        x, stride = jax.nn.relu(x), self.stride
        x = jnp.stack(
            [x[:, i : i + 5, j : j + 5].mean((1, 2)) for i in (0, stride) for j in (0, stride)], 1
        )  # the mean over windows of 5 x 5 pixels
        x = jax.nn.relu(self.norm(self.first(x)[:, None], train))[:, 0]
        x = x.reshape(len(x), -1) @ jnp.asarray(self.second.get_value(), x.dtype).reshape(-1, 768)
        if self.last is not None:
            x = self.last(x[:, None, None], train)[:, 0, 0]
        x = widened(jax.nn.relu(x))
        return self.head(x) + jnp.asarray(self.bias.get_value(), x.dtype)[None]


class Body(nnx.Module):
    """Stem and runs of cells. Gives the map of each resolution, the finest first."""

    def __init__(
        self,
        frame: Frame,
        outputs: tuple[int, int],
        core: Callable[[Shape], Any],
        draw: np.random.Generator,
        affine: bool,
        scheduled: bool = False,
    ):
        self.stem = Stem(frame, draw)
        shapes = frame.shapes(outputs)
        self.runs = nnx.List([Run(shape, outputs, core(shape), draw, affine, frame.kit) for shape in shapes])
        self.drop_cells = frame.cells if scheduled else None

    def __call__(
        self,
        images: Float[Array, "n height width channels"],
        path: Any = (),
        *,
        train: bool = False,
        key: jax.Array | None = None,
        drop_path: Float[Array, ""] | float | None = None,
    ) -> Any:
        """`path` is an encoding, or a mixture: a weight for each operation of each edge, of the normal cell and then
        of the reduction cell (`[28, 8]`, or a pair). A mixture is normalised by the batch, in evaluation too, and
        leaves no statistics. A network of one architecture needs no path; in training its operations are dropped with
        the probability `drop_path`, where there is one and a key."""
        if isinstance(path, tuple) and len(path) == 2:
            path = jnp.concatenate(path)
        drop = None
        if train and key is not None and drop_path is not None:
            drop = Drop(key, drop_path, self.drop_cells)
        if is_mixture(path):
            return nnx.clone(self)._outputs(images, path, True, drop)
        return self._outputs(images, path, train, drop)

    def _outputs(self, images: Array, path: Any, train: bool, drop: Drop | None) -> Any:
        return stages(self._maps(images, path, train, drop))

    def _maps(self, images: Array, path: Any, train: bool, drop: Drop | None) -> list[Array]:
        """After each run."""
        before, last = self.stem(images, train)
        maps = []
        for run in self.runs:
            before, last = run(before, last, path, train, drop)
            maps.append(last)
        return maps


class Network(Body):
    """A body, mean over pixels, classifier. Gives logits `[n, num_classes]`.

    With an auxiliary head it gives in training a pair of logits: those of the classifier, and those of that head.
    """

    def __init__(
        self,
        frame: Frame,
        outputs: tuple[int, int],
        core: Callable[[Shape], Any],
        draw: np.random.Generator,
        affine: bool,
        scheduled: bool = False,
        auxiliary: bool = False,
    ):
        super().__init__(frame, outputs, core, draw, affine, scheduled)
        shapes = frame.shapes(outputs)
        wide = [shape.width * outputs[shape.reduction] for shape in shapes]
        self.head = Pointwise(wide[-1], frame.num_classes, draw, scale=spread(wide[-1]))
        self.bias = nnx.Param(np.zeros(frame.num_classes, np.float32))
        self.last_reduction = max(i for i, shape in enumerate(shapes) if shape.reduction)
        self.auxiliary = nnx.List([])  # or the one there is
        if auxiliary:
            last = shapes[self.last_reduction]
            self.auxiliary.append(Auxiliary(frame, wide[self.last_reduction], last.out, draw))

    def _outputs(self, images: Array, path: Any, train: bool, drop: Drop | None) -> Any:
        maps = self._maps(images, path, train, drop)
        logits = self.head(widened(maps[-1]).mean((1, 2)))
        logits = logits + jnp.asarray(self.bias.get_value(), logits.dtype)[None]
        if not (self.auxiliary and train):
            return logits
        return logits, self.auxiliary[0](maps[self.last_reduction], train)
