"""Letter-boxing: a photo of any size is scaled to fit a square, whose upper left it fills; the rest of it is black."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from nas.errors import UsageError

IMAGE_SIZE = 256  # where none is given
STRIDE = 128  # of the coarsest level of a detector, of which the side holds a whole number


def checked_size(image_size: int | None) -> int:
    """The side of the square images. Raises UsageError for one that no detector takes."""
    size = image_size or IMAGE_SIZE
    if size % STRIDE:
        raise UsageError(f"image_size={size} must be a multiple of {STRIDE}, the stride of a detector's coarsest level")
    return size


def letterboxed(photo: Image.Image, size: int) -> tuple[UInt8[np.ndarray, "size size *channels"], int]:
    """The square of a photo in colour or in grey, and how many pixels of the photo its side stands for.

    A place in shares of the side of the square, times these pixels, is the place in the photo, along both axes.
    """
    side = max(photo.size)
    width, height = (max(1, round(length * size / side)) for length in photo.size)
    if photo.size != (width, height):
        photo = photo.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(photo)
    square = np.zeros((size, size, *pixels.shape[2:]), np.uint8)
    square[:height, :width] = pixels
    return square, side
