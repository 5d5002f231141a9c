"""That a network can be called as the evaluators call it."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from nas.testing.laws.base import alike, calls, law


def check_network(space: Any, maker: str, network: Any, row: np.ndarray, path: Any, seed: int) -> int | None:
    """Calls a network with a path. The number of its parameters, where the space says what images it takes."""
    from nas.training.net import flatten, forward, split

    law(isinstance(network, nnx.Module), f"{maker} gives a flax.nnx.Module", row, type(network).__name__)
    fields = ("image_size", "image_channels", "num_classes")
    if not all(hasattr(space, name) for name in fields):
        return None
    graph, weights, statistics = split(network)
    size, channels, classes = (getattr(space, name) for name in fields)
    images = jnp.asarray(np.random.default_rng(seed).normal(size=(2, size, size, channels)), jnp.float32)
    mixed = getattr(path, "ndim", 1) == 2
    what = "a mixture" if mixed else "a path"
    said = f"what {maker} gives is called with images, {what} and train"
    # A supernet need have no statistics; what is built goes on by those that the batch has left.
    for train in (True, False)[: 2 if maker == "build" else 1]:
        logits, left = calls(said, row, forward, graph, weights, statistics, images, path, train=train)
        law(not mixed or alike(left, statistics), "a mixture leaves no statistics", row, "others")
        statistics = left
        if not classes:  # a head of the task's own ends it
            maps = isinstance(logits, tuple) and all(x.ndim == 4 and len(x) == 2 for x in logits)
            law(maps, f"what {maker} gives are maps [n, height, width, channels]", row, type(logits).__name__)
            law(all(bool(jnp.isfinite(x).all()) for x in logits), "maps are finite", row, logits)
            continue
        found = getattr(logits, "shape", type(logits).__name__)
        law(found == (2, classes), f"what {maker} gives makes logits [n, num_classes]", row, found)
        law(jnp.isfinite(logits).all(), "logits are finite", row, logits)
    return sum(array.size for array in flatten(weights).values())
