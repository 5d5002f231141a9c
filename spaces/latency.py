"""The latency of a device as a cost: a sum over the parts of a network, from a table of what was measured there.

As in ProxylessNAS (Cai et al., 2019, https://arxiv.org/abs/1812.00332, section 3.3) and Once-for-All (Cai et al., 2020,
https://arxiv.org/abs/1908.09791): each choice at each place adds its milliseconds to those that every network takes.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spaces.abilities import Mixable
from spaces.base import Encodings

NAME = "latency_ms"


@dataclasses.dataclass(frozen=True)
class Latency:
    """Milliseconds of a network, as a cost of its space: see `spaces.costs`."""

    fixed: float  # of every network
    table: tuple[tuple[float, ...], ...]  # what each choice adds, by place: see `places`

    def __call__(self, space: Any, encodings: Encodings) -> dict[str, Float[Array, "n"]]:
        where = places(space, encodings)
        table = jnp.asarray(self.filled(), jnp.float32)
        return {NAME: self.fixed + table[np.arange(len(self.table)), where].sum(1)}

    def mixed(self, space: Any) -> dict[str, tuple[float, np.ndarray]]:
        """As the costs of a mixture are given: see `spaces.abilities.Mixing`."""
        return {NAME: (self.fixed, self.filled())}

    def filled(self) -> Float[np.ndarray, "places choices"]:
        """The table; what a place does not have costs nothing."""
        width = max(map(len, self.table))
        return np.array([row + (0.0,) * (width - len(row)) for row in self.table])


def places(space: Any, encodings: Encodings) -> Int[Array, "n places"]:
    """What a network has at each place of its table: the operation on each edge of its cells, where its space knows
    edges, else the choice at each decision."""
    return space.edge_ops(encodings) if isinstance(space, Mixable) else encodings


def sizes(space: Any) -> tuple[int, ...]:
    """How many choices there are at each place."""
    if not isinstance(space, Mixable):
        return tuple(space.cardinalities)
    mixing = space.mixing()
    return (len(mixing.ops),) * len(mixing.nodes)


def nothing(space: Any) -> int | None:
    """The choice of all places that stands for none at all, where there is one: it adds nothing."""
    return space.mixing().none if isinstance(space, Mixable) else None
