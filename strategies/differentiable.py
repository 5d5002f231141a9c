"""Differentiable search: every edge mixes all operations, by weights that are learned with gradients.

One value holds what the methods differ in; its defaults are DARTS of first order.

DARTS: Liu et al., 2019, https://arxiv.org/abs/1806.09055. GDAS: Dong & Yang, 2019, https://arxiv.org/abs/1910.04465.
SNAS: Xie et al., 2019, https://arxiv.org/abs/1812.09926. PC-DARTS: Xu et al., 2020, https://arxiv.org/abs/1907.05737.
FairDARTS: Chu et al., 2020, https://arxiv.org/abs/1911.12126. DARTS-: Chu et al., 2021,
https://arxiv.org/abs/2009.01027. RobustDARTS: Zela et al., 2020, https://arxiv.org/abs/1909.09656.

Where FairDARTS keeps an operation only if its gate is at least 0.85, and may leave a node with fewer than two edges,
what is derived here is always an architecture of the space: the best two edges of each node, or the best operation of
each edge, whatever their gates. `strategies.RECIPES` has the recipe of the weights for each method.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float

from spaces.abilities import Mixing

Mixture = Float[Array, "edges ops"]


@struct.dataclass
class Logits:
    ops: Float[Array, "edges ops"]
    edges: Float[Array, "edges"]


@dataclasses.dataclass(frozen=True)
class Differentiable:
    """How logits become a mixture, and how they are updated."""

    order: Literal["first", "second", "second-finite"] = "first"
    """Of the gradient: at the weights as they are, or after one more step of theirs, exactly or by differences."""
    gate: Literal["softmax", "sigmoid"] = "softmax"
    """Whether operations of an edge compete. Where they do not, `none` is not among them, as in FairDARTS: it adds
    nothing, so that its gate would learn nothing."""
    sample: Literal["none", "soft", "hard"] = "none"
    """Gumbel noise on the logits; `hard` takes the best operation alone, and runs no other."""
    others: bool = True
    """Whether the operations that a hard sample leaves out have a gradient too, as in the code of GDAS: that of a
    constant in their place. It says nothing of them, and is more than half of the noise."""
    temperature: float = 10.0
    """Of the noisy softmax, in the first epoch."""
    last_temperature: float = 0.1
    """In the last epoch; it falls by the same amount each epoch."""
    softmax_temperature: float = 1.0
    """What logits are divided by before the softmax; below 1 it is sharper (BATS: 0.2)."""
    edges: bool = False
    """Whether edges into a node compete too, by logits of their own (edge normalisation)."""
    partial: int = 1
    """Operations see one channel in so many while the search lasts; the others go by."""
    warmup: float = 0.0
    """The share of the epochs in which logits rest."""
    learning_rate: float = 3e-4
    """Of the logits, by Adam."""
    momentum: float = 0.5
    """Of the logits: the decay of Adam's first moment; that of the second is 0.999."""
    weight_decay: float = 1e-3
    """Of the logits, added to their gradient."""
    bilevel: bool = True
    """Whether logits learn from a half of the training data that weights never see; else both from all."""
    zero_one: float = 0.0
    """Weight of a loss that pulls sigmoid gates to 0 or 1."""
    diversity: float = 0.0
    """Weight of the entropy of operations, averaged over edges, which is taken off the loss of the logits (BNAS: 1)."""
    diversity_decay: float = 7.7 / 49
    """The share of the search in which that weight falls to 1/e: in BNAS 7.7 of the 50 epochs."""
    auxiliary_skip: float = 0.0
    """What is added to the weights of skips at first, and falls to 0 over the epochs; in a space that has skips."""
    max_skips: int | None = None
    """How many skips the derived normal cell may have, in a space that has skips."""
    stop_growth: float = 0.0
    """Stop when the curvature of the validation loss has grown by this factor (RobustDARTS: 1.3); 0 never stops."""
    cost_weight: float = 1.0
    """Weight of the expected costs, as shares of their limits, while the architecture to derive exceeds these."""

    def __post_init__(self):
        for name in ("temperature", "last_temperature", "softmax_temperature", "learning_rate", "diversity_decay"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be more than 0")
        for name in ("weight_decay", "zero_one", "diversity", "auxiliary_skip", "stop_growth", "cost_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup={self.warmup} must lie in [0, 1)")
        if self.partial < 1:
            raise ValueError(f"partial={self.partial} must be at least 1")
        if self.max_skips is not None and self.max_skips < 0:
            raise ValueError(f"max_skips={self.max_skips} must be at least 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum} must lie in [0, 1)")
        if self.gate == "sigmoid" and self.sample != "none":
            raise ValueError(f"sample={self.sample!r} needs gate='softmax'")
        if self.softmax_temperature != 1 and self.gate != "softmax":
            raise ValueError(f"softmax_temperature={self.softmax_temperature} needs gate='softmax'")
        if self.diversity and self.gate != "softmax":
            raise ValueError(f"diversity={self.diversity} needs gate='softmax'")
        if self.zero_one and self.gate != "sigmoid":
            raise ValueError(f"zero_one={self.zero_one} needs gate='sigmoid'")
        if not self.bilevel and self.order != "first":
            raise ValueError(f"order={self.order!r} needs bilevel=True")
        # Weights are then trained along a path, which has no weights of its own.
        for name, plain in (("order", "first"), ("edges", False), ("auxiliary_skip", 0.0)):
            if self.sample == "hard" and getattr(self, name) != plain:
                raise ValueError(f"{name}={getattr(self, name)!r} must be {plain!r} with sample='hard'")

    @property
    def along_paths(self) -> bool:
        return self.sample == "hard"

    def init(self, key: jax.Array, mixing: Mixing) -> Logits:
        if self.auxiliary_skip and mixing.skip is None:
            raise ValueError(f"auxiliary_skip={self.auxiliary_skip} must be 0: this space has no skips")
        if mixing.one_hot and not self.along_paths:
            raise ValueError(
                f"sample={self.sample!r} must be 'hard': this space has no mixtures but of one choice each"
            )
        if mixing.one_hot and self.stop_growth:
            raise ValueError(f"stop_growth={self.stop_growth} must be 0: this space has no mixtures to measure")
        key_ops, key_edges = jr.split(key)
        n = len(mixing.nodes)
        return Logits(1e-3 * jr.normal(key_ops, (n, len(mixing.ops))), 1e-3 * jr.normal(key_edges, (n,)))

    def optimiser(self) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(self.weight_decay)
        return optax.chain(decay, optax.adam(self.learning_rate, b1=self.momentum, b2=0.999))

    def weights(self, logits: Logits, mixing: Mixing) -> Mixture:
        if self.gate == "softmax":
            gates = jax.nn.softmax(self._masked(logits, mixing))
        else:
            gates = jax.nn.sigmoid(logits.ops) * (1 - _which(mixing, mixing.none))
        return gates * self._edge_weights(logits, mixing)

    def tracked(self, logits: Logits, mixing: Mixing) -> Mixture:
        weights = self.weights(logits, mixing)
        return jax.nn.one_hot(weights.argmax(1), weights.shape[1]) if self.along_paths else weights

    def mixture(self, logits: Logits, mixing: Mixing, key: jax.Array, progress: Float[Array, ""] | float) -> Mixture:
        if self.sample == "none":
            more = self.auxiliary_skip * (1 - progress)
            return self.weights(logits, mixing) + more * _which(mixing, mixing.skip)
        temperature = self.temperature + (self.last_temperature - self.temperature) * progress
        noisy = jax.nn.log_softmax(self._masked(logits, mixing)) + jr.gumbel(key, logits.ops.shape)
        soft = jax.nn.softmax(noisy / temperature)
        if self.sample == "soft":
            return soft * self._edge_weights(logits, mixing)
        # Exactly one-hot: `nothing` is a difference of equal numbers, that has a gradient.
        hard, nothing = jax.nn.one_hot(noisy.argmax(1), noisy.shape[1]), soft - jax.lax.stop_gradient(soft)
        return hard + nothing if self.others else hard * (1 + nothing)

    def penalty(self, logits: Logits, mixing: Mixing, progress: Float[Array, ""] | float) -> Float[Array, ""]:
        """FairDARTS, eq. 5, and BNAS, eq. 5, in which the sum is over all edges of both cells."""
        competes = _which(mixing, mixing.none) < 1
        found = -self.zero_one * jnp.mean((jax.nn.sigmoid(logits.ops) - 0.5) ** 2, where=competes)
        if not self.diversity:
            return found
        shares = jax.nn.softmax(self._masked(logits, mixing))
        entropy = -jax.scipy.special.xlogy(shares, shares).sum(1).mean()
        return found - self.diversity * jnp.exp(-progress / self.diversity_decay) * entropy

    def _masked(self, logits: Logits, mixing: Mixing) -> Float[Array, "edges ops"]:
        return mixing.masked(logits.ops) / self.softmax_temperature

    def _edge_weights(self, logits: Logits, mixing: Mixing) -> Float[Array, "edges 1"]:
        if not self.edges:
            return jnp.ones((len(logits.edges), 1))
        same = np.equal.outer(mixing.nodes, mixing.nodes)
        rows = jnp.where(same, logits.edges[None], -jnp.inf)
        return jnp.exp(logits.edges - jax.nn.logsumexp(rows, axis=1))[:, None]


def _which(mixing: Mixing, op: int | None) -> Float[np.ndarray, "1 ops"]:
    """1 for the operation, 0 for the others; for all where the space has none such."""
    return np.array([[i == op for i in range(len(mixing.ops))]], np.float32)


def pc_darts() -> Differentiable:
    return Differentiable(edges=True, partial=4, warmup=0.3, learning_rate=6e-4)


def fair_darts() -> Differentiable:
    return Differentiable(gate="sigmoid", zero_one=10.0, learning_rate=3e-3, momentum=0.9)


def bnas() -> Differentiable:
    """Kim et al., "Learning Architectures for Binary Networks", 2020, https://arxiv.org/abs/2002.06963, section 4.3."""
    return Differentiable(diversity=1.0)


def bats() -> Differentiable:
    """Bulat et al., "BATS: Binary ArchitecTure Search", 2020, https://arxiv.org/abs/2003.01711, section 4.2. How long
    logits rest at first, the paper leaves open."""
    return Differentiable(softmax_temperature=0.2, warmup=0.3)


def gumbel_darts() -> Differentiable:
    """GDAS: neither half of a step runs any operation but the sampled ones."""
    return Differentiable(sample="hard")


def snas() -> Differentiable:
    return Differentiable(sample="soft", temperature=1.0, last_temperature=0.03, bilevel=False)
