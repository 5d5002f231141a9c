"""Successive halving and its kin: many architectures are trained for a little, the best of them for longer.

`successive-halving`: Jamieson & Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization",
2015, https://arxiv.org/abs/1502.07943. `hyperband`: Li et al., "Hyperband: A Novel Bandit-Based Approach to
Hyperparameter Optimization", 2016, https://arxiv.org/abs/1603.06560, table 1. `asha`: Li et al., "A System for
Massively Parallel Hyperparameter Tuning", 2018, https://arxiv.org/abs/1810.05934, algorithm 2. `bohb`: Falkner et al.,
"BOHB: Robust and Efficient Hyperparameter Optimization at Scale", 2018, https://arxiv.org/abs/1807.01774, with our
Gaussian process in place of its densities.

A trial is one evaluation with one of the `budgets`, which make up the rungs of a ladder. All that a rung has seen
stands for promotion to the next, whichever bracket it came from. Promotions follow the order of trials, not of their
ends, so the number of workers changes nothing. `asha` waits for nothing; the others promote from a rung once all of it
is known.
"""

import dataclasses
import functools
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from spaces.base import Encodings, Limits, Space
from strategies.archive import Archive, draw_new
from strategies.base import Observations, Proposals
from strategies.bayesian import Bayesian, BayesianState
from strategies.checks import at_least
from strategies.region import Region, region
from strategies.visited import Visited, also, contains, hash_rows, nothing, visit

MOST = 10**6  # epochs
Brackets = tuple[tuple[int, ...], ...]


@struct.dataclass
class Ladder:
    """What was observed, by rung."""

    region: Region
    rows: Encodings  # observed; when full, the worst of the lowest rung makes room
    rung: Int[Array, "memory"]  # -1 where there is none
    scores: Float[Array, "memory"]  # minimised; NaN for failures
    promoted: Bool[Array, "memory"]  # whether the same architecture was observed on the next rung
    visited: Visited
    count: Int[Array, ""]  # observed so far
    model: Any = None  # of `bohb`


