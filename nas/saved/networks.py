"""Networks as files: a JSON description and safetensors weights, which load without the search or its store."""

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, UInt8
from PIL import Image

from nas.config import named
from nas.errors import UsageError
from nas.plain import shown
from nas.saved import checkpoint
from nas.saved.descriptions import DESCRIPTION, WEIGHTS, built, described_in, input_of, kind_in
from nas.tasks import Resize
from nas.tasks.pixels import decode, image_bytes, in_colour
from nas.training.net import Graph, Headed, Scaling, batch_logits, split
from spaces.base import Space

BATCH, PIXELS = 32, 2**19  # images in one call of the network, and of large ones their pixels: they bound its memory
MODES = {1: "L", 3: "RGB"}  # of photos, by the channels of a network


class Found(NamedTuple):
    """An object in a photo."""

    box: tuple[float, float, float, float]  # x0, y0, x1 and y1 in pixels of the photo, from its upper left
    name: str  # of its class
    probability: float


class Exported:
    """A trained network: `predict(images)` gives logits, `classify(images)` names, `detect(photos)` of a detector the
    objects in each; `network` is the Flax module itself.

    `classes` are the names of the classes by label. `resize` says how images became `space.image_size` pixels square
    in training (see `nas.tasks.pixels.fit`), and is None where they were, or where the export does not say; `prepare`
    does the same to photos of any size. `packed` says whether layers of one bit are convolved as bits. `exits` is after
    how many of its stacked pyramids a detector may be left.
    """

    def __init__(self, description: dict[str, Any], space: Space, network: nnx.Module):
        self.description, self.space, self.network = description, space, network
        self.scaling: Scaling = tuple(description["mean"]), tuple(description["std"])
        self.kind = kind_in(description, space)
        self.classes = self.kind.named("classes", description.get("classes") or ())
        self.resize: Resize | None = description.get("resize")
        self.packed: bool = description.get("packed", False)
        self.exits: int = network.exits if isinstance(network, Headed) else 1
        self._left = functools.cache(self._left_at)

    def __repr__(self) -> str:
        """In one line, whatever the description says."""
        size, channels, _ = input_of(self.space)
        space = named(self.description["space"], "space")[0]
        row = self.space.describe(np.asarray(self.description["encoding"]))
        classes = f"{len(self.classes)} classes: {shown(', '.join(self.classes), 60)!r}" if self.classes else "a number"
        return f"<network of {space}, {row}: uint8 [n, {size}, {size}, {channels}] to {classes}>"

    def _left_at(self, exit: int) -> tuple[Any, tuple[Graph, nnx.State, nnx.State]]:
        """The network that is left at an exit, and its structure, weights and statistics."""
        whole: Any = self.network
        network = whole.ended(exit) if self.exits > 1 else whole
        return network, split(network)

    def predict(
        self, images: UInt8[np.ndarray, "n size size channels"], exit: int | None = None
    ) -> Float[np.ndarray, "n ..."]:
        """Logits, or the numbers that were learned, of images as they were in training: 0..255, of the same size and
        channels. Of a detector `[n, most, 6]`: objects, by falling probability, as the corners x0, y0, x1 and y1 in
        shares of the image's side, probability and label; the label is -1 in rows that are none. `exit` is the one at
        which it is left, from 1 to `exits`, by default the last; nothing after it is computed.

        Any number of images takes the memory of one batch. Raises UsageError for other arrays or exits."""
        return self._answered(self._checked(images), self.kind.answers, exit)

    def _answered(self, images: np.ndarray, answers: Callable[[Any], Any], exit: int | None) -> np.ndarray:
        network, (graph, weights, statistics) = self._left(self._checked_exit(exit))
        if not len(images):
            one = jax.eval_shape(lambda: network(jnp.zeros((1, *images.shape[1:])), train=False))
            return np.asarray(answers(jax.tree.map(lambda each: jnp.zeros(each.shape), one)))[:0]
        parts, size = [], _batch(images.shape[1])
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            # The last batch is filled up with black: one shape is one program.
            filled = np.pad(batch, ((0, size - len(batch)), (0, 0), (0, 0), (0, 0)))
            outputs = batch_logits(graph, self.scaling, "float32", weights, statistics, filled, ())
            parts.append(np.asarray(answers(outputs))[: len(batch)])
        found = np.concatenate(parts)
        if not np.isfinite(found).all():
            raise UsageError("this network gives NaN or infinity: its weights are damaged")
        return found

    def _checked_exit(self, exit: int | None) -> int:
        if exit is None:
            return self.exits
        if self.exits == 1:
            made = "nas retrain ARCHITECTURE --stack N --anytime trains one that has"
            raise UsageError(
                f"exit={exit!r} cannot be chosen: this network has one end, and no exits before it; {made}"
            )
        if not 1 <= exit <= self.exits:
            raise UsageError(f"exit={exit!r} must lie in 1..{self.exits}")
        return exit

    def prepare(self, photos: Any) -> UInt8[np.ndarray, "n size size channels"]:
        """Photos of any size as `predict` takes them: files, images of Pillow, or uint8 arrays of height, width and
        channels. They become square as the images did in training, by cropping where those were squares already; for
        a detector they fill the upper left, and the rest is black. Photos that EXIF says are turned are put upright.

        Raises UsageError for what is no image.
        """
        return self._squares(self._opened(photos))

    def _opened(self, photos: Any) -> list[Image.Image]:
        """In the mode of the network."""
        if isinstance(photos, str | Path | Image.Image) or (isinstance(photos, np.ndarray) and _is_photo(photos)):
            raise UsageError("photos must be a list: a single one is given as [photo]")
        if not isinstance(photos, Iterable):
            raise UsageError(f"photos={photos!r} must be a list of files, images or arrays")
        channels = input_of(self.space)[1]
        if channels not in MODES:
            raise UsageError(f"photos: none has the {channels} channels of this network; give arrays to predict")
        return [opened(f"photos[{i}]", photo).convert(MODES[channels]) for i, photo in enumerate(photos)]

    def _squares(self, photos: Sequence[Image.Image]) -> np.ndarray:
        size, channels, _ = input_of(self.space)
        rows = [self.kind.prepared(photo, size, self.resize).reshape(size, size, channels) for photo in photos]
        return np.stack(rows) if rows else np.empty((0, size, size, channels), np.uint8)

    def classify(self, images: UInt8[np.ndarray, "n size size channels"]) -> list[str]:
        """The name of the most probable class of each image, which are those of `predict`."""
        if self.kind.finds:
            raise UsageError("this network finds objects in photos of any size: detect(photos) gives them")
        if not self.classes:
            raise UsageError("this network gives numbers and knows no classes: predict(images) gives them")
        return [self.classes[label] for label in self.predict(images).argmax(1)]

    def detect(self, photos: Any, least: float = 0.3, exit: int | None = None) -> list[list[Found]]:
        """The objects in each photo, which may be of any size, by falling probability, of at least `least`; `exit` is
        that of `predict`.

        Takes what `prepare` takes. Boxes are in pixels of the upright photo.
        """
        if not self.kind.finds:
            what = "classify(prepare(photos))" if self.classes else "predict(prepare(photos))"
            raise UsageError(f"this network finds no objects: {what} gives what it was trained for")
        if not 0 <= least <= 1:
            raise UsageError(f"least={least!r} must lie in 0..1")
        opened = self._opened(photos)
        # All that could be asked for, of which least is left out afterwards: any least is one program.
        found = self._answered(self._squares(opened), functools.partial(self.kind.found, least=0.0), exit)
        return [
            self._in_pixels(rows[rows[:, 4] >= least], *photo.size) for rows, photo in zip(found, opened, strict=True)
        ]

    def _in_pixels(self, rows: Float[np.ndarray, "n 6"], width: int, height: int) -> list[Found]:
        """What was found in the square of a photo of this size. Outside of the photo, where it is black, is nothing."""
        corners = np.clip(rows[:, :4].astype(np.float64) * max(width, height), 0, [width, height, width, height])
        objects = [
            Found((x0, y0, x1, y1), self.classes[int(label)], float(probability))
            for (x0, y0, x1, y1), (probability, label) in zip(corners.tolist(), rows[:, 4:], strict=True)
            if label >= 0
        ]
        return [each for each in objects if each.box[0] < each.box[2] and each.box[1] < each.box[3]]

    def _checked(self, images: Any) -> np.ndarray:
        size, channels, _ = input_of(self.space)
        try:
            images = np.asarray(images)
            given = f"{images.dtype} {list(images.shape)}"
        except ValueError:  # images of several sizes
            images, given = np.zeros(0), f"{type(images).__name__} of unequal parts"
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, channels):
            need = f"uint8 [n, {size}, {size}, {channels}], values in 0..255"
            if images.dtype == np.uint8 and images.shape == (size, size, channels):
                raise UsageError(f"images={given} must be {need}: a single one is given as image[None]")
            raise UsageError(f"images={given} must be {need}; prepare(photos) makes them of photos of any size")
        return images


