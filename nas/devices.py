"""The devices of this process: each has all weights and data, and a part of every batch.

Where the images of a step are divided, XLA divides what is computed of them, and what is summed over a batch, such as
losses, gradients and the statistics of normalisation, is summed over devices (Xu et al., "GSPMD", 2021,
https://arxiv.org/abs/2105.04663). With one device nothing is changed. With more, sums are rounded in another order.
"""

import functools
from collections import deque
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

BATCH = "batch"


@functools.cache
def _mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), (BATCH,))


def everywhere(tree: Any) -> Any:
    """Arrays that every device holds whole, and nobody else."""
    place = NamedSharding(_mesh(), PartitionSpec()) if _mesh().size > 1 else None
    return jax.device_put(tree, place, may_alias=False)


def divided(batch: Array) -> Array:
    """Within a program: a batch of which every device has an equal part, where it can be divided so."""
    if _mesh().size == 1 or batch.shape[0] % _mesh().size:
        return batch
    return jax.lax.with_sharding_constraint(batch, NamedSharding(_mesh(), PartitionSpec(BATCH)))


class Queue:
    """Results of programs. Of those that are `given` images of their own no more than a few are under way at once, or
    the images of all that are begun would lie in memory. Meanwhile those of the next are read."""

    def __init__(self, most: int = 2, given: bool = True):
        self._results: deque[Any] = deque()
        self._given, self._most = given, most

    def add(self, result: Any) -> None:
        if not self._given:
            return
        self._results.append(result)
        if len(self._results) > self._most:
            jax.block_until_ready(self._results.popleft())
