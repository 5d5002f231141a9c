"""What the cells of a space are made of: its operations, what brings inputs to their width, and what all that costs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from spaces.cell_ops import FactorizedReduce, cost, operation, relu_conv_norm

# Of one image: multiply-adds of one bit and real ones; weights of one bit and real ones; scales of filters of one bit;
# channels that are normalised.
Counts = np.ndarray


def counts(
    binary_macs: int = 0, macs: int = 0, binary_weights: int = 0, weights: int = 0, scales: int = 0, channels: int = 0
) -> Counts:
    return np.array([binary_macs, macs, binary_weights, weights, scales, channels], np.int64)


def plain_costs(found: Counts) -> dict[str, Any]:
    """Multiply-adds, and parameters with affine normalisation, of counts along the last axis."""
    return {"macs": found[..., 1], "params": found[..., 3] + 2 * found[..., 5]}


def _plain_cost(name: str, width: int, stride: int, size: int) -> Counts:
    macs, params = cost(name, width, stride, size)
    return counts(macs=macs, weights=params)


def _plain_fit_cost(width_in: int, width: int, size: int, halves: bool) -> Counts:
    """`size` is that of what comes out. Either way each of its pixels sees one pixel."""
    del halves
    return counts(macs=width_in * width * size**2, weights=width_in * width, channels=width)


class Kit(NamedTuple):
    """Modules are called as `module(x, path, train)`; `affine` is False while a search shares their weights."""

    operation: Callable[..., nnx.Module] = operation  # (name, width, stride, draw, affine)
    cost: Callable[..., Counts] = _plain_cost  # (name, width, stride, size of its input)
    fit: Callable[..., nnx.Module] = relu_conv_norm  # (width of an input of a cell, of the cell, draw, affine)
    halve: Callable[..., nnx.Module] = FactorizedReduce  # the same, to half the resolution
    fit_cost: Callable[..., Counts] = _plain_fit_cost  # (width in, width, size of the output, whether halved)
    skip: Callable[..., nnx.Module] | None = None  # from cell to cell, where one reduces: (width in, width, draw)
    skip_cost: Callable[..., Counts] | None = None  # (width in, width, size of the output)
    norm_first: bool = False  # whether layers of the stem are normalisation, convolution, ReLU
    whole: Callable[[Counts], dict[str, Any]] = plain_costs  # the costs that counts come to, in whole numbers
    scaled: Callable[[dict[str, Any]], dict[str, Any]] = dict  # these in their own units


PLAIN = Kit()


def priced(kit: Kit, found: Counts) -> dict[str, int]:
    """The costs of counts, rounded."""
    return {name: round(float(value)) for name, value in kit.scaled(kit.whole(found)).items()}
