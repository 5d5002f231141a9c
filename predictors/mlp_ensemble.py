"""An ensemble of small networks on features of architectures.

White et al., "BANANAS", 2019, https://arxiv.org/abs/1910.11858, which takes five on the encoding of paths. Ours take
`predictors.features` and learn the quantiles of the scores' ranks.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from nas.streams import PREDICTOR, stream
from predictors import ensemble
from predictors.checks import check_network
from predictors.features import features, groups
from predictors.targets import quantiles
from predictors.training import Weights, batches, train
from spaces.base import Encodings, Space


@dataclasses.dataclass(frozen=True)
class MLPEnsemble:
    """Two hidden layers each."""

    hidden: int = 64
    """Units of a layer."""
    members: int = 5
    """Networks, of which the mean is the prediction."""
    steps: int = 1000
    """Optimiser steps of a fit."""
    batch_size: int = 64
    """Architectures a step."""
    learning_rate: float = 5e-3
    """The highest, of Adam."""
    weight_decay: float = 1e-3
    """Added to the gradient."""
    seed: int = 0
    """Of initial weights and batches."""

    def __post_init__(self):
        check_network(self)

    def fit(self, space: Space, encodings: Encodings, targets: Float[Array, "n"], start: Any = None) -> Any:
        known = jnp.isfinite(targets)
        latent, x = quantiles(targets, known), features(space, encodings)
        key_weights, key_rows = jr.split(stream(self.seed, PREDICTOR))
        weights = jax.vmap(self._initial, (0, None))(jr.split(key_weights, self.members), len(groups(space)))
        places = batches(key_rows, ensemble.shown(known, self.members), (self.steps, self.batch_size))

        def loss(weights: Weights, place: Array) -> Array:
            return ((forward(weights, x[place]) - latent[place]) ** 2).mean()

        def member(weights: Weights, places: Array) -> Weights:
            return train(loss, weights, places, self.learning_rate, self.weight_decay)

        weights = weights if start is None else start.weights
        weights = jax.lax.map(lambda each: member(*each), (weights, places))
        return ensemble.finished(score, space, weights, encodings, targets, latent, known)

    def predict(self, params: Any, encodings: Encodings) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
        return ensemble.predict(score, params, encodings)

    def _initial(self, key: jax.Array, width: int) -> Weights:
        shapes = {"first": (width, self.hidden), "second": (self.hidden, self.hidden), "last": (self.hidden, 1)}
        weights = {
            # The features of a group have a variance of 1 together, so the first layer's need not be made smaller.
            name: jr.normal(k, shape) * (1.0 if name == "first" else math.sqrt(2 / shape[0]))
            for k, (name, shape) in zip(jr.split(key, len(shapes)), shapes.items(), strict=True)
        }
        return weights | {name + "_bias": jnp.zeros(shape[1]) for name, shape in shapes.items()}


def forward(weights: Weights, x: Float[Array, "n d"]) -> Float[Array, "n"]:
    for name in ("first", "second"):
        x = jax.nn.relu(x @ weights[name] + weights[name + "_bias"][None])
    return (x @ weights["last"] + weights["last_bias"][None])[:, 0]


def score(weights: Weights, space: Space, rows: Encodings) -> Float[Array, "n"]:
    return forward(weights, features(space, rows))
