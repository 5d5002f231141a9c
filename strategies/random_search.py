"""Random search: the baseline that every other strategy must beat.

Li & Talwalkar, "Random Search and Reproducibility for Neural Architecture Search", 2019,
https://arxiv.org/abs/1902.07638
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from nas.types import Observations, Proposals
from spaces.base import Limits, Space
from strategies.checks import at_least
from strategies.region import Region, draw, region


@dataclasses.dataclass(frozen=True)
class RandomSearch:
    """Architectures uniform over those that keep the limits, each independent of all others."""

    budget: int = 0
    """Epochs that an evaluation by training may spend; 0 leaves it to the evaluator."""

    generation: ClassVar[int] = 1

    def __post_init__(self):
        at_least(self, budget=0)

    def init(self, space: Space, limits: Limits = ()) -> Region:
        return region(space, limits)

    def ask(self, state: Region, key: jax.Array, n: int, pending: Proposals) -> Proposals:
        del pending
        return Proposals(draw(state, key, n), jnp.full((n,), self.budget, jnp.int32))

    def tell(self, state: Region, observed: Observations) -> Region:
        del observed
        return state
