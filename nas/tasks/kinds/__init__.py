"""What a task asks of a network: a file a kind, which is known by being in this folder.

The labels of the data say of which kind a task is. Everything that depends on it is here: what a network gives for an
image, what it is trained towards and by which loss, and the metric that a search minimises.
"""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8
from PIL import Image

from nas.errors import UsageError, unknown
from nas.tasks import Resize
from nas.tasks.augment import Augment, augment
from nas.tasks.pixels import fit

MOST_NAMED = 10  # classes in one error


def check_counts(field: str, counts: np.ndarray, needed: int, classes: Sequence[str]) -> None:
    """Raises UsageError that names the classes of which there are fewer training images than are needed."""
    names = classes if len(classes) == len(counts) else [""] * len(counts)
    rare = [
        f"class {label}{f' ({name})' if name else ''} has {count}"
        for label, (name, count) in enumerate(zip(names, counts, strict=True))
        if count < needed
    ]
    if rare:
        more = f" and {len(rare) - MOST_NAMED} more as few" if len(rare) > MOST_NAMED else ""
        raise UsageError(f"{field}: {', '.join(rare[:MOST_NAMED])}{more} training images, {needed} are needed")


class Kind:
    """What every kind is, a frozen dataclass of numbers: compiled programs are looked up by it."""

    metric: ClassVar[str]  # what is minimised, such as error; also in `standalone_error` and `test_error`
    small: ClassVar[float] = 1.0  # answers that are smaller are compared as if they were so large
    allowed: ClassVar[str]  # the labels that it takes, in words
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # its defaults, where they are not those of all kinds
    finds: ClassVar[bool] = False  # objects in images: then it has `found`, and answers are boxes
    imitates: ClassVar[bool] = False  # whether networks can learn from a teacher: then it has `imitated`
    # What ends a network: called with the shapes `(height, width, channels)` of the maps of its stages, the finest
    # first, and a generator, it gives a module that is called with these maps and `train`. None where the classifier
    # of the space ends it; else `outputs` is 0, and spaces have none.
    head: ClassVar[Any]  # Callable[[tuple[tuple[int, ...], ...], np.random.Generator], nnx.Module] | None

    def head_costs(self, shapes: tuple[tuple[int, ...], ...]) -> dict[str, int]:
        """Multiply-adds of one image and parameters, `macs` and `params`, of the head for these shapes, if any."""
        return {}

    @classmethod
    def of(cls, field: str, labels: np.ndarray, outputs: int) -> "Kind | None":
        """The kind of these training labels; None where they are of another kind. Raises UsageError."""
        ...

    @property
    def outputs(self) -> int:
        """How many numbers the classifier of a space gives for an image; 0 where there is a head in its place."""
        ...

    def checked(self, field: str, labels: np.ndarray) -> np.ndarray:
        """The labels in the type in which they are kept. Raises UsageError for what are none."""
        ...

    def check_enough(self, field: str, labels: np.ndarray, needed: int, classes: Sequence[str] = ()) -> None:
        """Raises UsageError for training labels that are too few: each class, where there are such, `needed` times."""
        ...

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """A whole number from 0 for each image: parts of the data have images of all in proportion."""
        ...

    def named(self, field: str, classes: Sequence[object]) -> tuple[str, ...]:
        """The names of the classes, where there are such. Raises UsageError."""
        ...

    def check_recipe(self, field: str, recipe: Any) -> None:
        """Raises UsageError for a recipe that asks for what there is not for this kind."""
        if recipe.jitter:
            raise UsageError(f"{field}jitter={recipe.jitter} must be 0: it is for detectors")

    def remark(self, name: str, classes: Sequence[str], labels: Mapping[str, np.ndarray]) -> str | None:
        """What a user should know of the labels of each part, in one line."""
        return None

    def summary(self, classes: Sequence[str], labels: np.ndarray) -> dict[str, float]:
        """What labels are, in a few numbers by name: of each class how many there are."""
        ...

    def targets(self, labels: Array, smoothing: float) -> Array:
        """What a network is trained towards."""
        ...

    def augmented(
        self, how: Augment, images: Float[Array, "n h w c"], targets: Array, key: Key[Array, ""]
    ) -> tuple[Float[Array, "n h w c"], Array]:
        """The images of a step of training, changed at random, with what is then to be learned of them."""
        return augment(how, images, targets, key)

    def loss(self, outputs: Any, targets: Array) -> Float[Array, ""]:
        """In single precision, the mean over the batch."""
        ...

    def imitated(self, outputs: Any, taught: Any, temperature: float) -> Float[Array, ""]:
        """How far outputs are from those of a teacher for the same images, the mean over the batch: see
        `nas.training.distillation`."""
        ...

    def judged(self, outputs: Any, labels: Any, counted: Any) -> Any:
        """What the metrics are made of, of a batch, on the device; images that do not count were in another one."""
        return jnp.where(counted, self.misses(outputs, labels), 0).sum()

    def metrics(self, judged: Sequence[Any], labels: np.ndarray) -> dict[str, float]:
        """All that is measured, by name, from what was judged of each batch of the images of these labels."""
        return {self.metric: self.value(sum(map(float, judged)) / len(labels))}

    def misses(self, outputs: Any, labels: Array) -> Float[Array, "n"]:
        """How far each image's answer is off: what the metric is made of, unless a kind is judged otherwise."""
        ...

    def value(self, mean: float) -> float:
        """The metric, of the mean of all misses."""
        ...

    def answers(self, outputs: Any) -> np.ndarray:
        """The outputs of an exported network for a batch, in the units of the labels."""
        ...

    def traced(self, outputs: Any) -> Array:
        """The same answers as a part of a program, which is written to a file."""
        return outputs

    def parts(self, outputs: Any) -> dict[str, Array]:
        """By name, what answers are made of by programs whose formats cannot say it whole."""
        return {"logits": self.traced(outputs)}

    def prepared(
        self, photo: Image.Image, size: int, resize: Resize | None
    ) -> UInt8[np.ndarray, "size size *channels"]:
        """A photo, in the mode of the network, made square as the images of training were: see `pixels.fit`."""
        return np.asarray(fit(photo, size, resize or "crop"))


@functools.cache
def kinds() -> dict[str, Any]:
    """By the names of their files."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}").KIND for name in names}


def kind_of(field: str, labels: np.ndarray, outputs: int) -> Any:
    """The kind of task that training labels are of. Raises UsageError."""
    for kind in kinds().values():
        if (found := kind.of(field, labels, outputs)) is not None:
            return found
    allowed = " or ".join(kind.allowed for kind in kinds().values())
    raise UsageError(f"{field}.labels has dtype {labels.dtype} and {labels.ndim} axes; allowed: {allowed}")


def described(kind: Any) -> dict[str, Any]:
    """As plain data, which `from_data` reads."""
    (name,) = (name for name, each in kinds().items() if type(kind) is each)
    return {"name": name, **{field.name: getattr(kind, field.name) for field in dataclasses.fields(kind)}}


def from_data(data: Any) -> Any:
    """Raises ValueError or UsageError for what describes none."""
    fields = dict(data) if isinstance(data, dict) else {}
    name = fields.pop("name", None)
    if name not in kinds():
        raise unknown("kind", name, kinds())
    kind = kinds()[str(name)]
    known = {field.name: field.type for field in dataclasses.fields(kind)}
    numbers = {int: (int,), float: (int, float)}
    if set(fields) != set(known) or not all(type(value) in numbers[known[key]] for key, value in fields.items()):
        raise ValueError(f"kind={name!r} must have the numbers {', '.join(known) or 'of none'}")
    return kind(**fields)
