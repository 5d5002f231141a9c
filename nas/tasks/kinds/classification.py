"""Classification: a label from 0 for each image, cross entropy, and the share of images that are misclassified."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nas.errors import UsageError
from nas.tasks.kinds import Kind, check_counts


@dataclasses.dataclass(frozen=True)
class Classification(Kind):
    num_classes: int

    metric: ClassVar[str] = "error"
    imitates: ClassVar[bool] = True
    allowed: ClassVar[str] = "integers [n]"
    head: ClassVar[None] = None

    @classmethod
    def of(cls, field: str, labels: np.ndarray, outputs: int) -> "Classification | None":
        return cls(outputs) if labels.dtype.kind in "iu" else None

    @property
    def outputs(self) -> int:
        return self.num_classes

    def checked(self, field: str, labels: np.ndarray) -> np.ndarray:
        if labels.dtype.kind not in "iu":
            raise UsageError(f"{field}.labels has dtype {labels.dtype}; allowed: integers")
        outside = np.flatnonzero((labels < 0) | (labels >= self.num_classes))
        if len(outside):
            i = outside[0]
            raise UsageError(f"{field}.labels[{i}]={labels[i]} must lie in 0..{self.num_classes - 1}")
        return labels.astype(np.int32)

    def check_enough(self, field: str, labels: np.ndarray, needed: int, classes: Sequence[str] = ()) -> None:
        if not 2 <= self.num_classes <= len(labels):
            allowed = f"2..{len(labels)}, the number of training images"
            raise UsageError(f"{field}: num_classes={self.num_classes} must lie in {allowed}")
        check_counts(field, np.bincount(labels, minlength=self.num_classes), needed, classes)

    def strata(self, labels: np.ndarray) -> np.ndarray:
        return labels

    def named(self, field: str, classes: Sequence[object]) -> tuple[str, ...]:
        return named(field, classes, self.num_classes)

    def summary(self, classes: Sequence[str], labels: np.ndarray) -> dict[str, float]:
        return dict(zip(classes, np.bincount(labels, minlength=self.num_classes).tolist(), strict=True))

    def targets(self, labels: Array, smoothing: float) -> Float[Array, "n classes"]:
        return smooth(jax.nn.one_hot(labels, self.num_classes), smoothing)

    def loss(self, outputs: Float[Array, "n classes"], targets: Float[Array, "n classes"]) -> Float[Array, ""]:
        return cross_entropy(outputs, targets)

    def imitated(
        self, outputs: Float[Array, "n classes"], taught: Float[Array, "n classes"], temperature: float
    ) -> Float[Array, ""]:
        return divergence(outputs, taught, temperature)

    def misses(self, outputs: Float[Array, "n classes"], labels: Array) -> Float[Array, "n"]:
        return (outputs.argmax(1) != labels).astype(jnp.float32)

    def value(self, mean: float) -> float:
        return mean

    def answers(self, outputs: Any) -> np.ndarray:
        return np.asarray(outputs)


KIND = Classification


def named(field: str, classes: Sequence[object], n: int) -> tuple[str, ...]:
    """The names of `n` classes: those that are given, or numbers. Raises UsageError."""
    names = tuple(classes) or numbered(n)
    check_names(field, names, n)
    return tuple(str(name) for name in names)


def numbered(n: int) -> tuple[str, ...]:
    """The names of classes that have none."""
    return tuple(str(label) for label in range(n))


def check_names(field: str, names: Sequence[object], n: int) -> None:
    """Raises unless these are different names, one for each of `n` classes."""
    if len(names) != n:
        raise UsageError(f"{field}={len(names)} names must be {n}, one for each label")
    odd = next((name for name in names if not isinstance(name, str) or not name), None)
    if odd is not None:
        raise UsageError(f"{field}: {odd!r} must be a text that is not empty")
    if len(set(names)) < n:
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise UsageError(f"{field}: {twice!r} stands for two labels; names must differ")


def smooth(labels: Float[Array, "n k"], amount: float) -> Float[Array, "n k"]:
    """`amount` of the mass goes to all classes alike (Szegedy et al., 2015. https://arxiv.org/abs/1512.00567)."""
    if not 0 <= amount <= 1:
        raise UsageError(f"label_smoothing={amount!r} must lie in 0..1")
    return (1 - amount) * labels + amount / labels.shape[1]


def cross_entropy(logits: Float[Array, "n k"], labels: Float[Array, "n k"]) -> Float[Array, ""]:
    """The mean over the batch, in single precision whatever the logits are."""
    return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits.astype(jnp.float32)), axis=1))


def divergence(logits: Float[Array, "n k"], taught: Float[Array, "n k"], temperature: float) -> Float[Array, ""]:
    """T^2 KL(softmax(taught / T) || softmax(logits / T)), the mean over the batch, in single precision: its gradient by
    the logits is about as large at every temperature T (Hinton et al., 2015. https://arxiv.org/abs/1503.02531)."""
    softened = (jax.nn.log_softmax(each.astype(jnp.float32) / temperature) for each in (logits, taught))
    student, teacher = softened
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(teacher) * (teacher - student), axis=1))
