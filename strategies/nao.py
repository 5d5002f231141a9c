"""Neural architecture optimisation and its semi-supervised variant: gradient steps in the embedding of architectures.

Luo et al., "Neural Architecture Optimization", 2018, https://arxiv.org/abs/1808.07233, and "Semi-Supervised Neural
Architecture Search", 2020, https://arxiv.org/abs/2002.10389. The encoder-predictor-decoder of `predictors.nao` is
trained on what was evaluated; the best architectures are encoded, moved down the gradient of their predicted error by
growing steps, and decoded.

What differs from the released code: what was decoded is new up to all the ways to write it, and the most promising of
it are evaluated first; SemiNAS starts from the architectures of lowest error, known or predicted, not the highest.
"""

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flax import struct
from jaxtyping import Array

from predictors import sequence
from predictors.ensemble import latent_scores
from predictors.nao import NAO as Predictor
from predictors.nao import SemiNAS as SemiNASPredictor
from predictors.nao import unlabelled
from predictors.targets import quantiles
from spaces.abilities import networks
from spaces.base import Encodings, Limits, Space
from strategies.archive import Archive, add, draw_new, empty, lowest, seen
from strategies.base import Observations, Proposals
from strategies.checks import at_least
from strategies.region import Region, region
from strategies.visited import Visited

# One network and short trainings, for there are many of them.
ONE = Predictor(members=1, steps=800, batch_size=32)


@struct.dataclass
class NAOState:
    region: Region
    archive: Archive
    start: Any  # parameters of the predictor from which each training starts, or None


class Untrained(NamedTuple):
    weights: Any


@dataclasses.dataclass(frozen=True)
class NAO:
    """Of a batch, each architecture is one that the decoder wrote after a step."""

    batch_size: int = 10
    """Architectures asked for between two trainings of the predictor."""
    initial: int = 20
    """Random architectures before the first training."""
    num_seeds: int = 50
    """The best architectures, from which the steps go."""
    max_step: float = 4.0
    """The largest step; the others are halves of it, down to 1/4. Beyond 2 most seeds arrive at the same few."""
    draws: int = 10
    """Architectures decoded after each step: the likeliest, and others that are drawn."""
    temperature: float = 2.0
    """Of these draws."""
    pool: int = 0
    """Random architectures that may be seeds for their predicted error; 0 leaves that to evaluated ones."""
    memory: int = 512
    """Most observations that are learned from; of more, the best are."""
    predictor: Predictor = ONE
    """What is trained."""
    budget: int = 0
    """Epochs that an evaluation by training may spend; 0 leaves it to the evaluator."""

    def __post_init__(self):
        at_least(self, batch_size=1, initial=2, num_seeds=1, max_step=1, draws=1, pool=0, memory=2, budget=0)

    seeds_at_once: ClassVar[int] = 1  # of a study: side by side, the trainings are slower

    @property
    def generation(self) -> int:
        return self.batch_size

    def init(self, space: Space, limits: Limits = ()) -> NAOState:
        return NAOState(region(space, limits), empty(space, self.memory), None)

    def warm(self, state: NAOState, params: Any) -> NAOState:
        """The state in which the predictor goes on from these parameters."""
        return dataclasses.replace(state, start=params)

    def ask(self, state: NAOState, key: jax.Array, n: int, pending: Proposals) -> Proposals:
        known = seen(state.archive, pending)
        rows = jax.lax.cond(
            state.archive.count < self.initial,
            lambda: draw_new(state.region, key, n, known),
            lambda: self._decoded(state, key, n, known),
        )
        return Proposals(rows, jnp.full((n,), self.budget, jnp.int32))

    def tell(self, state: NAOState, observed: Observations) -> NAOState:
        return dataclasses.replace(state, archive=add(state.archive, observed))

    def _decoded(self, state: NAOState, key: jax.Array, n: int, known: Visited) -> Encodings:
        space, archive = state.region.space, state.archive
        key_start, key_pool, key_draw, key_rest = jr.split(key, 4)
        # Each training has first weights of its own: what one network overrates, the next one may not.
        start = Untrained(self.predictor.untrained(space, key_start)) if state.start is None else state.start
        params = self.predictor.fit(space, archive.rows, archive.scores, start)
        seeds = self.seeds(state, params, key_pool)
        steps = np.float32(self.max_step) / 2.0 ** np.arange(int(np.log2(4 * self.max_step)) + 1, dtype=np.float32)

        length, choices = len(space.cardinalities), max(space.cardinalities)

        def decoded(weights: Any, step: Array, key: jax.Array) -> Array:
            def draw(number: Array) -> Encodings:
                noise = jr.gumbel(jr.fold_in(key, number), (len(seeds), length, choices))
                noise = jnp.where(number == 0, 0.0, self.temperature * noise)
                return sequence.improve(weights, space, seeds, step, noise)[0]

            return jax.lax.map(draw, jnp.arange(self.draws))

        def of(member: tuple[Any, Array]) -> Array:
            weights, keys = member
            return jax.lax.map(lambda each: decoded(weights, *each), (steps, keys))

        keys = jr.split(key_draw, (self.predictor.members, len(steps)))
        rows = networks(space).canonical(jax.lax.map(of, (params.weights, keys)).reshape(-1, length))
        if self.pool:  # a seed that was not evaluated may be the best there is
            rows = jnp.concatenate([networks(space).canonical(seeds), rows])
        values = latent_scores(sequence.predicted, params, rows)[0]
        return lowest(state.region, rows, values, n, key_rest, known)

    def seeds(self, state: NAOState, params: Any, key: jax.Array) -> Encodings:
        """The architectures of lowest error, again where there are too few: evaluated ones by what was measured, those
        of the pool as predicted."""
        archive = state.archive
        known = jnp.isfinite(archive.scores)
        values = jnp.where(known, quantiles(archive.scores, known), jnp.inf)
        rows = archive.rows
        if self.pool:
            others, new = unlabelled(state.region.space, key, rows, known, self.pool)
            values = jnp.concatenate(
                [values, jnp.where(new, latent_scores(sequence.predicted, params, others)[0], jnp.inf)]
            )
            rows = jnp.concatenate([rows, others])
        there = jnp.maximum(jnp.isfinite(values).sum(), 1)
        return rows[jnp.argsort(values)[jnp.arange(self.num_seeds) % there]]


SemiNAS: Any = functools.partial(NAO, predictor=SemiNASPredictor(members=1, steps=500, batch_size=32), pool=10_000)
