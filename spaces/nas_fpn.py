"""The space of merging cells that NAS-FPN searched: how a detector's feature pyramid is made of a backbone's maps.

Ghiasi et al., "NAS-FPN: Learning Scalable Feature Pyramid Architecture for Object Detection", 2019,
https://arxiv.org/abs/1904.07392. The pyramid has five levels, P3 to P7, of strides 8 to 128. A cell takes two features
that there are already, brings both to a level, merges them, and adds the result to those that later cells may take.
The last five cells are the new levels, each once, in an order that is part of the architecture.

What papers and code leave open, or differ in, is as in the authors' code (tensorflow/tpu, nasfpn.py):

- a map is made coarser by max pooling, and finer by its nearest pixels;
- `attn`: of the input of the coarser level (of equal levels the first) the largest value of each channel is the gate of
  the other input: coarse + fine * sigmoid(max(coarse));
- what has the level of one of the last five cells, and was taken by nobody before, is added to that cell;
- then ReLU, a 3 x 3 convolution, separable in the Lite variant, and normalisation;
- P6 and P7 are P5 and P6, pooled.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from spaces import pyramid_path, pyramids, resnet
from spaces.abilities import Drawing, Mixing, Published
from spaces.base import Encodings, additive_costs
from spaces.layers import BatchNorm, Conv, Depthwise, Pointwise, generator
from spaces.pyramid_path import largest, resampled
from spaces.pyramids import LEVELS
from spaces.shared import OneHot, is_mixture

OPS = ("sum", "attn")
OUTPUTS = len(LEVELS)
EACH = 4  # decisions of a cell: first input, second input of those that are left, level, operation
CELL = re.compile(r"(sum|attn)\(([Pf]\d{1,3}),([Pf]\d{1,3})\)@(\d)")


class Merge(NamedTuple):
    """A cell: which features it takes, by their numbers in the pool, its level and its operation."""

    first: int
    second: int
    level: int
    op: str


Cells = tuple[Merge, ...]


@dataclasses.dataclass(frozen=True)
class NasFpn:
    """`cells` merging cells of `width` channels, stacked `stacks` times, on a residual network."""

    cells: int = 7
    width: int = 256
    stacks: int = 1
    separable: bool = False
    """Cells convolve each channel by itself and then each pixel, as NAS-FPNLite does."""
    backbone: str = "resnet-50"
    image_size: int = 640
    image_channels: int = 3
    num_classes: int = 0
    """The head of the task ends the network, so there is no classifier."""
    map_widths: tuple[int, ...] = ()
    """Channels of the maps, of strides 8, 16 and 32, that another space's network gives in place of a backbone."""

    def __post_init__(self):
        for name, least in (("cells", OUTPUTS), ("width", 1), ("stacks", 1), ("image_channels", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.num_classes:
            tasks = "--task voc:DIR, coco:JSON,DIR or scenes"
            raise ValueError(f"num_classes={self.num_classes} must be 0, for nas-fpn is for detection: {tasks}")
        if self.map_widths and self.backbone != "none":
            raise ValueError(f"backbone={self.backbone!r} must be none: another space gives the maps")
        if not self.map_widths and self.backbone not in resnet.BLOCKS:
            raise ValueError(f"backbone={self.backbone!r} must be one of {', '.join(resnet.BLOCKS)}")
        if self.image_size < 1 or self.image_size % 2 ** LEVELS[-1]:
            raise ValueError(f"image_size={self.image_size} must be a multiple of {2 ** LEVELS[-1]}")

    @property
    def inputs(self) -> tuple[int, ...]:
        """Channels of the maps that the pyramid is made of."""
        return self.map_widths or resnet.widths(self.backbone)[1:]

    @property
    def free(self) -> int:
        """How many cells are no new levels."""
        return self.cells - OUTPUTS

    @property
    def cardinalities(self) -> tuple[int, ...]:
        sizes: list[int] = []
        for t in range(self.cells):
            pool = OUTPUTS + t
            sizes += [pool, pool - 1, OUTPUTS - max(t - self.free, 0), len(OPS)]
        return tuple(sizes)

    def size(self) -> int:
        """How many architectures there are, as the paper counts them: pairs of inputs have no order."""
        pairs = math.prod(math.comb(OUTPUTS + t, 2) for t in range(self.cells))
        return pairs * len(OPS) ** self.cells * OUTPUTS**self.free * math.factorial(OUTPUTS)

    def identity(self) -> dict:
        fields = ("cells", "width", "stacks", "backbone", *(["separable"] if self.separable else []))
        return {"ops": OPS, "levels": LEVELS, **{name: getattr(self, name) for name in fields}}

    def canonical(self, encodings: Encodings) -> Encodings:
        """The inputs of a cell in the order of the pool, but where it gates and both are of one level; and of cells
        that may change places, those first whose inputs are.

        No cell is without use: what no cell takes is added to the last cell of its level."""
        rows, n = encodings.reshape(len(encodings), self.cells, EACH), len(encodings)
        order, (first, second) = self.order(encodings), _inputs(rows)
        level, op = self._levels(encodings), rows[:, :, 3]
        pool = jnp.concatenate(
            [jnp.tile(jnp.arange(OUTPUTS)[None], (n, 1)), OUTPUTS + jnp.argsort(order, axis=1)], axis=1
        )
        gates = (op == OPS.index("attn")) & _same(level, first, second)
        first, second = _in_order(gates, *(jnp.take_along_axis(pool, each, axis=1) for each in (first, second)))
        first, second, level, op = (jnp.take_along_axis(each, order, axis=1) for each in (first, second, level, op))
        place = jnp.arange(self.cells)
        before = (place[:, None] > place[None]) & (place >= self.free)[:, None] & (place >= self.free)[None]
        lower = (before[None] & (level[:, None] < level[:, :, None])).sum(2)
        rows = jnp.stack([first, second - (second > first), level - lower, op], axis=2)
        return rows.reshape(encodings.shape).astype(jnp.int32)

    def order(self, encodings: Encodings) -> Int[Array, "n cells"]:
        """The cells of each architecture in the order of `canonical`: of those that may be next the one whose inputs,
        level and operation are first."""
        rows = encodings.reshape(len(encodings), self.cells, EACH)
        (first, second), level = _inputs(rows), self._levels(encodings)
        gates = (rows[:, :, 3] == OPS.index("attn")) & _same(level, first, second)
        pool, number = OUTPUTS + self.cells, jnp.arange(self.cells)
        new = number >= self.free
        waits = jnp.zeros((len(rows), self.cells, self.cells), bool)  # the second axis for the third
        for each in (first, second):
            waits |= each[:, :, None] == OUTPUTS + number[None, None]
            # Whether a cell of a level finds a feature of it unused depends on who is before it.
            old = each < OUTPUTS + self.free
            at = jnp.take_along_axis(_pool(level), each, axis=1)[:, :, None] == level[:, None]
            sees = at & old[:, :, None] & new[None, :, None] & new[None, None]
            waits |= (sees | sees.transpose(0, 2, 1)) & (number[:, None] > number[None])[None]
        waits |= (new[:, None] & ~new[None])[None]

        def place(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            order, numbers = carry
            placed = numbers[:, OUTPUTS:] < pool
            ready = ~placed & ~(waits & ~placed[:, None]).any(2)
            one, other = _in_order(gates, *(jnp.take_along_axis(numbers, each, axis=1) for each in (first, second)))
            sort = ((one * pool + other) * OUTPUTS + level) * len(OPS) + rows[:, :, 3]
            chosen = jnp.where(ready, sort, jnp.iinfo(jnp.int32).max).argmin(1).astype(jnp.int32)
            numbers = numbers.at[jnp.arange(len(rows)), OUTPUTS + chosen].set(OUTPUTS + k)
            return order.at[:, k].set(chosen), numbers

        numbers = jnp.concatenate([jnp.arange(OUTPUTS), jnp.full(self.cells, pool)]).astype(jnp.int32)
        start = jnp.zeros((len(rows), self.cells), jnp.int32), jnp.tile(numbers[None], (len(rows), 1))
        return jax.lax.fori_loop(0, self.cells, place, start)[0]

    def _levels(self, encodings: Encodings) -> Int[Array, "n cells"]:
        """The place in `LEVELS` of each cell: of the last five, the choice is among those that are left."""
        choices = encodings[:, 2::EACH]
        left = jnp.ones((len(encodings), OUTPUTS), jnp.int32)
        found = [choices[:, t] for t in range(self.free)]
        for t in range(self.free, self.cells):
            level = ((left.cumsum(1) == choices[:, t, None] + 1) & (left == 1)).argmax(1)
            left = left * (jnp.arange(OUTPUTS)[None] != level[:, None])
            found.append(level)
        return jnp.stack(found, axis=1).astype(jnp.int32)

    def merges(self, encoding: np.ndarray) -> Cells:
        rows = jnp.asarray(encoding, jnp.int32)[None]
        first, second = (np.asarray(each)[0] for each in _inputs(rows.reshape(1, self.cells, EACH)))
        levels = np.asarray(self._levels(rows))[0]
        ops = np.asarray(encoding).reshape(self.cells, EACH)[:, 3]
        return tuple(
            Merge(int(i), int(j), LEVELS[level], OPS[op])
            for i, j, level, op in zip(first, second, levels, ops, strict=True)
        )

    def describe(self, encoding: np.ndarray) -> str:
        """A word a cell, such as `attn(P4,f5)@4`: f5 is what the first cell gave, f6 the second, and so on."""
        return text_of(self.merges(encoding))

    def parse(self, text: str) -> np.ndarray:
        """Reads what `describe` writes, or the name of a published architecture."""
        cells = FOUND.get(text.strip()) or read(text)
        if len(cells) != self.cells:
            raise ValueError(f"{_quoted(text)} has {len(cells)} cells, not {self.cells}")
        row: list[int] = []
        left = list(LEVELS)
        for t, (i, j, level, op) in enumerate(cells):
            new = t >= self.free
            if new and level not in left:
                raise ValueError(f"{_quoted(text)}: the last five cells have level {level} twice, or lack another")
            row += [i, j - (j > i), (left if new else LEVELS).index(level), OPS.index(op)]
            left = [each for each in left if each != level] if new else left
        return np.array(row, np.int32)

    def cost(self, encodings: Encodings) -> dict[str, Float[Array, "n"]]:
        """Multiply-adds of one image and parameters: of all, of the backbone (`backbone_macs`, `backbone_params`), and
        of the cells (`neck_macs`, `neck_params`). What brings the backbone's maps to the width of the cells is part of
        neither."""
        return additive_costs(*self._costs(), encodings)

    def _costs(self) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        """What all architectures pay, and what each choice adds: the level of a cell that is no new one."""
        weights = 9 * self.width + self.width**2 if self.separable else 9 * self.width**2
        areas, own = [(self.image_size // 2**level) ** 2 for level in LEVELS], not self.map_widths
        backbone = resnet.cost(self.backbone, self.image_channels, self.image_size) if own else (0, 0)
        neck = self.stacks * weights * sum(areas), self.stacks * self.cells * (weights + 2 * self.width)
        macs, params = (sum(each) for each in zip(backbone, neck, self._brought(), strict=True))
        fixed = {"macs": macs, "params": params, "backbone_macs": backbone[0], "backbone_params": backbone[1]}
        fixed |= {"neck_macs": neck[0], "neck_params": neck[1]}
        table = np.zeros((len(self.cardinalities), max(self.cardinalities)), np.int64)
        table[2 : EACH * self.free : EACH, :OUTPUTS] = self.stacks * weights * np.array(areas)
        none = np.zeros_like(table)
        return fixed, {name: table if name in ("macs", "neck_macs") else none for name in fixed}

    def mixing(self) -> Mixing:
        """An edge a decision. A choice is what it is in an encoding: one of those that are left."""
        fixed, table = self._costs()
        n, counts = len(self.cardinalities), self.cardinalities
        names = tuple(map(str, range(max(counts))))
        costs = {name: (fixed[name], table[name]) for name in table}
        return Mixing(names, tuple(range(n)), (1.0,) * n, n, costs, partial=1, counts=counts, one_hot=True)

    def edge_ops(self, encodings: Encodings) -> Int[Array, "n edges"]:
        return encodings

    def derive(self, mixture: Float[Array, "edges ops"]) -> Int[Array, "length"]:
        """The heaviest choice of each decision; of equal ones the first."""
        return self.mixing().masked(mixture).argmax(1).astype(jnp.int32)

    def _brought(self) -> tuple[int, int]:
        """Multiply-adds and parameters of what brings the backbone's maps to the width of the cells."""
        macs = params = 0
        for level, width in zip(LEVELS, self.inputs, strict=False):
            macs += width * self.width * (self.image_size // 2**level) ** 2
            params += (width + 2) * self.width
        return macs, params

    def drawings(self, encoding: np.ndarray) -> list[Drawing]:
        return drawings(self.merges(encoding))

    def supernet(self, key: jax.Array, *, affine: bool = False) -> "Shared":
        """Backbone and brought widths are shared whole, and cell `t` of a stack has its own weights, whatever it
        takes, at whichever level: so every path uses all parameters."""
        return Shared(self, generator(key), affine)

    def build(self, encoding: np.ndarray, key: jax.Array) -> "Body":
        cells, draw = self.merges(encoding), generator(key)
        return Body(
            Stem(self, draw, affine=True), [Neck(cells, self.width, draw, self.separable) for _ in range(self.stacks)]
        )

    def gains(self, path: Int[Array, "length"], mixture: Float[Array, "decisions choices"]) -> Float[Array, "cells 3"]:
        """What a one-hot mixture weighs of each cell of all stacks: its inputs, the coarser first, and its output, by
        its level and its operation. All are 1, but have gradients."""
        taken = jnp.take_along_axis(mixture, path[:, None], axis=1).reshape(self.cells, EACH)
        one, other = (each[0] for each in _inputs(path.reshape(1, self.cells, EACH)))
        level = jnp.concatenate([jnp.arange(OUTPUTS, dtype=jnp.int32), self._levels(path[None])[0]])
        swapped = level[other] > level[one]
        first, second = (jnp.where(swapped, taken[:, 1 - i], taken[:, i]) for i in (0, 1))
        return jnp.tile(jnp.stack([first, second, taken[:, 2] * taken[:, 3]], axis=1), (self.stacks, 1))

    def route(self, path: Int[Array, "length"]) -> pyramid_path.Route:
        """What each cell of all stacks does, as data."""
        rows = path.reshape(1, self.cells, EACH)
        one, other = (each[0] for each in _inputs(rows))
        level = jnp.concatenate([jnp.arange(OUTPUTS, dtype=jnp.int32), self._levels(path[None])[0]])
        number, taken, roles = jnp.arange(OUTPUTS + self.cells), jnp.zeros(OUTPUTS + self.cells, bool), []
        coarse = jnp.where(level[other] > level[one], other, one)
        fine = one + other - coarse
        for t in range(self.cells):
            role = pyramid_path.FIRST * (number == coarse[t]) + pyramid_path.SECOND * (number == fine[t])
            taken |= role > 0
            if t >= self.free:  # `taken_up`
                added = (level == level[OUTPUTS + t]) & ~taken & (number < OUTPUTS + t)
                role, taken = role + pyramid_path.ADDED * added, taken | added
            roles.append(role)
        ends = jnp.argsort(level[-OUTPUTS:]).astype(jnp.int32) + OUTPUTS + self.free
        # A pyramid's first features are the last ones of the pyramid before it.
        numbers = [number] + [
            jnp.concatenate([ends + self.cells * (s - 1), number[OUTPUTS:] + self.cells * s])
            for s in range(1, self.stacks)
        ]
        role = jnp.zeros((OUTPUTS + self.cells * self.stacks, self.cells * self.stacks), jnp.int32)
        for s, own in enumerate(numbers):
            role = role.at[own, s * self.cells : (s + 1) * self.cells].set(jnp.stack(roles, axis=1))
        return pyramid_path.Route(
            jnp.concatenate([own[coarse] for own in numbers]),
            jnp.concatenate([own[fine] for own in numbers]),
            jnp.tile(rows[0, :, 3] == OPS.index("attn"), self.stacks),
            jnp.concatenate([level[:OUTPUTS], jnp.tile(level[OUTPUTS:], self.stacks)]),
            role,
            ends + self.cells * (self.stacks - 1),
        )


def _inputs(rows: Int[Array, "n cells 4"]) -> tuple[Int[Array, "n cells"], Int[Array, "n cells"]]:
    first, second = rows[:, :, 0], rows[:, :, 1]
    return first, second + (second >= first)


def _pool(level: Int[Array, "n cells"]) -> Int[Array, "n features"]:
    """The places in `LEVELS` of all features."""
    return jnp.concatenate([jnp.tile(jnp.arange(OUTPUTS, dtype=jnp.int32)[None], (len(level), 1)), level], axis=1)


def _same(level: Int[Array, "n cells"], first: Array, second: Array) -> Bool[Array, "n cells"]:
    """Which cells take two features of one level."""
    one, other = (jnp.take_along_axis(_pool(level), each, axis=1) for each in (first, second))
    return one == other


def _in_order(kept: Bool[Array, "n cells"], first: Array, second: Array) -> tuple[Array, Array]:
    """Two features each, the one that is earlier first, but where the order is kept."""
    low, high = jnp.minimum(first, second), jnp.maximum(first, second)
    return jnp.where(kept, first, low), jnp.where(kept, second, high)


def text_of(cells: Cells) -> str:
    def name(i: int) -> str:
        return f"P{LEVELS[i]}" if i < OUTPUTS else f"f{i}"

    return " ".join(f"{op}({name(i)},{name(j)})@{level}" for i, j, level, op in cells)


def read(text: str) -> Cells:
    """The cells of a description. Raises ValueError that says what is wrong with the text."""
    cells: list[Merge] = []
    for word in text.split():
        found = CELL.fullmatch(word)
        if found is None:
            raise ValueError(f"{_quoted(text)} has {word[:40]!r}, which is no cell such as attn(P4,f5)@4")
        op, one, other, level = found.groups()
        taken = []
        for name in (one, other):
            number = int(name[1:])
            i = LEVELS.index(number) if name[0] == "P" and number in LEVELS else number if name[0] == "f" else -1
            if i < 0 or (name[0] == "f" and not OUTPUTS <= i < OUTPUTS + len(cells)):
                raise ValueError(f"{_quoted(text)}: {word!r} takes {name}, which there is not before it")
            taken.append(i)
        if taken[0] == taken[1] or int(level) not in LEVELS:
            said = "takes one feature twice" if taken[0] == taken[1] else f"has level {level}, not one of 3 to 7"
            raise ValueError(f"{_quoted(text)}: {word!r} {said}")
        cells.append(Merge(taken[0], taken[1], int(level), op))
    if not cells:
        raise ValueError(f"{_quoted(text)} has no cell such as attn(P4,f5)@4")
    return tuple(cells)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")


def taken_up(cells: Cells) -> list[tuple[int, ...]]:
    """Of each cell, the features besides its inputs that are added to it: those of its level that nobody took."""
    levels, taken, found = [*LEVELS, *(cell.level for cell in cells)], set(), []
    for t, cell in enumerate(cells):
        new = t >= len(cells) - OUTPUTS
        taken |= {cell.first, cell.second}
        rest = [i for i in range(OUTPUTS + t) if levels[i] == cell.level and i not in taken] if new else []
        taken |= set(rest)
        found.append(tuple(rest))
    return found


def drawings(cells: Cells) -> list[Drawing]:
    """A row a level, the coarsest on top, and a column a cell."""
    names = tuple(f"P{level}" for level in LEVELS)
    names += tuple(
        f"{cell.op} {'P' if t >= len(cells) - OUTPUTS else 'at '}{cell.level}" for t, cell in enumerate(cells)
    )
    edges: list[tuple[int, int, str]] = []
    for t, (cell, more) in enumerate(zip(cells, taken_up(cells), strict=True)):
        edges += [(i, OUTPUTS + t, "") for i in (cell.first, cell.second)]
        edges += [(i, OUTPUTS + t, "added") for i in more]
    levels = [*LEVELS, *(cell.level for cell in cells)]
    columns = [0] * OUTPUTS + list(range(1, len(cells) + 1))
    places = tuple((column, LEVELS[-1] - level) for column, level in zip(columns, levels, strict=True))
    return [Drawing("pyramid", names, tuple(edges), places)]


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

    def __init__(self, space: NasFpn, draw: np.random.Generator, affine: bool):
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
    """Backbone and necks of one architecture, without the heads of a detector. Gives the maps of the last pyramid."""

    def __init__(self, stem: nnx.Module, necks: Sequence[nnx.Module]):
        self.stem, self.necks = stem, nnx.List(necks)

    def __call__(self, images: Any, path: Any = (), *, train: bool = False, key: Any = None) -> tuple[Array, ...]:
        del path, key  # of one architecture; nothing here is random
        stem: Any = self.stem
        maps = stem(images, train)
        for neck in self.necks:
            maps = neck(maps, train)
        return maps


class Shared(nnx.Module):
    """Backbone and the cells of all architectures. The parameters lie as in the network of one architecture."""

    def __init__(self, space: NasFpn, draw: np.random.Generator, affine: bool):
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


FOUND = {
    "NAS-FPN": (
        Merge(1, 3, 4, "attn"),
        Merge(1, 5, 4, "sum"),
        Merge(0, 6, 3, "sum"),
        Merge(6, 7, 4, "sum"),
        Merge(7, 8, 5, "attn"),
        Merge(6, 9, 7, "attn"),
        Merge(9, 10, 6, "attn"),
    )
}


PUBLISHED = {**FOUND, **pyramids.REFERENCES}


def reference(space: NasFpn, name: str, key: jax.Array) -> Body:
    """A pyramid that people drew, FPN, PANet or BiFPN, on the backbone of a space, as wide and as often stacked as its
    pyramids."""
    draw = generator(key)
    neck = pyramids.REFERENCES[name]
    return Body(Stem(space, draw, affine=True), [neck(space.width, draw) for _ in range(space.stacks)])


def published(name: str) -> Published:
    """Also of any cells in the notation of `describe`."""
    if name in pyramids.REFERENCES:
        return pyramids.published(name)
    cells = read(name) if "(" in name else FOUND[name]
    costs = {}
    for stacks in (1, 3, 7):
        space = NasFpn(len(cells), stacks=stacks)
        price = {
            key: int(value[0]) for key, value in space.cost(jnp.asarray(space.parse(text_of(cells)))[None]).items()
        }
        of_neck = {"params": price["neck_params"], "macs": price["neck_macs"]}
        costs[f"neck at 640 pixels, 256 channels, {stacks} stack{'s' if stacks > 1 else ''}"] = of_neck
    return Published(text_of(cells), drawings(cells), costs)


PRESETS = {
    # For 128 to 256 pixels on a CPU.
    "tiny": NasFpn(width=16, backbone="resnet-10-thin", image_size=128),
    "small": NasFpn(width=64, stacks=3, backbone="resnet-18", image_size=256),
    "paper": NasFpn(stacks=7),
}
