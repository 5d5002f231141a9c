"""Annotated photos, from files of whatever format, become the images and labels of a task.

What is invalid is an error that names it; where that is asked for, it is left out and counted instead.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from nas.errors import UsageError
from nas.tasks import Reading
from nas.tasks.base import Raw
from nas.tasks.detection import CLASS, COLUMNS, SIDE, X0, X1, Y0, Y1
from nas.tasks.detection.letterbox import checked_size, letterboxed
from nas.tasks.pixels import check_bytes, decode, image_bytes, resizing
from nas.tasks.room import empty

MAX_OBJECTS = 1000  # of an image: all images have as many rows as the one of most objects


class Object(NamedTuple):
    where: str  # it is, in errors
    corners: tuple[float, float, float, float]  # x0, y0, x1 and y1 in pixels of the file, unchecked
    name: str | int  # of its class
    ignored: bool


class Photo(NamedTuple):
    where: str  # it is annotated, in errors
    path: Path
    size: tuple[float, float] | None  # width and height, where the annotation says them
    objects: list[Object]


def raw_of(
    asked: Reading,
    field: str,
    parts: Mapping[str, Sequence[Photo]],
    labels: Mapping[Any, int],
    classes: tuple[str, ...],
    remark: str | None = None,
) -> Raw:
    """The photos of each part, letter-boxed, with their objects. `labels` are the classes by the names in these."""
    invalid, size = asked.invalid, checked_size(asked.image_size)
    check_bytes(field, sum(map(len, parts.values())) * size * size * 3)
    found: Counter[tuple[int, int]] = Counter()
    squares: dict[str, np.ndarray] = {}
    objects: dict[str, list[tuple[int, list[np.ndarray]]]] = {}  # of each image: the side, and rows without it
    for part, photos in parts.items():
        images, kept = empty((len(photos), size, size, 3), np.uint8), []
        for photo in photos:
            with invalid.left_out("image"):
                image = _opened(photo)
                rows = []
                for each in photo.objects:
                    with invalid.left_out("object"):
                        rows.append(_row(each, image.size, labels))
                images[len(kept)], side = letterboxed(image, size)
                found[image.size] += 1
                kept.append((side, rows))
        if not kept:
            raise UsageError(f"{field} has no image in {part}; one at least is needed")
        squares[part], objects[part] = images[: len(kept)], kept

    most = max(1, *(len(rows) for kept in objects.values() for _, rows in kept))
    check_bytes(field, sum(each.nbytes + len(each) * most * COLUMNS * 4 for each in squares.values()))
    arrays = {part: (squares[part], labels_of(kept, most)) for part, kept in objects.items()}
    notes = (resizing(asked.name, found, size, None), remark, asked.invalid.said(asked.name))
    return Raw(
        arrays["train"],
        len(classes),
        arrays.get("valid"),
        arrays.get("test"),
        classes,
        note="; ".join(filter(None, notes)) or None,
    )


def labels_of(objects: Sequence[tuple[int, Sequence[np.ndarray]]], most: int) -> Float[np.ndarray, "n most 7"]:
    """The labels of images, of which each is the pixels that its side stands for and the rows of its objects."""
    labels = np.zeros((len(objects), most, COLUMNS), np.float32)
    labels[..., CLASS] = -1
    for each, (side, rows) in zip(labels, objects, strict=True):
        for row, place in zip(rows, each, strict=False):
            place[:SIDE] = row
        each[:, SIDE] = side
    return labels


def _opened(photo: Photo) -> Image.Image:
    if len(photo.objects) > MAX_OBJECTS:
        raise UsageError(f"{photo.where} has {len(photo.objects)} objects; allowed: {MAX_OBJECTS}")
    field = f"{photo.where}: {str(photo.path)!r}"
    image = decode(field, image_bytes(field, photo.path))
    if photo.size not in (None, image.size):
        width, height = photo.size
        turned = "; what is annotated must be the upright image" if photo.size == image.size[::-1] else ""
        raise UsageError(
            f"{field} has {image.width} x {image.height} pixels; it is said to have {width:g} x {height:g}{turned}"
        )
    return image


def _row(each: Object, size: tuple[int, int], labels: Mapping[Any, int]) -> Float[np.ndarray, "6"]:
    """The object as a row of labels, without the side. A box that is partly outside of the image is cut to it."""
    box = "({:g}, {:g}) to ({:g}, {:g})".format(*each.corners)
    if not all(map(math.isfinite, each.corners)):
        raise UsageError(f"{each.where}: the corners {box} must be finite")
    x0, y0, x1, y1 = each.corners
    if not (x0 < x1 and y0 < y1):
        raise UsageError(f"{each.where}: the box from {box} has no area")
    corners = np.clip(np.array(each.corners), 0, np.array([*size, *size])) / max(size)
    row = np.array([*corners, labels[each.name], each.ignored], np.float32)
    if not (row[X0] < row[X1] and row[Y0] < row[Y1]):
        width, height = size
        raise UsageError(f"{each.where}: the box from {box} lies outside of the image of {width} x {height} pixels")
    return row
