"""Operations as gates on the flow of information through the graph of an architecture.

Ning et al., "A Generic Graph-based Neural Architecture Encoding Scheme for Predictor-based NAS", 2020,
https://arxiv.org/abs/2004.01899: what flows along an edge is multiplied by a gate that its operation opens; the
prediction is learned from pairs, by which of two is the better. Here the graph is the space's own, or the chain of its
decisions. In a long chain nothing of the input would reach the output in a few layers, so all nodes are read, not
the last alone; and in a chain a decision's operations are no other's, so each has a gate of its own beside the shared.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from nas.streams import PREDICTOR, stream
from predictors import ensemble
from predictors.checks import check_network
from predictors.targets import quantiles
from predictors.training import Weights, batches, train
from spaces.abilities import equivalents, graph, networks
from spaces.base import Encodings, Space


@dataclasses.dataclass(frozen=True)
class GATES:
    """Operations on edges ("OOE"), trained by a hinge on pairs."""

    hidden: int = 64
    """Units of a node, and of the layer that reads them."""
    layers: int = 4
    """Times that information flows along every edge."""
    members: int = 2
    """Networks, of which the mean is the prediction."""
    steps: int = 1000
    """Optimiser steps of a fit."""
    batch_size: int = 64
    """Architectures a step; every pair of them is compared."""
    learning_rate: float = 3e-3
    """The highest, of Adam."""
    weight_decay: float = 1e-4
    """Added to the gradient."""
    margin: float = 0.1
    """By how much the score of the better one is to be the lower."""
    seed: int = 0
    """Of initial weights and batches."""

    def __post_init__(self):
        check_network(self)
        for name in ("layers", "margin"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")

    def fit(self, space: Space, encodings: Encodings, targets: Float[Array, "n"], start: Any = None) -> Any:
        known = jnp.isfinite(targets)
        latent = quantiles(targets, known)
        key_weights, key_rows, key_ways = jr.split(stream(self.seed, PREDICTOR), 3)
        places = batches(key_rows, ensemble.shown(known, self.members), (self.steps, self.batch_size))
        ways = jr.randint(key_ways, places.shape, 0, 2**20)

        def loss(weights: Weights, batch: tuple[Array, Array]) -> Array:
            place, way = batch
            scores = flow(weights, space, equivalents(space, encodings[place], way))
            worse = latent[place][:, None] > latent[place][None]
            wrong = jax.nn.relu(self.margin - (scores[:, None] - scores[None]))
            return jnp.where(worse, wrong, 0.0).sum() / jnp.maximum(worse.sum(), 1)

        def member(weights: Weights, batches: tuple[Array, Array]) -> Weights:
            weights = train(loss, weights, batches, self.learning_rate, self.weight_decay)
            # Pairs fix the order alone: the scores are brought to the quantiles by a straight line.
            scores = flow(weights, space, networks(space).canonical(encodings))
            n = jnp.maximum(known.sum(), 1)
            centre = (known * scores).sum() / n
            off = known * (scores - centre)
            slope = (off * latent).sum() / ((off**2).sum() + 1e-9)
            return weights | {"slope": slope, "centre": centre}

        keys = jr.split(key_weights, self.members)
        weights = jax.vmap(self._initial, (0, None))(keys, space) if start is None else start.weights
        weights = jax.lax.map(lambda each: member(*each), (weights, (places, ways)))
        return ensemble.finished(score, space, weights, encodings, targets, latent, known)

    def predict(self, params: Any, encodings: Encodings) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
        return ensemble.predict(score, params, encodings)

    def _initial(self, key: jax.Array, space: Space) -> Weights:
        nodes, decisions, choices = graph(space).num_nodes, len(space.cardinalities), max(space.cardinalities)
        wide = self.hidden
        shapes = {
            "shared": (choices, wide),
            "own": (decisions, choices, wide),
            "input": (1, wide),
            "nodes": (nodes, wide),
            "flow": (self.layers, wide, wide),
            "keep": (self.layers, wide, wide),
            "last": (wide, wide),
            "mean": (wide, wide),
            "score": (wide, 1),
        }
        sizes = {"shared": 1.0, "own": 0.1, "input": 1.0, "nodes": 0.1}
        weights = {
            name: jr.normal(k, shape) * sizes.get(name, math.sqrt(2 / wide))
            for k, (name, shape) in zip(jr.split(key, len(shapes)), shapes.items(), strict=True)
        }
        return weights | {"bias": jnp.zeros(wide), "slope": jnp.ones(()), "centre": jnp.zeros(())}


def flow(weights: Weights, space: Space, rows: Encodings) -> Float[Array, "n"]:
    """What arrives, as a score."""
    view = graph(space)
    sources, targets, decisions = np.array(view.edges, np.int32).T
    picked = rows[:, decisions]
    gates = jax.nn.sigmoid(weights["shared"][picked] + weights["own"][decisions[None], picked])
    if view.blocked is not None:
        gates = jnp.where((picked == view.blocked)[:, :, None], 0.0, gates)
    first = (np.arange(view.num_nodes) == 0)[:, None]
    state = jnp.where(first, weights["input"], 0.0) + weights["nodes"]
    state = jnp.broadcast_to(state[None], (len(rows), *state.shape))
    into = np.equal(targets[None], np.arange(view.num_nodes)[:, None]).astype(np.float32)
    for layer in range(len(weights["flow"])):
        sent = (state @ weights["flow"][layer])[:, sources] * gates
        state = jax.nn.relu(jnp.einsum("ve,neh->nvh", into, sent) + state @ weights["keep"][layer])
    hidden = jax.nn.relu(state[:, -1] @ weights["last"] + state.mean(1) @ weights["mean"] + weights["bias"][None])
    return (hidden @ weights["score"])[:, 0]


def score(weights: Weights, space: Space, rows: Encodings) -> Float[Array, "n"]:
    return (flow(weights, space, rows) - weights["centre"]) * weights["slope"]
