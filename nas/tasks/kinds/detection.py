"""Detection: boxes of classes in each image, found by a one-stage detector, and average precision.

The layout of labels is said in `nas.tasks.detection`. More of average precision is better, and everything is minimised:
so the metric is its negative, `minus_ap`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key, UInt8
from PIL import Image

from nas.errors import UsageError
from nas.tasks import Resize
from nas.tasks.augment import Augment, cutout
from nas.tasks.detection import CLASS, COLUMNS, IGNORED, SIDE, X0, Y0
from nas.tasks.detection.boxes import ANCHORS, LEVELS, anchors, decode, detections
from nas.tasks.detection.letterbox import letterboxed
from nas.tasks.detection.losses import detection_loss
from nas.tasks.kinds import Kind, check_counts
from nas.tasks.kinds.classification import named
from spaces.exits import at_exit

VISIBLE = 0.3  # of an object that is cut off further nothing is learned
# For two cores. The rate is that of RetinaNet for so few images at once.
RECIPE = {"steps": 1000, "batch_size": 8, "learning_rate": 0.02, "crop": 0, "flip": True, "jitter": 0.2, "clip": 10.0}
# Of each level, of all exits one after the other: logits of classes, and codes of boxes.
Outputs = Sequence[tuple[Array, Array]]
OF_EXITS = ("ap", "ap50")  # what is measured at each of several exits


@dataclasses.dataclass(frozen=True)
class Detection(Kind):
    num_classes: int

    metric: ClassVar[str] = "minus_ap"
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {"training": RECIPE | {"steps": 1500}, "final": RECIPE}
    finds: ClassVar[bool] = True
    allowed: ClassVar[str] = f"floats [n, objects, {COLUMNS}]"

    def __post_init__(self):
        if self.num_classes < 1:
            raise ValueError(f"num_classes={self.num_classes} must be at least 1")

    @classmethod
    def of(cls, field: str, labels: np.ndarray, outputs: int) -> "Detection | None":
        boxes = labels.dtype.kind == "f" and labels.ndim == 3 and labels.shape[2] == COLUMNS
        return cls(outputs) if boxes else None

    @property
    def outputs(self) -> int:
        return 0

    def head(self, shapes: Any, draw: np.random.Generator) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        from nas.tasks.detection.heads import Heads

        return Heads(shapes, self.num_classes, draw)

    def head_costs(self, shapes: tuple[tuple[int, ...], ...]) -> dict[str, int]:
        from nas.tasks.detection.heads import cost

        return cost(shapes, self.num_classes)

    def checked(self, field: str, labels: np.ndarray) -> np.ndarray:
        if labels.dtype.kind not in "iuf" or labels.ndim != 3 or labels.shape[2] != COLUMNS or not labels.shape[1]:
            raise UsageError(f"{field}.labels={labels.dtype} {list(labels.shape)} must be {self.allowed}")
        labels = labels.astype(np.float32)
        real = labels[..., CLASS] >= 0
        corners = labels[..., :4][real]
        broken = ~np.isfinite(labels).all((1, 2)) | (labels[..., SIDE] <= 0).any(1)
        outside = (labels[..., CLASS] >= self.num_classes) | (labels[..., CLASS] % 1 != 0)
        for rows, what in ((broken, "numbers that are not finite, or no size"), (outside.any(1), "an unknown class")):
            if rows.any():
                raise UsageError(f"{field}.labels[{np.flatnonzero(rows)[0]}] has {what}")
        if ((corners < -1e-6) | (corners > 1 + 1e-6)).any() or (corners[:, 2:] <= corners[:, :2]).any():
            raise UsageError(f"{field}.labels must have boxes of an area above 0, with corners in 0..1")
        return labels

    def check_enough(self, field: str, labels: np.ndarray, needed: int, classes: Sequence[str] = ()) -> None:
        counts = np.array([self._has(labels, label).sum() for label in range(self.num_classes)])
        check_counts(field, counts, needed, classes)

    def _has(self, labels: np.ndarray, label: int) -> np.ndarray:
        """Which images have an object of a class that counts."""
        return ((labels[..., CLASS] == label) & (labels[..., IGNORED] == 0)).any(1)

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """By the rarest class that an image has; 0 where it has none."""
        has = np.stack([self._has(labels, label) for label in range(self.num_classes)], 1)
        order = np.argsort(has.sum(0), kind="stable")
        return np.where(has.any(1), order[has[:, order].argmax(1)] + 1, 0).astype(np.int32)

    def named(self, field: str, classes: Sequence[object]) -> tuple[str, ...]:
        return named(field, classes, self.num_classes)

    def check_recipe(self, field: str, recipe: Any) -> None:
        for name in ("mixup", "auxiliary"):
            if getattr(recipe, name):
                raise UsageError(f"{field}{name}={getattr(recipe, name)} must be 0: it is not for detectors")

    def remark(self, name: str, classes: Sequence[str], labels: Mapping[str, np.ndarray]) -> str | None:
        lacks = [classes[label] for label in range(self.num_classes) if not self._has(labels["valid"], label).any()]
        return f"{name}: no image of validation has an object of class {', '.join(lacks)}" if lacks else None

    def summary(self, classes: Sequence[str], labels: np.ndarray) -> dict[str, float]:
        return {name: int(self._has(labels, label).sum()) for label, name in enumerate(classes)}

    def targets(self, labels: Array, smoothing: float) -> Array:
        del smoothing  # of classes that exclude one another
        return labels

    def augmented(
        self, how: Augment, images: Float[Array, "n h w c"], targets: Array, key: Key[Array, ""]
    ) -> tuple[Float[Array, "n h w c"], Array]:
        """Boxes go with the pixels. Each image is scaled by a factor in 1 - `jitter` to 1 + `jitter` and moved at
        random, by what that leaves and by `crop` pixels more; every other one is mirrored, with `flip`."""
        key_scale, key_move, key_flip, key_cutout = jr.split(key, 4)
        n, size = len(images), images.shape[1]
        if how.crop or how.jitter:
            scale = 1 + how.jitter * jr.uniform(key_scale, (n, 1), minval=-1)
            room = (jnp.abs(1 - scale) * size + 2 * how.crop) * jnp.sign(1 - scale + 1e-9)
            middle = (1 - scale) * size / 2
            move = middle + room * (jr.uniform(key_move, (n, 2)) - 0.5)  # rows and columns, in pixels
            if not how.jitter:
                move = jnp.round(move)
            images = jax.vmap(_placed)(images, scale[:, 0], move)
            targets = _moved(targets, scale, move[:, ::-1] / size)
        if how.flip:
            flipped = jr.bernoulli(key_flip, shape=(n, 1, 1))
            images = jnp.where(flipped[..., None], images[:, :, ::-1], images)
            x0, x1 = 1 - targets[..., 2], 1 - targets[..., 0]
            mirrored = targets.at[..., 0].set(x0).at[..., 2].set(x1)
            targets = jnp.where(flipped, mirrored, targets)
        if how.cutout:
            images = cutout(images, how.cutout, key_cutout)
        return images, targets

    def loss(self, outputs: Outputs, targets: Array) -> Float[Array, ""]:
        """The mean over exits."""

        def at(levels: Outputs) -> Array:
            logits, codes, places = self._flat(levels)
            return detection_loss(logits, codes, targets, places)

        exits = _exits(outputs)
        return sum(map(at, exits[1:]), at(exits[0])) / len(exits)

    def judged(self, outputs: Outputs, labels: Any, counted: Any) -> Any:
        """The objects that are found at each exit, and which images count."""
        return [self.found(levels) for levels in _exits(outputs)], counted

    def found(self, outputs: Outputs, least: float = 0.05) -> Float[Array, "n most 6"]:
        """At the last exit: see `boxes.detections`."""
        scores, boxes = self.parts(outputs).values()
        return detections(scores, boxes, least=least)

    def traced(self, outputs: Outputs) -> Float[Array, "n most 6"]:
        return self.found(outputs)

    def parts(self, outputs: Outputs) -> dict[str, Array]:
        """At the last exit: `scores [n, anchors, classes]`, probabilities, and `boxes [n, anchors, 4]`, corners in
        shares of the image's side. Boxes that overlap are not yet suppressed."""
        logits, codes, places = self._flat(_exits(outputs)[-1])
        return {"scores": jax.nn.sigmoid(logits), "boxes": decode(codes, jnp.broadcast_to(places, codes.shape))}

    def metrics(self, judged: Sequence[Any], labels: np.ndarray) -> dict[str, float]:
        """Those of the last exit; where there are several, of each also the first ones, as `minus_ap_exit_1`."""
        from nas.tasks.detection.precision import average_precision

        counted = [np.asarray(counts) for _, counts in judged]
        exits = [
            average_precision(np.concatenate([np.asarray(n)[c] for n, c in zip(found, counted, strict=True)]), labels)
            for found in zip(*(found for found, _ in judged), strict=True)
        ]
        metrics = dict(exits[-1])
        for k, measured in enumerate(exits, 1) if len(exits) > 1 else ():
            metrics |= {at_exit(name, k): measured[name] for name in OF_EXITS if name in measured}
        return {f"minus_{name}": -value for name, value in metrics.items()}

    def answers(self, outputs: Outputs) -> np.ndarray:
        return np.asarray(self.found(outputs))

    def prepared(
        self, photo: Image.Image, size: int, resize: Resize | None
    ) -> UInt8[np.ndarray, "size size *channels"]:
        del resize
        return letterboxed(photo, size)[0]

    def _flat(self, outputs: Outputs) -> tuple[Array, Array, Array]:
        """Logits `[n, anchors, classes]`, codes `[n, anchors, 4]` and the anchors, of all levels of an exit."""
        sizes = tuple(logits.shape[1:3] for logits, _ in outputs)
        n = outputs[0][0].shape[0]
        logits = jnp.concatenate([each.reshape(n, -1, self.num_classes) for each, _ in outputs], 1)
        codes = jnp.concatenate([each.reshape(n, -1, 4) for _, each in outputs], 1)
        assert logits.shape[1] == sum(rows * columns for rows, columns in sizes) * ANCHORS
        return logits, codes, jnp.asarray(anchors(sizes))


