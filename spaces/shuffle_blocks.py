"""The layers of the blocks of `shufflenet`, and what they cost, as arithmetic: nothing is built."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from spaces.single_path import Around, directly

KERNELS = (3, 5, 7)  # choices 0, 1, 2: shuffle blocks of these kernel sizes
XCEPTION = 3


class Layer(NamedTuple):
    """A convolution and its normalisation: pointwise (followed by ReLU) where k is 1, else depthwise (not)."""

    k: int
    width_in: int
    width_out: int
    stride: int = 1

    @property
    def weights(self) -> int:
        return self.width_in * (self.width_out if self.k == 1 else self.k**2)


class Shape(NamedTuple):
    """What the choices of one block have in common."""

    width_in: int
    width_out: int
    stride: int
    size: int  # pixels of a side, before the block
    parts: int = 2  # a block of stride 1 transforms one channel in so many

    @property
    def around(self) -> Around:
        return directly if self.stride > 1 else Through(self.parts)

    def layers(self, choice: int) -> tuple[list[Layer], list[Layer]]:
        """The main branch and, where the resolution changes, the projection branch."""
        wide = self.width_in if self.stride > 1 else self.width_in // self.parts
        mid, out = (self.width_out // 2, self.width_out - wide) if self.stride > 1 else (wide, wide)
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
                macs += layer.weights * size**2
                params += layer.weights + 2 * layer.width_out
        return macs, params


@dataclasses.dataclass(frozen=True)
class Through:
    """A block of stride 1: of so many channels in a row the last goes through the branch, the others pass by. Of two,
    the even channels pass by and the odd ones go through."""

    parts: int

    def __call__(self, x: Array, branch: Callable[[Array], Array]) -> Array:
        groups = x.reshape(*x.shape[:-1], -1, self.parts)
        passing = [groups[..., i] for i in range(self.parts - 1)]
        return jnp.concatenate([*passing, branch(groups[..., -1])], axis=-1)
