"""What strategies and predictors are tried on, where no space is given."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spaces.base import Encodings


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A space of no networks: six decisions of four choices, and a cost that is their sum."""

    cardinalities: tuple[int, ...] = (4,) * 6

    def identity(self) -> dict:
        return {"cardinalities": self.cardinalities}

    def canonical(self, encodings: Encodings) -> Encodings:
        return encodings

    def describe(self, encoding: np.ndarray) -> str:
        return "-".join(str(int(choice)) for choice in encoding)

    def parse(self, text: str) -> np.ndarray:
        return np.array([int(word) for word in text.split("-")], np.int32)

    def cost(self, encodings: Encodings) -> dict[str, jax.Array]:
        return {"sum": encodings.sum(1).astype(jnp.float32)}

    def supernet(self, key: jax.Array, *, affine: bool = False) -> Any:
        raise NotImplementedError

    def build(self, encoding: np.ndarray, key: jax.Array) -> Any:
        raise NotImplementedError


def score(rows: Encodings) -> jax.Array:
    """What is minimised over them."""
    return jnp.sin(rows.astype(jnp.float32) + jnp.arange(rows.shape[1])[None]).sum(1)