@dataclasses.dataclass(frozen=True)
class ASHA:
    """Asynchronous successive halving: whatever is among the best of its rung goes on; else something new begins."""

    budgets: tuple[int, ...] = ()
    """Epochs of training at each rung, ascending, such as (1,3,9,27). By default, of a table all that it has; else all
    that a training takes by the recipe `final`, a third, a ninth and a 27th."""
    eta: int = 3
    """One of so many goes on to the next rung."""
    memory: int = 4096
    """How many observations are remembered."""

    generation: ClassVar[int] = 1

    def __post_init__(self):
        at_least(self, eta=2, memory=1)
        ascending = all(low < high for low, high in zip(self.budgets, self.budgets[1:], strict=False))
        if not ascending or any(not 1 <= each <= MOST for each in self.budgets):
            raise ValueError(f"budgets={self.budgets} must be epochs in 1..{MOST}, ascending, such as (1,3,9,27)")

    @property
    def levels(self) -> Int[Array, "rungs"]:
        """The budget of each rung; 0, which leaves it to the evaluator, where there is one alone."""
        return jnp.asarray(self.budgets or (0,), jnp.int32)

    def init(self, space: Space, limits: Limits = ()) -> Ladder:
        return Ladder(
            region=region(space, limits),
            rows=jnp.zeros((self.memory, len(space.cardinalities)), jnp.int32),
            rung=jnp.full(self.memory, -1, jnp.int32),
            scores=jnp.full(self.memory, jnp.nan),
            promoted=jnp.zeros(self.memory, bool),
            visited=nothing(space, self.memory),
            count=jnp.zeros((), jnp.int32),
        )

    def ask(self, state: Ladder, key: jax.Array, n: int, pending: Proposals) -> Proposals:
        busy = len(pending.encodings)
        waiting = jnp.where(pending.encodings[:, 0] >= 0, self._rung(pending.budgets), -1)
        rows = jnp.concatenate([pending.encodings, jnp.full((n, pending.encodings.shape[1]), -1, jnp.int32)])
        rungs = jnp.concatenate([waiting, jnp.full(n, -1, jnp.int32)])

        def one(carry: tuple[Array, Array], number: Array):
            rows, rungs = carry
            row, rung = self._next(state, jr.fold_in(key, number), rows, rungs)
            return (rows.at[busy + number].set(row), rungs.at[busy + number].set(rung)), None

        rows, rungs = jax.lax.scan(one, (rows, rungs), jnp.arange(n))[0]
        return Proposals(rows[busy:], self.levels[rungs[busy:]])

    def tell(self, state: Ladder, observed: Observations) -> Ladder:
        def one(state: Ladder, seen: tuple[Array, Array, Array]):
            row, rung, score = seen
            lowest = jnp.where(state.rung < 0, len(self.levels), state.rung).min()
            worst = jnp.argmax(jnp.where(state.rung == lowest, jnp.nan_to_num(state.scores, nan=jnp.inf), -jnp.inf))
            slot = jnp.where(state.count < self.memory, state.count, worst)
            same = (state.rows == row[None]).all(1)
            promoted = state.promoted | (same & (state.rung >= 0) & (state.rung == rung - 1))
            return dataclasses.replace(
                state,
                rows=state.rows.at[slot].set(row),
                rung=state.rung.at[slot].set(rung),
                scores=state.scores.at[slot].set(score),
                promoted=promoted.at[slot].set((same & (state.rung == rung + 1)).any()),
                visited=visit(state.visited, row[None], state.count),
                count=state.count + 1,
            ), None

        seen = observed.encodings, self._rung(observed.budgets), observed.objectives[:, 0]
        return jax.lax.scan(one, state, seen)[0]

    def _rung(self, budgets: Int[Array, "n"]) -> Int[Array, "n"]:
        """Of a budget that is none of ours the rung below; without one an evaluation is a whole one."""
        below = jnp.searchsorted(self.levels, budgets, side="right").astype(jnp.int32) - 1
        return jnp.where(budgets > 0, jnp.maximum(below, 0), len(self.levels) - 1)

    def _next(
        self, state: Ladder, key: jax.Array, rows: Encodings, rungs: Int[Array, "p"]
    ) -> tuple[Int[Array, "length"], Int[Array, ""]]:
        """The architecture of the next trial and its rung. `rows` and `rungs` are what is being evaluated."""
        hashes = hash_rows(state.rows)
        follows = (hash_rows(rows)[None] == hashes[:, None]).all(-1) & (rungs[None] == state.rung[:, None] + 1)
        free = ~state.promoted & ~follows.any(1) & jnp.isfinite(state.scores)
        free &= (state.rung >= 0) & (state.rung < len(self.levels) - 1)
        number = state.count + (rungs >= 0).sum()
        due, start = self._due(state, free, number)
        known = also(state.visited, rows)
        new = self._new(state, key, rows, known)
        # Where everything was tried, what is left is to go on with something.
        due = jnp.where(due.any() | ~contains(known, new[None])[0], due, free)
        highest = jnp.where(due, state.rung, -1).max()
        chosen = jnp.argmin(jnp.where(due & (state.rung == highest), state.scores, jnp.inf))
        return (
            jnp.where(due.any(), state.rows[chosen], new),
            jnp.where(due.any(), state.rung[chosen] + 1, start).astype(jnp.int32),
        )

    def _due(
        self, state: Ladder, free: Bool[Array, "memory"], number: Int[Array, ""]
    ) -> tuple[Bool[Array, "memory"], Array]:
        """Of what is free to go on, from which of these one is to; else on which rung something new begins."""
        del number
        counts = (state.rung[None] == jnp.arange(len(self.levels))[:, None]).sum(1)
        scores = jnp.where(jnp.isnan(state.scores), jnp.inf, state.scores)
        order = jnp.lexsort((scores, state.rung))
        before = (state.rung < 0).sum() + jnp.cumsum(counts) - counts  # on lower rungs, and nothing
        rank = jnp.zeros(self.memory, jnp.int32).at[order].set(jnp.arange(self.memory, dtype=jnp.int32))
        rank = rank - before[state.rung]
        return free & (rank < counts[state.rung] // self.eta), jnp.zeros((), jnp.int32)

    def _new(self, state: Ladder, key: jax.Array, rows: Encodings, known: Visited) -> Int[Array, "length"]:
        """An architecture that nobody has tried; of those that were, where there is no other."""
        return draw_new(state.region, key, 1, known)[0]


@dataclasses.dataclass(frozen=True)
class _Scheduled(ASHA):
    """Brackets that follow each other: trials of which each is due on a rung, as something new or as a promotion."""

    def brackets(self) -> Brackets:
        """Of each bracket how many trials there are on each rung, from the lowest on; 0 before its first."""
        raise NotImplementedError

    def needs(self, number: int) -> int:
        """A rung is promoted from once all of it is known: as published, whatever the concurrency."""
        plan = _plan(self.brackets())
        place = number % len(plan)
        due = plan[place]
        return 0 if due.is_new else number - place + due.start

    def _due(
        self, state: Ladder, free: Bool[Array, "memory"], number: Int[Array, ""]
    ) -> tuple[Bool[Array, "memory"], Array]:
        plan = np.asarray(_plan(self.brackets()), np.int32)
        rung, is_new, _ = jnp.asarray(plan)[number % len(plan)]
        due = free & (state.rung == rung - 1) & (is_new == 0)
        return due, jnp.where(is_new == 1, rung, 0)


class _Due(NamedTuple):
    """What a trial of a cycle of brackets is."""

    rung: int
    is_new: int  # 1 where it begins with something new, 0 where it goes on
    start: int  # the place in the cycle of the first trial of this rung of its bracket


@functools.lru_cache(maxsize=16)  # it is asked for once a trial
def _plan(brackets: Brackets) -> list[_Due]:
    """The trials of all brackets in turn."""
    found: list[_Due] = []
    for sizes in brackets:
        first = next(rung for rung, size in enumerate(sizes) if size)
        for rung, size in enumerate(sizes):
            found += [_Due(rung, int(rung == first), len(found))] * size
    return found


@dataclasses.dataclass(frozen=True)
class SuccessiveHalving(_Scheduled):
    """One bracket: all begin at the lowest rung, and one of `eta` goes on from each rung to the next."""

    initial: int | None = None
    """Architectures at the lowest rung; by default as many as the trials suffice for."""

    def __post_init__(self):
        super().__post_init__()
        at_least(self, initial=1)

    def for_trials(self, trials: int) -> "SuccessiveHalving":
        if self.initial is not None:
            return self
        fitting = (n for n in range(trials, 1, -1) if sum(self._sizes(n)) <= trials)
        return dataclasses.replace(self, initial=next(fitting, 1))

    def brackets(self) -> Brackets:
        rungs = max(len(self.budgets), 1)
        return (self._sizes(self.eta ** (rungs - 1) if self.initial is None else self.initial),)

    def _sizes(self, initial: int) -> tuple[int, ...]:
        return tuple(max(initial // self.eta**rung, 1) for rung in range(max(len(self.budgets), 1)))


@dataclasses.dataclass(frozen=True)
class Hyperband(_Scheduled):
    """Brackets of successive halving in turn, of which the first has most architectures and begins at the lowest rung,
    and the last has few, all of the largest budget."""

    def brackets(self) -> Brackets:
        rungs, found = max(len(self.budgets), 1), []
        for more in range(rungs - 1, -1, -1):  # rungs above the first
            first = math.ceil(rungs * self.eta**more / (more + 1))
            sizes = tuple(first // self.eta**i for i in range(more + 1))
            found.append((0,) * (rungs - 1 - more) + sizes)
        return tuple(found)


@dataclasses.dataclass(frozen=True)
class BOHB(Hyperband):
    """Hyperband whose new architectures are those of which a Gaussian process expects most. It is fitted on the largest
    budget that has seen enough."""

    memory: int = 512
    """How many observations are remembered."""
    initial: int = 10
    """Observations of one budget from which on it is learned from."""
    random: float = 0.33
    """The share of new architectures that are random."""

    seeds_at_once: ClassVar[int] = 1  # of a study, as of `bayesian`

    def __post_init__(self):
        super().__post_init__()
        at_least(self, initial=2, memory=2)
        if not 0 <= self.random <= 1:
            raise ValueError(f"random={self.random} must lie in 0..1")

    @property
    def _proposer(self) -> Bayesian:
        return Bayesian(batch_size=1, memory=self.memory)

    def init(self, space: Space, limits: Limits = ()) -> Ladder:
        return dataclasses.replace(super().init(space, limits), model=self._proposer.init(space, limits).candidates)

    def _new(self, state: Ladder, key: jax.Array, rows: Encodings, known: Visited) -> Int[Array, "length"]:
        key_which, key_random, key_model = jr.split(key, 3)
        seen = (state.rung[None] == jnp.arange(len(self.levels))[:, None]) & jnp.isfinite(state.scores)[None]
        enough = seen.sum(1) >= self.initial
        level = jnp.where(enough, jnp.arange(len(self.levels)), -1).max()
        count = jnp.minimum(state.count, self.memory)
        archive = Archive(state.rows, jnp.where(state.rung == level, state.scores, jnp.nan), count, state.visited)
        learned = BayesianState(state.region, state.model, archive)
        pending = Proposals(rows, jnp.zeros(len(rows), jnp.int32))
        return jax.lax.cond(
            (level >= 0) & (jr.uniform(key_which) >= self.random),
            lambda: self._proposer.promising(learned, key_model, 1, pending)[0],
            lambda: draw_new(state.region, key_random, 1, known)[0],
        )
