"""REINFORCE with a factorised policy: one categorical distribution a decision, independent of the others.

Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", 1992; in the
form of Dong & Yang, "NAS-Bench-201", 2020, https://arxiv.org/abs/2001.00326, and of its code.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from flax import struct
from jaxtyping import Array, Float

from nas.types import Observations, Proposals
from spaces.base import Limits, Space
from strategies.checks import at_least
from strategies.policy import log_softmax, mask
from strategies.region import Region, pick, region, repeat


@struct.dataclass
class ReinforceState:
    region: Region
    logits: Float[Array, "decisions choices"]
    momentum: Any  # of Adam
    rewards: Float[Array, "2"]  # the decayed sum of rewards and of their weights: the baseline is their ratio


@dataclasses.dataclass(frozen=True)
class Reinforce:
    """Samples architectures from the policy and moves it, after each, along the reward's gradient."""

    learning_rate: float = 0.03
    """Of Adam, on the logits."""
    baseline_decay: float = 0.9
    """Of the moving average of rewards that is subtracted from each."""
    budget: int = 0
    """Epochs that an evaluation by training may spend; 0 leaves it to the evaluator."""

    generation: ClassVar[int] = 1

    def __post_init__(self):
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be above 0")
        if not 0 <= self.baseline_decay < 1:
            raise ValueError(f"baseline_decay={self.baseline_decay} must lie in [0, 1)")
        at_least(self, budget=0)

    def init(self, space: Space, limits: Limits = ()) -> ReinforceState:
        logits = jnp.zeros(mask(space).shape)
        return ReinforceState(region(space, limits), logits, self._optimiser().init(logits), jnp.zeros(2))

    def ask(self, state: ReinforceState, key: jax.Array, n: int, pending: Proposals) -> Proposals:
        del pending
        logp = log_softmax(state.logits, mask(state.region.space))

        def draws(key: jax.Array) -> Array:
            return jr.categorical(key, logp[None], shape=(n, logp.shape[0])).astype(jnp.int32)

        key_draw, key_pick = jr.split(key)
        rows = pick(state.region, repeat(draws, key_draw, 32), key_pick)
        return Proposals(rows, jnp.full((n,), self.budget, jnp.int32))

    def tell(self, state: ReinforceState, observed: Observations) -> ReinforceState:
        allowed = mask(state.region.space)

        def one(state: ReinforceState, seen: tuple[Array, Array]):
            encoding, objective = seen
            reward = -100 * objective  # of an error: in percent, as published
            rewards = self.baseline_decay * state.rewards + (1 - self.baseline_decay) * jnp.stack([reward, 1.0])
            advantage = reward - rewards[0] / rewards[1]

            def loss(logits: Array) -> Array:
                logp = log_softmax(logits, allowed)
                return -advantage * logp[jnp.arange(len(encoding)), encoding].sum()

            updates, momentum = self._optimiser().update(jax.grad(loss)(state.logits), state.momentum)
            new = ReinforceState(state.region, optax.tree.add(state.logits, updates), momentum, rewards)
            failed = jnp.isnan(objective)
            return jax.tree.map(lambda old, new: jnp.where(failed, old, new), state, new), None

        return jax.lax.scan(one, state, (observed.encodings, observed.objectives[:, 0]))[0]

    def _optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)
