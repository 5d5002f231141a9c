"""Bayesian optimisation: a Gaussian process on what was observed, and the expected improvement elsewhere.

Kandasamy et al., "Neural Architecture Search with Bayesian Optimisation and Optimal Transport", 2018,
https://arxiv.org/abs/1802.07191; White et al., "BANANAS", 2019, https://arxiv.org/abs/1910.11858 (a kernel on
encodings of paths). Jones et al., "Efficient Global Optimization", 1998 (expected improvement), in logarithms as in
Ament et al., 2023, https://arxiv.org/abs/2310.20708. Ginsbourger et al., "Kriging Is Well-Suited to Parallelize
Optimization", 2010 (what is not evaluated yet is believed to be as expected).

On NAS-Bench-201 the belief within a batch matters little: by the validation accuracy on CIFAR-10, 50 seeds meet the
best cell after 42.7 evaluations on average in batches of 2 (44.5 if each batch is the best few of one acquisition), and
in batches of 8 after a median of 51.5 (52.5).
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.scipy as jsp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from predictors.features import features, groups
from predictors.gaussian_process import (
    GaussianProcess,
    Posterior,
    at,
    condition,
    latent_at,
    matern,
    predict,
    squared_distances,
)
from predictors.targets import quantiles
from spaces.base import Encodings, Limits, Space, every, feasible, mutate
from strategies.archive import Archive, add, best, draw_new, empty, seen, sized, used
from strategies.base import Observations, Proposals
from strategies.checks import at_least
from strategies.region import Region, draw, draws, pick, region
from strategies.visited import also, contains

TRUST = 2.0  # observations that agree, for which a predictor of elsewhere is taken at first
LEAST_WIDTH = 0.01  # what is added to the deviation of what it says, so that nothing is divided by 0


@struct.dataclass
class BayesianState:
    region: Region
    candidates: "Candidates | None"  # of a small space all there are, else None
    archive: Archive
    earlier: Any = None  # the parameters of a Gaussian process that was fitted elsewhere


@struct.dataclass
class Candidates:
    """Rows, in groups that a predictor cannot tell apart, because they are equal networks."""

    rows: Encodings
    legal: Bool[Array, "m"]
    group: Int[Array, "m"]
    points: Float[Array, "groups d"]


@dataclasses.dataclass(frozen=True)
class Bayesian:
    """Every architecture of a small space is a candidate; of a large one, random ones and mutants of the best."""

    batch_size: int = 2
    """Architectures asked for between two fits."""
    initial: int = 10
    """Random architectures before the first fit."""
    spread: int = 3
    """Random architectures of which each of these is the farthest from all before; 1 leaves them as they fall."""
    num_candidates: int = 2000
    """Candidates in a space of more than 65,536 architectures; half of them are mutants of the 10 best."""
    memory: int = 512
    """Most observations that are fitted; of more, the best are."""
    budget: int = 0
    """Epochs that an evaluation by training may spend; 0 leaves it to the evaluator."""

    seeds_at_once: ClassVar[int] = 1  # of a study: its linear algebra is large enough, and better not batched

    def __post_init__(self):
        at_least(self, batch_size=1, initial=2, spread=1, num_candidates=2, memory=2, budget=0)

    @property
    def generation(self) -> int:
        return self.batch_size

    @property
    def predictor(self) -> GaussianProcess:
        return GaussianProcess()

    def init(self, space: Space, limits: Limits = ()) -> BayesianState:
        rows = every(space)
        candidates = None if rows is None else _grouped(space, limits, rows)
        return BayesianState(
            region=region(space, limits),
            candidates=candidates,
            archive=empty(space, self.memory),
        )

    def warm(self, state: BayesianState, params: Any) -> BayesianState:
        """The state that believes what this predictor says, as far as what is observed agrees with it."""
        return dataclasses.replace(state, earlier=params)

    def ask(self, state: BayesianState, key: jax.Array, n: int, pending: Proposals) -> Proposals:
        key_random, key_candidates = jr.split(key)
        if state.earlier is not None:  # there is something to go by from the first proposal on
            rows = self.promising(state, key_candidates, n, pending)
        else:
            rows = jax.lax.cond(
                state.archive.count < self.initial,
                lambda: self._random(state, key_random, n, pending),
                lambda: self.promising(state, key_candidates, n, pending),
            )
        return Proposals(rows, jnp.full((n,), self.budget, jnp.int32))

    def tell(self, state: BayesianState, observed: Observations) -> BayesianState:
        return dataclasses.replace(state, archive=add(state.archive, observed))

    def _random(self, state: BayesianState, key: jax.Array, n: int, pending: Proposals) -> Encodings:
        """Of a few random architectures each the one that is farthest from all that were observed."""
        key_draw, key_pick = jr.split(key)
        drawn = draws(state.region, key_draw, n, self.spread)
        points = features(state.region.space, drawn.reshape(n * self.spread, -1))
        distances = squared_distances(points, features(state.region.space, state.archive.rows))
        nearest = jnp.where(used(state.archive)[None], distances, jnp.inf).min(1).reshape(n, self.spread)
        drawn = jnp.take_along_axis(drawn, jnp.argsort(-nearest, axis=1)[:, :, None], axis=1)
        return pick(state.region, drawn, key_pick, seen(state.archive, pending))

    def promising(self, state: BayesianState, key: jax.Array, n: int, pending: Proposals) -> Encodings:
        space = state.region.space
        key_candidates, key_rest = jr.split(key)
        candidates = self._drawn(state, key_candidates) if state.candidates is None else state.candidates
        rows, num_groups = candidates.rows, candidates.points.shape[0]
        busy = pending.encodings[:, 0] >= 0
        waiting = features(space, jnp.where(busy[:, None], pending.encodings, 0))

        new = candidates.legal & self._unseen(state, rows, pending)
        # Of each group, whose members promise the same, the first that is new.
        first = (
            jnp.full(num_groups, len(rows)).at[candidates.group].min(jnp.where(new, jnp.arange(len(rows)), len(rows)))
        )

        def chosen(observed: Encodings, scores: Array) -> tuple[Array, Array]:
            known = jnp.isfinite(scores)
            values, points = quantiles(scores, known), features(space, observed)
            before, there = _believed(state.earlier, points, values, known, candidates.points)
            values = jnp.where(known, values - before, 0.0)
            posterior = condition(points, values, known, groups(space))
            lowest = jnp.where(known, predict(posterior, points)[0] + before, jnp.inf).min()
            lowest = jnp.where(known.any(), lowest, there.min())
            if len(busy) > 1:
                # What is being evaluated is taken to be as expected (the "Kriging believer").
                believed = jnp.where(busy, predict(posterior, waiting)[0], 0.0)
                every_point, every_value = jnp.concatenate([points, waiting]), jnp.concatenate([values, believed])
                posterior = at(
                    every_point, every_value, jnp.concatenate([known, busy]), posterior.relevance, posterior.noise
                )
            return batch(posterior, candidates.points, there, first < len(rows), lowest, n)

        which, found = sized(state.archive, chosen, GaussianProcess.sizes)
        # Where fewer than n of them are left, another member of a group, or whatever is legal.
        chosen_rows = jnp.where(found[:, None], rows[first[which]], -1)
        others = draw_new(state.region, key_rest, n, also(seen(state.archive, pending), chosen_rows))
        return jnp.where(found[:, None], chosen_rows, others[jnp.cumsum(~found) - 1])

    def _drawn(self, state: BayesianState, key: jax.Array) -> Candidates:
        """Legal candidates in a space that is too large to look at: half random, half mutants of the best."""
        space, half = state.region.space, self.num_candidates // 2
        key_random, key_parent, key_mutate, key_pick = jr.split(key, 4)
        most = jnp.clip(jnp.isfinite(state.archive.scores).sum(), 1, 10)
        parents = best(state.archive, 10)[jr.randint(key_parent, (half,), 0, most)]
        one, two = (mutate(space, k, parents, count) for k, count in zip(jr.split(key_mutate), (1, 2), strict=True))
        mutants = jnp.stack([jnp.where(jnp.arange(half)[:, None] % 2 == 0, one, two)], 1)
        legal = pick(state.region, mutants, key_pick)
        rows = jnp.concatenate([legal, draw(state.region, key_random, half, tries=4)])
        order = jnp.lexsort(rows.T)
        is_first = jnp.concatenate([jnp.ones(1, bool), (rows[order][1:] != rows[order][:-1]).any(1)])
        once = jnp.zeros(len(rows), bool).at[order].set(is_first)  # mutants of the best are often the same
        return Candidates(rows, once, jnp.arange(len(rows)), features(space, rows))

    def _unseen(self, state: BayesianState, rows: Encodings, pending: Proposals) -> Bool[Array, "m"]:
        return ~contains(seen(state.archive, pending), rows)


def _believed(
    earlier: Any,
    points: Float[Array, "n d"],
    values: Float[Array, "n"],
    known: Bool[Array, "n"],
    there: Float[Array, "m d"],
) -> tuple[Float[Array, "n"], Float[Array, "m"]]:
    """What a predictor of elsewhere makes expect of the observed points and of those `there`, in quantiles of what was
    observed. It counts as its correlation with what was observed, and `TRUST` more observations that agree, say."""
    if earlier is None:
        return jnp.zeros(len(points)), jnp.zeros(len(there))
    ours, theirs = (latent_at(earlier, each)[0] for each in (points, there))
    n = jnp.maximum(known.sum(), 1)
    centre = jnp.where(known, ours, 0.0).sum() / n
    narrow = jnp.sqrt((known * (ours - centre) ** 2).sum() / n) + LEAST_WIDTH
    # As many times the correlation as there are observations.
    agrees = (known * (ours - centre) / narrow * values).sum()
    # In its own unit: where all that is observed is alike to it, it does not speak the louder.
    wide = theirs.std() + LEAST_WIDTH
    ours, theirs = (ours - centre) / wide, (theirs - centre) / wide
    slope = jnp.clip((TRUST + agrees) / (TRUST + known.sum()), 0.0, 1.0)
    return slope * ours, slope * theirs


def _grouped(space: Space, limits: Limits, rows: np.ndarray) -> Candidates:
    points = np.asarray(features(space, jnp.asarray(rows)))
    _, first, group = np.unique(points, axis=0, return_index=True, return_inverse=True)
    own = (space.canonical(jnp.asarray(rows)) == rows).all(1)  # proposals are canonical
    legal = feasible(space, jnp.asarray(rows), limits) & own
    return Candidates(jnp.asarray(rows), legal, jnp.asarray(group.ravel(), jnp.int32), jnp.asarray(points[first]))


def batch(
    posterior: Posterior,
    points: Float[Array, "m d"],
    before: Float[Array, "m"],
    free: Bool[Array, "m"],
    lowest: Float[Array, ""],
    n: int,
) -> tuple[Int[Array, "n"], Bool[Array, "n"]]:
    """Of the free points the `n` to evaluate next, and whether there were so many. `before` is what is believed of
    each whatever was observed.

    Each is the one that promises most once those before it are believed to be as expected. Such a belief leaves the
    mean as it is, and takes from the covariance what the point explains: a step of a pivoted Cholesky decomposition.
    """
    mean, deviation = predict(posterior, points)
    mean += before
    ours, theirs = (each * jnp.sqrt(posterior.relevance)[None] for each in (points, posterior.points))

    def correlations(with_these: Float[Array, "k d"]) -> Float[Array, "m k"]:
        return matern(jnp.sqrt(jnp.maximum(squared_distances(ours, with_these), 0.0)))

    to_known = jnp.where(posterior.known[None], correlations(theirs), 0.0)
    noise = posterior.noise * posterior.amplitude

    def step(carry, number: Array):
        variance, free, explained = carry
        deviation = jnp.sqrt(variance)
        gain = log_expected_improvement((lowest - mean) / deviation) + jnp.log(deviation)
        here = jnp.argmax(jnp.where(free, gain, -jnp.inf))
        prior = correlations(ours[here][None])[:, 0] - to_known @ (posterior.root.T @ (posterior.root @ to_known[here]))
        covariance = posterior.amplitude * prior - explained.T @ explained[:, here]
        factor = covariance / jnp.sqrt(variance[here] + noise)
        variance = jnp.maximum(variance - factor**2, 1e-6 * posterior.amplitude)
        return (variance, free.at[here].set(False), explained.at[number].set(factor)), (here, free[here])

    start = deviation**2, free, jnp.zeros((n, len(points)))
    return jax.lax.scan(step, start, jnp.arange(n))[1]


def log_expected_improvement(z: Float[Array, "m"]) -> Float[Array, "m"]:
    """log(phi(z) + z Phi(z)): of a normal variable the expected amount above -z, far into the tail as well."""
    near = jnp.maximum(z, -5.0)
    inside = jnp.log(jnp.exp(_log_density(near)) + near * jsp.special.ndtr(near))
    far = jnp.minimum(z, -5.0)
    tail = _log_density(far) - 2 * jnp.log(-far) + jnp.log1p(-3 / far**2 + 15 / far**4 - 105 / far**6)
    return jnp.where(z > -5, inside, tail)


def _log_density(z: Array) -> Array:
    return -(z**2) / 2 - np.float32(np.log(2 * np.pi) / 2)
