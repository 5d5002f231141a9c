"""Pixels: whatever a file holds becomes uint8 images here, square where a size is asked for."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from nas.errors import UsageError

MAX_PIXELS = 50_000_000  # of one image file; below the size at which Pillow itself suspects a decompression bomb
FORMATS = ("JPEG", "PNG")
MODES = (
    "1",
    "L",
    "LA",
    "P",
    "RGB",
    "RGBA",
    "CMYK",
)  # 8 bits a channel; Pillow would clip deeper ones silently
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


def as_uint8(field: str, images: np.ndarray) -> np.ndarray:
    """uint8 as it is; other integers must lie in 0..255; floats and booleans in 0..1 become round(255 x)."""
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind not in "iufb":
        raise UsageError(f"{field} has dtype {images.dtype}; allowed: integers in 0..255, floats in 0..1")
    top, scale = (255, 1) if images.dtype.kind in "iu" else (1, 255)
    outside = np.flatnonzero(~((images >= 0) & (images <= top)))  # negated, so that NaN is outside
    if len(outside):
        value = images.reshape(-1)[outside[0]]
        raise UsageError(f"{field}={value} must lie in 0..{top}, as {images.dtype} values do")
    return np.rint(images.astype(np.float32) * scale).astype(np.uint8)


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """`[n, height, width, channels]` to `[n, size, size, channels]`, bilinear, whatever the aspect ratio."""
    n, height, width, channels = images.shape
    if (height, width) == (size, size):
        return images
    planes = images.transpose(0, 3, 1, 2).reshape(-1, height, width)
    resized = np.empty((len(planes), size, size), np.uint8)
    for i, plane in enumerate(planes):
        resized[i] = np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR))
    return np.ascontiguousarray(resized.reshape(n, channels, size, size).transpose(0, 2, 3, 1))


def decode(field: str, data: bytes, size: int) -> np.ndarray:
    """One JPEG or PNG file as `[size, size, 3]`: grey is repeated, transparency dropped."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UsageError(f"{field} has {image.width} x {image.height} pixels; allowed: {MAX_PIXELS}")
            if image.mode not in MODES:
                raise UsageError(f"{field} has mode {image.mode}; allowed: {', '.join(MODES)}")
            # By way of RGBA, because Pillow warns when it has to drop the transparency of a palette.
            colour = image.convert("RGBA" if image.mode == "P" else "RGB").convert("RGB")
    except UNREADABLE as error:
        raise UsageError(f"{field} is not a readable JPEG or PNG image ({type(error).__name__})") from error
    if colour.size != (size, size):
        colour = colour.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(colour)
