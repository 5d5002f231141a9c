"""Where every random number of a run comes from: its address, which is the run's seed, a purpose, and what lies below.

An address is used once. What it gives is drawn from, or divided (a step, a trial, `split`), never both; and nobody
makes keys or generators of a seed but by this module. JAX's `split(key)[i]` is `fold_in(key, i)`, so a key that is
split has no other children. What compares architectures shows all of them the same numbers, on purpose: their
addresses do not hold the architecture.
"""

import jax
import jax.random as jr
import numpy as np

# The order is part of results: what is new comes last, and no number is given again.
(
    WEIGHTS,  # that a search shares, as they begin
    PATHS,  # of the steps that train them
    SEARCH,  # below it the trials; of a differentiable search all that its steps draw
    BASELINE,  # random architectures beside those that were found
    TRAINING,  # below it the steps on shared weights, and the order of images
    OWN_WEIGHTS,  # of one architecture's network, as they begin
    OWN_TRAINING,  # below it its steps, and the order of images
    HALVES,  # of the images: those that weights learn from, and those that logits do
    CURVATURE,  # of a differentiable search's loss: its images, and where it looks first
    CALIBRATION,  # images that statistics are measured on
    UNTRAINED,  # scores without training: the images, and below it the initial weights
    NOISE,  # below it what is added to a table's rows
    WITHHELD,  # rows that a predictor is judged by
    PREDICTOR,  # all that a predictor draws to learn
    SAMPLE,  # architectures that a predictor is asked of
    PRETRAINED,  # weights of a supernet of classifiers, as they begin
    PRETRAINING_PATHS,  # of the steps that train them
    PRETRAINING,  # below it these steps, and the order of images
    OWN_PRETRAINED,  # of one architecture's classifier, as its weights begin
    OWN_PRETRAINING,  # below it its steps, and the order of images
    REFERENCES,  # architectures among which an ensemble of scores ranks
) = range(21)


def stream(seed: int | jax.Array, purpose: int) -> jax.Array:
    """The key of a purpose, below which there are those of its parts."""
    return jr.fold_in(jr.key(seed), purpose)


def generator(seed: int, purpose: int, *below: int) -> np.random.Generator:
    """The same for NumPy. `below` are numbers less than 2^32; no two rows of them have the same numbers."""
    # As the entropy itself these would not do: NumPy takes (5, 0) for 5.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, *below)))
