"""The predictors of NAO and SemiNAS, which also read and write architectures.

Luo et al., "Neural Architecture Optimization", 2018, https://arxiv.org/abs/1808.07233: an LSTM encoder, a predictor on
its embedding and an attention decoder are trained together. Luo et al., "Semi-Supervised Neural Architecture Search",
2020, https://arxiv.org/abs/2002.10389: the encoder reads in both directions and, once trained, tells the scores of many
architectures that nobody evaluated; it is then trained again on both, the evaluated ones up-sampled.

What differs from the released code: scores are learned as the quantiles of their ranks, so that it does not matter how
small their range is; no architecture is left out for its score; an architecture is shown in all the ways that the space
knows to write it, not by swaps alone; what is told a score was not evaluated; and several networks are trained, of
which the spread says how sure they are.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int

from nas.streams import PREDICTOR, stream
from predictors import ensemble, sequence
from predictors.checks import check_network
from predictors.features import features
from predictors.targets import quantiles
from predictors.training import Weights, batches, draw_known, train
from spaces.abilities import equivalents, networks
from spaces.base import Encodings, Space, sample


@dataclasses.dataclass(frozen=True)
class NAO:
    """An encoder that reads from the first decision to the last, trained on what was evaluated."""

    hidden: int = 32
    """Units of the encoder, the embedding and the decoder."""
    members: int = 2
    """Networks, of which the mean is the prediction."""
    steps: int = 1000
    """Optimiser steps on what was evaluated."""
    batch_size: int = 64
    """Architectures a step."""
    learning_rate: float = 4e-3
    """The highest, of Adam."""
    weight_decay: float = 1e-4
    """Added to the gradient."""
    trade_off: float = 0.8
    """Weight of the prediction in the loss; the rest is the reconstruction's."""
    bidirectional: bool = False
    """Whether the encoder reads in both directions."""
    unlabelled: int = 0
    """Random architectures that are told a score, to train as many steps again with them (M); 0 for none."""
    up_sample: int = 10
    """How often an evaluated architecture is then shown for once that another is."""
    seed: int = 0
    """Of initial weights, batches and unlabelled architectures."""

    def __post_init__(self):
        check_network(self, trade_off=self.trade_off)
        for name, least in (("unlabelled", 0), ("up_sample", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")

    def fit(self, space: Space, encodings: Encodings, targets: Float[Array, "n"], start: Any = None) -> Any:
        known = jnp.isfinite(targets)
        latent = quantiles(targets, known)
        key_weights, *keys = jr.split(stream(self.seed, PREDICTOR), 6)
        key_rows, key_ways, key_others, key_more_rows, key_more_ways = keys
        weights = self.untrained(space, key_weights) if start is None else start.weights
        weights = self.trained(space, weights, key_ways, encodings, latent, self._labelled(key_rows, known))
        if self.unlabelled:
            others, new = unlabelled(space, key_others, encodings, known, self.unlabelled)
            told = jax.vmap(lambda each: sequence.predicted(each, space, others))(weights).mean(0)
            rows, scores = jnp.concatenate([encodings, others]), jnp.concatenate([latent, told])
            weights = self.trained(space, weights, key_more_ways, rows, scores, self._mixed(key_more_rows, known, new))
        return ensemble.finished(sequence.predicted, space, weights, encodings, targets, latent, known)

    def predict(self, params: Any, encodings: Encodings) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
        return ensemble.predict(sequence.predicted, params, encodings)

    def untrained(self, space: Space, key: jax.Array) -> Weights:
        keys = jr.split(key, self.members)
        return jax.vmap(lambda key: sequence.initial(key, space, self.hidden, self.bidirectional))(keys)

    def _labelled(self, key: jax.Array, known: Bool[Array, "n"]) -> Array:
        """The rows of each member's batches: any that were evaluated and that it is shown."""
        return batches(key, ensemble.shown(known, self.members), (self.steps, self.batch_size))

    def _mixed(self, key: jax.Array, known: Bool[Array, "n"], new: Bool[Array, "m"]) -> Array:
        """And among them those that were told a score, which come after."""
        key_which, key_known, key_new = jr.split(key, 3)
        labelled = self._labelled(key_known, known)
        shown = self.up_sample * known.sum()
        evaluated = jr.uniform(key_which, labelled.shape) < shown / jnp.maximum(shown + new.sum(), 1)
        return jnp.where(evaluated, labelled, len(known) + draw_known(key_new, new, labelled.shape))

    def trained(
        self, space: Space, weights: Weights, key: jax.Array, rows: Encodings, latent: Float[Array, "r"], places: Array
    ) -> Weights:
        ways, x = jr.randint(key, places.shape, 0, 2**20), features(space, rows)

        def loss(weights: Weights, batch: tuple[Array, Array]) -> Array:
            place, way = batch
            return self.loss(weights, space, equivalents(space, rows[place], way), x[place], latent[place])

        def member(weights: Weights, batches: tuple[Array, Array]) -> Weights:
            return train(loss, weights, batches, self.learning_rate, self.weight_decay)

        # One after the other: side by side, their small matrix products are slower.
        return jax.lax.map(lambda each: member(*each), (weights, (places, ways)))

    def loss(
        self, weights: Weights, space: Space, rows: Encodings, x: Float[Array, "n d"], latent: Float[Array, "n"]
    ) -> Float[Array, ""]:
        outputs, embedding = sequence.encode(weights, rows, x)
        wrong = ((sequence.score(weights, embedding) - latent) ** 2).mean()
        lost = sequence.reconstruction_loss(weights, space, outputs, embedding, rows)
        return self.trade_off * wrong + (1 - self.trade_off) * lost


SemiNAS = functools.partial(NAO, bidirectional=True, unlabelled=10_000)


def unlabelled(
    space: Space, key: jax.Array, encodings: Encodings, known: Bool[Array, "n"], count: int
) -> tuple[Int[Array, "m length"], Bool[Array, "m"]]:
    """Random architectures, and which of them are no known ones, in whatever way these are written."""
    space = networks(space)
    drawn = space.canonical(sample(space, key, count))
    seen = jnp.where(known[:, None], space.canonical(encodings), -1)
    return drawn, ~among(drawn, seen)


def among(rows: Encodings, others: Int[Array, "m length"]) -> Bool[Array, "n"]:
    """Whether each row is one of the others."""
    return jax.lax.map(lambda row: (row[None] == others).all(1).any(), rows, batch_size=256)
