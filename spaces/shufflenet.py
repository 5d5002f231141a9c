"""The ShuffleNetV2 single-path space: a chain of blocks, each one of four.

Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", 2019,
https://arxiv.org/abs/1904.00420, and Chen et al., "DetNAS", 2019, https://arxiv.org/abs/1903.10979.

Channel split: that of the SPOS code. A block of stride 1 lets the even channels pass and transforms the odd ones
(channels 0, 2, 4, … and 1, 3, 5, …). The split is part of the space's identity, which is kept with checkpoints.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from spaces.base import Encodings
from spaces.layers import BatchNorm, Conv, Depthwise, Pointwise
from spaces.single_path import Choice

KERNELS = (3, 5, 7)  # choices 0, 1, 2: shuffle blocks of these kernel sizes
XCEPTION = 3
CHOICES = 4


@dataclasses.dataclass(frozen=True)
class ShuffleNet:
    """One choice of four a block; the first block of a stage changes its width and, by `strides`, its resolution."""

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    stem_width: int
    stem_stride: int
    last_width: int
    dropout: float = 0.1
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
        try:
            row = np.array([int(word) for word in text.strip().strip("()").split(",")], np.int32)
        except ValueError:
            raise ValueError(f"{text!r} is not a list of choices such as (0,3,1)") from None
        if row.size != len(self.cardinalities) or row.min() < 0 or row.max() >= CHOICES:
            raise ValueError(f"{text!r} must have {len(self.cardinalities)} choices, each in 0..{CHOICES - 1}")
        return row

    def cost(self, encodings: Encodings) -> dict[str, Float[Array, "n"]]:
        """Multiply-adds of one image, and parameters with affine normalisation and a classifier without bias."""
        where = np.arange(len(self.cardinalities))
        fixed, table = self._costs()
        totals = {name: fixed[name] + jnp.asarray(table[name])[where, encodings].sum(1) for name in table}
        return {name: total.astype(jnp.float32) for name, total in totals.items()}

    def supernet(self, key: jax.Array, *, affine: bool = False) -> "Network":
        key_network, key_blocks = jr.split(key)
        blocks = []
        for i, shape in enumerate(self._shapes()):
            keys = jr.split(jr.fold_in(key_blocks, i), CHOICES)
            branches = [Branch(shape.layers(choice), keys[choice], affine) for choice in range(CHOICES)]
            blocks.append(Block(shape.stride, Choice(i, branches)))
        return Network(self, blocks, key_network, affine)

    def build(self, encoding: np.ndarray, key: jax.Array) -> "Network":
        return prune(self.supernet(key, affine=True), encoding)

    def _shapes(self) -> Iterator["Shape"]:
        width, size = self.stem_width, -(-self.image_size // self.stem_stride)
        for blocks, wide, first_stride in zip(self.blocks, self.widths, self.strides, strict=True):
            for stride in (first_stride,) + (1,) * (blocks - 1):
                yield Shape(width, wide, stride, size)
                width, size = wide, -(-size // stride)

    def _costs(self) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        """What every architecture pays, and what each (decision, choice) adds."""
        rows = [[shape.cost(choice) for choice in range(CHOICES)] for shape in self._shapes()]
        macs_and_params = np.moveaxis(np.array(rows, np.int32), 2, 0)
        table = {"macs": macs_and_params[0], "params": macs_and_params[1]}
        stem = 9 * self.image_channels * self.stem_width
        last = self.widths[-1] * self.last_width
        head = self.last_width * self.num_classes
        sizes = [shape.size for shape in self._shapes()]
        end = -(-sizes[-1] // (self.strides[-1] if self.blocks[-1] == 1 else 1))
        macs = stem * sizes[0] ** 2 + last * end**2 + head
        return {"macs": macs, "params": stem + last + head + 2 * (self.stem_width + self.last_width)}, table


class Layer(NamedTuple):
    """A convolution and its normalisation: pointwise (followed by ReLU) where k is 1, else depthwise (not)."""

    k: int
    width_in: int
    width_out: int
    stride: int = 1


class Shape(NamedTuple):
    """What the choices of one block have in common."""

    width_in: int
    width_out: int
    stride: int
    size: int  # pixels of a side, before the block

    def layers(self, choice: int) -> tuple[list[Layer], list[Layer]]:
        """The main branch and, where the resolution changes, the projection branch."""
        wide = self.width_in if self.stride > 1 else self.width_in // 2
        mid, out = self.width_out // 2, self.width_out - wide
        if choice == XCEPTION:
            k = 3
            main = [Layer(3, wide, wide, self.stride), Layer(1, wide, mid), Layer(3, mid, mid)]
            main += [Layer(1, mid, mid), Layer(3, mid, mid), Layer(1, mid, out)]
        else:
            k = KERNELS[choice]
            main = [Layer(1, wide, mid), Layer(k, mid, mid, self.stride), Layer(1, mid, out)]
        projection = [Layer(k, wide, wide, self.stride), Layer(1, wide, wide)] if self.stride > 1 else []
        return main, projection

    def cost(self, choice: int) -> tuple[int, int]:
        """Multiply-adds and parameters."""
        macs = params = 0
        for layers in self.layers(choice):
            size = self.size
            for layer in layers:
                size = -(-size // layer.stride)
                weights = layer.width_in * (layer.width_out if layer.k == 1 else layer.k**2)
                macs += weights * size**2
                params += weights + 2 * layer.width_out
        return macs, params


class Branch(nnx.Module):
    """One of the choices of a block: its main branch beside its projection, if it has one."""

    def __init__(self, layers: tuple[list[Layer], list[Layer]], key: jax.Array, affine: bool):
        keys = iter(jr.split(key, sum(map(len, layers))))
        self.main, self.projection = (
            nnx.List([ConvNorm(layer, next(keys), affine) for layer in part]) for part in layers
        )

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
    def __init__(self, layer: Layer, key: jax.Array, affine: bool):
        k, width_in, width_out, stride = layer
        self.pointwise = k == 1
        self.conv = Pointwise(width_in, width_out, key) if k == 1 else Depthwise(k, width_in, key, stride=stride)
        self.norm = BatchNorm(width_out, affine=affine)

    def __call__(self, x: Array, train: bool) -> Array:
        y = self.norm(self.conv(x), train)
        return jax.nn.relu(y) if self.pointwise else y


class Block(nnx.Module):
    """At stride 1 half of the channels pass by the branch; otherwise all go through it."""

    def __init__(self, stride: int, branch: "Choice | Branch"):
        self.stride = stride
        self.branch = branch

    def __call__(self, x: Array, path, train: bool) -> Array:
        if self.stride > 1:
            return self.branch(x, path, train)
        pairs = x.reshape(*x.shape[:-1], -1, 2)
        return jnp.concatenate([pairs[..., 0], self.branch(pairs[..., 1], path, train)], axis=-1)


class Network(nnx.Module):
    """Stem, blocks, last convolution, mean over pixels, dropout, classifier. Gives logits `[n, num_classes]`."""

    def __init__(self, space: ShuffleNet, blocks: Sequence[Block], key: jax.Array, affine: bool):
        key_stem, key_last, key_head = jr.split(key, 3)
        channels, stride = space.image_channels, space.stem_stride
        self.stem = Conv(3, channels, space.stem_width, key_stem, stride=stride, scale=0.01)
        self.stem_norm = BatchNorm(space.stem_width, affine=affine)
        self.blocks = nnx.List(blocks)
        self.last = Pointwise(space.widths[-1], space.last_width, key_last)
        self.last_norm = BatchNorm(space.last_width, affine=affine)
        self.head = Pointwise(space.last_width, space.num_classes, key_head, scale=0.01)
        self.dropout = space.dropout

    def __call__(
        self,
        images: Float[Array, "n height width channels"],
        path=(),
        *,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> Float[Array, "n classes"]:
        """`path` says which choice each block takes; a pruned network needs none. Dropout needs a key to act."""
        x = jax.nn.relu(self.stem_norm(self.stem(images), train))
        for block in self.blocks:
            x = block(x, path, train)
        x = jax.nn.relu(self.last_norm(self.last(x), train)).mean((1, 2))
        if train and key is not None and self.dropout > 0:
            x = jnp.where(jr.bernoulli(key, 1 - self.dropout, x.shape), x / (1 - self.dropout), 0)
        return self.head(x)


def prune(supernet: Network, encoding: np.ndarray) -> Network:
    """The network of one architecture, with the weights it has in the supernet; the supernet is left as it is."""
    network = nnx.clone(supernet)
    for block, choice in zip(network.blocks, encoding, strict=True):
        assert isinstance(block.branch, Choice), "a network can be pruned once"
        block.branch = cast(Branch, block.branch.branch(int(choice)))
    return network


PRESETS = {
    # For 8 to 32 pixels on a CPU: three resolutions, no reduction in the stem.
    "tiny": ShuffleNet((3, 3, 3), (32, 64, 128), (1, 2, 2), 32, 1, 256, image_size=8),
    # The 20 blocks of SPOS and DetNAS-300M.
    "small": ShuffleNet((4, 4, 8, 4), (64, 160, 320, 640), (2, 2, 2, 2), 16, 2, 1024),
    # The 40 blocks of DetNAS-1.3G.
    "large": ShuffleNet((8, 8, 16, 8), (96, 240, 480, 960), (2, 2, 2, 2), 48, 2, 1024),
}
