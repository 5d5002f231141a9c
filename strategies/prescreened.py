"""Any strategy with a predictor between it and the evaluations: of many proposals the promising ones are evaluated.

Wen et al., "Neural Predictor for Neural Architecture Search", 2019, https://arxiv.org/abs/1912.00848; with evolution,
Wei et al., "NPENAS", 2020, https://arxiv.org/abs/2003.12857.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from flax import struct

from predictors.base import Predictor, sizes_of
from spaces.base import Encodings, Limits, Space
from strategies.archive import Archive, add, empty, lowest, seen, sized
from strategies.base import Observations, Proposals, budget_of, drawn_as, needs_of, with_trials
from strategies.region import Region, region
from strategies.screening import Screening


@struct.dataclass
class PrescreenedState:
    region: Region
    inner: Any  # state of the strategy
    archive: Archive
    params: Any  # of a predictor that was fitted before, or None


@dataclasses.dataclass(frozen=True)
class Prescreened:
    """The predictor is fitted on what the search has seen, or given, by `warm`, and then left as it is."""

    strategy: Any
    """What proposes."""
    predictor: Predictor
    """What screens."""
    settings: Screening = Screening()
    """How it screens."""

    def for_trials(self, trials: int) -> "Prescreened":
        return dataclasses.replace(self, strategy=with_trials(self.strategy, trials))

    @property
    def generation(self) -> int:
        return self.settings.batch_size if self.strategy.generation == 1 else self.strategy.generation

    def needs(self, number: int) -> int:
        return needs_of(self.strategy, number)

    @property
    def budget(self) -> int:
        return budget_of(self.strategy)

    @property
    def seeds_at_once(self) -> int:
        return 1  # of a study: its linear algebra is large enough, and better not batched

    def init(self, space: Space, limits: Limits = ()) -> PrescreenedState:
        state = self.strategy.init(space, limits)
        return PrescreenedState(region(space, limits), state, empty(space, self.settings.memory), None)

    def warm(self, state: PrescreenedState, params: Any) -> PrescreenedState:
        """The state in which a predictor with these parameters screens from the first proposal on."""
        return dataclasses.replace(state, params=params)

    def ask(self, state: PrescreenedState, key: jax.Array, n: int, pending: Proposals) -> Proposals:
        if state.params is not None:
            return self._screened(state, key, n, pending)
        return jax.lax.cond(
            state.archive.count < self.settings.initial,
            lambda: self.strategy.ask(state.inner, key, n, pending),
            lambda: self._screened(state, key, n, pending),
        )

    def tell(self, state: PrescreenedState, observed: Observations) -> PrescreenedState:
        inner = self.strategy.tell(state.inner, observed)
        return dataclasses.replace(state, inner=inner, archive=add(state.archive, observed))

    def _screened(self, state: PrescreenedState, key: jax.Array, n: int, pending: Proposals) -> Proposals:
        key_ask, key_rest = jr.split(key)
        proposals = self.strategy.ask(state.inner, key_ask, max(self.settings.candidates, n), pending)

        def promise(params: Any) -> jax.Array:
            mean, deviation = self.predictor.predict(params, proposals.encodings)
            return mean - self.settings.optimism * deviation

        def fitted(rows: Encodings, scores: jax.Array) -> jax.Array:
            return promise(self.predictor.fit(state.region.space, rows, scores))

        if state.params is not None:
            values = promise(state.params)
        else:
            values = sized(state.archive, fitted, sizes_of(self.predictor))
        rows = lowest(state.region, proposals.encodings, values, n, key_rest, seen(state.archive, pending))
        # Where the strategy's proposals did not suffice, nobody's policy drew what is evaluated.
        return Proposals(rows, jnp.broadcast_to(proposals.budgets[:1], (n,)), drawn_as(proposals, rows))
