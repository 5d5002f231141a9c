"""Convolutions of one bit on packed words: 32 channels in a uint32, exclusive or, and a count of bits.

What is multiplied are signs, so a product is -1 where two bits differ (Courbariaux et al., "Binarized Neural Networks",
2016, https://arxiv.org/abs/1602.02830). Bits are counted by carry-save adders, which make of three words the sum and
the carry of each of their bits, so that few words are left to be counted (Mula et al., "Faster Population Counts Using
AVX2 Instructions", 2016, https://arxiv.org/abs/1611.07612). All sums are whole: they are those of `BinaryConv`.
"""

import functools
import itertools
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from spaces.binary_ops import BinaryConv, conv_in_groups, sign

BITS = 32  # of a word
MOST_WORDS = 100  # of a filter that are written out in a program; of more, one row of taps after another,
LEAST_WORDS = 24  # unless a row has fewer, of which XLA makes no vectors
CACHED = 6_200  # words of filters that are held in the fastest cache while all pixels pass

Path = tuple[Hashable, ...]  # of a module in a network
Options = dict[str, str | bool] | None  # of XLA's compiler
Words = UInt32[Array, "n _ _ groups words"]
Filters = UInt32[Array, "_ _ words outputs"]


def num_words(channels: int) -> int:
    return -(-channels // BITS)


def packed(negative: Bool[Array, "*axes c"]) -> UInt32[Array, "*axes words"]:
    """Bits in words. Bit b of word w is channel `b * words + w`, so that what becomes one word is far apart, and what
    lies side by side becomes words side by side. Bits that no channel has are 0."""
    channels = negative.shape[-1]
    words = num_words(channels)
    used = -(-channels // words)
    rest = [(0, 0)] * (negative.ndim - 1) + [(0, used * words - channels)]
    planes = jnp.pad(negative, rest).reshape(*negative.shape[:-1], used, words).astype(jnp.uint32)
    places = jnp.arange(used, dtype=jnp.uint32)[:, None]
    return (planes << places.reshape((1,) * (planes.ndim - 2) + places.shape)).sum(-2, dtype=jnp.uint32)


def unpacked(words: UInt32[Array, "*axes words"], channels: int) -> Bool[Array, "*axes c"]:
    """The bits of the channels: the inverse of `packed`."""
    used = -(-channels // words.shape[-1])
    places = jnp.arange(used, dtype=jnp.uint32)[:, None]
    bits = words[..., None, :] >> places.reshape((1,) * (words.ndim - 1) + places.shape) & 1
    return bits.reshape(*words.shape[:-1], -1)[..., :channels].astype(bool)


class PackedConv(nnx.Module, pytree=False):
    """What a `BinaryConv` gives in evaluation, by filters of packed words.

    `negative` says which weights are -1. `scale` is what the outputs of each filter are multiplied by. Where each group
    is one channel, nothing is gained by words, and signs are convolved as numbers.
    """

    def __init__(
        self,
        negative: Bool[np.ndarray, "rows columns inputs outputs"],
        scale: Float[np.ndarray, "outputs"] | None,
        *,
        strides: tuple[int, int] = (1, 1),
        dilation: int = 1,
        groups: int = 1,
    ):
        self.strides, self.dilation, self.groups, self.inputs = strides, dilation, groups, negative.shape[2]
        words = packed(jnp.asarray(negative).swapaxes(2, 3)).swapaxes(2, 3)
        self.words = nnx.Param(words)
        # What each tap adds where all signs are +1, as those of the words are that pad an image.
        self.sums = nnx.Param(jnp.asarray((1 - 2 * negative.astype(np.int32)).sum(2, dtype=np.int32)))
        self.scale = None if scale is None else nnx.Param(jnp.asarray(scale, jnp.float32))

    def __call__(self, x: Float[Array, "n _ _ c"]) -> Float[Array, "n _ _ d"]:
        if self.inputs == 1:
            kernel = jnp.where(self.negative(), -1, 1).astype(x.dtype)
            y = conv_in_groups(sign(x), kernel, self.strides, self.dilation, self.groups)
        else:
            y = self._counted(x).astype(x.dtype)
        return y if self.scale is None else y * jnp.asarray(self.scale.get_value(), x.dtype)[None, None, None]

    def negative(self) -> Bool[Array, "rows columns inputs outputs"]:
        """Which weights are -1."""
        return unpacked(jnp.asarray(self.words.get_value()).swapaxes(2, 3), self.inputs).swapaxes(2, 3)

    def _counted(self, x: Float[Array, "n _ _ c"]) -> Float[Array, "n _ _ d"]:
        filters, sums = jnp.asarray(self.words.get_value()), jnp.asarray(self.sums.get_value())
        # Not `x < 0`: the sign of NaN is -1.
        words = packed(~(x >= 0).reshape(*x.shape[:-1], self.groups, self.inputs))
        pads = [(k // 2 * self.dilation,) * 2 for k in filters.shape[:2]]
        whole = _without_padding(sums, self.inputs, (x.shape[1], x.shape[2]), self.strides, self.dilation)
        words, whole = lax.optimization_barrier((jnp.pad(words, [(0, 0), *pads, (0, 0), (0, 0)]), whole))
        return _convolved(words, filters, whole, self.strides, self.dilation)


def _without_padding(
    sums: Int[Array, "rows columns outputs"],
    inputs: int,
    size: tuple[int, int],
    strides: tuple[int, int],
    dilation: int,
) -> Float[Array, "height width outputs"]:
    """What is left of the number of products at each pixel without those of padding, which adds 0 and not its sign.

    Only few rows and columns of taps lie outside in different ways, so one of a kind is summed.
    """
    kinds, places = zip(
        *(
            np.unique(_inside(k, side, stride, dilation), axis=0, return_inverse=True)
            for k, side, stride in zip(sums.shape[:2], size, strides, strict=True)
        ),
        strict=True,
    )
    rows, columns = (jnp.asarray(kind, jnp.int32) for kind in kinds)
    by_row = (rows[:, :, None, None] * sums[None]).sum(1)
    inside = (columns[None, :, :, None] * by_row[:, None]).sum(2)
    products = sums.shape[0] * sums.shape[1] * inputs
    left = (inside + (products - sums.sum((0, 1)))[None, None]).astype(jnp.float32)
    where = places[0].reshape(-1)[:, None] * len(kinds[1]) + places[1].reshape(-1)[None]
    return left.reshape(-1, left.shape[-1])[where]


def _inside(k: int, size: int, stride: int, dilation: int) -> Bool[np.ndarray, "outputs k"]:
    """Whether each tap reads a pixel of the image, at each place of the output."""
    read = np.arange(-(-size // stride))[:, None] * stride + (np.arange(k) - k // 2)[None] * dilation
    return (read >= 0) & (read < size)


def _convolved(
    words: Words,
    filters: Filters,
    whole: Float[Array, "height width outputs"],
    strides: tuple[int, int],
    dilation: int,
) -> Float[Array, "n height width outputs"]:
    """`whole` less twice the bits that differ. Filters that fit into the fastest cache pass over all pixels, and then
    the next ones."""
    n, groups, outputs = words.shape[0], words.shape[3], filters.shape[3]
    size = _block(filters.shape, groups)
    blocks = filters.reshape(*filters.shape[:3], outputs // size, size)

    def of(block: Array, whole: Array) -> Array:
        differing = _differing(words, block, (whole.shape[0], whole.shape[1]), strides, dilation)
        return whole[None] - 2 * differing.astype(jnp.float32)

    if size == outputs:
        # XLA fuses what is counted into all that read it, layer into layer, and counts anew in each. A branch it leaves
        # as it is, and it does not know that this one is always taken: barriers are gone before it fuses.
        zeros = jnp.zeros((n, *whole.shape), jnp.float32)
        return lax.cond(whole[0, 0, 0] < jnp.inf, lambda: of(filters, whole), lambda: zeros)
    blocks = lax.optimization_barrier(jnp.moveaxis(blocks, 3, 0))

    def step(i: Array, y: Array) -> Array:
        part = lax.dynamic_slice_in_dim(whole, i * size, size, 2)
        return lax.dynamic_update_slice_in_dim(y, of(blocks[i], part), i * size, 3)

    return lax.fori_loop(0, outputs // size, step, jnp.zeros((n, *whole.shape), jnp.float32))


def _block(shape: tuple[int, ...], groups: int) -> int:
    """How many filters of this shape are in the cache at once: vectors of 8 of them, or all."""
    rows, columns, words, outputs = shape
    each = columns * words * (1 if _in_rows(rows, columns, words) else rows)
    fitting = [size for size in range(8, outputs, 8) if outputs % size == 0 and each * size <= CACHED]
    return outputs if groups > 1 or each * outputs <= CACHED or not fitting else fitting[-1]


def _in_rows(rows: int, columns: int, words: int) -> bool:
    """Whether a row of taps is counted after another."""
    return rows * columns * words > MOST_WORDS and columns * words >= LEAST_WORDS


def _differing(
    words: Words, filters: Filters, size: tuple[int, int], strides: tuple[int, int], dilation: int
) -> UInt32[Array, "n height width outputs"]:
    """How many bits of each filter differ from those of the pixels that it lies on."""
    rows, columns, each, outputs = filters.shape
    if not _in_rows(rows, columns, each):
        return _written_out(words, filters, size, strides, dilation)
    reach = (size[0] - 1) * strides[0] + 1

    def step(i: Array, count: Array) -> Array:
        part = lax.dynamic_slice_in_dim(words, i * dilation, reach, 1)
        row = lax.dynamic_slice_in_dim(filters, i, 1, 0)
        return count + _written_out(part, row, size, strides, dilation)

    return lax.fori_loop(0, rows, step, jnp.zeros((words.shape[0], *size, outputs), jnp.uint32))


def _written_out(
    words: Words, filters: Filters, size: tuple[int, int], strides: tuple[int, int], dilation: int
) -> UInt32[Array, "n height width outputs"]:
    n, groups = words.shape[0], words.shape[3]
    rows, columns, each, outputs = filters.shape
    (down, along), (height, width) = strides, size
    different = (
        words[:, top : top + (height - 1) * down + 1 : down, left : left + (width - 1) * along + 1 : along, :, q, None]
        ^ filters[i, j, q].reshape(1, 1, 1, groups, -1)
        for i, j, q in itertools.product(range(rows), range(columns), range(each))
        for top, left in [(i * dilation, j * dilation)]
    )
    return counted(different).reshape(n, height, width, outputs)


def counted(words: Iterable[UInt32[Array, "*axes"]]) -> UInt32[Array, "*axes"]:
    """How many bits are 1 in all words of each place together."""
    ranks: list[list[Array]] = []  # the words of each rank, whose bits count 1, 2, 4, ...: at most two

    def add(rank: int, word: Array) -> None:
        if rank == len(ranks):
            ranks.append([])
        ranks[rank].append(word)
        if len(ranks[rank]) == 3:
            a, b, c = ranks[rank]
            either = a ^ b
            ranks[rank] = [either ^ c]
            add(rank + 1, (a & b) | (either & c))

    for word in words:
        add(0, word)
    counts = [lax.population_count(word) << rank for rank, kept in enumerate(ranks) for word in kept]
    return functools.reduce(lax.add, counts)


def pack(network: nnx.Module, options: Options = None) -> nnx.Module:
    """A network like it, whose layers of one bit are packed. Those whose weights are real stay as they are. Its outputs
    have the same bits where programs of both are compiled with these options."""
    return replaced(network, {path: packed_conv(conv, options) for path, conv in binary_convs(network).items()})


def binary_convs(network: nnx.Module) -> dict[Path, BinaryConv]:
    """The layers of a network whose weights are of one bit, by where they are."""
    modules = nnx.iter_modules(network)
    return {path: each for path, each in modules if isinstance(each, BinaryConv) and not each.real}


def replaced(network: nnx.Module, convs: Mapping[Path, PackedConv]) -> nnx.Module:
    """A network like it, with other modules in these places."""
    network = nnx.clone(network)
    for path, conv in convs.items():
        _put(network, path, conv)
    return network


def packed_conv(conv: BinaryConv, options: Options = None) -> PackedConv:
    """Of which `conv` is the form in floats. Its scales are those of a program that is compiled with these options."""
    definition, state = nnx.split(conv)
    # One program, as in a network: operations that are compiled each by itself are rounded otherwise.
    factors = jax.jit(lambda state: nnx.merge(definition, state).factors(), compiler_options=options)
    kernel, scale = factors(state)
    return of_signs(conv, np.asarray(kernel) < 0, None if scale is None else np.asarray(scale))


def of_signs(conv: BinaryConv, negative: np.ndarray, scale: np.ndarray | None) -> PackedConv:
    """A layer of the form of `conv` with other weights."""
    return PackedConv(negative, scale, strides=conv.strides, dilation=conv.dilation, groups=conv.groups)


def _put(network: nnx.Module, path: Path, module: nnx.Module) -> None:
    holder: Any = network
    for name in path[:-1]:
        holder = holder[name] if isinstance(name, int) else getattr(holder, str(name))
    if isinstance(path[-1], int):
        holder[path[-1]] = module
    else:
        setattr(holder, str(path[-1]), module)
