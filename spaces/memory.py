"""The memory that a network of `shufflenet` takes on a small device, in int8, for one image.

`peak_activation_bytes` is what a microcontroller must have as RAM (Lin et al., "MCUNet: Tiny Deep Learning on IoT
Devices", 2020, https://arxiv.org/abs/2007.10319, section 3.1): the most bytes of activations that live at once, at one
byte for each of their numbers. The moments are the operations, in the order in which the network's code has them: a
convolution with its normalisation and ReLU folded in, a half of a split, a concatenation, the mean over pixels, the
classifier. In a moment live what the operation reads, what it writes, and what later operations read. So a split copies
its halves, a concatenation copies its parts, and nothing is computed in place; the image counts until the first
convolution is done. What an operation needs inside, such as im2col, does not count: it is the library's.

`weights_bytes` is what goes to flash: a byte for each weight of convolutions and of the classifier, and for each
channel of a convolution a bias of 32 bits, into which its normalisation is folded.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from spaces.base import Encodings

BIAS = 4  # bytes


def peak(space: Any, encodings: Encodings) -> Float[Array, "n"]:
    """The most that lives at once: in the stem, in any block with its choice, or after the blocks."""
    shapes = tuple(space.shapes())
    table = np.array([[max(_in_block(shape, choice)) for choice in _choices(space)] for shape in shapes], np.int64)
    least = max(*_in_stem(space, shapes[0].size), *_in_head(space))
    return jnp.maximum(least, jnp.asarray(table, jnp.float32)[np.arange(len(shapes)), encodings].max(1))


def weights(space: Any) -> tuple[int, np.ndarray]:
    """Bytes of the weights and biases: what every architecture has, and what choices add `[decisions, choices]`."""
    table = [[_weights(shape.layers(choice)) for choice in _choices(space)] for shape in space.shapes()]
    stem, last = 9 * space.image_channels * space.stem_width, space.widths[-1] * space.last_width
    fixed = stem + last + space.last_width * space.num_classes + BIAS * (space.stem_width + space.last_width)
    return fixed, np.array(table, np.int64)


def _choices(space: Any) -> range:
    return range(space.cardinalities[0])


def _weights(branches: Sequence[Sequence[Any]]) -> int:
    layers = [layer for branch in branches for layer in branch]
    return sum(layer.weights + BIAS * layer.width_out for layer in layers)


def _in_block(shape: Any, choice: int) -> Iterator[int]:
    """What lives in each moment of a block."""
    main, projection = shape.layers(choice)
    given, end = shape.width_in * shape.size**2, -(-shape.size // shape.stride)
    out = shape.width_out * end**2
    if projection:
        ours = projection[-1].width_out * end**2
        yield from _in_branch(main, shape.size, kept=given)
        yield from _in_branch(projection, shape.size, kept=out - ours, given=given)
    else:
        half = given // 2
        yield given + half
        yield given + 2 * half
        yield from _in_branch(main, shape.size, kept=half, given=half)
    yield 2 * out  # both parts, and what they become


def _in_branch(layers: Sequence[Any], size: int, kept: int, given: int = 0) -> Iterator[int]:
    """What lives in each of these layers, of which the first reads `given` bytes that are not kept."""
    for layer in layers:
        size = -(-size // layer.stride)
        wrote = layer.width_out * size**2
        yield kept + given + wrote
        given = wrote


def _in_stem(space: Any, size: int) -> Iterator[int]:
    yield space.image_channels * space.image_size**2 + space.stem_width * size**2


def _in_head(space: Any) -> Iterator[int]:
    pixels, last = space.end**2, space.last_width
    yield (space.widths[-1] + last) * pixels
    yield last * pixels + last
    yield last + space.num_classes
