"""An encoder, a predictor and a decoder of architectures as sequences of decisions, of any space.

Luo et al., "Neural Architecture Optimization", 2018, https://arxiv.org/abs/1808.07233, and "Semi-Supervised Neural
Architecture Search", 2020, https://arxiv.org/abs/2002.10389. An LSTM reads the decisions; its outputs, normalised, have
a normalised mean, the embedding, from which a small network tells the score, and from which a second LSTM, attending
to the outputs, writes the decisions again. Each decision has a vocabulary of its own, its choices, and nothing else can
be written. As all are equally long, there is neither padding nor an end token.
"""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int

from predictors.features import features, groups
from predictors.lstm import cell, lstm
from predictors.training import Weights
from spaces.base import Encodings, Space

Outputs = Float[Array, "length n hidden"]
HALF = math.sqrt(0.5)  # keeps the variance of a sum of two


def initial(key: jax.Array, space: Space, hidden: int, bidirectional: bool) -> Weights:
    length, choices = len(space.cardinalities), max(space.cardinalities)
    tokens, gates, wide = length * choices, 4 * hidden, 2 * hidden
    shapes = {
        "tokens": (tokens, hidden),
        "read": (hidden, gates),
        "read_on": (hidden, gates),
        "features": (len(groups(space)), hidden),
        "first": (hidden, hidden),
        "second": (hidden, hidden),
        "score": (hidden, 1),
        "written": (tokens + 1, hidden),  # the last is where writing begins
        "write": (hidden, gates),
        "write_on": (hidden, gates),
        "query": (hidden, hidden),
        "attended": (wide, hidden),
        "choices": (length, hidden, choices),
    }
    if bidirectional:
        shapes |= {"back": (hidden, gates), "back_on": (hidden, gates), "both": (wide, hidden)}
    keys = jr.split(key, len(shapes))
    weights = {
        name: jr.uniform(k, shape, minval=-1, maxval=1) / math.sqrt(hidden)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    biases = {"read": gates, "back": gates, "write": gates, "first": hidden, "second": hidden, "score": 1}
    weights |= {name + "_bias": jnp.zeros(size) for name, size in biases.items() if name in shapes}
    return weights | {"choices_bias": jnp.zeros((length, choices))}


def unit(x: Float[Array, "*n hidden"]) -> Float[Array, "*n hidden"]:
    return x * jax.lax.rsqrt((x**2).sum(-1, keepdims=True) + 1e-12)


def encode(weights: Weights, rows: Encodings, known: Float[Array, "n d"]) -> tuple[Outputs, Float[Array, "n hidden"]]:
    """The normalised outputs, one a decision, and the embedding. `known` are the features of the networks."""
    tokens, start = _tokens(weights, rows), jnp.zeros((len(rows), weights["first"].shape[0]))

    def read(name: str, tokens: Array) -> Array:
        # What a token adds to the gates is looked up, for there are fewer kinds of token than tokens.
        inputs = weights["tokens"] @ weights[name] + weights[name + "_bias"][None]
        return lstm(inputs[tokens], weights[name + "_on"], start)

    outputs = read("read", tokens)
    if "back" in weights:
        both = jnp.concatenate([outputs, read("back", tokens[::-1])[::-1]], -1)
        outputs = both @ weights["both"] + weights["tokens"][tokens]
    # What the space knows of its networks is in every output, as the decisions are.
    outputs = unit(outputs + (known @ weights["features"])[None])
    return outputs, unit(outputs.mean(0))


def score(weights: Weights, embedding: Float[Array, "n hidden"]) -> Float[Array, "n"]:
    x = jax.nn.relu(embedding @ weights["first"] + weights["first_bias"][None])
    x = jax.nn.relu(x @ weights["second"] + weights["second_bias"][None])
    return ((embedding + x) * HALF @ weights["score"] + weights["score_bias"][None])[:, 0]


def predicted(weights: Weights, space: Space, rows: Encodings) -> Float[Array, "n"]:
    return score(weights, encode(weights, rows, features(space, rows))[1])


def reconstruction_loss(
    weights: Weights, space: Space, outputs: Outputs, embedding: Float[Array, "n hidden"], rows: Encodings
) -> Float[Array, ""]:
    """The mean negative log-probability of a decision, given those before it."""
    begin = jnp.full((1, len(rows)), len(weights["written"]) - 1)
    before = jnp.concatenate([begin, _tokens(weights, rows)[:-1]])
    inputs = weights["written"] @ weights["write"] + weights["write_bias"][None]
    states = lstm(inputs[before], weights["write_on"], embedding)
    logp = _choose(weights, space, (states + weights["written"][before]) * HALF, outputs)
    return -jnp.take_along_axis(logp, rows.T[:, :, None], 2).mean()


def decode(
    weights: Weights,
    space: Space,
    outputs: Outputs,
    embedding: Float[Array, "n hidden"],
    noise: Float[Array, "n length choices"] | None = None,
) -> Encodings:
    """The likeliest choice of each decision, one after the other, given those that were taken.

    Gumbel noise on the log-probabilities draws a choice instead.
    """
    choices = weights["choices"].shape[2]
    inputs = weights["written"] @ weights["write"] + weights["write_bias"][None]

    def decide(carry, decision: Array):
        token, state, memory = carry
        state, memory, _ = cell(inputs[token] + state @ weights["write_on"], memory)
        mixed = (state + weights["written"][token]) * HALF
        logp = _choose(weights, space, mixed[None], outputs, decision[None])[0]
        if noise is not None:
            logp = logp + noise[:, decision]
        choice = jnp.argmax(logp, 1).astype(jnp.int32)
        return (decision * choices + choice, state, memory), choice

    begin = jnp.full(embedding.shape[0], len(weights["written"]) - 1, jnp.int32)
    decisions = jnp.arange(len(space.cardinalities), dtype=jnp.int32)
    return jax.lax.scan(decide, (begin, embedding, embedding), decisions)[1].T


def improve(
    weights: Weights,
    space: Space,
    rows: Encodings,
    step: Float[Array, ""],
    noise: Float[Array, "n length choices"] | None = None,
) -> tuple[Encodings, Float[Array, "n"], Float[Array, "n"]]:
    """Each row decoded after a step of its outputs down the gradient of its score, and the score before and after.

    As all outputs enter the embedding by their mean, each goes in much the same direction; they are normalised after.
    """
    outputs, embedding = encode(weights, rows, features(space, rows))
    before = score(weights, embedding)
    gradient = jax.grad(lambda outputs: score(weights, unit(outputs.mean(0))).sum())(outputs)
    outputs = unit(outputs - step * gradient)
    embedding = unit(outputs.mean(0))
    return decode(weights, space, outputs, embedding, noise), before, score(weights, embedding)


def _tokens(weights: Weights, rows: Encodings) -> Int[Array, "length n"]:
    length, _, choices = weights["choices"].shape
    return (rows + np.arange(length, dtype=np.int32)[None] * choices).T


def _choose(
    weights: Weights, space: Space, states: Array, outputs: Outputs, decisions: Array | None = None
) -> Float[Array, "steps n choices"]:
    """Log-probabilities of the choices of some decisions, all by default; what is not a choice has none."""
    attention = jax.nn.softmax(jnp.einsum("tnh,snh->nts", states @ weights["query"], outputs), -1)
    context = jnp.einsum("nts,snh->tnh", attention, outputs)
    mixed = jnp.tanh(jnp.concatenate([context, states], -1) @ weights["attended"])
    heads, biases = weights["choices"], weights["choices_bias"]
    legal = jnp.arange(heads.shape[2])[None] < jnp.asarray(space.cardinalities)[:, None]
    if decisions is not None:
        heads, biases, legal = heads[decisions], biases[decisions], legal[decisions]
    logits = jnp.einsum("tnh,thc->tnc", (states + mixed) * HALF, heads) + biases[:, None]
    return jax.nn.log_softmax(jnp.where(legal[:, None], logits, -1e9), -1)
