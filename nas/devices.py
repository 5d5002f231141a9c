"""The devices of this process, or of all that train together: each has all weights, and a part of every batch.

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

from nas import hosts

BATCH = "batch"


def _mesh() -> Mesh:
    return _mesh_of(hosts.trains())


@functools.cache
def _mesh_of(all_hosts: bool) -> Mesh:
    return Mesh(np.array(jax.devices() if all_hosts else jax.local_devices()), (BATCH,))


def everywhere(tree: Any) -> Any:
    """Arrays that every device holds whole, and nobody else."""
    if hosts.trains():
        place = NamedSharding(_mesh(), PartitionSpec())
        return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(place, np.array(leaf)), tree)
    place = NamedSharding(_mesh(), PartitionSpec()) if _mesh().size > 1 else None
    return jax.device_put(tree, place, may_alias=False)


def divided(batch: Array) -> Array:
    """Within a program: a batch of which every device has an equal part, where it can be divided so."""
    if _mesh().size == 1 or batch.shape[0] % _mesh().size:
        return batch
    return jax.lax.with_sharding_constraint(batch, NamedSharding(_mesh(), PartitionSpec(BATCH)))


def fed(array: np.ndarray, indices: np.ndarray) -> Array:
    """The rows at these indices, of which each process reads those of its own devices."""
    place = NamedSharding(_mesh(), PartitionSpec(BATCH))
    shape = (len(indices), *array.shape[1:])

    def part(where: Any) -> np.ndarray:
        return np.asarray(array[indices[where[0]]])

    return jax.make_array_from_callback(shape, place, part)


def whole(tree: Any) -> Any:
    """Within a program of all hosts: results that every device has, so that each process can read them."""
    if not hosts.trains():
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(_mesh(), PartitionSpec()))


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
