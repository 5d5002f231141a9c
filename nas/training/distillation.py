"""Distillation: a network also learns the answers of one that was trained before.

Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015, https://arxiv.org/abs/1503.02531: with a
share w the loss is (1 - w) of the task's own and w of how far the outputs are from the teacher's, which a kind of task
says (`Kind.imitated`). Dong & Yang, "Network Pruning via Transformable Architecture Search", 2019,
https://arxiv.org/abs/1905.09717, train what they have found so.

The teacher sees the images of the step as its student does, augmented, and computes in the same program. It is as after
its own training: nothing of it changes.
"""

import dataclasses
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from nas.devices import everywhere
from nas.training.net import Graph, Scaling, alone, flatten, forward, split, unflatten
from spaces.base import Space


class Lesson(NamedTuple):
    """What a step with a teacher is compiled for, beside the teacher's weights."""

    graph: Graph  # of the teacher
    scaling: Scaling  # of its images
    weight: float  # its share of the loss, in [0, 1]
    temperature: float  # by which logits are divided


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network. Holds arrays only, so that it can be sent to workers."""

    space: Space
    encoding: tuple[int, ...]
    kind: Any  # of its task
    scaling: Scaling
    arrays: dict[str, np.ndarray]  # weights and statistics by dotted name
    digest: str  # sha256 of the file of its weights

    @cached_property
    def _network(self) -> tuple[Graph, nnx.State, nnx.State]:
        network = alone(self.space, self.kind, np.asarray(self.encoding, np.int32), jax.random.key(0))
        graph, *parts = split(network)
        weights, statistics = (unflatten(part, {name: self.arrays[name] for name in flatten(part)}) for part in parts)
        return graph, everywhere(weights), everywhere(statistics)

    def lesson(self, weight: float, temperature: float) -> Lesson:
        return Lesson(self._network[0], self.scaling, weight, temperature)

    @property
    def held(self) -> tuple[nnx.State, nnx.State]:
        """Its weights and statistics, on all devices."""
        return self._network[1:]


def answers(lesson: Lesson, held: Any, images: Float[Array, "n h w c"], scaling: Scaling, dtype: Any) -> Any:
    """The outputs of the teacher, in float32, for images that are scaled as those of the student. They are constants:
    no gradient flows through them."""
    weights, statistics = held
    seen = rescaled(images, scaling, lesson.scaling).astype(dtype)
    return jax.lax.stop_gradient(forward(lesson.graph, weights, statistics, seen, (), train=False)[0])


def rescaled(images: Float[Array, "n h w c"], given: Scaling, wanted: Scaling) -> Float[Array, "n h w c"]:
    """Images whose channels have another mean and deviation as 0 and 1."""
    if given == wanted:
        return images
    (mean, std), (new_mean, new_std) = (np.asarray(each, np.float64) for each in (given, wanted))
    scale, shift = std / new_std, (mean - new_mean) / new_std
    return images * jnp.float32(scale)[None, None, None] + jnp.float32(shift)[None, None, None]


def mixed(lesson: Lesson, own: Float[Array, ""], imitated: Float[Array, ""]) -> Float[Array, ""]:
    """The loss of a step: the task's own and that of the teacher's answers, by their shares."""
    return (1 - lesson.weight) * own + lesson.weight * imitated
