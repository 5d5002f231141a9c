"""The recurrent controller of NASNet, NAS-FPN and ENAS, on any space, trained by proximal policy optimisation.

Zoph et al., "Learning Transferable Architectures for Scalable Image Recognition", 2017,
https://arxiv.org/abs/1707.07012; Pham et al., "ENAS", 2018, https://arxiv.org/abs/1802.03268; Schulman et al.,
"Proximal Policy Optimization Algorithms", 2017, https://arxiv.org/abs/1707.06347.

An LSTM reads its previous decision and gives a softmax over the next one's choices. Rewards are centred by a moving
average and divided by a moving standard deviation, so that the entropy bonus weighs the same on every scale.

Beside that, the best that were observed are imitated (Abolafia et al., "Neural Program Synthesis with Priority Queue
Training", 2018, https://arxiv.org/abs/1801.03526), and a strong bonus on entropy keeps the policy from collapsing onto
them: alone, it drew ever the same few.

Best at: 300 trials and more, few different scores (`benchmarks/league.py`); below that, evolution is ahead.

The ratio of a clipped step is to the policy that drew an architecture, of which the proposal keeps the probability:
with many trials under way it is older than the one that learns. Of a point that nobody drew, it is to the policy before
the update.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from spaces.base import Encodings, Limits, Space
from strategies.base import Drawn, Observations, Proposals
from strategies.checks import at_least
from strategies.policy import as_drawn, log_softmax, mask, moved
from strategies.region import Region, pick, region
from strategies.visited import Visited, also, nothing, visit

Weights = dict[str, Array]


@struct.dataclass
class PPOState:
    region: Region
    weights: Weights
    momentum: Any  # of Adam
    rows: Encodings  # observed since the last update, as they were drawn
    before: Float[Array, "batch"]  # their log-probabilities under the policy that drew them; NaN where nobody did
    rewards: Float[Array, "batch"]  # NaN for failures
    elite: Int[Array, "elite length"]  # the best of all observed, as they were drawn
    merits: Float[Array, "elite"]  # their rewards; -inf marks an empty slot
    moments: Float[Array, "3"]  # moving averages: mean and variance of rewards, and the weight that these have
    visited: Visited
    count: Int[Array, ""]  # observed so far


@dataclasses.dataclass(frozen=True)
class PPO:
    """Batches of sampled architectures, none twice; after each, a few epochs of the clipped objective."""

    batch_size: int = 10
    """Architectures sampled from one policy, then learned from together."""
    hidden: int = 32
    """Units of the LSTM."""
    learning_rate: float = 0.005
    """Of Adam."""
    epochs: int = 10
    """Steps on each batch."""
    clip: float = 0.2
    """How far the probability ratio of an architecture may move a step's gain (epsilon)."""
    entropy: float = 0.3
    """Weight of the mean entropy of a decision."""
    elite: int = 10
    """How many of the best architectures of all each step also imitates."""
    imitation: float = 0.5
    """Weight of the mean log-probability of a decision of these."""
    baseline_decay: float = 0.9
    """Of the moving average of rewards, a batch."""
    memory: int = 4096
    """How many of the last observed architectures are never proposed again; all, of a space of up to 262,144."""
    budget: int = 0
    """Epochs that an evaluation by training may spend; 0 leaves it to the evaluator."""

    def __post_init__(self):
        at_least(self, batch_size=1, hidden=1, epochs=1, entropy=0, elite=1, imitation=0, memory=1, budget=0)
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if not 0 <= self.baseline_decay < 1:
            raise ValueError(f"baseline_decay={self.baseline_decay} must lie in [0, 1)")

    @property
    def generation(self) -> int:
        return self.batch_size

    def init(self, space: Space, limits: Limits = ()) -> PPOState:
        weights = self._initial(space)
        return PPOState(
            region=region(space, limits),
            weights=weights,
            momentum=self._optimiser().init(weights),
            rows=jnp.zeros((self.batch_size, len(space.cardinalities)), jnp.int32),
            before=jnp.full(self.batch_size, jnp.nan),
            rewards=jnp.full(self.batch_size, jnp.nan),
            elite=jnp.zeros((self.elite, len(space.cardinalities)), jnp.int32),
            merits=jnp.full(self.elite, -jnp.inf),
            moments=jnp.zeros(3),
            visited=nothing(space, self.memory),
            count=jnp.zeros((), jnp.int32),
        )

    def ask(self, state: PPOState, key: jax.Array, n: int, pending: Proposals) -> Proposals:
        key_draw, key_pick = jr.split(key)
        tries = 16
        space = state.region.space
        candidates = _sample(state.weights, space, key_draw, n * tries).reshape(n, tries, -1)
        rows = pick(state.region, candidates, key_pick, also(state.visited, pending.encodings))
        drawn = as_drawn(space, candidates, rows)
        log_probability = _log_probability(state.weights, space, drawn)[0]
        return Proposals(rows, jnp.full((n,), self.budget, jnp.int32), Drawn(drawn, log_probability))

    def tell(self, state: PPOState, observed: Observations) -> PPOState:
        def one(state: PPOState, seen: tuple[Array, Array, Array]):
            row, log_probability, objective = seen
            slot = state.count % self.batch_size
            state = dataclasses.replace(
                state,
                rows=state.rows.at[slot].set(row),
                before=state.before.at[slot].set(log_probability),
                rewards=state.rewards.at[slot].set(-objective),
                count=state.count + 1,
            )
            return jax.lax.cond(state.count % self.batch_size == 0, self._learn, lambda state: state, state), None

        nobody = Drawn(observed.encodings, jnp.full(len(observed.encodings), jnp.nan))
        drawn = nobody if observed.drawn is None else observed.drawn
        learned = jax.lax.scan(one, state, (drawn.rows, drawn.log_probability, observed.objectives[:, 0]))[0]
        return dataclasses.replace(learned, visited=visit(state.visited, observed.encodings, state.count))

    def _learn(self, state: PPOState) -> PPOState:
        known = jnp.isfinite(state.rewards)
        everybody = jnp.concatenate([state.merits, jnp.where(known, state.rewards, -jnp.inf)])
        first = jnp.argsort(-everybody, stable=True)[: self.elite]
        elite, merits = jnp.concatenate([state.elite, state.rows])[first], everybody[first]
        counts = jnp.isfinite(merits) / jnp.maximum(jnp.isfinite(merits).sum(), 1)
        weight = known / jnp.maximum(known.sum(), 1)
        rewards = jnp.where(known, state.rewards, 0.0)
        one = rewards[jnp.argmax(known)]  # from which the others are told: equal ones have a deviation of exactly 0
        middle = one + (weight * (rewards - one)).sum()
        now = moved(state.moments, self.baseline_decay, middle, (weight * (rewards - middle) ** 2).sum())
        moments = jnp.where(known.any(), now, state.moments)
        mean, variance, _ = moments
        advantage = (rewards - mean) / jnp.sqrt(jnp.where(variance > 0, variance, jnp.inf))
        likely = _log_probability(state.weights, state.region.space, state.rows)[0]
        before = jnp.where(jnp.isfinite(state.before), state.before, likely)

        def loss(weights: Weights) -> Array:
            logp, entropy = _log_probability(weights, state.region.space, state.rows)
            ratio = jnp.exp(logp - before)
            clipped = jnp.clip(ratio, 1 - self.clip, 1 + self.clip)
            gain = jnp.minimum(ratio * advantage, clipped * advantage)
            imitated = (counts * _log_probability(weights, state.region.space, elite)[0]).sum() / elite.shape[1]
            return -(weight * (gain + self.entropy * entropy)).sum() - self.imitation * imitated

        def step(carry, _):
            weights, momentum = carry
            updates, momentum = self._optimiser().update(jax.grad(loss)(weights), momentum)
            return (optax.apply_updates(weights, updates), momentum), None

        (weights, momentum), _ = jax.lax.scan(step, (state.weights, state.momentum), length=self.epochs)
        return dataclasses.replace(
            state, weights=weights, momentum=momentum, moments=moments, elite=elite, merits=merits
        )

    def _optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)

    def _initial(self, space: Space) -> Weights:
        """Uniform in (-0.08, 0.08), as published; the first policy is close to uniform."""
        decisions, choices = mask(space).shape
        shapes = {
            "choices": (decisions * choices, self.hidden),  # embeddings of (decision, choice)
            "begin": (self.hidden,),
            "lstm": (2 * self.hidden, 4 * self.hidden),
            "heads": (decisions, self.hidden, choices),
        }
        keys = jr.split(jr.key(0), len(shapes))
        weights = {
            name: jr.uniform(k, shape, minval=-0.08, maxval=0.08)
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        return weights | {"bias": jnp.zeros(4 * self.hidden), "offsets": jnp.zeros((decisions, choices))}


def _step(weights: Weights, x: Array, memory: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
    h, c = memory
    gates = jnp.concatenate([x, h], -1) @ weights["lstm"] + weights["bias"][None]
    i, f, g, o = jnp.split(gates, 4, -1)
    c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return h, (h, c)


def _start(weights: Weights, n: int) -> tuple[Array, tuple[Array, Array]]:
    x = jnp.broadcast_to(weights["begin"][None], (n, weights["begin"].shape[0]))
    return x, (jnp.zeros_like(x), jnp.zeros_like(x))


def _heads(weights: Weights, space: Space) -> tuple[Array, Array, Array, Array]:
    allowed = mask(space)
    embeddings = weights["choices"].reshape(*allowed.shape, -1)
    return weights["heads"], weights["offsets"], jnp.asarray(allowed), embeddings


def _sample(weights: Weights, space: Space, key: jax.Array, n: int) -> Encodings:
    """`n` sequences of decisions, each drawn given those before it."""

    def decide(carry, inputs):
        x, memory = carry
        (head, offset, allowed, embedding), key = inputs
        h, memory = _step(weights, x, memory)
        logp = log_softmax(h @ head + offset[None], allowed[None])
        choice = jr.categorical(key, logp).astype(jnp.int32)
        return (embedding[choice], memory), choice

    keys = jr.split(key, len(space.cardinalities))
    return jax.lax.scan(decide, _start(weights, n), (_heads(weights, space), keys))[1].T


def _log_probability(weights: Weights, space: Space, rows: Encodings) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """Of each row under the policy, and the mean entropy of its decisions."""

    def decide(carry, inputs):
        x, memory = carry
        (head, offset, allowed, embedding), choice = inputs
        h, memory = _step(weights, x, memory)
        logp = log_softmax(h @ head + offset[None], allowed[None])
        entropy = -(jnp.exp(logp) * jnp.where(allowed[None], logp, 0.0)).sum(1)
        return (embedding[choice], memory), (logp[jnp.arange(len(choice)), choice], entropy)

    logp, entropy = jax.lax.scan(decide, _start(weights, rows.shape[0]), (_heads(weights, space), rows.T))[1]
    return logp.sum(0), entropy.mean(0)
