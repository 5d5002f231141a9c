"""What each step of a training is given, as functions of the seed and of the step: its images and its learning rate."""

import functools

import numpy as np
import optax

from nas.streams import TRAINING, generator
from nas.training.recipe import Recipe


def learning_rates(recipe: Recipe) -> np.ndarray:
    """The learning rate of every step: a linear rise, then the recipe's schedule.

    The code of DARTS and its kin lowers it once an epoch; here it falls a little with every step.
    """
    least = recipe.min_learning_rate
    warm = min(round(recipe.warmup * recipe.steps), recipe.steps - 1)
    falls = {
        "cosine": optax.cosine_decay_schedule(
            recipe.learning_rate, recipe.steps - warm, least / recipe.learning_rate if least else 0.0
        ),
        "linear": optax.linear_schedule(recipe.learning_rate, least, recipe.steps - warm),
        "constant": optax.constant_schedule(recipe.learning_rate),
    }
    rise = optax.linear_schedule(recipe.learning_rate / (warm + 1), recipe.learning_rate, max(warm, 1))
    schedule = optax.join_schedules([rise, falls[recipe.schedule]], [warm])
    return np.broadcast_to(np.asarray(schedule(np.arange(recipe.steps)), np.float32), recipe.steps)


def drop_rates(recipe: Recipe) -> np.ndarray:
    """The probability with which every step leaves operations of cells out: it rises from 0."""
    return np.float32(recipe.drop_path) * np.arange(recipe.steps, dtype=np.float32) / np.float32(recipe.steps)


def batch_indices(seed: int, step: int, size: int, batch: int, *address: int) -> np.ndarray:
    """The images of a step: each pass over the data is a new permutation; what a batch lacks comes from the next.

    The address, by default `TRAINING`, is a purpose of the seed and what lies below it.
    """
    first, last = step * batch // size, (step * batch + batch - 1) // size
    order = [_order(seed, size, *(address or (TRAINING,)), epoch) for epoch in range(first, last + 1)]
    start = step * batch - first * size
    return np.concatenate(order)[start : start + batch].astype(np.int32)


@functools.lru_cache(maxsize=4)
def _order(seed: int, size: int, *address: int) -> np.ndarray:
    return generator(seed, *address).permutation(size)
