"""Evolution under hard limits: parents are the best few of everything seen, and nothing is evaluated twice.

Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", 2019,
https://arxiv.org/abs/1904.00420 (algorithm 1, and the defaults of the released code). Unlike the released code,
a generation is always filled in a bounded number of tries, and refused candidates leave no trace. Best at: 300 trials
and more, in parallel; with 50 it is behind regularized evolution (`benchmarks/league.py`).
"""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
from flax import struct
from jaxtyping import Array, Float, Int

from spaces.base import Encodings, Limits, Space, crossover, resample, sample
from strategies.base import Observations, Proposals
from strategies.checks import at_least
from strategies.region import Region, pick, region, repeat
from strategies.visited import Visited, also, nothing, visit

GENERATIONS, LEAST, MOST = 10, 10, 50  # generations of a search, and the sizes that they may have
PARENTS = 10


@struct.dataclass
class EvolutionState:
    region: Region
    parents: Encodings  # the best of all observed, best first, the earlier first among equals
    fitness: Float[Array, "k"]  # minimised; +inf marks an empty slot
    visited: Visited
    count: Int[Array, ""]  # observed so far


@dataclasses.dataclass(frozen=True)
class Evolution:
    """Generations of mutants and crossovers of the top `num_parents`, topped up with random architectures."""

    population_size: int | None = None
    """Architectures in a generation; the first one is random. By default a tenth of the trials, from 10 to the paper's
    50."""
    num_parents: int | None = None
    """How many of the best of all generations are parents; by default half a generation, and at most the paper's 10."""
    num_mutations: int | None = None
    """Children of a generation that are mutants; by default half of them."""
    num_crossovers: int | None = None
    """Children of a generation that are crossovers, by default half of them; what is left of the generation is
    random."""
    mutation_probability: float = 0.1
    """The chance of each decision of a mutant to be drawn anew."""
    memory: int = 4096
    """How many of the last observed architectures are never proposed again; all, of a space of up to 262,144."""
    budget: int = 0
    """Epochs that an evaluation by training may spend; 0 leaves it to the evaluator."""

    def __post_init__(self):
        at_least(self, population_size=1, num_parents=1, memory=1, num_mutations=0, num_crossovers=0, budget=0)
        if not 0 < self.mutation_probability <= 1:
            raise ValueError(f"mutation_probability={self.mutation_probability} must lie in (0, 1]")

    @property
    def generation(self) -> int:
        return MOST if self.population_size is None else self.population_size

    @property
    def _num_parents(self) -> int:
        return min(max(self.generation // 2, 1), PARENTS) if self.num_parents is None else self.num_parents

    def for_trials(self, trials: int) -> "Evolution":
        """With a generation that so many trials have several of."""
        if self.population_size is not None:
            return self
        return dataclasses.replace(self, population_size=min(max(trials // GENERATIONS, LEAST), MOST))

    def init(self, space: Space, limits: Limits = ()) -> EvolutionState:
        return EvolutionState(
            region=region(space, limits),
            parents=jnp.zeros((self._num_parents, len(space.cardinalities)), jnp.int32),
            fitness=jnp.full(self._num_parents, jnp.inf),
            visited=nothing(space, self.memory),
            count=jnp.zeros((), jnp.int32),
        )

    def ask(self, state: EvolutionState, key: jax.Array, n: int, pending: Proposals) -> Proposals:
        space = state.region.space
        alive = jnp.maximum(jnp.isfinite(state.fitness).sum(), 1)

        def parents(key: jax.Array) -> Encodings:
            return state.parents[jr.randint(key, (n,), 0, alive)]

        def mutants(key: jax.Array) -> Encodings:
            key_parent, key_mutate = jr.split(key)
            return resample(space, key_mutate, parents(key_parent), self.mutation_probability)

        def crossovers(key: jax.Array) -> Encodings:
            key_first, key_second, key_cross = jr.split(key, 3)
            return crossover(key_cross, parents(key_first), parents(key_second))

        key_mutants, key_crossovers, key_random, key_pick = jr.split(key, 4)
        number = state.count + (pending.encodings[:, 0] >= 0).sum() + jnp.arange(n)
        place = number % self.generation
        mutated = (self.generation + 1) // 2 if self.num_mutations is None else self.num_mutations
        crossed = self.generation // 2 if self.num_crossovers is None else self.num_crossovers
        mutates = place < mutated
        crosses = ~mutates & (place < mutated + crossed)
        random = repeat(lambda k: sample(space, k, n), key_random, 20)
        children = jnp.where(
            mutates[:, None, None],
            repeat(mutants, key_mutants, 10),
            jnp.where(crosses[:, None, None], repeat(crossovers, key_crossovers, 10), random[:, :10]),
        )
        first = (number < self.generation) | jnp.isinf(state.fitness).all()
        candidates = jnp.concatenate([jnp.where(first[:, None, None], random[:, :10], children), random[:, 10:]], 1)
        seen = also(state.visited, pending.encodings)
        rows = pick(state.region, candidates, key_pick, seen)
        return Proposals(rows, jnp.full((n,), self.budget, jnp.int32))

    def tell(self, state: EvolutionState, observed: Observations) -> EvolutionState:
        n, k = observed.encodings.shape[0], self._num_parents
        objective = observed.objectives[:, 0]
        fitness = jnp.concatenate([state.fitness, jnp.where(jnp.isnan(objective), jnp.inf, objective)])
        best = jnp.argsort(fitness, stable=True)[:k]
        return dataclasses.replace(
            state,
            parents=jnp.concatenate([state.parents, observed.encodings])[best],
            fitness=fitness[best],
            visited=visit(state.visited, observed.encodings, state.count),
            count=state.count + n,
        )