def load(folder: str | Path) -> Exported:
    """The network of an exported folder. Raises UsageError for one that is damaged, or not of this library."""
    folder = Path(folder)
    if (folder / WEIGHTS).exists() and not (folder / DESCRIPTION).exists():
        raise UsageError(f"{folder} holds an export that was cut short: nas export with --replace writes it again")
    description, space, encoding = described_in(folder / DESCRIPTION)
    if description.get("file", WEIGHTS) != WEIGHTS:
        other = shown(str(description["file"]), 60)
        raise UsageError(f"{folder} holds {other!r}, for other programs: what nas export --format jax writes is loaded")
    arrays, note = checkpoint.read(folder / WEIGHTS)
    for field in ("architecture", "space", "encoding", "mean", "std", "packed"):
        if not isinstance(note, dict) or note.get(field) != description.get(field):
            raise UsageError(f"{folder / WEIGHTS} are weights of another network than {folder / DESCRIPTION}: {field}")
    network = built(folder / DESCRIPTION, folder / WEIGHTS, description, space, encoding, arrays)
    return Exported(description, space, network)


def opened(field: str, photo: Any) -> Image.Image:
    """A file, an image or an array as an image in colour, upright. Raises UsageError for what is none."""
    if isinstance(photo, str | Path):
        return decode(f"{field}={str(photo)!r}", image_bytes(f"{field}={str(photo)!r}", photo))
    if not isinstance(photo, Image.Image):
        array = np.asarray(photo)
        if array.dtype != np.uint8 or not _is_photo(array):
            given = f"{array.dtype} {list(array.shape)}"
            raise UsageError(f"{field}={given} must be a file, an image or uint8 [height, width, 1, 3 or 4]")
        photo = Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)
    return in_colour(field, photo)


def _batch(size: int) -> int:
    """How many images of this side are in one call of a network."""
    return max(1, min(BATCH, PIXELS // size**2))


def _is_photo(array: np.ndarray) -> bool:
    """Whether an array has the shape of one photo, grey or in colour."""
    return array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