KIND = Detection


def _exits(outputs: Outputs) -> list[Outputs]:
    """The levels of each exit."""
    return [outputs[i : i + LEVELS] for i in range(0, len(outputs), LEVELS)]


def _placed(image: Float[Array, "h w c"], scale: Array, move: Float[Array, "2"]) -> Float[Array, "h w c"]:
    """The image scaled and then moved by rows and columns; what is outside of it is the mean grey, 0."""
    return jax.image.scale_and_translate(image, image.shape, (0, 1), jnp.stack([scale, scale]), move, "linear")


def _moved(objects: Float[Array, "n k 7"], scale: Float[Array, "n 1"], move: Float[Array, "n 2"]) -> Array:
    """Boxes scaled and moved, x first, and cut off at the border; objects of which too little is left are ignored."""
    shift = jnp.concatenate([move, move], 1)[:, None]
    whole = objects[..., :4] * scale[..., None] + shift
    seen = jnp.clip(whole, 0, 1)

    def area(boxes: Array) -> Array:
        return jnp.prod(boxes[..., 2:] - boxes[..., X0 : Y0 + 1], -1)

    cut_off = area(seen) < VISIBLE * area(whole)
    ignored = jnp.where(cut_off, 1.0, objects[..., IGNORED])
    return objects.at[..., :4].set(seen).at[..., IGNORED].set(ignored)
