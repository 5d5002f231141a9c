"""Fashion-MNIST: 70,000 grey images of 28 x 28, in ten classes, as IDX files.

Xiao et al., 2017. https://arxiv.org/abs/1708.07747
"""

import gzip
import math
import sys
import zlib
from pathlib import Path

import numpy as np

from nas.errors import UsageError
from nas.npz import MAX_RATIO, TRUSTED_BYTES
from nas.plain import check_regular
from nas.tasks.base import Raw
from nas.tasks.pixels import MAX_HELD

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
SYSTEM_PREFIX = "/usr"


def read_fashion_mnist(data_dir: str | None) -> Raw:
    """From `data_dir`, else from where the Debian package installs it."""
    packaged = [Path(prefix) / "share/datasets/fashion-mnist" for prefix in (SYSTEM_PREFIX, sys.prefix)]
    folders = packaged if data_dir is None else [Path(data_dir)]
    train, test = (
        (_find(folders, f"{part}-images-idx3-ubyte", 3), _find(folders, f"{part}-labels-idx1-ubyte", 1))
        for part in ("train", "t10k")
    )
    return Raw(train, len(CLASSES), test=test, classes=CLASSES)


def _find(folders: list[Path], name: str, dimensions: int) -> np.ndarray:
    for path in (folder / file for folder in folders for file in (f"{name}.gz", name)):
        if path.is_file():
            return read_idx(path, dimensions)
    places = ", ".join(repr(str(folder)) for folder in folders)
    remedy = "apt-get install dataset-fashion-mnist, or give its folder as data_dir"
    raise UsageError(f"fashion-mnist: {name}.gz is not in {places}; {remedy}")


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Two zero bytes, the type (8: uint8), the number of axes, a big-endian uint32 for each, the values."""
    start = 4 + 4 * dimensions
    check_regular(f"{str(path)!r}", path)
    try:
        most = min(MAX_HELD, max(TRUSTED_BYTES, MAX_RATIO * path.stat().st_size))
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(start)
            shape = [int.from_bytes(data[i : i + 4]) for i in range(4, start, 4)]
            expected = math.prod(shape)
            if expected <= most:  # no more than the header says, and a byte that shows whether there is more
                data += file.read(expected + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{str(path)!r} cannot be read ({type(error).__name__}); a complete file is needed") from error
    magic = bytes([0, 0, 8, dimensions])
    if data[:4] != magic or len(data) < start:
        raise UsageError(f"{str(path)!r} begins with {data[:4].hex()!r}; allowed: {magic.hex()!r} and its sizes")
    if not expected:
        raise UsageError(f"{str(path)!r} holds no values: its header says {shape}")
    if expected > most:
        raise UsageError(f"{str(path)!r} is to hold {expected} values; allowed: {most}, of a file of its size")
    values = np.frombuffer(data, np.uint8, offset=start)
    if len(values) != expected:
        raise UsageError(f"{str(path)!r} holds {len(values)} values; its header, {shape}, says {expected}")
    return values.reshape(shape)
