"""Evaluation with shared weights: recalibrate the statistics of the path, then count validation errors.

Guo et al., 2019, https://arxiv.org/abs/1904.00420, section 3.3.
"""

import dataclasses
from functools import cached_property
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from nas.devices import everywhere
from nas.evaluators.base import Context, Evaluation, Scoring
from nas.streams import CALIBRATION, generator
from nas.tasks.base import Task
from nas.training.net import calibrate, images_at_once, measure, on_path, split, supernet, unflatten
from spaces.base import Space, costs


@dataclasses.dataclass(frozen=True)
class Supernet(Scoring):
    """With the shared weights of a supernet."""

    affine: bool = False
    """Whether normalisation in the supernet has scale and bias (DetNAS: yes; SPOS: no)."""
    calibration_images: int = 1024
    """Training images on which the statistics of a candidate are measured."""

    name: ClassVar[str] = "supernet"
    needs_supernet: ClassVar[bool] = True

    def __post_init__(self):
        if self.calibration_images < 1:
            raise ValueError(f"calibration_images={self.calibration_images} must be at least 1")

    def prepare(self, context: Context) -> "SupernetEvaluator":
        return SupernetEvaluator(
            context.space,
            context.shared_weights(self.affine),
            context.images,
            self.calibration_images,
            precision=context.training.precision,
            affine=self.affine,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class SupernetEvaluator:
    """Holds arrays only, so that workers share one copy of the weights and the data."""

    space: Space
    weights: dict[str, np.ndarray]
    task: Task
    calibration_images: int = 1024  # of the training split, the same for every candidate
    batch_size: int = 256
    precision: str = "float32"
    affine: bool = False

    @cached_property
    def _network(self):
        graph, weights, statistics = split(supernet(self.space, self.task.kind, jax.random.key(0), affine=self.affine))
        return graph, everywhere(unflatten(weights, self.weights)), everywhere(statistics)

    @cached_property
    def _calibration(self) -> jax.Array:
        return calibration(self.task, self.calibration_images)

    def __call__(self, encoding: tuple[int, ...], budget: int, seed: int) -> Evaluation:
        """The metric of the task on the validation split, and the costs. Neither budget nor seed matters."""
        graph, shared, statistics = self._network
        path = jnp.asarray(encoding, jnp.int32)
        weights = on_path(shared, path)
        how = {"batch": images_at_once(self.task, self.batch_size), "precision": self.precision}
        statistics = calibrate(graph, weights, statistics, self._calibration, self.task, path, **how)
        metrics = measure(graph, weights, statistics, self.task.valid, self.task, path, **how)
        return Evaluation({**metrics, **costs(self.space, encoding)}, objective=self.task.kind.metric)


def calibration(task: Task, count: int) -> jax.Array:
    """Images of the training split, the same for every candidate, on which statistics are measured."""
    chosen = generator(0, CALIBRATION).permutation(len(task.train.labels))[:count]
    return everywhere(task.train.images[np.sort(chosen)])
