"""NSGA-II: several objectives at once, none weighed against another; the result is a front.

Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002,
https://doi.org/10.1109/4235.996017; for architectures Lu et al., "NSGA-Net", 2018, https://arxiv.org/abs/1810.03522.
Choices are names, not numbers, so a mutation draws a decision anew where the papers perturb it. For searches of a few
hundred trials three things differ from the paper's, where parents are drawn from all that survived and as many children
as these come at once: parents are of the front, children come a few at a time, and half of them change a single
decision of one parent.
"""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from spaces.base import Encodings, Limits, Space, mutate, resample, sample
from strategies.base import Observations, Proposals
from strategies.checks import at_least
from strategies.region import Region, pick, region, repeat
from strategies.visited import Visited, also, nothing, visit

LEAST = 1e-9  # of a limit, in which what exceeds it is counted


@struct.dataclass
class NSGA2State:
    region: Region
    rows: Encodings  # the population, and behind it the offspring observed since it was selected
    objectives: Float[Array, "k m"]  # +inf marks an empty slot or a failure
    violation: Float[Array, "k"]  # how far the limits are passed, as a sum of shares; 0 for legal architectures
    rank: Int[Array, "p"]  # of the population: 0 is the front
    crowding: Float[Array, "p"]
    visited: Visited
    count: Int[Array, ""]  # observed so far


@dataclasses.dataclass(frozen=True)
class NSGA2:
    """Children of the least crowded of the front, by crossover and mutation; the best of all survive."""

    population_size: int = 20
    """Architectures that survive; the first ones are random."""
    num_children: int = 5
    """Architectures in a generation, after which parents and children are selected from."""
    num_objectives: int = 2
    """Objectives that are told; the run's own number of them."""
    crossover_probability: float = 0.5
    """The chance of a child to mix two parents; else it is a copy of one with one decision changed."""
    mutations: float = 1.0
    """Expected number of decisions that are drawn anew of a child that mixes two parents."""
    initial: int = 5
    """Random architectures before the first children."""
    memory: int = 1024
    """How many of the last observed architectures are never proposed again; all, of a space of up to 262,144."""
    budget: int = 0
    """Epochs that an evaluation by training may spend; 0 leaves it to the evaluator."""

    def __post_init__(self):
        at_least(self, population_size=2, num_children=1, num_objectives=1, initial=1, memory=1, budget=0)
        if not 0 <= self.crossover_probability <= 1:
            raise ValueError(f"crossover_probability={self.crossover_probability} must lie in [0, 1]")
        if not self.mutations > 0:
            raise ValueError(f"mutations={self.mutations} must be above 0")

    @property
    def generation(self) -> int:
        return self.num_children

    def init(self, space: Space, limits: Limits = ()) -> NSGA2State:
        size, both = self.population_size, self.population_size + self.num_children
        return NSGA2State(
            region=region(space, limits),
            rows=jnp.zeros((both, len(space.cardinalities)), jnp.int32),
            objectives=jnp.full((both, self.num_objectives), jnp.inf),
            violation=jnp.full(both, jnp.inf),
            rank=jnp.full(size, both, jnp.int32),
            crowding=jnp.zeros(size),
            visited=nothing(space, self.memory),
            count=jnp.zeros((), jnp.int32),
        )

    def ask(self, state: NSGA2State, key: jax.Array, n: int, pending: Proposals) -> Proposals:
        space = state.region.space
        length = len(space.cardinalities)
        front = (state.rank == 0) & jnp.isfinite(state.violation[: self.population_size])  # which comes first
        alive = jnp.maximum(front.sum(), 1)

        def parent(key: jax.Array) -> Array:
            """Of two members of the front the less crowded."""
            first, second = jr.randint(key, (n, 2), 0, alive).T
            return state.rows[jnp.where(state.crowding[first] >= state.crowding[second], first, second)]

        def children(key: jax.Array) -> Encodings:
            key_first, key_second, key_cut, key_cross, key_mutate, key_change = jr.split(key, 6)
            mother, father = parent(key_first), parent(key_second)
            cuts = jnp.sort(jr.randint(key_cut, (n, 2), 0, length + 1), axis=1)
            place = jnp.arange(length)[None]
            inside = (place >= cuts[:, :1]) & (place < cuts[:, 1:])
            crosses = jr.bernoulli(key_cross, self.crossover_probability, (n, 1))
            mixed = resample(space, key_mutate, jnp.where(inside, father, mother), min(1.0, self.mutations / length))
            return jnp.where(crosses, mixed, mutate(space, key_change, mother))

        key_children, key_random, key_pick = jr.split(key, 3)
        random = repeat(lambda k: sample(space, k, n), key_random, 20)
        number = state.count + (pending.encodings[:, 0] >= 0).sum() + jnp.arange(n)
        first = (number < self.initial) | jnp.isinf(state.violation[0])
        bred = jnp.where(first[:, None, None], random[:, :10], repeat(children, key_children, 10))
        seen = also(state.visited, pending.encodings)
        rows = pick(state.region, jnp.concatenate([bred, random[:, 10:]], 1), key_pick, seen)
        return Proposals(rows, jnp.full((n,), self.budget, jnp.int32))

    def tell(self, state: NSGA2State, observed: Observations) -> NSGA2State:
        size = self.population_size
        violations = _violation(state.region, observed.encodings)

        def one(state: NSGA2State, seen: tuple[Array, Array, Array]):
            encoding, objectives, violation = seen
            failed = jnp.isnan(objectives).any()
            slot = size + state.count % self.num_children
            state = dataclasses.replace(
                state,
                rows=state.rows.at[slot].set(encoding),
                objectives=state.objectives.at[slot].set(jnp.where(failed, jnp.inf, objectives)),
                violation=state.violation.at[slot].set(jnp.where(failed, jnp.inf, violation)),
                visited=visit(state.visited, encoding[None], state.count),
                count=state.count + 1,
            )
            return jax.lax.cond(state.count % self.num_children == 0, self._select, lambda state: state, state), None

        return jax.lax.scan(
            one, state, (observed.encodings, observed.objectives[:, : self.num_objectives], violations)
        )[0]

    def _select(self, state: NSGA2State) -> NSGA2State:
        """The best by front, then by crowding distance, become the population."""
        rank = fronts(state.objectives, state.violation)
        crowding = crowding_distance(state.objectives, rank)
        best = jnp.lexsort((-crowding, rank))[: self.population_size]
        return dataclasses.replace(
            state,
            rows=state.rows.at[: self.population_size].set(state.rows[best]),
            objectives=jnp.full_like(state.objectives, jnp.inf).at[: self.population_size].set(state.objectives[best]),
            violation=jnp.full_like(state.violation, jnp.inf).at[: self.population_size].set(state.violation[best]),
            rank=rank[best],
            crowding=crowding[best],
        )


