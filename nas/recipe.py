"""How a network is trained, or looked up, as values. Nothing heavy is imported: `--help` shows them."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    steps: int = 1500
    """Optimiser steps."""
    batch_size: int = 64
    """Images a step."""
    learning_rate: float = 0.1
    """The highest learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls to 0 over the steps."""
    warmup: float = 0.05
    """The share of the steps in which the learning rate rises from 0."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 4e-5
    """Added to the gradient of tensors with more than one axis, before momentum."""
    clip: float = 5.0
    """The gradient's largest global norm; 0 switches clipping off."""
    label_smoothing: float = 0.1
    """The share of the target that is spread over all classes."""
    crop: int = 1
    """Pixels of padding for random crops."""
    flip: bool = False
    """Random horizontal flips."""
    cutout: int = 0
    """Side of the square that is blanked, in pixels."""
    mixup: float = 0.0
    """Alpha of mixup; 0 switches it off."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of activations; weights, statistics and optimiser stay in float32."""
    checkpoint_seconds: float = 30.0
    """Least time between two checkpoints."""

    def __post_init__(self):
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("learning_rate", "weight_decay", "clip", "checkpoint_seconds"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0")
        for name in ("warmup", "momentum", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1)")
        for name in ("crop", "cutout", "mixup"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0")


@dataclasses.dataclass(frozen=True)
class Lookup:
    """Which of a table's columns a search sees."""

    dataset: str = "cifar10"
    """The data that the architectures were trained on."""
    epochs: int = 12
    """How long they were trained for the score that a search sees."""
    noise: float = 0.0
    """Standard deviation of what is added to the score; an architecture has its own in each run."""

    def __post_init__(self):
        if self.epochs < 1:
            raise ValueError(f"epochs={self.epochs} must be at least 1")
        if not 0 <= self.noise < float("inf"):
            raise ValueError(f"noise={self.noise} must be at least 0")
