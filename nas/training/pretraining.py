"""What the body of a detector has learned before: to classify other images.

Chen et al., "DetNAS: Backbone Search for Object Detection", 2019, https://arxiv.org/abs/1903.10979: the supernet is
trained as a classifier and then as a detector, along paths both times; and so is, alone and from scratch, what was
found in it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from nas.errors import UsageError
from nas.streams import OWN_PRETRAINED, OWN_PRETRAINING, PRETRAINED, PRETRAINING, stream
from nas.tasks.base import Task
from nas.tasks.data import in_channels
from nas.training.net import alone, flatten, split, supernet, unflatten
from nas.training.recipe import Recipe
from nas.training.sgd import fit
from spaces.base import Space

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Pretraining:
    """Classifiers whose bodies are those of detectors."""

    space: Space  # that of the bodies, with the input and the classes of the task
    task: Task
    recipe: Recipe
    prefix: str = "body."  # of a body's weights in a detector, which have no prefix in a classifier

    def _rows(self, encodings: np.ndarray) -> np.ndarray:
        """Of a product the decisions of the backbone, which come first."""
        return np.asarray(encodings, np.int32)[..., : len(self.space.cardinalities)]

    def shared(self, paths: np.ndarray, seed: int, affine: bool, **more: Any) -> Arrays:
        """Weights of a supernet that was trained along paths; `more` is as in `fit`."""
        network = supernet(self.space, self.task.kind, stream(seed, PRETRAINED), affine=affine)
        how = {"seed": seed, "purpose": PRETRAINING, "paths": self._rows(paths)}
        return flatten(fit(*split(network), self.task, self.recipe, **how, **more))

    def alone(self, encoding: np.ndarray, seed: int, **more: Any) -> Arrays:
        """Weights of the network of one architecture."""
        network = alone(self.space, self.task.kind, self._rows(encoding), stream(seed, OWN_PRETRAINED))
        return flatten(fit(*split(network), self.task, self.recipe, seed=seed, purpose=OWN_PRETRAINING, **more))

    def begun(self, weights: nnx.State, trained: Mapping[str, np.ndarray]) -> nnx.State:
        """A detector's weights with the body that was trained; of the classifier nothing else is left."""
        return unflatten(weights, {**flatten(weights), **self._inside(weights, trained)})

    def _inside(self, weights: nnx.State, trained: Mapping[str, np.ndarray]) -> Arrays:
        names = {name: name.removeprefix(self.prefix) for name in flatten(weights) if name.startswith(self.prefix)}
        for short in names.values():
            if short not in trained:
                raise UsageError(f"a classifier of this space has no weights {short!r}, which a body has")
        return {name: trained[short] for name, short in names.items()}

    def check(self, space: Space, kind: Any) -> None:
        """Raises UsageError where a classifier has not all weights of a detector's body."""
        row, key = np.zeros(len(space.cardinalities), np.int32), stream(0, OWN_PRETRAINED)
        detector, classifier = alone(space, kind, row, key), alone(self.space, self.task.kind, self._rows(row), key)
        try:
            self.begun(split(detector)[1], flatten(split(classifier)[1]))
        except ValueError as error:
            raise UsageError(f"a classifier of this space has another body than a detector: {error}") from error


def with_channels(task: Task, channels: int) -> Task:
    """The task with grey images in as many channels as others have. Raises UsageError for other colours."""
    if task.image_channels == channels:
        return task
    if task.image_channels != 1:
        raise UsageError(f"its images have {task.image_channels} channels, not {channels} or 1")
    parts = {name: in_channels(getattr(task, name), channels) for name in ("train", "valid", "test")}
    return dataclasses.replace(task, **parts, mean=task.mean * channels, std=task.std * channels)
