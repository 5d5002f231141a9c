"""What networks of layers of one bit cost: six counts, and the costs that these add up to.

A multiply-add of two bits is taken to be a 64th of a real one, as in Rastegari et al., "XNOR-Net", 2016,
https://arxiv.org/abs/1603.05279, section 4.1, and Liu et al., "Bi-Real Net", 2018, https://arxiv.org/abs/1808.00278.
Authors differ in what they count, so the formula is shown wherever published counts are.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from spaces.base import Encodings, additive_costs

WORD = 64  # binary multiply-adds that count as one operation
FORMULA = f"ops = bops / {WORD} + flops: multiply-adds of two bits, and the other ones (the rest of macs)"


class Counts(NamedTuple):
    """Of a network or a part of one: numbers, or arrays of them."""

    binary_macs: Any = 0  # multiply-adds of two bits, of one image
    real_macs: Any = 0  # all others
    binary_weights: Any = 0
    real_weights: Any = 0  # all other parameters of convolutions, classifiers and activations
    scales: Any = 0  # one a filter of one bit a weight
    channels: Any = 0  # those that are normalised, with a scale and a bias each

    def plus(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


def costs(counts: Counts, *, learned: bool = False) -> dict[str, Any]:
    """`macs`, `params`, `bops` (multiply-adds of two bits), `flops` (those of others), `ops` and `bits`, the size of a
    packed file. Scales of filters are parameters where they are `learned`, and are in the file in any case."""
    return scaled(whole(counts, learned))


def summed(fixed: Counts, table: Counts, encodings: Encodings, *, learned: bool = False) -> dict[str, jax.Array]:
    """The costs of architectures `[n, decisions]`: of what all have, and of what each choice adds, as arrays
    `[decisions, choices]`. Rounded once, to float32."""
    tables = {name: np.asarray(each, np.int64) for name, each in whole(table, learned).items()}
    return scaled(additive_costs(whole(fixed, learned), tables, encodings))


def scaled(whole: Mapping[str, Any]) -> dict[str, Any]:
    """The costs of their whole numbers."""
    return {name: each / WORD if name == "ops" else each for name, each in whole.items()}


def whole(counts: Counts, learned: bool) -> dict[str, Any]:
    """The costs in whole numbers: `ops` in 64ths."""
    n = counts
    return {
        "macs": n.binary_macs + n.real_macs,
        "params": n.binary_weights + n.real_weights + 2 * n.channels + (n.scales if learned else 0),
        "bops": n.binary_macs,
        "flops": n.real_macs,
        "ops": n.binary_macs + WORD * n.real_macs,
        "bits": n.binary_weights + 32 * (n.real_weights + n.scales) + 128 * n.channels,
    }
