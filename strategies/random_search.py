"""Random search: the baseline that every other strategy must beat.

Li & Talwalkar, "Random Search and Reproducibility for Neural Architecture Search", 2019,
https://arxiv.org/abs/1902.07638
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
from flax import struct
from jaxtyping import Array, Int

from spaces.base import Limits, Space
from strategies.base import Observations, Proposals
from strategies.checks import at_least
from strategies.region import Region, draw, draws, pick, region
from strategies.visited import Visited, also, nothing, visit


@struct.dataclass
class RandomState:
    region: Region
    visited: Visited
    count: Int[Array, ""]  # observed so far


@dataclasses.dataclass(frozen=True)
class RandomSearch:
    """Architectures uniform over those that keep the limits, none twice."""

    memory: int = 4096
    """How many of the last observed architectures are never proposed again; all, of a space of up to 262,144."""
    budget: int = 0
    """Epochs that an evaluation by training may spend; 0 leaves it to the evaluator."""

    generation: ClassVar[int] = 1

    def __post_init__(self):
        at_least(self, memory=1, budget=0)

    def init(self, space: Space, limits: Limits = ()) -> RandomState:
        return RandomState(region(space, limits), nothing(space, self.memory), jnp.zeros((), jnp.int32))

    def ask(self, state: RandomState, key: jax.Array, n: int, pending: Proposals) -> Proposals:
        key_first, key_more, key_pick = jr.split(key, 3)
        more = draws(state.region, key_more, n, 3)
        drawn = jnp.concatenate([draw(state.region, key_first, n)[:, None], more], axis=1)
        rows = pick(state.region, drawn, key_pick, also(state.visited, pending.encodings))
        return Proposals(rows, jnp.full((n,), self.budget, jnp.int32))

    def tell(self, state: RandomState, observed: Observations) -> RandomState:
        visited = visit(state.visited, observed.encodings, state.count)
        return RandomState(state.region, visited, state.count + len(observed.encodings))
