"""Local search: look around the best architecture, move when a neighbour is better, start anew when none is.

White et al., "Exploring the Loss Landscape in Neural Architecture Search", 2020, https://arxiv.org/abs/2005.02960.
It moves to the first better neighbour instead of looking at all of them before, which wastes fewer evaluations. Best
at: 50 to 200 trials, many decisions; not where single changes mislead, or where few scores differ
(`benchmarks/league.py`).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from spaces.base import Encodings, Limits, Space, feasible, neighbours, sample
from strategies.base import Observations, Proposals
from strategies.checks import at_least
from strategies.region import Region, pick, region, repeat
from strategies.visited import Visited, also, contains, nothing, visit


@struct.dataclass
class LocalSearchState:
    region: Region
    centre: Int[Array, "length"]
    score: Float[Array, ""]  # of the centre, minimised; +inf where there is none
    visited: Visited
    count: Int[Array, ""]  # observed so far


@dataclasses.dataclass(frozen=True)
class LocalSearch:
    """Neighbours in random order, none twice; random architectures until one can be the next centre."""

    memory: int = 1024
    """How many of the last observed architectures are never proposed again; all, of a space of up to 262,144."""
    budget: int = 0
    """Epochs that an evaluation by training may spend; 0 leaves it to the evaluator."""

    generation: ClassVar[int] = 1

    def __post_init__(self):
        at_least(self, memory=1, budget=0)

    def init(self, space: Space, limits: Limits = ()) -> LocalSearchState:
        return LocalSearchState(
            region=region(space, limits),
            centre=jnp.zeros(len(space.cardinalities), jnp.int32),
            score=jnp.full((), jnp.inf),
            visited=nothing(space, self.memory),
            count=jnp.zeros((), jnp.int32),
        )

    def ask(self, state: LocalSearchState, key: jax.Array, n: int, pending: Proposals) -> Proposals:
        key_order, key_random, key_pick = jr.split(key, 3)
        near = neighbours(state.region.space, state.centre)
        near = near[jr.permutation(key_order, near.shape[0])]
        random = repeat(lambda k: sample(state.region.space, k, n), key_random, 32)
        around = jnp.where(jnp.isinf(state.score), random[:, :1], near[None])
        seen = also(state.visited, pending.encodings)
        rows = pick(state.region, jnp.concatenate([around, random], 1), key_pick, seen)
        return Proposals(rows, jnp.full((n,), self.budget, jnp.int32))

    def tell(self, state: LocalSearchState, observed: Observations) -> LocalSearchState:
        def one(state: LocalSearchState, seen: tuple[Array, Array]):
            encoding, objective = seen
            score = jnp.where(jnp.isnan(objective), jnp.inf, objective)
            # A random architecture is the next centre, better or not, when nothing is left around this one.
            moves = (score < state.score) | (self._exhausted(state) & jnp.isfinite(score))
            return LocalSearchState(
                region=state.region,
                centre=jnp.where(moves, encoding, state.centre),
                score=jnp.where(moves, score, state.score),
                visited=visit(state.visited, encoding[None], state.count),
                count=state.count + 1,
            ), None

        return jax.lax.scan(one, state, (observed.encodings, observed.objectives[:, 0]))[0]

    def _exhausted(self, state: LocalSearchState) -> Bool[Array, ""]:
        """Whether every legal neighbour of the centre was observed."""
        space, limits = state.region.space, state.region.limits
        near: Encodings = space.canonical(neighbours(space, state.centre))
        return (contains(state.visited, near) | ~feasible(space, near, limits)).all()
