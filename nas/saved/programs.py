"""A trained network as one function of images, as it is written to files that other programs run."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, UInt8

from nas.errors import UsageError
from nas.saved.descriptions import input_of
from nas.tasks.augment import normalise
from nas.training.net import forward, split
from spaces.abilities import is_one_bit
from spaces.forms import plain

if TYPE_CHECKING:
    from nas.saved.networks import Exported

TOLERANCE = 1e-4  # of what a file gives, as a share of the largest number, or, but of what is learned as numbers, of 1
TRIED = 16  # images on which a file is tried when it is written
# Of networks with signs: a sum that is rounded otherwise may lie on the other side of 0.
FLIPPED = 0.25


class Written(NamedTuple):
    """A file, and what its description says of it."""

    data: bytes
    facts: dict[str, Any]


class Program(NamedTuple):
    """What is written to a file."""

    function: Callable[[Array], Any]  # uint8 images `[n, size, size, channels]` to what the network gives
    plain: Callable[[Array], Any]  # the same, of single operations of the library: see `spaces.forms`
    shape: tuple[int, int, int]  # of an image


def program(model: "Exported", finish: Callable[[Any], Any]) -> Program:
    """`finish` makes of the network's outputs what the file gives. Images are scaled inside."""
    graph, weights, statistics = split(model.network)
    mean, std = model.scaling
    size, channels, _ = input_of(model.space)

    def function(images: Array) -> Any:
        return finish(forward(graph, weights, statistics, normalise(images, mean, std), (), train=False)[0])

    def in_plain(images: Array) -> Any:
        with plain():
            return function(images)

    return Program(function, in_plain, (size, size, channels))


def trial(shape: tuple[int, int, int]) -> UInt8[np.ndarray, "n _ _ _"]:
    """Images on which a file is tried, the same for all files: of all contrasts, the first black. Their numbers are
    those of Knuth's multiplicative hash: "The Art of Computer Programming", 1973, section 6.4."""
    numbers = np.arange(TRIED * np.prod(shape), dtype=np.uint64).reshape(TRIED, *shape)
    contrast = np.linspace(0, 1, TRIED).reshape(-1, 1, 1, 1)
    return np.rint((numbers * np.uint64(2654435761) % 2**32 >> 24) * contrast).astype(np.uint8)


def check_same(form: str, model: "Exported", found: Any, expected: Any) -> dict[str, int]:
    """On how many images a file was tried, and on how many its numbers are not the network's. Of a network of one bit
    that may be a share of them, `FLIPPED`; more, or any of another network, raises UsageError."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    off = np.max([differences(np.asarray(one), np.asarray(other), model.kind.small) for one, other in pairs], 0)
    wrong = ~(off <= TOLERANCE)
    allowed = FLIPPED if is_one_bit(model.space) else 0.0
    if wrong.mean() > allowed:
        said = f"differ from the network's by {off.max():.2g} of the largest, {TOLERANCE:g} is allowed"
        raise UsageError(f"format={form!r} cannot be written: the numbers of the file {said}")
    return {"images": len(wrong), "differing": int(wrong.sum())}


def differences(found: np.ndarray, expected: np.ndarray, least: float = 1.0) -> np.ndarray:
    """Of each image the largest difference, as a share of the largest number that is expected at all, or of `least`."""
    if found.shape != expected.shape:
        return np.full(len(expected), np.inf)
    scale = max(least, float(np.abs(expected).max())) or 1.0
    return np.abs(found - expected).reshape(len(expected), -1).max(1) / scale
