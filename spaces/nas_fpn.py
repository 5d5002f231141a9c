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

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spaces import merging_rows, pyramid_path, pyramids, resnet
from spaces.abilities import Decision, Drawing, Mixing, Published
from spaces.base import Encodings, additive_costs
from spaces.exits import at_exit
from spaces.layers import generator
from spaces.merging import FOUND, OPS, OUTPUTS, Cells, Merge, decisions, drawings, quoted, read, text_of
from spaces.pyramid_network import Body, Neck, Shared, Stem
from spaces.pyramids import LEVELS

EACH = 4  # decisions of a cell: first input, second input of those that are left, level, operation


@dataclasses.dataclass(frozen=True)
class NasFpn:
    """`cells` merging cells of `width` channels, stacked `stacks` times, on a residual network."""

    cells: int = 7
    width: int = 256
    stacks: int = 1
    separable: bool = False
    """Cells convolve each channel by itself and then each pixel, as NAS-FPNLite does."""
    anytime: bool = False
    """Each of the stacked pyramids is an exit: the heads end all of them, in training together."""
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
        if self.anytime and self.stacks < 2:
            raise ValueError(
                f"anytime={self.anytime} needs stacks={self.stacks} to be at least 2: so many are its exits"
            )
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
        fields = (
            "cells",
            "width",
            "stacks",
            "backbone",
            *(name for name in ("separable", "anytime") if getattr(self, name)),
        )
        return {"ops": OPS, "levels": LEVELS, **{name: getattr(self, name) for name in fields}}

    def canonical(self, encodings: Encodings) -> Encodings:
        """The inputs of a cell in the order of the pool, but where it gates and both are of one level; and of cells
        that may change places, those first whose inputs are.

        No cell is without use: what no cell takes is added to the last cell of its level."""
        rows = encodings.reshape(len(encodings), self.cells, EACH)
        order, (first, second) = self.order(encodings), merging_rows.inputs(rows)
        level, op = self._levels(encodings), rows[:, :, 3]
        pool = merging_rows.pool(OUTPUTS + jnp.argsort(order, axis=1))
        gates = merging_rows.order_matters(level, first, second, op)
        taken = (jnp.take_along_axis(pool, each, axis=1) for each in (first, second))
        first, second = merging_rows.sorted_inputs(gates, *taken)
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
        (first, second), level = merging_rows.inputs(rows), self._levels(encodings)
        gates = merging_rows.order_matters(level, first, second, rows[:, :, 3])
        pool, number = OUTPUTS + self.cells, jnp.arange(self.cells)
        new = number >= self.free
        waits = jnp.zeros((len(rows), self.cells, self.cells), bool)  # the second axis for the third
        for each in (first, second):
            waits |= each[:, :, None] == OUTPUTS + number[None, None]
            # Whether a cell of a level finds a feature of it unused depends on who is before it.
            old = each < OUTPUTS + self.free
            at = jnp.take_along_axis(merging_rows.pool(level), each, axis=1)[:, :, None] == level[:, None]
            sees = at & old[:, :, None] & new[None, :, None] & new[None, None]
            waits |= (sees | sees.transpose(0, 2, 1)) & (number[:, None] > number[None])[None]
        waits |= (new[:, None] & ~new[None])[None]

        def place(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            order, numbers = carry
            placed = numbers[:, OUTPUTS:] < pool
            ready = ~placed & ~(waits & ~placed[:, None]).any(2)
            taken = (jnp.take_along_axis(numbers, each, axis=1) for each in (first, second))
            one, other = merging_rows.sorted_inputs(gates, *taken)
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
        first, second = (np.asarray(each)[0] for each in merging_rows.inputs(rows.reshape(1, self.cells, EACH)))
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
            raise ValueError(f"{quoted(text)} has {len(cells)} cells, not {self.cells}")
        row: list[int] = []
        left = list(LEVELS)
        for t, (i, j, level, op) in enumerate(cells):
            new = t >= self.free
            if new and level not in left:
                raise ValueError(f"{quoted(text)}: the last five cells have level {level} twice, or lack another")
            row += [i, j - (j > i), (left if new else LEVELS).index(level), OPS.index(op)]
            left = [each for each in left if each != level] if new else left
        return np.array(row, np.int32)

    def cost(self, encodings: Encodings) -> dict[str, Float[Array, "n"]]:
        """Multiply-adds of one image and parameters: of all, of the backbone (`backbone_macs`, `backbone_params`), and
        of the cells (`neck_macs`, `neck_params`). What brings the backbone's maps to the width of the cells is part of
        neither. With `anytime` also the multiply-adds up to each exit, `macs_exit_1` and so on."""
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
        table[2 : EACH * self.free : EACH, :OUTPUTS] = weights * np.array(areas)  # of one pyramid
        times = {"macs": self.stacks, "neck_macs": self.stacks}
        for k in range(1, self.stacks + 1) if self.anytime else ():
            name = at_exit("macs", k)
            fixed[name], times[name] = macs - neck[0] * (self.stacks - k) // self.stacks, k
        return fixed, {name: times.get(name, 0) * table for name in fixed}

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

    def decisions(self) -> tuple[Decision, ...]:
        return decisions(self.cells)

    def drawings(self, encoding: np.ndarray) -> list[Drawing]:
        return drawings(self.merges(encoding))

    def supernet(self, key: jax.Array, *, affine: bool = False) -> Shared:
        """Backbone and brought widths are shared whole, and cell `t` of a stack has its own weights, whatever it
        takes, at whichever level: so every path uses all parameters."""
        return Shared(self, generator(key), affine)

    def build(self, encoding: np.ndarray, key: jax.Array) -> Body:
        cells, draw = self.merges(encoding), generator(key)
        necks = [Neck(cells, self.width, draw, self.separable) for _ in range(self.stacks)]
        return Body(Stem(self, draw, affine=True), necks, self.anytime)

    def gains(self, path: Int[Array, "length"], mixture: Float[Array, "decisions choices"]) -> Float[Array, "cells 3"]:
        """What a one-hot mixture weighs of each cell of all stacks: its inputs, the coarser first, and its output, by
        its level and its operation. All are 1, but have gradients."""
        taken = jnp.take_along_axis(mixture, path[:, None], axis=1).reshape(self.cells, EACH)
        one, other = (each[0] for each in merging_rows.inputs(path.reshape(1, self.cells, EACH)))
        level = merging_rows.pool(self._levels(path[None]))[0]
        swapped = level[other] > level[one]
        first, second = (jnp.where(swapped, taken[:, 1 - i], taken[:, i]) for i in (0, 1))
        return jnp.tile(jnp.stack([first, second, taken[:, 2] * taken[:, 3]], axis=1), (self.stacks, 1))

    def route(self, path: Int[Array, "length"]) -> pyramid_path.Route:
        """What each cell of all stacks does, as data."""
        rows = path.reshape(1, self.cells, EACH)
        one, other = (each[0] for each in merging_rows.inputs(rows))
        level = merging_rows.pool(self._levels(path[None]))[0]
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
        exits = range(self.stacks) if self.anytime else [self.stacks - 1]
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
            jnp.stack([ends + self.cells * s for s in exits]),
        )


PUBLISHED = {**FOUND, **pyramids.REFERENCES}


def reference(space: NasFpn, name: str, key: jax.Array) -> Body:
    """A pyramid that people drew, FPN, PANet or BiFPN, on the backbone of a space, as wide and as often stacked as its
    pyramids."""
    draw = generator(key)
    neck = pyramids.REFERENCES[name]
    necks = [neck(space.width, draw) for _ in range(space.stacks)]
    return Body(Stem(space, draw, affine=True), necks, space.anytime)


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