def _violation(where: Region, rows: Encodings) -> Float[Array, "n"]:
    """By how much rows exceed their limits, as shares of these; exactly 0 for what keeps them."""
    costs = where.space.cost(rows)
    excess = [
        jnp.where(costs[name] <= most, 0.0, (costs[name] - most) / max(abs(most), LEAST)) for name, most in where.limits
    ]
    return jnp.sum(jnp.stack(excess), 0) if excess else jnp.zeros(rows.shape[0])


def dominance(objectives: Float[Array, "k m"], violation: Float[Array, "k"]) -> Bool[Array, "k k"]:
    """Whether row i dominates row j: it violates limits less, or equally and no objective is worse and one better."""
    better = (objectives[:, None] <= objectives[None]).all(2) & (objectives[:, None] < objectives[None]).any(2)
    return (violation[:, None] < violation[None]) | ((violation[:, None] == violation[None]) & better)


def fronts(objectives: Float[Array, "k m"], violation: Float[Array, "k"]) -> Int[Array, "k"]:
    """The number of the front of each row, 0 being the one that nothing dominates."""
    wins = dominance(objectives, violation)

    def peel(state: tuple[Array, Array]) -> tuple[Array, Array]:
        rank, number = state
        left = rank < 0
        front = left & ~(wins & left[:, None]).any(0)
        return jnp.where(front, number, rank), number + 1

    start = (jnp.full(objectives.shape[0], -1, jnp.int32), jnp.int32(0))
    return jax.lax.while_loop(lambda state: (state[0] < 0).any(), peel, start)[0]


def crowding_distance(objectives: Float[Array, "k m"], rank: Int[Array, "k"]) -> Float[Array, "k"]:
    """The sum over objectives of the gap between a row's neighbours in its front, as a share of the front's range.

    The ends of a front are infinitely far; an objective that is the same in all of a front does not count.
    """

    def gaps(values: Array) -> Array:
        order = jnp.lexsort((values, rank))
        v, r = values[order], rank[order]
        starts = jnp.concatenate([jnp.ones(1, bool), r[1:] != r[:-1]])
        ends = jnp.concatenate([r[1:] != r[:-1], jnp.ones(1, bool)])
        low = jax.ops.segment_min(values, rank, len(values))[r]
        high = jax.ops.segment_max(values, rank, len(values))[r]
        gap = (jnp.roll(v, -1) - jnp.roll(v, 1)) / jnp.where(high > low, high - low, 1.0)
        gap = jnp.where(starts | ends, jnp.inf, gap)
        counts = (high > low) & jnp.isfinite(high - low)
        return jnp.zeros(len(values)).at[order].set(jnp.where(counts, gap, 0.0))

    return sum((gaps(column) for column in objectives.T), jnp.zeros(objectives.shape[0]))
