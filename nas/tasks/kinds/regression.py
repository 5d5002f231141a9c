"""Regression: a number for each image, the mean squared error, and its root over all images, in the unit of the labels.

A network learns the labels with their mean and deviation in training as 0 and 1, whatever their unit is.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nas.errors import UsageError
from nas.tasks.kinds import Kind

FEWEST = 10  # images, of which parts are made
BINS = 10  # of equally many images, by which parts of the data are stratified
LEAST, MOST = 1e-15, 1e15  # deviations of labels of which float32 holds the squares, and their sums


@dataclasses.dataclass(frozen=True)
class Regression(Kind):
    mean: float
    scale: float

    metric: ClassVar[str] = "rmse"
    small: ClassVar[float] = 0.0  # they are in the unit of the labels, whatever that is
    imitates: ClassVar[bool] = True
    allowed: ClassVar[str] = "floats [n]"
    head: ClassVar[None] = None

    def __post_init__(self):
        if not (math.isfinite(self.mean) and 0 < self.scale < math.inf):
            raise ValueError(f"mean={self.mean} and scale={self.scale} must be finite, and scale above 0")

    @classmethod
    def of(cls, field: str, labels: np.ndarray, outputs: int) -> "Regression | None":
        del outputs
        if labels.dtype.kind != "f" or labels.ndim != 1:
            return None
        numbers = _as_learned(labels).astype(np.float64)
        if not numbers.size or not np.isfinite(numbers).all() or numbers.min() == numbers.max():
            raise UsageError(f"{field}.labels must be finite numbers that are not all the same, in float32")
        mean, scale = float(numbers.mean()), float(numbers.std())
        if not LEAST <= scale <= MOST:
            allowed = f"must lie in {LEAST:g}..{MOST:g}: choose another unit"
            raise UsageError(f"{field}.labels: their deviation {scale:g} {allowed}")
        return cls(mean, scale)

    @property
    def outputs(self) -> int:
        return 1

    def checked(self, field: str, labels: np.ndarray) -> np.ndarray:
        if labels.dtype.kind not in "iuf":
            raise UsageError(f"{field}.labels has dtype {labels.dtype}; allowed: numbers")
        numbers = _as_learned(labels)
        outside = np.flatnonzero(~np.isfinite(numbers))
        if len(outside):
            raise UsageError(f"{field}.labels[{outside[0]}]={labels[outside[0]]} must be finite, in float32")
        return numbers

    def check_enough(self, field: str, labels: np.ndarray, needed: int, classes: Sequence[str] = ()) -> None:
        if len(labels) < FEWEST:
            raise UsageError(f"{field} has {len(labels)} training images, {FEWEST} are needed")

    def strata(self, labels: np.ndarray) -> np.ndarray:
        ranks = labels.argsort(kind="stable").argsort(kind="stable")
        return (ranks * min(BINS, max(1, len(labels) // 2)) // max(len(labels), 1)).astype(np.int32)

    def named(self, field: str, classes: Sequence[object]) -> tuple[str, ...]:
        if classes:
            raise UsageError(f"{field}={list(classes)[:3]} must be none: the labels are numbers")
        return ()

    def summary(self, classes: Sequence[str], labels: np.ndarray) -> dict[str, float]:
        return {"least": float(labels.min()), "mean": float(labels.mean()), "most": float(labels.max())}

    def targets(self, labels: Array, smoothing: float) -> Float[Array, "n 1"]:
        del smoothing  # of classes
        return ((labels - self.mean) / self.scale)[:, None].astype(jnp.float32)

    def loss(self, outputs: Float[Array, "n 1"], targets: Float[Array, "n 1"]) -> Float[Array, ""]:
        return jnp.mean((outputs.astype(jnp.float32) - targets) ** 2)

    def imitated(
        self, outputs: Float[Array, "n 1"], taught: Float[Array, "n 1"], temperature: float
    ) -> Float[Array, ""]:
        """The mean squared error to the teacher's numbers, which have no temperature."""
        del temperature
        return self.loss(outputs, taught)

    def misses(self, outputs: Float[Array, "n 1"], labels: Array) -> Float[Array, "n"]:
        return (outputs[:, 0] * self.scale + self.mean - labels) ** 2

    def value(self, mean: float) -> float:
        return math.sqrt(mean)

    def answers(self, outputs: Any) -> np.ndarray:
        return np.asarray(outputs) * np.float32(self.scale) + np.float32(self.mean)

    def traced(self, outputs: Any) -> Float[Array, "n 1"]:
        return outputs * np.float32(self.scale) + np.float32(self.mean)

    def parts(self, outputs: Any) -> dict[str, Array]:
        return {"numbers": self.traced(outputs)}


def _as_learned(labels: np.ndarray) -> np.ndarray:
    """In float32, in which infinity stands for what is too large."""
    with np.errstate(over="ignore"):
        return labels.astype(np.float32)


KIND = Regression
