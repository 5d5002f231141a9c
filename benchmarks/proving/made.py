"""A space that is nothing but its decisions and what they cost: there are no networks behind it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tables = tuple[tuple[tuple[float, ...], ...], ...]


@dataclasses.dataclass(frozen=True)
class Made:
    """`widths` says for each choice of each decision how wide it is; neighbours are paid for by their product, as
    channels are. `plain` costs are a sum. With neither, nothing is known of an architecture but its choices."""

    cardinalities: tuple[int, ...]
    plain: tuple[tuple[float, ...], ...] = ()
    widths: tuple[tuple[float, ...], ...] = ()
    steep: bool = False
    """Whether there are two more costs that mislead."""
    gaps: int = 0
    """Of a thousand architectures so many cannot be had; they cost one `unmeasured`."""

    def identity(self) -> dict:
        return dataclasses.asdict(self)

    def canonical(self, encodings: jax.Array) -> jax.Array:
        return encodings

    def describe(self, encoding: np.ndarray) -> str:
        return "-".join(str(choice) for choice in encoding)

    def parse(self, text: str) -> np.ndarray:
        return np.array([int(choice) for choice in text.split("-")], np.int32)

    def cost(self, encodings: jax.Array) -> dict[str, jax.Array]:
        costs = {}
        if self.plain:
            costs["macs"] = _of(self.plain, encodings).sum(1)
        if self.steep:
            # What an architecture costs has nothing to do with its worth, and hangs on few decisions.
            costs["params"] = jnp.exp(_of(self.plain, encodings)[:, :3].sum(1) / 1e6)
            costs["latency_ms"] = costs["macs"] * (1 + (scrambled(encodings) % 97).astype(jnp.float32) / 97)
        if self.widths:
            width = _of(self.widths, encodings)
            costs["macs"] = (width[:, 1:] * width[:, :-1]).sum(1)
            costs["params"] = width.sum(1)
        if self.gaps:
            costs["unmeasured"] = (scrambled(encodings) % 1000 < self.gaps).astype(jnp.float32)
        return costs

    def supernet(self, key: Any, *, affine: bool = False) -> Any:
        raise ValueError("a made space has no networks")

    def build(self, encoding: np.ndarray, key: Any) -> Any:
        raise ValueError("a made space has no networks")


def _of(tables: tuple[tuple[float, ...], ...], encodings: jax.Array) -> jax.Array:
    most = max(len(table) for table in tables)
    filled = np.array([[*table, *[0.0] * (most - len(table))] for table in tables], np.float32)
    return jnp.asarray(filled)[np.arange(len(tables)), encodings]


def scrambled(encodings: jax.Array) -> jax.Array:
    """A number of each row that looks like chance."""
    factors = np.random.default_rng(7).integers(1, 2**31, encodings.shape[1], dtype=np.uint32) | 1
    total = ((encodings.astype(jnp.uint32) + 1) * factors[None]).sum(1, dtype=jnp.uint32)
    total = (total ^ (total >> 15)) * jnp.uint32(0x2C1B3C6D)
    return total ^ (total >> 13)
