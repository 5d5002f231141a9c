"""The networks of merging cells: those of one architecture, and the one that all of them share."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from spaces import pyramid_path, resnet
from spaces.layers import BatchNorm, Conv, Depthwise, Pointwise
from spaces.merging import OUTPUTS, Cells, taken_up
from spaces.pyramid_path import largest, resampled
from spaces.pyramids import LEVELS
from spaces.shared import OneHot, is_mixture

# Modules take their sizes from the space that makes them, a `spaces.nas_fpn.NasFpn`.


def gated(coarse: Array, fine: Array) -> Array:
    """Both of one size. The gate is of what was the coarser map."""
    return coarse + fine * jax.nn.sigmoid(largest(coarse))


class Cell(nnx.Module):
    """What follows a merge: ReLU, a 3 x 3 convolution, dense or separable, and normalisation."""

    def __init__(self, width: int, draw: np.random.Generator, affine: bool = True, separable: bool = False):
        if separable:
            self.convs = nnx.List(
                [Depthwise(3, width, draw, scale=1 / 3), Pointwise(width, width, draw, scale=(2 / width) ** 0.5)]
            )
        else:
            self.convs = nnx.List([Conv((3, 3), width, width, draw, scale=(2 / (9 * width)) ** 0.5)])
        self.norm = BatchNorm(width, affine=affine)

    def conv(self, x: Array) -> Array:
        for conv in self.convs:
            x = conv(x)
        return x

    def __call__(self, x: Array, train: bool) -> Array:
        return self.norm(self.conv(jax.nn.relu(x)), train)


class Convolved(nnx.Module):
    """The cells of one stack, whatever they merge."""

    def __init__(self, count: int, width: int, draw: np.random.Generator, affine: bool, separable: bool = False):
        self.cells = nnx.List([Cell(width, draw, affine, separable) for _ in range(count)])


class Neck(Convolved):
    """One pyramid of another."""

    def __init__(self, cells: Cells, width: int, draw: np.random.Generator, separable: bool = False):
        super().__init__(len(cells), width, draw, affine=True, separable=separable)
        self.merges, self.added = cells, tuple(taken_up(cells))

    def __call__(self, pyramid: tuple[Array, ...], train: bool) -> tuple[Array, ...]:
        maps, levels = list(pyramid), list(LEVELS)
        for merge, more, cell in zip(self.merges, self.added, self.cells, strict=True):
            i, j = merge.first, merge.second
            if levels[j] > levels[i]:  # the coarser one first
                i, j = j, i
            coarse, fine = (resampled(maps[each], levels[each], merge.level) for each in (i, j))
            merged = gated(coarse, fine) if merge.op == "attn" else coarse + fine
            maps.append(cell(sum((maps[each] for each in more), merged), train))
            levels.append(merge.level)
        new = dict(zip(levels[-OUTPUTS:], maps[-OUTPUTS:], strict=True))
        return tuple(new[level] for level in LEVELS)


class Stem(nnx.Module):
    """The backbone, and what brings its maps to one width: gives P3 to P7. Without a backbone it is called with maps
    in place of images."""

    def __init__(self, space: Any, draw: np.random.Generator, affine: bool):
        own = not space.map_widths
        self.backbone = resnet.ResNet(space.backbone, space.image_channels, draw, affine) if own else None
        self.laterals = nnx.List([Pointwise(width, space.width, draw, scale=width**-0.5) for width in space.inputs])
        self.norms = nnx.List([BatchNorm(space.width, affine=affine) for _ in space.inputs])

    def __call__(self, images: Any, train: bool) -> tuple[Array, ...]:
        maps = images if self.backbone is None else self.backbone(images, train)[1:]
        pyramid = [norm(lateral(x), train) for x, lateral, norm in zip(maps, self.laterals, self.norms, strict=True)]
        while len(pyramid) < len(LEVELS):
            pyramid.append(resampled(pyramid[-1], 0, 1))
        return tuple(pyramid)


class Body(nnx.Module):
    """Backbone and necks of one architecture, without the heads of a detector. Gives the maps of the last pyramid, or
    where each is an exit, of all."""

    def __init__(self, stem: nnx.Module, necks: Sequence[nnx.Module], anytime: bool = False):
        self.stem, self.necks, self.anytime = stem, nnx.List(necks), anytime

    def end(self, exit: int) -> None:
        """From now on it gives the maps of one exit alone, counted from 1, and computes none beyond."""
        self.necks, self.anytime = nnx.List(list(self.necks)[:exit]), False

    def __call__(self, images: Any, path: Any = (), *, train: bool = False, key: Any = None) -> tuple[Array, ...]:
        del path, key  # of one architecture; nothing here is random
        stem: Any = self.stem
        pyramids = [stem(images, train)]
        for neck in self.necks:
            pyramids.append(neck(pyramids[-1], train))
        return tuple(x for maps in pyramids[1 if self.anytime else -1 :] for x in maps)


class Shared(nnx.Module):
    """Backbone and the cells of all architectures. The parameters lie as in the network of one architecture."""

    def __init__(self, space: Any, draw: np.random.Generator, affine: bool):
        self.stem = Stem(space, draw, affine)
        each = space.cells, space.width, draw, affine, space.separable
        self.necks = nnx.List([Convolved(*each) for _ in range(space.stacks)])
        self.space = space

    def __call__(self, images: Any, path: Any, *, train: bool = False, key: Any = None) -> tuple[Array, ...]:
        """A mixture is one-hot, is normalised by the batch, in evaluation too, and leaves no statistics."""
        del key
        if not is_mixture(path):
            return self._maps(images, jnp.asarray(path), None, train)
        if not isinstance(path, OneHot):
            raise ValueError("the cells of nas-fpn take one-hot mixtures alone, such as those of gumbel-darts")
        return nnx.clone(self)._maps(images, path.choices(), path.weights, True)

    def _maps(self, images: Any, path: Array, mixture: Array | None, train: bool) -> tuple[Array, ...]:
        cells = [cell for neck in self.necks for cell in neck.cells]
        route, norms = self.space.route(path), [cell.norm for cell in cells]
        ones, zeros = jnp.ones(self.space.width), jnp.zeros(self.space.width)
        weights = pyramid_path.Weights(
            tuple(
                jnp.stack([conv.kernel.get_value() for conv in convs])
                for convs in zip(*(cell.convs for cell in cells), strict=True)
            ),
            jnp.stack([ones if norm.scale is None else norm.scale.get_value() for norm in norms]),
            jnp.stack([zeros if norm.bias is None else norm.bias.get_value() for norm in norms]),
            jnp.ones((len(cells), 3)) if mixture is None else self.space.gains(path, mixture),
        )
        given = pyramid_path.Moments(
            *(jnp.stack([getattr(norm, name).get_value() for norm in norms]) for name in ("mean", "var"))
        )
        how = pyramid_path.How(train, weighed=mixture is not None)
        maps, moments = pyramid_path.pyramid(how, self.stem(images, train), weights, given, route)
        if train:
            for i, norm in enumerate(norms):
                nnx.update(norm, {"mean": moments.mean[i], "var": moments.var[i]})
        return maps
