"""Made scenes: shapes in flat colours on a cluttered ground, with boxes that are exact, the same on every call.

`scenes` has shapes of 8 to 160 pixels in an image of 256, `scenes:small` those of 8 to 20, `scenes:large` those of 80
to 160. The clutter is of the colours of the shapes, so that no colour says where a shape is.
"""

import numpy as np
from jaxtyping import Bool, Float, UInt8

from nas.tasks import Reading
from nas.tasks.base import Raw
from nas.tasks.detection.letterbox import IMAGE_SIZE, checked_size
from nas.tasks.detection.photos import labels_of
from nas.tasks.pixels import check_bytes

COUNT = 750  # images, of which a fifth is for test
CLASSES = ("disc", "triangle", "cross")
SIDES = {None: (8, 160), "small": (8, 20), "large": (80, 160)}  # of shapes in an image of IMAGE_SIZE
MOST = {None: 6, "small": 6, "large": 2}  # shapes in an image
TRIES = 10  # places for a shape, of which the first that is free is taken
TEXTURE = 2 * IMAGE_SIZE  # the side of the noise of which each image has a piece


def make_scenes(asked: Reading) -> Raw:
    size = checked_size(asked.image_size)
    check_bytes(f"task={asked.name!r}", COUNT * size * size * 3)
    key = np.random.default_rng([0, *(asked.place or "").encode()])
    noise = key.integers(0, 25, (size + TEXTURE, size + TEXTURE, 3), np.uint8)
    images, objects = np.empty((COUNT, size, size, 3), np.uint8), []
    for image in images:
        _fill_ground(image, noise, key)
        objects.append((size, _draw_shapes(image, asked.place, key)))
    labels = labels_of(objects, max(len(rows) for _, rows in objects))
    return Raw((images, labels), len(CLASSES), classes=CLASSES)


def _colour(key: np.random.Generator) -> UInt8[np.ndarray, "3"]:
    """Light or dark in each channel, which the ground is in none."""
    return (195 * key.integers(0, 2, 3) + key.integers(5, 55, 3)).astype(np.uint8)


def _fill_ground(image: UInt8[np.ndarray, "size size 3"], noise: np.ndarray, key: np.random.Generator) -> None:
    """Noise on grey tiles, with striped patches and lines."""
    size = len(image)
    top, left = key.integers(0, TEXTURE, 2)
    image[...] = noise[top : top + size, left : left + size]
    tiles = image.reshape(8, size // 8, 8, size // 8, 3)
    tiles += key.integers(90, 140, (8, 1, 8, 1, 3), np.uint8)
    for _ in range(key.integers(1, 4)):
        height, width = key.integers(size // 32, size // 4, 2)
        y, x = key.integers(0, size - height), key.integers(0, size - width)
        place = np.arange(height)[:, None] + key.integers(-2, 3) * np.arange(width)
        image[y : y + height, x : x + width][place // (size // 64) % 2 == 0] = _colour(key)
    for _ in range(key.integers(2, 7)):
        ends = key.uniform(0, size - 2, (2, 2, 1))
        y, x = (ends[0] + (ends[1] - ends[0]) * np.linspace(0, 1, 2 * size)).astype(int)
        colour = _colour(key)
        for down, right in ((0, 0), (0, 1), (1, 0))[: key.integers(1, 4)]:
            image[y + down, x + right] = colour


def _draw_shapes(
    image: UInt8[np.ndarray, "size size 3"], sizes: str | None, key: np.random.Generator
) -> list[Float[np.ndarray, "6"]]:
    """Draws shapes that do not touch, and gives the rows of their labels, without the side."""
    size = len(image)
    least, most = np.array(SIDES[sizes]) * size / IMAGE_SIZE
    taken, rows = np.zeros((size, size), bool), []
    for _ in range(key.integers(1, MOST[sizes] + 1)):
        label, side = int(key.integers(len(CLASSES))), np.exp(key.uniform(np.log(least), np.log(most)))
        height, width = np.rint(np.clip(side * np.exp(key.uniform(-0.2, 0.2, 2)), least, most)).astype(int).tolist()
        shape, colour = mask(CLASSES[label], height, width), _colour(key)
        for _ in range(TRIES):
            y, x = key.integers(0, size - height + 1), key.integers(0, size - width + 1)
            if not taken[y : y + height, x : x + width].any():
                taken[y : y + height, x : x + width] = True
                image[y : y + height, x : x + width][shape] = colour
                corners = np.array([x, y, x + width, y + height]) / size
                rows.append(np.array([*corners, label, 0], np.float32))
                break
    return rows


def mask(shape: str, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """The pixels of a shape, which reaches to all four sides."""
    y, x = ((2 * np.arange(length) + 1) / length - 1 for length in (height, width))
    y, x = y[:, None], np.abs(x)[None]
    if shape == "disc":
        return x**2 + y**2 <= 1
    if shape == "triangle":
        return x <= (y + 1) / 2 + 1 / width
    return (x <= 0.3) | (np.abs(y) <= 0.3)
