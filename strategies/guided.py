"""Any strategy with what its user believes of choices before the search: some proposals are drawn by these weights.

Hvarfner et al., "πBO: Augmenting Acquisition Functions with User Beliefs for Bayesian Optimization", 2022,
https://arxiv.org/abs/2204.11051 (a belief that counts the less the more was observed, and a tenth of the trials as its
strength); Mallik et al., "PriorBand", 2023, https://arxiv.org/abs/2306.12370 (proposals drawn from the belief among the
others, so that it serves any strategy).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flax import struct
from jaxtyping import Array, Int

from spaces.base import Limits, Space
from strategies.base import Observations, Proposals, budget_of, drawn_as, needs_of, with_trials
from strategies.region import Candidates, Region, pick, region
from strategies.visited import Visited, also, nothing, visit

MEMORY = 4096  # of the last observed architectures in a space that is too large to be marked
TRIES = 4  # draws for a slot, of which the first is taken that is new


@struct.dataclass
class GuidedState:
    inner: Any  # state of the strategy
    region: Region
    visited: Visited
    count: Int[Array, ""]  # observed so far


@dataclasses.dataclass(frozen=True)
class Guided:
    """After `t` observations a proposal is drawn by the weights with probability `strength / (strength + t)`, and is
    the strategy's own otherwise: a belief that is wrong costs some of the trials, and no choice is ruled out."""

    strategy: Any
    """What proposes."""
    weights: tuple[tuple[float, ...], ...]
    """Of each decision how likely its choices are, in any unit."""
    strength: float
    """Observations after which half of the proposals are the strategy's own."""

    def for_trials(self, trials: int) -> "Guided":
        return dataclasses.replace(self, strategy=with_trials(self.strategy, trials))

    @property
    def generation(self) -> int:
        return self.strategy.generation

    @property
    def budget(self) -> int:
        return budget_of(self.strategy)

    def needs(self, number: int) -> int:
        return needs_of(self.strategy, number)

    def init(self, space: Space, limits: Limits = ()) -> GuidedState:
        state = self.strategy.init(space, limits)
        return GuidedState(state, region(space, limits), nothing(space, MEMORY), jnp.zeros((), jnp.int32))

    def warm(self, state: GuidedState, params: Any) -> GuidedState:
        """The state whose strategy goes on from a predictor with these parameters."""
        return dataclasses.replace(state, inner=self.strategy.warm(state.inner, params))

    def ask(self, state: GuidedState, key: jax.Array, n: int, pending: Proposals) -> Proposals:
        key_ask, key_whose, key_draw, key_pick = jr.split(key, 4)
        own = self.strategy.ask(state.inner, key_ask, n, pending)
        believed = jr.bernoulli(key_whose, self.strength / (self.strength + state.count), (n,))
        rows = jnp.where(believed[:, None, None], self._draws(key_draw, n), own.encodings[:, None])
        rows = pick(state.region, rows, key_pick, also(state.visited, pending.encodings))
        return Proposals(rows, own.budgets, drawn_as(own, rows))

    def tell(self, state: GuidedState, observed: Observations) -> GuidedState:
        inner = self.strategy.tell(state.inner, observed)
        visited = visit(state.visited, observed.encodings, state.count)
        return GuidedState(inner, state.region, visited, state.count + len(observed.encodings))

    def _draws(self, key: jax.Array, n: int) -> Candidates:
        most = max(map(len, self.weights))
        filled = np.array([(*row, *[0.0] * (most - len(row))) for row in self.weights])
        with np.errstate(divide="ignore"):
            logits = jnp.asarray(np.log(filled), jnp.float32)
        return jr.categorical(key, logits, shape=(n, TRIES, len(self.weights))).astype(jnp.int32)
