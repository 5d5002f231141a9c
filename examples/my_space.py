"""A space of one's own: a chain of convolutions, of which kernels and widths are chosen.

    python run_search.py --space examples/my_space.py:Chain --evaluator train --strategy random --trials 5

Nothing is shared between its architectures, so each candidate is trained by itself (`--evaluator train`).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from spaces.layers import BatchNorm, Conv, Pointwise, generator


@dataclasses.dataclass(frozen=True)
class Chain:
    layers: int = 3
    """Convolutions."""
    width: int = 8
    """Channels of the narrowest ones."""
    # These three are the task's: a space that has them is bound to what is searched on.
    image_size: int = 8
    image_channels: int = 1
    num_classes: int = 10

    KERNELS: ClassVar = (1, 3, 5)
    WIDTHS: ClassVar = (1, 2, 4)  # times `width`
    supernets: ClassVar = False  # nothing is shared

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Of each layer its kernel, then its width."""
        return (len(self.KERNELS), len(self.WIDTHS)) * self.layers

    def identity(self) -> dict:
        return {"layers": self.layers, "width": self.width}

    def canonical(self, encodings):
        return encodings

    def describe(self, encoding) -> str:
        kernels, widths = encoding[::2], encoding[1::2]
        return "-".join(f"{self.KERNELS[k]}x{self.WIDTHS[w]}" for k, w in zip(kernels, widths, strict=True))

    def parse(self, text: str) -> np.ndarray:
        layers = [layer.split("x") for layer in text.split("-")]
        if len(layers) != self.layers:
            raise ValueError(f"{text!r} must have {self.layers} layers, such as 3x1")
        try:
            row = [(self.KERNELS.index(int(k)), self.WIDTHS.index(int(w))) for k, w in layers]
        except ValueError:
            raise ValueError(f"{text!r} must be kernels of {self.KERNELS} x widths of {self.WIDTHS}") from None
        return np.array(row, np.int32).ravel()

    def cost(self, encodings):
        """The parameters and the multiply-adds of one image: products of widths, so no sums over decisions."""
        kernels = jnp.asarray(self.KERNELS)[encodings[:, ::2]]
        widths = self.width * jnp.asarray(self.WIDTHS)[encodings[:, 1::2]]
        before = jnp.concatenate([jnp.full_like(widths[:, :1], self.image_channels), widths[:, :-1]], axis=1)
        taps = (kernels**2 * before * widths).sum(1)
        head = widths[:, -1] * self.num_classes
        params = taps + 2 * widths.sum(1) + head + self.num_classes
        return {"params": params.astype(jnp.float32), "macs": (taps * self.image_size**2 + head).astype(jnp.float32)}

    def supernet(self, key, *, affine=False):
        raise NotImplementedError

    def build(self, encoding, key) -> nnx.Module:
        return Network(self, encoding, generator(key))


class Network(nnx.Module):
    def __init__(self, space: Chain, encoding, draw: np.random.Generator):
        layers, before = [], space.image_channels
        for k, w in np.asarray(encoding).reshape(-1, 2):
            taps, width = space.KERNELS[k], space.width * space.WIDTHS[w]
            conv = Conv((taps, taps), before, width, draw, scale=(2 / (taps**2 * before)) ** 0.5)
            layers.append((conv, BatchNorm(width, affine=True)))
            before = width
        self.convs, self.norms = (nnx.List(each) for each in zip(*layers, strict=True))
        self.head = Pointwise(before, space.num_classes, draw)
        self.bias = nnx.Param(np.zeros(space.num_classes, np.float32))

    def __call__(self, images, path=(), *, train: bool, key=None) -> jax.Array:
        """Logits. `path` is of use to networks that hold many architectures, `key` to those that drop something."""
        x = images
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.relu(norm(conv(x), train))
        return self.head(x.mean((1, 2))) + jnp.asarray(self.bias.get_value(), x.dtype)[None]
