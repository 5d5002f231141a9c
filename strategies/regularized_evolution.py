"""Regularised (ageing) evolution: the oldest dies, not the worst.

Real et al., "Regularized Evolution for Image Classifier Architecture Search", 2018,
https://arxiv.org/abs/1802.01548

A tournament is drawn with replacement, as in the paper's algorithm 1 and in the code of NAS-Bench-201
(https://arxiv.org/abs/2001.00326), whose population of 10 and sample of 3 fit searches of a hundred trials, and none
longer; the code of NAS-Bench-101 draws without. Here a population of 30 begins with 10 random architectures and grows
by children, which serves short and long searches. The paper's mutation that changes nothing, of probability 0.05, is
left out: it would train a copy again. Best at: a few hundred trials of whatever kind (`benchmarks/league.py`).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
from flax import struct
from jaxtyping import Array, Float, Int

from spaces.base import Encodings, Limits, Space, mutate
from strategies.base import Observations, Proposals
from strategies.checks import at_least
from strategies.region import Region, draws, pick, region, repeat
from strategies.visited import Visited, also, nothing, visit


@struct.dataclass
class RegularizedEvolutionState:
    region: Region
    population: Encodings  # a ring in order of birth
    fitness: Float[Array, "p"]  # minimised; +inf marks an empty or failed slot
    visited: Visited
    count: Int[Array, ""]  # observed so far


@dataclasses.dataclass(frozen=True)
class RegularizedEvolution:
    """A queue of the last `population_size` architectures; each child is the best of a random sample, mutated once."""

    population_size: int = 30
    """Architectures alive at a time, at most (P); the paper's 100 are for 20,000 trials, NAS-Bench-201's 10 for a
    hundred."""
    tournament_size: int = 10
    """Members sampled, the same one perhaps more than once, of which the best is the parent (S); 25 in the paper, 3 in
    NAS-Bench-201."""
    initial: int = 10
    """Random architectures before the first child; after them, children alone fill the population."""
    memory: int = 4096
    """How many of the last observed architectures are never proposed again; all, of a space of up to 262,144."""
    budget: int = 0
    """Epochs that an evaluation by training may spend; 0 leaves it to the evaluator."""

    generation: ClassVar[int] = 1

    def __post_init__(self):
        at_least(self, population_size=1, tournament_size=1, initial=1, memory=1, budget=0)

    def init(self, space: Space, limits: Limits = ()) -> RegularizedEvolutionState:
        empty = jnp.zeros((self.population_size, len(space.cardinalities)), jnp.int32)
        fitness = jnp.full(self.population_size, jnp.inf)
        visited = nothing(space, self.memory)
        return RegularizedEvolutionState(region(space, limits), empty, fitness, visited, jnp.zeros((), jnp.int32))

    def ask(self, state: RegularizedEvolutionState, key: jax.Array, n: int, pending: Proposals) -> Proposals:
        key_random, key_tournament, key_mutate, key_pick = jr.split(key, 4)
        parents = self.parents(state, key_tournament, n)
        children = repeat(lambda k: mutate(state.region.space, k, parents), key_mutate, 32)
        number = state.count + (pending.encodings[:, 0] >= 0).sum() + jnp.arange(n)
        first = (number < self.initial) | jnp.isinf(state.fitness).all()
        drawn = draws(state.region, key_random, n, 4)
        candidates = jnp.where(first[:, None, None], jnp.repeat(drawn, 8, axis=1), children)
        rows = pick(state.region, candidates, key_pick, also(state.visited, pending.encodings))
        return Proposals(rows, jnp.full((n,), self.budget, jnp.int32))

    def parents(self, state: RegularizedEvolutionState, key: jax.Array, n: int) -> Encodings:
        """The winners of `n` tournaments."""
        # Empty slots and failures do not enter: had they nobody to lose to, one would be the parent.
        failed = jnp.isinf(state.fitness)
        drawn = jr.randint(key, (n, self.tournament_size), 0, jnp.maximum((~failed).sum(), 1))
        entrants = jnp.argsort(failed)[drawn]
        winners = entrants[jnp.arange(n), jnp.argmin(state.fitness[entrants], axis=1)]
        return state.population[winners]

    def tell(self, state: RegularizedEvolutionState, observed: Observations) -> RegularizedEvolutionState:
        def push(state: RegularizedEvolutionState, one: tuple[Array, Array]):
            encoding, objective = one
            slot = state.count % self.population_size
            return dataclasses.replace(
                state,
                population=state.population.at[slot].set(encoding),
                fitness=state.fitness.at[slot].set(jnp.where(jnp.isnan(objective), jnp.inf, objective)),
                visited=visit(state.visited, encoding[None], state.count),
                count=state.count + 1,
            ), None

        return jax.lax.scan(push, state, (observed.encodings, observed.objectives[:, 0]))[0]
