"""Whole studies on a table, or on a function, as one program: a strategy, many seeds, no Python in the inner loop.

A seed's trials are those of the ordinary loop (`nas.engine.loop`) with the same seed and a concurrency of one
generation: the same keys, asked and told in the same order.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from nas.engine.proposals import are_choices, check_form, refused
from nas.streams import NOISE, SEARCH, stream
from nas.tables.table import perturbation
from nas.training.compilation import in_order
from spaces.base import Encodings, Limits, Space, indices
from strategies.base import Large, Observations, Proposals, Strategy, budgets_of, with_trials
from strategies.visited import hash_rows


@dataclasses.dataclass(frozen=True)
class Study:
    """What a strategy did, by seed."""

    rows: np.ndarray  # int32 [seeds, trials]: indices of the table's rows; of a function, numbers that tell them apart
    objectives: np.ndarray  # float32 [seeds, trials, m], as observed
    encodings: np.ndarray  # int32 [seeds, trials, length]
    rungs: np.ndarray  # int32 [seeds, trials]: of a strategy that asks for several budgets which that was, else 0

    @property
    def scores(self) -> np.ndarray:
        """The first objective, float32 [seeds, trials]."""
        return self.objectives[:, :, 0]

    def best(self) -> np.ndarray:
        """What is reported after each trial: the best observed with the largest budget until then, the earlier if
        equal."""
        finite = self.scores[np.isfinite(self.scores)].astype(np.float64)
        apart = finite.max(initial=0.0) - finite.min(initial=0.0) + 1.0  # any two scores of different budgets
        lowered = self.scores - apart * self.rungs
        return np.take_along_axis(self.rows, best_so_far(lowered), axis=1)


def best_so_far(scores: np.ndarray) -> np.ndarray:
    """After each trial of a search `[searches, trials]` the place of the lowest score, the earlier if equal; NaN is
    none."""
    lowest = np.fmin.accumulate(np.nan_to_num(scores, nan=np.inf), axis=1)
    before = np.concatenate([np.full((len(lowest), 1), np.inf), lowest[:, :-1]], axis=1)
    improves = lowest < before
    return np.maximum.accumulate(np.where(improves, np.arange(lowest.shape[1]), 0), axis=1)


def run(
    strategy: Strategy,
    space: Space,
    scores: np.ndarray | jax.tree_util.Partial,
    seeds: Sequence[int],
    trials: int,
    *,
    limits: Limits = (),
    noise: float = 0.0,
    at_once: int | None = None,
    start: Any = None,
) -> Study:
    """Searches once a seed. `scores` are the objectives of every row, `[rows]` or `[rows, m]`, minimised, of a
    strategy that asks for several budgets `[budgets, rows, m]`; or a function of encodings `[n, length]` that gives
    `[n, m]`, for a space of more rows than a table has.

    `at_once` seeds run side by side; by default all, or as many as the strategy asks for. `noise` is the standard
    deviation of what is added to the objectives; a row has its own in each seed. `start` are the parameters of a fitted
    predictor, for a strategy that can go on from them.
    Raises ValueError where no row keeps the limits, UsageError where the strategy proposes what is no row.
    """
    strategy = with_trials(strategy, trials)
    state = strategy.init(space, limits)
    if start is not None:
        state = strategy.warm(state, start)  # pyright: ignore[reportAttributeAccessIssue]
    generations = -(-trials // strategy.generation)
    suited = strategy.seeds_at_once if isinstance(strategy, Large) else len(seeds)
    step = min(at_once or suited, len(seeds))
    table: Any = (
        scores if callable(scores) else jnp.asarray(scores[:, None] if scores.ndim == 1 else scores, jnp.float32)
    )

    def part(places: np.ndarray):
        # The last part is filled up: one shape is one program.
        some = np.asarray(seeds, np.uint32)[np.minimum(places, len(seeds) - 1)]
        keys = [jax.vmap(lambda seed, part=part: stream(seed, part))(jnp.asarray(some)) for part in (SEARCH, NOISE)]
        found = _program()(strategy, space, generations, noise > 0, state, table, jnp.float32(noise), *keys)
        return jax.tree.map(lambda each: np.asarray(each)[:, :trials], found)

    # Not in threads: on a CPU, XLA's programs can wait for one another forever.
    found = [part(np.arange(i, i + step)) for i in range(0, len(seeds), step)]
    result = Study(*(np.concatenate(each)[: len(seeds)] for each in zip(*found, strict=True)))
    if (result.rows < 0).any():
        raise refused(strategy, "what is no architecture of the space, or a budget below 0")
    return result


@functools.cache
def _program() -> Any:
    return jax.jit(_search, static_argnums=(0, 1, 2, 3), compiler_options=in_order())


def _search(
    strategy: Strategy,
    space: Space,
    generations: int,
    noisy: bool,
    state: Any,
    scores: Any,
    noise: Array,
    keys: jax.Array,
    noise_keys: jax.Array,
):
    n, budgets = strategy.generation, jnp.asarray(budgets_of(strategy) or (0,), jnp.int32)
    nothing = Proposals(jnp.full((n, len(space.cardinalities)), -1, jnp.int32), jnp.zeros(n, jnp.int32))

    def of_budget(rungs: Array) -> tuple[Array, ...]:
        return (rungs,) if scores.ndim == 3 else ()

    def search(key: jax.Array, key_noise: jax.Array):
        def generation(state: Any, number: Array):
            proposals = strategy.ask(state, jr.fold_in(key, number), n, nothing)
            check_form(strategy, proposals, n, len(space.cardinalities))
            known = are_choices(space, proposals.encodings) & (proposals.budgets >= 0)
            numbers = _numbers(proposals.encodings) if callable(scores) else indices(space, proposals.encodings)
            rows = jnp.where(known, numbers, -1)  # which `run` refuses
            rungs = jnp.searchsorted(budgets, proposals.budgets).astype(jnp.int32) * (len(budgets) > 1)
            exact: Any = scores(proposals.encodings) if callable(scores) else scores[*of_budget(rungs), rows]
            objectives = exact + (noise * perturbation(key_noise, rows)[:, None] if noisy else 0)
            observed = Observations(proposals.encodings, proposals.budgets, objectives, proposals.drawn)
            state = strategy.tell(state, observed)
            return state, (rows, objectives, proposals.encodings, rungs)

        found = jax.lax.scan(generation, state, n * jnp.arange(generations))[1]
        return tuple(each.reshape(generations * n, *each.shape[2:]) for each in found)

    if len(keys) == 1:
        # A batch of one matrix is not multiplied as a matrix is, but several times more slowly.
        return jax.tree.map(lambda each: each[None], search(keys[0], noise_keys[0]))
    # The state is not batched where it does not depend on the key: counters stay the same for all seeds, and what is
    # done now and then (an update of a policy, a new generation) stays a branch.
    return jax.vmap(search)(keys, noise_keys)


def _numbers(encodings: Encodings) -> Array:
    """Of each encoding a number that no other of a study's is likely to have, int32 and not negative."""
    return (hash_rows(encodings)[:, 0] >> 1).astype(jnp.int32)
