"""The ShuffleNetV2 single-path space: a chain of blocks, each one of four.

Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", 2019,
https://arxiv.org/abs/1904.00420, and Chen et al., "DetNAS", 2019, https://arxiv.org/abs/1903.10979.

Channel split: that of the SPOS code. A block of stride 1 lets the even channels pass and transforms the odd ones
(channels 0, 2, 4, … and 1, 3, 5, …). The split is part of the space's identity, which is kept with checkpoints.
"""

import dataclasses
import itertools
import math
import operator
import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from spaces import memory
from spaces.abilities import Decision, Drawing, Mixing
from spaces.base import Encodings, additive_costs
from spaces.layers import BatchNorm, Conv, Depthwise, Pointwise, generator, stages
from spaces.precision import widened
from spaces.shared import is_mixture
from spaces.shuffle_blocks import KERNELS, Layer, Shape
from spaces.shuffle_drawing import Stage, chained, halved
from spaces.single_path import Around, Choice

OPS = (*(f"k{k}" for k in KERNELS), "xception")
CHOICES = len(OPS)
WORD = re.compile(r"-?[0-9]{1,9}")  # of a description


@dataclasses.dataclass(frozen=True)
class ShuffleNet:
    """One choice of four a block; the first block of a stage changes its width and, by `strides`, its resolution."""

    blocks: tuple[int, ...]
    """How many each stage has, as "(2,2,4)": one decision each."""
    widths: tuple[int, ...]
    """Channels of each stage, as "(32,64,128)": multiples of 4."""
    strides: tuple[int, ...]
    """Of the first block of each stage, as "(1,2,2)": 2 halves the resolution."""
    stem_width: int
    """Channels of the first convolution."""
    stem_stride: int
    """Stride of the first convolution."""
    last_width: int
    """Channels before the classifier."""
    dropout: float = 0.1
    """The share of them that is left out in training."""
    image_size: int = 224
    image_channels: int = 3
    num_classes: int = 1000

    split: ClassVar[str] = "even-odd"

    def __post_init__(self):
        if not len(self.blocks) == len(self.widths) == len(self.strides) > 0:
            raise ValueError(
                f"blocks={self.blocks}, widths={self.widths} and strides={self.strides} must be equally long"
            )
        for name in ("blocks", "widths", "strides", "stem_width", "stem_stride", "last_width", "image_size"):
            value = getattr(self, name)
            if min(value if isinstance(value, tuple) else (value,)) < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        width = self.stem_width
        for stage, (wide, stride) in enumerate(zip(self.widths, self.strides, strict=True)):
            if wide % 4 or (stride == 1 and wide != width) or (stride > 1 and wide <= width):
                rule = f"equal {width}" if stride == 1 else f"exceed {width}"
                raise ValueError(f"widths[{stage}]={wide} must be a multiple of 4 and, for stride {stride}, {rule}")
            width = wide
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must lie in [0, 1)")

    @property
    def cardinalities(self) -> tuple[int, ...]:
        return (CHOICES,) * sum(self.blocks)

    def identity(self) -> dict:
        fields = ("blocks", "widths", "strides", "stem_width", "stem_stride", "last_width")
        return {"split": self.split, **{name: getattr(self, name) for name in fields}}

    def canonical(self, encodings: Encodings) -> Encodings:
        return encodings

    def describe(self, encoding: np.ndarray) -> str:
        return "(" + ",".join(str(int(choice)) for choice in encoding) + ")"

    def parse(self, text: str) -> np.ndarray:
        """Reads what `describe` writes, also in square brackets or in none."""
        inner = text.strip()
        inner = inner[1:-1] if inner[:1] + inner[1:][-1:] in ("()", "[]") else inner
        words = [word.strip() for word in inner.split(",")]
        if not all(WORD.fullmatch(word) for word in words):
            raise ValueError(f"{text!r} is not a list of choices such as (0,3,1)")
        row = [int(word) for word in words]
        if len(row) != len(self.cardinalities) or min(row) < 0 or max(row) >= CHOICES:
            raise ValueError(f"{text!r} must have {len(self.cardinalities)} choices, each in 0..{CHOICES - 1}")
        return np.array(row, np.int32)

    def maps(self) -> tuple[tuple[int, int], ...]:
        strides = itertools.accumulate(self.strides, operator.mul, initial=self.stem_stride)
        return tuple(dict(zip(itertools.islice(strides, 1, None), self.widths, strict=True)).items())

    def decisions(self) -> tuple[Decision, ...]:
        places = [(stage, block) for stage, blocks in enumerate(self.blocks) for block in range(blocks)]
        return tuple(Decision(f"stage {stage + 1}, block {block + 1}", OPS) for stage, block in places)

    def drawings(self, encoding: np.ndarray) -> list[Drawing]:
        size, sizes = -(-self.image_size // self.stem_stride), []
        for stride in self.strides:
            size = -(-size // stride)
            sizes.append(size)
        words = [OPS[choice] for choice in encoding]
        image = f"image {self.image_size} x {self.image_size} x {self.image_channels}"
        stem = f"3x3, {self.stem_width}" + halved(self.stem_stride)
        head = (f"1x1, {self.last_width}", "mean", f"classifier, {self.num_classes}") if self.num_classes else ()
        stages = [Stage(*each) for each in zip(self.blocks, self.widths, self.strides, sizes, strict=True)]
        return chained(words, stages, (image, stem), head)

    def cost(self, encodings: Encodings) -> dict[str, Float[Array, "n"]]:
        """Multiply-adds of one image, parameters with affine normalisation and a classifier without bias, and of whole
        networks the memory that they take in int8: see `spaces.memory`."""
        own = additive_costs(*self._costs(), encodings)
        return own | ({"peak_activation_bytes": memory.peak(self, encodings)} if self.num_classes else {})

    def mixing(self) -> Mixing:
        """An edge a block, an operation a choice, as in FBNet (Wu et al., 2019, https://arxiv.org/abs/1812.03443) and
        ProxylessNAS (Cai et al., 2019, https://arxiv.org/abs/1812.00332)."""
        fixed, table = self._costs()
        costs = {name: (fixed[name], table[name]) for name in table}
        n = len(self.cardinalities)
        return Mixing(OPS, tuple(range(n)), (1.0,) * n, n, costs, partial=math.gcd(*self.widths) // 2)

    def edge_ops(self, encodings: Encodings) -> Int[Array, "n edges"]:
        return encodings

    def derive(self, mixture: Float[Array, "edges ops"]) -> Int[Array, "length"]:
        """The heaviest choice of each block; of equal ones the first."""
        return mixture.argmax(1).astype(jnp.int32)

    def supernet(self, key: jax.Array, *, affine: bool = False, partial: int = 1) -> "Body":
        """With `partial`, of the channels that a block of stride 1 transforms only one in so many is, the others
        pass by too (PC-DARTS, https://arxiv.org/abs/1907.05737). Blocks of stride 2 transform all."""
        if self.mixing().partial % partial:
            raise ValueError(f"partial={partial} must divide half of all widths={self.widths}")
        draw = generator(key)
        blocks, decision = [], 0
        for shape, group in itertools.groupby(self.shapes(partial)):
            count = len(list(group))
            branches = [[Branch(shape.layers(c), draw, affine) for c in range(CHOICES)] for _ in range(count)]
            blocks.append(Choice(range(decision, decision + count), branches, shape.around))
            decision += count
        return (Network if self.num_classes else Body)(self, blocks, draw, affine)

    def build(self, encoding: np.ndarray, key: jax.Array) -> "Body":
        return prune(self.supernet(key, affine=True), encoding)

    def pruned(self, supernet: "Body", encoding: np.ndarray) -> "Body":
        return prune(supernet, encoding)

    def shapes(self, partial: int = 1) -> Iterator[Shape]:
        width, size = self.stem_width, -(-self.image_size // self.stem_stride)
        for blocks, wide, first_stride in zip(self.blocks, self.widths, self.strides, strict=True):
            for stride in (first_stride,) + (1,) * (blocks - 1):
                yield Shape(width, wide, stride, size, 2 * partial)
                width, size = wide, -(-size // stride)

    def _costs(self) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        """What every architecture pays, and what each (decision, choice) adds."""
        rows = [[shape.cost(choice) for choice in range(CHOICES)] for shape in self.shapes()]
        macs_and_params = np.moveaxis(np.array(rows, np.int64), 2, 0)
        table = {"macs": macs_and_params[0], "params": macs_and_params[1]}
        stem = 9 * self.image_channels * self.stem_width
        last = self.widths[-1] * self.last_width if self.num_classes else 0
        head = self.last_width * self.num_classes
        norms = 2 * (self.stem_width + (self.last_width if self.num_classes else 0))
        macs = stem * next(self.shapes()).size ** 2 + last * self.end**2 + head
        fixed = {"macs": macs, "params": stem + last + head + norms}
        if self.num_classes:
            fixed["weights_bytes"], table["weights_bytes"] = memory.weights(self)
        return fixed, table

    @property
    def end(self) -> int:
        """Pixels of a side, after the blocks."""
        *_, last = self.shapes()
        return -(-last.size // last.stride)


class Branch(nnx.Module):
    """One of the choices of a block: its main branch beside its projection, if it has one."""

    def __init__(self, layers: tuple[list[Layer], list[Layer]], draw: np.random.Generator, affine: bool):
        self.main, self.projection = (nnx.List([ConvNorm(layer, draw, affine) for layer in part]) for part in layers)

    def __call__(self, x: Array, path, train: bool) -> Array:
        y = x
        for layer in self.main:
            y = layer(y, train)
        if not self.projection:
            return y
        for layer in self.projection:
            x = layer(x, train)
        return jnp.concatenate([x, y], axis=-1)


class ConvNorm(nnx.Module):
    def __init__(self, layer: Layer, draw: np.random.Generator, affine: bool):
        k, width_in, width_out, stride = layer
        self.pointwise = k == 1
        self.conv = Pointwise(width_in, width_out, draw) if k == 1 else Depthwise(k, width_in, draw, stride=stride)
        self.norm = BatchNorm(width_out, affine=affine)

    def __call__(self, x: Array, train: bool) -> Array:
        y = self.norm(self.conv(x), train)
        return jax.nn.relu(y) if self.pointwise else y


class Block(nnx.Module):
    """A block whose decision is taken."""

    def __init__(self, branch: nnx.Module, around: Around):
        self.branch, self.around = branch, around

    def __call__(self, x: Array, path, train: bool) -> Array:
        return self.around(x, lambda y: self.branch(y, path, train))


class Body(nnx.Module):
    """Stem and blocks. Gives the map of each stage, the finest first."""

    def __init__(self, space: ShuffleNet, blocks: Sequence[nnx.Module], draw: np.random.Generator, affine: bool):
        channels, stride = space.image_channels, space.stem_stride
        self.stem = Conv((3, 3), channels, space.stem_width, draw, strides=(stride, stride), scale=0.01)
        self.stem_norm = BatchNorm(space.stem_width, affine=affine)
        self.blocks = nnx.List(blocks)

    def __call__(
        self,
        images: Float[Array, "n height width channels"],
        path=(),
        *,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> Any:
        """`path` says which choice each block takes, or mixes them by a weight `[block, choice]`; a pruned network
        needs none. A mixture is normalised by the batch, in evaluation too, and leaves no statistics. Dropout needs a
        key to act."""
        dropped = key if train else None
        if is_mixture(path):
            return nnx.clone(self)._outputs(images, path, True, dropped)
        return self._outputs(images, path, train, dropped)

    def _outputs(self, images: Array, path, train: bool, key: jax.Array | None) -> Any:
        del key  # nothing here is random
        maps = [jax.nn.relu(self.stem_norm(self.stem(images), train))]
        for block in self.blocks:
            maps.append(block(maps[-1], path, train))
        return stages(maps[1:])


class Network(Body):
    """A body, last convolution, mean over pixels, dropout, classifier. Gives logits `[n, num_classes]`."""

    def __init__(self, space: ShuffleNet, blocks: Sequence[nnx.Module], draw: np.random.Generator, affine: bool):
        super().__init__(space, blocks, draw, affine)
        self.last = Pointwise(space.widths[-1], space.last_width, draw)
        self.last_norm = BatchNorm(space.last_width, affine=affine)
        self.head = Pointwise(space.last_width, space.num_classes, draw, scale=0.01)
        self.dropout = space.dropout

    def _outputs(self, images: Array, path, train: bool, key: jax.Array | None) -> Float[Array, "n classes"]:
        x = super()._outputs(images, path, train, key)[-1]
        x = widened(jax.nn.relu(self.last_norm(self.last(x), train))).mean((1, 2))
        if key is not None and self.dropout > 0:
            x = jnp.where(jr.bernoulli(key, 1 - self.dropout, x.shape), x / (1 - self.dropout), 0)
        return self.head(x)


def prune(supernet: Body, encoding: np.ndarray) -> Body:
    """The network of one architecture, with the weights it has in the supernet; the supernet is left as it is."""
    network = nnx.clone(supernet)
    choices = [block for block in network.blocks if isinstance(block, Choice)]
    pairs = [(block, i) for block in choices for i in range(len(block.weights.get_value()))]
    blocks: list[nnx.Module] = [
        Block(block.branch(i, int(c)), block.around) for (block, i), c in zip(pairs, encoding, strict=True)
    ]
    network.blocks = nnx.List(blocks)
    return network


PRESETS = {
    # For 8 to 32 pixels on a CPU: three resolutions, no reduction in the stem.
    "tiny": ShuffleNet((3, 3, 3), (32, 64, 128), (1, 2, 2), 32, 1, 256, image_size=8),
    # The 20 blocks of SPOS and DetNAS-300M.
    "small": ShuffleNet((4, 4, 8, 4), (64, 160, 320, 640), (2, 2, 2, 2), 16, 2, 1024),
    # The 40 blocks of DetNAS-1.3G.
    "large": ShuffleNet((8, 8, 16, 8), (96, 240, 480, 960), (2, 2, 2, 2), 48, 2, 1024),
}
# Its four halvings of the resolution let it cost less than `tiny` there.
LARGER = {"small": 35}
