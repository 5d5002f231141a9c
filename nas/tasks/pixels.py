"""Pixels: whatever a file holds becomes uint8 images here, and these become squares of one size."""

import io
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from nas.errors import UsageError
from nas.plain import read_bounded
from nas.tasks import Resize
from nas.tasks.room import empty, is_large, pieces

MAX_BYTES = 2**40  # of all images of a task
MAX_HELD = 16 * 2**30  # of those that are held in memory
MAX_PIXELS = 50_000_000  # of one image file; below the size at which Pillow itself suspects a decompression bomb
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
FORMATS_SAID = "JPEG, PNG, WebP, TIFF or BMP"
# How files of these formats begin: what does not is not read. Those of RIFF are known by what follows.
STARTS = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"II", b"MM", b"BM")
MAX_FILE_BYTES = 256 * 2**20
# Images we do not read are listed too, so that they are refused rather than overlooked.
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
SUFFIXES |= {".heic", ".heif", ".avif", ".jxl", ".jp2", ".ppm", ".pgm", ".pbm", ".tga"}
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")  # 8 bits a channel
DEEP = ("I;16", "I;16L", "I;16B")  # 16 bits, grey: Pillow itself would clip them
# What Pillow raises on damaged files. Its bomb warning is an exception where warnings are errors.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


# What makes an image upright, by its orientation in EXIF.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def is_image(path: PurePosixPath) -> bool:
    """Whether a file is called as images are."""
    return path.suffix.lower() in SUFFIXES


def image_bytes(field: str, path: str | Path) -> bytes:
    """The content of an image file; of one that begins as none does, the beginning. Raises UsageError."""
    return read_bounded(field, path, MAX_FILE_BYTES, "image", lambda start: start.startswith(STARTS))


def as_uint8(field: str, images: np.ndarray) -> np.ndarray:
    """uint8 as it is; other integers must lie in 0..255; floats and booleans in 0..1 become round(255 x)."""
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind not in "iufb":
        raise UsageError(f"{field} has dtype {images.dtype}; allowed: integers in 0..255, floats in 0..1")
    if not is_large(images.nbytes):
        return _rounded(field, images)
    found = empty(images.shape, np.uint8)
    for some in pieces(len(images), images[0].nbytes, images, found):
        found[some] = _rounded(field, images[some])
    return found


def _rounded(field: str, images: np.ndarray) -> np.ndarray:
    top, scale = (255, 1) if images.dtype.kind in "iu" else (1, 255)
    outside = np.flatnonzero(~((images >= 0) & (images <= top)))  # negated, so that NaN is outside
    if len(outside):
        value = images.reshape(-1)[outside[0]]
        raise UsageError(f"{field}={value} must lie in 0..{top}, as {images.dtype} values do")
    return np.rint(images.astype(np.float32) * scale).astype(np.uint8)


def fit(image: Image.Image, size: int, mode: Resize) -> Image.Image:
    """The image as `size` x `size` pixels, bilinear. `crop` scales its shorter side to `size` and keeps the centre;
    `pad` scales its longer side and puts black on both sides; `stretch` scales each side by itself.
    """
    width, height = image.size
    if (width, height) == (size, size):
        return image
    if mode == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if mode != "pad":
        return _scaled(image, size, size)
    side = max(width, height)
    width, height = (max(1, round(length * size / side)) for length in (width, height))
    padded = Image.new(image.mode, (size, size))
    padded.paste(_scaled(image, width, height), ((size - width) // 2, (size - height) // 2))
    return padded


def _scaled(image: Image.Image, width: int, height: int) -> Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)


def resize(images: np.ndarray, size: int, mode: Resize = "crop") -> np.ndarray:
    """uint8 `[n, height, width, channels]` to `[n, size, size, channels]`, as by `fit`."""
    n, height, width, channels = images.shape
    if (height, width) == (size, size):
        return images
    planes = images.transpose(0, 3, 1, 2).reshape(-1, height, width)
    resized = np.empty((len(planes), size, size), np.uint8)
    for i, plane in enumerate(planes):
        resized[i] = np.asarray(fit(Image.fromarray(plane), size, mode))
    return np.ascontiguousarray(resized.reshape(n, channels, size, size).transpose(0, 2, 3, 1))


def decode(field: str, data: bytes, modes: Counter[str] | None = None) -> Image.Image:
    """One image file, in colour and upright: see `in_colour`. Of several images in a file the first. `modes` counts it
    by what its pixels are, as Pillow calls it."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UsageError(f"{field} has {image.width} x {image.height} pixels; allowed: {MAX_PIXELS}")
            colour = in_colour(field, image)
            if modes is not None:
                modes[image.mode] += 1
            return colour
    except UNREADABLE as error:
        raise UsageError(f"{field} is not a readable {FORMATS_SAID} image ({type(error).__name__})") from error


def in_colour(field: str, image: Image.Image) -> Image.Image:
    """Three channels of 8 bits: grey is repeated, transparency dropped, of 16 bits the upper 8 are kept. What EXIF says
    is turned is put upright."""
    image.load()  # which turns some TIFFs, and takes the tag from them
    if image.mode in DEEP:
        turned = _orientation(image)
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
        return _upright(image.convert("RGB"), turned)
    if image.mode not in MODES:
        raise UsageError(f"{field} has mode {image.mode}; allowed: {', '.join((*MODES, *DEEP))}")
    turned = _orientation(image)
    # By way of RGBA, because Pillow warns when it has to drop the transparency of a palette.
    colour = image.convert("RGBA" if image.mode == "P" else "RGB").convert("RGB")
    colour.info.clear()  # among it the orientation: what has been turned is not to be turned again
    return _upright(colour, turned)


def _upright(image: Image.Image, turned: Any) -> Image.Image:
    turn = TURNS.get(turned)
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> Any:
    """How the camera was held, of 1 to 8; None where the file does not say so legibly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged EXIF, without which an image is as good
        try:
            return image.getexif().get(ExifTags.Base.Orientation)
        except (*UNREADABLE, KeyError, TypeError):
            return None


def most_bytes(n: int) -> int:
    """How many bytes of images a task may have that has `n`: fewer where they are held in memory."""
    return MAX_BYTES if is_large(n) else min(MAX_BYTES, MAX_HELD)


def check_bytes(field: str, n: int) -> None:
    """Raises unless a task may have `n` bytes of images."""
    if n > (most := most_bytes(n)):
        raise UsageError(f"{field} takes {n} bytes; allowed: {most} in all, of fewer or smaller images")


def resizing(name: str, found: Mapping[tuple[int, int], int], size: int, mode: Resize | None) -> str | None:
    """What a user should know of images that become `size` x `size`, in one line; None where none changes.

    `found` counts the images of each width and height. Without a mode they are scaled to fit.
    """
    changed = {shape: n for shape, n in found.items() if shape != (size, size)}
    if not changed:
        return None
    least, most = (f(changed, key=lambda shape: (shape[0] * shape[1], shape)) for f in (min, max))
    pixels = " to ".join(f"{width} x {height}" for width, height in dict.fromkeys((least, most)))
    what = f"{name}: {sum(changed.values())} images of {pixels} pixels"
    if all(width == height for width, height in changed):
        return f"{what} are resized to {size} x {size}; --image-size chooses"
    if mode is None:
        return f"{what}, width x height, are scaled to fit {size} x {size}; --image-size chooses"
    return f"{what}, width x height, are resized to {size} x {size} by {mode}; --image-size and --resize choose"
