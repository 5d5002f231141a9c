"""How a network is trained or looked up, as values. Nothing heavy is imported: `--help` shows them."""

import dataclasses
from typing import Literal, get_args

Optimiser = Literal["sgd", "adamw", "rmsprop"]
Paths = Literal["uniform", "fair", "cost-binned"]  # of a training of shared weights
FINAL_ONLY = ("drop_path", "auxiliary", "real_weights", "teacher")  # what no training of shared weights has
MOST = {"steps": 10**8, "batch_size": 10**5}  # memory is taken for all of them


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    steps: int = 1500
    """Optimiser steps."""
    batch_size: int = 64
    """Images a step."""
    learning_rate: float = 0.1
    """The highest learning rate; adamw and rmsprop need a lower one than sgd, of about 0.001."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls over the steps."""
    min_learning_rate: float = 0.0
    """What it falls to."""
    warmup: float = 0.05
    """The share of the steps in which the learning rate rises from 0."""
    optimiser: Optimiser = "sgd"
    """Which takes the steps, as defined by PyTorch: sgd, adamw (beta2 0.999) or rmsprop (alpha 0.99); eps is 1e-8."""
    momentum: float = 0.9
    """Of sgd and rmsprop; the first beta of adamw."""
    nesterov: bool = False
    """Nesterov's form of the momentum of sgd."""
    weight_decay: float = 4e-5
    """Of tensors with more than one axis: added to the gradient before momentum (sgd, rmsprop), or taken off the
    weights, times the learning rate (adamw)."""
    clip_weights: float = 0.0
    """What weights, of tensors with more than one axis, are clipped to after each step; 0 switches it off. With 1, as
    cells of one bit are trained, no weight grows so large that its sign cannot change any more."""
    real_weights: float = 0.0
    """Of networks of one bit: the share of the steps, from the first, in which activations alone are of one bit."""
    ema: float = 0.0
    """Decay of the moving average of weights that a training gives in place of the last ones; 0 gives the last."""
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
    jitter: float = 0.0
    """Of detection: images are scaled by random factors from 1 - jitter to 1 + jitter."""
    mixup: float = 0.0
    """Alpha of mixup; 0 switches it off."""
    drop_path: float = 0.0
    """In cells: the probability with which operations are left out, which rises from 0 over the steps."""
    auxiliary: float = 0.0
    """In cells: weight of the loss of a second classifier, after the second reduction, that is trained alongside."""
    teacher: str | None = None
    """A trained network whose answers are learned too (distillation): its architecture's id in the store, or a folder
    that nas export wrote. For the final training alone."""
    teacher_weight: float = 0.5
    """The share of the loss that is the distance from the teacher's answers."""
    temperature: float = 4.0
    """What the logits of both are divided by in that distance, which is multiplied by its square."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of activations; weights, statistics and optimiser stay in float32."""
    checkpoint_seconds: float = 30.0
    """Least time between two checkpoints."""

    def with_steps(self, steps: int) -> "Recipe":
        return dataclasses.replace(self, steps=steps)

    def __post_init__(self):
        for name in MOST:
            if not 1 <= getattr(self, name) <= MOST[name]:
                raise ValueError(f"{name}={getattr(self, name)} must lie in 1..{MOST[name]}")
        for name in ("learning_rate", "weight_decay", "clip", "clip_weights", "checkpoint_seconds"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0")
        if not 0 <= self.min_learning_rate <= self.learning_rate:
            raise ValueError(
                f"min_learning_rate={self.min_learning_rate} must lie in 0..learning_rate={self.learning_rate}"
            )
        for name in ("warmup", "momentum", "ema", "label_smoothing", "drop_path", "jitter", "real_weights"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1)")
        if self.teacher == "":
            raise ValueError("teacher='' must be the id of an architecture, or a folder that nas export wrote")
        if not 0 <= self.teacher_weight <= 1:
            raise ValueError(f"teacher_weight={self.teacher_weight} must lie in 0..1")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature} must be above 0, and finite")
        if self.optimiser not in get_args(Optimiser):
            raise ValueError(f"optimiser={self.optimiser!r} must be {', '.join(get_args(Optimiser))}")
        if self.nesterov and self.optimiser != "sgd":
            raise ValueError(f"nesterov=True needs optimiser='sgd', not {self.optimiser!r}: set nesterov to false too")
        for name in ("crop", "cutout", "mixup", "auxiliary"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0")


def misplaced(recipe: Recipe) -> str | None:
    """What a recipe of shared weights has that is for the final training alone, with what is allowed."""
    for name in FINAL_ONLY:
        if value := getattr(recipe, name):
            return f"{name}={value!r} must {'not be set' if isinstance(value, str) else 'be 0'}: it is for final"
    return None


@dataclasses.dataclass(frozen=True)
class Lookup:
    """Which of a table's columns a search sees."""

    dataset: str | None = None
    """The data that the architectures were trained on; by default cifar10, or the only data of the table."""
    epochs: int | None = None
    """How long they were trained for the score that a search sees; by default 12, else the most of the table."""
    noise: float = 0.0
    """Standard deviation of what is added to the score; an architecture has its own in each run."""

    def __post_init__(self):
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs={self.epochs} must be at least 1")
        if not 0 <= self.noise < float("inf"):
            raise ValueError(f"noise={self.noise} must be at least 0")
